// What commands print: pure functions from what was learned to text. The texts are those of the `micro` of 2018
// (internal/command/cli/command.go @ v0.16.0), tabs included, because scripts cut them; what Go's maps left to chance is
// sorted. Every text ends with a line break, but for an empty one.

import SidecarCore

/// Colour, on a terminal only.
struct Style: Sendable {
  var isColoured: Bool
  enum Colour: String, Sendable {
    case green = "32", yellow = "33", red = "31"
  }
  func paint(_ text: String, _ colour: Colour) -> String {
    isColoured ? "\u{1B}[\(colour.rawValue)m\(text)\u{1B}[0m" : text
  }
}

enum Formats {
  // MARK: list, get

  /// Names, one a line.
  static func services(_ names: [ServiceName], _ output: OutputFormat) -> String {
    let names = Set(names).sorted()
    guard output == .json else { return names.map { safe($0) + "\n" }.joined() }
    return json(["services": .array(names.map { .string($0) })])
  }

  /// The versions of one service; not empty. JSON: the array of the registry API.
  static func service(_ versions: [Service], _ output: OutputFormat) -> String {
    let versions = versions.sorted { $0.version < $1.version }
    guard output != .json else { return json(.array(versions.map { $0.json() })) }
    var parts = ["service  " + safe(versions.first?.name ?? "")]
    for version in versions {
      parts.append("\nversion " + safe(version.version))
      parts.append("\nID\tAddress\tPort\tMetadata")
      for node in version.nodes.sorted(by: { $0.id < $1.id }) {
        let (host, port) = Node.splitHostPort(node.address) ?? (node.address, 0)
        parts.append("\(safe(node.id))\t\(safe(host))\t\(port)\t\(metadata(node.metadata))")
      }
    }
    for endpoint in versions.first?.endpoints ?? [] {
      parts.append("\nEndpoint: \(safe(endpoint.name))\nMetadata: \(metadata(endpoint.metadata))\n")
      parts.append("Request: \(shape(endpoint.request))\n\nResponse: \(shape(endpoint.response))\n")
    }
    return parts.joined(separator: "\n") + "\n"
  }

  private static func metadata(_ pairs: [String: String]) -> String {
    pairs.sorted { $0.key < $1.key }.map { safe("\($0.key)=\($0.value)") }.joined(separator: ",")
  }

  private static func shape(_ value: Value?) -> String {
    guard let value, !value.values.isEmpty else { return "{}" }
    return "{\n" + value.values.map { field($0, depth: 1) }.joined() + "}"
  }

  /// Levels of a message shown; go-micro describes three (registry §1).
  private static let shapeDepthMax = 16

  private static func field(_ value: Value, depth: Int) -> String {
    let indent = String(repeating: "\t", count: depth)
    let name = "\(indent)\(safe(SnakeCase.of(value.name))) \(safe(value.type))"
    if value.values.isEmpty || depth == shapeDepthMax { return name + "\n" }
    return name + " {\n" + value.values.map { field($0, depth: depth + 1) }.joined() + indent + "}\n"
  }

  // MARK: call

  /// A reply: JSON with tabs, or as it is when it is no JSON. JSON: the same on one line. Raw: the bytes.
  static func reply(_ body: [UInt8], _ output: OutputFormat) -> [UInt8] {
    guard output != .raw, let value = try? JSONValue(parsing: body) else { return body }
    // What go-micro's Go programs would escape for HTML is shown as it is, like the old command did.
    return Array(json(value, output == .json ? .compact : .tabbed).utf8)
  }

  /// A call that failed, for standard error.
  static func failure(_ call: CallArguments, _ error: MicroError, _ output: OutputFormat) -> String {
    let body = error.isStructured ? error.text : safe(error.detail)
    if output == .json {
      return (error.isStructured ? body : MicroError(id: "", code: 500, detail: error.detail).text) + "\n"
    }
    return "error calling \(safe(call.service)).\(safe(call.endpoint)): \(body)\n"
  }

  // MARK: health

  /// What a node said to Debug.Health.
  struct NodeHealth: Equatable, Sendable {
    var version: String
    var id: String
    var address: String
    /// `ok`, or what else it said; when it could not be asked, why not.
    var status: String
    var isHealthy: Bool
  }

  static func health(service: ServiceName, _ nodes: [NodeHealth], _ output: OutputFormat, _ style: Style) -> String {
    let nodes = nodes.sorted { ($0.version, $0.id) < ($1.version, $1.id) }
    if output == .json {
      let rows = nodes.map { node in
        [
          "version": .string(node.version), "id": .string(node.id), "address": .string(node.address),
          "status": .string(node.status), "healthy": .bool(node.isHealthy),
        ] as JSONValue
      }
      return json(["service": .string(service), "nodes": .array(rows)])
    }
    var parts = ["service  " + safe(service)]
    var version: String?
    for node in nodes {
      if version != node.version {
        version = node.version
        parts.append("\nversion " + safe(node.version))
        parts.append("\nnode\t\taddress:port\t\tstatus")
      }
      let status = style.paint(safe(node.status), node.isHealthy ? .green : .red)
      parts.append("\(safe(node.id))\t\t\(safe(node.address))\t\t\(status)")
    }
    return parts.joined(separator: "\n") + "\n"
  }

  /// The sidecar's own health: what it answered.
  static func health(status: String, isHealthy: Bool, _ output: OutputFormat, _ style: Style) -> String {
    if output == .json { return json(["status": .string(status), "healthy": .bool(isHealthy)]) }
    return style.paint(safe(status), isHealthy ? .green : .red) + "\n"
  }

  // MARK: doctor

  /// One thing looked at.
  struct Finding: Equatable, Sendable {
    enum Verdict: String, Sendable { case ok, warning, problem }
    /// What was looked at, such as `multicast` or `registry mdns`.
    var subject: String
    var verdict: Verdict
    /// A sentence.
    var detail: String
    /// What to do; empty when there is nothing to do.
    var advice = ""
  }

  static func findings(_ findings: [Finding], _ output: OutputFormat, _ style: Style) -> String {
    if output == .json {
      let rows = findings.map { finding in
        [
          "subject": .string(finding.subject), "verdict": .string(finding.verdict.rawValue),
          "detail": .string(finding.detail), "advice": .string(finding.advice),
        ] as JSONValue
      }
      return json(["healthy": .bool(!findings.contains { $0.verdict == .problem }), "findings": .array(rows)])
    }
    let width = findings.map(\.subject.count).max() ?? 0
    return findings.map { finding in
      let (mark, colour): (String, Style.Colour) =
        switch finding.verdict {
        case .ok: ("ok      ", .green)
        case .warning: ("warning ", .yellow)
        case .problem: ("problem ", .red)
        }
      let pad = String(repeating: " ", count: width - finding.subject.count + 2)
      let advice = finding.advice.isEmpty ? "" : String(repeating: " ", count: width + 10) + safe(finding.advice) + "\n"
      return "\(style.paint(mark, colour))\(safe(finding.subject))\(pad)\(safe(finding.detail))\n\(advice)"
    }.joined()
  }

  // MARK: version, errors

  static func version(_ version: String, libuv: String, _ output: OutputFormat) -> String {
    if output == .json {
      return json(["name": "micro-sidecar", "version": .string(version), "libuv": .string(libuv)])
    }
    return "micro-sidecar \(version) (libuv \(libuv))\n"
  }

  /// Everything that is wrong with a command line and its settings, for standard error.
  static func problems(_ problems: [SettingProblem], _ output: OutputFormat, _ style: Style) -> String {
    if output == .json {
      let rows = problems.map { problem in
        [
          "source": .string(problem.source.description), "line": problem.line.map { .number("\($0)") } ?? .null,
          "message": .string(problem.message),
        ] as JSONValue
      }
      return json(["errors": .array(rows)])
    }
    return problems.map { "\(style.paint("error", .red)): \(safe($0.description))\n" }.joined()
  }

  // MARK: Helpers

  static func document(_ value: JSONValue) -> String { json(value) }

  /// A document and a line break. What JSON allows and a terminal obeys is escaped; it can only stand inside strings.
  private static func json(_ value: JSONValue, _ layout: JSONValue.Layout = .tabbed) -> String {
    let text = value.text(layout: layout, escaping: .plain)
    guard text.unicodeScalars.contains(where: { $0.value >= 0x7F && isControl($0.value) }) else { return text + "\n" }
    var safe = ""
    for scalar in text.unicodeScalars {
      if scalar.value >= 0x7F, isControl(scalar.value) {
        let digits = String(scalar.value, radix: 16)
        safe += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      } else {
        safe.unicodeScalars.append(scalar)
      }
    }
    return safe + "\n"
  }

  /// Text from outside, fit for a terminal: control characters become U+FFFD, so a service cannot move the cursor.
  static func safe(_ text: String) -> String {
    guard text.unicodeScalars.contains(where: { isControl($0.value) }) else { return text }
    var safe = String.UnicodeScalarView()
    for scalar in text.unicodeScalars { safe.append(isControl(scalar.value) ? "\u{FFFD}" : scalar) }
    return String(safe)
  }

  private static func isControl(_ value: UInt32) -> Bool {
    switch value {
    case 0...0x1F, 0x7F...0x9F, 0x2028...0x202E, 0x2066...0x2069: true
    default: false
    }
  }
}

/// `UserID` → `user_id`, as the old command showed the fields of messages.
enum SnakeCase {
  static func of(_ name: String) -> String {
    let letters = Array(name.utf8)
    func isUpper(_ index: Int) -> Bool { letters[index] &- UInt8(ascii: "A") < 26 }
    var result: [UInt8] = []
    for index in letters.indices {
      guard isUpper(index) else {
        result.append(letters[index])
        continue
      }
      // A word begins after a small letter or digit, and at the last capital of a run that a small letter follows.
      let followsSmall = index > 0 && !isUpper(index - 1) && letters[index - 1] != UInt8(ascii: "_")
      let endsRun =
        index > 0 && isUpper(index - 1) && index + 1 < letters.count && (letters[index + 1] &- UInt8(ascii: "a") < 26)
      if followsSmall || endsRun { result.append(UInt8(ascii: "_")) }
      result.append(letters[index] | 0x20)
    }
    return String(decoding: result, as: UTF8.self)
  }
}
