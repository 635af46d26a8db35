// What the two kinds of connections that bring calls have in common: the app's (`IngressConnection`) and the
// framework's (`InboundConnection`). Bytes in, messages one at a time, replies out in order, and every way to the end.
//
//   reading ──message──▶ answering ──reply written──▶ reading …
//      │                    │  ├─ the caller does not read ─▶ flushing ─▶ reading …
//      │                    │  └─ a stream begins ─▶ streaming ─▶ reading …
//      ├── bad bytes ──▶ lingering ──▶ closed
//      └───▶ closing ◀──────┴── Connection: close, drain, the caller has ended
//
// While a message is being answered further ones wait in `ahead`, up to a limit; then reading pauses. A connection that
// begins with HTTP/2's preface is handed over whole, before anything else is read from it.

/// One connection that brings calls. Loop-confined. A subclass answers each message with exactly one `send`.
class CallerConnection: StreamHandler, ListedConnection {
  enum State {
    /// Between messages or inside one. To: answering, lingering, closing.
    case reading
    /// A message is being answered. To: reading, flushing, streaming, closing.
    case answering
    /// What is read goes to a `ConnectionStream`. To: reading, closing.
    case streaming
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
  /// How long a connection between messages is kept for another process's sake, which takes new ones already: long enough
  /// that a caller who is about to use it finds it there, and hears that it ends.
  private static let handOverIdleTime: Int64 = 5_000_000_000

  final var listIndex = -1
  final let worker: Worker
  private let stream: ByteStream
  private var reader: MessageReader
  final private(set) var state = State.reading
  private var isPaused = false
  private var hasEnded = false
  private var ahead: ByteBuffer?
  private var isConsuming = false
  /// Nothing has been read yet.
  private var isFresh = true
  /// Takes what is read while `.streaming`, and the rest of a streamed body from its head on.
  final private(set) var running: (any ConnectionStream)?
  final private(set) var feed = ConnectionFeed.raw
  /// A stream that the message being answered asked for, and that has not begun.
  final var starting: (any ConnectionStream)?
  final private(set) var bodyIsOver = true
  /// The stream wants nothing more for now.
  private var holdsBack = false
  private var hasToldEnd = false
  /// Since the caller has ended its half.
  private var leaveProbe: LeaveProbe?
  private var lingersSince = Instant(nanoseconds: 0)
  private var lastActivity: Instant
  /// When the message being answered was whole.
  final private(set) var requestStarted: Instant
  /// Whether another message may follow; as the message at hand and a drain have it.
  final var keepAlive = true
  /// Whether the caller itself would send another message on this connection.
  private var callerStays = true
  /// The last message answered was one of the framework's.
  private var speaksFrames = false
  /// The framework's message being answered, if it is one.
  final var frame: FrameRequest?
  /// What is noted of the message being answered, for those who watch.
  final var observed = CallNotes()
  /// What the ranges of `frame` point into.
  final private(set) var notes: ByteBuffer?

  init(worker: Worker, stream: ByteStream) {
    self.worker = worker
    self.stream = stream
    reader = MessageReader(
      .server, bodyMax: worker.settings.bodyMax, scratch: worker.readers, streamsBody: Self.streamsBody)
    lastActivity = worker.driver.now
    requestStarted = worker.driver.now
  }

  // MARK: For a subclass to say

  /// Whether the caller runs on this machine, as far as its address tells.
  final var isFromThisHost: Bool { stream.peerAddress?.isLoopback ?? true }
  /// Nanoseconds a connection may be idle between messages.
  var idleTimeout: Int64 { worker.settings.downstreamIdleTimeout }
  /// Whether a caller that ends its half may still wait for the reply to the message being answered.
  var outlivesCallersEnd: Bool { false }
  /// A whole message; its spans are valid during the call. `send` must follow once, now or later, or `skip`.
  func received(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) { preconditionFailure("a subclass overrides this") }
  /// A head whose body is read as it comes, because it is a stream of messages (see `streamsBody`); its first bytes may be
  /// here already. As with `received`; what is returned takes the body from now on.
  func receivedStreaming(_ head: HTTP1Head, _ firstBytes: UnsafeRawBufferPointer) -> (any ConnectionStream)? {
    preconditionFailure("a subclass overrides this")
  }
  /// The connection speaks HTTP/2: takes it over, with the bytes read so far. False: it is not spoken here.
  func handOver(_ stream: ByteStream, toHTTP2 bytes: UnsafeRawBufferPointer) -> Bool { false }
  /// The caller broke a rule of HTTP, or fell silent inside a message: writes the answer with `send`.
  func answerMalformed(_ error: WireError) { preconditionFailure("a subclass overrides this") }
  /// A stream of this connection is over, or has failed before it began and is not answered with `send`.
  func recordStream(_ outcome: MetricOutcome, _ call: StreamCall) { preconditionFailure("a subclass overrides this") }
  /// The connection ends while a message is being answered.
  func cancelAnswer() { preconditionFailure("a subclass overrides this") }
  /// The caller understands an interim answer to the message being answered.
  var mayContinue: Bool { false }
  /// The connection is gone.
  func ended() { preconditionFailure("a subclass overrides this") }

  /// Bodies that are a stream of messages by their content type.
  private static func streamsBody(_ head: HTTP1Head) -> Bool {
    guard let type = head.first(.contentType) else { return false }
    return ASCIIText.hasPrefixIgnoringCase(type, "application/x-ndjson")
  }

  /// The header lines that go on to the callee; while calls are traced the trace's are written anew.
  final func appendMetadata(of head: HTTP1Head, from source: Metadata.Source, to buffer: ByteBuffer) {
    // The notes are copied for the call, so they are not handed on unless it needs them.
    if observed.isTraced {
      Metadata.append(from: head, source: source, observed, into: buffer)
    } else {
      Metadata.append(from: head, source: source, into: buffer)
    }
  }

  // MARK: Bytes

  package final func streamOpened(_ stream: ByteStream) {}

  package final func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    lastActivity = worker.driver.now
    if !stream.isCarried { worker.metrics.add(.bytesFromCallers, bytes.count) }
    switch state {
    case .reading:
      if isFresh, bytes[0] == UInt8(ascii: "P") || ahead != nil, sniff(bytes) { return }
      isFresh = false
      if let ahead {
        ahead.append(bytes)
        consumeAhead()
        return
      }
      var input = bytes
      consume(&input)
      if !input.isEmpty { keepAhead(input) }
    case .answering, .flushing: keepAhead(bytes)
    case .streaming:
      if ahead != nil || holdsBack { return keepAhead(bytes) }
      var input = bytes
      consume(&input)
      if !input.isEmpty { keepAhead(input) }
    case .lingering, .closing, .closed: break
    }
  }

  private static let http2Preface: StaticString = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

  /// True when the bytes are used up: the connection is HTTP/2's, or a first byte or two do not tell yet.
  private func sniff(_ bytes: UnsafeRawBufferPointer) -> Bool {
    ahead?.append(bytes)
    let begun = ahead?.bytes ?? bytes
    let preface = UnsafeRawBufferPointer(
      start: Self.http2Preface.utf8Start, count: Self.http2Preface.utf8CodeUnitCount)
    guard begun.prefix(preface.count).elementsEqual(preface.prefix(begun.count)) else {
      guard ahead != nil else { return false }
      isFresh = false
      consumeAhead()
      return true
    }
    if begun.count < 3 {
      if ahead == nil { keepAhead(bytes) }
      return true
    }
    isFresh = false
    guard handOver(stream, toHTTP2: begun) else {
      guard ahead != nil else { return false }
      consumeAhead()
      return true
    }
    state = .closed
    if let ahead { worker.readers.buffers.give(ahead) }
    ahead = nil
    return true
  }

  /// More input may be taken, now or later.
  private var isAlive: Bool {
    switch state {
    case .reading, .answering, .flushing, .streaming: true
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
    if state == .streaming { tellEnd() }
  }

  private func resume() {
    guard isPaused, !holdsBack else { return }
    isPaused = false
    stream.resumeReading()
  }

  /// Takes messages from the front of `input` until one needs an answer from elsewhere.
  private func consume(_ input: inout UnsafeRawBufferPointer) {
    isConsuming = true
    defer { isConsuming = false }
    let count = input.count
    do throws(WireError) {
      while true {
        if state == .streaming {
          guard try consumeForStream(&input) else { return }
          continue
        }
        guard state == .reading else { return }
        switch try reader.next(&input, worker.readers) {
        case .needMore:
          if count < ByteStream.heldBackMax, !reader.isBetweenMessages { stream.acknowledge() }
          return
        case .expectsContinue: stream.write("HTTP/1.1 100 Continue\r\n\r\n")
        case .message(let body):
          let head = reader.head(worker.readers)
          state = .answering
          requestStarted = worker.driver.now
          callerStays = head.keepAlive
          keepAlive = callerStays && !worker.isDraining
          received(head, body)
          reader.finishMessage(worker.readers)
        case .streaming(let firstBytes):
          let head = reader.head(worker.readers)
          state = .answering
          requestStarted = worker.driver.now
          callerStays = head.keepAlive
          keepAlive = callerStays && !worker.isDraining
          bodyIsOver = false
          feed = .body
          if head.expectsContinue { stream.write("HTTP/1.1 100 Continue\r\n\r\n") }
          running = receivedStreaming(head, firstBytes)
          // What came with the head is handed on at once; what follows waits until the stream has begun.
          while running != nil, !bodyIsOver, try consumeBody(&input) {}
        }
      }
    } catch {
      guard state == .streaming || running != nil, let running else { return refuse(error) }
      keepAlive = false
      running.connectionFailed(error)
    }
  }

  /// Gives the stream what it is fed. False: there is no more, or it wants none for now.
  private func consumeForStream(_ input: inout UnsafeRawBufferPointer) throws(WireError) -> Bool {
    guard !input.isEmpty, !holdsBack, let running else { return false }
    switch feed {
    case .raw:
      let bytes = input
      input = .none
      running.connectionRead(bytes)
      return false
    case .body:
      guard !bodyIsOver else { return false }
      return try consumeBody(&input)
    case .messages:
      guard case .message(let body) = try reader.next(&input, worker.readers) else { return false }
      running.connectionMessage(reader.head(worker.readers), body)
      reader.finishMessage(worker.readers)
      return true
    }
  }

  private func consumeBody(_ input: inout UnsafeRawBufferPointer) throws(WireError) -> Bool {
    switch try reader.nextOfBody(&input) {
    case .needMore: return false
    case .bytes(let bytes):
      running?.connectionRead(bytes)
      // A body of known length ends without a byte of its own: no later read would tell.
      if input.isEmpty, running != nil { return try consumeBody(&input) }
    case .end:
      bodyIsOver = true
      running?.connectionEnded()
    }
    return true
  }

  // MARK: Streams

  /// Instead of one answer to the message being answered, a stream runs on the connection from now on. What was read
  /// meanwhile is handed to it in a later turn.
  final func begin(_ stream: any ConnectionStream, _ feed: ConnectionFeed) {
    assert(state == .answering)
    guard state == .answering else { return }
    state = .streaming
    starting = nil
    running = stream
    self.feed = feed
    if worker.isDraining, !worker.isHandingOver { later { $0.running?.connectionDraining() } }
    if ahead != nil || hasEnded || isPaused { later { $0.goOn() } }
  }

  private func later(_ work: @escaping (CallerConnection) -> Void) {
    worker.driver.later { [weak self] in
      if let self, state == .streaming { work(self) }
    }
  }

  /// Hands on what was kept, then reads on.
  private func goOn() {
    guard !holdsBack else { return }
    if ahead != nil { consumeAhead() } else { resume() }
    if state == .streaming { tellEnd() }
  }

  private func tellEnd() {
    guard hasEnded, !hasToldEnd, ahead == nil, let running else { return }
    hasToldEnd = true
    if feed == .body, !bodyIsOver {
      running.connectionFailed(WireError("the connection ended inside the body"))
    } else if feed != .body {
      running.connectionEnded()
    }
  }

  /// Writes bytes of a stream, which are taken before the call returns.
  final func write(_ head: UnsafeRawBufferPointer, _ body: UnsafeRawBufferPointer = .none) -> WriteState {
    if !stream.isCarried { worker.metrics.add(.bytesToCallers, head.count &+ body.count) }
    return stream.write(head, body)
  }

  /// The stream wants nothing more for now; what one read holds may still come.
  final func holdBack() {
    guard !holdsBack else { return }
    holdsBack = true
    guard !isPaused else { return }
    isPaused = true
    stream.pauseReading()
  }

  final func welcomeMore() {
    guard holdsBack else { return }
    holdsBack = false
    if state == .streaming { later { $0.goOn() } }
  }

  /// The stream has written nothing yet and hears nothing more: the message that began it is answered with `send` after
  /// all.
  final func returnToAnswering() {
    guard state == .streaming else { return }
    running = nil
    holdsBack = false
    state = .answering
    resume()
  }

  /// The stream is over, and everything it had to say written. The connection goes on with the next message where it
  /// can, else it is closed. The stream hears nothing more.
  ///
  /// `listening`: the peer may still be sending, and closing now would take our last words with it; it is heard out for
  /// a moment.
  final func endStream(listening: Bool = false) {
    guard let running, state == .streaming else { return }
    _ = running
    self.running = nil
    holdsBack = false
    releaseFrame()
    if listening { return linger() }
    let mayStay = feed == .messages || feed == .body && bodyIsOver
    guard mayStay, keepAlive, !worker.isDraining, !hasEnded else { return close() }
    state = .reading
    lastActivity = worker.driver.now
    worker.driver.later { [weak self] in
      guard let self, state == .reading else { return }
      resume()
      readyForNext()
    }
  }

  /// The caller broke a rule: tells it and ends the connection, but hears it out first.
  private func refuse(_ error: WireError) {
    requestStarted = worker.driver.now
    keepAlive = false
    lingersSince = requestStarted
    state = .lingering
    answerMalformed(error)
    endOurHalf()
  }

  /// The answer is out, and the rest of the request's body would be taken for the next message: nothing more is taken.
  private func linger() {
    bodyIsOver = true
    holdsBack = false
    running = nil
    keepAlive = false
    lingersSince = worker.driver.now
    state = .lingering
    endOurHalf()
  }

  private func endOurHalf() {
    if hasEnded { return stream.close() }
    stream.shutdownWrites()
    resume()
  }

  // MARK: Answers

  /// Writes the answer to the message being answered; both spans are used up before the call returns.
  final func send(_ head: UnsafeRawBufferPointer, _ body: UnsafeRawBufferPointer) {
    if !stream.isCarried { worker.metrics.add(.bytesToCallers, head.count &+ body.count) }
    let written = stream.write(head, body)
    speaksFrames = frame != nil
    releaseFrame()
    guard state == .answering else { return }
    starting = nil
    if !bodyIsOver { return linger() }
    running = nil
    if isLastAnswer || hasEnded && ahead == nil && !isConsuming {
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

  /// No message is taken after the answer that was just given. While another process takes over, clients of the framework
  /// are told so but do not listen, and would lose their next call: they are served until they leave by themselves.
  private var isLastAnswer: Bool {
    if worker.isHandingOver, speaksFrames, callerStays { return false }
    return !keepAlive || worker.isDraining
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
    if isLastAnswer || hasEnded && ahead == nil {
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
      let request = try FrameServer.decodeRequest(
        head: head, body: body, notes: notes, codecs: worker.settings.codecs)
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
      try FrameServer.encodeReply(to: frame, notes: notes, payload: payload, extraFields: lastWords, into: out)
    } catch {
      FrameServer.encodeReplyError(
        to: frame, notes: notes, error: SidecarError(error, kind: .badUpstreamReply, id: id), extraFields: lastWords,
        into: out)
    }
    send(out)
  }

  final func sendFrameError(_ frame: FrameRequest, _ notes: ByteBuffer, _ error: SidecarError) {
    let out = worker.scratch
    out.removeAll()
    FrameServer.encodeReplyError(to: frame, notes: notes, error: error, extraFields: lastWords, into: out)
    send(out)
  }

  /// What a reply to a frame says besides.
  private var lastWords: UnsafeRawBufferPointer { worker.isDraining ? FrameServer.closeField : replyFields }

  /// Header lines of every reply to a frame.
  var replyFields: UnsafeRawBufferPointer { .none }

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
    case .streaming: tellEnd()
    case .lingering: stream.close()
    case .closing, .closed: break
    }
    guard mayProbe else { return }
    let probe = LeaveProbe(self)
    leaveProbe = probe
    probe.goOn()
  }

  package final func streamDrained(_ stream: ByteStream) {
    if state == .streaming { running?.connectionDrained() }
    guard state == .flushing else { return }
    lastActivity = worker.driver.now
    state = .reading
    readyForNext()
  }

  package final func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    state = .closed
    leaveProbe?.stop()
    loseStream()
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
    loseStream()
    cancelAnswer()
    stream.close()
  }

  private func loseStream() {
    let lost = running ?? starting
    running = nil
    starting = nil
    lost?.connectionClosed()
  }

  final func abort() { stream.reset() }

  /// Draining: an idle connection ends now, a busy one after its reply. While another process takes over, an idle one ends
  /// after its next reply, which says so, or when none comes for a while; streams go on.
  final func closeWhenIdle() {
    keepAlive = false
    if worker.isHandingOver { return }
    if state == .streaming { running?.connectionDraining() }
    if state == .reading, reader.isBetweenMessages, ahead == nil { close() }
  }

  final func sweep(_ now: Instant) {
    let quiet = now.nanoseconds(since: lastActivity)
    switch state {
    case .reading where reader.isBetweenMessages:
      let isShort = worker.isHandingOver && !speaksFrames
      if quiet > (isShort ? min(idleTimeout, Self.handOverIdleTime) : idleTimeout) { close() }
    case .reading:
      guard quiet > worker.settings.messageTimeout else { return }
      refuse(WireError("the request was not complete after \(quiet / 1_000_000) ms of silence", status: 408))
    case .flushing:
      if quiet > worker.settings.downstreamIdleTimeout { abort() }
    case .lingering:
      if now.nanoseconds(since: lingersSince) > Self.lingerTime { abort() }
    case .streaming:
      if feed == .messages, !reader.isBetweenMessages, quiet > worker.settings.messageTimeout {
        running?.connectionFailed(WireError("a message was not complete after \(quiet / 1_000_000) ms of silence"))
      } else {
        running?.connectionSweep(now, quietNanoseconds: quiet)
      }
    case .answering, .closing, .closed: break
    }
  }
}
