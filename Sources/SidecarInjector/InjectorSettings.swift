// What `micro-sidecar injector` is told by its environment, MICRO_INJECTOR_*. A table of its own: these are settings of the
// webhook, not of a sidecar, and none of them means anything to one.

import SidecarCore

/// The settings of one run of the injector. The initial values are the defaults.
package struct InjectorSettings: Sendable, Equatable {
  /// Where the API server reaches the webhook.
  package var address = SocketAddress.ipv4(address: 0, port: 8443)
  /// PEM files, read again when they change. Names are those of a secret of the type `kubernetes.io/tls`.
  package var certificateFile = "/etc/micro-sidecar/injector/tls.crt"
  package var keyFile = "/etc/micro-sidecar/injector/tls.key"
  package var sidecar = SidecarDefaults()

  package init() {}

  /// A key of the environment, its help, and how its value is taken. Errors: what was expected.
  struct Row: Sendable {
    var key: String
    var help: String
    var take: @Sendable (String, inout InjectorSettings) -> String?
  }

  static let prefix = "MICRO_INJECTOR_"

  static let table: [Row] = [
    Row(key: "MICRO_INJECTOR_IMAGE", help: "the sidecar's image; there is no default") {
      guard !$0.isEmpty, !$0.utf8.contains(where: { $0 <= 0x20 || $0 == 0x7F }) else { return "an image's name" }
      $1.sidecar.image = $0
      return nil
    },
    Row(key: "MICRO_INJECTOR_ADDRESS", help: "where the API server reaches the webhook (:8443)") {
      guard let address = SocketAddress($0) else { return "an address and port, such as :8443" }
      $1.address = address
      return nil
    },
    Row(
      key: "MICRO_INJECTOR_CERT_FILE", help: "its certificate with the chain (/etc/micro-sidecar/injector/tls.crt)"
    ) {
      $1.certificateFile = $0
      return nil
    },
    Row(key: "MICRO_INJECTOR_KEY_FILE", help: "the key of it (/etc/micro-sidecar/injector/tls.key)") {
      $1.keyFile = $0
      return nil
    },
    Row(key: "MICRO_INJECTOR_NATIVE", help: "false: ordinary containers, for clusters older than 1.29 (true)") {
      guard let isNative = Switch.value($0) else { return "true or false" }
      $1.sidecar.isNative = isNative
      return nil
    },
    Row(key: "MICRO_INJECTOR_REGISTRY", help: "MICRO_REGISTRY of the sidecars (kubernetes)") {
      $1.sidecar.registry = $0
      return nil
    },
    Row(
      key: "MICRO_INJECTOR_ENV", help: "more settings of every sidecar: KEY=VALUE, a line each or with commas between"
    ) {
      guard let pairs = EnvironmentList.parse($0) else { return "KEY=VALUE, a line each or with commas between" }
      $1.sidecar.environment = pairs
      return nil
    },
    Row(key: "MICRO_INJECTOR_SCRAPE", help: "false: no prometheus.io annotations (true)") {
      guard let isOn = Switch.value($0) else { return "true or false" }
      $1.sidecar.isScraped = isOn
      return nil
    },
    Row(key: "MICRO_INJECTOR_PULL_POLICY", help: "imagePullPolicy of the sidecars (the cluster's own)") {
      guard ["Always", "IfNotPresent", "Never"].contains($0) else { return "Always, IfNotPresent or Never" }
      $1.sidecar.pullPolicy = $0
      return nil
    },
    amount("CPU_REQUEST", "processor time asked for (20m)", \.cpuRequest, .cpu),
    amount("CPU_LIMIT", "processor time allowed (none)", \.cpuLimit, .cpu),
    amount("MEMORY_REQUEST", "memory asked for (24Mi)", \.memoryRequest, .memory),
    amount("MEMORY_LIMIT", "memory allowed (96Mi)", \.memoryLimit, .memory),
  ]

  private static func amount(
    _ name: String, _ help: String, _ path: any WritableKeyPath<SidecarResources, Quantity?> & Sendable,
    _ kind: Quantity.Kind
  ) -> Row {
    Row(key: prefix + name, help: help) {
      guard let amount = Quantity.setting($0, kind) else { return Quantity.expected(kind) }
      $1.sidecar.resources[keyPath: path] = amount
      return nil
    }
  }

  /// Reads `environment`. An empty variable is as good as none. Errors: all at once, a sentence each.
  package static func load(_ environment: [String: String]) throws(SettingsError) -> InjectorSettings {
    var settings = InjectorSettings()
    var problems: [SettingProblem] = []
    for (key, value) in environment.sorted(by: { $0.key < $1.key }) where key.hasPrefix(prefix) && !value.isEmpty {
      guard let row = table.first(where: { $0.key == key }) else {
        let near = NearestName.of(key, among: table.map(\.key))
        problems.append(
          SettingProblem(.environment(key), "no such setting" + (near.map { "; did you mean \($0)?" } ?? "")))
        continue
      }
      if let expected = row.take(value, &settings) {
        problems.append(
          SettingProblem(.environment(key), "found \(Shown.quoted(value)), expected \(expected)"))
      }
    }
    if settings.sidecar.image.isEmpty, !problems.contains(where: { $0.source == .environment("MICRO_INJECTOR_IMAGE") })
    {
      problems.append(
        SettingProblem(
          .environment("MICRO_INJECTOR_IMAGE"), "is not set: name the image that pods get, with its tag or digest"))
    }
    if let problem = settings.sidecar.resources.problem { problems.append(SettingProblem(.combination, problem)) }
    guard problems.isEmpty else { throw SettingsError(problems) }
    return settings
  }

  /// Every key with what it means, for the help.
  package static var reference: [(key: String, help: String)] { table.map { ($0.key, $0.help) } }
}

/// What a sidecar gets where its pod does not say otherwise.
package struct SidecarDefaults: Sendable, Equatable {
  package var image = ""
  package var pullPolicy: String?
  package var isNative = true
  package var isScraped = true
  package var registry = "kubernetes"
  package var environment: [EnvironmentPair] = []
  package var resources = SidecarResources()

  package init() {}
}

package struct SidecarResources: Sendable, Equatable {
  package var cpuRequest: Quantity? = Quantity("20m", .cpu)
  package var cpuLimit: Quantity?
  package var memoryRequest: Quantity? = Quantity("24Mi", .memory)
  package var memoryLimit: Quantity? = Quantity("96Mi", .memory)

  package init() {}

  /// Why the API server would not take them; nil when it would.
  var problem: String? {
    if let request = cpuRequest, let limit = cpuLimit, request.value > limit.value {
      return "the sidecar asks for \(request.text) of processor time, and \(limit.text) is its limit"
    }
    if let request = memoryRequest, let limit = memoryLimit, request.value > limit.value {
      return "the sidecar asks for \(request.text) of memory, and \(limit.text) is its limit"
    }
    return nil
  }
}

/// A variable with its value, in the order given.
package struct EnvironmentPair: Sendable, Equatable {
  package var key: String
  package var value: String
  package init(_ key: String, _ value: String) {
    self.key = key
    self.value = value
  }
}

/// `A=1` and `B=2` with line breaks between them, or with commas where there is no line break, so that a value may hold
/// commas.
enum EnvironmentList {
  static let pairsMax = 64

  /// Nil when a part is no pair, a key is none, or there are more than `pairsMax`.
  static func parse(_ text: String) -> [EnvironmentPair]? {
    let separator: UInt8 = text.utf8.contains(0x0A) ? 0x0A : UInt8(ascii: ",")
    var pairs: [EnvironmentPair] = []
    for part in text.utf8.split(separator: separator) {
      let part = part.drop { $0 == 0x20 || $0 == 0x0D || $0 == 0x09 }
      if part.isEmpty { continue }
      guard let equals = part.firstIndex(of: UInt8(ascii: "=")), isKey(part[..<equals]), pairs.count < pairsMax else {
        return nil
      }
      var value = part[part.index(after: equals)...]
      while let last = value.last, last == 0x0D || last == 0x20 { value = value.dropLast() }
      pairs.append(EnvironmentPair(String(part[..<equals]) ?? "", String(value) ?? ""))
    }
    return pairs
  }

  private static func isKey(_ key: Substring.UTF8View) -> Bool {
    guard let first = key.first, key.count <= 253, first &- UInt8(ascii: "0") > 9 else { return false }
    return key.allSatisfy {
      $0 | 0x20 >= UInt8(ascii: "a") && $0 | 0x20 <= UInt8(ascii: "z") || $0 &- UInt8(ascii: "0") < 10
        || $0 == UInt8(ascii: "_")
    }
  }
}

enum Switch {
  static func value(_ text: String) -> Bool? {
    switch text.lowercased() {
    case "true", "yes", "on", "1", "enabled": true
    case "false", "no", "off", "0", "disabled": false
    default: nil
    }
  }
}

enum Shown {
  /// Text from outside for a sentence: bounded, without control characters.
  static func quoted(_ text: String, _ countMax: Int = 80) -> String {
    let printable = text.unicodeScalars.prefix(countMax + 1).map {
      $0.value < 0x20 || (0x7F...0x9F).contains($0.value) ? "\u{FFFD}" : Character($0)
    }
    return "\"\(String(printable.prefix(countMax)))\(printable.count > countMax ? "…" : "")\""
  }
}
