// Calls of the app out to nodes: what a node is sent, what the caller gets, and every way it can fail.

@testable import SidecarCore
import SidecarSim
import Testing

private let greeter = "go.micro.srv.greeter"

@Suite struct OutboundTests {
  // MARK: What is sent and answered

  @Test func aPathIsACallAndItsJSONPassesThrough() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in
      .reply("{\"msg\": \"Hello <John>\"}\n", headers: [("Content-Type", "application/json")])
    }
    rig.register(greeter, at: [node.address])
    let reply = try rig.ask(
      Ask.post("/greeter/say/hello", "{\"name\": \"John\", \"n\": 1.50}", headers: ["X-Tenant: a", "Cookie: c=1"]))
    #expect(reply.status == 200 && reply.body == "{\"msg\": \"Hello <John>\"}", "the framework's line end is no part")
    #expect(reply.header("Content-Type") == "application/json")
    #expect(reply.header("X-Micro-Node") == "\(greeter)-0" && reply.header("X-Micro-Attempts") == "1")
    #expect(Int(reply.header("X-Micro-Upstream-Time") ?? "").map { $0 > 0 } == true)

    let request = try #require(node.requests.first)
    #expect(request.method == "POST" && request.target == "/" && request.text == "{\"name\": \"John\", \"n\": 1.50}\n")
    #expect(request.header("Host") == node.address.description)
    #expect(request.header("Micro-Service") == greeter && request.header("Micro-Endpoint") == "Say.Hello")
    #expect(request.header("Micro-Method") == "Say.Hello" && request.header("X-Micro-Endpoint") == "Say.Hello")
    #expect(request.header("Micro-From-Service") == "go.micro.srv.me")
    #expect(request.header("X-Tenant") == "a" && request.header("Cookie") == nil)
    let timeout = try #require(request.header("Timeout").flatMap { Int64($0) })
    #expect((4_900_000_000...5_000_000_000).contains(timeout), "nanoseconds of what is left: \(timeout)")
    try rig.finish()
  }

  @Test(arguments: [
    (Ask.post("/\(greeter)/Say.Hello"), "{}\n"),
    (Ask.post("/greeter/say/hello?ignored=1", "{\"a\":1}"), "{\"a\":1}\n"),
    (Ask.get("/greeter/say/hello?name=John+Doe&x=1&x=2"), "{\"name\":\"John Doe\",\"x\":[\"1\",\"2\"]}\n"),
    (Ask.get("/greeter/say/hello"), "{}\n"),
    (Ask.post("/greeter/say/hello", "", type: nil), "{}\n"),
    (Ask.post("/greeter/say/hello", ""), "{}\n"),
    (Ask.post("/greeter/say/hello", "{\"a\":1}", type: "application/json; charset=utf-8"), "{\"a\":1}\n"),
    (Ask.post("/greeter/say/hello", "{\"a\":1}", type: "application/x-www-form-urlencoded"), "{\"a\":1}\n"),
    (Ask.post("/greeter/say/hello", "a=1", type: "application/x-www-form-urlencoded"), "{\"a\":\"1\"}\n"),
    (Ask.post("/", headers: ["Micro-Service: \(greeter)", "Micro-Endpoint: Say.Hello"]), "{}\n"),
    (Ask.post("/any/path/at/all", headers: ["Micro-Service: \(greeter)", "Micro-Method: Say.Hello"]), "{}\n"),
    (Ask.post("/rpc", #"{"service":"\#(greeter)","method":"Say.Hello","request":{"b": 2}}"#), "{\"b\": 2}\n"),
    (Ask.post("/rpc", #"{"service":"\#(greeter)","endpoint":"Say.Hello","request":"{\"b\":2}"}"#), "{\"b\":2}\n"),
    (
      Ask.post(
        "/rpc", "service=\(greeter)&method=Say.Hello&request=%7B%22b%22%3A2%7D",
        type: "application/x-www-form-urlencoded"), "{\"b\":2}\n"
    ),
    ("GET http://localhost:8081/greeter/say/hello?a=b HTTP/1.1\r\nHost: a\r\n\r\n", "{\"a\":\"b\"}\n"),
  ])
  func everyFormOfRequestBecomesTheSameCall(_ request: String, _ body: String) throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .reply("{\"ok\":true}\n") }
    rig.register(greeter, at: [node.address])
    let reply = try rig.ask(request)
    #expect(reply.status == 200 && reply.body == "{\"ok\":true}")
    #expect(node.requests.map(\.text) == [body])
    #expect(node.requests.first?.header("Micro-Endpoint") == "Say.Hello")
    try rig.finish()
  }

  @Test func aLegacyNodeGetsJSONRPCOnAFreshConnectionEachTime() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { request in
      .reply("{\"id\":1,\"result\":{\"n\":\(request.index)},\"error\":null}\n")
    }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.legacy)
    let replies = try rig.exchange(
      Ask.post("/greeter/say/hello", "{\"a\":1}") + Ask.post("/greeter/say/hello"), count: 2)
    #expect(replies.map(\.body) == ["{\"n\":0}", "{\"n\":1}"])
    #expect(node.acceptedCount == 2)
    let first = try #require(node.requests.first)
    #expect(first.header("Content-Type") == "application/json-rpc")
    #expect(first.text.contains("\"method\":\"Say.Hello\"") && first.text.contains("\"params\":[{\"a\":1}]"))
    try rig.finish()
  }

  @Test func aMicroNodesConnectionIsUsedAgainUntilItIsIdleForLong() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    for _ in 0..<3 { #expect(try rig.ask(Ask.post("/greeter/say/hello")).status == 200) }
    #expect(node.acceptedCount == 1 && rig.worker.idleUpstreams == 1)
    rig.run(.seconds(5))
    #expect(rig.worker.idleUpstreams == 0 && rig.worker.openUpstreams == 0, "the sweep closes it")
    #expect(node.openCount == 0)
    try rig.finish()
  }

  @Test func protobufGoesInTheProtoRPCEnvelope() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .reply(protoRPC(method: "Say.Hello", payload: "\n\u{2}hi")) }
    for metadata in [DataPathWorld.micro, DataPathWorld.legacy] {
      rig.register(greeter, at: [node.address], metadata: metadata)
      let reply = try rig.ask(Ask.post("/greeter/say/hello", "\n\u{1}a", type: "application/x-protobuf"))
      #expect(reply.status == 200 && reply.body == "\n\u{2}hi")
      #expect(reply.header("Content-Type") == "application/x-protobuf", "as the caller said it")
      #expect(node.requests.last?.header("Content-Type") == "application/proto-rpc")
      let body = FixedBytes(node.requests.last?.body ?? [])
      let envelope = try ProtoRPCEnvelope(parsing: body.span)
      #expect(String(decoding: body.span[envelope.payload], as: UTF8.self) == "\n\u{1}a")
    }
    try rig.finish()
  }

  @Test(arguments: [
    (Ask.frame(greeter), "{}\n", "{\"a\":1}\n", "Micro-Id"),
    (Ask.frame(greeter, "Say.Hello", "\n\u{1}a", type: "application/protobuf"), "\n\u{1}a", "pb", "Micro-Id"),
    (
      Ask.frame(
        greeter, "Say.Hello", protoRPC(method: "Say.Hello", payload: "pb", seq: 9), type: "application/proto-rpc"),
      "pb", protoRPC(method: "Say.Hello", payload: "pb", seq: 9), "Micro-Id"
    ),
    (
      Ask.post(
        "/", protoRPC(method: "Say.Hello", payload: "pb", seq: 9), type: "application/octet-stream",
        headers: ["X-Micro-Service: \(greeter)", "X-Micro-Method: Say.Hello", "X-Micro-Target: \(greeter)"]), "pb",
      protoRPC(method: "Say.Hello", payload: "pb", seq: 9), ""
    ),
    (
      Ask.post(
        "/", #"{"method":"Say.Hello","params":[{"b":2}],"id":5}"#, type: "application/json-rpc",
        headers: ["X-Micro-Service: \(greeter)", "X-Micro-Method: Say.Hello"]), "{\"b\":2}",
      "{\"id\":5,\"result\":{\"a\":1},\"error\":null}\n", ""
    ),
  ])
  func aFrameComesInAndAFrameGoesOut(_ request: String, _ sent: String, _ answer: String, _ id: String) throws {
    let rig = try DataPathWorld()
    let node = try rig.node { request in
      switch request.header("Content-Type") {
      case "application/json": .reply("{\"a\":1}\n")
      case "application/json-rpc": .reply("{\"id\":\"1\",\"result\":{\"a\":1},\"error\":null}\n")
      default: .reply(protoRPC(method: "", payload: "pb"))
      }
    }
    rig.register(greeter, at: [node.address])
    let reply = try rig.ask(request)
    #expect(reply.status == 200 && reply.body == answer)
    #expect(reply.header("Micro-Error") == nil && (id.isEmpty || reply.header(id) == "7"))
    let request = try #require(node.requests.first)
    let body = FixedBytes(request.body)
    switch request.header("Content-Type") {
    case "application/json": #expect(request.text == sent)
    case "application/json-rpc":
      let envelope = try JSONRPCRequest(parsing: body.span)
      #expect(String(decoding: body.span[envelope.argument], as: UTF8.self) == sent)
    default:
      let envelope = try ProtoRPCEnvelope(parsing: body.span)
      #expect(String(decoding: body.span[envelope.payload], as: UTF8.self) == sent)
    }
    try rig.finish()
  }

  @Test func aFrameGetsItsErrorsInTheFrameworksForm() throws {
    let rig = try DataPathWorld()
    let text = #"{"id":"x","code":403,"detail":"no \u003ch\u003e","status":"Forbidden"}"#
    let node = try rig.node { _ in .reply("", headers: [("Micro-Error", text)]) }
    rig.register(greeter, at: [node.address])
    let reply = try rig.ask(Ask.frame(greeter))
    #expect(reply.status == 200 && reply.header("Micro-Error") == text && reply.header("X-Micro-Error") == text)
    let missing = try rig.ask(Ask.frame("no.such"))
    #expect(missing.status == 200 && missing.header("Micro-Error")?.contains("\"code\":404") == true)
    let nameless = try rig.ask(Ask.post("/", protoRPC(method: "Say.Hello", payload: ""), type: "application/proto-rpc"))
    #expect(nameless.header("Micro-Error")?.contains("names no service") == true)
    let unknown = try rig.ask(Ask.frame(greeter, type: "application/unheard-of"))
    #expect(unknown.status == 200 && unknown.body == "Unsupported Content-Type: application/unheard-of")
    try rig.finish()
  }

  @Test func anAddressSkipsSelection() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .reply("{}\n") }
    func ask(_ address: String, _ service: String = "s") throws -> Reply {
      try rig.ask(Ask.post("/rpc", #"{"service":"\#(service)","method":"A.B","address":"\#(address)","request":{}}"#))
    }
    #expect(try ask(node.address.description).status == 200)
    #expect(try ask(node.address.description).status == 200)
    #expect(node.acceptedCount == 1 && node.requests.map { $0.header("Micro-Service") } == ["s", "s"])
    #expect(try ask("10.0.0.1:1").status == 503, "refused")
    for bad in ["nonsense", "h:99999", ""] where !bad.isEmpty { #expect(try ask(bad).status == 400) }
    #expect(try ask(node.address.description, #"a\r\nEvil: 1"#).status == 400, "names are checked here too")
    #expect(rig.control.asked.isEmpty)
    try rig.finish()
  }

  // MARK: Failures

  /// Every status of the local API and the error JSON with it.
  @Test(arguments: [
    (Ask.post("/nothing"), 404, "go.micro.client", "names no service"),
    (Ask.post("/no/such"), 404, "go.micro.client", "service go.micro.srv.no: not found"),
    (Ask.post("/greeter/say/hello", "{"), 400, "go.micro.sidecar", "not JSON"),
    (Ask.post("/greeter/say/hello", headers: ["Timeout: never"]), 400, "go.micro.sidecar", "Timeout"),
    (Ask.get("/greeter/say/hello?a=%"), 400, "go.micro.sidecar", "percent-encoding"),
    ("DELETE /greeter/say/hello HTTP/1.1\r\nHost: a\r\n\r\n", 405, "go.micro.sidecar", "Method not allowed"),
    (Ask.get("/rpc"), 405, "go.micro.rpc", "Method not allowed"),
    (Ask.post("/rpc", "{"), 400, "go.micro.rpc", "JSON"),
    (Ask.post("/rpc", #"{"method":"A.B"}"#), 400, "go.micro.rpc", "invalid service"),
    (Ask.post("/rpc", #"{"service":"s"}"#), 400, "go.micro.rpc", "invalid method"),
    (Ask.post("/greeter/say/hello", "x", type: "text/html"), 415, "go.micro.sidecar", "text/html"),
    (Ask.post("/x", headers: ["Micro-Service: s", "Micro-Endpoint: noDot"]), 400, "go.micro.sidecar", "noDot"),
    (Ask.post("/x", headers: ["Micro-Service: a b", "Micro-Endpoint: A.B"]), 400, "go.micro.sidecar", "service name"),
    (Ask.post("/empty/say/hello"), 503, "go.micro.client", "none available"),
    (Ask.post("/nats/say/hello"), 501, "go.micro.sidecar", "speaks nats"),
    (Ask.post("/greeter/fail/reset"), 502, "go.micro.client.transport", "before replying"),
    (Ask.post("/greeter/fail/garbage"), 502, "go.micro.client.codec", "cannot be read"),
    (Ask.post("/greeter/fail/large"), 502, "go.micro.client.codec", "larger than"),
    (Ask.post("/greeter/fail/cut"), 502, "go.micro.client.transport", "inside the reply"),
    (Ask.post("/greeter/fail/status"), 502, "go.micro.client.codec", "500"),
    (Ask.post("/greeter/fail/app"), 409, "app", "taken"),
    (Ask.post("/greeter/fail/text"), 500, "go.micro.client", "plain failure"),
    (Ask.post("/greeter/fail/method"), 404, "go.micro.client", "can't find method"),
    (Ask.post("/greeter/fail/refused-type"), 501, "go.micro.client.codec", "Unsupported"),
    (Ask.post("/greeter/fail/stall"), 504, "go.micro.client", "no reply by go.micro.srv.greeter-0"),
    (Ask.post("/dead/say/hello"), 503, "go.micro.client", "connection refused"),
    ("GET / HTTP/1.1\r\n\r\n", 400, "go.micro.sidecar", "Host"),
    ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n", 413, "go.micro.sidecar", "larger than"),
    ("GET /a HTTP/1.1\r\nHost: a\r\nX: \(String(repeating: "x", count: 70_000))", 431, "go.micro.sidecar", "too large"),
    (Ask.get("/broker?topic=t"), 501, "go.micro.sidecar", "/broker"),
  ])
  func aFailureHasItsStatusAndItsErrorJSON(_ request: String, _ status: Int, _ id: String, _ words: String) throws {
    let rig = try DataPathWorld { $0.bodyMax = 100_000 }
    let node = try rig.node { request in
      switch request.header("Micro-Endpoint") {
      case "Fail.Reset": .reset
      case "Fail.Garbage": .bytes("SMTP/1.0 hello\r\n\r\n")
      case "Fail.Large": .reply(String(repeating: "x", count: 200_000))
      case "Fail.Cut": .reply("{\"a\":1}").cut(after: 30).thenClose()
      case "Fail.Status": .reply("oops", status: 500)
      case "Fail.App":
        .reply("", headers: [("Micro-Error", #"{"id":"app","code":409,"detail":"taken","status":"Conflict"}"#)])
      case "Fail.Text": .reply("", headers: [("X-Micro-Error", "plain failure")])
      case "Fail.Method": .reply("", headers: [("Micro-Error", "rpc: can't find method Method")])
      case "Fail.RefusedType":
        .reply("Unsupported Content-Type: application/json", headers: [("Content-Type", "text/plain")])
      case "Fail.Stall": .stall
      default: .reply("{}\n")
      }
    }
    rig.register(greeter, at: [node.address])
    rig.register("go.micro.srv.empty", nodes: [])
    rig.register(
      "go.micro.srv.nats", nodes: [Node(id: "g", address: "10.0.0.9:1", metadata: ["transport": "nats"])])
    rig.register("go.micro.srv.dead", at: [rig.app.host.address(port: 1)])
    let reply = try rig.ask(request)
    #expect(reply.status == status, "\(reply)")
    #expect(reply.id == id && reply.detail.contains(words), "\(reply)")
    #expect(reply.code == (status == 504 ? 408 : status), "\(reply)")
    #expect(reply.header("Content-Type") == "application/json" && reply.header("X-Micro-Reason")?.isEmpty == false)
    // No error leaves a connection to the node behind: its next reply could repeat it.
    rig.run(.milliseconds(100))
    #expect(rig.worker.openUpstreams == 0 && rig.worker.callsInFlight == 0)
    #expect(rig.worker.metrics.snapshot().requests == 1)
    try rig.finish()
  }

  @Test(arguments: [("0.5", 500), ("2", 2_000), ("100", 5_000), ("inf", 5_000)])
  func theCallersTimeIsSecondsAndAtMostTheConfiguredOne(_ seconds: String, _ milliseconds: Int64) throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .stall }
    rig.register(greeter, at: [node.address])
    let start = rig.world.now
    let reply = try rig.ask(Ask.post("/greeter/say/hello", headers: ["Timeout: \(seconds)"]))
    let waited = rig.world.now.nanoseconds(since: start) / 1_000_000
    #expect(reply.status == 504 && (milliseconds...milliseconds + 20).contains(waited), "\(waited) ms")
    let sent = try #require(node.requests.first?.header("Timeout").flatMap { Int64($0) })
    #expect(sent > milliseconds * 900_000 && sent <= milliseconds * 1_000_000)
    rig.run(.milliseconds(100))
    #expect(node.openCount == 0, "the node's connection is gone, so it learns that nobody waits")
    try rig.finish()
  }

  @Test func aFramesTimeoutIsNanoseconds() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .stall }
    rig.register(greeter, at: [node.address])
    let start = rig.world.now
    let reply = try rig.ask(Ask.frame(greeter, headers: ["Timeout: 250000000"]))
    #expect(reply.status == 200 && reply.header("Micro-Error")?.contains("\"code\":408") == true)
    #expect(rig.world.now.nanoseconds(since: start) < 270_000_000)
    try rig.finish()
  }

  // MARK: Headers that must not cross

  @Test func oneCallersHeadersNeverReachAnother() throws {
    let rig = try DataPathWorld()
    // As go-micro's servers do: the headers of the connection's first request are on every reply of it.
    let node = try rig.node { request in
      .reply("{}\n", headers: request.firstHeaders.filter { $0.name != "Content-Length" })
    }
    rig.register(greeter, at: [node.address])
    _ = try rig.ask(Ask.post("/greeter/say/hello", headers: ["Authorization: Bearer secret", "X-Mine: one"]))
    for request in [Ask.post("/greeter/say/hello", headers: ["X-Mine: two"]), Ask.frame(greeter)] {
      let reply = try rig.ask(request)
      #expect(reply.status == 200)
      #expect(reply.header("Authorization") == nil && reply.header("X-Mine") == nil, "\(reply)")
      #expect(reply.headers("Content-Type") == ["application/json"])
    }
    #expect(node.acceptedCount == 1, "one connection for all")
    #expect(node.requests.map { $0.header("Authorization") } == ["Bearer secret", nil, nil])
    try rig.finish()
  }

  @Test func aHostileIdOfANodeIsNoHeaderOfItsOwn() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .reply("{}\n") }
    rig.register(
      greeter,
      nodes: [Node(id: "a\r\nSet-Cookie: x\r\n\r\n", address: node.address.description, metadata: DataPathWorld.micro)])
    let reply = try rig.ask(Ask.post("/greeter/say/hello"))
    #expect(reply.header("Set-Cookie") == nil && reply.header("X-Micro-Node")?.hasPrefix("a") == true)
    try rig.finish()
  }
}
