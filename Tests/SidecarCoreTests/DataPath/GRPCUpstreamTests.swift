// Connections to nodes that speak gRPC: shared, watched, left and replaced, in virtual time.

@testable import SidecarCore
import SidecarSim
import Testing

private let greeter = "go.micro.srv.greeter"
private let call = Ask.post("/greeter/say/hello", #"{"name":"J"}"#)

@Suite struct GRPCUpstreamTests {
  @Test func aCallIsOneStreamOfASharedConnection() throws {
    let rig = try DataPathWorld()
    let node = try rig.grpcNode { _ in .reply(#"{"msg":"hi"}"#) }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.grpc)
    for _ in 0..<3 {
      let reply = try rig.ask(call)
      #expect(reply.status == 200 && reply.body == #"{"msg":"hi"}"#)
    }
    #expect(node.acceptedCount == 1 && node.requests.count == 3)
    let request = try #require(node.requests.first)
    #expect(request.headers[":path"] == "/go.micro.srv.greeter.Say/Hello")
    #expect(request.headers["content-type"] == "application/grpc+json" && request.text == #"{"name":"J"}"#)
    try rig.finish()
  }

  @Test func aCallThatEndedInOrderIsNotResetToo() throws {
    let rig = try DataPathWorld()
    let node = try rig.grpcNode { _ in .reply("{}") }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.grpc)
    // More than servers take of resets, in a time in which they forgive few.
    for _ in 0..<(HTTP2Limits.resetsBurst * 2) {
      #expect(try rig.ask(call).status == 200)
    }
    #expect(node.acceptedCount == 1 && node.resets.isEmpty)
    try rig.finish()
  }

  @Test func aFullConnectionGetsAnother() throws {
    let rig = try DataPathWorld()
    let node = try rig.grpcNode { _ in .later(.seconds(1), "{}") }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.grpc)
    let clients = (0..<250).map { _ in rig.client(call) }
    let isDone = rig.world.runUntil(
      { clients.allSatisfy { !Reply.parse($0.text).isEmpty } }, within: .seconds(4))
    #expect(isDone && clients.allSatisfy { Reply.parse($0.text).first?.status == 200 })
    #expect(node.acceptedCount == 3 && node.openStreamsMost == 250)
    try rig.finish()
  }

  @Test func aSilentPeerIsAskedWhetherItIsThereAndGivenUpWhenItIsNot() throws {
    let rig = try DataPathWorld { $0.requestTimeout = 600_000_000_000 }
    let node = try rig.grpcNode("far") { _ in .stall }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.grpc)
    let client = rig.client(call)
    rig.run(.seconds(29))
    #expect(node.requests.count == 1 && node.pings.isEmpty)
    rig.run(.seconds(5))
    #expect(node.pings.count == 1)
    let host = try #require(rig.world.hosts.first { $0.name == "far" })
    rig.world.partition(rig.sidecar.host, host)
    // Nothing is heard any more, and the next ping is due 310 s after the answer to the first.
    rig.run(.seconds(345))
    let reply = try #require(Reply.parse(client.text).first)
    #expect(reply.status == 502 && reply.detail.contains("no answer to a ping"))
  }

  @Test func pingsKeepToWhatServersTakeForGoodManners() throws {
    let rig = try DataPathWorld { $0.requestTimeout = 3_600_000_000_000 }
    let node = try rig.grpcNode { _ in .stall }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.grpc)
    _ = rig.client(call)
    rig.run(.seconds(1800))
    #expect((4...7).contains(node.pings.count), "\(node.pings.count)")
    let gaps = zip(node.pings, node.pings.dropFirst()).map { $1.nanoseconds(since: $0) }
    // grpc-go ends connections that ping more often than every five minutes.
    #expect(gaps.allSatisfy { $0 > 300_000_000_000 }, "\(gaps)")
  }

  @Test func anIdleConnectionIsNotPingedAndCloses() throws {
    let rig = try DataPathWorld()
    let node = try rig.grpcNode { _ in .reply("{}") }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.grpc)
    _ = try rig.ask(call)
    #expect(rig.worker.idleUpstreams == 1 && rig.worker.openUpstreams == 1)
    rig.run(.seconds(6))
    #expect(node.openConnections == 0 && node.pings.isEmpty)
    #expect(rig.worker.idleUpstreams == 0 && rig.worker.openUpstreams == 0)
    try rig.finish()
  }

  @Test func anOldConnectionIsLeftToItsLastCall() throws {
    let rig = try DataPathWorld {
      $0.requestTimeout = 600_000_000_000
      $0.upstreamConnectionAge = 10_000_000_000
    }
    let node = try rig.grpcNode { $0.index == 0 ? .later(.seconds(60), #"{"n":0}"#) : .reply(#"{"n":1}"#) }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.grpc)
    let first = rig.client(call)
    rig.run(.seconds(15))
    #expect(try rig.ask(call).body == #"{"n":1}"#)
    #expect(node.acceptedCount == 2 && node.openConnections == 2)
    rig.run(.seconds(60))
    #expect(Reply.parse(first.text).first?.body == #"{"n":0}"#)
    #expect(node.openConnections == 0)
    try rig.finish()
  }

  @Test func aNodeThatLeavesTheRegistryFinishesItsCalls() throws {
    let rig = try DataPathWorld()
    let node = try rig.grpcNode { _ in .later(.seconds(2), "{}") }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.grpc)
    let client = rig.client(call)
    rig.run(.seconds(1))
    rig.deregister(greeter)
    rig.run(.seconds(3))
    #expect(Reply.parse(client.text).first?.status == 200)
    #expect(node.openConnections == 0)
    try rig.finish()
  }

  @Test func whatWasNotSeenIsTriedElsewhere() throws {
    for answer in [GRPCPeer.Answer.leaveUnseen, .reset(.refusedStream)] {
      let rig = try DataPathWorld()
      let bad = try rig.grpcNode("bad") { _ in answer }
      let good = try rig.grpcNode("good") { _ in .reply("{}") }
      rig.register(greeter, at: [bad.address, good.address], metadata: DataPathWorld.grpc)
      let reply = try rig.ask(call)
      #expect(reply.status == 200 && reply.header("X-Micro-Attempts") == "2", "\(answer)")
      #expect(good.requests.count == 1)
      try rig.finish()
    }
  }

  @Test func aNodeThatLeavesAnswersWhatItHasSeen() throws {
    let rig = try DataPathWorld()
    let node = try rig.grpcNode { _ in .leaveSeen("{}") }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.grpc)
    for count in 1...3 {
      #expect(try rig.ask(call).status == 200)
      #expect(node.acceptedCount == count)
    }
    try rig.finish()
  }

  @Test(arguments: [true, false])
  func aCallThatMayHaveRunIsRepeatedOnlyWhenItsCallerSaysSo(_ isIdempotent: Bool) throws {
    let rig = try DataPathWorld()
    let node = try rig.grpcNode { $0.index == 0 ? .dropConnection : .reply("{}") }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.grpc)
    let headers = isIdempotent ? ["Idempotency-Key: 1"] : []
    let reply = try rig.ask(Ask.post("/greeter/say/hello", headers: headers))
    #expect(reply.status == (isIdempotent ? 200 : 502))
    #expect(node.requests.count == (isIdempotent ? 2 : 1))
    try rig.finish()
  }

  @Test func aPeerThatSpeaksHTTP1IsFoundOutBeforeAnythingIsSent() throws {
    let rig = try DataPathWorld()
    let node = try rig.node { _ in .reply("{}") }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.grpc)
    let reply = try rig.ask(call)
    #expect(reply.status == 503, "\(reply)")
    #expect(node.requests.allSatisfy { $0.method == "PRI" })
    try rig.finish()
  }

  @Test func aPeerThatSaysNothingIsLeftAfterASecond() throws {
    let rig = try DataPathWorld()
    // Accepts and never sends its settings.
    let mute = try rig.app.listen(on: rig.app.host.address(port: 6000), sharedPort: false) {
      $0.handler = RefusedConnection.shared
    }
    let good = try rig.grpcNode { _ in .reply("{}") }
    rig.register(greeter, at: [mute.address, good.address], metadata: DataPathWorld.grpc)
    let start = rig.world.now
    #expect(try rig.ask(call).header("X-Micro-Attempts") == "2")
    #expect(rig.world.now.nanoseconds(since: start) < 1_100_000_000)
    mute.close()
  }

  @Test func aCallerThatLeavesResetsItsStreamAndNoOther() throws {
    let rig = try DataPathWorld { $0.requestTimeout = 60_000_000_000 }
    let node = try rig.grpcNode { $0.index == 0 ? .stall : .later(.seconds(2), "{}") }
    rig.register(greeter, at: [node.address], metadata: DataPathWorld.grpc)
    let leaving = rig.client(call)
    rig.run(.seconds(1))
    let staying = rig.client(call)
    rig.run(.seconds(1))
    leaving.reset().resume()
    rig.run(.seconds(3))
    #expect(node.resets == [.cancel])
    #expect(Reply.parse(staying.text).first?.status == 200)
    #expect(node.acceptedCount == 1)
    try rig.finish()
  }

  /// Any network, any node: each call is answered once, by its deadline, and in the end nothing is left.
  @Test(arguments: 0..<60)
  func hostileWorlds(_ number: Int) throws {
    let seed = UInt64(number) &* 0x9E37_79B9 &+ 7
    var random = SeededRandom(seed: seed)
    let plan = FaultPlan.swarm(
      &random,
      of: [
        .splitRead, .partialWrite, .lateSegment, .streamReset, .smallWindow, .slowLink, .connectRefused, .connectSlow,
        .connectLost, .lateTimer, .loopStall, .laterNextTurn,
      ])
    let rig = try DataPathWorld(seed: seed, plan: plan, randomSelector: true) { $0.requestTimeout = 3_000_000_000 }
    var choices = SeededRandom(seed: seed &+ 1)
    let nodes = try (0..<2).map { index in
      try rig.grpcNode("node-\(index)") { request in
        switch choices.below(12) {
        case 0: .stall
        case 1: .fail(3, "no")
        case 2: .reset(.refusedStream)
        case 3: .reset(.internalError)
        case 4: .leaveUnseen
        case 5: .leaveSeen(request.text)
        case 6: .dropConnection
        case 7: .later(.milliseconds(Int(choices.below(4000))), request.text)
        default: .reply(request.text)
        }
      }
    }
    rig.register(greeter, at: nodes.map(\.address), metadata: DataPathWorld.grpc)
    for round in 0..<12 {
      let bodies = (0..<4).map { #"{"n":\#(round * 10 + $0)}"# }
      let clients = bodies.map { rig.client(Ask.post("/greeter/say/hello", $0)) }
      _ = rig.world.runUntil(
        { clients.allSatisfy { !Reply.parse($0.text).isEmpty || $0.end != nil || $0.peerEnded } }, within: .seconds(30))
      for (client, body) in zip(clients, bodies) {
        for reply in Reply.parse(client.text) where reply.status == 200 {
          #expect(reply.body == body, "seed \(seed): a reply belongs to its request")
        }
      }
      if choices.below(4) == 0 { rig.run(.seconds(4)) }
    }
    try rig.finish()
  }
}
