// One connection of the framework to us: a go-micro client of any generation, or another sidecar. Each message is a call
// for the app; the reply goes back in the caller's codec and dialect.
//
//   reading ──call──▶ delivering ──reply written──▶ reading …
//      │                  │  └─ the caller does not read ─▶ flushing ─▶ reading …
//      ├── bad bytes ──▶ lingering ──▶ closed
//      └───▶ closing ◀────┴── undecodable envelope, drain, the caller has closed
//
// Calls of one connection are answered one after another, in order: go-micro clients of every version have at most one
// unary call under way on a connection (wire/rpc.md §1.1).

package final class InboundConnection: StreamHandler, ListedConnection {
  private enum State {
    /// To: delivering, closing.
    case reading
    /// The app works on a call. To: reading, flushing, closing.
    case delivering
    /// More than the high watermark of replies waits to be taken by the caller. To: reading, closing.
    case flushing
    /// The last reply is written and our half ended, while the caller still sends: closing now would reset the
    /// connection and take the reply with it. To: closed.
    case lingering
    case closing
    case closed
  }

  /// How long a caller that broke a rule may go on sending before it is cut off, in nanoseconds.
  private static let lingerTime: Int64 = 2_000_000_000
  /// Nanoseconds a connection may be idle at least: go-micro's clients reuse one for 60 s after it was made, so none of
  /// them is surprised by its end.
  private static let idleTimeoutMin: Int64 = 75_000_000_000

  var listIndex = -1
  private let worker: Worker
  private let stream: ByteStream
  private var reader: MessageReader
  private var state = State.reading
  private var isPaused = false
  private var ahead: ByteBuffer?
  private var frame: FrameRequest?
  /// What the ranges of `frame` point into.
  private var notes: ByteBuffer?
  private var delivery: AppCall?
  private var endpoint: InboundEndpoint?
  private var keepAlive = true
  private var isConsuming = false
  private var lingersSince = Instant(nanoseconds: 0)
  private var lastActivity: Instant
  private var requestStarted: Instant

  init(worker: Worker, stream: ByteStream) {
    self.worker = worker
    self.stream = stream
    reader = MessageReader(.server, bodyMax: worker.settings.bodyMax, scratch: worker.readers)
    lastActivity = worker.driver.now
    requestStarted = worker.driver.now
  }

  // MARK: Bytes

  package func streamOpened(_ stream: ByteStream) {}

  package func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
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
    case .delivering, .flushing: keepAhead(bytes)
    case .lingering, .closing, .closed: break
    }
  }

  /// More input may be taken, now or later.
  private var isAlive: Bool {
    switch state {
    case .reading, .delivering, .flushing: true
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
    if isPaused, (ahead?.count ?? 0) <= worker.settings.pipelineMax, isAlive {
      isPaused = false
      stream.resumeReading()
    }
  }

  private func consume(_ input: inout UnsafeRawBufferPointer) {
    isConsuming = true
    defer { isConsuming = false }
    do throws(WireError) {
      while state == .reading {
        switch try reader.next(&input, worker.readers) {
        case .needMore: return
        case .expectsContinue: stream.write("HTTP/1.1 100 Continue\r\n\r\n")
        case .message(let body):
          received(reader.head(worker.readers), body)
          reader.finishMessage(worker.readers)
        }
      }
    } catch {
      refuse(error)
    }
  }

  /// A message that is not HTTP: the framework's own servers answer with the status too. The caller is heard out before
  /// the connection ends.
  private func refuse(_ error: WireError) {
    requestStarted = worker.driver.now
    endpoint = nil
    record(.failed(.badRequest))
    let out = worker.scratch
    out.removeAll()
    let body = ByteBuffer()
    SidecarError(error).writeJSON(into: body)
    HTTP1Writer.statusLine(error.status, to: out)
    out.append("Content-Type: application/json\r\nConnection: close\r\n")
    HTTP1Writer.contentLength(body.count, to: out)
    HTTP1Writer.endHead(to: out)
    _ = stream.write(out.bytes, body.bytes)
    worker.metrics.add(.bytesToCallers, out.count &+ body.count)
    state = .lingering
    lingersSince = requestStarted
    stream.shutdownWrites()
    if isPaused {
      isPaused = false
      stream.resumeReading()
    }
  }

  package func streamEnded(_ stream: ByteStream) {
    // A framework client closes to cancel: nobody waits for the reply any more.
    if state == .lingering { stream.close() }
    close()
  }

  package func streamDrained(_ stream: ByteStream) {
    guard state == .flushing else { return }
    lastActivity = worker.driver.now
    state = .reading
    readyForNext()
  }

  /// A reply is out. What came meanwhile is next.
  private func readyForNext() {
    if !keepAlive || worker.isDraining {
      close()
    } else if ahead != nil {
      consumeAhead()
    }
  }

  package func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    cancelDelivery()
    state = .closed
    reader.finishMessage(worker.readers)
    if let ahead { worker.readers.buffers.give(ahead) }
    ahead = nil
    releaseFrame()
    worker.remove(self)
  }

  private func cancelDelivery() {
    guard let delivery else { return }
    self.delivery = nil
    record(.failed(.cancelled))
    delivery.cancel()
  }

  private func close() {
    guard isAlive else { return }
    cancelDelivery()
    state = .closing
    stream.close()
  }

  func abort() { stream.reset() }

  func closeWhenIdle() {
    keepAlive = false
    if state == .reading, reader.isBetweenMessages, ahead == nil { close() }
  }

  func sweep(_ now: Instant) {
    let quiet = now.nanoseconds(since: lastActivity)
    switch state {
    case .reading where reader.isBetweenMessages:
      if quiet > max(worker.settings.downstreamIdleTimeout, Self.idleTimeoutMin) { close() }
    case .reading:
      guard quiet > worker.settings.messageTimeout else { return }
      refuse(WireError("the request was not complete after \(quiet / 1_000_000) ms of silence", status: 408))
    case .flushing:
      if quiet > worker.settings.downstreamIdleTimeout { abort() }
    case .lingering:
      if now.nanoseconds(since: lingersSince) > Self.lingerTime { abort() }
    case .delivering, .closing, .closed: break
    }
  }

  // MARK: Calls

  private func received(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) {
    state = .delivering
    requestStarted = worker.driver.now
    keepAlive = head.keepAlive && !worker.isDraining
    endpoint = nil
    let notes = worker.readers.buffers.take()
    self.notes = notes
    let request: FrameRequest
    do throws(FrameRefusal) {
      request = try FrameServer.decodeRequest(head: head, body: body, notes: notes)
    } catch {
      keepAlive = keepAlive && !error.closes
      record(.failed(error.reason == .unsupportedContentType ? .unsupportedMediaType : .badRequest))
      let out = worker.scratch
      out.removeAll()
      FrameServer.encodeRefusal(error, notes: notes, into: out)
      finishReply(out)
      return
    }
    frame = request
    switch request.kind {
    case .endOfStream:
      // The end of a stream nobody has opened: nothing waits for an answer.
      releaseFrame()
      state = .reading
      if !keepAlive { close() }
    case .event:
      fail(
        SidecarError(
          .unsupportedNodeDialect, "events over the RPC transport are not in this version",
          id: worker.settings.serviceName))
    case .call: deliver(request, notes.bytes(request.endpoint), head, body)
    }
  }

  private func releaseFrame() {
    frame = nil
    guard let notes else { return }
    worker.readers.buffers.give(notes)
    self.notes = nil
  }

  private func deliver(
    _ request: FrameRequest, _ endpoint: UnsafeRawBufferPointer, _ head: HTTP1Head, _ body: UnsafeRawBufferPointer
  ) {
    if let method = DebugReplies.method(endpoint) { return answerDebug(method, request.format) }
    self.endpoint = worker.inboundEndpoint(endpoint)
    guard let app = worker.app else {
      fail(
        SidecarError(
          .appUnavailable, "no app is configured behind this sidecar; set MICRO_APP_ADDRESS",
          id: worker.settings.serviceName))
      return
    }
    guard worker.callsInFlight < worker.settings.callsMax else {
      fail(
        SidecarError(
          .overloaded, "\(worker.settings.callsMax) calls are under way", id: worker.settings.serviceName))
      return
    }
    let call = AppCall(worker: worker, owner: self, app: app)
    delivery = call
    let limit = worker.settings.requestTimeout
    call.start(
      endpoint: endpoint, format: request.format,
      payload: UnsafeRawBufferPointer(rebasing: body[request.payload]), head: head,
      timeout: min(request.timeoutNanoseconds ?? limit, limit))
  }

  /// The handler that every go-micro server has (wire/rpc.md §7); the sidecar answers for the app.
  private func answerDebug(_ method: DebugReplies.Method, _ format: PayloadFormat) {
    let payload = ByteBuffer()
    switch method {
    case .health:
      guard worker.isAppHealthy else {
        fail(
          SidecarError(.appUnavailable, "the app does not answer its health check", id: worker.settings.serviceName))
        return
      }
      DebugReplies.health(format: format, into: payload)
    case .stats: DebugReplies.stats(worker.stats(), format: format, into: payload)
    }
    replied(payload.bytes)
  }

  // MARK: Replies

  /// The app has answered. Exactly one of this and `failed` is called for each delivery.
  func delivered(_ payload: UnsafeRawBufferPointer) {
    delivery = nil
    guard state == .delivering else { return }
    replied(payload)
  }

  func failed(_ error: SidecarError) {
    delivery = nil
    guard state == .delivering else { return }
    fail(error)
  }

  private func replied(_ payload: UnsafeRawBufferPointer) {
    guard let frame, let notes else { return close() }
    endpoint?.isReal = true
    record(.ok)
    let out = worker.scratch
    out.removeAll()
    do throws(WireError) {
      try FrameServer.encodeReply(to: frame, notes: notes, payload: payload, into: out)
    } catch {
      FrameServer.encodeReplyError(
        to: frame, notes: notes, error: SidecarError(error, kind: .badUpstreamReply, id: worker.settings.serviceName),
        into: out)
    }
    finishReply(out)
  }

  private func fail(_ error: SidecarError) {
    guard let frame, let notes else { return close() }
    record(.failed(error.kind))
    let out = worker.scratch
    out.removeAll()
    FrameServer.encodeReplyError(to: frame, notes: notes, error: error, into: out)
    finishReply(out)
  }

  private func record(_ outcome: MetricOutcome) {
    worker.inboundRequests &+= 1
    if outcome != .ok { worker.inboundErrors &+= 1 }
    let dialect = CallerForm(frame?.dialect ?? .micro)
    let handle = endpoint?.handle(dialect) ?? worker.inboundHandle
    worker.metrics.record(handle, outcome, latency: worker.driver.now.nanoseconds(since: requestStarted))
  }

  private func finishReply(_ out: ByteBuffer) {
    worker.metrics.add(.bytesToCallers, out.count)
    let written = stream.write(out.bytes)
    guard state == .delivering else { return }
    releaseFrame()
    endpoint = nil
    if !keepAlive || worker.isDraining {
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
}
