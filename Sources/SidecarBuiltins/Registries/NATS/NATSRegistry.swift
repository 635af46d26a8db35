// The `nats` registry: there is no store. Everybody who has services answers queries for them and publishes changes
// (go-plugins registry/nats @ v0.16.0, go-micro registry/nats @ v5.30.0; recordings v014-registry-nats-*).
//
//   query subject  {"Action":"get","Service":{"name":N}}, {"Action":"list"} ──▶ one Service JSON a version, to the inbox
//   watch subject  {"Action":"create"|"delete"|…,"Service":{…}} from the owner, `create` again with every renewal
//
//   nats:10.0.0.5:4222+10.0.0.6?user=sidecar&password_file=/run/secrets/nats
//
// A list at every connection tells what is there, the watch subject what changes. Nobody tells of an owner that died, so a
// node not heard of for `probe_seconds` is asked for and taken out when two questions bring no answer. Plug-ins up to v3 go on
// answering for nodes they have deregistered: what was deleted stays out until it is created again.

import SidecarCore

/// Threading: the loop of its environment, as all registries.
public final class NATSRegistry: Registry, @unchecked Sendable {
  /// How long the server may take to confirm a write.
  static let confirmNanoseconds: Int64 = 3_000_000_000
  /// Answers to one query; further ones are dropped.
  static let answersMax = 100_000
  /// Deleted nodes remembered; beyond that the oldest may come back until its owner ends.
  static let deletedMax = 10_000
  /// How long a deletion is remembered after the last time somebody answered for the node.
  static let deletedNanoseconds: Int64 = 600_000_000_000
  /// Our own nodes; one more is refused.
  static let ownMax = 20_000
  /// Between two looks at who was not heard of.
  static let probeStepNanoseconds: Int64 = 1_000_000_000

  private struct Key: Hashable {
    var service: ServiceName
    var id: String
  }

  private struct Own {
    var service: Service
    var expires: Instant
  }

  /// When a node was last heard of, and how many questions for it have had no answer since.
  private struct Pulse {
    var heard: Instant
    var asked = 0
    var nextAsk: Instant
  }

  public let name: String
  private let driver: any HostDriver
  private let client: NATSClient
  private let options: NATSOptions
  private let content: WatchedServices
  private let garbage: GarbageLog
  private var own: [Key: Own] = [:]
  private var pulses: [Key: Pulse] = [:]
  private var deleted: [Key: Instant] = [:]
  private var isStarted = false
  private var timer: LoopTimer?
  /// Counts connections, so that a list of an earlier one is not believed.
  private var session = 0

  public init(environment: PluginEnvironment) throws(ConfigurationError) {
    driver = environment.driver
    options = try NATSOptions(environment)
    name = "nats:" + options.servers.map(\.authority).joined(separator: "+")
    client = NATSClient(settings: options.settings, driver: driver)
    content = WatchedServices(driver: driver, cause: "nats: not connected yet")
    garbage = GarbageLog(registry: name, log: environment.log)
  }

  deinit { timer?.cancel() }

  public var skipped: SkippedEntries { garbage.skipped(with: content) }

  // MARK: The registry

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    try await connected()
    guard RegistryView.isValid(name: service.name) else { throw .invalid("nats: a service's name is missing or odd") }
    guard own.count + service.nodes.count <= Self.ownMax else {
      throw .refused("nats: more than \(Self.ownMax) nodes of one sidecar")
    }
    let expires = ttl.map { driver.now.advanced(by: $0) } ?? .distantFuture
    for node in service.nodes {
      var single = service
      single.nodes = [node]
      let key = Key(service: service.name, id: node.id)
      if let old = own[key], old.service.version != service.version { announce("delete", old.service) }
      own[key] = Own(service: single, expires: expires)
      deleted[key] = nil
      pulses[key] = nil
    }
    content.put(service)
    announce("create", service)
    try await client.confirm(within: Self.confirmNanoseconds)
  }

  public func deregister(_ service: Service) async throws(RegistryError) {
    for node in service.nodes { own[Key(service: service.name, id: node.id)] = nil }
    forget(service)
    try await connected()
    announce("delete", service)
    try await client.confirm(within: Self.confirmNanoseconds)
  }

  public func release(_ service: Service) {
    for node in service.nodes { own[Key(service: service.name, id: node.id)] = nil }
  }

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    try await connected()
    if content.contains(name) { return content[name] }
    let question = JSONValue.object([.init("Action", "get"), .init("Service", Service(name: name, version: "").json())])
    for service in try await ask(question) where service.name == name { answered(service) }
    if content.contains(name) { return content[name] }
    throw .notFound(name)
  }

  public func list() async throws(RegistryError) -> [ServiceName] {
    try await connected()
    return content.names
  }

  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    start()
    try await content.watch(scope, onEvent: onEvent)
  }

  /// Waits for a connection and its first list, not longer than a write may take.
  private func connected() async throws(RegistryError) {
    start()
    try await content.whenInSync(until: driver.now.advanced(byNanoseconds: Self.confirmNanoseconds))
  }

  // MARK: The connection

  private func start() {
    guard !isStarted else { return }
    isStarted = true
    for pair in options.subjects {
      _ = client.subscribe(pair.query) { [weak self] in self?.queried($0) }
      _ = client.subscribe(pair.watch) { [weak self] in self?.changed($0) }
    }
    client.onUp = { [weak self] in self?.came() }
    client.onDown = { [weak self] cause in
      self?.session += 1
      self?.content.lost(cause)
    }
    client.start()
    let timer = LoopTimer { [weak self] in self?.look() }
    self.timer = timer
    driver.timers.arm(timer, after: Self.probeStepNanoseconds, from: driver.now)
  }

  /// Tells the others of what we have and asks for what they have.
  private func came() {
    session += 1
    let session = session
    for entry in own.values { announce("create", entry.service) }
    _ = startTask(on: driver) { [weak self] in
      let question = JSONValue.object([.init("Action", "list"), .init("Service", .null)])
      guard let found = try? await self?.ask(question), let self, session == self.session else { return }
      let known = found.map { self.believed($0) }
      // What a change told of meanwhile is newer than the answers.
      let told = Set(pulses.filter { $0.value.heard >= self.cameAt }.keys)
      var all = own.values.map(\.service) + known
      for key in told {
        guard let node = content.node(key.id, of: key.service) else { continue }
        for var service in content[key.service] where service.nodes.contains(node) {
          service.nodes = [node]
          all.append(service)
        }
      }
      content.replaceAll(with: all)
      for service in known { hear(service) }
      content.inSync()
    }
    cameAt = driver.now
  }
  private var cameAt = Instant(nanoseconds: 0)

  private func announce(_ action: String, _ service: Service) {
    let result = JSONValue.object([
      .init("Action", .string(action)), .init("Service", service.json(addressForm: options.addressForm)),
    ])
    let bytes = Array(result.text().utf8)
    for pair in options.subjects { client.publish(pair.watch, bytes) }
  }

  /// Asks on every query subject and gathers answers for the window; shorter when nobody listens anywhere.
  private func ask(_ question: JSONValue) async throws(RegistryError) -> [Service] {
    let answers = Answers(expected: options.subjects.count, gate: LoopGate(driver: driver))
    let inbox = "_INBOX." + driver.random.uuid().filter { $0 != "-" }
    guard
      let id = client.subscribe(
        inbox,
        { [weak self] message in
          if message.hasNoResponders {
            answers.silent += 1
            if answers.silent == answers.expected { answers.gate.open() }
          } else if answers.found.count < Self.answersMax,
            let service = self?.service(message.payload, from: "an answer to a query")
          {
            answers.found.append(service)
          }
        })
    else { throw .unavailable("nats: more than \(NATSClient.subscriptionsMax) queries at once") }
    defer { client.unsubscribe(id) }
    let bytes = Array(question.text().utf8)
    for pair in options.subjects where !client.publish(pair.query, reply: inbox, bytes) {
      throw .unavailable("nats: not connected")
    }
    if await answers.gate.wait(until: driver.now.advanced(byNanoseconds: options.windowNanoseconds)) == .cancelled {
      throw .unavailable("cancelled")
    }
    return answers.found
  }

  /// Touched on the loop only.
  private final class Answers: @unchecked Sendable {
    var found: [Service] = []
    var silent = 0
    let expected: Int
    let gate: LoopGate
    init(expected: Int, gate: LoopGate) {
      self.expected = expected
      self.gate = gate
    }
  }

  // MARK: What others say

  private func queried(_ message: NATSClient.Message) {
    guard let reply = message.reply, NATSSubject.isPublishable(reply) else { return }
    guard let question = try? JSONValue(parsing: message.payload),
      let action = question.value(ignoringCase: "Action")?.stringValue
    else { return garbage.leftOut("a query", because: "it is no JSON with an action") }
    let wanted = question.value(ignoringCase: "Service")?.value(ignoringCase: "name")?.stringValue
    guard action == "list" || (action == "get" && wanted != nil) else { return }
    var versions: [[String]: Service] = [:]
    for entry in own.values where action == "list" || entry.service.name == wanted {
      versions[[entry.service.name, entry.service.version], default: emptied(entry.service)].nodes +=
        entry.service.nodes
    }
    for service in versions.values {
      client.publish(reply, Array(service.json(addressForm: options.addressForm).text().utf8))
    }
  }

  private func emptied(_ service: Service) -> Service {
    var service = service
    service.nodes = []
    return service
  }

  private func changed(_ message: NATSClient.Message) {
    guard let result = try? JSONValue(parsing: message.payload),
      let action = result.value(ignoringCase: "Action")?.stringValue, let json = result.value(ignoringCase: "Service")
    else { return garbage.leftOut("a change", because: "it is no JSON with an action and a service") }
    guard let service = read(json, from: "a change") else { return }
    if action == "delete" {
      forget(service)
      let until = driver.now.advanced(byNanoseconds: Self.deletedNanoseconds)
      for node in service.nodes where deleted.count < Self.deletedMax {
        let key = Key(service: service.name, id: node.id)
        // Somebody else speaks for a node of ours: the renewal sets it right.
        if own[key] == nil { deleted[key] = until }
      }
      return
    }
    // `create`, `update`, `override`: the action can be configured in v5.
    for node in service.nodes { deleted[Key(service: service.name, id: node.id)] = nil }
    answered(service)
  }

  private func answered(_ service: Service) {
    let service = believed(service)
    hear(service)
    content.put(service)
  }

  /// Without the nodes that are ours, since nobody knows them better, and those that were deleted; whoever answers for
  /// these keeps the memory of it.
  private func believed(_ service: Service) -> Service {
    var service = service
    let until = driver.now.advanced(byNanoseconds: Self.deletedNanoseconds)
    service.nodes.removeAll { node in
      let key = Key(service: service.name, id: node.id)
      if deleted[key] != nil { deleted[key] = until }
      return own[key] != nil || deleted[key] != nil
    }
    return service
  }

  private func hear(_ service: Service) {
    let now = driver.now
    for node in service.nodes {
      let key = Key(service: service.name, id: node.id)
      if own[key] == nil {
        pulses[key] = Pulse(heard: now, nextAsk: now.advanced(byNanoseconds: options.probeNanoseconds))
      }
    }
  }

  private func forget(_ service: Service) {
    let ids = service.nodes.map(\.id).filter { own[Key(service: service.name, id: $0)] == nil }
    for id in ids { pulses[Key(service: service.name, id: id)] = nil }
    content.remove(ids, of: service.name)
  }

  private func service(_ payload: [UInt8], from place: String) -> Service? {
    guard let json = try? JSONValue(parsing: payload) else {
      garbage.leftOut(place, because: "it is no JSON")
      return nil
    }
    return read(json, from: place)
  }

  private func read(_ json: JSONValue, from place: String) -> Service? {
    do throws(WireError) {
      return try Service(json: json)
    } catch {
      garbage.leftOut(json.value(ignoringCase: "name")?.stringValue ?? place, because: error.rule)
      return nil
    }
  }

  // MARK: Who has died

  /// Every second: our own entries that were not renewed, and others that were not heard of.
  private func look() {
    let now = driver.now
    if let timer { driver.timers.arm(timer, after: Self.probeStepNanoseconds, from: now) }
    for (key, entry) in own where entry.expires <= now {
      own[key] = nil
      forget(entry.service)
      announce("delete", entry.service)
    }
    deleted = deleted.filter { $0.value > now }
    guard content.outage == nil else { return }
    var names: Set<ServiceName> = []
    for (key, pulse) in pulses where pulse.nextAsk <= now {
      if content.node(key.id, of: key.service) == nil {
        pulses[key] = nil
      } else if pulse.asked >= 2 {
        pulses[key] = nil
        content.remove([key.id], of: key.service)
      } else {
        // Not all sidecars at once.
        let wait = options.probeNanoseconds / 8 + Int64(driver.random.below(Int(options.probeNanoseconds / 8) + 1))
        pulses[key]?.asked += 1
        pulses[key]?.nextAsk = now.advanced(byNanoseconds: max(wait, 2 * options.windowNanoseconds))
        names.insert(key.service)
      }
    }
    for name in names {
      _ = startTask(on: driver) { [weak self] in
        let question = JSONValue.object([
          .init("Action", "get"), .init("Service", Service(name: name, version: "").json()),
        ])
        for service in (try? await self?.ask(question)) ?? [] where service.name == name { self?.answered(service) }
      }
    }
  }
}
