// The `random` selector, by another name `weightedrandom`.

import SidecarCore

/// Any node that is allowed, as likely as its weight: what go-micro does everywhere unless told otherwise (go-micro
/// selector/strategy.go @ v0.14.0), which knows no weights.
struct RandomSelector: Selector {
  mutating func rebuild(_ candidates: Candidates) {}

  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    context.drawUntried(&random).map { Int($0) }
  }
}
