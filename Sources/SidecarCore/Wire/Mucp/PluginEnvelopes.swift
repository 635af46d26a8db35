// The envelopes of go-micro's plug-in codecs, both roles (go-plugins codec/{jsonrpc2,msgpackrpc,bsonrpc} @ 4fe90d56 and
// HEAD; wire/rpc.md §3.8). Their payloads are JSON here: what is MessagePack or BSON on the wire is translated on the way
// in and out.
//
//   jsonrpc2    {"jsonrpc":"2.0","method":M,"params":ARG,"id":ID}  →  {"jsonrpc":"2.0","id":ID,"result":R | "error":E}
//   msgpackrpc  [0, ID, M, [ARG]]                                  →  [1, ID, nil | text, nil | R]
//   bsonrpc     {ServiceMethod, Seq} ARG                           →  {ServiceMethod, Seq, Error} R
//
// Ids were numbers in 2018 and are strings in the plug-ins for v2 and later. Ours follow the node's generation; a
// caller's is echoed as it came, in the bytes of its own format.

/// What a request's envelope says.
struct PluginRequest {
  /// Of the notes.
  var method = 0..<0
  /// Of the notes, in the bytes of the format: JSON for jsonrpc2 and bsonrpc, MessagePack for msgpackrpc.
  var id = 0..<0
  /// Of the body, or of the notes if `isTranslated`.
  var payload = 0..<0
  var isTranslated = false
}

/// What a reply's envelope says.
enum PluginReply {
  case result(Range<Int>)
  /// JSON that was something else on the wire.
  case translated(ByteBuffer)
  case error(ByteBuffer)
}

enum PluginEnvelope {
  /// Bytes of an id; above, the request is refused: the id must be kept until the reply.
  static let idBytesMax = JSONRPCRequest.idBytesMax

  // MARK: Reading requests

  /// Errors: `WireError` for a body that is no request of `codec`, and for a payload that JSON cannot say.
  static func readRequest(
    _ codec: FrameCodec, _ body: UnsafeRawBufferPointer, notes: ByteBuffer
  ) throws(WireError) -> PluginRequest {
    switch codec {
    case .jsonRPC2: try readJSONRPC2(body, notes)
    case .msgpackRPC: try readMessagePack(body, notes)
    case .bsonRPC: try readBSON(body, notes)
    case .json, .jsonRPC, .protobuf, .protoRPC, .bytes, .grpcFramed, .grpcFramedJSON, .mercury:
      throw WireError("not a plug-in's envelope")
    }
  }

  private static func note(_ bytes: UnsafeRawBufferPointer, _ notes: ByteBuffer) -> Range<Int> {
    let start = notes.count
    notes.append(bytes)
    return start..<notes.count
  }

  private static func noteID(_ bytes: UnsafeRawBufferPointer, _ notes: ByteBuffer) throws(WireError) -> Range<Int> {
    guard bytes.count <= idBytesMax else { throw WireError("the envelope's id is too long") }
    return note(bytes, notes)
  }

  private static func readJSONRPC2(
    _ body: UnsafeRawBufferPointer, _ notes: ByteBuffer
  ) throws(WireError) -> PluginRequest {
    var request = PluginRequest()
    var scanner = JSONScanner(body)
    try scanner.enterObject()
    while let member = try scanner.nextMember() {
      let kind = scanner.kind(of: member.value)
      let value = UnsafeRawBufferPointer(rebasing: body[member.value])
      if scanner.isKey(member, "jsonrpc") {
        guard ASCIIText.equals(value, "\"2.0\"") else {
          throw WireError("jsonrpc2: the version must be \"2.0\"", offset: member.value.lowerBound)
        }
      } else if scanner.isKey(member, "method") {
        guard kind == .string else {
          throw WireError("jsonrpc2: method must be a string", offset: member.value.lowerBound)
        }
        let start = notes.count
        JSONText.unescape(body, (member.value.lowerBound + 1)..<(member.value.upperBound - 1), into: notes)
        request.method = start..<notes.count
      } else if scanner.isKey(member, "params") {
        request.payload = kind == .null ? 0..<0 : member.value
      } else if scanner.isKey(member, "id") {
        request.id = try noteID(value, notes)
      }
    }
    try scanner.expectEnd()
    return request
  }

  private static func readMessagePack(
    _ body: UnsafeRawBufferPointer, _ notes: ByteBuffer
  ) throws(WireError) -> PluginRequest {
    var request = PluginRequest()
    var reader = MessagePackReader(body)
    guard try reader.arrayHeader() == 4, try reader.unsigned() == 0 else {
      throw WireError("msgpackrpc: a request is [0, id, method, [argument]]")
    }
    request.id = try noteID(UnsafeRawBufferPointer(rebasing: body[try reader.rawScalar()]), notes)
    request.method = note(UnsafeRawBufferPointer(rebasing: body[try reader.string()]), notes)
    let arguments = reader.offset
    switch try reader.arrayHeader() {
    case 0: break
    case 1:
      let start = notes.count
      try reader.value(into: notes)
      request.payload = start..<notes.count
      request.isTranslated = true
    default: throw WireError("msgpackrpc: a call has one argument", offset: arguments)
    }
    try reader.expectEnd()
    return request
  }

  private static func readBSON(
    _ body: UnsafeRawBufferPointer, _ notes: ByteBuffer
  ) throws(WireError) -> PluginRequest {
    var request = PluginRequest()
    var reader = BSONReader(body, dialect: .vitess)
    let header = try readBSONHeader(&reader)
    let method = FixedBytes(header["ServiceMethod"]?.stringValue ?? "")
    request.method = note(method.span, notes)
    if let seq = header["Seq"] {
      let text = ByteBuffer()
      seq.write(into: text, escaping: .plain)
      request.id = try noteID(text.bytes, notes)
    }
    let start = notes.count
    try reader.document(into: notes)
    request.payload = start..<notes.count
    request.isTranslated = true
    try reader.expectEnd()
    return request
  }

  private static func readBSONHeader(_ reader: inout BSONReader) throws(WireError) -> JSONValue {
    let text = ByteBuffer()
    try reader.document(into: text)
    let header = try JSONValue(parsing: text.bytes)
    for name in ["ServiceMethod", "Error"] {
      if let value = header[name], !value.isNull, value.stringValue == nil {
        throw WireError("bsonrpc: \(name) must be a string")
      }
    }
    return header
  }

  // MARK: Writing requests

  /// A request's body. `payload` is JSON, empty for none. Errors: `WireError` for what is not, or not in this format.
  static func request(
    _ codec: FrameCodec, method: UnsafeRawBufferPointer, id: UInt64, generation: NodeDialect.Generation,
    payload: UnsafeRawBufferPointer
  ) throws(WireError) -> ByteBuffer {
    let body = ByteBuffer(capacity: payload.count + method.count + 96)
    let digits = ByteBuffer(capacity: 64)
    digits.append(decimal: id)
    switch codec {
    case .jsonRPC2:
      body.append("{\"jsonrpc\":\"2.0\",\"method\":")
      JSONText.append(method, escaping: .go, into: body)
      body.append(",\"params\":")
      body.append(
        payload.isEmpty ? emptyObject : UnsafeRawBufferPointer(rebasing: payload[try JSONScanner.validate(payload)]))
      body.append(generation == .legacy ? ",\"id\":" : ",\"id\":\"")
      body.append(digits.bytes)
      body.append(generation == .legacy ? "}\n" : "\"}\n")
    case .msgpackRPC:
      body.append(0x94 as UInt8)
      body.append(0x00 as UInt8)
      if generation == .legacy {
        MessagePackWriter.append(UInt64(UInt32(truncatingIfNeeded: id)), into: body)
      } else {
        MessagePackWriter.append(string: digits.bytes, into: body)
      }
      MessagePackWriter.append(string: method, into: body)
      body.append(0x91 as UInt8)
      try MessagePackWriter.translate(json: payload.isEmpty ? emptyObject : payload, into: body)
    case .bsonRPC:
      let header = BSONWriter.open(body)
      BSONWriter.append(name: "ServiceMethod", string: method, into: body)
      if generation == .legacy {
        BSONWriter.append(name: "Seq", int64: id, into: body)
      } else {
        BSONWriter.append(name: "Seq", string: digits.bytes, into: body)
      }
      BSONWriter.close(header, in: body)
      try BSONWriter.translate(json: payload.isEmpty ? emptyObject : payload, dialect: .vitess, into: body)
    case .json, .jsonRPC, .protobuf, .protoRPC, .bytes, .grpcFramed, .grpcFramedJSON, .mercury:
      throw WireError("not a plug-in's envelope")
    }
    return body
  }

  private static var emptyObject: UnsafeRawBufferPointer {
    let text: StaticString = "{}"
    return UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
  }

  // MARK: Writing replies

  /// A reply's body; as in `request`. `id` and `method` are what the request had.
  static func reply(
    _ codec: FrameCodec, method: UnsafeRawBufferPointer, id: UnsafeRawBufferPointer, payload: UnsafeRawBufferPointer
  ) throws(WireError) -> ByteBuffer {
    let body = ByteBuffer(capacity: payload.count + method.count + id.count + 96)
    switch codec {
    case .jsonRPC2:
      startJSONRPC2(id, into: body)
      body.append(",\"result\":")
      body.append(
        payload.isEmpty ? emptyObject : UnsafeRawBufferPointer(rebasing: payload[try JSONScanner.validate(payload)]))
      body.append("}\n")
    case .msgpackRPC:
      startMessagePack(id, into: body)
      body.append(0xC0 as UInt8)
      if payload.isEmpty {
        body.append(0xC0 as UInt8)
      } else {
        try MessagePackWriter.translate(json: payload, into: body)
      }
    case .bsonRPC:
      bsonHeader(method, id, error: nil, into: body)
      try BSONWriter.translate(json: payload.isEmpty ? emptyObject : payload, dialect: .vitess, into: body)
    case .json, .jsonRPC, .protobuf, .protoRPC, .bytes, .grpcFramed, .grpcFramedJSON, .mercury:
      throw WireError("not a plug-in's envelope")
    }
    return body
  }

  /// The body of a reply that says the call failed.
  static func failure(
    _ codec: FrameCodec, method: UnsafeRawBufferPointer, id: UnsafeRawBufferPointer, text: UnsafeRawBufferPointer
  ) -> ByteBuffer {
    let body = ByteBuffer(capacity: text.count * 2 + method.count + id.count + 96)
    switch codec {
    case .jsonRPC2:
      startJSONRPC2(id, into: body)
      body.append(",\"error\":")
      writeJSONRPC2Error(text, into: body)
      body.append("}\n")
    case .msgpackRPC:
      startMessagePack(id, into: body)
      MessagePackWriter.append(string: text, into: body)
      body.append(0xC0 as UInt8)
    case .bsonRPC:
      bsonHeader(method, id, error: text, into: body)
      BSONWriter.close(BSONWriter.open(body), in: body)
    case .json, .jsonRPC, .protobuf, .protoRPC, .bytes, .grpcFramed, .grpcFramedJSON, .mercury: break
    }
    return body
  }

  private static func startJSONRPC2(_ id: UnsafeRawBufferPointer, into body: ByteBuffer) {
    body.append("{\"jsonrpc\":\"2.0\",\"id\":")
    if id.isEmpty { body.append("null") } else { body.append(id) }
  }

  /// A text that is a JSON object is the error itself: the framework's own errors are. Others get a code, that of a
  /// missing method for what servers say about one.
  private static func writeJSONRPC2Error(_ text: UnsafeRawBufferPointer, into body: ByteBuffer) {
    if text.first == UInt8(ascii: "{"), text.last == UInt8(ascii: "}"), (try? JSONScanner.validate(text)) != nil {
      body.append(text)
      return
    }
    let isMissing =
      ASCIIText.hasPrefixIgnoringCase(text, "rpc: can't find service ")
      || ASCIIText.hasPrefixIgnoringCase(text, "rpc: can't find method ")
      || ASCIIText.hasPrefixIgnoringCase(text, "rpc: service/method request ill-formed")
      || ASCIIText.hasPrefixIgnoringCase(text, "rpc: service/endpoint request ill-formed")
    body.append(isMissing ? "{\"code\":-32601,\"message\":" : "{\"code\":-32000,\"message\":")
    JSONText.append(text, escaping: .go, into: body)
    body.append("}")
  }

  private static func startMessagePack(_ id: UnsafeRawBufferPointer, into body: ByteBuffer) {
    body.append(0x94 as UInt8)
    body.append(0x01 as UInt8)
    if id.isEmpty { body.append(0x00 as UInt8) } else { body.append(id) }
  }

  private static func bsonHeader(
    _ method: UnsafeRawBufferPointer, _ id: UnsafeRawBufferPointer, error: UnsafeRawBufferPointer?,
    into body: ByteBuffer
  ) {
    let header = BSONWriter.open(body)
    BSONWriter.append(name: "ServiceMethod", string: method, into: body)
    let seq = try? JSONValue(parsing: id)
    if let text = seq?.stringValue {
      let bytes = FixedBytes(text)
      BSONWriter.append(name: "Seq", string: bytes.span, into: body)
    } else {
      let number = seq?.uint64Value ?? seq?.intValue.map { UInt64(bitPattern: Int64($0)) } ?? 0
      BSONWriter.append(name: "Seq", int64: number, into: body)
    }
    BSONWriter.append(
      name: "Error", string: error ?? UnsafeRawBufferPointer(start: nil, count: 0), into: body)
    BSONWriter.close(header, in: body)
  }

  // MARK: Reading replies

  /// Errors: `WireError` for a body that is no reply of `codec`, and for a payload that JSON cannot say.
  static func readReply(_ codec: FrameCodec, _ body: UnsafeRawBufferPointer) throws(WireError) -> PluginReply {
    switch codec {
    case .jsonRPC2: try readJSONRPC2Reply(body)
    case .msgpackRPC: try readMessagePackReply(body)
    case .bsonRPC: try readBSONReply(body)
    case .json, .jsonRPC, .protobuf, .protoRPC, .bytes, .grpcFramed, .grpcFramedJSON, .mercury:
      throw WireError("not a plug-in's envelope")
    }
  }

  private static func readJSONRPC2Reply(_ body: UnsafeRawBufferPointer) throws(WireError) -> PluginReply {
    var scanner = JSONScanner(body)
    var result = 0..<0
    var failure: ByteBuffer?
    try scanner.enterObject()
    while let member = try scanner.nextMember() {
      let kind = scanner.kind(of: member.value)
      if scanner.isKey(member, "result") {
        result = kind == .null ? 0..<0 : member.value
      } else if scanner.isKey(member, "error"), kind != .null {
        failure = try errorText(UnsafeRawBufferPointer(rebasing: body[member.value]), kind)
      }
    }
    try scanner.expectEnd()
    return failure.map { .error($0) } ?? .result(result)
  }

  /// An object with a message is JSON-RPC's and stands for that message; any other is the framework's error itself.
  private static func errorText(_ raw: UnsafeRawBufferPointer, _ kind: JSONKind) throws(WireError) -> ByteBuffer {
    let text = ByteBuffer(capacity: raw.count)
    let value = try JSONValue(parsing: raw)
    if let string = value.stringValue {
      text.append(string)
    } else if kind == .object, let message = value["message"]?.stringValue, value["detail"] == nil {
      text.append(message)
    } else {
      text.append(raw)
    }
    if text.isEmpty { text.append("unknown error") }
    return text
  }

  private static func readMessagePackReply(_ body: UnsafeRawBufferPointer) throws(WireError) -> PluginReply {
    var reader = MessagePackReader(body)
    guard try reader.arrayHeader() == 4, try reader.unsigned() == 1 else {
      throw WireError("msgpackrpc: a reply is [1, id, error, result]")
    }
    _ = try reader.rawScalar()
    let error = try reader.optionalString()
    let payload = ByteBuffer(capacity: body.count)
    try reader.value(into: payload)
    try reader.expectEnd()
    if let error, !error.isEmpty {
      let text = ByteBuffer(capacity: error.count)
      text.append(UnsafeRawBufferPointer(rebasing: body[error]))
      return .error(text)
    }
    return ASCIIText.equals(payload.bytes, "null") ? .result(0..<0) : .translated(payload)
  }

  private static func readBSONReply(_ body: UnsafeRawBufferPointer) throws(WireError) -> PluginReply {
    var reader = BSONReader(body, dialect: .vitess)
    let header = try readBSONHeader(&reader)
    let error = header["Error"]?.stringValue ?? ""
    let payload = ByteBuffer(capacity: body.count)
    if !error.isEmpty {
      // What follows an error is nothing to anyone.
      payload.append(error)
      return .error(payload)
    }
    try reader.document(into: payload)
    try reader.expectEnd()
    return .translated(payload)
  }
}

/// gRPC's frame around one message: a flag, a length, the message (wire/rpc.md §3.6).
enum GRPCFrame {
  /// Bytes of a message; the framework's codec refuses more.
  static let payloadBytesMax = 4 * 1024 * 1024

  /// The message of a body. No frame at all is an empty message, as v2.0 and later send it.
  static func payload(_ body: UnsafeRawBufferPointer) throws(WireError) -> Range<Int> {
    guard !body.isEmpty else { return 0..<0 }
    guard body.count >= 5 else { throw WireError("grpc: a frame is cut short", offset: body.count) }
    guard body[0] == 0 else {
      throw WireError(body[0] == 1 ? "grpc: compressed messages are not taken" : "grpc: there is no such flag")
    }
    let length = Int(UInt32(bigEndian: body.loadUnaligned(fromByteOffset: 1, as: UInt32.self)))
    guard length <= payloadBytesMax else { throw WireError("grpc: the message exceeds 4 MiB", offset: 1, status: 413) }
    guard length == body.count - 5 else { throw WireError("grpc: the length is not that of the message", offset: 1) }
    return 5..<body.count
  }

  static func write(_ payload: UnsafeRawBufferPointer, into buffer: ByteBuffer) {
    buffer.append(0 as UInt8)
    buffer.append(bigEndian: UInt32(truncatingIfNeeded: payload.count))
    buffer.append(payload)
  }
}
