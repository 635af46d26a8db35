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

package enum MetricsPage {
  package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

  /// The sum of all workers, then `families` in their order. Series that counted nothing are left out.
  package static func render(_ workers: [WorkerMetricsSnapshot], _ families: [MetricFamily] = []) -> [UInt8] {
    let page = PageWriter()
    writeRequests(merge(workers), page)
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
    for family in families {
      page.head(family.name, family.kind.rawValue, family.help)
      for sample in family.samples.prefix(MetricFamily.samplesMax) {
        page.sample(family.name, sample.labels, PageWriter.number(sample.value))
      }
    }
    return Array(page.buffer.bytes)
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

  /// The sum of each series over all workers, in order. Workers may differ in what they have seen, so the bound is kept
  /// here once more.
  private static func merge(_ workers: [WorkerMetricsSnapshot]) -> [(MetricSeries, [UInt64])] {
    let perSeries = WorkerMetrics.Cell.perSeries
    var rows: [MetricSeries: [UInt64]] = [:]
    for worker in workers {
      for (index, series) in worker.series.enumerated() {
        let cells = worker.cells[(index * perSeries)..<((index + 1) * perSeries)]
        guard cells.contains(where: { $0 != 0 }) else { continue }
        var key = series
        if rows[key] == nil, rows.count >= WorkerMetrics.seriesMax { key = .other(series.direction) }
        var row = rows[key] ?? [UInt64](repeating: 0, count: perSeries)
        for (cell, amount) in cells.enumerated() { row[cell] &+= amount }
        rows[key] = row
      }
    }
    // One string to compare rather than five: with a full table the order is most of a scrape.
    return rows.map { (order: order($0.key), row: $0) }.sorted { $0.order < $1.order }
      .map { ($0.row.key, $0.row.value) }
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

  private static func writeRequests(_ rows: [(MetricSeries, [UInt64])], _ page: PageWriter) {
    let requests = "micro_sidecar_requests_total"
    page.head(requests, "counter", "Requests that ended, by what they came to.")
    for (series, cells) in rows {
      let labels = labels(series)
      for (index, outcome) in MetricOutcome.labels.enumerated() where cells[index] > 0 {
        page.sample(requests, labels + [("outcome", outcome)], "\(cells[index])")
      }
    }
    let duration = "micro_sidecar_request_duration_seconds"
    page.head(duration, "histogram", "Time from a request's first byte to the end of its reply.")
    let bounds = WorkerMetrics.bounds.map { PageWriter.seconds(UInt64($0)) } + ["+Inf"]
    for (series, cells) in rows {
      // Twenty lines with the same labels each: written once, then copied.
      let labels = PageWriter.block(labels(series))
      var count: UInt64 = 0
      for (bucket, bound) in bounds.enumerated() {
        count &+= cells[WorkerMetrics.Cell.buckets + bucket]
        page.bucket(duration, labels, bound, count)
      }
      page.line(duration, "_sum{", labels, PageWriter.seconds(cells[WorkerMetrics.Cell.sum]))
      page.line(duration, "_count{", labels, "\(count)")
    }
  }
}

/// Writes lines of the format.
private final class PageWriter {
  let buffer: ByteBuffer

  init(capacity: Int = 16 * 1024) { buffer = ByteBuffer(capacity: capacity) }

  func head(_ name: String, _ kind: String, _ help: String) {
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

  func bucket(_ family: String, _ labels: ByteBuffer, _ bound: String, _ count: UInt64) {
    buffer.append(family)
    buffer.append("_bucket{")
    buffer.append(labels.bytes)
    buffer.append(",le=\"")
    buffer.append(bound)
    buffer.append("\"} ")
    buffer.append(decimal: count)
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
