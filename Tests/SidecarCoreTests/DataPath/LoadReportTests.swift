// How busy an app is, as its sidecar says it and as others take it.

import SidecarSim
import Testing

@testable import SidecarCore

private let greeter = "go.micro.srv.greeter"

@Suite struct LoadReportTests {
  @Test(
    arguments: [
      ("0", 0), ("0.00", 0), ("0.53", 0.53), ("1.", 1), ("00001.5", 1.5), ("2.5", 2), ("999999999999", 2),
      ("", nil), ("-1", nil), (".5", nil), ("1.2.3", nil), ("nan", nil), ("inf", nil), ("1e9", nil), (" 1", nil),
      ("0.3333333333333333333333", nil),
    ] as [(String, Float?)])
  func whatIsSaidIsReadAndWhatIsHostileClamped(_ text: String, _ wanted: Float?) {
    let bytes = FixedBytes(text)
    let value = LoadReport.value(bytes.span)
    #expect(value.map { abs($0 - (wanted ?? -1)) < 0.001 } ?? (wanted == nil), "\(text): \(value ?? -1)")
  }

  @Test(arguments: [(0, "0.00"), (5, "0.05"), (53, "0.53"), (100, "1.00"), (250, "2.50"), (5000, "9.99"), (-3, "0.00")])
  func whatIsWrittenIsADecimal(_ hundredths: Int, _ text: String) {
    let out = ByteBuffer()
    LoadReport.append(hundredths, to: out)
    #expect(String(decoding: out.bytes, as: UTF8.self) == text)
  }

  @Test func repliesSayHowBusyTheAppIsWhereItHasALimit() throws {
    let rig = try DataPathWorld { $0.appConcurrency = .fixed(4) }
    _ = try rig.startApp { request in request.index < 2 ? .stall : .reply("{}") }
    for _ in 0..<2 { _ = rig.client(Ask.frame(), to: rig.framework) }
    rig.run(.milliseconds(20))
    let reply = try rig.ask(Ask.frame(), to: rig.framework)
    #expect(reply.header("X-Micro-Load") == "0.50", "\(reply)")
    for _ in 0..<3 { _ = rig.client(Ask.frame(headers: ["Micro-Priority: low"]), to: rig.framework) }
    let free = try DataPathWorld()
    _ = try free.startApp { _ in .reply("{}") }
    #expect(try free.ask(Ask.frame(), to: free.framework).header("X-Micro-Load") == nil)
    try free.finish()
    rig.run(.seconds(6))
    try rig.finish()
  }

  @Test func whatIsTurnedAwaySaysItToo() throws {
    let rig = try DataPathWorld { $0.appConcurrency = .fixed(1) }
    _ = try rig.startApp { _ in .stall }
    _ = rig.client(Ask.frame(), to: rig.framework)
    rig.run(.milliseconds(20))
    let reply = try rig.ask(Ask.frame(headers: ["Micro-Priority: low"]), to: rig.framework)
    #expect(reply.header("X-Micro-Load") == "1.00" && reply.header("X-Micro-Unbegun") == "1", "\(reply)")
    rig.run(.seconds(6))
    try rig.finish()
  }

  @Test func whatANodeSaysIsKnownOfItUntilItSaysNothing() throws {
    let rig = try DataPathWorld()
    let said: [String?] = ["0.80", "17", "bad", "0.1", nil]
    let node = try rig.node { request in
      let value = said[min(request.index, said.count - 1)]
      return .reply("{}\n", headers: value.map { [("X-Micro-Load", $0)] } ?? [])
    }
    rig.register(greeter, at: [node.address])
    var known: [Float] = []
    for _ in said {
      #expect(try rig.ask(Ask.post("/greeter/say/hello")).status == 200)
      known.append(try #require(rig.worker.knownService(greeter)).set.loadOf(0).reported)
    }
    #expect(known == [0.8, 2, 0, 0.1, 0])
    try rig.finish()
  }

  /// The framework's servers send back the headers of the first request of a connection.
  @Test func noRequestCarriesWhatOnlyRepliesMaySay() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { request in
      .reply(
        "",
        headers: request.firstHeaders.filter { $0.name.lowercased().hasPrefix("x-micro-") } + [("Micro-Error", "no")])
    }
    rig.register(greeter, at: [node.address])
    let headers = ["X-Micro-Unbegun: 1", "X-Micro-Load: 2"]
    for request in [
      Ask.post("/greeter/say/hello", headers: headers), Ask.frame(greeter, headers: headers),
      Ask.post("/rpc", #"{"service":"\#(greeter)","method":"Say.Hello"}"#, headers: headers),
    ] {
      _ = try rig.ask(request)
    }
    #expect(node.requests.count == 3, "none is repeated as if nothing had been begun")
    for request in node.requests {
      #expect(request.header("X-Micro-Unbegun") == nil && request.header("X-Micro-Load") == nil)
    }
    #expect(rig.worker.knownService(greeter)?.set.loadOf(0).reported == 0)
    try rig.finish()
  }

  /// The sidecar is a gRPC node to itself, so that each call passes both of its sides.
  @Test func overGRPCTheTrailersSayItAndWhatIsTurnedAwayIsTriedElsewhere() throws {
    let rig = try DataPathWorld { $0.appConcurrency = .fixed(2) }
    _ = try rig.startApp { request in request.index == 0 ? .stall : .reply(#"{"n":1}"#) }
    let other = try rig.grpcNode { _ in .reply(#"{"n":2}"#) }
    rig.register(greeter, at: [rig.framework, other.address], metadata: DataPathWorld.grpc)
    _ = rig.client(Ask.frame(), to: rig.framework)
    rig.run(.milliseconds(20))
    func ask(_ headers: [String] = []) throws -> Reply {
      try rig.ask(Ask.post("/greeter/say/hello", headers: headers))
    }
    #expect(try ask().body == #"{"n":1}"#)
    let table = try #require(rig.worker.knownService(greeter))
    #expect(table.set.loadOf(0).reported == 0.5)
    // With one of two places taken a call of low priority is not let in.
    let reply = try ask(["Micro-Priority: low"])
    #expect(reply.body == #"{"n":2}"# && reply.header("X-Micro-Attempts") == "2", "a POST, \(reply)")
    #expect(other.requests.count == 1)
    rig.run(.seconds(6))
    try rig.finish()
  }
}
