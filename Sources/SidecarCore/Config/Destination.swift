// Things a setting can point at: an address to dial, a health check, a plug-in with its argument.

/// Where to dial: an address, or a host name that is looked up for each dial.
package enum Destination: Hashable, Sendable, CustomStringConvertible {
  case address(SocketAddress)
  case name(host: String, port: UInt16)

  /// Reads `host:port`, `[v6]:port`, `unix:/path`. `:port` and the wildcards are this host's loopback, which is what
  /// dialling them means. Nil for anything else and for port 0.
  package init?(_ text: String) {
    if var address = SocketAddress(text) {
      if case .unix = address {
        self = .address(address)
        return
      }
      guard address.port > 0 else { return nil }
      if address.isWildcard {
        address =
          address.isIPv6
          ? .ipv6(high: 0, low: 1, zone: 0, port: address.port) : .loopback(port: address.port)
      }
      self = .address(address)
      return
    }
    guard let (host, port) = SocketAddress.splitHostPort(text), port > 0, Self.isHostName(host) else { return nil }
    self = host.lowercased() == "localhost" ? .address(.loopback(port: port)) : .name(host: host, port: port)
  }

  package var description: String {
    switch self {
    case .address(let address): address.description
    case .name(let host, let port): "\(host):\(port)"
    }
  }

  /// Labels of letters, digits, `-` and `_` (Docker Compose allows the last), at most 63 bytes each and 253 in all. A
  /// name of only digits and dots is a mistyped address, not a name.
  static func isHostName(_ text: String) -> Bool {
    guard !text.isEmpty, text.utf8.count <= 253 else { return false }
    let labels = text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
    // One empty label at the end is the root of a fully qualified name.
    let named = labels.last?.isEmpty == true ? labels.dropLast() : labels[...]
    guard !named.isEmpty, !text.utf8.allSatisfy({ $0 == UInt8(ascii: ".") || $0 &- UInt8(ascii: "0") < 10 }) else {
      return false
    }
    return named.allSatisfy { label in
      !label.isEmpty && label.count <= 63 && label.first != UInt8(ascii: "-")
        && label.allSatisfy { byte in
          byte &- UInt8(ascii: "0") < 10 || (byte | 0x20) &- UInt8(ascii: "a") < 26 || byte == UInt8(ascii: "-")
            || byte == UInt8(ascii: "_")
        }
    }
  }
}

/// What is asked of the app to learn whether it is well: `GET path`, or `grpc.health.v1`.
package struct AppHealthCheck: Hashable, Sendable, CustomStringConvertible {
  /// Nil: the app's own address.
  package var target: Destination?
  /// Begins with `/`; with its query. Empty for `grpc.health.v1`.
  package var path: String

  package var isGRPC: Bool { path.isEmpty }

  /// Reads `grpc`, a path or an `http://` URL. Nil for anything else: `https` is not spoken to the app.
  package init?(_ text: String) {
    if text == "grpc" {
      path = ""
      return
    }
    let scheme = "http://"
    var path = text[...]
    if text.lowercased().hasPrefix(scheme) {
      let rest = text.dropFirst(scheme.count)
      let slash = rest.firstIndex { $0 == "/" || $0 == "?" } ?? rest.endIndex
      let authority = String(rest[..<slash])
      guard !authority.isEmpty, !authority.hasPrefix("unix:"),
        let target = Destination(authority) ?? Destination(authority + ":80")
      else {
        return nil
      }
      self.target = target
      path = rest[slash...]
      if path.first != "/" { path = "/\(path)"[...] }
    }
    let isToken = path.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "#") }
    guard path.first == "/", isToken, path.utf8.count <= 1024 else { return nil }
    self.path = String(path)
  }

  package var description: String { isGRPC ? "grpc" : target.map { "http://\($0)\(path)" } ?? path }
}

/// A plug-in by name, with what follows the colon: `file:services.yaml`.
package struct PluginChoice: Hashable, Sendable, CustomStringConvertible {
  package var name: String
  package var argument: String?

  package init(name: String, argument: String? = nil) {
    self.name = name
    self.argument = argument
  }

  package init(_ text: String) {
    if let colon = text.firstIndex(of: ":") {
      self.init(name: String(text[..<colon]), argument: String(text[text.index(after: colon)...]))
    } else {
      self.init(name: text)
    }
  }

  package var description: String { argument.map { "\(name):\($0)" } ?? name }
  /// The same without secrets among its options, for people and logs.
  package var shown: String { Setting.withoutSecretOptions(description) }
}
