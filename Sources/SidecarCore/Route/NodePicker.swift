// Chooses the nodes for the attempts of one call and remembers which were tried: what a unary call and a stream have in
// common.

/// The attempts of one call at the nodes of one service. Loop-confined.
struct NodePicker {
  /// Refused dials of one call after which it fails.
  static let refusalsMax = 64

  /// What the call wants of a node.
  var wish = NodeSet.Wish()
  /// Which nodes the policies mean for the call has been found out.
  private(set) var isSettled = false
  /// As go-micro's client has it: each attempt chooses among all nodes.
  var forgetsFailures = false
  /// The node of the attempt at hand; nil between attempts.
  private var node: NodeState?
  private var startedAt = Instant(nanoseconds: 0)
  private var revision: UInt64 = 0
  /// Nodes that refused a dial; they are not tried again.
  private var refused: [UInt32] = []
  /// Nodes that broke a connection or failed otherwise; they are tried again only when there is no other.
  private var failed: [UInt32] = []
  private(set) var refusals = 0

  /// For the next call.
  mutating func reset() {
    assert(node == nil, "an attempt is still under way")
    wish = NodeSet.Wish()
    isSettled = false
    forgetsFailures = false
    forgetTried()
    refusals = 0
  }

  /// All nodes may be tried once more.
  mutating func forgetTried() {
    refused.removeAll(keepingCapacity: true)
    failed.removeAll(keepingCapacity: true)
  }

  /// Finds out which nodes the policies mean for the call, once its service is known; then they stay the same for all
  /// its attempts. Once for each call.
  @inline(__always)
  mutating func settle(_ service: ServiceTable, _ policy: EndpointPolicy, _ endpoint: FixedBytes, _ worker: Worker) {
    isSettled = true
    // Who says which nodes it means is taken at its word: the parts are for the others.
    if !service.policy.splits.isEmpty, wish.filter.isEmpty { takePart(service, worker) }
    if policy.values.requiresEndpoint, service.isStream(endpoint.text) != nil {
      wish.narrow(by: NodeSet.SharedFilter(NodeFilter(endpoint: endpoint.text)))
    }
  }

  private mutating func takePart(_ service: ServiceTable, _ worker: Worker) {
    let now = worker.driver.now
    let splits = service.policy.splits
    let part = TrafficSplit.draw(splits, wish.key?.hash ?? worker.driver.random.next()) {
      service.set.memberCount($0, now) > 0
    }
    // With no part that has nodes the call has none: any part says so.
    wish.filter = part ?? splits[0].filter
  }

  /// The node for the next attempt, which begins now; `ended` must follow. Nil: there is none left.
  mutating func pick(_ service: ServiceTable, _ worker: Worker) -> NodeState? {
    if service.revision != revision {
      // The nodes changed since the last attempt: indices mean other nodes now.
      forgetTried()
      revision = service.revision
    }
    let now = worker.driver.now
    let set = service.set
    var picked: Int?
    if failed.isEmpty {
      picked = refused.withUnsafeBufferPointer {
        set.pick(wish, tried: $0, &service.selector, random: &worker.driver.random, now: now)
      }
    } else {
      picked = (refused + failed).withUnsafeBufferPointer {
        set.pick(wish, tried: $0, &service.selector, random: &worker.driver.random, now: now)
      }
      if picked == nil {
        picked = refused.withUnsafeBufferPointer {
          set.pick(wish, tried: $0, &service.selector, random: &worker.driver.random, now: now)
        }
      }
    }
    guard let picked, service.nodes.indices.contains(picked) else { return nil }
    let state = service.nodes[picked]
    node = state
    startedAt = now
    set.began(picked)
    return state
  }

  /// The attempt at hand has ended. Without one nothing happens. `reported`: what the node's sidecar said of its app's load.
  mutating func ended(
    _ service: ServiceTable, _ outcome: CallOutcome, reported: Float? = nil, _ worker: Worker
  ) {
    guard let node else { return }
    self.node = nil
    let now = worker.driver.now
    let index = node.index
    // It may have left the registry meanwhile.
    guard index >= 0 else { return }
    service.set.ended(
      index, outcome, elapsed: now.nanoseconds(since: startedAt), reported: reported, now: now)
    service.selector.mark(index, revision: service.revision, outcome: outcome, now: now)
    guard !forgetsFailures, service.revision == revision else { return }
    switch outcome {
    case .connectFailed: refused.append(UInt32(index))
    case .broken, .failure, .timedOut: failed.append(UInt32(index))
    case .success, .cancelled: break
    }
  }

  /// Another attempt of the same call was quicker: the node took at least as long as it has had so far.
  mutating func overtaken(_ service: ServiceTable, _ worker: Worker) {
    if let node, node.index >= 0 {
      let now = worker.driver.now
      service.set.observe(node.index, atLeast: now.nanoseconds(since: startedAt), now: now)
    }
    ended(service, .cancelled, worker)
  }

  /// The dial of the attempt that has just ended was refused. True when another node may be tried: nothing was sent, so
  /// every other node may, but not for ever.
  mutating func mayGoOn() -> Bool {
    refusals += 1
    return refusals < Self.refusalsMax
  }

  /// Elsewhere next time, though nothing is wrong with the node.
  mutating func avoid(_ node: NodeState) {
    if node.index >= 0 { failed.append(UInt32(node.index)) }
  }

  /// A node that another attempt of the same call is at.
  mutating func exclude(_ other: NodeState, of service: ServiceTable) {
    revision = service.revision
    if other.index >= 0 { refused.append(UInt32(other.index)) }
  }
}
