// What one worker counts. Plain memory of its loop, no atomics: a request costs a few additions at an address worked out
// beforehand. A scrape copies it on the loop (`snapshot`) and adds the workers up elsewhere (`MetricsPage`).

/// Which way a call goes: from the app out to a node, or from the framework in to the app.
package enum CallDirection: UInt8, CaseIterable, Sendable {
  case out, `in`
  package var label: String { self == .out ? "out" : "in" }
}

/// What a request came to: `ok`, or the kind of its failure.
package struct MetricOutcome: Hashable, Sendable {
  /// 0 is `ok`, then the kinds in their order.
  let index: UInt8
  package static let ok = MetricOutcome(index: 0)
  @inlinable package static func failed(_ kind: SidecarError.Kind) -> MetricOutcome {
    MetricOutcome(index: kind.rawValue &+ 1)
  }
  @usableFromInline init(index: UInt8) { self.index = index }

  static let count = SidecarError.Kind.allCases.count + 1
  static let labels = ["ok"] + SidecarError.Kind.allCases.map(\.label)
}

/// What a series of requests has in common. Texts longer than `bytesMax` are cut, so that they stay one series.
package struct MetricSeries: Hashable, Sendable {
  /// Bytes of one label's value.
  package static let bytesMax = 128

  package let direction: CallDirection
  /// The caller's dialect, such as `http`, `mucp`, `grpc`.
  package let dialect: String
  /// The template the request matched, such as `/{service}/{method}` or `/rpc`; never the path itself.
  package let route: String
  /// Of a known service only. What a caller made up belongs under an empty name, or callers could fill the table.
  package let service: String
  package let endpoint: String

  package init(
    _ direction: CallDirection, dialect: String, route: String, service: String = "", endpoint: String = ""
  ) {
    self.direction = direction
    self.dialect = Self.cut(dialect)
    self.route = Self.cut(route)
    self.service = Self.cut(service)
    self.endpoint = Self.cut(endpoint)
  }

  /// Where requests are counted when the table is full.
  static func other(_ direction: CallDirection) -> MetricSeries {
    MetricSeries(direction, dialect: "other", route: "other", service: "other", endpoint: "other")
  }

  private static func cut(_ text: String) -> String {
    guard text.utf8.count > bytesMax else { return text }
    var end = text.utf8.index(text.utf8.startIndex, offsetBy: bytesMax)
    while end > text.utf8.startIndex, text.utf8[end] & 0xC0 == 0x80 { end = text.utf8.index(before: end) }
    return String(text[..<end])
  }
}

/// Things counted once per worker. The admin listener is the control loop's and counts nothing.
package enum MetricCounter: Int, CaseIterable, Sendable {
  case acceptedFromApp, acceptedFromFramework
  case refusedFromApp, refusedFromFramework
  /// Dials begun, those of them that failed, and attempts that needed none.
  case dials, dialsFailed, dialsReused
  case retries
  /// Repetitions that the retry budget did not pay for.
  case retriesUnpaid
  case hedges, hedgesWon
  case attemptsTimedOut
  case ejections, ejectionsEnded
  /// Lines and spans that nobody took in time.
  case accessLogDropped, spansDropped
  case healthChecks, healthChecksFailed
  /// Trouble made on purpose.
  case faultDelays, faultAborts
  /// Calls made at a second service as well, and those that were not because too many were under way.
  case mirrors, mirrorsDropped
  case bytesFromCallers, bytesToCallers, bytesFromNodes, bytesToNodes
}

/// Levels of one worker; the page shows their sum.
package enum MetricGauge: Int, CaseIterable, Sendable {
  case openFromApp, openFromFramework
  case pooledIdle, pooledActive
  case requestsInFlight
}

/// The counters of one worker. Loop-confined.
package final class WorkerMetrics {
  /// Series of requests. Beyond it, requests are counted under `other`, one series for each direction.
  package static let seriesMax = 500

  /// Upper bounds of the latency buckets in nanoseconds, ascending; one more bucket has no bound.
  static let bounds: [Int64] = [
    100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000,
    250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000, 30_000_000_000,
  ]

  /// The cells of one series: a counter for each outcome, then each bucket, then the sum of latencies in nanoseconds.
  enum Cell {
    static let buckets = MetricOutcome.count
    static let sum = buckets + WorkerMetrics.bounds.count + 1
    static let perSeries = sum + 1
  }

  /// The latest sampled request that fell into a bucket, so that a slow one can be looked at.
  package struct Exemplar: Sendable {
    package var traceHigh: UInt64
    package var traceLow: UInt64
    package var latency: Int64
    package var unixNanoseconds: Int64
  }

  /// Buckets with an exemplar; beyond it no further one gets any.
  package static let exemplarsMax = 1024

  /// Stands for a series of one worker; resolve it once and keep it. Good for the life of its worker.
  package struct Handle: Sendable { fileprivate let offset: Int }

  private var series: [MetricSeries] = []
  private var exemplars: [Int: Exemplar] = [:]
  private var handles: [MetricSeries: Int] = [:]
  private var cells: UnsafeMutablePointer<UInt64>
  private var capacity: Int
  private let counters: UnsafeMutablePointer<UInt64>
  private let gauges: UnsafeMutablePointer<Int64>
  private let bounds: UnsafeMutablePointer<Int64>
  /// The most that a turn of taking over changes of registries has cost, in nanoseconds of the processor.
  private var longestApply: Int64 = 0
  private let bucketOffset = Cell.buckets
  private let sumOffset = Cell.sum

  package init() {
    capacity = 16
    cells = .allocate(capacity: capacity * Cell.perSeries)
    cells.initialize(repeating: 0, count: capacity * Cell.perSeries)
    counters = .allocate(capacity: MetricCounter.allCases.count)
    counters.initialize(repeating: 0, count: MetricCounter.allCases.count)
    gauges = .allocate(capacity: MetricGauge.allCases.count)
    gauges.initialize(repeating: 0, count: MetricGauge.allCases.count)
    bounds = .allocate(capacity: Self.bounds.count + 1)
    bounds.initialize(from: Self.bounds + [.max], count: Self.bounds.count + 1)
    for direction in CallDirection.allCases { _ = add(.other(direction)) }
  }

  deinit {
    cells.deallocate()
    counters.deallocate()
    gauges.deallocate()
    bounds.deallocate()
  }

  // MARK: The data path

  /// Counts one request that ended. `latency` is in nanoseconds; below zero counts as zero.
  @inline(__always)
  package func record(_ handle: Handle, _ outcome: MetricOutcome, latency: Int64) {
    let row = cells + handle.offset
    row[Int(outcome.index)] &+= 1
    let latency = max(latency, 0)
    var bucket = 0
    // The last bound is the largest number there is, so the search ends.
    while bounds[bucket] < latency { bucket &+= 1 }
    row[bucketOffset &+ bucket] &+= 1
    row[sumOffset] &+= UInt64(bitPattern: latency)
  }

  /// A request that was counted with that latency is traced.
  package func note(_ handle: Handle, _ exemplar: Exemplar) {
    var bucket = 0
    while bounds[bucket] < exemplar.latency { bucket &+= 1 }
    let cell = handle.offset &+ bucketOffset &+ bucket
    guard exemplars[cell] != nil || exemplars.count < Self.exemplarsMax else { return }
    exemplars[cell] = exemplar
  }

  /// Bytes of memory behind the counters.
  package var heldBytes: Int { capacity * Cell.perSeries * 8 }

  @inline(__always)
  package func add(_ counter: MetricCounter, _ amount: Int = 1) {
    counters[counter.rawValue] &+= UInt64(bitPattern: Int64(amount))
  }

  @inline(__always)
  package func change(_ gauge: MetricGauge, by amount: Int) { gauges[gauge.rawValue] &+= Int64(amount) }

  @inline(__always)
  package func set(_ gauge: MetricGauge, _ value: Int) { gauges[gauge.rawValue] = Int64(value) }

  package func recordApply(_ nanoseconds: Int64) { longestApply = max(longestApply, nanoseconds) }

  // MARK: Series

  /// The handle of a series, made when it is new. A look-up in a table: once per service and endpoint, not per request.
  package func handle(_ key: MetricSeries) -> Handle {
    if let index = handles[key] { return Handle(offset: index * Cell.perSeries) }
    guard series.count < Self.seriesMax else {
      return Handle(offset: (handles[.other(key.direction)] ?? 0) * Cell.perSeries)
    }
    return Handle(offset: add(key) * Cell.perSeries)
  }

  private func add(_ key: MetricSeries) -> Int {
    if series.count == capacity { grow() }
    series.append(key)
    handles[key] = series.count - 1
    return series.count - 1
  }

  private func grow() {
    let used = capacity * Cell.perSeries
    capacity *= 2
    let larger = UnsafeMutablePointer<UInt64>.allocate(capacity: capacity * Cell.perSeries)
    larger.initialize(from: cells, count: used)
    (larger + used).initialize(repeating: 0, count: used)
    cells.deallocate()
    cells = larger
  }

  // MARK: Scrapes

  /// A copy that may go to another thread.
  package func snapshot() -> WorkerMetricsSnapshot {
    WorkerMetricsSnapshot(
      series: series,
      cells: Array(UnsafeBufferPointer(start: cells, count: series.count * Cell.perSeries)),
      counters: Array(UnsafeBufferPointer(start: counters, count: MetricCounter.allCases.count)),
      gauges: Array(UnsafeBufferPointer(start: gauges, count: MetricGauge.allCases.count)), longestApply: longestApply,
      exemplars: exemplars)
  }
}

/// All requests of all workers in one row.
struct RequestTotals {
  var requests: UInt64 = 0
  var failures: UInt64 = 0
  var nanoseconds: UInt64 = 0
  var buckets = [UInt64](repeating: 0, count: WorkerMetrics.bounds.count + 1)

  init(_ workers: [WorkerMetricsSnapshot]) {
    for worker in workers {
      for index in worker.series.indices {
        let row = worker.cells[(index * WorkerMetrics.Cell.perSeries)..<((index + 1) * WorkerMetrics.Cell.perSeries)]
        let start = row.startIndex
        for outcome in 0..<MetricOutcome.count {
          requests &+= row[start + outcome]
          if outcome > 0 { failures &+= row[start + outcome] }
        }
        for bucket in buckets.indices { buckets[bucket] &+= row[start + WorkerMetrics.Cell.buckets + bucket] }
        nanoseconds &+= row[start + WorkerMetrics.Cell.sum]
      }
    }
  }
}

/// What one worker had counted at one moment.
package struct WorkerMetricsSnapshot: Sendable {
  let series: [MetricSeries]
  /// `WorkerMetrics.Cell.perSeries` for each of `series`.
  let cells: [UInt64]
  let counters: [UInt64]
  let gauges: [Int64]
  let longestApply: Int64
  /// By the index of the bucket's cell.
  let exemplars: [Int: WorkerMetrics.Exemplar]

  /// All requests counted, whatever their outcome.
  package var requests: UInt64 {
    var total: UInt64 = 0
    for index in series.indices {
      let row = index * WorkerMetrics.Cell.perSeries
      for cell in cells[row..<(row + MetricOutcome.count)] { total &+= cell }
    }
    return total
  }
  package subscript(_ counter: MetricCounter) -> UInt64 { counters[counter.rawValue] }
  package subscript(_ gauge: MetricGauge) -> Int64 { gauges[gauge.rawValue] }
}
