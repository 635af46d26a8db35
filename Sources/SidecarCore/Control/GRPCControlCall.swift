// One gRPC call of the control plane, on a connection of its own: the app's health, and the descriptors that servers tell
// by reflection. Such calls are few, so nothing is pooled; the data path has `GRPCClientStream`.
//
//   start ─▶ dialling ─▶ open ─▶ over        failed, out of time, cancelled: over, from any state

/// Hears what comes of a call. On the control loop, never from inside a call into it.
protocol GRPCControlCallUser: AnyObject {
  /// A message; valid during the call.
  func controlCall(_ call: GRPCControlCall, received message: UnsafeRawBufferPointer)
  /// The last event: nil is OK. Nobody answering, or not in gRPC, is UNAVAILABLE.
  func controlCallEnded(_ call: GRPCControlCall, _ failure: GRPCFailure?)
}

final class GRPCControlCall: StreamHandler, HTTP2SessionHandler, HTTP2StreamHandler {
  /// Bytes of a message that are taken.
  private static let messageMax = 4 * 1024 * 1024

  private let driver: any Driver
  private let host: String
  private let path: String
  private weak var user: (any GRPCControlCallUser)?
  private let buffers = BufferPool()
  private var stream: ByteStream?
  private var session: HTTP2Session?
  private var call: HTTP2Stream?
  private var reader: GRPCMessageReader
  private var outcome: GRPCFailure??
  private var isOver = false
  private var flushIsDue = false
  /// What is to be sent once there is a connection.
  private var waiting: [[UInt8]] = []
  private var isFinished = false
  private lazy var timer = LoopTimer { [weak self] in
    self?.end(GRPCFailure(.deadlineExceeded, "did not answer in time"))
  }

  /// `host`: for `:authority`. `path`: gRPC's.
  init(driver: any Driver, host: String, path: String, user: any GRPCControlCallUser) {
    self.driver = driver
    self.host = host
    self.path = path
    self.user = user
    reader = GRPCMessageReader(limit: Self.messageMax, buffers: buffers)
  }

  /// `timeout` in nanoseconds, for all of it.
  func start(_ target: Destination, timeout: Int64) {
    driver.timers.arm(timer, after: timeout, from: driver.now)
    switch target {
    case .address(let address): stream = driver.connect(to: address, handler: self)
    case .name(let name, let port):
      driver.resolve(host: name) { [weak self] result in
        guard let self, !isOver else { return }
        switch result {
        case .success(let addresses):
          guard var address = addresses.first else { return end(GRPCFailure(.unavailable, "has no address")) }
          address.port = port
          stream = driver.connect(to: address, handler: self)
        case .failure(let error): end(GRPCFailure(.unavailable, "cannot be looked up: \(error.message)"))
        }
      }
    }
  }

  func send(_ message: [UInt8]) {
    guard let call else {
      waiting.append(message)
      return
    }
    message.withUnsafeBytes { bytes in
      _ = GRPCFraming.withPrefix(bytes.count) { call.send($0, bytes) }
    }
  }

  /// No more messages follow.
  func finishSending() {
    isFinished = true
    call?.finish()
  }

  /// Nothing more is reported. Twice is once.
  func cancel() {
    user = nil
    close()
  }

  private func close() {
    guard !isOver else { return }
    isOver = true
    timer.cancel()
    reader.reset()
    call = nil
    // First the session's end, so that it calls nobody.
    session?.connectionLost()
    session = nil
    stream?.reset()
  }

  private func end(_ failure: GRPCFailure?) {
    guard !isOver else { return }
    let user = user
    // Not from inside the session.
    driver.later { [self] in
      close()
      user?.controlCallEnded(self, failure)
    }
    self.user = nil
    timer.cancel()
  }

  // MARK: Bytes

  func streamOpened(_ stream: ByteStream) {
    guard !isOver else { return }
    let session = HTTP2Session(.client, handler: self, buffers: buffers, now: driver.now)
    self.session = session
    let list = session.takeList()
    list.append(":method", "POST")
    list.append(":scheme", "http")
    list.append(":path") { $0.append(path) }
    list.append(":authority") { $0.append(host) }
    list.append("content-type", "application/grpc")
    list.append("te", "trailers")
    list.append("user-agent", "micro-sidecar")
    call = session.request(list, ends: false, handler: self)
    let messages = waiting
    waiting = []
    for message in messages { send(message) }
    if isFinished { call?.finish() }
    flush()
  }

  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    guard let session, !isOver else { return }
    session.receive(bytes, now: driver.now)
    flush()
  }

  func http2SessionWantsFlush(_ session: HTTP2Session) {
    guard !flushIsDue else { return }
    flushIsDue = true
    driver.later { [weak self] in self?.flush() }
  }

  private func flush() {
    flushIsDue = false
    guard let session, !isOver else { return }
    let out = ByteBuffer(capacity: 1024)
    while session.flush(into: out) {}
    if !out.isEmpty { stream?.write(out.bytes) }
    session.settle()
    if session.isOver { end(GRPCFailure(.unavailable, "does not speak HTTP/2")) }
  }

  func streamEnded(_ stream: ByteStream) { end(GRPCFailure(.unavailable, "closed the connection")) }
  func streamDrained(_ stream: ByteStream) {}
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    self.stream = nil
    switch end {
    case .refused: self.end(GRPCFailure(.unavailable, "refused the connection"))
    case .unreachable(let why), .reset(let why): self.end(GRPCFailure(.unavailable, why))
    case .closedHere, .ended: self.end(GRPCFailure(.unavailable, "closed the connection"))
    }
  }

  // MARK: The stream

  func http2Stream(_ stream: HTTP2Stream, received fields: HTTP2Fields, kind: HTTP2Stream.HeadKind) {
    if kind == .informational { return }
    if kind == .trailers || fields.first("grpc-status") != nil || fields.status != 200 {
      outcome = .some(GRPCTrailers.failure(fields))
    }
  }

  func http2Stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {
    var input = bytes
    do throws(GRPCFramingError) {
      while let user, case .message(let message) = try reader.next(&input) {
        user.controlCall(self, received: message)
      }
    } catch {
      end(GRPCFailure(error.status, error.message))
    }
    stream.consumed(bytes.count)
  }

  func http2StreamEnded(_ stream: HTTP2Stream) {
    end(outcome ?? GRPCFailure(.unknown, "the call ended without a grpc-status"))
  }
  func http2StreamDrained(_ stream: HTTP2Stream) {}
  func http2StreamClosed(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {
    if !stream.peerEnded { end(GRPCTrailers.failure(reset: code)) }
  }

  func http2Session(_ session: HTTP2Session, opened stream: HTTP2Stream, _ head: HTTP2Fields, ends: Bool)
    -> (any HTTP2StreamHandler)?
  { nil }
  func http2SessionSettingsChanged(_ session: HTTP2Session) {}
  func http2Session(_ session: HTTP2Session, peerLeaves lastStreamID: Int32, _ code: HTTP2ErrorCode) {}
  func http2SessionPingAnswered(_ session: HTTP2Session, _ opaque: UInt64) {}
}
