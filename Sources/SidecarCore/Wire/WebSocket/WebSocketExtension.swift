// The header `Sec-WebSocket-Extensions` (RFC 6455 §9.1): names with parameters, as the client offers or the server chose
// them.
//
//   permessage-deflate; client_max_window_bits; server_max_window_bits="10", permessage-deflate

struct WebSocketExtension {
  /// Tokens of all extensions of one head at most; more are refused with 400.
  static let tokensMax = 64

  var name: String
  /// A value is nil where there is none. Quotes are gone.
  var parameters: [(String, String?)] = []

  /// Those of all header lines of `head`, in order.
  static func read(_ head: HTTP1Head) throws(WireError) -> [WebSocketExtension] {
    guard head.has(.secWebSocketExtensions) else { return [] }
    var all: [WebSocketExtension] = []
    var tokens = 0
    for field in head.fields where field.id == .secWebSocketExtensions {
      try read(head.value(field), into: &all, &tokens)
    }
    return all
  }

  private static func read(
    _ line: UnsafeRawBufferPointer, into all: inout [WebSocketExtension], _ tokens: inout Int
  ) throws(WireError) {
    var offset = 0
    func skipSpace() {
      while offset < line.count, line[offset] == ASCII.space || line[offset] == ASCII.tab { offset += 1 }
    }
    func at(_ byte: Character) -> Bool { offset < line.count && line[offset] == byte.asciiValue }
    func token() throws(WireError) -> String {
      let start = offset
      while offset < line.count, ByteClass.contains(line[offset], ByteClass.token) { offset += 1 }
      tokens += 1
      guard offset > start, tokens <= tokensMax else {
        throw WireError("malformed Sec-WebSocket-Extensions", offset: offset)
      }
      return String(decoding: line[start..<offset], as: UTF8.self)
    }
    /// A quoted value must be a token once its quotes are gone (RFC 6455 §9.1), so nothing in it is escaped.
    func value() throws(WireError) -> String {
      guard at("\"") else { return try token() }
      offset += 1
      let text = try token()
      guard at("\"") else { throw WireError("malformed Sec-WebSocket-Extensions", offset: offset) }
      offset += 1
      return text
    }

    while true {
      skipSpace()
      if at(",") {  // Empty elements of a list mean nothing (RFC 9110 §5.6.1.2).
        offset += 1
        continue
      }
      guard offset < line.count else { return }
      var next = WebSocketExtension(name: try token())
      skipSpace()
      while at(";") {
        offset += 1
        skipSpace()
        let key = try token()
        skipSpace()
        var text: String?
        if at("=") {
          offset += 1
          skipSpace()
          text = try value()
          skipSpace()
        }
        next.parameters.append((key, text))
      }
      guard offset == line.count || at(",") else {
        throw WireError("malformed Sec-WebSocket-Extensions", offset: offset)
      }
      all.append(next)
    }
  }
}
