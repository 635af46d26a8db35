// Active health checks: the nodes of one service are asked in turn whether they are well, whether or not calls go there.
// Only with a `health_check` in the service's policy. What calls come to is watched always (`NodeHealth`).

/// Asks the nodes of one service. Loop-confined; one for each worker and service.
final class NodeProber {
  /// Nodes asked at once; with more the period grows.
  static let probesMax = 16
  /// The shortest time between two questions, in nanoseconds.
  private static let paceMin: Int64 = 10_000_000

  private unowned let table: ServiceTable
  private unowned let worker: Worker
  private let policy: HealthCheckPolicy
  private var probes: [NodeProbe] = []
  private var next = 0
  private var isStopped = false
  private lazy var timer = LoopTimer { [weak self] in self?.turn() }

  init(_ table: ServiceTable, _ worker: Worker, _ policy: HealthCheckPolicy) {
    self.table = table
    self.worker = worker
    self.policy = policy
    // Not all workers and services at once.
    worker.timers.arm(timer, after: Int64(worker.driver.random.below(Int(pace) + 1)), from: worker.driver.now)
  }

  func stop() {
    isStopped = true
    timer.cancel()
    let old = probes
    probes = []
    for probe in old { probe.abandon() }
    for index in table.nodes.indices { table.set.setUnhealthy(index, false) }
  }

  private var pace: Int64 { max(policy.period / Int64(max(table.nodes.count, 1)), Self.paceMin) }

  private func turn() {
    guard !isStopped, !worker.isDraining else { return }
    worker.timers.arm(timer, after: pace, from: worker.driver.now)
    guard probes.count < Self.probesMax, !table.nodes.isEmpty else { return }
    if next >= table.nodes.count { next = 0 }
    let node = table.nodes[next]
    next += 1
    guard !probes.contains(where: { $0.node === node }) else { return }
    let probe = NodeProbe(worker, table, node, policy) { [weak self] in self?.ended($0, isWell: $1) }
    probes.append(probe)
    probe.start()
  }

  private func ended(_ probe: NodeProbe, isWell: Bool) {
    probes.removeAll { $0 === probe }
    let node = probe.node
    // It may have left the registry meanwhile.
    guard !isStopped, node.index >= 0 else { return }
    if isWell {
      node.probeFailures = 0
      node.probeSuccesses = min(node.probeSuccesses + 1, 1000)
      if node.probeSuccesses >= policy.successes { table.set.setUnhealthy(node.index, false) }
    } else {
      node.probeSuccesses = 0
      node.probeFailures = min(node.probeFailures + 1, 1000)
      worker.metrics.add(.healthChecksFailed)
      if node.probeFailures >= policy.failures { table.set.setUnhealthy(node.index, true) }
    }
    worker.metrics.add(.healthChecks)
  }
}

/// One question to one node. Ends exactly once, in a later turn than its start.
final class NodeProbe: UpstreamUser, CallOwner, GRPCClientUser, StreamHandler {
  let node: NodeState
  private unowned let worker: Worker
  private let table: ServiceTable
  private let policy: HealthCheckPolicy
  private var completion: ((NodeProbe, Bool) -> Void)?
  private var connection: UpstreamConnection?
  private var call: OutboundCall?
  private var grpc: GRPCClientStream?
  private var grpcSaysWell = false
  private var stream: ByteStream?
  private lazy var timer = LoopTimer { [weak self] in self?.end(false) }

  private static let debugEndpoint = FixedBytes("Debug.Health")
  private static let grpcPath = FixedBytes("/grpc.health.v1.Health/Check")

  init(
    _ worker: Worker, _ table: ServiceTable, _ node: NodeState, _ policy: HealthCheckPolicy,
    _ completion: @escaping (NodeProbe, Bool) -> Void
  ) {
    self.worker = worker
    self.table = table
    self.node = node
    self.policy = policy
    self.completion = completion
  }

  func start() {
    worker.timers.arm(timer, after: policy.timeout, from: worker.driver.now)
    switch policy.probe {
    case .tcp: startTCP()
    case .http: startHTTP()
    case .debug: startDebug()
    case .grpc: startGRPC()
    }
  }

  /// Nobody waits for the answer any more.
  func abandon() {
    completion = nil
    release()
  }

  private func end(_ isWell: Bool) {
    guard let completion else { return }
    self.completion = nil
    release()
    completion(self, isWell)
  }

  private func endLater(_ isWell: Bool) { worker.driver.later { [weak self] in self?.end(isWell) } }

  private func release() {
    timer.cancel()
    let (connection, call, grpc, stream) = (connection, call, grpc, stream)
    self.connection = nil
    self.call = nil
    self.grpc = nil
    self.stream = nil
    connection?.abandon()
    call?.cancel()
    grpc?.abandon()
    stream?.reset()
  }

  // MARK: A connection

  private func startTCP() {
    node.target.withSocketAddress { [weak self] result in
      guard let self, completion != nil else { return }
      switch result {
      case .success(let address): stream = worker.driver.connect(to: address, handler: self)
      case .failure: endLater(false)
      }
    }
  }

  func streamOpened(_ stream: ByteStream) { end(true) }
  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {}
  func streamEnded(_ stream: ByteStream) {}
  func streamDrained(_ stream: ByteStream) {}
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    self.stream = nil
    self.end(false)
  }

  // MARK: GET

  private func startHTTP() {
    switch node.target.connect(self, fresh: true) {
    case .ready(let connection), .dialling(let connection): self.connection = connection
    case .full: endLater(true)
    }
  }

  func upstreamReady(_ connection: UpstreamConnection) {
    guard connection === self.connection, case .http(let path) = policy.probe else { return }
    let head = worker.scratch
    head.removeAll()
    HTTP1Writer.requestLine("GET", target: path, to: head)
    HTTP1Writer.field("Host", node.target.hostHeader.span, to: head)
    head.append("Connection: close\r\n")
    HTTP1Writer.endHead(to: head)
    connection.send(head.bytes, .none)
  }

  func upstreamReplied(_ connection: UpstreamConnection, _ head: HTTP1Head, _ body: UnsafeRawBufferPointer) -> Bool {
    self.connection = nil
    let isWell = (200..<300).contains(head.status)
    endLater(isWell)
    return false
  }

  func upstreamFailed(_ connection: UpstreamConnection, _ failure: UpstreamFailure) {
    self.connection = nil
    end(false)
  }

  // MARK: Debug.Health

  private func startDebug() {
    let call = worker.takeCall()
    let request = worker.readers.buffers.take()
    request.append("{}")
    call.request = request
    call.service = table
    call.pinnedNode = node
    call.endpoint = Self.debugEndpoint
    call.routing = Route.routing(table.nameBytes, Self.debugEndpoint, worker.settings.fromService)
    call.payload = 0..<request.count
    call.deadline = worker.driver.now.advanced(byNanoseconds: policy.timeout)
    self.call = call
    call.start(for: self)
  }

  func callReplied(_ call: OutboundCall, _ payload: UnsafeRawBufferPointer, format: PayloadFormat) {
    self.call = nil
    let status = (try? JSONValue(parsing: payload))?["status"]?.stringValue
    end(status == "ok")
  }

  func callFailed(_ call: OutboundCall, _ error: SidecarError) {
    self.call = nil
    // It answers, and does not know what it is asked: programs that are no service of the framework's own.
    end(error.kind == .endpointNotFound)
  }

  // MARK: grpc.health.v1

  private func startGRPC() {
    let grpc = GRPCClientStream(worker: worker, target: node.target, user: self)
    self.grpc = grpc
    switch grpc.open() {
    case .ready: grpcReady(grpc)
    case .waiting: break
    case .full:
      self.grpc = nil
      endLater(true)
    }
  }

  func grpcReady(_ stream: GRPCClientStream) {
    guard stream === grpc else { return }
    stream.begin(
      path: Self.grpcPath.span, format: .protobuf, timeout: policy.timeout, metadata: .none, fill: { _ in })
    _ = stream.send(.none)
    stream.finishSending()
  }

  func grpcAnswered(_ stream: GRPCClientStream, _ fields: HTTP2Fields) {}
  func grpcDrained(_ stream: GRPCClientStream) {}

  /// `HealthCheckResponse.status`, field 1, is SERVING (1).
  func grpcReceived(_ stream: GRPCClientStream, _ message: UnsafeRawBufferPointer) -> WriteState {
    grpcSaysWell = message.count >= 2 && message[0] == 0x08 && message[1] == 0x01
    return .open
  }

  func grpcEnded(_ stream: GRPCClientStream, _ failure: GRPCFailure?, trailers: UnsafeRawBufferPointer) {
    grpc = nil
    end(failure == nil && grpcSaysWell)
  }

  func grpcFailed(_ stream: GRPCClientStream, _ failure: UpstreamFailure) {
    grpc = nil
    end(false)
  }
}
