// What a pod says about its sidecar: annotations micro.mu/…, read and checked as a whole.

import SidecarCore

/// A pod, or what it says, cannot be served. The message goes to whoever made the pod.
package struct InjectionError: Error, Sendable, Equatable {
  package var message: String
  package init(_ message: String) { self.message = message }
}

/// The annotations, in the order of the documentation.
package enum Annotation: String, CaseIterable, Sendable {
  case inject
  case serviceName = "service-name"
  case serviceVersion = "service-version"
  case appPort = "app-port"
  case appProtocol = "app-protocol"
  case appHealth = "app-health"
  case registry
  case env
  case secret
  case native
  case drainSeconds = "drain-seconds"
  case cpuRequest = "sidecar-cpu-request"
  case cpuLimit = "sidecar-cpu-limit"
  case memoryRequest = "sidecar-memory-request"
  case memoryLimit = "sidecar-memory-limit"
  case sidecarPort = "sidecar-port"
  case serverPort = "server-port"
  case adminPort = "admin-port"
  /// Written by the injector: `native` or `classic`.
  case injected

  package static let prefix = "micro.mu/"
  package var key: String { Self.prefix + rawValue }
}

/// What a pod wants of its sidecar, checked one by one; whether it is right as a whole the sidecar's own rules say.
struct SidecarWish: Equatable {
  var serviceName: String?
  var serviceVersion: String?
  var appPort: Int?
  var appProtocol: String?
  var appHealth: String?
  var registry: String
  var environment: [EnvironmentPair]
  var secret: String?
  var isNative: Bool
  var drainSeconds: Int?
  var resources: SidecarResources
  var ports = SidecarPorts()
  /// For the one who made the pod; nothing stands in the way.
  var warnings: [String] = []

  /// Bytes of one annotation's value.
  static let valueBytesMax = 16 * 1024

  /// Errors: all that is wrong, in one message.
  init(_ annotations: [JSONValue.Member], _ defaults: SidecarDefaults) throws(InjectionError) {
    registry = defaults.registry
    environment = defaults.environment
    isNative = defaults.isNative
    resources = defaults.resources
    var problems: [String] = []
    for member in annotations where member.key.hasPrefix(Annotation.prefix) {
      let name = String(member.key.dropFirst(Annotation.prefix.count))
      guard let annotation = Annotation(rawValue: name) else {
        if let warning = Self.unknown(name) { warnings.append(warning) }
        continue
      }
      guard let value = member.value.stringValue, value.utf8.count <= Self.valueBytesMax else {
        problems.append("\(annotation.key) is no text of at most \(Self.valueBytesMax) bytes")
        continue
      }
      if let expected = take(annotation, value) {
        problems.append("\(annotation.key): found \(Shown.quoted(value)), expected \(expected)")
      }
    }
    raiseLimits(defaults.resources)
    if problems.isEmpty, let problem = resources.problem { problems.append(problem) }
    if problems.isEmpty, let problem = ports.problem(appPort) { problems.append(problem) }
    guard problems.isEmpty else { throw InjectionError(problems.joined(separator: "; ")) }
  }

  /// The registry's own annotations (`service-SVC`, `versions-SVC`) are on pods that were copied.
  private static func unknown(_ name: String) -> String? {
    if ["service-", "versions-", "selector-"].contains(where: { name.hasPrefix($0) }) { return nil }
    let near = NearestName.of(name, among: Annotation.allCases.map(\.rawValue))
    return "\(Annotation.prefix)\(Shown.quoted(name).dropFirst().dropLast()) is not known"
      + (near.map { "; did you mean \(Annotation.prefix)\($0)?" } ?? "")
  }

  /// What was expected instead; nil when the value was taken.
  private mutating func take(_ annotation: Annotation, _ value: String) -> String? {
    switch annotation {
    case .inject: return Switch.value(value) == nil ? "enabled or disabled" : nil
    case .serviceName: serviceName = value
    case .serviceVersion: serviceVersion = value
    case .appProtocol: appProtocol = value
    case .appHealth: appHealth = value
    case .registry: registry = value
    case .injected: break
    case .appPort:
      guard let port = Self.port(value) else { return "a port's number, 1 to 65535" }
      appPort = port
    case .sidecarPort, .serverPort, .adminPort:
      guard let port = Self.port(value), port >= 1024 else { return "a port's number, 1024 to 65535" }
      switch annotation {
      case .sidecarPort: ports.sidecar = port
      case .serverPort: ports.server = port
      default: ports.admin = port
      }
    case .env:
      guard let pairs = EnvironmentList.parse(value) else {
        return "KEY=VALUE, a line each or with commas between, \(EnvironmentList.pairsMax) at most"
      }
      for pair in pairs {
        if SidecarContainer.downwardKeys.contains(pair.key) { return "no \(pair.key), which the pod itself says" }
        environment.removeAll { $0.key == pair.key }
        environment.append(pair)
      }
    case .secret:
      guard Self.isObjectName(value) else { return "the name of a secret" }
      secret = value
    case .native:
      guard let isOn = Switch.value(value) else { return "true or false" }
      isNative = isOn
    case .drainSeconds:
      guard let seconds = Int(value), (0...3600).contains(seconds) else { return "seconds, 0 to 3600" }
      drainSeconds = seconds
    case .cpuRequest: return amount(value, .cpu, \.cpuRequest)
    case .cpuLimit: return amount(value, .cpu, \.cpuLimit)
    case .memoryRequest: return amount(value, .memory, \.memoryRequest)
    case .memoryLimit: return amount(value, .memory, \.memoryLimit)
    }
    return nil
  }

  private mutating func amount(
    _ value: String, _ kind: Quantity.Kind, _ path: WritableKeyPath<SidecarResources, Quantity?>
  ) -> String? {
    guard let amount = Quantity.setting(value, kind) else { return Quantity.expected(kind) }
    resources[keyPath: path] = amount
    return nil
  }

  /// A pod that asks for more than the limit it does not speak of gets that as its limit.
  private mutating func raiseLimits(_ defaults: SidecarResources) {
    if let request = resources.cpuRequest, let limit = resources.cpuLimit, limit == defaults.cpuLimit,
      request.value > limit.value
    {
      resources.cpuLimit = request
    }
    if let request = resources.memoryRequest, let limit = resources.memoryLimit, limit == defaults.memoryLimit,
      request.value > limit.value
    {
      resources.memoryLimit = request
    }
  }

  private static func port(_ text: String) -> Int? {
    guard text.utf8.allSatisfy({ $0 &- UInt8(ascii: "0") < 10 }), let port = Int(text), (1...65_535).contains(port)
    else {
      return nil
    }
    return port
  }

  /// A DNS subdomain of RFC 1123, as names of objects are.
  private static func isObjectName(_ text: String) -> Bool {
    (1...253).contains(text.utf8.count)
      && text.utf8.allSatisfy {
        $0 &- UInt8(ascii: "a") < 26 || $0 &- UInt8(ascii: "0") < 10 || $0 == UInt8(ascii: "-")
          || $0 == UInt8(ascii: ".")
      } && text.utf8.first != UInt8(ascii: "-") && text.utf8.first != UInt8(ascii: ".")
  }
}

/// The ports of a sidecar inside its pod.
struct SidecarPorts: Equatable {
  /// On loopback: the app's side.
  var sidecar = 8081
  /// The framework's side.
  var server = 8082
  var admin = 8083

  func problem(_ appPort: Int?) -> String? {
    let named = [
      (Annotation.sidecarPort.key, sidecar), (Annotation.serverPort.key, server), (Annotation.adminPort.key, admin),
    ]
    for (index, (key, port)) in named.enumerated() {
      if port == appPort {
        return "\(Annotation.appPort.key) is \(port), which is the sidecar's: give it another by \(key)"
      }
      if let other = named[..<index].first(where: { $0.1 == port }) { return "\(other.0) and \(key) are both \(port)" }
    }
    return nil
  }
}
