// go-micro's error, the JSON that travels as text in envelopes and in the Micro-Error header (errors/errors.go
// @ v0.14.0 … v6.10.0): {"id":"…","code":400,"detail":"…","status":"Bad Request"}.

/// An error as the framework's callers read it.
public struct MicroError: Hashable, Sendable {
  /// Who failed, such as a service's name, `go.micro.client` or `go.micro.client.transport`.
  public var id: String
  /// An HTTP status number; 0 when the text was no error JSON.
  public var code: Int
  /// What happened, for people.
  public var detail: String
  /// The reason phrase of `code`.
  public var status: String

  /// `status` is filled in from `code` when not given.
  public init(id: String, code: Int, detail: String, status: String? = nil) {
    self.id = id
    self.code = code
    self.detail = detail
    self.status = status ?? MicroError.reason(code)
  }

  /// Go's `http.StatusText`; 499, for a caller that left, has nginx's words.
  private static func reason(_ code: Int) -> String {
    HTTP1Status.reason(code)?.description ?? (code == 499 ? "Client Closed Request" : "")
  }

  /// Reads an error's text as go-micro's `errors.Parse` does: a JSON object with these keys in any case of letters,
  /// others ignored; anything else is a plain text, which becomes `detail` with code 0. Never fails.
  public init(parsing text: UnsafeRawBufferPointer) {
    self =
      MicroError.json(text) ?? MicroError(id: "", code: 0, detail: String(decoding: text, as: UTF8.self), status: "")
  }
  public init(parsing text: String) {
    var text = text
    self = text.withUTF8 { MicroError(parsing: UnsafeRawBufferPointer($0)) }
  }

  /// Whether it came from JSON: a plain text has neither code nor id.
  public var isStructured: Bool { code != 0 || !id.isEmpty || !status.isEmpty }

  private static func json(_ text: UnsafeRawBufferPointer) -> MicroError? {
    guard let first = text.first, first == UInt8(ascii: "{") || first <= 0x20, let json = try? JSONValue(parsing: text),
      case .object = json
    else { return nil }
    // A value of the wrong type makes Go's decoder fail, and the whole is then a plain text.
    func string(_ key: String) -> String? {
      guard let value = json.value(ignoringCase: key), !value.isNull else { return "" }
      return value.stringValue
    }
    guard let id = string("id"), let detail = string("detail"), let status = string("status") else { return nil }
    var code = 0
    if let value = json.value(ignoringCase: "code"), !value.isNull {
      guard let number = value.numberText.flatMap({ Int32($0) }) else { return nil }
      code = Int(number)
    }
    return MicroError(id: id, code: code, detail: detail, status: status)
  }

  /// Writes the JSON at the end of `buffer`: all four keys always, as up to v1.18; later versions leave out empty ones
  /// and read both.
  public func write(into buffer: ByteBuffer) {
    buffer.append("{\"id\":")
    JSONText.append(id, escaping: .go, into: buffer)
    buffer.append(",\"code\":")
    buffer.append(decimal: code)
    buffer.append(",\"detail\":")
    JSONText.append(detail, escaping: .go, into: buffer)
    buffer.append(",\"status\":")
    JSONText.append(status, escaping: .go, into: buffer)
    buffer.append(UInt8(ascii: "}"))
  }

  /// The JSON as text.
  public var text: String {
    let buffer = ByteBuffer()
    write(into: buffer)
    return String(decoding: buffer.bytes, as: UTF8.self)
  }

  /// The HTTP status that says it to a plain HTTP caller: `code` from 400 to 599 as it is; for texts without one, 404
  /// for go-micro's own "can't find", 408 for a handler that ran into the deadline it was sent, 500 for all others.
  public var httpStatus: Int {
    if (400...599).contains(code) { return code }
    guard code == 0 else { return 500 }
    if saysNotFound { return 404 }
    return detail == Self.deadlineText ? 408 : 500
  }

  /// What Go's `ctx.Err()` prints: many handlers return it as it is, in the moment when their caller gives up too.
  private static let deadlineText = "context deadline exceeded"

  /// A server's plain text for a handler or method it does not have (server/rpc_service.go @ v0.14.0,
  /// server/rpc_router.go @ v1.18.0).
  public var saysNotFound: Bool {
    detail.hasPrefix("rpc: can't find service ") || detail.hasPrefix("rpc: can't find method ")
      || detail.hasPrefix("unknown service ") || detail.hasPrefix("unknown method ")
  }
}
