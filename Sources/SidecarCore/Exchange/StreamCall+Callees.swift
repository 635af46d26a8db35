// Which callee a streaming call gets, and the translation of its messages.

extension StreamCall {
  /// Whether the endpoint is one of a single message each way, so that `UnaryCallee` is to make the call. Nodes that
  /// speak gRPC make no difference between the two.
  var callsUnaryEndpoint: Bool {
    switch target {
    case .service(let service, let endpoint, _):
      if !service.nodes.isEmpty, service.nodes.allSatisfy({ $0.dialect.isGRPC }) { return false }
      return
        !(service.isStream(endpoint.text)
        ?? worker.translator.isStream(service.nameBytes.span, endpoint.span) ?? assumesStream)
    case .app(let endpoint):
      return worker.settings.appProtocol != .grpc && !worker.isAppStream(endpoint.text, endpoint.span)
    case .own: return false
    }
  }

  /// Makes the callee for the node picked, or for the app. It starts to connect and reports from a later turn.
  func makeCallee() throws(SidecarError) -> any StreamCallee {
    if let callee = try makeGRPCCallee() { return callee }
    switch target {
    case .service(let service, _, let routing):
      guard let node else { throw service.noNodeError }
      return FrameCallee(self, target: node.target, node: node, service: service.nameBytes, routing: routing)
    case .app(let endpoint):
      guard let app = worker.app else { throw .noApp(worker.settings.serviceName) }
      if worker.settings.appProtocol == .mucp {
        let service = worker.settings.fromService
        let routing = Route.routing(service, endpoint, .empty)
        return FrameCallee(self, target: app, node: nil, service: service, routing: routing)
      }
      if worker.appStreamForm(endpoint.text) == .ndjson { return LinesApp(self, app: app, endpoint: endpoint) }
      return WebSocketApp(self, app: app)
    case .own(_, let makeCallee): return makeCallee(self)
    }
  }

  /// Writes `message` in another format. Errors: no descriptor; a message that is not of its type.
  func translate(
    _ message: UnsafeRawBufferPointer, _ format: PayloadFormat, to wanted: PayloadFormat,
    _ direction: MessageDirection, into out: ByteBuffer
  ) throws(SidecarError) {
    let service = serviceName
    guard format != .bytes, wanted != .bytes, let method = try worker.translator.method(service.span, endpoint.span)
    else { throw MessageTranslator.missing(service.text, endpoint.text) }
    try worker.translator.translate(
      message, to: wanted, method, direction, for: direction == .reply ? audience : .people, into: out)
  }

  /// The method called, where descriptors tell. Errors: they tell several.
  func method() throws(SidecarError) -> ProtoMethod? {
    try worker.translator.method(serviceName.span, endpoint.span)
  }

  var serviceName: FixedBytes {
    switch target {
    case .service(let service, _, _): service.nameBytes
    case .app, .own: worker.settings.fromService
    }
  }
}
