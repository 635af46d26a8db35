// Bridges between registries on the simulator, alone, facing each other and through outages.

import SidecarSim
import Testing

@testable import SidecarCore

@Suite("Registry bridge") struct RegistryBridgeTests {
  /// Registries that one sidecar watches, and bridges between them.
  private final class Rig {
    let control: ControlWorld
    let registries: [FlakyRegistry]
    let catalog: Catalog
    private(set) var supervisors: [WatchSupervisor] = []
    private(set) var bridges: [RegistryBridge] = []
    var own: Set<String> = []

    init(_ control: ControlWorld, _ registries: [FlakyRegistry]) {
      self.control = control
      self.registries = registries
      catalog = control.catalog(registries)
      for (index, registry) in registries.enumerated() {
        let supervisor = control.supervisor(registry, index, catalog)
        supervisor.onRecovered = { [weak self] in
          for bridge in self?.bridges ?? [] { bridge.registryRecovered(registry.name) }
        }
        supervisors.append(supervisor)
        supervisor.start()
      }
    }

    @discardableResult func bridge(_ source: Int, _ target: Int) -> RegistryBridge {
      let bridge = RegistryBridge(
        from: source, to: target, registries: registries, catalog: catalog, driver: control.loop, log: control.log
      ) { [weak self] _, id in self?.own.contains(id) ?? false }
      bridges.append(bridge)
      bridge.start()
      return bridge
    }

    func stop() { for supervisor in supervisors { supervisor.stop() } }
  }

  private func origin(_ registry: FlakyRegistry, _ name: String, _ id: String) -> String? {
    registry.content[name]?["1"]?[id]?.node.metadata[RegistryBridge.originKey]
  }

  @Test func `services of the source appear in the target, marked, and leave with the source's`() throws {
    let control = ControlWorld()
    let registries = [control.registry("from"), control.registry("to")]
    let rig = Rig(control, registries)
    registries[0].put(named("greeter", "a", "b"))
    registries[1].put(named("other", "x"))
    let bridge = rig.bridge(0, 1)
    try control.require(within: .seconds(2), "both are mirrored") { registries[1].ids("greeter") == ["a", "b"] }
    #expect(origin(registries[1], "greeter", "a") == "from")
    #expect(registries[0].ids("other").isEmpty, "a bridge goes one way")
    registries[0].put(named("greeter", "c"))
    registries[0].take(named("greeter", "a"))
    try control.require(within: .seconds(2), "changes follow") { registries[1].ids("greeter") == ["b", "c"] }
    registries[0].put(named("greeter", "b", port: 81))
    try control.require(within: .seconds(2), "new values follow") {
      registries[1].content["greeter"]?["1"]?["b"]?.node.address == "10.0.0.1:81"
    }
    var isStopped = false
    bridge.stop { isStopped = true }
    try control.require(within: .seconds(5), "it stops") { isStopped }
    #expect(registries[1].ids("greeter").isEmpty)
    #expect(registries[1].ids("other") == ["x"])
    #expect(bridge.count == 0)
    rig.stop()
  }

  @Test func `bridges that face each other, and rings of them, mirror each node once`() throws {
    let control = ControlWorld()
    let registries = (0..<3).map { control.registry("r\($0)") }
    let rig = Rig(control, registries)
    for (source, target) in [(0, 1), (1, 0), (1, 2), (2, 0)] { rig.bridge(source, target) }
    registries[0].put(named("a", "a1"))
    registries[1].put(named("b", "b1"))
    registries[2].put(named("c", "c1"))
    control.world.run(for: .seconds(60))
    #expect(registries[1].ids("a") == ["a1"] && registries[2].ids("a").isEmpty, "one step, no further")
    #expect(registries[0].ids("b") == ["b1"] && registries[2].ids("b") == ["b1"])
    #expect(registries[0].ids("c") == ["c1"] && registries[1].ids("c").isEmpty)
    let nodes = registries.flatMap { registry in ["a", "b", "c"].flatMap { registry.ids($0) } }
    #expect(nodes.count == 7)
    registries[0].take(named("a", "a1"))
    registries[1].take(named("b", "b1"))
    registries[2].take(named("c", "c1"))
    try control.require(within: .seconds(10), "nothing keeps itself alive") {
      registries.allSatisfy { $0.content.isEmpty }
    }
    rig.stop()
  }

  @Test func `what the target has by its own right, and what is ours, is left alone`() throws {
    let control = ControlWorld()
    let registries = [control.registry("from"), control.registry("to")]
    let rig = Rig(control, registries)
    rig.own = ["mine"]
    registries[1].put(named("greeter", "both", port: 99))
    registries[1].latency = 500_000_000
    registries[0].put(named("greeter", "both", "mine", "far"))
    // Begun when the source has answered and the target has not.
    control.world.run(for: .milliseconds(100))
    let bridge = rig.bridge(0, 1)
    control.world.run(for: .seconds(5))
    #expect(registries[1].ids("greeter") == ["both", "far"])
    #expect(registries[1].content["greeter"]?["1"]?["both"]?.node.address == "10.0.0.1:99")
    bridge.stop {}
    control.world.run(for: .seconds(5))
    #expect(registries[1].ids("greeter") == ["both"])
    rig.stop()
  }

  @Test func `a source that is down takes nothing away, a target that lost all gets it again`() throws {
    let control = ControlWorld()
    let registries = [control.registry("from"), control.registry("to")]
    let rig = Rig(control, registries)
    registries[0].put(named("greeter", "a"))
    rig.bridge(0, 1)
    try control.require(within: .seconds(2), "it is mirrored") { registries[1].ids("greeter") == ["a"] }
    registries[0].mode = .down
    control.world.run(for: .seconds(120))
    #expect(registries[1].ids("greeter") == ["a"])
    registries[1].mode = .down
    control.world.run(for: .seconds(30))
    registries[1].loseContent()
    registries[1].mode = .up
    try control.require(within: .seconds(2), "it is written again") { registries[1].ids("greeter") == ["a"] }
    rig.stop()
  }

  @Test(arguments: [
    ("consul->kubernetes", "consul", "kubernetes"), (" a -> file:/x ", "a", "file:/x"),
  ])
  func `a bridge names two registries`(_ text: String, _ source: String, _ target: String) throws {
    let choice = try #require(BridgeChoice(text))
    #expect(choice.source == source && choice.target == target)
  }

  @Test(arguments: ["", "a", "a->", "->a", "a->a", "a->b->c", "a-b"])
  func `anything else is none`(_ text: String) { #expect(BridgeChoice(text) == nil) }
}
