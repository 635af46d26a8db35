// An HTTP/2 session on a byte stream, server or client: reads go in, and once per turn of the loop what has come up is
// written in one piece, since system calls are what a proxy's time goes into.
//
//   open ──drain, idle──▶ announced ──ping answered, or 1 s──▶ leaving ──last stream ended──▶ lingering ──▶ closing ─▶ closed
//     └── a fault of the peer, or `fail` ─────────────────────────────────────────────────────▲
//
// "Announced" is a server's: GOAWAY with the highest id, so that requests on their way are still taken (RFC 9113 §6.8).

class HTTP2Connection: StreamHandler, HTTP2SessionHandler {
  private enum State {
    case open
    /// A server has told the client to open no more streams. To: leaving, closing.
    case announced(since: Instant)
    /// No stream is taken any more. To: lingering.
    case leaving
    /// All is written and our half ended, while the peer may still send: closing now would reset the connection and take
    /// GOAWAY with it. To: closing.
    case lingering(since: Instant)
    case closing
    case closed
  }

  /// Nanoseconds a client that was told to leave may still open streams, when it does not answer the ping that says that
  /// it has read so.
  private static let announceTime: Int64 = 1_000_000_000
  /// Nanoseconds a peer that was told the end may take to close.
  private static let lingerTime: Int64 = 2_000_000_000
  /// Nanoseconds until the answer to that must be here.
  static let pingTimeout: Int64 = 20_000_000_000
  /// What pings carry: why they were sent.
  private static let leavePing: UInt64 = 1
  private static let alivePing: UInt64 = 2

  final let worker: Worker
  final let byteStream: ByteStream
  final let session: HTTP2Session
  private var state = State.open
  private var isOpened: Bool
  private var isCongested = false
  private var isFlushScheduled = false
  /// When something was last read.
  final private(set) var lastActivity: Instant
  private var pingedAt: Instant?

  /// `isOpened`: the byte stream can be written; else `streamOpened` tells.
  init(worker: Worker, stream: ByteStream, role: HTTP2Session.Role, isOpened: Bool) {
    self.worker = worker
    byteStream = stream
    self.isOpened = isOpened
    lastActivity = worker.driver.now
    session = HTTP2Session(role, buffers: worker.readers.buffers, now: worker.driver.now)
    session.handler = self
    if isOpened { scheduleFlush() }
  }

  // MARK: For a subclass to say

  /// Nanoseconds a connection without streams may be idle.
  var idleTimeout: Int64 { worker.settings.downstreamIdleTimeout }
  /// Server: see `HTTP2SessionHandler`.
  func opened(_ stream: HTTP2Stream, _ head: HTTP2Fields) -> (any HTTP2StreamHandler)? { nil }
  /// The connection is gone, and all of its streams are.
  func ended(_ end: StreamEnd) { preconditionFailure("a subclass overrides this") }
  /// The byte stream stands (a dialled one).
  func connected() {}
  /// The peer's settings have come; how many streams it takes may have changed.
  func settingsChanged() {}
  /// No new streams may be opened.
  func peerLeaves() {}
  /// Counts bytes, as the role has it.
  func count(read bytes: Int) { worker.metrics.add(.bytesFromCallers, bytes) }
  func count(written bytes: Int) { worker.metrics.add(.bytesToCallers, bytes) }

  // MARK: Bytes

  package final func streamOpened(_ stream: ByteStream) {
    isOpened = true
    lastActivity = worker.driver.now
    connected()
    scheduleFlush()
  }

  package final func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    count(read: bytes.count)
    receive(bytes)
  }

  final func receive(_ bytes: UnsafeRawBufferPointer) {
    guard !isClosing else { return }
    lastActivity = worker.driver.now
    pingedAt = nil
    session.receive(bytes, now: lastActivity)
    if session.isOver { close() }
  }

  /// A peer that will send nothing more cannot take part: even our data would get no window.
  package final func streamEnded(_ stream: ByteStream) {
    close()
    if case .closed = state { return }
    state = .closing
    stream.close()
  }

  package final func streamDrained(_ stream: ByteStream) {
    isCongested = false
    flush()
  }

  package final func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    if case .closed = state { return }
    state = .closed
    session.connectionLost()
    ended(end)
  }

  /// Writes at the end of this turn what has come up until then.
  final func scheduleFlush() {
    guard !isFlushScheduled else { return }
    isFlushScheduled = true
    // Not weakly: an object that has been referred to weakly is counted in a table of its own from then on.
    worker.driver.later { [self] in
      isFlushScheduled = false
      flush()
    }
  }

  private func flush() {
    guard isOpened, !isCongested, !isClosing else { return }
    let out = worker.scratch
    out.removeAll()
    let hasMore = session.flush(into: out)
    if !out.isEmpty {
      count(written: out.count)
      isCongested = byteStream.write(out.bytes) == .congested
    }
    session.settle()
    if session.isOver { return close() }
    if hasMore, !isCongested { scheduleFlush() }
  }

  private var isClosing: Bool {
    switch state {
    case .open, .announced, .leaving: false
    case .lingering, .closing, .closed: true
    }
  }

  /// Writes what is queued and ends our half; open streams are closed.
  private func close() {
    guard !isClosing else { return }
    flushLast()
    if isOpened {
      state = .lingering(since: worker.driver.now)
      byteStream.shutdownWrites()
    } else {
      state = .closing
      byteStream.close()
    }
    session.connectionLost()
  }

  private func flushLast() {
    let out = worker.scratch
    out.removeAll()
    _ = session.flush(into: out)
    guard isOpened, !out.isEmpty else { return }
    count(written: out.count)
    byteStream.write(out.bytes)
  }

  // MARK: The end

  /// Ends in order: open streams may finish.
  final func leave() {
    guard case .open = state else { return }
    switch session.role {
    case .server:
      state = .announced(since: worker.driver.now)
      session.announceLeaving()
      session.ping(Self.leavePing)
    case .client:
      state = .leaving
      session.leave()
    }
  }

  private func leaveNow() {
    guard case .announced = state else { return }
    state = .leaving
    session.leave()
  }

  /// Ends with GOAWAY, whatever is open.
  final func fail(_ code: HTTP2ErrorCode) {
    session.fail(code)
    close()
  }

  final func abort() { byteStream.reset() }

  /// Draining.
  final func closeWhenIdle() { leave() }

  /// About once a second.
  final func sweep(_ now: Instant) {
    let quiet = now.nanoseconds(since: lastActivity)
    switch state {
    case .open:
      if session.streamCount == 0 {
        if quiet > idleTimeout { leave() }
      } else {
        checkAlive(now, quiet)
      }
    case .announced(let since):
      if now.nanoseconds(since: since) > Self.announceTime { leaveNow() }
    case .leaving: checkAlive(now, quiet)
    case .lingering(let since):
      if now.nanoseconds(since: since) > Self.lingerTime { abort() }
    case .closing, .closed: break
    }
  }

  private func checkAlive(_ now: Instant, _ quiet: Int64) {
    if let pingedAt {
      if now.nanoseconds(since: pingedAt) > Self.pingTimeout { abort() }
    } else if quiet > worker.settings.pingInterval {
      pingedAt = now
      session.ping(Self.alivePing)
    }
  }

  // MARK: HTTP2SessionHandler

  package final func http2Session(
    _ session: HTTP2Session, opened stream: HTTP2Stream, _ head: HTTP2Fields, ends: Bool
  ) -> (any HTTP2StreamHandler)? { opened(stream, head) }

  package final func http2SessionSettingsChanged(_ session: HTTP2Session) { settingsChanged() }

  package final func http2Session(_ session: HTTP2Session, peerLeaves lastStreamID: Int32, _ code: HTTP2ErrorCode) {
    peerLeaves()
  }

  package final func http2SessionPingAnswered(_ session: HTTP2Session, _ opaque: UInt64) {
    if opaque == Self.leavePing { leaveNow() }
  }

  package final func http2SessionWantsFlush(_ session: HTTP2Session) { scheduleFlush() }
}
