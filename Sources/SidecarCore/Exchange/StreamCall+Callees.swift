// Which callee a streaming call gets, and the translation of its messages.

extension StreamCall {
  /// Whether the endpoint is one of a single message each way, so that `UnaryCallee` is to make the call. Nodes that
  /// speak gRPC make no difference between the two.
  var callsUnaryEndpoint: Bool {
    switch target {
    case .service(let route):
      return !route.service.isGRPC && !(route.isStream(worker.translator) ?? assumesStream)
    case .app(let endpoint):
      return worker.settings.appProtocol != .grpc && !worker.isAppStream(endpoint.span)
    case .own: return false
    }
  }

  /// Makes the callee for the node picked, or for the app. It starts to connect and reports from a later turn.
  func makeCallee() throws(SidecarError) -> any StreamCallee {
    if let callee = try makeGRPCCallee() { return callee }
    switch target {
    case .service(let route):
      guard let node else { throw route.service.noNodeError }
      return FrameCallee(
        self, target: node.target, node: node, service: route.service.nameBytes, routing: route.routing)
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

  /// Writes `message` in the other format, for `reader`. Errors: no descriptor; a message that is not of its type.
  func translate(
    _ message: UnsafeRawBufferPointer, to wanted: PayloadFormat, _ direction: MessageDirection,
    for reader: JSONAudience, into out: ByteBuffer
  ) throws(SidecarError) {
    guard let method = try method() else { throw MessageTranslator.missing(serviceName.text, endpoint.text) }
    try worker.translator.translate(message, to: wanted, method, direction, for: reader, into: out)
  }

  /// The method called, where descriptors tell. Errors: they tell several.
  func method() throws(SidecarError) -> ProtoMethod? {
    try worker.translator.method(serviceName.span, endpoint.span)
  }

  var serviceName: FixedBytes {
    switch target {
    case .service(let route): route.service.nameBytes
    case .app, .own: worker.settings.fromService
    }
  }
}
