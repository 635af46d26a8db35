// Which callee a streaming call gets, and the translation of its messages.

extension StreamCall {
  /// Whether the endpoint is one of a single message each way, so that `UnaryCallee` is to make the call. Nodes that
  /// speak gRPC make no difference between the two.
  var callsUnaryEndpoint: Bool {
    switch target {
    case .service(let service, let endpoint, _):
      if !service.nodes.isEmpty, service.nodes.allSatisfy({ $0.dialect.isGRPC }) { return false }
      return !(service.isStream(endpoint.text) ?? assumesStream)
    case .app(let endpoint): return !worker.appStreams(endpoint.text)
    }
  }

  /// Makes the callee for the node picked, or for the app. It starts to connect and reports from a later turn.
  func makeCallee() throws(SidecarError) -> any StreamCallee {
    switch target {
    case .service(let service, _, let routing):
      guard let node else { throw service.noNodeError }
      return FrameCallee(self, target: node.target, node: node, service: service.nameBytes, routing: routing)
    case .app(let endpoint):
      guard let app = worker.app else { throw .noApp(worker.settings.serviceName) }
      return LinesApp(self, app: app, endpoint: endpoint)
    }
  }

  /// Which of a method's two messages is meant.
  enum Direction { case request, reply }

  /// Writes `message` in another format. Errors: the caller's fault for requests, the callee's for replies.
  func translate(
    _ message: UnsafeRawBufferPointer, _ format: PayloadFormat, to wanted: PayloadFormat, _ direction: Direction,
    into out: ByteBuffer
  ) throws(SidecarError) {
    throw SidecarError(.unsupportedMediaType, "no descriptor says how \(endpoint.text) is translated")
  }
}
