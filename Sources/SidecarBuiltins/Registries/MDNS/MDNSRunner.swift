// Owns the machines of the mDNS registry and gives them sockets, time and files. Loop-confined: every method is called on
// the control loop.
//
//   datagrams ──▶ DNSMessage ──▶ question: MDNSResponder ──▶ packets back to the asker
//                            └─▶ response: MDNSBrowser   ──▶ lookups answered, watch events
//   folder    ──▶ MDNSRendezvous ──▶ MDNSBrowser.setLocal
//   timer     ──▶ both machines, announcements, questions; every 3 s interfaces, leases and neighbours

import SidecarCore

final class MDNSRunner: DatagramHandler {
  /// How often interfaces and the rendezvous are looked at.
  static let housekeepingInterval: Int64 = 3_000_000_000
  /// How long our own test question may take to come back.
  static let selfTestTime: Int64 = 500_000_000
  /// Garbage entries whose names are remembered, so that each is logged once; further ones are only counted.
  static let garbageNamesMaximum = 1024
  /// Events waiting for a slow watcher; when there are more, they are replaced by one snapshot.
  static let watchEventsMaximum = 1024

  /// Announcements and goodbyes sent within `burstTime`; the next ones wait. A thousand nodes that leave at once would
  /// otherwise overrun the receive buffers of everyone who listens.
  static let burstPackets = 128
  static let burstTime: Int64 = 10_000_000

  typealias Answer<Value> = (Result<Value, RegistryError>) -> Void

  let driver: any HostDriver
  let log: any LogSink
  let options: MDNSOptions
  let sockets: MDNSSockets
  private var responder = MDNSResponder()
  private var browser = MDNSBrowser()
  private(set) var rendezvous: MDNSRendezvous?
  private var isStarted = false
  private var isClosed = false
  private var timer: LoopTimer?
  private var housekeepingTimer: LoopTimer?
  private var lastToken: UInt64 = 0

  private var lookups: [MDNSToken: (ServiceName, Answer<[Service]>)] = [:]
  private var lists: [MDNSToken: Answer<[ServiceName]>] = [:]
  private var watchers: [MDNSToken: Watcher] = [:]
  /// What was registered, as the caller gave it; addresses may have to be chosen again when interfaces change.
  private var registered: [MDNSNodeKey: (service: Service, expiry: Instant)] = [:]
  /// The same as published, for the rendezvous.
  private var published: [MDNSNodeKey: Service] = [:]

  /// Announcements and goodbyes that wait for their turn, oldest first. At most a few for each of the responder's nodes.
  private var outgoing: [[UInt8]] = []
  private var burstStart = Instant(nanoseconds: 0)
  private var burstCount = 0

  private var garbageNames: Set<String> = []
  /// Entries and datagrams that made no sense.
  private(set) var garbageCount = 0
  var skipped: SkippedEntries {
    SkippedEntries(asGarbage: garbageCount + (rendezvous?.garbageCount ?? 0), asFull: browser.table.leftOut)
  }

  var selfTest: SelfTest?
  private var selfTestWaiters: [() -> Void] = []
  private var selfTestTimer: LoopTimer?
  private var problemsLogged: Set<String> = []

  private struct Watcher {
    var events: [RegistryEvent] = []
    var missedEvents = false
    var isLive = false
    var waiting: Answer<RegistryEvent>?
  }

  /// A question for a name of our own, sent by every interface: hearing it proves that multicast comes back.
  struct SelfTest {
    var key: String
    var heard: Set<UInt32> = []
  }

  init(driver: any HostDriver, log: any LogSink, options: MDNSOptions) {
    self.driver = driver
    self.log = log
    self.options = options
    sockets = MDNSSockets(driver: driver, options: options)
    browser.table.random = SeededRandom(seed: driver.random.next())
  }

  /// Opens sockets and folder at the first use: making a registry costs and touches nothing.
  private func start() {
    guard !isStarted else { return }
    isStarted = true
    timer = LoopTimer { [unowned self] in self.pump() }
    housekeepingTimer = LoopTimer { [unowned self] in self.housekeep() }
    selfTestTimer = LoopTimer { [unowned self] in self.selfTestOver() }
    sockets.open(handler: self)
    if options.usesRendezvous {
      let rendezvous = MDNSRendezvous(driver: driver, log: log, folder: options.folder) { [unowned self] in
        self.published.sorted { $0.key < $1.key }.map(\.value)
      }
      self.rendezvous = rendezvous
      rendezvous.onChange = { [unowned self] changes, died in
        // A node of ours with the same id is ours.
        let foreign = changes.filter { self.published[$0.key] == nil }
        self.perform(self.browser.updateLocal(foreign, now: self.driver.now))
        self.perform(self.browser.forget(died))
        self.rearm()
      }
      rendezvous.start()
    }
    driver.timers.arm(housekeepingTimer!, after: Self.housekeepingInterval, from: driver.now)
    beginSelfTest()
  }

  private func token() -> MDNSToken {
    lastToken += 1
    return MDNSToken(number: lastToken)
  }

  // MARK: Registering

  func register(_ service: Service, ttl: Duration?, _ done: @escaping Answer<Void>) {
    guard !isClosed else { return done(.failure(.unavailable("the mdns registry is closed"))) }
    start()
    guard !service.name.isEmpty, !service.nodes.isEmpty else {
      return done(.failure(.invalid("mdns: a service needs a name and at least one node to be registered")))
    }
    let expiry = ttl.map { driver.now.advanced(by: $0) } ?? .distantFuture
    var waiting = service.nodes.count
    var failure: RegistryError?
    for node in service.nodes {
      address(of: node) { [self] result in
        switch result {
        case .success(let address):
          if let error = publish(service, node, address, expiry) { failure = failure ?? error }
        case .failure(let error): failure = failure ?? error
        }
        waiting -= 1
        guard waiting == 0 else { return }
        pump()
        done(failure.map { .failure($0) } ?? .success(()))
      }
    }
  }

  /// What a node is reached by: its own literal address, one of this host's where it is bound to all of them, or what its
  /// name resolves to, since v0.14 takes numbers only.
  private func address(of node: Node, _ found: @escaping (Result<MDNSAddresses, RegistryError>) -> Void) {
    guard let (host, port) = SocketAddress.splitHostPort(node.address), port > 0 else {
      return found(
        .failure(
          .invalid("mdns: node \(node.id) has the address \(node.address); only host:port can be registered here")))
    }
    if let addresses = MDNSAddresses(host: host, port: port, interfaces: driver.interfaces()) {
      return found(.success(addresses))
    }
    driver.resolve(host: host) { result in
      switch result {
      case .success(let resolved):
        if let addresses = MDNSAddresses(resolved: resolved, port: port) { return found(.success(addresses)) }
        found(.failure(.unavailable("mdns: \(host) of node \(node.id) has no address")))
      case .failure(let error):
        found(.failure(.unavailable("mdns: node \(node.id) cannot be registered: \(error)")))
      }
    }
  }

  private func publish(_ service: Service, _ node: Node, _ addresses: MDNSAddresses, _ expiry: Instant)
    -> RegistryError?
  {
    let key = MDNSNodeKey(service: service.name, id: node.id)
    let payload = MDNSPayload(
      service: service.name, version: service.version, endpoints: service.endpoints, metadata: node.metadata)
    do throws(WireError) {
      // Without a host name that fits DNS, the instance's own name serves: readers accept it.
      let record = MDNSPublishedNode(
        key: key, host: try? DNSName(driver.hostName), port: addresses.port, ipv4: addresses.ipv4,
        ipv6: addresses.ipv6, text: try payload.strings())
      switch try responder.register(record, expiry: expiry, now: driver.now) {
      case .unchanged, .published: break
      case .full:
        return .refused("mdns: \(MDNSResponder.nodesMaximum) nodes are registered here already, more do not fit")
      }
    } catch {
      return .invalid("mdns: node \(node.id) of \(service.name) cannot be registered: \(error)")
    }
    var single = service
    single.nodes = [node]
    registered[key] = (single, expiry)
    single.nodes[0].address = addresses.text
    setOwn(key, single)
    return nil
  }

  func deregister(_ service: Service) {
    guard isStarted else { return }
    let keys = service.nodes.map { MDNSNodeKey(service: service.name, id: $0.id) }
    for key in keys {
      outgoing += responder.deregister(key)
      registered[key] = nil
      setOwn(key, nil)
    }
    perform(browser.forget(keys))
    pump()
  }

  /// The nodes are another process's from now on: no goodbye, and what we know of them stays.
  func release(_ service: Service) {
    guard isStarted else { return }
    for node in service.nodes {
      let key = MDNSNodeKey(service: service.name, id: node.id)
      _ = responder.deregister(key)
      registered[key] = nil
      setOwn(key, nil)
    }
  }

  /// Chooses addresses again for nodes bound to all of them.
  private func republish() {
    for (_, entry) in registered {
      for node in entry.service.nodes {
        guard let (host, port) = SocketAddress.splitHostPort(node.address),
          let addresses = MDNSAddresses(host: host, port: port, interfaces: driver.interfaces())
        else { continue }
        _ = publish(entry.service, node, addresses, entry.expiry)
      }
    }
  }

  /// What is published of one of our nodes; nil when it left.
  private func setOwn(_ key: MDNSNodeKey, _ service: Service?) {
    guard published[key] != service else { return }
    published[key] = service
    perform(browser.updateLocal([key: service], now: driver.now))
    rendezvous?.ownChanged()
  }

  // MARK: Asking

  func lookup(_ name: ServiceName, _ done: @escaping Answer<[Service]>) -> MDNSToken? {
    guard !isClosed else {
      done(.failure(.unavailable("the mdns registry is closed")))
      return nil
    }
    start()
    let token = token()
    do throws(WireError) {
      lookups[token] = (name, done)
      if let actions = try browser.lookup(name, token: token, now: driver.now) {
        perform(actions)
        rearm()
        return token
      }
      lookups[token] = nil
      done(.failure(.unavailable("mdns: \(MDNSBrowser.pendingMaximum) lookups are under way already")))
    } catch {
      lookups[token] = nil
      done(.failure(.invalid("mdns: \(name) cannot be looked up: \(error)")))
    }
    return nil
  }

  func list(_ done: @escaping Answer<[ServiceName]>) -> MDNSToken? {
    guard !isClosed else {
      done(.failure(.unavailable("the mdns registry is closed")))
      return nil
    }
    start()
    let token = token()
    lists[token] = done
    guard let actions = browser.list(token: token, now: driver.now) else {
      lists[token] = nil
      done(.failure(.unavailable("mdns: \(MDNSBrowser.pendingMaximum) lookups are under way already")))
      return nil
    }
    perform(actions)
    rearm()
    return token
  }

  func watch(_ scope: WatchScope, _ done: @escaping Answer<MDNSToken>) {
    guard !isClosed else { return done(.failure(.unavailable("the mdns registry is closed"))) }
    start()
    let token = token()
    do throws(WireError) {
      watchers[token] = Watcher()
      guard let actions = try browser.watch(scope, token: token, now: driver.now) else {
        watchers[token] = nil
        return done(.failure(.unavailable("mdns: \(MDNSTable.watchesMaximum) watches are open already")))
      }
      perform(actions)
      rearm()
      done(.success(token))
    } catch {
      watchers[token] = nil
      done(.failure(.invalid("mdns: this cannot be watched: \(error)")))
    }
  }

  /// The next event of a watch, when there is one. One call at a time.
  func nextEvent(_ token: MDNSToken, _ done: @escaping Answer<RegistryEvent>) {
    guard var watcher = watchers[token] else {
      return done(.failure(.unavailable("the mdns registry is closed")))
    }
    if watcher.missedEvents {
      watcher.missedEvents = false
      watchers[token] = watcher
      return done(.success(.snapshot(browser.snapshot(for: token))))
    }
    if watcher.events.isEmpty {
      watcher.waiting = done
      watchers[token] = watcher
    } else {
      let event = watcher.events.removeFirst()
      watchers[token] = watcher
      done(.success(event))
    }
  }

  func unwatch(_ token: MDNSToken) {
    watchers[token] = nil
    browser.unwatch(token)
    rearm()
  }

  /// The caller left: nothing more is reported for this call.
  func cancel(_ token: MDNSToken) {
    lookups[token] = nil
    lists[token] = nil
    watchers[token]?.waiting = nil
    browser.cancel(token)
    rearm()
  }

  /// Says goodbye for everything and ends every call.
  func close() {
    guard !isClosed else { return }
    isClosed = true
    sockets.multicast(outgoing)
    for key in responder.keys { sockets.multicast(responder.deregister(key)) }
    outgoing = []
    rendezvous?.close()
    sockets.close()
    for timer in [timer, housekeepingTimer, selfTestTimer] { timer?.cancel() }
    let error = RegistryError.unavailable("the mdns registry is closed")
    let (lookups, lists, watchers) = (lookups, lists, watchers)
    self.lookups = [:]
    self.lists = [:]
    self.watchers = [:]
    for (_, done) in lookups.values { done(.failure(error)) }
    for done in lists.values { done(.failure(error)) }
    for watcher in watchers.values { watcher.waiting?(.failure(error)) }
    let waiters = selfTestWaiters
    selfTestWaiters = []
    for waiter in waiters { waiter() }
  }

  // MARK: Carrying out

  private func perform(_ actions: [MDNSBrowserAction]) {
    for action in actions {
      switch action {
      case .ask(let names):
        sockets.ask(
          names.compactMap { name in
            let id = UInt16(truncatingIfNeeded: driver.random.next())
            return try? DNSMessage(id: id, questions: [DNSQuestion(name, .ptr)]).bytes(compressed: false)
          })
      case .lookedUp(let token, let services):
        guard let (name, done) = lookups.removeValue(forKey: token) else { continue }
        done(services.isEmpty ? .failure(.notFound(name)) : .success(services))
      case .listed(let token, let names):
        lists.removeValue(forKey: token)?(.success(names))
      case .event(let token, let event):
        deliver(event, to: token)
      }
    }
  }

  private func deliver(_ event: RegistryEvent, to token: MDNSToken) {
    guard var watcher = watchers[token] else { return }
    if let waiting = watcher.waiting {
      watcher.waiting = nil
      watchers[token] = watcher
      waiting(.success(event))
      return
    }
    if watcher.missedEvents { return }
    if watcher.events.count >= Self.watchEventsMaximum {
      watcher.events = []
      watcher.missedEvents = true
    } else {
      watcher.events.append(event)
    }
    watchers[token] = watcher
  }

  /// Does what is due and sets the timer for what comes next.
  private func pump() {
    guard !isClosed else { return }
    let now = driver.now
    let due = responder.advance(to: now)
    outgoing += due.packets
    sendOutgoing(now)
    if !due.expired.isEmpty {
      for key in due.expired {
        registered[key] = nil
        setOwn(key, nil)
        log.warning(
          "node \(key.id) of \(key.service) was not renewed in time and is no longer registered", [("registry", "mdns")]
        )
      }
      perform(browser.forget(due.expired))
    }
    perform(browser.advance(to: now))
    rearm()
  }

  private func sendOutgoing(_ now: Instant) {
    if now.nanoseconds(since: burstStart) >= Self.burstTime {
      burstStart = now
      burstCount = 0
    }
    let batch = outgoing.prefix(Self.burstPackets - burstCount)
    guard !batch.isEmpty else { return }
    burstCount += batch.count
    sockets.multicast(Array(batch))
    outgoing.removeFirst(batch.count)
  }

  private func rearm() {
    guard let timer, !isClosed else { return }
    let nextBurst = outgoing.isEmpty ? .distantFuture : burstStart.advanced(byNanoseconds: Self.burstTime)
    let due = min(responder.nextDue, browser.nextDue, nextBurst)
    if due == .distantFuture {
      timer.cancel()
    } else if !timer.isArmed || timer.due != due {
      driver.timers.arm(timer, at: due)
    }
  }

  private func housekeep() {
    guard !isClosed else { return }
    if sockets.refresh() {
      republish()
      responder.announceAgain(now: driver.now)
      perform(browser.refresh(now: driver.now))
      beginSelfTest()
      pump()
    }
    rendezvous?.housekeep()
    if let housekeepingTimer {
      driver.timers.arm(housekeepingTimer, after: Self.housekeepingInterval, from: driver.now)
    }
  }

  // MARK: Datagrams

  func datagramReceived(
    _ socket: DatagramSocket, _ bytes: UnsafeRawBufferPointer, from peer: SocketAddress, interface: UInt32
  ) {
    guard !isClosed else { return }
    guard let message = try? DNSMessage(reading: bytes) else {
      garbageCount += 1
      return
    }
    if message.flags.contains(.response) {
      let reply = MDNSReply(message)
      for garbage in reply.garbage { complain(garbage, peer) }
      perform(browser.received(reply, now: driver.now))
      rearm()
      return
    }
    hearSelfTest(message)
    for packet in responder.replies(to: message, now: driver.now) { socket.send(packet, to: peer) }
  }

  private func complain(_ garbage: MDNSReply.Garbage, _ peer: SocketAddress) {
    garbageCount += 1
    guard garbageNames.count < Self.garbageNamesMaximum, garbageNames.insert(garbage.name).inserted else { return }
    log.warning(
      "an mDNS entry is left out: \(garbage.reason)",
      [("registry", "mdns"), ("entry", garbage.name), ("peer", peer.description)])
  }

  // MARK: Self-test

  private func beginSelfTest() {
    guard options.usesMulticast else { return selfTestOver() }
    let key = String(driver.random.next(), radix: 16)
    selfTest = SelfTest(key: key)
    for interface in sockets.interfaces {
      guard let name = try? DNSName("\(interface.index).\(key)").appending(Self.selfTestName),
        let packet = try? DNSMessage(questions: [DNSQuestion(name, .ptr)]).bytes(compressed: false)
      else { continue }
      sockets.ask(packet, by: interface)
    }
    if let selfTestTimer { driver.timers.arm(selfTestTimer, after: Self.selfTestTime, from: driver.now) }
  }

  private static let selfTestName: DNSName = {
    guard let name = try? DNSName("_self-test.micro-sidecar.local") else { preconditionFailure("a DNS name") }
    return name
  }()

  private func hearSelfTest(_ message: DNSMessage) {
    guard let text = message.questions.first?.name.prefix(before: Self.selfTestName), let key = selfTest?.key else {
      return
    }
    let parts = text.split(separator: ".")
    guard parts.count == 2, parts[1] == key, let index = UInt32(parts[0]) else { return }
    selfTest?.heard.insert(index)
  }

  private func selfTestOver() {
    logProblems(findings())
    let waiters = selfTestWaiters
    selfTestWaiters = []
    for waiter in waiters { waiter() }
  }

  /// Tests again and reports what was found.
  func diagnose(_ done: @escaping Answer<[Diagnosis]>) {
    guard !isClosed else { return done(.failure(.unavailable("the mdns registry is closed"))) }
    start()
    _ = sockets.refresh()
    selfTestWaiters.append { [unowned self] in done(.success(self.findings())) }
    beginSelfTest()
  }

  /// Says each problem once, and when all are gone.
  private func logProblems(_ findings: [Diagnosis]) {
    let problems = findings.filter(\.isProblem)
    for problem in problems where problemsLogged.insert(problem.subject + problem.finding).inserted {
      log.warning(
        "\(problem.subject): \(problem.finding)", [("registry", "mdns"), ("next", problem.nextStep ?? "")])
    }
    if problems.isEmpty, !problemsLogged.isEmpty {
      problemsLogged = []
      log.info("multicast works again", [("registry", "mdns")])
    }
  }
}
