// Many hostile worlds: the relay's invariants hold in all of them, planted bugs are found, and a seed repeats.

import Foundation
import SidecarCore
import SidecarSim
import Testing

private let environment = ProcessInfo.processInfo.environment

@Suite struct SwarmTests {
  @Test func aRelayDeliversEveryByteOrAReset() throws {
    let swarm = Swarm("aRelayDeliversEveryByteOrAReset", seeds: 200, environment: environment)
    let clock = ContinuousClock()
    let start = clock.now
    let report = try swarm.run { world in try RelayScenario().run(world) }
    let seconds =
      Double((clock.now - start).components.attoseconds) / 1e18 + Double((clock.now - start).components.seconds)
    print("\(report.seeds) hostile seeds, \(report.events) events, \(Int(Double(report.seeds) / seconds)) seeds/s")
  }

  @Test func aRelaySurvivesFaultsThatBreakNothing() throws {
    var faults = FaultPlan.gentle
    faults.remove(.connectSlow)
    let swarm = Swarm("aRelaySurvivesFaultsThatBreakNothing", seeds: 100, faults: faults, environment: environment)
    _ = try swarm.run { world in try RelayScenario(clientCount: 2, bytesMax: 5_000, mustSucceed: true).run(world) }
  }

  @Test(arguments: ToyRelay.Bug.allCases)
  func aPlantedBugIsFound(_ bug: ToyRelay.Bug) throws {
    let failure = #expect(throws: SimFailure.self) {
      for seed in 1...500 as ClosedRange<UInt64> {
        var random = SeededRandom(seed: seed)
        let world = SimWorld(seed: seed, plan: .swarm(&random))
        defer { world.tearDown() }
        // Small enough that a relay which does not hold back is noticed.
        world.network.window = 16 * 1024
        world.queuedBytesMax = 600_000
        try RelayScenario(
          bug: bug, clientCount: 1, bytesMax: bug == .ignoresCongestion ? 2_000_000 : 20_000, serverIsPatient: true,
          serverPausesAfter: 10_000
        ).run(world)
      }
    }
    #expect(failure?.description.contains("again: SimWorld(seed:") == true)
  }

  @Test func theSameSeedGivesTheSameTrace() throws {
    let hashes = try (0..<2).map { _ in try Self.hashes() }
    #expect(hashes[0] == hashes[1])
    #expect(Set(hashes[0]).count == hashes[0].count, "different seeds give different traces")
  }

  /// Twelve hostile relays and one world with tasks, datagrams and files: their trace hashes.
  static func hashes() throws -> [UInt64] {
    try (1...12).map { seed in
      try Swarm("hashes", seeds: 1, environment: ["MICRO_SIM_SEED": String(seed)])
        .run { world in try RelayScenario().run(world) }.hash
    } + [mixedWorld()]
  }

  private static func mixedWorld() throws -> UInt64 {
    var random = SeededRandom(seed: 99)
    let world = SimWorld(seed: 99, plan: .swarm(&random).without(.diskError))
    defer { world.tearDown() }
    let loops = (0..<4).map { world.makeHost("h\($0)").makeLoop() }
    let ears = loops.map { _ in DatagramEar() }
    guard let group = SocketAddress("224.0.0.251:5353"), let any = SocketAddress(":5353") else { return 0 }
    for (loop, ear) in zip(loops, ears) {
      let socket = try loop.bindDatagram(to: any, sharedPort: true, handler: ear)
      try socket.join(group: group, interface: loop.host.address(port: 0))
      loop.startTask {
        for round in 0..<20 {
          let wait = Int64(loop.random.below(50_000_000))
          await withCheckedContinuation { continuation in
            let timer = LoopTimer { continuation.resume() }
            loop.timers.arm(timer, after: wait, from: loop.now)
          }
          socket.send(Array("\(loop.name) \(round) \(loop.random.uuid())".utf8), to: group)
          try? loop.writeFile("/tmp/\(round)", Array("\(wait)".utf8), mode: 0o644)
        }
      }
    }
    world.run(for: .seconds(20))
    return world.trace.hash
  }

  /// Runs in the child of the next test only.
  @Test(.enabled(if: environment["MICRO_SIM_CHILD"] != nil))
  func printHashes() throws { print("HASHES \(try Self.hashes())") }

  @Test(.enabled(if: environment["MICRO_SIM_CHILD"] == nil))
  func theSameSeedGivesTheSameTraceInAnotherProcess() throws {
    let child = Process()
    child.executableURL = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
    child.arguments =
      CommandLine.arguments.dropFirst().filter { $0.hasSuffix(".xctest") }
      + ["--testing-library", "swift-testing", "--filter", "printHashes"]
    child.environment = environment.merging(["MICRO_SIM_CHILD": "1"]) { $1 }
    let pipe = Pipe()
    child.standardOutput = pipe
    try child.run()
    let output = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    child.waitUntilExit()
    #expect(output.contains("HASHES \(try Self.hashes())"), "the child said: \(output.suffix(500))")
  }
}
