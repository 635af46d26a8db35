// The server side of a stream over the HTTP transport (server/rpc_stream.go @ v0.14.0 … v4.11.0; wire/rpc.md §2.4).
//
//   caller ──▶ opening message (routes; its body is thrown away) ─▶ messages ─▶ end of stream, or just a closed connection
//   caller ◀── messages, whenever we like ◀── end of stream, or an error
//
// Every message is a whole HTTP message of its own, and requests and replies are not paired (trap 5): after the opening
// message, the two halves of the connection have nothing to do with each other. The opening message is an ordinary
// request, so that `decodeRequest` reads it; the endpoint alone says whether it is a stream (trap 12).

/// One message of a stream's caller after the opening one.
package enum FrameStreamMessage {
  /// Valid as long as the body is, and until the next message is decoded.
  case message(UnsafeRawBufferPointer)
  /// The caller has said its last and still listens. Whatever it sends after that is to be dropped.
  case endOfStream
}

extension FrameServer {
  /// Whether the opening message's body is the first message. Only gRPC's frames are read so; with every other codec
  /// the framework's clients send something that its servers throw away (trap 6).
  package static func openingIsMessage(_ opening: FrameRequest) -> Bool { opening.codec.isGRPCFramed }

  /// Reads a later message of the stream that `opening` began. Errors: `FrameRefusal` for a body that the stream's codec
  /// cannot be, for a message of another stream (callers open a connection for each) and for another content type.
  package static func decodeStreamMessage(
    head: HTTP1Head, body: UnsafeRawBufferPointer, opening: FrameRequest, notes: ByteBuffer
  ) throws(FrameRefusal) -> FrameStreamMessage {
    guard isOf(opening, head, notes) else {
      throw FrameRefusal(
        reason: .malformed, text: "rpc: a connection carries one stream, and this message is not of it",
        request: opening, closes: true)
    }
    // An empty name would mean the type that servers from v1.0 on default to; the opening message may have said so too.
    if let type = head.first(.contentType), !type.isEmpty, !isType(type, of: opening, notes) {
      throw FrameRefusal(
        reason: .malformed, text: "rpc: a stream's messages keep the content type of its opening", request: opening,
        closes: true)
    }
    // Bare messages have only the header to end with. An envelope without bytes could not be read otherwise: callers
    // from v2.1 on end with an empty body whatever the codec.
    if body.isEmpty || !opening.codec.isEnvelope, saysEnd(head) { return .endOfStream }
    var request = opening
    request.kind = .call
    request.payloadIsInNotes = false
    // What the envelope says of method and id was said before: of a later message only the payload matters, and that
    // no longer than until the next one.
    notes.truncate(to: min(opening.notesEnd, notes.count))
    try unpack(body, &request, notes)
    if request.kind == .endOfStream || (opening.codec.isPluginEnvelope && saysEnd(head)) { return .endOfStream }
    return .message(request.payload(body, notes))
  }

  private static func isType(
    _ name: UnsafeRawBufferPointer, of opening: FrameRequest, _ notes: ByteBuffer
  ) -> Bool {
    opening.contentType == .plugin
      ? ASCIIText.equals(name, notes.bytes(opening.pluginType)) : FrameContentType(name) == opening.contentType
  }

  /// Callers from v1.9 on name the stream in every message; older ones and hand-written ones name nothing, and their
  /// connection is the stream.
  private static func isOf(_ opening: FrameRequest, _ head: HTTP1Head, _ notes: ByteBuffer) -> Bool {
    guard let stream = head.first(.microStream) ?? head.first(.xMicroStream), !stream.isEmpty else { return true }
    return ASCIIText.equals(stream, notes.bytes(opening.stream))
  }

  static func saysEnd(_ head: HTTP1Head) -> Bool {
    guard let error = head.first(.microError) ?? head.first(.xMicroError) else { return false }
    return ASCIIText.equals(error, "EOS")
  }

  /// Writes one message to the caller as a whole HTTP response. Shape, errors and `extraFields` as in `encodeReply`.
  package static func encodeStreamMessage(
    to opening: FrameRequest, notes: ByteBuffer, payload: UnsafeRawBufferPointer,
    extraFields: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0), into buffer: ByteBuffer
  ) throws(WireError) {
    try encodeReply(to: opening, notes: notes, payload: payload, extraFields: extraFields, into: buffer)
  }

  /// Writes that no more messages follow: the error `EOS` (trap 8), in both headers and in the envelope where there is
  /// one. A stream that failed ends with `encodeReplyError` instead. Callers close the connection after either.
  package static func encodeEndOfStream(to opening: FrameRequest, notes: ByteBuffer, into buffer: ByteBuffer) {
    let text: StaticString = "EOS"
    encodeReplyError(
      to: opening, notes: notes,
      text: UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount), into: buffer)
  }
}
