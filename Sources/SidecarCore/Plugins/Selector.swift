// The Selector plug-in point (go-micro selector/selector.go): which node gets the next attempt.

/// A node that may be chosen, with what of the registry's data selectors go by.
public struct Candidate: Sendable {
  /// The most a node can weigh.
  public static let weightMax = 65_535

  public let node: Node
  /// The version of the service it runs.
  public let version: String
  /// Its share of the calls relative to other nodes, 0 to `weightMax`: metadata `weight`, 1 where there is none or it is
  /// no number. Registries that have weights of their own (Consul, SRV records) write it there.
  public let weight: Int
  /// Where it runs: metadata `zone`, empty when nobody said.
  public let zone: String
  /// Nodes of a lower number come first, as SRV records have it (RFC 2782): metadata `priority`, 0 where there is none.
  public let priority: Int

  public init(node: Node, version: String) {
    self.node = node
    self.version = version
    weight = Self.number(node.metadata["weight"], in: 0...Self.weightMax) ?? 1
    zone = node.metadata["zone"] ?? ""
    priority = Self.number(node.metadata["priority"], in: 0...65_535) ?? 0
  }

  /// A whole number, one beyond the range taken for its end.
  private static func number(_ text: String?, in range: ClosedRange<Int>) -> Int? {
    guard let text, let number = Double(text), !number.isNaN else { return nil }
    return Int(min(max(number.rounded(), Double(range.lowerBound)), Double(range.upperBound)))
  }
}

/// The nodes of one service that may be chosen, at one revision.
public struct Candidates: Sendable {
  public var revision: UInt64
  public var nodes: [Candidate]
  public init(revision: UInt64, nodes: [Candidate]) {
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
