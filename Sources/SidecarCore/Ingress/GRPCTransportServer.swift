// The gRPC transport on the framework's listener: what calls its method gets an `InboundConnection`, as whoever connects
// by HTTP/1 does.

final class GRPCTransportServer: GRPCTransportStream {
  private let caller: SocketAddress?
  private var hasHead = false

  init(_ connection: GRPCServerConnection, _ stream: HTTP2Stream) {
    caller = connection.byteStream.peerAddress
    super.init(worker: connection.worker, role: .server)
    self.stream = stream
  }

  override var peerAddress: SocketAddress? { caller }

  private func sendHead(ends: Bool) {
    guard !hasHead, let stream, let list = stream.session?.takeList() else { return }
    hasHead = true
    list.append(":status", "200")
    list.append("content-type", "application/grpc")
    if ends { list.append("grpc-status", "0") }
    stream.respond(list, ends: ends)
  }

  override func willSend() { sendHead(ends: false) }

  override func finish() {
    guard hasHead else { return sendHead(ends: true) }
    guard let stream, !stream.isFinished, let list = stream.session?.takeList() else { return }
    list.append("grpc-status", "0")
    stream.finish(trailers: list)
  }
}

extension GRPCServerConnection {
  /// A peer opens the transport's stream: a connection of the framework inside this one. Nil when there are too many.
  func openTransport(_ stream: HTTP2Stream) -> (any HTTP2StreamHandler)? {
    let transport = GRPCTransportServer(self, stream)
    return worker.acceptTransport(transport) ? transport : nil
  }
}
