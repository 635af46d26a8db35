// The registries `etcd` and `etcdv3`: services in etcd v3, as go-micro from v1.12 on and its plug-in of 2018 keep them
// (wire/registry-broker.md §4). Both read both prefixes; they differ in the one they write.
//
// A node has a lease of its own, so that it ends alone; each key is written by itself, since go-micro's watchers take only
// the first event of a transaction.

import SidecarCore

/// Threading: the loop of its environment, as all registries.
public final class EtcdRegistry: Registry, @unchecked Sendable {
  /// Nodes written at a time; one more is refused.
  static let writtenMax = 20_000

  public let name: String
  let gateway: EtcdGateway
  let driver: any HostDriver
  private let log: any LogSink
  private let garbage: GarbageLog

  private struct Written {
    var value: String
    var keys: [String]
    /// Nil: it stays until deregistered.
    var lease: Int64?
    var seconds: Int64
  }
  /// By service and node id.
  private var written: [String: Written] = [:]

  /// `named`: `etcd` writes where go-micro itself does, `etcdv3` where its plug-in does.
  public init(environment: PluginEnvironment, named: String) throws(ConfigurationError) {
    driver = environment.driver
    log = environment.log
    let options = try EtcdOptions(environment, named, writes: named == "etcdv3" ? "plugin" : "core")
    name = options.options.instanceName
    garbage = GarbageLog(registry: name, log: environment.log)
    gateway = EtcdGateway(options, name: named, driver: driver)
  }

  public var skipped: SkippedEntries { garbage.skipped }

  // MARK: Writing

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    for node in service.nodes {
      var single = service
      single.nodes = [node]
      try await register(single, node.id, ttl)
    }
  }

  private func register(_ service: Service, _ id: String, _ ttl: Duration?) async throws(RegistryError) {
    let mark = service.name + "\u{0}" + id
    var keys: [String] = []
    for prefix in gateway.options.prefixes { keys.append(try EtcdKeys.key(prefix, service.name, id)) }
    let value = service.json(addressForm: gateway.options.addressForm).text()
    let seconds = ttl.map { max(1, ($0.saturatingNanoseconds + 999_999_999) / 1_000_000_000) } ?? 0
    let known = written[mark]
    guard known != nil || written.count < Self.writtenMax else {
      throw .refused("more than \(Self.writtenMax) nodes written to \(name)")
    }
    var lease = known?.seconds == seconds ? known?.lease : nil
    var isKept = seconds == 0 && known?.seconds == 0
    if let held = lease {
      isKept = try await gateway.keepLease(held)
      if !isKept { lease = nil }
    }
    if isKept, let known, known.value == value, known.keys == keys {
      // Without a lease nothing tells that the key is still there.
      if seconds > 0 { return }
    }
    if seconds > 0, lease == nil { lease = try await gateway.grantLease(seconds: seconds) }
    // Noted before the write: one that fails may have been written.
    written[mark] = Written(value: value, keys: keys, lease: lease, seconds: seconds)
    for key in keys { try await gateway.put(key, value, lease: lease) }
    if let old = known?.lease, old != lease { try await gateway.revokeLease(old) }
  }

  public func deregister(_ service: Service) async throws(RegistryError) {
    for node in service.nodes {
      let mark = service.name + "\u{0}" + node.id
      let known = written[mark]
      var keys = known?.keys ?? []
      if known == nil {
        // Another's: it may be under either prefix.
        for prefix in EtcdKeys.all { keys.append(try EtcdKeys.key(prefix, service.name, node.id)) }
      }
      for key in keys { try await gateway.delete(key) }
      if let lease = known?.lease { try await gateway.revokeLease(lease) }
      written[mark] = nil
    }
  }

  // MARK: Reading

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    guard !name.isEmpty else { throw .notFound(name) }
    var found: [Service] = []
    for prefix in EtcdKeys.all {
      try await gateway.range(EtcdKeys.folder(prefix, name)) { pair in
        // `a/b` and `a-b` share a folder.
        if let service = service(pair), service.name == name { found.append(service) }
      }
    }
    let versions = EtcdPicture.merge(found)
    if versions.isEmpty { throw .notFound(name) }
    return versions
  }

  public func list() async throws(RegistryError) -> [ServiceName] {
    var names: Set<ServiceName> = []
    for prefix in EtcdKeys.all {
      try await gateway.range(prefix, keysOnly: true) { pair in
        if let name = EtcdKeys.serviceSegment(pair.key) { names.insert(name) }
      }
    }
    return names.sorted()
  }

  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    try await EtcdWatch(self, scope, onEvent).run()
  }

  /// Nil for an entry that makes no sense.
  func service(_ pair: EtcdGateway.Pair) -> Service? {
    do throws(WireError) {
      return try Service(json: try JSONValue(parsing: pair.value))
    } catch {
      garbage.leftOut(pair.key, because: error.rule)
      return nil
    }
  }
}

/// One watch: a reading of all keys at one revision, then every change after it.
///
///   reading ──▶ following ── stream breaks ──▶ following, from the last revision, at whichever member answers
///      ▲            └── that revision is compacted away, or of another cluster ──┐      └── none: the watch ends
///      └────────────────────────────────────────────────────────────────────────┘
private final class EtcdWatch: @unchecked Sendable {
  /// Nanoseconds of silence after which the member is asked whether it is still there.
  private static let silenceNanoseconds: Int64 = 20_000_000_000
  /// Bytes of one message of the stream; a larger one ends the watch.
  private static let messageMax = 64 * 1024 * 1024

  private let registry: EtcdRegistry
  private let prefixes: [String]
  private let scope: WatchScope
  private let onEvent: @Sendable (RegistryEvent) async -> Void
  private var picture = EtcdPicture()
  /// What happened under each prefix up to here is in the picture. One for each: the order in which two prefixes are
  /// told of says nothing.
  private var revisions: [Int64] = []
  private var cluster: String?
  /// The present stream has said something: it is worth another when it breaks.
  private var isFollowing = false

  init(_ registry: EtcdRegistry, _ scope: WatchScope, _ onEvent: @escaping @Sendable (RegistryEvent) async -> Void) {
    self.registry = registry
    self.scope = scope
    self.onEvent = onEvent
    switch scope {
    case .all: prefixes = EtcdKeys.all
    case .service(let name): prefixes = EtcdKeys.all.map { EtcdKeys.folder($0, name) }
    }
  }

  func run() async throws(RegistryError) {
    try await read()
    while true {
      do throws(RegistryError) {
        try await follow()
        try await read()
      } catch {
        guard isFollowing, !Task.isCancelled, case .unavailable = error else { throw error }
        isFollowing = false
      }
    }
  }

  private func read() async throws(RegistryError) {
    picture.removeAll()
    revisions = []
    for prefix in prefixes {
      revisions.append(try await registry.gateway.range(prefix) { pair in _ = fold(pair.key, registry.service(pair)) })
    }
    await onEvent(.snapshot(picture.all))
  }

  private func fold(_ key: String, _ service: Service?) -> [RegistryEvent] {
    if case .service(let name) = scope, let service, service.name != name { return [] }
    return picture.set(key, service)
  }

  /// Returns when the revision to go on from is gone.
  private func follow() async throws(RegistryError) {
    let stream = try await registry.gateway.watch(prefixes, from: revisions.map { $0 + 1 })
    defer { stream.close() }
    var buffer: [UInt8] = []
    while true {
      let part: [UInt8]?
      do throws(HTTPFailure) {
        part = try await stream.next(deadline: registry.driver.now.advanced(byNanoseconds: Self.silenceNanoseconds))
      } catch {
        if error.cause == .timedOut, await registry.gateway.isAlive(stream) { continue }
        throw .unavailable(error.cause == .cancelled ? "cancelled" : "\(registry.name) at \(error)")
      }
      guard let part else { throw .unavailable("\(registry.name) at \(stream.endpoint) ended the watch") }
      buffer += part
      var start = 0
      while let end = buffer[start...].firstIndex(of: 0x0A) {
        let line = Array(buffer[start..<end])
        start = end + 1
        guard try await take(line, stream) else { return }
      }
      buffer.removeFirst(start)
      guard buffer.count <= Self.messageMax else {
        throw .unavailable(
          "\(registry.name) at \(stream.endpoint) sent a message of more than \(Self.messageMax) bytes")
      }
    }
  }

  /// One message of the stream; false when what follows from it is a new reading.
  private func take(_ line: [UInt8], _ stream: HTTPReplyStream) async throws(RegistryError) -> Bool {
    guard line.contains(where: { $0 > 0x20 }) else { return true }
    guard let json = try? JSONValue(parsing: line) else {
      throw .unavailable("\(registry.name) at \(stream.endpoint) sent what is no JSON")
    }
    if let error = json["error"] {
      let message = error["message"]?.stringValue ?? "an error"
      if message.contains("permission denied") { throw .refused("watch: \(registry.name) says \(message)") }
      throw .unavailable("\(registry.name) at \(stream.endpoint) ended the watch: \(message)")
    }
    guard let result = json["result"] else { return true }
    let header = result["header"]
    let reached = EtcdGateway.number(header?["revision"]) ?? 0
    if result["created"]?.boolValue == true {
      // A cluster that lost its data counts from the beginning, and would be silent until it has caught up.
      let id = header?["cluster_id"]?.stringValue
      defer { cluster = id }
      if reached < revisions.max() ?? 0 || (cluster != nil && cluster != id) { return false }
      isFollowing = true
    }
    if result["canceled"]?.boolValue == true {
      if (EtcdGateway.number(result["compact_revision"]) ?? 0) > 0 { return false }
      let reason = result["cancel_reason"]?.stringValue ?? "without a reason"
      if reason.contains("permission denied") {
        throw .refused("\(registry.name) does not let us watch: \(reason); grant the user's role read on the prefixes")
      }
      throw .unavailable("\(registry.name) at \(stream.endpoint) ended the watch: \(reason)")
    }
    for event in result["events"]?.arrayValue ?? [] {
      guard let pair = EtcdGateway.Pair(event["kv"]) else { continue }
      let isDelete = event["type"]?.stringValue == "DELETE"
      for change in fold(pair.key, isDelete ? nil : registry.service(pair)) { await onEvent(change) }
      if let index = prefixes.firstIndex(where: pair.key.hasPrefix) {
        revisions[index] = max(revisions[index], EtcdGateway.number(event["kv"]?["mod_revision"]) ?? 0)
      }
    }
    return true
  }
}
