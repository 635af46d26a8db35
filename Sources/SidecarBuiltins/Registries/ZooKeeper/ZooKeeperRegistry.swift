// The `zookeeper` registry (go-plugins registry/zookeeper @ v0.16.0; recordings v014-registry-zookeeper-*):
//
//   /micro-registry/<service>/<node id>     a leaf's data is the service's JSON with this one node; `/` in names is `-`
//
//   zookeeper:10.0.0.5:2181+10.0.0.6?session_ms=10000
//
// go-micro's own leaves stay until somebody deletes them. Ours are ephemeral, which readers cannot tell: they end with the
// session, so nothing is left of a process that was killed. Everything is read and watched; a watch fires once, so each
// reading sets it again.

import SidecarCore

/// Threading: the loop of its environment, as all registries.
public final class ZooKeeperRegistry: Registry, @unchecked Sendable {
  static let root = "/micro-registry"
  /// Leaves read; further ones are left out.
  static let leavesMax = 100_000
  /// How long a call waits for the first reading.
  static let readyNanoseconds: Int64 = 5_000_000_000
  static let ownMax = 20_000

  private struct Own {
    var service: Service
    var data: [UInt8]
    var expires: Instant
    /// The session that it was written with; 0 before it is.
    var session: Int64 = 0
  }

  public let name: String
  private let driver: any HostDriver
  private let client: ZooKeeperClient
  private let addressForm: NodeAddressForm
  private let content: WatchedServices
  private let garbage: GarbageLog
  private var own: [String: Own] = [:]
  /// What each leaf says, by its path.
  private var leaves: [String: Service] = [:]
  /// Leaves of each service's folder.
  private var folders: [String: Set<String>] = [:]
  /// Paths to be read again.
  private var dirty: Set<String> = []
  private let wake: LoopGate
  private var isStarted = false
  private var session = 0
  private var reader: Task<Void, Never>?
  private var timer: LoopTimer?

  public init(environment: PluginEnvironment) throws(ConfigurationError) {
    driver = environment.driver
    let options = try RegistryOptions(
      environment, of: "zookeeper", defaultServers: ["127.0.0.1:2181"], defaultPort: 2181,
      options: ["session_ms", "user", "password", "password_file", "address_form"])
    client = ZooKeeperClient(
      servers: options.servers,
      timeoutMilliseconds: try options.number("session_ms", in: 1000...600_000, default: 10_000), driver: driver
    ) { () throws(ConfigurationError) in
      guard let user = options["user"] else { return nil }
      return "\(user):\(try options.secret("password") ?? "")"
    }
    addressForm = try options.choice("address_form", of: ["joined", "split"]) == "split" ? .split : .joined
    name = "zookeeper:" + options.servers.map(\.authority).joined(separator: "+")
    content = WatchedServices(driver: driver, cause: "zookeeper: not connected yet")
    garbage = GarbageLog(registry: name, log: environment.log)
    wake = LoopGate(driver: driver)
  }

  deinit {
    reader?.cancel()
    timer?.cancel()
  }

  public var skipped: SkippedEntries { garbage.skipped(with: content) }

  // MARK: The registry

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    try await ready()
    guard own.count + service.nodes.count <= Self.ownMax else {
      throw .refused("zookeeper: more than \(Self.ownMax) nodes of one sidecar")
    }
    let expires = ttl.map { driver.now.advanced(by: $0) } ?? .distantFuture
    for node in service.nodes {
      var single = service
      single.nodes = [node]
      let path = try Self.path(service.name) + "/" + Self.component(node.id)
      let data = Array(single.json(addressForm: addressForm).text().utf8)
      let known = own[path]
      own[path] = Own(service: single, data: data, expires: expires, session: known?.session ?? 0)
      if let known, known.session == client.session.id, try await renew(path, data, isSame: known.data == data) {
        continue
      }
      do throws(RegistryError) {
        try await write(path, data)
      } catch {
        if case .unavailable = error {} else { own[path] = nil }
        throw error
      }
    }
  }

  public func deregister(_ service: Service) async throws(RegistryError) {
    var paths: [String] = []
    for node in service.nodes { paths.append(try Self.path(service.name) + "/" + Self.component(node.id)) }
    for path in paths { own[path] = nil }
    try await ready()
    for path in paths { try await remove(path) }
  }

  public func release(_ service: Service) {
    for node in service.nodes {
      if let folder = try? Self.path(service.name), let id = try? Self.component(node.id) {
        own[folder + "/" + id] = nil
      }
    }
  }

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    try await ready()
    if content.contains(name) { return content[name] }
    let folder = try Self.path(name)
    try await readFolder(folder)
    if content.contains(name) { return content[name] }
    throw .notFound(name)
  }

  public func list() async throws(RegistryError) -> [ServiceName] {
    try await ready()
    return content.names
  }

  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    start()
    try await content.watch(scope, onEvent: onEvent)
  }

  private func ready() async throws(RegistryError) {
    start()
    try await content.whenInSync(until: driver.now.advanced(byNanoseconds: Self.readyNanoseconds))
  }

  // MARK: Paths

  private static func path(_ service: ServiceName) throws(RegistryError) -> String {
    guard RegistryView.isValid(name: service.replacingSlashes) else {
      throw .invalid("zookeeper: a service's name is missing or odd")
    }
    return root + "/" + (try component(service))
  }

  /// A name as part of a path: ZooKeeper takes no control characters, no `.` and no `..`.
  private static func component(_ name: String) throws(RegistryError) -> String {
    let text = name.replacingSlashes
    let isSound = text.unicodeScalars.allSatisfy { scalar in
      scalar.value > 0x1F && !(0x7F...0x9F).contains(scalar.value) && !(0xF000...0xF8FF).contains(scalar.value)
        && !(0xFFF0...0xFFFF).contains(scalar.value)
    }
    guard isSound, !text.isEmpty, text != ".", text != "..", text.utf8.count <= 1024 else {
      throw .invalid("zookeeper: \"\(name.prefix(80))\" cannot be part of a path")
    }
    return text
  }

  // MARK: Writing

  private func write(_ path: String, _ data: [UInt8]) async throws(RegistryError) {
    for _ in 0..<4 {
      let reply = try await client.ask(.create) { Self.creation(path, data, isEphemeral: true, &$0) }
      switch reply.code {
      case .ok:
        own[path]?.session = client.session.id
        return
      case .noNode: try await makeFolders(of: path)
      case .nodeExists:
        // Ours: its data is replaced. One that stays, or of another session: it would not end with us.
        let found = try await client.ask(.exists) { Self.plain(path, &$0) }
        if found.code == .ok, (try? ZooKeeperWire.ephemeralOwner(found.body)) == client.session.id {
          let set = try await client.ask(.setData) {
            $0.text(path)
            $0.buffer(data)
            $0.int32(-1)
          }
          if set.code == .ok {
            own[path]?.session = client.session.id
            return
          }
        } else if found.code == .ok {
          try await remove(path)
        }
      default: throw Self.refusal(reply.code, path)
      }
    }
    throw .unavailable("zookeeper: \(path) is changed by others all the time")
  }

  /// One question for a leaf that we wrote in this session; false when somebody has taken it away since.
  private func renew(_ path: String, _ data: [UInt8], isSame: Bool) async throws(RegistryError) -> Bool {
    let reply: ZooKeeperWire.Reply
    if isSame {
      reply = try await client.ask(.exists) { Self.plain(path, &$0) }
    } else {
      reply = try await client.ask(.setData) {
        $0.text(path)
        $0.buffer(data)
        $0.int32(-1)
      }
    }
    if reply.code == .noNode { return false }
    guard reply.code == .ok else { throw Self.refusal(reply.code, path) }
    return true
  }

  private func makeFolders(of path: String) async throws(RegistryError) {
    let folder = String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
    for folder in [Self.root, folder] {
      let reply = try await client.ask(.create) { Self.creation(folder, [], isEphemeral: false, &$0) }
      guard reply.code == .ok || reply.code == .nodeExists else { throw Self.refusal(reply.code, folder) }
    }
  }

  private func remove(_ path: String) async throws(RegistryError) {
    let reply = try await client.ask(.delete) {
      $0.text(path)
      $0.int32(-1)
    }
    guard reply.code == .ok || reply.code == .noNode else { throw Self.refusal(reply.code, path) }
  }

  private static func refusal(_ code: ZooKeeperWire.Code, _ path: String) -> RegistryError {
    switch code {
    case .noAuth: .refused("zookeeper: no permission for \(path): check its ACL, and user and password")
    case .sessionExpired: .unavailable("zookeeper: the session has ended")
    default: .unavailable("zookeeper: \(path): error \(code.rawValue)")
    }
  }

  /// World may do everything, as with go-micro's own nodes.
  private static func creation(_ path: String, _ data: [UInt8], isEphemeral: Bool, _ out: inout ZooKeeperWriter) {
    out.text(path)
    out.buffer(data)
    out.int32(1)
    out.int32(31)
    out.text("world")
    out.text("anyone")
    out.int32(isEphemeral ? 1 : 0)
  }

  private static func plain(_ path: String, _ out: inout ZooKeeperWriter, watch: Bool = false) {
    out.text(path)
    out.flag(watch)
  }

  // MARK: Reading

  private func start() {
    guard !isStarted else { return }
    isStarted = true
    client.onUp = { [weak self] _ in self?.came() }
    client.onDown = { [weak self] cause in
      self?.session += 1
      self?.content.lost(cause)
    }
    client.onEvent = { [weak self] event in
      guard let self, event.path.hasPrefix(Self.root) else { return }
      dirty.insert(event.path)
      wake.open()
    }
    client.start()
    reader = startTask(on: driver) { [weak self] in
      while !Task.isCancelled {
        guard let gate = self?.wake, await gate.wait() == .opened else { return }
        await self?.readDirty()
      }
    }
    let timer = LoopTimer { [weak self] in self?.look() }
    self.timer = timer
    driver.timers.arm(timer, after: 250_000_000, from: driver.now)
  }

  /// Writes our leaves again, where they are gone, and reads everything.
  private func came() {
    session += 1
    let session = session
    _ = startTask(on: driver) { [weak self] in
      do throws(RegistryError) {
        try await self?.makeFolders(of: Self.root + "/")
        for (path, entry) in self?.own ?? [:] { try await self?.write(path, entry.data) }
        try await self?.readAll()
        if let self, session == self.session { content.inSync() }
      } catch {
        guard let self, session == self.session else { return }
        content.lost(error)
        await driver.pause(nanoseconds: 1_000_000_000)
        if session == self.session { came() }
      }
    }
  }

  private func readAll() async throws(RegistryError) {
    let reply = try await client.ask(.getChildren) { Self.plain(Self.root, &$0, watch: true) }
    guard reply.code == .ok, let names = try? ZooKeeperWire.children(reply.body) else {
      throw Self.refusal(reply.code, Self.root)
    }
    let found = Set(names.map { Self.root + "/" + $0 })
    for folder in folders.keys where !found.contains(folder) { forget(folder: folder) }
    try await each(found.sorted()) { registry, folder throws(RegistryError) in try await registry.readFolder(folder) }
  }

  /// Sets the folder's watch too; a folder that is not there is empty.
  private func readFolder(_ folder: String) async throws(RegistryError) {
    let reply = try await client.ask(.getChildren) { Self.plain(folder, &$0, watch: true) }
    if reply.code == .noNode { return forget(folder: folder) }
    guard reply.code == .ok, let names = try? ZooKeeperWire.children(reply.body) else {
      throw Self.refusal(reply.code, folder)
    }
    let found = Set(names.map { folder + "/" + $0 })
    let before = folders[folder] ?? []
    folders[folder] = found
    for leaf in before.subtracting(found) { forget(leaf: leaf) }
    try await each(found.sorted()) { registry, leaf throws(RegistryError) in try await registry.readLeaf(leaf) }
  }

  private func readLeaf(_ path: String) async throws(RegistryError) {
    guard leaves.count < Self.leavesMax || leaves[path] != nil else {
      return garbage.leftOut(path, because: "more than \(Self.leavesMax) leaves", isFull: true)
    }
    let reply = try await client.ask(.getData) { Self.plain(path, &$0, watch: true) }
    if reply.code == .noNode { return forget(leaf: path) }
    guard reply.code == .ok, let data = try? ZooKeeperWire.data(reply.body) else {
      throw Self.refusal(reply.code, path)
    }
    let service: Service
    do throws(WireError) {
      service = try Service(json: try JSONValue(parsing: data))
    } catch {
      garbage.leftOut(path, because: error.rule)
      return forget(leaf: path)
    }
    if let old = leaves[path] {
      let staying = Set(service.name == old.name ? service.nodes.map(\.id) : [])
      content.remove(old.nodes.map(\.id).filter { !staying.contains($0) }, of: old.name)
    }
    leaves[path] = service
    content.put(service)
  }

  private func forget(folder: String) {
    for leaf in folders.removeValue(forKey: folder) ?? [] { forget(leaf: leaf) }
  }

  private func forget(leaf: String) {
    guard let old = leaves.removeValue(forKey: leaf) else { return }
    content.remove(old.nodes.map(\.id), of: old.name)
  }

  /// What watches told of: a folder's children, a leaf's data, or the services themselves.
  private func readDirty() async {
    let paths = dirty
    dirty = []
    let session = session
    do throws(RegistryError) {
      if paths.contains(Self.root) { try await readAll() }
      try await each(paths.subtracting([Self.root]).sorted()) { registry, path throws(RegistryError) in
        if path.dropFirst(Self.root.utf8.count + 1).contains("/") {
          if registry.leaves[path] != nil { try await registry.readLeaf(path) }
        } else {
          try await registry.readFolder(path)
        }
      }
    } catch {
      // A broken connection brings everything anew; anything else is tried again.
      guard session == self.session, content.outage == nil else { return }
      dirty.formUnion(paths)
      await driver.pause(nanoseconds: 500_000_000)
      wake.open()
    }
  }

  /// Works on all paths at once, within what the client has under way; the first error is thrown.
  private func each(
    _ paths: [String], _ work: @escaping @Sendable (ZooKeeperRegistry, String) async throws(RegistryError) -> Void
  ) async throws(RegistryError) {
    let failure = await withTaskGroup(of: RegistryError?.self) { group in
      var rest = paths[...]
      var failure: RegistryError?
      func add() {
        guard let path = rest.popFirst() else { return }
        group.addTask { [self] in
          do throws(RegistryError) {
            try await work(self, path)
            return nil
          } catch {
            return error
          }
        }
      }
      for _ in 0..<8 { add() }
      while let result = await group.next() {
        failure = failure ?? result
        if failure == nil { add() }
      }
      return failure
    }
    if let failure { throw failure }
  }

  /// Our entries that were not renewed in time.
  private func look() {
    let now = driver.now
    if let timer { driver.timers.arm(timer, after: 250_000_000, from: now) }
    for (path, entry) in own where entry.expires <= now {
      own[path] = nil
      _ = startTask(on: driver) { [weak self] in try? await self?.remove(path) }
    }
  }
}

extension String {
  fileprivate var replacingSlashes: String { String(map { $0 == "/" ? "-" : $0 }) }
}
