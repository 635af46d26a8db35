// The `roundrobin` selector.

import SidecarCore

/// One node after the other. go-micro's strategy of that name starts at a random node for every call, which makes it random
/// but for retries (go-micro selector/strategy.go @ v0.14.0); this one goes on where the last call stopped.
///
/// The first node is a random one, so that many workers and sidecars do not all begin with the same. A node passed over
/// because it is excluded loses its turn: the turn is not given to its neighbour twice.
struct RoundRobinSelector: Selector {
  private var count = 0
  private var next = 0
  private var isPlaced = false

  mutating func rebuild(_ candidates: Candidates) {
    count = candidates.nodes.count
    if next >= count { next = 0 }
  }

  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    guard count > 0 else { return nil }
    if !isPlaced {
      isPlaced = true
      next = random.below(count)
    }
    var index = next
    for _ in 0..<count {
      if !context.excludes(index) {
        next = index &+ 1 == count ? 0 : index &+ 1
        return index
      }
      index = index &+ 1 == count ? 0 : index &+ 1
    }
    return nil
  }

  mutating func mark(_ index: Int, revision: UInt64, outcome: CallOutcome, now: Instant) {}

  mutating func reset() { isPlaced = false }
}
