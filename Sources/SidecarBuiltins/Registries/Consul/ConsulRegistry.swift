// The `consul` registry over Consul's HTTP API, as go-micro keeps its services there (registry/consul_registry.go @
// v0.14.0, registry/consul/consul.go @ v5.30.0; wire/registry-broker.md §3). Settings: ConsulOptions.swift.
//
// Writing goes to an agent: one entry for each node, with a TTL check that `register` passes. An entry that the agent
// has lost, by a restart say, is written again. Reading asks the catalog; watching is in ConsulWatch.swift.

import SidecarCore

/// Threading: the loop of its environment, as all registries.
public final class ConsulRegistry: Registry, @unchecked Sendable {
  /// Seconds a call may take.
  static let callSeconds: Int64 = 5
  /// Entries remembered as written.
  static let writtenMax = 20_000

  public let name: String
  let options: ConsulOptions
  let driver: any HostDriver
  let log: any LogSink
  /// For calls that are answered at once.
  let client: HTTPClient
  /// For those that wait for a change: they must not take the turns of others.
  let waitingClient: HTTPClient
  var tags = ConsulTags()

  private struct Written {
    var body: [UInt8]
    var endpoint: HTTPEndpoint
  }
  /// What was written last, by node id.
  private var written: [String: Written] = [:]
  let garbage: GarbageLog

  public init(environment: PluginEnvironment) throws(ConfigurationError) {
    options = try ConsulOptions(environment)
    name = options.options.instanceName
    driver = environment.driver
    log = environment.log
    garbage = GarbageLog(registry: name, log: environment.log)
    client = HTTPClient(driver: driver, endpoints: options.endpoints, tls: options.tls)
    var limits = HTTPClient.Limits()
    limits.callsAtOnce = 256
    limits.idleConnections = 2
    waitingClient = HTTPClient(driver: driver, endpoints: options.endpoints, tls: options.tls, limits: limits)
    // A server that has lost its leader may recover; another may still have one.
    let isUnfit: (HTTPReply) -> Bool = { [502, 503].contains($0.status) || ConsulRegistry.hasNoLeader($0) }
    client.isUnfit = isUnfit
    waitingClient.isUnfit = isUnfit
    _ = try options.headers()
  }

  public var skipped: SkippedEntries { garbage.skipped }

  // MARK: Writing

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    guard !service.name.isEmpty else { throw .invalid("a service without a name cannot be written to consul") }
    for node in service.nodes { try await register(node, of: service, ttl: ttl) }
  }

  private func register(_ node: Node, of service: Service, ttl: Duration?) async throws(RegistryError) {
    guard !node.id.isEmpty else {
      throw .invalid("a node of \(service.name) without an id cannot be written to consul")
    }
    let body = try entry(node, of: service, ttl: ttl)
    if let known = written[node.id], known.body == body, known.endpoint == client.preferredEndpoint {
      // The agent may have been restarted meanwhile: then it does not know the check, and the entry is written again.
      if ttl != nil, try await pass(node.id) { return }
    }
    let reply = try await call(HTTPRequest(.put, path("/v1/agent/service/register", options.writeQuery), body: body))
    try expectSuccess(reply, "registering \(service.name)")
    if written.count >= Self.writtenMax { written.removeAll() }
    written[node.id] = Written(body: body, endpoint: reply.endpoint)
    if ttl != nil, try await !pass(node.id) {
      throw .unavailable("consul at \(reply.endpoint) does not know the check of \(node.id) it has just taken")
    }
  }

  /// False when the agent does not know the check.
  private func pass(_ id: String) async throws(RegistryError) -> Bool {
    let reply = try await call(
      HTTPRequest(.put, path("/v1/agent/check/pass/service:" + HTTPText.escape(id), options.writeQuery)))
    if reply.isSuccess { return true }
    if reply.status == 404 || reply.shortText.contains("does not have associated TTL")
      || reply.shortText.contains("Unknown check")
    {
      return false
    }
    try expectSuccess(reply, "renewing \(id)")
    return true
  }

  public func deregister(_ service: Service) async throws(RegistryError) {
    for node in service.nodes where !node.id.isEmpty {
      written[node.id] = nil
      let reply = try await call(
        HTTPRequest(.put, path("/v1/agent/service/deregister/" + HTTPText.escape(node.id), options.writeQuery)))
      // Later versions say so when the entry is not there.
      if reply.status == 404 || reply.shortText.contains("Unknown service") { continue }
      try expectSuccess(reply, "deregistering \(node.id)")
    }
  }

  /// The body of a registration.
  private func entry(_ node: Node, of service: Service, ttl: Duration?) throws(RegistryError) -> [UInt8] {
    let tags: [String]
    do throws(WireError) {
      tags = try ConsulTags.encode(version: service.version, metadata: node.metadata, endpoints: service.endpoints)
    } catch {
      throw .invalid("\(service.name) cannot be written to consul: \(error.rule)")
    }
    let (host, port) = Node.splitHostPort(node.address) ?? (node.address, 0)
    let bare = host.hasPrefix("[") && host.hasSuffix("]") ? String(host.dropFirst().dropLast()) : host
    var members: [JSONValue.Member] = [
      JSONValue.Member("ID", .string(node.id)), JSONValue.Member("Name", .string(service.name)),
      JSONValue.Member("Tags", .array((tags + options.ownTags).map { .string($0) })),
      JSONValue.Member("Port", JSONValue(port)), JSONValue.Member("Address", .string(bare)),
    ]
    let meta = node.metadata.sorted { $0.key < $1.key }.filter { Self.fitsMeta($0.key, $0.value) }.prefix(64)
    if !meta.isEmpty {
      members.append(JSONValue.Member("Meta", .object(meta.map { JSONValue.Member($0.key, .string($0.value)) })))
    }
    if let ttl {
      let seconds = max(1, (ttl.saturatingNanoseconds + 999_999_999) / 1_000_000_000)
      let after = options.deregisterAfter.map(Int64.init) ?? (seconds < 60 ? 65 : seconds + 5)
      members.append(
        JSONValue.Member(
          "Check",
          [
            "TTL": .string("\(ttl.saturatingNanoseconds / 1_000_000)ms"), "Status": "passing",
            "DeregisterCriticalServiceAfter": .string("\(after)s"),
          ]))
    }
    return Array(JSONValue.object(members).text().utf8)
  }

  /// What Consul takes as Meta: the tags carry everything, Meta what other readers may use.
  private static func fitsMeta(_ key: String, _ value: String) -> Bool {
    (1...128).contains(key.utf8.count) && value.utf8.count <= 512 && !key.hasPrefix("consul-")
      && key.utf8.allSatisfy { byte in
        byte &- UInt8(ascii: "0") < 10 || (byte | 0x20) &- UInt8(ascii: "a") < 26 || byte == UInt8(ascii: "-")
          || byte == UInt8(ascii: "_")
      }
  }

  // MARK: Reading

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    guard !name.isEmpty else { throw .notFound(name) }
    let found = try await service(name).versions
    if found.isEmpty { throw .notFound(name) }
    return found
  }

  public func list() async throws(RegistryError) -> [ServiceName] {
    let reply = try await call(HTTPRequest(.get, path("/v1/catalog/services", options.readQuery)))
    try expectSuccess(reply, "listing the services")
    return try parse(reply) { body throws(WireError) in try ConsulCatalog(body) }.services.keys.sorted()
  }

  func service(_ name: ServiceName) async throws(RegistryError) -> ConsulService {
    try serviceContent(name, try await call(HTTPRequest(.get, servicePath(name, options.readQuery))))
  }

  func servicePath(_ name: ServiceName, _ query: [(String, String?)]) -> String {
    path("/v1/health/service/" + HTTPText.escape(name), query)
  }

  func serviceContent(_ name: ServiceName, _ reply: HTTPReply) throws(RegistryError) -> ConsulService {
    try expectSuccess(reply, "looking up \(name)")
    let content = try parse(reply) { body throws(WireError) in try ConsulService(name, body, tags: &tags) }
    if content.broken > 0 {
      garbage.leftOut(
        name, because: "\(content.broken) of its entries or tags are not as go-micro writes them", count: content.broken
      )
    }
    return content
  }

  // MARK: Calls

  func path(_ path: String, _ query: [(String, String?)]) -> String { path + HTTPText.query(query) }

  func parse<Value>(
    _ reply: HTTPReply, _ read: ([UInt8]) throws(WireError) -> Value
  ) throws(RegistryError) -> Value {
    do throws(WireError) {
      return try read(reply.body)
    } catch {
      throw .unavailable("\(reply.endpoint) does not answer as consul does: \(error.rule)")
    }
  }

  func call(_ request: HTTPRequest) async throws(RegistryError) -> HTTPReply {
    try await call(request, on: client, within: .seconds(Self.callSeconds))
  }

  func call(
    _ request: HTTPRequest, on client: HTTPClient, within: Duration, reader: (any HTTPBodyReader)? = nil
  ) async throws(RegistryError) -> HTTPReply {
    do throws(ConfigurationError) {
      client.headers = try options.headers()
    } catch {
      throw .unavailable(error.message)
    }
    do throws(HTTPFailure) {
      return try await client.call(request, within: within, reader: reader)
    } catch {
      throw .unavailable(error.cause == .cancelled ? "cancelled" : "consul at \(error)")
    }
  }

  func expectSuccess(_ reply: HTTPReply, _ what: String) throws(RegistryError) {
    if reply.isSuccess { return }
    let said = "\(what): consul at \(reply.endpoint) says \(reply.status): \(reply.shortText)"
    switch reply.status {
    case 401, 403:
      throw .refused("\(said); give a token that may do it (option token or token_file, or CONSUL_HTTP_TOKEN)")
    case 408, 429: throw .unavailable(said)
    case 300...499: throw .refused(said)
    default: throw .unavailable(said)
    }
  }

  static func hasNoLeader(_ reply: HTTPReply) -> Bool {
    reply.status == 500 && reply.shortText.lowercased().contains("no cluster leader")
  }
}
