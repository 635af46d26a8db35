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
    return try makeRoute(name, method, key: key.bytes)
  }

  /// The route that `key` stands for from now on, if the service is known. Errors as for `namedRoute`.
  func makeRoute(
    _ service: ServiceName, _ endpoint: String, key: UnsafeRawBufferPointer
  ) throws(SidecarError) -> Route {
    try Self.checkNames(service, endpoint)
    guard let table = self.service(service) else {
      throw SidecarError(.overloaded, "too many unknown services are being looked up")
    }
    let isKnown = table.status == .present
    let route = Route(
      service: table, endpoint: FixedBytes(endpoint), caller: settings.fromService, isKnown: isKnown, metrics: metrics)
    if isKnown { routes.insert(key, route) }
    return route
  }

  /// Throws when these cannot be names of a service and an endpoint.
  static func checkNames(_ service: ServiceName, _ endpoint: String) throws(SidecarError) {
    guard PathRoute.isEndpointName(endpoint) else {
      throw SidecarError(.badRequest, "endpoint \(endpoint.prefix(200)) is not of the form Handler.Method")
    }
    guard !service.isEmpty, service.utf8.count <= 255,
      service.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: "/") })
    else { throw SidecarError(.badRequest, "\(service.prefix(100)) cannot be a service name") }
  }
}
