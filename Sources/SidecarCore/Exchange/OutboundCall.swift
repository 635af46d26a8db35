// One call to a service, over as many attempts as it takes.
//
//   start ──▶ resolving ──found──▶ pending ──a place──▶ attempting ──reply──▶ done
//               │ not found          │ none in time       │  ▲  ▲
//               ▼                    ▼                    │  │  └── refused: another node; reused connection died: a fresh one
//              done                 done                  ▼  │
//                                                       pausing (may be repeated, and the budget pays)
//                                             deadline, caller gone: done, from any state
//
// The request is kept in one buffer, in a form no dialect owns: the caller's metadata as header lines, then the payload.
// Each attempt writes it in the dialect of its node. A hedge is another `OutboundCall` whose owner is this one.

/// Who started a call and hears its end. Called on the worker's loop, exactly once for each call, and never from inside
/// `start`.
protocol CallOwner: AnyObject {
  /// `payload` is valid during the call only.
  func callReplied(_ call: OutboundCall, _ payload: UnsafeRawBufferPointer, format: PayloadFormat)
  func callFailed(_ call: OutboundCall, _ error: SidecarError)
}

package final class OutboundCall: UpstreamUser, ResolutionWaiter {
  enum State {
    /// Free, or being filled. To: resolving, pending, attempting.
    case idle
    /// Waits because a fault was injected. To: resolving, pending, attempting, idle.
    case delayed
    /// Waits for the registries. To: pending, attempting, idle.
    case resolving
    /// Waits for a place at the service. To: attempting, idle.
    case pending
    /// A connection is dialled or a reply awaited. To: pausing, idle.
    case attempting
    /// Waits before it is repeated. To: attempting, idle.
    case pausing
  }

  // What to send; the owner fills these before `start`.
  var service: ServiceTable?
  /// Instead of a service's nodes: an address the caller named.
  var fixedTarget: UpstreamTarget?
  var endpoint = FixedBytes.empty
  /// The one node of `service` that is called, whatever is known of it; what comes of the call says nothing about it.
  var pinnedNode: NodeState?
  /// The routing headers, as `Route.routing` makes them.
  var routing = FixedBytes.empty
  /// What holds for the endpoint.
  var policy: EndpointPolicy
  var format = PayloadFormat.json
  /// Header lines of metadata, then the payload.
  var request: ByteBuffer?
  var metadata = 0..<0
  var payload = 0..<0
  var deadline = Instant.distantFuture
  /// Who reads the reply, where it is JSON made of protobuf.
  var audience = JSONAudience.people
  /// The payload is a query or a form: an object of texts, which get their types when the service is known.
  var isQuery = false
  /// The document came in a JSON-RPC envelope, and goes on in one. Both ends of that codec write plain Go JSON in every
  /// generation, while bare JSON of v5.14 and later has protobuf's names and numbers (`userId`, `"1"`), which a JSON-RPC
  /// caller skips without a word (codec/json and codec/jsonrpc @ v5.30.0).
  var isJSONRPC = false
  /// The call may be repeated even if it may have run.
  var isIdempotent = false
  /// What its caller said to the sidecar.
  var hints: TrafficHints?
  /// A copy of another service's call, whose answer nobody hears.
  var isMirror = false
  /// Which nodes it may go to, and by what key.
  var wish = NodeSet.Wish()
  /// Hears of the attempts, where the call is sampled.
  var span: TraceSpan?

  /// Where the endpoint's latencies are kept, if hedges go by them.
  private var quantile: LatencyQuantile?

  // What came of it, for the reply's headers and the counters.
  private(set) var attempts = 0
  private(set) var node: NodeState?
  private(set) var startedAt = Instant(nanoseconds: 0)

  unowned(unsafe) let worker: Worker
  private var owner: (any CallOwner)?
  private(set) var state = State.idle
  private var connection: UpstreamConnection?
  /// Instead of `connection`, at a node that speaks gRPC.
  var stream: GRPCClientStream?
  /// The reply's message, until its end is here.
  var streamReply: ByteBuffer?
  /// What the payload is sent as in the attempt at hand.
  var sentFormat = PayloadFormat.json
  /// How the payload was translated for that, and the reply is to be; nil: they are not.
  var method: ProtoMethod?
  /// The payload, translated.
  var translated: ByteBuffer?
  /// The node that is being asked for descriptors.
  var undescribed: UpstreamTarget?
  private var codec = FrameCodec.json
  private var picker = NodePicker()
  private(set) var attemptStarted = Instant(nanoseconds: 0)
  private var lastFailure = ""
  /// Some node may have worked on the call already.
  private var mayHaveRun = false
  private var freshOnly = false
  /// Attempts whose node said that it had not begun to work on the call.
  private var unbegun = 0
  private static let unbegunMax = 4
  /// Attempts spent on repetitions, as `RetryPolicy.limit` counts them.
  private var repeats = 0
  /// What the call is to fail with once its delay is over.
  private var injected: SidecarError?
  /// How long the node wants to be left alone, as it said in its last reply, in nanoseconds.
  private var retryAfter: Int64?
  /// It has a place at its service.
  private var isInside = false
  /// A second attempt that runs beside the first.
  private var hedge: OutboundCall?
  /// It is such a second attempt itself, and keeps away from the first one's node.
  private var isHedge = false
  private var avoidedNode: NodeState?
  /// What ended the attempt at hand while its hedge was still under way.
  private var heldError: SidecarError?
  /// Counts the calls this object has been, so that what was put off for one does not end the next.
  private var generation: UInt64 = 0
  private let timer = LoopTimer()
  /// For the end of a pause, of patience, of an attempt's time, and for the hedge.
  private lazy var pace = LoopTimer { [unowned self] in self.paceFired() }
  private var isPaced = false
  private var hedgeIsNext = false

  init(worker: Worker) {
    self.worker = worker
    policy = worker.policies.endpointDefaults
    timer.setAction { [unowned self] in deadlinePassed() }
  }

  var isRunning: Bool { state != .idle }

  /// Takes over where a route leads and what holds there.
  @inline(__always)
  func setRoute(_ route: Route) {
    service = route.service
    endpoint = route.endpoint
    routing = route.routing
    policy = route.policy(worker)
    if policy.values.hedge?.after == 0 { quantile = route.quantile }
    if !isIdempotent { isIdempotent = route.isIdempotent(worker) }
  }

  // MARK: Life

  func start(for owner: any CallOwner) {
    // References that are used often are counted once, here and below.
    let (worker, policy) = (worker, policy)
    self.owner = owner
    startedAt = worker.driver.now
    attempts = 0
    repeats = 0
    unbegun = 0
    picker.reset()
    picker.wish = wish
    picker.wish.isRepeatable = isIdempotent
    picker.forgetsFailures = policy.values.retry.strict != nil
    picker.wish.narrow(by: policy.filter)
    if let service, let avoidedNode { picker.exclude(avoidedNode, of: service) }
    mayHaveRun = false
    freshOnly = false
    node = nil
    lastFailure = ""
    retryAfter = nil
    heldError = nil
    injected = nil
    worker.callsInFlight += 1
    if let refusal = worker.refusal(underWay: worker.callsInFlight - 1) {
      end(later: SidecarError(.overloaded, refusal))
      return
    }
    worker.timers.arm(timer, at: deadline)
    if fixedTarget != nil || pinnedNode != nil {
      state = .attempting
      attempt()
      return
    }
    guard let service else {
      end(later: SidecarError(.internal, "call without a service"))
      return
    }
    if !isHedge, !isMirror, policy.shapesTraffic || hints?.fault != nil { return shape(service) }
    begin(service)
  }

  /// What is done to the call on purpose.
  private func shape(_ service: ServiceTable) {
    let verdict = worker.shape((service, endpoint), policy, hints ?? TrafficHints())
    if verdict.delay > 0 {
      state = .delayed
      injected = verdict.refusal
      return arm(pace, after: verdict.delay)
    }
    if let refusal = verdict.refusal { return end(later: refusal) }
    if let mirror = policy.values.mirror { worker.mirror(self, mirror) }
    begin(service)
  }

  private func delayOver() {
    guard let service else { return }
    if let injected { return end(injected) }
    if let mirror = policy.values.mirror { worker.mirror(self, mirror) }
    begin(service)
  }

  private func begin(_ service: ServiceTable) {
    if !isHedge { service.budget.deposit(worker.driver.now) }
    switch service.status {
    case .present: enter(service)
    case .resolving:
      wait(for: service)
    case .absent(let since):
      if worker.driver.now.nanoseconds(since: since) < worker.settings.negativeTTL {
        end(later: .serviceNotFound(service.name))
      } else {
        worker.resolve(service)
        wait(for: service)
      }
    }
  }

  private func wait(for service: ServiceTable) {
    guard service.waiting.count < ServiceTable.waitersMax else {
      end(later: SidecarError(.overloaded, "too many calls wait for the registries to find \(service.name)"))
      return
    }
    state = .resolving
    service.waiting.append(self)
  }

  /// The registries have answered.
  func resolved(found: Bool) {
    guard state == .resolving, let service else { return }
    if found { enter(service) } else { end(.serviceNotFound(service.name)) }
  }

  /// Takes a place at the service, or waits for one.
  private func enter(_ service: ServiceTable) {
    switch service.gate.enter(self, service.policy.limits) {
    case .admitted:
      isInside = true
      state = .attempting
      attempt()
    case .waits:
      state = .pending
      arm(pace, after: service.policy.limits.pendingTime)
    case .refused(let why):
      end(later: SidecarError(.overloaded, "\(service.name) takes no more calls: \(why)"))
    }
  }

  private func arm(_ timer: LoopTimer, after nanoseconds: Int64) {
    isPaced = true
    worker.timers.arm(timer, after: nanoseconds, from: worker.driver.now)
  }

  private func paceFired() {
    isPaced = false
    switch state {
    case .pending:
      guard let service else { return }
      service.gate.giveUp(self, outOfPatience: true)
      let waited = worker.driver.now.nanoseconds(since: startedAt) / 1_000_000
      end(
        SidecarError(
          .overloaded,
          "waited \(waited) ms for one of \(service.policy.limits.inFlight) places at \(service.name)"))
    case .pausing:
      state = .attempting
      attempt()
    case .delayed: delayOver()
    case .attempting: if hedgeIsNext { startHedge() } else { attemptTimedOut() }
    case .idle, .resolving: break
    }
  }

  /// The caller is gone: nothing more is sent, nothing reported.
  func cancel() {
    guard state != .idle else { return }
    owner = nil
    finish()
    worker.recycle(self)
  }

  /// Gives back a call that was filled and not started.
  func discard() {
    if let request {
      worker.readers.buffers.give(request)
      self.request = nil
    }
    worker.recycle(self)
  }

  /// Makes it ready for another call.
  func clear() {
    service = nil
    fixedTarget = nil
    pinnedNode = nil
    node = nil
    connection = nil
    isIdempotent = false
    isHedge = false
    avoidedNode = nil
    quantile = nil
    span = nil
    hints = nil
    isMirror = false
    wish = NodeSet.Wish()
    policy = worker.policies.endpointDefaults
    audience = .people
    isJSONRPC = false
    isQuery = false
    format = .json
    metadata = 0..<0
    payload = 0..<0
    deadline = .distantFuture
  }

  private func deadlinePassed() {
    guard state != .idle else { return }
    mark(.timedOut)
    let waited = worker.driver.now.nanoseconds(since: startedAt) / 1_000_000
    switch state {
    case .delayed: end(.deadlineExceeded("the call was delayed on purpose, for more than its \(waited) ms"))
    case .resolving: end(.deadlineExceeded("no registry answered within \(waited) ms"))
    case .pending: end(.deadlineExceeded("no place at \(service?.name ?? "the service") fell free within \(waited) ms"))
    case .pausing: end(.deadlineExceeded("no time was left for another attempt after \(waited) ms: \(lastFailure)"))
    case .attempting, .idle:
      let who = node.map { " by \($0.node.id) at \($0.node.address)" } ?? ""
      end(.deadlineExceeded("no reply\(who) within \(waited) ms"))
    }
  }

  private func end(_ error: SidecarError) {
    let owner = owner
    self.owner = nil
    finish()
    owner?.callFailed(self, error)
    worker.recycle(self)
  }

  /// For what fails inside `start`, whose caller must not be called back from there.
  private func end(later error: SidecarError) {
    state = .attempting
    let current = generation
    worker.driver.later { [self] in
      // By then the caller may have left, and this object may be another's call.
      if generation == current, state != .idle { end(error) }
    }
  }

  private func finish() {
    let worker = worker
    timer.cancel()
    endPace()
    if let service {
      if state == .resolving { service.waiting.removeAll { $0 === self } }
      if state == .pending { service.gate.giveUp(self, outOfPatience: false) }
    }
    state = .idle
    generation &+= 1
    if let hedge {
      self.hedge = nil
      hedge.cancel()
    }
    // What has ended otherwise was marked before.
    mark(.cancelled)
    leaveAttempt()
    if let translated { worker.readers.buffers.give(translated) }
    translated = nil
    method = nil
    worker.callsInFlight -= 1
    if isInside {
      isInside = false
      service?.leaveGate()
    }
    if let request {
      worker.readers.buffers.give(request)
      self.request = nil
    }
  }

  private func endPace() {
    guard isPaced else { return }
    isPaced = false
    pace.cancel()
  }

  // MARK: Attempts

  private func attempt() {
    let worker = worker
    let target: UpstreamTarget
    if let fixedTarget {
      target = fixedTarget
    } else if let pinnedNode {
      // A second time only because an idle connection may have died; more is the business of whoever asks.
      if attempts > 1 { return end(later: attemptsFailed()) }
      node = pinnedNode
      target = pinnedNode.target
    } else {
      if !picker.isSettled, let service { picker.settle(service, policy, endpoint, worker) }
      guard let service, let picked = picker.pick(service, worker) else {
        if attempts > 0 { conclude(attemptsFailed(), mayRepeat: false) } else { end(later: nothingLeft()) }
        return
      }
      node = picked
      target = picked.target
    }
    attempt(at: target)
  }

  /// The service is known by now.
  private func shapeQuery() {
    isQuery = false
    guard let service, let request else { return }
    let shaped = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(shaped) }
    guard service.appendShaped(query: request.bytes(payload), endpoint: endpoint.text, to: shaped) else { return }
    request.truncate(to: payload.lowerBound)
    request.append(shaped.bytes)
    payload = payload.lowerBound..<request.count
  }

  /// The picked node is tried, or the one at hand once more.
  func attempt(at target: UpstreamTarget) {
    let worker = worker
    if isQuery { shapeQuery() }
    attempts += 1
    attemptStarted = worker.driver.now
    span?.attemptBegan(node, worker.driver.unixNanoseconds)
    if attempts > 1 { worker.metrics.add(.retries) }
    if policy.isPaced { setPace() }
    sentFormat = format
    if let node, !node.isPlain { return prepare(target, node) }
    dial(target)
  }

  func dial(_ target: UpstreamTarget) {
    switch target.connect(self, fresh: freshOnly) {
    case .ready(let connection):
      self.connection = connection
      target.inFlight += 1
      send(on: connection)
    case .dialling(let connection):
      self.connection = connection
      target.inFlight += 1
    case .full:
      end(
        later: SidecarError(
          .overloaded, "\(target.connectionsMax) connections to \(target.hostHeader.text) are busy"))
    }
  }

  private func nothingLeft() -> SidecarError {
    service?.noNodeError ?? SidecarError(.internal, "call without a service")
  }

  /// The last attempt was a refused dial. Only if all were, a caller may repeat the call without a second thought.
  private func attemptsFailed() -> SidecarError {
    mayHaveRun
      ? .upstreamReset("the connection broke before the reply, and then: \(lastFailure)") : .connectFailed(lastFailure)
  }

  private func send(on connection: UpstreamConnection) {
    guard let request else { return }
    let worker = worker
    let out = worker.scratch
    out.removeAll()
    let call = FrameCall(
      id: worker.nextID(), node: node?.dialect ?? .explicitAddress, format: sentFormat,
      codec: isJSONRPC && sentFormat == .json && node?.dialect.preferred == nil ? .jsonRPC : nil,
      timeoutNanoseconds: deadline.nanoseconds(since: worker.driver.now))
    let payload = translated?.bytes ?? request.bytes(payload)
    let metadata = request.bytes(metadata)
    do throws(WireError) {
      codec = try FrameClient.encodeRequest(
        call, host: connection.target.hostHeader.span, routing: routing.span, endpoint: endpoint.span,
        payload: payload, into: out,
        metadata: {
          $0.append(metadata)
          appendPriority(to: $0, after: metadata)
        })
    } catch {
      // A payload that breaks its envelope: nothing was sent, and no other node would take it either.
      end(later: SidecarError(error))
      return
    }
    connection.send(out.bytes, UnsafeRawBufferPointer(start: nil, count: 0))
  }

  /// How much the call matters, as the policy has it, unless its caller says so itself.
  private func appendPriority(to out: ByteBuffer, after metadata: UnsafeRawBufferPointer) {
    let line = policy.priorityLine.span
    guard !line.isEmpty, !HeaderLines.contain("micro-priority", metadata) else { return }
    out.append(line)
  }

  func setRetryAfter(_ nanoseconds: Int64) { retryAfter = nanoseconds }

  private func leaveNode() {
    node?.target.inFlight -= 1
    if node == nil { fixedTarget?.inFlight -= 1 }
  }

  /// `reported`: what the node's sidecar said of its app's load.
  private func mark(_ outcome: CallOutcome, reported: Float? = nil) {
    span?.attemptEnded(outcome, node, worker.driver.unixNanoseconds)
    if let service { picker.ended(service, outcome, reported: reported, worker) }
  }

  // MARK: UpstreamUser

  func upstreamReady(_ connection: UpstreamConnection) {
    guard state == .attempting, connection === self.connection else { return }
    send(on: connection)
  }

  func upstreamReplied(_ connection: UpstreamConnection, _ head: HTTP1Head, _ body: UnsafeRawBufferPointer) -> Bool {
    guard state == .attempting, connection === self.connection else { return false }
    endPace()
    let latency = worker.driver.now.nanoseconds(since: attemptStarted)
    let reported = head.first(.xMicroLoad).flatMap { LoadReport.value($0) }
    let reply = FrameClient.decodeReply(head: head, body: body, codec: codec)
    switch reply {
    case .payload(let range, _):
      succeeded(UnsafeRawBufferPointer(rebasing: body[range]), latency, reported)
      return true
    case .translated(let json):
      succeeded(json.bytes, latency, reported)
      return true
    case .endOfStream:
      mark(.failure(latency: latency))
      self.connection = nil
      leaveNode()
      mayHaveRun = true
      conclude(badReply("the end of a stream"), mayRepeat: false)
      return false
    case .failed(let error):
      let isUnbegun = head.first(.xMicroUnbegun) != nil
      if isUnbegun {
        markTurnedAway(error, latency, reported)
      } else {
        mark(error.blamesNode ? .failure(latency: latency) : .success(latency: latency), reported: reported)
      }
      self.connection = nil
      leaveNode()
      if error.kind == .unsupportedNodeDialect { return refused(error) }
      if let value = head.first(.retryAfter) { retryAfter = RetryAfter.nanoseconds(value) }
      if isUnbegun {
        conclude(error, mayRepeat: true)
        return false
      }
      answered(error.kind == .badUpstreamReply ? badReply(error.detail) : error)
      // Servers of v0.20 … v1.10 repeat an error on every later reply of its connection (wire/rpc.md §1.2).
      return false
    }
  }

  /// The reply's payload is in the format that the request was sent in.
  @inline(__always)
  private func succeeded(_ payload: UnsafeRawBufferPointer, _ latency: Int64, _ reported: Float?) {
    mark(.success(latency: max(latency, 1)), reported: reported)
    quantile?.add(latency)
    connection = nil
    leaveNode()
    if method != nil { return translateReply(payload) }
    deliver(payload)
  }

  /// Ends the call with its reply, in the caller's format.
  func deliver(_ payload: UnsafeRawBufferPointer) {
    let owner = owner
    self.owner = nil
    finish()
    owner?.callReplied(self, payload, format: format)
    worker.recycle(self)
  }

  func badReply(_ why: String) -> SidecarError {
    let who = node.map { "\($0.node.id) at \($0.node.address)" } ?? "the node"
    return SidecarError(.badUpstreamReply, "\(who) sent a reply that cannot be read: \(why)")
  }

  func upstreamFailed(_ connection: UpstreamConnection, _ failure: UpstreamFailure) {
    guard state == .attempting, connection === self.connection else { return }
    failed(failure, at: connection.target)
  }

  /// The attempt at hand has come to nothing.
  func failed(_ failure: UpstreamFailure, at target: UpstreamTarget) {
    let address = target.hostHeader.text
    switch failure {
    case .connectFailed: mark(.connectFailed)
    case .refused: mark(.cancelled)
    case .brokeBeforeReply(let wasReused, _):
      mayHaveRun = true
      // A peer may close an idle connection at any time; that says nothing about it.
      mark(wasReused ? .cancelled : .broken)
    case .brokeInReply, .malformed, .streamReset:
      mayHaveRun = true
      mark(.broken)
    }
    endPace()
    connection = nil
    stream = nil
    leaveNode()
    switch failure {
    case .connectFailed(let why):
      lastFailure = "dial \(address): \(why)"
      // Nothing was sent, so every other node may be tried, within the deadline.
      if node != nil, policy.values.retry.strict == nil, picker.mayGoOn() { return attempt() }
      conclude(attemptsFailed(), mayRepeat: false)
    case .refused(let why):
      // Nobody has worked on it: the same again, at another node if there is one.
      lastFailure = "\(address): \(why)"
      unbegun += 1
      if let node { picker.avoid(node) }
      if unbegun < Self.unbegunMax { return attempt() }
      conclude(attemptsFailed(), mayRepeat: false)
    case .brokeBeforeReply(let wasReused, let why):
      lastFailure = "\(address): \(why)"
      // What was sent on a connection that had been idle was most likely never read.
      if wasReused, !freshOnly {
        freshOnly = true
        return attempt()
      }
      conclude(
        .upstreamReset("\(address) closed the connection before replying: \(why)"),
        mayRepeat: isIdempotent && policy.values.retry.onBreak)
    case .streamReset(let reset):
      lastFailure = "\(address): \(String(decoding: reset.message, as: UTF8.self))"
      var error = SidecarError.upstreamReset(lastFailure)
      error.grpc = reset
      conclude(error, mayRepeat: isIdempotent && policy.values.retry.onBreak)
    case .brokeInReply(let why):
      conclude(.upstreamReset("\(address): \(why)"), mayRepeat: isIdempotent && policy.values.retry.onBreak)
    case .malformed(let error): conclude(badReply(error.description), mayRepeat: false)
    }
  }

  /// The node's sidecar has not let the call through to its app, so it may be made anywhere else, within the budget.
  private func markTurnedAway(_ error: SidecarError, _ latency: Int64, _ reported: Float?) {
    // A node that turns calls away at once must not look like a quick one.
    mark(error.code >= 500 ? .failure(latency: latency) : .cancelled, reported: reported)
    if let node { picker.avoid(node) }
  }

  /// The node has answered with an error.
  private func answered(_ error: SidecarError) {
    mayHaveRun = true
    conclude(error, mayRepeat: isIdempotent && policy.values.retry.codes.contains(error.code))
  }

  // MARK: Repetition

  /// No attempt is under way, and this is what the last one came to: the call is tried again, or ends with it.
  private func conclude(_ error: SidecarError, mayRepeat: Bool) {
    if let strict = policy.values.retry.strict {
      guard strict.repeats(error), repeats < policy.values.retry.limit else { return end(error) }
      repeats += 1
      return pause(strict.pause(beforeAttempt: repeats), orEnd: error)
    }
    if hedge != nil {
      // The other attempt decides.
      heldError = error
      return
    }
    // Where nothing was sent a repetition does no harm, and a node that restarts may be back in a moment.
    guard mayRepeat || !mayHaveRun, !isHedge, pinnedNode == nil, repeats < policy.values.retry.limit,
      error.kind != .cancelled
    else {
      return end(error)
    }
    guard service?.budget.withdraw(worker.driver.now) ?? true else {
      worker.metrics.add(.retriesUnpaid)
      return end(error)
    }
    repeats += 1
    freshOnly = true
    var time = policy.values.retry.backoff.pause(repeats, &worker.driver.random)
    if let retryAfter {
      self.retryAfter = nil
      // It is one node that wants to be left alone; others may be tried.
      if (service?.set.count ?? 1) <= repeats { time = max(time, retryAfter) }
    }
    if picker.refusals > 0, !mayHaveRun { picker.forgetTried() }
    pause(time, orEnd: error)
  }

  /// Makes another attempt after `nanoseconds`, if there is time for it.
  private func pause(_ nanoseconds: Int64, orEnd error: SidecarError) {
    guard worker.driver.now.advanced(byNanoseconds: nanoseconds) < deadline else { return end(error) }
    state = .pausing
    arm(pace, after: nanoseconds)
  }

  /// An attempt begins that may not take for ever, or that is to get company.
  private func setPace() {
    let limit = policy.attemptTimeout
    hedgeIsNext = false
    if attempts == 1, isIdempotent, !isHedge, let hedge = policy.values.hedge,
      let delay = hedge.after > 0 ? hedge.after : quantile?.value, delay < limit ?? .max
    {
      hedgeIsNext = true
      return arm(pace, after: delay)
    }
    if let limit { arm(pace, after: limit) }
  }

  private func attemptTimedOut() {
    worker.metrics.add(.attemptsTimedOut)
    let waited = worker.driver.now.nanoseconds(since: attemptStarted) / 1_000_000
    let who = node.map { "\($0.node.id) at \($0.node.address)" } ?? "the node"
    mark(.timedOut)
    mayHaveRun = true
    lastFailure = "no reply by \(who) within \(waited) ms"
    leaveAttempt()
    conclude(
      .deadlineExceeded("\(lastFailure), which is all that one attempt may take"),
      mayRepeat: isIdempotent && policy.values.retry.onBreak)
  }

  /// Breaks off the attempt at hand.
  private func leaveAttempt() {
    if let connection {
      self.connection = nil
      leaveNode()
      connection.abandon()
    }
    if let stream {
      self.stream = nil
      leaveNode()
      stream.abandon()
    }
    if let streamReply {
      self.streamReply = nil
      worker.readers.buffers.give(streamReply)
    }
    if undescribed != nil {
      undescribed = nil
      service?.description.waiting.removeAll { $0 === self }
    }
  }

  // MARK: Hedging

  /// Another attempt is made beside the one at hand, at another node: whichever answers first wins.
  private func startHedge() {
    hedgeIsNext = false
    if let limit = policy.attemptTimeout {
      let left = limit - worker.driver.now.nanoseconds(since: attemptStarted)
      arm(pace, after: max(left, 0))
    }
    guard let service, let node, let request, service.set.count > 1, !worker.isDraining else { return }
    guard service.budget.withdraw(worker.driver.now) else {
      worker.metrics.add(.retriesUnpaid)
      return
    }
    worker.metrics.add(.hedges)
    let twin = worker.takeCall()
    let copy = worker.readers.buffers.take()
    copy.append(request.bytes)
    twin.request = copy
    twin.service = service
    twin.endpoint = endpoint
    twin.routing = routing
    twin.policy = policy
    twin.format = format
    twin.metadata = metadata
    twin.payload = payload
    twin.deadline = deadline
    twin.audience = audience
    twin.isJSONRPC = isJSONRPC
    twin.isIdempotent = true
    // The same part of a split.
    twin.wish = picker.wish
    twin.span = span
    twin.isHedge = true
    twin.avoidedNode = node
    hedge = twin
    twin.start(for: self)
  }

  func hedgeReplied(_ call: OutboundCall, _ payload: UnsafeRawBufferPointer) {
    guard call === hedge else { return }
    hedge = nil
    worker.metrics.add(.hedgesWon)
    attempts += call.attempts
    if let service { picker.overtaken(service, worker) }
    node = call.node
    let owner = owner
    self.owner = nil
    finish()
    owner?.callReplied(self, payload, format: format)
    worker.recycle(self)
  }

  func hedgeFailed(_ call: OutboundCall) {
    guard call === hedge else { return }
    hedge = nil
    attempts += call.attempts
    if let heldError { end(heldError) }
  }

  /// A place at the service is this call's.
  func admit() {
    guard state == .pending else { return }
    isInside = true
    endPace()
    state = .attempting
    let current = generation
    worker.driver.later { [self] in
      if generation == current, state == .attempting { attempt() }
    }
  }

  // MARK: gRPC

  func open(_ target: UpstreamTarget) {
    let stream = GRPCClientStream(worker: worker, target: target, user: self)
    switch stream.open() {
    case .ready:
      self.stream = stream
      target.inFlight += 1
      grpcReady(stream)
    case .waiting:
      self.stream = stream
      target.inFlight += 1
    case .full(let why): end(later: SidecarError(.overloaded, why))
    }
  }

  /// A gRPC node's reply is whole.
  func succeeded(_ reply: ByteBuffer, reported: Float?) {
    endPace()
    let latency = worker.driver.now.nanoseconds(since: attemptStarted)
    mark(.success(latency: max(latency, 1)), reported: reported)
    quantile?.add(latency)
    stream = nil
    leaveNode()
    // Else it would be given back before its reader has had it.
    streamReply = nil
    defer { worker.readers.buffers.give(reply) }
    if method != nil { translateReply(reply.bytes) } else { deliver(reply.bytes) }
  }

  /// A gRPC node has answered with an error.
  func failed(_ error: SidecarError, isUnbegun: Bool = false, reported: Float? = nil) {
    let latency = worker.driver.now.nanoseconds(since: attemptStarted)
    endPace()
    if isUnbegun {
      markTurnedAway(error, latency, reported)
    } else {
      mark(error.blamesNode ? .failure(latency: latency) : .success(latency: latency), reported: reported)
    }
    stream = nil
    leaveNode()
    if isUnbegun { return conclude(error, mayRepeat: true) }
    answered(error)
  }

  /// Ends a call inside an attempt, for a reason that no other node would change.
  func giveUp(_ error: SidecarError) { end(error) }
  func giveUp(later error: SidecarError) { end(later: error) }
}
