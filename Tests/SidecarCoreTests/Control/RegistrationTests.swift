// Leases on the simulator: what is in the registries when the app, the registries and time misbehave.

import SidecarSim
import Testing

@testable import SidecarCore

@Suite("Registration lease") struct RegistrationLeaseTests {
  private func lease(_ control: ControlWorld, _ registries: [FlakyRegistry]) -> RegistrationLease {
    RegistrationLease(service: named("app", "a"), registries: registries, driver: control.loop, log: control.log)
  }

  @Test func `an app is registered when it is healthy, and refreshed every half minute`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    let lease = lease(control, [registry])
    control.world.run(for: .seconds(10))
    #expect(registry.ids("app").isEmpty, "an app that was never healthy is not registered")
    lease.setHealthy(true)
    lease.setHealthy(true)
    try control.require(within: .seconds(1), "it is registered") { registry.ids("app") == ["a"] }
    control.world.run(for: .seconds(600))
    let times = registry.times("register")
    let gaps = zip(times.dropFirst(), times).map { $0.duration(since: $1) }
    #expect(gaps.allSatisfy { $0 > .seconds(26) && $0 < .seconds(34) })
    #expect(Set(gaps).count > 10, "refreshes are spread")
    #expect(lease.states.map(\.phase) == [.held])
    #expect(control.log.count(.info, containing: "is registered") == 1)
    var stopped = false
    lease.stop { stopped = true }
    try control.require(within: .seconds(1), "it stops") { stopped }
    #expect(registry.ids("app").isEmpty)
    control.world.run(for: .seconds(100))
    #expect(registry.ids("app").isEmpty, "nothing is written after stop")
    try control.world.checkNoLeaks()
  }

  @Test func `an unhealthy app leaves, and joins again`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    let lease = lease(control, [registry])
    lease.setHealthy(true)
    try control.require(within: .seconds(1), "it is registered") { registry.ids("app") == ["a"] }
    lease.setHealthy(false)
    try control.require(within: .seconds(1), "it leaves") { registry.ids("app").isEmpty }
    control.world.run(for: .seconds(100))
    #expect(registry.ids("app").isEmpty, "no refresh brings it back")
    #expect(lease.states.map(\.phase) == [.suspended])
    lease.setHealthy(true)
    try control.require(within: .seconds(1), "it joins again") { registry.ids("app") == ["a"] }
  }

  @Test func `one registry that is down hinders no other, and gets the app when it is back`() throws {
    let control = ControlWorld()
    let down = control.registry("down")
    let hanging = control.registry("hanging")
    let good = control.registry("good")
    let readOnly = control.registry("read-only")
    down.mode = .down
    hanging.mode = .hanging
    readOnly.mode = .readOnly
    let lease = lease(control, [down, hanging, readOnly, good])
    lease.setHealthy(true)
    try control.require(within: .milliseconds(100), "the good one has it") { good.ids("app") == ["a"] && lease.isHeld }
    control.world.run(for: .seconds(60))
    #expect(control.log.count(.warning) == 2, "one line for each that fails: \(control.log.lines)")
    down.mode = .up
    hanging.mode = .up
    try control.require(within: .seconds(21), "the others have it too") {
      lease.states.map(\.phase) == [.held, .held, .ended, .held]
    }
    #expect(down.ids("app") == ["a"] && hanging.ids("app") == ["a"] && readOnly.ids("app").isEmpty)
  }

  @Test func `a registry that lost its content gets the app at once when it answers again`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    let catalog = control.catalog([registry])
    let supervisor = control.supervisor(registry, 0, catalog)
    let lease = lease(control, [registry])
    supervisor.onRecovered = { lease.registryRecovered("one") }
    supervisor.start()
    lease.setHealthy(true)
    control.world.run(for: .seconds(2))
    registry.mode = .down
    registry.loseContent()
    control.world.run(for: .seconds(3))
    registry.mode = .up
    try control.require(within: .seconds(10), "the watch stands") { catalog.phase(of: 0) == .current }
    try control.require(within: .milliseconds(100), "the app is there") { registry.ids("app") == ["a"] }
    supervisor.stop()
  }

  @Test func `stop takes at most three seconds though a registry hangs`() throws {
    let control = ControlWorld()
    let good = control.registry("good")
    let hanging = control.registry("hanging")
    let writing = control.registry("writing")
    let lease = lease(control, [good, hanging, writing])
    writing.mode = .hanging
    lease.setHealthy(true)
    control.world.run(for: .seconds(1))
    hanging.mode = .hanging
    let asked = control.loop.now
    var stopped = false
    lease.stop { stopped = true }
    try control.require(within: .seconds(10), "it stops") { stopped }
    #expect(control.loop.now.duration(since: asked) < .milliseconds(3100))
    #expect(good.ids("app").isEmpty)
    control.world.run(for: .seconds(20))
    try control.world.verify()
  }

  @Test func `another version takes the old one out`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    let lease = lease(control, [registry])
    lease.setHealthy(true)
    control.world.run(for: .seconds(1))
    lease.update(named("app", "a", version: "2"))
    try control.require(within: .seconds(1), "the new version is alone") { registry.versions("app") == ["2"] }
    lease.update(named("app", "b", version: "2", port: 81))
    try control.require(within: .seconds(1), "the new node is alone") { registry.ids("app") == ["b"] }
    let writes = registry.count("register")
    lease.update(named("app", "b", version: "2", port: 81))
    control.world.run(for: .seconds(1))
    #expect(registry.count("register") == writes, "equal values are not written again")
  }

  /// The app's health, the registries' and the values change at random; in the end the registries must hold what the
  /// last wish was, and after a stop nothing.
  @Test(arguments: 0..<60) func `random histories end as wished`(_ seed: Int) throws {
    let control = ControlWorld(seed: UInt64(seed))
    let registries = (0..<2).map { control.registry("registry-\($0)") }
    let lease = lease(control, registries)
    var random = SeededRandom(seed: UInt64(seed) &* 104_729)
    var isHealthy = false
    var version = 1
    for _ in 0..<100 {
      switch random.below(6) {
      case 0, 1:
        isHealthy = random.below(2) == 0
        lease.setHealthy(isHealthy)
      case 2:
        version += 1
        lease.update(named("app", "a", version: "\(version)"))
      case 3, 4: registries[random.below(2)].mode = [.up, .up, .down, .hanging, .refusing][random.below(5)]
      default: control.host.jumpWallClock(by: .seconds(random.below(1_000_000) - 500_000))
      }
      control.world.run(for: .milliseconds(random.below(3000)))
    }
    for registry in registries { registry.mode = .up }
    // A refused write waits for the next refresh, a hanging one for its limit; removals end within their tries.
    control.world.run(for: .seconds(60))
    for registry in registries {
      let versions = registry.versions("app")
      if isHealthy {
        try control.world.require(versions == ["\(version)"], "\(registry.name) holds \(versions), not \(version)")
      } else if lease.states.allSatisfy({ $0.phase == .suspended }) {
        // Removals that failed too often leave the entry to its ttl, which this registry does not keep.
        let removals = registry.count("deregister")
        try control.world.require(versions.isEmpty || removals > 0, "\(registry.name) holds \(versions)")
      }
    }
    var stopped = false
    lease.stop { stopped = true }
    try control.require(within: .seconds(4), "it stops") { stopped }
    if isHealthy { for registry in registries { #expect(registry.ids("app").isEmpty, "seed \(seed)") } }
    control.world.run(for: .seconds(60))
    try control.world.checkNoLeaks()
  }
}

@Suite("Lease table") struct LeaseTableTests {
  private final class Answers: @unchecked Sendable { var all: [RegistryError?] = [] }

  private func table(_ control: ControlWorld, _ registries: [FlakyRegistry]) -> LeaseTable {
    LeaseTable(registries: registries, driver: control.loop, log: control.log)
  }

  @Test func `an entry with a ttl stays while it is renewed, and goes when it is not`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    let table = table(control, [registry])
    let answers = Answers()
    for _ in 0..<5 {
      table.register(named("api", "a"), ttl: 10_000_000_000) { answers.all.append($0) }
      control.world.run(for: .seconds(8))
      #expect(registry.ids("api") == ["a"])
    }
    #expect(answers.all == [nil, nil, nil, nil, nil])
    try control.require(within: .seconds(3), "it goes") { registry.ids("api").isEmpty }
    #expect(table.count == 0)
    try control.world.checkNoLeaks()
  }

  @Test func `an entry without a ttl stays, and goes when it is deleted or all stops`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    let table = table(control, [registry])
    let answers = Answers()
    table.register(named("api", "a", "b"), ttl: nil) { answers.all.append($0) }
    control.world.run(for: .seconds(1000))
    #expect(registry.ids("api") == ["a", "b"])
    table.deregister(named("api", "a")) { answers.all.append($0) }
    try control.require(within: .seconds(1), "one goes") { registry.ids("api") == ["b"] && answers.all.count == 2 }
    table.stop { answers.all.append(nil) }
    try control.require(within: .seconds(1), "all go") { registry.ids("api").isEmpty && answers.all.count == 3 }
    try control.world.checkNoLeaks()
  }

  @Test func `the caller hears of the first success, or why all failed`() throws {
    let control = ControlWorld()
    let good = control.registry("good")
    let bad = control.registry("bad")
    bad.mode = .refusing
    let answers = Answers()
    table(control, [bad, good]).register(named("api", "a"), ttl: nil) { answers.all.append($0) }
    try control.require(within: .seconds(1), "answered") { answers.all == [nil] }
    table(control, [bad]).register(named("api", "a"), ttl: nil) { answers.all.append($0) }
    try control.require(within: .seconds(1), "answered") { answers.all.last == .refused("bad will not") }
    let readOnly = control.registry("file")
    readOnly.mode = .readOnly
    table(control, [readOnly]).register(named("api", "a"), ttl: nil) { answers.all.append($0) }
    try control.require(within: .seconds(1), "answered") { answers.all.last == .readOnly }
  }

  @Test func `what cannot be registered is refused at once`() {
    let control = ControlWorld()
    let registry = control.registry("one")
    let table = table(control, [registry])
    let answers = Answers()
    for service in [
      Service(name: "", nodes: [Node(id: "a", address: "h:1")]),
      Service(name: "a/b", nodes: [Node(id: "a", address: "h:1")]),
      Service(name: "api"), Service(name: "api", nodes: [Node(id: "", address: "h:1")]),
      Service(name: "api", nodes: [Node(id: "a", address: "h:0")]),
    ] {
      table.register(service, ttl: nil) { answers.all.append($0) }
    }
    #expect(answers.all.count == 5)
    #expect(answers.all.allSatisfy { if case .invalid = $0 { true } else { false } })
    let many = Service(
      name: "api", nodes: (0...LeaseTable.leasesMax).map { Node(id: "n\($0)", address: "10.0.0.1:80") })
    table.register(many, ttl: nil) { answers.all.append($0) }
    if case .refused = answers.all.last ?? nil {} else { Issue.record("a full table takes more") }
    #expect(table.count == 0)
    control.world.run(for: .seconds(1))
    #expect(registry.count("register") == 0)
  }

  @Test func `a node that another registered is taken out too`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    registry.put(named("other", "x"))
    let table = table(control, [registry])
    let answers = Answers()
    table.deregister(named("other", "x")) { answers.all.append($0) }
    try control.require(within: .seconds(1), "it goes") { registry.ids("other").isEmpty && answers.all == [nil] }
    table.deregister(named("other", "x")) { answers.all.append($0) }
    try control.require(within: .seconds(1), "no error") { answers.all == [nil, nil] }
    registry.mode = .down
    table.deregister(named("other", "x")) { answers.all.append($0) }
    try control.require(within: .seconds(4), "the failure is told") { answers.all.last == .unavailable("one is down") }
  }
}
