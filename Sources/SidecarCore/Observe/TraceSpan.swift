// Spans: what one call was, for a tracing system. A span exists only for calls that are sampled; the others cost the reading
// and writing of headers.

/// A span under way. Loop-confined; made for sampled calls only.
package final class TraceSpan {
  /// Attempts told of one call; a call with more of them tells the first ones.
  package static let eventsMax = 16

  package struct Event: Sendable {
    package var unixNanoseconds: Int64
    /// `attempt`: one begins; otherwise what it came to, such as `connect_failed`.
    package var name: String
    package var node: String
  }

  let id: UInt64
  let startedUnix: Int64
  private(set) var events: [Event] = []
  private var isAttempting = false

  init(id: UInt64, startedUnix: Int64) {
    self.id = id
    self.startedUnix = startedUnix
  }

  func attemptBegan(_ node: NodeState?, _ time: Int64) {
    isAttempting = true
    note("attempt", node, time)
  }

  func attemptEnded(_ outcome: CallOutcome, _ node: NodeState?, _ time: Int64) {
    guard isAttempting else { return }
    isAttempting = false
    let name =
      switch outcome {
      case .success: "attempt.ok"
      case .failure: "attempt.failure"
      case .connectFailed: "attempt.connect_failed"
      case .broken: "attempt.broken"
      case .timedOut: "attempt.timed_out"
      case .cancelled: "attempt.cancelled"
      }
    note(name, node, time)
  }

  private func note(_ name: String, _ node: NodeState?, _ time: Int64) {
    guard events.count < Self.eventsMax else { return }
    events.append(Event(unixNanoseconds: time, name: name, node: node?.node.id ?? ""))
  }
}

/// A span that is over. Any thread.
package struct SpanRecord: Sendable {
  package var traceHigh: UInt64
  package var traceLow: UInt64
  package var id: UInt64
  /// Zero: the first of its trace.
  package var parent: UInt64
  package var direction: CallDirection
  package var dialect: String
  package var service: String
  package var endpoint: String
  package var startedUnix: Int64
  package var endedUnix: Int64
  /// `ok`, or the label of a `SidecarError.Kind`.
  package var reason: String
  /// The side that the error is to blame on is the callee's or ours, not the caller's.
  package var isError: Bool
  /// As the caller saw it.
  package var status: Int
  package var node: String
  package var address: String
  package var attempts: Int
  package var events: [TraceSpan.Event]
}

/// Takes spans away from the sidecar. Threading: the control loop.
package protocol SpanExporter: AnyObject {
  /// Takes spans, now or never: what has no room is dropped and counted.
  func export(_ spans: [SpanRecord])
  /// Sends what is left, for two seconds at most.
  func finish(_ completion: @escaping () -> Void)
  /// Spans taken over by the collector, and those that were dropped.
  var exported: UInt64 { get }
  var dropped: UInt64 { get }
}

/// How traces are made, on the data path.
package struct TraceSettings: Sendable {
  /// The share of new traces that are sampled, 0 to 1.
  package var share: Double
  package init(share: Double) { self.share = share }

  /// A trace id is random, so its low bits decide, the same everywhere along a trace.
  func samples(_ low: UInt64) -> Bool {
    if share >= 1 { return true }
    return Double(low & 0x00FF_FFFF_FFFF_FFFF) < share * Double(0x0100_0000_0000_0000 as UInt64)
  }
}

/// The spans of one worker on their way to the control loop.
final class SpanBatch {
  /// Spans kept until the batch is handed over; one more is dropped and counted.
  static let spansMax = 2048
  /// A batch this large is handed over at once, another after `interval` nanoseconds.
  static let handedAt = 256
  static let interval: Int64 = 1_000_000_000

  private var spans: [SpanRecord] = []
  private unowned(unsafe) let worker: Worker
  private lazy var timer = LoopTimer { [unowned self] in handOver() }

  init(worker: Worker) { self.worker = worker }

  func add(_ span: SpanRecord) {
    guard spans.count < Self.spansMax else {
      worker.metrics.add(.spansDropped)
      return
    }
    if spans.isEmpty { worker.timers.arm(timer, after: Self.interval, from: worker.driver.now) }
    spans.append(span)
    if spans.count >= Self.handedAt { handOver() }
  }

  func handOver() {
    timer.cancel()
    let batch = takeRest()
    if !batch.isEmpty { worker.give(batch) }
  }

  func takeRest() -> [SpanRecord] {
    let batch = spans
    spans = []
    return batch
  }
}
