// The `roundrobin` selector.

import SidecarCore

/// One allowed node after the other, beginning anywhere; weights count for nothing. go-micro's counts anew for each call
/// (wire facts 9.2), which is random in all but name; this is what its callers meant.
///
/// It remembers which node was last rather than a position among the allowed, so that one more or one less of them moves
/// nobody's turn. Subsets have turns of their own.
struct RoundRobinSelector: Selector {
  /// Lists of one subset whose turns are remembered: calls that spill over are shown another one.
  private static let listsMax = 4

  private struct Turn {
    var generation: UInt64 = 0
    /// Index of the last pick; -1: none yet.
    var last: Int32 = -1
    var used: UInt64 = 0
  }

  /// `listsMax` for each subset.
  private var turns: [Turn] = []
  private var clock: UInt64 = 0

  mutating func rebuild(_ candidates: Candidates) {}

  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    let count = context.allowed.count
    guard count > 0 else { return nil }
    let place = turn(context)
    clock &+= 1
    turns[place].used = clock
    var position = turns[place].last < 0 ? random.below(count) : context.position(after: UInt32(turns[place].last))
    for _ in 0..<count {
      if position >= count { position = 0 }
      let index = context.allowed[position]
      if !context.wasTried(index) {
        turns[place].last = Int32(truncatingIfNeeded: index)
        return Int(index)
      }
      position &+= 1
    }
    return nil
  }

  /// Where the turn of the list at hand is kept. A new list goes on where the subset's last one was.
  private mutating func turn(_ context: SelectContext) -> Int {
    let first = context.subset &* Self.listsMax
    while turns.count < first &+ Self.listsMax { turns.append(Turn()) }
    var oldest = first
    var newest = first
    for place in first..<first &+ Self.listsMax {
      if turns[place].generation == context.generation { return place }
      if turns[place].used < turns[oldest].used { oldest = place }
      if turns[place].used > turns[newest].used { newest = place }
    }
    turns[oldest] = Turn(generation: context.generation, last: turns[newest].last, used: 0)
    return oldest
  }

  mutating func reset() { turns.removeAll(keepingCapacity: true) }
}

extension SelectContext {
  /// The position of the first allowed index above `index`; `allowed.count` when there is none.
  func position(after index: UInt32) -> Int {
    // While all are allowed an index is its own position.
    if Int(index) < allowed.count, allowed[Int(index)] == index { return Int(index) &+ 1 }
    var low = 0
    var high = allowed.count
    while low < high {
      let middle = (low &+ high) &>> 1
      if allowed[middle] <= index { low = middle &+ 1 } else { high = middle }
    }
    return low
  }
}
