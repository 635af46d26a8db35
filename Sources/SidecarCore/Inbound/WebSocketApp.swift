// A stream of the framework delivered to the app as a WebSocket: `Chat.Talk` becomes `GET /Chat/Talk` with an upgrade and
// the metadata as headers. docs/streams.md has the mapping for its users.
//
//   dialling ──▶ upgrading ── 101 ──▶ open ── the app's Close, its empty text message ──▶ closing ──▶ over
//      │             ├── no WebSocket here: declined │                                       ▲
//      │             └── any other status ▶ refused  │                                       │
//      └── fails: refused, nothing was sent          └── the call is over: our Close ────────┘
//
// Declined: an app that was not said to serve the stream this way is asked for lines of JSON instead (`LinesApp`).
//
// Text messages are JSON, binary ones protobuf, both ways; an empty text message says that its sender has no more.

/// The app's end of a streaming call. Loop-confined; alive as long as its socket.
final class WebSocketApp: StreamCallee, StreamHandler {
  private enum State {
    /// To: upgrading, over.
    case dialling
    /// The request is written. To: open, refused, over.
    case upgrading
    /// The answer is a plain reply with that status; its body says why. To: over.
    case refused(Int)
    /// To: closing, over.
    case open
    /// The call is over; both Closes and the end of the connection are awaited, at most for `closeTimeout`. To: over.
    case closing
    case over
  }

  /// How long the app may take to end the connection once the call is over, in nanoseconds.
  private static let closeTimeout: Int64 = 2_000_000_000
  /// Close codes from 4000 + 100 on are the framework's codes.
  private static let errorCodes: ClosedRange<UInt16> = 4100...4999

  private let call: StreamCall
  private unowned(unsafe) let worker: Worker
  private let app: UpstreamTarget
  private var stream: ByteStream?
  private var parser = HTTP1Parser(.client)
  /// The body of a refusal, at most `AppCall.detailMax` bytes and those of one read.
  private let refusal = ByteBuffer()
  private var session: WebSocketSession?
  private var state = State.dialling
  private var key: [UInt8] = []
  /// What the caller sends, and what binary messages are.
  private var binaryFormat = PayloadFormat.protobuf
  private var sendsText = true
  /// Among the app's connections.
  private var isCounted = false
  private lazy var timer = LoopTimer { [unowned self] in self.timePassed() }

  /// Starts to dial; reports from a later turn.
  init(_ call: StreamCall, app: UpstreamTarget) {
    self.call = call
    self.app = app
    worker = call.worker
    isCounted = app.reserveConnection()
    guard isCounted else {
      worker.driver.later { [self] in
        guard case .dialling = state else { return }
        release()
        call.calleeEnded(error(.overloaded, "\(UpstreamTarget.connectionsMaxDefault) calls to the app are under way"))
      }
      return
    }
    worker.timers.arm(timer, after: worker.settings.connectTimeout, from: worker.driver.now)
    app.withSocketAddress { [weak self] result in
      guard let self, case .dialling = state else { return }
      switch result {
      case .success(let address): stream = worker.driver.connect(to: address, handler: self)
      case .failure(let error): worker.driver.later { self.refused(error.description) }
      }
    }
  }

  private var isOpen: Bool { if case .open = state { true } else { false } }

  private var errorID: String { worker.settings.serviceName ?? "go.micro.sidecar" }

  private func error(_ kind: SidecarError.Kind, _ detail: String) -> SidecarError {
    SidecarError(kind, detail, id: errorID)
  }

  // MARK: From the call

  /// JSON wherever that can be had: apps without code generated from `.proto` files read nothing else.
  func format(for caller: PayloadFormat) -> PayloadFormat {
    sendsText = caller == .json || caller == .protobuf && isTranslatable
    if caller != .json { binaryFormat = caller }
    return sendsText ? .json : caller
  }

  private var isTranslatable: Bool {
    do throws(SidecarError) {
      return try worker.translator.method(worker.settings.fromService.span, call.endpoint.span) != nil
    } catch {
      return true  // Several descriptors fit: the first message fails and says which.
    }
  }

  func send(_ message: UnsafeRawBufferPointer) -> WriteState {
    guard case .open = state else { return .closed }
    let out = worker.scratch
    out.removeAll()
    var message = message
    if sendsText {
      do throws(WireError) {
        message = UnsafeRawBufferPointer(rebasing: message[try JSONScanner.validate(message)])
      } catch {
        let error = self.error(.badRequest, "a message is not JSON: \(error)")
        close(WebSocketCloseCode.goingAway, "the call is over")
        worker.driver.later { [self] in call.calleeEnded(error) }
        return .closed
      }
    }
    let rest = session?.send(sendsText ? .text : .binary, message, into: out) ?? .none
    return write(out.bytes, rest)
  }

  func finishSending() {
    guard case .open = state else { return }
    let out = worker.scratch
    out.removeAll()
    _ = session?.send(.text, .none, into: out)
    _ = write(out.bytes)
  }

  func resumeReplies() { stream?.resumeReading() }

  func abandon() {
    switch state {
    case .dialling, .upgrading, .refused:
      release()
      stream?.reset()
    case .open: close(WebSocketCloseCode.goingAway, "the call is over")
    case .closing, .over: break
    }
  }

  // MARK: Handshake

  package func streamOpened(_ stream: ByteStream) {
    guard case .dialling = state else { return }
    state = .upgrading
    timer.cancel()
    key = WebSocketHandshake.makeKey(&worker.driver.random)
    let out = worker.scratch
    out.removeAll()
    out.append("GET ")
    AppCall.appendPath(call.endpoint.span, to: out)
    out.append(" HTTP/1.1\r\n")
    HTTP1Writer.field("Host", app.hostHeader.span, to: out)
    // Compressing would cost more than it saves: the app is next door.
    WebSocketHandshake.appendRequest(key: key, deflate: nil, into: out)
    if call.deadline != .distantFuture {
      AppCall.appendTimeout(call.deadline.nanoseconds(since: worker.driver.now), to: out)
    }
    if let metadata = call.metadata { out.append(metadata.bytes) }
    HTTP1Writer.endHead(to: out)
    _ = write(out.bytes)
  }

  package func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    worker.metrics.add(.bytesFromNodes, bytes.count)
    var input = bytes
    if session == nil { upgrade(&input) }
    if session != nil { consume(&input) }
  }

  private func upgrade(_ input: inout UnsafeRawBufferPointer) {
    do throws(WireError) {
      while true {
        switch state {
        case .upgrading, .refused: break
        // What follows the head of a 101 is the WebSocket's; the head's end is still the parser's.
        case .open:
          _ = try parser.next(&input)
          return call.calleeConnected()
        case .dialling, .closing, .over: return
        }
        switch try parser.next(&input) {
        case .needMore: return
        case .head: answered(parser.head)
        case .body(let bytes): refusal.append(UnsafeRawBufferPointer(rebasing: bytes.prefix(AppCall.detailMax)))
        case .end: refusalEnded()
        }
        if refusal.count > AppCall.detailMax { refusalEnded() }
      }
    } catch {
      end(self.error(.badUpstreamReply, "the app's answer to the upgrade cannot be read: \(error)"))
    }
  }

  private func answered(_ head: HTTP1Head) {
    switch head.status {
    case 101:
      do throws(WireError) {
        _ = try WebSocketHandshake.check(head, key: key, deflate: nil)
      } catch {
        return end(self.error(.badUpstreamReply, "the app's upgrade is wrong: \(error.rule)"))
      }
      session = WebSocketSession(
        .client, messageMax: worker.settings.bodyMax, deflate: nil, buffers: worker.readers.buffers,
        deflaters: worker.deflaters, maskSeed: worker.driver.random.next())
      state = .open
      if form == nil { worker.learned(.websocket, of: call.endpoint.text) }
    case ..<200: parser.expectResponse(toHEAD: false)
    // What servers without a WebSocket at that path say; 401, 403, 429 and 5xx are about the call.
    case 200..<400, 400, 404, 405, 426, 501:
      guard form == nil else { fallthrough }
      worker.learned(.ndjson, of: call.endpoint.text)
      release()
      stream?.reset()
      call.calleeDeclined()
    default: state = .refused(head.status)
    }
  }

  /// How the app takes this stream, if that is known.
  private var form: AppStream.Form? { worker.appStreamForm(call.endpoint.text) }

  /// The body of a plain reply is here, or as much of it as an error's detail may hold.
  private func refusalEnded() {
    guard case .refused(let status) = state else { return }
    guard (200..<400).contains(status) || status == 426 else {
      return end(AppCall.appError(status, refusal.bytes, id: errorID))
    }
    var error = error(
      .upstreamError,
      "the app answered \(status) where the stream \(call.endpoint.text) should become a WebSocket")
    error.code = 501
    end(error)
  }

  // MARK: Messages

  private func consume(_ input: inout UnsafeRawBufferPointer) {
    let out = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(out) }
    while let event = session?.receive(&input, into: out) {
      if !out.isEmpty {
        _ = write(out.bytes)
        out.removeAll()
      }
      switch event {
      case .needMore: return
      case .ping, .pong: break
      case .message(let kind, let payload): if isOpen { received(kind, payload) }
      case .closed(let code, let reason):
        let error = error(code, String(decoding: reason, as: UTF8.self))
        awaitEnd { call.calleeEnded(error) }
        return
      case .failed(let failure):
        let error = self.error(.badUpstreamReply, "the app broke a rule of WebSocket: \(failure.reason)")
        awaitEnd { call.calleeEnded(error) }
        return
      }
    }
  }

  private func received(_ kind: WebSocketKind, _ payload: UnsafeRawBufferPointer) {
    var message = payload
    if kind == .text {
      if payload.isEmpty {
        close(WebSocketCloseCode.normal, "")
        return call.calleeEnded(nil)
      }
      do throws(WireError) {
        message = UnsafeRawBufferPointer(rebasing: payload[try JSONScanner.validate(payload)])
      } catch {
        close(WebSocketCloseCode.unsupportedData, "text that is not JSON")
        return call.calleeEnded(self.error(.badUpstreamReply, "the app's message is not JSON: \(error)"))
      }
    }
    if call.calleeSent(message, kind == .text ? .json : binaryFormat) == .congested { stream?.pauseReading() }
  }

  /// What the app's Close means; nil: the stream has ended in order.
  private func error(_ code: UInt16, _ reason: String) -> SidecarError? {
    switch code {
    case WebSocketCloseCode.normal, WebSocketCloseCode.none: return nil
    case Self.errorCodes:
      var error = error(.upstreamError, reason)
      error.code = Int(code) - 4000
      return error
    case WebSocketCloseCode.goingAway: return error(.upstreamReset, "the app is about to stop")
    default:
      return error(
        .upstreamReset, "the app closed the WebSocket with \(code)" + (reason.isEmpty ? "" : ": \(reason)"))
    }
  }

  private func write(_ bytes: UnsafeRawBufferPointer, _ rest: UnsafeRawBufferPointer = .none) -> WriteState {
    worker.metrics.add(.bytesToNodes, bytes.count &+ rest.count)
    return stream?.write(bytes, rest) ?? .closed
  }

  package func streamDrained(_ stream: ByteStream) {
    if isOpen { call.calleeDrained() }
  }

  // MARK: Ends

  private func timePassed() {
    switch state {
    case .dialling:
      stream?.reset()
      refused("no answer to the dial within \(Double(worker.settings.connectTimeout) / 1e9) s")
    case .closing: stream?.reset()
    case .upgrading, .refused, .open, .over: break
    }
  }

  private func refused(_ why: String) {
    guard case .dialling = state else { return }
    worker.metrics.add(.dialsFailed)
    release()
    call.calleeRefused("the app at \(app.hostHeader.text) cannot be reached: \(why)")
  }

  /// Before the WebSocket stands.
  private func end(_ error: SidecarError) {
    switch state {
    case .upgrading, .refused: break
    case .dialling, .open, .closing, .over: return
    }
    release()
    stream?.close()
    call.calleeEnded(error)
  }

  /// Begins the closing handshake; the call hears nothing more.
  private func close(_ code: UInt16, _ reason: String) {
    guard case .open = state else { return }
    let out = worker.scratch
    out.removeAll()
    session?.close(code, reason, into: out)
    _ = write(out.bytes)
    awaitEnd {}
  }

  /// A server ends the connection first (RFC 6455 §7.1.1), so we wait a little for that.
  private func awaitEnd(_ report: () -> Void) {
    let wasOpen = isOpen
    state = .closing
    stream?.resumeReading()
    worker.timers.arm(timer, after: Self.closeTimeout, from: worker.driver.now)
    if wasOpen { report() }
  }

  private func release() {
    if isCounted { app.releaseConnection() }
    isCounted = false
    state = .over
    timer.cancel()
    session = nil
  }

  package func streamEnded(_ stream: ByteStream) {
    switch state {
    case .refused: refusalEnded()
    case .upgrading: end(error(.upstreamReset, "the app closed the connection without answering the upgrade"))
    case .open:
      release()
      stream.close()
      call.calleeEnded(error(.upstreamReset, "the app closed the connection without a Close"))
    case .dialling, .closing, .over:
      release()
      stream.close()
    }
  }

  package func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    self.stream = nil
    let why: String
    switch end {
    case .refused: why = "connection refused"
    case .unreachable(let text), .reset(let text): why = text
    case .closedHere, .ended: why = "the connection ended"
    }
    switch state {
    case .dialling: refused(why)
    case .upgrading, .refused, .open:
      release()
      call.calleeEnded(error(.upstreamReset, "the app at \(app.hostHeader.text): \(why)"))
    case .closing: release()
    case .over: break
    }
  }
}
