// Many hostile worlds around one worker. Whatever the network, the nodes, the app and the callers do: a reply belongs to
// its request, nothing runs twice that must not, a deadline holds, and in the end nothing is left.

import Foundation
import SidecarSim
import Testing

@testable import SidecarCore

private let environment = ProcessInfo.processInfo.environment

/// What concerns streams and loops; files and datagrams take no part.
private let faults: Set<Fault> = [
  .splitRead, .partialWrite, .lateSegment, .streamReset, .streamStall, .resetLosesUnread, .resetUnnoticedWhilePaused,
  .smallWindow, .slowLink, .connectRefused, .connectUnreachable, .connectSlow, .connectLost, .lateTimer, .loopStall,
  .laterNextTurn,
]

/// Callers of every kind on both sides of a sidecar, nodes and an app that fail, die and come back.
private final class SwarmScenario {
  enum Bug: CaseIterable {
    /// A node that answers with the request before.
    case answersTheLastRequest
    /// A node that counts as one that was sent everything twice.
    case runsTwice
    /// A call that is never counted off.
    case losesACall
    /// A connection nobody closes.
    case leaksAStream
  }

  private struct Caller {
    let name: String
    let client: ScriptedClient
    let isInbound: Bool
    var requests: [(token: String, isFrame: Bool)]
    /// It ends its half or resets, and may so lose replies.
    var leaves: Bool
  }

  let rig: DataPathWorld
  private let bug: Bug?
  private var random: SeededRandom
  private var callers: [Caller] = []
  /// Executions by token: on connections' first requests, and on later ones.
  private var executions: [String: (fresh: Int, reused: Int)] = [:]
  private var repeatable: Set<String> = []
  private var lastBody = "{}"
  var answered = 0
  var failed = 0

  init(_ world: SimWorld, bug: Bug? = nil) throws {
    self.bug = bug
    random = SeededRandom(seed: world.seed &* 31)
    rig = try DataPathWorld(world: world, randomSelector: true) {
      $0.requestTimeout = 2_000_000_000
      $0.pipelineMax = 512
    }
  }

  private func chance(_ percent: Int) -> Bool { random.below(100) < percent }

  private func answer(_ request: HTTPUpstream.Request, asApp: Bool = false) -> HTTPUpstream.Answer {
    let token = request.header("X-Token") ?? ""
    for _ in 0..<(bug == .runsTwice ? 2 : 1) {
      if request.indexOnConnection == 0 {
        executions[token, default: (0, 0)].fresh += 1
      } else {
        executions[token, default: (0, 0)].reused += 1
      }
    }
    // The headers of the connection's first request come back, as from go-micro's servers.
    let echo = request.firstHeaders.filter {
      !["Content-Length", "Content-Type", "Transfer-Encoding"].contains($0.name)
    }
    let body = bug == .answersTheLastRequest ? lastBody : request.text
    lastBody = request.text
    let good = HTTPUpstream.Answer.reply(body, headers: echo)
    switch random.below(20) {
    case 0: return .stall
    case 1: return .reset
    case 2: return .close
    case 3: return good.cut(after: random.below(60)).thenClose()
    case 4: return asApp ? .reply("no", status: 409) : .reply("", headers: [("Micro-Error", "no")])
    case 5: return .reply("", status: 500)
    case 6: return good.thenClose()
    case 7, 8, 9: return good.after(.milliseconds(random.below(400)))
    case 10: return good.inPieces(of: 1 + random.below(40), every: .milliseconds(random.below(10)))
    default: return good
    }
  }

  private func addCaller(_ index: Int) {
    let isInbound = chance(30)
    let client = ScriptedClient(on: rig.app, to: isInbound ? rig.framework : rig.api)
    var caller = Caller(name: "c\(index)", client: client, isInbound: isInbound, requests: [], leaves: false)
    for number in 0..<(1 + random.below(6)) {
      let token = "\(caller.name)r\(number)"
      let isFrame = isInbound || chance(30)
      let isRepeatable = !isFrame && chance(30)
      if isRepeatable { repeatable.insert(token) }
      let headers = ["X-Token: \(token)"] + (isRepeatable ? ["Idempotency-Key: \(token)"] : [])
      let body = "{\"t\":\"\(token)\"}"
      let request =
        isFrame
        ? Ask.frame("s", "A.B", body + "\n", id: number, headers: headers) : Ask.post("/s/A.B", body, headers: headers)
      _ =
        chance(20)
        ? client.send(request, inPiecesOf: 1 + random.below(50), every: .milliseconds(1)) : client.send(request)
      if chance(60) { _ = client.pause(.milliseconds(random.below(600))) }
      caller.requests.append((token, isFrame))
    }
    if chance(30) {
      caller.leaves = true
      _ = client.pause(.milliseconds(random.below(500)))
      _ = [client.shutdown, client.reset, client.close][random.below(3)]()
    }
    callers.append(caller)
    rig.world.at(.milliseconds(random.below(3000))) { client.start() }
  }

  func run() throws {
    let hosts = (0..<1 + random.below(3)).map { rig.world.makeHost("n\($0)") }
    var nodes: [HTTPUpstream?] = []
    for host in hosts {
      nodes.append(try HTTPUpstream(on: host.makeLoop(), at: host.address(port: 5000)) { [unowned self] in answer($0) })
    }
    let metadata = chance(80) ? DataPathWorld.micro : ["protocol": "mucp"]
    rig.register("s", at: hosts.map { $0.address(port: 5000) }, metadata: metadata)
    _ = try rig.startApp { [unowned self] in answer($0, asApp: true) }
    for index in 0..<(2 + random.below(6)) { addCaller(index) }
    // Nodes die and come back.
    for _ in 0..<random.below(4) {
      let index = random.below(hosts.count)
      let silent = chance(20)
      let down = Duration.milliseconds(random.below(4000))
      let up = down + .milliseconds(1 + random.below(2000))
      rig.world.at(down) { hosts[index].crash(silent ? .silence : .resets) }
      rig.world.at(up) { [unowned self] in
        guard hosts[index].loops.isEmpty else { return }
        hosts[index].restart()
        nodes[index] = try? HTTPUpstream(on: hosts[index].makeLoop(), at: hosts[index].address(port: 5000)) {
          [unowned self] in
          answer($0)
        }
      }
    }
    if bug == .losesACall { rig.world.at(.seconds(1)) { [rig] in rig.worker.callsInFlight += 1 } }
    if bug == .leaksAStream {
      _ = rig.sidecar.connect(to: hosts[0].address(port: 5000), handler: RefusedConnection.shared)
    }
    if chance(20) {
      rig.world.at(.milliseconds(random.below(4000))) { [rig] in rig.worker.driver.mailbox.post { rig.drain() } }
    }
    rig.run(.seconds(4))
    _ = rig.world.runUntil(
      { [callers] in
        callers.allSatisfy { $0.client.isDone && ($0.client.end != nil || $0.client.peerEnded || isAnswered($0)) }
      }, within: .seconds(400))
    for caller in callers { try check(caller) }
    for (token, counts) in executions.sorted(by: { $0.key < $1.key }) {
      let freshMax = repeatable.contains(token) ? 1 + rig.worker.policies.endpointDefaults.values.retry.limit : 1
      try rig.world.require(
        counts.fresh <= freshMax && counts.reused <= 1, "\(token) ran \(counts.fresh) + \(counts.reused) times")
    }
    try rig.finish(within: .seconds(200))
    withExtendedLifetime(nodes) {}
  }

  private func isAnswered(_ caller: Caller) -> Bool {
    Reply.parseFinal(caller.client.text).count == caller.requests.count
  }

  private func check(_ caller: Caller) throws {
    let world = rig.world
    let replies = Reply.parseFinal(caller.client.text)
    try world.require(replies.count <= caller.requests.count, "\(caller.name): more replies than requests")
    if caller.client.end == nil, !caller.client.peerEnded, !caller.leaves, world.plan[.streamStall] == 0 {
      try world.require(
        replies.count == caller.requests.count,
        "\(caller.name): \(replies.count) replies to \(caller.requests.count) requests on a live connection")
    }
    for (reply, request) in zip(replies, caller.requests) {
      let isGood = reply.status == 200 && reply.header("Micro-Error") == nil
      isGood ? (answered += 1) : (failed += 1)
      let id = "\(caller.name)'s \(request.token)"
      if isGood {
        let body = "{\"t\":\"\(request.token)\"}" + (request.isFrame ? "\n" : "")
        try world.require(reply.body == body, "\(id) was answered with \(reply.body)")
      } else if request.isFrame, reply.status == 200 {
        try world.require(reply.header("X-Micro-Error") != nil, "\(id) failed without saying so")
      } else {
        // On the framework's side only what is no HTTP, or comes too slowly, has a status of its own.
        try world.require(
          reply.status >= 400 && reply.code == (reply.status == 504 ? 408 : reply.status), "\(id): \(reply)")
        try world.require(caller.isInbound || reply.header("X-Micro-Reason") != nil, "\(id) failed with \(reply)")
      }
      try world.require(reply.header("X-Token") == nil, "\(id) got a header of \(reply.header("X-Token") ?? "")")
    }
  }
}

/// Calls straight on a worker, so that what the network does to callers is out of the measure.
private final class DeadlineScenario: CallOwner {
  private final class Started {
    let call: OutboundCall
    let deadline: Instant
    var ended: Instant?
    var isCancelled = false
    init(_ call: OutboundCall, _ deadline: Instant) {
      self.call = call
      self.deadline = deadline
    }
  }

  private let rig: DataPathWorld
  private var random: SeededRandom
  /// By the object, since objects are used again.
  private var running: [ObjectIdentifier: Started] = [:]
  private var violations: [String] = []
  private(set) var ended = 0

  init(_ world: SimWorld) throws {
    random = SeededRandom(seed: world.seed &* 17)
    rig = try DataPathWorld(world: world, randomSelector: true) {
      $0.callsMax = 12
      $0.negativeTTL = 200_000_000
    }
  }

  func callReplied(_ call: OutboundCall, _ payload: UnsafeRawBufferPointer, format: PayloadFormat) { end(call) }
  func callFailed(_ call: OutboundCall, _ error: SidecarError) { end(call) }

  private func end(_ call: OutboundCall) {
    guard let started = running.removeValue(forKey: ObjectIdentifier(call)) else {
      violations.append("a call ended that nobody waits for")
      return
    }
    ended += 1
    started.ended = rig.sidecar.now
    // One tick, and what `later` may take.
    let late = rig.sidecar.now.nanoseconds(since: started.deadline)
    if late > Int64(TimerWheel.tick) + 10_000 { violations.append("a call ended \(late) ns after its deadline") }
    if random.below(4) == 0 { start() }
  }

  private func start() {
    let services = ["s", "empty", "unknown", "slow", "removed"]
    guard let service = rig.worker.service(services[random.below(services.count)]) else { return }
    let call = rig.worker.takeCall()
    if running[ObjectIdentifier(call)] != nil { violations.append("a running call was given out again") }
    call.service = service
    call.endpoint = FixedBytes("A.B")
    let request = rig.worker.readers.buffers.take()
    request.append("{}")
    call.request = request
    call.payload = 0..<2
    call.isIdempotent = random.below(2) == 0
    call.deadline = rig.sidecar.now.advanced(byNanoseconds: Int64(1 + random.below(800_000_000)))
    let started = Started(call, call.deadline)
    running[ObjectIdentifier(call)] = started
    call.start(for: self)
    if random.below(5) == 0 {
      let pause = random.below(3) == 0 ? 0 : random.below(300)
      let cancel = { [unowned self] in
        // Only while it is still the call that was started.
        guard let now = running[ObjectIdentifier(call)], now === started else { return }
        running[ObjectIdentifier(call)] = nil
        call.cancel()
        if random.below(2) == 0 { start() }
      }
      if pause == 0 {
        cancel()
      } else {
        let timer = LoopTimer(cancel)
        rig.sidecar.timers.arm(timer, after: Int64(pause) * 1_000_000, from: rig.sidecar.now)
      }
    }
  }

  func run() throws {
    let world = rig.world
    let hosts = (0..<2).map { world.makeHost("n\($0)") }
    var nodes: [HTTPUpstream] = []
    for host in hosts {
      nodes.append(
        try HTTPUpstream(on: host.makeLoop(), at: host.address(port: 5000)) { [unowned self] _ in
          switch random.below(8) {
          case 0: .stall
          case 1: .reset
          case 2: .close
          case 3: .reply("{}").after(.milliseconds(random.below(900)))
          default: .reply("{}")
          }
        })
    }
    rig.register("s", at: hosts.map { $0.address(port: 5000) } + [hosts[0].address(port: 1)])
    rig.register("empty", nodes: [])
    rig.register("removed", at: [hosts[0].address(port: 5000)])
    world.at(.milliseconds(500)) { [rig] in rig.worker.driver.mailbox.post { [rig] in rig.deregister("removed") } }
    for _ in 0..<(10 + random.below(30)) {
      let when = Duration.milliseconds(random.below(2000))
      world.at(when) { [unowned self] in rig.worker.driver.mailbox.post { [unowned self] in start() } }
    }
    rig.run(.seconds(2))
    _ = world.runUntil({ [unowned self] in running.isEmpty }, within: .seconds(60))
    try world.require(violations.isEmpty, "\(violations.first ?? "")")
    try world.require(running.isEmpty, "\(running.count) calls never ended")
    try rig.finish(within: .seconds(60))
    withExtendedLifetime(nodes) {}
  }
}

extension DataPathWorld: @unchecked Sendable {}
extension DeadlineScenario: @unchecked Sendable {}

@Suite struct DataPathSwarmTests {
  @Test func repliesBelongToTheirRequestsWhateverHappens() throws {
    let swarm = Swarm(
      "repliesBelongToTheirRequestsWhateverHappens", seeds: 1_000, faults: faults, environment: environment)
    var answered = 0
    var failed = 0
    let start = ContinuousClock.now
    let report = try swarm.run { world in
      let scenario = try SwarmScenario(world)
      try scenario.run()
      answered += scenario.answered
      failed += scenario.failed
    }
    print("\(report.seeds) seeds, \(answered) calls answered, \(failed) failed, \(ContinuousClock.now - start)")
    if report.seeds >= 100 { #expect(answered > 4 * report.seeds && failed > report.seeds) }
  }

  @Test func deadlinesHoldAndCallsEndOnce() throws {
    // Late timers and standing loops would be measured instead of the calls.
    let swarm = Swarm(
      "deadlinesHoldAndCallsEndOnce", seeds: 1_000, faults: faults.subtracting([.lateTimer, .loopStall]),
      environment: environment)
    var ended = 0
    let start = ContinuousClock.now
    let report = try swarm.run { world in
      let scenario = try DeadlineScenario(world)
      try scenario.run()
      ended += scenario.ended
    }
    print("\(report.seeds) seeds, \(ended) calls, \(ContinuousClock.now - start)")
    if report.seeds >= 100 { #expect(ended > 10 * report.seeds) }
  }

  @Test(arguments: SwarmScenario.Bug.allCases)
  private func aPlantedBugIsFound(_ bug: SwarmScenario.Bug) throws {
    #expect(throws: SimFailure.self) {
      for seed in 1...50 as ClosedRange<UInt64> {
        var random = SeededRandom(seed: seed)
        let world = SimWorld(seed: seed, plan: .swarm(&random, of: FaultPlan.gentle.intersection(faults)))
        defer { world.tearDown() }
        try SwarmScenario(world, bug: bug).run()
      }
    }
  }
}
