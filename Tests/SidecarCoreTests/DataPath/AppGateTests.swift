// Too many calls for the app: who is let in, who waits, who is turned away, and what they are told.

import SidecarSim
import Testing

@testable import SidecarCore

@Suite struct AppGateTests {
  private static let call = Ask.frame()
  private static func call(_ priority: String) -> String { Ask.frame(headers: ["Micro-Priority: \(priority)"]) }

  private func rig(
    limit: Int, inbound: String? = nil, app answer: @escaping (HTTPUpstream.Request) -> HTTPUpstream.Answer
  ) throws -> (DataPathWorld, HTTPUpstream) {
    var policy = InboundPolicy()
    if let inbound { policy = InboundPolicy.parse(try JSONValue(parsing: inbound)).policy }
    let rig = try DataPathWorld.governed(
      inbound: policy, configure: { $0.appConcurrency = limit == 0 ? .off : .fixed(limit) })
    return (rig, try rig.startApp(answering: answer))
  }

  @Test func callsAboveTheLimitWaitAndAllAreAnswered() throws {
    let (rig, app) = try rig(limit: 2) { _ in HTTPUpstream.Answer.reply("{}").after(.milliseconds(100)) }
    let clients = (0..<10).map { _ in rig.client(Self.call, to: rig.framework) }
    rig.run(.milliseconds(50))
    #expect(app.requests.count == 2 && rig.worker.appGate.inside == 2)
    rig.run(.seconds(2))
    #expect(clients.allSatisfy { Reply.parse($0.text).first?.header("Micro-Error") == nil && !$0.text.isEmpty })
    #expect(app.requests.count == 10 && rig.worker.appGate.inside == 0)
    try rig.finish()
  }

  @Test func withAFullQueueOnesThatMatterMoreTakeThePlaceOfOthers() throws {
    let (rig, app) = try rig(limit: 1) { _ in HTTPUpstream.Answer.reply("{}").after(.milliseconds(100)) }
    // One inside, sixteen wait.
    let usual = (0..<17).map { _ in rig.client(Self.call, to: rig.framework) }
    rig.run(.milliseconds(20))
    let refused = try rig.ask(Self.call, to: rig.framework)
    #expect(
      refused.header("Micro-Error")?.contains("the app takes no more calls: 1 calls are under way, and 16 wait") == true
    )
    #expect(refused.header("X-Micro-Unbegun") == "1" && refused.header("Retry-After") == "1")
    let critical = rig.client(Self.call("critical"), to: rig.framework)
    rig.run(.milliseconds(150))
    #expect(Reply.parse(critical.text).isEmpty)
    rig.run(.milliseconds(100))
    #expect(Reply.parse(critical.text).first?.header("Micro-Error") == nil && !critical.text.isEmpty, "it is the next")
    rig.run(.seconds(3))
    let turnedAway = usual.filter { Reply.parse($0.text).first?.header("X-Micro-Unbegun") == "1" }
    #expect(turnedAway.count == 1 && app.requests.count == 17)
    try rig.finish()
  }

  @Test func callsOfLowPriorityAreRefusedFirst() throws {
    let (rig, app) = try rig(limit: 10) { _ in .stall }
    for _ in 0..<9 { _ = rig.client(Self.call, to: rig.framework) }
    rig.run(.milliseconds(20))
    let low = try rig.ask(Self.call("low"), to: rig.framework)
    #expect(low.header("Micro-Error")?.contains("this one's priority is low") == true, "\(low)")
    _ = rig.client(Self.call, to: rig.framework)
    rig.run(.milliseconds(20))
    #expect(app.requests.count == 10)
    rig.run(.seconds(6))
    #expect(rig.worker.appGate.inside == 0)
    try rig.finish()
  }

  @Test func whoLeavesWhileWaitingIsForgotten() throws {
    let (rig, app) = try rig(limit: 1) { _ in HTTPUpstream.Answer.reply("{}").after(.milliseconds(200)) }
    _ = rig.client(Self.call, to: rig.framework)
    rig.run(.milliseconds(20))
    let leaver = rig.client(to: rig.framework).send(Self.call).pause(.milliseconds(50)).reset().start()
    rig.run(.milliseconds(500))
    withExtendedLifetime(leaver) {}
    #expect(app.requests.count == 1 && rig.worker.appGate.waitingCount == 0 && rig.worker.appGate.inside == 0)
    try rig.finish()
  }

  @Test func aWaitingCallWhoseTimeIsUpIsToldSo() throws {
    let (rig, _) = try rig(limit: 1) { _ in .stall }
    _ = rig.client(Self.call, to: rig.framework)
    rig.run(.milliseconds(20))
    let reply = try rig.ask(Ask.frame(headers: ["Timeout: 100000000"]), to: rig.framework)
    #expect(reply.header("Micro-Error")?.contains("the app had no place for the call within 10") == true, "\(reply)")
    rig.run(.seconds(6))
    try rig.finish()
  }

  @Test func callersHaveTheirOwnRates() throws {
    let (rig, app) = try rig(
      limit: 0,
      inbound: #"{"rate_limits": [{"endpoint": "Say.*", "caller": "*", "rate": 0.1, "burst": 1}]}"#
    ) { _ in .reply("{}") }
    func ask(_ caller: String, _ endpoint: String = "Say.Hello") throws -> String? {
      try rig.ask(Ask.frame("s", endpoint, headers: ["Micro-From-Service: \(caller)"]), to: rig.framework)
        .header("Micro-Error")
    }
    #expect(try ask("a") == nil)
    let refused = try ask("a")
    #expect(
      refused?.contains("\"code\":429") == true && refused?.contains("Say.Hello takes 0.1 calls a second") == true)
    #expect(try ask("b") == nil && ask("a", "Stats.Get") == nil)
    #expect(app.requests.count == 3)
    try rig.finish()
  }

  @Test("a swarm of callers loses no call and never exceeds the limit", arguments: [1, 2, 3, 4] as [UInt64])
  func swarm(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let limit = 1 + random.below(6)
    let rig = try DataPathWorld(seed: seed) { $0.appConcurrency = .fixed(limit) }
    var inside = 0
    var insideMax = 0
    let app = try rig.startApp { [unowned rig] _ in
      inside = rig.worker.appGate.inside
      insideMax = max(insideMax, inside)
      let time = Duration.milliseconds(Int64(random.below(80)))
      return random.below(8) == 0 ? .reset : HTTPUpstream.Answer.reply("{}").after(time)
    }
    let words = ["low", "normal", "high", "critical", "nonsense"]
    var clients: [ScriptedClient] = []
    for _ in 0..<120 {
      clients.append(rig.client(Self.call(words[random.below(words.count)]), to: rig.framework))
      if random.below(3) == 0 { rig.run(.milliseconds(Int64(random.below(30)))) }
    }
    rig.run(.seconds(20))
    for client in clients { #expect(Reply.parse(client.text).count == 1, "seed \(seed): every call has one answer") }
    #expect(insideMax <= limit && insideMax > 0, "seed \(seed)")
    #expect(app.requests.count >= 20 && rig.worker.appGate.inside == 0 && rig.worker.appGate.waitingCount == 0)
    try rig.finish()
  }
}
