// The bodies of the registry rules, and the watcher they use.

import SidecarCore

/// One rule's use of a registry. On the loop of the subject's driver only.
final class RegistryBench: @unchecked Sendable {
  private let subject: RegistrySubject
  private let name: ServiceName
  private var registry: any Registry { subject.registry }

  init(_ subject: RegistrySubject, name: ServiceName) {
    self.subject = subject
    self.name = name
  }

  // MARK: Tools

  private func service(
    _ ids: String..., version: String = "1.0", port: Int = 8000, suffix: String = ""
  ) -> Service {
    let name = name + suffix
    return Service(
      name: name, version: version,
      nodes: ids.map { Node(id: "\(name)-\($0)", address: "10.1.2.3:\(port)", metadata: ["zone": "a"]) })
  }

  private func write(_ service: Service, ttl: Duration? = nil) async throws(ConformanceFailure) {
    do throws(RegistryError) {
      try await subject.write(service, ttl)
    } catch {
      throw ConformanceFailure("registering \(service.name) failed: \(error)")
    }
  }

  private func erase(_ service: Service) async throws(ConformanceFailure) {
    do throws(RegistryError) {
      try await subject.erase(service)
    } catch {
      throw ConformanceFailure("deregistering \(service.name) failed: \(error)")
    }
  }

  /// Versions and nodes sorted; empty when not found.
  private func lookup(_ name: ServiceName) async throws(ConformanceFailure) -> [Service] {
    do throws(RegistryError) {
      let found = try await registry.lookup(name)
      if found.isEmpty { throw .invalid("it returned an empty list rather than notFound") }
      return Self.sorted(found)
    } catch {
      guard error == .notFound(name) else { throw ConformanceFailure("lookup of \(name) failed: \(error)") }
      return []
    }
  }

  private func allNames() async throws(ConformanceFailure) -> [ServiceName] {
    do throws(RegistryError) {
      return try await registry.list()
    } catch {
      throw ConformanceFailure("list failed: \(error)")
    }
  }

  private static func sorted(_ services: [Service]) -> [Service] {
    services.map { service in
      var service = service
      service.nodes.sort { $0.id < $1.id }
      return service
    }.sorted { ($0.name, $0.version) < ($1.name, $1.version) }
  }

  private func ids(_ services: [Service]) -> [String] { services.flatMap(\.nodes).map(\.id).sorted() }

  private func pass(_ duration: Duration) async {
    await subject.driver.pause(nanoseconds: duration.saturatingNanoseconds)
  }

  /// Waits until `condition` holds, at most the registry's patience.
  private func eventually(
    _ what: @autoclosure () -> String, _ condition: () async throws(ConformanceFailure) -> Bool
  ) async throws(ConformanceFailure) {
    let deadline = subject.driver.now.advanced(by: subject.traits.patience)
    while try await !condition() {
      try require(subject.driver.now < deadline, "after \(subject.traits.patience): \(what())")
      await pass(.milliseconds(5))
    }
  }

  private func eventuallyFound(_ expected: [String]) async throws(ConformanceFailure) {
    var found: [String] = []
    try await eventually("lookup of \(name) finds \(found) rather than \(expected)") {
      () async throws(ConformanceFailure) in
      found = ids(try await lookup(name))
      return found == expected
    }
  }

  private func fullIDs(_ ids: String...) -> [String] { ids.map { "\(name)-\($0)" } }

  /// A watch and the picture its events paint.
  private final class Watcher: @unchecked Sendable {
    var picture: [ServiceName: [String: [String: Node]]] = [:]
    var events = 0
    var snapshots = 0
    var startsWithSnapshot: Bool?
    var names: Set<ServiceName> = []
    var failure: RegistryError?
    /// A pause before each event is taken.
    var delay: Duration?
    private var task: Task<Void, Never>?

    func start(_ bench: RegistryBench, _ scope: WatchScope) {
      let registry = bench.registry
      task = startTask(on: bench.subject.driver) { [self] in
        do throws(RegistryError) {
          try await registry.watch(scope) { [self] event in
            if let delay { await bench.pass(delay) }
            fold(event)
          }
          failure = .invalid("watch returned without an error")
        } catch {
          failure = error
        }
      }
    }

    func cancel() { task?.cancel() }

    func ids(_ name: ServiceName) -> [String] {
      (picture[name] ?? [:]).values.flatMap(\.keys).sorted()
    }
    func node(_ name: ServiceName, _ id: String) -> Node? {
      (picture[name] ?? [:]).values.compactMap { $0[id] }.first
    }

    private func fold(_ event: RegistryEvent) {
      events += 1
      switch event {
      case .snapshot(let services):
        snapshots += 1
        startsWithSnapshot = startsWithSnapshot ?? true
        picture = [:]
        for service in services { put(service) }
      case .upsert(let service):
        startsWithSnapshot = startsWithSnapshot ?? false
        put(service)
      case .remove(let service):
        startsWithSnapshot = startsWithSnapshot ?? false
        names.insert(service.name)
        if service.nodes.isEmpty { picture[service.name]?[service.version] = nil }
        for node in service.nodes { picture[service.name]?[service.version]?[node.id] = nil }
      }
    }

    private func put(_ service: Service) {
      names.insert(service.name)
      for node in service.nodes {
        picture[service.name, default: [:]][service.version, default: [:]][node.id] = node
      }
    }
  }

  private func watch(_ scope: WatchScope, delay: Duration? = nil) async throws(ConformanceFailure) -> Watcher {
    let watcher = Watcher()
    watcher.delay = delay
    watcher.start(self, scope)
    try await eventually("the watch has told nothing (\(watcher.failure?.description ?? "it goes on"))") {
      watcher.events > 0
    }
    return watcher
  }

  // MARK: Rules

  func requireNotFound() async throws(ConformanceFailure) {
    do throws(RegistryError) {
      let found = try await registry.lookup(name)
      throw RegistryError.invalid("found \(found)")
    } catch {
      try require(error == .notFound(name), "expected notFound, got: \(error)")
    }
  }

  func roundTrip() async throws(ConformanceFailure) {
    let request = Value(
      name: "Request", type: "Request",
      values: [Value(name: "name", type: "string"), Value(name: "tags", type: "[]string", values: [])])
    var expected = Service(
      name: name, version: "2.1-beta", metadata: subject.traits.keepsServiceMetadata ? ["team": "blue"] : [:],
      endpoints: [
        Endpoint(name: "Say.Hello", request: request, response: Value(name: "Response", type: "Response")),
        Endpoint(name: "Say.Stream", metadata: ["stream": "true"]),
      ])
    expected.nodes = [
      Node(
        id: "\(name)-a", address: "10.1.2.3:8000",
        metadata: ["protocol": "mucp", "empty": "", "text": "ünï — \"quoted\" \\ / = , ; \u{1F600}"]),
      Node(id: "\(name)-b", address: "10.1.2.4:65535"),
    ]
    try await write(expected)
    try await eventuallyFound(fullIDs("a", "b"))
    let found = try await lookup(name)
    try require(found == [expected], "wrote \(expected), found \(found)")
    try await erase(expected)
  }

  func versions() async throws(ConformanceFailure) {
    try await write(service("a", version: "1"))
    try await write(service("b", version: "2"))
    try await eventuallyFound(fullIDs("a", "b"))
    let found = try await lookup(name)
    try require(found.map(\.version) == ["1", "2"], "found versions \(found.map(\.version))")
    try require(found.allSatisfy { $0.nodes.count == 1 }, "versions share nodes: \(found)")
    if subject.traits.takesEmptyVersion {
      try await write(service("c", version: ""))
      try await eventuallyFound(fullIDs("a", "b", "c"))
      try await erase(service("c", version: ""))
    }
    try await erase(service("a", version: "1"))
    try await eventuallyFound(fullIDs("b"))
    try await erase(service("b", version: "2"))
  }

  func oneByOne() async throws(ConformanceFailure) {
    for id in ["c", "a", "b"] { try await write(service(id)) }
    try await eventuallyFound(fullIDs("a", "b", "c"))
    try require(try await lookup(name).count == 1, "one version is reported as several")
    try await erase(service("a", "b", "c"))
    try await eventuallyFound([])
  }

  func update() async throws(ConformanceFailure) {
    try await write(service("a", "b"))
    try await eventuallyFound(fullIDs("a", "b"))
    try await write(service("a", port: 9999))
    try await eventually("the node still has its old address") { () async throws(ConformanceFailure) in
      try await lookup(name).flatMap(\.nodes).contains { $0.address == "10.1.2.3:9999" }
    }
    try require(ids(try await lookup(name)) == fullIDs("a", "b"), "an update lost or added nodes")
    try await erase(service("a", "b"))
  }

  func twice() async throws(ConformanceFailure) {
    try await write(service("a"), ttl: .seconds(60))
    try await eventuallyFound(fullIDs("a"))
    let watcher = try await watch(.service(name))
    defer { watcher.cancel() }
    let before = watcher.events
    for _ in 0..<3 { try await write(service("a"), ttl: .seconds(60)) }
    await pass(.milliseconds(200))
    try require(ids(try await lookup(name)) == fullIDs("a"), "the node is there more than once")
    try require(watcher.events == before, "\(watcher.events - before) events though nothing changed")
    try await erase(service("a"))
  }

  func deregister() async throws(ConformanceFailure) {
    try await write(service("a", "b", "c"))
    try await eventuallyFound(fullIDs("a", "b", "c"))
    try await erase(service("b"))
    try await eventuallyFound(fullIDs("a", "c"))
    try await erase(service("a", "c"))
    try await eventuallyFound([])
    try await requireNotFound()
  }

  func deregisterNothing() async throws(ConformanceFailure) {
    try await erase(service("a"))
    try await write(service("a"))
    try await erase(service("other"))
    try await erase(service("a"))
    try await erase(service("a"))
    try await eventuallyFound([])
  }

  func list() async throws(ConformanceFailure) {
    let suffixes = [".b", ".a", ".c"]
    for suffix in suffixes {
      try await write(service("x", version: "1", suffix: suffix))
      try await write(service("y", version: "2", suffix: suffix))
    }
    let expected = suffixes.map { name + $0 }.sorted()
    var found: [ServiceName] = []
    try await eventually("listed \(found) rather than \(expected)") { () async throws(ConformanceFailure) in
      found = try await allNames().filter { $0.hasPrefix(name + ".") }
      return found == expected
    }
    let all = try await allNames()
    try require(all == Set(all).sorted(), "the list is not sorted or names a service twice: \(all)")
    for suffix in suffixes {
      try await erase(service("x", version: "1", suffix: suffix))
      try await erase(service("y", version: "2", suffix: suffix))
    }
    try await eventually("a service without nodes is still listed") { () async throws(ConformanceFailure) in
      try await allNames().allSatisfy { !$0.hasPrefix(name + ".") }
    }
  }

  func expiry() async throws(ConformanceFailure) {
    let watcher = try await watch(.service(name))
    defer { watcher.cancel() }
    try await write(service("a"), ttl: .seconds(1))
    try await write(service("b"), ttl: nil)
    try await eventuallyFound(fullIDs("a", "b"))
    await pass(.seconds(1))
    try await eventuallyFound(fullIDs("b"))
    try await eventually("the watch has not told that the entry ended") { watcher.ids(name) == fullIDs("b") }
    try await erase(service("b"))
  }

  func renewal() async throws(ConformanceFailure) {
    try await write(service("a"), ttl: .seconds(2))
    for _ in 0..<6 {
      await pass(.milliseconds(700))
      try await write(service("a"), ttl: .seconds(2))
      try require(ids(try await lookup(name)) == fullIDs("a"), "an entry that was renewed in time is gone")
    }
    try await erase(service("a"))
  }

  func watchSnapshot() async throws(ConformanceFailure) {
    try await write(service("a", "b"))
    try await eventuallyFound(fullIDs("a", "b"))
    for scope in [WatchScope.all, .service(name)] {
      let watcher = try await watch(scope)
      defer { watcher.cancel() }
      try require(watcher.startsWithSnapshot == true, "the first event is no snapshot")
      try await eventually("the watch shows \(watcher.ids(name))") { watcher.ids(name) == fullIDs("a", "b") }
      try require(watcher.snapshots == 1, "\(watcher.snapshots) snapshots though nothing was missed")
    }
    let none = try await watch(.service(name + ".nothing"))
    try require(none.startsWithSnapshot == true, "a watch of a service that is not there begins without a snapshot")
    none.cancel()
    try await erase(service("a", "b"))
  }

  func watchOrder() async throws(ConformanceFailure) {
    let watcher = try await watch(.all)
    defer { watcher.cancel() }
    try await write(service("a"))
    try await eventually("the new node is not told of") { watcher.ids(name) == fullIDs("a") }
    try await write(service("a", port: 9000))
    try await eventually("the changed node is not told of") {
      watcher.node(name, fullIDs("a")[0])?.address == "10.1.2.3:9000"
    }
    try await write(service("b"))
    try await erase(service("a"))
    try await eventually("the watch shows \(watcher.ids(name))") { watcher.ids(name) == fullIDs("b") }
    for round in 0..<50 { try await write(service("b", port: 9001 + round)) }
    try await eventually("the last of many changes is not the one that stays") {
      watcher.node(name, fullIDs("b")[0])?.address == "10.1.2.3:9050"
    }
    await pass(.milliseconds(100))
    try require(
      watcher.node(name, fullIDs("b")[0])?.address == "10.1.2.3:9050", "an earlier change came after a later one")
    try await erase(service("b"))
    try await eventually("the watch shows \(watcher.ids(name))") { watcher.ids(name).isEmpty }
  }

  func watchOne() async throws(ConformanceFailure) {
    try await write(service("x", suffix: ".before"))
    let watcher = try await watch(.service(name))
    defer { watcher.cancel() }
    try await write(service("x", suffix: ".after"))
    try await write(service("a"))
    try await eventually("the watch shows \(watcher.ids(name))") { watcher.ids(name) == fullIDs("a") }
    try await erase(service("x", suffix: ".before"))
    try await erase(service("x", suffix: ".after"))
    try await erase(service("a"))
    try await eventually("the watch shows \(watcher.ids(name))") { watcher.ids(name).isEmpty }
    try require(watcher.names.isSubset(of: [name]), "told of \(watcher.names.sorted())")
  }

  func slowWatcher() async throws(ConformanceFailure) {
    let watcher = try await watch(.service(name), delay: .milliseconds(20))
    defer { watcher.cancel() }
    for round in 0..<3000 {
      try await write(service("a", port: 1 + round))
      if round % 3 == 0 { try await write(service("b")) }
      if round % 3 == 1 { try await erase(service("b")) }
    }
    // What it is behind, it may take its time for.
    watcher.delay = nil
    try await eventually("the slow watcher shows \(watcher.picture)") {
      watcher.ids(name) == fullIDs("a") && watcher.node(name, fullIDs("a")[0])?.address == "10.1.2.3:3000"
    }
    try await erase(service("a"))
  }

  func twoWatchers() async throws(ConformanceFailure) {
    let first = try await watch(.all)
    let second = try await watch(.service(name))
    defer {
      first.cancel()
      second.cancel()
    }
    try await write(service("a", "b"))
    try await erase(service("a"))
    for watcher in [first, second] {
      try await eventually("a watcher shows \(watcher.ids(name))") { watcher.ids(name) == fullIDs("b") }
    }
    first.cancel()
    try await write(service("c"))
    try await eventually("the other watcher has stopped too") { second.ids(name) == fullIDs("b", "c") }
    try await erase(service("b", "c"))
  }

  func cancellation() async throws(ConformanceFailure) {
    let watcher = try await watch(.all)
    watcher.cancel()
    try await eventually("the cancelled watch goes on") { watcher.failure != nil }
    guard case .unavailable = watcher.failure else {
      throw ConformanceFailure("a cancelled watch ended with \(watcher.failure.map(String.init(describing:)) ?? "")")
    }
    let events = watcher.events
    try await write(service("a"))
    await pass(.milliseconds(100))
    try require(watcher.events == events, "the cancelled watch was told of a change")
    try await erase(service("a"))
  }

  func garbage() async throws(ConformanceFailure) {
    let watcher = try await watch(.all)
    defer { watcher.cancel() }
    let long = String(repeating: "x", count: 70_000)
    let node = Node(id: "n", address: "10.1.2.3:80")
    let entries = [
      Service(name: "", nodes: [node]), Service(name: "\(name)/..\u{0}\n\u{7F}", nodes: [node]),
      Service(name: long, nodes: [node]), Service(name: name + ".g1"), Service(name: name + ".g2", version: long),
      Service(name: name + ".g3", nodes: [Node(id: "", address: "")]),
      Service(name: name + ".g4", nodes: [Node(id: "\u{0}", address: ":\n99999", metadata: ["": "", long: long])]),
      Service(name: name + ".g5", nodes: [node, node]),
      Service(name: "..", endpoints: [Endpoint(name: long)], nodes: [node]),
    ]
    for entry in entries {
      // Refused or taken, either is well: what counts is that the registry goes on.
      try? await subject.write(entry, .seconds(1))
      _ = try? await registry.lookup(entry.name)
      try? await subject.erase(entry)
    }
    try await write(service("a"))
    try await eventuallyFound(fullIDs("a"))
    try await eventually("the watch has stopped") { watcher.ids(name) == fullIDs("a") }
    try await erase(service("a"))
  }

  func manyServices() async throws(ConformanceFailure) {
    let count = subject.traits.many
    let all = (0..<count).map { index in
      service("0", "1", "2", "3", "4", "5", "6", "7", "8", "9", suffix: ".\(index)")
    }
    try await forEach(all) { [self] service throws(ConformanceFailure) in try await write(service) }
    let prefix = name + "."
    var listed = 0
    try await eventually("listed \(listed) of \(count) services") { () async throws(ConformanceFailure) in
      listed = try await allNames().count { $0.hasPrefix(prefix) }
      return listed == count
    }
    let watcher = try await watch(.all)
    var seen = 0
    try await eventually("the watch shows \(seen) of \(count) services of ten nodes") {
      seen = watcher.picture.count { name, _ in name.hasPrefix(prefix) && watcher.ids(name).count == 10 }
      return seen == count
    }
    try await forEach(all) { [self] service throws(ConformanceFailure) in try await erase(service) }
    try await eventually("services that left are still watched") {
      watcher.picture.allSatisfy { name, _ in !name.hasPrefix(prefix) || watcher.ids(name).isEmpty }
    }
    watcher.cancel()
  }

  /// Does `work` for each service, a few at a time.
  private func forEach(
    _ services: [Service], _ work: @escaping @Sendable (Service) async throws(ConformanceFailure) -> Void
  ) async throws(ConformanceFailure) {
    let failures = Failures()
    await withTaskGroup(of: Void.self) { group in
      for start in 0..<16 {
        group.addTask {
          for index in stride(from: start, to: services.count, by: 16) where failures.messages.isEmpty {
            do throws(ConformanceFailure) {
              try await work(services[index])
            } catch {
              failures.messages.append(error.message)
            }
          }
        }
      }
    }
    try require(failures.messages.isEmpty, failures.messages.joined(separator: "; "))
  }

  func concurrent() async throws(ConformanceFailure) {
    let failures = Failures()
    await withTaskGroup(of: Void.self) { group in
      for index in 0..<40 {
        group.addTask { [self] in
          do throws(ConformanceFailure) {
            try await write(service("n\(index)"))
            _ = try await lookup(name)
            if index % 2 == 1 { try await erase(service("n\(index)")) }
          } catch {
            failures.messages.append(error.message)
          }
        }
      }
    }
    try require(failures.messages.isEmpty, failures.messages.joined(separator: "; "))
    let expected = stride(from: 0, to: 40, by: 2).map { "\(name)-n\($0)" }.sorted()
    try await eventuallyFound(expected)
    for index in stride(from: 0, to: 40, by: 2) { try await erase(service("n\(index)")) }
  }

  /// Touched on the loop only.
  private final class Failures: @unchecked Sendable { var messages: [String] = [] }

  func readOnly() async throws(ConformanceFailure) {
    for operation in ["register", "deregister"] {
      do throws(RegistryError) {
        if operation == "register" {
          try await registry.register(service("a"), ttl: nil)
        } else {
          try await registry.deregister(service("a"))
        }
        throw .invalid("nothing")
      } catch {
        try require(error == .readOnly, "\(operation): expected readOnly, got \(error)")
      }
    }
  }
}
