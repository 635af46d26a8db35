// One loop of the data path and all it owns. Nothing here is shared with another loop: what comes from the control loop
// comes through the mailbox, as immutable values.

/// What a worker asks of the control loop. Any thread.
package protocol ControlPort: Sendable {
  /// Finds a service that the worker has not heard of; the answer is `Worker.resolved`.
  func resolve(_ name: ServiceName, for worker: WorkerPort)
  /// Answers a request of the local API that is not a call; `reply` runs on the control loop.
  func handle(_ request: APIRequest, reply: @escaping @Sendable (APIReply) -> Void)
  /// A call could not reach the app.
  func appFailed()
  /// Asks a gRPC server of the service for descriptors; the answer is `Worker.described`.
  func describe(_ name: ServiceName, at target: DialTarget, for worker: WorkerPort)
  /// Lines of the access log; the answer is `Worker.written`, and until then no other batch comes.
  func write(accessLog lines: LoopBound<ByteBuffer>, from worker: WorkerPort)
  func take(_ spans: [SpanRecord])
  func take(_ lines: TapLines)
}

extension ControlPort {
  /// Of a control loop that learns no descriptors.
  package func describe(_ name: ServiceName, at target: DialTarget, for worker: WorkerPort) {
    worker.post { $0.described(name) }
  }
  /// Of one that keeps no access log, exports no spans and has no lookers-on.
  package func write(accessLog lines: LoopBound<ByteBuffer>, from worker: WorkerPort) {
    worker.post { $0.written(lines) }
  }
  package func take(_ spans: [SpanRecord]) {}
  package func take(_ lines: TapLines) {}
}

/// A worker as the control loop sees it. Any thread.
package struct WorkerPort: @unchecked Sendable {
  package let index: Int
  package let mailbox: any Mailbox
  private let worker: Worker

  package init(index: Int, worker: Worker) {
    self.index = index
    mailbox = worker.driver.mailbox
    self.worker = worker
  }

  /// Hands the worker to `work`; the caller must be on the worker's loop.
  package func run(_ work: (Worker) -> Void) { work(worker) }

  /// Runs `work` on the worker's loop.
  package func post(_ work: @escaping @Sendable (Worker) -> Void) {
    mailbox.post { work(worker) }
  }
}

/// Where a listener is to be: an address to bind, or a socket that listens already.
package enum ListeningPlace: Sendable {
  /// `isShared`: other loops bind the same port.
  case address(SocketAddress, isShared: Bool)
  case inherited(Int32)
}

package final class Worker {
  /// Names being looked up at once; a call for one more is answered with `overloaded`.
  static let unknownServicesMax = 1024
  static let freeCallsMax = 256
  /// Addresses named by callers whose connections are kept; calls to more are made on fresh connections.
  static let fixedTargetsMax = 256
  /// How often idle connections are looked through, in nanoseconds.
  static let sweepInterval: Int64 = 1_000_000_000

  package let driver: any Driver
  /// The driver's, asked for once.
  let timers: TimerWheel
  package let settings: DataPathSettings
  package let metrics: WorkerMetrics
  /// Watches single requests; nil while nobody wants to.
  private(set) var observer: CallObserver?
  let readers = ReaderScratch()
  /// For what is read while something else is: messages of a transport inside another, as they are written.
  let transportReaders = ReaderScratch()
  /// Compressors and inflaters of WebSockets.
  let deflaters = DeflatePool()
  /// Where outgoing messages are put together; used up within one turn.
  let scratch = ByteBuffer(capacity: 16 * 1024)
  private let control: any ControlPort
  package let index: Int

  /// What the registries know, shared with the control loop.
  private(set) var entries: [ServiceName: ServiceEntry] = [:]
  /// Where calls go instead, if nodes come from another source than the registries.
  private var sourced: [ServiceName: ServiceEntry] = [:]
  /// The services that were called: most of a large registry never are.
  private var services: [ServiceName: ServiceTable] = [:]
  /// Services that are not `.present`: being looked up, or remembered as absent.
  private(set) var unknownServices = 0
  var routes: ByteKeyedCache<Route>
  /// JSON ⇄ protobuf, by the descriptors known now.
  package let translator: MessageTranslator
  private var inboundEndpoints: ByteKeyedCache<InboundEndpoint>
  var inboundRequests: UInt64 = 0
  var inboundErrors: UInt64 = 0
  /// Requests that are no call of a known route: the registry API, health, bad paths and malformed messages.
  let unroutedHandle: WorkerMetrics.Handle
  let inboundHandle: WorkerMetrics.Handle
  private let startedAt: Instant
  /// Resident memory of the process, told by the control loop now and then.
  package var memoryBytes = 0
  /// The process is near its limit: no new calls.
  package var isShortOfMemory = false
  private var fixedTargets: [String: UpstreamTarget] = [:]
  private var freeCalls: [OutboundCall] = []
  private var idCounter: UInt64
  var callsInFlight = 0
  /// Calls that may be under way.
  private(set) var callsMax: Int
  var mirrorsInFlight = 0
  /// Tokens of calls to services.
  var outboundLimiter = RateLimiter()
  /// Places at the app, and how many there are where that is found out.
  var appGate = AppGate()
  var appLimit: ConcurrencyLimit?
  let loadLine = ByteBuffer(capacity: 32)
  /// Tokens of calls to the app.
  var inboundLimiter = RateLimiter()
  /// For numbers made of names that strangers choose.
  let keySeed: UInt64
  var idleUpstreams = 0
  var openUpstreams = 0
  /// What holds for calls at this moment; another table comes through the mailbox when the configuration changes.
  package var policies: PolicyTable {
    didSet {
      guard policies !== oldValue else { return }
      for table in services.values { table.replacePolicy() }
      let inFlight = policies.serviceDefaults.limits.inFlight
      if inFlight != oldValue.serviceDefaults.limits.inFlight {
        callsMax = max(DataPathSettings.callsMaxDefault, inFlight)
      }
    }
  }
  /// The app behind this sidecar, where calls from the framework go.
  private(set) var app: UpstreamTarget?
  /// The message types known at this moment; another snapshot comes through the mailbox when they change.
  package var descriptors: Descriptors {
    get { translator.descriptors }
    set { translator.descriptors = newValue }
  }
  /// The forms found out for endpoints of `appStreams`, at most as many.
  private var appStreamForms: [String: AppStream.Form] = [:]
  /// True while the app's health allows calls; the registration follows it.
  package var isAppHealthy = true {
    didSet {
      if isAppHealthy != oldValue { grpcInbound.forEach { $0.healthChanged() } }
    }
  }

  private(set) var ingress = ConnectionList<IngressConnection>()
  private(set) var inbound = ConnectionList<InboundConnection>()
  /// The same for connections that speak HTTP/2.
  private(set) var grpcIngress = ConnectionList<GRPCServerConnection>()
  private(set) var grpcInbound = ConnectionList<GRPCServerConnection>()
  private var registryWatches: [RegistryWatch] = []
  private var appListeners: [Listener] = []
  private var frameworkListeners: [Listener] = []
  package private(set) var isDraining = false
  /// Draining because another process serves at the same addresses: nobody is hurried.
  private(set) var isHandingOver = false
  private var onDrained: (() -> Void)?
  private var sweepDue = Instant(nanoseconds: 0)
  /// The longest time since the last report that the loop was late for its sweep, in nanoseconds.
  private var lagMax: Int64 = 0
  private lazy var sweepTimer = LoopTimer { [unowned self] in self.sweep() }

  package init(index: Int, driver: any Driver, settings: DataPathSettings, control: any ControlPort) {
    self.index = index
    self.driver = driver
    timers = driver.timers
    self.settings = settings
    self.control = control
    policies = settings.policies
    callsMax = settings.callsMax
    metrics = WorkerMetrics()
    routes = ByteKeyedCache(capacity: 4096, seed: driver.random.next())
    translator = MessageTranslator(seed: driver.random.next())
    inboundEndpoints = ByteKeyedCache(capacity: 256, seed: driver.random.next())
    keySeed = driver.random.next()
    unroutedHandle = metrics.handle(MetricSeries(.out, dialect: "http", route: "other"))
    inboundHandle = metrics.handle(MetricSeries(.in, dialect: "mucp", route: "other"))
    startedAt = driver.now
    // Ids are unique in the process: each worker counts in a range of its own.
    idCounter = UInt64(index) &<< 48
    switch settings.appConcurrency {
    case .off: break
    // Its share of what the process may have, the rest to the first. Those who would have none take no calls.
    case .fixed(let limit):
      let parts = settings.appConcurrency.workers(of: settings.workers)
      appGate.limit = max(limit / parts + (index < limit % parts ? 1 : 0), 1)
    case .adaptive:
      appLimit = ConcurrencyLimit(now: driver.now)
      appGate.limit = ConcurrencyLimit.limitStart
    }
    if let target = settings.appTarget {
      app = UpstreamTarget(address: target, hostHeader: settings.appHost, isReusable: true, worker: self)
    }
    if settings.accessLog != nil || settings.tracing != nil {
      observer = CallObserver(worker: self, accessLog: settings.accessLog, tracing: settings.tracing)
    }
  }

  func nextID() -> UInt64 {
    idCounter &+= 1
    return idCounter
  }

  // MARK: Those who watch

  private var port: WorkerPort { WorkerPort(index: index, worker: self) }

  func give(_ lines: LoopBound<ByteBuffer>) { control.write(accessLog: lines, from: port) }
  func give(_ spans: [SpanRecord]) { control.take(spans) }
  func give(_ lines: TapLines) { control.take(lines) }

  func written(_ lines: LoopBound<ByteBuffer>) { observer?.accessLog?.written(lines.value) }

  /// Somebody looks on from now on, until `endTap`.
  package func beginTap(_ id: Int, _ filter: TapFilter, perSecond: Int) {
    let observer = observer ?? CallObserver(worker: self, accessLog: nil, tracing: nil)
    self.observer = observer
    observer.taps.append(Tap(id: id, filter: filter, perSecond: perSecond, worker: self))
  }

  package func endTap(_ id: Int) {
    guard let observer else { return }
    for tap in observer.taps where tap.id == id { tap.end() }
    observer.taps.removeAll { $0.id == id }
    if observer.taps.isEmpty, !observer.isLasting { self.observer = nil }
  }

  // MARK: Listening

  /// Takes calls of the app.
  package func listenForApp(at place: ListeningPlace) throws(DriverError) -> SocketAddress {
    try listen(at: place, .acceptedFromApp, .refusedFromApp, hasRoom: { $0.openFromApp < $1 }, \.appListeners) {
      let connection = IngressConnection(worker: $0, stream: $1)
      $0.ingress.add(connection)
      return connection
    }
  }

  /// Takes calls of the framework.
  package func listenForFramework(at place: ListeningPlace) throws(DriverError) -> SocketAddress {
    try listen(
      at: place, .acceptedFromFramework, .refusedFromFramework, hasRoom: { $0.openFromFramework < $1 },
      \.frameworkListeners
    ) {
      let connection = InboundConnection(worker: $0, stream: $1)
      $0.inbound.add(connection)
      return connection
    }
  }

  private func listen(
    at place: ListeningPlace, _ accepted: MetricCounter, _ refused: MetricCounter,
    hasRoom: @escaping (_ worker: Worker, _ limit: Int) -> Bool, _ list: ReferenceWritableKeyPath<Worker, [Listener]>,
    take: @escaping (Worker, ByteStream) -> any StreamHandler
  ) throws(DriverError) -> SocketAddress {
    let accept: (ByteStream) -> Void = { [unowned self] stream in
      guard !isDraining, hasRoom(self, settings.connectionsMax) else {
        metrics.add(refused)
        stream.handler = RefusedConnection.shared
        stream.reset()
        return
      }
      metrics.add(accepted)
      stream.handler = take(self, stream)
      armSweep()
    }
    let listener =
      switch place {
      case .address(let address, let isShared):
        try driver.listen(on: address, sharedPort: isShared, onAccept: accept)
      case .inherited(let descriptor): try driver.listen(inheriting: descriptor, onAccept: accept)
      }
    self[keyPath: list].append(listener)
    return listener.address
  }

  /// The numbers of the sockets that this worker listens at, for a process that is to take them over.
  package var socketNumbers: (app: [Int32], framework: [Int32]) {
    (appListeners.compactMap(\.descriptor), frameworkListeners.compactMap(\.descriptor))
  }

  private func stopListening(_ stop: (Listener) -> Void) {
    for listener in appListeners + frameworkListeners { stop(listener) }
    appListeners = []
    frameworkListeners = []
  }

  /// Takes calls of the framework on a connection inside another one. False when there are too many.
  func acceptTransport(_ stream: ByteStream) -> Bool {
    guard !isDraining || isHandingOver, openFromFramework < settings.connectionsMax else {
      metrics.add(.refusedFromFramework)
      return false
    }
    metrics.add(.acceptedFromFramework)
    let connection = InboundConnection(worker: self, stream: stream)
    inbound.add(connection)
    stream.handler = connection
    armSweep()
    return true
  }

  func remove(_ connection: IngressConnection) {
    ingress.remove(connection)
    checkDrained()
  }

  func remove(_ connection: InboundConnection) {
    inbound.remove(connection)
    checkDrained()
  }

  func add(_ connection: GRPCServerConnection) {
    switch connection.side {
    case .app: grpcIngress.add(connection)
    case .framework: grpcInbound.add(connection)
    }
    armSweep()
  }

  func remove(_ connection: GRPCServerConnection) {
    switch connection.side {
    case .app: grpcIngress.remove(connection)
    case .framework: grpcInbound.remove(connection)
    }
    checkDrained()
  }

  private var openFromApp: Int { ingress.count + grpcIngress.count }
  private var openFromFramework: Int { inbound.count + grpcInbound.count }

  // MARK: Services

  package func apply(_ delta: CatalogDelta) {
    let begun = driver.processorNanoseconds
    defer { metrics.recordApply(driver.processorNanoseconds &- begun) }
    for entry in delta.changed { apply(entry) }
    for name in delta.removed {
      guard let entry = entries[name], entry.revision <= delta.revision else { continue }
      entries[name] = nil
      tellWatches(name)
      if !settings.hasNodeSource { leave(name) }
    }
  }

  /// What the source of nodes says, where that is not the registries.
  package func applyNodes(_ delta: CatalogDelta) {
    for entry in delta.changed { applyNodes(entry) }
    for name in delta.removed {
      guard let entry = sourced[name], entry.revision <= delta.revision else { continue }
      sourced[name] = nil
      leave(name)
    }
  }

  private func apply(_ entry: ServiceEntry) {
    if let known = entries[entry.name], known.revision > entry.revision { return }
    entries[entry.name] = entry
    tellWatches(entry.name)
    if !settings.hasNodeSource { update(entry) }
  }

  private func applyNodes(_ entry: ServiceEntry) {
    if let known = sourced[entry.name], known.revision > entry.revision { return }
    sourced[entry.name] = entry
    update(entry)
  }

  private func leave(_ name: ServiceName) {
    // One that is being looked up gets its answer from the resolver.
    guard let table = services[name], table.status == .present else { return }
    table.removeAll(at: driver.now)
    routes.removeAll { $0.service === table }
    services[name] = nil
  }

  private func update(_ entry: ServiceEntry) {
    guard let table = services[entry.name] else { return }
    if table.status != .present { unknownServices -= 1 }
    table.update(entry)
    let waiting = table.waiting
    table.waiting.removeAll()
    for call in waiting { call.resolved(found: true) }
  }

  // MARK: Watches of the registry

  /// What is known of a service; nil when no registry has it.
  func entry(_ name: ServiceName) -> ServiceEntry? { entries[name] }

  func add(_ watch: RegistryWatch) { registryWatches.append(watch) }
  func remove(_ watch: RegistryWatch) { registryWatches.removeAll { $0 === watch } }

  private func tellWatches(_ name: ServiceName) {
    for watch in registryWatches { watch.entryChanged(name) }
  }

  private func makeTable(_ name: ServiceName) -> ServiceTable {
    let table = ServiceTable(name: name, worker: self)
    services[name] = table
    return table
  }

  /// The control loop has asked every registry for `name`. Found: the entry is in a delta or comes with this.
  package func resolved(_ name: ServiceName, _ entry: ServiceEntry?) {
    if let entry {
      if settings.hasNodeSource { applyNodes(entry) } else { apply(entry) }
      return
    }
    guard let table = services[name], table.status == .resolving else { return }
    // Kept for a while, so that a caller who asks again and again does not keep the control loop busy.
    table.status = .absent(since: driver.now)
    armSweep()
    let waiting = table.waiting
    table.waiting.removeAll()
    for call in waiting { call.resolved(found: false) }
  }

  /// Forgets what was not found `age` nanoseconds ago or earlier.
  private func forgetAbsent(olderThan age: Int64) {
    let now = driver.now
    let old = services.values.filter { table in
      guard case .absent(let since) = table.status else { return false }
      return now.nanoseconds(since: since) >= age
    }
    unknownServices -= old.count
    for table in old {
      table.stopProber()
      services[table.name] = nil
    }
  }

  /// The table of `name`; one that is not known yet is asked for. Nil when too many unknown names are being looked up.
  func service(_ name: ServiceName) -> ServiceTable? {
    if let table = services[name] { return table }
    if let entry = settings.hasNodeSource ? sourced[name] : entries[name] {
      let table = makeTable(name)
      table.update(entry)
      return table
    }
    if unknownServices >= Self.unknownServicesMax { forgetAbsent(olderThan: 0) }
    guard unknownServices < Self.unknownServicesMax else { return nil }
    unknownServices += 1
    let table = makeTable(name)
    resolve(table)
    return table
  }

  func knownService(_ name: ServiceName) -> ServiceTable? { services[name] }

  func makeSelector(_ policy: ServicePolicy) -> any Selector { settings.makeSelector(selectorName(policy)) }

  /// A service whose calls are to stick to nodes needs a selector that goes by keys.
  func selectorName(_ policy: ServicePolicy) -> String? {
    if policy.selector == nil, policy.affinity != nil, settings.selectorKeys(nil).hash == nil { return "hash" }
    return policy.selector
  }

  /// How the keys of a service's calls are made; nil: they have none.
  func keyRule(_ policy: ServicePolicy) -> KeyRule? {
    let keys = settings.selectorKeys(selectorName(policy))
    guard let hash = keys.hash, let affinity = policy.affinity ?? keys.affinity else { return nil }
    return KeyRule(affinity, hash)
  }

  func askDescription(_ name: ServiceName, at target: DialTarget) {
    control.describe(name, at: target, for: WorkerPort(index: index, worker: self))
  }

  func resolve(_ table: ServiceTable) {
    table.status = .resolving
    control.resolve(table.name, for: WorkerPort(index: index, worker: self))
  }

  package func handle(_ request: APIRequest, reply: @escaping (APIReply) -> Void) {
    let box = LoopBound(reply)
    let mailbox = driver.mailbox
    control.handle(request) { answer in mailbox.post { box.value(answer) } }
  }

  // MARK: Calls

  /// Why no call may be begun, with `underWay` of them counted already; nil: one may.
  func refusal(underWay: Int) -> String? {
    if underWay >= callsMax { return "\(callsMax) calls are under way" }
    return isShortOfMemory ? "the sidecar's memory is nearly used up" : nil
  }

  func takeCall() -> OutboundCall { freeCalls.popLast() ?? OutboundCall(worker: self) }

  func recycle(_ call: OutboundCall) {
    assert(!call.isRunning && !freeCalls.contains { $0 === call }, "given back twice, it would have two owners")
    guard freeCalls.count < Self.freeCallsMax else { return }
    call.clear()
    freeCalls.append(call)
  }

  /// The target of an address that a caller named itself.
  func fixedTarget(_ address: String) -> UpstreamTarget? {
    if let target = fixedTargets[address] { return target }
    guard let parsed = DialTarget(address) else { return nil }
    if case .opaque = parsed { return nil }
    if fixedTargets.count >= Self.fixedTargetsMax,
      // The smallest, not just any: the same on every run.
      let victim = fixedTargets.filter({ $0.value.inFlight == 0 }).min(by: { $0.key < $1.key })
    {
      victim.value.retire()
      fixedTargets[victim.key] = nil
    }
    let isRemembered = fixedTargets.count < Self.fixedTargetsMax
    // Nobody would close the idle connections of one that is not remembered, so it keeps none.
    let target = UpstreamTarget(
      address: parsed, hostHeader: FixedBytes(address), isReusable: isRemembered, worker: self)
    if isRemembered { fixedTargets[address] = target }
    return target
  }

  // MARK: Inbound

  /// A call has found the app gone.
  func appFailed() {
    // It may come back as another program.
    appStreamForms.removeAll()
    control.appFailed()
  }

  /// An endpoint of the app as its callers name it; found by its bytes, without a `String`, once seen.
  func inboundEndpoint(_ name: UnsafeRawBufferPointer) -> InboundEndpoint {
    if let endpoint = inboundEndpoints.find(name) { return endpoint }
    let endpoint = InboundEndpoint(
      service: settings.serviceName ?? "", name: String(decoding: name, as: UTF8.self), metrics: metrics)
    inboundEndpoints.insert(name, endpoint)
    return endpoint
  }

  /// Whether the app serves the endpoint as a stream.
  func isAppStream(_ name: UnsafeRawBufferPointer) -> Bool { isAppStream(inboundEndpoint(name), name) }

  func isAppStream(_ endpoint: InboundEndpoint, _ name: UnsafeRawBufferPointer) -> Bool {
    endpoint.isStream(as: translator.revision) {
      settings.appStreams[endpoint.name] != nil || translator.isStream(settings.fromService.span, name) == true
    }
  }

  /// How the app takes the stream `endpoint`: as configured, else as it was found out. Nil: not known yet.
  func appStreamForm(_ endpoint: String) -> AppStream.Form? {
    settings.appStreams[endpoint]?.form ?? appStreamForms[endpoint]
  }

  func learned(_ form: AppStream.Form, of endpoint: String) { appStreamForms[endpoint] = form }

  /// The numbers of Debug.Stats, of this worker.
  func stats() -> DebugReplies.Stats {
    let now = UInt64(max(driver.unixNanoseconds, 0) / 1_000_000_000)
    let uptime = UInt64(driver.now.nanoseconds(since: startedAt) / 1_000_000_000)
    return DebugReplies.Stats(
      timestamp: now, started: now - min(uptime, now), uptime: uptime, memory: UInt64(memoryBytes),
      threads: UInt64(settings.threads), requests: inboundRequests, errors: inboundErrors)
  }

  // MARK: Housekeeping

  func armSweep() {
    let isDrained = isDraining && onDrained == nil
    if !sweepTimer.isArmed, !isDrained {
      sweepDue = driver.now.advanced(byNanoseconds: Self.sweepInterval)
      timers.arm(sweepTimer, at: sweepDue)
    }
  }

  private func sweep() {
    let now = driver.now
    lagMax = max(lagMax, now.nanoseconds(since: sweepDue))
    for table in services.values {
      for node in table.nodes { node.target.sweep(now) }
    }
    for target in fixedTargets.values { target.sweep(now) }
    app?.sweep(now)
    ingress.forEach { $0.sweep(now) }
    inbound.forEach { $0.sweep(now) }
    grpcIngress.forEach { $0.sweep(now) }
    grpcInbound.forEach { $0.sweep(now) }
    if unknownServices > 0 { forgetAbsent(olderThan: settings.negativeTTL) }
    if idleUpstreams > 0 || unknownServices > 0 || openFromApp > 0 || openFromFramework > 0 { armSweep() }
  }

  /// Stops accepting, lets calls in flight end, closes idle connections, then calls `completion`.
  /// `handingOver`: another process listens at the same sockets; connections and streams may stay for as long as they have
  /// something to say.
  package func drain(handingOver: Bool = false, _ completion: @escaping () -> Void) {
    guard !isDraining else { return }
    isDraining = true
    isHandingOver = handingOver
    onDrained = completion
    stopListening { handingOver ? $0.leave() : $0.close() }
    for table in services.values { table.stopProber() }
    ingress.forEach { $0.closeWhenIdle() }
    inbound.forEach { $0.closeWhenIdle() }
    for watch in registryWatches { watch.end() }
    for connections in [grpcIngress, grpcInbound] {
      connections.forEach {
        $0.endWatches()
        $0.closeWhenIdle()
      }
    }
    checkDrained()
  }

  /// After `drain(handingOver: true)`: the process is to end, so what is left is drained as for any stop.
  package func hurry() {
    guard isHandingOver else { return }
    isHandingOver = false
    ingress.forEach { $0.closeWhenIdle() }
    inbound.forEach { $0.closeWhenIdle() }
  }

  private func checkDrained() {
    guard isDraining, openFromApp == 0, openFromFramework == 0, let completion = onDrained else { return }
    onDrained = nil
    observer?.flush()
    for table in services.values { for node in table.nodes { node.target.retire() } }
    for target in fixedTargets.values { target.retire() }
    app?.retire()
    sweepTimer.cancel()
    driver.later { completion() }
  }

  /// Closes everything at once, calls in flight too.
  package func closeAll() {
    for table in services.values { table.stopProber() }
    stopListening { $0.close() }
    ingress.forEach { $0.abort() }
    inbound.forEach { $0.abort() }
    grpcIngress.forEach { $0.abort() }
    grpcInbound.forEach { $0.abort() }
  }

  /// What was counted, with the levels of this moment.
  /// `keepsLag`: the next report tells of the same lag again.
  package func report(keepsLag: Bool = false) -> WorkerReport {
    let now = driver.now
    let begun = driver.processorNanoseconds
    var services = self.services.values.filter { $0.status == .present }.map { table in
      ServiceReport(
        name: table.name, nodes: table.nodes.count, ejected: table.set.ejectedCount,
        inFlight: table.nodes.indices.reduce(0) { $0 + Int(table.set.loadOf($1).inFlight) },
        budget: table.budget.balance(now))
    }
    if services.count > ServiceReport.max { services = ServiceReport.bounded(services) }
    let lag = lagMax
    if !keepsLag { lagMax = 0 }
    var report = WorkerReport(
      index: index, metrics: measured(), services: services, lagMax: lag, countersBytes: metrics.heldBytes,
      buffersBytes: readers.buffers.heldBytes)
    report.reportNanoseconds = driver.processorNanoseconds &- begun
    return report
  }

  package func measured() -> WorkerMetricsSnapshot {
    metrics.set(.openFromApp, openFromApp)
    metrics.set(.openFromFramework, openFromFramework)
    metrics.set(.pooledIdle, idleUpstreams)
    metrics.set(.pooledActive, openUpstreams - idleUpstreams)
    metrics.set(.requestsInFlight, callsInFlight)
    return metrics.snapshot()
  }
}

/// What one worker has to say of itself. Any thread.
package struct WorkerReport: Sendable {
  package var index: Int
  package var metrics: WorkerMetricsSnapshot
  package var services: [ServiceReport]
  package var lagMax: Int64
  package var countersBytes: Int
  package var buffersBytes: Int
  /// Processor time that the loop was held up by this.
  package var reportNanoseconds: Int64 = 0
}

/// A called service as one worker knows it.
package struct ServiceReport: Sendable {
  /// Services told of; the others are one, `other`.
  package static let max = 200

  package var name: String
  package var nodes: Int
  package var ejected: Int
  package var inFlight: Int
  /// Repetitions that could be paid for now.
  package var budget: Double

  /// The first by name, and the sum of the rest.
  static func bounded(_ services: [ServiceReport]) -> [ServiceReport] {
    let sorted = services.sorted { $0.name < $1.name }
    guard sorted.count > max else { return sorted }
    var kept = Array(sorted.prefix(max - 1))
    var other = ServiceReport(name: "other", nodes: 0, ejected: 0, inFlight: 0, budget: 0)
    for service in sorted.dropFirst(max - 1) {
      other.nodes += service.nodes
      other.ejected += service.ejected
      other.inFlight += service.inFlight
      other.budget += service.budget
    }
    kept.append(other)
    return kept
  }

  /// The same service on another worker; each worker knows all its nodes.
  mutating func add(_ other: ServiceReport) {
    nodes = Swift.max(nodes, other.nodes)
    ejected = Swift.max(ejected, other.ejected)
    inFlight += other.inFlight
    budget += other.budget
  }
}

/// An endpoint of the app and its counters. Its name becomes a label once the app has answered a call of it: until then
/// it may be anything a caller made up.
final class InboundEndpoint {
  private let service: String
  let name: String
  let nameBytes: FixedBytes
  private let metrics: WorkerMetrics
  private var handles: [WorkerMetrics.Handle?]
  var isReal = false {
    didSet { if isReal != oldValue { forget() } }
  }

  init(service: String, name: String, metrics: WorkerMetrics) {
    self.service = service
    self.name = name
    nameBytes = FixedBytes(name)
    self.metrics = metrics
    handles = Array(repeating: nil, count: CallerForm.allCases.count)
  }

  /// What `isStream` answers, and as of which revision of the descriptors.
  private var knownStream: (answer: Bool, descriptors: UInt64) = (false, .max)

  /// What `find` answers, asked once for each revision of the descriptors.
  func isStream(as revision: UInt64, _ find: () -> Bool) -> Bool {
    if knownStream.descriptors != revision { knownStream = (find(), revision) }
    return knownStream.answer
  }

  private func forget() {
    for index in handles.indices { handles[index] = nil }
  }

  func handle(_ form: CallerForm) -> WorkerMetrics.Handle {
    if let handle = handles[form.rawValue] { return handle }
    let handle = metrics.handle(
      MetricSeries(
        .in, dialect: form.dialect, route: "/{handler}/{method}", service: service, endpoint: isReal ? name : ""))
    handles[form.rawValue] = handle
    return handle
  }
}

/// A value of one loop on its way through another, which does not touch it.
package struct LoopBound<Value>: @unchecked Sendable {
  package let value: Value
  package init(_ value: Value) { self.value = value }
}

/// Hears the end of a connection that was turned away.
final class RefusedConnection: StreamHandler {
  nonisolated(unsafe) static let shared = RefusedConnection()
  func streamOpened(_ stream: ByteStream) {}
  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {}
  func streamEnded(_ stream: ByteStream) {}
  func streamDrained(_ stream: ByteStream) {}
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {}
}

/// The connections of one listener: added and removed in constant time.
protocol ListedConnection: AnyObject {
  var listIndex: Int { get set }
}

struct ConnectionList<Connection: ListedConnection> {
  private var items: [Connection] = []
  var count: Int { items.count }

  mutating func add(_ connection: Connection) {
    connection.listIndex = items.count
    items.append(connection)
  }

  mutating func remove(_ connection: Connection) {
    let index = connection.listIndex
    guard items.indices.contains(index), items[index] === connection else { return }
    let last = items.removeLast()
    if last !== connection {
      items[index] = last
      last.listIndex = index
    }
    connection.listIndex = -1
  }

  /// Over a copy: `body` may remove connections.
  func forEach(_ body: (Connection) -> Void) {
    let all = items
    for connection in all { body(connection) }
  }
}
