// A call of many messages: finds a node, connects a `StreamCallee` and relays between it and the `StreamCaller`.
//
//   start ─▶ resolving ─▶ connecting ─▶ open ─▶ over
//                           │  ▲  │
//                           └──┘  └ no node left: over          deadline, caller gone: over, from any state
//                        refused: another node
//
// Nothing is ever sent twice: another node is tried only while nothing has been sent. What the caller sends before a
// callee is connected waits here, up to a limit, and is handed on in order.

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
final class StreamCall: ResolutionWaiter {
  private enum State {
    /// Being filled. To: resolving, connecting, over.
    case idle
    /// Waits for the registries. To: connecting, over.
    case resolving
    /// A callee is being connected. To: connecting, open, over.
    case connecting
    /// Messages pass. To: over.
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
  /// The first message is a query or a form; see `OutboundCall`.
  var isQuery = false

  private var caller: (any StreamCaller)?
  private var callee: (any StreamCallee)?
  private var calleeFormat: PayloadFormat?
  private var state = State.idle
  private var picker = NodePicker()
  /// The node of the current attempt; nil for the app.
  private(set) var node: NodeState?
  private(set) var attempts = 0
  private(set) var startedAt: Instant
  private var lastFailure = ""
  /// Messages that wait for a callee, one after another, and their lengths.
  private var pending: ByteBuffer?
  private var pendingMessages: [(format: PayloadFormat, count: Int)] = []
  private var callerIsCongested = false
  private var hasFinishedSending = false
  /// The endpoint takes one message and gives one; known from `calleeReady` on.
  private(set) var isUnary = false
  private lazy var timer = LoopTimer { [unowned self] in self.timePassed() }

  init(worker: Worker, target: StreamTarget) {
    self.worker = worker
    self.target = target
    startedAt = worker.driver.now
  }

  /// `Handler.Method`
  var endpoint: FixedBytes {
    switch target {
    case .service(let route): route.endpoint
    case .app(let endpoint), .own(let endpoint, _): endpoint
    }
  }

  var isOver: Bool { state == .over }

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
    guard worker.callsInFlight <= worker.settings.callsMax else {
      state = .connecting
      return end(later: SidecarError(.overloaded, "\(worker.settings.callsMax) calls are under way"))
    }
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
    if state == .open { mark(.cancelled) }
    caller = nil
    finish()
  }

  private func end(_ error: SidecarError?, trailers: UnsafeRawBufferPointer = .none) {
    guard state != .over else { return }
    let caller = caller
    self.caller = nil
    finish()
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
    leaveNode()
    let callee = callee
    self.callee = nil
    callee?.abandon()
    for buffer in [metadata, pending] {
      if let buffer { worker.readers.buffers.give(buffer) }
    }
    metadata = nil
    pending = nil
    pendingMessages = []
  }

  private func leaveNode() {
    if callee != nil { node?.target.inFlight -= 1 }
  }

  private func mark(_ outcome: CallOutcome) {
    if let service, node != nil { picker.mark(service, outcome, worker) }
  }

  // MARK: Attempts

  private func attempt() {
    isUnary = callsUnaryEndpoint
    if isUnary {
      callee = UnaryCallee(self)
      return
    }
    if let service {
      guard let picked = picker.pick(service, worker) else {
        end(later: attempts == 0 ? service.noNodeError : .connectFailed(lastFailure))
        return
      }
      node = picked
    }
    attempts += 1
    do throws(SidecarError) {
      let callee = try makeCallee()
      self.callee = callee
      node?.target.inFlight += 1
    } catch {
      end(later: error)
    }
  }

  /// The callee is connected and takes messages.
  func calleeConnected() {
    guard state == .connecting, let callee else { return }
    state = .open
    timer.cancel()
    if deadline != .distantFuture { worker.timers.arm(timer, at: deadline) }
    caller?.calleeReady(self)
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
    guard let service, let node else {
      worker.appFailed()
      return end(SidecarError(.appUnavailable, why, id: worker.settings.serviceName ?? "go.micro.sidecar"))
    }
    lastFailure = "dial \(node.node.address): \(why)"
    self.node = nil
    if picker.refused(node, of: service, worker) { attempt() } else { end(.connectFailed(lastFailure)) }
  }

  /// The app does not take the stream in the form it was offered in, and nothing of the call was sent: the next form is
  /// tried.
  func calleeDeclined() {
    guard state == .connecting else { return }
    leaveNode()
    callee = nil
    calleeFormat = nil
    attempt()
  }

  // MARK: From the caller

  /// Hands on a message; it waits here until a callee is connected. See `StreamLegs.swift` for the answer's meaning.
  func send(_ message: UnsafeRawBufferPointer, _ format: PayloadFormat) -> WriteState {
    guard !hasFinishedSending else { return .closed }
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
    if state == .open { caller?.calleeAnswered(self, metadata: metadata) }
  }

  /// A reply message; the answer tells the callee whether to go on reading.
  func calleeSent(_ message: UnsafeRawBufferPointer, _ format: PayloadFormat) -> WriteState {
    guard state == .open, let caller else { return .closed }
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

  /// The callee has ended the call; it needs no `abandon` any more.
  func calleeEnded(_ error: SidecarError?, trailers: UnsafeRawBufferPointer = .none) {
    guard state == .open || state == .connecting else { return }
    let latency = worker.driver.now.nanoseconds(since: startedAt)
    mark((error?.code ?? 200) >= 500 ? .failure(latency: latency) : .success(latency: latency))
    leaveNode()
    callee = nil
    end(error, trailers: trailers)
  }
}

extension UnsafeRawBufferPointer {
  static var none: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }
}
