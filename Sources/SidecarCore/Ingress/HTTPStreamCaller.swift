// A streaming call over plain HTTP/1: one JSON document a line in the request's body (NDJSON) or one JSON message at all,
// and the replies as lines (`application/x-ndjson`) or as Server-Sent Events (`text/event-stream`).
//
//   collecting ── callee connected ──▶ silent ── first reply, or a moment ──▶ replying ──▶ over
//        │                               └── fails ──▶ an ordinary HTTP error
//        └── fails ──▶ an ordinary HTTP error
//
// The head of the reply waits for a moment after the callee is connected: most services that refuse do so at once, and
// then the caller gets a status instead of a broken stream.

/// A caller that reads its replies from one HTTP response. Loop-confined.
final class HTTPStreamCaller: StreamCaller, ConnectionStream {
  enum ReplyForm {
    case ndjson
    /// Server-Sent Events, as the HTML standard has them.
    case events
  }

  private enum State {
    /// No callee yet; what the caller sends waits in the call.
    case collecting
    /// Connected; no head is written yet. To: replying, over.
    case silent
    case replying
    case over
  }

  /// How long the head of a reply waits for the first message, in nanoseconds.
  private static let headDelay: Int64 = 100_000_000
  private unowned let connection: IngressConnection
  private let worker: Worker
  private let call: StreamCall
  private let form: ReplyForm
  private let isChunked: Bool
  private var state = State.collecting
  /// The begin of a line whose end has not come yet; at most `bodyMax` bytes.
  private var line: ByteBuffer?
  private var lastWrite: Instant
  private var hasDrainedConnection = true
  private lazy var headTimer = LoopTimer { [unowned self] in self.startReply() }

  init(connection: IngressConnection, call: StreamCall, form: ReplyForm, isHTTP10: Bool) {
    self.connection = connection
    worker = connection.worker
    self.call = call
    self.form = form
    isChunked = !isHTTP10
    lastWrite = worker.driver.now
  }

  // MARK: Requests

  func connectionRead(_ bytes: UnsafeRawBufferPointer) {
    var rest = bytes
    while state != .over, let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
      take(UnsafeRawBufferPointer(rebasing: rest[rest.startIndex..<end]))
      rest = UnsafeRawBufferPointer(rebasing: rest[(end + 1)...])
    }
    guard state != .over, !rest.isEmpty else { return }
    let line = line ?? worker.readers.buffers.take()
    self.line = line
    line.append(rest)
    if line.count > worker.settings.bodyMax {
      fail(SidecarError(.bodyTooLarge, "a line is longer than \(worker.settings.bodyMax) bytes"))
    }
  }

  private func take(_ end: UnsafeRawBufferPointer) {
    guard let line else { return send(end) }
    self.line = nil
    line.append(end)
    if line.count > worker.settings.bodyMax {
      fail(SidecarError(.bodyTooLarge, "a line is longer than \(worker.settings.bodyMax) bytes"))
    } else {
      send(line.bytes)
    }
    worker.readers.buffers.give(line)
  }

  /// Hands on one line; empty ones are nothing.
  private func send(_ line: UnsafeRawBufferPointer) {
    guard line.contains(where: { $0 != 0x20 && $0 != 0x09 && $0 != 0x0D }) else { return }
    do throws(WireError) {
      let document = try JSONScanner.validate(line)
      if call.send(UnsafeRawBufferPointer(rebasing: line[document]), .json) == .congested { connection.holdBack() }
    } catch {
      fail(SidecarError(.badRequest, "a line is not JSON: \(error)"))
    }
  }

  /// The one message of a request that is no stream of its own.
  func sendOnly(_ message: UnsafeRawBufferPointer, _ format: PayloadFormat, isQuery: Bool) {
    call.isQuery = isQuery
    _ = call.send(message, format)
    call.finishSending()
  }

  func connectionEnded() {
    if line != nil { take(.none) }
    if state != .over { call.finishSending() }
  }

  func connectionFailed(_ error: WireError) { fail(SidecarError(error)) }

  func calleeDrained(_ call: StreamCall) { connection.welcomeMore() }

  // MARK: Replies

  func calleeReady(_ call: StreamCall) {
    guard state == .collecting else { return }
    state = .silent
    connection.begin(self, .body)
    worker.driver.timers.arm(headTimer, after: Self.headDelay, from: worker.driver.now)
  }

  func calleeAnswered(_ call: StreamCall, metadata: UnsafeRawBufferPointer) {}

  private func startReply() {
    guard state == .silent else { return }
    state = .replying
    headTimer.cancel()
    let out = worker.scratch
    out.removeAll()
    out.append("HTTP/1.1 200 OK\r\nContent-Type: ")
    switch form {
    case .ndjson: out.append("application/x-ndjson\r\n")
    // The last is for nginx and its kind, which else collect a reply before they pass it on.
    case .events: out.append("text/event-stream\r\nX-Accel-Buffering: no\r\n")
    }
    out.append("Cache-Control: no-store\r\n")
    if isChunked {
      HTTP1Writer.chunked(to: out)
      if form == .ndjson { out.append("Trailer: Micro-Error\r\n") }
    } else {
      connection.keepAlive = false
    }
    if let node = call.node { out.append(node.truthHeader.span) }
    connection.endHead(out)
    write(out.bytes)
  }

  private func write(_ bytes: UnsafeRawBufferPointer) {
    lastWrite = worker.driver.now
    if connection.write(bytes) == .congested { hasDrainedConnection = false }
  }

  func calleeSent(_ call: StreamCall, _ message: UnsafeRawBufferPointer) -> WriteState {
    startReply()
    guard state == .replying else { return .closed }
    let out = worker.scratch
    out.removeAll()
    let overhead = form == .ndjson ? 1 : 8
    if isChunked { HTTP1Writer.chunkStart(message.count + overhead, to: out) }
    if form == .events { out.append("data: ") }
    JSONText.appendOnOneLine(message, into: out)
    out.append(form == .ndjson ? "\n" : "\n\n")
    if isChunked { HTTP1Writer.chunkEnd(to: out) }
    write(out.bytes)
    return hasDrainedConnection ? .open : .congested
  }

  func connectionDrained() {
    hasDrainedConnection = true
    call.callerDrained()
  }

  func calleeEnded(_ call: StreamCall, _ error: SidecarError?, trailers: UnsafeRawBufferPointer) {
    switch state {
    case .over: return
    case .collecting, .silent:
      if let error {
        finish()
        return connection.answerStream(error: error, call)
      }
      // An answer without a message is an empty stream.
      if state == .collecting { connection.begin(self, .body) }
      state = .silent
      startReply()
    case .replying: break
    }
    finish()
    connection.recordStream(error.map { .failed($0.kind) } ?? .ok, call)
    writeEnd(error)
    connection.endStream()
  }

  /// An error is the last line, `{"error":{…}}`, and a trailer; with events it is an event named `error`. Their end in
  /// order is an event named `end`, since a browser takes a closed connection for a fault and connects again.
  private func writeEnd(_ error: SidecarError?) {
    let out = worker.scratch
    out.removeAll()
    let text = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(text) }
    error?.writeJSON(into: text)
    let last = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(last) }
    switch form {
    case .ndjson:
      if error != nil {
        last.append("{\"error\":")
        JSONText.appendOnOneLine(text.bytes, into: last)
        last.append("}\n")
      }
    case .events:
      last.append(error == nil ? "event: end\ndata: {}" : "event: error\ndata: ")
      JSONText.appendOnOneLine(text.bytes, into: last)
      last.append("\n\n")
    }
    guard isChunked else { return write(last.bytes) }
    if !last.isEmpty {
      HTTP1Writer.chunkStart(last.count, to: out)
      out.append(last.bytes)
      HTTP1Writer.chunkEnd(to: out)
    }
    if error != nil, form == .ndjson {
      HTTP1Writer.lastChunkBeforeTrailers(to: out)
      HTTP1Writer.field("Micro-Error", text.bytes, to: out)
      out.append("\r\n")
    } else {
      HTTP1Writer.lastChunk(to: out)
    }
    write(out.bytes)
  }

  // MARK: Ends

  /// The caller broke a rule: the call is cancelled, and the caller told as well as it still can be.
  private func fail(_ error: SidecarError) {
    let before = state
    guard before != .over else { return }
    finish()
    call.cancel()
    switch before {
    case .collecting, .silent: connection.answerStream(error: error, call)
    case .replying, .over:
      connection.recordStream(.failed(error.kind), call)
      connection.keepAlive = false
      writeEnd(error)
      connection.endStream()
    }
  }

  private func finish() {
    state = .over
    headTimer.cancel()
    if let line { worker.readers.buffers.give(line) }
    line = nil
  }

  func connectionDraining() {}

  func connectionSweep(_ now: Instant, quietNanoseconds: Int64) {
    // Proxies and browsers cut silent connections.
    let isSilent = now.nanoseconds(since: lastWrite) > worker.settings.pingInterval / 2
    guard state == .replying, isSilent, hasDrainedConnection else { return }
    writeNothing()
  }

  func connectionProbe() {
    switch state {
    case .replying: writeNothing()
    case .silent: if isChunked { connection.writeContinue() }
    case .collecting, .over: break
    }
  }

  private func writeNothing() {
    // NDJSON readers skip empty lines, and event sources comments.
    let text: StaticString = form == .ndjson ? "\n" : ":\n\n"
    let out = worker.scratch
    out.removeAll()
    if isChunked { HTTP1Writer.chunkStart(text.utf8CodeUnitCount, to: out) }
    out.append(text)
    if isChunked { HTTP1Writer.chunkEnd(to: out) }
    write(out.bytes)
  }

  func connectionClosed() {
    guard state != .over else { return }
    finish()
    connection.recordStream(.failed(.cancelled), call)
    call.cancel()
  }
}
