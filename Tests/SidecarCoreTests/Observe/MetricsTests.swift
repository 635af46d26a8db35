import Foundation
import Testing

@testable import SidecarCore

private func parsed(_ workers: [WorkerMetrics], _ families: [MetricFamily] = []) throws -> PrometheusText {
  try PrometheusText(parsing: page(workers, families))
}

private func page(_ workers: [WorkerMetrics], _ families: [MetricFamily] = []) -> String {
  String(decoding: MetricsPage.render(workers.map { $0.snapshot() }, families), as: UTF8.self)
}

private let greeter = MetricSeries(
  .out, dialect: "http", route: "/{service}/{method}", service: "go.micro.srv.greeter", endpoint: "Say.Hello")
private let greeterLabels = [
  "direction": "out", "dialect": "http", "route": "/{service}/{method}", "service": "go.micro.srv.greeter",
  "endpoint": "Say.Hello",
]

@Suite("Metrics")
struct MetricsTests {
  @Test("requests are counted by outcome and time, over all workers")
  func requests() throws {
    let workers = [WorkerMetrics(), WorkerMetrics()]
    for worker in workers {
      let handle = worker.handle(greeter)
      worker.record(handle, .ok, latency: 100_000)
      worker.record(handle, .ok, latency: 100_001)
      worker.record(handle, .failed(.deadlineExceeded), latency: 31_000_000_000)
      worker.record(handle, .failed(.upstreamError), latency: -5)
    }
    let page = try parsed(workers)
    let requests = "micro_sidecar_requests_total"
    #expect(page[requests]?.type == "counter")
    #expect(page.value(requests, greeterLabels.merging(["outcome": "ok"]) { $1 }) == 4)
    #expect(page.value(requests, greeterLabels.merging(["outcome": "deadline_exceeded"]) { $1 }) == 2)
    #expect(page.value(requests, greeterLabels.merging(["outcome": "upstream_error"]) { $1 }) == 2)
    #expect(page[requests]?.samples.count == 3)
    let duration = "micro_sidecar_request_duration_seconds"
    func bucket(_ bound: String) -> Double? {
      page.value(duration + "_bucket", greeterLabels.merging(["le": bound]) { $1 })
    }
    #expect(bucket("0.0001") == 4)
    #expect(bucket("0.00025") == 6)
    #expect(bucket("30") == 6)
    #expect(bucket("+Inf") == 8)
    #expect(page.value(duration + "_count", greeterLabels) == 8)
    #expect(page.value(duration + "_sum", greeterLabels) == 62.000400002)
  }

  @Test("each latency falls into the bucket whose bound it does not pass", arguments: [21] as [UInt64])
  func buckets(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let metrics = WorkerMetrics()
    let handle = metrics.handle(greeter)
    var expected = [Int](repeating: 0, count: WorkerMetrics.bounds.count + 1)
    var latencies = WorkerMetrics.bounds + WorkerMetrics.bounds.map { $0 + 1 } + [0, 1, Int64.max]
    for _ in 0..<5000 { latencies.append(Int64(bitPattern: random.next() &>> 1) &>> Int64(random.below(60))) }
    for latency in latencies {
      metrics.record(handle, .ok, latency: latency)
      expected[WorkerMetrics.bounds.firstIndex { latency <= $0 } ?? WorkerMetrics.bounds.count] += 1
    }
    let page = try parsed([metrics])
    var sum = 0
    for (index, count) in expected.enumerated() {
      sum += count
      let samples = page["micro_sidecar_request_duration_seconds"]?.samples ?? []
      #expect(samples.filter { $0.name.hasSuffix("_bucket") }[index].value == Double(sum), "seed \(seed): \(index)")
    }
  }

  @Test("outcomes of all kinds have a label of their own")
  func outcomes() {
    #expect(Set(MetricOutcome.labels).count == MetricOutcome.count)
    for kind in SidecarError.Kind.allCases {
      #expect(MetricOutcome.labels[Int(MetricOutcome.failed(kind).index)] == kind.label)
    }
  }

  @Test("a series has one handle, and a full table counts under other, for each direction")
  func bounded() throws {
    let metrics = WorkerMetrics()
    for index in 0..<2_000 {
      for direction in CallDirection.allCases {
        let series = MetricSeries(direction, dialect: "http", route: "/rpc", service: "s\(index)")
        metrics.record(metrics.handle(series), .ok, latency: 1)
        metrics.record(metrics.handle(series), .ok, latency: 1)
      }
    }
    let samples = try #require(try parsed([metrics])["micro_sidecar_requests_total"]?.samples)
    #expect(samples.count == WorkerMetrics.seriesMax)
    #expect(samples.reduce(0) { $0 + $1.value } == 8_000)
    let others = samples.filter { $0.labels["service"] == "other" }
    #expect(others.map { $0.labels["direction"] } == ["in", "out"])
    #expect(others.map(\.value) == [3502, 3502])
  }

  @Test("workers that saw different services are bounded together as well")
  func boundedTogether() throws {
    let workers = (0..<4).map { worker in
      let metrics = WorkerMetrics()
      for index in 0..<400 {
        let series = MetricSeries(.out, dialect: "http", route: "/rpc", service: "w\(worker).s\(index)")
        metrics.record(metrics.handle(series), .ok, latency: 1)
      }
      return metrics
    }
    let samples = try #require(try parsed(workers)["micro_sidecar_requests_total"]?.samples)
    #expect(samples.count <= WorkerMetrics.seriesMax + 2)
    #expect(samples.reduce(0) { $0 + $1.value } == 1600)
  }

  @Test("what was counted before the table grew is still there")
  func growth() throws {
    let metrics = WorkerMetrics()
    let first = metrics.handle(greeter)
    metrics.record(first, .ok, latency: 1)
    for index in 0..<300 {
      _ = metrics.handle(MetricSeries(.in, dialect: "mucp", route: "frame", endpoint: "\(index)"))
    }
    metrics.record(first, .ok, latency: 1)
    #expect(
      try parsed([metrics]).value("micro_sidecar_requests_total", greeterLabels.merging(["outcome": "ok"]) { $1 }) == 2)
    #expect(metrics.snapshot().requests == 2)
  }

  @Test("names from outside cannot break the page")
  func escaping() throws {
    let metrics = WorkerMetrics()
    let name = "a\"b\\c\nd{},=é\u{0}"
    metrics.record(metrics.handle(MetricSeries(.in, dialect: "mucp", route: "frame", service: name)), .ok, latency: 1)
    let long = String(repeating: "é", count: 5000)
    for tail in ["1", "2"] {
      metrics.record(metrics.handle(MetricSeries(.in, dialect: "x", route: "y", service: long + tail)), .ok, latency: 1)
    }
    let samples = try #require(try parsed([metrics])["micro_sidecar_requests_total"]?.samples)
    #expect(samples.map { $0.labels["service"] } == [name, String(repeating: "é", count: 64)])
    #expect(samples.map(\.value) == [1, 2])
  }

  @Test("counters and levels of a worker are added up and named")
  func counters() throws {
    let workers = [WorkerMetrics(), WorkerMetrics()]
    for worker in workers {
      for counter in MetricCounter.allCases { worker.add(counter, counter.rawValue + 1) }
      for gauge in MetricGauge.allCases { worker.change(gauge, by: gauge.rawValue + 1) }
      worker.change(.requestsInFlight, by: -1)
      worker.set(.pooledIdle, 7)
    }
    let page = try parsed(workers)
    #expect(
      page.value("micro_sidecar_connections_accepted_total", ["listener": "server"])
        == Double(2 * (MetricCounter.acceptedFromFramework.rawValue + 1)))
    #expect(
      page.value("micro_sidecar_bytes_total", ["peer": "node", "direction": "sent"])
        == Double(2 * (MetricCounter.bytesToNodes.rawValue + 1)))
    #expect(page.value("micro_sidecar_requests_in_flight") == Double(2 * MetricGauge.requestsInFlight.rawValue))
    #expect(page.value("micro_sidecar_upstream_connections", ["state": "idle"]) == 14)
    let shown = page.families.filter {
      !$0.name.contains("_request_duration") && $0.name != "micro_sidecar_requests_total"
    }
    .flatMap(\.samples)
    #expect(shown.count == MetricCounter.allCases.count + MetricGauge.allCases.count)
  }

  @Test("families of others follow in their order, with every number the format knows")
  func families() throws {
    let family = MetricFamily(
      "micro_sidecar_registry_age_seconds", .gauge, "Age\\of\nthe snapshot.",
      [1.5, 0, -3, .infinity, -.infinity, .nan, 1e300, 1e-7, 123_456_789].enumerated().map {
        .init([("registry", "r\($0.offset)")], $0.element)
      })
    let page = try parsed([], [family])
    let samples = try #require(page["micro_sidecar_registry_age_seconds"]?.samples)
    #expect(samples.map(\.value).filter { !$0.isNaN } == [1.5, 0, -3, .infinity, -.infinity, 1e300, 1e-7, 123_456_789])
    #expect(page.families.last?.help == #"Age\\of\nthe snapshot."#)
    let many = MetricFamily("x", .gauge, "x", (0..<1000).map { .init([("i", "\($0)")], 1) })
    #expect(try parsed([], [many])["x"]?.samples.count == MetricFamily.samplesMax)
  }

  @Test("two scrapes of the same counts are the same bytes")
  func stable() {
    let workers = (0..<3).map { _ in WorkerMetrics() }
    for (index, worker) in workers.enumerated() {
      for service in 0..<50 {
        let series = MetricSeries(
          .out, dialect: "d\(service % 3)", route: "/rpc", service: "s\((service * 7 + index) % 50)")
        worker.record(worker.handle(series), .ok, latency: 1)
      }
    }
    #expect(page(workers) == page(workers))
    #expect(page(workers) == page(workers.reversed()))
  }

  @Test(
    "the reference client reads the page the same way",
    .enabled(if: prometheusClientIsInstalled, "python3 with prometheus_client is not installed"))
  func referenceClient() throws {
    let metrics = WorkerMetrics()
    metrics.record(metrics.handle(greeter), .ok, latency: 250_001)
    metrics.record(
      metrics.handle(MetricSeries(.in, dialect: "mucp", route: "frame", service: "a\"b\\c\nd")), .failed(.cancelled),
      latency: 5)
    metrics.add(.retries, 3)
    let text = page([metrics], [MetricFamily("micro_sidecar_up", .gauge, "Up.", [.init([], 1.5)])])
    let script = """
      import sys
      from prometheus_client.parser import text_string_to_metric_families
      for family in text_string_to_metric_families(sys.stdin.read()):
          for s in family.samples:
              print(s.name + repr(sorted(s.labels.items())), float(s.value))
      """
    let lines = try runPython(script, input: text).split(separator: "\n").map(String.init)
    let ours = try PrometheusText(parsing: text).families.flatMap(\.samples)
    #expect(lines.count == ours.count)
    #expect(lines.contains("micro_sidecar_up[] 1.5"))
    #expect(lines.contains("micro_sidecar_retries_total[] 3.0"))
    #expect(lines.contains { $0.contains(#"('service', 'a"b\\c\nd')"#) && $0.contains("'cancelled'") })
  }
}

/// Asked once: whether the reference implementation is there to compare with.
private let prometheusClientIsInstalled =
  (try? runPython("import prometheus_client.parser; print('yes')", input: "")) == "yes\n"

private func runPython(_ script: String, input: String) throws -> String {
  let process = Process()
  process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
  process.arguments = ["python3", "-c", script]
  let stdin = Pipe()
  let stdout = Pipe()
  process.standardInput = stdin
  process.standardOutput = stdout
  process.standardError = FileHandle.nullDevice
  try process.run()
  stdin.fileHandleForWriting.write(Data(input.utf8))
  try stdin.fileHandleForWriting.close()
  let output = try stdout.fileHandleForReading.readToEnd() ?? Data()
  process.waitUntilExit()
  return String(decoding: output, as: UTF8.self)
}
