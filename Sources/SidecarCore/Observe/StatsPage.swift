// `/stats` of the app's side: the page of the 2018 sidecar, in HTML, or as JSON for a request whose own Content-Type is
// application/json (go-micro toolkit internal/stats/stats.go @ v0.16.0). It counted every answer as `20x`; here each is
// counted as what it was.

/// The sums of all series at one moment, of which the buckets are the differences.
struct StatusTotals: Sendable, Equatable {
  var classes: [UInt64] = Array(repeating: 0, count: 6)

  init() {}

  init(adding all: [StatusTotals]) {
    for totals in all { for index in classes.indices { classes[index] &+= totals.classes[index] } }
  }

  init(_ workers: [WorkerMetricsSnapshot]) {
    for worker in workers {
      for index in worker.series.indices {
        let start = index * WorkerMetrics.Cell.perSeries
        for outcome in 0..<MetricOutcome.count {
          classes[Self.hundreds(outcome)] &+= worker.cells[start + outcome]
        }
      }
    }
  }

  private static func hundreds(_ outcome: Int) -> Int {
    guard outcome > 0, let kind = SidecarError.Kind(rawValue: UInt8(outcome - 1)) else { return 2 }
    return min(SidecarError(kind, "").httpStatus / 100, 5)
  }
}

/// The last two minutes, kept on the control loop.
final class StatsHistory {
  /// As many buckets as the old page had, and as long.
  static let bucketsMax = 24
  static let bucketNanoseconds: Int64 = 5_000_000_000

  private var points: [(unixSeconds: Int64, totals: StatusTotals)] = []

  func add(_ totals: StatusTotals, unixNanoseconds: Int64) {
    points.append((unixNanoseconds / 1_000_000_000, totals))
    if points.count > Self.bucketsMax + 1 { points.removeFirst() }
  }

  /// `total_reqs` and `status_codes` of each bucket, the oldest first; the last ends now.
  func counters(including now: StatusTotals, _ unixNanoseconds: Int64) -> JSONValue {
    let points = points + [(unixNanoseconds / 1_000_000_000, now)]
    return .array(
      zip(points, points.dropFirst()).map { before, after in
        var total: UInt64 = 0
        var codes: [JSONValue.Member] = []
        for hundreds in 1...5 {
          let count = after.totals.classes[hundreds] &- before.totals.classes[hundreds]
          total &+= count
          if count > 0 { codes.append(.init("\(hundreds)0x", JSONValue(count))) }
        }
        return .object([
          .init("timestamp", JSONValue(after.unixSeconds)), .init("status_codes", .object(codes)),
          .init("total_reqs", JSONValue(total)),
        ])
      })
  }
}

enum StatsPage {
  static func json(started: Int64, memory: Int, threads: Int, counters: JSONValue) -> JSONValue {
    .object([
      .init("started", JSONValue(started)),
      .init("memory", .string(megabytes(memory))), .init("threads", JSONValue(threads)),
      // Nothing here collects garbage.
      .init("gc_pause", .string("0.000ms")), .init("counters", counters),
    ])
  }

  private static func megabytes(_ bytes: Int) -> String {
    let hundredths = max(bytes, 0) * 100 / (1024 * 1024)
    return "\(hundredths / 100).\(hundredths % 100 < 10 ? "0" : "")\(hundredths % 100)mb"
  }

  static func html(_ stats: JSONValue) -> String {
    var rows = ""
    for counter in stats["counters"]?.arrayValue ?? [] {
      let time = Int64(counter["timestamp"]?.text() ?? "") ?? 0
      var codes: [String] = []
      if case .object(let members)? = counter["status_codes"] {
        codes = members.map { "\($0.key): \($0.value.text())" }
      }
      rows +=
        "<tr><td>\(UTCTime.rfc3339(unixNanoseconds: time * 1_000_000_000))</td><td>\(counter["total_reqs"]?.text() ?? "0")</td>"
        + "<td>\(codes.joined(separator: ", "))</td></tr>"
    }
    return """
      <!doctype html><html lang="en"><meta charset="utf-8"><title>Stats</title><h1>Stats</h1>
      <p>Started \(UTCTime.rfc3339(unixNanoseconds: (Int64(stats["started"]?.text() ?? "") ?? 0) * 1_000_000_000)), \
      memory \(stats["memory"]?.stringValue ?? ""), threads \(stats["threads"]?.text() ?? "")</p>
      <table><caption>Requests, five seconds a row</caption><thead><tr><th>until<th>requests<th>answers</thead>\
      <tbody>\(rows)</tbody></table></html>
      """
  }
}
