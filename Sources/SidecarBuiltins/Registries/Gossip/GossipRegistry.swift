// The `gossip` registry: no server, every process is a member of a memberlist cluster and keeps all of it
// (go-micro registry/gossip, three generations: see `GossipUpdate`).
//
//   gossip:10.0.0.5:7946+10.0.0.6?bind=0.0.0.0:7946&generation=v3
//
// Whoever registers tells all members at once, and again with each renewal. A member that is new is told of our entries
// directly, since others pass nothing on. One that joins through us gets all that we have from its owners, as from a member
// of go-micro; what we know from joins alone goes no further, or it would never end. An entry ends when it was not renewed in time; one that came with a join, where
// go-micro sends no times, ends after ten minutes unless somebody names it again. While no other member can be reached the
// last content stays.

import SidecarCore

/// Threading: the loop of its environment, as all registries.
public final class GossipRegistry: Registry, @unchecked Sendable {
  /// Our own nodes; one more is refused.
  static let ownMax = 20_000
  /// How long an entry without times is believed, and how often such entries are asked for again.
  static let untimedNanoseconds: Int64 = 600_000_000_000
  static let pullNanoseconds: Int64 = 240_000_000_000
  /// How long a deletion is remembered: what is older may still be on its way.
  static let removedNanoseconds: Int64 = 30_000_000_000
  static let removedMax = 10_000

  /// Updates told within so long; further ones wait.
  static let burstMax = 128
  static let burstNanoseconds: Int64 = 10_000_000

  private struct Key: Hashable {
    var service: ServiceName
    var id: String
  }

  private struct Own {
    var service: Service
    /// By the wall clock, in nanoseconds; nil: never.
    var expires: Int64?
  }

  public let name = "gossip"
  private let driver: any HostDriver
  private let options: GossipOptions
  private let content: WatchedServices
  private let garbage: GarbageLog
  private var sockets: GossipSockets?
  private var own: [Key: Own] = [:]
  /// When entries of others end, by the wall clock.
  private var expiry: [Key: Int64] = [:]
  /// Entries known from a join only.
  private var untimed: Set<Key> = []
  private var removed: [Key: (expires: Int64, forget: Int64)] = [:]
  private var timer: LoopTimer?
  private var burstStart = Instant(nanoseconds: 0)
  private var burstCount = 0
  private var nextPull = Instant(nanoseconds: 0)

  public init(environment: PluginEnvironment) throws(ConfigurationError) {
    driver = environment.driver
    options = try GossipOptions(environment)
    content = WatchedServices(driver: driver, cause: "gossip: no member of the cluster has answered yet")
    garbage = GarbageLog(registry: "gossip", log: environment.log)
  }

  deinit { timer?.cancel() }

  public var skipped: SkippedEntries { garbage.skipped(with: content) }

  // MARK: The registry

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    try start()
    guard RegistryView.isValid(name: service.name) else { throw .invalid("gossip: a service's name is missing or odd") }
    guard own.count + service.nodes.count <= Self.ownMax else {
      throw .refused("gossip: more than \(Self.ownMax) nodes of one sidecar")
    }
    let now = driver.unixNanoseconds
    let expires = ttl.map { now.addingReportingOverflow($0.saturatingNanoseconds) }.map {
      $0.overflow ? .max : $0.partialValue
    }
    for node in service.nodes {
      await pace()
      var single = service
      single.nodes = [node]
      let key = Key(service: service.name, id: node.id)
      if let old = own[key], old.service.version != service.version {
        tell(GossipUpdate(action: .remove, service: old.service), about: key)
      }
      own[key] = Own(service: single, expires: expires)
      expiry[key] = nil
      tell(GossipUpdate(action: .add, service: single, expires: expires), about: key)
    }
    content.put(service)
  }

  public func deregister(_ service: Service) async throws(RegistryError) {
    try start()
    for node in service.nodes {
      await pace()
      var single = service
      single.nodes = [node]
      let key = Key(service: service.name, id: node.id)
      own[key] = nil
      expiry[key] = nil
      tell(GossipUpdate(action: .remove, service: single), about: key)
    }
    content.remove(service.nodes.map(\.id), of: service.name)
  }

  public func release(_ service: Service) {
    for node in service.nodes { own[Key(service: service.name, id: node.id)] = nil }
  }

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    try start()
    if content.contains(name) { return content[name] }
    if let outage = content.outage { throw outage }
    throw .notFound(name)
  }

  public func list() async throws(RegistryError) -> [ServiceName] {
    try start()
    if content.names.isEmpty, let outage = content.outage { throw outage }
    return content.names
  }

  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    try start()
    try await content.watch(scope, onEvent: onEvent)
  }

  /// Others need not suspect us first.
  public func close() { sockets?.leave() }

  /// Where other members reach us; nil before the first use.
  var address: SocketAddress? { sockets?.machine.own.address }

  var hasPeers: Bool { !options.peers.isEmpty }

  /// How many other members are found, waiting for the first.
  func members(within nanoseconds: Int64) async -> Int {
    let deadline = driver.now.advanced(byNanoseconds: nanoseconds)
    guard (try? start()) != nil else { return 0 }
    while hasPeers, sockets?.machine.isAlone != false, driver.now < deadline, !Task.isCancelled {
      await driver.pause(nanoseconds: 50_000_000)
    }
    return sockets?.machine.others.count ?? 0
  }

  // MARK: The cluster

  private func start() throws(RegistryError) {
    guard sockets == nil else { return }
    do throws(DriverError) {
      let sockets = try GossipSockets(options: options, driver: driver)
      self.sockets = sockets
      sockets.onUser = { [weak self] in self?.heard($0) }
      sockets.onState = { [weak self] in self?.merged($0) }
      sockets.onJoined = { [weak self] in self?.greet($0) }
      sockets.onGone = { [weak self] in self?.gone($0) }
      sockets.localState = { [weak self] in
        guard let self else { return [] }
        return GossipUpdate.state(firstHand, addressForm: options.addressForm)
      }
      sockets.onReachable = { [weak self] cause in
        guard let self else { return }
        if let cause { content.lost(.unavailable("gossip: \(cause)")) } else { content.inSync() }
      }
      sockets.start()
      if options.peers.isEmpty { content.inSync() }
    } catch {
      throw .unavailable("gossip: \(options.bind) cannot be bound: \(error.message)")
    }
    let timer = LoopTimer { [weak self] in self?.look() }
    self.timer = timer
    nextPull = driver.now.advanced(byNanoseconds: Self.pullNanoseconds)
    driver.timers.arm(timer, after: 500_000_000, from: driver.now)
  }

  /// Our entries, and those that their owners told us of.
  private var firstHand: [Service] {
    content.all.compactMap { service in
      var service = service
      service.nodes.removeAll { untimed.contains(Key(service: service.name, id: $0.id)) }
      return service.nodes.isEmpty ? nil : service
    }
  }

  /// Holds back a writer of thousands of entries: everybody's receive buffers are small.
  private func pace() async {
    while driver.now.nanoseconds(since: burstStart) < Self.burstNanoseconds {
      if burstCount < Self.burstMax {
        burstCount += 1
        return
      }
      await driver.pause(nanoseconds: Self.burstNanoseconds)
      if Task.isCancelled { return }
    }
    burstStart = driver.now
    burstCount = 1
  }

  /// A removal needs the node's id only, and fits a datagram: the process may end right after.
  private func tell(_ update: GossipUpdate, about key: Key) {
    var update = update
    if update.action == .remove {
      update.service.endpoints = []
      update.service.metadata = [:]
    }
    let bytes = update.bytes(options.generation, now: driver.unixNanoseconds, addressForm: options.addressForm)
    sockets?.tell(bytes, about: Self.subject(key))
  }

  private static func subject(_ key: Key) -> String { "\(key.service)\u{0}\(key.id)" }

  /// A new member hears of our entries from us.
  private func greet(_ member: Memberlist.Member) {
    let now = driver.unixNanoseconds
    for entry in own.values {
      let update = GossipUpdate(action: .add, service: entry.service, expires: entry.expires)
      sockets?.send(
        user: update.bytes(options.generation, now: now, addressForm: options.addressForm), to: member.address)
    }
  }

  /// The nodes of a host on which no member lives any more are gone with it.
  private func gone(_ member: Memberlist.Member) {
    guard let sockets else { return }
    let living = Set((sockets.machine.others + [sockets.machine.own]).map(\.address.host))
    let host = member.address.host
    guard !living.contains(host), content.outage == nil else { return }
    for service in content.all {
      let ids = service.nodes.filter { node in
        own[Key(service: service.name, id: node.id)] == nil
          && SocketAddress.splitHostPort(node.address)?.host == host
      }.map(\.id)
      content.remove(ids, of: service.name)
    }
  }

  // MARK: What others say

  private func heard(_ payload: [UInt8]) {
    let updates: [GossipUpdate]
    do throws(WireError) {
      updates = try GossipUpdate.read(payload)
    } catch {
      return garbage.leftOut("an update", because: error.rule)
    }
    for update in updates {
      // A removal that is new to us may be new to others: who told it may have left since, and knew perhaps not all.
      if let key = apply(update) {
        let bytes =
          updates.count == 1
          ? payload : update.bytes(options.generation, now: driver.unixNanoseconds, addressForm: options.addressForm)
        sockets?.relay(bytes, about: Self.subject(key))
      }
    }
  }

  /// Gives the first of the nodes that were there and are not any more.
  private func apply(_ update: GossipUpdate) -> Key? {
    let now = driver.unixNanoseconds
    var service = update.service
    switch update.action {
    case .remove:
      // A service without nodes loses all of its version.
      if service.nodes.isEmpty {
        service.nodes = content[service.name].filter { $0.version == service.version }.flatMap(\.nodes)
      }
      let keys = service.nodes.map { Key(service: service.name, id: $0.id) }.filter { own[$0] == nil }
      let known = keys.first { content.node($0.id, of: $0.service) != nil }
      for key in keys {
        if removed.count < Self.removedMax {
          removed[key] = (expiry[key] ?? 0, now + Self.removedNanoseconds)
        }
        expiry[key] = nil
        untimed.remove(key)
      }
      content.remove(keys.map(\.id), of: service.name)
      return known
    case .add:
      if let expires = update.expires, expires <= now { return nil }
      service.nodes.removeAll { node in
        let key = Key(service: service.name, id: node.id)
        if own[key] != nil { return true }
        // Overtaken by a deletion, or by a later renewal.
        guard let expires = update.expires else { return false }
        if let old = removed[key], expires <= old.expires { return true }
        if !untimed.contains(key), let old = expiry[key], expires < old, content.node(node.id, of: service.name) != nil
        {
          return true
        }
        return false
      }
      for node in service.nodes {
        let key = Key(service: service.name, id: node.id)
        removed[key] = nil
        untimed.remove(key)
        expiry[key] = update.expires
        sockets?.takeBack(about: Self.subject(key))
      }
      content.put(service)
      return nil
    }
  }

  /// What a join brought: nodes we do not know yet, and those that have no times.
  private func merged(_ bytes: [UInt8]) {
    let services: [Service]
    do throws(WireError) {
      services = try GossipUpdate.readState(bytes) { garbage.leftOut($0, because: $1) }
    } catch {
      return garbage.leftOut("the state of a member", because: error.rule)
    }
    let now = driver.unixNanoseconds
    for var service in services {
      service.nodes.removeAll { node in
        let key = Key(service: service.name, id: node.id)
        return own[key] != nil || removed[key] != nil
      }
      let end = now.addingReportingOverflow(Self.untimedNanoseconds).partialValue
      var new = service
      new.nodes = []
      for node in service.nodes {
        let key = Key(service: service.name, id: node.id)
        if content.node(node.id, of: service.name) == nil {
          new.nodes.append(node)
          expiry[key] = end
          untimed.insert(key)
        } else if untimed.contains(key) {
          expiry[key] = end
        }
      }
      content.put(new)
    }
  }

  // MARK: What has ended

  private func look() {
    if let timer { driver.timers.arm(timer, after: 500_000_000, from: driver.now) }
    let now = driver.unixNanoseconds
    for (key, entry) in own {
      guard let expires = entry.expires, expires <= now else { continue }
      own[key] = nil
      tell(GossipUpdate(action: .remove, service: entry.service), about: key)
      content.remove([key.id], of: key.service)
    }
    removed = removed.filter { $0.value.forget > now }
    guard content.outage == nil else { return }
    for (key, expires) in expiry where expires <= now {
      expiry[key] = nil
      untimed.remove(key)
      content.remove([key.id], of: key.service)
    }
    if nextPull <= driver.now {
      nextPull = driver.now.advanced(byNanoseconds: Self.pullNanoseconds)
      sockets?.pull()
    }
  }
}
