// Mirrors the services of one registry into another: `consul->kubernetes`.
//
//   source's view ── a node that is not mirrored, not ours, not native in the target ──▶ lease in the target
//   node leaves the source ──▶ its lease ends                  source is down: nothing changes, as in the catalog
//
// A mirrored node carries metadata `micro-sidecar-origin`, the source's name, and what carries it is never mirrored: so two
// bridges that face each other, or a ring of them, end after one step. A bridge that dies leaves its nodes to their ttl.

/// The names of a bridge's two registries, as `MICRO_REGISTRY` has them.
package struct BridgeChoice: Hashable, Sendable, CustomStringConvertible {
  package var source: String
  package var target: String

  /// Reads `consul->kubernetes`.
  package init?(_ text: String) {
    guard let arrow = text.utf8.indices.first(where: { text[$0...].hasPrefix("->") }) else { return nil }
    source = SettingText.trimmed(text[..<arrow])
    target = SettingText.trimmed(text[text.index(arrow, offsetBy: 2)...])
    guard !source.isEmpty, !target.isEmpty, source != target, !target.contains("->") else { return nil }
  }

  package var description: String { "\(source)->\(target)" }
}

/// Threading: the control loop only (`Sendable` so that the catalog may hold it).
package final class RegistryBridge: @unchecked Sendable {
  /// Nodes mirrored by one bridge; more are left out, and that is logged once.
  package static let nodesMax = 10_000
  /// The metadata key that marks a mirrored node.
  package static let originKey = "micro-sidecar-origin"

  private struct Key: Hashable {
    var version: String
    var id: String
  }

  private let source: Int
  private let target: Int
  private let registries: [any Registry]
  private let catalog: Catalog
  private let driver: any Driver
  private let log: any LogSink
  /// Nodes of this sidecar: they are registered everywhere already.
  private let isOwn: (ServiceName, String) -> Bool
  private var mirrored: [ServiceName: [Key: RegistrationLease]] = [:]
  /// Leases on their way out, kept alive until they are.
  private var leaving: [ObjectIdentifier: RegistrationLease] = [:]
  package private(set) var count = 0
  private var isFull = false
  private var isStopped = false
  private let timing: LeaseTiming

  /// `source` and `target` are positions in `registries` and in the catalog.
  package init(
    from source: Int, to target: Int, registries: [any Registry], catalog: Catalog, timing: LeaseTiming = LeaseTiming(),
    driver: any Driver, log: any LogSink, isOwn: @escaping (ServiceName, String) -> Bool
  ) {
    self.source = source
    self.target = target
    self.registries = registries
    self.catalog = catalog
    self.timing = timing
    self.driver = driver
    self.log = log
    self.isOwn = isOwn
  }

  package func start() {
    catalog.observe { [weak self] delta in
      guard let self, !isStopped else { return }
      for entry in delta.changed { refresh(entry.name) }
      for name in delta.removed { refresh(name) }
    }
    catalog.observeSyncs { [weak self] registry in
      guard let self, registry == target, !isStopped else { return }
      refreshAll()
    }
    refreshAll()
  }

  private func refreshAll() {
    for name in catalog.names(of: source) { refresh(name) }
  }

  /// The target answers again after an outage and may have lost what was written.
  package func registryRecovered(_ name: String) {
    guard registries[target].name == name else { return }
    for leases in mirrored.values { for lease in leases.values { lease.registryRecovered(name) } }
  }

  /// Takes everything out of the target. `completion` runs once on the loop.
  package func stop(completion: @escaping () -> Void) {
    isStopped = true
    let names = Array(mirrored.keys)
    let left = LoopCounter(count, completion)
    for name in names {
      for key in Array((mirrored[name] ?? [:]).keys) { end(name, key) { left.one() } }
    }
  }

  /// Another process mirrors from now on: nothing is taken out.
  package func abandon() {
    isStopped = true
    for leases in mirrored.values { for lease in leases.values { lease.abandon() } }
    mirrored = [:]
    count = 0
  }

  private func refresh(_ name: ServiceName) {
    let wanted = wanted(name)
    for key in Array((mirrored[name] ?? [:]).keys) where wanted[key] == nil { end(name, key) {} }
    for (key, service) in wanted {
      if let lease = mirrored[name]?[key] {
        lease.update(service)
      } else if catalog.phase(of: target) != .current {
        // What the target has by its own right is not known now; all is looked at again when it is.
        continue
      } else if count < Self.nodesMax {
        begin(name, key, service)
      } else if !isFull {
        isFull = true
        log.warning("a bridge mirrors at most \(Self.nodesMax) nodes; further ones are left out")
      }
    }
  }

  /// The nodes of `name` that the target is to have from us, as they are written there: one a service.
  private func wanted(_ name: ServiceName) -> [Key: Service] {
    let native = catalog.versions(of: name, in: target)
    var wanted: [Key: Service] = [:]
    for service in catalog.versions(of: name, in: source).values {
      let known = native[service.version]?.nodes ?? []
      for node in service.nodes where node.metadata[Self.originKey] == nil && !isOwn(name, node.id) {
        // In the target by its own right.
        if known.contains(where: { $0.id == node.id && $0.metadata[Self.originKey] == nil }) { continue }
        var single = service
        var node = node
        node.metadata[Self.originKey] = registries[source].name
        single.nodes = [node]
        wanted[Key(version: service.version, id: node.id)] = single
      }
    }
    return wanted
  }

  private func begin(_ name: ServiceName, _ key: Key, _ service: Service) {
    let lease = RegistrationLease(
      service: service, registries: [registries[target]], timing: timing, driver: driver, log: QuietLog(base: log))
    mirrored[name, default: [:]][key] = lease
    count += 1
    lease.setHealthy(true)
  }

  private func end(_ name: ServiceName, _ key: Key, _ completion: @escaping () -> Void) {
    guard let lease = mirrored[name]?.removeValue(forKey: key) else { return completion() }
    if mirrored[name]?.isEmpty == true { mirrored[name] = nil }
    count -= 1
    leaving[ObjectIdentifier(lease)] = lease
    lease.stop { [self] in
      leaving[ObjectIdentifier(lease)] = nil
      completion()
    }
  }
}

/// What a lease tells of one node is a detail where there are thousands.
private struct QuietLog: LogSink {
  let base: any LogSink
  var level: LogLevel { base.level }
  func log(
    _ level: LogLevel, _ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)]
  ) {
    base.log(level == .info ? .debug : level, message(), fields())
  }
}
