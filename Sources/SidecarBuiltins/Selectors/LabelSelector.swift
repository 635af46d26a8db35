// The `label` selector: `label:region=eu,tier=gold`.

import SidecarCore

/// Nodes with the first label come first, then those with the second, and so on; last those with none (go-plugins
/// selector/label). go-micro's goes through that order from its start for each call, so that one node gets all of them;
/// here those of one label share them as `leastrequest` has it.
struct LabelSelector: Selector {
  /// Labels a setting may name.
  static let labelsMax = 64

  let labels: [(key: String, value: String)]
  /// By node: the place of its first label, `labels.count` where it has none.
  private var ranks: [UInt8] = []
  private let lists = ListMemory<RankedList>()

  init(_ labels: [(key: String, value: String)]) { self.labels = labels }

  /// Errors: no `key=value` pairs, or too many.
  static func labels(argument: String?) throws(ConfigurationError) -> [(key: String, value: String)] {
    let parts = (argument ?? "").split(separator: ",", omittingEmptySubsequences: false)
    var labels: [(key: String, value: String)] = []
    for part in parts {
      guard let equals = part.firstIndex(of: "="), equals > part.startIndex else {
        throw ConfigurationError(
          "selector label: found \"\(part)\", expected key=value pairs such as label:region=eu,tier=gold")
      }
      labels.append((String(part[..<equals]), String(part[part.index(after: equals)...])))
    }
    guard labels.count <= labelsMax else {
      throw ConfigurationError("selector label: more than \(labelsMax) labels")
    }
    return labels
  }

  mutating func rebuild(_ candidates: Candidates) {
    ranks = candidates.nodes.map { candidate in
      UInt8(labels.firstIndex { candidate.node.metadata[$0.key] == $0.value } ?? labels.count)
    }
    lists.removeAll()
  }

  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    guard !context.allowed.isEmpty else { return nil }
    let list = lists.find(context) { list in
      list.build(context, ranks, labels.count + 1)
    } make: {
      RankedList()
    }
    return list.pick(context, &random, now)
  }
}

/// The allowed nodes of one generation, by rank.
private final class RankedList {
  private final class Rank {
    var indices: [UInt32] = []
    var bits: [UInt64] = []
    var draw = WeightedDraw()
  }

  private var ranks: [Rank] = []

  func build(_ context: SelectContext, _ rankOf: [UInt8], _ ranksCount: Int) {
    while ranks.count < ranksCount { ranks.append(Rank()) }
    for rank in ranks {
      rank.indices.removeAll(keepingCapacity: true)
      rank.bits.removeAll(keepingCapacity: true)
    }
    for index in context.allowed {
      let rank = ranks[Int(rankOf[Int(index)])]
      rank.indices.append(index)
      while rank.bits.count <= Int(index &>> 6) { rank.bits.append(0) }
      rank.bits[Int(index &>> 6)] |= 1 &<< UInt64(index & 63)
    }
    for rank in ranks {
      rank.draw.removeAll()
      let loads = context.loads
      if !context.isEven { rank.draw.build(count: rank.indices.count) { loads[Int(rank.indices[$0])].weight } }
    }
  }

  func pick(_ context: SelectContext, _ random: inout SeededRandom, _ now: Instant) -> Int? {
    for rank in ranks where !rank.indices.isEmpty {
      // The same nodes and weights as a list of their own.
      let picked = rank.indices.withUnsafeBufferPointer { indices in
        rank.bits.withUnsafeBufferPointer { bits -> Int? in
          guard let allowedBits = bits.baseAddress else { return nil }
          return SelectContext(
            allowed: indices, allowedBits: allowedBits, loads: context.loads, weightMax: context.weightMax,
            isEven: context.isEven, slots: rank.draw.pointer, generation: context.generation, subset: context.subset,
            tried: context.tried, fullBits: context.fullBits, key: nil, latencyDecay: context.latencyDecay
          ).best(&random) { context.hasLessToDo($0, than: $1, now) }
        }
      }
      if let picked { return picked }
    }
    return nil
  }
}
