// Limits, faults, mirrors and splits at work, on simulated hosts.

import SidecarSim
import Testing

@testable import SidecarCore

private let greeter = "go.micro.srv.greeter"
private let post = Ask.post("/greeter/say/hello")

@Suite struct TrafficToolsTests {
  private static func limit(_ scope: RateLimitPolicy.Scope) -> RateLimitPolicy {
    var limit = RateLimitPolicy()
    limit.rate = 0.5
    limit.burst = 2
    limit.scope = scope
    return limit
  }

  @Test func aRateLimitAnswers429WithATimeAfterWhichItHolds() throws {
    let rig = try DataPathWorld.governed(endpoint: { $0.rateLimit = Self.limit(.endpoint) })
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(post).status == 200)
    #expect(try rig.ask(post).status == 200)
    let refused = try rig.ask(post)
    #expect(refused.status == 429 && refused.header("Retry-After") == "2", "\(refused)")
    #expect(refused.header("X-Micro-Reason") == "rate_limited" && refused.code == 429)
    #expect(try rig.ask(Ask.post("/greeter/say/bye")).status == 200, "another endpoint has tokens of its own")
    let frame = try rig.ask(Ask.frame(greeter, "Say.Hello"))
    #expect(frame.status == 200 && frame.header("Micro-Error")?.contains("\"code\":429") == true, "\(frame)")
    #expect(frame.header("Retry-After") != nil)
    rig.run(.seconds(2))
    #expect(try rig.ask(post).status == 200)
    #expect(node.requests.count == 4)
    try rig.finish()
  }

  @Test func callersAreCountedByTheirNames() throws {
    let rig = try DataPathWorld.governed(endpoint: { $0.rateLimit = Self.limit(.caller) })
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    func ask(_ caller: String) throws -> Int {
      try rig.ask(Ask.post("/greeter/say/hello", headers: ["Micro-From-Service: \(caller)"])).status
    }
    #expect(try ask("a") == 200 && ask("a") == 200 && ask("a") == 429)
    #expect(try ask("b") == 200)
    try rig.finish()
  }

  @Test func aServiceWideLimitCountsAllItsEndpoints() throws {
    let rig = try DataPathWorld.governed(endpoint: { $0.rateLimit = Self.limit(.service) })
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(post).status == 200)
    #expect(try rig.ask(Ask.post("/greeter/say/bye")).status == 200)
    #expect(try rig.ask(Ask.post("/greeter/say/more")).status == 429)
    try rig.finish()
  }

  @Test func aPolicyDelaysAndFailsCallsOnPurpose() throws {
    let rig = try DataPathWorld.governed(endpoint: {
      var fault = FaultPolicy.delay(200_000_000)
      fault.abortShare = 0.5
      fault.abortCode = 418
      $0.fault = fault
    })
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    var failed = 0
    for _ in 0..<40 {
      let reply = try rig.ask(post)
      #expect(reply.status == 200 || reply.status == 418)
      let micros = Int(reply.header("X-Micro-Upstream-Time") ?? "") ?? 0
      #expect((200_000..<260_000).contains(micros))
      if reply.status == 418 {
        failed += 1
        #expect(reply.header("X-Micro-Reason") == "fault_injected")
      }
    }
    #expect((10...30).contains(failed) && node.requests.count == 40 - failed)
    try rig.finish()
  }

  @Test func aCallThatLeavesWhileItIsDelayedLeavesNothing() throws {
    let rig = try DataPathWorld.governed(endpoint: {
      $0.fault = .delay(10_000_000_000)
      $0.timeout = 1_000_000_000
    })
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(post).status == 504, "a delay is no excuse for a late answer")
    #expect(node.requests.isEmpty)
    try rig.finish()
  }

  @Test func aFaultIsInjectedByHeaderOnlyWithTheToken() throws {
    let header = "X-Micro-Fault: abort=503"
    let rig = try DataPathWorld.governed(configure: { $0.faultToken = FixedBytes("s3cret") })
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    func ask(_ headers: [String]) throws -> Reply { try rig.ask(Ask.post("/greeter/say/hello", headers: headers)) }
    #expect(try ask([header]).status == 200)
    #expect(try ask([header, "X-Micro-Fault-Token: guess"]).status == 200)
    #expect(node.requests.allSatisfy { $0.header("X-Micro-Fault") == nil && $0.header("X-Micro-Fault-Token") == nil })
    let reply = try ask([header, "X-Micro-Fault-Token: s3cret"])
    #expect(reply.status == 503 && reply.header("X-Micro-Reason") == "fault_injected")
    let stream = try ask([header, "X-Micro-Fault-Token: s3cret", "Accept: application/x-ndjson"])
    #expect(stream.status == 503, "\(stream)")
    #expect(node.requests.count == 2)
    let closed = try DataPathWorld.governed()
    let other = try closed.node { _ in .reply("{}\n") }
    closed.register(greeter, at: [other.address])
    #expect(try closed.ask(Ask.post("/greeter/say/hello", headers: [header, "X-Micro-Fault-Token: "])).status == 200)
    try closed.finish()
    try rig.finish()
  }

  @Test func aMirroredCallIsMadeTwiceAndItsAnswerIsNobodys() throws {
    let rig = try DataPathWorld.governed(endpoint: { $0.mirror = MirrorPolicy(service: "shadow") })
    let node = try rig.node { _ in .reply("{\"n\":1}\n") }
    let shadow = try rig.node("shadow") { _ in .stall }
    rig.register(greeter, at: [node.address])
    rig.register("shadow", at: [shadow.address])
    let count = Worker.mirrorsMax + 5
    for _ in 0..<count {
      let reply = try rig.ask(Ask.post("/greeter/say/hello", #"{"a":1}"#, headers: ["Foo: bar"]))
      #expect(reply.status == 200 && reply.body == "{\"n\":1}")
      #expect(Int(reply.header("X-Micro-Upstream-Time") ?? "") ?? .max < 50_000, "the copy holds nobody up")
    }
    #expect(node.requests.count == count)
    #expect(shadow.requests.count == Worker.mirrorsMax, "no more than that at once")
    let copy = try #require(shadow.requests.first)
    #expect(
      copy.text == node.requests.first?.text && copy.text.hasPrefix(#"{"a":1}"#) && copy.header("Foo") == "bar"
        && copy.header("Micro-Service") == "shadow")
    let counters = rig.worker.measured().counters
    #expect(counters[MetricCounter.mirrorsDropped.rawValue] == 5)
    rig.run(.seconds(6))
    #expect(rig.worker.mirrorsInFlight == 0)
    try rig.finish()
  }

  @Test func aMirrorThatDoesNotExistHarmsNothing() throws {
    let rig = try DataPathWorld.governed(endpoint: { $0.mirror = MirrorPolicy(service: "nowhere") })
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    for _ in 0..<5 { #expect(try rig.ask(post).status == 200) }
    rig.run(.seconds(10))
    #expect(rig.worker.mirrorsInFlight == 0)
    try rig.finish()
  }

  @Test func aSplitSendsCallsToPartsByWeight() throws {
    let rig = try DataPathWorld.governed(service: {
      $0.splits = [
        TrafficSplit(NodeFilter(labels: [.init("track", "canary")]), weight: 20),
        TrafficSplit(NodeFilter(labels: [.init("track", "stable")]), weight: 80),
      ]
    })
    let canary = try rig.node("canary") { _ in .reply("{}\n") }
    let stable = try rig.node("stable") { _ in .reply("{}\n") }
    let neither = try rig.node("neither") { _ in .reply("{}\n") }
    func node(_ id: String, _ upstream: HTTPUpstream, _ track: String) -> Node {
      Node(
        id: id, address: upstream.address.description, metadata: DataPathWorld.micro.merging(["track": track]) { $1 })
    }
    let others = [node("s", stable, "stable"), node("n", neither, "none")]
    rig.register(greeter, nodes: [node("c", canary, "canary")] + others)
    for _ in 0..<200 { #expect(try rig.ask(post).status == 200) }
    #expect((22...60).contains(canary.requests.count), "\(canary.requests.count) of 200")
    #expect(canary.requests.count + stable.requests.count == 200 && neither.requests.isEmpty)
    rig.register(greeter, nodes: others)
    let before = stable.requests.count
    for _ in 0..<20 { #expect(try rig.ask(post).status == 200) }
    #expect(stable.requests.count == before + 20, "a part without nodes leaves its calls to the others")
    rig.register(greeter, nodes: [others[1]])
    #expect(try rig.ask(post).status == 503, "nodes of no part get none")
    try rig.finish()
  }

  @Test func aPriorityIsSaidUnlessTheCallerSaysItself() throws {
    let rig = try DataPathWorld.governed(endpoint: { $0.priority = .high })
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    _ = try rig.ask(post)
    _ = try rig.ask(Ask.post("/greeter/say/hello", headers: ["Micro-Priority: low"]))
    #expect(node.requests.map { $0.header("Micro-Priority") } == ["high", "low"])
    try rig.finish()
  }

  @Test func aNewTableOfPoliciesHoldsForTheNextCallAndKeepsTheRest() throws {
    let rig = try DataPathWorld.governed()
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    rig.register("other", at: [node.address])
    #expect(try rig.ask(post).status == 200)
    let connections = node.acceptedCount
    let learned = rig.worker.knownService(greeter)?.set.loadOf(0).latency
    let result = PolicyParser.parse(
      try JSONValue(parsing: #"[{"service": "other", "fault": {"abort": 502}, "limits": {"in_flight": 3}}]"#))
    rig.worker.policies = PolicyTable(rules: result.rules)
    #expect(try rig.ask(Ask.frame("other", "Say.Hello")).header("Micro-Error")?.contains("502") == true)
    #expect(rig.worker.knownService(greeter)?.set.loadOf(0).latency == learned && learned != 0)
    #expect(try rig.ask(post).status == 200)
    #expect(node.acceptedCount == connections, "its connection is used on")
    try rig.finish()
  }

  @Test(arguments: [503, 429])
  func whatANodesSidecarDidNotLetThroughIsTriedElsewhere(_ code: Int) throws {
    let rig = try DataPathWorld.governed()
    let full = try rig.node("full") { _ in
      .reply(
        "",
        headers: [
          ("Micro-Error", #"{"id":"x","code":\#(code),"detail":"full","status":"s"}"#), ("X-Micro-Unbegun", "1"),
        ])
    }
    let free = try rig.node("free") { _ in .reply("{}\n") }
    rig.register(greeter, at: [full.address, free.address])
    #expect(try rig.ask(post).status == 200, "a POST, which otherwise is never repeated")
    #expect(full.requests.count == 1 && free.requests.count == 1)
    try rig.finish()
  }
}
