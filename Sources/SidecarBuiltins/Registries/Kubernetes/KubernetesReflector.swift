// Keeps in step with the objects of the API server: lists them in pages, then watches.
//
//   list ──▶ watch ── it ends by its time, or is silent ──▶ watch, from the last version
//    ▲         ├── 410 Gone, or a version from the future ──▶ list
//    └─ pause ─┴── an error: what is known may be old
//
// A watch that breaks is first begun again from the last version it told; only when that fails, it is an outage. Bookmarks
// move the version on while nothing of ours changes. A list is applied page by page, and what no page had leaves at its end.

import SidecarCore

/// Threading: the control loop only (`Sendable` so that its task may hold it).
final class KubernetesReflector: @unchecked Sendable {
  /// Bytes of one event; etcd's objects have 1.5 MiB at most.
  static let eventBytesMax = 4 << 20
  /// Seconds after which the server is to end a watch, so that clients spread over its replicas.
  static let watchSeconds = 300
  /// Bookmarks come each minute.
  static let silence = Duration.seconds(120)
  static let pauseNanosecondsMax: Int64 = 1_000_000_000
  /// A watch shorter than this is followed by a pause.
  static let shortNanoseconds: Int64 = 1_000_000_000

  private let api: KubernetesAPI
  private let content: WatchedServices
  private let objects: SaidServices
  private let driver: any Driver
  private let garbage: GarbageLog
  private let shape: JSONShape
  /// Where to watch from; nil: list first.
  private var version: String?
  private var backoff = Backoff()
  /// Labels and annotations of our own pod as last told; nil while it is not told of.
  private(set) var ownPod: JSONValue?
  /// Called after each list.
  var onListed: () -> Void = {}

  init(_ api: KubernetesAPI, content: WatchedServices, driver: any Driver, garbage: GarbageLog) {
    self.api = api
    self.content = content
    self.driver = driver
    objects = SaidServices(content)
    self.garbage = garbage
    shape = api.options.mode == .pods ? PodEntries.shape : EndpointSlices.shape
  }

  /// Until its task is cancelled.
  func run() async {
    while !Task.isCancelled {
      let begun = driver.now
      do throws(RegistryError) {
        if version == nil { try await list() }
        try await watch()
      } catch {
        if Task.isCancelled { return }
        content.lost(error)
      }
      if driver.now.nanoseconds(since: begun) >= Self.shortNanoseconds { backoff.reset() }
      if content.outage != nil || driver.now.nanoseconds(since: begun) < Self.shortNanoseconds {
        await driver.pause(nanoseconds: min(backoff.failed(random: &driver.random), Self.pauseNanosecondsMax))
      }
    }
  }

  // MARK: List

  /// Reads everything anew.
  func list() async throws(RegistryError) {
    var listed: Set<String> = []
    var limit = KubernetesAPI.pageObjects
    var next: String?
    var found: String?
    ownPod = nil
    repeat {
      let reply = try await api.list(limit: limit, next: next)
      if reply.status == 410, next != nil {
        // The pages' version is too old to go on: once more, all at once.
        next = nil
        limit = 0
        listed = []
        continue
      }
      guard reply.isSuccess else {
        throw api.failure(reply.status, reply.body, verb: "list", at: reply.endpoint)
      }
      let page: JSONValue
      do throws(WireError) {
        page = try JSONShape.members([
          "metadata": .members(["resourceVersion": .whole, "continue": .whole]), "items": .elements(shape),
        ]).cut(reply.body)
      } catch {
        throw .unavailable("\(reply.endpoint) does not answer as an API server: \(error.rule)")
      }
      for object in page["items"]?.arrayValue ?? [] {
        if let key = apply(object) { listed.insert(key) }
      }
      found = page["metadata"]?["resourceVersion"]?.stringValue
      next = page["metadata"]?["continue"]?.stringValue.flatMap { $0.isEmpty ? nil : $0 }
      if found == nil {
        throw .unavailable("\(reply.endpoint) does not answer as an API server: a list has no version")
      }
      if next == nil { break }
    } while true
    for key in objects.keys where !listed.contains(key) { objects.set(key, []) }
    version = found
    content.inSync()
    onListed()
  }

  // MARK: Watch

  private func watch() async throws(RegistryError) {
    guard let version else { return }
    let stream = try await api.watch(after: version, seconds: Self.watchSeconds)
    guard stream.head.status == 200 else {
      let status = stream.head.status
      let said = (try? await stream.next(deadline: driver.now.advanced(by: .seconds(1)))) ?? []
      stream.close()
      // From here on nothing is sure: what the server has lost, a list tells.
      self.version = nil
      if isTooOldOrNew(status, said) { return }
      throw api.failure(status, said, verb: "watch", at: stream.endpoint)
    }
    content.inSync()
    let lines = LineStream(stream, lineBytesMax: Self.eventBytesMax)
    defer { lines.close() }
    while !Task.isCancelled {
      let line: [UInt8]?
      do throws(HTTPFailure) {
        line = try await lines.next(silence: Self.silence, driver: driver)
      } catch {
        // Begun again from the last version, it will show whether the server is still there.
        return
      }
      guard let line, try take(line, stream.endpoint) else { return }
    }
  }

  private func isTooOldOrNew(_ status: Int, _ said: [UInt8]) -> Bool {
    status == 410 || String(decoding: said, as: UTF8.self).contains("Too large resource version")
  }

  /// False: the watch is over.
  private func take(_ line: [UInt8], _ endpoint: HTTPEndpoint) throws(RegistryError) -> Bool {
    guard let event = try? JSONShape.members(["type": .whole, "object": objectShape]).cut(line),
      let type = event["type"]?.stringValue, let object = event["object"]
    else {
      garbage.leftOut(HTTPText.short(line), because: "it is no event of an API server")
      return true
    }
    switch type {
    case "ADDED", "MODIFIED": _ = apply(object)
    case "DELETED":
      if let key = key(object) { objects.set(key, []) }
      if isOwn(object) { ownPod = nil }
    case "ERROR":
      version = nil
      let said = Array(event["object"]?.text().utf8 ?? "".utf8)
      let code = object["code"]?.intValue ?? 500
      if isTooOldOrNew(code, said) { return false }
      throw api.failure(code, said, verb: "watch", at: endpoint)
    default: break
    }
    version = object["metadata"]?["resourceVersion"]?.stringValue ?? version
    return true
  }

  /// Objects, and the Status that an ERROR has in their place.
  private var objectShape: JSONShape {
    guard case .members(var members) = shape else { return shape }
    for key in ["code", "message", "reason"] { members[key] = .whole }
    return .members(members)
  }

  // MARK: Objects

  private func key(_ object: JSONValue) -> String? {
    guard let name = object["metadata"]?["name"]?.stringValue, !name.isEmpty else { return nil }
    return (object["metadata"]?["namespace"]?.stringValue ?? "") + "/" + name
  }

  private func isOwn(_ object: JSONValue) -> Bool {
    api.options.mode == .pods && object["metadata"]?["name"]?.stringValue == api.options.pod
      && (object["metadata"]?["namespace"]?.stringValue ?? api.options.podNamespace) == api.options.podNamespace
  }

  private func apply(_ object: JSONValue) -> String? {
    guard let key = key(object) else {
      garbage.leftOut("?", because: "an object has no name")
      return nil
    }
    if isOwn(object) { ownPod = object }
    let services =
      switch api.options.mode {
      case .pods:
        PodEntries.services(of: object, wantsReadiness: api.options.wantsReadiness) { garbage.leftOut($0, because: $1) }
      case .slices: EndpointSlices.services(of: object, api.options) { garbage.leftOut($0, because: $1) }
      }
    objects.set(key, services)
    return key
  }
}
