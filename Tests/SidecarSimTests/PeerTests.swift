// The scripted peers do what their scripts say, and what they are told to do badly.

import SidecarCore
import SidecarSim
import Testing

@Suite struct PeerTests {
  private func exchange(
    _ request: String, seed: UInt64 = 30, plan: FaultPlan = .none,
    expecting wanted: String? = nil, answering answer: @escaping (HTTPUpstream.Request) -> HTTPUpstream.Answer
  ) throws -> (client: ScriptedClient, upstream: HTTPUpstream, world: SimWorld) {
    let world = SimWorld(seed: seed, plan: plan)
    let (a, b) = (world.makeHost("a").makeLoop(), world.makeHost("b").makeLoop())
    let upstream = try HTTPUpstream(on: b, at: b.host.address(port: 80), answering: answer)
    let client = ScriptedClient(on: a, to: upstream.address).send(request)
    _ = wanted.map { client.expect($0).close() }
    client.start()
    world.run(for: .seconds(30))
    return (client, upstream, world)
  }

  @Test func anUpstreamReadsBodiesAndPipelinesInOrder() throws {
    let (client, upstream, world) = try exchange(
      "POST /a HTTP/1.1\r\nContent-Length: 3\r\nX-First: 1\r\n\r\nabcGET /b HTTP/1.1\r\n\r\n"
        + "PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1;x\r\nf\r\n0\r\nT: 1\r\n\r\n",
      plan: FaultPlan().with(.splitRead, 1), expecting: "r2"
    ) { request in .reply("r\(request.index)").after(.milliseconds(10 * (3 - request.index))) }
    #expect(upstream.requests.map(\.target) == ["/a", "/b", "/c"])
    #expect(upstream.requests.map(\.text) == ["abc", "", "def"])
    #expect(upstream.requests[2].firstHeaders.contains { $0.name == "X-First" })
    let first = client.text.firstRange(of: "r0")?.lowerBound
    #expect(first.map { $0 < client.text.endIndex } == true && client.text.hasSuffix("r2"))
    #expect(client.end == .closedHere)
    upstream.stop()
    world.run(for: .seconds(1))
    try world.checkNoLeaks()
  }

  @Test func answersCanBeCutResetStalledOrLie() throws {
    let get = "GET / HTTP/1.1\r\n\r\n"
    #expect(try exchange(get) { _ in .reset }.client.end == .reset("connection reset by peer"))
    let cut = try exchange(get) { _ in .reply("hello").cut(after: 10).thenClose() }.client
    #expect(cut.text == "HTTP/1.1 2" && cut.peerEnded)
    let lie = try exchange(get) { _ in .lie("hello", claiming: 9).thenReset() }.client
    #expect(lie.text.hasSuffix("Content-Length: 9\r\n\r\nhello") && lie.end == .reset("connection reset by peer"))
    let stalled = try exchange(get) { _ in .stall }.client
    #expect(stalled.received.isEmpty && stalled.end == nil)
    let pieces = try exchange(get) { _ in .chunks(["ab", "cde"]).inPieces(of: 7, every: .milliseconds(5)) }.client
    #expect(pieces.text.hasSuffix("2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n") && pieces.readCount > 5)
  }
}
