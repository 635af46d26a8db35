// The two doors by which work enters a simulated loop from elsewhere: its mailbox and its task executor. Both only append
// to the world's inbox; the world turns the entries into events of that loop, so `async` code runs when the world steps,
// in a fixed order, on the thread that called `run`.

import Glibc
import SidecarCore
import Synchronization

/// Work waiting to enter a world.
final class SimInbox: Sendable {
  enum Work: Sendable {
    case block(@Sendable () -> Void)
    case job(UnownedJob)
  }
  struct Item: Sendable {
    var loop: Int
    var work: Work
  }
  private struct State {
    var items: [Item] = []
    var runner: UInt = 0
    var foreignCount = 0
  }
  private let state = Mutex(State())

  func add(_ loop: Int, _ work: Work) {
    state.withLock {
      $0.items.append(Item(loop: loop, work: work))
      if $0.runner != 0, $0.runner != pthread_self() { $0.foreignCount += 1 }
    }
  }

  func takeAll() -> [Item] {
    state.withLock { state in
      if state.items.isEmpty { return [] }
      defer { state.items.removeAll() }
      return state.items
    }
  }

  var isEmpty: Bool { state.withLock { $0.items.isEmpty } }

  /// Work that came from another thread while the world ran: such a run cannot be repeated from its seed.
  var foreignCount: Int { state.withLock { $0.foreignCount } }

  func enterRun() { state.withLock { $0.runner = pthread_self() } }
  func leaveRun() { state.withLock { $0.runner = 0 } }
}

final class SimMailbox: Mailbox {
  let loop: Int
  let inbox: SimInbox
  init(loop: Int, inbox: SimInbox) {
    self.loop = loop
    self.inbox = inbox
  }
  func post(_ work: @escaping @Sendable () -> Void) { inbox.add(loop, .block(work)) }
}

/// Runs tasks on one simulated loop: pass it as their executor preference. A plain `Task {}` inside such a task does not
/// inherit it and leaves the simulation, and so does `Task.sleep`; `SimWorld.verify` reports work that comes back that way.
final class SimExecutor: TaskExecutor {
  let loop: Int
  let inbox: SimInbox
  init(loop: Int, inbox: SimInbox) {
    self.loop = loop
    self.inbox = inbox
  }
  func enqueue(_ job: consuming ExecutorJob) { inbox.add(loop, .job(UnownedJob(job))) }
}
