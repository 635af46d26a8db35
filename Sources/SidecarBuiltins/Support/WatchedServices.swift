// What a registry is known to hold, for registries that are told of changes or ask again: changes are folded in, and every
// watch hears of what really changed.
//
//   outage (the last content stays) ── inSync ──▶ in sync ── lost ──▶ outage
//
// Watches stand only while in sync: an outage ends them with its cause, and one begun during an outage waits for its end.
// The first failure after the start ends those that wait, so that it is told; later ones say nothing new.

import SidecarCore

/// Threading: the control loop only (`Sendable` so that watching tasks may hold it).
final class WatchedServices: @unchecked Sendable {
  /// Nodes of all services; further ones are dropped and counted.
  static let nodesMax = 100_000
  /// How long a watch waits for the end of an outage before it says again what is wrong.
  static let outageNanoseconds: Int64 = 25_000_000_000

  private struct Version {
    var metadata: [String: String]
    var endpoints: [Endpoint]
    var nodes: [String: Node] = [:]
  }

  private let driver: any Driver
  private let hub: WatchHub
  private var services: [ServiceName: [String: Version]] = [:]
  /// Which version each node of a service is of: a node is of one.
  private var placed: [ServiceName: [String: String]] = [:]
  private(set) var nodeCount = 0
  /// Nodes that did not fit.
  private(set) var droppedCount = 0
  /// Why the content may be old; nil while it is in sync.
  private(set) var outage: RegistryError?
  private var isFresh = true
  private var waiting: [ObjectIdentifier: LoopGate] = [:]

  /// Begins in an outage that `cause` describes: nothing is known yet.
  init(driver: any Driver, cause: String) {
    self.driver = driver
    outage = .unavailable(cause)
    hub = WatchHub(mailbox: driver.mailbox)
    hub.content = { [unowned self] in all }
  }

  // MARK: Reading

  var names: [ServiceName] { services.keys.sorted() }
  var all: [Service] { names.flatMap { self[$0] } }
  func contains(_ name: ServiceName) -> Bool { services[name] != nil }
  func node(_ id: String, of name: ServiceName) -> Node? {
    placed[name]?[id].flatMap { services[name]?[$0]?.nodes[id] }
  }

  /// What the nodes of a version share.
  func shared(_ name: ServiceName, _ version: String) -> (metadata: [String: String], endpoints: [Endpoint])? {
    services[name]?[version].map { ($0.metadata, $0.endpoints) }
  }

  /// The versions of a service, sorted; empty when there is none.
  subscript(name: ServiceName) -> [Service] {
    (services[name] ?? [:]).sorted { $0.key < $1.key }.map { version, held in
      Service(
        name: name, version: version, metadata: held.metadata, endpoints: held.endpoints,
        nodes: held.nodes.values.sorted { $0.id < $1.id })
    }
  }

  /// The body of `Registry.watch`.
  func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    try await whenInSync(until: driver.now.advanced(byNanoseconds: Self.outageNanoseconds), isWatch: true)
    try await hub.watch(scope, onEvent: onEvent)
  }

  /// Waits for the end of an outage; `.unavailable` with the outage's cause at the deadline.
  func whenInSync(until deadline: Instant, isWatch: Bool = false) async throws(RegistryError) {
    while outage != nil {
      let wasFresh = isFresh
      let gate = LoopGate(driver: driver)
      waiting[ObjectIdentifier(gate)] = gate
      let wake = await gate.wait(until: deadline)
      waiting[ObjectIdentifier(gate)] = nil
      if wake == .cancelled { throw .unavailable("cancelled") }
      if let outage, wake == .timedOut || (isWatch && wasFresh) { throw outage }
    }
  }

  // MARK: Changing

  /// The content is up to date from here on.
  func inSync() {
    guard outage != nil else { return }
    outage = nil
    isFresh = false
    for gate in waiting.values { gate.open() }
  }

  /// The content may be old from here on. Another cause replaces the first.
  func lost(_ cause: RegistryError) {
    let isNew = outage == nil
    outage = cause
    if isNew { hub.fail(cause) }
    guard isFresh else { return }
    isFresh = false
    for gate in waiting.values { gate.open() }
  }

  /// Each node replaces the one of its id, in whatever version that was.
  func put(_ service: Service) {
    var changed = service
    changed.nodes = []
    let known = services[service.name]?[service.version]
    let isSame = known?.metadata == service.metadata && known?.endpoints == service.endpoints
    for node in service.nodes {
      if let old = placed[service.name]?[node.id] {
        if old == service.version, isSame, known?.nodes[node.id] == node { continue }
        if old != service.version {
          remove(Service(name: service.name, version: old, nodes: [node]))
          nodeCount += 1
        }
      } else if nodeCount >= Self.nodesMax {
        droppedCount += 1
        continue
      } else {
        nodeCount += 1
      }
      placed[service.name, default: [:]][node.id] = service.version
      changed.nodes.append(node)
    }
    guard !changed.nodes.isEmpty else { return }
    var version = services[service.name]?[service.version] ?? Version(metadata: [:], endpoints: [])
    version.metadata = service.metadata
    version.endpoints = service.endpoints
    for node in changed.nodes { version.nodes[node.id] = node }
    services[service.name, default: [:]][service.version] = version
    if outage == nil { hub.publish(.upsert(changed)) }
  }

  /// Removes the nodes of these ids, whatever version they are of.
  func remove(_ ids: some Sequence<String>, of name: ServiceName) {
    var leaving: [String: [Node]] = [:]
    for id in ids {
      if let version = placed[name]?[id], let node = services[name]?[version]?.nodes[id] {
        leaving[version, default: []].append(node)
      }
    }
    for (version, nodes) in leaving { remove(Service(name: name, version: version, nodes: nodes)) }
  }

  /// What is not in `new` leaves, what is there joins.
  func replace(_ name: ServiceName, with new: [Service]) {
    let staying = Set(new.lazy.flatMap(\.nodes).map(\.id))
    remove((placed[name] ?? [:]).keys.filter { !staying.contains($0) }, of: name)
    for service in new where service.name == name { put(service) }
  }

  func replaceAll(with new: [Service]) {
    let groups = Dictionary(grouping: new, by: \.name)
    for name in names { replace(name, with: groups[name] ?? []) }
    for (name, group) in groups where services[name] == nil { replace(name, with: group) }
  }

  private func remove(_ service: Service) {
    guard var version = services[service.name]?[service.version] else { return }
    for node in service.nodes where version.nodes.removeValue(forKey: node.id) != nil {
      placed[service.name]?[node.id] = nil
      nodeCount -= 1
    }
    var leaving = service
    leaving.metadata = version.metadata
    leaving.endpoints = version.endpoints
    services[service.name]?[service.version] = version.nodes.isEmpty ? nil : version
    if services[service.name]?.isEmpty == true {
      services[service.name] = nil
      placed[service.name] = nil
    }
    if outage == nil { hub.publish(.remove(leaving)) }
  }
}
