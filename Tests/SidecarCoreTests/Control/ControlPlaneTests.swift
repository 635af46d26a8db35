// The runners of the control plane on the simulator: watches, lookups and time.

import SidecarSim
import Testing

@testable import SidecarCore

@Suite("Watch supervisor") struct WatchSupervisorTests {
  @Test func `an outage is told once, keeps the content, and ends with a fresh snapshot`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    registry.put(named("greeter", "a"))
    let catalog = control.catalog([registry])
    let supervisor = control.supervisor(registry, 0, catalog)
    var recoveries = 0
    supervisor.onRecovered = { recoveries += 1 }
    supervisor.start()
    supervisor.start()
    try control.require(within: .seconds(1), "the catalog fills") { catalog.entry("greeter") != nil }

    registry.mode = .down
    registry.put(named("greeter", "b"))
    control.world.run(for: .seconds(120))
    #expect(catalog.entry("greeter")?.nodes.map(\.node.id) == ["a"])
    #expect(catalog.entry("greeter")?.isStale == true)
    let state = try #require(catalog.snapshot(now: control.loop.now).registries.first)
    #expect(state.phase == .stale)
    #expect(state.age > .seconds(119) && state.age <= .seconds(120))
    #expect(control.log.count(.warning) == 1)
    #expect(recoveries == 0)
    let tries = registry.count("watch")
    #expect(tries > 100 && tries < 260, "tried \(tries) times in two minutes")

    registry.mode = .up
    try control.require(within: .seconds(2), "the change is seen after the outage") {
      catalog.entry("greeter")?.nodes.map(\.node.id) == ["a", "b"]
    }
    #expect(catalog.entry("greeter")?.isStale == false)
    #expect(control.log.count(.warning) == 1)
    #expect(control.log.count(.info, containing: "answers again") == 1)
    #expect(recoveries == 1)
    supervisor.stop()
    supervisor.stop()
    control.world.run(for: .seconds(1))
    registry.put(named("greeter", "c"))
    control.world.run(for: .seconds(30))
    #expect(catalog.entry("greeter")?.nodes.count == 2, "a stopped watch tells of nothing")
    try control.world.verify()
  }

  @Test func `a registry that is down from the start is told, and watched when it comes`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    registry.mode = .down
    let catalog = control.catalog([registry])
    let supervisor = control.supervisor(registry, 0, catalog)
    supervisor.start()
    control.world.run(for: .seconds(5))
    #expect(!catalog.snapshot(now: control.loop.now).services.keys.contains("greeter"))
    #expect(control.log.count(.warning) == 1)
    registry.put(named("greeter", "a"))
    registry.mode = .up
    try control.require(within: .seconds(2), "the catalog fills") { catalog.entry("greeter")?.isStale == false }
    supervisor.stop()
  }

  @Test func `watches that lost the same registry come back at different times`() {
    var returns: Set<UInt64> = []
    for seed in UInt64(0)..<20 {
      let control = ControlWorld(seed: seed)
      let registry = control.registry("one")
      let supervisor = control.supervisor(registry, 0, control.catalog([registry]))
      registry.mode = .down
      supervisor.start()
      control.world.run(for: .seconds(20))
      returns.insert((registry.times("watch").last?.nanoseconds ?? 0) / 10_000_000)
      supervisor.stop()
    }
    #expect(returns.count > 10)
  }

  /// Registries flap, change and move while the wall clock jumps; when they have been up for a while the catalog must
  /// hold exactly what they hold, a worker that saw only deltas too, and no entry may have vanished while it was there.
  @Test(arguments: 0..<40) func `flapping registries leave the right picture`(_ seed: Int) throws {
    let control = ControlWorld(seed: UInt64(seed))
    let registries = (0..<3).map { control.registry("registry-\($0)") }
    let catalog = control.catalog(registries)
    let supervisors = registries.enumerated().map { control.supervisor($1, $0, catalog) }
    let worker = WorkerPicture()
    let loop = control.host.makeLoop()
    catalog.add(
      CatalogFeed(worker: loop.mailbox, control: control.loop.mailbox) { worker.take($0) })
    registries[0].put(named("steady", "s"))
    for supervisor in supervisors { supervisor.start() }
    control.world.run(for: .seconds(1))

    var random = SeededRandom(seed: UInt64(seed) &* 7919)
    for _ in 0..<200 {
      let registry = registries[random.below(3)]
      let name = "s\(random.below(3))"
      let id = "n\(random.below(4))"
      switch random.below(10) {
      case 0, 1: registry.mode = [.up, .down, .hanging][random.below(3)]
      case 2, 3, 4, 5: registry.put(named(name, id, port: 1 + random.below(100)))
      case 6, 7: registry.take(named(name, id))
      case 8: control.host.jumpWallClock(by: .seconds(random.below(100_000) - 50_000))
      default: break
      }
      control.world.run(for: .milliseconds(random.below(2000)))
      try control.world.require(catalog.entry("steady") != nil, "an outage takes no service away")
    }
    for registry in registries { registry.mode = .up }
    // A watch that hangs is given up after half a minute, and begun again within ten seconds; what
    // a registry forgot is kept for 45 s after that.
    control.world.run(for: .seconds(42 + 46))
    for name in ["s0", "s1", "s2", "steady"] {
      let expected = Set(registries.flatMap { $0.ids(name) }).sorted()
      let found = catalog.entry(name)?.nodes.map(\.node.id) ?? []
      try control.world.require(found == expected, "\(name): \(found) is \(expected)")
      try control.world.require(worker.entries[name] === catalog.entry(name), "the worker agrees about \(name)")
      try control.world.require(catalog.entry(name)?.isStale != true, "\(name) is fresh")
    }
    for supervisor in supervisors { supervisor.stop() }
    try control.world.verify()
  }

  /// What a worker knows. Touched on its simulated loop only.
  private final class WorkerPicture: @unchecked Sendable {
    var entries: [String: ServiceEntry] = [:]
    func take(_ delta: CatalogDelta) {
      for entry in delta.changed { entries[entry.name] = entry }
      for name in delta.removed { entries[name] = nil }
    }
  }
}

@Suite("Service resolver") struct ServiceResolverTests {
  private final class Answers: @unchecked Sendable {
    var all: [Resolution] = []
    var found: [ServiceEntry] { all.compactMap { if case .found(let entry) = $0 { entry } else { nil } } }
    var notFound: [[String]] {
      all.compactMap { if case .notFound(let silent) = $0 { silent.map(\.registry) } else { nil } }
    }
    var overloaded: Int { all.count { if case .overloaded = $0 { true } else { false } } }
  }

  private func ask(_ resolver: ServiceResolver, _ name: String, _ answers: Answers) {
    resolver.resolve(name) { answers.all.append($0) }
  }

  @Test func `a hundred callers share one search`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    registry.put(named("greeter", "a"))
    let catalog = control.catalog([registry])
    let resolver = ServiceResolver(registries: [registry], catalog: catalog, driver: control.loop)
    let answers = Answers()
    for _ in 0..<100 { ask(resolver, "greeter", answers) }
    try control.require(within: .seconds(1), "all are answered") { answers.found.count == 100 }
    #expect(registry.count("lookup") == 1)
    ask(resolver, "greeter", answers)
    #expect(answers.found.count == 101, "the catalog answers at once")
    #expect(registry.count("lookup") == 1)
    #expect(resolver.searching == 0)
  }

  @Test func `the first registry that knows answers, the others still add theirs`() throws {
    let control = ControlWorld()
    let quick = control.registry("quick")
    let slow = control.registry("slow")
    let hanging = control.registry("hanging")
    quick.put(named("greeter", "a"))
    slow.put(named("greeter", "b"))
    slow.latency = 300_000_000
    hanging.mode = .hanging
    let catalog = control.catalog([hanging, slow, quick])
    let resolver = ServiceResolver(registries: [hanging, slow, quick], catalog: catalog, driver: control.loop)
    let answers = Answers()
    let asked = control.loop.now
    ask(resolver, "greeter", answers)
    try control.require(within: .seconds(1), "an answer") { !answers.all.isEmpty }
    #expect(control.loop.now.duration(since: asked) < .milliseconds(20))
    #expect(answers.found.first?.nodes.map(\.node.id) == ["a"])
    control.world.run(for: .seconds(1))
    #expect(catalog.entry("greeter")?.nodes.map(\.node.id) == ["a", "b"])
    #expect(answers.all.count == 1)
  }

  @Test func `not found takes every registry's word, or the deadline`() throws {
    let control = ControlWorld()
    let one = control.registry("one")
    let two = control.registry("two")
    two.latency = 400_000_000
    let catalog = control.catalog([one, two])
    let resolver = ServiceResolver(registries: [one, two], catalog: catalog, driver: control.loop)
    let answers = Answers()
    let asked = control.loop.now
    ask(resolver, "nobody", answers)
    try control.require(within: .seconds(2), "an answer") { !answers.all.isEmpty }
    #expect(control.loop.now.duration(since: asked) > .milliseconds(399))
    #expect(answers.notFound == [[]])

    two.mode = .hanging
    let again = control.loop.now
    ask(resolver, "nobody2", answers)
    try control.require(within: .seconds(2), "an answer") { answers.all.count == 2 }
    let waited = control.loop.now.duration(since: again)
    #expect(waited >= .seconds(1) && waited < .milliseconds(1050))
    #expect(answers.notFound.last == ["two"], "it says who kept silent")
  }

  @Test func `what is not there is not asked for again within a second`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    let catalog = control.catalog([registry])
    let resolver = ServiceResolver(registries: [registry], catalog: catalog, driver: control.loop)
    let answers = Answers()
    ask(resolver, "nobody", answers)
    try control.require(within: .seconds(1), "an answer") { answers.all.count == 1 }
    for _ in 0..<50 { ask(resolver, "nobody", answers) }
    #expect(answers.notFound.count == 51)
    #expect(registry.count("lookup") == 1)
    control.world.run(for: .seconds(1))
    registry.put(named("nobody", "a"))
    ask(resolver, "nobody", answers)
    try control.require(within: .seconds(1), "it is found") { answers.found.count == 1 }
    #expect(registry.count("lookup") == 2)
  }

  @Test func `a watch that tells of the service ends the search`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    registry.latency = 900_000_000
    let catalog = control.catalog([registry])
    let resolver = ServiceResolver(registries: [registry], catalog: catalog, driver: control.loop)
    resolver.start()
    let answers = Answers()
    ask(resolver, "greeter", answers)
    control.world.run(for: .milliseconds(100))
    catalog.apply(.upsert(named("greeter", "a")), from: 0, now: control.loop.now)
    try control.require(within: .milliseconds(100), "the watch's word is enough") { answers.found.count == 1 }
    resolver.stop()
  }

  @Test func `searches are bounded, and names that cannot be are not searched for`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    registry.mode = .hanging
    let catalog = control.catalog([registry])
    let resolver = ServiceResolver(registries: [registry], catalog: catalog, driver: control.loop)
    let answers = Answers()
    for name in ["", "a/b", "a b", "\u{0}", String(repeating: "x", count: 256)] { ask(resolver, name, answers) }
    #expect(answers.notFound.count == 5)
    for index in 0..<(ServiceResolver.searchesMax + 10) { ask(resolver, "name-\(index)", answers) }
    #expect(resolver.searching == ServiceResolver.searchesMax)
    #expect(answers.overloaded == 10)
    for _ in 0..<(ServiceResolver.waitersMax + 5) { ask(resolver, "name-0", answers) }
    #expect(answers.overloaded == 10 + 6)
    try control.require(within: .seconds(2), "all end") { resolver.searching == 0 }
    #expect(answers.all.count == 5 + ServiceResolver.searchesMax + 10 + ServiceResolver.waitersMax + 5)
  }

  @Test func `stop answers everyone who waits`() {
    let control = ControlWorld()
    let registry = control.registry("one")
    registry.mode = .hanging
    let resolver = ServiceResolver(
      registries: [registry], catalog: control.catalog([registry]), driver: control.loop)
    resolver.start()
    let answers = Answers()
    ask(resolver, "greeter", answers)
    control.world.run(for: .milliseconds(10))
    resolver.stop()
    #expect(answers.notFound == [["one"]])
    control.world.run(for: .seconds(5))
    #expect(answers.all.count == 1)
  }

  @Test func `what only lookups find is looked up again, and forgotten when it is gone`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    registry.watchIsBlind = true
    let catalog = control.catalog([registry])
    let supervisor = control.supervisor(registry, 0, catalog)
    let resolver = ServiceResolver(registries: [registry], catalog: catalog, driver: control.loop)
    supervisor.start()
    resolver.start()
    control.world.run(for: .seconds(1))
    registry.put(named("greeter", "a"))
    let answers = Answers()
    ask(resolver, "greeter", answers)
    try control.require(within: .seconds(1), "it is found") { answers.found.count == 1 }
    registry.put(named("greeter", "b"))
    registry.take(named("greeter", "a"))
    try control.require(within: .seconds(62), "the change is seen") {
      catalog.entry("greeter")?.nodes.map(\.node.id) == ["b"]
    }
    registry.mode = .refusing
    control.world.run(for: .seconds(120))
    #expect(catalog.entry("greeter") != nil, "a registry that fails keeps what it has said")
    registry.mode = .up
    registry.take(named("greeter", "b"))
    try control.require(within: .seconds(75), "it is forgotten") { catalog.entry("greeter") == nil }
    resolver.stop()
    supervisor.stop()
  }
}

@Suite("Time on a loop") struct LoopTaskTests {
  private final class Seen: @unchecked Sendable {
    var values: [String] = []
    var at = Instant(nanoseconds: 0)
  }

  @Test func `a pause takes its time, and none when it is cancelled`() throws {
    let control = ControlWorld()
    let seen = Seen()
    let loop = LoopBox(control.loop)
    let start = control.loop.now
    _ = startTask(on: control.loop) {
      await loop.driver.pause(nanoseconds: 2_000_000_000)
      seen.at = loop.driver.now
      seen.values.append("paused")
    }
    let cancelled = startTask(on: control.loop) {
      await loop.driver.pause(nanoseconds: 3_600_000_000_000)
      seen.values.append("cancelled")
    }
    control.world.run(for: .seconds(1))
    cancelled.cancel()
    try control.require(within: .milliseconds(10), "the cancelled pause ends") { seen.values == ["cancelled"] }
    try control.require(within: .seconds(5), "the pause ends") { seen.values.count == 2 }
    #expect(seen.at.duration(since: start) >= .seconds(2))
    #expect(seen.at.duration(since: start) < .milliseconds(2010))
    try control.world.checkNoLeaks()
  }

  @Test func `a limit ends what takes too long and cancels it`() throws {
    let control = ControlWorld()
    let seen = Seen()
    let loop = LoopBox(control.loop)
    _ = startTask(on: control.loop) {
      do throws(RegistryError) {
        try await loop.driver.limited(nanoseconds: 1_500_000_000) { () async throws(RegistryError) in
          await loop.driver.pause(nanoseconds: 3_600_000_000_000)
          seen.values.append(Task.isCancelled ? "inner cancelled" : "inner went on")
        }
      } catch {
        seen.values.append(error.description)
      }
    }
    try control.require(within: .seconds(2), "both end") { seen.values.count == 2 }
    #expect(Set(seen.values) == ["inner cancelled", "no answer within 1500 ms"])
    try control.world.checkNoLeaks()
  }

  @Test func `a limit passes results and errors on`() throws {
    let control = ControlWorld()
    let seen = Seen()
    let loop = LoopBox(control.loop)
    _ = startTask(on: control.loop) {
      do throws(RegistryError) {
        let value = try await loop.driver.limited(nanoseconds: 1_000_000_000) { () async throws(RegistryError) in 7 }
        seen.values.append("\(value)")
        try await loop.driver.limited(nanoseconds: 1_000_000_000) { () async throws(RegistryError) in
          throw .notFound("x")
        }
      } catch {
        seen.values.append("\(error)")
      }
    }
    try control.require(within: .seconds(1), "it ends") { seen.values.count == 2 }
    #expect(seen.values == ["7", "service x: not found"])
    try control.world.checkNoLeaks()
  }

  private struct LoopBox: @unchecked Sendable {
    let driver: SimDriver
    init(_ driver: SimDriver) { self.driver = driver }
  }
}
