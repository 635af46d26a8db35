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

/// What one worker sees of a node's load, kept by the data path for every selector. One for each candidate, in their order.
public struct NodeLoad: Sendable {
  /// Calls and streams of this worker that are under way there.
  public var inFlight: Int32 = 0
  /// Its share of the calls relative to other nodes, above 0: the registry's weight, less while it starts slowly. Of a
  /// node that is to get none, the data path says that it is not allowed.
  public var weight: Float = 1
  /// Moving average of the latency in nanoseconds that rises at once and falls slowly (peak-EWMA), as of `observedAt`;
  /// 0 while nothing is known.
  public var latency: Float = 0
  /// How busy the node's app is, as its sidecar said in the last reply: calls that are at the app or wait for it, as a share
  /// of what it takes at once, 0 to `reportedMax`. 0 where nobody says. Other callers' calls count, which `inFlight` knows
  /// nothing of.
  public var reported: Float = 0
  public var observedAt = Instant(nanoseconds: 0)

  public init() {}

  /// The average as it has fallen until `now`; 0 while nothing is known. `decay`: nanoseconds until it is 1/e.
  @inlinable public func latency(at now: Instant, decay: Int64) -> Float {
    latency * Decay.factor(elapsed: now.nanoseconds(since: observedAt), constant: decay)
  }

  /// More than this is not believed.
  public static let reportedMax = LoadReport.valueMax
  /// Up to this share an app has room enough that it makes no difference.
  @usableFromInline static let reportedFree: Float = 0.5
  /// What was reported counts for so many nanoseconds after the node was last heard of.
  @usableFromInline static let reportedTime: Int64 = 5_000_000_000

  /// How many times busier than by our own calls the node is to be taken for: 1 up to half of what its app takes, then
  /// rising to 3 when that is full and to 7 when as many wait.
  @inlinable public func pressure(at now: Instant) -> Float {
    guard reported > Self.reportedFree, now.nanoseconds(since: observedAt) < Self.reportedTime else { return 1 }
    return 1 + 4 * (min(reported, Self.reportedMax) - Self.reportedFree)
  }

  /// Takes in a latency in nanoseconds: a higher one at once, a lower one as the time since the last has it.
  @inlinable public mutating func observe(_ sample: Int64, now: Instant, decay: Int64) {
    let sample = Float(max(sample, 1))
    if latency == 0 || sample >= latency {
      latency = sample
    } else {
      let share = Decay.factor(elapsed: now.nanoseconds(since: observedAt), constant: decay)
      latency = latency * share + sample * (1 - share)
    }
    observedAt = now
  }
}

/// e to the power of minus elapsed by constant.
public enum Decay {
  /// Within 0.2 % of the exact value, in a few nanoseconds: the exponent of the float is set directly, and a cubic does
  /// the rest. Of short times what is lost is exact to a thousandth, so that many of them come to the same as a long one.
  /// 0 beyond 80 constants; a constant of zero or less forgets at once.
  @inlinable public static func factor(elapsed: Int64, constant: Int64) -> Float {
    guard elapsed > 0 else { return 1 }
    guard constant > 0 else { return 0 }
    let ratio = Float(elapsed) / Float(constant)
    if ratio < 0.05 { return 1 - ratio * (1 - ratio * 0.5) }
    let exponent = -1.442_695 * ratio
    guard exponent > -115 else { return 0 }
    // Below the exponent by at most one; rounding down would be a call.
    let whole = Int32(exponent) &- 1
    let part = exponent - Float(whole)
    let mantissa = 1 + part * (0.695_976 + part * (0.224_940 + part * 0.079_084))
    return mantissa * Float(bitPattern: UInt32(whole &+ 127) &<< 23)
  }
}

/// The nodes among which a call may choose, and what is known of the call.
///
/// Health, ejection, limits, zones, versions and splits are the data path's business: a node that is out for any of those
/// reasons is not in `allowed`. Valid during `pick` only.
public struct SelectContext {
  /// Indices that may be picked, ascending, each once.
  public let allowed: UnsafeBufferPointer<UInt32>
  /// The same as a bit for each candidate, 64 to a word: whether an index is among them.
  public let allowedBits: UnsafePointer<UInt64>
  /// By index; one for each candidate.
  public let loads: UnsafePointer<NodeLoad>
  /// The largest `weight` among the allowed, and whether all of theirs are equal.
  public let weightMax: Float
  public let isEven: Bool
  /// Changes whenever `allowed` or a weight does, within one revision of the candidates; never repeats. What a selector
  /// works out of `allowed` is good as long as this stays.
  public let generation: UInt64
  /// Which subset of the service the call goes to (by version, label or endpoint); 0 is the whole. Small.
  public let subset: Int
  /// Already tried for this call, and not to be picked again: few, in no order.
  public let tried: UnsafeBufferPointer<UInt32>
  /// A bit for each candidate that has as many calls as it may have, as `allowedBits`; nil while none has. `wasTried` and
  /// `mayPick` know of them: they come and go with every call, so that `allowed` does not follow.
  public let fullBits: UnsafePointer<UInt64>?
  /// Hash of what the call is to be sent by (a header, cookie or metadata); nil when it has none.
  public let key: SelectKey?
  /// When the moving average of latencies has fallen to 1/e with nothing observed, in nanoseconds.
  public let latencyDecay: Int64
  /// By position in `allowed`; nil while all weights are equal.
  @usableFromInline let slots: UnsafePointer<WeightedSlot>?

  /// `slots`: of a `WeightedDraw` for the weights of the allowed, in their order. `fullBits`: as long as `allowedBits`.
  public init(
    allowed: UnsafeBufferPointer<UInt32>, allowedBits: UnsafePointer<UInt64>, loads: UnsafePointer<NodeLoad>,
    weightMax: Float, isEven: Bool, slots: UnsafePointer<WeightedSlot>?, generation: UInt64, subset: Int,
    tried: UnsafeBufferPointer<UInt32>, fullBits: UnsafePointer<UInt64>? = nil, key: SelectKey?, latencyDecay: Int64
  ) {
    self.allowed = allowed
    self.allowedBits = allowedBits
    self.loads = loads
    self.weightMax = weightMax
    self.isEven = isEven
    self.generation = generation
    self.subset = subset
    self.tried = tried
    self.fullBits = fullBits
    self.key = key
    self.latencyDecay = latencyDecay
    self.slots = slots
  }

  /// An allowed index, each as likely as its weight, tried or full or neither. At least one must be allowed.
  @inlinable public func draw(_ random: inout SeededRandom) -> UInt32 {
    let drawn = random.next()
    let position = Int(truncatingIfNeeded: ((drawn &>> 32) &* UInt64(truncatingIfNeeded: allowed.count)) &>> 32)
    guard let slots else { return allowed[position] }
    let slot = slots[position]
    return UInt32(truncatingIfNeeded: drawn) < slot.threshold ? allowed[position] : allowed[Int(slot.other)]
  }

  /// An allowed index that was not tried and is not full, each as likely as its weight; nil when there is none.
  @inlinable public func drawUntried(_ random: inout SeededRandom) -> UInt32? {
    guard !allowed.isEmpty else { return nil }
    if tried.count == 0, fullBits == nil { return draw(&random) }
    for _ in 0..<16 {
      let index = draw(&random)
      if !wasTried(index) { return index }
    }
    return remaining(&random)
  }

  /// For when those that are left have little of the weight: from anywhere on, 64 candidates at a time, until some are
  /// found; among few all count by their weights.
  @usableFromInline func remaining(_ random: inout SeededRandom) -> UInt32? {
    let words = Int(allowed[allowed.count &- 1] &>> 6) &+ 1
    var word = Int(allowed[random.below(allowed.count)] &>> 6)
    var total: Float = 0
    var found: UInt32?
    for _ in 0..<words {
      var bits = allowedBits[word]
      if let fullBits { bits &= ~fullBits[word] }
      while bits != 0 {
        let index = UInt32(truncatingIfNeeded: word &<< 6 &+ bits.trailingZeroBitCount)
        bits &= bits &- 1
        if isAmongTried(index) { continue }
        let weight = loads[Int(index)].weight
        total += weight
        if found == nil || Float(random.next() &>> 40) * 0x1p-24 * total < weight { found = index }
      }
      // Among many one word is as good as any; what is left of few may be in one place.
      if found != nil, words > 4 { break }
      word = word &+ 1 == words ? 0 : word &+ 1
    }
    return found
  }

  /// Whether an index of the candidates is among the allowed, was not tried and is not full.
  @inlinable public func mayPick(_ index: Int) -> Bool {
    allowedBits[index &>> 6] & (1 &<< UInt64(index & 63)) != 0 && !wasTried(UInt32(truncatingIfNeeded: index))
  }

  /// Whether an index is not to be picked: it was tried for this call, or is full.
  @inlinable public func wasTried(_ index: UInt32) -> Bool {
    if let fullBits, fullBits[Int(index &>> 6)] & (1 &<< UInt64(index & 63)) != 0 { return true }
    return isAmongTried(index)
  }

  @inlinable func isAmongTried(_ index: UInt32) -> Bool {
    if tried.count == 0 { return false }
    for other in tried where other == index { return true }
    return false
  }
}

/// What calls that belong together have in common, as a hash. Which hash it is, the selector says (`SelectKeyHash`).
@frozen public struct SelectKey: Hashable, Sendable {
  public var hash: UInt64
  /// The rest of a hash of 256 bits; 0 of one of 64.
  public var rest: (UInt64, UInt64, UInt64) = (0, 0, 0)

  @inlinable public init(_ hash: UInt64) { self.hash = hash }
  @inlinable public init(_ hash: UInt64, _ rest: (UInt64, UInt64, UInt64)) {
    self.hash = hash
    self.rest = rest
  }

  @inlinable public static func == (a: SelectKey, b: SelectKey) -> Bool { a.hash == b.hash && a.rest == b.rest }
  @inlinable public func hash(into hasher: inout Hasher) { hasher.combine(hash) }
}

/// How the text a call is sent by becomes a key. Every worker and sidecar comes to the same.
public enum SelectKeyHash: Hashable, Sendable {
  /// 64 well mixed bits.
  case mixed
  /// HighwayHash of 256 bits with a key of zeros, as go-micro's shard strategy has it.
  case highway
  /// CRC-32 of IEEE 802.3, as go-micro's shard wrapper has it.
  case crc32
}

/// A selector: one value for each worker and service, so it needs no locks. `pick` and `mark` are on the data path: they
/// neither block nor, once warm, allocate, and take all time and randomness as arguments.
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

extension Selector {
  public mutating func mark(_ index: Int, revision: UInt64, outcome: CallOutcome, now: Instant) {}
  public mutating func reset() {}
}
