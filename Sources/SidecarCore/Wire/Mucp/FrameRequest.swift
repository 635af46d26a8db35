// What a framework caller sent over the HTTP transport, whatever its generation.

/// By which names a caller routes.
package enum FrameDialect: UInt8, CaseIterable, Sendable {
  /// By the envelope alone: v0.14, and hand-written JSON-RPC of its time.
  case legacy
  /// By `X-Micro-*` headers only: v0.16 to v0.22.
  case xMicro
  /// By `Micro-*` headers: v0.23 to today.
  case micro
}

/// What a request asks for.
package enum FrameKind: UInt8, CaseIterable, Sendable {
  case call
  /// A message for the subscribers of `FrameRequest.topic`, answered with an empty 200.
  case event
  /// A stream's client has said its last.
  case endOfStream
}

/// One decoded request. The payload is a range of the body; all else that is needed, up to and including the reply, is
/// a range of the *notes*: a buffer of the exchange into which the decoder copies these few bytes, since a head lives
/// no longer than the read that brought it.
package struct FrameRequest: Equatable, Sendable {
  package var dialect: FrameDialect = .legacy
  package var kind: FrameKind = .call
  package var contentType: FrameContentType = .absent
  /// A plug-in's content type, of the notes.
  package var pluginType: Range<Int> = 0..<0
  package var codec: FrameCodec = .protoRPC
  /// The service called, of the notes; empty when not said. Servers never check it against their own name.
  package var service: Range<Int> = 0..<0
  /// `Handler.Method`, of the notes: never empty for a call, one dot, UTF-8 without spaces or control characters.
  package var endpoint: Range<Int> = 0..<0
  /// The event's topic, of the notes; empty unless it is one.
  package var topic: Range<Int> = 0..<0
  /// The value of `Micro-Id`, of the notes; empty when there was none.
  package var id: Range<Int> = 0..<0
  /// The envelope's id, to be echoed: of the notes, in JSON-RPC, jsonrpc2 and bsonrpc as raw JSON, in msgpackrpc as raw
  /// MessagePack; empty when there was none.
  package var rawJSONID: Range<Int> = 0..<0
  /// The value of `Micro-Stream`, of the notes. It does not make the call a stream (trap 12): the endpoint does.
  package var stream: Range<Int> = 0..<0
  /// proto-rpc's number.
  package var seq: UInt64 = 0
  /// Of the body, or of the notes if it was translated; empty for a message without bytes. Read it by `payload(_:_:)`.
  package var payload: Range<Int> = 0..<0
  package var payloadIsInNotes = false
  /// Bytes of the notes that belong to this request; those of a stream's later message follow.
  var notesEnd = 0
  /// What the caller gives us, from the time of the request; nil when not said. Zero or more.
  package var timeoutNanoseconds: Int64?

  package init() {}

  package var format: PayloadFormat { codec.format }

  /// What the caller reads where its reply is JSON; as `NodeDialect.jsonAudience`.
  package var jsonAudience: JSONAudience {
    dialect == .micro && (codec == .json || codec == .grpcFramedJSON) ? .framework : .oldFramework
  }

  /// The payload; valid as long as the body is and the notes do not change.
  package func payload(_ body: UnsafeRawBufferPointer, _ notes: ByteBuffer) -> UnsafeRawBufferPointer {
    payloadIsInNotes ? notes.bytes(payload) : UnsafeRawBufferPointer(rebasing: body[payload])
  }

  /// Bytes of `Handler.Method`; above, it is ill-formed.
  package static let endpointBytesMax = 1024
  /// Nanoseconds; a caller's longer timeout counts as this: 24 h.
  package static let timeoutNanosecondsMax: Int64 = 86_400_000_000_000
}

/// Why a request was not decoded, and what to answer.
package struct FrameRefusal: Error, Equatable, Sendable {
  package enum Reason: Equatable, Sendable {
    /// Answered with 200, `text/plain` and `Unsupported Content-Type: …`, as every server does.
    case unsupportedContentType
    /// Answered with the text as the framework's error.
    case malformed
  }
  package var reason: Reason
  /// In the words of go-micro's servers.
  package var text: String
  /// As much as was understood, to form the reply.
  package var request: FrameRequest
  /// Whether nothing more can be read from this connection: v0.14 sends no reply at all and closes. We reply, so that
  /// its caller learns why, and close.
  package var closes: Bool
}
