// The route to an endpoint of a service by their names, found by their bytes once it is known.

extension Worker {
  /// Errors: names that cannot be a service's or an endpoint's, and too many services being looked up.
  func namedRoute(_ service: UnsafeRawBufferPointer, _ endpoint: UnsafeRawBufferPointer) throws(SidecarError) -> Route {
    let key = scratch
    key.removeAll()
    key.append(service)
    key.append(0)
    key.append(endpoint)
    if let route = routes.find(key.bytes) { return route }
    guard let name = String(validating: service, as: UTF8.self),
      let method = String(validating: endpoint, as: UTF8.self)
    else { throw SidecarError(.badRequest, "the names of service and endpoint must be UTF-8") }
    guard PathRoute.isEndpointName(method) else {
      throw SidecarError(.badRequest, "endpoint \(method.prefix(200)) is not of the form Handler.Method")
    }
    guard !name.isEmpty, name.utf8.count <= 255,
      name.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: "/") })
    else { throw SidecarError(.badRequest, "\(name.prefix(100)) cannot be a service name") }
    guard let table = self.service(name) else {
      throw SidecarError(.overloaded, "too many unknown services are being looked up")
    }
    let isKnown = table.status == .present
    let route = Route(
      service: table, endpoint: FixedBytes(method), caller: settings.fromService, isKnown: isKnown, metrics: metrics)
    if isKnown { routes.insert(key.bytes, route) }
    return route
  }
}
