// Reads the configuration again when its file has changed or a signal asks for it: what may change while the sidecar runs
// is taken over at once and as a whole, a file with anything wrong in it is refused, and all stays as it was.
//
//   sound ── something is wrong with the file ──▶ refused (the last good configuration stays) ── good again ──▶ sound

/// Threading: the control loop only.
package final class ConfigurationReloader {
  /// Nanoseconds between the first sign of a change and the reading: editors empty a file before they fill it.
  static let settleNanoseconds: Int64 = 100_000_000

  /// What holds now: the configuration of the start, with all that has changed since.
  package private(set) var current: Settings
  /// Called after every reading that was taken over, even if nothing has changed.
  package var onChange: ((Settings) -> Void)?
  /// Readings that were taken over, and those that were refused.
  package private(set) var taken: UInt64 = 0
  package private(set) var refused: UInt64 = 0
  /// When the configuration was last taken over, in nanoseconds of Unix time; that of the start is the first.
  package private(set) var takenAt: Int64

  private let load: () throws(SettingsError) -> Settings
  private let driver: any HostDriver
  private let log: any LogSink
  private var watches: [any FileWatch] = []
  private lazy var timer = LoopTimer { [unowned self] in reload(because: "the file has changed") }

  /// `load` reads all sources once more: the file anew, flags and environment as they were.
  package init(
    _ settings: Settings, driver: any HostDriver, log: any LogSink,
    load: @escaping () throws(SettingsError) -> Settings
  ) {
    current = settings
    self.driver = driver
    self.log = log
    self.load = load
    takenAt = driver.unixNanoseconds
  }

  /// Watches the file and those that hold secrets. One that cannot be watched is read on a signal only.
  package func start() {
    for path in Set([current.configFile].compactMap { $0 } + current.secretPaths.values).sorted() {
      do throws(DriverError) {
        watches.append(try driver.watchFile(path) { [weak self] in self?.changed() })
      } catch {
        log.warning("\(path) cannot be watched: \(error.message); send SIGHUP when it has changed")
      }
    }
  }

  package func stop() {
    timer.cancel()
    for watch in watches { watch.cancel() }
    watches = []
  }

  private func changed() {
    if !timer.isArmed { driver.timers.arm(timer, after: Self.settleNanoseconds, from: driver.now) }
  }

  /// Reads it now.
  package func reload(because reason: String) {
    let read: Settings
    do throws(SettingsError) {
      read = try load()
    } catch {
      return refuse(error.problems, reason)
    }
    let fixed = current.keysThatNeedRestart(read)
    var next = current
    next.adopt(read)
    if let problem = next.exposure { return refuse([problem], reason) }
    current = next
    taken += 1
    takenAt = driver.unixNanoseconds
    log.info("the configuration was read again", [("reason", reason), ("policies", "\(current.policyRules.count)")])
    if !fixed.isEmpty {
      log.warning("these have changed and take effect after a restart", [("settings", fixed.joined(separator: ","))])
    }
    onChange?(current)
  }

  private func refuse(_ problems: [SettingProblem], _ reason: String) {
    refused += 1
    for problem in problems { log.error("\(problem)") }
    log.error(
      "the configuration is refused, and the one before stays",
      [("reason", reason), ("errors", "\(problems.count)")])
  }
}

extension Settings {
  /// Settings that may change at any time: what policies are made of, and the admin listener's token.
  package static let reloadable: Set<String> = [
    "MICRO_CLIENT_RETRIES", "MICRO_SIDECAR_RETRY_BUDGET", "MICRO_SIDECAR_ATTEMPT_TIMEOUT", "MICRO_SIDECAR_HEDGE",
    "MICRO_SIDECAR_EJECT_FAILURES", "MICRO_SIDECAR_MAX_IN_FLIGHT", "MICRO_ADMIN_TOKEN",
  ]

  /// Keys with another value in `other` that cannot be taken over, in the order of the table.
  func keysThatNeedRestart(_ other: Settings) -> [String] {
    Self.table.filter { !Self.reloadable.contains($0.key) && $0.format(self) != $0.format(other) }.map(\.key)
  }

  /// Takes over what may change, and where it came from.
  mutating func adopt(_ other: Settings) {
    retries = other.retries
    retryBudget = other.retryBudget
    attemptTimeout = other.attemptTimeout
    hedge = other.hedge
    ejectFailures = other.ejectFailures
    maxInFlight = other.maxInFlight
    adminToken = other.adminToken
    policyRules = other.policyRules
    inboundPolicy = other.inboundPolicy
    for key in Self.reloadable.union(Self.trees) { origins[key] = other.origins[key] }
  }
}
