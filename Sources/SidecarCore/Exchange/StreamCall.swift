// A call of many messages: finds a node, connects a `StreamCallee` and relays between it and the `StreamCaller`.
//
//   start ─▶ resolving ─▶ connecting ─▶ open ─▶ over
//                           │  ▲  │
//                           └──┘  └ no node left: over          deadline, caller gone: over, from any state
//                        refused: another node
//
// Nothing is ever sent twice to what may have worked on it: another node is tried only while nothing has been sent, or when
// the node's sidecar says that it has let nothing through to its app. What the caller sends before a callee is connected
// waits here, up to a limit, and is handed on in order; what was sent is kept, up to another, until anything is heard.

/// Where a streaming call goes.
enum StreamTarget {
  /// To a node of a service.
  case service(Route)
  /// From the framework to the app behind this sidecar; the endpoint is `Handler.Method`.
  case app(endpoint: FixedBytes)
  /// To this sidecar itself; the closure makes the end that answers.
  case own(endpoint: FixedBytes, (StreamCall) -> any StreamCallee)
}

/// One streaming call. Loop-confined. The owner fills in the variables, then calls `start` once.
final class StreamCall: ResolutionWaiter, AppGateWaiter, GateWaiter {
  private enum State {
    /// Being filled. To: resolving, connecting, over.
    case idle
    /// Waits for the registries. To: connecting, over.
    case resolving
    /// A callee is being connected. To: connecting, open, over.
    case connecting
    /// Messages pass. To: connecting, over.
    case open
    case over
  }

  let target: StreamTarget
  unowned(unsafe) let worker: Worker
  /// Metadata as header lines that may be forwarded (`Metadata.append`); given back to the pool at the end.
  var metadata: ByteBuffer?
  /// What the caller wants to hear.
  var replyFormat = PayloadFormat.json
  /// Who reads the replies, where they are JSON made of protobuf.
  var audience = JSONAudience.people
  /// As `OutboundCall.isJSONRPC`, where it is one.
  var isJSONRPC = false
  /// When the call ends whatever happens; `.distantFuture`: never by time.
  var deadline = Instant.distantFuture
  /// gRPC's `:path` as a gRPC caller wrote it: the way to an app that speaks gRPC, where no descriptor tells its package.
  var path: FixedBytes?
  /// The endpoint is a stream unless the registry or a descriptor says otherwise; false for callers whose protocol does
  /// not tell (gRPC).
  var assumesStream = true
  /// What its caller said to the sidecar.
  var hints: TrafficHints?
  /// The first message is a query or a form; see `OutboundCall`.
  var isQuery = false
  /// Which nodes it may go to, and by what key.
  var wish = NodeSet.Wish()

  private var caller: (any StreamCaller)?
  private var callee: (any StreamCallee)?
  private var calleeFormat: PayloadFormat?
  private var state = State.idle
  private var picker = NodePicker()
  /// The node of the current attempt; nil for the app.
  private(set) var node: NodeState?
  private(set) var attempts = 0
  /// Hears of the attempts, where the call is sampled.
  var span: TraceSpan?
  // For whoever watches: what the attempts of a call with one message came to, and bytes of messages.
  private var unaryNode: NodeState?
  private(set) var unaryAttempts = 0
  private(set) var bytesFromCaller = 0
  private(set) var bytesFromCallee = 0
  private(set) var startedAt: Instant
  private var lastFailure = ""
  private var isShaped = false
  private var place = AppPlace()
  /// Its place at the service, or its wait for one.
  private var gateState = GateState.none
  private enum GateState { case none, waiting, inside }
  private var hasPlace = false
  /// Messages that wait for a callee, one after another, and their lengths.
  private var pending: ByteBuffer?
  private var pendingMessages: [(format: PayloadFormat, count: Int)] = []
  private var callerIsCongested = false
  private var hasFinishedSending = false
  /// The endpoint takes one message and gives one; known from `calleeReady` on.
  private(set) var isUnary = false
  /// Bytes of sent messages that are kept for another attempt.
  private static let keptMax = 64 * 1024
  /// What was sent at this attempt, while all of it is here and nothing has been heard of the callee.
  private var kept: ByteBuffer?
  private var keptMessages: [(format: PayloadFormat, count: Int)] = []
  private var mayRepeat = false
  private var repeats = 0
  /// With what the last node turned the call away.
  private var turnedAway: SidecarError?
  /// The caller knows that there is a callee.
  private var isAnnounced = false
  /// Anything has been heard of the callee of this attempt.
  private var hasHeard = false
  /// When the callee was connected, or was last sent a message before anything was heard of it.
  private var askedAt: Instant
  /// A fault, the wait for a place at the service, or the pause before another attempt holds the call back.
  private var delay: LoopTimer?
  private lazy var timer = LoopTimer { [unowned self] in self.timePassed() }

  init(worker: Worker, target: StreamTarget) {
    self.worker = worker
    self.target = target
    startedAt = worker.driver.now
    askedAt = startedAt
  }

  /// `Handler.Method`
  var endpoint: FixedBytes {
    switch target {
    case .service(let route): route.endpoint
    case .app(let endpoint), .own(let endpoint, _): endpoint
    }
  }

  var isOver: Bool { state == .over }

  /// The node of the last attempt.
  var answeringNode: NodeState? { node ?? unaryNode }

  /// The call was made as one with a single message.
  func note(_ call: OutboundCall) {
    unaryNode = call.node
    unaryAttempts = call.attempts
  }

  private var service: ServiceTable? {
    if case .service(let route) = target { return route.service }
    return nil
  }

  // MARK: Life

  /// Never calls `caller` from inside.
  func start(for caller: any StreamCaller) {
    self.caller = caller
    startedAt = worker.driver.now
    worker.callsInFlight += 1
    if let refusal = worker.refusal(underWay: worker.callsInFlight - 1) {
      state = .connecting
      return end(later: SidecarError(.overloaded, refusal))
    }
    picker.wish = wish
    if case .service(let route) = target { picker.wish.narrow(by: route.policy(worker).filter) }
    // To find a callee takes no longer than a unary call may take in all.
    let patience = startedAt.advanced(byNanoseconds: worker.settings.requestTimeout)
    worker.timers.arm(timer, at: min(deadline, patience))
    guard let service else {
      state = .connecting
      return attempt()
    }
    switch service.status {
    case .present:
      state = .connecting
      attempt()
    case .absent(let since) where worker.driver.now.nanoseconds(since: since) < worker.settings.negativeTTL:
      state = .connecting
      end(later: .serviceNotFound(service.name))
    case .absent:
      worker.resolve(service)
      wait(for: service)
    case .resolving: wait(for: service)
    }
  }

  private func wait(for service: ServiceTable) {
    state = .resolving
    guard service.waiting.count < ServiceTable.waitersMax else {
      return end(
        later: SidecarError(.overloaded, "too many calls wait for the registries to find \(service.name)"))
    }
    service.waiting.append(self)
  }

  func resolved(found: Bool) {
    guard state == .resolving, let service else { return }
    guard found else { return end(.serviceNotFound(service.name)) }
    state = .connecting
    attempt()
  }

  private func timePassed() {
    let waited = worker.driver.now.nanoseconds(since: startedAt) / 1_000_000
    switch state {
    case .resolving: end(.deadlineExceeded("no registry answered within \(waited) ms"))
    case .connecting:
      mark(.timedOut)
      if delay != nil, gateState != .waiting {
        return end(
          .deadlineExceeded(
            turnedAway.map { "no time was left for another attempt after \(waited) ms: \($0.detail)" }
              ?? "the stream was delayed on purpose, for more than its \(waited) ms"))
      }
      if gateState == .waiting {
        return end(.deadlineExceeded("no place at \(service?.name ?? "the service") fell free within \(waited) ms"))
      }
      if place.isWaiting { return end(.deadlineExceeded("the app had no place for the stream within \(waited) ms")) }
      let who = node.map { "\($0.node.id) at \($0.node.address)" } ?? "the app"
      end(.deadlineExceeded("\(who) could not be connected within \(waited) ms"))
    case .open:
      mark(.timedOut)
      end(.deadlineExceeded("the stream was not over within \(waited) ms"))
    case .idle, .over: break
    }
  }

  /// The caller has left: the callee is told, nothing is reported.
  func cancel() {
    guard state != .over else { return }
    caller = nil
    finish()
  }

  private func end(_ error: SidecarError?, trailers: UnsafeRawBufferPointer = .none) {
    guard state != .over else { return }
    let caller = caller
    self.caller = nil
    finish()
    var error = error
    // What a node's sidecar says to this one; only this process's own app makes it true of this one.
    if service != nil { error?.isUnbegun = false }
    caller?.calleeEnded(self, error, trailers: trailers)
  }

  /// For what fails inside a call of the caller, who must not be called back from there.
  private func end(later error: SidecarError) {
    worker.driver.later { [self] in end(error) }
  }

  private func finish() {
    if state == .resolving, let service { service.waiting.removeAll { $0 === self } }
    if state != .idle { worker.callsInFlight -= 1 }
    state = .over
    timer.cancel()
    worker.leaveApp(self, &place, hasAnswer: nil)
    leaveGate()
    delay?.cancel()
    delay = nil
    // What has ended otherwise was marked before.
    mark(.cancelled)
    leaveNode()
    let callee = callee
    self.callee = nil
    callee?.abandon()
    for buffer in [metadata, pending, kept] {
      if let buffer { worker.readers.buffers.give(buffer) }
    }
    metadata = nil
    pending = nil
    pendingMessages = []
    kept = nil
    keptMessages = []
  }

  private func leaveNode() {
    if callee != nil { node?.target.inFlight -= 1 }
  }

  private func mark(_ outcome: CallOutcome, reported: Float? = nil) {
    span?.attemptEnded(outcome, node, worker.driver.unixNanoseconds)
    if let service { picker.ended(service, outcome, reported: reported, worker) }
  }

  // MARK: Attempts

  private func attempt() {
    isUnary = callsUnaryEndpoint
    if isUnary {
      callee = UnaryCallee(self)
      return
    }
    if case .app(let endpoint) = target, !hasPlace {
      hasPlace = true
      switch worker.enterApp(self, &place, endpoint.span, metadata?.bytes ?? .none) {
      case .admitted: break
      case .waits: return
      case .refused(let error): return end(later: error)
      }
    }
    if case .service(let route) = target {
      let service = route.service
      let policy = route.policy(worker)
      if !isShaped {
        isShaped = true
        service.budget.deposit(worker.driver.now)
        appendPriority(policy)
        if policy.shapesTraffic || hints?.fault != nil, shape(route, policy) { return }
      }
      guard gateState == .inside || enterGate(service) else { return }
      if !picker.isSettled { picker.settle(service, policy, route.endpoint, worker) }
      guard let picked = picker.pick(service, worker) else {
        end(later: turnedAway ?? (attempts == 0 ? service.noNodeError : .connectFailed(lastFailure)))
        return
      }
      node = picked
      mayRepeat = policy.values.retry.strict == nil
      hasHeard = false
    }
    attempts += 1
    span?.attemptBegan(node, worker.driver.unixNanoseconds)
    do throws(SidecarError) {
      let callee = try makeCallee()
      self.callee = callee
      node?.target.inFlight += 1
    } catch {
      end(later: error)
    }
  }

  /// True: the call does not go on now.
  private func shape(_ route: Route, _ policy: EndpointPolicy) -> Bool {
    let verdict = worker.shape((route.service, route.endpoint), policy, hints ?? TrafficHints())
    guard verdict.delay > 0 || verdict.refusal != nil else { return false }
    guard verdict.delay > 0 else {
      if let refusal = verdict.refusal { end(later: refusal) }
      return true
    }
    wait(verdict.delay) { [unowned self] in
      if let refusal = verdict.refusal { end(refusal) } else { attempt() }
    }
    return true
  }

  private func wait(_ nanoseconds: Int64, then goOn: @escaping () -> Void) {
    let delay = LoopTimer { [unowned self] in
      self.delay = nil
      goOn()
    }
    self.delay = delay
    worker.timers.arm(delay, after: nanoseconds, from: worker.driver.now)
  }

  /// Takes a place at the service. False: it waits for one, or has failed.
  private func enterGate(_ service: ServiceTable) -> Bool {
    switch service.gate.enter(self, service.policy.limits) {
    case .admitted:
      gateState = .inside
      return true
    case .waits:
      gateState = .waiting
      wait(service.policy.limits.pendingTime) { [unowned self] in
        gateState = .none
        service.gate.giveUp(self, outOfPatience: true)
        let waited = worker.driver.now.nanoseconds(since: startedAt) / 1_000_000
        end(
          SidecarError(
            .overloaded, "waited \(waited) ms for one of \(service.policy.limits.inFlight) places at \(service.name)"))
      }
    case .refused(let why):
      end(later: SidecarError(.overloaded, "\(service.name) takes no more calls: \(why)"))
    }
    return false
  }

  private func leaveGate() {
    let state = gateState
    gateState = .none
    switch state {
    case .none: break
    case .waiting: service?.gate.giveUp(self, outOfPatience: false)
    case .inside: service?.leaveGate()
    }
  }

  // MARK: GateWaiter

  func admitted() {
    gateState = .inside
    delay?.cancel()
    delay = nil
    worker.driver.later { [self] in if state == .connecting { attempt() } }
  }

  /// How much the call matters, as the policy has it, unless its caller says so itself.
  private func appendPriority(_ policy: EndpointPolicy) {
    let line = policy.priorityLine.span
    guard !line.isEmpty, let metadata, !HeaderLines.contain("micro-priority", metadata.bytes) else { return }
    metadata.append(line)
  }

  /// The callee is connected and takes messages.
  func calleeConnected() {
    guard state == .connecting, let callee else { return }
    state = .open
    timer.cancel()
    if deadline != .distantFuture { worker.timers.arm(timer, at: deadline) }
    askedAt = worker.driver.now
    if !isAnnounced {
      isAnnounced = true
      caller?.calleeReady(self)
    }
    flushPending(to: callee)
  }

  private func flushPending(to callee: any StreamCallee) {
    var isCongested = false
    if let pending {
      self.pending = nil
      var offset = 0
      for message in pendingMessages {
        guard state == .open else { break }
        let bytes = pending.bytes(offset..<offset + message.count)
        isCongested = forward(bytes, message.format, to: callee) == .congested
        offset += message.count
      }
      pendingMessages = []
      worker.readers.buffers.give(pending)
    }
    guard state == .open else { return }
    if hasFinishedSending {
      callee.finishSending()
    } else if callerIsCongested, !isCongested {
      callerIsCongested = false
      caller?.calleeDrained(self)
    }
  }

  /// The dial failed: nothing was sent. Another node is tried.
  func calleeRefused(_ why: String) {
    guard state == .connecting else { return }
    mark(.connectFailed)
    leaveNode()
    callee = nil
    calleeFormat = nil
    guard service != nil, let node else {
      worker.appFailed()
      return end(SidecarError(.appUnavailable, why, id: worker.settings.serviceName ?? "go.micro.sidecar"))
    }
    lastFailure = "dial \(node.node.address): \(why)"
    self.node = nil
    if picker.mayGoOn() { attempt() } else { end(.connectFailed(lastFailure)) }
  }

  /// The app does not take the stream in the form it was offered in, and nothing of the call was sent: the next form is
  /// tried.
  func calleeDeclined() {
    guard state == .connecting else { return }
    mark(.cancelled)
    leaveNode()
    callee = nil
    calleeFormat = nil
    attempt()
  }

  // MARK: AppGateWaiter

  func appAdmitted() {
    worker.appAdmitted(&place)
    worker.driver.later { [self] in if state == .connecting { attempt() } }
  }

  func appRefused(_ error: SidecarError) {
    worker.appRefused(&place)
    end(later: error)
  }

  // MARK: From the caller

  /// Hands on a message; it waits here until a callee is connected. See `StreamLegs.swift` for the answer's meaning.
  func send(_ message: UnsafeRawBufferPointer, _ format: PayloadFormat) -> WriteState {
    guard !hasFinishedSending else { return .closed }
    bytesFromCaller &+= message.count
    switch state {
    case .over: return .closed
    case .idle, .resolving, .connecting:
      let pending = pending ?? worker.readers.buffers.take()
      self.pending = pending
      pending.append(message)
      pendingMessages.append((format, message.count))
      callerIsCongested = pending.count > worker.settings.pipelineMax || pendingMessages.count > Self.pendingMessagesMax
      return callerIsCongested ? .congested : .open
    case .open:
      guard let callee else { return .closed }
      let answer = forward(message, format, to: callee)
      callerIsCongested = answer == .congested
      return answer
    }
  }

  /// Messages that wait for a callee before the caller is told to hold back.
  private static let pendingMessagesMax = 1024

  private func forward(
    _ message: UnsafeRawBufferPointer, _ format: PayloadFormat, to callee: any StreamCallee
  ) -> WriteState {
    if isQuery, case .service(let route) = target {
      isQuery = false
      let shaped = worker.readers.buffers.take()
      defer { worker.readers.buffers.give(shaped) }
      if route.service.appendShaped(query: message, endpoint: endpoint.text, to: shaped) {
        return forward(shaped.bytes, format, to: callee)
      }
    }
    keep(message, format)
    let wanted = calleeFormat ?? callee.format(for: format)
    calleeFormat = wanted
    if !format.needsTranslation(to: wanted) { return callee.send(message) }
    let out = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(out) }
    do throws(SidecarError) {
      try translate(message, to: wanted, .request, for: callee.audience, into: out)
      return callee.send(out.bytes)
    } catch {
      end(later: error)
      return .closed
    }
  }

  /// Keeps a message that is sent now for another attempt.
  private func keep(_ message: UnsafeRawBufferPointer, _ format: PayloadFormat) {
    guard !hasHeard else { return }
    askedAt = worker.driver.now
    guard mayRepeat else { return }
    guard (kept?.count ?? 0) + message.count <= Self.keptMax, keptMessages.count < Self.pendingMessagesMax else {
      return dropKept()
    }
    let buffer = kept ?? worker.readers.buffers.take()
    kept = buffer
    buffer.append(message)
    keptMessages.append((format, message.count))
  }

  private func dropKept() {
    mayRepeat = false
    if let kept { worker.readers.buffers.give(kept) }
    kept = nil
    keptMessages = []
  }

  /// The callee has said something.
  private func heard() {
    guard !hasHeard else { return }
    hasHeard = true
    dropKept()
    guard !isUnary, let service, let node, node.index >= 0 else { return }
    let now = worker.driver.now
    service.set.observeStream(node.index, max(now.nanoseconds(since: askedAt), 1), now: now)
  }

  /// The node's sidecar has let nothing of the call through to its app, which says `error`: another attempt is made, if the
  /// policy has one and the budget pays.
  private func repeats(after error: SidecarError, reported: Float?) -> Bool {
    guard error.isUnbegun, state == .open, mayRepeat, !hasHeard, case .service(let route) = target, let node else {
      return false
    }
    let policy = route.policy(worker)
    let now = worker.driver.now
    guard repeats < policy.values.retry.limit else { return false }
    let pause = policy.values.retry.backoff.pause(repeats + 1, &worker.driver.random)
    guard now.advanced(byNanoseconds: pause) < deadline else { return false }
    guard route.service.budget.withdraw(now) else {
      worker.metrics.add(.retriesUnpaid)
      return false
    }
    repeats += 1
    worker.metrics.add(.retries)
    mark(error.code >= 500 ? .failure(latency: 0) : .cancelled, reported: reported)
    picker.avoid(node)
    leaveNode()
    callee = nil
    calleeFormat = nil
    self.node = nil
    turnedAway = error
    state = .connecting
    (pending, kept) = (kept, nil)
    (pendingMessages, keptMessages) = (keptMessages, [])
    worker.timers.arm(timer, at: min(deadline, now.advanced(byNanoseconds: worker.settings.requestTimeout)))
    wait(pause) { [unowned self] in attempt() }
    return true
  }

  /// No more messages follow; replies are still heard. Twice is once.
  func finishSending() {
    guard !hasFinishedSending, state != .over else { return }
    hasFinishedSending = true
    if state == .open { callee?.finishSending() }
  }

  /// After a `calleeSent` that the caller answered with `.congested`.
  func callerDrained() {
    if state == .open { callee?.resumeReplies() }
  }

  // MARK: From the callee

  func calleeAnswered(metadata: UnsafeRawBufferPointer) {
    guard state == .open else { return }
    heard()
    caller?.calleeAnswered(self, metadata: metadata)
  }

  /// A reply message; the answer tells the callee whether to go on reading.
  func calleeSent(_ message: UnsafeRawBufferPointer, _ format: PayloadFormat) -> WriteState {
    guard state == .open, let caller else { return .closed }
    heard()
    bytesFromCallee &+= message.count
    if !format.needsTranslation(to: replyFormat) { return caller.calleeSent(self, message) }
    let out = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(out) }
    do throws(SidecarError) {
      try translate(message, to: replyFormat, .reply, for: audience, into: out)
    } catch {
      end(later: error)
      return .closed
    }
    return caller.calleeSent(self, out.bytes)
  }

  /// The next message is welcome.
  func calleeDrained() {
    guard state == .open, callerIsCongested else { return }
    callerIsCongested = false
    caller?.calleeDrained(self)
  }

  /// The callee has ended the call; it needs no `abandon` any more. `reported`: what it says of its app's load.
  func calleeEnded(
    _ error: SidecarError?, trailers: UnsafeRawBufferPointer = .none, reported: Float? = nil
  ) {
    guard state == .open || state == .connecting else { return }
    if let error, repeats(after: error, reported: reported) { return }
    // How long a stream took says nothing about its node.
    mark(error.map { $0.blamesNode } == true ? .failure(latency: 0) : .success(latency: 0), reported: reported)
    leaveNode()
    callee = nil
    end(error, trailers: trailers)
  }
}

extension UnsafeRawBufferPointer {
  static var none: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }
}
