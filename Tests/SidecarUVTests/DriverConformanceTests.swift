// libuv keeps the driver contract: the very suite that the simulator runs, on a real loop and real sockets.

import Foundation
import SidecarCore
import SidecarSim
import SidecarUV
import Testing

@Suite struct DriverConformanceTests {
  @Test(arguments: DriverConformance.cases)
  func libuvKeepsTheContract(_ aCase: ConformanceCase) async throws {
    let name = "uv-\(UUID().uuidString.prefix(8)).sock"
    let path = FileManager.default.temporaryDirectory.appendingPathComponent(name).path
    defer { try? FileManager.default.removeItem(atPath: path) }
    try await onLoop(within: .seconds(60)) { (driver, report: Report<Void>) in
      let loop = Loop(driver: driver)
      Task(executorPreference: driver.executor) {
        do {
          try await aCase.run(on: loop.driver, socketPath: path)
          report.succeed(())
        } catch {
          report.fail(error)
        }
      }
    }
  }

  /// A driver that only its own loop touches.
  private struct Loop: @unchecked Sendable { let driver: UVDriver }
}
