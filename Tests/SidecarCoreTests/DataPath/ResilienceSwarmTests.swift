// Many hostile worlds with random policies: whatever nodes, network and registry do, the budget pays for every repetition,
// no call outlives its deadline or is made twice unless it may be, no place is lost, and once all is well again every node
// gets calls and every call succeeds.

import Foundation
import SidecarSim
import Testing

@testable import SidecarCore

private let environment = ProcessInfo.processInfo.environment
private let service = "go.micro.srv.s"

/// Late timers and standing loops would be measured instead of the calls; the rest of what concerns streams.
private let faults: Set<Fault> = [
  .splitRead, .partialWrite, .lateSegment, .streamReset, .streamStall, .resetLosesUnread, .smallWindow,
  .connectRefused, .connectUnreachable, .connectSlow, .connectLost, .laterNextTurn,
]

private final class ResilienceScenario {
  /// Planted, to see that the oracle finds it.
  enum Bug: CaseIterable {
    /// Repetitions that nobody pays for.
    case spendsNothing
    /// A node that runs everything twice.
    case runsTwice
    /// A selector that has a favourite.
    case starvesANode
    /// A call that keeps its place.
    case losesAPlace
  }

  private struct PickyPolicySelector: Selector {
    let starves: Bool
    mutating func rebuild(_ candidates: Candidates) {}
    mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
      let allowed = context.allowed.filter {
        !context.wasTried($0) && !(starves && $0 == 0 && context.allowed.count > 1)
      }
      return allowed.isEmpty ? nil : Int(allowed[random.below(allowed.count)])
    }
  }

  let rig: DataPathWorld
  private let bug: Bug?
  private var random: SeededRandom
  private let policy: ServicePolicy
  private let values: EndpointPolicy.Values
  private var runs: [String: (fresh: Int, reused: Int)] = [:]
  private var idempotent: Set<String> = []
  private var clients: [(token: String, client: ScriptedClient)] = []
  private var hosts: [SimHost] = []
  private var nodes: [HTTPUpstream?] = []
  private var isCalm = false
  private var metadata: [Int: [String: String]] = [:]
  private(set) var answered = 0
  private(set) var failed = 0
  private(set) var reasons: [String: Int] = [:]
  private let start: Instant

  static let timeout: Int64 = 1_500_000_000
  /// Tick of the timers, and what the caller's own connection takes in these worlds.
  static let grace: Int64 = 60_000_000

  init(_ world: SimWorld, bug: Bug? = nil) throws {
    self.bug = bug
    var random = SeededRandom(seed: world.seed &* 57)
    var policy = ServicePolicy()
    var values = EndpointPolicy.Values()
    policy.budget.ratio = [0, 0.2, 1][random.below(3)]
    policy.budget.floorPerSecond = [0, 1, 10][random.below(3)]
    policy.ejection.consecutiveFailures = random.below(6)
    policy.ejection.baseTime = Int64(1 + random.below(5)) * 1_000_000_000
    policy.ejection.timeMax = 10_000_000_000
    policy.ejection.successRateMin = [0, 0.8][random.below(2)]
    policy.ejection.callsMin = 5
    policy.ejection.latencyFactor = [0, 100][random.below(2)]
    policy.ejection.shareMax = [0.1, 0.5, 1][random.below(3)]
    policy.panicThreshold = [0, 0.5, 1][random.below(3)]
    policy.slowStart = [0, 2_000_000_000][random.below(2)]
    policy.limits.inFlight = [4, 20, 1024][random.below(3)]
    policy.limits.pending = [0, 3, 100][random.below(3)]
    policy.limits.pendingTime = 300_000_000
    policy.limits.inFlightPerNode = [0, 0, 2][random.below(3)]
    values.retry.limit = random.below(4)
    values.attemptTimeout = [nil, 200_000_000][random.below(2)]
    if random.below(2) == 0 {
      values.hedge = HedgePolicy()
      values.hedge?.after = [0, 50_000_000][random.below(2)]
    }
    var used = policy
    if bug == .spendsNothing {
      used.budget.ratio = 10
      used.budget.floorPerSecond = 1000
      policy.budget.ratio = 0
      policy.budget.floorPerSecond = 0
    }
    let table = PolicyTable(service: used, endpoint: values)
    let starves = bug == .starvesANode
    rig = try DataPathWorld(world: world) {
      $0.requestTimeout = Self.timeout
      $0.policies = table
      $0.makeSelector = { _ in PickyPolicySelector(starves: starves) }
    }
    self.policy = policy
    self.values = values
    self.random = random
    start = rig.sidecar.now
  }

  private func chance(_ percent: Int) -> Bool { random.below(100) < percent }

  private func answer(_ request: HTTPUpstream.Request) -> HTTPUpstream.Answer {
    let token = request.header("X-Token") ?? ""
    for _ in 0..<(bug == .runsTwice ? 2 : 1) {
      if request.indexOnConnection == 0 {
        runs[token, default: (0, 0)].fresh += 1
      } else {
        runs[token, default: (0, 0)].reused += 1
      }
    }
    let good = HTTPUpstream.Answer.reply("{\"t\":\"\(token)\"}\n")
    if isCalm { return good }
    func error(_ code: Int, _ more: [(String, String)] = []) -> HTTPUpstream.Answer {
      .reply("", headers: [("Micro-Error", #"{"id":"x","code":\#(code),"detail":"no","status":"s"}"#)] + more)
    }
    switch random.below(24) {
    case 0: return .stall
    case 1, 2: return .reset
    case 3: return .close
    case 4: return good.cut(after: random.below(40)).thenClose()
    case 5, 6: return error(503, [("Retry-After", ["1", "0", "99999999", "-3", "soon"][random.below(5)])])
    case 7: return error([408, 429, 500, 502, 504, 404][random.below(6)])
    case 8: return .reply("", headers: [("Micro-Error", "in plain words")])
    case 9, 10: return good.after(.milliseconds(random.below(900)))
    default: return good
    }
  }

  private func ask(_ number: Int, at delay: Duration) {
    let token = "r\(number)"
    let isIdempotent = chance(60)
    if isIdempotent { idempotent.insert(token) }
    let headers = ["X-Token: \(token)"] + (isIdempotent ? ["Idempotency-Key: k"] : [])
    let client = ScriptedClient(on: rig.app, to: rig.api)
    _ = client.send(Ask.post("/\(service)/A.B", "{}", headers: headers))
    clients.append((token, client))
    rig.world.at(delay) { client.start() }
  }

  private func register() {
    var known = Array(hosts.indices)
    // Now and then the registry forgets one.
    if !isCalm, known.count > 1, chance(30) { known.remove(at: random.below(known.count)) }
    rig.register(
      service,
      nodes: known.map { index in
        var metadata = DataPathWorld.micro
        metadata["weight"] = isCalm ? "1" : ["0", "1", "7", "65535", "-4", "x"][random.below(6)]
        metadata["priority"] = isCalm ? "0" : ["0", "0", "1"][random.below(3)]
        return Node(id: "n\(index)", address: hosts[index].address(port: 5000).description, metadata: metadata)
      })
  }

  private func startNode(_ index: Int) {
    nodes[index] = try? HTTPUpstream(on: hosts[index].makeLoop(), at: hosts[index].address(port: 5000)) {
      [unowned self] in answer($0)
    }
  }

  func run() throws {
    let world = rig.world
    hosts = (0..<2 + random.below(4)).map { world.makeHost("n\($0)") }
    nodes = hosts.map { _ in nil }
    for index in hosts.indices { startNode(index) }
    register()
    let count = 40 + random.below(60)
    for number in 0..<count { ask(number, at: .milliseconds(random.below(4000))) }
    for _ in 0..<random.below(6) {
      world.at(.milliseconds(random.below(4000))) { [rig, unowned self] in
        rig.worker.driver.mailbox.post { [unowned self] in register() }
      }
    }
    for _ in 0..<random.below(4) {
      let index = random.below(hosts.count)
      let down = Duration.milliseconds(random.below(4000))
      let silent = chance(20)
      world.at(down) { [unowned self] in hosts[index].crash(silent ? .silence : .resets) }
      world.at(down + .milliseconds(1 + random.below(2000))) { [unowned self] in
        guard hosts[index].loops.isEmpty else { return }
        hosts[index].restart()
        startNode(index)
      }
    }
    if bug == .losesAPlace {
      world.at(.seconds(1)) { [rig] in
        _ = rig.worker.knownService(service)?.gate.enter(Forgetful(), LimitPolicy())
      }
    }
    rig.run(.seconds(8))
    try checkCalls()
    try checkBudget(calls: count)
    try checkCalm(after: count)
    try rig.finish(within: .seconds(200))
    withExtendedLifetime(nodes) {}
  }

  private func checkCalls() throws {
    let world = rig.world
    // What a caller sends and hears may be lost or late on its own way as well.
    let lossless = [
      Fault.streamStall, .streamReset, .connectLost, .connectSlow, .smallWindow, .slowLink, .partialWrite,
    ]
    .allSatisfy { world.plan[$0] == 0 }
    for (token, client) in clients {
      let reply = Reply.parse(client.text).first
      if lossless, client.end == nil, !client.peerEnded {
        try world.require(reply != nil, "\(token) was answered by the end")
      }
      guard let reply else { continue }
      if reply.status == 200 { answered += 1 } else { failed += 1 }
      reasons[reply.header("X-Micro-Reason") ?? "ok", default: 0] += 1
      if reply.status == 200 {
        try world.require(reply.body == "{\"t\":\"\(token)\"}", "\(token) was answered with \(reply.body)")
      }
      if let micros = reply.header("X-Micro-Upstream-Time").flatMap({ Int64($0) }) {
        try world.require(micros * 1000 <= Self.timeout + Self.grace, "\(token) took \(micros) µs")
      }
    }
    for (token, times) in runs.sorted(by: { $0.key < $1.key }) {
      // A hedge is one more, and its own connection may be one that dies idle.
      let freshMax = idempotent.contains(token) ? 1 + values.retry.limit + (values.hedge == nil ? 0 : 1) : 1
      let reusedMax = idempotent.contains(token) ? freshMax : 1
      try world.require(
        times.fresh <= freshMax && times.reused <= reusedMax, "\(token) ran \(times.fresh) + \(times.reused) times")
    }
  }

  private func checkBudget(calls: Int) throws {
    guard let table = rig.worker.knownService(service) else { return }
    let seconds = Double(rig.sidecar.now.nanoseconds(since: start)) / 1e9
    let allowed =
      policy.budget.ratio * Double(calls) + policy.budget.floorPerSecond
      * (seconds + Double(policy.budget.window) / 1e9)
    let spent = table.budget.spent
    try rig.world.require(Double(spent) <= allowed + 1e-6, "\(spent) repetitions where \(allowed) are allowed")
  }

  /// All is well again: within the longest ejection every node gets calls, and all succeed.
  private func checkCalm(after count: Int) throws {
    let world = rig.world
    isCalm = true
    world.healAll()
    world.stopFaults()
    for index in hosts.indices where hosts[index].loops.isEmpty {
      hosts[index].restart()
      startNode(index)
    }
    register()
    rig.run(.seconds(40))
    for number in 0..<60 { ask(count + number, at: .milliseconds(number * 100)) }
    rig.run(.seconds(8))
    var served: [String: Int] = [:]
    for (token, client) in clients.suffix(60) {
      let reply = Reply.parse(client.text).first
      try world.require(reply?.status == 200, "\(token) fails though all is well: \(reply?.description ?? "no reply")")
      served[reply?.header("X-Micro-Node") ?? "", default: 0] += 1
    }
    try world.require(
      served.count == hosts.count, "only \(served.keys.sorted()) of \(hosts.count) nodes get calls though all is well")
    try world.require(
      rig.worker.knownService(service)?.gate.inside == 0,
      "places are taken by nobody: \(rig.worker.knownService(service)?.gate.inside ?? -1)")
  }
}

private final class Forgetful: GateWaiter {
  func admitted() {}
}

extension ResilienceScenario: @unchecked Sendable {}

@Suite struct ResilienceSwarmTests {
  @Test func callsKeepTheirPromisesWhateverHappens() throws {
    let swarm = Swarm("callsKeepTheirPromisesWhateverHappens", seeds: 300, faults: faults, environment: environment)
    var answered = 0
    var failed = 0
    var reasons: [String: Int] = [:]
    let report = try swarm.run { world in
      let scenario = try ResilienceScenario(world)
      try scenario.run()
      answered += scenario.answered
      failed += scenario.failed
      reasons.merge(scenario.reasons) { $0 + $1 }
    }
    print("\(report.seeds) seeds, \(reasons.sorted { $0.key < $1.key })")
    if report.seeds >= 100 { #expect(answered > 15 * report.seeds && failed > report.seeds) }
  }

  @Test(arguments: ResilienceScenario.Bug.allCases)
  private func aPlantedBugIsFound(_ bug: ResilienceScenario.Bug) {
    #expect(throws: SimFailure.self) {
      for seed in 1...20 as ClosedRange<UInt64> {
        var random = SeededRandom(seed: seed)
        let world = SimWorld(seed: seed, plan: .swarm(&random, of: FaultPlan.gentle.intersection(faults)))
        defer { world.tearDown() }
        try ResilienceScenario(world, bug: bug).run()
      }
    }
  }
}
