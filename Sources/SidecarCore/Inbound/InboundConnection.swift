// One connection of the framework to us: a go-micro client of any generation, or another sidecar. Each message is a call
// for the app; the reply goes back in the caller's codec and dialect. What it shares with the app's connections is in
// `CallerConnection`.
//
// Calls of one connection are answered one after another, in order: go-micro clients of every version have at most one
// unary call under way on a connection (wire/rpc.md §1.1).

final class InboundConnection: CallerConnection, AppCallOwner {
  /// Nanoseconds a connection may be idle at least: go-micro's clients reuse one for 60 s after it was made, so none of
  /// them is surprised by its end.
  private static let idleTimeoutMin: Int64 = 75_000_000_000

  private var delivery: (any AppDelivery)?
  private var endpoint: InboundEndpoint?

  // MARK: CallerConnection

  override var idleTimeout: Int64 { max(worker.settings.downstreamIdleTimeout, Self.idleTimeoutMin) }

  /// Not HTTP: the framework's own servers answer with the status too.
  override func answerMalformed(_ error: WireError) {
    endpoint = nil
    record(.failed(.badRequest))
    let body = ByteBuffer()
    SidecarError(error).writeJSON(into: body)
    let out = worker.scratch
    out.removeAll()
    HTTP1Writer.statusLine(error.status, to: out)
    out.append("Content-Type: application/json\r\nConnection: close\r\n")
    HTTP1Writer.contentLength(body.count, to: out)
    HTTP1Writer.endHead(to: out)
    send(out.bytes, body.bytes)
  }

  override func cancelAnswer() {
    guard let delivery else { return }
    self.delivery = nil
    observed.status = SidecarError.Kind.cancelled.row.code
    record(.failed(.cancelled))
    delivery.cancel()
  }

  override var replyFields: UnsafeRawBufferPointer { worker.appLoadLine }

  override func ended() { worker.remove(self) }

  override func handOver(_ stream: ByteStream, toHTTP2 bytes: UnsafeRawBufferPointer) -> Bool {
    worker.takeOverHTTP2(stream, side: .framework, initial: bytes)
    worker.remove(self)
    return true
  }

  override func recordStream(_ outcome: MetricOutcome, _ call: StreamCall) {
    if worker.observer != nil {
      observed.note(call)
      observed.status = outcome.kind?.row.code ?? 200
    }
    if outcome == .ok { endpoint?.isReal = true }
    record(outcome)
  }

  override func refused(_ refusal: FrameRefusal) {
    record(.failed(refusal.reason == .unsupportedContentType ? .unsupportedMediaType : .badRequest))
  }

  // MARK: Calls

  override func received(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) {
    endpoint = nil
    if let observer = worker.observer {
      observer.begin(&observed, head)
      observed.bytesIn = body.count
    }
    guard let request = decodeFrame(head, body), let notes else { return }
    switch request.kind {
    case .endOfStream:
      // The end of a stream nobody has opened: nothing waits for an answer.
      skip()
    case .event:
      fail(
        SidecarError(
          .unsupportedNodeDialect, "events over the RPC transport are not in this version",
          id: worker.settings.serviceName))
    case .call: deliver(request, notes.bytes(request.endpoint), head, body)
    }
  }

  private func deliver(
    _ request: FrameRequest, _ endpoint: UnsafeRawBufferPointer, _ head: HTTP1Head, _ body: UnsafeRawBufferPointer
  ) {
    if let method = DebugReplies.method(endpoint) { return answerDebug(method, request.format) }
    let known = worker.inboundEndpoint(endpoint)
    self.endpoint = known
    guard let app = worker.app else {
      fail(.noApp(worker.settings.serviceName))
      return
    }
    if let refusal = worker.refusal(underWay: worker.callsInFlight) {
      fail(SidecarError(.overloaded, refusal, id: worker.settings.serviceName))
      return
    }
    let payload = notes.map { request.payload(body, $0) } ?? .none
    observed.tapped?.takeRequest(payload, worker.settings.tap)
    if worker.isAppStream(known, endpoint) {
      return startStream(request, endpoint, head, payload)
    }
    let limit = worker.settings.requestTimeout
    let timeout = min(request.timeoutNanoseconds ?? limit, limit)
    let delivery = worker.makeDelivery(to: app, for: self)
    self.delivery = delivery
    delivery.audience = request.jsonAudience
    if worker.observer != nil { observed.attempts = 1 }
    if let call = delivery as? AppCall, !observed.isTraced {
      return call.start(endpoint: endpoint, format: request.format, payload: payload, head: head, timeout: timeout)
    }
    let metadata = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(metadata) }
    appendMetadata(of: head, from: .framework, to: metadata)
    if let from = head.first(.microFromService) ?? head.first(.xMicroFromService) {
      HTTP1Writer.field("Micro-From-Service", from, to: metadata)
    }
    delivery.start(
      endpoint: endpoint, format: request.format, payload: payload, metadata: metadata.bytes, timeout: timeout)
  }

  private func startStream(
    _ request: FrameRequest, _ endpoint: UnsafeRawBufferPointer, _ head: HTTP1Head, _ payload: UnsafeRawBufferPointer
  ) {
    let call = StreamCall(worker: worker, target: .app(endpoint: FixedBytes(endpoint)))
    let metadata = worker.readers.buffers.take()
    call.metadata = metadata
    appendMetadata(of: head, from: .framework, to: metadata)
    call.span = observed.span
    if let timeout = request.timeoutNanoseconds {
      call.deadline = worker.driver.now.advanced(byNanoseconds: timeout)
    }
    let caller = FrameCaller(connection: self, call: call, opening: request, payload: payload)
    starting = caller
    call.start(for: caller)
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

  func delivered(_ payload: UnsafeRawBufferPointer) {
    delivery = nil
    guard state == .answering else { return }
    replied(payload)
  }

  func failed(_ error: SidecarError) {
    delivery = nil
    guard state == .answering else { return }
    fail(error)
  }

  private func replied(_ payload: UnsafeRawBufferPointer) {
    guard let frame, let notes else { return close() }
    endpoint?.isReal = true
    if worker.observer != nil {
      observed.status = 200
      observed.bytesOut = payload.count
      observed.tapped?.takeReply(payload, worker.settings.tap)
    }
    record(.ok)
    sendFrameReply(frame, notes, payload, id: worker.settings.serviceName)
  }

  private func fail(_ error: SidecarError) {
    guard let frame, let notes else { return close() }
    observed.status = error.code
    record(.failed(error.kind))
    sendFrameError(frame, notes, error)
  }

  private func record(_ outcome: MetricOutcome) {
    worker.inboundRequests &+= 1
    if outcome != .ok { worker.inboundErrors &+= 1 }
    let dialect = CallerForm(frame?.dialect ?? .micro)
    let handle = endpoint?.handle(dialect) ?? worker.inboundHandle
    let latency = worker.driver.now.nanoseconds(since: requestStarted)
    worker.metrics.record(handle, outcome, latency: latency)
    guard let observer = worker.observer else { return }
    observer.end(
      &observed,
      CallEnd(
        direction: .in, dialect: dialect.dialect, service: worker.settings.fromService.span,
        endpoint: endpoint?.nameBytes.span ?? .none, outcome: outcome, latency: latency,
        series: handle))
  }
}
