// The two ends of a streaming call, whatever each of them speaks. `StreamCall` stands between them: it finds the callee,
// translates messages, carries ends and backpressure across.
//
//   WebSocket, SSE, NDJSON, gRPC, ─▶ StreamCaller ⇄ StreamCall ⇄ StreamCallee ─▶ framework frames, gRPC,
//   framework frames                                                              the app's WebSocket, NDJSON or gRPC
//
// Everything happens on the worker's loop. Messages are whole; their bytes are valid during the call that hands them on.
//
// Ends: the caller may finish sending (half-close) and still hear replies, or leave (abort). The callee ends the call
// once, in order or with an error; whatever the caller still sends then is dropped.
//
// Backpressure: whoever takes a message answers with a `WriteState`. `.congested` means that the message was taken and
// that no more are welcome until the drained event; a leg must then stop reading its peer. At most what one read of the
// peer holds may still be handed on.

/// The end that made the call. Called by `StreamCall`, never from inside one of its own calls to `start`.
protocol StreamCaller: AnyObject {
  /// A callee is connected, nothing has been heard from it yet. At most once, before all that follows.
  func calleeReady(_ call: StreamCall)
  /// The callee has begun to answer. `metadata` is header lines (`name: value\r\n`, names in lower case), empty unless the
  /// callee is known not to echo its first caller's headers. At most once, before any message.
  func calleeAnswered(_ call: StreamCall, metadata: UnsafeRawBufferPointer)
  /// A message in the format the caller asked for in `StreamCall.replyFormat`. After `.congested`,
  /// `StreamCall.callerDrained` must be called once the caller can take more.
  func calleeSent(_ call: StreamCall, _ message: UnsafeRawBufferPointer) -> WriteState
  /// The call is over; nil: in order. Exactly once for a started call that was not cancelled, and last. `trailers` as in
  /// `calleeAnswered`.
  func calleeEnded(_ call: StreamCall, _ error: SidecarError?, trailers: UnsafeRawBufferPointer)
  /// `StreamCall.send` had answered `.congested`: the next message is welcome.
  func calleeDrained(_ call: StreamCall)
}

/// The end that answers. Made by `StreamCall` for one attempt; it reports to `StreamCall.callee…`, never from inside one of
/// these calls nor from inside its making.
protocol StreamCallee: AnyObject {
  /// The format its messages have to be in, given what the caller sends; asked before the first `send`.
  func format(for caller: PayloadFormat) -> PayloadFormat
  /// Who reads the messages, where they are JSON made of protobuf.
  var audience: JSONAudience { get }
  /// Takes one message. Only called after `StreamCall.calleeConnected`.
  func send(_ message: UnsafeRawBufferPointer) -> WriteState
  /// No more messages follow. Once.
  func finishSending()
  /// The caller takes replies again, after `StreamCall.calleeSent` had answered `.congested`.
  func resumeReplies()
  /// The caller has left, or the call ended otherwise: give up what is open, tell the peer, report nothing more. Twice is
  /// once, and so is after the end.
  func abandon()
}

extension StreamCallee {
  var audience: JSONAudience { .people }
}
