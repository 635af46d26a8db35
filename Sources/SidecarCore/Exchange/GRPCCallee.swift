// The answering end of a stream that speaks gRPC: a node of a service, or the app. Each message is one of gRPC's; metadata
// of the answer and trailers go on, since gRPC servers send only their own.
//
//   connecting ─▶ open ── trailers, reset, broken ──▶ over
//        ▲          └─ the peer has not begun: once more, with what was sent
//        └──────────┘
//
// A server that ends a connection (age, restart) says by GOAWAY what it has not begun, and a resting connection may be
// closing at this moment. So what is sent is kept until the answer begins, up to a limit.
//
// The head is sent as soon as there is a connection, for servers that speak first. So the format is chosen then, by what
// the caller wants to hear, and not by its first message.

final class GRPCCallee: StreamCallee, GRPCClientUser, DescriptionWaiter {
  private unowned let call: StreamCall
  private let worker: Worker
  private let isApp: Bool
  private let path: FixedBytes
  private let target: UpstreamTarget
  private var sentFormat: PayloadFormat
  /// The service whose node is being asked for descriptors.
  private var undescribed: ServiceTable?
  private var stream: GRPCClientStream?
  private var isOpen = false
  private var isOver = false
  /// Bytes of sent messages that are kept for another attempt.
  private static let replayMax = 64 * 1024
  private static let retriesMax = 2
  /// The messages sent so far, framed; nil once there is nothing to repeat or too much.
  private var replay: ByteBuffer?
  private var mayRepeat = true
  private var isRepeating = false
  private var callerWaits = false
  private var hasFinished = false
  private var retries = 0

  /// Starts to connect. `path`: gRPC's.
  init(
    _ call: StreamCall, target: UpstreamTarget, path: FixedBytes, format: PayloadFormat,
    node: (ServiceTable, NodeState)? = nil
  ) {
    self.call = call
    worker = call.worker
    self.target = target
    self.path = path
    sentFormat = format
    isApp = node == nil
    if format == .json, let (service, node) = node, worker.awaitDescription(service, node, self) {
      undescribed = service
    } else {
      open()
    }
  }

  /// The node has been asked.
  func described() {
    guard undescribed != nil, !isOver else { return }
    undescribed = nil
    if (try? call.method()) != nil { sentFormat = .protobuf }
    open()
  }

  private func open() {
    let stream = GRPCClientStream(worker: worker, target: target, user: self)
    self.stream = stream
    switch stream.open() {
    case .waiting: break
    case .ready:
      worker.driver.later { [self] in
        if let stream = self.stream { grpcReady(stream) }
      }
    case .full(let why):
      self.stream = nil
      worker.driver.later { [weak self] in
        guard let self, !isOver else { return }
        isOver = true
        self.call.calleeEnded(SidecarError(.overloaded, why, id: errorID))
      }
    }
  }

  private var errorID: String? { isApp ? worker.settings.serviceName : nil }

  // MARK: StreamCallee

  func format(for caller: PayloadFormat) -> PayloadFormat { sentFormat }

  func send(_ message: UnsafeRawBufferPointer) -> WriteState {
    guard let stream, !isOver else { return .closed }
    if mayRepeat { keep(message) }
    if isRepeating {
      callerWaits = (replay?.count ?? 0) > Self.replayMax
      return callerWaits ? .congested : .open
    }
    return stream.send(message)
  }

  private func keep(_ message: UnsafeRawBufferPointer) {
    let buffer = replay ?? worker.readers.buffers.take()
    replay = buffer
    GRPCFraming.withPrefix(message.count) { buffer.append($0) }
    buffer.append(message)
    if buffer.count > Self.replayMax, !isRepeating { dropReplay() }
  }

  private func dropReplay() {
    mayRepeat = false
    if let replay { worker.readers.buffers.give(replay) }
    replay = nil
  }

  func finishSending() {
    hasFinished = true
    if !isRepeating { stream?.finishSending() }
  }

  func resumeReplies() { stream?.resume() }

  func abandon() {
    isOver = true
    dropReplay()
    undescribed?.description.waiting.removeAll { $0 === self }
    undescribed = nil
    stream?.abandon()
    stream = nil
  }

  // MARK: GRPCClientUser

  func grpcReady(_ stream: GRPCClientStream) {
    guard !isOver, !isOpen || isRepeating else { return }
    let timeout = call.deadline == .distantFuture ? nil : max(call.deadline.nanoseconds(since: worker.driver.now), 1)
    stream.begin(path: path.span, format: sentFormat, timeout: timeout, metadata: call.metadata?.bytes ?? .none) {
      // An app gets what any gRPC client would send; a node what a client of the framework would.
      if !isApp { GRPCNaming.appendFramework(to: $0, format: sentFormat, timeout: timeout, from: worker.settings) }
    }
    if isRepeating {
      isRepeating = false
      if let replay {
        stream.sendFramed(replay.bytes)
        if replay.count > Self.replayMax { dropReplay() }
      }
      if hasFinished { stream.finishSending() }
      if callerWaits {
        callerWaits = false
        call.calleeDrained()
      }
    } else {
      isOpen = true
      call.calleeConnected()
    }
  }

  /// Makes another attempt where the peer has not begun to work on the call.
  private func repeats(_ failure: UpstreamFailure) -> Bool {
    switch failure {
    case .refused, .brokeBeforeReply(wasReused: true, _): break
    case .connectFailed, .brokeBeforeReply, .brokeInReply, .malformed, .streamReset: return false
    }
    guard isOpen, mayRepeat, retries < Self.retriesMax else { return false }
    retries += 1
    isRepeating = true
    worker.metrics.add(.retries)
    open()
    return true
  }

  func grpcAnswered(_ stream: GRPCClientStream, _ fields: HTTP2Fields) {
    let metadata = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(metadata) }
    GRPCMetadata.append(from: fields, source: .framework, into: metadata)
    dropReplay()
    call.calleeAnswered(metadata: metadata.bytes)
  }

  func grpcReceived(_ stream: GRPCClientStream, _ message: UnsafeRawBufferPointer) -> WriteState {
    call.calleeSent(message, sentFormat)
  }

  func grpcDrained(_ stream: GRPCClientStream) { call.calleeDrained() }

  func grpcEnded(_ stream: GRPCClientStream, _ failure: GRPCFailure?, trailers: UnsafeRawBufferPointer) {
    guard !isOver else { return }
    isOver = true
    self.stream = nil
    dropReplay()
    var error = failure.map { explained($0) }
    error?.isUnbegun = stream.isUnbegun
    call.calleeEnded(error, trailers: trailers, reported: stream.reportedLoad)
  }

  private func explained(_ failure: GRPCFailure) -> SidecarError {
    let error = SidecarError(failure)
    // Whoever speaks gRPC hears exactly what the app said.
    guard call.path == nil else { return error }
    if isApp, error.kind == .endpointNotFound, (try? call.method()) == nil {
      return GRPCNaming.withoutPackage(error, endpoint: call.endpoint.text)
    }
    guard sentFormat == .json, GRPCNaming.mayLackJSON(failure, error) else { return error }
    return GRPCNaming.withoutJSON(error, service: call.serviceName.text, endpoint: call.endpoint.text)
  }

  func grpcFailed(_ stream: GRPCClientStream, _ failure: UpstreamFailure) {
    guard !isOver else { return }
    self.stream = nil
    if repeats(failure) { return }
    isOver = true
    dropReplay()
    let address = stream.target.hostHeader.text
    let who = isApp ? "the app at \(address)" : address
    switch failure {
    case .connectFailed(let why):
      if !isOpen { return call.calleeRefused(isApp ? "\(who) cannot be reached: \(why)" : why) }
      call.calleeEnded(SidecarError(.connectFailed, "dial \(who): \(why)", id: errorID))
    case .refused(let why):
      call.calleeEnded(SidecarError(.connectFailed, "\(who) did not take the call: \(why)", id: errorID))
    case .streamReset(let reset):
      let why = String(decoding: reset.message, as: UTF8.self)
      var error = SidecarError(.upstreamReset, "\(who): \(why)", id: errorID)
      error.grpc = reset
      call.calleeEnded(error)
    case .brokeBeforeReply(_, let why), .brokeInReply(let why):
      call.calleeEnded(SidecarError(.upstreamReset, "\(who): \(why)", id: errorID))
    case .malformed(let error):
      call.calleeEnded(SidecarError(.badUpstreamReply, "\(who): \(error)", id: errorID))
    }
  }
}

extension StreamCall {
  /// The end of a node, or of an app, that speaks gRPC; nil for all others.
  func makeGRPCCallee() throws(SidecarError) -> GRPCCallee? {
    switch target {
    case .service(let route):
      guard let node, node.dialect.isGRPC else { return nil }
      return GRPCCallee(
        self, target: node.target,
        path: GRPCNaming.servicePath(route.service.nameBytes.span, route.endpoint.span),
        format: try formatForGRPC(), node: (route.service, node))
    case .app(let endpoint):
      guard worker.settings.appProtocol == .grpc, let app = worker.app else { return nil }
      return GRPCCallee(
        self, target: app, path: worker.appPath(endpoint.span, calledAs: path), format: try formatForGRPC())
    case .own: return nil
    }
  }

  /// Every gRPC server takes protobuf, so JSON is translated where a descriptor says how.
  private func formatForGRPC() throws(SidecarError) -> PayloadFormat {
    guard replyFormat == .json, try method() != nil else { return replyFormat }
    return .protobuf
  }
}

extension Worker {
  /// gRPC's path of one of the app's endpoints: as its descriptors have it, else as a gRPC caller wrote it, else without a
  /// package.
  func appPath(_ endpoint: UnsafeRawBufferPointer, calledAs path: FixedBytes?) -> FixedBytes {
    if let known = try? translator.method(settings.fromService.span, endpoint) { return FixedBytes(known.path) }
    return path ?? GRPCNaming.servicePath(.none, endpoint)
  }
}

extension GRPCNaming {
  /// `/service.Handler/Method`, kept.
  static func servicePath(_ service: UnsafeRawBufferPointer, _ endpoint: UnsafeRawBufferPointer) -> FixedBytes {
    var path = FixedBytes.empty
    withServicePath(service, endpoint, ByteBuffer(capacity: 128)) { path = FixedBytes($0) }
    return path
  }
}
