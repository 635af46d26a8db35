// The simulator keeps the driver contract, in a calm world and in hostile ones.

import Foundation
import SidecarCore
import SidecarSim
import Testing

@Suite struct DriverConformanceTests {
  @Test(arguments: DriverConformance.cases)
  func theSimulatorKeepsTheContract(_ aCase: ConformanceCase) throws {
    let world = SimWorld(seed: 20, reproduction: "swift test --filter theSimulatorKeepsTheContract")
    defer { world.tearDown() }
    try check(aCase, in: world)
    // Events of closed streams still wait for their time, a linger's or a retransmission's.
    world.runUntilIdle()
    #expect(world.streamObjects == 0, "closed streams are kept alive")
  }

  /// Faults that break no connection and delay nothing for long may not break any rule either.
  @Test(arguments: DriverConformance.cases)
  func theContractHoldsUnderFaultsThatBreakNoConnection(_ aCase: ConformanceCase) throws {
    let swarm = Swarm(
      "theContractHoldsUnderFaultsThatBreakNoConnection", seeds: 5,
      faults: [.splitRead, .partialWrite, .lateTimer, .laterNextTurn],
      environment: ProcessInfo.processInfo.environment)
    _ = try swarm.run { world in try check(aCase, in: world) }
  }

  private func check(_ aCase: ConformanceCase, in world: SimWorld) throws {
    let loop = world.makeHost("a").makeLoop()
    var outcome: Result<Void, any Error>?
    loop.startTask {
      do {
        try await aCase.run(on: loop, socketPath: "/tmp/conformance.sock")
        outcome = .success(())
      } catch {
        outcome = .failure(error)
      }
    }
    try world.require(world.runUntil({ outcome != nil }, within: .seconds(600)), "\(aCase) ends")
    world.run(for: .seconds(1))
    do { try outcome?.get() } catch { throw world.failure("\(aCase): \(error)") }
    try world.checkNoLeaks()
  }
}
