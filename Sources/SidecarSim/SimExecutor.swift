// The two doors by which work enters a simulated loop from elsewhere: its mailbox and its task executor. Both only append
// to the world's inbox; the world turns the entries into events of that loop, so `async` code runs when the world steps,
// in a fixed order, on the thread that called `run`.

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
  private let items = Mutex<[Item]>([])

  func add(_ loop: Int, _ work: Work) { items.withLock { $0.append(Item(loop: loop, work: work)) } }

  func takeAll() -> [Item] {
    items.withLock { items in
      if items.isEmpty { return [] }
      defer { items.removeAll() }
      return items
    }
  }

  var isEmpty: Bool { items.withLock { $0.isEmpty } }
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
/// inherit it and leaves the simulation, and so does `Task.sleep`: a run with either cannot be repeated from its seed.
final class SimExecutor: TaskExecutor {
  let loop: Int
  let inbox: SimInbox
  init(loop: Int, inbox: SimInbox) {
    self.loop = loop
    self.inbox = inbox
  }
  func enqueue(_ job: consuming ExecutorJob) { inbox.add(loop, .job(UnownedJob(job))) }
}
