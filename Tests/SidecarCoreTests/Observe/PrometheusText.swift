// A strict reader of Prometheus' text format 0.0.4, written from its description, to hold our pages against.

struct PrometheusText {
  struct Sample: Equatable {
    var name: String
    var labels: [String: String]
    var value: Double
  }
  struct Family: Equatable {
    var name: String
    var help: String
    var type: String
    var samples: [Sample] = []
  }
  struct Failure: Error, CustomStringConvertible {
    var line: Int
    var reason: String
    var description: String { "line \(line): \(reason)" }
  }

  private(set) var families: [Family] = []

  subscript(name: String) -> Family? { families.first { $0.name == name } }

  /// The value of the sample with exactly these labels.
  func value(_ name: String, _ labels: [String: String] = [:]) -> Double? {
    families.flatMap(\.samples).first { $0.name == name && $0.labels == labels }?.value
  }

  /// Stricter than Prometheus: every family has HELP then TYPE, its samples follow at once, nothing is there twice, a
  /// counter ends in `_total`, and a histogram's buckets rise to `+Inf`, which is its count.
  init(parsing page: String) throws {
    var number = 0
    guard page.last == "\n" else { throw Failure(line: 0, reason: "no line break at the end") }
    var seen: Set<String> = []
    for line in page.dropLast().split(separator: "\n", omittingEmptySubsequences: false) {
      number += 1
      func check(_ condition: Bool, _ reason: String) throws {
        if !condition { throw Failure(line: number, reason: "\(reason): \(line)") }
      }
      if line.hasPrefix("# HELP ") {
        let parts = line.dropFirst(7).split(separator: " ", maxSplits: 1)
        try check(parts.count == 2, "help without text")
        try check(Self.isName(parts[0]), "bad name")
        try check(!families.contains { $0.name == parts[0] }, "a family twice")
        families.append(Family(name: String(parts[0]), help: String(parts[1]), type: ""))
      } else if line.hasPrefix("# TYPE ") {
        let parts = line.dropFirst(7).split(separator: " ")
        try check(parts.count == 2 && ["counter", "gauge", "histogram"].contains(parts[1]), "bad type")
        try check(families.last?.name == String(parts[0]) && families.last?.type == "", "type not after its help")
        try check(parts[1] != "counter" || parts[0].hasSuffix("_total"), "a counter without _total")
        families[families.count - 1].type = String(parts[1])
      } else {
        var rest = line[...]
        let name = rest.prefix { $0 != "{" && $0 != " " }
        try check(Self.isName(name), "bad name")
        rest = rest.dropFirst(name.count)
        var labels: [String: String] = [:]
        if rest.first == "{" {
          repeat {
            rest = rest.dropFirst()
            let label = rest.prefix { $0 != "=" }
            try check(Self.isName(label) && !label.contains(":") && !label.hasPrefix("__"), "bad label")
            rest = rest.dropFirst(label.count + 1)
            try check(rest.first == "\"", "no quote")
            rest = rest.dropFirst()
            var value = ""
            while let character = rest.first, character != "\"" {
              rest = rest.dropFirst()
              guard character == "\\" else {
                value.append(character)
                continue
              }
              switch rest.first {
              case "n": value.append("\n")
              case "\\": value.append("\\")
              case "\"": value.append("\"")
              default: try check(false, "bad escape")
              }
              rest = rest.dropFirst()
            }
            try check(rest.first == "\"", "value does not end")
            rest = rest.dropFirst()
            try check(labels.updateValue(value, forKey: String(label)) == nil, "a label twice")
          } while rest.first == ","
          try check(rest.first == "}", "labels do not end")
          rest = rest.dropFirst()
        }
        try check(rest.first == " ", "no space before the value")
        let text = rest.dropFirst()
        let special: [Substring: Double] = ["+Inf": .infinity, "-Inf": -.infinity, "NaN": .nan]
        guard let value = special[text] ?? (text.first?.isLetter == true ? nil : Double(text)) else {
          throw Failure(line: number, reason: "bad value \(text)")
        }
        try check(seen.insert(String(name) + "\(labels.sorted { $0.key < $1.key })").inserted, "a sample twice")
        guard let family = families.last, !family.type.isEmpty else {
          throw Failure(line: number, reason: "a sample outside a family")
        }
        let suffixes = family.type == "histogram" ? ["_bucket", "_sum", "_count"] : [""]
        try check(suffixes.contains { family.name + $0 == name }, "a sample of another family")
        families[families.count - 1].samples.append(Sample(name: String(name), labels: labels, value: value))
      }
    }
    for family in families where family.type == "histogram" { try Self.checkHistogram(family) }
  }

  private static func checkHistogram(_ family: Family) throws {
    var open: [(bound: Double, value: Double)] = []
    for sample in family.samples {
      if sample.name.hasSuffix("_bucket") {
        guard let bound = sample.labels["le"].flatMap({ $0 == "+Inf" ? .infinity : Double($0) }) else {
          throw Failure(line: 0, reason: "\(family.name): bucket without bound")
        }
        if let last = open.last, last.bound >= bound || last.value > sample.value {
          throw Failure(line: 0, reason: "\(family.name): buckets do not rise")
        }
        open.append((bound, sample.value))
      } else if sample.name.hasSuffix("_count") {
        guard open.last?.bound == .infinity, open.last?.value == sample.value else {
          throw Failure(line: 0, reason: "\(family.name): the last bucket is not the count")
        }
        open = []
      }
    }
    if !open.isEmpty { throw Failure(line: 0, reason: "\(family.name): buckets without a count") }
  }

  private static func isName(_ name: some StringProtocol) -> Bool {
    guard let first = name.utf8.first, !(48...57).contains(first) else { return false }
    return name.utf8.allSatisfy {
      (48...58).contains($0) || (65...90).contains($0) || (97...122).contains($0) || $0 == 95
    }
  }
}
