import SidecarConformance
import SidecarCore
import SidecarSim
import Testing

@testable import SidecarBuiltins

@Suite("mDNS keeps the registry contract")
struct MDNSConformanceTests {
  private static func options(multicast: Bool, rendezvous: Bool) -> MDNSOptions {
    var options = MDNSOptions()
    options.usesMulticast = multicast
    options.usesRendezvous = rendezvous
    options.folder = "/tmp/micro-sidecar-0"
    return options
  }

  private static func subject(
    _ simulated: SimulatedLoop, reader: MDNSRegistry, writer: MDNSRegistry, _ traits: RegistryTraits
  ) -> RegistrySubject {
    var subject = RegistrySubject(reader, driver: simulated.loop, traits: traits)
    subject.write = { service, ttl throws(RegistryError) in try await writer.register(service, ttl: ttl) }
    subject.erase = { service throws(RegistryError) in try await writer.deregister(service) }
    return subject
  }

  private static let multicastTraits = {
    var traits = RegistryTraits()
    traits.keepsServiceMetadata = false
    traits.many = MDNSResponder.nodesMaximum / 10
    traits.patience = .seconds(5)
    return traits
  }()
  private static let rendezvousTraits = {
    var traits = RegistryTraits()
    traits.many = MDNSResponder.nodesMaximum / 10
    return traits
  }()

  @Test(
    "over multicast between two hosts",
    arguments: RegistryConformance.allCases.filter { $0.applies(to: multicastTraits) })
  func multicast(_ rule: RegistryConformance) throws {
    let simulated = SimulatedLoop()
    let options = Self.options(multicast: true, rendezvous: false)
    let other = simulated.world.makeHost("b").makeLoop()
    let writer = MDNSRegistry(PluginEnvironment(driver: other, log: NoLog()), options)
    let reader = MDNSRegistry(simulated.environment(), options)
    let subject = Self.subject(simulated, reader: reader, writer: writer, Self.multicastTraits)
    try simulated.run { try await rule.check(subject) }
  }

  @Test(
    "through the folder of one host",
    arguments: RegistryConformance.allCases.filter { $0.applies(to: rendezvousTraits) })
  func rendezvous(_ rule: RegistryConformance) throws {
    let simulated = SimulatedLoop()
    let options = Self.options(multicast: false, rendezvous: true)
    let other = simulated.host.makeLoop()
    let writer = MDNSRegistry(PluginEnvironment(driver: other, log: NoLog()), options)
    let reader = MDNSRegistry(simulated.environment(), options)
    let subject = Self.subject(simulated, reader: reader, writer: writer, Self.rendezvousTraits)
    try simulated.run { try await rule.check(subject) }
  }

  @Test(
    "alone, with everything on", arguments: RegistryConformance.allCases.filter { $0.applies(to: rendezvousTraits) })
  func alone(_ rule: RegistryConformance) throws {
    let simulated = SimulatedLoop()
    let registry = MDNSRegistry(simulated.environment(), Self.options(multicast: true, rendezvous: true))
    let subject = Self.subject(simulated, reader: registry, writer: registry, Self.rendezvousTraits)
    try simulated.run { try await rule.check(subject) }
  }
}

/// Registries on simulated hosts and what each one's watch has painted.
private final class Network {
  final class Member {
    let host: SimHost
    let service: Service
    var runner: MDNSRunner
    var picture: Set<String> = []
    var removals = 0
    init(_ host: SimHost, _ service: Service, _ runner: MDNSRunner) {
      self.host = host
      self.service = service
      self.runner = runner
    }
  }

  let world: SimWorld
  var members: [Member] = []

  init(_ world: SimWorld, hosts: Int) {
    self.world = world
    for number in 1...hosts {
      let host = world.makeHost("h\(number)")
      let name = "srv\(number % 3)"
      let service = Service(
        name: name, version: "1", nodes: [Node(id: "\(name)-\(number)", address: "\(host.address(port: 80))")])
      members.append(Member(host, service, Self.makeRunner(host)))
      start(members[number - 1])
    }
  }

  private static func makeRunner(_ host: SimHost) -> MDNSRunner {
    var options = MDNSOptions()
    options.usesRendezvous = false
    return MDNSRunner(driver: host.makeLoop(), log: NoLog(), options: options)
  }

  func start(_ member: Member) {
    member.picture = []
    let runner = member.runner
    runner.driver.later {
      runner.register(member.service, ttl: nil) { _ in }
      runner.watch(.all) { result in
        if case .success(let token) = result { self.follow(member, runner, token) }
      }
    }
  }

  func restart(_ member: Member) {
    member.host.restart()
    member.runner = Self.makeRunner(member.host)
    start(member)
  }

  private func follow(_ member: Member, _ runner: MDNSRunner, _ token: MDNSToken) {
    runner.nextEvent(token) { result in
      guard case .success(let event) = result else { return }
      switch event {
      case .snapshot(let services): member.picture = Set(services.flatMap(\.nodes).map(\.id))
      case .upsert(let service): member.picture.formUnion(service.nodes.map(\.id))
      case .remove(let service):
        member.picture.subtract(service.nodes.map(\.id))
        member.removals += 1
      }
      runner.driver.later { self.follow(member, runner, token) }
    }
  }

  /// Whether every one of `living` sees exactly `living`.
  func agrees(_ living: [Member]) -> Bool {
    let ids = Set(living.flatMap { $0.service.nodes.map(\.id) })
    return living.allSatisfy { $0.picture == ids }
  }

  func explanation(_ living: [Member]) -> String {
    living.map { "\($0.host.name) sees \($0.picture.sorted())" }.joined(separator: "; ")
  }
}

@Suite("mDNS in simulated networks")
struct MDNSNetworkTests {
  @Test("everyone finds everyone within a second, and nobody is lost in an hour")
  func steady() throws {
    let world = SimWorld(seed: 1)
    let network = Network(world, hosts: 12)
    try world.require(world.runUntil({ network.agrees(network.members) }, within: .seconds(1)), "all are found")
    world.run(for: .seconds(3600))
    #expect(network.agrees(network.members))
    #expect(network.members.allSatisfy { $0.removals == 0 })
    world.tearDown()
  }

  @Test("a host that falls silent is gone for all within 70 seconds, and found again within a second of its return")
  func crash() throws {
    let world = SimWorld(seed: 2)
    let network = Network(world, hosts: 5)
    world.run(for: .seconds(20))
    let dead = network.members[2]
    dead.host.crash(.silence)
    let living = network.members.filter { $0 !== dead }
    try world.require(world.runUntil({ network.agrees(living) }, within: .seconds(70)), network.explanation(living))
    #expect(living.allSatisfy { $0.removals == 1 })
    network.restart(dead)
    try world.require(
      world.runUntil({ network.agrees(network.members) }, within: .seconds(1)), network.explanation(network.members))
    world.tearDown()
  }

  @Test("two halves of a cut network lose each other and meet again")
  func partition() throws {
    let world = SimWorld(seed: 3)
    let network = Network(world, hosts: 4)
    world.run(for: .seconds(20))
    let (left, right) = (Array(network.members[..<2]), Array(network.members[2...]))
    for one in left { for other in right { world.partition(one.host, other.host) } }
    try world.require(
      world.runUntil({ network.agrees(left) && network.agrees(right) }, within: .seconds(70)), "each half is alone")
    world.healAll()
    try world.require(
      world.runUntil({ network.agrees(network.members) }, within: .seconds(70)), network.explanation(network.members))
    world.tearDown()
  }

  @Test("an interface that comes up later is joined and announced on")
  func lateInterface() throws {
    let world = SimWorld(seed: 4)
    let network = Network(world, hosts: 2)
    let late = network.members[1].host
    late.setInterface("eth0", up: false)
    world.run(for: .seconds(10))
    #expect(network.members[0].picture.count == 1)
    #expect(network.members[1].runner.findings().contains { $0.isProblem && $0.finding.contains("no interface but") })
    late.setInterface("eth0", up: true)
    try world.require(
      world.runUntil({ network.agrees(network.members) }, within: .seconds(5)), network.explanation(network.members))
    world.tearDown()
  }

  @Test("an interface without multicast is named, and so is a self-test that is not heard")
  func findings() throws {
    let world = SimWorld(seed: 5)
    let network = Network(world, hosts: 1)
    world.run(for: .seconds(1))
    let runner = network.members[0].runner
    #expect(runner.findings().filter(\.isProblem) == [])
    network.members[0].host.setInterface("eth0", multicast: false)
    world.run(for: .seconds(5))
    #expect(runner.findings().contains { $0.finding == "no interface can do multicast (up: eth0)" })
    world.tearDown()

    // Loopback of multicast broken: every datagram is lost.
    let silent = SimWorld(seed: 6, plan: FaultPlan().with(.datagramLoss, 1))
    let alone = Network(silent, hosts: 1)
    silent.run(for: .seconds(1))
    #expect(
      alone.members[0].runner.findings().contains { $0.finding == "a question sent to the group did not come back" })
    silent.tearDown()
  }

  @Test("with packets lost, doubled and late, all still come to agree, before and after a crash")
  func swarm() throws {
    let faults: Set<Fault> = [
      .datagramLoss, .datagramDuplicate, .datagramLate, .loopStall, .lateTimer, .laterNextTurn, .wallClockJump,
    ]
    let report = try Swarm("mDNS in simulated networks", seeds: 40, faults: faults, environment: [:]).run { world in
      let network = Network(world, hosts: 4)
      try world.require(
        world.runUntil({ network.agrees(network.members) }, within: .seconds(1200)),
        "before: \(network.explanation(network.members))")
      let dead = network.members[world.random.below(4)]
      dead.host.crash(.silence)
      let living = network.members.filter { $0 !== dead }
      try world.require(
        world.runUntil({ network.agrees(living) }, within: .seconds(1200)), "after: \(network.explanation(living))")
    }
    #expect(report.seeds == 40)
  }
}
