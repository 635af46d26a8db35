// What the registries say of a service, on its way to the selector and the connections of a worker.

@testable import SidecarCore
import SidecarSim
import Testing

private let greeter = "go.micro.srv.greeter"

/// Takes the node of the greatest weight, and remembers what it was given. Touched on the simulated loop only.
private final class Given: @unchecked Sendable {
  var candidates = Candidates(revision: 0, nodes: [])
  var rebuilds = 0
}

private struct HeaviestSelector: Selector {
  let given: Given
  mutating func rebuild(_ candidates: Candidates) {
    given.candidates = candidates
    given.rebuilds += 1
  }
  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    given.candidates.nodes.indices.filter { context.mayPick($0) }.max {
      given.candidates.nodes[$0].weight < given.candidates.nodes[$1].weight
    }
  }
}

@Suite struct ServiceTableTests {
  private func node(_ upstream: HTTPUpstream, _ id: String, _ metadata: [String: String]) -> Node {
    Node(
      id: id, address: upstream.address.description, metadata: DataPathWorld.micro.merging(metadata) { $1 })
  }

  @Test func weightZoneVersionAndMetadataReachTheSelectorAndConnectionsOutliveTheirChange() throws {
    let given = Given()
    let rig = try DataPathWorld { $0.makeSelector = { _ in HeaviestSelector(given: given) } }
    let light = try rig.node("light") { _ in .reply("{\"n\":1}\n") }
    let heavy = try rig.node("heavy") { _ in .reply("{\"n\":2}\n") }
    rig.register(
      greeter,
      nodes: [node(light, "l", ["zone": "a", "team": "x", "priority": "2"]), node(heavy, "h", ["weight": "7"])])
    #expect(given.rebuilds == 0, "a service nobody calls costs nothing")
    #expect(try rig.ask(Ask.post("/greeter/say/hello")).body == "{\"n\":2}")
    let first = given.candidates.nodes
    #expect(first.map(\.weight) == [1, 7] && first.map(\.priority) == [2, 0])
    #expect(first.map(\.zone) == ["a", ""] && first.map(\.version) == ["latest", "latest"])
    #expect(first[0].node.metadata["team"] == "x")
    rig.register(greeter, nodes: [node(light, "l", ["weight": "3"]), node(heavy, "h", ["weight": "2"])])
    #expect(try rig.ask(Ask.post("/greeter/say/hello")).body == "{\"n\":1}")
    rig.register(greeter, nodes: [node(light, "l", ["weight": "1"]), node(heavy, "h", ["weight": "9"])])
    #expect(try rig.ask(Ask.post("/greeter/say/hello")).body == "{\"n\":2}")
    #expect(heavy.acceptedCount == 1, "another weight is no reason to dial again")
    try rig.finish()
  }

  @Test(arguments: [
    ("5", 5), ("0", 0), ("2.6", 3), ("-3", 0), ("1e99", Candidate.weightMax), ("many", 1), ("nan", 1), ("", 1),
  ])
  func aWeightIsANumberWithinBounds(_ text: String, _ weight: Int) {
    let candidate = Candidate(node: Node(id: "a", address: "h:1", metadata: ["weight": text]), version: "1")
    #expect(candidate.weight == weight)
  }

  @Test func aServiceThatLeavesAndComesBackIsCalledAgain() throws {
    let rig = try DataPathWorld()
    let upstream = try rig.node { _ in .reply("{}\n") }
    rig.register(greeter, at: [upstream.address])
    #expect(try rig.ask(Ask.post("/greeter/say/hello")).status == 200)
    rig.deregister(greeter)
    #expect(rig.worker.entry(greeter) == nil)
    #expect(try rig.ask(Ask.post("/greeter/say/hello")).status == 404)
    rig.register(greeter, at: [upstream.address])
    #expect(try rig.ask(Ask.post("/greeter/say/hello")).status == 200)
    try rig.finish()
  }
}
