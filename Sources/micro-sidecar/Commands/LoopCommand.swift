// What commands that ask have in common: a loop of their own, for as long as the question takes.

import SidecarUV

/// Runs `work` on a loop of its own, on the calling thread, and returns what it came to. `.systemRefused`: no loop could be
/// made, and standard error says why.
func runOnLoop(_ work: @escaping @Sendable (UVDriver) async -> ExitCode) -> ExitCode {
  let driver: UVDriver
  do { driver = try UVDriver() } catch {
    Terminal.error("\(error)\n")
    return .systemRefused
  }
  let session = LoopValue(driver)
  let outcome = LoopValue(LoopOutcome())
  let task = Task(executorPreference: driver.executor) {
    outcome.value.code = await work(session.value)
    session.value.stop()
  }
  driver.run()
  _ = task
  return outcome.value.code
}

private final class LoopOutcome {
  var code = ExitCode.ok
}
