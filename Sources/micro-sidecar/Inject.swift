// `micro-sidecar injector`: the process of the admission webhook, its signals and its end.

import SidecarBuiltins
import SidecarCore
import SidecarInjector
import SidecarTLS
import SidecarUV

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Serves reviews on this thread until a signal ends it.
final class Injector {
  /// Nanoseconds that answers under way get after the signal.
  private static let drain: Int64 = 10_000_000_000

  private let injector: InjectorSettings
  private let log: StreamLog
  private let driver: UVDriver
  private var server: InjectorServer?
  private var isStopping = false
  private lazy var drainTimer = LoopTimer { [unowned self] in driver.stop() }

  /// Errors: `SettingsError` with all that is wrong.
  init(environment: [String: String]) throws {
    let logging = try Settings.load(Self.sources(environment.filter { $0.key.hasPrefix("MICRO_LOG_") }))
    injector = try InjectorSettings.load(environment)
    log = makeLog(logging)
    driver = try UVDriver()
    UVDriver.forbidCoreDumps()
    let problems = Self.check(PodPatch.environmentOfBarePod(injector.sidecar))
    if !problems.isEmpty {
      throw SettingsError(
        problems.map { SettingProblem(.environment("MICRO_INJECTOR_ENV or _REGISTRY"), $0.description) })
    }
  }

  private static func sources(_ environment: [String: String]) throws -> SettingsSources {
    let plugins = try builtinPlugins()
    var sources = SettingsSources()
    sources.environment = environment
    sources.registryNames = Array(plugins.registries.keys)
    sources.selectorNames = Array(plugins.selectors.keys)
    return sources
  }

  /// What a sidecar with `environment` would say at its start.
  private static func check(_ environment: [String: String]) -> [SettingProblem] {
    do {
      // The file is in the pod's image or volume, out of sight here.
      _ = try Settings.load(try sources(environment.filter { $0.key != "MICRO_CONFIG" }))
      return []
    } catch let error as SettingsError {
      return error.problems
    } catch {
      return [SettingProblem(.combination, "\(error)")]
    }
  }

  /// Returns the process's exit code.
  func run() -> Int32 {
    defer { log.flush() }
    do {
      let table = CertificateTable()
      let certificates = try CertificateFiles(
        certificateFile: injector.certificateFile, keyFile: injector.keyFile, use: "injector", table: table,
        driver: driver, log: log)
      let review = AdmissionReview(PodPatch(injector.sidecar, check: Self.check))
      let server = InjectorServer(review: review, certificates: certificates, table: table, driver: driver, log: log)
      self.server = server
      for number in [SIGTERM, SIGINT] {
        try driver.onSignal(number) { [unowned self] in stopRequested(number) }
      }
      try driver.onSignal(SIGHUP) { certificates.reload() }
      let address = try server.listen(on: injector.address)
      log.info("the injector serves", [("address", address.description), ("image", injector.sidecar.image)])
      driver.run()
      // What the loop runs holds this object unowned.
      return withExtendedLifetime(self) { ExitCode.ok.rawValue }
    } catch let error as TLSError {
      log.error("cannot start: \(error.message)")
      return ExitCode.usage.rawValue
    } catch {
      log.error("cannot start: \(error)")
      return ExitCode.systemRefused.rawValue
    }
  }

  private func stopRequested(_ number: Int32) {
    guard !isStopping else {
      log.warning("stopped at once by a second signal")
      exit(128 + number)
    }
    isStopping = true
    log.info("draining", [("reason", "signal \(number)")])
    driver.timers.arm(drainTimer, after: Self.drain, from: driver.now)
    server?.close { [unowned self] in
      drainTimer.cancel()
      driver.stop()
    }
  }
}
