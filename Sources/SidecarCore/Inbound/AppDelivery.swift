// How a unary call of the framework reaches the app, by MICRO_APP_PROTOCOL: plain HTTP (`AppCall`), gRPC (`GRPCAppCall`) or
// the framework's own frames (`FrameAppCall`).

/// One call on its way to the app. Loop-confined.
protocol AppDelivery: AnyObject {
  /// Who reads the reply, where it is JSON made of protobuf; set before `start`.
  var audience: JSONAudience { get set }
  /// `endpoint` is `Handler.Method`, `metadata` header lines that may be forwarded, `timeout` in nanoseconds. All spans are
  /// used up before the call returns. The owner hears the end in a later turn.
  func start(
    endpoint: UnsafeRawBufferPointer, format: PayloadFormat, payload: UnsafeRawBufferPointer,
    metadata: UnsafeRawBufferPointer, timeout: Int64)
  /// The caller has left: the app is told where its protocol can say so, and the owner hears nothing.
  func cancel()
}

extension AppCall: AppDelivery {}

extension Worker {
  func makeDelivery(to app: UpstreamTarget, for owner: any AppCallOwner) -> any AppDelivery {
    switch settings.appProtocol {
    case .http: AppCall(worker: self, owner: owner, app: app)
    case .grpc: GRPCAppCall(worker: self, owner: owner, app: app)
    case .mucp: FrameAppCall(worker: self, owner: owner, app: app)
    }
  }
}

/// What the deliveries of both kinds of frames have in common: a buffered request, a deadline, one end.
class BufferedDelivery: AppGateWaiter {
  unowned(unsafe) final let worker: Worker
  final let app: UpstreamTarget
  private weak var owner: (any AppCallOwner)?
  /// Metadata lines, then the payload.
  final private(set) var request: ByteBuffer?
  final private(set) var metadata = 0..<0
  final private(set) var payload = 0..<0
  final private(set) var endpoint = FixedBytes.empty
  final private(set) var format = PayloadFormat.json
  final var audience = JSONAudience.framework
  final private(set) var deadline = Instant.distantFuture
  final private(set) var isRunning = false
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

  final var errorID: String { worker.settings.serviceName ?? "go.micro.sidecar" }
  final var timeLeft: Int64 { max(deadline.nanoseconds(since: worker.driver.now), 1) }

  final func start(
    endpoint: UnsafeRawBufferPointer, format: PayloadFormat, payload: UnsafeRawBufferPointer,
    metadata: UnsafeRawBufferPointer, timeout: Int64
  ) {
    isRunning = true
    worker.callsInFlight += 1
    startedAt = worker.driver.now
    deadline = startedAt.advanced(byNanoseconds: timeout)
    self.endpoint = FixedBytes(endpoint)
    self.format = format
    let buffer = worker.readers.buffers.take()
    request = buffer
    buffer.append(metadata)
    self.metadata = 0..<buffer.count
    buffer.append(payload)
    self.payload = self.metadata.upperBound..<buffer.count
    worker.timers.arm(timer, at: deadline)
    switch worker.enterApp(self, &place, endpoint, metadata) {
    case .admitted: connect()
    case .waits: break
    case .refused(let error): fail(later: error)
    }
  }

  final func appAdmitted() {
    worker.appAdmitted(&place)
    worker.driver.later { [self] in if isRunning { connect() } }
  }

  final func appRefused(_ error: SidecarError) {
    worker.appRefused(&place)
    fail(later: error)
  }

  /// Begins the first attempt.
  func connect() { preconditionFailure("a subclass overrides this") }
  /// Gives up what is open.
  func abandon() { preconditionFailure("a subclass overrides this") }

  final func cancel() {
    if isRunning { finish() }
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
    abandon()
    if let request { worker.readers.buffers.give(request) }
    request = nil
  }

  final func fail(_ error: SidecarError) {
    guard isRunning else { return }
    finish()
    owner?.failed(error)
  }

  final func fail(later error: SidecarError) {
    worker.driver.later { [self] in fail(error) }
  }

  final func deliver(_ payload: UnsafeRawBufferPointer) {
    guard isRunning else { return }
    hasAnswer = true
    finish()
    owner?.delivered(payload)
  }

  /// A call that the app has not answered.
  final func fail(_ failure: UpstreamFailure) {
    let address = app.hostHeader.text
    switch failure {
    case .connectFailed(let why):
      worker.appFailed()
      fail(SidecarError(.appUnavailable, "the app at \(address) cannot be reached: \(why)", id: errorID))
    case .refused(let why):
      fail(SidecarError(.appUnavailable, "the app at \(address) does not take the call: \(why)", id: errorID))
    case .streamReset(let reset):
      let why = String(decoding: reset.message, as: UTF8.self)
      var error = SidecarError(.upstreamReset, "the app at \(address): \(why)", id: errorID)
      error.grpc = reset
      fail(error)
    case .brokeBeforeReply(_, let why):
      fail(
        SidecarError(
          .upstreamReset, "the app at \(address) closed the connection without a reply: \(why)", id: errorID))
    case .brokeInReply(let why):
      fail(SidecarError(.upstreamReset, "the app at \(address): \(why)", id: errorID))
    case .malformed(let error):
      fail(SidecarError(.badUpstreamReply, "the app's reply cannot be read: \(error)", id: errorID))
    }
  }
}
