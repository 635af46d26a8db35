// One unary call of the framework delivered to an app that speaks the framework's frames itself, as the apps of the 2018
// sidecar did: JSON-RPC for JSON, proto-rpc for protobuf, by POST to `/`. Every generation of go-micro's servers reads
// both envelopes. Each call has a connection of its own: servers of v0.14 give every call of a connection the metadata of
// the first (wire/rpc.md trap 1), and an app does not say of which generation it is.

final class FrameAppCall: BufferedDelivery, AppDelivery, UpstreamUser {
  private var connection: UpstreamConnection?
  private var codec = FrameCodec.jsonRPC

  override func connect() {
    switch app.connect(self, fresh: true) {
    case .ready(let connection):
      self.connection = connection
      send(connection)
    case .dialling(let connection): self.connection = connection
    case .full:
      fail(
        later: SidecarError(
          .overloaded, "\(UpstreamTarget.connectionsMaxDefault) calls to the app are under way", id: errorID))
    }
  }

  override func abandon() {
    connection?.abandon()
    connection = nil
  }

  private func send(_ connection: UpstreamConnection) {
    guard let request else { return }
    let out = worker.scratch
    out.removeAll()
    let call = FrameCall(
      id: worker.nextID(), node: NodeDialect(generation: .legacy), format: format,
      codec: format == .json ? .jsonRPC : .protoRPC, timeoutNanoseconds: timeLeft)
    let service = FixedBytes(errorID)
    do throws(WireError) {
      codec = try FrameClient.encodeRequest(
        call, host: app.hostHeader.span, service: service.span, endpoint: endpoint.span,
        payload: request.bytes(payload), into: out, metadata: { $0.append(request.bytes(metadata)) })
    } catch {
      return fail(later: SidecarError(error))
    }
    connection.send(out.bytes, .none)
  }

  func upstreamReady(_ connection: UpstreamConnection) {
    if connection === self.connection { send(connection) }
  }

  func upstreamReplied(_ connection: UpstreamConnection, _ head: HTTP1Head, _ body: UnsafeRawBufferPointer) -> Bool {
    guard connection === self.connection else { return false }
    self.connection = nil
    switch FrameClient.decodeReply(head: head, body: body, codec: codec) {
    case .payload(let range, _): deliver(UnsafeRawBufferPointer(rebasing: body[range]))
    case .translated(let json): deliver(json.bytes)
    case .endOfStream: fail(SidecarError(.badUpstreamReply, "the app sent the end of a stream", id: errorID))
    case .failed(let error): fail(error)
    }
    return false
  }

  func upstreamFailed(_ connection: UpstreamConnection, _ failure: UpstreamFailure) {
    guard connection === self.connection else { return }
    self.connection = nil
    fail(failure)
  }
}
