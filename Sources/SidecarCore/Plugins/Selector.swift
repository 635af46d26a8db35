// The Selector plug-in point (go-micro selector/selector.go): which node gets the next attempt.

/// The nodes of one service that may be chosen, at one revision.
public struct Candidates: Sendable {
  public var revision: UInt64
  public var nodes: [Node]
  public init(revision: UInt64, nodes: [Node]) {
    self.revision = revision
    self.nodes = nodes
  }
}

/// What is known of the call when a node is picked.
public struct SelectContext {
  /// Indices (below 64) already tried for this call or not fit for it now, as a bit mask; an index of 64 and above is
  /// never excluded.
  public var excluded: UInt64
  public init(excluded: UInt64 = 0) { self.excluded = excluded }
  @inlinable public func excludes(_ index: Int) -> Bool { index < 64 && excluded & (1 &<< UInt64(index)) != 0 }
}

/// A selector: one value for each worker and service, so it needs no locks. `pick` and `mark` are on the data path: they
/// neither allocate nor block, and take all time and randomness as arguments.
public protocol Selector {
  /// The candidates changed. State about a node that stays may be kept by its id.
  mutating func rebuild(_ candidates: Candidates)
  /// The index of the node for the next attempt, or nil when there is none that `context` allows.
  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int?
  /// The outcome of an attempt at the node of `index` as of `revision`; one of another revision is to be ignored.
  mutating func mark(_ index: Int, revision: UInt64, outcome: CallOutcome, now: Instant)
  /// Forgets all that was learned.
  mutating func reset()
}
