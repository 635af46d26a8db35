import Testing

@testable import SidecarCore

/// Keeps log lines.
final class RecordedLog: LogSink, @unchecked Sendable {
  private(set) var lines: [(level: LogLevel, message: String)] = []
  var level: LogLevel { .trace }
  func log(
    _ level: LogLevel, _ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)]
  ) {
    lines.append((level, message()))
  }
  func count(_ level: LogLevel, containing text: String = "") -> Int {
    lines.count { $0.level == level && (text.isEmpty || $0.message.contains(text)) }
  }
}

func greeter(_ ids: String..., version: String = "1", port: Int = 80, metadata: [String: String] = [:]) -> Service {
  Service(
    name: "greeter", version: version,
    nodes: ids.map { Node(id: $0, address: "10.0.0.1:\(port)", metadata: metadata) })
}

private func service(_ name: String, address: String = "10.0.0.1:80", id: String = "a") -> Service {
  Service(name: name, version: "1", nodes: [Node(id: id, address: address)])
}

/// A catalog whose turns end when the test says so.
private final class Rig {
  let log = RecordedLog()
  var waiting: [() -> Void] = []
  var deltas: [CatalogDelta] = []
  var now = Instant(nanoseconds: 1_000_000_000)
  private(set) var catalog: Catalog! = nil

  init(_ registries: [String] = ["one"], limits: RegistryView.Limits = RegistryView.Limits()) {
    catalog = Catalog(registries: registries, now: now, limits: limits, log: log) { [unowned self] in
      waiting.append($0)
    }
    catalog.observe { [unowned self] in deltas.append($0) }
  }

  func apply(_ event: RegistryEvent, from registry: Int = 0) {
    catalog.apply(event, from: registry, now: now)
  }

  func endTurn() {
    let work = waiting
    waiting = []
    for item in work { item() }
  }

  func ids(_ name: String = "greeter") -> [String]? { catalog.entry(name)?.nodes.map(\.node.id) }
}

@Suite("Catalog") struct CatalogTests {
  @Test func `a snapshot, then changes, are folded in order`() {
    let rig = Rig()
    rig.apply(.snapshot([greeter("a", "b")]))
    rig.endTurn()
    #expect(rig.ids() == ["a", "b"])
    rig.apply(.upsert(greeter("c")))
    rig.apply(.remove(greeter("a")))
    rig.endTurn()
    #expect(rig.ids() == ["b", "c"])
    rig.apply(.snapshot([greeter("d")]))
    rig.endTurn()
    #expect(rig.ids() == ["d"])
    rig.apply(.snapshot([]))
    rig.endTurn()
    #expect(rig.ids() == nil)
    #expect(rig.deltas.last?.removed == ["greeter"])
  }

  @Test func `changes of one turn become one delta`() {
    let rig = Rig()
    for index in 0..<100 { rig.apply(.upsert(greeter("node-\(index)"))) }
    #expect(rig.deltas.isEmpty)
    rig.endTurn()
    #expect(rig.deltas.count == 1)
    #expect(rig.deltas.first?.changed.first?.nodes.count == 100)
  }

  @Test func `what changes nothing sends nothing and keeps the revision`() {
    let rig = Rig()
    rig.apply(.snapshot([greeter("a", "b")]))
    rig.endTurn()
    let before = rig.catalog.entry("greeter")
    rig.apply(.snapshot([greeter("b", "a")]))
    rig.apply(.upsert(greeter("a")))
    rig.apply(.remove(greeter("never-there")))
    rig.endTurn()
    #expect(rig.catalog.entry("greeter") === before)
    #expect(rig.deltas.count == 1)
  }

  @Test func `the revision of an entry grows with its nodes`() throws {
    let rig = Rig()
    rig.apply(.upsert(greeter("a")))
    rig.endTurn()
    let first = try #require(rig.catalog.entry("greeter"))
    rig.apply(.upsert(greeter("a", port: 81)))
    rig.endTurn()
    let second = try #require(rig.catalog.entry("greeter"))
    #expect(second.revision > first.revision)
    #expect(second.nodes.map(\.node.address) == ["10.0.0.1:81"])
  }

  @Test func `removing a service without nodes removes that version only`() {
    let rig = Rig()
    rig.apply(.snapshot([greeter("a", version: "1"), greeter("b", version: "2")]))
    rig.apply(.remove(Service(name: "greeter", version: "1")))
    rig.endTurn()
    #expect(rig.ids() == ["b"])
    #expect(rig.catalog.entry("greeter")?.versions.map(\.version) == ["2"])
  }

  @Test func `a node seen in two registries is one node, and stays until both lose it`() throws {
    let rig = Rig(["one", "two"])
    rig.apply(.snapshot([greeter("a", port: 1)]), from: 0)
    rig.apply(.snapshot([greeter("a", "b", port: 2)]), from: 1)
    rig.endTurn()
    let nodes = try #require(rig.catalog.entry("greeter")).nodes
    #expect(nodes.map(\.node.id) == ["a", "b"])
    #expect(nodes.map(\.node.address) == ["10.0.0.1:1", "10.0.0.1:2"], "the registry configured first wins")
    #expect(nodes.map(\.origins) == [[0, 1], [1]])
    rig.apply(.remove(greeter("a")), from: 0)
    rig.endTurn()
    #expect(rig.catalog.entry("greeter")?.nodes.map(\.node.address) == ["10.0.0.1:2", "10.0.0.1:2"])
    rig.apply(.remove(greeter("a", "b")), from: 1)
    rig.endTurn()
    #expect(rig.ids() == nil)
  }

  @Test func `versions share their description by reference`() throws {
    let rig = Rig()
    var described = greeter("a", "b")
    described.endpoints = [Endpoint(name: "Say.Hello")]
    rig.apply(.snapshot([described]))
    rig.endTurn()
    let nodes = try #require(rig.catalog.entry("greeter")).nodes
    #expect(nodes[0].version === nodes[1].version)
    #expect(nodes[0].version.endpoint("Say.Hello") != nil)
  }

  @Test func `an outage keeps the last content, marked stale, at the same revision`() throws {
    let rig = Rig()
    rig.apply(.snapshot([greeter("a")]))
    rig.endTurn()
    let fresh = try #require(rig.catalog.entry("greeter"))
    #expect(rig.catalog.lost(0, cause: "connection refused", now: rig.now))
    #expect(!rig.catalog.lost(0, cause: "connection refused", now: rig.now), "one outage is told once")
    rig.endTurn()
    let stale = try #require(rig.catalog.entry("greeter"))
    #expect(stale.isStale && !fresh.isStale)
    #expect(stale.revision == fresh.revision)
    rig.now = rig.now.advanced(by: .seconds(7))
    let state = try #require(rig.catalog.snapshot(now: rig.now).registries.first)
    #expect(state.phase == .stale)
    #expect(state.age == .seconds(7))
    #expect(state.lastError == "connection refused")
    rig.apply(.snapshot([greeter("a")]))
    rig.endTurn()
    #expect(rig.catalog.entry("greeter")?.isStale == false)
    #expect(rig.catalog.snapshot(now: rig.now).registries.first?.age == .zero)
  }

  @Test func `an entry is stale only when no reachable registry reports it, and reachable ones win`() {
    let rig = Rig(["one", "two"])
    rig.apply(.snapshot([greeter("a", port: 1)]), from: 0)
    rig.apply(.snapshot([greeter("a", port: 2)]), from: 1)
    rig.catalog.lost(0, cause: "gone", now: rig.now)
    rig.endTurn()
    #expect(rig.catalog.entry("greeter")?.isStale == false)
    #expect(rig.catalog.entry("greeter")?.nodes.map(\.node.address) == ["10.0.0.1:2"])
    rig.catalog.lost(1, cause: "gone", now: rig.now)
    rig.endTurn()
    #expect(rig.catalog.entry("greeter")?.isStale == true)
    #expect(rig.catalog.entry("greeter")?.nodes.map(\.node.address) == ["10.0.0.1:1"])
  }

  // MARK: Registries that forget

  /// As `greeter`, each node with an address of its own.
  private func spread(_ ids: String...) -> Service {
    Service(
      name: "greeter", version: "1",
      nodes: ids.map { Node(id: $0, address: "10.0.0.1:\($0.utf8.first ?? 1)") })
  }

  /// Two services, an outage, and what the registry says after it.
  private func forgetting(_ after: [Service]) -> Rig {
    let rig = Rig()
    rig.apply(.snapshot([spread("a", "b", "c"), service("other")]))
    rig.catalog.lost(0, cause: "gone", now: rig.now)
    rig.apply(.snapshot(after))
    rig.endTurn()
    return rig
  }

  @Test func `what a registry has forgotten after an outage stays in use for a while`() throws {
    let rig = forgetting([])
    #expect(rig.ids() == ["a", "b", "c"] && rig.ids("other") == ["a"])
    #expect(rig.catalog.entry("greeter")?.isStale == true)
    #expect(rig.catalog.content(of: 0).map(\.name) == ["greeter", "other"])
    #expect(rig.log.count(.warning, containing: "forgotten 4 nodes") == 1)
    let until = try #require(rig.catalog.forgottenUntil(0))
    rig.catalog.dropForgotten(0, now: until.advanced(byNanoseconds: -1))
    rig.endTurn()
    #expect(rig.ids() == ["a", "b", "c"])
    rig.catalog.dropForgotten(0, now: until)
    rig.endTurn()
    #expect(rig.ids() == nil && rig.ids("other") == nil && rig.catalog.forgottenUntil(0) == nil)
  }

  @Test func `forgotten nodes that register again are known as before, and leave as others do`() {
    let rig = forgetting([spread("a")])
    #expect(rig.ids() == ["a", "b", "c"])
    rig.apply(.upsert(spread("b")))
    rig.apply(.upsert(service("other")))
    rig.apply(.remove(spread("c")))
    rig.endTurn()
    #expect(rig.ids() == ["a", "b"])
    #expect(rig.catalog.entry("greeter")?.nodes.map(\.origins) == [[0], [0]])
    #expect(rig.catalog.entry("other")?.isStale == false)
    rig.apply(.remove(spread("b")))
    rig.endTurn()
    #expect(rig.ids() == ["a"] && rig.catalog.forgottenUntil(0) == nil)
  }

  @Test func `a forgotten node that registers under another id or version is one node`() {
    let rig = Rig()
    rig.apply(.snapshot([greeter("a", port: 1)]))
    rig.catalog.lost(0, cause: "gone", now: rig.now)
    rig.apply(.snapshot([]))
    rig.apply(.upsert(greeter("new", version: "2", port: 1)))
    rig.endTurn()
    #expect(rig.ids() == ["new"])
  }

  @Test func `the smaller part of a service that is gone after an outage has left`() {
    let rig = forgetting([spread("a", "b"), service("other")])
    #expect(rig.ids() == ["a", "b"] && rig.catalog.forgottenUntil(0) == nil)
  }

  @Test func `without an outage what is gone is gone`() {
    let rig = Rig()
    rig.apply(.snapshot([spread("a", "b", "c")]))
    rig.apply(.snapshot([]))
    rig.endTurn()
    #expect(rig.ids() == nil)
  }

  /// Entries as a broken or hostile registry might report them, by what is wrong with each.
  private static let garbage: [String: Service] = [
    "empty name": service(""),
    "slash in the name": service("a/b"),
    "blank in the name": service("a b"),
    "control character in the name": service("a\u{1}"),
    "line end in the name": service("a\n"),
    "name too long": service(String(repeating: "x", count: 256)),
    "no address": service("a", address: ""),
    "no port": service("a", address: "10.0.0.1"),
    "empty port": service("a", address: "10.0.0.1:"),
    "port zero": service("a", address: "10.0.0.1:0"),
    "port too high": service("a", address: "10.0.0.1:65536"),
    "no host": service("a", address: ":80"),
    "wildcard host": service("a", address: "0.0.0.0:80"),
    "blank in the host": service("a", address: "host name:80"),
    "no id": service("a", id: ""),
    "control character in the id": service("a", id: "x\u{7F}"),
    "id too long": service("a", id: String(repeating: "x", count: 513)),
    "line end in the version": Service(name: "a", version: "1\n2", nodes: [Node(id: "a", address: "10.0.0.1:80")]),
    "huge metadata": Service(
      name: "a", version: "1",
      nodes: [Node(id: "a", address: "q:1", metadata: ["k": String(repeating: "v", count: 20_000)])]),
  ]

  @Test(arguments: garbage.keys.sorted())
  func `garbage is skipped, counted and logged once`(_ kind: String) throws {
    let garbage = try #require(Self.garbage[kind])
    let rig = Rig()
    for _ in 0..<3 { rig.apply(.snapshot([garbage, greeter("good")])) }
    rig.endTurn()
    #expect(rig.catalog.snapshot(now: rig.now).names == ["greeter"])
    #expect(rig.catalog.snapshot(now: rig.now).registries[0].skipped.asGarbage == 3)
    #expect(rig.log.count(.warning, containing: "skipped") == 1)
    #expect(rig.log.lines.allSatisfy { !$0.message.utf8.contains { $0 < 0x20 } })
  }

  @Test func `descriptions that nest too deep or weigh too much are skipped`() {
    var deep = Value(name: "v", type: "T")
    for _ in 0..<20 { deep = Value(name: "v", type: "T", values: [deep]) }
    var nested = greeter("a")
    nested.endpoints = [Endpoint(name: "E", request: deep)]
    var heavy = greeter("b", version: "2")
    heavy.endpoints = (0..<10_000).map { Endpoint(name: "Endpoint.Number\($0)") }
    let rig = Rig()
    rig.apply(.snapshot([nested, heavy]))
    rig.endTurn()
    #expect(rig.ids() == nil)
    #expect(rig.catalog.snapshot(now: rig.now).registries[0].skipped.asGarbage == 2)
  }

  @Test func `a full table keeps what it has`() {
    var limits = RegistryView.Limits()
    limits.servicesMax = 3
    limits.nodesPerServiceMax = 2
    limits.versionsPerServiceMax = 2
    limits.nodesMax = 5
    let rig = Rig(limits: limits)
    rig.apply(.upsert(greeter("a", "b", "c")))
    rig.apply(.upsert(greeter("d", version: "2")))
    for name in ["s1", "s2", "s3"] { rig.apply(.upsert(service(name))) }
    rig.endTurn()
    #expect(rig.ids() == ["a", "b"])
    #expect(rig.catalog.snapshot(now: rig.now).names == ["greeter", "s1", "s2"])
    #expect(rig.catalog.snapshot(now: rig.now).registries[0].skipped.asFull == 3)
    rig.apply(.upsert(greeter("a", port: 99)))
    rig.endTurn()
    #expect(rig.catalog.entry("greeter")?.nodes.map(\.node.address) == ["10.0.0.1:99", "10.0.0.1:80"])
    rig.apply(.remove(greeter("a", "b")))
    rig.apply(.upsert(service("s3")))
    rig.endTurn()
    #expect(rig.catalog.snapshot(now: rig.now).names == ["s1", "s2", "s3"])
  }

  @Test func `log lines about garbage end at their limit`() {
    let rig = Rig()
    for index in 0..<(Catalog.skipLogLinesMax * 2) { rig.apply(.upsert(service("bad/\(index)"))) }
    #expect(rig.log.count(.warning) == Catalog.skipLogLinesMax + 1)
  }

  @Test func `an address of a bus transport is taken where the node names that transport`() {
    let rig = Rig()
    let queue = Service(
      name: "bus", version: "1", nodes: [Node(id: "q", address: "inbox.42", metadata: ["transport": "nats"])])
    rig.apply(.snapshot([queue]))
    rig.endTurn()
    #expect(rig.catalog.entry("bus")?.nodes.map(\.target) == [.opaque("inbox.42")])
  }

  @Test func `what a lookup found joins what the watch told`() {
    let rig = Rig()
    rig.apply(.snapshot([greeter("a")]))
    rig.catalog.applyLookup([greeter("b"), service("other")], of: "greeter", from: 0)
    rig.endTurn()
    #expect(rig.ids() == ["a", "b"])
    #expect(rig.ids("other") == nil, "an answer to another question is not taken")
  }

  @Test func `what only a lookup found is refreshed until the watch tells of it`() {
    let rig = Rig()
    rig.apply(.snapshot([]))
    rig.catalog.applyLookup([greeter("a")], of: "greeter", from: 0)
    rig.endTurn()
    #expect(rig.catalog.unconfirmed(0) == ["greeter"])
    rig.catalog.refresh([greeter("b")], of: "greeter", from: 0)
    rig.endTurn()
    #expect(rig.ids() == ["b"])
    rig.apply(.upsert(greeter("c")))
    rig.catalog.refresh([], of: "greeter", from: 0)
    rig.endTurn()
    #expect(rig.ids() == ["b", "c"], "the watch tells of it now")
    rig.apply(.snapshot([]))
    rig.catalog.applyLookup([greeter("a")], of: "greeter", from: 0)
    rig.catalog.refresh([], of: "greeter", from: 0)
    rig.endTurn()
    #expect(rig.ids() == nil)
    #expect(rig.catalog.unconfirmed(0).isEmpty)
  }

  @Test func `random histories over three registries end equal to the registries' own content`() {
    for seed in UInt64(0)..<200 {
      var random = SeededRandom(seed: seed)
      let rig = Rig(["a", "b", "c"])
      var model: [[String: Set<String>]] = [[:], [:], [:]]  // registry → name → ids
      for _ in 0..<100 {
        let registry = random.below(3)
        let name = "s\(random.below(4))"
        let id = "n\(random.below(5))"
        switch random.below(8) {
        case 0:
          model[registry] = [name: [id]]
          rig.apply(.snapshot([service(name, id: id)]), from: registry)
        case 1, 2, 3:
          model[registry][name, default: []].insert(id)
          rig.apply(.upsert(service(name, id: id)), from: registry)
        case 4, 5:
          model[registry][name]?.remove(id)
          rig.apply(.remove(service(name, id: id)), from: registry)
        case 6: rig.catalog.lost(registry, cause: "flap", now: rig.now)
        default: rig.endTurn()
        }
      }
      rig.endTurn()
      rig.now = rig.now.advanced(by: .seconds(45))
      for registry in 0..<3 { rig.catalog.dropForgotten(registry, now: rig.now) }
      rig.endTurn()
      // A worker that only ever saw deltas must agree with the catalog, and both with the model.
      var worker: [String: ServiceEntry] = [:]
      for delta in rig.deltas {
        for entry in delta.changed { worker[entry.name] = entry }
        for name in delta.removed { worker[name] = nil }
      }
      for name in (0..<4).map({ "s\($0)" }) {
        let expected = model.reduce(into: Set<String>()) { $0.formUnion($1[name] ?? []) }
        #expect(Set(rig.ids(name) ?? []) == expected, "seed \(seed)")
        #expect(worker[name] === rig.catalog.entry(name), "seed \(seed)")
      }
      #expect(rig.deltas.map(\.revision) == rig.deltas.map(\.revision).sorted(), "seed \(seed)")
    }
  }

  @Test func `a thousand services of ten nodes fold in one turn`() {
    let rig = Rig()
    let services = (0..<1000).map { index in
      Service(name: "service-\(index)", nodes: (0..<10).map { Node(id: "n\($0)", address: "10.0.0.1:\($0 + 1)") })
    }
    rig.apply(.snapshot(services))
    rig.endTurn()
    #expect(rig.deltas.count == 1)
    #expect(rig.catalog.snapshot(now: rig.now).services.count == 1000)
  }
}

@Suite("Dial targets") struct DialTargetTests {
  @Test func `addresses are read as what they are`() {
    #expect(DialTarget("10.0.0.1:80") == .socket(.ipv4(address: 0x0A00_0001, port: 80)))
    #expect(DialTarget("[::1]:80") == .socket(.ipv6(high: 0, low: 1, zone: 0, port: 80)))
    #expect(DialTarget("unix:/run/a") == .socket(.unix(path: "/run/a")))
    #expect(DialTarget("app.local:80") == .name(host: "app.local", port: 80))
    #expect(DialTarget("queue") == .opaque("queue"))
    #expect(DialTarget("topic:name") == .opaque("topic:name"))
  }

  @Test(arguments: [
    "", " ", "a:0", "a:65536", "a:99999999999999999999", ":80", "0.0.0.0:80", "[::]:80", "a b:80", "a:",
  ])
  func `what cannot be dialled is refused`(_ text: String) { #expect(DialTarget(text) == nil) }
}

@Suite("Catalog feed") struct CatalogFeedTests {
  /// A mailbox that is emptied by hand.
  private final class Box: Mailbox, @unchecked Sendable {
    var work: [@Sendable () -> Void] = []
    func post(_ work: @escaping @Sendable () -> Void) { self.work.append(work) }
    func run() {
      let all = work
      work = []
      for item in all { item() }
    }
  }
  private final class Seen: @unchecked Sendable { var deltas: [CatalogDelta] = [] }

  private func entry(_ name: String, _ revision: UInt64) -> ServiceEntry {
    ServiceEntry(name: name, revision: revision, versions: [], nodes: [], isStale: false)
  }

  @Test func `at most one message is under way, and the next carries the latest of each name`() {
    let worker = Box()
    let control = Box()
    let seen = Seen()
    let feed = CatalogFeed(worker: worker, control: control) { seen.deltas.append($0) }
    feed.send(CatalogDelta(revision: 1, changed: [entry("a", 1)]))
    for revision in UInt64(2)...50 {
      feed.send(CatalogDelta(revision: revision, changed: [entry("a", revision), entry("b", revision)]))
    }
    feed.send(CatalogDelta(revision: 51, removed: ["b"]))
    #expect(worker.work.count == 1)
    worker.run()
    #expect(worker.work.isEmpty)
    control.run()
    worker.run()
    control.run()
    #expect(seen.deltas.count == 2)
    #expect(seen.deltas.last?.revision == 51)
    #expect(seen.deltas.last?.changed.map(\.revision) == [50])
    #expect(seen.deltas.last?.removed == ["b"])
    #expect(worker.work.isEmpty)
    feed.send(CatalogDelta(revision: 52, removed: ["a"]))
    worker.run()
    #expect(seen.deltas.count == 3)
  }

  private func entry(_ name: String, nodes: Int) throws -> ServiceEntry {
    let version = VersionInfo(service: name, version: "1", metadata: [:], endpoints: [])
    let target = try #require(DialTarget("10.0.0.1:80"))
    let node = CatalogNode(node: Node(id: "n", address: "10.0.0.1:80"), version: version, target: target, origins: [0])
    return ServiceEntry(
      name: name, revision: 7, versions: [], nodes: Array(repeating: node, count: nodes), isStale: false)
  }

  /// What a worker does in one turn is what calls wait for meanwhile.
  @Test func `ten thousand nodes are taken over a few in each turn`() throws {
    let worker = Box()
    let control = Box()
    let seen = Seen()
    let feed = CatalogFeed(worker: worker, control: control) { seen.deltas.append($0) }
    var delta = CatalogDelta(revision: 7)
    for index in 0..<1000 { delta.changed.append(try entry("s\(index)", nodes: index == 500 ? 2000 : 10)) }
    delta.removed = (0..<1000).map { "gone\($0)" }
    feed.send(delta)
    feed.send(CatalogDelta(revision: 8, removed: ["s0"]))
    var turns = 0
    while control.work.isEmpty {
      #expect(worker.work.count == 1)
      let before = seen.deltas.count
      worker.run()
      turns += 1
      let part = try #require(seen.deltas.last)
      #expect(seen.deltas.count == before + 1)
      #expect(part.revision == 7)
      let nodes = part.changed.reduce(part.removed.count * CatalogDelta.nodesOfRemoved) { $0 + $1.nodes.count }
      #expect(nodes <= CatalogFeed.nodesPerTurn || part.changed.map(\.name) == ["s500"])
    }
    #expect(turns >= 20_000 / CatalogFeed.nodesPerTurn)
    #expect(seen.deltas.flatMap(\.changed).map(\.name) == delta.changed.map(\.name))
    #expect(seen.deltas.flatMap(\.removed) == delta.removed)
    control.run()
    worker.run()
    #expect(seen.deltas.last?.removed == ["s0"])
  }
}
