// `/registry` and `/health` of the local API.

extension IngressConnection {
  /// The fields of a query; nil: it is broken, and the caller told.
  func fields(of query: UnsafeRawBufferPointer?) -> JSONValue? {
    guard let query else { return .object([]) }
    do throws(WireError) {
      let buffer = ByteBuffer()
      try QueryToJSON.append(query, to: buffer)
      return try JSONValue(parsing: buffer.bytes)
    } catch {
      reply(error: SidecarError(error))
      return nil
    }
  }

  /// Where a watch of the registry goes; nil: it asks for what there is not, and the caller is told.
  func registryWatch(_ fields: JSONValue, defaultInitial: Bool) -> StreamTarget? {
    do throws(SidecarError) {
      let request = try RegistryWatchRequest(query: fields, defaultInitial: defaultInitial)
      return .own(endpoint: Self.registryWatchEndpoint) { [worker] in RegistryWatch($0, worker: worker, request) }
    } catch {
      reply(error: error)
      return nil
    }
  }

  private static let registryWatchEndpoint = FixedBytes("Registry.Watch")

  func receivedRegistry(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer, _ query: UnsafeRawBufferPointer?) {
    guard let fields = fields(of: query) else { return }
    switch head.method {
    case .get where Self.streamForm(head) != nil:
      guard let form = Self.streamForm(head), let target = registryWatch(fields, defaultInitial: true) else { return }
      startStream(head, target, form)?.connectionEnded()
    case .get, .head:
      if let name = fields["service"]?.stringValue, !name.isEmpty {
        ask(.getService(name))
      } else {
        ask(.listServices)
      }
    case .post, .put, .delete:
      let service: Service
      do throws(WireError) {
        service = try Service(json: try JSONValue(parsing: body))
      } catch {
        reply(error: SidecarError(.badRequest, "the body is not a service: \(error)"))
        return
      }
      if head.method == .delete { return ask(.deregister(service)) }
      var ttl: Duration?
      if let text = fields["ttl"]?.stringValue, !text.isEmpty {
        guard let parsed = GoDuration.parse(text), parsed > .zero else {
          reply(error: SidecarError(.badRequest, "ttl \(text.prefix(40)) is not a duration such as 10s or 1m30s"))
          return
        }
        ttl = parsed
      }
      ask(.register(service, ttl: ttl))
    default:
      reply(error: SidecarError(.methodNotAllowed, "Method not allowed; /registry takes GET, POST and DELETE"))
    }
  }

  func ask(_ request: APIRequest) {
    worker.handle(request) { [weak self] answer in
      guard let self, state == .answering else { return }
      reply(answer)
    }
  }
}
