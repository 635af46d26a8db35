// The selectors `shard` and `crc32`: the nodes that go-micro's shard strategy and shard wrapper choose for a key.

import SidecarCore

/// The node with the highest HighwayHash of its id under the key (go-plugins strategy shard; rendezvous hashing): go-micro
/// clients with that strategy come to the same node. Other nodes follow in the order of their hashes.
///
/// To rank the nodes is to hash every id, so the best node of recent keys is remembered.
struct ShardSelector: Selector {
  private let ranks = ShardMemory()

  mutating func rebuild(_ candidates: Candidates) { ranks.replace(candidates.nodes) }

  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    guard let key = context.key else { return context.drawUntried(&random).map { Int($0) } }
    guard !context.allowed.isEmpty else { return nil }
    if let known = ranks.find(key, context.generation), context.mayPick(Int(known)) { return Int(known) }
    return ranks.rank(key, context).map { Int($0) }
  }

  mutating func reset() { ranks.forget() }
}

private final class ShardMemory {
  /// Keys whose node is remembered; a power of two.
  private static let keysMax = 1024

  private struct Entry {
    var key = SelectKey(0)
    var generation: UInt64 = 0
    var index: UInt32 = 0
  }

  private var ids: [[UInt8]] = []
  /// Empty until the first call with a key.
  private var entries: [Entry] = []

  func replace(_ nodes: [Candidate]) {
    ids = nodes.map { Array($0.node.id.utf8) }
    forget()
  }

  func forget() {
    for index in entries.indices { entries[index] = Entry() }
  }

  @inline(__always)
  func find(_ key: SelectKey, _ generation: UInt64) -> UInt32? {
    guard !entries.isEmpty else { return nil }
    let entry = entries[Self.place(key)]
    return entry.generation == generation && entry.key == key ? entry.index : nil
  }

  @inline(__always)
  private static func place(_ key: SelectKey) -> Int { Int(truncatingIfNeeded: key.hash & UInt64(keysMax - 1)) }

  func rank(_ key: SelectKey, _ context: SelectContext) -> UInt32? {
    if entries.isEmpty { entries = Array(repeating: Entry(), count: Self.keysMax) }
    let lanes = HighwayHash.Lanes(key.hash, key.rest.0, key.rest.1, key.rest.2)
    var best: UInt32?
    var highest: UInt64 = 0
    for index in context.allowed where !context.wasTried(index) {
      let score = ids[Int(index)].withUnsafeBytes { HighwayHash.hash64($0, key: lanes) }
      // Of equals the later one (go-plugins strategy shard).
      if best == nil || score >= highest {
        best = index
        highest = score
      }
    }
    // A full node has its keys back as soon as a place falls free.
    if let best, context.tried.isEmpty, context.fullBits == nil {
      entries[Self.place(key)] = Entry(key: key, generation: context.generation, index: best)
    }
    return best
  }
}

/// The key's CRC-32 modulo the number of nodes, as go-micro's shard wrapper has it: a node more or less moves nearly all
/// keys. A node that is out or tried leaves its keys to the next one.
struct CRC32Selector: Selector {
  private var count = 0

  mutating func rebuild(_ candidates: Candidates) { count = candidates.nodes.count }

  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    guard let key = context.key else { return context.drawUntried(&random).map { Int($0) } }
    guard !context.allowed.isEmpty, count > 0 else { return nil }
    let index = UInt32(truncatingIfNeeded: key.hash % UInt64(count))
    if context.mayPick(Int(index)) { return Int(index) }
    var position = context.position(after: index)
    for _ in 0..<context.allowed.count {
      if position >= context.allowed.count { position = 0 }
      let other = context.allowed[position]
      if !context.wasTried(other) { return Int(other) }
      position &+= 1
    }
    return nil
  }
}
