// Whether one node gets calls: the passive health of a node as one worker sees it.
//
//   well ──failures in a row, low success rate, slow, refused dial──▶ out ──its time is over──▶ half-open
//    ▲                                                                 ▲                          │ one call at a time
//    └──────────────────────────── a success, in any state ────────────┴─────── failed again ─────┘

/// Why a node is out.
package enum EjectionCause: UInt8, Sendable, CaseIterable {
  case refused, failures, successRate, latency

  package var word: String {
    switch self {
    case .refused: "refused"
    case .failures: "consecutive_failures"
    case .successRate: "success_rate"
    case .latency: "latency"
    }
  }
}

/// The standing of one node. A value without clock: times come in. 64 bytes.
package struct NodeHealth: Sendable, Equatable {
  package enum Standing: UInt8, Sendable {
    /// Gets calls. To: out.
    case well
    /// Gets none until its time is over. To: halfOpen, well.
    case out
    /// Gets one call at a time, which decides. To: well, out.
    case halfOpen
  }

  package private(set) var standing = Standing.well
  package private(set) var cause = EjectionCause.failures
  /// An active check says that it is not well.
  package var isUnhealthy = false
  /// The one call of a half-open node is under way.
  package private(set) var isProbed = false
  /// How often it was put out lately.
  private(set) var ejections: UInt8 = 0
  private(set) var failuresInARow: UInt16 = 0
  /// When it may be tried again, while out; when it became half-open, then.
  package private(set) var until = Instant(nanoseconds: 0)
  /// Since when its share grows; nil: it has its whole share.
  package var growsSince: Instant?
  private var calls: Float = 0
  private var successes: Float = 0
  private var countedAt = Instant(nanoseconds: 0)
  private var wellSince = Instant(nanoseconds: 0)

  /// The longest a node is passed over because dials of it time out: to try costs one call a second at most.
  static let refusedTimeMax: Int64 = 30_000_000_000

  package init() {}

  /// What an outcome changes.
  package enum Change: Equatable, Sendable {
    case nothing
    /// It has to go, if so many may; `eject` follows then.
    case shouldEject(EjectionCause)
    /// It is well again.
    case recovered
    /// Its probe ended without a verdict.
    case probeOver
  }

  /// Whether it gets calls without more ado.
  package var isUsable: Bool { standing == .well && !isUnhealthy }

  /// A call to it begins.
  package mutating func began() {
    if standing == .halfOpen { isProbed = true }
  }

  package mutating func succeeded(_ now: Instant, _ policy: EjectionPolicy) -> Change {
    count(now, policy, 1)
    failuresInARow = 0
    isProbed = false
    guard standing != .well else { return .nothing }
    standing = .well
    wellSince = now
    calls = 0
    successes = 0
    return .recovered
  }

  package mutating func failed(_ now: Instant, _ policy: EjectionPolicy) -> Change {
    count(now, policy, 0)
    if failuresInARow < .max { failuresInARow += 1 }
    isProbed = false
    switch standing {
    case .halfOpen: return .shouldEject(cause == .refused ? .failures : cause)
    case .out: return .nothing
    case .well: break
    }
    if policy.consecutiveFailures > 0, failuresInARow >= policy.consecutiveFailures { return .shouldEject(.failures) }
    if policy.successRateMin > 0, calls >= Float(policy.callsMin), successes < calls * Float(policy.successRateMin) {
      return .shouldEject(.successRate)
    }
    return .nothing
  }

  /// A dial failed after `elapsed` nanoseconds.
  package mutating func refused() -> Change {
    isProbed = false
    return .shouldEject(.refused)
  }

  /// A call ended without saying anything about the node.
  package mutating func nothingLearned() -> Change {
    guard isProbed else { return .nothing }
    isProbed = false
    return .probeOver
  }

  /// Enough calls lately to judge it by.
  func isKnown(_ now: Instant, _ policy: EjectionPolicy) -> Bool {
    calls * Decay.factor(elapsed: now.nanoseconds(since: countedAt), constant: policy.window) >= Float(policy.callsMin)
  }

  /// Puts it out. `wasSlow`: the refused dial took its whole time, so that the next try should come later.
  package mutating func eject(_ cause: EjectionCause, wasSlow: Bool, _ now: Instant, _ policy: EjectionPolicy) {
    // A node that was well for as long as the longest ejection has a clean record again.
    if standing == .well, now.nanoseconds(since: wellSince) > policy.timeMax { ejections = 0 }
    let base: Int64
    if cause == .refused, !wasSlow {
      base = policy.refusedTime
    } else {
      base =
        cause == .refused
        ? Self.grown(policy.refusedTime, ejections, min(policy.timeMax, Self.refusedTimeMax))
        : Self.grown(policy.baseTime, ejections, policy.timeMax)
      if ejections < 32 { ejections += 1 }
    }
    standing = .out
    self.cause = cause
    until = now.advanced(byNanoseconds: base)
    failuresInARow = 0
    growsSince = nil
  }

  private static func grown(_ base: Int64, _ doublings: UInt8, _ most: Int64) -> Int64 {
    let (time, overflow) = base.multipliedReportingOverflow(by: 1 &<< Int64(min(doublings, 32)))
    return overflow ? most : max(min(time, most), 0)
  }

  /// Its time out may be over. True when something changed.
  package mutating func turn(_ now: Instant) -> Bool {
    guard standing == .out, now >= until else { return false }
    standing = .halfOpen
    isProbed = false
    until = now
    return true
  }

  private mutating func count(_ now: Instant, _ policy: EjectionPolicy, _ success: Float) {
    let left = Decay.factor(elapsed: now.nanoseconds(since: countedAt), constant: policy.window)
    calls = calls * left + 1
    successes = successes * left + success
    countedAt = now
  }
}
