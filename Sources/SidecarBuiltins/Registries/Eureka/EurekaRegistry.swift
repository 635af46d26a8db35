// The `eureka` registry over Eureka's REST API, as Netflix's server and Spring's have it (Eureka wiki, "REST operations").
//
//   eureka:http://10.0.0.4:8080/eureka/v2+http://10.0.0.5:8080/eureka/v2?poll_ms=5000
//
// An entry is an instance with a lease: registered once, then renewed by heartbeats, and again registered when the server
// does not know it any more. Changes are polled, Eureka pushes none: what changed lately (`/apps/delta`), and everything
// when its hash shows that something was missed.

import SidecarCore

/// Threading: the loop of its environment, as all registries.
public final class EurekaRegistry: DiagnosableRegistry, @unchecked Sendable {
  /// Instances remembered as written.
  static let writtenMax = 20_000

  public let name: String
  private let api: EurekaAPI
  private let poller: EurekaPoller
  private let garbage: GarbageLog
  private let content: WatchedServices
  private let driver: any HostDriver
  private var task: Task<Void, Never>?
  /// What was written last, by instance id, without its time.
  private var written: [String: Service] = [:]

  public init(environment: PluginEnvironment) throws(ConfigurationError) {
    let options = try RegistryOptions(
      environment, of: "eureka", defaultServers: ["http://localhost:8080/eureka/v2"], defaultPort: 8080,
      options: TLSSource.options + [
        "poll_ms", "foreign", "user", "password", "password_file", "token", "token_file",
      ])
    driver = environment.driver
    api = try EurekaAPI(options, driver: environment.driver)
    name = "eureka:" + api.client.endpoints.map(\.description).joined(separator: "+")
    content = WatchedServices(driver: environment.driver, cause: "no Eureka server has answered yet")
    garbage = GarbageLog(registry: name, log: environment.log)
    poller = EurekaPoller(
      api, content: content, driver: environment.driver, garbage: garbage,
      interval: Int64(try options.number("poll_ms", in: 50...3_600_000, default: 5000)) * 1_000_000,
      takesForeign: try options.flag("foreign"))
  }

  deinit { task?.cancel() }

  public var skipped: SkippedEntries { garbage.skipped(with: content) }

  // MARK: Writing

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    guard !service.name.isEmpty else { throw .invalid("a service without a name cannot be written to Eureka") }
    guard !service.version.isEmpty else {
      throw .invalid("\(service.name) has no version, and readers leave out instances without one")
    }
    for node in service.nodes { try await register(node, of: service, ttl: ttl) }
  }

  private func register(_ node: Node, of service: Service, ttl: Duration?) async throws(RegistryError) {
    guard !node.id.isEmpty else {
      throw .invalid("a node of \(service.name) without an id cannot be written to Eureka")
    }
    var single = service
    single.nodes = [node]
    let id = EurekaInstance.id(of: node)
    if written[id] == single {
      let reply = try await api.ask(.put, path(service, id))
      if reply.isSuccess { return }
      guard reply.status == 404 else { throw api.failure(reply) }
    }
    let now = driver.unixNanoseconds / 1_000_000
    let body = EurekaInstance.json(node, of: service, ttl: ttl, now: now)
    let reply = try await api.ask(.post, "/apps/" + HTTPText.escape(service.name.uppercased()), body)
    guard reply.isSuccess else { throw api.failure(reply) }
    if written.count >= Self.writtenMax { written.removeAll() }
    // The address is a part of the id: the node under its old one leaves.
    let old = written.first { $0.key != id && $0.value.name == service.name && $0.value.nodes[0].id == node.id }
    written[id] = single
    if let old { try await remove(old.key, service) }
  }

  public func deregister(_ service: Service) async throws(RegistryError) {
    for node in service.nodes where !node.id.isEmpty {
      var ids = written.filter { $0.value.name == service.name && $0.value.nodes[0].id == node.id }.map(\.key)
      if ids.isEmpty { ids = [EurekaInstance.id(of: node)] }
      for id in ids { try await remove(id, service) }
    }
  }

  private func remove(_ id: String, _ service: Service) async throws(RegistryError) {
    let reply = try await api.ask(.delete, path(service, id))
    guard reply.isSuccess || reply.status == 404 else { throw api.failure(reply) }
    written[id] = nil
  }

  private func path(_ service: Service, _ id: String) -> String {
    "/apps/" + HTTPText.escape(service.name.uppercased()) + "/" + HTTPText.escape(id)
  }

  // MARK: Reading

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    let found = content.outage == nil ? content[name] : try await asked()[name]
    if found.isEmpty { throw .notFound(name) }
    return found
  }

  public func list() async throws(RegistryError) -> [ServiceName] {
    content.outage == nil ? content.names : try await asked().names
  }

  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    if task == nil { task = startTask(on: driver) { [poller] in await poller.run() } }
    try await content.watch(scope, onEvent: onEvent)
  }

  /// What is there now, for one question.
  private func asked() async throws(RegistryError) -> WatchedServices {
    let now = WatchedServices(driver: driver, cause: "not asked yet")
    try await EurekaPoller(poller, content: now).readAll()
    return now
  }

  // MARK: Diagnosis

  public func diagnose() async throws(RegistryError) -> [Diagnosis] {
    var findings: [Diagnosis] = []
    for endpoint in api.client.endpoints {
      let single = EurekaAPI(api, at: endpoint)
      let subject = "Eureka \(endpoint)"
      do throws(HTTPFailure) {
        let reply = try await single.client.call(try single.request(.get, "/apps"), within: .seconds(3))
        let isEureka = (try? EurekaPoller.shape.cut(reply.body))?["applications"] != nil
        switch reply.status {
        case 200 where isEureka: findings.append(.fine(subject, "answers"))
        case 401, 403:
          findings.append(
            .problem(
              subject, "it does not let us in: \(reply.status) \(reply.shortText)",
              nextStep: "give user and password_file, or token_file, as options"))
        default:
          findings.append(
            .problem(
              subject, "it answers /apps with \(reply.status) \(reply.shortText), not as Eureka does",
              nextStep: "correct the path: Netflix's server has /eureka/v2, Spring's /eureka (port 8761)"))
        }
      } catch {
        findings.append(.problem(subject, error.cause.description, nextStep: error.nextStep))
      }
      single.client.closeIdle()
    }
    return findings
  }
}

/// The calls of the REST API. Loop-confined.
final class EurekaAPI: @unchecked Sendable {
  let client: HTTPClient
  private let options: RegistryOptions
  private let tls: TLSSource

  init(_ options: RegistryOptions, driver: any HostDriver) throws(ConfigurationError) {
    var endpoints: [HTTPEndpoint] = []
    for server in options.servers {
      var endpoint = try HTTPEndpoint(server, isTLS: false)
      if endpoint.basePath.isEmpty { endpoint.basePath = "/eureka/v2" }
      endpoints.append(endpoint)
    }
    self.options = options
    tls = try TLSSource(options, driver: driver)
    client = HTTPClient(driver: driver, endpoints: endpoints, tls: tls)
    _ = try authorization()
  }

  init(_ other: EurekaAPI, at endpoint: HTTPEndpoint) {
    options = other.options
    tls = other.tls
    client = HTTPClient(driver: other.client.driver, endpoints: [endpoint], tls: other.tls)
  }

  private func authorization() throws(ConfigurationError) -> String? {
    if let token = try options.secret("token") { return "Bearer " + token }
    guard let user = options["user"] else { return nil }
    return HTTPText.basicAuthorization(user: user, password: try options.secret("password") ?? "")
  }

  func request(_ method: HTTPRequest.Method, _ path: String, _ body: JSONValue? = nil) throws(HTTPFailure)
    -> HTTPRequest
  {
    var headers = [("Accept", "application/json")]
    do throws(ConfigurationError) {
      if let value = try authorization() { headers.append(("Authorization", value)) }
    } catch {
      throw HTTPFailure(endpoint: client.preferredEndpoint, cause: .closed(error.message))
    }
    guard let body else { return HTTPRequest(method, path, headers: headers) }
    headers.append(("Content-Type", "application/json"))
    return HTTPRequest(method, path, body: Array(body.text().utf8), headers: headers)
  }

  func ask(
    _ method: HTTPRequest.Method, _ path: String, _ body: JSONValue? = nil
  ) async throws(RegistryError) -> HTTPReply {
    do throws(HTTPFailure) {
      return try await client.call(try request(method, path, body), within: .seconds(5))
    } catch {
      throw .unavailable(error.cause == .cancelled ? "cancelled" : error.description)
    }
  }

  func failure(_ reply: HTTPReply) -> RegistryError {
    switch reply.status {
    case 401, 403: .refused("\(reply.endpoint) does not allow it: \(reply.status) \(reply.shortText)")
    case 400, 413: .invalid("\(reply.endpoint) does not take it: \(reply.status) \(reply.shortText)")
    default: .unavailable("\(reply.endpoint): \(reply.status) \(reply.shortText)")
    }
  }
}
