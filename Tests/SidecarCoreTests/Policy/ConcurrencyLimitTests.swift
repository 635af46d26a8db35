import Testing

@testable import SidecarCore

/// An app that serves `width` calls at once in `work` nanoseconds each, and queues the others, under a closed load of as
/// many calls as the limit lets in, at most `callers`.
private struct SimulatedApp {
  var width: Int
  var work: Int64
  var callers: Int
  var limit: ConcurrencyLimit
  var now = Instant(nanoseconds: 1_000_000_000)
  var random: SeededRandom
  private var running: [(begun: Instant, ends: Instant)] = []
  private var servers: [Instant] = []
  private(set) var insideMax = 0

  init(width: Int, work: Int64, callers: Int, seed: UInt64) {
    self.width = width
    self.work = work
    self.callers = callers
    random = SeededRandom(seed: seed)
    limit = ConcurrencyLimit(now: now)
  }

  /// Limits seen in the second half.
  mutating func run(_ seconds: Int64) -> ClosedRange<Int> {
    let end = now.advanced(byNanoseconds: seconds * 1_000_000_000)
    let half = now.advanced(byNanoseconds: seconds * 500_000_000)
    var seen = Int.max...Int.max
    while now < end {
      while running.count < min(limit.limit, callers) { begin() }
      insideMax = max(insideMax, running.count)
      guard let next = running.indices.min(by: { running[$0].ends < running[$1].ends }) else { break }
      let call = running[next]
      now = max(now, call.ends)
      limit.ended(call.begun, inside: running.count, hasAnswer: true, now: now)
      running.remove(at: next)
      if now >= half {
        let lower = min(seen.lowerBound, limit.limit)
        seen = lower...(seen.upperBound == .max ? limit.limit : max(seen.upperBound, limit.limit))
      }
    }
    return seen
  }

  private mutating func begin() {
    servers = servers.filter { $0 > now }
    var start = now
    if servers.count >= width, let free = servers.sorted().dropFirst(servers.count - width).first { start = free }
    let took = work / 2 + Int64(random.below(Int(work)))
    let ends = start.advanced(byNanoseconds: took)
    servers.append(ends)
    running.append((now, ends))
  }
}

@Suite("The adaptive limit of calls at the app")
struct ConcurrencyLimitTests {
  @Test(
    "it settles near what the app can do, and stays there",
    arguments: [(4, 5_000_000), (16, 20_000_000), (64, 40_000_000)] as [(Int, Int64)], [1, 2] as [UInt64])
  func settles(app: (width: Int, work: Int64), seed: UInt64) {
    var simulation = SimulatedApp(width: app.width, work: app.work, callers: 2000, seed: seed)
    let seen = simulation.run(40)
    #expect(seen.lowerBound >= ConcurrencyLimit.limitMin, "\(seen)")
    #expect(seen.upperBound <= app.width * 4 + 32, "\(seen) for \(app.width)")
    #expect(seen.upperBound >= app.width / 2, "\(seen) for \(app.width)")
  }

  @Test("an app that gets slower for good is learned anew, and neither starves nor drowns")
  func slower() {
    var simulation = SimulatedApp(width: 16, work: 5_000_000, callers: 500, seed: 3)
    _ = simulation.run(10)
    simulation.work = 50_000_000
    let seen = simulation.run(100)
    #expect(seen.lowerBound >= ConcurrencyLimit.limitMin && seen.upperBound >= 8, "\(seen)")
    #expect(seen.upperBound <= 200, "\(seen)")
  }

  @Test("a limit that nobody reaches does not grow")
  func unused() {
    var simulation = SimulatedApp(width: 1000, work: 5_000_000, callers: 3, seed: 4)
    #expect(simulation.run(20).upperBound <= ConcurrencyLimit.limitStart)
  }

  @Test("no latency, clock or outcome moves it out of its bounds", arguments: [1, 2, 3] as [UInt64])
  func hostile(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var now = Instant(nanoseconds: 0)
    var limit = ConcurrencyLimit(now: now)
    var outside = 0
    for _ in 0..<50_000 {
      let step = random.below(4) == 0 ? Int64(random.below(1 << 40)) : Int64(random.below(1 << 24))
      // Clocks jump back as well.
      now = random.below(50) == 0 ? Instant(nanoseconds: now.nanoseconds / 2) : now.advanced(byNanoseconds: step)
      let begun = Instant(
        nanoseconds: random.below(3) == 0 ? 0 : now.nanoseconds &- min(now.nanoseconds, UInt64(random.below(1 << 30))))
      limit.ended(begun, inside: random.below(10_000), hasAnswer: random.below(3) > 0, now: now)
      if !(ConcurrencyLimit.limitMin...ConcurrencyLimit.limitMax).contains(limit.limit) { outside += 1 }
    }
    #expect(outside == 0)
  }
}
