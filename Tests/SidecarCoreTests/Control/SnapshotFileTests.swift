// What the registries said last, over the end of one sidecar and the start of the next.

import SidecarSim
import Testing

@testable import SidecarCore

@Suite("Registry snapshot file") struct SnapshotFileTests {
  private static let path = "/tmp/snapshot.json"

  /// A sidecar's registries and file, on a host that outlives it.
  private final class Life {
    let registry: FlakyRegistry
    let catalog: Catalog
    let supervisor: WatchSupervisor
    let file: SnapshotFile

    init(_ control: ControlWorld) {
      registry = control.registry("one")
      catalog = control.catalog([registry])
      supervisor = control.supervisor(registry, 0, catalog)
      file = SnapshotFile(SnapshotFileTests.path, catalog: catalog, driver: control.loop, log: control.log)
      file.restore()
      file.start()
    }
    func end() {
      supervisor.stop()
      file.stop()
    }
  }

  @Test func `a sidecar that starts while its registry is down knows the services of before, until it answers`() throws
  {
    let control = ControlWorld()
    let first = Life(control)
    #expect(control.log.lines.isEmpty, "no file is no news")
    first.registry.put(
      Service(
        name: "greeter", version: "2", metadata: ["team": "x"], endpoints: [Endpoint(name: "Say.Hello")],
        nodes: [Node(id: "a", address: "10.0.0.1:80", metadata: ["zone": "b"])]))
    first.supervisor.start()
    control.world.run(for: .seconds(1))
    first.end()
    control.world.run(for: .seconds(600))

    let second = Life(control)
    second.registry.mode = .down
    second.supervisor.start()
    control.world.run(for: .seconds(1))
    let entry = try #require(second.catalog.entry("greeter"))
    #expect(entry.versions == first.catalog.entry("greeter")?.versions)
    #expect(entry.isStale)
    let state = second.catalog.states(now: control.loop.now)[0]
    #expect(state.phase == .stale && state.age >= .seconds(600) && state.age <= .seconds(605))
    #expect(second.catalog.snapshot(now: control.loop.now).isSynced, "it can serve")
    second.registry.put(named("other", "b"))
    second.registry.mode = .up
    try control.require(within: .seconds(3), "the registry's word counts again") {
      second.catalog.entry("other")?.isStale == false
    }
    #expect(second.catalog.entry("greeter")?.isStale == true, "it may have been forgotten in the outage")
    try control.require(within: .seconds(46), "but it was not") { second.catalog.entry("greeter") == nil }
    second.end()
    control.world.run(for: .seconds(1))
    #expect(Life(control).catalog.snapshot(now: control.loop.now).names == ["other"])
  }

  @Test func `it is written once in a while, however much changes`() throws {
    let control = ControlWorld()
    let life = Life(control)
    life.supervisor.start()
    control.world.run(for: .milliseconds(10))
    var writes = 0
    var last: [UInt8]?
    for round in 0..<300 {
      life.registry.put(named("s", "a", port: 1 + round))
      control.world.run(for: .milliseconds(100))
      let content = control.host.files.content(Self.path)
      if content != last { writes += 1 }
      last = content
    }
    #expect((4...8).contains(writes), "\(writes) in half a minute")
    life.end()
    #expect(String(decoding: try #require(control.host.files.content(Self.path)), as: UTF8.self).contains(":300\""))
  }

  @Test(arguments: [
    "", "{", "[]", "{\"format\":2,\"registries\":{}}", "{\"format\":1,\"registries\":{\"one\":{\"services\":[7]}}}",
  ])
  func `a file that cannot be used is told of and does no harm`(_ text: String) throws {
    let control = ControlWorld()
    control.host.files.put(Self.path, text)
    let life = Life(control)
    #expect(control.log.count(.warning, containing: "is not used") == 1)
    life.registry.put(named("greeter", "a"))
    life.supervisor.start()
    control.world.run(for: .seconds(6))
    #expect(life.catalog.entry("greeter") != nil)
    #expect(control.host.files.content(Self.path)?.count ?? 0 > 50, "the next write mends it")
    life.end()
  }

  @Test func `content of registries that are not configured any more is left out`() throws {
    let control = ControlWorld()
    control.host.files.put(
      Self.path, #"{"format":1,"registries":{"old":{"services":[{"name":"x","nodes":[{"id":"1","address":"h:1"}]}]}}}"#)
    #expect(Life(control).catalog.snapshot(now: control.loop.now).names.isEmpty)
    #expect(control.log.lines.isEmpty)
  }
}
