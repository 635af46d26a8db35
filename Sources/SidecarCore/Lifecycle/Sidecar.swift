// The whole sidecar on its control loop: registries, catalog, registration, workers, admin listener, and the order in
// which they start and stop.
//
//   starting ──all listeners bound──▶ serving ──signal, app gone, /shutdown──▶ draining ──▶ stopped
//                                                                │ deregister, then finish calls
//                                                                └── out of time, second signal: stopped at once

/// Starts loops for workers. `body` runs on the new loop's thread before the loop turns.
package protocol WorkerLauncher: AnyObject {
  func launch(name: String, body: @escaping @Sendable (any Driver) -> Void) throws(DriverError)
  /// Stops every loop that was launched and waits for them.
  func stopAll()
}

/// Threading: the control loop only (`Sendable` so that messages from workers may carry it).
package final class Sidecar: @unchecked Sendable {
  /// The exit code when a listener cannot be bound: EX_UNAVAILABLE.
  package static let cannotListenExit: Int32 = 69

  package enum Phase: String, Sendable { case starting, serving, draining, stopped }

  package let settings: Settings
  package let driver: any HostDriver
  private let launcher: any WorkerLauncher
  let log: any LogSink
  package let registries: [any Registry]
  package let catalog: Catalog
  package let resolver: ServiceResolver
  private let leases: LeaseTable
  private let descriptorFiles: DescriptorLoader
  private var supervisors: [WatchSupervisor] = []
  private var appLease: RegistrationLease?
  private var health: AppHealthMonitor?
  private let dataPath: DataPathSettings
  private(set) var workers: [WorkerPort] = []
  private var admin: AdminServer?
  package private(set) var phase = Phase.starting
  package private(set) var appAddress: SocketAddress?
  package private(set) var frameworkAddress: SocketAddress?
  package private(set) var adminAddress: SocketAddress?
  let startedUnix: Int64
  let startedAt: Instant
  private var onServing: (() -> Void)?
  private var onStopped: ((Int32) -> Void)?
  private var exitCode: Int32 = 0
  private var drainTimer: LoopTimer?
  private(set) var isAppHealthy = true
  private var snapshotFile: SnapshotFile?
  private(set) var bridges: [RegistryBridge] = []
  /// Descriptors of files, of the app and of nodes.
  package private(set) lazy var descriptors = DescriptorDirectory(driver: driver, log: log) { [weak self] snapshot in
    for worker in self?.workers ?? [] { worker.post { $0.descriptors = snapshot } }
  }

  /// Makes everything and binds nothing. Errors: a plug-in refuses its configuration.
  package init(
    settings: Settings, plugins: PluginTable, driver: any HostDriver, launcher: any WorkerLauncher, log: any LogSink
  ) throws(ConfigurationError) {
    self.settings = settings
    self.driver = driver
    self.launcher = launcher
    self.log = log
    startedUnix = driver.unixNanoseconds
    startedAt = driver.now
    var registries: [any Registry] = []
    for choice in settings.registries {
      registries.append(try plugins.makeRegistry(choice, settings, driver: driver, log: log))
    }
    self.registries = registries
    catalog = Catalog(registries: registries.map(\.name), now: driver.now, log: log) { [driver] in driver.later($0) }
    resolver = ServiceResolver(registries: registries, catalog: catalog, driver: driver)
    descriptorFiles = try DescriptorLoader(settings.descriptors, driver: driver, log: log)
    leases = LeaseTable(registries: registries, driver: driver, log: log)
    dataPath = DataPathSettings(settings, makeSelector: try plugins.selector(settings.selector))
    descriptors.configured = descriptorFiles.current
    descriptorFiles.onChange = { [weak self] in self?.descriptors.configured = $0 }
    for (index, registry) in registries.enumerated() {
      let supervisor = WatchSupervisor(registry: registry, index: index, catalog: catalog, driver: driver, log: log)
      supervisor.onRecovered = { [weak self] in
        self?.appLease?.registryRecovered(registry.name)
        self?.leases.registryRecovered(registry.name)
        for bridge in self?.bridges ?? [] { bridge.registryRecovered(registry.name) }
      }
      supervisors.append(supervisor)
    }
    snapshotFile = settings.snapshotPath.map { SnapshotFile($0, catalog: catalog, driver: driver, log: log) }
    makeBridges()
  }

  private func makeBridges() {
    for choice in settings.bridges {
      guard let source = settings.registryIndex(choice.source), let target = settings.registryIndex(choice.target)
      else {
        continue
      }
      bridges.append(
        RegistryBridge(
          from: source, to: target, registries: registries, catalog: catalog, timing: leaseTiming, driver: driver,
          log: log
        ) { [weak self] name, id in self?.isOwn(name, id) ?? false })
    }
  }

  /// Whether this sidecar registers the node itself.
  private func isOwn(_ name: ServiceName, _ id: String) -> Bool {
    let isApp = appLease.map { $0.service.name == name && $0.service.nodes.contains { $0.id == id } } ?? false
    return isApp || leases.holds(name, id)
  }

  private var leaseTiming: LeaseTiming {
    var timing = LeaseTiming()
    if settings.registerTTL > .zero { timing.ttl = settings.registerTTL.saturatingNanoseconds }
    if settings.registerInterval > .zero { timing.refresh = settings.registerInterval.saturatingNanoseconds }
    return timing
  }

  // MARK: Start

  /// Binds and starts. `onServing` runs when every listener takes connections, `onStopped` once at the end with the exit
  /// code. Errors: a listener cannot be bound; nothing is left running then.
  package func start(onServing: @escaping () -> Void, onStopped: @escaping (Int32) -> Void) throws(DriverError) {
    self.onServing = onServing
    self.onStopped = onStopped
    if let address = settings.adminAddress {
      let server = AdminServer(driver: driver) { [unowned self] request, reply in
        AdminAPI(self).answer(request, reply)
      }
      adminAddress = try server.listen(on: address)
      admin = server
    }
    try launch(0, appAddress: settings.sidecarAddress, frameworkAddress: settings.serverAddress)
    snapshotFile?.restore()
    snapshotFile?.start()
    for supervisor in supervisors { supervisor.start() }
    resolver.start()
  }

  private var takesFrameworkCalls: Bool { settings.serverName != nil && settings.appAddress != nil }

  private func launch(_ index: Int, appAddress: SocketAddress, frameworkAddress: SocketAddress) throws(DriverError) {
    let control = ControlLink(self)
    let dataPath = dataPath
    let descriptors = descriptors.snapshot
    let isShared = settings.workers > 1
    let listensForFramework = takesFrameworkCalls
    try launcher.launch(name: "worker-\(index)") { [self] driver in
      let worker = Worker(index: index, driver: driver, settings: dataPath, control: control)
      worker.descriptors = descriptors
      let port = WorkerPort(index: index, worker: worker)
      var failure: DriverError?
      var bound: (app: SocketAddress?, framework: SocketAddress?) = (nil, nil)
      do throws(DriverError) {
        // A Unix socket cannot be shared between loops: the first worker has it alone.
        if index == 0 || appAddress.port != 0 {
          bound.app = try worker.listenForApp(on: appAddress, sharedPort: isShared)
        }
        if listensForFramework, index == 0 || frameworkAddress.port != 0 {
          bound.framework = try worker.listenForFramework(on: frameworkAddress, sharedPort: isShared)
        }
      } catch {
        failure = error
      }
      let result = (bound, failure)
      self.driver.mailbox.post { [self] in launched(port, result.0.app, result.0.framework, result.1) }
    }
  }

  private func launched(
    _ port: WorkerPort, _ app: SocketAddress?, _ framework: SocketAddress?, _ failure: DriverError?
  ) {
    guard phase == .starting else { return }
    if let failure {
      log.error(
        "cannot listen: \(failure.message); is another sidecar running, or is MICRO_SIDECAR_ADDRESS taken?",
        [("operation", failure.operation), ("code", failure.code)])
      exitCode = Self.cannotListenExit
      stop()
      return
    }
    workers.append(port)
    // They may have changed while its loop was starting.
    let snapshot = descriptors.snapshot
    port.post { if $0.descriptors !== snapshot { $0.descriptors = snapshot } }
    if port.index == 0 {
      appAddress = app
      frameworkAddress = framework
      for index in 1..<max(settings.workers, 1) {
        do throws(DriverError) {
          try launch(
            index, appAddress: app ?? settings.sidecarAddress, frameworkAddress: framework ?? settings.serverAddress)
        } catch {
          log.error("cannot start worker \(index): \(error)")
          exitCode = Self.cannotListenExit
          stop()
          return
        }
      }
    }
    catalog.add(
      CatalogFeed(worker: port.mailbox, control: driver.mailbox) { delta in
        port.run { $0.apply(delta) }
      })
    if workers.count == max(settings.workers, 1) { serve() }
  }

  private func serve() {
    phase = .serving
    log.info(
      "micro-sidecar serves",
      [
        ("app_side", appAddress.map(\.description) ?? "-"),
        ("framework_side", frameworkAddress.map(\.description) ?? "-"),
        ("admin", adminAddress.map(\.description) ?? "-"),
        ("registries", registries.map(\.name).joined(separator: ",")),
      ])
    if settings.serverName != nil, settings.appAddress == nil {
      log.warning(
        "MICRO_SERVER_NAME is set and MICRO_APP_ADDRESS is not: the sidecar registers nothing and only makes calls")
    }
    registerApp()
    for bridge in bridges { bridge.start() }
    onServing?()
    onServing = nil
  }

  private func registerApp() {
    guard let name = settings.serverName, let target = settings.appAddress, let bound = frameworkAddress else { return }
    let address = Advertise.address(
      advertise: settings.serverAdvertise, podIP: settings.podIP, bound: bound, interfaces: driver.interfaces())
    let id = settings.serverID ?? driver.random.uuid()
    var metadata = settings.serverMetadata
    metadata["transport"] = settings.transport.rawValue
    metadata["broker"] = "http"
    metadata["server"] = "mucp"
    metadata["protocol"] = "mucp"
    metadata["registry"] = settings.registries.first?.name ?? "mdns"
    let streams = settings.appStreams.compactMap { AppStream($0) }.map {
      Endpoint(name: $0.endpoint, metadata: ["stream": "true"])
    }
    let service = Service(
      name: name, version: settings.serverVersion, endpoints: streams,
      nodes: [Node(id: "\(name)-\(id)", address: address, metadata: metadata)])
    let lease = RegistrationLease(
      service: service, registries: registries, timing: leaseTiming, driver: driver, log: log)
    appLease = lease
    isAppHealthy = false
    tellWorkers(isHealthy: false)
    let monitor = AppHealthMonitor(settings: settings, target: target, driver: driver, log: log) {
      [weak self] isHealthy in self?.appHealthChanged(isHealthy)
    }
    health = monitor
    monitor.start()
  }

  private func appHealthChanged(_ isHealthy: Bool) {
    guard phase == .serving else { return }
    if isHealthy, settings.appProtocol == .grpc, let name = settings.serverName, let app = settings.appAddress {
      // Before the first call: only its descriptors say under which package its methods are.
      descriptors.learn(name, from: app) { [weak self] isLearned in
        guard let self, health?.isHealthy == true else { return }
        if !isLearned, descriptors.snapshot.isEmpty {
          log.warning(
            "the app has no server reflection: JSON reaches it only if it takes JSON, and callers of other packages not at "
              + "all; switch reflection on, or name its descriptors in MICRO_DESCRIPTORS", [("app", app.description)])
        }
        setAppHealth(true)
      }
      return
    }
    setAppHealth(isHealthy)
  }

  private func setAppHealth(_ isHealthy: Bool) {
    guard phase == .serving else { return }
    isAppHealthy = isHealthy
    tellWorkers(isHealthy: isHealthy)
    appLease?.setHealthy(isHealthy)
  }

  func appFailed() { health?.askSoon() }

  private func tellWorkers(isHealthy: Bool) {
    for worker in workers { worker.post { $0.isAppHealthy = isHealthy } }
  }

  // MARK: Stop

  /// Deregisters, lets calls in flight end, stops. Twice: at once. `exitCode` is what `onStopped` gets.
  package func shutdown(exitCode: Int32 = 0, reason: String) {
    switch phase {
    case .stopped: return
    case .draining:
      log.warning("stopped before all calls had ended", [("reason", reason)])
      self.exitCode = exitCode
      stop()
    case .starting:
      self.exitCode = exitCode
      stop()
    case .serving:
      self.exitCode = exitCode
      phase = .draining
      log.info("draining", [("reason", reason)])
      let timer = LoopTimer { [weak self] in
        guard let self, self.phase == .draining else { return }
        self.log.warning("calls were still in flight after \(self.settings.drain); stopped")
        self.stop()
      }
      drainTimer = timer
      driver.timers.arm(timer, after: settings.drain.saturatingNanoseconds, from: driver.now)
      health?.stop()
      for supervisor in supervisors { supervisor.stop() }
      resolver.stop()
      let drainWorkers: () -> Void = { [weak self] in self?.drainWorkers() }
      let parts = LoopCounter(1 + bridges.count) { [weak self] in
        guard let self, let lease = self.appLease else { return drainWorkers() }
        lease.stop(completion: drainWorkers)
      }
      for bridge in bridges { bridge.stop { parts.one() } }
      leases.stop { parts.one() }
    }
  }

  private func drainWorkers() {
    guard phase == .draining else { return }
    let count = LoopCounter(workers.count) { [weak self] in self?.stop() }
    for worker in workers {
      worker.post { [mailbox = driver.mailbox] in
        $0.drain { mailbox.post { count.one() } }
      }
    }
  }

  private func stop() {
    guard phase != .stopped else { return }
    phase = .stopped
    drainTimer?.cancel()
    health?.stop()
    for supervisor in supervisors { supervisor.stop() }
    resolver.stop()
    snapshotFile?.stop()
    descriptors.stop()
    admin?.close()
    for worker in workers { worker.post { $0.closeAll() } }
    launcher.stopAll()
    let onStopped = onStopped
    self.onStopped = nil
    // In a later turn: closed streams report their end first.
    driver.later { [self] in onStopped?(exitCode) }
  }

  /// Waits until every registry has been heard, or for `nanoseconds`.
  package func synced(within nanoseconds: Int64) async {
    let end = driver.now.advanced(byNanoseconds: nanoseconds)
    while driver.now < end, !catalog.snapshot(now: driver.now).isSynced {
      await driver.pause(nanoseconds: 10_000_000)
    }
  }

  // MARK: For the workers

  /// What `/registry` and `/health` of the local API ask.
  func handle(_ request: APIRequest, reply: @escaping @Sendable (APIReply) -> Void) {
    switch request {
    case .listServices:
      let names = catalog.snapshot(now: driver.now).names
      reply(.json(value: .array(names.map { Service(name: $0, version: "").json() })))
    case .getService(let name):
      resolver.resolve(name) { resolution in
        switch resolution {
        case .found(let entry): reply(.json(value: .array(entry.versions.map { $0.json() })))
        case .notFound: reply(.text(404, "Service not found"))
        case .overloaded: reply(.text(503, "too many services are being looked up"))
        }
      }
    case .register(let service, let ttl):
      guard phase == .serving else { return reply(.text(503, "the sidecar is stopping")) }
      leases.register(service, ttl: ttl?.saturatingNanoseconds) { reply(Self.answer($0)) }
    case .deregister(let service):
      leases.deregister(service) { reply(Self.answer($0)) }
    case .appHealth:
      if appLease == nil {
        reply(APIReply(status: 200))
      } else if isAppHealthy {
        reply(APIReply(status: 200))
      } else {
        reply(
          .text(
            503,
            "the app at \(settings.appAddress.map(\.description) ?? "-") is not healthy: \(health?.lastFailure ?? "not asked yet")"
          ))
      }
    }
  }

  private static func answer(_ error: RegistryError?) -> APIReply {
    switch error {
    case nil: APIReply(status: 200)
    case .invalid(let why)?: .text(400, why)
    case .notFound?: .text(404, "Service not found")
    case .readOnly?: .text(405, "no configured registry can be written")
    case .refused(let why)?: .text(403, why)
    case .unavailable(let why)?: .text(503, why)
    }
  }

  func describe(_ name: ServiceName, at target: DialTarget, for worker: WorkerPort) {
    guard phase == .serving, let target = Destination(target) else { return worker.post { $0.described(name) } }
    descriptors.learn(name, from: target) { _ in worker.post { $0.described(name) } }
  }

  func resolve(_ name: ServiceName, for worker: WorkerPort) {
    resolver.resolve(name) { resolution in
      let entry: ServiceEntry? = if case .found(let entry) = resolution { entry } else { nil }
      worker.post { $0.resolved(name, entry) }
    }
  }

  /// The metrics of all workers, gathered; `completion` runs on the control loop.
  func gatherMetrics(_ completion: @escaping ([WorkerMetricsSnapshot]) -> Void) {
    guard !workers.isEmpty else { return completion([]) }
    let gathered = GatheredMetrics(workers.count, completion)
    for worker in workers {
      worker.post { [mailbox = driver.mailbox] worker in
        let snapshot = worker.measured()
        mailbox.post { gathered.add(snapshot) }
      }
    }
  }
}

/// Counts down on the control loop.
final class LoopCounter: @unchecked Sendable {
  private var left: Int
  private var completion: (() -> Void)?
  init(_ count: Int, _ completion: @escaping () -> Void) {
    left = count
    self.completion = completion
    if count == 0 { finish() }
  }
  func one() {
    left -= 1
    if left == 0 { finish() }
  }
  private func finish() {
    let completion = completion
    self.completion = nil
    completion?()
  }
}

private final class GatheredMetrics: @unchecked Sendable {
  private var snapshots: [WorkerMetricsSnapshot] = []
  private let count: Int
  private let completion: ([WorkerMetricsSnapshot]) -> Void

  init(_ count: Int, _ completion: @escaping ([WorkerMetricsSnapshot]) -> Void) {
    self.count = count
    self.completion = completion
  }

  func add(_ snapshot: WorkerMetricsSnapshot) {
    snapshots.append(snapshot)
    if snapshots.count == count { completion(snapshots) }
  }
}

/// The control loop as workers reach it.
private struct ControlLink: ControlPort {
  private let mailbox: any Mailbox
  private let sidecar: LoopBound<Sidecar>

  init(_ sidecar: Sidecar) {
    mailbox = sidecar.driver.mailbox
    self.sidecar = LoopBound(sidecar)
  }

  func resolve(_ name: ServiceName, for worker: WorkerPort) {
    mailbox.post { sidecar.value.resolve(name, for: worker) }
  }

  func handle(_ request: APIRequest, reply: @escaping @Sendable (APIReply) -> Void) {
    mailbox.post { sidecar.value.handle(request, reply: reply) }
  }

  func appFailed() {
    mailbox.post { sidecar.value.appFailed() }
  }

  func describe(_ name: ServiceName, at target: DialTarget, for worker: WorkerPort) {
    mailbox.post { sidecar.value.describe(name, at: target, for: worker) }
  }
}
