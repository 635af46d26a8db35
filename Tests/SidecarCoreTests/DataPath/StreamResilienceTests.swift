// Streams between nodes that are full, slow or limited: when they are begun elsewhere, what they wait for, what they tell.

import SidecarSim
import Testing

@testable import SidecarCore

private let greeter = "go.micro.srv.greeter"

@Suite struct StreamResilienceTests {
  /// Begins a stream of lines; the body goes on with `line`.
  private static func open(_ headers: [String] = []) -> String {
    "POST /greeter/say/hello HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\n"
      + headers.map { $0 + "\r\n" }.joined() + "Transfer-Encoding: chunked\r\n\r\n"
  }
  private static func line(_ text: String) -> String { "\(String(text.utf8.count + 1, radix: 16))\r\n\(text)\n\r\n" }

  private static func full(_ code: Int = 503, isUnbegun: Bool = true) -> HTTPUpstream.Answer {
    .reply(
      "",
      headers: [("Micro-Error", #"{"id":"x","code":\#(code),"detail":"full","status":"s"}"#)]
        + (isUnbegun ? [("X-Micro-Unbegun", "1")] : []))
  }

  /// Answers each message with its place among those of its connection.
  private static func counting(_ request: HTTPUpstream.Request) -> HTTPUpstream.Answer {
    .reply("{\"n\":\(request.indexOnConnection)}\n")
  }

  @Test(arguments: [503, 429])
  func aStreamThatANodesSidecarDidNotLetThroughIsBegunElsewhereWithAllThatWasSent(_ code: Int) throws {
    let rig = try DataPathWorld()
    let full = try rig.node("full") { _ in Self.full(code).after(.milliseconds(50)) }
    let free = try rig.node("free", answering: Self.counting)
    rig.register(greeter, at: [full.address, free.address])
    let client = rig.client(Self.open() + Self.line("{\"a\":1}") + Self.line("{\"a\":2}"))
    let isDone = rig.world.runUntil({ client.text.contains("\"n\":1") }, within: .seconds(3))
    #expect(isDone, "\(client.text)")
    #expect(!full.requests.isEmpty)
    let messages = free.requests.map(\.text).filter { $0.contains("\"a\"") }
    #expect(messages.count == 2 && messages[0].contains("1") && messages[1].contains("2"), "\(messages)")
    #expect(rig.worker.measured().counters[MetricCounter.retries.rawValue] == 1)
    client.reset().resume()
    try rig.finish()
  }

  @Test func whatMayHaveBegunIsNeverBegunTwice() throws {
    let rig = try DataPathWorld()
    let failing = try rig.node("failing") { _ in Self.full(isUnbegun: false) }
    let free = try rig.node("free", answering: Self.counting)
    rig.register(greeter, at: [failing.address, free.address])
    let client = rig.client(Self.open() + Self.line("{}"))
    rig.run(.seconds(1))
    #expect(client.text.contains("\"code\":503") && free.requests.isEmpty, "\(client.text)")
    try rig.finish()
  }

  @Test func afterAReplyAStreamIsNotBegunAgainWhateverTheNodeSays() throws {
    let rig = try DataPathWorld()
    let node = try rig.node("odd") { $0.indexOnConnection == 0 ? Self.counting($0) : Self.full() }
    let other = try rig.node("other", answering: Self.counting)
    rig.register(greeter, at: [node.address, other.address])
    let client = rig.client(Self.open() + Self.line("{}"))
    _ = rig.world.runUntil({ client.text.contains("\"n\":0") }, within: .seconds(3))
    client.send(Self.line("{}")).resume()
    rig.run(.seconds(1))
    #expect(client.text.contains("\"code\":503") && other.requests.isEmpty, "\(client.text)")
    try rig.finish()
  }

  @Test func theBudgetPaysForStreamsToo() throws {
    let rig = try DataPathWorld.governed(service: {
      $0.budget.ratio = 0
      $0.budget.floorPerSecond = 0
    })
    let full = try rig.node("full") { _ in Self.full() }
    let free = try rig.node("free", answering: Self.counting)
    rig.register(greeter, at: [full.address, free.address])
    let client = rig.client(Self.open() + Self.line("{}"))
    rig.run(.seconds(1))
    #expect(client.text.contains("full") && free.requests.isEmpty, "\(client.text)")
    #expect(rig.worker.measured().counters[MetricCounter.retriesUnpaid.rawValue] == 1)
    try rig.finish()
  }

  @Test func moreThanIsKeptIsNotSentTwice() throws {
    let rig = try DataPathWorld()
    let full = try rig.node("full") { _ in Self.full() }
    let free = try rig.node("free", answering: Self.counting)
    rig.register(greeter, at: [full.address, free.address])
    let large = "{\"a\":\"\(String(repeating: "x", count: 70_000))\"}"
    let client = rig.client(Self.open() + Self.line(large))
    rig.run(.seconds(1))
    #expect(client.text.contains("full") && free.requests.isEmpty)
    try rig.finish()
  }

  @Test func theTimeToTheFirstReplyIsKnownOfTheNode() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { Self.counting($0).after(.milliseconds(300)) }
    rig.register(greeter, at: [node.address])
    let client = rig.client(Self.open() + Self.line("{}"))
    _ = rig.world.runUntil({ client.text.contains("\"n\":0") }, within: .seconds(3))
    let latency = try #require(rig.worker.knownService(greeter)).set.loadOf(0).latency
    #expect((300_000_000...330_000_000).contains(latency), "\(latency)")
    client.reset().resume()
    try rig.finish()
  }

  @Test func aStreamDelayedOnPurposeUntilItsTimeIsUpIsToldSo() throws {
    let rig = try DataPathWorld.governed(endpoint: { $0.fault = .delay(10_000_000_000) })
    let node = try rig.node(answering: Self.counting)
    rig.register(greeter, at: [node.address])
    let reply = try rig.ask(
      Ask.post("/greeter/say/hello", headers: ["Accept: application/x-ndjson", "Timeout: 1"]))
    #expect(reply.status == 504 && reply.header("X-Micro-Reason") == "deadline_exceeded", "\(reply)")
    #expect(reply.detail.contains("delayed on purpose"), "\(reply)")
    #expect(node.requests.isEmpty)
    try rig.finish()
  }

  @Test func aStreamHasAPlaceAtItsServiceAndTheNextWaitsForIt() throws {
    let rig = try DataPathWorld.governed(service: {
      $0.limits.inFlight = 1
      $0.limits.pendingTime = 500_000_000
    })
    let node = try rig.node(answering: Self.counting)
    rig.register(greeter, at: [node.address])
    let first = rig.client(Self.open() + Self.line("{}"))
    _ = rig.world.runUntil({ first.text.contains("\"n\":0") }, within: .seconds(3))
    let impatient = try rig.ask(Ask.post("/greeter/say/hello", headers: ["Accept: application/x-ndjson"]))
    #expect(impatient.status == 503 && impatient.detail.contains("for one of 1 places"), "\(impatient)")
    #expect(try rig.ask(Ask.post("/greeter/say/hello")).status == 503, "nor is there one for a call")
    first.reset().resume()
    rig.run(.milliseconds(50))
    let second = rig.client(Self.open() + Self.line("{}"))
    _ = rig.world.runUntil({ second.text.contains("\"n\":0") }, within: .seconds(3))
    let third = rig.client(Self.open() + Self.line("{}"))
    rig.run(.milliseconds(100))
    #expect(third.text.isEmpty)
    second.reset().resume()
    #expect(rig.world.runUntil({ third.text.contains("\"n\":0") }, within: .seconds(1)), "\(third.text)")
    third.reset().resume()
    rig.run(.milliseconds(50))
    #expect(rig.worker.knownService(greeter)?.gate.inside == 0)
    try rig.finish()
  }

  @Test func aStreamLivesOnWhenTheConfigurationChanges() throws {
    let rig = try DataPathWorld()
    let node = try rig.node(answering: Self.counting)
    rig.register(greeter, at: [node.address])
    let client = rig.client(Self.open() + Self.line("{}"))
    _ = rig.world.runUntil({ client.text.contains("\"n\":0") }, within: .seconds(3))
    let result = PolicyParser.parse(
      try JSONValue(
        parsing: """
          [{"service": "*", "timeout": "10ms", "selector": "random", "limits": {"in_flight": 1, "in_flight_per_node": 1},
            "fault": {"abort": 503}}]
          """))
    rig.worker.policies = PolicyTable(rules: result.rules)
    rig.run(.seconds(20))
    client.send(Self.line("{}")).resume()
    #expect(rig.world.runUntil({ client.text.contains("\"n\":1") }, within: .seconds(3)), "\(client.text)")
    #expect(node.acceptedCount == 1)
    #expect(try rig.ask(Ask.post("/greeter/say/hello")).status == 503, "the next call goes by the new rules")
    client.reset().resume()
    rig.run(.milliseconds(50))
    let table = try #require(rig.worker.knownService(greeter))
    #expect(table.gate.inside == 0 && table.set.loadOf(0).inFlight == 0 && table.set.fullCount == 0)
    try rig.finish()
  }

  // MARK: The app's gate

  @Test func aStreamKeepsItsPlaceAtTheAppForItsLife() throws {
    let rig = try DataPathWorld {
      $0.appConcurrency = .fixed(1)
      $0.appStreams = ["A.B": AppStream("A.B=ndjson")!]
    }
    _ = try rig.startApp { request in
      request.target == "/A/B"
        ? .bytes(
          "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
            + Self.line("{\"n\":1}")
        ).thenStall()
        : .reply("{}")
    }
    let stream = rig.client(
      Ask.frame("s", "A.B", "{}\n", headers: ["Micro-Stream: 7"])
        + Ask.frame("s", "A.B", "", headers: ["Micro-Stream: 7", "Micro-Error: EOS"]), to: rig.framework)
    #expect(rig.world.runUntil({ stream.text.contains("\"n\":1") }, within: .seconds(3)), "\(stream.text)")
    #expect(rig.worker.appGate.inside == 1)
    let refused = try rig.ask(Ask.frame(headers: ["Micro-Priority: low"]), to: rig.framework)
    #expect(refused.header("X-Micro-Unbegun") == "1", "\(refused)")
    let late = try rig.ask(
      Ask.frame("s", "A.B", "{}\n", headers: ["Micro-Stream: 8", "Timeout: 200000000"]), to: rig.framework)
    #expect(late.header("Micro-Error")?.contains("the app had no place for the stream") == true, "\(late)")
    stream.reset().resume()
    rig.run(.milliseconds(100))
    #expect(rig.worker.appGate.inside == 0 && rig.worker.appGate.waitingCount == 0)
    #expect(try rig.ask(Ask.frame(), to: rig.framework).header("Micro-Error") == nil)
    try rig.finish()
  }

  @Test func anAppThatSpeaksGRPCHasItsLimit() throws {
    let rig = try DataPathWorld {
      $0.appConcurrency = .fixed(2)
      $0.appProtocol = .grpc
    }
    let app = try GRPCPeer(on: rig.app, at: rig.app.host.address(port: DataPathWorld.appPort)) { _ in
      .later(.milliseconds(100), "{}")
    }
    let clients = (0..<6).map { _ in rig.client(Ask.frame(), to: rig.framework) }
    rig.run(.milliseconds(50))
    #expect(app.openStreams == 2 && rig.worker.appGate.waitingCount == 4)
    rig.run(.seconds(1))
    #expect(clients.allSatisfy { Reply.parse($0.text).first.map { $0.header("Micro-Error") == nil } ?? false })
    #expect(app.openStreamsMost == 2 && app.requests.count == 6 && rig.worker.appGate.inside == 0)
    try rig.finish()
  }

  @Test func anAppThatSpeaksFramesHasItsLimit() throws {
    let rig = try DataPathWorld {
      $0.appConcurrency = .fixed(2)
      $0.appProtocol = .mucp
    }
    let app = try rig.startApp { _ in
      HTTPUpstream.Answer.reply(#"{"id":1,"result":{"a":1},"error":null}"#).after(.milliseconds(100))
    }
    let clients = (0..<6).map { _ in rig.client(Ask.frame(), to: rig.framework) }
    rig.run(.milliseconds(50))
    #expect(app.requests.count == 2 && rig.worker.appGate.waitingCount == 4)
    rig.run(.seconds(1))
    #expect(clients.allSatisfy { Reply.parse($0.text).first.map { $0.header("Micro-Error") == nil } ?? false })
    #expect(app.requests.count == 6 && rig.worker.appGate.inside == 0)
    try rig.finish()
  }
}
