// One service's registration in one registry.
//
//              appHealthy                 writeSucceeded           timer: refresh, or retry after a failure
//   suspended ────────────▶ writing ───────────────────▶ waiting ─────────────────────────────────────────▶ writing
//       ▲                     │  ▲ └── writeFailed ────────▲ │
//       │                     │  └─── appHealthy ──┐         │ appUnhealthy, stop
//       └───── removed ───── removing ◀────────────┴─────────┘
//                             │  ▲ removeFailed: removeWaiting, then again
//                             └──▶ ended, when asked to stop
//
// What it knows beyond the obvious: a write that failed may have been written, so leaving always removes; a change of
// wish while a write or a removal is under way is kept and acted on when that ends, because a registry that gets both at
// once may apply them in any order.

/// Times of a lease, in nanoseconds. The defaults are go-micro's later advice (go-micro issue 1651): 90 s and 30 s.
package struct LeaseTiming: Equatable, Sendable {
  package var ttl: Int64 = 90_000_000_000
  package var refresh: Int64 = 30_000_000_000
  /// A write that takes longer has failed.
  package var writeLimit: Int64 = 10_000_000_000
  /// A removal that takes longer is given up when stopping: the entry then ends with its ttl.
  package var removeLimit: Int64 = 3_000_000_000
  package init() {}

  /// Times for an entry that asks for `ttl`: never longer than ours, refreshed three times in it.
  package init(ttl asked: Int64) {
    self.init()
    ttl = min(ttl, max(asked, 1_000_000_000))
    refresh = min(refresh, ttl / 3)
  }
}

package struct LeaseMachine: ~Copyable {
  /// Removals tried when the app is unhealthy; after that the entry is left to end with its ttl.
  package static let removeAttemptsMax = 6

  package enum Action: Equatable {
    case none
    /// Write the service now; `writeSucceeded` or `writeFailed` follows.
    case write
    /// Remove it now; `removeSucceeded` or `removeFailed` follows.
    case remove
    /// Call `timerFired` after that many nanoseconds.
    case wait(nanoseconds: Int64)
    /// Stop waiting for the write under way and report it failed.
    case cancelWrite
    /// Nothing follows.
    case end
  }

  /// What is wanted in the end.
  private enum Wish { case hold, suspend, end }

  private enum State {
    /// Not in the registry, nothing under way. → writing, ended
    case suspended
    /// A write is under way; `again` when the values changed since it began. → waiting, writing, removing
    case writing(Wish, again: Bool)
    /// The timer runs; `isHeld` when the last write succeeded. → writing, removing, ended
    case waiting(isHeld: Bool)
    /// A removal is under way. → suspended, writing, removeWaiting, ended
    case removing(Wish)
    /// A removal failed and is tried again. → removing, writing, ended
    case removeWaiting
    /// For ever.
    case ended
  }

  private var state = State.suspended
  private var backoff = Backoff()
  private let refresh: Int64

  package init(timing: LeaseTiming) { refresh = timing.refresh }

  /// What people are shown.
  package enum Phase: String, Equatable, Sendable {
    /// Not written yet, or the last write failed.
    case pending
    case held
    /// The app is unhealthy.
    case suspended
    case releasing
    case ended
  }
  package var phase: Phase {
    switch state {
    case .suspended: .suspended
    case .writing(.hold, _): backoff.failures == 0 && hasHeld ? .held : .pending
    case .waiting(let isHeld): isHeld ? .held : .pending
    case .writing, .removing, .removeWaiting: .releasing
    case .ended: .ended
    }
  }
  private var hasHeld = false

  // MARK: Wishes

  package mutating func appHealthy() -> Action {
    switch state {
    case .suspended, .removeWaiting: return startWriting()
    case .writing(.suspend, let again): state = .writing(.hold, again: again)
    case .removing(.suspend): state = .removing(.hold)
    case .writing(.hold, _), .writing(.end, _), .waiting, .removing(.hold), .removing(.end), .ended: break
    }
    return .none
  }

  package mutating func appUnhealthy() -> Action {
    switch state {
    case .waiting: return startRemoving(.suspend)
    case .writing(.hold, let again): state = .writing(.suspend, again: again)
    case .removing(.hold): state = .removing(.suspend)
    case .suspended, .writing(.suspend, _), .writing(.end, _), .removing(.suspend), .removing(.end), .removeWaiting,
      .ended:
      break
    }
    return .none
  }

  /// The service's values changed, or the registry may have lost them: write soon.
  package mutating func changed() -> Action {
    switch state {
    case .waiting: return startWriting()
    case .writing(let wish, _): state = .writing(wish, again: true)
    case .suspended, .removing, .removeWaiting, .ended: break
    }
    return .none
  }

  package mutating func stop() -> Action {
    switch state {
    case .suspended:
      state = .ended
      return .end
    case .waiting, .removeWaiting: return startRemoving(.end)
    case .writing:
      state = .writing(.end, again: false)
      return .cancelWrite
    case .removing: state = .removing(.end)
    case .ended: break
    }
    return .none
  }

  /// Another process holds the entry from now on: nothing is done about it any more. A write or removal under way is not
  /// waited for.
  package mutating func abandon() -> Action {
    guard case .ended = state else {
      state = .ended
      return .end
    }
    return .none
  }

  // MARK: Events

  package mutating func timerFired() -> Action {
    switch state {
    case .waiting: return startWriting()
    case .removeWaiting: return startRemoving(.suspend)
    case .suspended, .writing, .removing, .ended: return .none
    }
  }

  package mutating func writeSucceeded(random: inout SeededRandom) -> Action {
    guard case .writing(let wish, let again) = state else { return .none }
    backoff.reset()
    hasHeld = true
    switch wish {
    case .hold:
      if again { return startWriting() }
      state = .waiting(isHeld: true)
      return .wait(nanoseconds: jittered(refresh, &random))
    case .suspend, .end: return startRemoving(wish)
    }
  }

  /// `isWorthRetrying` is false when the registry will never take it as it is: then it is tried again at the pace of
  /// refreshes only, in case someone has changed the registry's mind. A read-only registry ends the lease.
  package mutating func writeFailed(_ error: RegistryError, random: inout SeededRandom) -> Action {
    guard case .writing(let wish, let again) = state else { return .none }
    if error == .readOnly {
      state = .ended
      return .end
    }
    switch wish {
    case .hold:
      let wait = backoff.failed(random: &random)
      if again { return startWriting() }
      state = .waiting(isHeld: false)
      switch error {
      case .refused, .invalid: return .wait(nanoseconds: jittered(refresh, &random))
      case .unavailable, .notFound, .readOnly: return .wait(nanoseconds: wait)
      }
    case .suspend, .end: return startRemoving(wish)
    }
  }

  package mutating func removeSucceeded() -> Action {
    guard case .removing(let wish) = state else { return .none }
    return removed(wish)
  }

  package mutating func removeFailed(random: inout SeededRandom) -> Action {
    guard case .removing(let wish) = state else { return .none }
    let wait = backoff.failed(random: &random)
    if wish == .suspend, backoff.failures < Self.removeAttemptsMax {
      state = .removeWaiting
      return .wait(nanoseconds: wait)
    }
    return removed(wish)
  }

  // MARK: Steps

  private mutating func startWriting() -> Action {
    state = .writing(.hold, again: false)
    return .write
  }

  private mutating func startRemoving(_ wish: Wish) -> Action {
    if case .removeWaiting = state {} else { backoff.reset() }
    hasHeld = false
    state = .removing(wish)
    return .remove
  }

  private mutating func removed(_ wish: Wish) -> Action {
    backoff.reset()
    switch wish {
    case .hold: return startWriting()
    case .suspend:
      state = .suspended
      return .none
    case .end:
      state = .ended
      return .end
    }
  }

  /// Within a tenth of `nanoseconds`, either way.
  private func jittered(_ nanoseconds: Int64, _ random: inout SeededRandom) -> Int64 {
    let tenth = nanoseconds / 10
    return nanoseconds - tenth + Int64(random.below(Int(2 * tenth) + 1))
  }
}
