// `micro-sidecar` and `micro-sidecar run -- CMD`: the process that serves, its signals and its end.

import SidecarBuiltins
import SidecarCore
import SidecarUV

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Runs a sidecar on this thread until a signal, the app's end or `/shutdown` ends it.
final class Server {
  private let settings: Settings
  private let log: any LogSink
  private let driver: UVDriver
  private let sidecar: Sidecar
  /// The command of `run`; empty for a sidecar beside an app that someone else starts.
  private let command: [String]
  private var app: (any ChildProcess)?
  private var appExit: ChildExit?
  private var exitCode: Int32 = 0
  private var stopSignal: Int32 = 0
  private lazy var killTimer = LoopTimer { [unowned self] in
    log.warning("the app has not ended after \(settings.drain); it is killed")
    app?.signal(SIGKILL)
  }
  /// Fires when a start is over.
  private lazy var settleTimer = LoopTimer { [unowned self] in driver.releaseIdleCode() }

  /// Errors: a plug-in refuses its configuration, or the loop cannot be made.
  init(settings: Settings, plugins: PluginTable, command: [String], log: any LogSink) throws {
    self.settings = settings
    self.command = command
    self.log = log
    driver = try UVDriver()
    sidecar = try Sidecar(
      settings: settings, plugins: plugins, driver: driver, launcher: ThreadLauncher(), log: log)
  }

  /// Returns the process's exit code.
  func run() -> Int32 {
    do throws(DriverError) {
      for number in [SIGTERM, SIGINT, SIGQUIT] {
        try driver.onSignal(number) { [unowned self] in stopRequested(number) }
      }
      for number in [SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH] where !command.isEmpty {
        try driver.onSignal(number) { [unowned self] in app?.signal(number) }
      }
      try sidecar.start(
        onServing: { [unowned self] in serving() }, onStopped: { [unowned self] in stopped($0) })
    } catch {
      log.error(
        "cannot start: \(error.message)", [("operation", error.operation), ("code", error.code)])
      return ExitCode.unavailable.rawValue
    }
    driver.run()
    return exitCode
  }

  private func serving() {
    driver.timers.arm(settleTimer, after: 1_000_000_000, from: driver.now)
    startApp()
  }

  /// The app starts once its sidecar takes calls, so its first call cannot be too early.
  private func startApp() {
    guard !command.isEmpty else { return }
    var environment = processEnvironment()
    if let address = sidecar.appAddress {
      environment["MICRO_PROXY_ADDRESS"] = environment["MICRO_PROXY_ADDRESS"] ?? address.description
      environment["MICRO_SIDECAR_ADDRESS"] = environment["MICRO_SIDECAR_ADDRESS"] ?? address.description
    }
    do throws(DriverError) {
      app = try driver.spawn(command, environment: environment) { [unowned self] in appEnded($0) }
      log.info("the app was started", [("command", command[0]), ("pid", "\(app?.processID ?? 0)")])
    } catch {
      log.error("cannot start \(command[0]): \(error.message)", [("code", error.code)])
      // As a shell says it: 127 for a command that is not there, 126 for one that cannot be run.
      sidecar.shutdown(exitCode: error.code == "ENOENT" ? 127 : 126, reason: "the app could not be started")
    }
  }

  private func appEnded(_ exit: ChildExit) {
    app = nil
    appExit = exit
    let how = exit.signal == 0 ? "with status \(exit.status)" : "by signal \(exit.signal)"
    log.info("the app ended \(how)")
    if sidecar.phase == .stopped {
      finish(exit.status)
    } else {
      sidecar.shutdown(exitCode: exit.status, reason: "the app ended")
    }
  }

  private func stopRequested(_ number: Int32) {
    if stopSignal != 0 {
      // The second signal means now.
      app?.signal(SIGKILL)
      log.warning("stopped at once by a second signal")
      exit(128 + number)
    }
    stopSignal = number
    sidecar.shutdown(reason: "signal \(number)")
  }

  /// The sidecar has deregistered and finished its calls; an app of ours is told to end only now, so that it could
  /// answer them.
  private func stopped(_ code: Int32) {
    exitCode = code
    guard let app else { return finish(code) }
    app.signal(stopSignal == 0 ? SIGTERM : stopSignal)
    driver.timers.arm(killTimer, after: settings.drain.saturatingNanoseconds, from: driver.now)
  }

  private func finish(_ code: Int32) {
    exitCode = code
    killTimer.cancel()
    settleTimer.cancel()
    driver.stop()
  }
}

/// A log to standard error, in the form that was asked for.
func makeLog(_ settings: Settings) -> StreamLog {
  StreamLog(
    level: settings.logLevel, format: settings.logFormat,
    clock: {
      var time = timespec()
      clock_gettime(CLOCK_REALTIME, &time)
      return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    },
    write: { line in
      line.withUnsafeBytes { Glibc.write(2, $0.baseAddress, $0.count) == $0.count }
    })
}
