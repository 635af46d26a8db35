import SidecarCore
import SidecarSim
import Testing

/// A simulated host with one loop, for tests of `async` code: `run` drives the world until the code is done.
final class SimulatedLoop: @unchecked Sendable {
  let world: SimWorld
  let host: SimHost
  let loop: SimDriver
  private var failure: (any Error)?
  private var isDone = false

  init(seed: UInt64 = 1) {
    world = SimWorld(seed: seed)
    host = world.makeHost("a")
    loop = host.makeLoop()
  }

  deinit { world.tearDown() }

  func environment(argument: String? = nil, log: any LogSink = NoLog()) -> PluginEnvironment {
    PluginEnvironment(driver: loop, log: log, argument: argument)
  }

  /// Runs `work` on the loop, in simulated time, to its end.
  func run(within limit: Duration = .seconds(600), _ work: @escaping @Sendable () async throws -> Void) throws {
    isDone = false
    failure = nil
    _ = startTask(on: loop) { [self] in
      do { try await work() } catch { failure = error }
      isDone = true
    }
    let ended = world.runUntil({ isDone }, within: limit)
    try world.require(ended, "the work ended within \(limit)")
    // What was cancelled at the end ends too.
    world.run(for: .milliseconds(50))
    if let failure { throw failure }
    try world.verify()
  }
}

/// Keeps log lines. Touched on one loop only.
final class RecordedLog: LogSink, @unchecked Sendable {
  private(set) var lines: [(level: LogLevel, message: String)] = []
  var level: LogLevel { .trace }
  func log(
    _ level: LogLevel, _ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)]
  ) {
    lines.append((level, message()))
  }
  func messages(_ level: LogLevel) -> [String] { lines.filter { $0.level == level }.map(\.message) }
}
