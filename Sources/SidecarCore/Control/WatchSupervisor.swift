// Keeps the watch of one registry standing and feeds the catalog from it.
//
//   watching ── watch ended with an error ──▶ waiting (0 … 1.5 s, full jitter) ──▶ watching
//      └─ first snapshot after an outage: recovered
//
// The catalog keeps the registry's last content meanwhile. An outage is logged once with its cause, and once when over.

/// Threading: the control loop only (`Sendable` so that its task may hold it).
package final class WatchSupervisor: @unchecked Sendable {
  /// A watch that stood this long has been healthy: the next outage starts with a short wait again.
  package static let healthyAfterNanoseconds: Int64 = 10_000_000_000

  /// A watch that has not begun with a snapshot by then has failed, whatever the registry waits for.
  package static let firstSnapshotNanoseconds: Int64 = 30_000_000_000

  private let registry: any Registry
  private let index: Int
  private let catalog: Catalog
  private let driver: any Driver
  private let log: any LogSink
  private var task: Task<Void, Never>?
  private var backoff = Backoff()
  private var outageSince: Instant?
  private var firstSnapshotAt: Instant?
  /// Counts watches, so that one given up and not yet ended is not heard any more.
  private var attempt = 0
  private lazy var forgottenTimer = LoopTimer { [unowned self] in
    catalog.dropForgotten(index, now: driver.now)
    armForgottenTimer()
  }

  /// The registry answers again after an outage: time to write registrations again, it may have lost them.
  package var onRecovered: (() -> Void)?

  /// `index` is the registry's position in the catalog.
  package init(registry: any Registry, index: Int, catalog: Catalog, driver: any Driver, log: any LogSink) {
    self.registry = registry
    self.index = index
    self.catalog = catalog
    self.driver = driver
    self.log = log
  }

  /// Twice is once.
  package func start() {
    guard task == nil else { return }
    task = startTask(on: driver) { [self] in await run() }
  }

  /// The catalog keeps what it has. Twice is once.
  package func stop() {
    task?.cancel()
    task = nil
    forgottenTimer.cancel()
  }

  private func run() async {
    while !Task.isCancelled {
      firstSnapshotAt = nil
      attempt += 1
      let failure = await watch(attempt)
      if Task.isCancelled { return }
      watchEnded(failure)
      await driver.pause(nanoseconds: backoff.failed(random: &driver.random))
    }
  }

  /// Watches until that ends; the reason.
  private func watch(_ attempt: Int) async -> RegistryError {
    do throws(RegistryError) {
      try await driver.limited(
        nanoseconds: Self.firstSnapshotNanoseconds, onlyIf: { [self] in firstSnapshotAt == nil }
      ) { [self] () async throws(RegistryError) in
        try await registry.watch(.all) { [self] event in received(event, attempt) }
      }
      return .unavailable("the watch ended")
    } catch {
      return error
    }
  }

  private func received(_ event: RegistryEvent, _ attempt: Int) {
    guard task != nil, attempt == self.attempt else { return }
    catalog.apply(event, from: index, mayForget: registry.mayForget, now: driver.now)
    guard case .snapshot = event, firstSnapshotAt == nil else { return }
    firstSnapshotAt = driver.now
    armForgottenTimer()
    if let since = outageSince {
      outageSince = nil
      log.info(
        "registry \(registry.name) answers again",
        [("outage_seconds", "\(driver.now.nanoseconds(since: since) / 1_000_000_000)")])
      onRecovered?()
    }
  }

  private func armForgottenTimer() {
    guard let until = catalog.forgottenUntil(index) else { return }
    driver.timers.arm(forgottenTimer, after: until.nanoseconds(since: driver.now), from: driver.now)
  }

  private func watchEnded(_ failure: RegistryError) {
    if let first = firstSnapshotAt, driver.now.nanoseconds(since: first) >= Self.healthyAfterNanoseconds {
      backoff.reset()
    }
    catalog.lost(index, cause: failure.description, now: driver.now)
    guard outageSince == nil else { return }
    outageSince = driver.now
    log.warning(
      "registry \(registry.name) is not answering: its last known services stay in use; trying again",
      [("cause", failure.description)])
  }
}
