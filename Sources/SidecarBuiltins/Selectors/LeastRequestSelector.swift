// The selectors that take the better of two nodes: `leastrequest` by calls under way, `ewma` by those and by latency.

import SidecarCore

/// The one of two nodes with fewer calls of this worker under way for its weight.
struct LeastRequestSelector: Selector {
  mutating func rebuild(_ candidates: Candidates) {}

  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    context.best(&random) { other, first in context.hasLessToDo(other, than: first, now) }
  }
}

/// Peak-EWMA: the one of two nodes whose latency, times what it has to do, is lower. It is the default.
///
/// - Latencies within a quarter of each other are called equal, and so are all below `latencyMin`: what is noise then decides
///   nothing, so that shares follow weights and calls under way. docs/selection.md says why just these.
/// - A node whose latency nobody knows is taken for as quick as the other while it has nothing to do, and for half as quick
///   after that: it gets calls at once, and no flood before it has answered one.
/// - An average falls while nothing is observed (`SelectContext.latencyDecay`), so that a node that was slow is tried again.
struct EWMASelector: Selector {
  /// What a dial or a pause of the scheduler adds to a call, in nanoseconds.
  private static let latencyMin: Float = 1_000_000
  private static let equalFactor: Float = 1.25

  mutating func rebuild(_ candidates: Candidates) {}

  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    context.best(&random) { other, first in
      let a = context.loads[other]
      let b = context.loads[first]
      var latencyA = a.latency == 0 ? 0 : max(a.latency(at: now, decay: context.latencyDecay), Self.latencyMin)
      var latencyB = b.latency == 0 ? 0 : max(b.latency(at: now, decay: context.latencyDecay), Self.latencyMin)
      if latencyA == 0 { latencyA = a.inFlight == 0 ? latencyB : latencyB * 2 }
      if latencyB == 0 { latencyB = b.inFlight == 0 ? latencyA : latencyA * 2 }
      if latencyA == latencyB || latencyA < latencyB * Self.equalFactor && latencyB < latencyA * Self.equalFactor {
        return context.hasLessToDo(other, than: first, now)
      }
      return latencyA * Float(a.inFlight &+ 1) * a.pressure(at: now) * b.weight
        < latencyB * Float(b.inFlight &+ 1) * b.pressure(at: now) * a.weight
    }
  }
}

extension SelectContext {
  /// Up to so many allowed nodes all of them are compared: with few, two at random are too often both bad ones.
  private static var comparedMax: Int { 4 }

  /// An untried node drawn by weight, or one that is better than it.
  @inline(__always)
  func best(_ random: inout SeededRandom, isBetter: (_ other: Int, _ than: Int) -> Bool) -> Int? {
    guard let drawn = drawUntried(&random) else { return nil }
    let count = allowed.count
    if count > Self.comparedMax {
      for attempt in 0..<4 {
        // Where one node has nearly all the weight, another is hardly ever drawn by it.
        let other = attempt < 2 ? draw(&random) : allowed[random.below(count)]
        if other == drawn || wasTried(other) { continue }
        return isBetter(Int(other), Int(drawn)) ? Int(other) : Int(drawn)
      }
      return Int(drawn)
    }
    var best = Int(drawn)
    // Those of which none is better than another: each is as likely as its weight.
    var equals = loads[best].weight
    for position in 0..<count {
      let other = allowed[position]
      if other == drawn || wasTried(other) { continue }
      let weight = loads[Int(other)].weight
      if isBetter(Int(other), best) {
        best = Int(other)
        equals = weight
      } else if !isBetter(best, Int(other)) {
        equals += weight
        if Float(random.next() &>> 40) * 0x1p-24 * equals < weight { best = Int(other) }
      }
    }
    return best
  }

  /// Whether one more call makes `other` less busy for its weight than `first`. A node with nothing to do is as good as any:
  /// it was drawn by its weight, and that is its share, unless its app has said that others keep it busy.
  @inline(__always)
  func hasLessToDo(_ other: Int, than first: Int, _ now: Instant) -> Bool {
    let b = loads[first].inFlight
    let pressure = loads[first].pressure(at: now)
    if b == 0, pressure == 1 { return false }
    return Float(loads[other].inFlight &+ 1) * loads[other].pressure(at: now) * loads[first].weight
      < Float(b &+ 1) * pressure * loads[other].weight
  }
}
