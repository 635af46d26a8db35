// Keeps in step with a Eureka server by asking again and again:
//
//   everything ──▶ delta ─▶ delta ─▶ …      a delta is applied; when the hash of what is then known is not the server's,
//        ▲           └── hash differs ──┐   or there is no delta, everything is read
//        └──────────────────────────────┘
//
// The hash counts the instances of each status: `DOWN_1_UP_7_`.

import SidecarCore

/// Threading: the control loop only (`Sendable` so that its task may hold it).
final class EurekaPoller: @unchecked Sendable {
  static let pauseNanosecondsMax: Int64 = 1_000_000_000
  static let instance: JSONShape = .members([
    "app": .whole, "instanceId": .whole, "hostName": .whole, "ipAddr": .whole, "status": .whole, "port": .whole,
    "metadata": .whole, "actionType": .whole,
  ])
  /// One application or instance may stand without its array, as XStream wrote it.
  static let shape: JSONShape = {
    let application = JSONShape.members(["name": .whole, "instance": .elements(instance)])
    return .members(["applications": .members(["apps__hashcode": .whole, "application": .elements(application)])])
  }()

  private let api: EurekaAPI
  private let content: WatchedServices
  private let said: SaidServices
  private let driver: any Driver
  private let interval: Int64
  private let takesForeign: Bool
  private let garbage: GarbageLog
  private var backoff = Backoff()
  /// The status of each instance, whoever's it is, for the hash.
  private var statuses: [String: String] = [:]
  private var hasDelta = false

  init(
    _ api: EurekaAPI, content: WatchedServices, driver: any Driver, garbage: GarbageLog, interval: Int64,
    takesForeign: Bool
  ) {
    self.api = api
    self.content = content
    said = SaidServices(content)
    self.driver = driver
    self.garbage = garbage
    self.interval = interval
    self.takesForeign = takesForeign
  }

  /// One that reads the same into other content.
  convenience init(_ other: EurekaPoller, content: WatchedServices) {
    self.init(
      other.api, content: content, driver: other.driver, garbage: other.garbage, interval: other.interval,
      takesForeign: other.takesForeign)
  }

  /// Until its task is cancelled.
  func run() async {
    while !Task.isCancelled {
      var pause = interval
      do throws(RegistryError) {
        let isInStep = hasDelta ? try await readDelta() : false
        if !isInStep { try await readAll() }
        content.inSync()
        backoff.reset()
      } catch {
        if Task.isCancelled { return }
        hasDelta = false
        content.lost(error)
        pause = min(backoff.failed(random: &driver.random), Self.pauseNanosecondsMax)
      }
      await driver.pause(nanoseconds: pause)
    }
  }

  func readAll() async throws(RegistryError) {
    let reply = try await api.ask(.get, "/apps")
    guard reply.isSuccess else { throw api.failure(reply) }
    var seen: Set<String> = []
    for instance in Self.instances(try applications(reply)) {
      if let key = apply(instance) { seen.insert(key) }
    }
    for key in statuses.keys where !seen.contains(key) { remove(key) }
    hasDelta = true
  }

  /// False when everything has to be read.
  private func readDelta() async throws(RegistryError) -> Bool {
    let reply = try await api.ask(.get, "/apps/delta")
    // Servers may be told to have none.
    guard reply.isSuccess else { return false }
    let applications = try applications(reply)
    for json in Self.instances(applications) {
      guard let key = apply(json) else { continue }
      if json["actionType"]?.stringValue == "DELETED" { remove(key) }
    }
    return applications["apps__hashcode"]?.stringValue == hash
  }

  /// As the server counts.
  private var hash: String {
    Dictionary(statuses.values.map { ($0, 1) }, uniquingKeysWith: +).sorted { $0.key < $1.key }
      .map { "\($0.key)_\($0.value)_" }.joined()
  }

  private func applications(_ reply: HTTPReply) throws(RegistryError) -> JSONValue {
    guard let found = (try? Self.shape.cut(reply.body))?["applications"], found.objectValue != nil else {
      throw .unavailable("\(reply.endpoint) does not answer as Eureka: \(reply.shortText)")
    }
    return found
  }

  private static func instances(_ applications: JSONValue) -> [JSONValue] {
    list(applications["application"]).flatMap { list($0["instance"]) }
  }

  private static func list(_ value: JSONValue?) -> [JSONValue] {
    switch value {
    case nil, .null: []
    case .array(let elements): elements
    case .some(let single): [single]
    }
  }

  /// Takes in what an instance says; its key. Nil for what has none.
  private func apply(_ json: JSONValue) -> String? {
    do throws(WireError) {
      let instance = try EurekaInstance(json: json, takesForeign: takesForeign)
      let key = instance.app + "/" + instance.id
      statuses[key] = instance.status
      said.set(key, instance.service.map { [$0] } ?? [])
      return key
    } catch {
      let id = json["instanceId"]?.stringValue ?? json["hostName"]?.stringValue ?? "?"
      garbage.leftOut((json["app"]?.stringValue ?? "?") + "/" + id, because: error.rule)
      guard let app = json["app"]?.stringValue else { return nil }
      // It counts for the hash, and what it said before does not hold any more.
      let key = app.lowercased() + "/" + id
      statuses[key] = json["status"]?.stringValue ?? "UP"
      said.set(key, [])
      return key
    }
  }

  private func remove(_ key: String) {
    statuses[key] = nil
    said.set(key, [])
  }
}
