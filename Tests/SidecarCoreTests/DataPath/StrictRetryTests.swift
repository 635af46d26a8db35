// MICRO_SIDECAR_COMPAT=strict: what go-micro's own client does, attempt by attempt.

import SidecarSim
import Testing

@testable import SidecarCore

private let greeter = "go.micro.srv.greeter"
private let call = Ask.post("/greeter/say/hello")

@Suite struct StrictRetryTests {
  private static func world(_ strict: StrictRetry, retries: Int? = nil) throws -> DataPathWorld {
    var settings = Settings()
    settings.compatibility = strict == .v1 ? .strict : strict == .v2 ? .strictV2 : .strictV4
    if let retries {
      settings.retries = retries
      settings.origins["MICRO_CLIENT_RETRIES"] = .environment("MICRO_CLIENT_RETRIES")
    }
    let policies = settings.policies
    return try DataPathWorld {
      $0.policies = policies
      $0.requestTimeout = strict.requestTimeout
    }
  }

  private static func error(_ code: Int) -> [(String, String)] {
    [("Micro-Error", #"{"id":"x","code":\#(code),"detail":"no","status":"s"}"#)]
  }

  @Test(arguments: [
    (StrictRetry.v1, 500, 2), (.v1, 408, 2), (.v1, 503, 1), (.v1, 400, 1), (.v2, 500, 2), (.v2, 408, 2), (.v4, 500, 1),
    (.v4, 408, 6), (.v4, 429, 1),
  ])
  func theCodeAndTheGenerationDecide(_ strict: StrictRetry, _ code: Int, _ attempts: Int) throws {
    let rig = try Self.world(strict)
    let node = try rig.node { _ in .reply("", headers: Self.error(code)) }
    rig.register(greeter, at: [node.address])
    let reply = try rig.ask(call, within: .seconds(60))
    #expect(reply.code == code, "\(reply)")
    #expect(node.requests.count == attempts)
    try rig.finish()
  }

  @Test(arguments: [StrictRetry.v1, .v2, .v4])
  func aPlainTextIsNeverRepeated(_ strict: StrictRetry) throws {
    let rig = try Self.world(strict)
    let node = try rig.node { _ in .reply("", headers: [("Micro-Error", "no such user")]) }
    rig.register(greeter, at: [node.address])
    _ = try rig.ask(call)
    #expect(node.requests.count == 1)
    try rig.finish()
  }

  @Test(arguments: [(StrictRetry.v1, [0, 10, 100, 1000]), (.v2, [0, 100, 600, 1900])])
  func pausesGrowAsTheGenerationHasThem(_ strict: StrictRetry, _ pauses: [Int]) throws {
    let rig = try Self.world(strict, retries: 3)
    var times: [Instant] = []
    let node = try rig.node { [unowned rig] _ in
      times.append(rig.sidecar.now)
      return .reply("", headers: Self.error(500))
    }
    rig.register(greeter, at: [node.address])
    _ = try rig.ask(call)
    try #require(times.count == 4)
    for (index, pause) in pauses.enumerated().dropFirst() {
      let waited = Double(times[index].nanoseconds(since: times[index - 1])) / 1e6
      #expect(waited >= Double(pause) && waited < Double(pause) + 60, "attempt \(index) came after \(waited) ms")
    }
    try rig.finish()
  }

  @Test func theDefaultsAreTheGenerations() {
    #expect(StrictRetry.allCases.map(\.retries) == [1, 1, 5])
    #expect(StrictRetry.v4.pause(beforeAttempt: 5) == 7_900_000_000)
    #expect(StrictRetry.v2.pause(beforeAttempt: 14) == 120_000_000_000)
    #expect(StrictRetry.v1.pause(beforeAttempt: 0) == 0 && StrictRetry.v2.pause(beforeAttempt: 0) == 0)
    #expect(StrictRetry.v1.pause(beforeAttempt: 1000) > 0, "no power overflows")
  }

  @Test(arguments: [(StrictRetry.v1, 2), (.v4, 1)])
  func aRefusedDialIsAnInternalErrorThere(_ strict: StrictRetry, _ attempts: Int) throws {
    let rig = try Self.world(strict)
    let node = try rig.node { _ in .reply("{}\n") }
    node.stop()
    rig.register(greeter, at: [node.address])
    let reply = try rig.ask(call)
    #expect(reply.status == 503 && reply.header("X-Micro-Attempts") == "\(attempts)", "\(reply)")
    try rig.finish()
  }

  @Test func anAttemptOfTheLaterClientsMayTakeFiveSeconds() throws {
    let rig = try Self.world(.v4)
    let node = try rig.node { request -> HTTPUpstream.Answer in request.index == 0 ? .stall : .reply("{}\n") }
    rig.register(greeter, at: [node.address])
    let reply = try rig.ask(call, within: .seconds(60))
    #expect(reply.status == 200 && reply.header("X-Micro-Attempts") == "2", "\(reply)")
    let micros = Int(reply.header("X-Micro-Upstream-Time") ?? "") ?? 0
    #expect((5_000_000..<5_300_000).contains(micros), "\(micros) µs")
    try rig.finish()
  }
}
