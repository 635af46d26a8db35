// Keys and filters of calls, from their headers to the selector.

@testable import SidecarCore
import SidecarSim
import Testing

private let greeter = "go.micro.srv.greeter"

/// Takes the node of a key, and the first one without.
private struct KeyedSelector: Selector {
  mutating func rebuild(_ candidates: Candidates) {}
  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    guard !context.allowed.isEmpty else { return nil }
    guard let key = context.key else { return Int(context.allowed[0]) }
    return Int(context.allowed[1 + Int(key.hash % UInt64(context.allowed.count - 1))])
  }
}

@Suite struct AffinityTests {
  private func world(_ affinity: AffinityKey) throws -> DataPathWorld {
    try DataPathWorld {
      $0.makeSelector = { _ in KeyedSelector() }
      $0.selectorKeys = { _ in (.mixed, affinity) }
    }
  }

  private func addNodes(_ rig: DataPathWorld, _ count: Int) throws {
    var nodes: [Node] = []
    for index in 0..<count {
      let upstream = try rig.node("n\(index)") { request in
        .reply("{\"n\":\(request.header("X-Micro-Select") == nil ? index : -1)}\n")
      }
      var metadata = DataPathWorld.micro
      metadata["region"] = index % 2 == 0 ? "eu" : "us"
      nodes.append(Node(id: "n\(index)", address: upstream.address.description, metadata: metadata))
    }
    rig.register(greeter, nodes: nodes)
  }

  @Test func `calls of one header value go to one node, others elsewhere`() throws {
    let rig = try world(.header("x-user"))
    try addNodes(rig, 9)
    var seen: Set<String> = []
    for user in 0..<30 {
      let replies = try (0..<3).map { _ in
        try rig.ask(Ask.post("/greeter/say/hello", headers: ["X-User: u\(user)"])).body
      }
      #expect(Set(replies).count == 1)
      seen.insert(replies[0])
    }
    #expect(seen.count >= 5)
    #expect(try rig.ask(Ask.post("/greeter/say/hello")).body == "{\"n\":0}")
    try rig.finish()
  }

  @Test func `calls of one cookie go to one node`() throws {
    let rig = try world(.cookie("sid"))
    try addNodes(rig, 9)
    let a = try rig.ask(Ask.post("/greeter/say/hello", headers: ["Cookie: a=1; sid=x1"])).body
    let b = try rig.ask(Ask.post("/greeter/say/hello", headers: ["Cookie: sid=x1; z=3"])).body
    #expect(a == b && a != "{\"n\":0}")
    try rig.finish()
  }

  @Test func `explain names the selector that an affinity implies`() throws {
    var policy = ServicePolicy()
    policy.affinity = .header("x-user")
    let rig = try DataPathWorld {
      $0.policies = PolicyTable(service: policy)
      $0.selectorName = "ewma"
      $0.selectorKeys = { $0 == "hash" ? (.mixed, nil) : (nil, nil) }
    }
    try addNodes(rig, 2)
    let table = try #require(rig.worker.service(greeter))
    let explained = rig.worker.explanation(table, "Say.Hello", asked: nil)
    #expect(explained["selection"]?["selector"]?.stringValue == "hash")
    policy.selector = "random"
    rig.worker.policies = PolicyTable(service: policy)
    #expect(
      rig.worker.explanation(table, "Say.Hello", asked: nil)["selection"]?["selector"]?.stringValue == "random")
    try rig.finish()
  }

  @Test func `X-Micro-Select narrows the nodes of one call and does not go on`() throws {
    let rig = try world(.header("x-user"))
    try addNodes(rig, 4)
    let request = Ask.post("/greeter/say/hello", headers: ["X-Micro-Select: region=us"])
    #expect(try rig.ask(request).body == "{\"n\":1}")
    let other = Ask.post("/greeter/say/hello", headers: ["X-Micro-Select: version=latest, region=eu"])
    #expect(try rig.ask(other).body == "{\"n\":0}")
    let none = try rig.ask(Ask.post("/greeter/say/hello", headers: ["X-Micro-Select: version=v9"]))
    #expect(none.status == 503)
    let malformed = try rig.ask(Ask.post("/greeter/say/hello", headers: ["X-Micro-Select: v9"]))
    #expect(malformed.status == 400)
    try rig.finish()
  }

  @Test func `with a source of nodes the registries' nodes are not called`() throws {
    let rig = try DataPathWorld { $0.hasNodeSource = true }
    let registered = try rig.node("a") { _ in .reply("{\"n\":1}\n") }
    let sourced = try rig.node("b") { _ in .reply("{\"n\":2}\n") }
    rig.register(greeter, at: [registered.address])
    let entry = rig.entry(greeter, [Node(id: "s", address: sourced.address.description, metadata: DataPathWorld.micro)])
    rig.control.answers[greeter] = entry
    #expect(try rig.ask(Ask.post("/greeter/say/hello")).body == "{\"n\":2}")
    rig.deregister(greeter)
    #expect(try rig.ask(Ask.post("/greeter/say/hello")).body == "{\"n\":2}")
    #expect(registered.acceptedCount == 0)
    rig.worker.applyNodes(CatalogDelta(revision: entry.revision + 10, removed: [greeter]))
    rig.control.answers[greeter] = nil
    #expect(try rig.ask(Ask.post("/greeter/say/hello")).status == 404)
    try rig.finish()
  }
}
