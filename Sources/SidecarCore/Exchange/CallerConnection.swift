// What the two kinds of connections that bring calls have in common: the app's (`IngressConnection`) and the
// framework's (`InboundConnection`). Bytes in, messages one at a time, replies out in order, and every way to the end.
//
//   reading ──message──▶ answering ──reply written──▶ reading …
//      │                    │  └─ the caller does not read ─▶ flushing ─▶ reading …
//      ├── bad bytes ──▶ lingering ──▶ closed
//      └───▶ closing ◀──────┴── Connection: close, drain, the caller has ended
//
// While a message is being answered further ones wait in `ahead`, up to a limit; then reading pauses.

/// One connection that brings calls. Loop-confined. A subclass answers each message with exactly one `send`.
class CallerConnection: StreamHandler, ListedConnection {
  enum State {
    /// Between messages or inside one. To: answering, lingering, closing.
    case reading
    /// A message is being answered. To: reading, flushing, closing.
    case answering
    /// More than the high watermark of replies waits to be taken by the caller. To: reading, closing.
    case flushing
    /// The last reply is written and our half ended, while the caller still sends: closing now would reset the
    /// connection and take the reply with it. To: closed.
    case lingering
    /// Nothing more is read; what is queued is still written.
    case closing
    case closed
  }

  /// How long a caller that broke a rule may go on sending before it is cut off, in nanoseconds.
  private static let lingerTime: Int64 = 2_000_000_000

  final var listIndex = -1
  final let worker: Worker
  private let stream: ByteStream
  private var reader: MessageReader
  final private(set) var state = State.reading
  private var isPaused = false
  private var hasEnded = false
  private var ahead: ByteBuffer?
  private var isConsuming = false
  private var lingersSince = Instant(nanoseconds: 0)
  private var lastActivity: Instant
  /// When the message being answered was whole.
  final private(set) var requestStarted: Instant
  /// Whether another message may follow; as the message at hand and a drain have it.
  final var keepAlive = true
  /// The framework's message being answered, if it is one.
  final var frame: FrameRequest?
  /// What the ranges of `frame` point into.
  final private(set) var notes: ByteBuffer?

  init(worker: Worker, stream: ByteStream) {
    self.worker = worker
    self.stream = stream
    reader = MessageReader(.server, bodyMax: worker.settings.bodyMax, scratch: worker.readers)
    lastActivity = worker.driver.now
    requestStarted = worker.driver.now
  }

  // MARK: For a subclass to say

  /// Nanoseconds a connection may be idle between messages.
  var idleTimeout: Int64 { worker.settings.downstreamIdleTimeout }
  /// Whether a caller that ends its half may still wait for the reply to the message being answered.
  var outlivesCallersEnd: Bool { false }
  /// A whole message; its spans are valid during the call. `send` must follow once, now or later, or `skip`.
  func received(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) { preconditionFailure("a subclass overrides this") }
  /// The caller broke a rule of HTTP, or fell silent inside a message: writes the answer with `send`.
  func answerMalformed(_ error: WireError) { preconditionFailure("a subclass overrides this") }
  /// The connection ends while a message is being answered.
  func cancelAnswer() { preconditionFailure("a subclass overrides this") }
  /// The connection is gone.
  func ended() { preconditionFailure("a subclass overrides this") }

  // MARK: Bytes

  package final func streamOpened(_ stream: ByteStream) {}

  package final func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    lastActivity = worker.driver.now
    worker.metrics.add(.bytesFromCallers, bytes.count)
    switch state {
    case .reading:
      if let ahead {
        ahead.append(bytes)
        consumeAhead()
        return
      }
      var input = bytes
      consume(&input)
      if !input.isEmpty { keepAhead(input) }
    case .answering, .flushing: keepAhead(bytes)
    case .lingering, .closing, .closed: break
    }
  }

  /// More input may be taken, now or later.
  private var isAlive: Bool {
    switch state {
    case .reading, .answering, .flushing: true
    case .lingering, .closing, .closed: false
    }
  }

  private func keepAhead(_ bytes: UnsafeRawBufferPointer) {
    guard isAlive else { return }
    let buffer = ahead ?? worker.readers.buffers.take()
    ahead = buffer
    buffer.append(bytes)
    if buffer.count > worker.settings.pipelineMax, !isPaused {
      isPaused = true
      stream.pauseReading()
    }
  }

  private func consumeAhead() {
    guard let buffer = ahead else { return }
    ahead = nil
    var input = buffer.bytes
    consume(&input)
    if input.isEmpty || !isAlive {
      worker.readers.buffers.give(buffer)
    } else {
      buffer.removeFirst(buffer.count - input.count)
      ahead = buffer
    }
    if (ahead?.count ?? 0) <= worker.settings.pipelineMax, isAlive { resume() }
    if hasEnded, state == .reading, ahead == nil { close() }
  }

  private func resume() {
    guard isPaused else { return }
    isPaused = false
    stream.resumeReading()
  }

  /// Takes messages from the front of `input` until one needs an answer from elsewhere.
  private func consume(_ input: inout UnsafeRawBufferPointer) {
    isConsuming = true
    defer { isConsuming = false }
    do throws(WireError) {
      while state == .reading {
        switch try reader.next(&input, worker.readers) {
        case .needMore: return
        case .expectsContinue: stream.write("HTTP/1.1 100 Continue\r\n\r\n")
        case .message(let body):
          let head = reader.head(worker.readers)
          state = .answering
          requestStarted = worker.driver.now
          keepAlive = head.keepAlive && !worker.isDraining
          received(head, body)
          reader.finishMessage(worker.readers)
        }
      }
    } catch {
      refuse(error)
    }
  }

  /// The caller broke a rule: tells it and ends the connection, but hears it out first.
  private func refuse(_ error: WireError) {
    requestStarted = worker.driver.now
    keepAlive = false
    lingersSince = requestStarted
    state = .lingering
    answerMalformed(error)
    if hasEnded { return stream.close() }
    stream.shutdownWrites()
    resume()
  }

  // MARK: Answers

  /// Writes the answer to the message being answered; both spans are used up before the call returns.
  final func send(_ head: UnsafeRawBufferPointer, _ body: UnsafeRawBufferPointer) {
    worker.metrics.add(.bytesToCallers, head.count &+ body.count)
    let written = stream.write(head, body)
    releaseFrame()
    guard state == .answering else { return }
    if !keepAlive || worker.isDraining || hasEnded && ahead == nil && !isConsuming {
      close()
      return
    }
    if written == .congested {
      state = .flushing
      lastActivity = worker.driver.now
      return
    }
    state = .reading
    if ahead != nil, !isConsuming {
      // Not from here: this may be a turn of another connection, whose spans are still in use.
      worker.driver.later { [weak self] in
        guard let self, state == .reading else { return }
        readyForNext()
      }
    }
  }

  final func send(_ message: ByteBuffer) { send(message.bytes, UnsafeRawBufferPointer(start: nil, count: 0)) }

  /// The message wants no answer.
  final func skip() {
    releaseFrame()
    guard state == .answering else { return }
    state = .reading
    if !keepAlive { close() }
  }

  /// A reply is out. What came meanwhile is next.
  private func readyForNext() {
    if !keepAlive || worker.isDraining || hasEnded && ahead == nil {
      close()
    } else if ahead != nil {
      consumeAhead()
    }
  }

  // MARK: Frames

  /// Reads the message as one of the framework's; one that cannot be read is answered here, and nil returned.
  final func decodeFrame(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) -> FrameRequest? {
    let notes = worker.readers.buffers.take()
    self.notes = notes
    do throws(FrameRefusal) {
      let request = try FrameServer.decodeRequest(head: head, body: body, notes: notes)
      frame = request
      return request
    } catch {
      keepAlive = keepAlive && !error.closes
      refused(error)
      let out = worker.scratch
      out.removeAll()
      FrameServer.encodeRefusal(error, notes: notes, into: out)
      send(out)
      return nil
    }
  }

  /// A message that was no frame any server can read is about to be answered.
  func refused(_ refusal: FrameRefusal) { preconditionFailure("a subclass overrides this") }

  final func sendFrameReply(_ frame: FrameRequest, _ notes: ByteBuffer, _ payload: UnsafeRawBufferPointer, id: String?)
  {
    let out = worker.scratch
    out.removeAll()
    do throws(WireError) {
      try FrameServer.encodeReply(to: frame, notes: notes, payload: payload, into: out)
    } catch {
      FrameServer.encodeReplyError(
        to: frame, notes: notes, error: SidecarError(error, kind: .badUpstreamReply, id: id), into: out)
    }
    send(out)
  }

  final func sendFrameError(_ frame: FrameRequest, _ notes: ByteBuffer, _ error: SidecarError) {
    let out = worker.scratch
    out.removeAll()
    FrameServer.encodeReplyError(to: frame, notes: notes, error: error, into: out)
    send(out)
  }

  private func releaseFrame() {
    frame = nil
    guard let notes else { return }
    worker.readers.buffers.give(notes)
    self.notes = nil
  }

  // MARK: The end

  package final func streamEnded(_ stream: ByteStream) {
    hasEnded = true
    switch state {
    case .reading:
      // A request cut short gets no answer: its sender has said all it will. Whole ones may wait in `ahead`.
      if ahead == nil || !outlivesCallersEnd { close() }
    case .answering, .flushing:
      if !outlivesCallersEnd { close() }
    case .lingering: stream.close()
    case .closing, .closed: break
    }
  }

  package final func streamDrained(_ stream: ByteStream) {
    guard state == .flushing else { return }
    lastActivity = worker.driver.now
    state = .reading
    readyForNext()
  }

  package final func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    state = .closed
    cancelAnswer()
    reader.finishMessage(worker.readers)
    if let ahead { worker.readers.buffers.give(ahead) }
    ahead = nil
    releaseFrame()
    ended()
  }

  final func close() {
    guard isAlive else { return }
    state = .closing
    cancelAnswer()
    stream.close()
  }

  final func abort() { stream.reset() }

  /// Draining: an idle connection ends now, a busy one after its reply.
  final func closeWhenIdle() {
    keepAlive = false
    if state == .reading, reader.isBetweenMessages, ahead == nil { close() }
  }

  final func sweep(_ now: Instant) {
    let quiet = now.nanoseconds(since: lastActivity)
    switch state {
    case .reading where reader.isBetweenMessages:
      if quiet > idleTimeout { close() }
    case .reading:
      guard quiet > worker.settings.messageTimeout else { return }
      refuse(WireError("the request was not complete after \(quiet / 1_000_000) ms of silence", status: 408))
    case .flushing:
      if quiet > worker.settings.downstreamIdleTimeout { abort() }
    case .lingering:
      if now.nanoseconds(since: lingersSince) > Self.lingerTime { abort() }
    case .answering, .closing, .closed: break
    }
  }
}
