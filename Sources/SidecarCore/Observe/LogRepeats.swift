// Bounds the log: a peer that makes us say the same thing a thousand times a second gets ten lines and a number.

/// Counts lines of one kind within a second.
struct LogRepeats {
  /// Lines of one kind that pass in one second.
  static let passedMax = 10
  /// Kinds counted at the same time; one more begins the second anew.
  static let kindsMax = 256

  struct Kind: Hashable {
    var level: LogLevel
    var message: String
  }
  /// Lines that were held back and not told yet.
  struct Held: Equatable {
    var kind: Kind
    var count: Int
  }

  private var second: Int64?
  private var counts: [Kind: Int] = [:]

  /// Counts a line. `passes`: it may be written. `held`: what earlier seconds held back, to be told now.
  mutating func admit(_ kind: Kind, second: Int64) -> (passes: Bool, held: [Held]) {
    var held: [Held] = []
    if self.second != second || (counts[kind] == nil && counts.count >= Self.kindsMax) {
      held = takeHeld()
      self.second = second
    }
    let count = (counts[kind] ?? 0) + 1
    counts[kind] = count
    return (count <= Self.passedMax, held)
  }

  /// What was held back and not told, in order of messages; counting begins anew.
  mutating func takeHeld() -> [Held] {
    let held = counts.filter { $0.value > Self.passedMax }
      .map { Held(kind: $0.key, count: $0.value - Self.passedMax) }
    counts.removeAll(keepingCapacity: true)
    return held.sorted {
      ($0.kind.message, $0.kind.level.rawValue) < ($1.kind.message, $1.kind.level.rawValue)
    }
  }
}
