import SidecarCore
import SidecarUV

/// Runs each worker's loop on a thread of its own.
final class ThreadLauncher: WorkerLauncher {
  private var threads: [UVThread] = []

  func launch(name: String, body: @escaping @Sendable (any Driver) -> Void) throws(DriverError) {
    threads.append(try UVThread.start(name: name) { body($0) })
  }

  func stopAll() {
    for thread in threads { thread.stop() }
    for thread in threads { thread.join() }
    threads.removeAll()
  }
}

/// Runs the one worker of a command on the control loop itself: no thread for a process that lives for one call.
final class InlineLauncher: WorkerLauncher {
  private let driver: UVDriver
  init(_ driver: UVDriver) { self.driver = driver }

  func launch(name: String, body: @escaping @Sendable (any Driver) -> Void) throws(DriverError) { body(driver) }

  func stopAll() {}
}
