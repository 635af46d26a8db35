// What the control plane's HTTP client sends and gets, and where to.

import SidecarCore

/// A server of an HTTP API.
package struct HTTPEndpoint: Hashable, Sendable, CustomStringConvertible {
  package var isTLS: Bool
  package var target: Destination
  /// `host:port`, as the Host field says it.
  package var authority: String
  /// Without port and brackets: what a certificate is to be for.
  package var host: String
  /// Put before every path; empty, or begins with a slash and does not end with one.
  package var basePath: String

  /// Nil for a host that is neither a name nor an address.
  package init?(host: String, port: UInt16, isTLS: Bool, basePath: String = "") {
    authority = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    guard let target = Destination(authority) else { return nil }
    self.target = target
    self.host = host
    self.isTLS = isTLS
    self.basePath = basePath
  }

  /// A server as a registry's setting names it. `isTLS` counts where it has no scheme.
  init(_ server: ServerAddress, isTLS: Bool) throws(ConfigurationError) {
    let schemes = ["http": false, "https": true]
    let usesTLS = server.scheme.map { schemes[$0] } ?? isTLS
    guard let usesTLS,
      let endpoint = HTTPEndpoint(host: server.host, port: server.port, isTLS: usesTLS, basePath: server.path)
    else {
      throw ConfigurationError(
        "\"\(server)\" is no server that speaks HTTP; expected http://host:port or https://host:port")
    }
    self = endpoint
  }

  package var description: String { (isTLS ? "https://" : "http://") + authority + basePath }
}

package struct HTTPRequest: Sendable {
  package enum Method: String, Sendable {
    case get = "GET", put = "PUT", post = "POST", delete = "DELETE", patch = "PATCH"
  }
  package var method: Method
  /// Path and query, escaped; begins with a slash.
  package var target: String
  package var headers: [(name: String, value: String)] = []
  package var body: [UInt8]?

  package init(_ method: Method, _ target: String, body: [UInt8]? = nil, headers: [(name: String, value: String)] = [])
  {
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

/// Takes the body of a reply as it comes, so that it need not be whole in memory. Called on the loop of its client.
package protocol HTTPBodyReader: AnyObject {
  /// A body begins. What came before is void: it was of a reply that broke off, and another server is asked.
  func begin()
  /// The next bytes, never none.
  func take(_ part: [UInt8])
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
    "Basic " + base64(Array("\(user):\(password)".utf8))
  }

  /// Base64 with padding (RFC 4648 §4).
  package static func base64(_ bytes: [UInt8]) -> String {
    let out = ByteBuffer(capacity: (bytes.count + 2) / 3 * 4)
    bytes.withUnsafeBytes { GRPCText.appendBase64($0, to: out) }
    while out.count % 4 != 0 { out.append(UInt8(ascii: "=")) }
    return String(decoding: out.bytes, as: UTF8.self)
  }

  /// Nil for what is no base64.
  package static func base64Decoded(_ text: String) -> [UInt8]? {
    var text = text
    return text.withUTF8 { GRPCText.base64Decoded(UnsafeRawBufferPointer($0)) }
  }

  /// A body for a log line: its first line, at most 200 bytes, without control characters.
  package static func short(_ body: [UInt8]) -> String {
    let line = body.prefix(200).prefix { $0 != 0x0A && $0 != 0x0D }.map { $0 < 0x20 || $0 == 0x7F ? 0x3F : $0 }
    return String(decoding: line, as: UTF8.self)
  }
}
