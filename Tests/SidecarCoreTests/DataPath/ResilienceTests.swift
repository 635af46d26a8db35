// Policies at work: budget, pauses, hedges, attempts with a time of their own, places at a service, and nodes given a rest.

import SidecarSim
import Testing

@testable import SidecarCore

private let greeter = "go.micro.srv.greeter"
private let post = Ask.post("/greeter/say/hello")
private let get = Ask.get("/greeter/say/hello")

@Suite struct ResilienceTests {
  private static func error(_ code: Int, _ more: [(String, String)] = []) -> HTTPUpstream.Answer {
    .reply("", headers: [("Micro-Error", #"{"id":"x","code":\#(code),"detail":"no","status":"s"}"#)] + more)
  }

  @Test func repetitionsNeverExceedTheirBudget() throws {
    let rig = try DataPathWorld.governed(service: {
      $0.budget.ratio = 0.25
      $0.budget.floorPerSecond = 0
      $0.ejection.consecutiveFailures = 0
    })
    let node = try rig.node { _ in Self.error(503) }
    rig.register(greeter, at: [node.address])
    for _ in 0..<40 { #expect(try rig.ask(get).code == 503) }
    #expect((47...50).contains(node.requests.count), "40 calls of which 10 may be repeated made \(node.requests.count)")
    let unpaid = rig.worker.measured().counters[MetricCounter.retriesUnpaid.rawValue]
    #expect(unpaid == UInt64(80 - node.requests.count))
    try rig.finish()
  }

  @Test(arguments: [(503, true, 2), (429, true, 2), (404, true, 1), (503, false, 1), (500, false, 1)])
  func anErrorIsRepeatedWhenTheCallMayBe(_ code: Int, _ isRepeatable: Bool, _ times: Int) throws {
    let rig = try DataPathWorld.governed()
    let node = try rig.node { _ in Self.error(code) }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(isRepeatable ? get : post).code == code)
    #expect(node.requests.count == times)
    try rig.finish()
  }

  @Test func theRegistryAndThePolicySayWhatMayBeRepeated() throws {
    let rig = try DataPathWorld.governed(endpoint: { $0.isIdempotent = true })
    let node = try rig.node { request in request.index == 0 ? Self.error(503) : .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(post).status == 200)
    try rig.finish()
  }

  @Test func aNodeThatWantsToBeLeftAloneIs() throws {
    let rig = try DataPathWorld.governed()
    var times: [Instant] = []
    let node = try rig.node { [unowned rig] request in
      times.append(rig.sidecar.now)
      return request.index == 0 ? Self.error(503, [("Retry-After", "2")]) : .reply("{}\n")
    }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(get).status == 200)
    #expect(times.count == 2 && times[1].nanoseconds(since: times[0]) >= 2_000_000_000)
    try rig.finish()
  }

  @Test(arguments: ["99999999999", "-1", "Tue, 01 Jan 2030 00:00:00 GMT", "1e9", ""])
  func aHostileRetryAfterHoldsNobodyUp(_ value: String) throws {
    let rig = try DataPathWorld.governed()
    let node = try rig.node { request in
      request.index == 0 ? Self.error(503, [("Retry-After", value)]) : .reply("{}\n")
    }
    rig.register(greeter, at: [node.address])
    let reply = try rig.ask(get)
    #expect(reply.status == 200 || reply.code == 503, "\(reply)")
    let micros = Int(reply.header("X-Micro-Upstream-Time") ?? "") ?? .max
    #expect(micros < 5_000_000)
    try rig.finish()
  }

  @Test func aSlowNodeGetsCompanyOnlyWhereTheCallMayBeMadeTwice() throws {
    let rig = try DataPathWorld.governed(endpoint: {
      $0.hedge = HedgePolicy()
      $0.hedge?.after = 50_000_000
    })
    let slow = try rig.node("slow") { _ in .stall }
    let quick = try rig.node("quick") { _ in .reply("{\"n\":2}\n") }
    rig.register(greeter, at: [slow.address, quick.address])
    let reply = try rig.ask(get)
    #expect(reply.status == 200 && reply.body == "{\"n\":2}")
    #expect(reply.header("X-Micro-Attempts") == "2" && reply.header("X-Micro-Node") == "\(greeter)-1")
    let micros = Int(reply.header("X-Micro-Upstream-Time") ?? "") ?? 0
    #expect((50_000..<100_000).contains(micros), "\(micros) µs")
    let counters = rig.worker.measured().counters
    #expect(counters[MetricCounter.hedges.rawValue] == 1 && counters[MetricCounter.hedgesWon.rawValue] == 1)
    #expect(try rig.ask(post).status == 504)
    #expect(quick.requests.count == 1)
    try rig.finish()
  }

  @Test func aHedgeStaysInThePartOfASplitThatItsCallDrew() throws {
    let rig = try DataPathWorld.governed(
      service: {
        $0.splits = ["a", "b"].map { TrafficSplit(NodeFilter(labels: [.init("track", $0)]), weight: 50) }
        $0.budget.floorPerSecond = 1000
        $0.ejection.consecutiveFailures = 0
      },
      endpoint: {
        $0.hedge = HedgePolicy()
        $0.hedge?.after = 20_000_000
      })
    var nodes: [Node] = []
    var slow: [HTTPUpstream] = []
    for track in ["a", "b"] {
      for isSlow in [true, false] {
        let upstream = try rig.node(track + (isSlow ? "slow" : "quick")) { _ in
          isSlow ? .stall : .reply("{\"track\":\"\(track)\"}\n")
        }
        if isSlow { slow.append(upstream) }
        nodes.append(
          Node(
            id: track + (isSlow ? "0" : "1"), address: upstream.address.description,
            metadata: DataPathWorld.micro.merging(["track": track]) { $1 }))
      }
    }
    rig.register(greeter, nodes: nodes)
    for _ in 0..<30 {
      let before = slow[0].requests.count
      let drawn = try rig.ask(get)
      let track = slow[0].requests.count > before ? "a" : "b"
      #expect(drawn.body == "{\"track\":\"\(track)\"}" && drawn.header("X-Micro-Attempts") == "2", "\(drawn)")
    }
    #expect(slow.allSatisfy { $0.requests.count > 3 })
    try rig.finish()
  }

  @Test func whicheverAttemptFailsTheOtherMayStillAnswer() throws {
    let rig = try DataPathWorld.governed(endpoint: {
      $0.hedge = HedgePolicy()
      $0.hedge?.after = 50_000_000
      $0.retry.limit = 0
    })
    let first = try rig.node("first") { request in
      request.index == 0
        ? HTTPUpstream.Answer.reset.after(.milliseconds(100)) : .reply("{\"n\":1}\n").after(.milliseconds(200))
    }
    let second = try rig.node("second") { request in
      request.index == 0 ? .reply("{\"n\":2}\n").after(.milliseconds(200)) : Self.error(500)
    }
    rig.register(greeter, at: [first.address, second.address])
    #expect(try rig.ask(get).body == "{\"n\":2}", "the first broke while the second was at work")
    #expect(try rig.ask(get).body == "{\"n\":1}", "the second failed while the first was at work")
    try rig.finish()
  }

  @Test func anAttemptMayHaveATimeOfItsOwn() throws {
    let rig = try DataPathWorld.governed(endpoint: { $0.attemptTimeout = 300_000_000 })
    let slow = try rig.node("slow") { _ in .stall }
    let quick = try rig.node("quick") { _ in .reply("{\"n\":2}\n") }
    rig.register(greeter, at: [slow.address, quick.address])
    let reply = try rig.ask(get)
    #expect(reply.status == 200 && reply.header("X-Micro-Attempts") == "2", "\(reply)")
    let late = try rig.ask(post)
    #expect(late.status == 504 && late.detail.contains("all that one attempt may take"), "\(late)")
    try rig.finish()
  }

  @Test func aServiceTakesSoManyCallsAndTheNextWait() throws {
    let rig = try DataPathWorld.governed(service: {
      $0.limits.inFlight = 2
      $0.limits.pending = 1
      $0.limits.pendingTime = 300_000_000
    })
    let node = try rig.node { _ in .reply("{}\n").after(.milliseconds(200)) }
    rig.register(greeter, at: [node.address])
    let clients = (0..<4).map { _ in rig.client(post) }
    rig.run(.seconds(2))
    let replies = clients.map { Reply.parse($0.text).first }
    #expect(replies.map { $0?.status }.filter { $0 == 200 }.count == 3, "\(replies)")
    let refused = try #require(replies.compactMap { $0 }.first { $0.status == 503 })
    #expect(refused.detail.contains("2 calls are under way, and 1 wait"), "\(refused)")
    #expect(refused.header("Retry-After") == "1")
    try rig.finish()
  }

  @Test func aServiceThatIsStuckFailsFastAndSaysWhy() throws {
    let rig = try DataPathWorld.governed(service: {
      $0.limits.inFlight = 1
      $0.limits.pendingTime = 100_000_000
    })
    let node = try rig.node { request in request.index == 0 ? .reply("{}\n").after(.seconds(2)) : .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    let stuck = rig.client(post)
    rig.run(.milliseconds(20))
    let patient = try rig.ask(post)
    #expect(patient.status == 503 && patient.detail.contains("waited 100 ms for one of 1 places"), "\(patient)")
    let started = rig.world.now
    let hasty = try rig.ask(post)
    #expect(hasty.status == 503 && hasty.detail.contains("no place has fallen free"), "\(hasty)")
    #expect(rig.world.now.nanoseconds(since: started) < 50_000_000)
    rig.run(.seconds(3))
    #expect(Reply.parse(stuck.text).first?.status == 200)
    #expect(try rig.ask(post).status == 200, "a place that falls free ends it")
    try rig.finish()
  }

  @Test func aCallThatWaitsForAPlaceAndLeavesTakesNone() throws {
    let rig = try DataPathWorld.governed(service: { $0.limits.inFlight = 1 })
    let node = try rig.node { _ in .reply("{}\n").after(.milliseconds(500)) }
    rig.register(greeter, at: [node.address])
    let first = rig.client(post)
    rig.run(.milliseconds(20))
    let leaver = rig.client(post)
    rig.run(.milliseconds(20))
    leaver.reset().resume()
    rig.run(.seconds(1))
    #expect(Reply.parse(first.text).first?.status == 200)
    #expect(try rig.ask(post).status == 200)
    #expect(node.requests.count == 2)
    try rig.finish()
  }

  @Test func aNodeThatKeepsFailingRestsAndOneCallFindsOutWhetherItIsBack() throws {
    let rig = try DataPathWorld.governed()
    var isBroken = true
    let bad = try rig.node("bad") { _ in isBroken ? Self.error(503) : .reply("{\"n\":1}\n") }
    let good = try rig.node("good") { _ in .reply("{\"n\":2}\n") }
    rig.register(greeter, at: [bad.address, good.address])
    for _ in 0..<5 { #expect(try rig.ask(post).code == 503) }
    for _ in 0..<20 { #expect(try rig.ask(post).status == 200) }
    #expect(bad.requests.count == 5, "five failures in a row, then a rest")
    rig.run(.seconds(11))
    isBroken = true
    #expect(try rig.ask(get).status == 200, "the probe fails and is repeated elsewhere")
    #expect(bad.requests.count == 6)
    for _ in 0..<20 { #expect(try rig.ask(post).status == 200) }
    #expect(bad.requests.count == 6)
    isBroken = false
    rig.run(.seconds(21))
    #expect(try rig.ask(get).body == "{\"n\":1}")
    #expect(try rig.ask(post).body == "{\"n\":1}", "it is well again")
    try rig.finish()
  }

  @Test func whatHandlersSayInPlainTextIsNoFaultOfTheNode() throws {
    let rig = try DataPathWorld.governed()
    let node = try rig.node("a") { _ in .reply("", headers: [("Micro-Error", "no such user")]) }
    let other = try rig.node("b") { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address, other.address])
    for _ in 0..<12 { #expect(try rig.ask(post).status == 500) }
    #expect(node.requests.count == 12 && other.requests.isEmpty)
    try rig.finish()
  }

  @Test func whenAllNodesFailTheyAreUsedAllTheSame() throws {
    let rig = try DataPathWorld.governed(randomSelector: true)
    let nodes = try (0..<3).map { try rig.node("n\($0)") { _ in Self.error(500) } }
    rig.register(greeter, at: nodes.map(\.address))
    for _ in 0..<60 { #expect(try rig.ask(post).code == 500, "never: there is no node") }
    for node in nodes { #expect(!node.requests.isEmpty) }
    try rig.finish()
  }

  @Test func aServiceOfOneNodeThatRestartsIsWaitedFor() throws {
    let rig = try DataPathWorld.governed(endpoint: {
      $0.retry.limit = 20
      $0.retry.backoff.max = 100_000_000
    })
    let host = rig.world.makeHost("node")
    rig.register(greeter, at: [host.address(port: 5000)])
    let loop = host.makeLoop()
    var node: HTTPUpstream?
    rig.world.at(.milliseconds(300)) {
      node = try? HTTPUpstream(on: loop, at: host.address(port: 5000)) { _ in .reply("{\"back\":1}\n") }
    }
    #expect(try rig.ask(post).body == "{\"back\":1}", "nothing was sent, so it may be tried again")
    #expect(node?.requests.count == 1)
    try rig.finish()
  }

  @Test func howManyCallsAWorkerTakesFollowsTheConfiguration() throws {
    let rig = try DataPathWorld.governed()
    #expect(rig.worker.callsMax == 16_384)
    for (inFlight, most) in [(20_000, 20_000), (30_000, 30_000), (100, 16_384)] {
      var policy = ServicePolicy()
      policy.limits.inFlight = inFlight
      rig.worker.policies = PolicyTable(service: policy)
      #expect(rig.worker.callsMax == most)
    }
    try rig.finish()
  }

  @Test func onlyNodesOfVersionsThatListTheEndpointAreCalledWhereThePolicyWantsIt() throws {
    let rig = try DataPathWorld.governed(endpoint: { $0.requiresEndpoint = true })
    let old = try rig.node("old") { _ in .reply("{\"n\":1}\n") }
    let new = try rig.node("new") { _ in .reply("{\"n\":2}\n") }
    var services: [Service] = []
    var nodes: [CatalogNode] = []
    let described = [(old, "1", "Say.Other"), (new, "2", "Say.Hello")]
    for (upstream, version, endpoint) in described {
      let endpoints = [Endpoint(name: endpoint)]
      let node = Node(id: version, address: upstream.address.description, metadata: DataPathWorld.micro)
      services.append(Service(name: greeter, version: version, endpoints: endpoints, nodes: [node]))
      nodes.append(
        CatalogNode(
          node: node, version: VersionInfo(service: greeter, version: version, metadata: [:], endpoints: endpoints),
          target: try #require(DialTarget(node.address)), origins: [0]))
    }
    rig.worker.apply(
      CatalogDelta(
        revision: 1,
        changed: [ServiceEntry(name: greeter, revision: 1, versions: services, nodes: nodes, isStale: false)]))
    for _ in 0..<5 { #expect(try rig.ask(post).body == "{\"n\":2}") }
    #expect(try rig.ask(Ask.post("/greeter/say/third")).body == "{\"n\":1}", "no version lists that one")
    new.stop()
    rig.world.hosts.first { $0.name == "new" }?.crash(.resets)
    let reply = try rig.ask(post)
    #expect(reply.status >= 500 && old.requests.count == 1, "\(reply)")
  }

  @Test func policiesThatChangeKeepWhatIsKnown() throws {
    let rig = try DataPathWorld.governed()
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(post).status == 200)
    let table = try #require(rig.worker.knownService(greeter))
    let latency = table.set.loadOf(0).latency
    #expect(latency > 0)
    var policy = ServicePolicy()
    policy.limits.inFlightPerNode = 7
    policy.slowStart = 1_000_000_000
    var values = EndpointPolicy.Values()
    values.timeout = 100_000_000
    rig.worker.policies = PolicyTable(service: policy, endpoint: values)
    #expect(table.set.loadOf(0).latency == latency && table.set.loadOf(0).weight == 1)
    #expect(try rig.ask(post).status == 200)
    #expect(node.acceptedCount == 1)
    try rig.finish()
  }
}
