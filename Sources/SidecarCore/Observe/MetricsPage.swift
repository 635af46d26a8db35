// The page behind `/metrics`: Prometheus' text format 0.0.4, the same order on every scrape.

/// A family of metrics that is not a worker's: the age of a registry's snapshot, memory, the build.
package struct MetricFamily: Sendable {
  package enum Kind: String, Sendable { case counter, gauge }
  package struct Sample: Sendable {
    package var labels: [(name: String, value: String)]
    package var value: Double
    package init(_ labels: [(name: String, value: String)] = [], _ value: Double) {
      self.labels = labels
      self.value = value
    }
  }

  /// Samples of one family; more are left out.
  package static let samplesMax = 500

  /// Letters, digits, `_` and `:`; a counter's ends in `_total`.
  package var name: String
  package var help: String
  package var kind: Kind
  package var samples: [Sample]

  package init(_ name: String, _ kind: Kind, _ help: String, _ samples: [Sample]) {
    self.name = name
    self.help = help
    self.kind = kind
    self.samples = samples
  }
}

/// The page is put together in steps, each a part of a millisecond, so that a large one stalls nobody.
package final class MetricsPage {
  package enum Form: Sendable {
    case prometheus
    /// OpenMetrics 1.0: with exemplars, counters' families without `_total`, and a mark at the end.
    case openMetrics

    /// What a request's `Accept` asks for.
    package init(accept: String?) {
      self = accept?.contains("application/openmetrics-text") == true ? .openMetrics : .prometheus
    }

    package var contentType: String {
      switch self {
      case .prometheus: "text/plain; version=0.0.4; charset=utf-8"
      case .openMetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8"
      }
    }
  }

  /// Series of requests, and samples of other families, written in one step.
  private static let seriesPerStep = 16
  private static let samplesPerStep = 200

  private let workers: [WorkerMetricsSnapshot]
  private let families: [MetricFamily]
  private let form: Form
  private let page: PageWriter
  private var rows: [Row] = []
  private var places: [MetricSeries: Int] = [:]
  private var inOrder: [(key: String, row: Int)] = []
  private var work: [(MetricsPage) -> Void] = []
  private var next = 0

  package init(_ workers: [WorkerMetricsSnapshot], _ families: [MetricFamily] = [], form: Form = .prometheus) {
    self.workers = workers
    self.families = families
    self.form = form
    page = PageWriter(isOpenMetrics: form == .openMetrics)
    planMerge()
  }

  /// The sum of all workers, then `families` in their order. Series that counted nothing are left out.
  package static func render(
    _ workers: [WorkerMetricsSnapshot], _ families: [MetricFamily] = [], form: Form = .prometheus
  ) -> [UInt8] {
    let page = MetricsPage(workers, families, form: form)
    while page.step() {}
    return page.bytes
  }

  /// Does a part of the work; false: all of it is done, and the page is in `bytes`.
  package func step() -> Bool {
    guard next < work.count else { return false }
    work[next](self)
    next += 1
    return next < work.count
  }

  package var bytes: [UInt8] { Array(page.buffer.bytes) }
  /// The same without a copy.
  package var buffer: ByteBuffer { page.buffer }

  private func planRequests() {
    work.append {
      $0.page.head("micro_sidecar_requests_total", "counter", "Requests that ended, by what they came to.")
    }
    inSlices(rows.count, Self.seriesPerStep * 4) { page, range in page.writeCounts(range) }
    work.append {
      $0.page.head(
        "micro_sidecar_request_duration_seconds", "histogram",
        "Time from a request's first byte to the end of its reply.")
    }
    inSlices(rows.count, Self.seriesPerStep) { page, range in page.writeDurations(range) }
    work.append { $0.writeOwn() }
    for family in families {
      work.append { $0.page.head(family.name, family.kind.rawValue, family.help) }
      inSlices(min(family.samples.count, MetricFamily.samplesMax), Self.samplesPerStep) { page, range in
        for sample in family.samples[range] {
          page.page.sample(family.name, sample.labels, PageWriter.number(sample.value))
        }
      }
    }
    if form == .openMetrics { work.append { $0.page.buffer.append("# EOF\n") } }
  }

  private func inSlices(_ count: Int, _ size: Int, _ write: @escaping (MetricsPage, Range<Int>) -> Void) {
    for start in stride(from: 0, to: count, by: size) {
      let range = start..<min(start + size, count)
      work.append { write($0, range) }
    }
  }

  private func writeOwn() {
    for family in Self.counters {
      page.head(family.name, "counter", family.help)
      for (counter, labels) in family.members {
        page.sample(family.name, labels, "\(workers.reduce(0 as UInt64) { $0 &+ $1[counter] })")
      }
    }
    for family in Self.gauges {
      page.head(family.name, "gauge", family.help)
      for (gauge, labels) in family.members {
        page.sample(family.name, labels, "\(workers.reduce(0 as Int64) { $0 &+ $1[gauge] })")
      }
    }
  }

  // MARK: What the workers' counters are called

  private typealias Members<Key> = [(Key, [(name: String, value: String)])]

  private static let counters: [(name: String, help: String, members: Members<MetricCounter>)] = [
    (
      "micro_sidecar_connections_accepted_total", "Connections accepted, by listener.",
      [(.acceptedFromApp, [("listener", "sidecar")]), (.acceptedFromFramework, [("listener", "server")])]
    ),
    (
      "micro_sidecar_connections_refused_total", "Connections closed at once because there were too many, by listener.",
      [(.refusedFromApp, [("listener", "sidecar")]), (.refusedFromFramework, [("listener", "server")])]
    ),
    ("micro_sidecar_upstream_dials_total", "Connections to nodes and the app that were begun.", [(.dials, [])]),
    ("micro_sidecar_upstream_dial_failures_total", "Of these, those that did not open.", [(.dialsFailed, [])]),
    ("micro_sidecar_upstream_reuses_total", "Attempts that took a pooled connection.", [(.dialsReused, [])]),
    ("micro_sidecar_retries_total", "Attempts after the first.", [(.retries, [])]),
    (
      "micro_sidecar_retries_unpaid_total", "Repetitions that were not made because the retry budget was spent.",
      [(.retriesUnpaid, [])]
    ),
    ("micro_sidecar_hedges_total", "Second attempts made beside a slow one.", [(.hedges, [])]),
    ("micro_sidecar_hedges_won_total", "Of these, those that answered first.", [(.hedgesWon, [])]),
    ("micro_sidecar_attempts_timed_out_total", "Attempts that took longer than one may.", [(.attemptsTimedOut, [])]),
    ("micro_sidecar_ejections_total", "Times a worker took a node out.", [(.ejections, [])]),
    ("micro_sidecar_health_checks_total", "Times nodes were asked whether they are well.", [(.healthChecks, [])]),
    ("micro_sidecar_health_checks_failed_total", "Of these, those they did not pass.", [(.healthChecksFailed, [])]),
    ("micro_sidecar_ejections_ended_total", "Times a node that was out proved well again.", [(.ejectionsEnded, [])]),
    (
      "micro_sidecar_access_log_dropped_total",
      "Lines of the access log that were lost because it could not be written in time.", [(.accessLogDropped, [])]
    ),
    (
      "micro_sidecar_spans_unsent_total",
      "Spans that a worker dropped because the control loop did not take them in time.", [(.spansDropped, [])]
    ),
    (
      "micro_sidecar_faults_total", "Calls that were delayed or failed on purpose.",
      [(.faultDelays, [("fault", "delay")]), (.faultAborts, [("fault", "abort")])]
    ),
    (
      "micro_sidecar_mirrors_total", "Calls that a policy mirrors to a second service, by whether they were made.",
      [(.mirrors, [("result", "made")]), (.mirrorsDropped, [("result", "dropped")])]
    ),
    (
      "micro_sidecar_bytes_total", "Bytes read and written, by peer.",
      [
        (.bytesFromCallers, [("peer", "caller"), ("direction", "received")]),
        (.bytesToCallers, [("peer", "caller"), ("direction", "sent")]),
        (.bytesFromNodes, [("peer", "node"), ("direction", "received")]),
        (.bytesToNodes, [("peer", "node"), ("direction", "sent")]),
      ]
    ),
  ]

  private static let gauges: [(name: String, help: String, members: Members<MetricGauge>)] = [
    (
      "micro_sidecar_connections_open", "Connections open now, by listener.",
      [(.openFromApp, [("listener", "sidecar")]), (.openFromFramework, [("listener", "server")])]
    ),
    (
      "micro_sidecar_upstream_connections", "Connections to nodes and to the app, by state.",
      [(.pooledIdle, [("state", "idle")]), (.pooledActive, [("state", "active")])]
    ),
    ("micro_sidecar_requests_in_flight", "Requests that have not ended.", [(.requestsInFlight, [])]),
  ]

  // MARK: Requests

  private struct Row {
    var series: MetricSeries
    var cells: [UInt64]
    /// By bucket.
    var exemplars: [Int: WorkerMetrics.Exemplar] = [:]
  }

  /// Adds up each series over all workers and puts it in its place in the order. Workers may differ in what they have seen,
  /// so the bound is kept here once more.
  private func planMerge() {
    for worker in workers {
      inSlices(worker.series.count, Self.seriesPerStep * 4) { page, range in page.merge(worker, range) }
      work.append { $0.takeExemplars(of: worker) }
    }
    work.append { $0.planOrder() }
  }

  private func merge(_ worker: WorkerMetricsSnapshot, _ range: Range<Int>) {
    let perSeries = WorkerMetrics.Cell.perSeries
    for index in range {
      let cells = worker.cells[(index * perSeries)..<((index + 1) * perSeries)]
      guard cells.contains(where: { $0 != 0 }) else { continue }
      var key = worker.series[index]
      if places[key] == nil, rows.count >= WorkerMetrics.seriesMax { key = .other(key.direction) }
      if let known = places[key] {
        for (cell, amount) in cells.enumerated() { rows[known].cells[cell] &+= amount }
      } else {
        places[key] = rows.count
        rows.append(Row(series: key, cells: Array(cells)))
      }
    }
  }

  /// At most `WorkerMetrics.exemplarsMax` of them.
  private func takeExemplars(of worker: WorkerMetricsSnapshot) {
    let perSeries = WorkerMetrics.Cell.perSeries
    for (cell, exemplar) in worker.exemplars {
      let key = worker.series[cell / perSeries]
      guard let place = places[key] ?? places[.other(key.direction)] else { continue }
      let bucket = cell % perSeries - WorkerMetrics.Cell.buckets
      let before = rows[place].exemplars[bucket]
      if before.map({ $0.unixNanoseconds < exemplar.unixNanoseconds }) ?? true {
        rows[place].exemplars[bucket] = exemplar
      }
    }
  }

  /// Each row is put where it belongs among those before it: one string to compare rather than five, and never all rows at
  /// once.
  private func planOrder() {
    inSlices(rows.count, Self.seriesPerStep * 4) { page, range in
      for index in range { page.insert(index) }
    }
    work.append { $0.planRequests() }
  }

  private func insert(_ index: Int) {
    let key = Self.order(rows[index].series)
    var low = 0
    var high = inOrder.count
    while low < high {
      let middle = (low + high) / 2
      if inOrder[middle].key < key { low = middle + 1 } else { high = middle }
    }
    inOrder.insert((key, index), at: low)
  }

  private static func order(_ series: MetricSeries) -> String {
    let separator = "\u{0}"
    return series.direction.label + separator + series.service + separator + series.endpoint + separator + series.route
      + separator + series.dialect
  }

  private static func labels(_ series: MetricSeries) -> [(name: String, value: String)] {
    [
      ("direction", series.direction.label), ("dialect", series.dialect), ("route", series.route),
      ("service", series.service), ("endpoint", series.endpoint),
    ]
  }

  private func writeCounts(_ range: Range<Int>) {
    for place in inOrder[range] {
      let row = rows[place.row]
      let labels = Self.labels(row.series)
      for (index, outcome) in MetricOutcome.labels.enumerated() where row.cells[index] > 0 {
        page.sample("micro_sidecar_requests_total", labels + [("outcome", outcome)], "\(row.cells[index])")
      }
    }
  }

  private static let bounds = WorkerMetrics.bounds.map { PageWriter.seconds(UInt64($0)) } + ["+Inf"]

  private func writeDurations(_ range: Range<Int>) {
    let duration = "micro_sidecar_request_duration_seconds"
    for place in inOrder[range] {
      let row = rows[place.row]
      // Twenty lines with the same labels each: written once, then copied.
      let labels = PageWriter.block(Self.labels(row.series))
      var count: UInt64 = 0
      for (bucket, bound) in Self.bounds.enumerated() {
        count &+= row.cells[WorkerMetrics.Cell.buckets + bucket]
        page.bucket(duration, labels, bound, count, form == .openMetrics ? row.exemplars[bucket] : nil)
      }
      page.line(duration, "_sum{", labels, PageWriter.seconds(row.cells[WorkerMetrics.Cell.sum]))
      page.line(duration, "_count{", labels, "\(count)")
    }
  }
}

/// Writes lines of the format.
private final class PageWriter {
  let buffer: ByteBuffer

  private let isOpenMetrics: Bool

  init(capacity: Int = 16 * 1024, isOpenMetrics: Bool = false) {
    buffer = ByteBuffer(capacity: capacity)
    self.isOpenMetrics = isOpenMetrics
  }

  func head(_ name: String, _ kind: String, _ help: String) {
    // There a counter's family has no `_total`, which its samples have.
    let name = isOpenMetrics && kind == "counter" && name.hasSuffix("_total") ? String(name.dropLast(6)) : name
    buffer.append("# HELP ")
    buffer.append(name)
    buffer.append(UInt8(ascii: " "))
    escape(help, quotes: false)
    buffer.append("\n# TYPE ")
    buffer.append(name)
    buffer.append(UInt8(ascii: " "))
    buffer.append(kind)
    buffer.append(0x0A as UInt8)
  }

  func sample(_ name: String, _ labels: [(name: String, value: String)], _ value: String) {
    buffer.append(name)
    if !labels.isEmpty {
      buffer.append(UInt8(ascii: "{"))
      append(labels)
      buffer.append(UInt8(ascii: "}"))
    }
    buffer.append(UInt8(ascii: " "))
    buffer.append(value)
    buffer.append(0x0A as UInt8)
  }

  /// Labels as they stand between the braces.
  static func block(_ labels: [(name: String, value: String)]) -> ByteBuffer {
    let writer = PageWriter(capacity: 256)
    writer.append(labels)
    return writer.buffer
  }

  func bucket(
    _ family: String, _ labels: ByteBuffer, _ bound: String, _ count: UInt64, _ exemplar: WorkerMetrics.Exemplar?
  ) {
    buffer.append(family)
    buffer.append("_bucket{")
    buffer.append(labels.bytes)
    buffer.append(",le=\"")
    buffer.append(bound)
    buffer.append("\"} ")
    buffer.append(decimal: count)
    if let exemplar {
      buffer.append(" # {trace_id=\"")
      buffer.append(hex: exemplar.traceHigh)
      buffer.append(hex: exemplar.traceLow)
      buffer.append("\"} ")
      buffer.append(Self.seconds(UInt64(max(exemplar.latency, 0))))
      buffer.append(UInt8(ascii: " "))
      buffer.append(Self.seconds(UInt64(max(exemplar.unixNanoseconds, 0)) / 1_000_000 * 1_000_000))
    }
    buffer.append(0x0A as UInt8)
  }

  func line(_ family: String, _ suffix: StaticString, _ labels: ByteBuffer, _ value: String) {
    buffer.append(family)
    buffer.append(suffix)
    buffer.append(labels.bytes)
    buffer.append("} ")
    buffer.append(value)
    buffer.append(0x0A as UInt8)
  }

  private func append(_ labels: [(name: String, value: String)]) {
    for (index, label) in labels.enumerated() {
      if index > 0 { buffer.append(UInt8(ascii: ",")) }
      buffer.append(label.name)
      buffer.append("=\"")
      escape(label.value, quotes: true)
      buffer.append(UInt8(ascii: "\""))
    }
  }

  private func escape(_ text: String, quotes: Bool) {
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "\\"): buffer.append("\\\\")
      case 0x0A: buffer.append("\\n")
      case UInt8(ascii: "\"") where quotes: buffer.append("\\\"")
      default: buffer.append(byte)
      }
    }
  }

  /// Nanoseconds as seconds, exact: `0.00025`, `30`.
  static func seconds(_ nanoseconds: UInt64) -> String {
    let whole = nanoseconds / 1_000_000_000
    let rest = nanoseconds % 1_000_000_000
    if rest == 0 { return "\(whole)" }
    var digits = Array("\(1_000_000_000 + rest)".utf8.dropFirst())
    while digits.last == UInt8(ascii: "0") { digits.removeLast() }
    return "\(whole)." + String(decoding: digits, as: UTF8.self)
  }

  static func number(_ value: Double) -> String {
    if value.isNaN { return "NaN" }
    if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
    return value == value.rounded() && value.magnitude < 1e15 ? "\(Int64(value))" : "\(value)"
  }
}
