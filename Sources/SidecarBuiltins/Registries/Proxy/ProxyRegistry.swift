// The `proxy` registry, alias `sidecar`: what another sidecar knows, through its `/registry` HTTP API (go-plugins
// registry/sidecar @ v0.16.0, registry/proxy; toolkit handler/registry @ v0.16.0).
//
//   proxy:10.0.0.7:8081+https://sidecar.example?ca_file=/etc/ca.pem
//
// For an app's host that reaches no registry but a sidecar, of this program or of 2018. An entry is written with its ttl,
// which both keep: one that is not renewed leaves. With several servers the one that answered last is asked first.

import SidecarCore

/// Threading: the loop of its environment, as all registries.
public final class ProxyRegistry: DiagnosableRegistry, @unchecked Sendable {
  public let name: String
  private let client: HTTPClient
  private let content: WatchedServices
  private let follower: ProxyFollower
  private let reader: ProxyReader
  private let garbage: GarbageLog
  private let tls: TLSSource
  private let driver: any Driver
  private let addressForm: NodeAddressForm
  private var task: Task<Void, Never>?

  public init(environment: PluginEnvironment) throws(ConfigurationError) {
    let options = try RegistryOptions(
      environment, of: "proxy", defaultServers: [], defaultPort: 8081,
      options: TLSSource.options + ["address", "poll_seconds"])
    guard !options.servers.isEmpty else {
      throw ConfigurationError("registry proxy: no sidecar is named; expected proxy:host:8081, not this sidecar itself")
    }
    driver = environment.driver
    var endpoints: [HTTPEndpoint] = []
    for server in options.servers { endpoints.append(try HTTPEndpoint(server, isTLS: false)) }
    name = options.instanceName
    addressForm = try options.choice("address", of: ["joined", "split"]).flatMap(NodeAddressForm.init) ?? .joined
    tls = try TLSSource(options, driver: environment.driver)
    client = HTTPClient(driver: environment.driver, endpoints: endpoints, tls: tls)
    content = WatchedServices(driver: environment.driver, cause: "no sidecar has answered yet")
    garbage = GarbageLog(registry: name, log: environment.log)
    reader = ProxyReader(client, garbage)
    follower = ProxyFollower(
      client: client, reader: reader, content: content, driver: environment.driver,
      pollInterval: .seconds(try options.number("poll_seconds", in: 1...3600, default: 5)))
  }

  deinit { task?.cancel() }

  public var skipped: SkippedEntries { garbage.skipped(with: content) }

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    // Nothing to be found; the sidecar of 2018 would keep the name for ever.
    guard !service.nodes.isEmpty else { return }
    let query = HTTPText.query(ttl.map { [("ttl", GoDuration.format($0))] } ?? [])
    try await write(HTTPRequest(.post, "/registry" + query, json: service.json(addressForm: addressForm)))
  }

  public func deregister(_ service: Service) async throws(RegistryError) {
    guard !service.nodes.isEmpty else { return }
    try await write(HTTPRequest(.delete, "/registry", json: service.json(addressForm: addressForm)))
  }

  private func write(_ request: HTTPRequest) async throws(RegistryError) {
    let reply = try await reader.ask(request)
    switch reply.status {
    case 200...299: return
    case 400, 404, 405, 413: throw .invalid("\(reply.endpoint): \(reply.status) \(reply.shortText)")
    case 401, 403: throw .refused("\(reply.endpoint) does not allow it: \(reply.status) \(reply.shortText)")
    default: throw .unavailable("\(reply.endpoint): \(reply.status) \(reply.shortText)")
    }
  }

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    let found = content.outage == nil ? content[name] : try await reader.service(name)
    if found.isEmpty { throw .notFound(name) }
    return found
  }

  public func list() async throws(RegistryError) -> [ServiceName] {
    content.outage == nil ? content.names : try await reader.names()
  }

  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    if task == nil { task = startTask(on: driver) { [follower] in await follower.run() } }
    try await content.watch(scope, onEvent: onEvent)
  }

  public func diagnose() async throws(RegistryError) -> [Diagnosis] {
    var findings: [Diagnosis] = []
    for endpoint in client.endpoints {
      let single = HTTPClient(driver: driver, endpoints: [endpoint], tls: tls)
      do throws(HTTPFailure) {
        let reply = try await single.call(HTTPRequest(.get, "/registry"), within: .seconds(3))
        findings.append(Self.finding(reply))
      } catch {
        findings.append(.problem("sidecar \(endpoint)", error.cause.description, nextStep: error.nextStep))
      }
      single.closeIdle()
    }
    return findings
  }

  private static func finding(_ reply: HTTPReply) -> Diagnosis {
    let subject = "sidecar \(reply.endpoint)"
    if reply.isSuccess, (try? JSONValue(parsing: reply.body))?.arrayValue != nil {
      return .fine(subject, "answers as a sidecar")
    }
    if reply.status == 401 || reply.status == 403 {
      return .problem(
        subject, "it does not let us read its registry: \(reply.status) \(reply.shortText)",
        nextStep: "allow this host at the sidecar or at what stands before it")
    }
    return .problem(
      subject, "it answers /registry with \(reply.status) \(reply.shortText), which no sidecar does",
      nextStep: "name the address apps call the sidecar at (MICRO_SIDECAR_ADDRESS there, port 8081 as a rule)")
  }
}

/// Asks the sidecar what it knows. Loop-confined.
final class ProxyReader: @unchecked Sendable {
  private let client: HTTPClient
  private let garbage: GarbageLog

  init(_ client: HTTPClient, _ garbage: GarbageLog) {
    self.client = client
    self.garbage = garbage
  }

  func ask(_ request: HTTPRequest) async throws(RegistryError) -> HTTPReply {
    do throws(HTTPFailure) {
      return try await client.call(request, within: .seconds(5))
    } catch {
      throw .unavailable(error.cause == .cancelled ? "cancelled" : error.description)
    }
  }

  /// Sorted, each once.
  func names() async throws(RegistryError) -> [ServiceName] {
    let entries = try await array(try await ask(HTTPRequest(.get, "/registry")))
    return Set(entries.compactMap { $0.value(ignoringCase: "name")?.stringValue }.filter { !$0.isEmpty }).sorted()
  }

  /// Empty when there is none.
  func service(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    guard !name.isEmpty else { return [] }
    let reply = try await ask(HTTPRequest(.get, "/registry" + HTTPText.query([("service", name)])))
    // The 2018 handler has 404 for what is not there, and 500 where its registry's error had other words.
    if reply.status == 404 || (reply.status == 500 && reply.shortText.hasSuffix("not found")) { return [] }
    return try await array(reply).compactMap(service).filter { $0.name == name }
  }

  /// Everything, read service by service.
  func all() async throws(RegistryError) -> [Service] {
    let names = try await names()
    let results = await withTaskGroup(of: Result<[Service], RegistryError>.self) { group in
      for name in names {
        group.addTask { [self] in
          do throws(RegistryError) { return .success(try await service(name)) } catch { return .failure(error) }
        }
      }
      var results: [Result<[Service], RegistryError>] = []
      for await result in group { results.append(result) }
      return results
    }
    var all: [Service] = []
    for result in results { all += try result.get() }
    return all
  }

  /// A service as the sidecar wrote it; nil, and noted, for what is none.
  func service(_ json: JSONValue) -> Service? {
    do throws(WireError) {
      return try Service(json: json)
    } catch {
      garbage.leftOut(json.value(ignoringCase: "name")?.stringValue ?? "?", because: error.rule)
      return nil
    }
  }

  func leftOut(_ line: [UInt8], because reason: String) { garbage.leftOut(HTTPText.short(line), because: reason) }

  private func array(_ reply: HTTPReply) async throws(RegistryError) -> [JSONValue] {
    guard reply.status != 401, reply.status != 403 else {
      throw .refused("\(reply.endpoint) does not let us read: \(reply.status) \(reply.shortText)")
    }
    guard reply.isSuccess else { throw .unavailable("\(reply.endpoint): \(reply.status) \(reply.shortText)") }
    // Go writes a nil slice as null.
    guard let value = try? JSONValue(parsing: reply.body), value.isNull || value.arrayValue != nil else {
      throw .unavailable("\(reply.endpoint) does not answer as a sidecar: \(reply.shortText)")
    }
    return value.arrayValue ?? []
  }
}
