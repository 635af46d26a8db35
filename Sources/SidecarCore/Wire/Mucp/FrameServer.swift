// The server side of the framework's dialects over the HTTP transport: requests in, replies out, sans-IO
// (server/rpc_codec.go, server/rpc_server.go, server/rpc_router.go @ v0.14.0, v0.23.0, v1.18.0, v4.11.0).
//
// Beyond what those do: errors are sent in the envelope *and* in both headers, whatever the codec, so that every
// generation of client finds them; ids are echoed as they came; `X-Micro-*` alone is enough (v1.18 and later fail on
// it, trap 13).

package enum FrameServer {
  // MARK: Requests

  /// Decodes a whole request. `notes` belongs to the exchange and is appended to; ranges of the result point into it
  /// and must be resolved through it. `codecs` says what content types mean that are not built in.
  package static func decodeRequest(
    head: HTTP1Head, body: UnsafeRawBufferPointer, notes: ByteBuffer, codecs: FrameCodecTable = .standard
  ) throws(FrameRefusal) -> FrameRequest {
    var request = FrameRequest()
    var routing: RoutingHeaders = []
    let service = find(head, .microService, .xMicroService, &routing, .service)
    let method = find(head, .microMethod, .xMicroMethod, &routing, .method)
    let endpoint = find(head, .microEndpoint, .xMicroEndpoint, &routing, .endpoint)
    _ = find(head, .microProtocol, .xMicroProtocol, &routing, .protocol)
    let target = find(head, .microTarget, .xMicroTarget, &routing, .target)
    let topic = find(head, .microTopic, .xMicroTopic, &routing, .topic)

    request.dialect = dialect(head, routing)
    request.timeoutNanoseconds = head.first(.timeout).flatMap(parseTimeout)
    // v0.16 calls the service its target. A v0.14 caller can say it too, as metadata: it leaves the legacy codecs in use.
    if let service = service ?? target { request.service = note(service, notes) }
    if let id = nonEmpty(head.first(.microID)) ?? nonEmpty(head.first(.xMicroID)) { request.id = note(id, notes) }
    if let stream = nonEmpty(head.first(.microStream)) ?? nonEmpty(head.first(.xMicroStream)) {
      request.stream = note(stream, notes)
    }

    let typeName = head.first(.contentType)
    let contentType: FrameContentType
    if let known = FrameContentType(typeName) {
      contentType = known
    } else if let typeName, let codec = codecs.codec(typeName) {
      contentType = .plugin
      request.codec = codec
      request.pluginType = note(typeName, notes)
    } else {
      throw unsupported(typeName, request)
    }
    request.contentType = contentType

    // An event over this transport has a topic and no endpoint. With one it is a call whose caller forwards the topic
    // of an event it is handling, as 1.x does (trap 11). Events have no envelope, and whatever is not JSON is protobuf,
    // also under the names of gRPC and of bytes (trap 31).
    if let topic, method == nil, endpoint == nil {
      guard let codec = contentType.codec else { throw unsupported(typeName, request) }
      request.kind = .event
      request.topic = note(topic, notes)
      request.payload = 0..<body.count
      request.codec = codec.format == .json ? .json : .protobuf
      request.notesEnd = notes.count
      return request
    }

    if let codec = routing.codec(for: contentType) { request.codec = codec }
    if let routed = endpoint ?? method {
      request.endpoint = note(routed, notes)
    } else if request.codec == .mercury, let routed = nonEmpty(head.first("Endpoint")) {
      request.endpoint = note(routed, notes)
      if let service = nonEmpty(head.first("Service")) { request.service = note(service, notes) }
    }
    try unpack(body, &request, notes)

    // Without a body or a stream's id it is a leak: nested calls forward what they were sent (trap 9).
    if !request.stream.isEmpty, body.isEmpty,
      let error = nonEmpty(head.first(.microError)) ?? nonEmpty(head.first(.xMicroError)),
      ASCIIText.equals(error, "EOS")
    {
      request.kind = .endOfStream
    }
    if request.kind == .call { try checkEndpoint(&request, notes) }
    request.notesEnd = notes.count
    return request
  }

  static func unpack(
    _ body: UnsafeRawBufferPointer, _ request: inout FrameRequest, _ notes: ByteBuffer
  ) throws(FrameRefusal) {
    do throws(WireError) {
      switch request.codec {
      case .json, .protobuf, .bytes, .mercury: request.payload = 0..<body.count
      case .grpcFramed, .grpcFramedJSON: request.payload = try GRPCFrame.payload(body)
      case .jsonRPC2, .msgpackRPC, .bsonRPC:
        let envelope = try PluginEnvelope.readRequest(request.codec, body, notes: notes)
        request.payload = envelope.payload
        request.payloadIsInNotes = envelope.isTranslated
        request.rawJSONID = envelope.id
        if request.endpoint.isEmpty { request.endpoint = envelope.method }
      case .protoRPC:
        let envelope = try ProtoRPCEnvelope(parsing: body)
        request.seq = envelope.seq
        request.payload = envelope.payload
        if request.endpoint.isEmpty {
          request.endpoint = note(UnsafeRawBufferPointer(rebasing: body[envelope.method]), notes)
        }
        if ASCIIText.equals(UnsafeRawBufferPointer(rebasing: body[envelope.error]), "EOS") {
          request.kind = .endOfStream
        }
      case .jsonRPC:
        let envelope = try JSONRPCRequest(parsing: body)
        request.payload = envelope.argument
        request.rawJSONID = note(UnsafeRawBufferPointer(rebasing: body[envelope.id]), notes)
        if request.endpoint.isEmpty {
          if envelope.methodIsEscaped {
            let start = notes.count
            JSONText.unescape(body, envelope.method, into: notes)
            request.endpoint = start..<notes.count
          } else {
            request.endpoint = note(UnsafeRawBufferPointer(rebasing: body[envelope.method]), notes)
          }
        }
        if envelope.isEndOfStream { request.kind = .endOfStream }
      }
    } catch {
      let isLegacy = request.dialect == .legacy
      throw FrameRefusal(
        reason: .malformed,
        text: isLegacy ? "rpc: server cannot decode request: \(error)" : "rpc: router cannot decode request: \(error)",
        request: request, closes: isLegacy)
    }
  }

  /// The header under its own name, else under the `X-` one; an empty value is none.
  @inline(__always) private static func find(
    _ head: HTTP1Head, _ name: HeaderID, _ prefixed: HeaderID, _ routing: inout RoutingHeaders,
    _ mark: RoutingHeaders
  ) -> UnsafeRawBufferPointer? {
    guard let value = nonEmpty(head.first(name)) ?? nonEmpty(head.first(prefixed)) else { return nil }
    routing.insert(mark)
    return value
  }

  @inline(__always) private static func nonEmpty(_ value: UnsafeRawBufferPointer?) -> UnsafeRawBufferPointer? {
    guard let value, !value.isEmpty else { return nil }
    return value
  }

  private static func dialect(_ head: HTTP1Head, _ routing: RoutingHeaders) -> FrameDialect {
    if routing.isEmpty { return .legacy }
    let hasOwnNames =
      head.has(.microService) || head.has(.microMethod) || head.has(.microEndpoint) || head.has(.microTopic)
      || head.has(.microTarget) || head.has(.microProtocol)
    return hasOwnNames ? .micro : .xMicro
  }

  @inline(__always) private static func note(_ bytes: UnsafeRawBufferPointer, _ notes: ByteBuffer) -> Range<Int> {
    let start = notes.count
    notes.append(bytes)
    return start..<notes.count
  }

  /// Unsigned decimal nanoseconds (trap 3); what is no number is no timeout, what is too large is the largest.
  static func parseTimeout(_ text: UnsafeRawBufferPointer) -> Int64? {
    guard !text.isEmpty else { return nil }
    var value: Int64 = 0
    for byte in text {
      let digit = byte &- UInt8(ascii: "0")
      guard digit < 10 else { return nil }
      value = min(value &* 10 &+ Int64(digit), FrameRequest.timeoutNanosecondsMax)
    }
    return value
  }

  /// Exactly one dot with something on both sides, and nothing that could not stand in a header line or a path.
  private static func checkEndpoint(_ request: inout FrameRequest, _ notes: ByteBuffer) throws(FrameRefusal) {
    let bytes = notes.bytes(request.endpoint)
    var dots = 0
    var isWellFormed = bytes.count <= FrameRequest.endpointBytesMax && UTF8Check.isValid(bytes)
    for byte in bytes {
      if byte == UInt8(ascii: ".") { dots += 1 }
      if byte <= 0x20 || byte == 0x7F { isWellFormed = false }
    }
    if isWellFormed, dots == 1, bytes.first != UInt8(ascii: "."), bytes.last != UInt8(ascii: ".") { return }
    let shown = String(decoding: UnsafeRawBufferPointer(rebasing: bytes.prefix(256)), as: UTF8.self)
    let words = request.dialect == .legacy ? "service/method" : "service/endpoint"
    request.endpoint = 0..<0
    throw FrameRefusal(
      reason: .malformed, text: "rpc: \(words) request ill-formed: \(shown)", request: request, closes: false)
  }

  private static func unsupported(_ typeName: UnsafeRawBufferPointer?, _ request: FrameRequest) -> FrameRefusal {
    let shown = typeName.map { UnsafeRawBufferPointer(rebasing: $0.prefix(256)) }
    return FrameRefusal(
      reason: .unsupportedContentType,
      text: "Unsupported Content-Type: "
        + String(decoding: shown ?? UnsafeRawBufferPointer(start: nil, count: 0), as: UTF8.self),
      request: request, closes: false)
  }

  // MARK: Replies

  /// Bytes of an error's text in each of the two headers that carry it; the rest is cut off there. The envelope, where
  /// there is one, carries it whole.
  package static let errorHeaderBytesMax = 16 * 1024

  /// Writes a whole HTTP response that carries `payload`, which must be in the request's format. `extraFields` are
  /// complete header lines. Errors: `WireError` when the payload of a JSON-RPC reply is not JSON: it would break out of
  /// its envelope. Nothing is written then. For an event the payload is left out.
  package static func encodeReply(
    to request: FrameRequest, notes: ByteBuffer, payload: UnsafeRawBufferPointer,
    extraFields: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0), into buffer: ByteBuffer
  ) throws(WireError) {
    if request.kind == .event {
      startReply(to: request, notes: notes, bodyBytes: 0, extraFields, into: buffer)
      buffer.append("\r\n")
      return
    }
    var payload = payload
    if request.codec == .jsonRPC, !payload.isEmpty {
      payload = UnsafeRawBufferPointer(rebasing: payload[try JSONScanner.validate(payload)])
    }
    let start = buffer.count
    let packed =
      request.codec.isPluginEnvelope
      ? try PluginEnvelope.reply(
        request.codec, method: notes.bytes(request.endpoint), id: notes.bytes(request.rawJSONID), payload: payload)
      : nil
    buffer.reserve(payload.count + 256)
    switch request.codec {
    case .jsonRPC2, .msgpackRPC, .bsonRPC:
      startReply(to: request, notes: notes, bodyBytes: packed?.count ?? 0, extraFields, into: buffer)
      buffer.append("\r\n")
      if let packed { buffer.append(packed.bytes) }
    case .grpcFramed, .grpcFramedJSON:
      startReply(to: request, notes: notes, bodyBytes: payload.count + 5, extraFields, into: buffer)
      buffer.append("Grpc-Status: 0\r\n\r\n")
      GRPCFrame.write(payload, into: buffer)
    case .mercury:
      startReply(to: request, notes: notes, bodyBytes: payload.count, extraFields, into: buffer)
      buffer.append("Content-Encoding: response\r\n")
      HTTP1Writer.field("Endpoint", notes.bytes(request.endpoint), to: buffer)
      buffer.append("\r\n")
      buffer.append(payload)
    case .json:
      // One document and a line end, as encoding/json's encoder writes it; an empty message stays empty.
      let endsLine = payload.isEmpty || payload[payload.count - 1] == UInt8(ascii: "\n")
      startReply(to: request, notes: notes, bodyBytes: payload.count + (endsLine ? 0 : 1), extraFields, into: buffer)
      buffer.append("\r\n")
      buffer.append(payload)
      if !endsLine { buffer.append(UInt8(ascii: "\n")) }
    case .protobuf, .bytes:
      startReply(to: request, notes: notes, bodyBytes: payload.count, extraFields, into: buffer)
      buffer.append("\r\n")
      buffer.append(payload)
    case .protoRPC:
      let size = ProtoRPCEnvelope.size(
        methodBytes: request.endpoint.count, errorBytes: 0, payloadBytes: payload.count)
      startReply(to: request, notes: notes, bodyBytes: size, extraFields, into: buffer)
      buffer.append("\r\n")
      ProtoRPCEnvelope.write(
        method: notes.bytes(request.endpoint), seq: request.seq, error: empty, payload: payload, into: buffer)
    case .jsonRPC:
      let result = payload.isEmpty || ASCIIText.equals(payload, "null") ? 2 : payload.count
      let idBytes = request.rawJSONID.isEmpty ? 4 : request.rawJSONID.count
      startReply(
        to: request, notes: notes, bodyBytes: jsonRPCFrameBytes + idBytes + result, extraFields, into: buffer)
      buffer.append("\r\n")
      let bodyStart = buffer.count
      JSONRPCReply.write(id: notes.bytes(request.rawJSONID), result: payload, into: buffer)
      assert(
        buffer.count - bodyStart == jsonRPCFrameBytes + idBytes + result, "the length announced is the length sent")
    }
    assert(buffer.count > start)
  }

  /// Bytes of `{"id":,"result":,"error":null}` and a line end.
  private static let jsonRPCFrameBytes = 31

  /// Writes a whole HTTP response that says the call failed: in `Micro-Error` and `X-Micro-Error`, and in the envelope
  /// where there is one. `text` is the framework's error JSON or a plain text; a blank one is sent as `unknown error`.
  package static func encodeReplyError(
    to request: FrameRequest, notes: ByteBuffer, text: UnsafeRawBufferPointer,
    extraFields: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0), into buffer: ByteBuffer
  ) {
    // A client takes an empty error for success, and a header line can only carry what is visible.
    guard text.contains(where: { $0 > 0x20 && $0 != 0x7F }) else {
      let unknown: StaticString = "unknown error"
      return encodeReplyError(
        to: request, notes: notes,
        text: UnsafeRawBufferPointer(start: unknown.utf8Start, count: unknown.utf8CodeUnitCount),
        extraFields: extraFields, into: buffer)
    }
    let body: ByteBuffer?
    switch request.codec {
    case .json, .protobuf, .bytes, .grpcFramed, .grpcFramedJSON, .mercury: body = nil
    case .jsonRPC2, .msgpackRPC, .bsonRPC:
      body = PluginEnvelope.failure(
        request.codec, method: notes.bytes(request.endpoint), id: notes.bytes(request.rawJSONID), text: text)
    case .protoRPC:
      let envelope = ByteBuffer(capacity: text.count + request.endpoint.count + 64)
      ProtoRPCEnvelope.write(
        method: notes.bytes(request.endpoint), seq: request.seq, error: text, payload: empty, into: envelope)
      body = envelope
    case .jsonRPC:
      let envelope = ByteBuffer(capacity: text.count * 2 + 128)
      JSONRPCReply.writeFailure(id: notes.bytes(request.rawJSONID), text: text, into: envelope)
      body = envelope
    }
    startReply(to: request, notes: notes, bodyBytes: body?.count ?? 0, extraFields, into: buffer)
    let line = UnsafeRawBufferPointer(rebasing: text.prefix(errorHeaderBytesMax))
    HTTP1Writer.field("Micro-Error", line, to: buffer)
    HTTP1Writer.field("X-Micro-Error", line, to: buffer)
    if request.codec.isGRPCFramed {
      // The end of a stream is no error there (codec/grpc @ v1.18.0).
      if ASCIIText.equals(line, "EOS") {
        buffer.append("Grpc-Status: 0\r\n")
      } else {
        buffer.append("Grpc-Status: 13\r\n")
        HTTP1Writer.field("Grpc-Message", line, to: buffer)
      }
    }
    buffer.append("\r\n")
    if let body { buffer.append(body.bytes) }
  }

  package static func encodeReplyError(
    to request: FrameRequest, notes: ByteBuffer, error: SidecarError,
    extraFields: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0), into buffer: ByteBuffer
  ) {
    let text = ByteBuffer()
    error.writeFrameText(into: text)
    guard error.retryAfter != nil || error.isUnbegun else {
      return encodeReplyError(to: request, notes: notes, text: text.bytes, extraFields: extraFields, into: buffer)
    }
    // Headers that the framework's clients pass over.
    let fields = ByteBuffer(capacity: 128)
    fields.append(extraFields)
    if let seconds = error.retryAfterSeconds { HTTP1Writer.field("Retry-After", decimal: seconds, to: fields) }
    if error.isUnbegun { fields.append("X-Micro-Unbegun: 1\r\n") }
    encodeReplyError(to: request, notes: notes, text: text.bytes, extraFields: fields.bytes, into: buffer)
  }

  /// Writes the answer to a request that was not decoded.
  package static func encodeRefusal(_ refusal: FrameRefusal, notes: ByteBuffer, into buffer: ByteBuffer) {
    var text = refusal.text
    text.withUTF8 { text in
      let text = UnsafeRawBufferPointer(text)
      switch refusal.reason {
      case .malformed:
        encodeReplyError(
          to: refusal.request, notes: notes, text: text,
          extraFields: refusal.closes ? closeField : UnsafeRawBufferPointer(start: nil, count: 0), into: buffer)
      case .unsupportedContentType:
        buffer.append("HTTP/1.1 200 OK\r\n")
        HTTP1Writer.contentLength(text.count, to: buffer)
        buffer.append("Content-Type: text/plain\r\n\r\n")
        buffer.append(text)
      }
    }
  }

  /// The head but for its closing empty line.
  private static func startReply(
    to request: FrameRequest, notes: ByteBuffer, bodyBytes: Int, _ extraFields: UnsafeRawBufferPointer,
    into buffer: ByteBuffer
  ) {
    buffer.append("HTTP/1.1 200 OK\r\nContent-Length: ")
    buffer.append(decimal: bodyBytes)
    buffer.append("\r\nContent-Type: ")
    if request.contentType == .plugin {
      buffer.append(notes.bytes(request.pluginType))
    } else {
      buffer.append(request.contentType.name)
    }
    if !request.id.isEmpty {
      buffer.append("\r\nMicro-Id: ")
      buffer.append(notes.bytes(request.id))
      buffer.append("\r\nX-Micro-Id: ")
      buffer.append(notes.bytes(request.id))
    }
    buffer.append("\r\n")
    buffer.append(extraFields)
  }

  private static var empty: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }
  static var closeField: UnsafeRawBufferPointer {
    let line: StaticString = "Connection: close\r\n"
    return UnsafeRawBufferPointer(start: line.utf8Start, count: line.utf8CodeUnitCount)
  }
}
