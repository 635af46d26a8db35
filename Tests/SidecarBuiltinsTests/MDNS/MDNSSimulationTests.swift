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
