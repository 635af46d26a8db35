// A registry for tests of the control plane: content, reachability and slowness are set by the test.

import SidecarSim
import Testing

@testable import SidecarCore

/// Touched on its simulated loop only, and between runs of the world.
final class FlakyRegistry: Registry, @unchecked Sendable {
  enum Mode: Equatable {
    case up
    /// Every call fails at once.
    case down
    /// No call ever answers; only cancellation ends it.
    case hanging
    case refusing
    case readOnly
  }

  let name: String
  private let driver: any Driver
  var mode = Mode.up {
    didSet {
      guard mode != oldValue else { return }
      if mode != .up { endWatches(.unavailable("\(name) went away")) }
    }
  }
  /// Nanoseconds every call takes.
  var latency: Int64 = 1_000_000
  /// The watch tells of nothing after its snapshot: only lookups find what is new.
  var watchIsBlind = false

  /// name → version → id → node and when it ends.
  private(set) var content: [String: [String: [String: (node: Node, expires: Instant)]]] = [:]
  private(set) var calls: [(what: String, at: Instant)] = []
  private var watches: [Watch] = []

  private final class Watch: @unchecked Sendable {
    var continuation: CheckedContinuation<Void, Never>?
    var events: [RegistryEvent] = []
    var failure: RegistryError?
    func wake() { continuation.take()?.resume() }
  }

  init(_ name: String, driver: any Driver) {
    self.name = name
    self.driver = driver
  }

  func count(_ what: String) -> Int { calls.count { $0.what == what } }
  func times(_ what: String) -> [Instant] { calls.filter { $0.what == what }.map(\.at) }
  func ids(_ name: String) -> [String] { (content[name] ?? [:]).values.flatMap(\.keys).sorted() }
  func versions(_ name: String) -> [String] { (content[name] ?? [:]).keys.sorted() }

  /// Writes from outside, at once.
  func put(_ service: Service, expires: Instant = .distantFuture) {
    var changed = service
    changed.nodes = service.nodes.filter { content[service.name]?[service.version]?[$0.id]?.node != $0 }
    for node in service.nodes {
      content[service.name, default: [:]][service.version, default: [:]][node.id] = (node, expires)
    }
    if !changed.nodes.isEmpty { tell(.upsert(changed)) }
  }

  func take(_ service: Service) {
    for node in service.nodes { content[service.name]?[service.version]?[node.id] = nil }
    if content[service.name]?[service.version]?.isEmpty == true { content[service.name]?[service.version] = nil }
    if content[service.name]?.isEmpty == true { content[service.name] = nil }
    tell(.remove(service))
  }

  /// Forgets everything, as a registry without a disk does when it restarts.
  func loseContent() { content = [:] }

  private func tell(_ event: RegistryEvent) {
    guard !watchIsBlind, mode == .up else { return }
    for watch in watches {
      watch.events.append(event)
      watch.wake()
    }
  }

  private func endWatches(_ error: RegistryError) {
    for watch in watches {
      watch.failure = error
      watch.wake()
    }
  }

  private func answer(_ what: String) async throws(RegistryError) {
    calls.append((what, driver.now))
    await driver.pause(nanoseconds: latency)
    switch mode {
    case .up: break
    case .readOnly: if what == "register" || what == "deregister" { throw .readOnly }
    case .refusing: throw .refused("\(name) will not")
    case .down: throw .unavailable("\(name) is down")
    case .hanging:
      while !Task.isCancelled { await driver.pause(nanoseconds: 3_600_000_000_000) }
    }
    if Task.isCancelled { throw .unavailable("cancelled") }
  }

  func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    try await answer("register")
    put(service, expires: ttl.map { driver.now.advanced(by: $0) } ?? .distantFuture)
  }

  func deregister(_ service: Service) async throws(RegistryError) {
    try await answer("deregister")
    take(service)
  }

  func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    try await answer("lookup")
    guard let versions = content[name] else { throw .notFound(name) }
    return versions.map { version, nodes in
      Service(name: name, version: version, nodes: nodes.values.map(\.node))
    }
  }

  func list() async throws(RegistryError) -> [ServiceName] {
    try await answer("list")
    return content.keys.sorted()
  }

  func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    try await answer("watch")
    let watch = Watch()
    watches.append(watch)
    defer { watches.removeAll { $0 === watch } }
    let all = content.flatMap { name, versions in
      versions.map { Service(name: name, version: $0, nodes: $1.values.map(\.node)) }
    }
    watch.events = [.snapshot(all)]
    let mailbox = driver.mailbox
    while true {
      if Task.isCancelled { throw .unavailable("cancelled") }
      if let failure = watch.failure { throw failure }
      if watch.events.isEmpty {
        await withTaskCancellationHandler {
          await withCheckedContinuation { watch.continuation = $0 }
        } onCancel: {
          mailbox.post { watch.wake() }
        }
      } else {
        await onEvent(watch.events.removeFirst())
      }
    }
  }
}

/// A simulated host whose loop is the control loop.
final class ControlWorld {
  let world: SimWorld
  let host: SimHost
  let loop: SimDriver
  let log = RecordedLog()

  init(seed: UInt64 = 1) {
    world = SimWorld(seed: seed)
    host = world.makeHost("control")
    loop = host.makeLoop()
  }

  deinit { world.tearDown() }

  func registry(_ name: String) -> FlakyRegistry { FlakyRegistry(name, driver: loop) }

  func catalog(_ registries: [FlakyRegistry]) -> Catalog {
    Catalog(registries: registries.map(\.name), now: loop.now, log: log) { [loop] in loop.later($0) }
  }

  func supervisor(_ registry: FlakyRegistry, _ index: Int, _ catalog: Catalog) -> WatchSupervisor {
    WatchSupervisor(registry: registry, index: index, catalog: catalog, driver: loop, log: log)
  }

  /// The world's own assertion: prints the seed.
  func require(within limit: Duration, _ what: String, _ condition: () -> Bool) throws {
    try world.require(world.runUntil(condition, within: limit), what)
  }
}

func named(_ name: String, _ ids: String..., version: String = "1", port: Int = 80) -> Service {
  Service(name: name, version: version, nodes: ids.map { Node(id: $0, address: "10.0.0.1:\(port)") })
}
