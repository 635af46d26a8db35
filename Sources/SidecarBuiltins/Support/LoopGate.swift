// Where one task waits on the loop for an event: woken by the event, by its deadline or by cancellation, whichever comes
// first. What the control plane's connections and clients are built from.

import SidecarCore

/// Threading: its loop only (`Sendable` so that a cancelled task may reach it through the mailbox). One waiter at a time.
package final class LoopGate: @unchecked Sendable {
  package enum Wake: Equatable, Sendable { case opened, timedOut, cancelled }

  private let driver: any Driver
  private var continuation: CheckedContinuation<Wake, Never>?
  private var timer: LoopTimer?
  private var isOpen = false

  package init(driver: any Driver) { self.driver = driver }

  /// Lets the waiter go on, or the next one that comes. Twice is once.
  package func open() {
    guard continuation != nil else {
      isOpen = true
      return
    }
    end(.opened)
  }

  /// Waits until `open`; at once if it was called since the last wait.
  package func wait(until deadline: Instant = .distantFuture) async -> Wake {
    precondition(continuation == nil, "a gate has one waiter")
    if Task.isCancelled { return .cancelled }
    if isOpen {
      isOpen = false
      return .opened
    }
    if deadline <= driver.now { return .timedOut }
    let mailbox = driver.mailbox
    return await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        // On the way here the task may have given the loop a turn, in which the gate was opened or the task cancelled.
        if isOpen {
          isOpen = false
          continuation.resume(returning: .opened)
          return
        }
        if Task.isCancelled {
          continuation.resume(returning: .cancelled)
          return
        }
        self.continuation = continuation
        guard deadline < .distantFuture else { return }
        let timer = LoopTimer { [unowned self] in end(.timedOut) }
        self.timer = timer
        driver.timers.arm(timer, at: deadline)
      }
    } onCancel: {
      mailbox.post { self.end(.cancelled) }
    }
  }

  private func end(_ wake: Wake) {
    timer?.cancel()
    timer = nil
    continuation.take()?.resume(returning: wake)
  }
}
