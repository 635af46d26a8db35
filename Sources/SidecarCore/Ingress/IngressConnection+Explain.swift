// `/explain` of the local API.

extension IngressConnection {
  /// `?service=…&endpoint=…`, or `?path=/greeter/say/hello` as a call would have it.
  func receivedExplain(_ head: HTTP1Head, _ query: UnsafeRawBufferPointer?) {
    guard head.method == .get || head.method == .head else {
      return reply(error: SidecarError(.methodNotAllowed, "Method not allowed; /explain takes GET"))
    }
    guard let fields = fields(of: query) else { return }
    let service: ServiceName
    let endpoint: String
    let asked = fields["path"]?.stringValue
    if let asked {
      guard let route = PathRoute(path: asked, namespace: worker.settings.namespace) else {
        return reply(
          error: SidecarError(.badRequest, "path \(asked.prefix(200)) names no service and method"))
      }
      (service, endpoint) = (route.service, route.endpoint)
    } else if let name = fields["service"]?.stringValue, !name.isEmpty {
      (service, endpoint) = (
        name, fields["endpoint"]?.stringValue ?? fields["method"]?.stringValue ?? "Debug.Health"
      )
    } else {
      return reply(
        error: SidecarError(
          .badRequest, "say what to explain: /explain?service=NAME&endpoint=Handler.Method, or ?path=/…"))
    }
    do throws(SidecarError) { try Worker.checkNames(service, endpoint) } catch { return reply(error: error) }
    ExplanationRequest.start(worker, service, endpoint, asked: asked) { [weak self] result in
      guard let self, state == .answering else { return }
      switch result {
      case .success(let explanation): reply(.json(value: explanation))
      case .failure(let error): reply(error: error)
      }
    }
  }
}
