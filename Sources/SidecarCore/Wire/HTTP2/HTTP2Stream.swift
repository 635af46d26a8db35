// One stream of an HTTP/2 session: what its user may do, and the bytes that wait to be sent on it.
//
//   our half:   head ─ send … ─ finish ─▶ ended              both ended, or reset by either side ─▶ closed
//   peer's:     head ─ received … ─▶ ended
//
// After `reset` its user hears nothing more of it.

import CNGHTTP2

/// Hears what happens on one stream, on the loop of its session. Spans are valid during the call. None of these is called
/// from inside a call into the session, and none after `http2StreamClosed`.
package protocol HTTP2StreamHandler: AnyObject {
  /// Client: a head of the answer, an informational one (1xx) or the final one; both: the trailers.
  func http2Stream(_ stream: HTTP2Stream, received fields: HTTP2Fields, kind: HTTP2Stream.HeadKind)
  /// Bytes of the peer. They count against its window until `consumed` gives them back; at most a window's worth comes
  /// meanwhile.
  func http2Stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer)
  /// The peer has ended its half.
  func http2StreamEnded(_ stream: HTTP2Stream)
  /// `send` had answered `.congested`; the next bytes are welcome.
  func http2StreamDrained(_ stream: HTTP2Stream)
  /// The last event. `.noError`: both halves ended in order, or the peer wants no more after its whole answer.
  /// `.refusedStream`: the peer has done nothing, so a request may be sent again elsewhere.
  func http2StreamClosed(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode)
}

package final class HTTP2Stream {
  package enum HeadKind: Sendable {
    /// 1xx; another head follows.
    case informational
    /// The head of an answer.
    case final
    case trailers
  }

  package internal(set) var id: Int32
  /// Nil once the stream is closed.
  package private(set) var session: HTTP2Session?
  package internal(set) var handler: (any HTTP2StreamHandler)?
  /// Whether the peer has ended its half.
  package internal(set) var peerEnded = false
  /// Whether our half is ended, perhaps with bytes that still wait.
  package private(set) var isFinished = false
  /// The end of our half is in a frame.
  var isEndSent = false
  /// `reset` has been called here.
  private(set) var isReset = false
  private var hasHead: Bool

  var listIndex = -1
  /// Bytes received and not yet given back to the peer's window.
  private(set) var unconsumed = 0

  private var outgoing: ByteBuffer?
  /// Bytes at the front of `outgoing` that are in frames already.
  private var framed = 0
  private var trailers: HTTP2HeaderList?
  /// nghttp2 waits to be told of more.
  private var isDeferred = false
  private(set) var isCongested = false
  var isInDrainedQueue = false

  init(session: HTTP2Session, id: Int32, hasHead: Bool) {
    self.session = session
    self.id = id
    self.hasHead = hasHead
  }

  /// Bytes taken by `send` that are in no frame yet.
  package var queuedBytes: Int { (outgoing?.count ?? 0) - framed }

  // MARK: Sending

  /// Server: sends the head of the answer; `ends`: nothing follows. Takes the list over. Once; before `send`.
  package func respond(_ list: HTTP2HeaderList, ends: Bool = false) {
    guard let session else { return }
    defer { session.give(list) }
    guard !hasHead, !isFinished else { return }
    hasHead = true
    isFinished = ends
    session.submitResponse(self, list, ends: ends)
  }

  /// Takes bytes to be sent, both parts in order, whatever the peer's windows say. `.congested`: no more, please, until
  /// the drained event.
  @discardableResult
  package func send(
    _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
  ) -> WriteState {
    guard let session, !isFinished, hasHead else { return .closed }
    let buffer = outgoing ?? session.buffers.take()
    outgoing = buffer
    buffer.append(first)
    buffer.append(second)
    resume(session)
    if buffer.count &- framed > HTTP2Limits.streamHighWatermark {
      isCongested = true
      return .congested
    }
    return .open
  }

  /// Ends our half after what is queued. Twice is once.
  package func finish() { finish(nil) }

  /// Ends our half with trailers, after what is queued. Takes the list over.
  package func finish(trailers list: HTTP2HeaderList) { finish(list) }

  private func finish(_ list: HTTP2HeaderList?) {
    guard let session, !isFinished, hasHead else {
      if let list { session?.give(list) }
      return
    }
    isFinished = true
    trailers = list
    resume(session)
  }

  @inline(__always) private func resume(_ session: HTTP2Session) {
    if isDeferred {
      isDeferred = false
      _ = nghttp2_session_resume_data(session.raw, id)
    }
    session.wantFlush()
  }

  /// Ends the stream at once; what is queued is dropped, and nothing more is heard of it. Twice is once, and so is after
  /// the end.
  package func reset(_ code: HTTP2ErrorCode) {
    guard let session, !isReset else { return }
    isReset = true
    handler = nil
    isFinished = true
    giveBack(session)
    // Both halves have ended: the stream closes by itself, and servers count resets as floods.
    if peerEnded, isEndSent { return }
    _ = nghttp2_submit_rst_stream(session.raw, UInt8(NGHTTP2_FLAG_NONE.rawValue), id, code.rawValue)
    session.wantFlush()
  }

  // MARK: Receiving

  func received(_ count: Int) { unconsumed &+= count }

  /// The reader has taken `count` bytes of what it was handed: the peer may send as many more.
  package func consumed(_ count: Int) {
    guard let session, count > 0 else { return }
    let count = min(count, unconsumed)
    unconsumed &-= count
    // Of a half that has ended nothing more comes.
    if peerEnded { return }
    _ = nghttp2_session_consume_stream(session.raw, id, count)
    session.wantFlushIfNeeded()
  }

  // MARK: For the session

  /// nghttp2 asks for up to `limit` bytes of a DATA frame.
  func nextFrame(_ limit: Int, _ flags: UnsafeMutablePointer<UInt32>) -> Int {
    let left = queuedBytes
    if left == 0, !isFinished {
      isDeferred = true
      return Int(NGHTTP2_ERR_DEFERRED.rawValue)
    }
    let count = min(left, limit)
    flags.pointee |= UInt32(NGHTTP2_DATA_FLAG_NO_COPY.rawValue)
    guard isFinished, count == left else { return count }
    flags.pointee |= UInt32(NGHTTP2_DATA_FLAG_EOF.rawValue)
    if let trailers, let session {
      self.trailers = nil
      flags.pointee |= UInt32(NGHTTP2_DATA_FLAG_NO_END_STREAM.rawValue)
      _ = trailers.withVectors { nghttp2_submit_trailer(session.raw, id, $0, $1) }
      session.give(trailers)
    }
    return count
  }

  /// Copies the next `count` bytes, as `nextFrame` promised them, into `out`.
  func takeFrame(_ count: Int, into out: ByteBuffer) {
    guard let buffer = outgoing, count > 0, count <= buffer.count - framed else { return }
    out.append(buffer.bytes(framed..<framed + count))
    framed += count
    if framed == buffer.count {
      outgoing = nil
      framed = 0
      session?.buffers.give(buffer)
    } else if framed >= HTTP2Limits.streamHighWatermark, framed * 2 >= buffer.count {
      buffer.removeFirst(framed)
      framed = 0
    }
    if isCongested, queuedBytes < HTTP2Limits.streamLowWatermark {
      isCongested = false
      session?.drained(self)
    }
  }

  private func giveBack(_ session: HTTP2Session) {
    if let outgoing { session.buffers.give(outgoing) }
    outgoing = nil
    framed = 0
    isCongested = false
    if let trailers { session.give(trailers) }
    trailers = nil
  }

  /// The session has let go of it.
  func closed() {
    guard let session else { return }
    giveBack(session)
    isFinished = true
    self.session = nil
  }
}
