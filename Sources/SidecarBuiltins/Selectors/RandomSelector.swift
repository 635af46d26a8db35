// The `random` selector.

import SidecarCore

/// Any node that is allowed, each as likely: what go-micro does everywhere unless told otherwise (go-micro
/// selector/strategy.go @ v0.14.0).
struct RandomSelector: Selector {
  private var count = 0

  mutating func rebuild(_ candidates: Candidates) { count = candidates.nodes.count }

  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    guard context.excluded != 0 else { return count == 0 ? nil : random.below(count) }
    let allowed = context.allowed(of: count)
    return allowed == 0 ? nil : context.index(ofAllowed: random.below(allowed), of: count)
  }

  mutating func mark(_ index: Int, revision: UInt64, outcome: CallOutcome, now: Instant) {}
  mutating func reset() {}
}

extension SelectContext {
  /// The first 64 indices below `count` that are not excluded, as a bit mask.
  @inline(__always) private func allowedMask(_ count: Int) -> UInt64 {
    count >= 64 ? ~excluded : ~excluded & ((1 &<< UInt64(count)) &- 1)
  }

  /// How many of `count` indices are not excluded.
  @inline(__always) func allowed(of count: Int) -> Int {
    allowedMask(count).nonzeroBitCount + max(count - 64, 0)
  }

  /// The index that `position` indices that are not excluded come before; `position` is below `allowed(of: count)`.
  @inline(__always) func index(ofAllowed position: Int, of count: Int) -> Int {
    var mask = allowedMask(count)
    let low = mask.nonzeroBitCount
    if position >= low { return 64 + position - low }
    for _ in 0..<position { mask &= mask &- 1 }
    return mask.trailingZeroBitCount
  }
}
