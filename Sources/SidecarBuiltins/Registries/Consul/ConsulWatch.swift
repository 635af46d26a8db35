// Watching Consul, with few connections: an agent takes 200 from one address, and every sidecar and every go-micro process
// of a host shares them. So all services are watched by two queries that wait for a change,
//
//   /v1/catalog/services     names and tags      ─┐
//   /v1/health/state/any     every check's index ─┴▶ which services changed ──▶ /v1/health/service/NAME for each
//
// instead of one for each service. What both do not show is an entry written again with other values but equal tags and
// the same check: the catalog's index moves and nothing explains it. Then all services are looked up, at a rate that
// keeps it to a tenth of the time. One service by itself is watched by one query.
//
// The index rules of Consul's documentation: an index that went backwards, or is 0, starts the query anew.

import SidecarCore

/// One watch. Threading: the loop of its registry.
final class ConsulWatch: @unchecked Sendable {
  /// Seconds a query may wait for a change, before jitter.
  static let waitSeconds = 30
  /// Look-ups at once.
  static let lookupsAtOnce = 16
  /// Nanoseconds of rest for each byte of a reply: 3 MB are not asked for more than six times a second.
  static let restPerByte: Int64 = 50
  /// Services up to which all may be looked up after any change, as that is cheap.
  static let fewServices = 32
  /// Nanoseconds for the checks of many services to show what changed, before all are looked up.
  static let graceNanoseconds: Int64 = 3_000_000_000
  /// Nanoseconds until all of many services are looked up although the changes seem explained.
  static let sweepNanoseconds: Int64 = 60_000_000_000

  typealias Handler = @Sendable (RegistryEvent) async -> Void

  /// What one query waits for.
  private final class Query: @unchecked Sendable {
    let path: String
    var index: UInt64 = 0
    /// Set when the server started to count anew.
    var wasReset = false
    /// Nanoseconds to let the server rest before it is asked again.
    var rest: Int64 = 0
    init(_ path: String) { self.path = path }
  }

  private let registry: ConsulRegistry
  private let onEvent: Handler
  private let gate: LoopGate
  private let catalogQuery = Query("/v1/catalog/services")
  private let healthQuery = Query("/v1/health/state/any")
  private var failure: RegistryError?
  private var catalog: [ServiceName: UInt64] = [:]
  /// Nil until it has come for the first time.
  private var health: ConsulHealth?
  private var held: [ServiceName: ConsulService] = [:]
  /// All services have been looked up once.
  private var isLoaded = false
  private var dirty: Set<ServiceName> = []
  /// The catalog's index that the services held explain.
  private var explained: UInt64 = 0
  private var hasVanished = false
  private var sweepDue = Instant.distantFuture
  private var sweepEnded = Instant(nanoseconds: 0)
  private var sweepTook: Int64 = 0

  init(_ registry: ConsulRegistry, _ onEvent: @escaping Handler) {
    self.registry = registry
    self.onEvent = onEvent
    gate = LoopGate(driver: registry.driver)
  }

  private var driver: any HostDriver { registry.driver }

  // MARK: One service

  func run(_ name: ServiceName) async throws(RegistryError) {
    let query = Query("/v1/health/service/" + HTTPText.escape(name))
    var versions: [Service]?
    while true {
      let reply = try await ask(query)
      let new = try registry.serviceContent(name, reply).versions
      if let versions {
        for event in ServiceChanges.events(from: versions, to: new) { await onEvent(event) }
      } else {
        await onEvent(.snapshot(new))
      }
      versions = new
      query.rest = Self.rest(after: reply, byteCount: reply.body.count)
    }
  }

  // MARK: All services

  func run() async throws(RegistryError) {
    // The checks of many services are megabytes: they come while the services are looked up.
    var tasks = [poll { [self] () async throws(RegistryError) in try await takeHealth() }]
    defer { for task in tasks { task.cancel() } }
    try await takeCatalog()
    dirty = Set(catalog.keys)
    _ = try await lookUpDirty()
    isLoaded = true
    if let health { compare(with: health) }
    await onEvent(.snapshot(held.values.flatMap(\.versions)))
    tasks.append(poll { [self] () async throws(RegistryError) in try await takeCatalog() })
    while true {
      try await step()
      switch await gate.wait(until: sweepDue) {
      case .opened, .timedOut: break
      case .cancelled: throw .unavailable("cancelled")
      }
    }
  }

  /// Repeats `take` until it fails, which ends the watch.
  private func poll(_ take: @escaping @Sendable () async throws(RegistryError) -> Void) -> Task<Void, Never> {
    startTask(on: driver) { [self] in
      do throws(RegistryError) {
        while true {
          try await take()
          gate.open()
        }
      } catch {
        failure = error
        gate.open()
      }
    }
  }

  /// Looks up what changed and tells of it.
  private func step() async throws(RegistryError) {
    if let failure { throw failure }
    if sweepDue <= driver.now { sweep() }
    let begun = driver.now
    let count = dirty.count
    let events = try await lookUpDirty()
    if count > Self.fewServices { sweepTook = driver.now.nanoseconds(since: begun) }
    for event in events { await onEvent(event) }
    planSweep()
  }

  /// All are looked up when something was written that no change of a name, a tag or a check shows. The few are looked up
  /// after every change.
  private func planSweep() {
    guard catalogQuery.index > explained else { return }
    let isFew = catalog.count <= Self.fewServices
    let soonest = max(driver.now, sweepEnded.advanced(byNanoseconds: sweepTook * 9))
    if hasVanished || held.values.contains(where: { $0.modifyIndex >= catalogQuery.index }) {
      explained = catalogQuery.index
      hasVanished = false
      sweepDue = isFew ? soonest : driver.now.advanced(byNanoseconds: Self.sweepNanoseconds)
    } else {
      sweepDue = min(sweepDue, isFew ? soonest : soonest.advanced(byNanoseconds: Self.graceNanoseconds))
    }
    if sweepDue <= driver.now { gate.open() }
  }

  private func sweep() {
    dirty.formUnion(catalog.keys)
    explained = catalogQuery.index
    sweepDue = .distantFuture
    sweepEnded = driver.now
  }

  private func takeCatalog() async throws(RegistryError) {
    let new = try await overview(catalogQuery, ConsulCatalog.self).services
    for (name, mark) in new where catalog[name] != mark { dirty.insert(name) }
    for name in catalog.keys where new[name] == nil {
      dirty.insert(name)
      hasVanished = true
    }
    catalog = new
    if catalogQuery.wasReset { startAnew(catalogQuery) }
  }

  private func takeHealth() async throws(RegistryError) {
    let new = try await overview(healthQuery, ConsulHealth.self)
    defer { self.health = new }
    guard let health else {
      if isLoaded { compare(with: new) }
      return
    }
    for (name, mark) in new.services where health.services[name] != mark { dirty.insert(name) }
    for (name, mark) in health.services where new.services[name]?.count ?? 0 < mark.count {
      dirty.insert(name)
      hasVanished = true
    }
    let agents = Set(new.agents.keys).union(health.agents.keys).filter { new.agents[$0] != health.agents[$0] }
    if !agents.isEmpty {
      for (name, service) in held where !service.agents.isDisjoint(with: agents) { dirty.insert(name) }
    }
    if healthQuery.wasReset { startAnew(healthQuery) }
  }

  /// The first health beside what was looked up at the same time: what differs changed in between.
  private func compare(with health: ConsulHealth) {
    for (name, service) in held where !service.agrees(with: health, name) { dirty.insert(name) }
    // Without a node whose checks were seen: all gone, or not there yet.
    for name in health.services.keys where held[name] == nil { dirty.insert(name) }
  }

  /// Old and new indices say nothing about each other.
  private func startAnew(_ query: Query) {
    query.wasReset = false
    sweep()
  }

  private func lookUpDirty() async throws(RegistryError) -> [RegistryEvent] {
    var names = Array(dirty)
    dirty.removeAll()
    guard !names.isEmpty else { return [] }
    let events = Events()
    // What is gone needs no question.
    names.removeAll { name in
      guard catalog[name] == nil else { return false }
      if let old = held.removeValue(forKey: name) { events.list += ServiceChanges.events(from: old.versions, to: []) }
      return true
    }
    let queue = Events()
    queue.names = names
    let registry = registry
    await withTaskGroup(of: Void.self) { group in
      for _ in 0..<min(Self.lookupsAtOnce, names.count) {
        group.addTask { [self] in
          while let name = queue.names.popLast(), events.failure == nil {
            do throws(RegistryError) {
              let new = try await registry.service(name)
              let old = held[name]?.versions ?? []
              held[name] = new
              events.list += ServiceChanges.events(from: old, to: new.versions)
            } catch {
              // A name that Consul cannot be asked for, such as `..`, must not hide the others.
              if case .refused(let why) = error {
                registry.garbage.leftOut(name, because: why)
              } else {
                events.failure = error
              }
            }
          }
        }
      }
    }
    if let failure = events.failure { throw failure }
    return events.list
  }

  /// What look-ups share. Touched on the loop only.
  private final class Events: @unchecked Sendable {
    var names: [ServiceName] = []
    var list: [RegistryEvent] = []
    var failure: RegistryError?
  }

  // MARK: Queries that wait

  private func overview<Overview: ConsulOverview>(
    _ query: Query, _: Overview.Type
  ) async throws(RegistryError) -> Overview {
    let reader = ConsulOverviewReader<Overview>()
    let reply = try await ask(query, reader)
    query.rest = Self.rest(after: reply, byteCount: reader.byteCount)
    return try registry.parse(reply) { _ throws(WireError) in try reader.finish() }
  }

  /// Asks at once the first time, later waits for a change.
  private func ask(_ query: Query, _ reader: (any HTTPBodyReader)? = nil) async throws(RegistryError) -> HTTPReply {
    var parameters = registry.options.readQuery
    var within = ConsulRegistry.callSeconds
    // Less than a tick of the timers is nothing to wait for.
    if query.rest >= 1_000_000 { await driver.pause(nanoseconds: query.rest) }
    if query.index > 0 {
      // Waits that began together must not end together.
      let wait = Self.waitSeconds * 1000 * 9 / 10 + driver.random.below(Self.waitSeconds * 200)
      parameters += [("index", "\(query.index)"), ("wait", "\(wait)ms")]
      // Consul adds a sixteenth of its own.
      within += Int64(wait / 1000 * 17 / 16)
    }
    let reply = try await registry.call(
      HTTPRequest(.get, registry.path(query.path, parameters)), on: registry.waitingClient, within: .seconds(within),
      reader: reader)
    try registry.expectSuccess(reply, "watching \(query.path)")
    let index = reply.header("x-consul-index").flatMap { UInt64($0) } ?? 0
    if index < query.index { query.wasReset = true }
    query.index = index < query.index ? 0 : index
    return reply
  }

  private static func rest(after reply: HTTPReply, byteCount: Int) -> Int64 {
    // A server that tells no index would be asked without end.
    max(Int64(byteCount) * restPerByte, reply.header("x-consul-index") == nil ? 1_000_000_000 : 0)
  }
}

extension ConsulRegistry {
  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    let watch = ConsulWatch(self, onEvent)
    switch scope {
    case .all: try await watch.run()
    case .service(let name): try await watch.run(name)
    }
  }
}
