// Servers and options of a registry, as `MICRO_REGISTRY` writes them after its name:
//
//   consul:10.0.0.1:8500+https://consul.example?dc=eu&token_file=/run/secrets/consul
//          └──────── servers ───────────────┘ └────────────── options ────────────┘
//
// Servers are tried in their order. A registry that names none uses `MICRO_REGISTRY_ADDRESS`, and else its default. What
// the list itself is cut at (comma, `&`, `?`, `+`, `%`) is written as `%2C` and so on inside a value.

import SidecarCore

/// One server of a registry.
struct ServerAddress: Hashable, Sendable, CustomStringConvertible {
  /// `https`, `nats`, …: nil when the setting names none.
  var scheme: String?
  /// A name or an address; IPv6 without brackets.
  var host: String
  var port: UInt16
  /// What follows host and port, such as `/eureka/v2`: empty or with a leading slash and none at the end.
  var path = ""

  /// `[scheme://]host[:port][/path]`, IPv6 in brackets when a port follows. Nil for anything else.
  init?(_ text: String, defaultPort: UInt16) {
    var rest = text[...]
    if let mark = Self.range(of: "://", in: rest) {
      guard !rest[..<mark.lowerBound].isEmpty else { return nil }
      scheme = rest[..<mark.lowerBound].lowercased()
      rest = rest[mark.upperBound...]
    }
    if let slash = rest.firstIndex(of: "/") {
      path = String(rest[slash...])
      while path.last == "/" { path.removeLast() }
      rest = rest[..<slash]
    }
    guard let (host, port) = Self.hostAndPort(rest, defaultPort) else { return nil }
    let isPlain = host.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && !"@/\\\"<>".utf8.contains($0) }
    guard !host.isEmpty, host.utf8.count <= 253, isPlain, port > 0 else { return nil }
    self.host = host
    self.port = port
  }

  private static func hostAndPort(_ text: Substring, _ defaultPort: UInt16) -> (String, UInt16)? {
    if text.first == "[" {
      guard let end = text.firstIndex(of: "]") else { return nil }
      let host = String(text[text.index(after: text.startIndex)..<end])
      let rest = text[text.index(after: end)...]
      if rest.isEmpty { return (host, defaultPort) }
      guard rest.first == ":", let port = UInt16(rest.dropFirst()) else { return nil }
      return (host, port)
    }
    // More colons than one: an IPv6 address without a port.
    guard let colon = text.firstIndex(of: ":"), colon == text.lastIndex(of: ":") else {
      return (String(text), defaultPort)
    }
    guard let port = UInt16(text[text.index(after: colon)...]) else { return nil }
    return (String(text[..<colon]), port)
  }

  private static func range(of mark: String, in text: Substring) -> Range<Substring.Index>? {
    var at = text.startIndex
    while at < text.endIndex {
      if text[at...].hasPrefix(mark) { return at..<text.index(at, offsetBy: mark.count) }
      at = text.index(after: at)
    }
    return nil
  }

  /// `host:port`, as it is dialled and named in messages.
  var authority: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
  var description: String { (scheme.map { $0 + "://" } ?? "") + authority + path }
}

/// Threading: a value; `secret` reads a file, so the control loop only.
struct RegistryOptions {
  /// Servers of one registry; more are an error.
  static let serversMax = 16
  /// Bytes of a file that holds a secret or a certificate.
  static let secretBytesMax = 64 << 10

  let registry: String
  let servers: [ServerAddress]
  private let values: [String: String]
  private let driver: any HostDriver
  let certificates: CertificateTable

  /// Reads what the setting says. `environmentServers` are those of the registry's own environment (`CONSUL_HTTP_ADDR`).
  /// Errors: a server that is none, an option that is not in `options`, one that is there twice.
  init(
    _ environment: PluginEnvironment, of registry: String, defaultServers: [String], defaultPort: UInt16,
    options: [String], environmentServers: [String] = []
  ) throws(ConfigurationError) {
    self.registry = registry
    driver = environment.driver
    certificates = environment.certificates
    let argument = environment.argument ?? ""
    let mark = argument.firstIndex(of: "?") ?? argument.endIndex
    var named = argument[..<mark].split(separator: "+").map(String.init)
    if named.isEmpty { named = environment.addresses }
    if named.isEmpty { named = environmentServers }
    if named.isEmpty { named = defaultServers }
    guard named.count <= Self.serversMax else {
      throw ConfigurationError("registry \(registry): more than \(Self.serversMax) servers")
    }
    var servers: [ServerAddress] = []
    for text in named {
      guard let server = ServerAddress(text, defaultPort: defaultPort) else {
        throw ConfigurationError(
          "registry \(registry): \"\(text)\" is no server; expected host:port, several with + between them")
      }
      servers.append(server)
    }
    self.servers = servers
    var values: [String: String] = [:]
    for part in argument[mark...].dropFirst().split(separator: "&") {
      let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      let key = String(pair[0])
      // Values are not told: one may be a secret, perhaps under a mistyped name.
      guard options.contains(key), pair.count == 2 else {
        let known = options.isEmpty ? "it has none" : "known: " + options.sorted().joined(separator: ", ")
        throw ConfigurationError("registry \(registry): \"\(key)\" is no option of it (\(known)), written key=value")
      }
      guard let value = Self.unescaped(pair[1]) else {
        throw ConfigurationError(
          "registry \(registry): option \(key) has a % that two hexadecimal digits of UTF-8 do not follow; write % as %25"
        )
      }
      guard values.updateValue(value, forKey: key) == nil else {
        throw ConfigurationError("registry \(registry): option \(key) is there twice")
      }
    }
    self.values = values
  }

  /// The registry and its servers, without options: what tells one instance from another.
  var instanceName: String { "\(registry):" + servers.map(\.description).joined(separator: "+") }

  /// The option's text; nil when it is not set.
  subscript(_ key: String) -> String? { values[key] }

  /// `true` or `false`.
  func flag(_ key: String, default standard: Bool = false) throws(ConfigurationError) -> Bool {
    switch values[key] {
    case nil: return standard
    case "true", "1", "on", "yes": return true
    case "false", "0", "off", "no": return false
    case .some(let text): throw wrong(key, text, "true or false")
    }
  }

  /// A whole number within `range`.
  func number(_ key: String, in range: ClosedRange<Int>, default standard: Int) throws(ConfigurationError) -> Int {
    guard let text = values[key] else { return standard }
    guard let number = Int(text), range.contains(number) else {
      throw wrong(key, text, "a number from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  /// One of `choices`; nil when the option is not set.
  func choice(_ key: String, of choices: [String]) throws(ConfigurationError) -> String? {
    guard let text = values[key] else { return nil }
    guard choices.contains(text) else { throw wrong(key, text, choices.joined(separator: ", ")) }
    return text
  }

  /// What the option `key` says, or the content of the file that `key` + `_file` names, without the line's end. Read
  /// anew each time, so that a secret that was replaced is used.
  func secret(_ key: String) throws(ConfigurationError) -> String? {
    if let text = values[key] { return text }
    guard let path = values[key + "_file"] else { return nil }
    var bytes: [UInt8]
    do throws(DriverError) {
      bytes = try driver.readFile(path, limit: Self.secretBytesMax)
    } catch {
      throw ConfigurationError("registry \(registry): \(key)_file \(path): \(error.message)")
    }
    while let last = bytes.last, last == 0x0A || last == 0x0D { bytes.removeLast() }
    return String(decoding: bytes, as: UTF8.self)
  }

  private func wrong(_ key: String, _ found: String, _ expected: String) -> ConfigurationError {
    ConfigurationError("registry \(registry): option \(key) is \"\(found)\", expected \(expected)")
  }

  private static func unescaped(_ text: Substring) -> String? {
    var bytes: [UInt8] = []
    var rest = text.utf8[...]
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "%") else {
        bytes.append(byte)
        continue
      }
      guard let digits = String(rest.prefix(2)), digits.utf8.count == 2, let value = UInt8(digits, radix: 16) else {
        return nil
      }
      bytes.append(value)
      rest = rest.dropFirst(2)
    }
    return String(validating: bytes, as: UTF8.self)
  }
}
