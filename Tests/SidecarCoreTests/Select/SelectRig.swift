// The nodes of a service without a worker: candidates, an order of picks, time.

@testable import SidecarCore

/// A node set with a selector that draws by weight.
final class SelectRig {
  struct Drawing: Selector {
    mutating func rebuild(_ candidates: Candidates) {}
    mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
      context.drawUntried(&random).map { Int($0) }
    }
  }

  let set: NodeSet
  var selector: any Selector = Drawing()
  var random: SeededRandom
  var now = Instant(nanoseconds: 1_000_000_000_000)
  private(set) var candidates: [Candidate] = []
  private var nodes: [CatalogNode] = []

  init(
    _ metadata: [[String: String]], zone: String = "", seed: UInt64 = 1, policy: ServicePolicy = ServicePolicy()
  ) {
    random = SeededRandom(seed: seed)
    set = NodeSet(policy, zone: zone)
    rebuild(metadata.enumerated().map { ("n\($0.offset)", $0.element) })
  }

  convenience init(_ count: Int, seed: UInt64 = 1, policy: ServicePolicy = ServicePolicy()) {
    self.init(Array(repeating: [:], count: count), seed: seed, policy: policy)
  }

  /// Metadata `version` is the version of the service, `endpoints` those it lists, by blanks.
  func rebuild(_ described: [(id: String, metadata: [String: String])]) {
    let before = Dictionary(uniqueKeysWithValues: nodes.enumerated().map { ($0.element.node.id, $0.offset) })
    nodes = described.map { id, metadata in
      let endpoints = (metadata["endpoints"] ?? "").split(separator: " ").map { Endpoint(name: String($0)) }
      return CatalogNode(
        node: Node(id: id, address: "10.0.0.1:80", metadata: metadata),
        version: VersionInfo(
          service: "s", version: metadata["version"] ?? "latest", metadata: [:], endpoints: endpoints),
        target: .opaque("-"), origins: [0])
    }
    candidates = nodes.map { Candidate(node: $0.node, version: $0.version.version) }
    set.rebuild(nodes, candidates: candidates, previous: nodes.map { before[$0.node.id] ?? -1 }, now: now)
  }

  func pass(_ seconds: Double) { now = now.advanced(byNanoseconds: Int64(seconds * 1e9)) }

  func pick(_ filter: NodeFilter = NodeFilter(), tried: [UInt32] = [], isRepeatable: Bool = false) -> Int? {
    var wish = NodeSet.Wish()
    wish.filter = filter
    wish.isRepeatable = isRepeatable
    return tried.withUnsafeBufferPointer {
      set.pick(wish, tried: $0, &selector, random: &random, now: now)
    }
  }

  /// How often each node is picked, with nothing under way.
  func counts(_ picks: Int, _ filter: NodeFilter = NodeFilter()) -> [Int] {
    var counts = Array(repeating: 0, count: set.count)
    for _ in 0..<picks { if let index = pick(filter) { counts[index] += 1 } }
    return counts
  }

  func call(_ index: Int, _ outcome: CallOutcome, elapsed: Int64 = 1_000_000) {
    set.began(index)
    set.ended(index, outcome, elapsed: elapsed, now: now)
  }

  func fail(_ index: Int, times: Int = 5) { for _ in 0..<times { call(index, .failure(latency: 1_000_000)) } }
}
