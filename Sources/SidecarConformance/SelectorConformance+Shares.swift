// Weights, subsets, many nodes and keys.

import SidecarCore

extension SelectorConformance {
  func runFurther(_ bench: inout Bench) throws(ConformanceFailure) {
    switch self {
    case .`shares are as weights have it`:
      guard bench.isEven else { return }
      for weights in [[1, 3], [1, 2, 3, 4], [5, 1, 1, 1, 1, 1, 1, 1, 1, 1], (1...60).map { $0 }] {
        try bench.requireShares(weights)
      }
    case .`shares follow weights that change`:
      guard bench.isEven else { return }
      bench.rebuild(4, weights: [1, 1, 1, 1])
      for _ in 0..<100 { bench.pickAndAnswer() }
      // As when a node starts slowly: the weight of the list differs from the registry's.
      bench.field.setLoad(0) { $0.weight = 0.25 }
      bench.field.allow { _ in true }
      if bench.subject.weights == .exact { try bench.requireShares(of: [0.25, 1, 1, 1]) }
    case .`a weight far above the others costs nobody all calls`:
      bench.rebuild(50, weights: [65_535])
      for _ in 0..<2000 {
        let index = bench.pickAndAnswer()
        try require(index != nil, "no node was picked")
        let other = bench.pickOf(tried: [0])
        try require(other.map { $0 != 0 } ?? false, "picked \(other ?? -1) though the heavy node was tried")
        if let other { bench.mark(other, .success(latency: 1_000_000)) }
      }
      guard bench.subject.weights == .exact, bench.isEven else { return }
      bench.rebuild(4, weights: [65_535, 65_535, 1, 1])
      let light = (0..<10_000).count { _ in (bench.pickAndAnswer() ?? 0) > 1 }
      try require(light < 30, "nodes of a 65,535th of the weight were picked \(light) times of 10,000")
    case .`subsets do not disturb each other`:
      bench.rebuild(12)
      var counts: [[Int]] = Array(repeating: Array(repeating: 0, count: 12), count: 3)
      for round in 0..<9000 {
        let subset = round % 3
        bench.show(subset) { $0 % 3 == subset }
        let index = bench.pickAndAnswer()
        try require(index.map { $0 % 3 == subset } ?? false, "picked \(index ?? -1) for subset \(subset)")
        counts[subset][index ?? 0] += 1
      }
      bench.show(0) { _ in true }
      for subset in 0..<3 {
        for index in stride(from: subset, to: 12, by: 3) where bench.isEven {
          try require(counts[subset][index] > 500, "node \(index) got \(counts[subset][index]) of 3,000 calls, not 750")
        }
      }
    case .`lists that take turns do not disturb each other`:
      // As when calls spill over into another zone.
      bench.rebuild(8)
      var counts = Array(repeating: 0, count: 8)
      for round in 0..<8000 {
        let isNear = round % 2 == 0
        bench.field.allow(asGeneration: isNear ? .max : .max - 1) { ($0 < 4) == isNear }
        let index = bench.pickAndAnswer()
        try require(index.map { ($0 < 4) == isNear } ?? false, "picked \(index ?? -1) of the other list")
        counts[index ?? 0] += 1
      }
      guard bench.isEven else { return }
      try require((counts.min() ?? 0) > 750, "shares are \(counts), not 1,000 each")
    case .`a node that comes back is picked again`:
      bench.rebuild(6)
      for _ in 0..<50 { bench.pickAndAnswer() }
      bench.field.allow { $0 != 2 }
      for _ in 0..<200 { try require(bench.pickAndAnswer() != 2, "a node that is out was picked") }
      bench.field.allow { _ in true }
      var seen: Set<Int> = []
      for _ in 0..<600 { if let index = bench.pickAndAnswer() { seen.insert(index) } }
      try require(seen.contains(2), "a node was not picked any more after it had been out")
    case .`all but one of many nodes may have been tried`:
      bench.rebuild(500)
      for _ in 0..<20 {
        let left = bench.random.below(500)
        bench.field.allow { _ in true }
        let index = bench.pickOf(tried: (0..<500).filter { $0 != left }.map { UInt32($0) })
        try require(index == left, "picked \(index ?? -1) rather than \(left), the only one not tried")
      }
    case .`ten thousand nodes are all within reach`:
      bench.rebuild(10_000)
      // What ranks all nodes for each new key is shown a few keys only.
      if bench.subject.goesByKey {
        for key in bench.keys(20) {
          let index = bench.pickOf(key: key)
          try require(index.map { $0 < 10_000 } ?? false, "picked \(index ?? -1) of 10,000")
        }
      }
      var seen = Array(repeating: false, count: 10_000)
      for _ in 0..<60_000 {
        let index = bench.pickAndAnswer()
        try require(index.map { $0 < 10_000 } ?? false, "picked \(index ?? -1) of 10,000")
        seen[index ?? 0] = true
      }
      let count = seen.count { $0 }
      // Of even draws 25 are missed.
      if bench.isEven { try require(count > 9900, "only \(count) of 10,000 nodes were ever picked") }
    default: try runKeys(&bench)
    }
  }

  private func runKeys(_ bench: inout Bench) throws(ConformanceFailure) {
    guard bench.subject.goesByKey else { return }
    switch self {
    case .`calls of one key go to one node`:
      for count in [1, 2, 10, 100] {
        bench.rebuild(count)
        for key in bench.keys(50) {
          let node = bench.pickOf(key: key)
          try require(node != nil, "no node was picked")
          for _ in 0..<5 { try require(bench.pickOf(key: key) == node, "a key went to several nodes") }
        }
      }
    case .`every selector of a kind comes to the same node for a key`:
      var other = bench.another()
      other.random = SeededRandom(seed: 99)
      bench.rebuild(20)
      other.rebuild(20)
      for _ in 0..<100 { other.pickAndAnswer() }
      for key in bench.keys(200) {
        try require(bench.pickOf(key: key) == other.pickOf(key: key), "two selectors differ about a key")
      }
    case .`keys are spread over all nodes`:
      for count in [2, 10, 50] {
        bench.rebuild(count)
        var counts = Array(repeating: 0, count: count)
        for key in bench.keys(count * 400) { counts[bench.pickOf(key: key) ?? 0] += 1 }
        try require(
          (counts.min() ?? 0) > 200 && (counts.max() ?? 0) < 700, "of 400 keys a node, nodes have \(counts)")
      }
    case .`only the keys of a node that is out move, and come back with it`:
      bench.rebuild(20)
      let keys = bench.keys(400)
      let before = bench.nodes(of: keys)
      bench.field.allow { $0 != 7 }
      let during = bench.nodes(of: keys)
      for (old, new) in zip(before, during) {
        try require(old == 7 ? new != 7 : new == old, "a key moved from node \(old) to \(new) though node 7 was out")
      }
      try require(
        Set(zip(before, during).filter { $0.0 == 7 }.map(\.1)).count > 1 || !bench.subject.keysStay,
        "all keys of a node that is out went to one other node")
      bench.field.allow { _ in true }
      try require(bench.nodes(of: keys) == before, "keys did not come back with their node")
    case .`only the keys of a node that leaves move`:
      guard bench.subject.keysStay else { return }
      let ids = (0..<30).map { "node-\($0)" }
      bench.rebuild(ids: ids)
      let keys = bench.keys(600)
      let before = bench.nodes(of: keys).map { ids[$0] }
      let left = ids.filter { $0 != "node-11" }
      bench.rebuild(ids: left)
      let after = bench.nodes(of: keys).map { left[$0] }
      for (old, new) in zip(before, after) {
        try require(old == "node-11" || new == old, "a key moved from \(old) to \(new) though only node-11 left")
      }
    case .`a key whose node was tried goes to another one`:
      bench.rebuild(10)
      for key in bench.keys(100) {
        var tried: [UInt32] = []
        for _ in 0..<10 {
          let index = bench.pickOf(tried: tried, key: key)
          try require(index.map { !tried.contains(UInt32($0)) } ?? false, "picked \(index ?? -1) after \(tried)")
          tried.append(UInt32(index ?? 0))
        }
        try require(bench.pickOf(tried: tried, key: key) == nil, "a node was picked though all were tried")
      }
    default: throw ConformanceFailure("the rule is not implemented")
    }
  }
}

extension Bench {
  /// A pick that is answered at once.
  @discardableResult
  mutating func pickAndAnswer() -> Int? {
    let index = pickOf()
    if let index { mark(index, .success(latency: 1_000_000)) }
    return index
  }

  mutating func keys(_ count: Int) -> [UInt64] { (0..<count).map { _ in random.next() } }

  mutating func nodes(of keys: [UInt64]) -> [Int] { keys.map { pickOf(key: $0) ?? -1 } }

  /// The nodes as another subset.
  mutating func show(_ subset: Int, _ isAllowed: (Int) -> Bool) {
    field.subset = subset
    field.allow(isAllowed)
  }

  mutating func requireShares(_ weights: [Int]) throws(ConformanceFailure) {
    rebuild(weights.count, weights: weights)
    switch subject.weights {
    case .ignored: try requireShares(of: weights.map { _ in 1 })
    case .exact, .rough: try requireShares(of: weights.map { Double($0) })
    }
  }

  /// Chi-square as in `requireEven`, with 1,000 picks a node in the mean.
  mutating func requireShares(of weights: [Double]) throws(ConformanceFailure) {
    let total = weights.reduce(0, +)
    let rounds = weights.count * 1000
    var picks = Array(repeating: 0, count: weights.count)
    for round in 0..<rounds {
      let key = subject.goesByKey && subject.weights == .rough ? MixedHash.mixed(UInt64(round)) : nil
      guard let index = pickOf(key: key) else { throw ConformanceFailure("no node was picked") }
      picks[index] += 1
      mark(index, .success(latency: 1_000_000))
    }
    var chiSquare = 0.0
    for (index, weight) in weights.enumerated() {
      let expected = Double(rounds) * weight / total
      let difference = Double(picks[index]) - expected
      chiSquare += difference * difference / expected
      guard subject.weights == .rough else { continue }
      try require(
        abs(difference) < expected * 0.6 + 60, "node \(index) of weight \(weight) got \(picks[index]), not \(expected)")
    }
    guard subject.weights != .rough else { return }
    let degrees = Double(weights.count - 1)
    let limit = degrees + 6 * (2 * degrees).squareRoot() + 15
    try require(chiSquare <= limit, "shares differ from weights: chi-square \(chiSquare) above \(limit), \(picks)")
  }
}
