import SidecarBuiltins
import SidecarConformance
import SidecarCore
import SidecarSim
import Testing

@Suite("mDNS conformance") struct MDNSConformanceTests {
  private static let traits = {
    var traits = RegistryTraits()
    traits.keepsServiceMetadata = false
    traits.takesEmptyVersion = false
    traits.patience = .seconds(10)
    traits.many = 50
    return traits
  }()

  @Test(arguments: RegistryConformance.allCases.filter { $0.applies(to: traits) })
  func mdns(_ rule: RegistryConformance) throws {
    let simulated = SimulatedLoop()
    let registry = try MDNSRegistry(environment: simulated.environment())
    let subject = RegistrySubject(registry, driver: simulated.loop, traits: Self.traits)
    try simulated.run {
      do {
        try await rule.check(subject)
      } catch {
        await registry.close()
        throw error
      }
      await registry.close()
    }
  }
}
