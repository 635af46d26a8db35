// Keeps one service registered in every registry that can be written: a `LeaseMachine` for each, so that one that is down
// hinders no other.

/// Threading: the control loop only (`Sendable` so that its tasks may hold it).
package final class RegistrationLease: @unchecked Sendable {
  private final class Holder: @unchecked Sendable {
    let registry: any Registry
    var machine: LeaseMachine
    var timer: LoopTimer?
    var task: Task<Void, Never>?
    var lastError: RegistryError?
    /// The version written, where it differs from the present one: to be removed before the next write.
    var written: Service?
    var hasEnded = false

    init(_ registry: any Registry, timing: LeaseTiming) {
      self.registry = registry
      machine = LeaseMachine(timing: timing)
    }
  }

  package private(set) var service: Service
  private let timing: LeaseTiming
  private let driver: any Driver
  private let log: any LogSink
  private var holders: [Holder] = []
  private var onEnded: [() -> Void] = []
  private var onWritten: [(RegistryError?) -> Void] = []
  private var isStopping = false

  package init(
    service: Service, registries: [any Registry], timing: LeaseTiming = LeaseTiming(), driver: any Driver,
    log: any LogSink
  ) {
    self.service = service
    self.timing = timing
    self.driver = driver
    self.log = log
    holders = registries.map { Holder($0, timing: timing) }
  }

  /// The state in each registry, by the registry's name, with what the last write said if it failed.
  package var states: [(registry: String, phase: LeaseMachine.Phase, lastError: String?)] {
    holders.map { ($0.registry.name, $0.machine.phase, $0.lastError?.description) }
  }

  /// Held in one registry at least.
  package var isHeld: Bool { holders.contains { $0.machine.phase == .held } }

  /// Registers, or takes the service out again. Twice is once.
  package func setHealthy(_ isHealthy: Bool) {
    guard !isStopping else { return }
    for holder in holders {
      perform(isHealthy ? holder.machine.appHealthy() : holder.machine.appUnhealthy(), holder)
    }
  }

  /// Other values for the same nodes; equal ones change nothing.
  package func update(_ new: Service) {
    guard new != service, !isStopping else { return }
    service = new
    for holder in holders { perform(holder.machine.changed(), holder) }
  }

  /// Registry `name` answers again after an outage and may have lost what was written.
  package func registryRecovered(_ name: String) {
    for holder in holders where holder.registry.name == name { perform(holder.machine.changed(), holder) }
  }

  /// Takes the service out of all registries, in parallel, each within `LeaseTiming.removeLimit`. `completion` runs on
  /// the loop, from inside when there is nothing to do.
  package func stop(completion: @escaping () -> Void) {
    onEnded.append(completion)
    isStopping = true
    reportWritten()
    for holder in holders { perform(holder.machine.stop(), holder) }
    finishIfEnded()
  }

  /// Another process holds the service from now on: it is forgotten here, and its registries hear nothing.
  package func abandon() {
    isStopping = true
    reportWritten()
    for holder in holders {
      holder.task?.cancel()
      perform(holder.machine.abandon(), holder)
      holder.registry.release(holder.written ?? service)
    }
  }

  /// Calls `completion` once, on the loop: with nil as soon as one registry holds the service, with an error when all
  /// have failed to take it, or when it is stopped before. At once when that is known.
  package func whenWritten(_ completion: @escaping (RegistryError?) -> Void) {
    onWritten.append(completion)
    reportWritten()
  }

  private func reportWritten() {
    guard !onWritten.isEmpty else { return }
    let outcome: RegistryError?
    if isHeld {
      outcome = nil
    } else if isStopping {
      outcome = .unavailable("\(service.name) is being taken out of the registry")
    } else if holders.allSatisfy({ $0.lastError != nil }) {
      // What can be mended says more than "read-only".
      outcome = holders.compactMap(\.lastError).first { $0 != .readOnly } ?? .readOnly
    } else {
      return
    }
    let completions = onWritten
    onWritten = []
    for completion in completions { completion(outcome) }
  }

  private func perform(_ action: LeaseMachine.Action, _ holder: Holder) {
    switch action {
    case .none: break
    case .write:
      holder.timer?.cancel()
      write(holder)
    case .remove:
      holder.timer?.cancel()
      remove(holder)
    case .wait(let nanoseconds):
      let timer =
        holder.timer
        ?? LoopTimer { [weak self, weak holder] in
          guard let self, let holder else { return }
          perform(holder.machine.timerFired(), holder)
        }
      holder.timer = timer
      driver.timers.arm(timer, after: nanoseconds, from: driver.now)
    case .cancelWrite: holder.task?.cancel()
    case .end:
      holder.timer?.cancel()
      holder.timer = nil
      holder.hasEnded = true
      finishIfEnded()
    }
  }

  private func finishIfEnded() {
    guard isStopping, holders.allSatisfy(\.hasEnded) else { return }
    let completions = onEnded
    onEnded = []
    for completion in completions { completion() }
  }

  private func write(_ holder: Holder) {
    let service = service
    let ttl = Duration.nanoseconds(timing.ttl)
    holder.task = startTask(on: driver) { [self] in
      do throws(RegistryError) {
        if let old = holder.written, old.version != service.version || old.nodes.map(\.id) != service.nodes.map(\.id) {
          try await limited(timing.removeLimit, holder) { registry throws(RegistryError) in
            try await registry.deregister(old)
          }
          holder.written = nil
        }
        // Noted before the write: one that fails may have been written.
        holder.written = service
        try await limited(timing.writeLimit, holder) { registry throws(RegistryError) in
          try await registry.register(service, ttl: ttl)
        }
        wrote(holder, nil)
        perform(holder.machine.writeSucceeded(random: &driver.random), holder)
        reportWritten()
      } catch {
        wrote(holder, error)
        perform(holder.machine.writeFailed(error, random: &driver.random), holder)
        reportWritten()
      }
    }
  }

  private func remove(_ holder: Holder) {
    let service = holder.written ?? service
    holder.task = startTask(on: driver) { [self] in
      do throws(RegistryError) {
        try await limited(timing.removeLimit, holder) { registry throws(RegistryError) in
          try await registry.deregister(service)
        }
        holder.written = nil
        log.info("\(service.name) has left registry \(holder.registry.name)")
        perform(holder.machine.removeSucceeded(), holder)
      } catch {
        log.warning(
          "\(service.name) could not be taken out of registry \(holder.registry.name)", [("cause", error.description)])
        perform(holder.machine.removeFailed(random: &driver.random), holder)
      }
    }
  }

  private func limited(
    _ nanoseconds: Int64, _ holder: Holder,
    _ operation: @escaping @Sendable (any Registry) async throws(RegistryError) -> Void
  ) async throws(RegistryError) {
    let registry = holder.registry
    try await driver.limited(nanoseconds: nanoseconds) { () async throws(RegistryError) in
      try await operation(registry)
    }
  }

  /// Logs the first write, the first failure of an outage, and its end.
  private func wrote(_ holder: Holder, _ error: RegistryError?) {
    let before = holder.lastError
    let wasHeld = holder.machine.phase == .held
    holder.lastError = error
    let place = "registry \(holder.registry.name)"
    if let error {
      guard before == nil, error != .readOnly, !isStopping else { return }
      log.warning(
        "\(service.name) could not be registered in \(place); trying again", [("cause", error.description)])
    } else if !wasHeld {
      log.info(
        "\(service.name) is registered in \(place)", [("nodes", service.nodes.map(\.address).joined(separator: " "))])
    }
  }
}
