// The one table of services: folds the events of all registries, keeps the last known content of one that is down, and
// tells what changed.
//
//   registry 0 ─▶ RegistryView ─┐
//   registry 1 ─▶ RegistryView ─┼─ merge by service, version and node id ─▶ ServiceEntry ─▶ CatalogDelta ─▶ workers
//   registry 2 ─▶ RegistryView ─┘  (of those reachable the registry configured first wins, then those that are not)
//
// A registry that comes back from an outage without most of a service's nodes has more likely forgotten them than seen them
// all leave. They stay in use until they register again or `keptAfterOutageNanoseconds` are over; those that are gone refuse
// connections, which the selector sees to. Eureka calls the like self-preservation.
//
// Registries are not trusted. An entry that breaks a rule of `RegistryView` is skipped, counted, and logged once.

/// Threading: the control loop only (`Sendable` so that tasks on that loop's executor may hold it).
package final class Catalog: @unchecked Sendable {
  /// Log lines about entries that were skipped, in all; after that they are only counted.
  package static let skipLogLinesMax = 256
  /// How long nodes that a registry forgot stay in use: go-micro's services register every 30 s.
  package static let keptAfterOutageNanoseconds: Int64 = 45_000_000_000

  private struct Source {
    var name: String
    var view: RegistryView
    var phase = RegistryState.Phase.waiting
    /// When the registry last confirmed its content; the start while waiting.
    var confirmed: Instant
    var lastError: String?
    var outages = 0
    var events = 0
    var skipped = SkippedEntries()
    /// Names known only from lookups: the watch has not told of them.
    var unconfirmed: Set<ServiceName> = []
    /// Nodes that it forgot in an outage; nil: none.
    var forgotten: RegistryView?
    var forgottenUntil = Instant.distantFuture

    /// Versions of a service with the nodes it has and those it forgot.
    func versions(of name: ServiceName) -> [String: Service] {
      let known = view[name] ?? [:]
      guard let old = forgotten?[name] else { return known }
      return known.merging(old) { known, old in
        var both = known
        both.nodes += old.nodes
        return both
      }
    }

    var names: Set<ServiceName> { Set(view.names).union(forgotten.map { Set($0.names) } ?? []) }

    /// These are known by the registry itself, or gone from it: they are not kept any more.
    mutating func dropForgotten(_ services: [Service], dirty: inout Set<ServiceName>) {
      guard forgotten != nil else { return }
      for service in services { forgotten?.removeReplaced(by: service, dirty: &dirty) }
      if forgotten?.names.isEmpty == true { forgotten = nil }
    }
  }

  private let limits: RegistryView.Limits
  private var sources: [Source]
  private var entries: [ServiceName: ServiceEntry] = [:]
  private var revision: UInt64 = 0
  private let log: any LogSink
  private let schedule: (@escaping () -> Void) -> Void
  private var isFlushScheduled = false
  private var dirty: Set<ServiceName> = []
  private var loggedSkips: Set<String> = []
  private var feeds: [CatalogFeed] = []
  private var observers: [(CatalogDelta) -> Void] = []
  private var syncObservers: [(Int) -> Void] = []

  /// `registries` are names in the order of configuration. `schedule` runs a closure at the end of the loop's turn
  /// (`driver.later`): changes of one turn become one delta.
  package init(
    registries: [String], now: Instant, limits: RegistryView.Limits = RegistryView.Limits(), log: any LogSink,
    schedule: @escaping (@escaping () -> Void) -> Void
  ) {
    sources = registries.map { Source(name: $0, view: RegistryView(limits: limits), confirmed: now) }
    self.limits = limits
    self.log = log
    self.schedule = schedule
  }

  // MARK: What registries say

  /// One event of the registry at position `registry`. A snapshot ends an outage; what it lacks after one is kept for a
  /// while where the registry may have forgotten it (`Registry.mayForget`).
  package func apply(_ event: RegistryEvent, from registry: Int, mayForget: Bool = true, now: Instant) {
    sources[registry].events += 1
    sources[registry].confirmed = now
    let skips: [RegistryView.Skip]
    switch event {
    case .snapshot(let services):
      let wasStale = sources[registry].phase != .current
      sources[registry].phase = .current
      if wasStale { dirty.formUnion(sources[registry].names) }
      sources[registry].unconfirmed.removeAll()
      let before = wasStale && mayForget ? sources[registry].view : nil
      skips = sources[registry].view.replaceAll(services, dirty: &dirty)
      sources[registry].dropForgotten(services, dirty: &dirty)
      if let before { keep(before.forgotten(by: sources[registry].view), from: registry, now: now) }
      if wasStale {
        for observer in syncObservers { observer(registry) }
      }
    case .upsert(let service):
      sources[registry].unconfirmed.remove(service.name)
      skips = sources[registry].view.upsert(service, dirty: &dirty)
      sources[registry].dropForgotten([service], dirty: &dirty)
    case .remove(let service):
      sources[registry].unconfirmed.remove(service.name)
      sources[registry].view.remove(service, dirty: &dirty)
      sources[registry].dropForgotten([service], dirty: &dirty)
      skips = []
    }
    note(skips, from: registry)
    scheduleFlush()
  }

  private func keep(_ services: [Service], from registry: Int, now: Instant) {
    guard !services.isEmpty else { return }
    var kept = sources[registry].forgotten ?? RegistryView(limits: limits)
    for service in services { _ = kept.upsert(service, dirty: &dirty) }
    sources[registry].forgotten = kept
    sources[registry].forgottenUntil = now.advanced(byNanoseconds: Self.keptAfterOutageNanoseconds)
    let count = services.reduce(0) { $0 + $1.nodes.count }
    log.warning(
      "registry \(sources[registry].name) has forgotten \(count == 1 ? "a node" : "\(count) nodes"): kept until they "
        + "register again, at most \(Self.keptAfterOutageNanoseconds / 1_000_000_000) s")
  }

  /// When the nodes that a registry forgot are to be dropped; nil: it has forgotten none.
  package func forgottenUntil(_ registry: Int) -> Instant? {
    sources[registry].forgotten == nil ? nil : sources[registry].forgottenUntil
  }

  /// Drops what the registry forgot and nobody registered again, once its time is over.
  package func dropForgotten(_ registry: Int, now: Instant) {
    guard let forgotten = sources[registry].forgotten, now >= sources[registry].forgottenUntil else { return }
    dirty.formUnion(forgotten.names)
    sources[registry].forgotten = nil
    scheduleFlush()
  }

  /// The answer to a lookup of `name`: its nodes join, none leaves, because the watch may have told more meanwhile.
  package func applyLookup(_ services: [Service], of name: ServiceName, from registry: Int) {
    let isNew = !sources[registry].view.contains(name)
    for service in services where service.name == name {
      note(sources[registry].view.upsert(service, dirty: &dirty), from: registry)
      sources[registry].dropForgotten([service], dirty: &dirty)
    }
    if isNew, sources[registry].view.contains(name) { sources[registry].unconfirmed.insert(name) }
    scheduleFlush()
  }

  /// Names of a registry that only lookups have found; they must be looked up again now and then (`refresh`).
  package func unconfirmed(_ registry: Int) -> Set<ServiceName> { sources[registry].unconfirmed }

  /// A later answer to a lookup, empty when the service is gone: it replaces the earlier one, unless the watch has told
  /// of the service meanwhile.
  package func refresh(_ services: [Service], of name: ServiceName, from registry: Int) {
    guard sources[registry].unconfirmed.contains(name) else { return }
    sources[registry].unconfirmed.remove(name)
    sources[registry].view.removeAll(name, dirty: &dirty)
    applyLookup(services, of: name, from: registry)
  }

  /// The watch of a registry broke: its content stays in use and is marked stale. True if it was not already so.
  @discardableResult
  package func lost(_ registry: Int, cause: String, now: Instant) -> Bool {
    sources[registry].lastError = cause
    guard sources[registry].phase == .current else {
      if sources[registry].phase == .waiting {
        sources[registry].phase = .stale
        sources[registry].outages += 1
        return true
      }
      return false
    }
    sources[registry].phase = .stale
    sources[registry].confirmed = now
    sources[registry].outages += 1
    dirty.formUnion(sources[registry].names)
    scheduleFlush()
    return true
  }

  /// What a registry said before this process began: in use, and stale, until it answers.
  package func restore(_ services: [Service], from registry: Int, confirmed: Instant) {
    guard sources[registry].phase == .waiting else { return }
    sources[registry].phase = .stale
    sources[registry].confirmed = confirmed
    note(sources[registry].view.replaceAll(services, dirty: &dirty), from: registry)
    scheduleFlush()
  }

  // MARK: What others read

  package var registryNames: [String] { sources.map(\.name) }

  /// The services one registry has, a value for each version.
  package func content(of registry: Int) -> [Service] {
    sources[registry].names.sorted().flatMap { name in
      versions(of: name, in: registry).values.sorted { $0.version < $1.version }
    }
  }
  package func names(of registry: Int) -> [ServiceName] { Array(sources[registry].names) }
  package func versions(of name: ServiceName, in registry: Int) -> [String: Service] {
    sources[registry].versions(of: name)
  }

  package func entry(_ name: ServiceName) -> ServiceEntry? { entries[name] }

  package func phase(of registry: Int) -> RegistryState.Phase { sources[registry].phase }

  package func knows(_ name: ServiceName, registry: Int) -> Bool { sources[registry].view.contains(name) }

  package func snapshot(now: Instant) -> CatalogSnapshot {
    flush()
    return CatalogSnapshot(revision: revision, services: entries, registries: states(now: now))
  }

  /// How each registry is doing, in the order of configuration.
  package func states(now: Instant) -> [RegistryState] {
    sources.map { source in
      RegistryState(
        name: source.name, phase: source.phase,
        age: source.phase == .current ? .zero : now.duration(since: source.confirmed),
        lastError: source.lastError, outages: source.outages, events: source.events, services: source.view.names.count,
        skipped: source.skipped)
    }
  }

  /// Adds a worker: it gets all that is known now, then every change.
  package func add(_ feed: CatalogFeed) {
    flush()
    feeds.append(feed)
    feed.send(CatalogDelta(revision: revision, changed: Array(entries.values)))
  }

  /// `onDelta` hears each delta on the control loop, after the feeds got it; it must not flush.
  package func observe(_ onDelta: @escaping (CatalogDelta) -> Void) { observers.append(onDelta) }
  /// `onSynced` hears the position of a registry that has told its whole content, at first and after an outage.
  package func observeSyncs(_ onSynced: @escaping (Int) -> Void) { syncObservers.append(onSynced) }

  // MARK: Merging

  private func scheduleFlush() {
    guard !dirty.isEmpty, !isFlushScheduled else { return }
    isFlushScheduled = true
    schedule { [weak self] in self?.flush() }
  }

  /// Merges what changed and sends it, without waiting for the end of the turn. Nothing changed: nothing is sent.
  package func flush() {
    isFlushScheduled = false
    guard !dirty.isEmpty else { return }
    let names = dirty
    dirty.removeAll(keepingCapacity: names.count <= 1024)
    var delta = CatalogDelta(revision: revision + 1)
    for name in names {
      let old = entries[name]
      let new = merged(name, old: old, revision: delta.revision)
      if let new {
        guard new !== old else { continue }
        entries[name] = new
        delta.changed.append(new)
      } else if old != nil {
        entries[name] = nil
        delta.removed.append(name)
      }
    }
    guard !delta.isEmpty else { return }
    revision = delta.revision
    for feed in feeds { feed.send(delta) }
    for observer in observers { observer(delta) }
  }

  private struct NodeKey: Hashable {
    var version: String
    var id: String
  }

  /// The entry of `name` over all registries: `old` itself when nothing changed, nil when no registry has a node of it.
  private func merged(_ name: ServiceName, old: ServiceEntry?, revision: UInt64) -> ServiceEntry? {
    var versions: [String: Service] = [:]
    var nodes: [NodeKey: (node: Node, origins: [Int])] = [:]
    // A registry that is reachable knows better than one whose content is old: a node that came back elsewhere.
    let reachable = sources.indices.filter { sources[$0].phase != .stale }
    let stale = sources.indices.filter { sources[$0].phase == .stale }
    let isStale = !reachable.contains { sources[$0].view.contains(name) }
    for index in reachable + stale {
      for (version, service) in sources[index].versions(of: name) {
        if versions[version] == nil {
          versions[version] = Service(
            name: name, version: version, metadata: service.metadata, endpoints: service.endpoints)
        }
        for node in service.nodes {
          nodes[NodeKey(version: version, id: node.id), default: (node, [])].origins.append(index)
        }
      }
    }
    guard !nodes.isEmpty else { return nil }

    let order = nodes.keys.sorted { $0.version == $1.version ? $0.id < $1.id : $0.version < $1.version }
    var services: [Service] = []
    var flat: [CatalogNode] = []
    flat.reserveCapacity(order.count)
    var info: VersionInfo?
    for key in order {
      guard let (node, origins) = nodes[key], let target = DialTarget(node.address) else { continue }
      if info?.version != key.version, let service = versions[key.version] {
        services.append(service)
        info = VersionInfo(
          service: name, version: key.version, metadata: service.metadata, endpoints: service.endpoints)
      }
      guard let info else { continue }
      services[services.count - 1].nodes.append(node)
      flat.append(CatalogNode(node: node, version: info, target: target, origins: origins))
    }
    guard !flat.isEmpty else { return nil }
    if let old, old.versions == services, old.nodes.elementsEqual(flat, by: { $0.origins == $1.origins }) {
      return old.isStale == isStale ? old : ServiceEntry(old, isStale: isStale)
    }
    return ServiceEntry(name: name, revision: revision, versions: services, nodes: flat, isStale: isStale)
  }

  // MARK: Skipped entries

  private func note(_ skips: [RegistryView.Skip], from registry: Int) {
    for skip in skips {
      if skip.isFull { sources[registry].skipped.asFull += 1 } else { sources[registry].skipped.asGarbage += 1 }
      let key = "\(registry) \(skip.subject) \(skip.rule)"
      guard loggedSkips.count < Self.skipLogLinesMax, loggedSkips.insert(key).inserted else { continue }
      log.warning(
        "registry entry skipped: \(skip.rule)", [("registry", sources[registry].name), ("entry", skip.subject)])
      if loggedSkips.count == Self.skipLogLinesMax {
        log.warning("further registry entries that are skipped will only be counted")
      }
    }
  }
}
