// How many calls may be at one service, and who waits for a place.
//
//   enter ──a place is free──▶ inside ──leave──▶ the next that waits is let in
//     ├── all taken ──▶ waits ──let in, or gives up──▶
//     └── too many wait, or waiting has proved vain ──▶ refused

/// A call that waits for a place.
protocol GateWaiter: AnyObject {
  /// A place is this call's from now on; `leave` must follow. Called from inside another call's end: what it leads to must
  /// wait for a later turn.
  func admitted()
}

/// One for each worker and service. Loop-confined.
struct CallGate {
  enum Verdict: Equatable {
    case admitted
    /// `admitted` follows, unless `giveUp` comes first.
    case waits
    case refused(String)
  }

  private(set) var inside = 0
  private var waiting: [(any GateWaiter)?] = []
  /// What is before it has left.
  private var head = 0
  private(set) var waitingCount = 0
  /// A call has waited for as long as it may, and since then no place has fallen free: more would wait in vain.
  private(set) var isFailingFast = false

  mutating func enter(_ waiter: any GateWaiter, _ limits: LimitPolicy) -> Verdict {
    if inside < limits.inFlight, waitingCount == 0 {
      inside += 1
      return .admitted
    }
    if isFailingFast {
      return .refused(
        "\(limits.inFlight) calls are under way, and no place has fallen free for "
          + "\(limits.pendingTime / 1_000_000) ms")
    }
    guard waitingCount < limits.pending else {
      return .refused("\(limits.inFlight) calls are under way, and \(waitingCount) wait")
    }
    waiting.append(waiter)
    waitingCount += 1
    return .waits
  }

  /// A call that was inside has ended. The answer has the place now, and must be told so.
  mutating func leave(_ limits: LimitPolicy) -> (any GateWaiter)? {
    inside -= 1
    isFailingFast = false
    return next(limits)
  }

  /// The next of those who wait, if there is a place; after a limit was raised there may be several.
  mutating func next(_ limits: LimitPolicy) -> (any GateWaiter)? {
    guard inside < limits.inFlight else { return nil }
    while head < waiting.count {
      let waiter = waiting[head]
      waiting[head] = nil
      head += 1
      if head > 64, head * 2 > waiting.count {
        waiting.removeFirst(head)
        head = 0
      }
      guard let waiter else { continue }
      waitingCount -= 1
      inside += 1
      return waiter
    }
    return nil
  }

  /// Waits no more. `outOfPatience`: it has waited as long as the policy has it.
  mutating func giveUp(_ waiter: any GateWaiter, outOfPatience: Bool) {
    guard let index = waiting[head...].firstIndex(where: { $0 === waiter }) else { return }
    waiting[index] = nil
    waitingCount -= 1
    if outOfPatience { isFailingFast = true }
    if waitingCount == 0 {
      waiting.removeAll(keepingCapacity: true)
      head = 0
    }
  }
}
