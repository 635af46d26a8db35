// The gRPC transport towards a node: a stream of one of the HTTP/2 connections to it, in the place of a connection.
//
//   waiting ──a connection has room──▶ asking (which name the method has) ──answered──▶ waiting
//      │                          └──▶ open ──▶ as in GRPCTransportStream
//      └── none to be had: closed
//
// The method was renamed in v2.4, and the registry does not tell which version a node has. A stream of no message costs a
// server nothing: it ends in order where the method exists, and with UNIMPLEMENTED where it does not. So a node is asked
// once, with nothing that could be lost or done twice. Nodes without `protocol` are older than the new name.

/// Which of its two names the transport's method has at one address.
enum GRPCTransportMethod {
  case unknown, old, current
}

final class GRPCTransportClient: GRPCTransportStream, HTTP2UpstreamUser {
  private enum State {
    /// For a connection with room.
    case waiting
    /// The node is asked whether it knows the current name.
    case asking
    case open
  }

  private let target: UpstreamTarget
  private var state = State.waiting
  private var connection: HTTP2UpstreamConnection?
  /// What the end said, nil for OK; from trailers, or a head that is all.
  private var outcome: GRPCFailure?
  private lazy var timer = LoopTimer { [unowned self] in self.lingeredEnough() }

  /// Starts to dial; `handler` hears of it in a later turn.
  init(_ target: UpstreamTarget, handler: any StreamHandler) {
    self.target = target
    super.init(worker: target.worker, role: .client)
    self.handler = handler
    connect()
  }

  private func connect() {
    switch target.http2.connect(self) {
    case .ready(let connection): begin(on: connection)
    case .waiting: state = .waiting
    case .full(let why): failLater(why)
    }
  }

  private func begin(on connection: HTTP2UpstreamConnection) {
    self.connection = connection
    let path = target.transportMethod == .old ? TransportMessage.oldPath : TransportMessage.path
    state = target.transportMethod == .unknown ? .asking : .open
    if let list = connection.takeList() {
      list.append(":method", "POST")
      list.append(":scheme", "http")
      list.append(":path", path)
      list.append(":authority", target.hostHeader.span)
      list.append("content-type", "application/grpc")
      list.append("te", "trailers")
      stream = connection.request(list, handler: self)
    }
    guard let stream else { return failLater("it takes no more streams") }
    if state == .asking { return stream.finish() }
    worker.driver.later { [self] in
      if !isOver { handler?.streamOpened(self) }
    }
  }

  private func failLater(_ why: String) {
    worker.driver.later { [self] in end(.unreachable(why)) }
  }

  // MARK: HTTP2UpstreamUser

  func upstreamReady(_ connection: HTTP2UpstreamConnection) {
    if state == .waiting, !isOver { begin(on: connection) }
  }

  func upstreamUnavailable(_ why: String) {
    if state == .waiting { end(.unreachable(why)) }
  }

  // MARK: The answer

  override func http2Stream(_ stream: HTTP2Stream, received fields: HTTP2Fields, kind: HTTP2Stream.HeadKind) {
    guard !isOver, kind != .informational else { return }
    if kind == .trailers || fields.first("grpc-status") != nil {
      outcome = GRPCTrailers.failure(fields)
    } else if fields.status != 200 {
      outcome = GRPCTrailers.failure(httpStatus: fields.status)
    } else if GRPCMetadata.format(contentType: fields.first("content-type")) == nil {
      outcome = GRPCFailure(.unknown, "the answer is not gRPC's")
    }
  }

  override func http2StreamEnded(_ stream: HTTP2Stream) {
    guard !isOver else { return }
    if state == .asking {
      target.transportMethod = outcome?.status == GRPCStatus.unimplemented.rawValue ? .old : .current
      outcome = nil
      // Not on this stream: its connection has a place for another one when this turn is over.
      stream.reset(.noError)
      self.stream = nil
      state = .waiting
      return worker.driver.later { [self] in
        if !isOver { connect() }
      }
    }
    guard let outcome else { return super.http2StreamEnded(stream) }
    // A node may have been replaced by one of another version.
    if outcome.status == GRPCStatus.unimplemented.rawValue { target.transportMethod = .unknown }
    fail("status \(outcome.status): \(String(decoding: outcome.message, as: UTF8.self))")
  }

  override func http2StreamClosed(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {
    if state == .asking, !isOver {
      self.stream = nil
      return end(.unreachable(connection?.endReason ?? "the peer reset the stream: \(code)"))
    }
    super.http2StreamClosed(stream, code)
  }

  // MARK: The end

  /// A server answers our end with its own, once its handler returns.
  override func lingers() {
    worker.timers.arm(timer, after: Self.closeLinger, from: worker.driver.now)
  }

  private func lingeredEnough() {
    stream?.reset(.cancel)
    stream = nil
    released()
  }

  override func released() {
    if state == .waiting { target.http2.forget(self) }
    timer.cancel()
    connection = nil
  }
}
