// How many calls an app takes at once without getting slower, found out by trying: Netflix's gradient limit and Envoy's
// adaptive concurrency in one. Sans-IO.
//
//   steady ── every `probeInterval` ──▶ probing ── a window of calls begun in it ──▶ steady
//
// A window is the mean latency of some calls. The least of them, taken while few calls were under way (probing), is what
// the app can do. The limit follows the ratio of that to the latest: below `tolerance` it grows by its square root, above
// it shrinks, by half at most in one window.

package struct ConcurrencyLimit: Sendable {
  package static let limitMin = 4
  package static let limitMax = 4096
  package static let limitStart = 32
  /// How many times slower than at its best an app may be before fewer calls are let in.
  static let tolerance = 1.5
  /// Share of the way from the old limit to the new one that is gone in one window.
  static let smoothing = 0.3
  /// A window has at least so many calls, and takes at least so many nanoseconds.
  static let windowCallsMin = 10
  static let windowTimeMin: Int64 = 100_000_000
  static let probeInterval: Int64 = 30_000_000_000

  /// Calls that may be under way at once.
  package private(set) var limit = limitStart
  /// The mean latency of an app that is not pressed, in nanoseconds; 0: not known yet.
  package private(set) var best = 0.0
  package private(set) var isProbing = false
  private var exact = Double(limitStart)
  /// The limit but for probes, which lower it for a moment.
  package var steady: Int { Int(exact) }
  /// Calls begun before then say nothing about this window.
  private var windowFrom: Instant
  private var probeAt: Instant
  private var sum = 0.0
  private var count = 0
  private var outOfTime = 0
  private var insideMax = 0

  package init(now: Instant) {
    windowFrom = now
    probeAt = now.advanced(byNanoseconds: Self.probeInterval)
  }

  /// A call that the app was given at `startedAt` has ended, with `inside` under way before. `hasAnswer`: else it ran out
  /// of time.
  package mutating func ended(_ startedAt: Instant, inside: Int, hasAnswer: Bool, now: Instant) {
    insideMax = max(insideMax, inside)
    guard startedAt >= windowFrom else { return }
    sum += Double(max(now.nanoseconds(since: startedAt), 1))
    count += 1
    if !hasAnswer { outOfTime += 1 }
    if count >= Self.windowCallsMin, now.nanoseconds(since: windowFrom) >= Self.windowTimeMin { close(now) }
  }

  private mutating func close(_ now: Instant) {
    let mean = sum / Double(count)
    if isProbing {
      isProbing = false
      best = mean
      probeAt = now.advanced(byNanoseconds: Self.probeInterval)
    } else {
      best = best == 0 ? mean : min(best, mean)
      adjust(mean)
      if now >= probeAt { isProbing = true }
    }
    limit = isProbing ? max(Int(exact / 4), Self.limitMin) : Int(exact)
    sum = 0
    count = 0
    outOfTime = 0
    insideMax = 0
    windowFrom = now
  }

  private mutating func adjust(_ mean: Double) {
    var gradient = min(max(Self.tolerance * best / mean, 0.5), 1)
    if outOfTime * 10 > count { gradient = min(gradient, 0.8) }
    let wanted = exact * gradient + exact.squareRoot()
    // A limit that nobody reaches says nothing about a higher one.
    if wanted > exact, insideMax * 2 < limit { return }
    exact = min(max(exact + (wanted - exact) * Self.smoothing, Double(Self.limitMin)), Double(Self.limitMax))
  }
}
