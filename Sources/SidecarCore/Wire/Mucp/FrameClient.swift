// The client side of the framework's dialects over the HTTP transport: a request that servers of every generation
// understand, and the reading of whatever they answer (client/rpc_client.go, client/rpc_codec.go @ v0.14.0 … v6.10.0).
//
// One connection carries one call at a time. After any `.failed` it must be closed: servers of 0.20 to 1.10 repeat an
// error's header on every later reply of its connection, and go-micro's own clients close too.

/// A call as it goes to one node.
package struct FrameCall: Sendable {
  /// Unique in this process; sent as `Micro-Id` and as the envelope's number. Never used to match replies.
  package var id: UInt64
  package var node: NodeDialect
  /// Overrides the codec that `FrameClient.codec` would choose.
  package var codec: FrameCodec?
  package var format: PayloadFormat
  /// What is left of the call's time; sent as at least 1.
  package var timeoutNanoseconds: Int64

  package init(
    id: UInt64, node: NodeDialect, format: PayloadFormat, codec: FrameCodec? = nil, timeoutNanoseconds: Int64
  ) {
    self.id = id
    self.node = node
    self.format = format
    self.codec = codec
    self.timeoutNanoseconds = timeoutNanoseconds
  }
}

/// What a node answered. No header of the reply is part of it: servers copy the first request's headers of a connection
/// into every reply, so that whatever a header says may be another caller's (trap 9).
package enum FrameReply: Equatable {
  /// A range of the body, and what it is.
  case payload(Range<Int>, PayloadFormat)
  /// JSON that was something else in the body.
  case translated(TranslatedPayload)
  /// A stream's server has said its last; no reply to a unary call is one.
  case endOfStream
  case failed(SidecarError)
}

/// A payload in bytes of its own.
package struct TranslatedPayload: Equatable {
  let buffer: ByteBuffer
  /// Valid as long as this value lives.
  package var bytes: UnsafeRawBufferPointer { buffer.bytes }
  package static func == (left: TranslatedPayload, right: TranslatedPayload) -> Bool {
    ASCIIText.equals(left.buffer.bytes, right.buffer.bytes)
  }
}

package enum FrameClient {
  // MARK: Requests

  /// The codec a payload travels in. Protobuf always goes in the proto-rpc envelope: every generation reads it, and
  /// errors arrive from all of them (trap 14). JSON goes bare to servers that route by headers, else as JSON-RPC.
  package static func codec(for format: PayloadFormat, to node: NodeDialect) -> FrameCodec {
    if let preferred = node.preferred, preferred.codec.format == format { return preferred.codec }
    return switch format {
    case .json: node.generation == .micro ? .json : .jsonRPC
    case .protobuf: .protoRPC
    // v0.14 has no bytes: there octet-stream is one more name for proto-rpc.
    case .bytes: node.generation == .micro ? .bytes : .protoRPC
    }
  }

  /// The name a codec goes by in both of a server's tables; bare JSON, protobuf and bytes have theirs in the new table
  /// only, which the routing headers choose.
  static func contentType(_ codec: FrameCodec) -> StaticString {
    switch codec {
    case .json: "application/json"
    case .jsonRPC: "application/json-rpc"
    case .protobuf: "application/protobuf"
    case .protoRPC: "application/proto-rpc"
    case .bytes: "application/octet-stream"
    case .grpcFramed: "application/grpc"
    case .grpcFramedJSON: "application/grpc+json"
    case .jsonRPC2: "application/json-rpc2"
    case .msgpackRPC: "application/msgpack"
    case .bsonRPC: "application/bson"
    case .mercury: "application/mercury"
    }
  }

  /// Writes `Accept` and `Content-Type`: the name that the node has for the codec, and what else the codec needs.
  @inline(__always)
  static func typeFields(
    _ codec: FrameCodec, _ node: NodeDialect, endpoint: UnsafeRawBufferPointer, into buffer: ByteBuffer
  ) {
    if let preferred = node.preferred, preferred.codec == codec {
      HTTP1Writer.field("Accept", preferred.contentType, to: buffer)
      HTTP1Writer.field("Content-Type", preferred.contentType, to: buffer)
    } else {
      let type = contentType(codec)
      HTTP1Writer.field("Accept", type, to: buffer)
      HTTP1Writer.field("Content-Type", type, to: buffer)
    }
    if codec == .mercury {
      buffer.append("Content-Encoding: request\r\n")
      HTTP1Writer.field("Endpoint", endpoint, to: buffer)
    } else if codec.isGRPCFramed {
      buffer.append("Te: trailers\r\n")
    }
  }

  /// The header lines that name service, endpoint and caller, in every generation's spelling: the same for all calls of
  /// a route, so they are put together once. v0.17 reads X-Micro-Service and -Method, v0.20 -Endpoint and
  /// -Id, v0.23 the bare names, v1.18 and later only those.
  package static func appendRouting(
    service: UnsafeRawBufferPointer, endpoint: UnsafeRawBufferPointer, from caller: UnsafeRawBufferPointer,
    into buffer: ByteBuffer
  ) {
    HTTP1Writer.field("Micro-Service", service, to: buffer)
    HTTP1Writer.field("Micro-Method", endpoint, to: buffer)
    HTTP1Writer.field("Micro-Endpoint", endpoint, to: buffer)
    HTTP1Writer.field("X-Micro-Service", service, to: buffer)
    HTTP1Writer.field("X-Micro-Method", endpoint, to: buffer)
    HTTP1Writer.field("X-Micro-Endpoint", endpoint, to: buffer)
    if !caller.isEmpty {
      HTTP1Writer.field("Micro-From-Service", caller, to: buffer)
      HTTP1Writer.field("X-Micro-From-Service", caller, to: buffer)
    }
  }

  /// Writes a whole HTTP request. `metadata` appends header lines that `Metadata.isForwardable` let through. Errors:
  /// `WireError` when a payload for JSON-RPC is not JSON; nothing is written then. Returns the codec to decode the
  /// reply with.
  package static func encodeRequest(
    _ call: FrameCall, host: UnsafeRawBufferPointer, service: UnsafeRawBufferPointer,
    endpoint: UnsafeRawBufferPointer,
    from caller: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0),
    payload: UnsafeRawBufferPointer, into buffer: ByteBuffer, metadata: (ByteBuffer) -> Void = { _ in }
  ) throws(WireError) -> FrameCodec {
    let routing = ByteBuffer(capacity: 512)
    appendRouting(service: service, endpoint: endpoint, from: caller, into: routing)
    return try encodeRequest(
      call, host: host, routing: routing.bytes, endpoint: endpoint, payload: payload, into: buffer, metadata: metadata)
  }

  /// The same with `routing` as `appendRouting` made it.
  @inline(__always)
  package static func encodeRequest(
    _ call: FrameCall, host: UnsafeRawBufferPointer, routing: UnsafeRawBufferPointer,
    endpoint: UnsafeRawBufferPointer, payload: UnsafeRawBufferPointer, into buffer: ByteBuffer,
    metadata: (ByteBuffer) -> Void
  ) throws(WireError) -> FrameCodec {
    let codec = call.codec ?? Self.codec(for: call.format, to: call.node)
    let payload = try checked(payload, for: codec)
    let envelope = try envelope(codec, id: call.id, node: call.node, endpoint: endpoint, payload: payload)
    buffer.reserve(payload.count + 768)
    buffer.append("POST / HTTP/1.1\r\n")
    HTTP1Writer.field("Host", host, to: buffer)
    typeFields(codec, call.node, endpoint: endpoint, into: buffer)
    buffer.append("Timeout: ")
    buffer.append(decimal: UInt64(max(call.timeoutNanoseconds, 1)))
    buffer.append("\r\n")
    buffer.append(routing)
    idFields(call.id, call.node, buffer)
    metadata(buffer)
    writeBody(codec, id: call.id, endpoint: endpoint, payload: payload, envelope, into: buffer)
    return codec
  }

  /// The payload as it can stand in the codec's envelope.
  @inline(__always)
  static func checked(
    _ payload: UnsafeRawBufferPointer, for codec: FrameCodec
  ) throws(WireError) -> UnsafeRawBufferPointer {
    guard codec == .jsonRPC, !payload.isEmpty else { return payload }
    return UnsafeRawBufferPointer(rebasing: payload[try JSONScanner.validate(payload)])
  }

  /// A plug-in's envelope, which can fail to hold a payload; nil for the other codecs.
  @inline(__always)
  static func envelope(
    _ codec: FrameCodec, id: UInt64, node: NodeDialect, endpoint: UnsafeRawBufferPointer,
    payload: UnsafeRawBufferPointer
  ) throws(WireError) -> ByteBuffer? {
    if codec.isGRPCFramed, payload.count > GRPCFrame.payloadBytesMax {
      throw WireError("grpc: the message exceeds 4 MiB", status: 413)
    }
    guard codec.isPluginEnvelope else { return nil }
    return try PluginEnvelope.request(
      codec, method: endpoint, id: id, generation: node.generation, payload: payload)
  }

  /// The last header line, the end of the head and the body.
  @inline(__always)
  static func writeBody(
    _ codec: FrameCodec, id: UInt64, endpoint: UnsafeRawBufferPointer, payload: UnsafeRawBufferPointer,
    _ envelope: ByteBuffer?, into buffer: ByteBuffer
  ) {
    buffer.append("Content-Length: ")
    switch codec {
    case .jsonRPC2, .msgpackRPC, .bsonRPC:
      buffer.append(decimal: envelope?.count ?? 0)
      buffer.append("\r\n\r\n")
      if let envelope { buffer.append(envelope.bytes) }
    case .grpcFramed, .grpcFramedJSON:
      buffer.append(decimal: payload.count + 5)
      buffer.append("\r\n\r\n")
      GRPCFrame.write(payload, into: buffer)
    case .json:
      // Some servers decode an empty body as an error rather than as a zero message.
      let endsLine = !payload.isEmpty && payload[payload.count - 1] == UInt8(ascii: "\n")
      buffer.append(decimal: payload.isEmpty ? 3 : payload.count + (endsLine ? 0 : 1))
      buffer.append("\r\n\r\n")
      if payload.isEmpty { buffer.append("{}") } else { buffer.append(payload) }
      if !endsLine { buffer.append(UInt8(ascii: "\n")) }
    case .protobuf, .bytes, .mercury:
      buffer.append(decimal: payload.count)
      buffer.append("\r\n\r\n")
      buffer.append(payload)
    case .protoRPC:
      buffer.append(
        decimal: ProtoRPCEnvelope.size(methodBytes: endpoint.count, errorBytes: nil, payloadBytes: payload.count))
      buffer.append("\r\n\r\n")
      ProtoRPCEnvelope.write(method: endpoint, seq: id, error: nil, payload: payload, into: buffer)
    case .jsonRPC:
      // The method may need escapes, so the length is known only afterwards.
      let body = ByteBuffer(capacity: payload.count + endpoint.count + 64)
      JSONRPCRequest.write(method: endpoint, argument: payload, id: id, into: body)
      buffer.append(decimal: body.count)
      buffer.append("\r\n\r\n")
      buffer.append(body.bytes)
    }
  }

  static func idFields(_ id: UInt64, _ node: NodeDialect, _ buffer: ByteBuffer) {
    buffer.append("Micro-Id: ")
    buffer.append(decimal: id)
    buffer.append("\r\nX-Micro-Id: ")
    buffer.append(decimal: id)
    if node.generation == .micro {
      // A stream's messages belong together by it. Of unary calls v4.10 and later lose about one in 15,000 sequential
      // ones of a connection without it (trap 37).
      buffer.append("\r\nMicro-Stream: ")
      buffer.append(decimal: id)
    }
    buffer.append("\r\n")
  }

  // MARK: Replies

  /// Bytes of a body that is quoted in an error.
  private static let quotedBytesMax = 1024

  /// Reads a whole reply to a request that was sent with `codec`. The reply's own content type is not believed, since
  /// it may be an echo; only `text/plain`, which no codec has, means a refusal.
  package static func decodeReply(head: HTTP1Head, body: UnsafeRawBufferPointer, codec: FrameCodec) -> FrameReply {
    if head.status != 200 { return .failed(badStatus(head.status, body)) }
    if let type = head.first(.contentType), ASCIIText.hasPrefixIgnoringCase(type, "text/plain") {
      return .failed(refusal(body))
    }
    // An envelope's own error counts more than the headers: those may be an older reply's.
    do throws(WireError) {
      switch codec {
      case .protoRPC where !body.isEmpty:
        let envelope = try ProtoRPCEnvelope(parsing: body)
        if !envelope.error.isEmpty { return failure(UnsafeRawBufferPointer(rebasing: body[envelope.error])) }
        return headerError(head) ?? .payload(envelope.payload, .protobuf)
      case .jsonRPC where !body.isEmpty:
        let envelope = try JSONRPCReply(parsing: body)
        if !envelope.error.isEmpty {
          let text = ByteBuffer(capacity: envelope.error.count)
          envelope.writeErrorText(of: body, into: text)
          return failure(text.bytes)
        }
        return headerError(head) ?? .payload(envelope.result, .json)
      case .jsonRPC2 where !body.isEmpty, .msgpackRPC where !body.isEmpty, .bsonRPC where !body.isEmpty:
        switch try PluginEnvelope.readReply(codec, body) {
        case .error(let text): return failure(text.bytes)
        case .result(let range): return headerError(head) ?? .payload(range, .json)
        case .translated(let json): return headerError(head) ?? .translated(TranslatedPayload(buffer: json))
        }
      case .protoRPC, .jsonRPC, .jsonRPC2, .msgpackRPC, .bsonRPC:
        return headerError(head)
          ?? .failed(SidecarError(.badUpstreamReply, "the reply has no envelope: its body is empty"))
      case .json: return headerError(head) ?? .payload(withoutLineEnd(body), .json)
      case .protobuf, .bytes, .mercury: return headerError(head) ?? .payload(0..<body.count, codec.format)
      case .grpcFramed, .grpcFramedJSON:
        if let error = headerError(head) ?? statusError(head) { return error }
        return .payload(try GRPCFrame.payload(body), codec.format)
      }
    } catch {
      return headerError(head) ?? .failed(SidecarError(error, kind: .badUpstreamReply))
    }
  }

  private static func headerError(_ head: HTTP1Head) -> FrameReply? {
    for name in [HeaderID.microError, .xMicroError] {
      if let text = head.first(name), !text.isEmpty { return failure(text) }
    }
    return nil
  }

  /// gRPC's own status, of servers whose reply has no `Micro-Error`. It is no leftover of another call: servers that
  /// repeat headers write this one anew each time.
  private static func statusError(_ head: HTTP1Head) -> FrameReply? {
    guard let status = head.first("Grpc-Status"), !status.isEmpty, !ASCIIText.equals(status, "0") else { return nil }
    guard let text = head.first("Grpc-Message"), !text.isEmpty else {
      return .failed(
        SidecarError(.upstreamError, "grpc-status \(String(decoding: status.prefix(10), as: UTF8.self))"))
    }
    return failure(text)
  }

  private static func failure(_ text: UnsafeRawBufferPointer) -> FrameReply {
    ASCIIText.equals(text, "EOS") ? .endOfStream : .failed(SidecarError(upstreamText: text))
  }

  private static func withoutLineEnd(_ body: UnsafeRawBufferPointer) -> Range<Int> {
    var end = body.count
    while end > 0, body[end - 1] == UInt8(ascii: "\n") || body[end - 1] == UInt8(ascii: "\r") { end -= 1 }
    return 0..<end
  }

  private static func quote(_ body: UnsafeRawBufferPointer) -> String {
    String(decoding: UnsafeRawBufferPointer(rebasing: body.prefix(quotedBytesMax)), as: UTF8.self)
  }

  /// Go's client prints the status line and the body.
  private static func badStatus(_ status: Int, _ body: UnsafeRawBufferPointer) -> SidecarError {
    let reason = HTTP1Status.reason(status).map { " \($0)" } ?? ""
    return SidecarError(.badUpstreamReply, "\(status)\(reason): \(quote(body))", id: "go.micro.client.transport")
  }

  /// `Unsupported Content-Type: …`: the node has no such codec, so nothing ran there.
  private static func refusal(_ body: UnsafeRawBufferPointer) -> SidecarError {
    SidecarError(.unsupportedNodeDialect, quote(body), id: "go.micro.client.codec", origin: .upstream)
  }
}
