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

  /// In whatever order they come, with ids that are there twice: each stays the object it was, once, and what is gone is told.
  @Test func nodesThatStayKeepWhatIsKnownOfThem() throws {
    let rig = try DataPathWorld()
    let table = ServiceTable(name: greeter, worker: rig.worker)
    let version = VersionInfo(service: greeter, version: "1", metadata: [:], endpoints: [])
    var random = SeededRandom(seed: 7)
    var ids: [String] = []
    for revision in 1...600 as ClosedRange<UInt64> {
      for _ in 0..<random.below(4) {
        switch random.below(5) {
        case 0 where !ids.isEmpty: ids.remove(at: random.below(ids.count))
        case 1: ids.insert("n\(random.below(40))", at: random.below(ids.count + 1))
        case 2 where ids.count > 1: ids.swapAt(random.below(ids.count), random.below(ids.count))
        case 3 where random.below(20) == 0: ids.shuffle(using: &random)
        default: ids.append("n\(random.below(40))")
        }
      }
      if ids.count > 30 { ids.removeFirst(10) }
      let before = table.nodes
      let nodes = ids.map {
        CatalogNode(
          node: Node(id: $0, address: "10.0.0.1:80"), version: version, target: DialTarget("10.0.0.1:80")!,
          origins: [0])
      }
      table.update(ServiceEntry(name: greeter, revision: revision, versions: [], nodes: nodes, isStale: false))
      let now = table.nodes
      #expect(now.map(\.node.id) == ids && now.map(\.index) == Array(0..<ids.count))
      #expect(Set(now.map { ObjectIdentifier($0) }).count == now.count, "one object for each")
      for id in Set(ids + before.map(\.node.id)) {
        let old = before.filter { $0.node.id == id }
        let kept = now.filter { state in old.contains { $0 === state } }
        let most = min(old.count, now.count { $0.node.id == id })
        // Of those that share an id one at least.
        #expect((min(most, 1)...most).contains(kept.count), "revision \(revision), \(id)")
        for state in old where !kept.contains(where: { $0 === state }) {
          #expect(state.index == -1 && state.target.isRetired)
        }
      }
    }
    try rig.finish()
  }
}
