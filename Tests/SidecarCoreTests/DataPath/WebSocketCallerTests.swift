import SidecarSim
import Testing

@testable import SidecarCore

/// A WebSocket of the app in a simulated world: what takes minutes, another host or a dying peer to see.
@Suite struct WebSocketCallerTests {
  private static let upgrade =
    "GET /hello/chat/talk HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    + "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

  /// A world with a node that takes streams and says nothing, and a client that has been upgraded.
  private func begin(_ fields: String = "") throws -> (DataPathWorld, HTTPUpstream, ScriptedClient) {
    let world = try DataPathWorld()
    let node = try world.node { _ in .bytes("") }
    world.register("go.micro.srv.hello", at: [node.address])
    let client = world.client(Self.upgrade + fields + "\r\n")
    _ = world.world.runUntil({ client.text.contains("\r\n\r\n") }, within: .seconds(5))
    #expect(client.text.hasPrefix("HTTP/1.1 101 Switching Protocols\r\n"), "\(client.text)")
    return (world, node, client)
  }

  /// What came behind the head of the 101.
  private func frames(_ client: ScriptedClient) -> [UInt8] {
    let bytes = client.received
    let end = (4...bytes.count).first { bytes[($0 - 4)..<$0].elementsEqual([13, 10, 13, 10]) }
    return Array(bytes[(end ?? bytes.count)...])
  }

  @Test func theUpgradeOfTheSpecification() throws {
    let (world, _, client) = try begin()
    #expect(client.text.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"))
    #expect(!client.text.contains("Connection: close"))
    #expect(world.worker.callsInFlight == 1)
    try world.finish()
    #expect(client.end != nil)
  }

  @Test func silenceIsBrokenByPingsAndEndedAfterTwo() throws {
    let (world, node, client) = try begin()
    world.run(.seconds(29))
    #expect(frames(client) == [])
    world.run(.seconds(3))
    #expect(frames(client) == [0x89, 0])
    world.run(.seconds(30))
    #expect(frames(client) == [0x89, 0, 0x89, 0])
    world.run(.seconds(30))
    #expect(frames(client).dropFirst(4).starts(with: [0x88]))
    #expect(frames(client)[6...7].elementsEqual([0x03, 0xF0]))  // 1008
    #expect(world.worker.callsInFlight == 0)
    #expect(node.openCount == 0)
    // It never answers the Close either.
    world.run(.seconds(10))
    #expect(client.end != nil)
    try world.finish()
  }

  @Test func aClientThatAnswersPingsStays() throws {
    let world = try DataPathWorld()
    let node = try world.node { _ in .bytes("") }
    world.register("go.micro.srv.hello", at: [node.address])
    var client = ScriptedClient(on: world.app, to: world.api).send(Self.upgrade + "\r\n")
    for _ in 0..<6 { client = client.pause(.seconds(25)).send(frame(0x8A, "")) }
    client = client.start()
    world.run(.seconds(140))
    #expect(client.text.hasPrefix("HTTP/1.1 101"))
    #expect(frames(client) == [])
    #expect(world.worker.callsInFlight == 1)
    try world.finish()
  }

  @Test func aDrainSaysThatItGoes() throws {
    let (world, _, client) = try begin()
    world.drain()
    world.run(.seconds(1))
    #expect(frames(client).starts(with: [0x88]))
    #expect(frames(client)[2...3].elementsEqual([0x03, 0xE9]))  // 1001
    #expect(world.worker.callsInFlight == 0)
    try world.finish()
  }

  @Test func compressionIsAgreedOnWithClientsOfOtherHosts() throws {
    let (world, _, client) = try begin("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n")
    #expect(
      client.text.contains(
        "\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"))
    try world.finish()
  }

  /// A compressed message is JSON like any other, and one that is not is told so.
  @Test func aCompressedMessage() throws {
    let (world, node, client) = try begin("Sec-WebSocket-Extensions: permessage-deflate\r\n")
    // [1] and then {" in stored blocks, as any compressor may write them.
    client.send(frame(0xC1, unhex("000300fcff5b315d00"))).send(frame(0xC1, unhex("000200fdff7b2200"))).resume()
    world.run(.seconds(1))
    #expect(node.requests.contains { $0.text.hasPrefix("[1]") })
    #expect(frames(client)[2...3].elementsEqual([0x11, 0x30]))  // 4400
    try world.finish()
  }

  @Test func aClientThatVanishesEndsTheCall() throws {
    let (world, node, client) = try begin()
    client.reset().resume()
    world.run(.seconds(1))
    #expect(world.worker.callsInFlight == 0)
    #expect(node.openCount == 0)
    try world.finish()
  }
}
