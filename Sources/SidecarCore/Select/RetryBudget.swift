// How many repetitions a service's callers may afford, so that retries never turn a small trouble into a large one.

/// Earns a part of a token with each call and a few with time; a repetition costs one. Sans-IO; one for each worker and
/// service.
///
/// In any span of time the repetitions allowed are at most `ratio` × the calls of that span and of the window before it,
/// plus `floorPerSecond` × (the span + the window).
package struct RetryBudget: Sendable {
  private let ratio: Double
  private let floorPerNanosecond: Double
  private let reserveMax: Double
  private let window: Int64
  /// Earned by calls; fades with the window, so that a busy hour does not pay for a storm in the next.
  private var earned = 0.0
  /// Filled by time.
  private var reserve: Double
  private var at: Instant
  package private(set) var spent: UInt64 = 0
  package private(set) var refused: UInt64 = 0

  /// `parts`: on how many workers the service's calls are spread; the floor is shared by them.
  package init(_ policy: RetryBudgetPolicy, parts: Int, now: Instant) {
    ratio = min(max(policy.ratio, 0), 10)
    window = max(policy.window, 1)
    let floor = max(policy.floorPerSecond, 0) / Double(max(parts, 1))
    floorPerNanosecond = floor / 1e9
    reserveMax = floor * Double(window) / 1e9
    reserve = reserveMax
    at = now
  }

  /// A call begins.
  package mutating func deposit(_ now: Instant) {
    catchUp(now)
    earned += ratio
  }

  /// Whether a repetition may be made now; true spends it.
  package mutating func withdraw(_ now: Instant) -> Bool {
    catchUp(now)
    if earned >= 1 {
      earned -= 1
    } else if earned + reserve >= 1 {
      reserve -= 1 - earned
      earned = 0
    } else {
      refused &+= 1
      return false
    }
    spent &+= 1
    return true
  }

  /// What it could pay for at this moment.
  package mutating func balance(_ now: Instant) -> Double {
    catchUp(now)
    return earned + reserve
  }

  /// The same without touching it.
  package func peek(_ now: Instant) -> Double {
    var copy = self
    return copy.balance(now)
  }

  private mutating func catchUp(_ now: Instant) {
    let elapsed = now.nanoseconds(since: at)
    // Below a millisecond nothing fades that matters, and a busy worker calls this for every call.
    guard elapsed >= 1_000_000 else { return }
    earned *= Double(Decay.factor(elapsed: elapsed, constant: window))
    reserve = min(reserve + Double(elapsed) * floorPerNanosecond, reserveMax)
    at = now
  }
}
