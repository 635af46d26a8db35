// The local API as a connection: order, limits, endings, and what does not concern a node.

@testable import SidecarCore
import SidecarSim
import Testing

private let greeter = "go.micro.srv.greeter"
private let call = Ask.post("/greeter/say/hello")

@Suite struct IngressTests {
  /// A node that answers with the number in the request, the first ones later than those after them.
  private func countingNode(_ rig: DataPathWorld) throws -> HTTPUpstream {
    let node = try rig.node { request in
      .reply("{\"n\":\(request.index)}\n").after(.milliseconds(50 - 10 * min(request.index, 5)))
    }
    rig.register(greeter, at: [node.address])
    return node
  }

  @Test(arguments: [false, true])
  func pipelinedRequestsAreAnsweredInOrder(_ splits: Bool) throws {
    let rig = try DataPathWorld(plan: splits ? FaultPlan().with(.splitRead, 1).with(.laterNextTurn, 1) : .none)
    _ = try countingNode(rig)
    // Calls, and between them what is answered at once.
    let replies = try rig.exchange(
      call + Ask.get("/nothing") + Ask.get("/health") + call + "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" + call, count: 6)
    #expect(replies.map(\.status) == [200, 404, 200, 200, 200, 200])
    #expect(replies.map(\.body).filter { $0.hasPrefix("{\"n\"") } == ["{\"n\":0}", "{\"n\":1}", "{\"n\":2}"])
    try rig.finish()
  }

  @Test(arguments: 1...40)
  func aCallerThatEndsItsHalfGetsAllItsReplies(_ seed: UInt64) throws {
    let rig = try DataPathWorld(
      seed: seed, plan: seed % 2 == 0 ? .none : FaultPlan().with(.splitRead, 0.5).with(.laterNextTurn, 0.5))
    _ = try countingNode(rig)
    // The end comes before, between and after the replies.
    let client = ScriptedClient(on: rig.app, to: rig.api)
      .send(call + Ask.get("/nothing") + Ask.get("/nothing") + call + Ask.get("/nothing"))
      .pause(.milliseconds(Int64(seed) * 3)).shutdown().start()
    rig.run(.seconds(2))
    #expect(Reply.parseFinal(client.text).map(\.status) == [200, 404, 404, 200, 404], "seed \(seed)")
    #expect(client.peerEnded, "and then the connection ends")
    try rig.finish()
  }

  @Test func aFrameworkCallerThatClosesCancelsItsCall() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .stall }
    rig.register(greeter, at: [node.address])
    _ = ScriptedClient(on: rig.app, to: rig.api).send(Ask.frame(greeter)).pause(.milliseconds(50)).close().start()
    rig.run(.milliseconds(200))
    #expect(node.requests.count == 1 && node.openCount == 0 && rig.worker.callsInFlight == 0)
    try rig.finish()
  }

  @Test func aCallerThatLeavesCancelsItsCall() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .stall }
    rig.register(greeter, at: [node.address])
    _ = ScriptedClient(on: rig.app, to: rig.api).send(call + call).pause(.milliseconds(50)).reset().start()
    rig.run(.milliseconds(200))
    #expect(node.requests.count == 1 && node.openCount == 0 && rig.worker.callsInFlight == 0)
    try rig.finish()
  }

  @Test func requestsCutAtEveryByteAreTheSame() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { request in .reply(request.text) }
    rig.register(greeter, at: [node.address])
    let request = Ask.post("/greeter/say/hello", "{\"a\":[1,2]}")
    for size in [1, 7, 60] {
      let client = ScriptedClient(on: rig.app, to: rig.api)
        .send(request, inPiecesOf: size, every: .milliseconds(1)).start()
      rig.run(.seconds(1))
      #expect(Reply.parse(client.text).first?.body == "{\"a\":[1,2]}", "pieces of \(size)")
    }
    try rig.finish()
  }

  @Test func whatIsSentAheadIsLimited() throws {
    let rig = try DataPathWorld { $0.pipelineMax = 10_000 }
    rig.world.network.window = 4_000
    let node = try rig.node { request in .reply("{}\n").after(.milliseconds(request.index == 0 ? 500 : 0)) }
    rig.register(greeter, at: [node.address])
    let body = "{\"x\":\"\(String(repeating: "y", count: 1000))\"}"
    let client = rig.client(String(repeating: Ask.post("/greeter/say/hello", body), count: 200))
    rig.run(.milliseconds(400))
    let read = rig.worker.metrics.snapshot()[.bytesFromCallers]
    #expect((10_000...20_000).contains(read), "reading pauses: \(read)")
    rig.run(.seconds(10))
    #expect(Reply.parse(client.text).count == 200)
    try rig.finish()
  }

  @Test func aCallerThatDoesNotReadIsHeldBack() throws {
    let rig = try DataPathWorld()
    rig.world.network.window = 16 * 1024
    rig.world.queuedBytesMax = 1_000_000
    let large = "\"\(String(repeating: "z", count: 100_000))\""
    let node = try rig.node { _ in .reply(large) }
    rig.register(greeter, at: [node.address])
    let client = ScriptedClient(on: rig.app, to: rig.api).stopReading()
      .send(String(repeating: call, count: 40)).pause(.seconds(10)).goOnReading().start()
    rig.run(.seconds(9))
    #expect(node.requests.count < 10, "\(node.requests.count) calls for replies nobody takes")
    rig.run(.seconds(30))
    #expect(Reply.parse(client.text).filter { $0.body == large }.count == 40)
    try rig.finish()
  }

  @Test func aCallerThatNeverReadsIsCutOff() throws {
    let rig = try DataPathWorld()
    rig.world.network.window = 16 * 1024
    let node = try rig.node { _ in .reply("\"\(String(repeating: "z", count: 100_000))\"") }
    rig.register(greeter, at: [node.address])
    _ = ScriptedClient(on: rig.app, to: rig.api).stopReading().send(String(repeating: call, count: 40)).start()
    rig.run(.seconds(80))
    #expect(rig.worker.ingress.count == 0)
    try rig.finish()
  }

  @Test func aBodyOverTheLimitIsAnsweredAlthoughItIsStillBeingSent() throws {
    let rig = try DataPathWorld { $0.bodyMax = 10_000 }
    rig.world.network.window = 4_000
    for head in ["Content-Length: 400000\r\n", "Transfer-Encoding: chunked\r\n"] {
      let body =
        head.hasPrefix("C")
        ? String(repeating: "x", count: 400_000)
        : String(repeating: "100\r\n" + String(repeating: "x", count: 256) + "\r\n", count: 1000)
      let client = rig.client("POST /greeter/say/hello HTTP/1.1\r\nHost: a\r\n\(head)\r\n" + body)
      rig.run(.seconds(10))
      let reply = Reply.parse(client.text).first
      #expect(reply?.status == 413 && reply?.header("Connection") == "close", "\(client.text)")
      #expect(rig.worker.ingress.count == 0)
    }
    try rig.finish()
  }

  @Test func thePeerIsToldToContinue() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { request in .reply(request.text) }
    rig.register(greeter, at: [node.address])
    let client = ScriptedClient(on: rig.app, to: rig.api)
      .send("POST /greeter/say/hello HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
      .expect("HTTP/1.1 100 Continue\r\n\r\n").send("{ } ").start()
    rig.run(.seconds(1))
    #expect(Reply.parse(client.text).map(\.status) == [100, 200])
    try rig.finish()
  }

  @Test func silenceEndsAConnection() throws {
    let rig = try DataPathWorld()
    let idle = rig.client()
    let half = rig.client("POST /greeter/say/hello HTTP/1.1\r\nHost: a\r\nContent-")
    rig.run(.seconds(13))
    #expect(Reply.parse(half.text).first?.status == 408 && half.peerEnded)
    #expect(!idle.peerEnded)
    rig.run(.seconds(65))
    #expect(idle.peerEnded && rig.worker.ingress.count == 0)
    try rig.finish()
  }

  @Test func persistenceIsAsTheCallersVersionHasIt() throws {
    let rig = try DataPathWorld()
    _ = try countingNode(rig)
    func ask(_ version: String, _ header: String) throws -> (Reply, ended: Bool) {
      let client = rig.client("GET /greeter/say/hello HTTP/\(version)\r\nHost: a\r\n\(header)\r\n")
      rig.run(.seconds(1))
      return (try #require(Reply.parse(client.text).first), client.peerEnded)
    }
    let plain10 = try ask("1.0", "")
    #expect(plain10.ended && plain10.0.header("Connection") == "close")
    let kept10 = try ask("1.0", "Connection: keep-alive\r\n")
    #expect(!kept10.ended && kept10.0.header("Connection") == "keep-alive")
    let plain11 = try ask("1.1", "")
    #expect(!plain11.ended && plain11.0.header("Connection") == nil)
    let closed11 = try ask("1.1", "Connection: close\r\n")
    #expect(closed11.ended && closed11.0.header("Connection") == "close")
    try rig.finish()
  }

  @Test func aHEADRequestGetsTheHeadOnly() throws {
    let rig = try DataPathWorld()
    _ = try countingNode(rig)
    let client = rig.client(
      "HEAD /greeter/say/hello HTTP/1.1\r\nHost: a\r\n\r\nHEAD /nothing HTTP/1.1\r\nHost: a\r\n\r\nHEAD /health HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    rig.run(.seconds(1))
    let replies = Reply.parse(client.text, toHEAD: true)
    #expect(replies.map(\.status) == [200, 404, 200])
    #expect(replies.allSatisfy { $0.header("Content-Length") != "0" })
    // What follows is no HEAD any more.
    let broken = rig.client("HEAD /nothing HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n\r\n")
    rig.run(.seconds(1))
    #expect(broken.text.contains("400") && broken.text.hasSuffix("}"))
    try rig.finish()
  }

  @Test func browsersGetTheirHeaders() throws {
    let rig = try DataPathWorld()
    _ = try countingNode(rig)
    let preflight = try rig.ask("OPTIONS /greeter/say/hello HTTP/1.1\r\nHost: localhost\r\nOrigin: http://x\r\n\r\n")
    #expect(preflight.status == 200 && preflight.header("Access-Control-Allow-Origin") == "http://x")
    #expect(try rig.ask(Ask.get("/nothing", headers: ["Origin: http://x"])).header("Vary") == "Origin")
    #expect(try rig.ask(Ask.get("/nothing")).header("Access-Control-Allow-Origin") == nil)
    let strict = try DataPathWorld { $0.corsOrigins = ["http://mine"] }
    let other = try strict.ask(Ask.get("/nothing", headers: ["Origin: http://x"]))
    #expect(other.header("Access-Control-Allow-Origin") == nil)
    try rig.finish()
  }

  @Test(arguments: [
    (Ask.get("/registry"), "listServices"), (Ask.get("/registry?service=a.b"), "getService(\"a.b\")"),
    (Ask.post("/registry?ttl=10s", #"{"name":"a","nodes":[]}"#), "ttl: Optional(10.0 seconds)"),
    (Ask.post("/registry", #"{"Name":"a"}"#), "ttl: nil"), (Ask.get("/health"), "appHealth"),
    ("DELETE /registry HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n{\"name\":\"a\"}", "deregister"),
  ])
  func theControlLoopIsAsked(_ request: String, _ asked: String) throws {
    let rig = try DataPathWorld()
    rig.control.reply = .text(201, "done")
    let reply = try rig.ask(request)
    #expect(reply.status == 201 && reply.body == "done\n")
    #expect(rig.control.requests.count == 1 && "\(rig.control.requests[0])".contains(asked), "\(rig.control.requests)")
    #expect(rig.worker.metrics.snapshot().requests == 1)
    try rig.finish()
  }

  @Test(arguments: [
    Ask.post("/registry", "{"), Ask.post("/registry", "[]"), Ask.post("/registry?ttl=soon", #"{"name":"a"}"#),
    Ask.post("/registry?ttl=-1s", #"{"name":"a"}"#), Ask.get("/registry?service=%ff"),
  ])
  func aBrokenRegistryRequestIsRefusedHere(_ request: String) throws {
    let rig = try DataPathWorld()
    #expect(try rig.ask(request).status == 400)
    #expect(rig.control.requests.isEmpty)
    try rig.finish()
  }

  // MARK: Limits and the end

  @Test func connectionsAreLimited() throws {
    let rig = try DataPathWorld { $0.connectionsMax = 2 }
    let clients = (0..<3).map { _ in rig.client() }
    rig.run(.milliseconds(100))
    #expect(clients.map { $0.end != nil }.filter { $0 }.count == 1 && rig.worker.ingress.count == 2)
    #expect(rig.worker.metrics.snapshot()[.refusedFromApp] == 1)
    try rig.finish()
  }

  @Test func callsUnderWayAreLimited() throws {
    let rig = try DataPathWorld { $0.callsMax = 2 }
    let node = try rig.node { _ in .stall }
    rig.register(greeter, at: [node.address])
    for _ in 0..<2 { _ = rig.client(call) }
    rig.run(.milliseconds(50))
    let reply = try rig.ask(call)
    #expect(reply.status == 503 && reply.header("Retry-After") == "1")
    let framework = try rig.ask(Ask.frame(), to: rig.framework)
    #expect(framework.header("Micro-Error")?.contains("calls are under way") == true)
    #expect(rig.worker.callsInFlight == 2)
    try rig.finish()
  }

  @Test func drainingLetsCallsEndAndClosesWhatIsIdle() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .reply("{}\n").after(.milliseconds(300)) }
    rig.register(greeter, at: [node.address])
    let idle = rig.client()
    let busy = rig.client(call)
    let half = rig.client("POST /greeter/say/hello HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Type: ")
    rig.run(.milliseconds(50))
    var isDrained = false
    rig.worker.drain { isDrained = true }
    rig.run(.milliseconds(100))
    #expect(idle.peerEnded && !busy.peerEnded && !isDrained)
    _ = half.send("application/json\r\n\r\n{}")
    half.resume()
    rig.run(.seconds(1))
    for client in [busy, half] {
      #expect(Reply.parse(client.text).first?.status == 200 && client.peerEnded)
      #expect(Reply.parse(client.text).first?.header("Connection") == "close")
    }
    #expect(isDrained && rig.worker.openUpstreams == 0)
    let late = rig.client(call)
    rig.run(.milliseconds(100))
    #expect(late.end == .refused)
    #expect(rig.sidecar.host.leaks().isEmpty, "\(rig.sidecar.host.leaks())")
    try rig.world.verify()
  }

  @Test func closingAllEndsCallsUnderWay() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .stall }
    rig.register(greeter, at: [node.address])
    let client = rig.client(call)
    rig.run(.milliseconds(50))
    rig.worker.closeAll()
    rig.run(.milliseconds(50))
    #expect(client.end != nil && rig.worker.callsInFlight == 0 && node.openCount == 0)
    try rig.finish()
  }
}
