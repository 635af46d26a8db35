// One HTTP/2 connection without its socket, as server or client: bytes in, events out; frames out when asked. The protocol
// is nghttp2's (RFC 9113 and 7541 through its memory API); this is what stands between it and the data path:
//
//   receive(bytes) ─▶ nghttp2 ─▶ callbacks ─▶ HTTP2SessionHandler (connection), HTTP2StreamHandler (each stream)
//   flush(into:)   ◀─ nghttp2 ◀─ HTTP2Stream.send, respond, finish, reset
//
// Windows are given back as readers take bytes, never by themselves: a slow reader stops its peer. Bytes to be sent wait
// in their stream until the peer's windows let them go. Priorities are ignored and said to be (RFC 9218).
//
// Events about one stream come in order. Those that arise while frames are made (a stream's end, a drained queue) are told
// after them, so that a handler may call anything. Limits and floods: `HTTP2Limits`.

import CNGHTTP2

/// Hears what concerns a whole connection, on its loop, and never from inside a call into the session, but for
/// `http2SessionWantsFlush`.
package protocol HTTP2SessionHandler: AnyObject {
  /// Server: a request has begun. The handler returned hears the rest of it; nil refuses the stream. The stream may be
  /// answered at once. `ends`: there is no body; `http2StreamEnded` follows.
  func http2Session(_ session: HTTP2Session, opened stream: HTTP2Stream, _ head: HTTP2Fields, ends: Bool)
    -> (any HTTP2StreamHandler)?
  /// The peer's settings have come, the first ones or others.
  func http2SessionSettingsChanged(_ session: HTTP2Session)
  /// The peer takes no new streams. Ours above `lastStreamID` have been closed with `.refusedStream`.
  func http2Session(_ session: HTTP2Session, peerLeaves lastStreamID: Int32, _ code: HTTP2ErrorCode)
  /// The answer to `ping`.
  func http2SessionPingAnswered(_ session: HTTP2Session, _ opaque: UInt64)
  /// There is something for `flush`: do it at the end of this turn. Once until then.
  func http2SessionWantsFlush(_ session: HTTP2Session)
}

package final class HTTP2Session {
  package enum Role: Sendable { case server, client }

  package let role: Role
  let raw: OpaquePointer
  let buffers: BufferPool
  /// Set before anything else is called, and nil once the connection is gone.
  package unowned(unsafe) var handler: (any HTTP2SessionHandler)?

  private(set) var streams: [HTTP2Stream] = []
  private var drainedQueue: [HTTP2Stream] = []
  private var closedQueue: [(HTTP2Stream, HTTP2ErrorCode)] = []
  private var freeLists: [HTTP2HeaderList] = []
  private static let freeListsMax = 4

  let fields = HTTP2Fields()
  /// A header block that breaks a rule in a way nghttp2 would let pass.
  var isBlockMalformed = false
  /// Where frames go while `flush` runs.
  unowned(unsafe) var output: ByteBuffer?

  var resets: FloodBudget
  var control: FloodBudget
  /// Why the connection has to end, found inside a callback.
  private(set) var violation: HTTP2ErrorCode?
  /// The peer broke the protocol beyond repair: nothing more is read.
  package private(set) var isFailed = false
  private var isReceiving = false
  private var isFlushing = false
  private var flushWanted = false
  private var isSettling = false
  /// A final GOAWAY of ours is under way or sent.
  package private(set) var isLeaving = false
  private var scanner: HTTP2FrameScanner
  /// Frames received, of whatever type.
  package private(set) var framesReceived: UInt64 = 0
  /// Server: the highest stream the client has opened, and the ids below it that it has passed over, the last few.
  var lastOpened: Int32 = -1
  var passedOver: [ClosedRange<Int32>] = []
  /// Streams that were reset from here, the last ones: what the peer had sent before it heard of that may still come.
  private var resetHere: [Int32] = []
  private var resetHereNext = 0
  /// The largest window that the peer grants a stream, and what it grants at first, as the SETTINGS at hand began.
  var largestWindow: Int64 = 0
  var peerInitialWindow: Int64 = 0
  /// Whether the peer's first SETTINGS have come.
  package internal(set) var isEstablished = false

  /// `handler` must stay until `connectionLost`.
  package init(_ role: Role, handler: (any HTTP2SessionHandler)? = nil, buffers: BufferPool, now: Instant) {
    self.role = role
    self.handler = handler
    self.buffers = buffers
    resets = FloodBudget(burst: HTTP2Limits.resetsBurst, perSecond: HTTP2Limits.resetsPerSecond, now: now)
    control = FloodBudget(burst: HTTP2Limits.controlBurst, perSecond: HTTP2Limits.controlPerSecond, now: now)
    scanner = HTTP2FrameScanner(skip: role == .server ? HTTP2FrameScanner.prefaceBytes : 0)
    raw = HTTP2Callbacks.makeSession(role)
    // Only now is there a `self` to point to.
    nghttp2_session_set_user_data(raw, Unmanaged.passUnretained(self).toOpaque())
    HTTP2Callbacks.submitSettings(raw, role)
    flushWanted = true
  }

  deinit { nghttp2_session_del(raw) }

  // MARK: Bytes

  /// Takes what the peer has sent. Calls handlers; they may call anything but `receive`.
  package func receive(_ bytes: UnsafeRawBufferPointer, now: Instant) {
    guard !isFailed, !bytes.isEmpty else { return }
    precondition(!isReceiving, "bytes were handed in from inside a handler")
    resets.refill(now)
    control.refill(now)
    isReceiving = true
    var input = bytes
    while let head = scanner.next(&input) {
      framesReceived &+= 1
      scanned(head)
    }
    if let violation {
      isReceiving = false
      fail(violation)
      return
    }
    let taken = nghttp2_session_mem_recv(
      raw, bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), bytes.count)
    isReceiving = false
    if let violation {
      fail(violation)
    } else if taken < 0 {
      fail(HTTP2Callbacks.errorCode(Int32(truncatingIfNeeded: taken)))
    } else if nghttp2_session_get_outbound_queue_size(raw) > HTTP2Limits.outboundFramesMax {
      fail(.enhanceYourCalm)
    }
    settle()
    wantFlushIfNeeded()
  }

  /// Appends frames to `out`, some `HTTP2Limits.flushMax` bytes at most, and tells whether there are more. Handlers are
  /// not called: `settle` does that, after the bytes have been used.
  package func flush(into out: ByteBuffer) -> Bool {
    guard !isFlushing, !isReceiving else { return false }
    isFlushing = true
    flushWanted = false
    output = out
    defer {
      isFlushing = false
      output = nil
    }
    let end = out.count + HTTP2Limits.flushMax
    while out.count < end {
      var data: UnsafePointer<UInt8>?
      let count = nghttp2_session_mem_send(raw, &data)
      if count < 0 {
        isFailed = true
        return false
      }
      if count == 0 {
        guard let violation, !isFailed else { return false }
        // The reset that went over the budget is out; so is GOAWAY then.
        fail(violation)
        continue
      }
      out.append(UnsafeRawBufferPointer(start: data, count: count))
    }
    return true
  }

  /// Tells handlers what came up while frames were made. To be called after each `flush`.
  package func settle() {
    guard !isReceiving, !isSettling, !drainedQueue.isEmpty || !closedQueue.isEmpty else { return }
    isSettling = true
    defer { isSettling = false }
    // By index: a handler may add to them.
    var index = 0
    while index < drainedQueue.count {
      let stream = drainedQueue[index]
      stream.isInDrainedQueue = false
      if stream.session != nil, !stream.isFinished, !stream.isCongested { stream.handler?.http2StreamDrained(stream) }
      index += 1
    }
    drainedQueue.removeAll(keepingCapacity: true)
    index = 0
    while index < closedQueue.count {
      let (stream, code) = closedQueue[index]
      let handler = stream.handler
      stream.handler = nil
      handler?.http2StreamClosed(stream, code)
      index += 1
    }
    closedQueue.removeAll(keepingCapacity: true)
  }

  /// The connection may be closed: nothing more is to be read or written.
  package var isOver: Bool {
    nghttp2_session_want_write(raw) == 0 && (isFailed || nghttp2_session_want_read(raw) == 0)
  }

  /// The byte stream is gone, or about to be: every stream is closed with `code`, and the handler hears nothing more.
  package func connectionLost(_ code: HTTP2ErrorCode = .internalError) {
    handler = nil
    isFailed = true
    for stream in streams {
      stream.listIndex = -1
      stream.closed()
      closedQueue.append((stream, code))
    }
    streams.removeAll()
    settle()
  }

  @inline(__always) func wantFlush() {
    guard !flushWanted, !isFlushing else { return }
    flushWanted = true
    handler?.http2SessionWantsFlush(self)
  }

  @inline(__always) func wantFlushIfNeeded() {
    if !flushWanted, nghttp2_session_want_write(raw) != 0 { wantFlush() }
  }

  // MARK: Streams

  /// Streams that are open or half closed.
  package var streamCount: Int { streams.count }

  /// An empty list, to be filled and handed to a call that sends it.
  package func takeList() -> HTTP2HeaderList { freeLists.popLast() ?? HTTP2HeaderList() }

  /// Takes back a list that was not sent after all, or has been.
  package func give(_ list: HTTP2HeaderList) {
    guard freeLists.count < Self.freeListsMax else { return }
    list.removeAll()
    freeLists.append(list)
  }

  /// Client: how many streams the peer lets us have at once.
  package var peerConcurrentStreams: Int {
    Int(nghttp2_session_get_remote_settings(raw, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS))
  }

  /// Client: whether a request may be sent at all: the peer has not said goodbye and stream ids are left.
  package var takesRequests: Bool {
    !isFailed && handler != nil && nghttp2_session_check_request_allowed(raw) != 0
  }

  /// Client: sends a request's head; `ends`: without a body. Takes the list over. Nil when none may be sent.
  package func request(_ list: HTTP2HeaderList, ends: Bool, handler: any HTTP2StreamHandler) -> HTTP2Stream? {
    defer { give(list) }
    guard role == .client, takesRequests else { return nil }
    let stream = HTTP2Stream(session: self, id: 0, hasHead: true)
    let pointer = Unmanaged.passUnretained(stream).toOpaque()
    var provider = HTTP2Callbacks.dataProvider(pointer)
    let id = list.withVectors { vectors, count in
      withUnsafePointer(to: &provider) { nghttp2_submit_request(raw, nil, vectors, count, ends ? nil : $0, pointer) }
    }
    guard id > 0 else { return nil }
    stream.id = id
    stream.handler = handler
    if ends { stream.finish() }
    add(stream)
    wantFlush()
    return stream
  }

  func submitResponse(_ stream: HTTP2Stream, _ list: HTTP2HeaderList, ends: Bool) {
    var provider = HTTP2Callbacks.dataProvider(Unmanaged.passUnretained(stream).toOpaque())
    _ = list.withVectors { vectors, count in
      withUnsafePointer(to: &provider) { nghttp2_submit_response(raw, stream.id, vectors, count, ends ? nil : $0) }
    }
    wantFlush()
  }

  func add(_ stream: HTTP2Stream) {
    stream.listIndex = streams.count
    streams.append(stream)
  }

  func remove(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {
    let index = stream.listIndex
    guard streams.indices.contains(index), streams[index] === stream else { return }
    let last = streams.removeLast()
    if last !== stream {
      streams[index] = last
      last.listIndex = index
    }
    stream.listIndex = -1
    stream.closed()
    closedQueue.append((stream, code))
  }

  func drained(_ stream: HTTP2Stream) {
    guard !stream.isInDrainedQueue else { return }
    stream.isInDrainedQueue = true
    drainedQueue.append(stream)
  }

  // MARK: The connection

  /// Sends PING; `http2SessionPingAnswered` follows.
  package func ping(_ opaque: UInt64) {
    var bytes = opaque.bigEndian
    withUnsafeBytes(of: &bytes) {
      _ = nghttp2_submit_ping(
        raw, UInt8(NGHTTP2_FLAG_NONE.rawValue), $0.baseAddress?.assumingMemoryBound(to: UInt8.self))
    }
    wantFlush()
  }

  /// Server, first step of a graceful end: tells the client to open no more streams, while those on their way are still
  /// taken (RFC 9113 §6.8). `leave` follows a round trip later.
  package func announceLeaving() {
    guard role == .server, !isFailed, !isLeaving else { return }
    _ = nghttp2_submit_shutdown_notice(raw)
    wantFlush()
  }

  /// Takes no more streams; those that are open go on. `isOver` once they have ended.
  package func leave(_ code: HTTP2ErrorCode = .noError) {
    guard !isFailed, !isLeaving else { return }
    isLeaving = true
    let last = nghttp2_session_get_last_proc_stream_id(raw)
    _ = nghttp2_submit_goaway(raw, UInt8(NGHTTP2_FLAG_NONE.rawValue), last, code.rawValue, nil, 0)
    wantFlush()
  }

  /// Ends the connection at once with GOAWAY: open streams are given up. `isOver` once it is written.
  package func fail(_ code: HTTP2ErrorCode) {
    guard !isFailed else { return }
    isFailed = true
    isLeaving = true
    _ = nghttp2_session_terminate_session(raw, code.rawValue)
    wantFlush()
  }

  /// RST_STREAM of ours is out.
  func noteReset(_ id: Int32) {
    guard role == .server else { return }
    if resetHere.count < HTTP2Limits.resetsRemembered {
      resetHere.append(id)
    } else {
      resetHere[resetHereNext] = id
      resetHereNext = (resetHereNext + 1) % resetHere.count
    }
  }

  func wasReset(_ id: Int32) -> Bool { resetHere.contains(id) }

  /// Ends the connection once the callback at hand has returned.
  func violated(_ code: HTTP2ErrorCode) { if violation == nil { violation = code } }
}
