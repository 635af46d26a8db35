// One framework call delivered to the app over plain HTTP: `Say.Hello` becomes `POST /Say/Hello` with the metadata as
// headers and the time left as `Timeout` in seconds; 2xx is the reply, any other status a framework error.
//
//   start ──▶ waiting for a connection ──▶ waiting for the reply ──▶ done       deadline, caller gone: done

/// Who hands a call to the app and hears its end: exactly one of the two, in a later turn, unless it was cancelled.
protocol AppCallOwner: AnyObject {
  /// The payload is in the format of the call and valid during the call.
  func delivered(_ payload: UnsafeRawBufferPointer)
  func failed(_ error: SidecarError)
}

final class AppCall: UpstreamUser, AppGateWaiter {
  /// Bytes of an app's error body that go into an error's detail.
  static let detailMax = 4096

  private unowned(unsafe) let worker: Worker
  private weak var owner: (any AppCallOwner)?
  private let app: UpstreamTarget
  private var connection: UpstreamConnection?
  private var request: ByteBuffer?
  var audience = JSONAudience.framework
  private var format = PayloadFormat.json
  /// What the app is asked in, and the types of the call when that is another format than the caller's.
  private var appFormat = PayloadFormat.json
  private var method: ProtoMethod?
  private var translated: ByteBuffer?
  private var isRunning = false
  private var freshOnly = false
  private var startedAt = Instant(nanoseconds: 0)
  private var place = AppPlace()
  /// How the call ended, as `Worker.leaveApp` wants to know it.
  private var hasAnswer: Bool?
  private lazy var timer = LoopTimer { [unowned self] in self.deadlinePassed() }

  init(worker: Worker, owner: any AppCallOwner, app: UpstreamTarget) {
    self.worker = worker
    self.owner = owner
    self.app = app
  }

  private var errorID: String { worker.settings.serviceName ?? "go.micro.sidecar" }

  /// `endpoint` is `Handler.Method`; all spans are used up before the call returns.
  func start(
    endpoint: UnsafeRawBufferPointer, format: PayloadFormat, payload: UnsafeRawBufferPointer, head: HTTP1Head,
    timeout: Int64
  ) {
    guard let out = startRequest(endpoint, format, payload, timeout) else { return }
    Metadata.append(from: head, source: .framework, into: out)
    if let from = head.first(.microFromService) ?? head.first(.xMicroFromService) {
      HTTP1Writer.field("Micro-From-Service", from, to: out)
    }
    finishRequest(out, endpoint, payload)
  }

  /// The same with `metadata` as header lines that may be forwarded.
  func start(
    endpoint: UnsafeRawBufferPointer, format: PayloadFormat, payload: UnsafeRawBufferPointer,
    metadata: UnsafeRawBufferPointer, timeout: Int64
  ) {
    guard let out = startRequest(endpoint, format, payload, timeout) else { return }
    out.append(metadata)
    finishRequest(out, endpoint, payload)
  }

  private func startRequest(
    _ endpoint: UnsafeRawBufferPointer, _ format: PayloadFormat, _ payload: UnsafeRawBufferPointer, _ timeout: Int64
  ) -> ByteBuffer? {
    isRunning = true
    self.format = format
    startedAt = worker.driver.now
    worker.callsInFlight += 1
    guard translateRequest(endpoint, payload) else { return nil }
    let out = worker.readers.buffers.take()
    request = out
    out.append("POST ")
    Self.appendPath(endpoint, to: out)
    out.append(" HTTP/1.1\r\n")
    HTTP1Writer.field("Host", app.hostHeader.span, to: out)
    out.append("Content-Type: ")
    switch appFormat {
    case .json: out.append("application/json\r\nAccept: application/json\r\n")
    case .protobuf: out.append("application/protobuf\r\nAccept: application/protobuf\r\n")
    case .bytes: out.append("application/octet-stream\r\n")
    }
    Self.appendTimeout(timeout, to: out)
    worker.driver.timers.arm(timer, after: timeout, from: startedAt)
    return out
  }

  /// The header line that tells the app how long it has; `timeout` in nanoseconds.
  static func appendTimeout(_ timeout: Int64, to out: ByteBuffer) {
    out.append("Timeout: ")
    // Milliseconds at most as digits behind the point: what `float()` of any language reads.
    let milliseconds = UInt64(max(timeout / 1_000_000, 1))
    out.append(decimal: milliseconds / 1000)
    out.append(".")
    let rest = milliseconds % 1000
    if rest < 100 { out.append("0") }
    if rest < 10 { out.append("0") }
    out.append(decimal: rest)
    out.append("\r\n")
  }

  private func finishRequest(
    _ out: ByteBuffer, _ endpoint: UnsafeRawBufferPointer, _ payload: UnsafeRawBufferPointer
  ) {
    let verdict = worker.enterApp(self, &place, endpoint, out.bytes)
    var body = translated?.bytes ?? payload
    if body.isEmpty, appFormat == .json { body = emptyObject }
    HTTP1Writer.contentLength(body.count, to: out)
    HTTP1Writer.endHead(to: out)
    out.append(body)
    if let translated { worker.readers.buffers.give(translated) }
    translated = nil
    switch verdict {
    case .admitted: connect()
    case .waits: break
    case .refused(let error): worker.driver.later { [self] in fail(error) }
    }
  }

  private var emptyObject: UnsafeRawBufferPointer {
    let text: StaticString = "{}"
    return UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount)
  }

  /// `Say.Hello` → `/Say/Hello`. What is not unreserved in a URL (RFC 3986 §2.3) is percent-encoded.
  static func appendPath(_ endpoint: UnsafeRawBufferPointer, to out: ByteBuffer) {
    out.append("/")
    for byte in endpoint {
      switch byte {
      case UInt8(ascii: "."): out.append("/")
      case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "~"):
        out.append(byte)
      default:
        out.append("%")
        out.append(ASCIIText.hexDigit(byte &>> 4))
        out.append(ASCIIText.hexDigit(byte & 15))
      }
    }
  }

  private func connect() {
    switch app.connect(self, fresh: freshOnly) {
    case .ready(let connection):
      self.connection = connection
      send(connection)
    case .dialling(let connection):
      self.connection = connection
    case .full:
      worker.driver.later { [self] in
        fail(
          SidecarError(
            .overloaded, "\(UpstreamTarget.connectionsMaxDefault) calls to the app are under way", id: errorID))
      }
    }
  }

  private func send(_ connection: UpstreamConnection) {
    guard let request else { return }
    connection.send(request.bytes, UnsafeRawBufferPointer(start: nil, count: 0))
  }

  func cancel() {
    guard isRunning else { return }
    finish()
  }

  // MARK: AppGateWaiter

  func appAdmitted() {
    worker.appAdmitted(&place)
    worker.driver.later { [self] in if isRunning { connect() } }
  }

  func appRefused(_ error: SidecarError) {
    worker.appRefused(&place)
    worker.driver.later { [self] in fail(error) }
  }

  private func deadlinePassed() {
    let waited = worker.driver.now.nanoseconds(since: startedAt) / 1_000_000
    let what = place.isWaiting ? "had no place for the call" : "did not answer"
    hasAnswer = place.isWaiting ? nil : false
    fail(SidecarError(.deadlineExceeded, "the app \(what) within \(waited) ms", id: errorID))
  }

  private func finish() {
    isRunning = false
    worker.leaveApp(self, &place, hasAnswer: hasAnswer)
    timer.cancel()
    worker.callsInFlight -= 1
    if let connection {
      self.connection = nil
      connection.abandon()
    }
    for buffer in [request, translated] {
      if let buffer { worker.readers.buffers.give(buffer) }
    }
    request = nil
    translated = nil
  }

  private func fail(_ error: SidecarError) {
    guard isRunning else { return }
    finish()
    owner?.failed(error)
  }

  // MARK: UpstreamUser

  func upstreamReady(_ connection: UpstreamConnection) {
    if isRunning { send(connection) }
  }

  func upstreamReplied(_ connection: UpstreamConnection, _ head: HTTP1Head, _ body: UnsafeRawBufferPointer) -> Bool {
    guard isRunning else { return false }
    self.connection = nil
    hasAnswer = true
    guard (200..<300).contains(head.status) else {
      let error = Self.appError(head.status, body, id: errorID)
      fail(head.status == 415 && method == nil ? explained(error) : error)
      return true
    }
    do throws(SidecarError) { try check(head, body) } catch {
      fail(error)
      return true
    }
    finish()
    deliver(body, head)
    return true
  }

  /// The app does not take what it was sent.
  private func explained(_ error: SidecarError) -> SidecarError {
    // `POST /Say/Hello HTTP/1.1`
    let words = request?.bytes.prefix(512).split(separator: 0x20, maxSplits: 2) ?? []
    guard format != .json, words.count == 3 else { return error }
    let endpoint = String(decoding: words[1].dropFirst(), as: UTF8.self).replacing("/", with: ".")
    return MessageTranslator.missing(after: error, errorID, endpoint)
  }

  /// Gives the reply to the owner in the format of the call.
  private func deliver(_ body: UnsafeRawBufferPointer, _ head: HTTP1Head) {
    guard let method, Self.isJSON(head) || body.isEmpty else {
      owner?.delivered(body)
      return
    }
    let out = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(out) }
    do throws(SidecarError) {
      try worker.translator.translate(body, to: format, method, .reply, for: audience, into: out)
      owner?.delivered(out.bytes)
    } catch {
      var error = error
      error.id = errorID
      owner?.failed(error)
    }
  }

  private static func isJSON(_ head: HTTP1Head) -> Bool {
    head.first(.contentType).map { ASCIIText.hasPrefixIgnoringCase($0, "application/json") } ?? false
  }

  /// An app over HTTP speaks JSON: a call in protobuf, or in bytes that are one, is translated for it where its types are
  /// known. False: it failed, and the owner hears of it in a later turn.
  private func translateRequest(_ endpoint: UnsafeRawBufferPointer, _ payload: UnsafeRawBufferPointer) -> Bool {
    appFormat = format
    guard format != .json else { return true }
    do throws(SidecarError) {
      guard let found = try worker.translator.method(worker.settings.fromService.span, endpoint) else { return true }
      let out = worker.readers.buffers.take()
      translated = out
      try worker.translator.translate(payload, to: .json, found, .request, for: .people, into: out)
      method = found
      appFormat = .json
      return true
    } catch {
      worker.driver.later { [self] in fail(error) }
      return false
    }
  }

  /// The app must answer in the form it was asked in: nothing here can translate.
  private func check(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) throws(SidecarError) {
    guard !body.isEmpty else { return }
    switch format {
    case .json:
      do throws(WireError) { _ = try JSONScanner.validate(body) } catch {
        throw SidecarError(.badUpstreamReply, "the app's reply is not JSON: \(error)", id: errorID)
      }
    case .protobuf:
      guard Self.isJSON(head), method == nil else { return }
      throw SidecarError(
        .badUpstreamReply,
        "the app answered with JSON to a protobuf call, and no descriptor says how that is translated: answer with "
          + "protobuf, or name a FileDescriptorSet in MICRO_DESCRIPTORS", id: errorID
      )
    case .bytes: break
    }
  }

  /// What an answer other than 2xx means: the app's own error JSON, or its text.
  static func appError(_ status: Int, _ body: UnsafeRawBufferPointer, id errorID: String) -> SidecarError {
    let parsed = MicroError(parsing: body)
    if parsed.isStructured { return SidecarError(upstreamText: body) }
    let text = String(decoding: body.prefix(Self.detailMax), as: UTF8.self)
    let detail =
      text.isEmpty ? "the app answered \(status) \(HTTP1Status.reason(status).map { "\($0)" } ?? "")" : trim(text)
    var error = SidecarError(.upstreamError, detail, id: errorID)
    error.code = (400..<600).contains(status) ? status : 502
    return error
  }

  private static func trim(_ text: String) -> String {
    var text = text[...]
    while let last = text.last, last.isWhitespace { text.removeLast() }
    return String(text)
  }

  func upstreamFailed(_ connection: UpstreamConnection, _ failure: UpstreamFailure) {
    guard isRunning else { return }
    self.connection = nil
    let where_ = app.hostHeader.text
    switch failure {
    case .connectFailed(let why):
      worker.appFailed()
      fail(SidecarError(.appUnavailable, "the app at \(where_) cannot be reached: \(why)", id: errorID))
    case .brokeBeforeReply(let wasReused, let why):
      if wasReused, !freshOnly {
        freshOnly = true
        connect()
        return
      }
      fail(
        SidecarError(.upstreamReset, "the app at \(where_) closed the connection without a reply: \(why)", id: errorID))
    case .brokeInReply(let why):
      fail(SidecarError(.upstreamReset, "the app at \(where_): \(why)", id: errorID))
    case .malformed(let error):
      fail(SidecarError(.badUpstreamReply, "the app's reply cannot be read: \(error)", id: errorID))
    case .refused(let why):
      fail(SidecarError(.overloaded, "the app at \(where_) does not take the call: \(why)", id: errorID))
    case .streamReset(let reset):
      let why = String(decoding: reset.message, as: UTF8.self)
      var error = SidecarError(.upstreamReset, "the app at \(where_): \(why)", id: errorID)
      error.grpc = reset
      fail(error)
    }
  }
}
