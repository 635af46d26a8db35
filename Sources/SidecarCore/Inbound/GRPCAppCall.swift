// One unary call of the framework delivered to an app that is a gRPC server. The app's method is found by its descriptor,
// where there is one; without, its package is not known and `/Handler/Method` is tried.

final class GRPCAppCall: BufferedDelivery, AppDelivery, GRPCClientUser {
  private var stream: GRPCClientStream?
  private var reply: ByteBuffer?
  private var hasRetried = false
  private var method: ProtoMethod?
  /// The payload as protobuf, where the caller speaks JSON and a descriptor says how.
  private var translated: ByteBuffer?

  override func connect() {
    if format == .json, translated == nil, let request {
      do throws(SidecarError) {
        method = try worker.translator.method(worker.settings.fromService.span, endpoint.span)
        if let method {
          let buffer = worker.readers.buffers.take()
          translated = buffer
          try worker.translator.translate(
            request.bytes(payload), to: .protobuf, method, .request, for: .framework, into: buffer)
        }
      } catch {
        return fail(later: error)
      }
    }
    let stream = GRPCClientStream(worker: worker, target: app, user: self)
    switch stream.open() {
    case .ready:
      self.stream = stream
      grpcReady(stream)
    case .waiting: self.stream = stream
    case .full(let why): fail(later: SidecarError(.overloaded, why, id: errorID))
    }
  }

  override func abandon() {
    stream?.abandon()
    stream = nil
    for buffer in [reply, translated] {
      if let buffer { worker.readers.buffers.give(buffer) }
    }
    reply = nil
    translated = nil
  }

  func grpcReady(_ stream: GRPCClientStream) {
    guard stream === self.stream, let request else { return }
    let path = worker.appPath(endpoint.span, calledAs: nil)
    defer { withExtendedLifetime(path) {} }
    stream.begin(
      path: path.span, format: translated == nil && format == .json ? .json : .protobuf,
      timeout: timeLeft,
      metadata: request.bytes(metadata), fill: { _ in })
    _ = stream.send(translated?.bytes ?? request.bytes(payload))
    stream.finishSending()
  }

  func grpcAnswered(_ stream: GRPCClientStream, _ fields: HTTP2Fields) {}
  func grpcDrained(_ stream: GRPCClientStream) {}

  func grpcReceived(_ stream: GRPCClientStream, _ message: UnsafeRawBufferPointer) -> WriteState {
    guard reply == nil else {
      fail(SidecarError(.badUpstreamReply, "the app sent more than one message; the method is a stream", id: errorID))
      return .closed
    }
    let buffer = worker.readers.buffers.take()
    buffer.append(message)
    reply = buffer
    return .open
  }

  func grpcEnded(_ stream: GRPCClientStream, _ failure: GRPCFailure?, trailers: UnsafeRawBufferPointer) {
    guard stream === self.stream else { return }
    self.stream = nil
    if let failure { return fail(explained(failure)) }
    guard let reply else {
      return fail(SidecarError(.badUpstreamReply, "the app sent no message, and yet OK", id: errorID))
    }
    self.reply = nil
    defer { worker.readers.buffers.give(reply) }
    guard let method, translated != nil else { return deliver(reply.bytes) }
    let json = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(json) }
    do throws(SidecarError) {
      try worker.translator.translate(reply.bytes, to: .json, method, .reply, for: audience, into: json)
      deliver(json.bytes)
    } catch {
      fail(error)
    }
  }

  private func explained(_ failure: GRPCFailure) -> SidecarError {
    let error = SidecarError(failure)
    if error.kind == .endpointNotFound,
      (try? worker.translator.method(worker.settings.fromService.span, endpoint.span)) == nil
    {
      return GRPCNaming.withoutPackage(error, endpoint: endpoint.text)
    }
    guard format == .json, method == nil, GRPCNaming.mayLackJSON(failure, error) else { return error }
    return GRPCNaming.withoutJSON(error, service: errorID, endpoint: endpoint.text)
  }

  func grpcFailed(_ stream: GRPCClientStream, _ failure: UpstreamFailure) {
    guard stream === self.stream else { return }
    self.stream = nil
    // The app has not worked on it: it may have been restarted, and closed an idle connection.
    switch failure {
    case .refused, .brokeBeforeReply(wasReused: true, _):
      if !hasRetried {
        hasRetried = true
        return connect()
      }
    case .connectFailed, .brokeBeforeReply, .brokeInReply, .malformed, .streamReset: break
    }
    fail(failure)
  }
}
