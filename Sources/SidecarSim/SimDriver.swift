// One simulated event loop: the `Driver` of the code under test. Every event that reaches it is one turn:
//
//   (timers that are due, or a read, an accept, a job, …)  ▶  what `later` collected  ▶  the world goes on
//
// A turn takes no time; `now` is the world's time at its start.

import SidecarCore

package final class SimDriver: HostDriver {
  package let host: SimHost
  package let number: Int
  package let name: String
  let world: SimWorld

  package var random: SeededRandom
  package let timers: TimerWheel
  package let mailbox: any Mailbox
  let taskExecutor: SimExecutor

  private(set) var isDead = false
  private(set) var stalledUntil = Instant(nanoseconds: 0)
  private var turnTime: Instant?
  /// The wake that will turn the timer wheel; earlier ones still queued do nothing.
  private var wakeTime = Instant.distantFuture
  private var wakeNumber = 0
  private var laterQueue: [() -> Void] = []
  private var isLaterScheduled = false
  /// Open streams by number. Only ever walked in sorted order.
  private var streams: [Int: SimStream] = [:]
  var signalHandlers: [(number: Int32, handler: () -> Void)] = []
  var pendingLookups = 0

  init(host: SimHost, number: Int, name: String, seed: UInt64) {
    self.host = host
    self.number = number
    self.name = name
    world = host.world
    random = SeededRandom(seed: seed)
    timers = TimerWheel(now: host.world.now)
    mailbox = SimMailbox(loop: number, inbox: host.world.inbox)
    taskExecutor = SimExecutor(loop: number, inbox: host.world.inbox)
    timers.onEarlier = { [unowned self] due in wake(by: due) }
  }

  package var now: Instant { turnTime ?? world.now }
  package var unixNanoseconds: Int64 { host.unixNanoseconds(at: now) }
  package var executor: any TaskExecutor { taskExecutor }

  // MARK: Turns

  func turn(_ action: () -> Void) {
    turnTime = world.now
    // An empty wheel is moved up for free; one with timers moves when it is woken.
    if timers.armedCount == 0 { timers.advance(to: world.now) }
    action()
    if !laterQueue.isEmpty, !isDead { world.strikes(.laterNextTurn) ? scheduleLater() : runLater() }
    turnTime = nil
    if world.strikes(.loopStall) { stall(for: .nanoseconds(world.draw(1_000_000...3_000_000_000))) }
    if world.strikes(.wallClockJump) {
      host.jumpWallClock(by: .nanoseconds(world.draw(-3_600_000_000_000...3_600_000_000_000)))
    }
  }

  package func later(_ work: @escaping () -> Void) {
    checkConfined("later")
    laterQueue.append(work)
    if turnTime == nil { scheduleLater() }
  }

  /// What the work adds itself waits for the next turn, so that time goes on even if it always adds more.
  private func runLater() {
    let works = laterQueue
    laterQueue.removeAll(keepingCapacity: true)
    for work in works where !isDead { work() }
    if !laterQueue.isEmpty { scheduleLater() }
  }

  private func scheduleLater() {
    if isLaterScheduled { return }
    isLaterScheduled = true
    world.schedule(after: 1_000, on: self) { [unowned self] in
      isLaterScheduled = false
      runLater()
    }
  }

  private func wake(by due: Instant) {
    checkConfined("timers.arm")
    // The wheel moves in whole ticks and cannot run what is due in the tick it already passed.
    let tick = TimerWheel.tick
    let dueTick = due.nanoseconds / tick + (due.nanoseconds % tick == 0 ? 0 : 1)
    var time = Instant(nanoseconds: max(dueTick, now.nanoseconds / tick + 1) * tick)
    guard time < wakeTime else { return }
    wakeTime = time
    wakeNumber += 1
    let number = wakeNumber
    if world.strikes(.lateTimer) { time = time.advanced(byNanoseconds: world.draw(1...50_000_000)) }
    world.schedule(at: time, on: self) { [unowned self] in
      guard wakeNumber == number else { return }
      wakeTime = .distantFuture
      let armed = timers.armedCount
      timers.advance(to: world.now)
      world.note(self, "timers", armed, timers.armedCount)
      // `advance` may not have told of an earlier time that it had told before.
      if wakeTime == .distantFuture, timers.armedCount > 0 { wake(by: timers.nextDue()) }
    }
  }

  /// Lets time pass while this loop does not run: what is due meanwhile happens afterwards, in order.
  package func stall(for duration: Duration) {
    world.note(self, "stall", Int(duration.saturatingNanoseconds))
    stalledUntil = max(stalledUntil, world.now.advanced(by: duration))
  }

  /// Runs `operation` as a task whose `async` code stays on this loop. The closure and what it captures need not be
  /// `Sendable`, since everything in a world runs on one thread.
  @discardableResult
  package func startTask(_ operation: @escaping () async -> Void) -> Task<Void, Never> {
    let box = Unchecked(operation)
    return Task(executorPreference: taskExecutor) { await box.value() }
  }

  private struct Unchecked<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
  }

  /// A call from another loop is a data race on a real system.
  func checkConfined(_ call: StaticString) {
    if let current = world.current, current !== self {
      world.violation("\(call) of loop \(name) was called from loop \(current.name)")
    }
  }

  // MARK: Streams

  package func listen(
    on address: SocketAddress, sharedPort: Bool, onAccept: @escaping (ByteStream) -> Void
  ) throws(DriverError) -> Listener {
    checkConfined("listen")
    let listener = SimListener(
      driver: self, address: try host.bindStream(address, sharedPort: sharedPort), sharedPort: sharedPort,
      onAccept: onAccept)
    host.listeners.append(listener)
    world.note(self, "listen", Int(listener.address.port))
    return listener
  }

  package func connect(to address: SocketAddress, handler: any StreamHandler) -> ByteStream {
    checkConfined("connect")
    let stream = SimStream(dialling: address, on: self, handler: handler)
    SimDial(stream, to: address).start()
    return stream
  }

  func adopt(_ stream: SimStream) { streams[stream.number] = stream }
  func release(_ stream: SimStream) { streams[stream.number] = nil }

  // MARK: Names and interfaces

  package func resolve(host name: String, completion: @escaping (Result<[SocketAddress], DriverError>) -> Void) {
    checkConfined("resolve")
    pendingLookups += 1
    var delay = world.draw(world.network.localLatency)
    if world.strikes(.resolveSlow) { delay = world.draw(1_000_000...5_000_000_000) }
    let fails = world.strikes(.resolveFailure)
    world.schedule(after: delay, on: self) { [unowned self] in
      pendingLookups -= 1
      world.note(self, "resolved", fails ? 1 : 0, 0, name)
      completion(lookUp(name, fails: fails))
    }
  }

  private func lookUp(_ name: String, fails: Bool) -> Result<[SocketAddress], DriverError> {
    if let literal = SocketAddress(host: name, port: 0) { return .success([literal]) }
    if fails {
      return .failure(DriverError(operation: "resolve", code: "EAI_AGAIN", message: "no answer for \(name)"))
    }
    if name == "localhost" { return .success([.loopback(port: 0), .ipv6(high: 0, low: 1, zone: 0, port: 0)]) }
    guard let found = world.addresses(of: name) else {
      return .failure(DriverError(operation: "resolve", code: "ENOTFOUND", message: "unknown host \(name)"))
    }
    return .success(found.filter { !$0.isIPv6 } + found.filter(\.isIPv6))
  }

  package func interfaces() -> [NetworkInterface] {
    host.interfaces.flatMap { interface in
      interface.addresses.map { address in
        var address = address
        if case .ipv6(let high, let low, _, let port) = address, high &>> 54 == 0x3FA {
          address = .ipv6(high: high, low: low, zone: interface.index, port: port)
        }
        return NetworkInterface(
          name: interface.name, index: interface.index, address: address, isUp: interface.isUp,
          isMulticastCapable: interface.isMulticastCapable)
      }
    }
  }

  // MARK: The end

  /// The program of this loop is gone: no callback follows.
  func die(resetting: Bool) {
    isDead = true
    for number in streams.keys.sorted() { streams[number]?.die(resetting: resetting) }
    streams.removeAll()
    laterQueue.removeAll()
    signalHandlers.removeAll()
    timers.onEarlier = nil
  }

  func leaks() -> [String] {
    var leaks = streams.keys.sorted().map { "stream \($0) of \(name) (\(streams[$0]!.stateName))" }
    func add(_ count: Int, _ what: String) { if count > 0 { leaks.append("\(count) \(what) of \(name)") } }
    add(host.listeners.count { $0.driver === self }, "listeners")
    add(host.datagramSockets.count { $0.driver === self }, "datagram sockets")
    add(timers.armedCount, "armed timers")
    add(laterQueue.count, "later closures")
    add(pendingLookups, "lookups")
    add(host.files.watchCount(of: self), "file watches")
    add(host.processes.childCount(of: self), "child processes")
    return leaks
  }

  /// Open streams of this loop.
  package var openStreamCount: Int { streams.count }
}
