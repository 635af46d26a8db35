// A unary call as gRPC nodes take it (client/grpc/grpc.go @ v1.18.0 … v6.10.0): `Say.Hello` of `go.micro.srv.hello` is
// `/go.micro.srv.hello.Say/Hello`, the payload one message, the reply one message and a status.

extension OutboundCall: GRPCClientUser {
  func grpcReady(_ stream: GRPCClientStream) {
    guard stream === self.stream, let request else { return }
    GRPCNaming.withServicePath(service?.nameBytes.span ?? .none, endpoint.span, worker.scratch) { path in
      let metadata = request.bytes(metadata)
      stream.begin(
        path: path, format: sentFormat, timeout: timeLeft, metadata: metadata,
        fill: {
          GRPCNaming.appendFramework(to: $0, format: sentFormat, timeout: timeLeft, from: worker.settings)
          if policy.values.priority != .normal, !HeaderLines.contain("micro-priority", metadata) {
            $0.append("micro-priority") { $0.append(policy.values.priority.word) }
          }
        })
    }
    _ = stream.send(translated?.bytes ?? jsonPayload(request.bytes(payload)))
    stream.finishSending()
  }

  /// No body at all stands for the empty message, which in JSON has two bytes.
  private func jsonPayload(_ payload: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
    guard payload.isEmpty, sentFormat == .json else { return payload }
    let empty: StaticString = "{}"
    return UnsafeRawBufferPointer(start: empty.utf8Start, count: empty.utf8CodeUnitCount)
  }

  private var timeLeft: Int64 { max(deadline.nanoseconds(since: worker.driver.now), 1) }

  /// Metadata of the answer goes nowhere: framework and HTTP callers get none from nodes of any dialect.
  func grpcAnswered(_ stream: GRPCClientStream, _ fields: HTTP2Fields) {}
  func grpcDrained(_ stream: GRPCClientStream) {}

  func grpcReceived(_ stream: GRPCClientStream, _ message: UnsafeRawBufferPointer) -> WriteState {
    guard stream === self.stream else { return .closed }
    guard streamReply == nil else {
      stream.abandon()
      failed(badReply("more than one message; the endpoint is a stream"))
      return .closed
    }
    let buffer = worker.readers.buffers.take()
    buffer.append(message)
    streamReply = buffer
    return .open
  }

  func grpcEnded(_ stream: GRPCClientStream, _ failure: GRPCFailure?, trailers: UnsafeRawBufferPointer) {
    guard stream === self.stream else { return }
    if let failure {
      return failed(explained(failure), isUnbegun: stream.isUnbegun, reported: stream.reportedLoad)
    }
    guard let streamReply else { return failed(badReply("no message, and yet OK")) }
    succeeded(streamReply, reported: stream.reportedLoad)
  }

  func grpcFailed(_ stream: GRPCClientStream, _ failure: UpstreamFailure) {
    guard stream === self.stream else { return }
    if let streamReply {
      worker.readers.buffers.give(streamReply)
      self.streamReply = nil
    }
    failed(failure, at: stream.target)
  }

  private func explained(_ failure: GRPCFailure) -> SidecarError {
    let error = SidecarError(failure)
    guard sentFormat == .json, GRPCNaming.mayLackJSON(failure, error) else { return error }
    return GRPCNaming.withoutJSON(error, service: service?.name ?? "", endpoint: endpoint.text)
  }
}

/// Names and headers of gRPC calls to the framework's servers.
enum GRPCNaming {
  /// Hands `/service.Handler/Method` to `body`; made in `scratch`. The last dot of the endpoint counts.
  static func withServicePath(
    _ service: UnsafeRawBufferPointer, _ endpoint: UnsafeRawBufferPointer, _ scratch: ByteBuffer,
    _ body: (UnsafeRawBufferPointer) -> Void
  ) {
    scratch.removeAll()
    let dot = endpoint.lastIndex(of: UInt8(ascii: "."))
    scratch.append(UInt8(ascii: "/"))
    scratch.append(service)
    if !service.isEmpty, dot != nil { scratch.append(UInt8(ascii: ".")) }
    if let dot { scratch.append(UnsafeRawBufferPointer(rebasing: endpoint[..<dot])) }
    scratch.append(UInt8(ascii: "/"))
    scratch.append(UnsafeRawBufferPointer(rebasing: endpoint[(dot.map { $0 + 1 } ?? 0)...]))
    body(scratch.bytes)
  }

  /// What the framework's gRPC client adds: its servers go by `timeout`, in nanoseconds, more than by grpc-timeout, and
  /// choose codecs by `x-content-type` where there is no other.
  static func appendFramework(
    to list: HTTP2HeaderList, format: PayloadFormat, timeout: Int64?, from settings: DataPathSettings
  ) {
    if let timeout { list.append("timeout", isVarying: true) { $0.append(decimal: UInt64(max(timeout, 1))) } }
    list.append("x-content-type", GRPCMetadata.contentType(format))
    if !settings.fromService.span.isEmpty { list.append("micro-from-service", settings.fromService.span) }
  }

  /// Whether a server may have failed for want of a JSON codec, as all but the framework's own do: grpc's C core and
  /// grpc-go say INTERNAL, grpc-java UNIMPLEMENTED. An error of the framework's is none of these.
  static func mayLackJSON(_ failure: GRPCFailure, _ error: SidecarError) -> Bool {
    guard error.kind == .upstreamError, error.upstreamText == nil else { return false }
    return failure.status == GRPCStatus.internal.rawValue || failure.status == GRPCStatus.unimplemented.rawValue
      || failure.status == GRPCStatus.unknown.rawValue && failure.message.starts(with: "the answer has".utf8)
  }

  static func withoutJSON(_ error: SidecarError, service: String, endpoint: String) -> SidecarError {
    explained(
      error,
      "no descriptors for \(service) \(endpoint): name a set in MICRO_DESCRIPTORS, or switch on server reflection in "
        + "the server; it was sent JSON, and may take only protobuf")
  }

  /// Why an app may not have found a method: its package is only guessed.
  static func withoutPackage(_ error: SidecarError, endpoint: String) -> SidecarError {
    explained(
      error,
      "no descriptor tells in which package \(endpoint) is: name a set in MICRO_DESCRIPTORS, or switch on server "
        + "reflection in the app")
  }

  private static func explained(_ error: SidecarError, _ why: String) -> SidecarError {
    var error = error
    error.detail = "\(why): \(error.detail)"
    return error
  }
}
