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
  /// What this process does for those that take its place. Only the first has any.
  private let succession: Succession?
  /// To the first process, in one of its successors.
  private var channel: SuccessionChannel?
  private var onReplaced: [(String?) -> Void] = []
  private var hasSidecarEnded = false
  /// The first process has passed a signal on that may come by itself too.
  private var expectsSignal = false
  private lazy var killTimer = LoopTimer { [unowned self] in
    log.warning("the app has not ended after \(settings.drain); it is killed")
    app?.signal(SIGKILL)
  }
  /// Fires when a start is over.
  private lazy var settleTimer = LoopTimer { [unowned self] in driver.releaseIdleCode() }

  /// Errors: a plug-in refuses its configuration, or the loop cannot be made.
  init(
    settings: Settings, plugins: PluginTable, command: [String], log: any LogSink, sources: SettingsSources,
    inheritance: Inheritance? = nil
  ) throws {
    self.settings = settings
    // The app is the first process's.
    self.command = inheritance == nil ? command : []
    self.log = log
    let driver = try UVDriver()
    self.driver = driver
    sidecar = try Sidecar(
      settings: settings, plugins: plugins, driver: driver, launcher: ThreadLauncher(), log: log,
      bequest: inheritance?.bequest,
      reload: { () throws(SettingsError) in
        var sources = sources
        sources.readFile = { try driver.readFile($0, limit: Program.configurationBytesMax) }
        sources.readSystemFile = { try? driver.readFile($0, limit: Program.configurationBytesMax) }
        return try Settings.load(sources)
      })
    sidecar.version = programVersion
    sidecar.adminSecurity = try AdminTLS(settings, sidecar.certificates, driver, log)
    succession = inheritance == nil ? Succession(sidecar, driver, log) : nil
    if let target = settings.traceTarget {
      sidecar.spanExporter = try OTLPExporter(
        target, service: settings.telemetryName ?? settings.serverName ?? "micro-sidecar",
        instance: settings.serverID ?? driver.hostName, version: programVersion, driver: driver, log: log)
    }
  }

  /// Returns the process's exit code.
  func run() -> Int32 {
    do throws(DriverError) {
      for number in [SIGTERM, SIGINT, SIGQUIT] {
        try driver.onSignal(number) { [unowned self] in stopRequested(number) }
      }
      for number in [SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH] where number != SIGWINCH || !command.isEmpty {
        try driver.onSignal(number) { [unowned self] in signalled(number) }
      }
      try joinSuccession()
      try sidecar.start(
        onServing: { [unowned self] in serving() }, onStopped: { [unowned self] in stopped($0) })
    } catch {
      log.error(
        "cannot start: \(error.message)", [("operation", error.operation), ("code", error.code)])
      return ExitCode.systemRefused.rawValue
    }
    driver.run()
    return exitCode
  }

  private func signalled(_ number: Int32) {
    switch number {
    case SIGHUP:
      sidecar.reopenLogs()
      sidecar.reload(because: "SIGHUP")
      sidecar.adminSecurity?.reload()
    case SIGUSR1: sidecar.reopenLogs()
    case SIGUSR2:
      // Beside an app that `run` started it is the app's, as every other.
      if command.isEmpty { return restart { _ in } }
    default: break
    }
    app?.signal(number)
    if number == SIGHUP || number == SIGUSR1 { succession?.signal(number) }
  }

  // MARK: Restart in place

  private func joinSuccession() throws(DriverError) {
    sidecar.onRestart = { [unowned self] in restart($0) }
    if let succession {
      succession.onEnded = { [unowned self] in successorEnded($0) }
      succession.onRetired = { [unowned self] in endIfNobodyServes() }
      return
    }
    channel = try SuccessionChannel(
      Inheritance.channel, driver, onWord: { [unowned self] in heard($0) },
      onEnd: { [unowned self] in
        channel = nil
        // The first process is gone: whoever starts it again must find the addresses free.
        if stopSignal == 0 { sidecar.shutdown(reason: "the process that started this one is gone") }
      })
  }

  private func restart(_ completion: @escaping (String?) -> Void) {
    guard stopSignal == 0, appExit == nil else { return completion("the sidecar is stopping") }
    if let succession { return succession.restart(completion) }
    onReplaced.append(completion)
    channel?.send("restart")
  }

  private func heard(_ word: String) {
    switch word {
    case "leave":
      sidecar.bequeath { [unowned self] bequest in
        guard let bequest else { return }
        let memory = SharedMemory(descriptor: Inheritance.memory)
        guard (try? memory.write(Array(bequest.json().text().utf8))) != nil else { return }
        channel?.send("left")
      }
    case "replaced": replaced(nil)
    case "retire":
      replaced(nil)
      sidecar.retire()
    case "stop":
      // The same request may have come as a signal to the whole group: that is no second one.
      if stopSignal == 0 {
        stopSignal = SIGTERM
        expectsSignal = true
        sidecar.shutdown(reason: "the first process is told to stop")
      }
    default: if word.hasPrefix("refused ") { replaced(String(word.dropFirst("refused ".count))) }
    }
  }

  private func replaced(_ problem: String?) {
    let completions = onReplaced
    onReplaced = []
    for completion in completions { completion(problem) }
  }

  private func successorEnded(_ status: Int32) {
    exitCode = status
    if stopSignal == 0, appExit == nil {
      sidecar.shutdown(exitCode: status, reason: "the process that served has ended")
    }
    endIfNobodyServes()
  }

  /// Neither this process's sidecar nor another of ours has calls any more.
  private func endIfNobodyServes() {
    guard hasSidecarEnded, succession?.isEmpty ?? true else { return }
    guard let app else { return finish(appExit?.status ?? exitCode) }
    app.signal(stopSignal == 0 ? SIGTERM : stopSignal)
    driver.timers.arm(killTimer, after: settings.drain.saturatingNanoseconds, from: driver.now)
  }

  // MARK: The way up and down

  private func serving() {
    channel?.send("ready")
    if channel != nil { for number in sidecar.inheritedSockets { UVDriver.close(number) } }
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
    succession?.stop()
    if sidecar.phase == .stopped {
      endIfNobodyServes()
    } else {
      sidecar.shutdown(exitCode: exit.status, reason: "the app ended")
    }
  }

  private func stopRequested(_ number: Int32) {
    if expectsSignal {
      expectsSignal = false
      return
    }
    if stopSignal != 0 {
      // The second signal means now.
      app?.signal(SIGKILL)
      succession?.kill()
      log.warning("stopped at once by a second signal")
      exit(128 + number)
    }
    stopSignal = number
    succession?.stop()
    sidecar.shutdown(reason: "signal \(number)")
  }

  /// The sidecar has deregistered and finished its calls; an app of ours is told to end only now, so that it could
  /// answer them.
  private func stopped(_ code: Int32) {
    hasSidecarEnded = true
    if succession?.isEmpty ?? true { exitCode = code } else { driver.releaseFreeMemory() }
    endIfNobodyServes()
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
