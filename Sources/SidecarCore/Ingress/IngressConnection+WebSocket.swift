// A request of the app that asks for a WebSocket: which service it means, and whether its page may ask.

extension IngressConnection {
  /// Starts the call; the upgrade follows when its callee is connected.
  func startWebSocket(
    _ head: HTTP1Head, _ path: UnsafeRawBufferPointer, _ query: UnsafeRawBufferPointer?
  ) {
    // The same-origin rule does not cover WebSockets: what CORS does for other requests, the server has to do here.
    if let origin = head.first(.origin), !CORS.allows(origin, worker.settings.corsOrigins) {
      var error = SidecarError(
        .badRequest, "pages of \(String(decoding: origin.prefix(200), as: UTF8.self)) may not open a WebSocket here")
      error.code = 403
      return reply(error: error)
    }
    guard let target = webSocketTarget(head, path, query) else { return }
    form = .webSocket
    guard let call = makeStreamCall(head, target) else { return }
    do throws(WireError) {
      let caller = try WebSocketCaller(connection: self, call: call, head: head)
      starting = caller
      call.start(for: caller)
    } catch {
      call.cancel()
      reply(error: SidecarError(error))
    }
  }

  /// What the WebSocket is to be connected with; nil: the caller has been told why not.
  private func webSocketTarget(
    _ head: HTTP1Head, _ path: UnsafeRawBufferPointer, _ query: UnsafeRawBufferPointer?
  ) -> StreamTarget? {
    if let (service, endpoint) = Self.namedEndpoint(head) {
      route = namedRoute(service, endpoint)
      return route?.target
    }
    guard let fields = fields(of: query) else { return nil }
    if ASCIIText.equals(path, "/registry") { return registryWatch(fields, defaultInitial: false) }
    if let (service, endpoint) = Self.namedEndpoint(fields) {
      route = withExtendedLifetime((service, endpoint)) { namedRoute(service.span, endpoint.span) }
    } else {
      route = worker.routes.find(path) ?? pathRoute(path)
    }
    return route?.target
  }

  /// `?Micro-Service=greeter&Micro-Endpoint=Chat.Talk`: a browser cannot give a WebSocket headers.
  private static func namedEndpoint(_ fields: JSONValue) -> (service: FixedBytes, endpoint: FixedBytes)? {
    guard let service = fields["Micro-Service"]?.stringValue, !service.isEmpty,
      let endpoint = (fields["Micro-Endpoint"] ?? fields["Micro-Method"])?.stringValue, !endpoint.isEmpty
    else { return nil }
    return (FixedBytes(service), FixedBytes(endpoint))
  }
}
