// An app's streaming call over a WebSocket: `GET /greeter/chat/talk` with `Upgrade: websocket`. docs/streams.md has the
// mapping for its users.
//
//   waiting ── callee connected: 101 ──▶ open ── callee's end, drain, a broken rule: our Close ──▶ closing ──▶ over
//      │                                   └── the client's Close, or its end: the call is cancelled ──────────▲
//      └── fails ──▶ an ordinary HTTP error
//
// The upgrade waits for the callee, so whatever fails before it is a status with the framework's error as JSON, which
// every client shows better than a Close.

/// A caller that speaks WebSocket. Loop-confined.
final class WebSocketCaller: StreamCaller, ConnectionStream {
  private enum State {
    /// No callee yet. To: open, over.
    case waiting
    /// Messages pass both ways. To: closing, over.
    case open
    /// Our Close is written, the client's is awaited, at most for `closeTimeout`. To: over.
    case closing
    case over
  }

  /// What the subprotocols `json` and `proto` fix; without one the client's first message does.
  private static let subprotocols = ["json", "proto"]
  /// Pings without a sign of life after which a silent client is given up; `DataPathSettings.pingInterval` says when one
  /// is due.
  private static let missedPingsMax = 2
  /// How long the client's Close may take after ours, in nanoseconds.
  private static let closeTimeout: Int64 = 5_000_000_000
  /// Close codes of the framework's errors: 4000 and its code.
  private static let errorCodeBase = 4000

  private unowned let connection: IngressConnection
  private let worker: Worker
  private let call: StreamCall
  /// The fields of the 101.
  private var answer: ByteBuffer?
  private let agreement: WebSocketAgreement
  private var session: WebSocketSession?
  private var state = State.waiting
  /// The reply format is not settled yet.
  private var takesFirstMessagesForm: Bool
  private var hasFinishedSending = false
  /// The client does not take what we write; pongs are left out meanwhile, or a client that only pings would fill memory.
  private var isCongested = false
  /// The callee wants no messages; then silence is our own doing.
  private var isHeldBack = false
  private var pingsSent: Int64 = 0
  private var closedAt = Instant(nanoseconds: 0)

  /// Checks the handshake; throws with the status that answers a wrong one.
  init(connection: IngressConnection, call: StreamCall, head: HTTP1Head) throws(WireError) {
    self.connection = connection
    worker = connection.worker
    self.call = call
    let fields = ByteBuffer(capacity: 256)
    // On one host compressing costs more than it saves.
    agreement = try WebSocketHandshake.accept(
      head, subprotocols: Self.subprotocols, deflate: connection.isFromThisHost ? nil : .withoutContext, fields: fields)
    answer = fields
    takesFirstMessagesForm = agreement.subprotocol == nil
    call.replyFormat = agreement.subprotocol == "proto" ? .protobuf : .json
  }

  // MARK: From the callee

  func calleeReady(_ call: StreamCall) {
    guard state == .waiting, let answer else { return }
    state = .open
    self.answer = nil
    connection.keepAlive = true  // `Connection` says `Upgrade`; the WebSocket ends on its own.
    let out = worker.scratch
    out.removeAll()
    HTTP1Writer.statusLine(101, to: out)
    out.append(answer.bytes)
    if let node = call.node { out.append(node.truthHeader.span) }
    connection.endHead(out)
    session = WebSocketSession(
      .server, messageMax: worker.settings.bodyMax, deflate: agreement.deflate, buffers: worker.readers.buffers,
      deflaters: worker.deflaters, maskSeed: 0)
    connection.begin(self, .raw)
    write(out.bytes)
  }

  func calleeAnswered(_ call: StreamCall, metadata: UnsafeRawBufferPointer) {}

  func calleeSent(_ call: StreamCall, _ message: UnsafeRawBufferPointer) -> WriteState {
    guard state == .open else { return .closed }
    let out = worker.scratch
    out.removeAll()
    let kind: WebSocketKind = call.replyFormat == .json ? .text : .binary
    guard kind == .binary || UTF8Stream.isValid(message) else {
      // A text frame with anything else would make the client break off and blame us.
      fail(SidecarError(.badUpstreamReply, "the service's message is not UTF-8"))
      return .closed
    }
    let rest = session?.send(kind, message, into: out) ?? .none
    write(out.bytes, rest)
    return isCongested ? .congested : .open
  }

  func calleeDrained(_ call: StreamCall) {
    isHeldBack = false
    connection.welcomeMore()
  }

  func calleeEnded(_ call: StreamCall, _ error: SidecarError?, trailers: UnsafeRawBufferPointer) {
    switch state {
    case .waiting:
      if let error {
        state = .over
        return connection.answerStream(error: error, call)
      }
      // It ended before anything was heard of it: an empty stream.
      calleeReady(call)
    case .open: break
    case .closing, .over: return
    }
    connection.recordStream(error.map { .failed($0.kind) } ?? .ok, call)
    guard let error else { return close(WebSocketCloseCode.normal, "") }
    close(Self.closeCode(error), error.microError.detail)
  }

  private static func closeCode(_ error: SidecarError) -> UInt16 {
    UInt16(errorCodeBase + ((1...999).contains(error.code) ? error.code : 500))
  }

  // MARK: From the client

  func connectionRead(_ bytes: UnsafeRawBufferPointer) {
    pingsSent = 0
    var input = bytes
    let out = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(out) }
    reading: while state == .open || state == .closing {
      let before = out.count
      guard let event = session?.receive(&input, into: out) else { break }
      switch event {
      case .needMore: break reading
      case .ping: if isCongested { out.truncate(to: before) }
      case .pong: break
      case .message(let kind, let payload):
        guard state == .open else { continue }
        // What is due for earlier frames goes out before what the message may cause.
        flush(out)
        received(kind, payload)
      case .closed:
        flush(out)
        leave()
        return
      case .failed(let failure):
        flush(out)
        leave(
          .failed(failure.code == WebSocketCloseCode.messageTooBig ? .bodyTooLarge : .badRequest), listening: true)
        return
      }
    }
    flush(out)
  }

  private func received(_ kind: WebSocketKind, _ payload: UnsafeRawBufferPointer) {
    if kind == .text, payload.isEmpty {
      hasFinishedSending = true
      call.finishSending()
      return
    }
    guard !hasFinishedSending else {
      return fail(SidecarError(.badRequest, "a message after the empty one that ends the requests"))
    }
    if takesFirstMessagesForm {
      takesFirstMessagesForm = false
      call.replyFormat = kind == .text ? .json : .protobuf
    }
    guard kind == .text else { return hand(payload, .protobuf) }
    do throws(WireError) {
      let document = try JSONScanner.validate(payload)
      hand(UnsafeRawBufferPointer(rebasing: payload[document]), .json)
    } catch {
      fail(SidecarError(.badRequest, "a text message is not JSON: \(error)"))
    }
  }

  private func hand(_ message: UnsafeRawBufferPointer, _ format: PayloadFormat) {
    guard call.send(message, format) == .congested else { return }
    isHeldBack = true
    connection.holdBack()
  }

  func connectionEnded() {
    // Without a Close, and nobody left to send one to.
    leave()
  }

  func connectionFailed(_ error: WireError) { leave() }

  func connectionDrained() {
    isCongested = false
    call.callerDrained()
  }

  // MARK: Ends

  /// The client broke a rule of ours rather than of RFC 6455: the call is cancelled, the client told.
  private func fail(_ error: SidecarError) {
    guard state == .open else { return }
    call.cancel()
    connection.recordStream(.failed(error.kind), call)
    close(Self.closeCode(error), error.detail)
  }

  /// Begins the closing handshake.
  private func close(_ code: UInt16, _ reason: String) {
    guard state == .open else { return }
    state = .closing
    closedAt = worker.driver.now
    let out = worker.scratch
    out.removeAll()
    session?.close(code, reason, into: out)
    write(out.bytes)
    // The client's Close may lie behind messages that nobody wants any more.
    if isHeldBack {
      isHeldBack = false
      connection.welcomeMore()
    }
  }

  /// The client has gone, or both Closes are written.
  private func leave(_ outcome: MetricOutcome = .failed(.cancelled), listening: Bool = false) {
    if state == .open {
      call.cancel()
      connection.recordStream(outcome, call)
    }
    end(listening: listening)
  }

  private func end(listening: Bool = false) {
    guard state != .over else { return }
    state = .over
    session = nil
    connection.endStream(listening: listening)
  }

  func connectionDraining() {
    guard state == .open else { return }
    call.cancel()
    connection.recordStream(.failed(.cancelled), call)
    close(WebSocketCloseCode.goingAway, "the sidecar is about to stop")
  }

  func connectionSweep(_ now: Instant, quietNanoseconds: Int64) {
    switch state {
    case .closing: if now.nanoseconds(since: closedAt) > Self.closeTimeout { end(listening: true) }
    case .open:
      guard !isHeldBack, quietNanoseconds > worker.settings.pingInterval * (pingsSent + 1) else { return }
      let out = worker.scratch
      out.removeAll()
      if pingsSent == Self.missedPingsMax {
        call.cancel()
        connection.recordStream(.failed(.cancelled), call)
        close(WebSocketCloseCode.policyViolation, "\(Self.missedPingsMax) pings were not answered")
        return
      }
      pingsSent += 1
      session?.ping(.none, into: out)
      write(out.bytes)
    case .waiting, .over: break
    }
  }

  func connectionClosed() {
    let before = state
    state = .over
    session = nil
    guard before == .waiting || before == .open else { return }
    connection.recordStream(.failed(.cancelled), call)
    call.cancel()
  }

  // MARK: Bytes

  private func write(_ bytes: UnsafeRawBufferPointer, _ rest: UnsafeRawBufferPointer = .none) {
    if connection.write(bytes, rest) == .congested { isCongested = true }
  }

  private func flush(_ out: ByteBuffer) {
    guard !out.isEmpty else { return }
    write(out.bytes)
    out.removeAll()
  }
}
