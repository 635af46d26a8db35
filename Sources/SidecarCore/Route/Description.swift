// When a JSON caller meets a gRPC node and no descriptor tells how to translate, the node is asked (server reflection) before
// the call goes on. Once: what it says holds for a while, for all nodes of the service and all workers.

/// A call that waits until a node has been asked for descriptors.
protocol DescriptionWaiter: AnyObject {
  func described()
}

/// Whether the nodes of a service have been asked for descriptors by server reflection.
struct Description {
  /// Calls that wait for the answer; more go on without it.
  static let waitersMax = 1024
  /// How long an answer holds, found or not, in nanoseconds; other versions of the service end it at once.
  static let lifetime: Int64 = 60_000_000_000

  var askedAt: Instant?
  var isAsking = false
  var waiting: [any DescriptionWaiter] = []
}

extension Worker {
  /// Whether a call of a method whose descriptor is missing should wait while `node` is asked for it; `described` of the
  /// waiter follows then, in a later turn.
  func awaitDescription(_ service: ServiceTable, _ node: NodeState, _ waiter: any DescriptionWaiter) -> Bool {
    if let askedAt = service.description.askedAt, driver.now.nanoseconds(since: askedAt) < Description.lifetime {
      return false
    }
    guard service.description.waiting.count < Description.waitersMax else { return false }
    service.description.waiting.append(waiter)
    if !service.description.isAsking {
      service.description.isAsking = true
      askDescription(service.name, at: node.target.address)
    }
    return true
  }

  /// The control loop has asked, and what it has learned is in `translator` by now.
  package func described(_ name: ServiceName) {
    guard let service = knownService(name) else { return }
    let waiting = service.description.waiting
    service.description = Description(askedAt: driver.now)
    for waiter in waiting { waiter.described() }
  }
}
