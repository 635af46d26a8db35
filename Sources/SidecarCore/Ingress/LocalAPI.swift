// What the local API asks of the control loop, and the answers.

/// A request that is not a call. Made on a worker, answered on the control loop.
package enum APIRequest: Sendable {
  /// `GET /registry`
  case listServices
  /// `GET /registry?service=X`
  case getService(ServiceName)
  /// `POST /registry?ttl=10s`; nil: the entry stays until it is removed.
  case register(Service, ttl: Duration?)
  /// `DELETE /registry`
  case deregister(Service)
  /// `GET /health`
  case appHealth
  /// `GET /stats`
  case stats(isJSON: Bool)
}

/// The body of `POST /rpc` (go-micro toolkit internal/handler/rpc.go @ v0.16.0): JSON or a form.
struct RPCBody {
  var service = ""
  var endpoint = ""
  var address: String?
  /// The request's JSON text: within the body for JSON that holds it as an object, else in `decoded`.
  var request = 0..<0
  var decoded: [UInt8]?

  /// Field names in any case; `endpoint` and `method` are the same; `request` may be any JSON value or a string that
  /// holds JSON. Unknown fields are ignored.
  init(json body: UnsafeRawBufferPointer) throws(WireError) {
    _ = try JSONScanner.validate(body)
    var scanner = JSONScanner(body)
    try scanner.enterObject()
    while let member = try scanner.nextMember() {
      let value = member.value
      let key = member.keyIsEscaped ? "" : String(decoding: body[member.key], as: UTF8.self).lowercased()
      switch key {
      case "service": service = try Self.text(body, value, "service")
      case "method", "endpoint":
        let text = try Self.text(body, value, key)
        if !text.isEmpty { endpoint = text }
      case "address":
        let text = try Self.text(body, value, "address")
        address = text.isEmpty ? nil : text
      case "request":
        if scanner.kind(of: value) == .string {
          try setRequest(text: try Self.text(body, value, "request"))
        } else {
          request = value
        }
      default: break
      }
    }
    try check()
  }

  init(form body: UnsafeRawBufferPointer) throws(WireError) {
    let buffer = ByteBuffer()
    try QueryToJSON.append(body, to: buffer)
    let fields = try JSONValue(parsing: buffer.bytes)
    service = fields["service"]?.stringValue ?? ""
    endpoint = fields["method"]?.stringValue ?? fields["endpoint"]?.stringValue ?? ""
    let address = fields["address"]?.stringValue ?? ""
    self.address = address.isEmpty ? nil : address
    if let text = fields["request"]?.stringValue { try setRequest(text: text) }
    try check()
  }

  private func check() throws(WireError) {
    if service.isEmpty { throw WireError("invalid service") }
    if endpoint.isEmpty { throw WireError("invalid method") }
  }

  private mutating func setRequest(text: String) throws(WireError) {
    guard !text.isEmpty else { return }
    let buffer = ByteBuffer(capacity: text.utf8.count)
    buffer.append(text)
    do throws(WireError) {
      _ = try JSONScanner.validate(buffer.bytes)
    } catch {
      throw WireError("error decoding request string: \(error.rule)", offset: error.offset)
    }
    decoded = Array(buffer.bytes)
  }

  private static func text(_ body: UnsafeRawBufferPointer, _ value: Range<Int>, _ field: String) throws(WireError)
    -> String
  {
    let parsed = try JSONValue(parsing: UnsafeRawBufferPointer(rebasing: body[value]))
    if parsed.isNull { return "" }
    guard let text = parsed.stringValue else { throw WireError("\(field) is not a string", offset: value.lowerBound) }
    return text
  }
}

/// Cross-origin rules of the 2018 sidecar (peers: `_CORS`, default `*`).
enum CORS {
  static func allows(_ origin: UnsafeRawBufferPointer, _ origins: [String]) -> Bool {
    origins.contains { allowed in
      allowed == "*" || allowed.utf8.elementsEqual(origin)
    }
  }

  static func appendHeaders(_ origin: [UInt8], to out: ByteBuffer) {
    origin.withUnsafeBytes { HTTP1Writer.field("Access-Control-Allow-Origin", $0, to: out) }
    out.append("Access-Control-Allow-Credentials: true\r\nVary: Origin\r\n")
    out.append("Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE\r\n")
    out.append(
      "Access-Control-Allow-Headers: Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, Timeout, Micro-Service, Micro-Endpoint\r\n"
    )
    out.append(
      "Access-Control-Expose-Headers: X-Micro-Node, X-Micro-Attempts, X-Micro-Upstream-Time, X-Micro-Reason\r\n")
  }
}
