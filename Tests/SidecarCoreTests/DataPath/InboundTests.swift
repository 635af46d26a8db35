// Calls of the framework in to the app: every dialect, every way the app can answer or fail.

@testable import SidecarCore
import SidecarSim
import Testing

@Suite struct InboundTests {
  private func rig(
    _ configure: (inout DataPathSettings) -> Void = { _ in },
    app answer: @escaping (HTTPUpstream.Request) -> HTTPUpstream.Answer
  ) throws -> (DataPathWorld, HTTPUpstream) {
    let rig = try DataPathWorld(configure)
    return (rig, try rig.startApp(answering: answer))
  }

  @Test(arguments: [
    (Ask.frame(), "application/json", "{}\n", "{\"msg\":\"hi\"}\n"),
    (Ask.frame("s", "Say.Hello", "", type: "application/json"), "application/json", "{}", "{\"msg\":\"hi\"}\n"),
    (Ask.frame("s", "Say.Hello", "pb", type: "application/protobuf"), "application/protobuf", "pb", "PB"),
    (
      Ask.frame("s", "Say.Hello", protoRPC(method: "Say.Hello", payload: "pb", seq: 3), type: "application/proto-rpc"),
      "application/protobuf", "pb", protoRPC(method: "Say.Hello", payload: "PB", seq: 3)
    ),
    (
      Ask.post("/", protoRPC(method: "Say.Hello", payload: "pb", seq: 3), type: "application/octet-stream"),
      "application/protobuf", "pb", protoRPC(method: "Say.Hello", payload: "PB", seq: 3)
    ),
    (
      Ask.post("/", #"{"method":"Say.Hello","params":[{"a":1}],"id":4}"#), "application/json", "{\"a\":1}",
      "{\"id\":4,\"result\":{\"msg\":\"hi\"},\"error\":null}\n"
    ),
    (
      Ask.post("/", "{}", headers: ["X-Micro-Service: s", "X-Micro-Method: Say.Hello"]), "application/json", "{}",
      "{\"msg\":\"hi\"}\n"
    ),
  ])
  func everyDialectBecomesAPOSTAndItsReplyComesBackInKind(
    _ request: String, _ type: String, _ sent: String, _ answer: String
  ) throws {
    let (rig, app) = try rig { request in
      request.header("Content-Type") == "application/json"
        ? .reply("{\"msg\":\"hi\"}", headers: [("Content-Type", "application/json")]) : .reply("PB")
    }
    let reply = try rig.ask(request, to: rig.framework)
    #expect(reply.status == 200 && reply.body == answer, "\(reply)")
    #expect(reply.header("Micro-Error") == nil)
    let delivered = try #require(app.requests.first)
    #expect(delivered.method == "POST" && delivered.target == "/Say/Hello")
    #expect(delivered.header("Content-Type") == type && delivered.text == sent)
    #expect(delivered.header("Host") == "app:9090")
    try rig.finish()
  }

  @Test func metadataArrivesAsHeadersAndWhatIsNoMetadataDoesNot() throws {
    let (rig, app) = try rig { _ in .reply("{}") }
    let reply = try rig.ask(
      Ask.frame(
        headers: [
          "Timeout: 1500000000", "Foo: one", "Authorization: Bearer t", "Micro-From-Service: caller", "Local: x",
          "Connection: X-Hop", "X-Hop: 1", "Micro-Topic: t",
        ]), to: rig.framework)
    #expect(reply.header("Micro-Id") == "7" && reply.header("Foo") == nil)
    let request = try #require(app.requests.first)
    #expect(request.header("Foo") == "one" && request.header("Authorization") == "Bearer t")
    #expect(request.header("Micro-From-Service") == "caller")
    #expect(request.header("Timeout") == "1.500", "seconds")
    for name in ["Local", "X-Hop", "Micro-Topic", "Micro-Id", "Micro-Endpoint", "Connection"] {
      #expect(request.header(name) == nil, "\(name)")
    }
    try rig.finish()
  }

  /// What the app may do, and the code and words the caller gets.
  @Test(arguments: [
    (HTTPUpstream.Answer.reply("not today\n", status: 403), 403, "not today"),
    (.reply("", status: 404), 404, "404"), (.reply("moved", status: 302), 502, "moved"),
    (.reply(#"{"id":"x","code":418,"detail":"tea","status":"Teapot"}"#, status: 500), 418, "tea"),
    (.reply("<html>"), 502, "not JSON"), (.close, 502, "closed the connection"), (.reset, 502, "closed the connection"),
    (.bytes("nonsense\r\n\r\n"), 502, "cannot be read"), (.stall, 408, "did not answer within 200"),
    (.reply("{}").cut(after: 25).thenClose(), 502, "inside the reply"),
    (.reply(String(repeating: "x", count: 20_000)), 502, "larger than"),
    (.reply("{}").cut(after: 25).thenStall(), 408, "did not answer"),
  ])
  func anAppsFailureIsTheFrameworksError(_ answer: HTTPUpstream.Answer, _ code: Int, _ words: String) throws {
    for request in [
      Ask.frame(headers: ["Timeout: 2000000000"]),
      Ask.post(
        "/", #"{"method":"Say.Hello","params":[{}],"id":4}"#, headers: ["Timeout: 2000000000"]),
    ] {
      let (rig, _) = try rig({ $0.bodyMax = 10_000 }) { _ in answer }
      let reply = try rig.ask(request, to: rig.framework)
      let text = try #require(reply.header("Micro-Error"))
      let error = MicroError(parsing: text)
      #expect(reply.status == 200 && error.code == code && error.detail.contains(words), "\(reply)")
      #expect(reply.header("X-Micro-Error") == text)
      #expect(reply.body.isEmpty || reply.body.contains("\"error\":\""), "\(reply)")
      rig.run(.milliseconds(50))
      try rig.checkIdle()
      try rig.finish()
    }
  }

  @Test func anAppThatIsNotThereIsSaidSo() throws {
    let rig = try DataPathWorld()
    let reply = try rig.ask(Ask.frame(), to: rig.framework)
    #expect(reply.header("Micro-Error")?.contains("cannot be reached: connection refused") == true)
    #expect(rig.control.appFailures == 1)
    let none = try DataPathWorld { $0.appTarget = nil }
    #expect(try none.ask(Ask.frame(), to: none.framework).header("Micro-Error")?.contains("MICRO_APP_ADDRESS") == true)
    try rig.finish()
  }

  @Test func JSONToAProtobufCallerIsRefused() throws {
    let (rig, _) = try rig { _ in .reply("{}", headers: [("Content-Type", "application/json")]) }
    let reply = try rig.ask(Ask.frame("s", "A.B", "pb", type: "application/protobuf"), to: rig.framework)
    #expect(reply.header("Micro-Error")?.contains("answered with JSON to a protobuf call") == true)
    try rig.finish()
  }

  @Test func theAppsConnectionIsKeptAndReplacedWhenItDies() throws {
    let (rig, app) = try rig { request in request.indexOnConnection == 2 ? .close : .reply("{}") }
    for _ in 0..<4 { #expect(try rig.ask(Ask.frame(), to: rig.framework).header("Micro-Error") == nil) }
    #expect(app.acceptedCount == 2 && app.requests.count == 5)
    try rig.finish()
  }

  @Test(arguments: [
    HTTPUpstream.Answer.bytes("HTTP/1.0 200 OK\r\n\r\n{\"a\":1}").thenClose(),
    .bytes("HTTP/1.1 100 Continue\r\n\r\n").then(.reply("{\"a\":1}")), .chunks(["{\"a\"", ":1}"]),
    .reply("{\"a\":1}", status: 201).inPieces(of: 3, every: .milliseconds(1)),
  ])
  func anyCorrectHTTPReplyWillDo(_ answer: HTTPUpstream.Answer) throws {
    let (rig, _) = try rig { _ in answer }
    for _ in 0..<2 { #expect(try rig.ask(Ask.frame(), to: rig.framework).body == "{\"a\":1}\n") }
    try rig.finish()
  }

  @Test func theSidecarAnswersDebugForTheApp() throws {
    let (rig, app) = try rig { _ in .reply("{}") }
    #expect(try rig.ask(Ask.frame("s", "Debug.Health"), to: rig.framework).body == "{\"status\":\"ok\"}\n")
    let pb = try rig.ask(Ask.frame("s", "Debug.Health", "", type: "application/protobuf"), to: rig.framework)
    #expect(pb.body == "\n\u{2}ok")
    rig.run(.seconds(3))
    let stats = try rig.ask(Ask.frame("s", "Debug.Stats"), to: rig.framework).body
    #expect(stats.contains("\"uptime\":3,") && stats.contains("\"requests\":2,"), "\(stats)")
    rig.worker.isAppHealthy = false
    let sick = try rig.ask(Ask.frame("s", "Debug.Health"), to: rig.framework)
    #expect(sick.header("Micro-Error")?.contains("health check") == true)
    #expect(app.requests.isEmpty)
    try rig.finish()
  }

  @Test func aCallerThatLeavesCancelsTheAppsCall() throws {
    let (rig, app) = try rig { _ in .stall }
    _ = ScriptedClient(on: rig.app, to: rig.framework).send(Ask.frame()).pause(.milliseconds(50)).close().start()
    rig.run(.milliseconds(200))
    #expect(app.requests.count == 1 && app.openCount == 0 && rig.worker.callsInFlight == 0)
    try rig.finish()
  }

  @Test func theEndOfAStreamNobodyOpenedIsIgnored() throws {
    let (rig, app) = try rig { _ in .reply("{}") }
    let client = rig.client(
      Ask.frame("s", "A.B", "", headers: ["Micro-Stream: 7", "Micro-Error: EOS"]) + Ask.frame(), to: rig.framework)
    rig.run(.seconds(1))
    #expect(Reply.parse(client.text).count == 1 && app.requests.count == 1)
    try rig.finish()
  }

  @Test func callsThatComeTogetherAreAnsweredInOrder() throws {
    for seed: UInt64 in 1...30 {
      let rig = try DataPathWorld(
        seed: seed, plan: FaultPlan().with(.splitRead, 0.5).with(.laterNextTurn, 0.5).with(.lateSegment, 0.3))
      _ = try rig.startApp { request in .reply(request.text).after(.milliseconds(10)) }
      let client = ScriptedClient(on: rig.app, to: rig.framework)
      for index in 0..<8 {
        _ = client.send(Ask.frame("s", "A.B", "{\"n\":\(index)}", id: index)).pause(.milliseconds(Int64(seed % 20)))
      }
      client.start()
      rig.run(.seconds(3))
      let replies = Reply.parse(client.text)
      #expect(replies.map(\.body) == (0..<8).map { "{\"n\":\($0)}\n" }, "seed \(seed)")
      #expect(replies.map { $0.header("Micro-Id") } == (0..<8).map { "\($0)" }, "seed \(seed)")
      try rig.finish()
    }
  }

  @Test(arguments: [
    ("GET / HTTP/1.1\r\n\r\n", 400), ("nonsense\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 413),
    ("POST / HTTP/1.1\r\nHost: a\r\nConte", 408),
  ])
  func whatIsNoHTTPIsAnsweredAndTheConnectionEnds(_ bytes: String, _ status: Int) throws {
    let (rig, _) = try rig { _ in .reply("{}") }
    let client = rig.client(bytes + (status == 413 ? String(repeating: "x", count: 500_000) : ""), to: rig.framework)
    rig.run(.seconds(15))
    let reply = Reply.parse(client.text).first
    #expect(reply?.status == status && reply?.header("Connection") == "close" && client.peerEnded, "\(client.text)")
    try rig.finish()
  }

  @Test(arguments: [
    (Ask.post("/", "\0\0\0\u{7f}", type: "application/octet-stream"), "cannot decode", true),
    (Ask.frame("s", "A.B", "{", type: "application/json-rpc"), "cannot decode", false),
    (Ask.frame("s", "noDot"), "ill-formed: noDot", false), (Ask.frame("s", "A.B.C"), "ill-formed: A.B.C", false),
  ])
  func anUndecodableCallIsRefused(_ request: String, _ words: String, _ ends: Bool) throws {
    let (rig, app) = try rig { _ in .reply("{}") }
    let client = rig.client(request, to: rig.framework)
    rig.run(.seconds(1))
    #expect(client.text.contains(words) && client.peerEnded == ends, "\(client.text)")
    #expect(app.requests.isEmpty && rig.worker.inboundErrors == 1)
    try rig.finish()
  }

  @Test func anEventIsRefusedUntilThereIsABroker() throws {
    let (rig, _) = try rig { _ in .reply("{}") }
    let reply = try rig.ask(Ask.post("/", "{}", headers: ["Micro-Topic: t"]), to: rig.framework)
    #expect(reply.status == 200)
    try rig.finish()
  }

  @Test func anIdleConnectionOutlivesAClientsPool() throws {
    let (rig, _) = try rig({ $0.downstreamIdleTimeout = 1_000_000_000 }) { _ in .reply("{}") }
    let client = rig.client(Ask.frame(), to: rig.framework)
    rig.run(.seconds(74))
    #expect(!client.peerEnded)
    rig.run(.seconds(4))
    #expect(client.peerEnded && rig.worker.inbound.count == 0)
    try rig.finish()
  }

  @Test func drainingLetsADeliveryEnd() throws {
    let (rig, _) = try rig { _ in .reply("{}").after(.milliseconds(300)) }
    let busy = rig.client(Ask.frame(), to: rig.framework)
    let idle = rig.client("", to: rig.framework)
    rig.run(.milliseconds(50))
    try rig.finish()
    #expect(Reply.parse(busy.text).first?.body == "{}\n" && busy.peerEnded && idle.peerEnded)
  }
}
