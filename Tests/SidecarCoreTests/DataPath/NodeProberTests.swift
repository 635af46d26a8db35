// Active health checks of nodes.

import SidecarSim
import Testing

@testable import SidecarCore

private let greeter = "go.micro.srv.greeter"
private let post = Ask.post("/greeter/say/hello")

@Suite struct NodeProberTests {
  private static func world(_ probe: HealthCheckPolicy.Probe) throws -> DataPathWorld {
    var service = ServicePolicy()
    var check = HealthCheckPolicy()
    check.probe = probe
    check.period = 2_000_000_000
    check.failures = 2
    service.healthCheck = check
    let table = PolicyTable(service: service)
    return try DataPathWorld { $0.policies = table }
  }

  /// The first node is not well for a while; calls go to the first allowed.
  private func check(
    _ probe: HealthCheckPolicy.Probe, isProbe: @escaping (HTTPUpstream.Request) -> Bool, good: HTTPUpstream.Answer,
    bad: [HTTPUpstream.Answer]
  ) throws {
    for bad in bad {
      let rig = try Self.world(probe)
      var isWell = true
      var probes = 0
      let first = try rig.node("first") { request in
        guard isProbe(request) else { return .reply("{\"n\":1}\n") }
        probes += 1
        return isWell ? good : bad
      }
      let second = try rig.node("second") { isProbe($0) ? good : .reply("{\"n\":2}\n") }
      rig.register(greeter, at: [first.address, second.address])
      #expect(try rig.ask(post).body == "{\"n\":1}")
      rig.run(.seconds(5))
      #expect((2...3).contains(probes), "one each 2 s, \(probes)")
      #expect(try rig.ask(post).body == "{\"n\":1}")
      isWell = false
      rig.run(.seconds(8))
      #expect(try rig.ask(post).body == "{\"n\":2}", "two checks have failed")
      isWell = true
      rig.run(.seconds(4))
      #expect(try rig.ask(post).body == "{\"n\":1}", "one has passed")
      isWell = false
      rig.run(.seconds(8))
      rig.worker.policies = PolicyTable()
      #expect(try rig.ask(post).body == "{\"n\":1}", "nobody asks any more, so nothing is known against it")
      try rig.finish()
    }
  }

  @Test func theFrameworksOwnHealthIsAsked() throws {
    try check(
      .debug, isProbe: { $0.header("Micro-Endpoint") == "Debug.Health" }, good: .reply("{\"status\":\"ok\"}\n"),
      bad: [
        .reply("{\"status\":\"dying\"}\n"), .reply("", headers: [("Micro-Error", "no")]), .reset, .stall,
        .bytes("nonsense\r\n\r\n"),
      ])
  }

  @Test func aPathIsAsked() throws {
    try check(
      .http(path: "/healthz"), isProbe: { $0.method == "GET" && $0.target == "/healthz" }, good: .reply("fine"),
      bad: [.bytes("HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n"), .close, .stall])
  }

  @Test func aNodeThatTakesConnectionsIsWell() throws {
    let rig = try Self.world(.tcp)
    let first = try rig.node("first") { _ in .reply("{\"n\":1}\n") }
    let second = try rig.node("second") { _ in .reply("{\"n\":2}\n") }
    rig.register(greeter, at: [first.address, second.address])
    #expect(try rig.ask(post).body == "{\"n\":1}")
    rig.run(.seconds(5))
    #expect(try rig.ask(post).body == "{\"n\":1}")
    first.stop()
    rig.run(.seconds(8))
    let attempts = try rig.ask(post).header("X-Micro-Attempts")
    #expect(attempts == "1", "no call has to find it out")
    try rig.finish()
  }

  @Test func manyNodesAreAskedInTurnAndNoneThatHasLeft() throws {
    let rig = try Self.world(.debug)
    var asked: [Int: Int] = [:]
    let nodes = try (0..<20).map { index in
      try rig.node("n\(index)") { request in
        if request.header("Micro-Endpoint") == "Debug.Health" { asked[index, default: 0] += 1 }
        return .reply("{\"status\":\"ok\"}\n")
      }
    }
    rig.register(greeter, at: nodes.map(\.address))
    #expect(try rig.ask(post).status == 200)
    rig.run(.seconds(7))
    #expect(asked.count == 20 && asked.values.allSatisfy { (2...4).contains($0) }, "\(asked)")
    rig.register(greeter, at: [nodes[0].address])
    rig.run(.seconds(1))
    let before = asked
    rig.run(.seconds(6))
    #expect(asked.filter { $0.key > 0 } == before.filter { $0.key > 0 })
    try rig.finish()
  }
}

@Suite struct GRPCNodeProberTests {
  @Test func theHealthServiceOfGRPCIsAsked() throws {
    var service = ServicePolicy()
    var check = HealthCheckPolicy()
    check.probe = .grpc
    check.period = 1_000_000_000
    check.failures = 2
    service.healthCheck = check
    let table = PolicyTable(service: service)
    let rig = try DataPathWorld { $0.policies = table }
    var status = "\u{08}\u{01}"
    let first = try rig.grpcNode("first") { request in
      request.headers[":path"] == "/grpc.health.v1.Health/Check" ? .reply(status) : .reply("{\"n\":1}")
    }
    let second = try rig.grpcNode("second") { request in
      request.headers[":path"] == "/grpc.health.v1.Health/Check" ? .reply("\u{08}\u{01}") : .reply("{\"n\":2}")
    }
    rig.register(greeter, at: [first.address, second.address], metadata: DataPathWorld.grpc)
    #expect(try rig.ask(post).body == "{\"n\":1}")
    rig.run(.seconds(5))
    #expect(try rig.ask(post).body == "{\"n\":1}")
    status = "\u{08}\u{02}"
    rig.run(.seconds(5))
    #expect(try rig.ask(post).body == "{\"n\":2}", "NOT_SERVING")
    status = "\u{08}\u{01}"
    rig.run(.seconds(3))
    #expect(try rig.ask(post).body == "{\"n\":1}")
    try rig.finish()
  }
}
