import Testing

@testable import SidecarCore

@Suite("Rate limits, faults and splits as numbers")
struct RateLimiterTests {
  private func at(_ milliseconds: Int64) -> Instant {
    Instant(nanoseconds: 1_000_000_000).advanced(byNanoseconds: milliseconds * 1_000_000)
  }

  @Test("a burst goes through, then as many a second as the rate says, and the wait that is named suffices")
  func rate() {
    var limiter = RateLimiter()
    var now = at(0)
    var taken = 0
    for _ in 0..<5 where limiter.take(1, rate: 10, burst: 3, now: now) == 0 { taken += 1 }
    #expect(taken == 3)
    for _ in 0..<100 {
      let wait = limiter.take(1, rate: 10, burst: 3, now: now)
      #expect(wait > 0 && wait <= 100_000_000)
      now = now.advanced(byNanoseconds: wait)
      #expect(limiter.take(1, rate: 10, burst: 3, now: now) == 0)
    }
    #expect(limiter.take(2, rate: 10, burst: 3, now: now) == 0, "another key has tokens of its own")
  }

  @Test("in any span no more pass than the burst and the rate allow", arguments: [1, 2, 3] as [UInt64])
  func bound(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var limiter = RateLimiter()
    var now = at(0)
    var passed: [Instant] = []
    for _ in 0..<5000 {
      now = now.advanced(byNanoseconds: Int64(random.below(20_000_000)))
      if limiter.take(7, rate: 25, burst: 5, now: now) == 0 { passed.append(now) }
    }
    var tooMany = 0
    for (index, first) in passed.enumerated() {
      let seconds = Double(now.nanoseconds(since: first)) / 1e9
      if Double(passed.count - index) > 5 + 25 * seconds + 1 { tooMany += 1 }
    }
    #expect(tooMany == 0)
    #expect(passed.count > 1000, "and all that is due passes")
  }

  @Test("rates and bursts at their ends neither trap nor let everything through")
  func extremes() {
    var limiter = RateLimiter()
    let far = Instant(nanoseconds: .max)
    #expect(limiter.take(1, rate: 1e-9, burst: 1, now: at(0)) == 0)
    #expect(limiter.take(1, rate: 1e-9, burst: 1, now: at(1)) == RateLimiter.waitMax)
    for now in [at(0), far] {
      _ = limiter.take(2, rate: .infinity, burst: .infinity, now: now)
      _ = limiter.take(3, rate: -1, burst: -1, now: now)
    }
  }

  @Test("more keys than buckets share one, and buckets that are full again are given up")
  func tableIsBounded() {
    var limiter = RateLimiter()
    for key in 0..<UInt64(RateLimiter.bucketsMax + 500) { _ = limiter.take(key, rate: 1, burst: 1, now: at(0)) }
    #expect(limiter.count == RateLimiter.bucketsMax)
    #expect(limiter.take(.max, rate: 1, burst: 1, now: at(0)) > 0, "the shared bucket is empty")
    #expect(limiter.take(.max, rate: 1, burst: 1, now: at(5000)) == 0)
    #expect(limiter.count == 1)
  }

  @Test(
    "a fault header is understood or ignored as a whole",
    arguments: [
      ("delay=200ms", 200_000_000, nil), ("abort=503", 0, 503), (" delay=1s ; abort=429 ", 1_000_000_000, 429),
      ("delay=999h", 3_600_000_000_000, nil), ("", -1, nil), ("abort=200", -1, nil), ("delay=-1s", -1, nil),
      ("abort", -1, nil), ("delay=1s;x=2", -1, nil),
      (String(repeating: "delay=1s;", count: 100), -1, nil),
    ] as [(String, Int64, Int?)])
  func faultHeader(text: String, delay: Int64, abort: Int?) {
    let fault = withBytes(text) { FaultHeader.parse($0) }
    if delay < 0 { return #expect(fault == nil) }
    var random = SeededRandom(seed: 1)
    let drawn = fault?.draw(&random)
    #expect(drawn?.delay == delay && drawn?.abort == abort)
  }

  @Test("a split gives each part its share, and the same key always the same part")
  func split() {
    let splits = [("a", 5), ("b", 95), ("c", 0)].map { TrafficSplit(NodeFilter(version: $0), weight: $1) }
    var random = SeededRandom(seed: 4)
    var counts: [String: Int] = [:]
    var moved = 0
    for _ in 0..<20_000 {
      let bits = random.next()
      let part = TrafficSplit.draw(splits, bits) { _ in true }?.version ?? "-"
      counts[part, default: 0] += 1
      if TrafficSplit.draw(splits, bits, hasNodes: { _ in true })?.version != part { moved += 1 }
    }
    #expect(moved == 0)
    #expect(counts["c"] == nil && counts["-"] == nil)
    #expect((850...1150).contains(counts["a"] ?? 0), "\(counts)")
  }

  @Test("a part grows by callers that come to it, and loses none")
  func growing() {
    func parts(_ weight: Int) -> [TrafficSplit] {
      [
        TrafficSplit(NodeFilter(version: "new"), weight: weight),
        TrafficSplit(NodeFilter(version: "old"), weight: 100 - weight),
      ]
    }
    var random = SeededRandom(seed: 5)
    for _ in 0..<2000 {
      let bits = random.next()
      let before = TrafficSplit.draw(parts(10), bits) { _ in true }?.version
      let after = TrafficSplit.draw(parts(30), bits) { _ in true }?.version
      #expect(before != "new" || after == "new")
    }
  }

  @Test("the calls of a part without nodes go to the others by their weights")
  func emptyPart() {
    let splits = [("gone", 50), ("b", 10), ("c", 40)].map { TrafficSplit(NodeFilter(version: $0), weight: $1) }
    var random = SeededRandom(seed: 6)
    var counts: [String: Int] = [:]
    for _ in 0..<10_000 {
      let part = TrafficSplit.draw(splits, random.next()) { $0.version != "gone" }
      counts[part?.version ?? "-", default: 0] += 1
    }
    #expect(counts["gone"] == nil && counts["-"] == nil)
    #expect((1700...2300).contains(counts["b"] ?? 0), "\(counts)")
    #expect(TrafficSplit.draw(splits, 1) { _ in false } == nil)
  }
}
