// Time for `async` code on a loop: a pause, and a limit on how long something may take. Both use the loop's own timers,
// so that simulated time moves them.

/// Starts `work` as a task on the loop of `driver`.
package func startTask(on driver: any Driver, _ work: @escaping @Sendable () async -> Void) -> Task<Void, Never> {
  Task(executorPreference: driver.executor, operation: work)
}

extension Driver {
  /// Suspends the task for at least `nanoseconds`; ends soon when the task is cancelled. Call it on this loop only.
  package func pause(nanoseconds: Int64) async {
    let pause = Pause()
    let mailbox = mailbox
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        // A cancellation that came on the way here, with a turn of the loop between, found nothing to end.
        if Task.isCancelled {
          continuation.resume()
          return
        }
        pause.continuation = continuation
        let timer = LoopTimer { pause.end() }
        pause.timer = timer
        timers.arm(timer, after: nanoseconds, from: now)
      }
    } onCancel: {
      mailbox.post { pause.end() }
    }
  }

  /// The result of `operation`, or `.unavailable` when it takes longer than `nanoseconds` or the task is cancelled; then
  /// the operation is cancelled and not waited for. The limit counts only if `condition` holds when it is reached. Call it
  /// on this loop only.
  package func limited<Value: Sendable>(
    nanoseconds: Int64, onlyIf condition: @escaping () -> Bool = { true },
    _ operation: @escaping @Sendable () async throws(RegistryError) -> Value
  ) async throws(RegistryError) -> Value {
    let race = Race<Value>()
    let mailbox = mailbox
    let executor = executor
    let result = await withTaskCancellationHandler {
      await withCheckedContinuation { (continuation: CheckedContinuation<Result<Value, RegistryError>, Never>) in
        race.continuation = continuation
        let timer = LoopTimer {
          guard condition() else { return }
          race.end(.failure(.unavailable("no answer within \(Self.readable(nanoseconds))")))
        }
        race.timer = timer
        timers.arm(timer, after: nanoseconds, from: now)
        race.task = Task(executorPreference: executor) {
          do throws(RegistryError) {
            race.end(.success(try await operation()))
          } catch {
            race.end(.failure(error))
          }
        }
      }
    } onCancel: {
      mailbox.post { race.end(.failure(.unavailable("cancelled"))) }
    }
    return try result.get()
  }

  private static func readable(_ nanoseconds: Int64) -> String {
    nanoseconds % 1_000_000_000 == 0 ? "\(nanoseconds / 1_000_000_000) s" : "\(nanoseconds / 1_000_000) ms"
  }
}

/// Touched on its loop only.
private final class Pause: @unchecked Sendable {
  var continuation: CheckedContinuation<Void, Never>?
  var timer: LoopTimer?

  func end() {
    timer?.cancel()
    timer = nil
    continuation.take()?.resume()
  }
}

/// Touched on its loop only. The first end counts.
private final class Race<Value: Sendable>: @unchecked Sendable {
  var continuation: CheckedContinuation<Result<Value, RegistryError>, Never>?
  var timer: LoopTimer?
  var task: Task<Void, Never>?

  func end(_ result: Result<Value, RegistryError>) {
    timer?.cancel()
    timer = nil
    task?.cancel()
    task = nil
    continuation.take()?.resume(returning: result)
  }
}

/// How long to wait before the next try: a random part of a span that doubles, so that many sidecars that lost the same
/// registry do not come back at once ("full jitter").
package struct Backoff: Equatable, Sendable {
  package static let baseNanoseconds: Int64 = 100_000_000
  package static let capNanoseconds: Int64 = 1_500_000_000

  /// Tries that failed in a row.
  package private(set) var failures = 0
  package init() {}

  package mutating func reset() { failures = 0 }

  /// Counts a failure; the wait in nanoseconds.
  package mutating func failed(random: inout SeededRandom) -> Int64 {
    let span = min(Self.baseNanoseconds << Int64(min(failures, 20)), Self.capNanoseconds)
    failures = min(failures + 1, 1_000_000)
    return Int64(random.below(Int(span) + 1))
  }
}
