// The nodes of a service that match a filter, and which of them may be picked at the moment. What is worked out here is
// kept until something changes, so that a pick costs no look at nodes that do not count.

/// Indices with what selectors want to know of them. Memory of its own; grows, never shrinks.
struct IndexList: ~Copyable {
  private(set) var indices: UnsafeMutableBufferPointer<UInt32>
  private(set) var bits: UnsafeMutableBufferPointer<UInt64>
  private(set) var count = 0
  private(set) var weightMax: Float = 0
  private(set) var isEven = true
  private(set) var generation: UInt64 = 0
  /// Draws by weight; empty while the weights are equal.
  private var draw = WeightedDraw()

  init() {
    indices = .allocate(capacity: 0)
    bits = .allocate(capacity: 0)
  }

  deinit {
    indices.deallocate()
    bits.deallocate()
  }

  /// Empties it, for indices below `candidates`.
  mutating func begin(candidates: Int, generation: UInt64) {
    if indices.count < candidates {
      indices.deallocate()
      indices = .allocate(capacity: candidates)
      bits.deallocate()
      bits = .allocate(capacity: (candidates + 63) / 64)
    }
    bits.initialize(repeating: 0)
    count = 0
    weightMax = 0
    isEven = true
    draw.removeAll()
    self.generation = generation
  }

  /// All are there.
  mutating func end(_ loads: UnsafePointer<NodeLoad>) {
    guard !isEven else { return }
    let indices = indices
    draw.build(count: count) { loads[Int(indices[$0])].weight }
  }

  /// Indices must come ascending.
  mutating func append(_ index: UInt32, weight: Float) {
    indices.initializeElement(at: count, to: index)
    count += 1
    bits[Int(index) &>> 6] |= 1 &<< UInt64(index & 63)
    if count > 1, weight != weightMax { isEven = false }
    weightMax = max(weightMax, weight)
  }

  var slots: UnsafePointer<WeightedSlot>? { draw.pointer }
  var span: UnsafeBufferPointer<UInt32> { UnsafeBufferPointer(start: indices.baseAddress, count: count) }
}

/// One subset of a `NodeSet`. Loop-confined.
final class NodeSubset {
  let filter: NodeFilter
  /// Position among the subsets of its set.
  let id: Int
  /// Those that match, by index, ascending; as of the set's last rebuild.
  fileprivate(set) var members: [UInt32] = []
  /// Of `NodeSet.version` when the lists were made.
  private var version: UInt64 = .max
  /// The usable nodes, those of the first tier first. A tier is a priority of the registry, and in it zones: ours before
  /// others.
  private var tiers: [Tier] = []
  private(set) var tierCount = 0
  /// All usable nodes.
  private var all = IndexList()
  /// Half-open ones, each of which may take one call.
  private(set) var halfOpen: [UInt32] = []
  /// Fewer are usable than the threshold has it, so that ejected ones are used as well.
  private(set) var isPanicking = false
  var lastUsed = Instant(nanoseconds: 0)

  private final class Tier {
    var list = IndexList()
    var members = 0
    /// Share of the calls that go to this tier or an earlier one.
    var shareUpTo = 0.0
  }

  /// What share of a tier's nodes may be out before calls spill over into the next: 1 - 1/1.4, as Envoy has it
  /// (overprovisioning factor 140 %).
  private static let overprovisioning = 1.4

  init(_ filter: NodeFilter, id: Int) {
    self.filter = filter
    self.id = id
  }

  func rebuild(_ nodes: [CatalogNode]) {
    members.removeAll(keepingCapacity: true)
    for (index, node) in nodes.enumerated() where filter.isEmpty || filter.matches(node) {
      members.append(UInt32(index))
    }
    version = .max
  }

  /// Works the lists out anew if anything has changed.
  @inline(__always)
  func refresh(_ set: NodeSet) {
    if version != set.version { build(set) }
  }

  private func build(_ set: NodeSet) {
    version = set.version
    let count = set.count
    all.begin(candidates: count, generation: set.nextGeneration())
    halfOpen.removeAll(keepingCapacity: true)
    var usable = 0
    for index in members {
      if set.isHalfOpen(Int(index)) { halfOpen.append(index) }
      if set.isUsable(Int(index)) { usable += 1 }
    }
    var level = NodeSet.Use.well
    isPanicking = false
    // Never an empty set, whatever the threshold.
    if usable == 0 || Double(usable) < set.policy.panicThreshold * Double(members.count) {
      level = .ejectedToo
      // Those that refused dials are left out for as long as there is any other.
      let more = members.count { set.mayUse(Int($0), .ejectedToo) }
      isPanicking = more > usable
      if more == 0 { level = .any }
    }
    tierCount = 0
    var key = 0
    for index in members where set.mayUse(Int(index), level) {
      all.append(index, weight: set.loads[Int(index)].weight)
      if all.count == 1 { key = set.tierKey(Int(index)) }
    }
    all.end(set.loads)
    // Nearly always there is one tier only, whose list is that of all.
    guard all.span.contains(where: { set.tierKey(Int($0)) != key }) else { return }
    buildTiers(set)
  }

  private func buildTiers(_ set: NodeSet) {
    var keys: [Int: Int] = [:]
    for index in members { keys[set.tierKey(Int(index)), default: 0] += 1 }
    var used = 0.0
    for (key, memberCount) in keys.sorted(by: { $0.key < $1.key }) {
      if tierCount == tiers.count { tiers.append(Tier()) }
      let tier = tiers[tierCount]
      tier.members = memberCount
      tier.list.begin(candidates: set.count, generation: set.nextGeneration())
      for index in all.span where set.tierKey(Int(index)) == key {
        tier.list.append(index, weight: set.loads[Int(index)].weight)
      }
      tier.list.end(set.loads)
      let well = min(1, Double(tier.list.count) / Double(memberCount) * Self.overprovisioning)
      used = min(1, used + (1 - used) * well)
      tier.shareUpTo = used
      tierCount += 1
      if used >= 1 { break }
    }
    // With no tier whole, all of what is left goes by the same shares.
    if used > 0, used < 1 { for tier in tiers[..<tierCount] { tier.shareUpTo /= used } }
    if tierCount == 1, tiers[0].list.count == all.count { tierCount = 0 }
  }

  /// Hands the list that the next pick is to be made from to `body`; then, if that found none, the list of all.
  @inline(__always)
  func choose(_ random: inout SeededRandom, _ body: (borrowing IndexList, inout SeededRandom) -> Int?) -> Int? {
    if tierCount > 0 {
      let drawn = tierCount == 1 ? 0 : Double(random.next() &>> 11) * 0x1p-53
      for tier in tiers[..<tierCount] where drawn < tier.shareUpTo || tierCount == 1 {
        if let index = body(tier.list, &random) { return index }
        break
      }
    }
    return body(all, &random)
  }

  var usableCount: Int { all.count }

  /// Usable, but in no tier that calls go to.
  func isSpare(_ index: Int) -> Bool {
    guard tierCount > 0 else { return false }
    return !tiers[..<tierCount].contains { $0.list.bits[index &>> 6] & (1 &<< UInt64(index & 63)) != 0 }
  }

  func isListed(_ index: Int) -> Bool { all.count > 0 && all.bits[index &>> 6] & (1 &<< UInt64(index & 63)) != 0 }
}
