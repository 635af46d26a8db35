// One HTTP/2 connection to a node or to the app, shared by many calls.
//
//   dialling ──settings heard──▶ open ──too old, GOAWAY, retired──▶ leaving ──last stream ended──▶ closed
//      └────────── failed ────────┴───── broke, no answer to a ping ──┴───────────────────────────▲
//
// A dial is over when the peer's SETTINGS are here: only then is it known to speak HTTP/2 and how many streams it takes,
// and until then nothing has been sent that anybody could have worked on.

package final class HTTP2UpstreamConnection: StreamHandler, HTTP2SessionHandler {
  /// Streams we open on one connection at most, whatever the peer allows.
  package static let streamsMax = 100
  /// Silence of the peer, with streams open, after which it is asked whether it is there; in nanoseconds.
  package static let pingAfter: Int64 = 30_000_000_000
  /// The same when the last thing heard was the answer to such a ping. Servers of gRPC take more than two pings within
  /// five minutes, with no message of theirs between, for abuse and leave (grpc-go's `keepalive.EnforcementPolicy.MinTime`).
  package static let nextPingAfter: Int64 = 310_000_000_000
  /// How long the answer to a ping may take, in nanoseconds.
  package static let pingTimeout: Int64 = 20_000_000_000

  private enum State {
    /// To: open, closed.
    case dialling
    /// Takes new streams. To: leaving, closed.
    case open
    /// Takes none; those that are open go on. To: closed.
    case leaving
    case closed
  }

  let pool: HTTP2Upstream
  /// Kept while a connection of it is open, though its node may have left the registry.
  private let target: UpstreamTarget
  private unowned(unsafe) let worker: Worker
  private var stream: ByteStream?
  private var session: HTTP2Session?
  private var state = State.dialling
  private var dialTimer: LoopTimer?
  private let bornAt: Instant
  private var heardAt: Instant
  private var framesHeard: UInt64 = 0
  private var pingSentAt: Instant?
  private var pingsAnswered: UInt64 = 0
  private var heardOnlyPing = false
  private var isReading = false
  /// The peer's settings have come: told when all that was read with them is known.
  private var roomChanged = false
  private var flushIsDue = false
  private var idleSince: Instant
  private var isCountedIdle = false
  /// Streams as of the last look.
  private var streamsKnown = 0
  private var hasServed = false
  /// Why it ended, for those whose streams ended with it.
  private(set) var endReason = "the peer ended the connection"

  init(pool: HTTP2Upstream) {
    self.pool = pool
    target = pool.target
    worker = pool.worker
    bornAt = worker.driver.now
    heardAt = bornAt
    idleSince = bornAt
  }

  /// Streams that may be opened now.
  var room: Int {
    guard state == .open, let session, session.takesRequests else { return 0 }
    return min(session.peerConcurrentStreams, Self.streamsMax) - session.streamCount
  }

  var streamCount: Int { session?.streamCount ?? 0 }
  var isDialling: Bool { state == .dialling }
  var isClosed: Bool { state == .closed }
  /// It has served calls before and nothing goes on: the peer may be closing it at this moment.
  var isResting: Bool { hasServed && streamCount == 0 }

  /// The timer refers to it unowned.
  deinit { dialTimer?.cancel() }

  // MARK: Dialling

  func dial() {
    // No weak references: an object that has had one is counted in a table of its own from then on, with each call.
    let timer = LoopTimer { [unowned self] in
      guard state == .dialling else { return }
      let seconds = Double(worker.settings.connectTimeout) / 1e9
      close("no HTTP/2 settings within \(seconds) s of the dial")
    }
    dialTimer = timer
    worker.driver.timers.arm(timer, after: worker.settings.connectTimeout, from: bornAt)
    target.withSocketAddress { [self] result in
      guard state == .dialling else { return }
      switch result {
      case .failure(let error):
        // Not from here: this may be a call of the one who waits.
        worker.driver.later { [self] in close(error.description) }
      case .success(let address): stream = worker.driver.connect(to: address, handler: self)
      }
    }
  }

  package func streamOpened(_ stream: ByteStream) {
    guard state == .dialling else { return }
    session = HTTP2Session(.client, handler: self, buffers: worker.readers.buffers, now: worker.driver.now)
    flush()
  }

  package func http2SessionSettingsChanged(_ session: HTTP2Session) {
    if state == .dialling {
      dialTimer?.cancel()
      dialTimer = nil
      state = .open
      idleSince = worker.driver.now
      setIdle(true)
    }
    roomChanged = true
  }

  // MARK: Streams

  /// Begins a request on behalf of one who found `room`. Takes the list over. Nil when the peer is leaving after all.
  func request(_ list: HTTP2HeaderList, handler: any HTTP2StreamHandler) -> HTTP2Stream? {
    guard let session, state == .open else { return nil }
    if session.streamCount == 0 { heardAt = worker.driver.now }
    guard let stream = session.request(list, ends: false, handler: handler) else { return nil }
    streamsKnown = session.streamCount
    setIdle(false)
    return stream
  }

  /// An empty list for `request`.
  func takeList() -> HTTP2HeaderList? { session?.takeList() }

  /// Looks whether streams have ended: whoever had one hears it from the session, this connection does not.
  private func countStreams() {
    let count = streamCount
    guard count < streamsKnown else { return }
    streamsKnown = count
    hasServed = true
    if count == 0 {
      idleSince = worker.driver.now
      switch state {
      case .open:
        if pool.isRetired { return leave() }
        setIdle(true)
      case .leaving: return close(endReason)
      case .dialling, .closed: break
      }
    }
    if state == .open { pool.hasRoom(self) }
  }

  private func setIdle(_ isIdle: Bool) {
    guard isIdle != isCountedIdle else { return }
    isCountedIdle = isIdle
    worker.idleUpstreams += isIdle ? 1 : -1
  }

  // MARK: Bytes

  package func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    guard let session, state != .closed else { return }
    worker.metrics.add(.bytesFromNodes, bytes.count)
    if state == .dialling, !session.isEstablished, Self.isHTTP1(bytes) {
      return close("the peer answered in HTTP/1: it does not speak gRPC")
    }
    isReading = true
    let pings = pingsAnswered
    session.receive(bytes, now: worker.driver.now)
    isReading = false
    if roomChanged {
      roomChanged = false
      pool.hasRoom(self)
    }
    let heard = session.framesReceived &- framesHeard
    if heard > pingsAnswered &- pings {
      heardOnlyPing = false
      heardAt = worker.driver.now
    } else if heard > 0 {
      heardOnlyPing = true
      heardAt = worker.driver.now
    }
    framesHeard = session.framesReceived
    flush()
  }

  private static func isHTTP1(_ bytes: UnsafeRawBufferPointer) -> Bool {
    bytes.count >= 5 && ASCIIText.equals(UnsafeRawBufferPointer(rebasing: bytes.prefix(5)), "HTTP/")
  }

  package func http2SessionWantsFlush(_ session: HTTP2Session) {
    guard !isReading, !flushIsDue, state != .closed else { return }
    flushIsDue = true
    worker.driver.later { [self] in
      if flushIsDue { flush() }
    }
  }

  /// Everything that is to be sent in this turn goes out in one write, or in a few when it is much.
  private func flush() {
    flushIsDue = false
    guard let session, let stream, state != .closed else { return }
    // What waits in the socket's queue is enough for now; `streamDrained` goes on.
    guard stream.queuedBytes < ByteStream.highWatermark else { return }
    var hasMore = true
    while hasMore {
      let out = worker.scratch
      out.removeAll()
      hasMore = session.flush(into: out)
      guard !out.isEmpty else { break }
      worker.metrics.add(.bytesToNodes, out.count)
      if stream.write(out.bytes) != .open { break }
    }
    session.settle()
    if session.isOver { close(endReason) } else { countStreams() }
  }

  package func streamDrained(_ stream: ByteStream) { flush() }

  // MARK: The end

  package func http2Session(_ session: HTTP2Session, peerLeaves lastStreamID: Int32, _ code: HTTP2ErrorCode) {
    endReason = code == .noError ? "the peer is leaving" : "the peer said goodbye: \(code)"
    leave()
  }

  package func http2SessionPingAnswered(_ session: HTTP2Session, _ opaque: UInt64) {
    pingSentAt = nil
    pingsAnswered &+= 1
  }

  /// No new streams; the connection ends with its last one.
  func leave() {
    switch state {
    case .open:
      state = .leaving
      setIdle(false)
      pool.cannotTakeMore(self)
      worker.driver.later { [weak self] in self?.closeIfDone() }
    case .dialling:
      // Nobody can use it, and nothing was sent.
      worker.driver.later { [weak self] in
        guard let self, state == .dialling else { return }
        close(endReason)
      }
    case .leaving, .closed: break
    }
  }

  private func closeIfDone() {
    guard state == .leaving, streamCount == 0 else { return }
    close(endReason)
  }

  /// Ends it at once; open streams fail with `reason`.
  func close(_ reason: String) {
    guard state != .closed else { return }
    let wasDialling = state == .dialling
    setIdle(false)
    state = .closed
    endReason = reason
    dialTimer?.cancel()
    dialTimer = nil
    if let session {
      let out = worker.scratch
      out.removeAll()
      // What the peer is still to hear, GOAWAY perhaps.
      if streamCount == 0 { session.leave() }
      _ = session.flush(into: out)
      stream?.write(out.bytes)
    }
    stream?.close()
    stream = nil
    pool.closed(self, failedDial: wasDialling ? reason : nil)
    session?.connectionLost()
    session = nil
  }

  package func streamEnded(_ stream: ByteStream) {
    close("the peer closed the connection")
  }

  package func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    let why =
      switch end {
      case .refused: "connection refused"
      case .unreachable(let text), .reset(let text): text
      case .closedHere, .ended: "the peer closed the connection"
      }
    self.stream = nil
    close(why)
  }

  /// Each second: is the peer there, is it time to go?
  func sweep(_ now: Instant) {
    switch state {
    case .open, .leaving:
      if let pingSentAt {
        if now.nanoseconds(since: pingSentAt) >= Self.pingTimeout {
          stream?.reset()
          close("no answer to a ping within \(Self.pingTimeout / 1_000_000_000) s")
        }
      } else if streamCount > 0 {
        if now.nanoseconds(since: heardAt) >= (heardOnlyPing ? Self.nextPingAfter : Self.pingAfter) {
          pingSentAt = now
          session?.ping(pingsAnswered)
        }
      } else if now.nanoseconds(since: idleSince) >= worker.settings.upstreamIdleTimeout {
        return leave()
      }
      if now.nanoseconds(since: bornAt) >= worker.settings.upstreamConnectionAge { leave() }
    case .dialling, .closed: break
    }
  }

  package func http2Session(_ session: HTTP2Session, opened stream: HTTP2Stream, _ head: HTTP2Fields, ends: Bool)
    -> (any HTTP2StreamHandler)?
  { nil }
}
