// The client side of a stream over the HTTP transport (client/rpc_stream.go @ v0.14.0 … v4.11.0; wire/rpc.md §2.4).
//
//   opening message (its body is thrown away) ─▶ messages ─▶ end of stream ─▶      each a whole POST with all headers
//                   ◀── messages, paired with nothing ◀── end of stream or error   each a whole 200
//
// A stream has a connection of its own, closed with it. Replies are read by `decodeReply`; there `.endOfStream` is the
// node's end in order. Servers of v0.25 to v1.2 have no such message: they close the connection instead.
//
// A handler that has read our end of stream and returns without an error makes real servers say nothing at all
// (server/rpc_router.go @ v1.9.0 … v4.11.0, `lastStreamResponseError`), and closing our half of the connection would cut
// off the replies under way. `encodeEndProbe` finds out.

/// A stream as it goes to one node.
package struct FrameStream: Sendable {
  /// Unique in this process; sent as `Micro-Id`, `Micro-Stream` and the envelope's number, the same in all messages.
  package var id: UInt64
  package var node: NodeDialect
  package var codec: FrameCodec
  /// What is left of the caller's deadline; nil when it gave none: the header ends the whole stream when it is over.
  package var timeoutNanoseconds: Int64?

  /// `codec` overrides the one that `FrameClient.streamCodec` would choose.
  package init(
    id: UInt64, node: NodeDialect, format: PayloadFormat, codec: FrameCodec? = nil, timeoutNanoseconds: Int64? = nil
  ) {
    self.id = id
    self.node = node
    self.codec = codec ?? FrameClient.streamCodec(for: format, to: node)
    self.timeoutNanoseconds = timeoutNanoseconds
  }

  /// Whether the first message opens the stream: servers throw the opening message's body away except with gRPC's
  /// frames. Then `encodeStreamOpening` must not be sent.
  package var opensWithFirstMessage: Bool { codec.isGRPCFramed }
}

/// How a caller's end is told to the node.
package enum FrameStreamEnd: Equatable, Sendable {
  /// By the message that was written. The connection stays as it is: closing our half would end the replies too.
  case message
  /// By closing our half of the connection after what was sent: no message of this generation means it.
  case closeWrites
}

extension FrameClient {
  /// The codec of a stream's messages. Nodes that route by headers get them bare: v2 and later can overwrite the last
  /// item of an enveloped stream with its end (trap 38).
  package static func streamCodec(for format: PayloadFormat, to node: NodeDialect) -> FrameCodec {
    if let preferred = node.preferred, preferred.codec.format == format { return preferred.codec }
    return switch (format, node.generation) {
    case (.json, .micro): .json
    case (.json, .legacy): .jsonRPC
    case (.protobuf, .micro): .protobuf
    case (.bytes, .micro): .bytes
    // v0.14 has no bytes: there octet-stream is one more name for proto-rpc.
    case (.protobuf, .legacy), (.bytes, .legacy): .protoRPC
    }
  }

  /// Writes the message that opens a stream: an empty one, since its body is thrown away. `routing` is what
  /// `appendRouting` made, `metadata` appends header lines that `Metadata.isForwardable` let through.
  package static func encodeStreamOpening(
    _ stream: FrameStream, host: UnsafeRawBufferPointer, routing: UnsafeRawBufferPointer,
    endpoint: UnsafeRawBufferPointer, into buffer: ByteBuffer, metadata: (ByteBuffer) -> Void = { _ in }
  ) {
    startMessage(stream, host, routing, endpoint, into: buffer)
    metadata(buffer)
    writeBody(
      stream.codec, id: stream.id, endpoint: endpoint, payload: nothing, emptyEnvelope(stream, endpoint), into: buffer)
  }

  /// An empty payload fits every envelope.
  private static func emptyEnvelope(_ stream: FrameStream, _ endpoint: UnsafeRawBufferPointer) -> ByteBuffer? {
    try? envelope(stream.codec, id: stream.id, node: stream.node, endpoint: endpoint, payload: nothing)
  }

  /// Writes one message; `metadata` only matters for the first one of a stream that `opensWithFirstMessage`. Errors:
  /// `WireError` when a payload for JSON-RPC is not JSON; nothing is written then.
  package static func encodeStreamMessage(
    _ stream: FrameStream, host: UnsafeRawBufferPointer, routing: UnsafeRawBufferPointer,
    endpoint: UnsafeRawBufferPointer, payload: UnsafeRawBufferPointer, into buffer: ByteBuffer,
    metadata: (ByteBuffer) -> Void = { _ in }
  ) throws(WireError) {
    let payload = try checked(payload, for: stream.codec)
    let envelope = try envelope(
      stream.codec, id: stream.id, node: stream.node, endpoint: endpoint, payload: payload)
    startMessage(stream, host, routing, endpoint, into: buffer)
    metadata(buffer)
    writeBody(stream.codec, id: stream.id, endpoint: endpoint, payload: payload, envelope, into: buffer)
  }

  /// Writes that no more messages follow, where the node's generation has a message for it.
  package static func encodeEndOfStream(
    _ stream: FrameStream, host: UnsafeRawBufferPointer, routing: UnsafeRawBufferPointer,
    endpoint: UnsafeRawBufferPointer, into buffer: ByteBuffer
  ) -> FrameStreamEnd {
    // v0.14 to v0.21 read it as one more, empty message.
    guard stream.node.generation == .micro else { return .closeWrites }
    startMessage(stream, host, routing, endpoint, into: buffer)
    buffer.append("Micro-Error: EOS\r\nContent-Length: ")
    let end: StaticString = "EOS"
    let text = UnsafeRawBufferPointer(start: end.utf8Start, count: end.utf8CodeUnitCount)
    switch stream.codec {
    case .json, .protobuf, .bytes, .grpcFramed, .grpcFramedJSON, .mercury: buffer.append("0\r\n\r\n")
    case .jsonRPC2, .msgpackRPC, .bsonRPC:
      // Their requests have no place for an error; the header says it.
      let body = emptyEnvelope(stream, endpoint)
      buffer.append(decimal: body?.count ?? 0)
      buffer.append("\r\n\r\n")
      if let body { buffer.append(body.bytes) }
    case .protoRPC:
      buffer.append(
        decimal: ProtoRPCEnvelope.size(methodBytes: endpoint.count, errorBytes: text.count, payloadBytes: 0))
      buffer.append("\r\n\r\n")
      ProtoRPCEnvelope.write(method: endpoint, seq: stream.id, error: text, payload: nothing, into: buffer)
    case .jsonRPC:
      let body = ByteBuffer(capacity: 64)
      let id = ByteBuffer(capacity: 32)
      id.append(UInt8(ascii: "\""))
      id.append(decimal: stream.id)
      id.append(UInt8(ascii: "\""))
      JSONRPCReply.writeFailure(id: id.bytes, text: text, into: body)
      buffer.append(decimal: body.count)
      buffer.append("\r\n\r\n")
      buffer.append(body.bytes)
    }
    return .message
  }

  /// Writes a question whether the node's handler has returned, to be asked after `encodeEndOfStream` has answered
  /// `.message` and the node falls silent: a call, under the stream's name, of an endpoint that does not exist. While the
  /// handler runs, the server puts it to the messages that the handler no longer reads (at most 128 are kept there);
  /// afterwards it is a call of its own, and refused. `isEndProbeAnswer` knows that refusal.
  package static func encodeEndProbe(
    _ stream: FrameStream, host: UnsafeRawBufferPointer, service: UnsafeRawBufferPointer, into buffer: ByteBuffer
  ) {
    let routing = ByteBuffer(capacity: 256)
    let endpoint = UnsafeRawBufferPointer(start: probe.utf8Start, count: probe.utf8CodeUnitCount)
    appendRouting(service: service, endpoint: endpoint, from: nothing, into: routing)
    startMessage(stream, host, routing.bytes, endpoint, into: buffer)
    writeBody(
      stream.codec, id: stream.id, endpoint: endpoint, payload: nothing, emptyEnvelope(stream, endpoint), into: buffer)
  }

  /// Whether a failed reply of a stream means that its handler had returned in order: `rpc: can't find service …` about
  /// the probe's own endpoint.
  package static func isEndProbeAnswer(_ error: SidecarError) -> Bool {
    error.kind == .endpointNotFound && error.detail.contains("MicroSidecar")
  }

  private static let probe: StaticString = "MicroSidecar.HasEnded"

  private static func startMessage(
    _ stream: FrameStream, _ host: UnsafeRawBufferPointer, _ routing: UnsafeRawBufferPointer,
    _ endpoint: UnsafeRawBufferPointer, into buffer: ByteBuffer
  ) {
    buffer.append("POST / HTTP/1.1\r\n")
    HTTP1Writer.field("Host", host, to: buffer)
    typeFields(stream.codec, stream.node, endpoint: endpoint, into: buffer)
    if let timeout = stream.timeoutNanoseconds {
      buffer.append("Timeout: ")
      buffer.append(decimal: UInt64(max(timeout, 1)))
      buffer.append("\r\n")
    }
    buffer.append(routing)
    idFields(stream.id, stream.node, buffer)
  }

  static var nothing: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }
}
