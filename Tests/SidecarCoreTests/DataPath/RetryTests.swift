// When a call is tried again, and when it must not be.

@testable import SidecarCore
import SidecarSim
import Testing

private let greeter = "go.micro.srv.greeter"
private let call = Ask.post("/greeter/say/hello")

@Suite struct RetryTests {
  @Test(arguments: [2, 5])
  func aRefusedDialGoesToAnotherNode(_ count: Int) throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .reply("{}\n") }
    // All but the last refuse; the selector prefers the first.
    let dead = (1..<count).map { rig.app.host.address(port: UInt16($0)) }
    rig.register(greeter, at: dead + [node.address])
    let reply = try rig.ask(call)
    #expect(reply.status == 200 && reply.header("X-Micro-Attempts") == "\(count)")
    #expect(reply.header("X-Micro-Node") == "\(greeter)-\(count - 1)")
    #expect(try rig.ask(call).header("X-Micro-Attempts") == "1", "refusing nodes are passed over for a while")
    #expect(rig.worker.metrics.snapshot()[.dialsFailed] == UInt64(count - 1))
    try rig.finish()
  }

  @Test func aNodeThatIsSilentToTheDialIsLeftAfterASecond() throws {
    let rig = try DataPathWorld()
    let silent = try rig.node("silent") { _ in .reply("{}\n") }
    let node = try rig.node { _ in .reply("{\"live\":1}\n") }
    rig.register(greeter, at: [silent.address, node.address])
    let host = try #require(rig.world.hosts.first { $0.name == "silent" })
    rig.world.partition(rig.sidecar.host, host)
    let start = rig.world.now
    #expect(try rig.ask(call).body == "{\"live\":1}")
    #expect((1_000_000_000...1_050_000_000).contains(rig.world.now.nanoseconds(since: start)))
    try rig.finish()
  }

  @Test func aReusedConnectionThatDiesIsReplacedOnceAndTheCallRepeated() throws {
    let rig = try DataPathWorld()
    // Each connection serves one call and closes at the next one, unread as far as anyone can tell.
    let node = try rig.node { request in request.indexOnConnection == 0 ? .reply("{}\n") : .reset }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(call).status == 200)
    let second = try rig.ask(call)
    #expect(second.status == 200 && second.header("X-Micro-Attempts") == "2")
    #expect(node.acceptedCount == 2 && node.requests.count == 3)
    try rig.finish()
  }

  @Test(arguments: [true, false])
  func afterAReusedConnectionDiedARefusedDialStillGoesToTheOtherNode(_ hasOther: Bool) throws {
    let rig = try DataPathWorld()
    let first = try rig.node("first") { _ in .reply("{\"n\":1}\n") }
    let second = try rig.node("second") { _ in .reply("{\"n\":2}\n") }
    rig.register(greeter, at: hasOther ? [first.address, second.address] : [first.address])
    #expect(try rig.ask(call).body == "{\"n\":1}")
    // The node dies when the next call is on its way on the connection that it had kept.
    let host = try #require(rig.world.hosts.first { $0.name == "first" })
    let client = rig.client(call)
    _ = rig.world.runUntil({ rig.worker.callsInFlight == 1 }, within: .seconds(1))
    host.crash(.resets)
    _ = rig.world.runUntil({ !Reply.parse(client.text).isEmpty }, within: .seconds(10))
    let reply = try #require(Reply.parse(client.text).first)
    if hasOther {
      #expect(reply.status == 200 && reply.body == "{\"n\":2}", "\(reply)")
    } else {
      // The node may have worked on it, which a caller who reads "connect failed" would not think.
      #expect(reply.status == 502 && reply.header("X-Micro-Reason") == "upstream_reset", "\(reply)")
      #expect(reply.detail.contains("connection refused"))
    }
    try rig.finish()
  }

  @Test func whatMayRunTwiceGoesToAnotherNodeFirst() throws {
    let rig = try DataPathWorld()
    let bad = try rig.node("bad") { _ in .reset }
    let good = try rig.node("good") { _ in .reply("{}\n") }
    rig.register(greeter, at: [bad.address, good.address])
    let reply = try rig.ask(Ask.get("/greeter/say/hello"))
    #expect(reply.status == 200 && reply.header("X-Micro-Node") == "\(greeter)-1")
    try rig.finish()
  }

  @Test(arguments: [
    (call, 1), (Ask.get("/greeter/say/hello"), 2), (Ask.post("/greeter/say/hello", headers: ["Idempotency-Key: k"]), 2),
    (Ask.post("/rpc", #"{"service":"\#(greeter)","method":"Say.Hello"}"#), 1),
    (Ask.post("/rpc", #"{"service":"\#(greeter)","method":"Say.Hello"}"#, headers: ["Idempotency-Key: k"]), 2),
    (Ask.frame(greeter), 1),
  ])
  func afterAFreshConnectionDiedOnlyWhatMayRunTwiceIsRepeated(_ request: String, _ times: Int) throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .reset }
    rig.register(greeter, at: [node.address])
    let reply = try rig.ask(request)
    #expect(reply.status == 502 || reply.header("Micro-Error")?.contains("\"code\":502") == true, "\(reply)")
    #expect(node.requests.count == times)
    try rig.finish()
  }

  @Test func theReplacementOfADeadConnectionCostsNoRetry() throws {
    let rig = try DataPathWorld()
    // The third request to arrive is answered; the second came on the reused connection, the third on a fresh one.
    let node = try rig.node { request in [0, 3].contains(request.index) ? .reply("{}\n") : .reset }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(call).status == 200)
    let reply = try rig.ask(Ask.get("/greeter/say/hello"))
    #expect(reply.status == 200 && reply.header("X-Micro-Attempts") == "3", "\(reply)")
    try rig.finish()
  }

  @Test func aReplyThatBreaksOffIsRepeatedOnlyWhenTheCallMayBe() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { request in
      request.index == 2 ? .reply("{}\n") : .reply("{\"a\":1}\n").cut(after: 20).thenReset()
    }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(call).status == 502)
    #expect(node.requests.count == 1)
    #expect(try rig.ask(Ask.get("/greeter/say/hello")).status == 200)
    #expect(node.requests.count == 3)
    try rig.finish()
  }

  @Test func afterAnErrorReplyTheConnectionIsClosed() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { request in
      request.index == 0 ? .reply("", headers: [("Micro-Error", "no")]) : .reply("{}\n")
    }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(call).status == 500)
    #expect(try rig.ask(call).status == 200)
    #expect(node.acceptedCount == 2)
    try rig.finish()
  }

  @Test(arguments: [
    HTTPUpstream.Answer.reply("{}\n", headers: [("Connection", "close")]),
    .bytes("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n{}\n"), .bytes("HTTP/1.0 200 OK\r\n\r\n{}\n").thenClose(),
    .reply("{}\n").then(.bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")),
  ])
  func aConnectionTheNodeDoesNotKeepIsNotUsedAgain(_ answer: HTTPUpstream.Answer) throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in answer }
    rig.register(greeter, at: [node.address])
    for _ in 0..<2 { #expect(try rig.ask(call).body == "{}") }
    #expect(node.acceptedCount == 2)
    try rig.finish()
  }

  @Test func interimRepliesAreSkipped() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in
      .bytes("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n").then(.reply("{}\n"))
    }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(call).body == "{}")
    #expect(try rig.ask(call).body == "{}")
    #expect(node.acceptedCount == 1)
    try rig.finish()
  }

  @Test func aCallThatFailsLaterDoesNotEndTheCallThatGotItsPlace() throws {
    // One call is refused for want of a node at the end of its turn; its caller has left by then and the next call,
    // in the same turn, has taken its object.
    let rig = try DataPathWorld(plan: FaultPlan().with(.laterNextTurn, 1))
    let node = try rig.node { _ in .reply("{}\n").after(.milliseconds(20)) }
    rig.register("go.micro.srv.empty", nodes: [])
    rig.register(greeter, at: [node.address])
    final class Owner: CallOwner {
      var outcomes: [String] = []
      func callReplied(_ call: OutboundCall, _ payload: UnsafeRawBufferPointer, format: PayloadFormat) {
        outcomes.append("replied")
      }
      func callFailed(_ call: OutboundCall, _ error: SidecarError) { outcomes.append("failed \(error.kind)") }
    }
    let owner = Owner()
    func start(_ service: ServiceName) -> OutboundCall {
      let call = rig.worker.takeCall()
      call.service = rig.worker.service(service)
      call.endpoint = FixedBytes("Say.Hello")
      let request = rig.worker.readers.buffers.take()
      request.append("{}")
      call.request = request
      call.payload = 0..<2
      call.deadline = rig.sidecar.now.advanced(byNanoseconds: 1_000_000_000)
      call.start(for: owner)
      return call
    }
    rig.sidecar.later {
      let first = start("go.micro.srv.empty")
      first.cancel()
      #expect(start(greeter) === first, "the object is used again")
    }
    rig.run(.seconds(1))
    #expect(owner.outcomes == ["replied"])
    try rig.finish()
  }

  // MARK: Services that are not known yet

  @Test func aCallWaitsUntilTheRegistriesHaveAnswered() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .reply("{}\n") }
    rig.control.answers[greeter] = rig.entry(
      greeter, [Node(id: "n", address: node.address.description, metadata: DataPathWorld.micro)])
    #expect(try rig.ask(call).status == 200)
    #expect(rig.control.asked == [greeter] && rig.worker.unknownServices == 0)
    try rig.finish()
  }

  @Test func whatIsNotFoundIsRememberedForASecond() throws {
    let rig = try DataPathWorld()
    for _ in 0..<3 { #expect(try rig.ask(call).status == 404) }
    #expect(rig.control.asked == [greeter] && rig.worker.unknownServices == 1)
    rig.run(.seconds(3))
    #expect(rig.worker.unknownServices == 0, "and then forgotten")
    #expect(try rig.ask(call).status == 404)
    #expect(rig.control.asked == [greeter, greeter])
    try rig.finish()
  }

  @Test func aDeltaThatComesBeforeTheAnswerWakesTheWaitingCalls() throws {
    let rig = try DataPathWorld()
    rig.control.answersAtOnce = false
    let node = try rig.node { _ in .reply("{}\n") }
    let clients = (0..<3).map { _ in rig.client(call) }
    rig.run(.milliseconds(100))
    #expect(rig.control.asked == [greeter], "asked once for all")
    rig.register(greeter, at: [node.address])
    rig.run(.milliseconds(100))
    #expect(clients.allSatisfy { Reply.parse($0.text).first?.status == 200 })
    // The answer that comes too late changes nothing.
    rig.worker.resolved(greeter, nil)
    #expect(try rig.ask(call).status == 200)
    #expect(rig.worker.unknownServices == 0)
    try rig.finish()
  }

  @Test func aRemovalWhileTheServiceIsLookedUpLosesNoCall() throws {
    let rig = try DataPathWorld()
    rig.control.answersAtOnce = false
    let client = rig.client(call)
    rig.run(.milliseconds(100))
    rig.deregister(greeter)
    rig.worker.resolved(greeter, nil)
    rig.run(.milliseconds(100))
    #expect(Reply.parse(client.text).first?.status == 404)
    rig.run(.seconds(3))
    #expect(rig.worker.unknownServices == 0)
    try rig.finish()
  }

  @Test func aCallWhoseCallerLeavesWhileItWaitsIsForgotten() throws {
    let rig = try DataPathWorld()
    rig.control.answersAtOnce = false
    let client = ScriptedClient(on: rig.app, to: rig.api).send(call).pause(.milliseconds(50)).reset().start()
    rig.run(.milliseconds(200))
    #expect(client.end != nil && rig.worker.callsInFlight == 0)
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    rig.run(.milliseconds(100))
    #expect(node.requests.isEmpty)
    try rig.finish()
  }

  @Test func aServiceThatIsRemovedIsLookedUpAgain() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    #expect(try rig.ask(call).status == 200)
    rig.deregister(greeter)
    rig.run(.milliseconds(50))
    #expect(rig.worker.openUpstreams == 0, "its idle connections are closed")
    #expect(try rig.ask(call).status == 404)
    #expect(rig.control.asked == [greeter])
    try rig.finish()
  }

  @Test func aNodeThatLeavesFinishesItsCallAndKeepsNoConnection() throws {
    let rig = try DataPathWorld()
    let old = try rig.node("old") { _ in .reply("{\"old\":1}\n").after(.milliseconds(200)) }
    let new = try rig.node("new") { _ in .reply("{\"new\":1}\n") }
    rig.register(greeter, nodes: [Node(id: "o", address: old.address.description, metadata: DataPathWorld.micro)])
    let client = rig.client(call)
    rig.run(.milliseconds(50))
    rig.register(greeter, nodes: [Node(id: "n", address: new.address.description, metadata: DataPathWorld.micro)])
    rig.run(.milliseconds(300))
    #expect(Reply.parse(client.text).first?.body == "{\"old\":1}")
    #expect(old.openCount == 0)
    #expect(try rig.ask(call).body == "{\"new\":1}")
    try rig.finish()
  }

  @Test func tooManyUnknownNamesAreRefusedAndFreeAgain() throws {
    let rig = try DataPathWorld()
    rig.control.answersAtOnce = false
    for index in 0..<Worker.unknownServicesMax { #expect(rig.worker.service("s\(index)") != nil) }
    #expect(try rig.ask(call).status == 503)
    for index in 0..<Worker.unknownServicesMax { rig.worker.resolved("s\(index)", nil) }
    rig.control.answersAtOnce = true
    #expect(try rig.ask(call).status == 404, "what is only remembered makes room")
    try rig.finish()
  }
}
