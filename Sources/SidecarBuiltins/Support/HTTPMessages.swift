// What the control plane's HTTP client sends and gets, and where to.

import SidecarCore

/// A server of an HTTP API: `http://host:8500`, `https://[::1]:2379/base`.
package struct HTTPEndpoint: Hashable, Sendable, CustomStringConvertible {
  package var isTLS: Bool
  package var target: Destination
  /// As the Host field says it.
  package var authority: String
  /// Without a port or brackets: what a certificate is to be for.
  package var host: String
  /// Put before every path; empty, or begins with a slash and does not end with one.
  package var basePath: String

  /// Reads a URL, or `host`, `host:port` and `unix:///path` or `unix:/path` without a scheme, which get `isTLS` and
  /// `defaultPort`. Nil for what names no host, and for a URL with user, query or fragment.
  package init?(_ text: String, isTLS defaultTLS: Bool, defaultPort: UInt16) {
    var rest = text[...]
    isTLS = defaultTLS
    for (scheme, tls) in [("http://", false), ("https://", true)] where rest.lowercased().hasPrefix(scheme) {
      isTLS = tls
      rest = rest.dropFirst(scheme.count)
    }
    if rest.hasPrefix("unix:") {
      let path = rest.dropFirst(5)
      guard let target = Destination("unix:" + (path.hasPrefix("//") ? path.dropFirst(2) : path)) else { return nil }
      self.target = target
      authority = "localhost"
      host = "localhost"
      basePath = ""
      return
    }
    guard !rest.contains(where: { $0 == "@" || $0 == "?" || $0 == "#" || $0 == " " }) else { return nil }
    let slash = rest.firstIndex(of: "/") ?? rest.endIndex
    var place = String(rest[..<slash])
    basePath = String(rest[slash...])
    while basePath.hasSuffix("/") { basePath.removeLast() }
    if SocketAddress.splitHostPort(place) == nil {
      if place.contains(":"), !place.hasPrefix("[") { place = "[\(place)]" }
      place += ":\(defaultPort)"
    }
    guard let target = Destination(place), let (host, _) = SocketAddress.splitHostPort(place), !host.isEmpty else {
      return nil
    }
    self.target = target
    self.host = host
    authority = place
  }

  package var description: String { (isTLS ? "https://" : "http://") + authority + basePath }
}

package struct HTTPRequest: Sendable {
  package enum Method: String, Sendable { case get = "GET", put = "PUT", post = "POST", delete = "DELETE", patch = "PATCH" }
  package var method: Method
  /// Path and query, escaped; begins with a slash.
  package var target: String
  package var headers: [(name: String, value: String)] = []
  package var body: [UInt8]?

  package init(_ method: Method, _ target: String, body: [UInt8]? = nil, headers: [(name: String, value: String)] = []) {
    self.method = method
    self.target = target
    self.body = body
    self.headers = headers
  }

  /// A JSON body.
  package init(_ method: Method, _ target: String, json: JSONValue) {
    self.init(method, target, body: Array(json.text().utf8), headers: [("Content-Type", "application/json")])
  }
}

package struct HTTPReply: Sendable {
  package var status: Int
  /// Names in lower case, in the order they came.
  package var headers: [(name: String, value: String)]
  package var body: [UInt8]
  /// Who answered.
  package var endpoint: HTTPEndpoint

  package var isSuccess: Bool { (200...299).contains(status) }
  /// The value of the first field of this name, which is given in lower case.
  package func header(_ name: String) -> String? { headers.first { $0.name == name }?.value }
  /// The body as text for people, cut to a line.
  package var shortText: String { HTTPText.short(body) }
}

/// Why there is no reply.
package struct HTTPFailure: Error, Equatable, Sendable, CustomStringConvertible {
  package var endpoint: HTTPEndpoint
  package var cause: ConnectionError
  package var description: String { "\(endpoint): \(cause)" }
}

/// Text in URLs and headers.
package enum HTTPText {
  /// `text` for a path segment or a query value: everything but letters, digits and `-._~` as `%XX`.
  package static func escape(_ text: String) -> String {
    let hex = Array("0123456789ABCDEF".utf8)
    var out: [UInt8] = []
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
        UInt8(ascii: "~"):
        out.append(byte)
      default: out += [UInt8(ascii: "%"), hex[Int(byte >> 4)], hex[Int(byte & 15)]]
      }
    }
    return String(decoding: out, as: UTF8.self)
  }

  /// `?a=b&c=d`, escaped; a nil value writes the key alone. Empty for no items.
  package static func query(_ items: [(String, String?)]) -> String {
    let parts = items.map { key, value in escape(key) + (value.map { "=" + escape($0) } ?? "") }
    return parts.isEmpty ? "" : "?" + parts.joined(separator: "&")
  }

  /// The value of an `Authorization` field for a user and a password (RFC 7617).
  package static func basicAuthorization(user: String, password: String) -> String {
    "Basic " + Base64.encode(Array("\(user):\(password)".utf8))
  }

  /// A body for a log line: its first line, at most 200 bytes, without control characters.
  package static func short(_ body: [UInt8]) -> String {
    let line = body.prefix(200).prefix { $0 != 0x0A && $0 != 0x0D }.map { $0 < 0x20 || $0 == 0x7F ? 0x3F : $0 }
    return String(decoding: line, as: UTF8.self)
  }
}
