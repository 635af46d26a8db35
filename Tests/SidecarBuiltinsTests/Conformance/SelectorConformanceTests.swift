import SidecarConformance
import SidecarCore
import Testing

@testable import SidecarBuiltins

@Suite("Selector conformance") struct SelectorConformanceTests {
  private static let seeds: [UInt64] = [1, 2, 3, 42, 0xDEAD_BEEF]

  @Test(arguments: SelectorConformance.allCases)
  func random(_ rule: SelectorConformance) throws {
    for seed in Self.seeds { try rule.check(SelectorSubject { RandomSelector() }, seed: seed) }
  }

  @Test(arguments: SelectorConformance.allCases)
  func roundRobin(_ rule: SelectorConformance) throws {
    for seed in Self.seeds { try rule.check(SelectorSubject { RoundRobinSelector() }, seed: seed) }
  }

  /// What is wrong with these selectors must be found: the oracle's own test.
  @Test(arguments: BrokenSelector.Defect.allCases)
  func `a broken selector fails`(_ defect: BrokenSelector.Defect) {
    let subject = SelectorSubject { BrokenSelector(defect: defect) }
    let failed = SelectorConformance.allCases.filter { (try? $0.check(subject, seed: 1)) == nil }
    #expect(!failed.isEmpty)
  }
}

/// A random selector with one thing wrong.
struct BrokenSelector: Selector {
  enum Defect: String, CaseIterable, Sendable {
    case ignoresExclusions, prefersFirst, forgetsToShrink, trustsStaleVerdicts, givesUpOnFailures, neverPicksLast
    case skipsToNeighbour, losesNodesOnReset
  }
  let defect: Defect
  private var random = RandomSelector()
  private var count = 0
  private var failed: Set<Int> = []

  init(defect: Defect) { self.defect = defect }

  mutating func rebuild(_ candidates: Candidates) {
    failed = []
    if defect == .forgetsToShrink, candidates.nodes.count < count { return }
    count = candidates.nodes.count
    random.rebuild(candidates)
  }

  mutating func pick(_ context: SelectContext, random seed: inout SeededRandom, now: Instant) -> Int? {
    switch defect {
    case .ignoresExclusions: return count == 0 ? nil : seed.below(count)
    case .prefersFirst where context.excluded == 0 && count > 1 && seed.below(10) == 0: return 0
    case .neverPicksLast where context.excluded == 0 && count > 1: return seed.below(count - 1)
    case .skipsToNeighbour where count > 0:
      let first = seed.below(count)
      for step in 0..<count where !context.excludes((first + step) % count) { return (first + step) % count }
      return nil
    default: break
    }
    guard let index = random.pick(context, random: &seed, now: now) else { return nil }
    if defect == .givesUpOnFailures, failed.count == count { return nil }
    if defect == .trustsStaleVerdicts, failed.contains(index) { return (index + 1) % count }
    return index
  }

  mutating func mark(_ index: Int, revision: UInt64, outcome: CallOutcome, now: Instant) {
    if case .connectFailed = outcome { failed.insert(index) }
  }

  mutating func reset() { if defect == .losesNodesOnReset { rebuild(Candidates(revision: 0, nodes: [])) } }
}
