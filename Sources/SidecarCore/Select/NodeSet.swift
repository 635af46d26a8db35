// The nodes of one service as one worker uses them: how loaded and how well each is, and which may be picked for a call.
// Decisions only: what is dialled and sent is the business of whoever asks.

/// Loop-confined. Indices are those of the candidates at the present revision.
package final class NodeSet {
  /// How far a search for nodes goes.
  enum Use { case well, ejectedToo, any }

  /// Subsets kept; one more takes the place of the one unused for the longest time.
  package static let subsetsMax = 32

  package private(set) var policy: ServicePolicy
  /// Where this sidecar runs; empty: nobody said, and zones mean nothing.
  private let zone: String
  package private(set) var count = 0
  private(set) var loads: UnsafeMutablePointer<NodeLoad>
  private var health: UnsafeMutablePointer<NodeHealth>
  private var baseWeights: [Float] = []
  private var tierKeys: [Int32] = []
  private var nodes: [CatalogNode] = []
  /// A bit for each node that has as many calls as the policy lets it have; empty while the policy sets no such limit.
  /// Apart from the lists, since it changes with every call.
  private var fullBits: [UInt64] = []
  private(set) var fullCount = 0
  /// When a call other than a stream last told a latency.
  private var callObservedAt: Instant?
  /// Changes with everything that decides who may be picked, but for nodes that are full.
  private(set) var version: UInt64 = 0
  private var generation: UInt64 = 0
  /// When an ejection ends or a share grows next.
  private var nextTurn = Instant.distantFuture
  private var nextLatencyCheck = Instant(nanoseconds: 0)
  private let whole = NodeSubset(NodeFilter(), id: 0)
  /// The whole first.
  private var subsets: [NodeSubset]
  /// Nodes out because of what calls came to.
  package private(set) var ejectedCount = 0
  /// A node was taken out, or has proved well again.
  package var onChange: ((_ index: Int, _ health: NodeHealth, _ isOut: Bool) -> Void)?

  package init(_ policy: ServicePolicy, zone: String) {
    self.policy = policy
    self.zone = zone
    loads = .allocate(capacity: 0)
    health = .allocate(capacity: 0)
    subsets = [whole]
  }

  deinit {
    loads.deallocate()
    health.deallocate()
  }

  func nextGeneration() -> UInt64 {
    generation &+= 1
    return generation
  }

  package func loadOf(_ index: Int) -> NodeLoad { loads[index] }
  package func healthOf(_ index: Int) -> NodeHealth { health[index] }

  // MARK: What there is

  /// The candidates changed. `previous` has for each its index before, or -1 for one that is new.
  package func rebuild(_ nodes: [CatalogNode], candidates: [Candidate], previous: [Int], now: Instant) {
    let hadNodes = count > 0
    let newLoads = UnsafeMutablePointer<NodeLoad>.allocate(capacity: nodes.count)
    let newHealth = UnsafeMutablePointer<NodeHealth>.allocate(capacity: nodes.count)
    baseWeights.removeAll(keepingCapacity: true)
    tierKeys.removeAll(keepingCapacity: true)
    for (index, candidate) in candidates.enumerated() {
      let old = previous[index]
      (newLoads + index).initialize(to: old >= 0 ? loads[old] : NodeLoad())
      (newHealth + index).initialize(to: old >= 0 ? health[old] : NodeHealth())
      if old < 0, hadNodes, policy.slowStart > 0 { newHealth[index].growsSince = now }
      baseWeights.append(Float(candidate.weight))
      let isFar = policy.zoneFirst && !zone.isEmpty && candidate.zone != zone
      tierKeys.append(Int32(clamping: candidate.priority * 2 + (isFar ? 1 : 0)))
    }
    loads.deallocate()
    health.deallocate()
    loads = newLoads
    health = newHealth
    count = nodes.count
    self.nodes = nodes
    for subset in subsets { subset.rebuild(nodes) }
    recount()
    recountFull()
    turn(now)
    version &+= 1
  }

  package func replacePolicy(_ policy: ServicePolicy, candidates: [Candidate], now: Instant) {
    self.policy = policy
    rebuild(nodes, candidates: candidates, previous: Array(0..<count), now: now)
  }

  private func recount() {
    ejectedCount = 0
    for index in 0..<count where health[index].standing != .well && health[index].cause != .refused {
      ejectedCount += 1
    }
  }

  private func recountFull() {
    fullCount = 0
    guard policy.limits.inFlightPerNode > 0 else { return fullBits = [] }
    fullBits = Array(repeating: 0, count: (count + 63) / 64)
    for index in 0..<count { noteFull(index) }
  }

  /// A call has come to the node or left it.
  @inline(__always)
  private func noteFull(_ index: Int) {
    guard policy.limits.inFlightPerNode > 0 else { return }
    let isFull = loads[index].inFlight >= policy.limits.inFlightPerNode
    let bit: UInt64 = 1 &<< UInt64(index & 63)
    guard (fullBits[index &>> 6] & bit != 0) != isFull else { return }
    fullBits[index &>> 6] ^= bit
    fullCount += isFull ? 1 : -1
  }

  func isUsable(_ index: Int) -> Bool { health[index].isUsable && baseWeights[index] > 0 }

  func isHalfOpen(_ index: Int) -> Bool {
    health[index].standing == .halfOpen && !health[index].isProbed && !health[index].isUnhealthy
  }

  func isFull(_ index: Int) -> Bool { fullCount > 0 && fullBits[index &>> 6] & (1 &<< UInt64(index & 63)) != 0 }

  /// Every node has as many calls as it may have.
  var areAllFull: Bool { count > 0 && fullCount == count }

  func mayUse(_ index: Int, _ use: Use) -> Bool {
    switch use {
    case .well: isUsable(index)
    case .ejectedToo:
      isUsable(index)
        || !health[index].isUnhealthy && baseWeights[index] > 0
          && (health[index].standing == .well || health[index].cause != .refused)
    // A weight of zero holds even when nothing else is left.
    case .any: baseWeights[index] > 0
    }
  }

  func tierKey(_ index: Int) -> Int { Int(tierKeys[index]) }

  /// Nodes that `filter` means, well or not.
  func memberCount(_ filter: NodeFilter, _ now: Instant) -> Int { subset(filter, now).members.count }

  /// The subset that `filter` means; made when first asked for.
  func subset(_ filter: NodeFilter, _ now: Instant) -> NodeSubset {
    if filter.isEmpty { return whole }
    for subset in subsets where subset.filter == filter {
      subset.lastUsed = now
      return subset
    }
    let id: Int
    if subsets.count < Self.subsetsMax {
      id = subsets.count
      subsets.append(NodeSubset(filter, id: id))
    } else {
      id = subsets.indices.dropFirst().min { subsets[$0].lastUsed < subsets[$1].lastUsed } ?? 1
      subsets[id] = NodeSubset(filter, id: id)
    }
    let subset = subsets[id]
    subset.lastUsed = now
    subset.rebuild(nodes)
    return subset
  }

  // MARK: Time

  /// Lets ejections end and shares grow as `now` has it.
  private func turn(_ now: Instant) {
    nextTurn = .distantFuture
    for index in 0..<count {
      if health[index].turn(now) { version &+= 1 }
      if health[index].standing == .out { nextTurn = min(nextTurn, health[index].until) }
      setWeight(index, now)
    }
  }

  private func setWeight(_ index: Int, _ now: Instant) {
    var weight = baseWeights[index]
    if let since = health[index].growsSince {
      let grown = Float(now.nanoseconds(since: since)) / Float(max(policy.slowStart, 1))
      if policy.slowStart <= 0 || grown >= 1 {
        health[index].growsSince = nil
      } else {
        weight *= max(grown, 0.1)
        nextTurn = min(nextTurn, now.advanced(byNanoseconds: max(policy.slowStart / 20, 10_000_000)))
      }
    }
    if loads[index].weight != weight {
      loads[index].weight = weight
      version &+= 1
    }
  }

  // MARK: Picking

  /// What of a call decides about nodes.
  package struct Wish {
    /// Most calls have none, and copies of a wish then cost nothing.
    fileprivate var narrowed: SharedFilter?
    package var key: SelectKey?
    /// The call may be made twice, so that it may try a node of which nobody knows whether it is well again.
    package var isRepeatable = false

    package init() {}

    package var filter: NodeFilter {
      get { narrowed?.filter ?? NodeFilter() }
      set { narrowed = newValue.isEmpty ? nil : SharedFilter(newValue) }
    }

    /// Only nodes that match `other` as well.
    package mutating func narrow(by other: SharedFilter?) {
      guard let other else { return }
      guard let narrowed else {
        self.narrowed = other
        return
      }
      var both = narrowed.filter
      both.narrow(by: other.filter)
      self.narrowed = SharedFilter(both)
    }
  }

  /// A filter that many calls share. Immutable, any thread.
  package final class SharedFilter: Sendable {
    let filter: NodeFilter
    package init(_ filter: NodeFilter) { self.filter = filter }
  }

  /// How long a half-open node waits for a call that may be repeated; then any call will do.
  private static let probePatience: Int64 = 1_000_000_000

  /// The node for an attempt; nil when there is none left. `tried` are not picked again.
  package func pick(
    _ wish: Wish, tried: UnsafeBufferPointer<UInt32>, _ selector: inout any Selector, random: inout SeededRandom,
    now: Instant
  ) -> Int? {
    guard fullCount < count else { return nil }
    if now >= nextTurn { turn(now) }
    let subset = wish.narrowed.map { self.subset($0.filter, now) } ?? whole
    subset.refresh(self)
    if !subset.halfOpen.isEmpty, let probe = probe(subset, wish, tried, now) { return probe }
    return fullBits.withUnsafeBufferPointer { full in
      subset.choose(&random) { (list, random) in
        guard list.count > 0, let bits = list.bits.baseAddress else { return nil }
        let context = SelectContext(
          allowed: list.span, allowedBits: UnsafePointer(bits), loads: UnsafePointer(loads), weightMax: list.weightMax,
          isEven: list.isEven, slots: list.slots, generation: list.generation, subset: subset.id, tried: tried,
          fullBits: fullCount > 0 ? full.baseAddress : nil, key: wish.key, latencyDecay: policy.latencyDecay)
        guard let index = selector.pick(context, random: &random, now: now), index >= 0, index < count else {
          return nil
        }
        // A selector that knows nothing of limits: they hold all the same.
        return isFull(index) ? context.drawUntried(&random).map { Int($0) } : index
      }
    }
  }

  /// A refused dial harms no call, so any call may find out whether a node that refused some is back.
  private func probe(
    _ subset: NodeSubset, _ wish: Wish, _ tried: UnsafeBufferPointer<UInt32>, _ now: Instant
  ) -> Int? {
    // Only a first attempt: one that has failed already deserves better.
    guard tried.isEmpty else { return nil }
    for candidate in subset.halfOpen {
      let index = Int(candidate)
      if isFull(index) { continue }
      if wish.isRepeatable || health[index].cause == .refused
        || now.nanoseconds(since: health[index].until) > Self.probePatience
      {
        return index
      }
    }
    return nil
  }

  // MARK: Outcomes

  /// An attempt at the node begins.
  package func began(_ index: Int) {
    loads[index].inFlight &+= 1
    noteFull(index)
    if health[index].standing == .halfOpen {
      health[index].began()
      version &+= 1
    }
  }

  /// The attempt has ended; `elapsed` nanoseconds after it began. `reported`: how busy the node's app is, as its answer
  /// says; nil: it does not say, or there is no answer.
  package func ended(
    _ index: Int, _ outcome: CallOutcome, elapsed: Int64, reported: Float? = nil, now: Instant
  ) {
    loads[index].inFlight = max(loads[index].inFlight &- 1, 0)
    noteFull(index)
    let change: NodeHealth.Change
    switch outcome {
    case .success(let latency):
      // Of a stream only its end is known.
      if latency > 0 {
        loads[index].observe(latency, now: now, decay: policy.latencyDecay)
        callObservedAt = now
        loads[index].reported = reported ?? 0
      } else if let reported {
        loads[index].reported = reported
      }
      change = health[index].succeeded(now, policy.ejection)
    case .failure(let latency):
      // A node that fails quickly must not look like a quick one.
      loads[index].observe(
        max(latency, Int64(loads[index].latency)), now: now, decay: policy.latencyDecay)
      if let reported { loads[index].reported = reported }
      change = health[index].failed(now, policy.ejection)
    case .timedOut:
      loads[index].observe(
        max(elapsed, Int64(loads[index].latency)), now: now, decay: policy.latencyDecay)
      change = health[index].failed(now, policy.ejection)
    case .broken: change = health[index].failed(now, policy.ejection)
    case .connectFailed: change = health[index].refused()
    case .cancelled: change = health[index].nothingLearned()
    }
    apply(change, index, elapsed, now)
    if policy.ejection.latencyFactor > 0, now >= nextLatencyCheck { checkLatencies(now) }
  }

  /// A call has waited for the node that long, and nobody waits any more.
  func observe(_ index: Int, atLeast latency: Int64, now: Instant) {
    loads[index].observe(max(latency, Int64(loads[index].latency)), now: now, decay: policy.latencyDecay)
  }

  /// First replies of streams that took longer tell of what the stream is about, not of the node.
  static let streamReplyMax: Int64 = 10_000_000_000

  /// A stream has had its first reply `latency` nanoseconds after it was asked for. It counts only where no calls tell how
  /// quick the nodes are: when a stream has something to say is often not the node's doing.
  func observeStream(_ index: Int, _ latency: Int64, now: Instant) {
    if let callObservedAt, now.nanoseconds(since: callObservedAt) < policy.latencyDecay { return }
    guard latency < Self.streamReplyMax else { return }
    loads[index].observe(latency, now: now, decay: policy.latencyDecay)
  }

  private func apply(_ change: NodeHealth.Change, _ index: Int, _ elapsed: Int64, _ now: Instant) {
    switch change {
    case .nothing: break
    case .probeOver: version &+= 1
    case .recovered:
      if policy.slowStart > 0 { health[index].growsSince = now }
      recount()
      setWeight(index, now)
      nextTurn = min(nextTurn, now)
      version &+= 1
      onChange?(index, health[index], false)
    case .shouldEject(let cause): eject(index, cause, elapsed, now)
    }
  }

  /// A dial that took longer than this did not fail by an answer.
  private static let slowRefusal: Int64 = 200_000_000

  private func eject(_ index: Int, _ cause: EjectionCause, _ elapsed: Int64, _ now: Instant) {
    if cause == .refused {
      // No limit: a node that takes no connection cannot be used however few there are.
      guard policy.ejection.refusedTime > 0 else { return }
    } else if health[index].standing == .well {
      let most = max(1, Int(policy.ejection.shareMax * Double(count)))
      guard ejectedCount < most else { return }
    }
    health[index].eject(cause, wasSlow: elapsed > Self.slowRefusal, now, policy.ejection)
    nextTurn = min(nextTurn, health[index].until)
    recount()
    version &+= 1
    onChange?(index, health[index], true)
  }

  private static let latencyCheckInterval: Int64 = 1_000_000_000
  /// A node below this latency in nanoseconds is never called slow, whatever the others do.
  private static let slowMin: Float = 1_000_000

  private func checkLatencies(_ now: Instant) {
    nextLatencyCheck = now.advanced(byNanoseconds: Self.latencyCheckInterval)
    var known: [(latency: Float, index: Int)] = []
    for index in 0..<count where health[index].standing == .well && health[index].isKnown(now, policy.ejection) {
      known.append((loads[index].latency(at: now, decay: policy.latencyDecay), index))
    }
    guard known.count >= 3 else { return }
    known.sort { $0.latency < $1.latency }
    let limit = max(known[known.count / 2].latency * Float(policy.ejection.latencyFactor), Self.slowMin)
    for slow in known.reversed() where slow.latency > limit { eject(slow.index, .latency, 0, now) }
  }

  /// What an active check found.
  package func setUnhealthy(_ index: Int, _ isUnhealthy: Bool) {
    guard health[index].isUnhealthy != isUnhealthy else { return }
    health[index].isUnhealthy = isUnhealthy
    version &+= 1
  }

  // MARK: For people

  func usableCount(_ filter: NodeFilter, _ now: Instant) -> Int {
    let subset = subset(filter, now)
    subset.refresh(self)
    return subset.usableCount - (fullCount == 0 ? 0 : (0..<count).count { isFull($0) && subset.isListed($0) })
  }

  func isPanicking(_ filter: NodeFilter, _ now: Instant) -> Bool {
    let subset = subset(filter, now)
    subset.refresh(self)
    return subset.isPanicking
  }

  /// Why the node would not be picked for a call with that filter; nil when it may be.
  func exclusion(_ index: Int, _ filter: NodeFilter, _ now: Instant) -> String? {
    guard filter.isEmpty || filter.matches(nodes[index]) else { return "does not match the filter" }
    if isFull(index) { return "\(loads[index].inFlight) calls are under way there, as many as may be" }
    let subset = subset(filter, now)
    subset.refresh(self)
    if subset.isListed(index) {
      return subset.isSpare(index) ? "used only when nodes of an earlier priority or of our zone are out" : nil
    }
    if baseWeights[index] == 0 { return "its weight is 0" }
    if health[index].isUnhealthy { return "health checks say that it is not well" }
    switch health[index].standing {
    case .out: return "ejected: \(health[index].cause.word)"
    case .halfOpen: return health[index].isProbed ? "one call is finding out whether it is well" : "takes one call next"
    case .well: return nil
    }
  }

  package func resetLearned() {
    for index in 0..<count {
      loads[index].latency = 0
      loads[index].reported = 0
      health[index] = NodeHealth()
    }
    recount()
    version &+= 1
  }
}
