// What every selector must do. Open to selectors of others: run each case in a test of your own.
//
//   @Test(arguments: SelectorConformance.allCases) func conforms(_ rule: SelectorConformance) throws {
//     try rule.check(SelectorSubject { MySelector() }, seed: 1)
//   }

import SidecarCore

/// A selector to be checked.
public struct SelectorSubject: Sendable {
  /// What it makes of weights.
  public enum Weights: Sendable {
    /// Every node gets the same share.
    case ignored
    /// Shares are as weights, within chance.
    case exact
    /// They are within a third of that.
    case rough
  }

  public var make: @Sendable () -> any Selector
  /// Nodes of equal weight and load get the same share of calls without a key.
  public var isEven: Bool
  public var weights: Weights
  /// A call with a key goes to the node of that key.
  public var goesByKey: Bool
  /// Keys of nodes that are out or gone move, others stay. False where they all may.
  public var keysStay: Bool
  /// It may find that there is no node after nothing but failures.
  public var givesUp: Bool

  public init(
    isEven: Bool = true, weights: Weights = .exact, goesByKey: Bool = false, keysStay: Bool = true,
    givesUp: Bool = false, make: @escaping @Sendable () -> any Selector
  ) {
    self.make = make
    self.isEven = isEven
    self.weights = weights
    self.goesByKey = goesByKey
    self.keysStay = keysStay
    self.givesUp = givesUp
  }
}

public enum SelectorConformance: String, CaseIterable, Sendable {
  case `an empty set has no node to pick`
  case `a selector that was never rebuilt has no node to pick`
  case `the only node is picked each time`
  case `a pick is always an index of the present set`
  case `an excluded node is never picked`
  case `when all are excluded there is none to pick`
  case `a full node is never picked, and one that is not is found`
  case `every node that is allowed is picked`
  case `shares are even`
  case `shares are even among those a standing exclusion leaves`
  case `a smaller set forgets the nodes that left`
  case `a larger set gets its new nodes picked`
  case `verdicts of another revision change nothing`
  case `verdicts on indices that never were are ignored`
  case `failures of every node leave a node to pick`
  case `reset keeps the nodes`
  case `the same seed picks the same nodes`
  case `shares are as weights have it`
  case `shares follow weights that change`
  case `a weight far above the others costs nobody all calls`
  case `subsets do not disturb each other`
  case `lists that take turns do not disturb each other`
  case `a node that comes back is picked again`
  case `all but one of many nodes may have been tried`
  case `ten thousand nodes are all within reach`
  case `calls of one key go to one node`
  case `every selector of a kind comes to the same node for a key`
  case `keys are spread over all nodes`
  case `only the keys of a node that is out move, and come back with it`
  case `only the keys of a node that leaves move`
  case `a key whose node was tried goes to another one`

  /// Checks the rule. The seed decides all that is random in it; a failure names it.
  public func check(_ subject: SelectorSubject, seed: UInt64) throws(ConformanceFailure) {
    do throws(ConformanceFailure) {
      var bench = Bench(subject, seed: seed)
      try run(&bench)
    } catch {
      throw ConformanceFailure("\(rawValue): \(error.message) (seed \(seed))")
    }
  }

  private func run(_ bench: inout Bench) throws(ConformanceFailure) {
    switch self {
    case .`an empty set has no node to pick`:
      bench.rebuild(3)
      bench.rebuild(0)
      try require(bench.pick() == nil, "a node was picked from none")
    case .`a selector that was never rebuilt has no node to pick`:
      try require(bench.pick() == nil, "a node was picked from none")
    case .`the only node is picked each time`:
      bench.rebuild(1)
      for _ in 0..<100 { try require(bench.pick() == 0, "the only node was not picked") }
    case .`a pick is always an index of the present set`:
      for count in [1, 2, 3, 63, 64, 65, 200, 1, 64] {
        bench.rebuild(count)
        for _ in 0..<500 {
          let index = bench.pick()
          if index == nil, bench.givesUp { continue }
          try require(index.map { (0..<count).contains($0) } ?? false, "picked \(index ?? -1) of \(count)")
          if let index { bench.markAtRandom(index) }
        }
      }
    case .`an excluded node is never picked`:
      for count in [2, 3, 10, 64, 70] {
        bench.rebuild(count)
        for _ in 0..<500 {
          let excluded = bench.random.next() & ~(1 &<< UInt64(bench.random.below(min(count, 64))))
          let index = bench.pick(excluding: excluded)
          try require(index != nil, "no node was picked though one of \(count) is allowed")
          try require(
            !Bench.isExcluded(index ?? 0, excluded), "excluded node \(index ?? -1) of \(count) was picked")
          let other = bench.pick(tried: excluded)
          try require(other != nil, "no node was picked though one of \(count) was not tried")
          try require(
            !Bench.isExcluded(other ?? 0, excluded), "node \(other ?? -1) of \(count) was picked though it was tried")
        }
      }
    case .`when all are excluded there is none to pick`:
      for count in [1, 2, 10, 64] {
        bench.rebuild(count)
        for _ in 0..<10 {
          try require(bench.pick(excluding: .max) == nil, "a node was picked though all \(count) are excluded")
          try require(bench.pick(tried: .max) == nil, "a node was picked though all \(count) were tried")
        }
        try require(bench.pick() != nil, "no node was picked after all had been excluded for one call")
      }
    case .`a full node is never picked, and one that is not is found`:
      for count in [1, 2, 4, 10, 64, 300] {
        bench.rebuild(count, weights: (0..<count).map { 1 + $0 % 5 })
        for turn in 0..<200 {
          let key = turn % 2 == 0 ? nil : bench.random.next()
          let free = bench.random.below(count)
          let share = bench.random.below(4)
          var random = bench.random
          var isFull = (0..<count).map { _ in random.below(4) >= share }
          bench.random = random
          isFull[free] = false
          bench.field.fill { isFull[$0] }
          let index = bench.pickOf(key: key)
          try require(index != nil, "no node was picked though node \(free) of \(count) is not full")
          try require(index.map { !isFull[$0] } ?? false, "full node \(index ?? -1) of \(count) was picked")
          if let index { bench.mark(index, .success(latency: 1_000_000)) }
        }
        bench.field.fill { _ in true }
        try require(bench.pickOf() == nil, "a node was picked though all \(count) are full")
        bench.field.fill { _ in false }
        try require(bench.pickOf() != nil, "no node was picked after all had been full")
      }
    case .`every node that is allowed is picked`:
      for count in [2, 10, 64, 100] {
        bench.rebuild(count)
        let seen = Set((0..<count * 40).compactMap { _ in bench.pick() })
        try require(seen.count == count, "only \(seen.count) of \(count) nodes were ever picked")
      }
    case .`shares are even`:
      guard bench.isEven else { return }
      for count in [2, 3, 10, 50, 100] { try bench.requireEven(count, excluding: 0) }
    case .`shares are even among those a standing exclusion leaves`:
      guard bench.isEven else { return }
      try bench.requireEven(10, excluding: 1 << 3)
      try bench.requireEven(10, excluding: 0b10_0110_0111)
      try bench.requireEven(80, excluding: 0xFFFF)
    case .`a smaller set forgets the nodes that left`:
      for _ in 0..<50 {
        bench.rebuild(1 + bench.random.below(100))
        for _ in 0..<bench.random.below(100) { _ = bench.pick() }
        let count = 1 + bench.random.below(5)
        bench.rebuild(count)
        for _ in 0..<20 {
          let index = bench.pick()
          try require(index.map { $0 < count } ?? false, "picked \(index ?? -1) of \(count)")
        }
      }
    case .`a larger set gets its new nodes picked`:
      bench.rebuild(2)
      for _ in 0..<100 { if let index = bench.pick() { bench.mark(index, .success(latency: 1_000_000)) } }
      bench.rebuild(6)
      var seen: Set<Int> = []
      for _ in 0..<600 {
        guard let index = bench.pick() else { continue }
        seen.insert(index)
        bench.mark(index, .success(latency: 1_000_000))
      }
      try require(seen == Set(0..<6), "only nodes \(seen.sorted()) of 6 were picked")
    case .`verdicts of another revision change nothing`:
      var other = bench.another()
      bench.rebuild(5)
      other.rebuild(5)
      for _ in 0..<300 {
        for index in 0..<5 { other.mark(index, .connectFailed, revisionOffset: bench.random.below(2) == 0 ? -1 : 7) }
        other.random = bench.random
        let expected = bench.pick()
        let picked = other.pick()
        try require(picked == expected, "picked \(picked ?? -1) rather than \(expected ?? -1) after stale verdicts")
      }
    case .`verdicts on indices that never were are ignored`:
      bench.rebuild(3)
      for index in [-1, 3, 64, 1000, Int.max, Int.min] { bench.mark(index, .timedOut) }
      try require(bench.pick() != nil, "no node was picked")
    case .`failures of every node leave a node to pick`:
      guard !bench.givesUp else { return }
      bench.rebuild(4)
      for _ in 0..<200 {
        let index = bench.pick()
        try require(index != nil, "every node was given up")
        if let index { bench.mark(index, .connectFailed) }
      }
    case .`reset keeps the nodes`:
      bench.rebuild(4)
      for _ in 0..<50 { if let index = bench.pick() { bench.mark(index, .broken) } }
      bench.selector.reset()
      try require(Set((0..<400).compactMap { _ in bench.pick() }).count == 4, "nodes were lost")
    case .`the same seed picks the same nodes`:
      var other = bench.another()
      for count in [10, 3, 70] {
        bench.rebuild(count)
        other.rebuild(count)
        for _ in 0..<200 {
          let first = bench.pick()
          let second = other.pick()
          try require(first == second, "picked \(first ?? -1) and \(second ?? -1)")
          if let first { bench.markAtRandom(first) }
          if let second { other.markAtRandom(second) }
        }
      }
    default: try runFurther(&bench)
    }
  }
}

/// A selector with time, randomness and candidates.
struct Bench {
  var selector: any Selector
  var random: SeededRandom
  var isEven: Bool { subject.isEven }
  var givesUp: Bool { subject.givesUp }
  let subject: SelectorSubject
  private let seed: UInt64
  let field = SelectorField()
  private var excluded: UInt64 = 0
  private var now = Instant(nanoseconds: 1_000_000_000)

  init(_ subject: SelectorSubject, seed: UInt64) {
    self.subject = subject
    self.seed = seed
    selector = subject.make()
    random = SeededRandom(seed: seed)
  }

  /// Another selector of the same kind, with nothing learned.
  func another() -> Bench { Bench(subject, seed: seed) }

  /// Of the first 64 indices those whose bit is set.
  static func isExcluded(_ index: Int, _ excluded: UInt64) -> Bool {
    index < 64 && excluded & (1 << UInt64(index)) != 0
  }

  mutating func rebuild(_ count: Int, weights: [Int] = []) {
    rebuild(ids: (0..<count).map { "node-\($0)" }, weights: weights)
  }

  mutating func rebuild(ids: [String], weights: [Int] = []) {
    field.rebuild(ids: ids, weights: weights)
    excluded = 0
    selector.rebuild(Candidates(revision: field.revision, nodes: field.candidates))
  }

  /// `excluded` are out for every call, `tried` were tried for this one.
  mutating func pick(excluding excluded: UInt64 = 0, tried: UInt64 = 0) -> Int? {
    now = now.advanced(byNanoseconds: 50_000)
    if excluded != self.excluded {
      self.excluded = excluded
      field.allow { !Self.isExcluded($0, excluded) }
    }
    var indices: [UInt32] = []
    var rest = tried
    while rest != 0 {
      if rest.trailingZeroBitCount < field.count { indices.append(UInt32(rest.trailingZeroBitCount)) }
      rest &= rest - 1
    }
    return pickOf(tried: indices)
  }

  /// Among those that `field` allows.
  mutating func pickOf(tried triedIndices: [UInt32] = [], key: UInt64? = nil) -> Int? {
    field.key = key.map { SelectKey($0) }
    now = now.advanced(byNanoseconds: 50_000)
    let index = field.withContext(tried: triedIndices) { selector.pick($0, random: &random, now: now) }
    if let index, index >= 0, index < field.count { field.setLoad(index) { $0.inFlight += 1 } }
    return index
  }

  /// An outcome, and what the data path makes of it.
  mutating func mark(_ index: Int, _ outcome: CallOutcome, revisionOffset: Int64 = 0) {
    if revisionOffset == 0, index >= 0, index < field.count {
      field.setLoad(index) {
        $0.inFlight = max($0.inFlight - 1, 0)
        if case .success(let latency) = outcome { $0.observe(latency, now: now, decay: field.latencyDecay) }
      }
    }
    selector.mark(
      index, revision: UInt64(bitPattern: Int64(bitPattern: field.revision) + revisionOffset), outcome: outcome,
      now: now)
  }

  mutating func markAtRandom(_ index: Int) {
    let outcomes: [CallOutcome] = [
      .success(latency: 300_000), .success(latency: 20_000_000), .failure(latency: 1_000_000), .connectFailed, .broken,
      .timedOut, .cancelled,
    ]
    mark(index, outcomes[random.below(outcomes.count)])
  }

  /// Chi-square over 1,000 picks a node: a fair selector passes with a probability above 0.999,999 for any seed, one that
  /// gives a node 1.3 times its share of ten does not.
  mutating func requireEven(_ count: Int, excluding excluded: UInt64) throws(ConformanceFailure) {
    rebuild(count)
    let allowed = (0..<count).filter { !Self.isExcluded($0, excluded) }
    let share = 1000.0
    var picks = Array(repeating: 0, count: count)
    for _ in 0..<allowed.count * Int(share) {
      guard let index = pick(excluding: excluded) else { throw ConformanceFailure("no node was picked") }
      picks[index] += 1
      mark(index, .success(latency: 1_000_000))
    }
    var chiSquare = 0.0
    for index in allowed {
      let difference = Double(picks[index]) - share
      chiSquare += difference * difference / share
    }
    let degrees = Double(allowed.count - 1)
    // The mean is `degrees`, the deviation the root of twice that; for few degrees the tail is longer than a normal one.
    let limit = degrees + 6 * (2 * degrees).squareRoot() + 15
    try require(
      chiSquare <= limit, "shares of \(count) nodes are uneven: chi-square \(chiSquare) above \(limit), \(picks)")
  }
}
