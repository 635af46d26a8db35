import SidecarConformance
import SidecarCore
import Testing

@testable import SidecarBuiltins

@Suite("Selector conformance") struct SelectorConformanceTests {
  private static let seeds: [UInt64] = [1, 42, 0xDEAD_BEEF]

  /// Every strategy that comes with the binary.
  static let subjects: [(name: String, subject: SelectorSubject)] = [
    ("ewma", SelectorSubject { EWMASelector() }),
    ("leastrequest", SelectorSubject { LeastRequestSelector() }),
    ("random", SelectorSubject { RandomSelector() }),
    ("roundrobin", SelectorSubject(weights: .ignored) { RoundRobinSelector() }),
    ("weightedroundrobin", SelectorSubject { WeightedRoundRobinSelector() }),
    ("hash", SelectorSubject(weights: .rough, goesByKey: true) { HashSelector() }),
    ("shard", SelectorSubject(goesByKey: true) { ShardSelector() }),
    ("crc32", SelectorSubject(goesByKey: true, keysStay: false) { CRC32Selector() }),
    ("blacklist", SelectorSubject(givesUp: true) { BlacklistSelector() }),
    ("label", SelectorSubject { LabelSelector([("region", "eu")]) }),
  ]

  @Test(arguments: SelectorConformance.allCases)
  func `every selector keeps the rule`(_ rule: SelectorConformance) throws {
    for (name, subject) in Self.subjects {
      for seed in Self.seeds {
        do throws(ConformanceFailure) { try rule.check(subject, seed: seed) } catch {
          Issue.record("\(name): \(error)")
        }
      }
    }
  }

  @Test func `every strategy of the binary is among those checked`() throws {
    let aliases: Set = ["weightedrandom", "cacheblack"]
    let known = Set(try builtinPlugins().selectors.keys).subtracting(aliases)
    #expect(known == Set(Self.subjects.map(\.name)))
  }

  /// What is wrong with these selectors must be found: the oracle's own test.
  @Test(arguments: BrokenSelector.Defect.allCases)
  func `a broken selector fails`(_ defect: BrokenSelector.Defect) {
    let subject = SelectorSubject(goesByKey: defect.isAboutKeys) { BrokenSelector(defect: defect) }
    guard let rule = SelectorConformance.allCases.first(where: { (try? $0.check(subject, seed: 1)) == nil }) else {
      Issue.record("no rule finds it")
      return
    }
    // What has no defect passes, so that the failure is the defect's.
    let sound = SelectorSubject(goesByKey: defect.isAboutKeys) { BrokenSelector(defect: nil) }
    #expect(throws: Never.self) { try rule.check(sound, seed: 1) }
  }
}

/// A random selector, by rank of a hash where the call has a key, with one thing wrong.
struct BrokenSelector: Selector {
  enum Defect: String, CaseIterable, Sendable {
    case ignoresExclusions, prefersFirst, trustsStaleVerdicts, givesUpOnFailures, neverPicksLast, skipsToNeighbour
    case forgetsToShrink, losesNodesOnReset, ignoresWeights, squaresWeights, ignoresTried, ignoresTriedBeyondSix
    case cachesAcrossGenerations, cachesAcrossSubsets, starvesOneNode, growsTiredAfterManyTried, seesTheFirst4096Only
    case ownsItsRandomness, trapsWithoutNodes
    case forgetsKeys, saltsKeys, movesAllKeys, hashesKeysByIndex, givesKeysOfAnOutNodeToItsNeighbour

    var isAboutKeys: Bool {
      switch self {
      case .forgetsKeys, .saltsKeys, .movesAllKeys, .hashesKeysByIndex, .givesKeysOfAnOutNodeToItsNeighbour: true
      default: false
      }
    }
  }
  let defect: Defect?
  private var random = RandomSelector()
  private var nodes: [UInt64] = []
  private var failed: Set<Int> = []
  private var cached: [UInt32] = []
  private var cachedFor: (revision: UInt64, generation: UInt64, subset: Int)?
  private var revision: UInt64 = 0
  private var isReset = false
  private var own = SeededRandom(seed: UInt64.random(in: 0...UInt64.max))
  private let salt = UInt64.random(in: 0...UInt64.max)

  init(defect: Defect?) { self.defect = defect }

  private var count: Int { nodes.count }

  mutating func rebuild(_ candidates: Candidates) {
    failed = []
    isReset = false
    revision = candidates.revision
    if defect == .forgetsToShrink, candidates.nodes.count < count { return }
    nodes = candidates.nodes.map { MixedHash.of($0.node.id) }
  }

  mutating func pick(_ context: SelectContext, random seed: inout SeededRandom, now: Instant) -> Int? {
    if defect == .losesNodesOnReset, isReset { return nil }
    if let key = context.key { return pick(context, key.hash, &seed) }
    switch defect {
    case .ignoresExclusions: return count == 0 ? nil : seed.below(count)
    case .prefersFirst where context.isWhole(count) && count > 1 && seed.below(10) == 0: return 0
    case .neverPicksLast where context.isWhole(count) && count > 1: return seed.below(count - 1)
    case .skipsToNeighbour where count > 0:
      let first = seed.below(count)
      for step in 0..<count where context.mayPick((first + step) % count) { return (first + step) % count }
      return nil
    case .forgetsToShrink: return count == 0 ? nil : seed.below(count)
    case .ignoresWeights:
      let left = context.allowed.filter { !context.wasTried($0) }
      return left.isEmpty ? nil : Int(left[seed.below(left.count)])
    case .squaresWeights where context.allowed.count > 1 && context.tried.isEmpty:
      let a = context.draw(&seed)
      let b = context.draw(&seed)
      return Int(context.loads[Int(a)].weight >= context.loads[Int(b)].weight ? a : b)
    case .ignoresTried: return context.allowed.isEmpty ? nil : Int(context.draw(&seed))
    case .ignoresTriedBeyondSix where context.tried.count > 6:
      return context.allowed.isEmpty ? nil : Int(context.draw(&seed))
    case .cachesAcrossGenerations: return pickCached(context, (revision, 0, context.subset), &seed)
    case .cachesAcrossSubsets: return pickCached(context, (revision, context.generation / 2, 0), &seed)
    case .starvesOneNode where context.allowed.count > 3:
      for _ in 0..<20 {
        if let index = context.drawUntried(&seed), index != 3 { return Int(index) }
      }
    case .growsTiredAfterManyTried where context.tried.count > 100: return nil
    case .seesTheFirst4096Only where context.allowed.count > 4096: return seed.below(4096)
    case .ownsItsRandomness: return context.drawUntried(&own).map { Int($0) }
    case .trapsWithoutNodes where context.allowed.isEmpty: return 0
    default: break
    }
    guard let index = random.pick(context, random: &seed, now: now) else { return nil }
    if defect == .givesUpOnFailures, failed.count == count { return nil }
    if defect == .trustsStaleVerdicts, failed.contains(index) { return (index + 1) % count }
    return index
  }

  private mutating func pickCached(
    _ context: SelectContext, _ key: (revision: UInt64, generation: UInt64, subset: Int), _ seed: inout SeededRandom
  ) -> Int? {
    if cachedFor == nil || cachedFor! != key {
      cached = Array(context.allowed)
      cachedFor = key
    }
    let left = cached.filter { !context.wasTried($0) }
    return left.isEmpty ? nil : Int(left[seed.below(left.count)])
  }

  private func pick(_ context: SelectContext, _ key: UInt64, _ seed: inout SeededRandom) -> Int? {
    let left = context.allowed.filter { !context.wasTried($0) }
    guard !left.isEmpty else { return nil }
    switch defect {
    case .forgetsKeys: return Int(left[seed.below(left.count)])
    case .movesAllKeys: return Int(left[Int(key % UInt64(left.count))])
    case .givesKeysOfAnOutNodeToItsNeighbour:
      let first = ranked(context.allowed.count == count ? left : (0..<UInt32(count)).map { $0 }, key)
      return context.mayPick(first) ? first : Int(left.first { Int($0) > first } ?? left[0])
    default: return ranked(left, key)
    }
  }

  private func ranked(_ indices: [UInt32], _ key: UInt64) -> Int {
    let key = defect == .saltsKeys ? key ^ salt : key
    return Int(
      indices.max {
        score(Int($0), key) < score(Int($1), key)
      } ?? 0)
  }

  private func score(_ index: Int, _ key: UInt64) -> UInt64 {
    MixedHash.mixed((defect == .hashesKeysByIndex ? UInt64(index) : nodes[index]) ^ key)
  }

  mutating func mark(_ index: Int, revision: UInt64, outcome: CallOutcome, now: Instant) {
    if case .connectFailed = outcome { failed.insert(index) }
  }

  mutating func reset() { isReset = true }
}

extension SelectContext {
  fileprivate func isWhole(_ count: Int) -> Bool { allowed.count == count && tried.isEmpty }
}
