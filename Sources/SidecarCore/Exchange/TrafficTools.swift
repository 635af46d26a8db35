// What is done to calls on purpose before they go anywhere: rate limits, faults, mirrors. Streams and unary calls share it.

/// What of a caller's head is meant for the sidecar rather than for the service.
struct TrafficHints {
  /// The fault the caller asks for, if it may.
  var fault: FaultPolicy?
  /// Who calls, as the caller says; 0: nobody said.
  var caller: UInt64 = 0

  /// `first` finds a field by its name in lower case.
  @inline(__always)
  static func read(
    _ policy: EndpointPolicy, _ worker: Worker, first: (StaticString) -> UnsafeRawBufferPointer?
  ) -> TrafficHints? {
    guard policy.limitsCallers || worker.settings.faultToken != nil else { return nil }
    return readAll(worker, first)
  }

  private static func readAll(
    _ worker: Worker, _ first: (StaticString) -> UnsafeRawBufferPointer?
  ) -> TrafficHints {
    var hints = TrafficHints()
    if let name = first("micro-from-service") ?? first("x-micro-from-service") {
      var key = RateKey(seed: worker.keySeed)
      key.add(name)
      hints.caller = key.value
    }
    if let token = worker.settings.faultToken, let given = first("x-micro-fault-token"),
      ASCIIText.equals(given, token.span)
    {
      hints.fault = first("x-micro-fault").flatMap { FaultHeader.parse($0) }
    }
    return hints
  }
}

extension StreamCall {
  /// Reads what its caller says to the sidecar. `first` finds a field by its name in lower case.
  func takeHints(_ first: (StaticString) -> UnsafeRawBufferPointer?) {
    guard case .service(let route) = target else { return }
    hints = .read(route.policy(worker), worker, first: first)
  }
}

/// What comes of it for one call.
struct TrafficVerdict {
  /// The call ends with this, after the delay.
  var refusal: SidecarError?
  /// In nanoseconds; 0: it goes on at once.
  var delay: Int64 = 0
}

extension Worker {
  /// The limits and faults of a call that begins.
  func shape(_ route: (service: ServiceTable, endpoint: FixedBytes), _ policy: EndpointPolicy, _ hints: TrafficHints)
    -> TrafficVerdict
  {
    var verdict = TrafficVerdict()
    if let limit = policy.values.rateLimit,
      let refusal = take(limit, route.service, route.endpoint, hints.caller)
    {
      verdict.refusal = refusal
      return verdict
    }
    guard let fault = hints.fault ?? policy.values.fault else { return verdict }
    let drawn = fault.draw(&driver.random)
    if drawn.delay > 0 {
      metrics.add(.faultDelays)
      verdict.delay = drawn.delay
    }
    if let code = drawn.abort {
      metrics.add(.faultAborts)
      var error = SidecarError(.faultInjected, "a fault was injected: calls of it fail with \(code) on purpose")
      error.code = code
      verdict.refusal = error
    }
    return verdict
  }

  private func take(
    _ limit: RateLimitPolicy, _ service: ServiceTable, _ endpoint: FixedBytes, _ caller: UInt64
  ) -> SidecarError? {
    var key = RateKey(seed: keySeed)
    key.add(limit.rate.bitPattern)
    key.add(limit.burst.bitPattern)
    key.add(service.nameBytes.span)
    switch limit.scope {
    case .service: break
    case .endpoint: key.add(endpoint.span)
    case .caller: key.add(caller)
    }
    let parts = Double(max(settings.workers, 1))
    let wait = outboundLimiter.take(
      key.value, rate: limit.rate / parts, burst: max(limit.burst / parts, 1), now: driver.now)
    guard wait > 0 else { return nil }
    let what =
      switch limit.scope {
      case .service: service.name
      case .endpoint: "\(service.name) \(endpoint.text)"
      case .caller: "\(service.name), counted by caller"
      }
    return .rateLimited("\(what) may be called \(Self.plain(limit.rate)) times a second", wait: wait)
  }

  static func plain(_ rate: Double) -> String {
    let text = "\(rate)"
    return text.hasSuffix(".0") ? String(text.dropLast(2)) : text
  }

  // MARK: Mirrors

  /// Mirrored calls under way on one worker; more are not made.
  static var mirrorsMax: Int { 64 }

  /// Makes the call that `call` is about to make at another service too, if it is one of the share. Nobody hears what
  /// comes of it.
  func mirror(_ call: OutboundCall, _ policy: MirrorPolicy) {
    guard driver.random.happens(policy.share), let request = call.request else { return }
    guard mirrorsInFlight < Self.mirrorsMax, !isDraining else { return metrics.add(.mirrorsDropped) }
    let service = FixedBytes(policy.service)
    guard
      let route = withExtendedLifetime(service, { try? namedRoute(service.span, call.endpoint.span) })
    else { return metrics.add(.mirrorsDropped) }
    metrics.add(.mirrors)
    let twin = takeCall()
    let copy = readers.buffers.take()
    copy.append(request.bytes)
    twin.request = copy
    twin.setRoute(route)
    twin.isMirror = true
    twin.isIdempotent = false
    twin.format = call.format
    twin.isQuery = call.isQuery
    twin.isJSONRPC = call.isJSONRPC
    twin.audience = call.audience
    twin.metadata = call.metadata
    twin.payload = call.payload
    twin.deadline = call.deadline
    mirrorsInFlight += 1
    twin.start(for: MirrorSink(self))
  }
}

/// Hears the end of a mirrored call.
private final class MirrorSink: CallOwner {
  private let worker: Worker
  init(_ worker: Worker) { self.worker = worker }
  func callReplied(_ call: OutboundCall, _ payload: UnsafeRawBufferPointer, format: PayloadFormat) {
    worker.mirrorsInFlight -= 1
  }
  func callFailed(_ call: OutboundCall, _ error: SidecarError) { worker.mirrorsInFlight -= 1 }
}
