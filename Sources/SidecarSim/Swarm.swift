// Many worlds, one scenario: each seed gets faults of its own and the scenario's invariants must hold in all of them.

import SidecarCore

/// Runs a scenario under many seeds. The first failure ends it and carries seed, trace and the command to repeat it.
///
/// `MICRO_SIM_SEEDS` in `environment` sets how many seeds, `MICRO_SIM_SEED` runs that one alone.
package struct Swarm {
  package var name: String
  package var seeds: Range<UInt64>
  package var faults: Set<Fault>

  /// What a swarm did, for a test to print: how many events, and a hash over all traces.
  package struct Report: Equatable, Sendable {
    package var seeds = 0
    package var events = 0
    package var hash: UInt64 = 0
  }

  package init(
    _ name: String, seeds count: Int, faults: Set<Fault> = Set(Fault.allCases), environment: [String: String] = [:]
  ) {
    self.name = name
    self.faults = faults
    if let one = environment["MICRO_SIM_SEED"].flatMap(UInt64.init), one < .max {
      seeds = one..<one + 1
    } else {
      seeds = 1..<1 + UInt64(max(1, environment["MICRO_SIM_SEEDS"].flatMap(Int.init) ?? count))
    }
  }

  /// `scenario` builds its hosts, runs the world and throws what does not hold; broken contract rules are added.
  package func run(_ scenario: (SimWorld) throws -> Void) throws -> Report {
    var report = Report()
    for seed in seeds {
      // A generator of its own, so that the plan does not move the draws of the world.
      var random = SeededRandom(seed: seed ^ 0x5EED_0F_FA017)
      let world = SimWorld(
        seed: seed, plan: .swarm(&random, of: faults),
        reproduction: "MICRO_SIM_SEED=\(seed) swift test --filter \(name)")
      defer { world.tearDown() }
      do {
        try scenario(world)
        try world.verify()
      } catch let failure as SimFailure {
        throw failure
      } catch {
        throw world.failure("\(error)")
      }
      report.seeds += 1
      report.events += world.eventCount
      report.hash = (report.hash ^ world.trace.hash) &* 0x9E37_79B9_7F4A_7C15
    }
    return report
  }
}
