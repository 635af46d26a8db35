// One call to a service, over as many attempts as it takes.
//
//   start ──▶ resolving ──found──▶ attempting ──reply──▶ done
//               │                    │  ▲
//               │ not found          │  └─ refused: another node; reused connection died: a fresh one
//               ▼                    ▼
//              done                 done        deadline, caller gone: done, from any state
//
// The request is kept in one buffer, in a form no dialect owns: the caller's metadata as header lines, then the payload.
// Each attempt writes it in the dialect of its node.

/// Who started a call and hears its end. Called on the worker's loop, exactly once for each call, and never from inside
/// `start`.
protocol CallOwner: AnyObject {
  /// `payload` is valid during the call only.
  func callReplied(_ call: OutboundCall, _ payload: UnsafeRawBufferPointer, format: PayloadFormat)
  func callFailed(_ call: OutboundCall, _ error: SidecarError)
}

package final class OutboundCall: UpstreamUser, ResolutionWaiter {
  private enum State {
    /// Free, or being filled. To: resolving, attempting.
    case idle
    /// Waits for the registries. To: attempting, idle.
    case resolving
    /// A connection is dialled or a reply awaited. To: attempting, idle.
    case attempting
  }

  // What to send; the owner fills these before `start`.
  var service: ServiceTable?
  /// Instead of a service's nodes: an address the caller named.
  var fixedTarget: UpstreamTarget?
  var endpoint = FixedBytes.empty
  /// The routing headers, as `Route.routing` makes them.
  var routing = FixedBytes.empty
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

  // What came of it, for the reply's headers and the counters.
  private(set) var attempts = 0
  private(set) var node: NodeState?
  private(set) var startedAt = Instant(nanoseconds: 0)

  unowned(unsafe) let worker: Worker
  private var owner: (any CallOwner)?
  private var state = State.idle
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
  private var attemptStarted = Instant(nanoseconds: 0)
  private var lastFailure = ""
  /// Some node may have worked on the call already.
  private var mayHaveRun = false
  private var freshOnly = false
  /// Attempts whose node said that it had not begun to work on the call.
  private var unbegun = 0
  private static let unbegunMax = 4
  /// Attempts spent on repeating work, as `DataPathSettings.retries` counts them.
  private var repeats = 0
  /// Counts the calls this object has been, so that what was put off for one does not end the next.
  private var generation: UInt64 = 0
  private lazy var timer = LoopTimer { [unowned self] in self.deadlinePassed() }

  init(worker: Worker) { self.worker = worker }

  var isRunning: Bool { state != .idle }

  // MARK: Life

  func start(for owner: any CallOwner) {
    self.owner = owner
    startedAt = worker.driver.now
    attempts = 0
    repeats = 0
    unbegun = 0
    picker.reset()
    mayHaveRun = false
    freshOnly = false
    node = nil
    lastFailure = ""
    worker.callsInFlight += 1
    guard worker.callsInFlight <= worker.settings.callsMax else {
      end(later: SidecarError(.overloaded, "\(worker.settings.callsMax) calls are under way"))
      return
    }
    worker.timers.arm(timer, at: deadline)
    if fixedTarget != nil {
      state = .attempting
      attempt()
      return
    }
    guard let service else {
      end(later: SidecarError(.internal, "call without a service"))
      return
    }
    switch service.status {
    case .present:
      state = .attempting
      attempt()
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
    if found {
      state = .attempting
      attempt()
    } else {
      end(.serviceNotFound(service.name))
    }
  }

  /// The caller is gone: nothing more is sent, nothing reported.
  func cancel() {
    guard state != .idle else { return }
    mark(.cancelled)
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
    node = nil
    connection = nil
    isIdempotent = false
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
    case .resolving: end(.deadlineExceeded("no registry answered within \(waited) ms"))
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
    timer.cancel()
    if state == .resolving, let service { service.waiting.removeAll { $0 === self } }
    state = .idle
    generation &+= 1
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
    for buffer in [streamReply, translated] {
      if let buffer { worker.readers.buffers.give(buffer) }
    }
    streamReply = nil
    translated = nil
    method = nil
    if undescribed != nil {
      undescribed = nil
      service?.description.waiting.removeAll { $0 === self }
    }
    worker.callsInFlight -= 1
    if let request {
      worker.readers.buffers.give(request)
      self.request = nil
    }
  }

  // MARK: Attempts

  private func attempt() {
    let target: UpstreamTarget
    if let fixedTarget {
      target = fixedTarget
    } else {
      guard let service, let picked = picker.pick(service, worker) else {
        end(later: nothingLeft())
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
    if isQuery { shapeQuery() }
    attempts += 1
    attemptStarted = worker.driver.now
    if attempts > 1 { worker.metrics.add(.retries) }
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
          .overloaded,
          "\(UpstreamTarget.connectionsMax) connections to \(target.hostHeader.text) are busy"))
    }
  }

  private func nothingLeft() -> SidecarError {
    guard let service, attempts == 0 else { return attemptsFailed() }
    return service.noNodeError
  }

  /// The last attempt was a refused dial. Only if all were, a caller may repeat the call without a second thought.
  private func attemptsFailed() -> SidecarError {
    mayHaveRun
      ? .upstreamReset("the connection broke before the reply, and then: \(lastFailure)") : .connectFailed(lastFailure)
  }

  private func send(on connection: UpstreamConnection) {
    guard let request else { return }
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
        payload: payload, into: out, metadata: { $0.append(metadata) })
    } catch {
      // A payload that breaks its envelope: nothing was sent, and no other node would take it either.
      end(later: SidecarError(error))
      return
    }
    connection.send(out.bytes, UnsafeRawBufferPointer(start: nil, count: 0))
  }

  private func leaveNode() {
    node?.target.inFlight -= 1
    if node == nil { fixedTarget?.inFlight -= 1 }
  }

  private func mark(_ outcome: CallOutcome) {
    guard let service, connection != nil || stream != nil else { return }
    picker.mark(service, outcome, worker)
  }

  // MARK: UpstreamUser

  func upstreamReady(_ connection: UpstreamConnection) {
    guard state == .attempting, connection === self.connection else { return }
    send(on: connection)
  }

  func upstreamReplied(_ connection: UpstreamConnection, _ head: HTTP1Head, _ body: UnsafeRawBufferPointer) -> Bool {
    guard state == .attempting, connection === self.connection else { return false }
    let latency = worker.driver.now.nanoseconds(since: attemptStarted)
    let reply = FrameClient.decodeReply(head: head, body: body, codec: codec)
    switch reply {
    case .payload(let range, _):
      succeeded(UnsafeRawBufferPointer(rebasing: body[range]), latency)
      return true
    case .translated(let json):
      succeeded(json.bytes, latency)
      return true
    case .endOfStream:
      mark(.failure(latency: latency))
      self.connection = nil
      leaveNode()
      end(badReply("the end of a stream"))
      return false
    case .failed(let error):
      mark(error.code >= 500 ? .failure(latency: latency) : .success(latency: latency))
      self.connection = nil
      leaveNode()
      if error.kind == .unsupportedNodeDialect { return refused(error) }
      end(error.kind == .badUpstreamReply ? badReply(error.detail) : error)
      // Servers of v0.20 … v1.10 repeat an error on every later reply of its connection (wire/rpc.md §1.2).
      return false
    }
  }

  /// The reply's payload is in the format that the request was sent in.
  @inline(__always)
  private func succeeded(_ payload: UnsafeRawBufferPointer, _ latency: Int64) {
    mark(.success(latency: latency))
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
    if case .connectFailed = failure { mark(.connectFailed) } else { mark(.broken) }
    connection = nil
    stream = nil
    leaveNode()
    switch failure {
    case .connectFailed(let why):
      lastFailure = "dial \(address): \(why)"
      if let node, let service {
        // Nothing was sent, so every other node may be tried, within the deadline.
        if picker.refused(node, of: service, worker) { return attempt() }
      }
      end(attemptsFailed())
    case .refused(let why):
      // Nobody has worked on it: the same again, at another node if there is one.
      lastFailure = "\(address): \(why)"
      unbegun += 1
      picker.brokeOff()
      if unbegun < Self.unbegunMax { return attempt() }
      end(attemptsFailed())
    case .brokeBeforeReply(let wasReused, let why):
      lastFailure = "\(address): \(why)"
      mayHaveRun = true
      // A peer may close an idle connection at any time; what was sent on it was most likely never read.
      if wasReused, !freshOnly {
        freshOnly = true
        return attempt()
      }
      if !repeatsIdempotent() { end(.upstreamReset("\(address) closed the connection before replying: \(why)")) }
    case .streamReset(let reset):
      lastFailure = "\(address): \(String(decoding: reset.message, as: UTF8.self))"
      mayHaveRun = true
      if repeatsIdempotent() { return }
      var error = SidecarError.upstreamReset(lastFailure)
      error.grpc = reset
      end(error)
    case .brokeInReply(let why): end(.upstreamReset("\(address): \(why)"))
    case .malformed(let error): end(badReply(error.description))
    }
  }

  /// Makes another attempt at a call that may have run already, if it may be repeated.
  private func repeatsIdempotent() -> Bool {
    guard isIdempotent, repeats < worker.settings.retries else { return false }
    repeats += 1
    freshOnly = true
    picker.brokeOff()
    attempt()
    return true
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
  func succeeded(_ reply: ByteBuffer) {
    mark(.success(latency: worker.driver.now.nanoseconds(since: attemptStarted)))
    stream = nil
    leaveNode()
    // Else it would be given back before its reader has had it.
    streamReply = nil
    defer { worker.readers.buffers.give(reply) }
    if method != nil { translateReply(reply.bytes) } else { deliver(reply.bytes) }
  }

  /// A gRPC node has answered with an error.
  func failed(_ error: SidecarError) {
    let latency = worker.driver.now.nanoseconds(since: attemptStarted)
    mark(error.code >= 500 ? .failure(latency: latency) : .success(latency: latency))
    stream = nil
    leaveNode()
    end(error)
  }

  /// Ends a call inside an attempt, for a reason that no other node would change.
  func giveUp(_ error: SidecarError) { end(error) }
  func giveUp(later error: SidecarError) { end(later: error) }
}
