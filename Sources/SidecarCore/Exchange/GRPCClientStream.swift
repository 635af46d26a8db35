// One gRPC call as its client: a stream of a shared connection, messages cut out of it, and its end read from the trailers.
//
//   open ──▶ waiting ──a connection has room──▶ ready ──begin──▶ running ──trailers, taken──▶ over
//              └── no connection ──▶ over                          └── reset, broken ──▶ over
//
// The reader may hold back: after a `.congested` no message is handed on until `resume`. What has come meanwhile, a
// window's worth at most, waits here, and the peer's window stays closed.

/// Whose call it is. Called on the worker's loop, never from inside `open`, `send` or `resume`.
protocol GRPCClientUser: AnyObject {
  /// A connection has room: `begin` must be called now.
  func grpcReady(_ stream: GRPCClientStream)
  /// The answer has begun. Not called when its first head is its end. `fields` are valid during the call.
  func grpcAnswered(_ stream: GRPCClientStream, _ fields: HTTP2Fields)
  /// A message; valid during the call.
  func grpcReceived(_ stream: GRPCClientStream, _ message: UnsafeRawBufferPointer) -> WriteState
  /// `send` had answered `.congested`; the next message is welcome.
  func grpcDrained(_ stream: GRPCClientStream)
  /// The last event of a call that has come to its end: nil for OK. `trailers` are header lines.
  func grpcEnded(_ stream: GRPCClientStream, _ failure: GRPCFailure?, trailers: UnsafeRawBufferPointer)
  /// The last event of a call that has not: the connection could not be had, or broke, or the peer gave up.
  func grpcFailed(_ stream: GRPCClientStream, _ failure: UpstreamFailure)
}

final class GRPCClientStream: HTTP2UpstreamUser, HTTP2StreamHandler {
  private enum State {
    /// To: waiting, running, over.
    case idle
    /// For a connection. To: running, over.
    case waiting
    /// To: over.
    case running
    case over
  }

  let target: UpstreamTarget
  private unowned(unsafe) let worker: Worker
  private var user: (any GRPCClientUser)?
  private var state = State.idle
  private var connection: HTTP2UpstreamConnection?
  private var stream: HTTP2Stream?
  private var reader: GRPCMessageReader
  private var wasResting = false
  /// Anything of the answer has come.
  private var hasAnswer = false
  /// What the end said, once it is known; the inner nil is OK.
  private var outcome: GRPCFailure??
  private var trailers: ByteBuffer?
  /// The node's sidecar has let nothing of the call through to its app.
  private(set) var isUnbegun = false
  /// How busy the node's app is, as its sidecar says.
  private(set) var reportedLoad: Float?
  private var isPaused = false
  private var resumeIsDue = false
  /// Bytes that came while the user held back.
  private var held: ByteBuffer?
  private var peerEnded = false

  init(worker: Worker, target: UpstreamTarget, user: any GRPCClientUser) {
    self.worker = worker
    self.target = target
    self.user = user
    reader = GRPCMessageReader(limit: worker.settings.bodyMax, buffers: worker.readers.buffers)
  }

  // MARK: For the user

  enum OpenResult {
    /// `begin` must be called now.
    case ready
    /// `grpcReady` or `grpcFailed` follows.
    case waiting
    /// A limit is reached, as the words say; nothing follows.
    case full(String)
  }

  func open() -> OpenResult {
    switch target.http2.connect(self) {
    case .ready(let connection):
      self.connection = connection
      return .ready
    case .waiting:
      state = .waiting
      return .waiting
    case .full(let why):
      over()
      return .full(why)
    }
  }

  /// Sends the head of the request. `timeout`: what is left, in nanoseconds; nil without a deadline. `metadata`: header
  /// lines that may go on. `fill` appends what else is to be said. Errors are reported in a later turn.
  func begin(
    path: UnsafeRawBufferPointer, format: PayloadFormat, timeout: Int64?, metadata: UnsafeRawBufferPointer,
    fill: (HTTP2HeaderList) -> Void
  ) {
    guard state != .over, let connection, let list = connection.takeList() else { return fail(later: "it is closed") }
    list.append(":method", "POST")
    list.append(":scheme", "http")
    list.append(":path", path)
    list.append(":authority", target.hostHeader.span)
    list.append("content-type", GRPCMetadata.contentType(format))
    list.append("te", "trailers")
    if let timeout { list.append("grpc-timeout", isVarying: true) { GRPCText.appendTimeout(timeout, to: $0) } }
    fill(list)
    GRPCMetadata.append(lines: metadata, to: list)
    wasResting = connection.isResting
    state = .running
    stream = connection.request(list, handler: self)
    if stream == nil { fail(later: "it takes no more streams") }
  }

  private func fail(later why: String) {
    state = .running
    worker.driver.later { [self] in fail(.refused(why)) }
  }

  /// Sends one message. `.congested`: no more until `grpcDrained`.
  func send(_ message: UnsafeRawBufferPointer) -> WriteState {
    guard let stream else { return .closed }
    return GRPCFraming.withPrefix(message.count) { stream.send($0, message) }
  }

  /// Sends messages that have their prefixes.
  func sendFramed(_ messages: UnsafeRawBufferPointer) { stream?.send(messages) }

  /// No more messages follow.
  func finishSending() { stream?.finish() }

  /// The user takes messages again.
  func resume() {
    guard isPaused, !resumeIsDue, state == .running else { return }
    resumeIsDue = true
    worker.driver.later { [self] in
      resumeIsDue = false
      isPaused = false
      deliverHeld()
    }
  }

  /// The user leaves: the peer is told, and nothing more is reported. Twice is once.
  func abandon() {
    guard state != .over else { return }
    if state == .waiting { target.http2.forget(self) }
    over()
  }

  private func over() {
    state = .over
    user = nil
    // A peer that has said all may still expect ours; one that has not must stop.
    stream?.reset(peerEnded ? .noError : .cancel)
    stream = nil
    connection = nil
    reader.reset()
    for buffer in [held, trailers] {
      if let buffer { worker.readers.buffers.give(buffer) }
    }
    held = nil
    trailers = nil
  }

  private func fail(_ failure: UpstreamFailure) {
    guard state != .over else { return }
    let user = user
    over()
    user?.grpcFailed(self, failure)
  }

  private func end(_ failure: GRPCFailure?) {
    guard state != .over else { return }
    let user = user
    let trailers = trailers
    self.trailers = nil
    over()
    user?.grpcEnded(self, failure, trailers: trailers?.bytes ?? .none)
    if let trailers { worker.readers.buffers.give(trailers) }
  }

  // MARK: HTTP2UpstreamUser

  func upstreamReady(_ connection: HTTP2UpstreamConnection) {
    guard state == .waiting else { return }
    self.connection = connection
    user?.grpcReady(self)
  }

  func upstreamUnavailable(_ why: String) {
    guard state == .waiting else { return }
    fail(.connectFailed(why))
  }

  // MARK: HTTP2StreamHandler

  func http2Stream(_ stream: HTTP2Stream, received fields: HTTP2Fields, kind: HTTP2Stream.HeadKind) {
    guard state == .running else { return }
    switch kind {
    case .informational: break
    case .final:
      hasAnswer = true
      if fields.first("grpc-status") != nil {
        // The whole answer in one head, or a peer that says its end first, which is as good.
        outcome = .some(GRPCTrailers.failure(fields))
        keepTrailers(fields)
      } else if fields.status != 200 {
        end(GRPCTrailers.failure(httpStatus: fields.status))
      } else if GRPCMetadata.format(contentType: fields.first("content-type")) == nil {
        let type = fields.first("content-type").map { String(decoding: $0, as: UTF8.self) } ?? "no content type"
        end(GRPCFailure(.unknown, "the answer has \(type) and is not gRPC's"))
      } else {
        user?.grpcAnswered(self, fields)
      }
    case .trailers:
      outcome = .some(GRPCTrailers.failure(fields))
      keepTrailers(fields)
    }
  }

  private func keepTrailers(_ fields: HTTP2Fields) {
    let buffer = trailers ?? worker.readers.buffers.take()
    trailers = buffer
    isUnbegun = fields.first("x-micro-unbegun") != nil
    reportedLoad = fields.first("x-micro-load").flatMap { LoadReport.value($0) }
    GRPCMetadata.append(from: fields, source: .framework, into: buffer)
  }

  func http2Stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {
    guard state == .running else { return }
    hasAnswer = true
    if let held {
      held.append(bytes)
    } else {
      let taken = deliver(bytes)
      guard taken < bytes.count, state == .running else { return }
      let buffer = worker.readers.buffers.take()
      held = buffer
      buffer.append(UnsafeRawBufferPointer(rebasing: bytes[taken...]))
    }
  }

  /// Hands on messages until the user holds back. Returns how many bytes it has taken.
  private func deliver(_ bytes: UnsafeRawBufferPointer) -> Int {
    var input = bytes
    do throws(GRPCFramingError) {
      while !isPaused, state == .running {
        guard case .message(let message) = try reader.next(&input) else { break }
        if user?.grpcReceived(self, message) == .congested { isPaused = true }
      }
    } catch {
      end(GRPCFailure(error.status, error.message))
      return bytes.count
    }
    let taken = bytes.count - input.count
    // A part of a message counts as taken, or a message larger than the window would never be whole.
    stream?.consumed(taken)
    return taken
  }

  private func deliverHeld() {
    guard state == .running, !isPaused else { return }
    if let held {
      let taken = deliver(held.bytes)
      guard state == .running else { return }
      held.removeFirst(taken)
      if held.isEmpty {
        self.held = nil
        worker.readers.buffers.give(held)
      }
    }
    if peerEnded, held == nil, !isPaused { finishUp() }
  }

  func http2StreamEnded(_ stream: HTTP2Stream) {
    peerEnded = true
    if held == nil, !isPaused { finishUp() }
  }

  private func finishUp() {
    guard state == .running else { return }
    if !reader.isBetweenMessages, outcome == .some(nil) {
      end(GRPCFailure(GRPCFramingError.truncated.status, GRPCFramingError.truncated.message))
    } else {
      end(outcome ?? GRPCFailure(.unknown, "the call ended without a grpc-status"))
    }
  }

  func http2StreamDrained(_ stream: HTTP2Stream) {
    if state == .running { user?.grpcDrained(self) }
  }

  func http2StreamClosed(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {
    self.stream = nil
    // Its end has come in order, and waits for the user to take what came before it.
    guard state == .running, !peerEnded else { return }
    let isLost = connection?.isClosed ?? true
    let why = connection?.endReason ?? "the connection was closed"
    if code == .refusedStream {
      fail(.refused(isLost ? why : "the peer takes no more calls now"))
    } else if isLost {
      fail(hasAnswer ? .brokeInReply(why) : .brokeBeforeReply(wasReused: wasResting, why))
    } else {
      fail(.streamReset(GRPCTrailers.failure(reset: code)))
    }
  }
}
