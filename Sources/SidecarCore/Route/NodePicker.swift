// Chooses the nodes for the attempts of one call and remembers which were tried: what a unary call and a stream have in
// common.

/// The attempts of one call at the nodes of one service. Loop-confined.
struct NodePicker {
  /// Refused dials of one call after which it fails.
  static let refusalsMax = 64

  /// The node picked last, and as of which revision of the service.
  private(set) var index = 0
  private(set) var revision: UInt64 = 0
  /// Nodes that refused a dial; they are not tried again.
  private var excluded: UInt64 = 0
  /// Nodes that broke a connection; they are tried again only when there is no other.
  private var broke: UInt64 = 0
  private var refusals = 0

  /// For the next call.
  mutating func reset() {
    excluded = 0
    broke = 0
    refusals = 0
  }

  mutating func pick(_ service: ServiceTable, _ worker: Worker) -> NodeState? {
    if service.revision != revision {
      // The nodes changed since the last attempt: indices mean other nodes now.
      excluded = 0
      broke = 0
      revision = service.revision
    }
    let now = worker.driver.now
    let avoided = service.avoided(now) | broke
    var picked = service.selector.pick(
      SelectContext(excluded: excluded | avoided), random: &worker.driver.random, now: now)
    if picked == nil, avoided != 0 {
      picked = service.selector.pick(SelectContext(excluded: excluded), random: &worker.driver.random, now: now)
    }
    guard let picked, service.nodes.indices.contains(picked) else { return nil }
    index = picked
    return service.nodes[picked]
  }

  /// The node picked last refused a dial: it is passed over for a while. True when another may be tried: nothing was
  /// sent, so every other node may, but not for ever.
  mutating func refused(_ node: NodeState, of service: ServiceTable, _ worker: Worker) -> Bool {
    node.avoidUntil = worker.driver.now.advanced(byNanoseconds: ServiceTable.avoidTime)
    service.mayAvoid = true
    if index < 64 { excluded |= 1 &<< UInt64(index) }
    refusals += 1
    return refusals < Self.refusalsMax
  }

  /// The node picked last broke a connection on which something had been sent.
  mutating func brokeOff() {
    if index < 64 { broke |= 1 &<< UInt64(index) }
  }

  func mark(_ service: ServiceTable, _ outcome: CallOutcome, _ worker: Worker) {
    service.selector.mark(index, revision: revision, outcome: outcome, now: worker.driver.now)
  }
}
