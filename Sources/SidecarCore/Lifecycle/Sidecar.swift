// The whole sidecar on its control loop: registries, catalog, registration, workers, admin listener, and the order in
// which they start and stop.
//
//   starting ──all listeners bound──▶ serving ──signal, app gone, /shutdown──▶ draining ──▶ stopped
//                                                                │ deregister, then finish calls
//                                                                └── out of time, second signal: stopped at once
//
// A sidecar that takes another process's place catches up with it before it serves, and one whose place was taken leaves
// without deregistering: `Sidecar+Succession`.

/// Starts loops for workers. `body` runs on the new loop's thread before the loop turns.
package protocol WorkerLauncher: AnyObject {
  func launch(name: String, body: @escaping @Sendable (any Driver) -> Void) throws(DriverError)
  /// Stops every loop that was launched and waits for them.
  func stopAll()
}

/// Threading: the control loop only (`Sendable` so that messages from workers may carry it).
package final class Sidecar: @unchecked Sendable {
  /// The exit code when a listener cannot be bound: EX_OSERR.
  package static let cannotListenExit: Int32 = 71

  package enum Phase: String, Sendable { case starting, serving, draining, stopped }

  package var settings: Settings { configuration.current }
  package let driver: any HostDriver
  private let launcher: any WorkerLauncher
  let log: any LogSink
  package let registries: [any Registry]
  package let catalog: Catalog
  package let resolver: ServiceResolver
  /// Where calls find nodes instead of in `catalog`.
  private let nodeSource: NodeSource?
  let leases: LeaseTable
  private let descriptorFiles: DescriptorLoader
  private var supervisors: [WatchSupervisor] = []
  private(set) var appLease: RegistrationLease?
  private(set) var health: AppHealthMonitor?
  private let dataPath: DataPathSettings
  let configuration: ConfigurationReloader
  private var policies: PolicyTable
  private(set) var workers: [WorkerPort] = []
  var admin: AdminServer?
  package internal(set) var phase = Phase.starting
  /// It has left the registries while it goes on serving; see `withdraw`.
  package internal(set) var isWithdrawn = false
  package internal(set) var appAddress: SocketAddress?
  package internal(set) var frameworkAddress: SocketAddress?
  package internal(set) var adminAddress: SocketAddress?
  /// What the process left that this one takes the place of; nil: there was none.
  let bequest: Bequest?
  /// This instance's id, as it was registered.
  var serverID: String?
  /// Another process has taken this one's place, and what is left here has time.
  var isRetiring = false
  var catchUp: CatchUp?
  var memoryWatch: MemoryWatch?
  /// The most processor nanoseconds that a page of metrics has taken of a loop at once.
  var scrapeTurnMax: Int64 = 0
  /// Puts TLS around the admin listener; set before `start`.
  package var adminSecurity: (any AdminSecurity)?
  /// The certificates in use.
  package let certificates = CertificateTable()
  /// Armed while what was registered before is being written anew.
  var holding: LoopTimer?
  /// Starts another process in this one's place; its completion gets nil when that serves, else what went wrong. Set by
  /// whoever can do it.
  package var onRestart: ((_ completion: @escaping (String?) -> Void) -> Void)?
  let startedUnix: Int64
  let startedAt: Instant
  private var onServing: (() -> Void)?
  private var onStopped: ((Int32) -> Void)?
  private var exitCode: Int32 = 0
  var drainTimer: LoopTimer?
  var isAppHealthy: Bool
  private var snapshotFile: SnapshotFile?
  private(set) var accessLog: AccessLogFile?
  /// As the program has it, for whoever asks.
  package var version = ""
  /// Set before `start`, where calls are traced.
  package var spanExporter: (any SpanExporter)?
  private(set) var taps = TapHub()
  private let statsHistory = StatsHistory()
  private lazy var statsTimer = LoopTimer { [unowned self] in noteStats() }
  private(set) var bridges: [RegistryBridge] = []
  /// Descriptors of files, of the app and of nodes.
  package private(set) lazy var descriptors = DescriptorDirectory(driver: driver, log: log) { [weak self] snapshot in
    for worker in self?.workers ?? [] { worker.post { $0.descriptors = snapshot } }
  }

  /// Makes everything and binds nothing. `reload` reads the settings again, from all their sources; without it they stay
  /// as they are. Errors: a plug-in refuses its configuration.
  package init(
    settings: Settings, plugins: PluginTable, driver: any HostDriver, launcher: any WorkerLauncher, log: any LogSink,
    bequest: Bequest? = nil, reload: (() throws(SettingsError) -> Settings)? = nil
  ) throws(ConfigurationError) {
    self.bequest = bequest
    isWithdrawn = bequest?.isWithdrawn ?? false
    isAppHealthy = bequest?.isAppHealthy ?? true
    configuration = ConfigurationReloader(settings, driver: driver, log: log, load: reload ?? { () in settings })
    self.driver = driver
    self.launcher = launcher
    self.log = log
    startedUnix = driver.unixNanoseconds
    startedAt = driver.now
    var registries: [any Registry] = []
    for choice in settings.registries {
      registries.append(
        try plugins.makeRegistry(choice, settings, driver: driver, log: log, certificates: certificates))
    }
    self.registries = registries
    catalog = Catalog(registries: registries.map(\.name), now: driver.now, log: log) { [driver] in driver.later($0) }
    resolver = ServiceResolver(registries: registries, catalog: catalog, driver: driver)
    descriptorFiles = try DescriptorLoader(settings.descriptors, driver: driver, log: log)
    leases = LeaseTable(registries: registries, driver: driver, log: log)
    nodeSource = try plugins.makeNodeSource(settings, driver: driver, log: log)
    var dataPath = DataPathSettings(settings, plans: try plugins.selectorPlans(standard: settings.selector))
    dataPath.hasNodeSource = nodeSource != nil
    self.dataPath = dataPath
    policies = dataPath.policies
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
    if let destination = settings.accessLog {
      accessLog = try AccessLogFile(destination, driver: driver, log: log)
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
      let server = AdminServer(driver: driver, security: adminSecurity) { [unowned self] request, reply in
        if let refusal = AdminGuard(settings).refusal(request) { return reply(refusal) }
        AdminAPI(self).answer(request, reply)
      }
      if bequest == nil { adminAddress = try server.listen(at: .address(address, isShared: false)) }
      admin = server
    }
    if let bequest {
      inherit(bequest)
      try launch(0, app: nil, framework: nil)
    } else {
      try launch(
        0, app: place(settings.sidecarAddress), framework: takesFrameworkCalls ? place(settings.serverAddress) : nil)
    }
    configuration.onChange = { [weak self] in self?.take($0.policies) }
    configuration.start()
    if bequest == nil { snapshotFile?.restore() }
    snapshotFile?.start()
    for supervisor in supervisors { supervisor.start() }
    resolver.start()
    nodeSource?.start()
  }

  /// Reads the configuration again.
  package func reload(because reason: String) {
    guard phase == .starting || phase == .serving else { return }
    configuration.reload(because: reason)
  }

  private func take(_ table: PolicyTable) {
    policies = table
    for worker in workers { worker.post { $0.policies = table } }
  }

  /// The first of the workers, if not all, listen for the framework.
  var frameworkWorkers: Int { settings.appConcurrency.workers(of: settings.workers) }

  private var takesFrameworkCalls: Bool { settings.serverName != nil && settings.appAddress != nil }

  private func place(_ address: SocketAddress) -> ListeningPlace {
    .address(address, isShared: settings.workers > 1)
  }

  /// A worker that listens at the places given.
  private func launch(_ index: Int, app: ListeningPlace?, framework: ListeningPlace?) throws(DriverError) {
    let control = ControlLink(self)
    let dataPath = dataPath
    let descriptors = descriptors.snapshot
    try launcher.launch(name: "worker-\(index)") { [self] driver in
      let worker = Worker(index: index, driver: driver, settings: dataPath, control: control)
      worker.descriptors = descriptors
      let port = WorkerPort(index: index, worker: worker)
      var failure: DriverError?
      var bound: (app: SocketAddress?, framework: SocketAddress?) = (nil, nil)
      do throws(DriverError) {
        if let app { bound.app = try worker.listenForApp(at: app) }
        if let framework { bound.framework = try worker.listenForFramework(at: framework) }
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
    if let failure { return cannotListen(failure) }
    workers.append(port)
    // They may have changed while its loop was starting.
    let snapshot = descriptors.snapshot
    let table = policies
    port.post {
      if $0.descriptors !== snapshot { $0.descriptors = snapshot }
      $0.policies = table
    }
    if port.index == 0 {
      if bequest == nil {
        appAddress = app
        frameworkAddress = framework
      }
      for index in 1..<max(settings.workers, 1) {
        do throws(DriverError) {
          // A Unix socket cannot be shared between loops: the first worker has it alone.
          try launch(
            index, app: app.flatMap { $0.port == 0 ? nil : place($0) },
            framework: framework.flatMap { $0.port == 0 || index >= frameworkWorkers ? nil : place($0) })
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
    nodeSource?.catalog.add(
      CatalogFeed(worker: port.mailbox, control: driver.mailbox) { delta in
        port.run { $0.applyNodes(delta) }
      })
    guard workers.count == max(settings.workers, 1) else { return }
    if bequest == nil { serve() } else { beginCatchingUp() }
  }

  func cannotListen(_ failure: DriverError) {
    log.error(
      "cannot listen: \(failure.message); is another sidecar running, or is MICRO_SIDECAR_ADDRESS taken?",
      [("operation", failure.operation), ("code", failure.code)])
    exitCode = Self.cannotListenExit
    stop()
  }

  /// Every listener takes connections.
  func serve() {
    phase = .serving
    log.info(
      "micro-sidecar serves",
      [
        ("app_side", appAddress.map(\.description) ?? "-"),
        ("framework_side", frameworkAddress.map(\.description) ?? "-"),
        ("admin", adminAddress.map(\.description) ?? "-"),
        ("registries", registries.map(\.name).joined(separator: ",")), ("workers", "\(workers.count)"),
      ])
    if settings.serverName != nil, settings.appAddress == nil {
      log.warning(
        "MICRO_SERVER_NAME is set and MICRO_APP_ADDRESS is not: the sidecar registers nothing and only makes calls")
    }
    if bequest == nil { registerApp() }
    for bridge in bridges { bridge.start() }
    noteStats()
    watchMemory()
    if bequest != nil { holdWhatWasHeld { [weak self] in self?.tellServing() } } else { tellServing() }
  }

  private func tellServing() {
    guard phase == .serving else { return }
    onServing?()
    onServing = nil
  }

  func noteStats() {
    guard phase == .serving else { return }
    gather({ StatusTotals([$0.metrics.snapshot()]) }) { [weak self] totals in
      guard let self else { return }
      statsHistory.add(StatusTotals(adding: totals), unixNanoseconds: driver.unixNanoseconds)
    }
    driver.timers.arm(statsTimer, after: StatsHistory.bucketNanoseconds, from: driver.now)
  }

  func registerApp() {
    guard !isWithdrawn, let name = settings.serverName, let target = settings.appAddress, let bound = frameworkAddress
    else { return }
    let address = Advertise.address(
      advertise: settings.serverAdvertise, podIP: settings.podIP, bound: bound, interfaces: driver.interfaces())
    let id = settings.serverID ?? serverID ?? driver.random.uuid()
    serverID = id
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
    isAppHealthy = bequest?.isAppHealthy ?? false
    tellWorkers(isHealthy: isAppHealthy)
    let monitor = AppHealthMonitor(
      settings: settings, target: target, isHealthy: isAppHealthy, driver: driver, log: log
    ) { [weak self] isHealthy in self?.appHealthChanged(isHealthy) }
    health = monitor
    monitor.start()
  }

  private var isUp: Bool { phase == .serving || phase == .starting && bequest != nil }

  func appHealthChanged(_ isHealthy: Bool) {
    guard isUp else { return }
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
    guard isUp else { return }
    isAppHealthy = isHealthy
    tellWorkers(isHealthy: isHealthy)
    catchUp?.appWasAsked = true
    // Until this process serves the entry is the other's.
    if !isWithdrawn, phase == .serving { appLease?.setHealthy(isHealthy) }
  }

  func appFailed() { health?.askSoon() }

  private func tellWorkers(isHealthy: Bool) {
    for worker in workers { worker.post { $0.isAppHealthy = isHealthy } }
  }

  // MARK: Stop

  /// Takes what is registered here out of the registries and says not ready, for good, and goes on serving: callers that
  /// have not heard of it lose nothing. `completion` runs on the loop when the registries have been told, at once when it
  /// was done before or the sidecar is on its way down.
  package func withdraw(reason: String, completion: @escaping () -> Void) {
    guard phase == .serving || phase == .starting, !isWithdrawn else { return completion() }
    isWithdrawn = true
    log.info("out of the registry, still serving", [("reason", reason)])
    let parts = LoopCounter(2, completion)
    leases.stop { parts.one() }
    guard let appLease else { return parts.one() }
    appLease.stop { parts.one() }
  }

  /// Deregisters, lets calls in flight end, stops. Twice: at once. `exitCode` is what `onStopped` gets.
  package func shutdown(exitCode: Int32 = 0, reason: String) {
    switch phase {
    case .stopped: return
    case .draining where isRetiring: hurry()
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
      nodeSource?.stop()
      let drainWorkers: () -> Void = { [weak self] in self?.drainWorkers() }
      let parts = LoopCounter(1 + bridges.count) { [weak self] in
        guard let self, let lease = self.appLease else { return drainWorkers() }
        lease.stop(completion: drainWorkers)
      }
      for bridge in bridges { bridge.stop { parts.one() } }
      leases.stop { parts.one() }
    }
  }

  func drainWorkers(handingOver: Bool = false) {
    guard phase == .draining else { return }
    let count = LoopCounter(workers.count) { [weak self] in self?.stop() }
    for worker in workers {
      worker.post { [mailbox = driver.mailbox] in
        $0.drain(handingOver: handingOver) { mailbox.post { count.one() } }
      }
    }
  }

  func stop() {
    guard phase != .stopped else { return }
    phase = .stopped
    drainTimer?.cancel()
    catchUp?.timer.cancel()
    holding?.cancel()
    health?.stop()
    configuration.stop()
    for supervisor in supervisors { supervisor.stop() }
    resolver.stop()
    nodeSource?.stop()
    snapshotFile?.stop()
    for registry in registries { registry.close() }
    statsTimer.cancel()
    memoryWatch?.timer.cancel()
    descriptors.stop()
    admin?.close()
    for worker in workers { worker.post { $0.closeAll() } }
    launcher.stopAll()
    takeRests()
    let onStopped = onStopped
    self.onStopped = nil
    // In a later turn: closed streams report their end first.
    let finish = { [self] in driver.later { [self] in onStopped?(exitCode) } }
    if let spanExporter { spanExporter.finish(finish) } else { finish() }
  }

  /// What the workers, whose threads have ended, still had to tell.
  private func takeRests() {
    for worker in workers {
      worker.run { worker in
        guard let observer = worker.observer else { return }
        let rest = observer.takeRest()
        if let lines = rest.lines { accessLog?.writeLast(lines.bytes) }
        if !rest.spans.isEmpty { spanExporter?.export(rest.spans) }
      }
    }
    accessLog?.close()
  }

  /// Files of logs were renamed: they are opened anew.
  package func reopenLogs() { accessLog?.reopen() }

  func write(accessLog lines: LoopBound<ByteBuffer>, from worker: WorkerPort) {
    let answer = { worker.post { $0.written(lines) } }
    guard let accessLog else { return answer() }
    accessLog.write(lines.value, answer)
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
      guard phase == .serving, !isWithdrawn else { return reply(.text(503, "the sidecar is stopping")) }
      leases.register(service, ttl: ttl?.saturatingNanoseconds) { reply(Self.answer($0)) }
    case .deregister(let service):
      leases.deregister(service) { reply(Self.answer($0)) }
    case .stats(let isJSON):
      let reply = LoopBound(reply)
      gatherMetrics { [self] workers in
        let stats = StatsPage.json(
          started: startedUnix / 1_000_000_000, memory: driver.residentBytes, threads: dataPath.threads,
          counters: statsHistory.counters(including: StatusTotals(workers.map(\.metrics)), driver.unixNanoseconds))
        reply.value(
          isJSON
            ? .json(value: stats)
            : APIReply(
              status: 200, contentType: "text/html; charset=utf-8", body: Array(StatsPage.html(stats).utf8)))
      }
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
    (nodeSource?.resolver ?? resolver).resolve(name) { resolution in
      let entry: ServiceEntry? = if case .found(let entry) = resolution { entry } else { nil }
      worker.post { $0.resolved(name, entry) }
    }
  }

  /// The metrics of all workers, gathered; `completion` runs on the control loop.
  func gatherMetrics(_ completion: @escaping ([WorkerReport]) -> Void) {
    gather({ $0.report() }, completion)
  }

  /// What every worker answers; `completion` runs on the control loop.
  func gather<Answer: Sendable>(
    _ ask: @escaping @Sendable (Worker) -> Answer, _ completion: @escaping ([Answer]) -> Void
  ) {
    guard !workers.isEmpty else { return completion([]) }
    let gathered = Gathered(workers.count, completion)
    for worker in workers {
      worker.post { [mailbox = driver.mailbox] worker in
        let answer = ask(worker)
        mailbox.post { gathered.add(answer) }
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

private final class Gathered<Answer: Sendable>: @unchecked Sendable {
  private var answers: [Answer] = []
  private let count: Int
  private let completion: ([Answer]) -> Void

  init(_ count: Int, _ completion: @escaping ([Answer]) -> Void) {
    self.count = count
    self.completion = completion
  }

  func add(_ answer: Answer) {
    answers.append(answer)
    if answers.count == count { completion(answers) }
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

  func write(accessLog lines: LoopBound<ByteBuffer>, from worker: WorkerPort) {
    mailbox.post { sidecar.value.write(accessLog: lines, from: worker) }
  }

  func take(_ spans: [SpanRecord]) {
    mailbox.post { sidecar.value.spanExporter?.export(spans) }
  }

  func take(_ lines: TapLines) {
    mailbox.post { sidecar.value.taps.take(lines) }
  }

  func describe(_ name: ServiceName, at target: DialTarget, for worker: WorkerPort) {
    mailbox.post { sidecar.value.describe(name, at: target, for: worker) }
  }
}
