// A whole distributed system in one thread: hosts, loops, networks and misfortunes, all driven by one seed and one
// virtual clock. The core runs on it unmodified, because a `SimDriver` is a `HostDriver` like the one on libuv.
//
//   let world = SimWorld(seed: 7, plan: .none)
//   let host = world.makeHost("a")
//   let loop = host.makeLoop()                    // a HostDriver
//   ... start things on `loop` ...
//   try world.require(world.runUntil({ done }, within: .seconds(5)), "the reply came")
//   try world.checkNoLeaks()
//
// Nothing here reads a real clock, draws unseeded randomness or depends on the order of a Dictionary or on an address,
// so a seed gives the same run, and the same trace hash, in every process.
//
// Time passes only between turns: a turn takes none. A loop that must look busy is stalled (`SimDriver.stall`).

import SidecarCore

package final class SimWorld {
  package let seed: UInt64
  package private(set) var plan: FaultPlan
  /// The network's own randomness; each loop has a generator of its own.
  package var random: SeededRandom
  /// Latency, window and patience of the network without faults.
  package var network = NetworkSettings()
  /// Printed with a failure: the command that runs this seed again.
  package var reproduction: String

  package private(set) var now: Instant
  package let start: Instant
  package private(set) var trace = Trace()
  /// Rules of the driver contract that the code under test broke.
  package private(set) var violations: [String] = []
  package private(set) var hosts: [SimHost] = []
  /// Turns and network events since the start.
  package private(set) var eventCount = 0

  /// Events after which a run is taken for an endless loop. Counted since the start.
  package var eventsMax = 5_000_000

  private var queue = EventQueue()
  let inbox = SimInbox()
  private(set) var loops: [SimDriver] = []
  /// The loop whose turn it is; nil between turns.
  private(set) var current: SimDriver?
  private var isRunning = false
  private var lastConnection = 0
  /// Bytes one stream may have queued for writing; more means that somebody writes on while congested.
  package var queuedBytesMax = 16 * 1024 * 1024
  /// Directed paths that carry nothing: (from, to) by host number.
  private var cutPaths: [(from: Int, to: Int)] = []
  /// Pipes with segments that wait for their path to heal, oldest first.
  var waitingPipes: [SimPipe] = []
  /// What `resolve` knows beside literals and "localhost".
  private var names: [(name: String, addresses: [SocketAddress])] = []
  /// Streams that exist as objects, closed ones included: rises for ever when handlers keep each other alive.
  package internal(set) var streamObjects = 0
  /// Where a read's bytes lie during its callback; overwritten after it.
  let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: SimWorld.readMax + 16, alignment: 16)
  /// Bytes given to one `streamRead` at most.
  static let readMax = 64 * 1024

  package init(seed: UInt64, plan: FaultPlan = .none, reproduction: String? = nil) {
    self.seed = seed
    self.plan = plan
    self.reproduction = reproduction ?? "SimWorld(seed: \(seed))"
    random = SeededRandom(seed: seed)
    // Neither zero nor on a tick of the timer wheel, so that nothing may rely on either.
    start = Instant(nanoseconds: 1_000_000_000_000 + UInt64(random.below(Int(TimerWheel.tick))))
    now = start
  }

  deinit { scratch.deallocate() }

  /// Lets go of everything, so that worlds made by the thousand do not pile up: hosts, loops, streams and handlers refer
  /// to each other. Nothing may be used afterwards.
  package func tearDown() {
    queue.removeAll()
    waitingPipes.removeAll()
    for host in hosts { host.tearDown() }
    hosts.removeAll()
    loops.removeAll()
  }

  // MARK: Building

  /// Adds a host with a loopback interface and one on network 0, with `addresses` or 10.0.0.n.
  package func makeHost(_ name: String, addresses: [String]? = nil) -> SimHost {
    let host = SimHost(world: self, number: hosts.count, name: name)
    hosts.append(host)
    host.addInterface(
      "lo", index: 1, addresses: ["127.0.0.1", "::1"], network: SimHost.loopbackNetwork, multicast: false)
    host.addInterface("eth0", index: 2, addresses: addresses ?? ["10.0.0.\(hosts.count)"], network: 0)
    return host
  }

  func adopt(_ loop: SimDriver) { loops.append(loop) }

  func makeConnectionNumber() -> Int {
    lastConnection += 1
    return lastConnection
  }

  /// Makes `resolve` answer `name` with these addresses; empty takes the name away.
  package func setName(_ name: String, to addresses: [String]) {
    names.removeAll { $0.name == name }
    let parsed = addresses.compactMap { SocketAddress(host: $0, port: 0) }
    precondition(parsed.count == addresses.count, "not an address in \(addresses)")
    if !parsed.isEmpty { names.append((name, parsed)) }
  }

  func addresses(of name: String) -> [SocketAddress]? { names.first { $0.name == name }?.addresses }

  // MARK: Running

  package func run(for duration: Duration) { run(until: now.advanced(by: duration)) }

  /// Runs all that happens up to and including `deadline`, and leaves the clock there.
  package func run(until deadline: Instant) {
    _ = run(until: deadline) { false }
  }

  /// Runs until `condition` holds, looking after every event; false when it still does not after `duration`.
  package func runUntil(_ condition: () -> Bool, within duration: Duration) -> Bool {
    run(until: now.advanced(by: duration), or: condition)
  }

  /// Runs until nothing is left to happen; false when that takes longer than `duration`.
  @discardableResult
  package func runUntilIdle(within duration: Duration = .seconds(3600)) -> Bool {
    let deadline = now.advanced(by: duration)
    return run(until: deadline, stopWhenIdle: true) { false }
  }

  private func run(until deadline: Instant, stopWhenIdle: Bool = false, or condition: () -> Bool) -> Bool {
    precondition(!isRunning, "a world cannot be run from inside a callback of its own")
    isRunning = true
    defer { isRunning = false }
    admitInbox()
    while true {
      if condition() { return true }
      guard let time = queue.nextTime, time <= deadline.nanoseconds else { break }
      guard eventCount < eventsMax else {
        violation("\(eventsMax) events without an end: an endless loop")
        return false
      }
      step()
    }
    if stopWhenIdle, queue.count == 0 { return true }
    now = max(now, deadline)
    return condition()
  }

  private func step() {
    guard let event = queue.popFirst() else { return }
    now = max(now, Instant(nanoseconds: event.time))
    guard let loop = event.loop else {
      eventCount += 1
      event.action()
      admitInbox()
      return
    }
    if loop.isDead { return }
    if loop.stalledUntil > now {
      queue.postpone(event, to: loop.stalledUntil.nanoseconds)
      return
    }
    eventCount += 1
    current = loop
    loop.turn(event.action)
    current = nil
    admitInbox()
  }

  /// Turns what mailboxes and executors took into events, in the order it came.
  private func admitInbox() {
    for item in inbox.takeAll() {
      let loop = loops[item.loop]
      switch item.work {
      case .block(let work):
        schedule(after: 0, on: loop) { [unowned self] in
          note(loop, "mail")
          work()
        }
      case .job(let job):
        let executor = loop.taskExecutor
        schedule(after: 0, on: loop) { [unowned self] in
          note(loop, "job")
          job.runSynchronously(on: executor.asUnownedTaskExecutor())
        }
      }
    }
  }

  func schedule(after nanoseconds: Int64, on loop: SimDriver? = nil, _ action: @escaping () -> Void) {
    schedule(at: now.advanced(byNanoseconds: nanoseconds), on: loop, action)
  }

  func schedule(at time: Instant, on loop: SimDriver? = nil, _ action: @escaping () -> Void) {
    queue.add(at: max(time, now).nanoseconds, on: loop, action)
  }

  /// Calls `action` between turns, for a test's own schedule of disasters.
  package func at(_ delay: Duration, _ action: @escaping () -> Void) {
    schedule(after: delay.saturatingNanoseconds, action)
  }

  // MARK: Paths

  /// Nothing passes between two hosts, either way, until healed: segments wait, datagrams and resets are lost.
  package func partition(_ a: SimHost, _ b: SimHost) {
    cut(from: a, to: b)
    cut(from: b, to: a)
  }

  /// Nothing passes from `a` to `b`; the other way still works.
  package func cut(from a: SimHost, to b: SimHost) {
    note(nil, "cut", a.number, b.number)
    if !isCut(a, b) { cutPaths.append((a.number, b.number)) }
  }

  package func heal(_ a: SimHost, _ b: SimHost) {
    note(nil, "heal", a.number, b.number)
    cutPaths.removeAll {
      ($0.from == a.number && $0.to == b.number) || ($0.from == b.number && $0.to == a.number)
    }
    releaseWaiting()
  }

  /// From now on the network has no faults but those that have happened.
  package func stopFaults() { plan = .none }

  package func healAll() {
    note(nil, "heal all")
    cutPaths.removeAll()
    releaseWaiting()
  }

  func isCut(_ a: SimHost, _ b: SimHost) -> Bool {
    cutPaths.contains { $0.from == a.number && $0.to == b.number }
  }

  func releaseWaiting() {
    let pipes = waitingPipes
    waitingPipes.removeAll()
    for pipe in pipes { pipe.retransmit() }
  }

  // MARK: Verdicts

  func strikes(_ fault: Fault) -> Bool { plan.strikes(fault, &random) }

  /// Between `range`'s ends, both included.
  func draw(_ range: ClosedRange<Int64>) -> Int64 {
    range.lowerBound + Int64(random.below(Int(range.upperBound - range.lowerBound) + 1))
  }

  func note(_ loop: SimDriver?, _ what: StaticString, _ a: Int = 0, _ b: Int = 0, _ text: String? = nil) {
    trace.add(now.nanoseconds, loop?.number ?? -1, what, a, b, text)
  }

  func noteBytes(_ bytes: UnsafeRawBufferPointer) { trace.mix(bytes) }

  /// Adds a line of the test's own to the trace, and to its hash.
  package func note(_ text: String) { note(current, "note", 0, 0, text) }

  /// Records a broken rule; `verify` reports it.
  package func violation(_ rule: String) {
    note(current, "VIOLATION", 0, 0, rule)
    if violations.count < 100 { violations.append(rule) }
  }

  /// Everything a person needs about this run.
  package func failure(_ message: String) -> SimFailure {
    let lines = trace.lines(since: start.nanoseconds) { [loops] in loops[$0].name }
    let text = """
      \(message)
      seed \(seed), after \(now.duration(since: start)) and \(eventCount) events, faults: \(plan)
      again: \(reproduction)
      the last \(lines.count) of \(trace.count) trace entries:
      \(lines.joined(separator: "\n"))
      """
    return SimFailure(message: message, seed: seed, description: text)
  }

  /// Throws with seed and trace unless `condition` holds.
  package func require(_ condition: Bool, _ message: @autoclosure () -> String) throws {
    if !condition { throw failure("does not hold: " + message()) }
  }

  /// Throws when the code under test broke a rule of the driver contract.
  package func verify() throws {
    if let first = violations.first { throw failure("contract broken: \(first) (of \(violations.count))") }
  }

  /// What is still open, armed or queued on live hosts; empty when all was put away.
  package func leaks() -> [String] {
    hosts.flatMap { $0.leaks() } + (inbox.isEmpty ? [] : ["work in the inbox"])
  }

  /// `verify`, and nothing may be left open. Give the world time to finish closing first.
  package func checkNoLeaks() throws {
    try verify()
    let leaks = leaks()
    if !leaks.isEmpty { throw failure("left behind: " + leaks.joined(separator: ", ")) }
  }
}

/// The network without faults. Times in nanoseconds, each drawn evenly from its range.
package struct NetworkSettings {
  /// One way, within a host.
  package var localLatency: ClosedRange<Int64> = 5_000...50_000
  /// One way, between hosts; drawn once per connection.
  package var remoteLatency: ClosedRange<Int64> = 100_000...2_000_000
  /// Bytes on the way or received and not read, per direction.
  package var window = 256 * 1024
  /// Bytes per second and direction; nil for no limit.
  package var bandwidth: Int64?
  /// How long the system retransmits before it gives a connection up.
  package var retransmitLimit: Int64 = 924_000_000_000
  /// How long the system dials before it gives up.
  package var dialLimit: Int64 = 127_000_000_000
  /// Streams that wait to be accepted, per listener; more dials are not answered.
  package var backlog = 128
  package init() {}
}
