// How work reaches a loop: from its own thread through the turn queue, which costs no system call, and from any other
// thread through a locked queue and `uv_async`. The async signal coalesces (many sends, one callback), so it never
// stands for a message: it only says "look into the queue".

import CUV
import Glibc
import SidecarCore
import Synchronization

/// One piece of work for a loop. Jobs are not wrapped in closures, which would cost an allocation each. Unchecked: a
/// closure that crosses threads came in through `post`, which takes only `Sendable` ones.
enum LoopWork: @unchecked Sendable {
  case closure(() -> Void)
  case job(UnownedJob)
  case done
}

/// What a loop still has to do at the end of its turn. Loop-confined.
///
/// The check handle runs what was queued when the phase begins; the idle handle is active only while something waits,
/// and keeps the loop from sleeping before it has been done. Work queued by work runs in the next turn, so I/O always
/// gets its share.
final class TurnQueue {
  private var waiting: [LoopWork] = []
  private var running: [LoopWork] = []
  private let check: UnsafeMutablePointer<uv_check_t>
  private let idle: UnsafeMutablePointer<uv_idle_t>
  private var isIdleActive = false
  private var isClosed = false
  unowned(unsafe) var executor: UVExecutor?

  init(loop: UnsafeMutablePointer<uv_loop_t>) {
    check = .allocate(capacity: 1)
    idle = .allocate(capacity: 1)
    uv_check_init(loop, check)
    uv_idle_init(loop, idle)
    check.pointee.data = Unmanaged.passUnretained(self).toOpaque()
    uv_check_start(check, turnEnded)
  }

  func add(_ work: LoopWork) {
    if isClosed { return }
    waiting.append(work)
    if !isIdleActive {
      isIdleActive = true
      uv_idle_start(idle, stayAwake)
    }
  }

  /// Also the way the mailbox runs its items.
  @inline(__always) func run(_ work: LoopWork) {
    switch work {
    case .closure(let body): body()
    case .done: break
    case .job(let job):
      guard let executor else { return }
      job.runSynchronously(
        isolatedTo: executor.asUnownedSerialExecutor(), taskExecutor: executor.asUnownedTaskExecutor())
    }
  }

  fileprivate func runWaiting() {
    if waiting.isEmpty { return }
    swap(&waiting, &running)
    for index in running.indices where !isClosed { run(running[index]) }
    running.removeAll(keepingCapacity: running.count <= Self.keptCapacity)
    if waiting.isEmpty, isIdleActive, !isClosed {
      isIdleActive = false
      uv_idle_stop(idle)
    }
  }

  /// Room kept for the next turn, in items; a larger burst gives its memory back.
  private static let keptCapacity = 1024

  /// Drops what waits. The driver closes it last.
  func close() {
    if isClosed { return }
    isClosed = true
    waiting = []
    check.pointee.data = nil
    uv_close(check.cast(to: uv_handle_t.self), freeHandle)
    uv_close(idle.cast(to: uv_handle_t.self), freeHandle)
  }
}

private func turnEnded(_ check: UnsafeMutablePointer<uv_check_t>?) {
  withOwner(check?.pointee.data, TurnQueue.self) { $0.runWaiting() }
}
private func stayAwake(_: UnsafeMutablePointer<uv_idle_t>?) {}

/// The loop's letter box. Any thread.
package final class UVMailbox: Mailbox, @unchecked Sendable {
  /// Items run per turn, so that a flood of messages cannot starve I/O; the rest waits for the next turn.
  package static let itemsPerTurn = 1024

  private struct Inbox {
    var items: [LoopWork] = []
    var isSignalled = false
    /// Nil once the loop has stopped.
    var async: UnsafeMutablePointer<uv_async_t>?
  }
  private let inbox = Locked(Inbox())
  /// The thread the loop runs on; only that thread touches `turn`.
  private let thread: Atomic<UInt>
  private let turn: TurnQueue
  /// Taken from the inbox and not yet run. Loop thread only.
  private var batch: [LoopWork] = []
  private var batchIndex = 0

  init(loop: UnsafeMutablePointer<uv_loop_t>, turn: TurnQueue) throws(DriverError) {
    self.turn = turn
    let async = UnsafeMutablePointer<uv_async_t>.allocate(capacity: 1)
    thread = Atomic(UInt(pthread_self()))
    let status = uv_async_init(loop, async, mailArrived)
    guard status == 0 else {
      async.deallocate()
      throw DriverError("mailbox", status: status)
    }
    async.pointee.data = Unmanaged.passUnretained(self).toOpaque()
    inbox.withLock { $0.async = async }
  }

  /// Whether the caller is on the loop's thread.
  package var isOnLoop: Bool { thread.load(ordering: .relaxed) == UInt(pthread_self()) }

  func moveToCurrentThread() { thread.store(UInt(pthread_self()), ordering: .relaxed) }

  package func post(_ work: @escaping @Sendable () -> Void) { send(.closure(work)) }

  func send(_ work: LoopWork) {
    if isOnLoop {
      turn.add(work)
      return
    }
    // The signal is sent under the lock: that is what makes it safe against the handle being closed meanwhile.
    inbox.withLock { inbox in
      guard let async = inbox.async else { return }
      inbox.items.append(work)
      if inbox.isSignalled { return }
      inbox.isSignalled = true
      uv_async_send(async)
    }
  }

  fileprivate func drain() {
    let isRemainder = batchIndex < batch.count
    if !isRemainder {
      batch.removeAll(keepingCapacity: batch.count <= Self.itemsPerTurn)
      batchIndex = 0
    }
    var taken = batch
    batch = []
    inbox.withLock { inbox in
      if !isRemainder { swap(&inbox.items, &taken) }
      inbox.isSignalled = false
    }
    batch = taken
    taken = []
    var budget = Self.itemsPerTurn
    while budget > 0, batchIndex < batch.count {
      let work = batch[batchIndex]
      // Nothing of a finished item may stay alive until the batch ends.
      batch[batchIndex] = .done
      batchIndex += 1
      budget -= 1
      turn.run(work)
    }
    if isRemainder || batchIndex < batch.count {
      let isUnfinished = batchIndex < batch.count
      inbox.withLock { inbox in
        guard let async = inbox.async, !inbox.isSignalled, isUnfinished || !inbox.items.isEmpty else { return }
        inbox.isSignalled = true
        uv_async_send(async)
      }
    }
  }

  /// From now on posts are dropped. Loop thread.
  func close() {
    var dropped: [LoopWork] = []
    let async = inbox.withLock { inbox in
      swap(&dropped, &inbox.items)
      defer { inbox.async = nil }
      return inbox.async
    }
    // Freed outside the lock: what a closure captured may post from its own deinit.
    dropped = []
    batch.removeSubrange(batchIndex...)
    guard let async else { return }
    async.pointee.data = nil
    uv_close(async.cast(to: uv_handle_t.self), freeHandle)
  }
}

private func mailArrived(_ async: UnsafeMutablePointer<uv_async_t>?) {
  withOwner(async?.pointee.data, UVMailbox.self) { $0.drain() }
}

/// A value behind a lock. A POSIX mutex, because the thread sanitizer sees through it; it does not see through the
/// standard library's `Mutex` on Linux.
private final class Locked<Value>: @unchecked Sendable {
  private var value: Value
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

  init(_ value: Value) {
    self.value = value
    pthread_mutex_init(mutex, nil)
  }
  deinit {
    pthread_mutex_destroy(mutex)
    mutex.deallocate()
  }

  @inline(__always) func withLock<Result>(_ body: (inout Value) -> Result) -> Result {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return body(&value)
  }
}

/// Runs Swift jobs on a loop. As a task's executor preference it brings `async` code onto the loop; as an actor's
/// executor it makes the actor loop-confined. A job enqueued after the loop has stopped never runs, and its task is
/// leaked: end tasks before loops.
package final class UVExecutor: TaskExecutor, SerialExecutor {
  private let mailbox: UVMailbox

  init(mailbox: UVMailbox) { self.mailbox = mailbox }

  package func enqueue(_ job: consuming ExecutorJob) { mailbox.send(.job(UnownedJob(job))) }

  package func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }

  package func isIsolatingCurrentContext() -> Bool? { mailbox.isOnLoop }

  package func checkIsolated() {
    precondition(mailbox.isOnLoop, "this code belongs on the loop's thread")
  }
}
