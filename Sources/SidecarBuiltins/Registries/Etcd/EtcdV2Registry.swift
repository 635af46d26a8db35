// The registry `etcdv2`: services in etcd's v2 keys API, as go-micro's `etcd` plug-in kept them until 2019 (go-plugins
// registry/etcd @ v0.16.0). Servers of version 3.4 serve it with --enable-v2; 3.6 has it no more.
//
// Every registration writes the key again with its ttl, which is what that plug-in does too; watchers of it do not hear
// that a key expired, ours do.

import SidecarCore

/// Threading: the loop of its environment, as all registries.
public final class EtcdV2Registry: Registry, @unchecked Sendable {
  /// Seconds a call may take.
  static let callSeconds: Int64 = 5
  /// Seconds a watch waits for a change before it is asked anew.
  static let waitSeconds: Int64 = 30

  public let name: String
  let options: EtcdOptions
  let driver: any HostDriver
  private let client: HTTPClient
  /// For questions that wait: they must not take the turns of others.
  private let waitingClient: HTTPClient
  private let garbage: GarbageLog

  public init(environment: PluginEnvironment) throws(ConfigurationError) {
    options = try EtcdOptions(environment, "etcdv2", writes: "plugin")
    name = options.options.instanceName
    driver = environment.driver
    garbage = GarbageLog(registry: name, log: environment.log)
    client = HTTPClient(driver: driver, endpoints: options.endpoints, tls: options.tls)
    var limits = HTTPClient.Limits()
    limits.callsAtOnce = 256
    waitingClient = HTTPClient(driver: driver, endpoints: options.endpoints, tls: options.tls, limits: limits)
    if let credentials = try options.credentials() {
      let value = HTTPText.basicAuthorization(user: credentials.user, password: credentials.password)
      client.headers = [("Authorization", value)]
      waitingClient.headers = client.headers
    }
  }

  public var skipped: SkippedEntries { garbage.skipped }

  // MARK: Writing

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    for node in service.nodes {
      var single = service
      single.nodes = [node]
      let value = single.json(addressForm: options.addressForm).text()
      var form = "value=" + HTTPText.escape(value)
      if let ttl { form += "&ttl=\(max(1, (ttl.saturatingNanoseconds + 999_999_999) / 1_000_000_000))" }
      for prefix in options.prefixes {
        // Directories on the way are made by the server.
        let key = try EtcdKeys.key(prefix, service.name, node.id)
        let request = HTTPRequest(
          .put, Self.path(key), body: Array(form.utf8),
          headers: [("Content-Type", "application/x-www-form-urlencoded")])
        try expectSuccess(try await call(request), "registering \(service.name)")
      }
    }
  }

  public func deregister(_ service: Service) async throws(RegistryError) {
    for node in service.nodes {
      for prefix in EtcdKeys.all {
        let key = try EtcdKeys.key(prefix, service.name, node.id)
        let reply = try await call(HTTPRequest(.delete, Self.path(key)))
        if reply.status == 404 { continue }
        try expectSuccess(reply, "deregistering \(node.id)")
        // The folder goes with its last node; while others are in it, this is refused.
        _ = try await call(HTTPRequest(.delete, Self.path(EtcdKeys.folder(prefix, service.name)) + "?dir=true"))
      }
    }
  }

  // MARK: Reading

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    guard !name.isEmpty, name != ".", name != ".." else { throw .notFound(name) }
    var found: [Service] = []
    for prefix in EtcdKeys.all {
      _ = try await read(EtcdKeys.folder(prefix, name)) { key, value in
        if let service = service(key, value), service.name == name { found.append(service) }
      }
    }
    let versions = EtcdPicture.merge(found)
    if versions.isEmpty { throw .notFound(name) }
    return versions
  }

  public func list() async throws(RegistryError) -> [ServiceName] {
    var names: Set<ServiceName> = []
    for prefix in EtcdKeys.all {
      _ = try await read(prefix) { key, _ in
        if let name = EtcdKeys.serviceSegment(key) { names.insert(name) }
      }
    }
    return names.sorted()
  }

  /// Gives all keys below `path` to `body`; the index of the state that was read.
  private func read(_ path: String, _ body: (String, String) -> Void) async throws(RegistryError) -> UInt64 {
    let reply = try await call(HTTPRequest(.get, Self.path(path) + "?recursive=true"))
    let index = reply.header("x-etcd-index").flatMap { UInt64($0) } ?? 0
    // Nothing was ever written there.
    if reply.status == 404, reply.header("x-etcd-index") != nil { return index }
    try expectSuccess(reply, "reading \(path)")
    if let node = try parse(reply)["node"] { Self.leaves(node, body) }
    return index
  }

  private static func leaves(_ node: JSONValue, _ body: (String, String) -> Void) {
    for child in node["nodes"]?.arrayValue ?? [] { leaves(child, body) }
    if let key = node["key"]?.stringValue, let value = node["value"]?.stringValue { body(key, value) }
  }

  // MARK: Watching

  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    // One question for both prefixes: what else happens in this etcd is passed over.
    let watch = Watch(scope)
    while true {
      watch.picture.removeAll()
      var index: UInt64 = .max
      for prefix in EtcdKeys.all {
        index = min(index, try await read(prefix) { key, value in _ = watch.fold(key, service(key, value)) })
      }
      await onEvent(.snapshot(watch.picture.all))
      try await follow(watch, from: index, onEvent)
    }
  }

  /// Returns when what happened next is forgotten by the server, which keeps a thousand events.
  private func follow(
    _ watch: Watch, from start: UInt64, _ onEvent: @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    var index = start
    while true {
      let path = Self.path("/") + "?wait=true&recursive=true&waitIndex=\(index + 1)"
      let reply: HTTPReply
      do throws(HTTPFailure) {
        reply = try await waitingClient.call(HTTPRequest(.get, path), within: .seconds(Self.waitSeconds))
      } catch {
        guard error.cause == .timedOut else { throw failure(error) }
        // Silence. A short question tells whether the server is there, and how far it has counted.
        index = max(index, try await currentIndex(atLeast: start))
        continue
      }
      // 401: the events after the index are gone.
      if reply.status == 400, (try? parse(reply)["errorCode"]?.intValue) == 401 { return }
      try expectSuccess(reply, "watching")
      guard !reply.body.isEmpty else { continue }
      let event = try parse(reply)
      guard let node = event["node"], let key = node["key"]?.stringValue,
        let changed = node["modifiedIndex"]?.uint64Value
      else { throw .unavailable("\(reply.endpoint) does not answer as etcd does: an event without a key") }
      index = max(index, changed)
      switch event["action"]?.stringValue {
      case "delete", "expire", "compareAndDelete":
        // A folder takes all below it along.
        for change in watch.remove(key) { await onEvent(change) }
      default:
        guard let value = node["value"]?.stringValue, EtcdKeys.serviceSegment(key) != nil else { continue }
        for change in watch.fold(key, service(key, value)) { await onEvent(change) }
      }
    }
  }

  private func currentIndex(atLeast least: UInt64) async throws(RegistryError) -> UInt64 {
    let reply = try await call(HTTPRequest(.get, Self.path("/micro-registry")))
    guard let index = reply.header("x-etcd-index").flatMap({ UInt64($0) }), index >= least else {
      throw .unavailable("etcdv2 at \(reply.endpoint) has lost what it held")
    }
    // Not further than what was surely told: an event may be on its way.
    return least
  }

  /// What one watch knows. Touched on the loop only.
  private final class Watch: @unchecked Sendable {
    var picture = EtcdPicture()
    private var keys: Set<String> = []
    private let scope: WatchScope
    init(_ scope: WatchScope) { self.scope = scope }

    func fold(_ key: String, _ service: Service?) -> [RegistryEvent] {
      if case .service(let name) = scope, let service, service.name != name { return [] }
      if service == nil { keys.remove(key) } else { keys.insert(key) }
      return picture.set(key, service)
    }

    func remove(_ path: String) -> [RegistryEvent] {
      if keys.contains(path) { return fold(path, nil) }
      return keys.filter { $0.hasPrefix(path + "/") }.sorted().flatMap { fold($0, nil) }
    }
  }

  // MARK: Calls

  private static func path(_ key: String) -> String {
    "/v2/keys" + key.split(separator: "/").map { "/" + HTTPText.escape(String($0)) }.joined()
  }

  private func call(_ request: HTTPRequest) async throws(RegistryError) -> HTTPReply {
    do throws(HTTPFailure) {
      return try await client.call(request, within: .seconds(Self.callSeconds))
    } catch {
      throw failure(error)
    }
  }

  private func failure(_ error: HTTPFailure) -> RegistryError {
    .unavailable(error.cause == .cancelled ? "cancelled" : "etcdv2 at \(error)")
  }

  private func parse(_ reply: HTTPReply) throws(RegistryError) -> JSONValue {
    do throws(WireError) {
      return try JSONValue(parsing: reply.body)
    } catch {
      throw .unavailable("\(reply.endpoint) does not answer as etcd does: \(error.rule)")
    }
  }

  private func expectSuccess(_ reply: HTTPReply, _ what: String) throws(RegistryError) {
    if reply.isSuccess { return }
    let said = "\(what): etcdv2 at \(reply.endpoint) says \(reply.status): \(reply.shortText)"
    switch reply.status {
    case 401, 403:
      throw .refused("\(said); give user and password of a role that may do it, or ETCD_USERNAME and ETCD_PASSWORD")
    case 404 where reply.header("x-etcd-index") == nil:
      throw .refused("\(said); switch the v2 API on with --enable-v2, or use MICRO_REGISTRY=etcdv3")
    case 400, 404...407, 409...428: throw .refused(said)
    default: throw .unavailable(said)
    }
  }

  /// Nil for an entry that makes no sense.
  private func service(_ key: String, _ value: String) -> Service? {
    do throws(WireError) {
      return try Service(json: try JSONValue(parsing: value))
    } catch {
      garbage.leftOut(key, because: error.rule)
      return nil
    }
  }
}
