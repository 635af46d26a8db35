// The gRPC transport: one stream of HTTP/2 in the place of a connection (wire/rpc.md §4a). To those who read and write
// frames it is a byte stream like any other, which carries HTTP/1; underneath each HTTP/1 message is one gRPC message with
// a header map and a body.
//
//   InboundConnection, UpstreamConnection, FrameCallee ⇄ HTTP/1 messages ⇄ GRPCTransportStream ⇄ HTTP2Stream
//
//   (dialling) ──▶ open ──close──▶ closed here, our last words go out ──▶ gone
//                    ├── reset ──▶ closed here
//                    └── the peer's end, its reset, its connection's end ──▶ closed
//
// Backpressure: while reading is paused what comes is kept, at most a window of it, and the window is not given back.

/// What both ends of the transport have in common. Loop-confined.
class GRPCTransportStream: ByteStream, HTTP2StreamHandler {
  final let worker: Worker
  /// What the handler reads: requests on a server, else responses.
  private let role: HTTP1Parser.Role
  /// Nil until it stands, and when it is gone.
  final var stream: HTTP2Stream?
  private var incoming: GRPCMessageReader
  /// Reads what the handler writes.
  private var outgoing: MessageReader
  /// Bytes that came while reading was paused.
  private var held: ByteBuffer?
  private var isPaused = false
  private var resumeIsDue = false
  private var peerEnded = false
  private var hasToldEnd = false
  /// How it ended, while the handler has not read all that came before.
  private var pendingEnd: StreamEnd?
  /// The handler hears nothing more than `streamClosed`.
  final private(set) var isOver = false

  init(worker: Worker, role: HTTP1Parser.Role) {
    self.worker = worker
    self.role = role
    let scratch = worker.transportReaders
    incoming = GRPCMessageReader(
      limit: worker.settings.bodyMax + TransportMessage.headerBytesMax, buffers: scratch.buffers)
    // What we write ourselves has its limits where it is made.
    outgoing = MessageReader(role == .server ? .client : .server, bodyMax: .max, scratch: scratch)
    super.init()
    isCarried = true
  }

  // MARK: For a subclass to say

  /// Before the first message: the head, if it is due.
  func willSend() {}
  /// Our half is to end after what is queued.
  func finish() { stream?.finish() }
  /// Closed here, while what is queued is still to go out and the peer to end its half.
  func lingers() {}
  /// Nothing is left of it.
  func released() {}

  // MARK: ByteStream

  final override func write(_ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer) -> WriteState {
    guard !isOver, stream != nil else { return .closed }
    var state = WriteState.open
    do throws(WireError) {
      for part in [first, second] {
        var input = part
        while !input.isEmpty {
          if role == .server, outgoing.isBetweenMessages { outgoing.expectResponse() }
          guard case .message(let body) = try outgoing.next(&input, worker.transportReaders) else { break }
          let head = outgoing.head(worker.transportReaders)
          // An interim answer is HTTP/1's alone.
          if role == .client || head.status >= 200 { state = send(head, body) }
          outgoing.finishMessage(worker.transportReaders)
        }
      }
    } catch {
      // Whoever writes here writes whole HTTP/1 messages, or there is an error of ours.
      assertionFailure("what is written is HTTP/1: \(error)")
      reset()
      return .closed
    }
    return state
  }

  private func send(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) -> WriteState {
    guard let stream else { return .closed }
    willSend()
    let message = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(message) }
    TransportMessage.append(head, body, to: message)
    return GRPCFraming.withPrefix(message.count) { stream.send($0, message.bytes) }
  }

  final override func pauseReading() { isPaused = true }

  final override func resumeReading() {
    guard isPaused, !isOver else { return }
    isPaused = false
    guard !resumeIsDue else { return }
    resumeIsDue = true
    worker.driver.later { [weak self] in
      guard let self else { return }
      resumeIsDue = false
      deliverHeld()
    }
  }

  final override func shutdownWrites() {
    if !isOver { finish() }
  }

  final override func close() {
    guard !isOver else { return }
    finish()
    endHere()
    if stream == nil { released() } else { lingers() }
  }

  final override func reset() {
    guard !isOver else { return }
    stream?.reset(.cancel)
    stream = nil
    endHere()
    released()
  }

  private func endHere() {
    isOver = true
    worker.driver.later { [self] in tellClosed(.closedHere) }
    releaseBuffers()
  }

  final override var queuedBytes: Int { stream?.queuedBytes ?? 0 }

  // MARK: HTTP2StreamHandler

  func http2Stream(_ stream: HTTP2Stream, received fields: HTTP2Fields, kind: HTTP2Stream.HeadKind) {
    // Trailers of a request mean nothing in gRPC.
  }

  final func http2Stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {
    guard !isOver else { return stream.consumed(bytes.count) }
    if let held { return held.append(bytes) }
    let taken = deliver(bytes)
    guard taken < bytes.count, !isOver else { return }
    let buffer = worker.readers.buffers.take()
    held = buffer
    buffer.append(UnsafeRawBufferPointer(rebasing: bytes[taken...]))
  }

  /// Hands on messages until the handler pauses. Returns how many bytes it has taken.
  private func deliver(_ bytes: UnsafeRawBufferPointer) -> Int {
    var input = bytes
    do {
      while !isPaused, !isOver {
        guard case .message(let message) = try incoming.next(&input) else { break }
        let text = worker.readers.buffers.take()
        defer { worker.readers.buffers.give(text) }
        try TransportMessage.appendHTTP1(message, for: role, to: text)
        handler?.streamRead(self, text.bytes)
      }
    } catch {
      fail("a message of the gRPC transport cannot be read: \(error)")
    }
    // A part of a message counts as taken, or a message larger than the window would never be whole.
    let taken = isOver ? bytes.count : bytes.count - input.count
    stream?.consumed(taken)
    return taken
  }

  private func deliverHeld() {
    guard !isOver, !isPaused else { return }
    if let held {
      let taken = deliver(held.bytes)
      guard !isOver else { return }
      held.removeFirst(taken)
      if held.isEmpty {
        self.held = nil
        worker.readers.buffers.give(held)
      }
    }
    tellEnd()
  }

  func http2StreamEnded(_ stream: HTTP2Stream) {
    peerEnded = true
    tellEnd()
  }

  private func tellEnd() {
    guard peerEnded, held == nil, !isPaused, !isOver else { return }
    if !hasToldEnd {
      hasToldEnd = true
      guard incoming.isBetweenMessages else { return fail("the peer ended the stream inside a message") }
      handler?.streamEnded(self)
    }
    if let pendingEnd, !isOver { end(pendingEnd) }
  }

  final func http2StreamDrained(_ stream: HTTP2Stream) {
    if !isOver { handler?.streamDrained(self) }
  }

  func http2StreamClosed(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {
    self.stream = nil
    guard !isOver else { return released() }
    // Whole, and the handler has yet to read it.
    if peerEnded, code == .noError {
      pendingEnd = .ended
      return tellEnd()
    }
    end(.reset(code == .noError ? "the peer closed the connection" : "the peer reset the stream: \(code)"))
  }

  // MARK: The end

  /// The stream is of no more use: tells the peer, and the handler.
  final func fail(_ why: String) {
    stream?.reset(.cancel)
    stream = nil
    end(.reset(why))
  }

  /// Not from inside a call of the handler.
  final func end(_ end: StreamEnd) {
    guard !isOver else { return }
    isOver = true
    released()
    releaseBuffers()
    tellClosed(end)
  }

  private func tellClosed(_ end: StreamEnd) {
    let handler = handler
    self.handler = nil
    handler?.streamClosed(self, end)
  }

  private func releaseBuffers() {
    incoming.reset()
    outgoing.finishMessage(worker.transportReaders)
    guard let held else { return }
    self.held = nil
    stream?.consumed(held.count)
    worker.readers.buffers.give(held)
  }
}
