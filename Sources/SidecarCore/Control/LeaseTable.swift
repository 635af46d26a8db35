// The registrations others asked for through the registry API: one lease for each node, kept until its ttl passes without
// renewal, it is deleted, or the sidecar stops.

/// Threading: the control loop only (`Sendable` so that its tasks may hold it).
package final class LeaseTable: @unchecked Sendable {
  /// Nodes registered through the API; more are refused.
  package static let leasesMax = 1024

  private struct Key: Hashable {
    var name: ServiceName
    var id: String
  }
  private final class Entry {
    let lease: RegistrationLease
    /// Armed while the entry has a ttl.
    var timer: LoopTimer?
    /// The ttl asked for, in nanoseconds, and when it is over.
    var ttl: Int64?
    var due = Instant.distantFuture
    init(_ lease: RegistrationLease) { self.lease = lease }
  }

  private let registries: [any Registry]
  private let driver: any Driver
  private let log: any LogSink
  private var entries: [Key: Entry] = [:]
  /// Leases on their way out, kept alive until they are.
  private var leaving: [ObjectIdentifier: RegistrationLease] = [:]

  package init(registries: [any Registry], driver: any Driver, log: any LogSink) {
    self.registries = registries
    self.driver = driver
    self.log = log
  }

  package var count: Int { entries.count }
  package func holds(_ name: ServiceName, _ id: String) -> Bool { entries[Key(name: name, id: id)] != nil }
  package var leases: [RegistrationLease] { entries.values.map(\.lease) }

  /// Registers each node of `service`, or renews it. `ttl` in nanoseconds: without a renewal within it the node is taken
  /// out; nil keeps it. `completion` runs once on the loop, with nil when every node is in one registry at least, else
  /// with the first error; leases that could not be written yet go on trying.
  package func register(_ service: Service, ttl: Int64?, completion: @escaping (RegistryError?) -> Void) {
    if let problem = check(service) {
      completion(problem)
      return
    }
    let gathered = Gathered(service.nodes.count, completion)
    for node in service.nodes {
      let key = Key(name: service.name, id: node.id)
      var single = service
      single.nodes = [node]
      let entry: Entry
      if let known = entries[key] {
        entry = known
        entry.lease.update(single)
      } else {
        entry = Entry(
          RegistrationLease(
            service: single, registries: registries, timing: ttl.map { LeaseTiming(ttl: $0) } ?? LeaseTiming(),
            driver: driver, log: log))
        entries[key] = entry
        entry.lease.setHealthy(true)
      }
      expire(key, entry, ttl)
      entry.lease.whenWritten { gathered.add($0) }
    }
  }

  /// Takes each node of `service` out of all registries, also one that is not in this table: it may be another's. A node
  /// that is nowhere is no error.
  package func deregister(_ service: Service, completion: @escaping (RegistryError?) -> Void) {
    guard !service.nodes.isEmpty else { return completion(Self.namesNoNodes) }
    let own = service.nodes.filter { entries[Key(name: service.name, id: $0.id)] != nil }
    var foreign = service
    foreign.nodes = service.nodes.filter { entries[Key(name: service.name, id: $0.id)] == nil }
    let gathered = Gathered(own.count + (foreign.nodes.isEmpty ? 0 : 1), completion)
    for node in own {
      release(Key(name: service.name, id: node.id)) { gathered.add(nil) }
    }
    guard !foreign.nodes.isEmpty else { return }
    removeForeign(foreign) { gathered.add($0) }
  }

  package static let namesNoNodes = RegistryError.invalid(
    "a service to deregister names its nodes: {\"name\":…,\"nodes\":[{\"id\":…}]}")

  package func registryRecovered(_ name: String) {
    for entry in entries.values { entry.lease.registryRecovered(name) }
  }

  /// Takes everything out. `completion` runs once on the loop.
  package func stop(completion: @escaping () -> Void) {
    let keys = Array(entries.keys)
    let gathered = Gathered(keys.count) { _ in completion() }
    for key in keys { release(key) { gathered.add(nil) } }
  }

  /// What another process needs to hold the same; see `inherit`.
  package func bequest() -> JSONValue {
    .array(
      entries.values.map { entry in
        var members: [JSONValue.Member] = [.init("service", entry.lease.service.json())]
        if let ttl = entry.ttl {
          members.append(.init("ttl", JSONValue(Int(ttl))))
          members.append(.init("left", JSONValue(Int(entry.due.nanoseconds(since: driver.now)))))
        }
        return .object(members)
      })
  }

  /// Holds what another table's `bequest` says. What makes no sense is left out.
  package func inherit(_ bequest: JSONValue?) {
    for entry in bequest?.arrayValue ?? [] {
      guard let json = entry["service"], let service = try? Service(json: json), check(service) == nil else { continue }
      register(service, ttl: entry["ttl"]?.intValue.map(Int64.init)) { _ in }
      guard let left = entry["left"]?.intValue.map(Int64.init) else { continue }
      for node in service.nodes {
        let key = Key(name: service.name, id: node.id)
        guard let known = entries[key], let timer = known.timer else { continue }
        known.due = driver.now.advanced(byNanoseconds: max(left, 0))
        driver.timers.arm(timer, at: known.due)
      }
    }
  }

  /// Calls `completion` once, when each entry is in one registry at least or cannot be.
  package func whenWritten(_ completion: @escaping () -> Void) {
    let gathered = Gathered(entries.count) { _ in completion() }
    for entry in entries.values { entry.lease.whenWritten { _ in gathered.add(nil) } }
  }

  /// Another process holds the entries from now on.
  package func abandon() {
    for entry in entries.values {
      entry.timer?.cancel()
      entry.lease.abandon()
    }
    entries = [:]
  }

  /// What keeps `service` from being registered anywhere; nil: nothing.
  package static func problem(with service: Service) -> RegistryError? {
    guard RegistryView.isValid(name: service.name) else {
      return .invalid("a service's name has 1 to 255 bytes and no slash, blank or control character")
    }
    guard !service.nodes.isEmpty else {
      return .invalid("service \(service.name) has no nodes: expected \"nodes\":[{\"id\":…,\"address\":\"host:port\"}]")
    }
    for node in service.nodes {
      guard !node.id.isEmpty else { return .invalid("a node of service \(service.name) has no id") }
      guard DialTarget(node.address) != nil else {
        return .invalid("node \(node.id) of service \(service.name): expected an address like host:port")
      }
    }
    return nil
  }

  private func check(_ service: Service) -> RegistryError? {
    if let problem = Self.problem(with: service) { return problem }
    let new = Set(service.nodes.map(\.id)).count { entries[Key(name: service.name, id: $0)] == nil }
    guard entries.count + new <= Self.leasesMax else {
      return .refused("this sidecar keeps at most \(Self.leasesMax) registrations; deregister some first")
    }
    return nil
  }

  private func expire(_ key: Key, _ entry: Entry, _ ttl: Int64?) {
    entry.ttl = ttl
    entry.due = ttl.map { driver.now.advanced(byNanoseconds: max($0, 0)) } ?? .distantFuture
    guard let ttl else {
      entry.timer?.cancel()
      return
    }
    let timer =
      entry.timer
      ?? LoopTimer { [weak self] in
        guard let self else { return }
        log.info("\(key.name) \(key.id) was not renewed within its ttl and leaves the registry")
        release(key) {}
      }
    entry.timer = timer
    driver.timers.arm(timer, after: max(ttl, 0), from: driver.now)
  }

  private func release(_ key: Key, _ completion: @escaping () -> Void) {
    guard let entry = entries.removeValue(forKey: key) else {
      completion()
      return
    }
    entry.timer?.cancel()
    let lease = entry.lease
    leaving[ObjectIdentifier(lease)] = lease
    lease.stop { [self] in
      leaving[ObjectIdentifier(lease)] = nil
      completion()
    }
  }

  private func removeForeign(_ service: Service, _ completion: @escaping @Sendable (RegistryError?) -> Void) {
    let gathered = Gathered(registries.count, completion)
    for registry in registries {
      _ = startTask(on: driver) { [self] in
        do throws(RegistryError) {
          try await driver.limited(nanoseconds: LeaseTiming().removeLimit) { () async throws(RegistryError) in
            try await registry.deregister(service)
          }
          gathered.add(nil)
        } catch {
          gathered.add(error == .readOnly ? nil : error)
        }
      }
    }
  }
}

/// Waits for several answers and reports the first error, or nil. Touched on its loop only.
private final class Gathered: @unchecked Sendable {
  private var missing: Int
  private var error: RegistryError?
  private let completion: (RegistryError?) -> Void

  init(_ count: Int, _ completion: @escaping (RegistryError?) -> Void) {
    missing = count
    self.completion = completion
    if count == 0 { completion(nil) }
  }

  func add(_ result: RegistryError?) {
    error = error ?? result
    missing -= 1
    if missing == 0 { completion(error) }
  }
}
