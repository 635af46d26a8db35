// JSON-RPC 1 as go-micro speaks it (codec/jsonrpc @ v0.14.0 … v6.10.0), cut in place. Key order changed over the years
// (4.10), ids too: v0.14 counts with numbers and takes nothing else back, later versions send strings. So an id is
// kept as the raw JSON it came as and echoed so.

/// A request: `{"method":"Say.Hello","params":[{…}],"id":0}`. Ranges are of the body.
package struct JSONRPCRequest: Equatable, Sendable {
  /// Between its quotes; empty when missing.
  package var method: Range<Int> = 0..<0
  package var methodIsEscaped = false
  /// The first element of `params`, or `params` itself when it is no array; empty when there is none.
  package var argument: Range<Int> = 0..<0
  /// Raw JSON; empty when missing.
  package var id: Range<Int> = 0..<0
  /// Whether it is a client's end of stream, `{"id":"0","result":null,"error":"EOS"}` (client/rpc_stream.go @ v1.9.0).
  package var isEndOfStream = false

  /// Bytes of an id; above, the request is refused: the id must be kept until the reply.
  package static let idBytesMax = 1024

  /// Errors: `WireError` for what is not JSON or not an object, for a method that is no string and for a long id.
  package init(parsing body: UnsafeRawBufferPointer) throws(WireError) {
    var scanner = JSONScanner(body)
    try scanner.enterObject()
    while let member = try scanner.nextMember() {
      if scanner.isKey(member, "method") {
        switch scanner.kind(of: member.value) {
        case .string:
          method = (member.value.lowerBound + 1)..<(member.value.upperBound - 1)
          methodIsEscaped = UnsafeRawBufferPointer(rebasing: body[method]).contains(UInt8(ascii: "\\"))
        case .null: method = 0..<0
        case .bool, .number, .array, .object:
          throw WireError("JSON-RPC: method must be a string", offset: member.value.lowerBound)
        }
      } else if scanner.isKey(member, "params") {
        argument = try Self.argument(body, member.value, scanner.kind(of: member.value))
      } else if scanner.isKey(member, "id") {
        guard member.value.count <= Self.idBytesMax else {
          throw WireError("JSON-RPC: the id is too long", offset: member.value.lowerBound)
        }
        id = member.value
      } else if scanner.isKey(member, "error") {
        isEndOfStream = ASCIIText.equals(UnsafeRawBufferPointer(rebasing: body[member.value]), "\"EOS\"")
      }
    }
    try scanner.expectEnd()
  }

  private static func argument(
    _ body: UnsafeRawBufferPointer, _ params: Range<Int>, _ kind: JSONKind
  ) throws(WireError) -> Range<Int> {
    switch kind {
    case .null: return 0..<0
    case .array:
      // The array was checked before; walking it again costs its first element only.
      var scanner = JSONScanner(body, at: params.lowerBound)
      try scanner.enterArray()
      return try scanner.nextElement() ?? 0..<0
    case .bool, .number, .string, .object: return params
    }
  }

  /// Writes a request and a line end. The argument must be JSON, checked by the caller; empty becomes `{}`.
  package static func write(
    method: UnsafeRawBufferPointer, argument: UnsafeRawBufferPointer, id: UInt64, into buffer: ByteBuffer
  ) {
    buffer.append("{\"method\":")
    JSONText.append(method, escaping: .go, into: buffer)
    buffer.append(",\"params\":[")
    if argument.isEmpty { buffer.append("{}") } else { buffer.append(argument) }
    // A number: v0.14 servers echo anything, but its clients and proxies only take numbers (trap 16).
    buffer.append("],\"id\":")
    buffer.append(decimal: id)
    buffer.append("}\n")
  }
}

/// A reply: `{"id":0,"result":{…},"error":null}`. Ranges are of the body.
package struct JSONRPCReply: Equatable, Sendable {
  /// Raw JSON; empty when missing or null.
  package var result: Range<Int> = 0..<0
  /// The error's raw JSON, quotes included; empty when missing, null or an empty string.
  package var error: Range<Int> = 0..<0
  package var errorIsString = false

  /// Errors: `WireError` for what is not JSON or not an object.
  package init(parsing body: UnsafeRawBufferPointer) throws(WireError) {
    var scanner = JSONScanner(body)
    try scanner.enterObject()
    while let member = try scanner.nextMember() {
      let kind = scanner.kind(of: member.value)
      if scanner.isKey(member, "result") {
        result = kind == .null ? 0..<0 : member.value
      } else if scanner.isKey(member, "error") {
        errorIsString = kind == .string
        error = kind == .null || (errorIsString && member.value.count == 2) ? 0..<0 : member.value
      }
    }
    try scanner.expectEnd()
  }

  /// The error's text: a string's content, or the raw JSON of anything else (other frameworks send objects).
  package func writeErrorText(of body: UnsafeRawBufferPointer, into buffer: ByteBuffer) {
    if errorIsString {
      JSONText.unescape(body, (error.lowerBound + 1)..<(error.upperBound - 1), into: buffer)
    } else {
      buffer.append(UnsafeRawBufferPointer(rebasing: body[error]))
    }
  }

  /// Writes a good reply and a line end. The result must be JSON, checked by the caller. Empty and `null` become `{}`:
  /// v0.14's client takes a null result for a failure.
  package static func write(
    id: UnsafeRawBufferPointer, result: UnsafeRawBufferPointer, into buffer: ByteBuffer
  ) {
    buffer.append("{\"id\":")
    if id.isEmpty { buffer.append("null") } else { buffer.append(id) }
    buffer.append(",\"result\":")
    if result.isEmpty || ASCIIText.equals(result, "null") { buffer.append("{}") } else { buffer.append(result) }
    buffer.append(",\"error\":null}\n")
  }

  /// Writes a failure and a line end. The error is a string: an object makes Go's client fail in its codec.
  package static func writeFailure(
    id: UnsafeRawBufferPointer, text: UnsafeRawBufferPointer, into buffer: ByteBuffer
  ) {
    buffer.append("{\"id\":")
    if id.isEmpty { buffer.append("null") } else { buffer.append(id) }
    buffer.append(",\"result\":null,\"error\":")
    JSONText.append(text, escaping: .go, into: buffer)
    buffer.append("}\n")
  }
}
