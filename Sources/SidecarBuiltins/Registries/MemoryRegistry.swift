// A registry inside the process (go-micro registry/memory.go), for tests and for several apps behind one sidecar. Unlike
// go-micro's it drops no event when a watcher is slow: see `WatchHub`.

import SidecarCore

/// Threading: the loop of its environment, as all registries. Copies of the reference share the content.
public final class MemoryRegistry: Registry, @unchecked Sendable {
  /// Nodes held, over all services; one more is refused.
  public static let nodesMax = 100_000
  /// Nanoseconds between two searches for what has expired: an entry may live that much longer.
  static let pruneNanoseconds: Int64 = 100_000_000

  private struct Key: Hashable {
    var name: ServiceName
    var version: String
  }

  private struct Held {
    var node: Node
    var expires: Instant
  }

  private struct Version {
    var metadata: [String: String]
    var endpoints: [Endpoint]
    var nodes: [String: Held] = [:]
  }

  public let name: String
  private let driver: any Driver
  private let hub: WatchHub
  private var services: [Key: Version] = [:]
  /// Versions of each name.
  private var versions: [ServiceName: Set<String>] = [:]
  private var nodeCount = 0
  private var timer: LoopTimer?
  private var timerDue = Instant.distantFuture

  public init(environment: PluginEnvironment) {
    name = environment.argument.map { "memory:" + $0 } ?? "memory"
    driver = environment.driver
    hub = WatchHub(mailbox: environment.driver.mailbox)
    hub.content = { [unowned self] in all() }
  }

  deinit { timer?.cancel() }

  public var keepsEntries: Bool { false }

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    guard !service.name.isEmpty else { throw .invalid("a service needs a name") }
    let key = Key(name: service.name, version: service.version)
    let new = service.nodes.count { services[key]?.nodes[$0.id] == nil }
    guard nodeCount + new <= Self.nodesMax else {
      throw .refused("the memory registry holds at most \(Self.nodesMax) nodes")
    }
    let expires = ttl.map { driver.now.advanced(by: $0) } ?? .distantFuture
    var version = services[key] ?? Version(metadata: service.metadata, endpoints: service.endpoints)
    var changed = service
    changed.nodes = service.nodes.filter { version.nodes[$0.id]?.node != $0 }
    if version.metadata != service.metadata || version.endpoints != service.endpoints {
      version.metadata = service.metadata
      version.endpoints = service.endpoints
      changed.nodes = service.nodes
    }
    for node in service.nodes {
      if version.nodes.updateValue(Held(node: node, expires: expires), forKey: node.id) == nil { nodeCount += 1 }
    }
    guard !version.nodes.isEmpty else { return }
    services[key] = version
    versions[service.name, default: []].insert(service.version)
    if expires < timerDue { arm(expires) }
    if !changed.nodes.isEmpty { hub.publish(.upsert(changed)) }
  }

  public func deregister(_ service: Service) async throws(RegistryError) {
    remove(Key(name: service.name, version: service.version)) { held in
      service.nodes.contains { $0.id == held.node.id }
    }
  }

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    let found = (versions[name] ?? []).sorted().compactMap { service(Key(name: name, version: $0)) }
    if found.isEmpty { throw .notFound(name) }
    return found
  }

  public func list() async throws(RegistryError) -> [ServiceName] { versions.keys.sorted() }

  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    try await hub.watch(scope, onEvent: onEvent)
  }

  private func service(_ key: Key) -> Service? {
    services[key].map { version in
      Service(
        name: key.name, version: key.version, metadata: version.metadata, endpoints: version.endpoints,
        nodes: version.nodes.values.map(\.node).sorted { $0.id < $1.id })
    }
  }

  private func all() -> [Service] {
    services.keys.sorted { ($0.name, $0.version) < ($1.name, $1.version) }.compactMap(service)
  }

  private func remove(_ key: Key, where isLeaving: (Held) -> Bool) {
    guard var version = services[key] else { return }
    let leaving = version.nodes.values.filter(isLeaving).map(\.node)
    guard !leaving.isEmpty else { return }
    for node in leaving { version.nodes[node.id] = nil }
    nodeCount -= leaving.count
    if version.nodes.isEmpty {
      services[key] = nil
      versions[key.name]?.remove(key.version)
      if versions[key.name]?.isEmpty == true { versions[key.name] = nil }
    } else {
      services[key] = version
    }
    hub.publish(
      .remove(
        Service(
          name: key.name, version: key.version, metadata: version.metadata, endpoints: version.endpoints,
          nodes: leaving.sorted { $0.id < $1.id })))
  }

  private func arm(_ due: Instant) {
    let timer = timer ?? LoopTimer { [unowned self] in prune() }
    self.timer = timer
    timerDue = due
    driver.timers.arm(timer, at: due)
  }

  /// Removes what was not renewed in time and waits for the next to end.
  private func prune() {
    let now = driver.now
    timerDue = .distantFuture
    for key in services.keys.sorted(by: { ($0.name, $0.version) < ($1.name, $1.version) }) {
      remove(key) { $0.expires <= now }
    }
    let next = services.values.lazy.flatMap(\.nodes.values).map(\.expires).min() ?? .distantFuture
    if next < .distantFuture { arm(max(next, now.advanced(byNanoseconds: Self.pruneNanoseconds))) }
  }
}
