// One call with one answer, in the shape of a stream: for callers whose protocol makes no difference between the two
// (gRPC), and for streams opened to an endpoint that is none. The call is made when its caller has said all.
//
//   collecting ── finishSending ──▶ calling ── reply or failure ──▶ over

/// Makes a unary call for a `StreamCall`: to the nodes of a service, with all attempts of such a call, or to the app.
final class UnaryCallee: StreamCallee, CallOwner, AppCallOwner {
  private unowned let call: StreamCall
  private let worker: Worker
  private var message: ByteBuffer?
  private var format = PayloadFormat.json
  private var outbound: OutboundCall?
  private var delivery: (any AppDelivery)?
  private var isOver = false

  init(_ call: StreamCall) {
    self.call = call
    worker = call.worker
    worker.driver.later { [self] in
      if !isOver { self.call.calleeConnected() }
    }
  }

  func format(for caller: PayloadFormat) -> PayloadFormat {
    format = caller
    return caller
  }

  func send(_ message: UnsafeRawBufferPointer) -> WriteState {
    guard self.message == nil else {
      fail(SidecarError(.badRequest, "\(call.endpoint.text) takes one message; it is not a stream"))
      return .closed
    }
    let buffer = worker.readers.buffers.take()
    buffer.append(message)
    self.message = buffer
    return .open
  }

  func finishSending() {
    guard !isOver else { return }
    let policy: EndpointPolicy? = if case .service(let route) = call.target { route.policy(worker) } else { nil }
    let limit = worker.driver.now.advanced(byNanoseconds: policy?.values.timeout ?? worker.settings.requestTimeout)
    let deadline = min(call.deadline, limit)
    let metadata = call.metadata?.bytes ?? .none
    let payload = message?.bytes ?? .none
    switch call.target {
    case .service(let route):
      let outbound = worker.takeCall()
      let request = worker.readers.buffers.take()
      outbound.request = request
      outbound.isIdempotent = HeaderLines.contain("idempotency-key", metadata)
      outbound.setRoute(route)
      outbound.wish = call.wish
      outbound.hints = call.hints
      outbound.format = message == nil ? call.replyFormat : format
      outbound.audience = call.audience
      outbound.isJSONRPC = call.isJSONRPC
      outbound.deadline = deadline
      outbound.span = call.span
      request.append(metadata)
      outbound.metadata = 0..<request.count
      request.append(payload)
      outbound.payload = outbound.metadata.upperBound..<request.count
      self.outbound = outbound
      outbound.start(for: self)
    case .app(let endpoint):
      guard let app = worker.app else { return fail(.noApp(worker.settings.serviceName)) }
      let delivery = worker.makeDelivery(to: app, for: self)
      self.delivery = delivery
      delivery.audience = call.audience
      delivery.start(
        endpoint: endpoint.span, format: message == nil ? call.replyFormat : format, payload: payload,
        metadata: metadata, timeout: deadline.nanoseconds(since: worker.driver.now))
    case .own(let endpoint, _): fail(SidecarError(.badRequest, "\(endpoint.text) is a stream"))
    }
  }

  /// There is one reply, and the caller's connection holds it back as long as it must.
  func resumeReplies() {}

  func abandon() {
    guard !isOver else { return }
    close()
  }

  private func close() {
    isOver = true
    if let message { worker.readers.buffers.give(message) }
    message = nil
    outbound?.cancel()
    outbound = nil
    delivery?.cancel()
    delivery = nil
  }

  private func fail(_ error: SidecarError) {
    worker.driver.later { [self] in end(error) }
  }

  private func end(_ error: SidecarError?) {
    guard !isOver else { return }
    close()
    call.calleeEnded(error)
  }

  // MARK: What came of it

  func callReplied(_ call: OutboundCall, _ payload: UnsafeRawBufferPointer, format: PayloadFormat) {
    outbound = nil
    self.call.note(call)
    _ = self.call.calleeSent(payload, format)
    end(nil)
  }

  func callFailed(_ call: OutboundCall, _ error: SidecarError) {
    outbound = nil
    self.call.note(call)
    end(error)
  }

  func delivered(_ payload: UnsafeRawBufferPointer) {
    delivery = nil
    _ = call.calleeSent(payload, format)
    end(nil)
  }

  func failed(_ error: SidecarError) {
    delivery = nil
    end(error)
  }
}
