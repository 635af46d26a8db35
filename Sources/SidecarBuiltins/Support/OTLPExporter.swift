// Sends spans to a collector by OTLP/HTTP, in batches, one request at a time. What the collector does not take for a while
// waits in a bounded queue; beyond that spans are dropped and counted. Calls never wait for any of it.

import SidecarCore

/// Threading: the control loop (`Sendable` so that its task may hold it).
package final class OTLPExporter: SpanExporter, @unchecked Sendable {
  /// Spans that wait to be sent; one more is dropped.
  package static let queueMax = 8192
  /// Spans of one request.
  package static let batchMax = 512
  /// How often a batch is sent before it is dropped.
  static let triesMax = 5
  /// The first pause before it is sent again, in nanoseconds; it doubles up to `pauseMax`.
  static let pauseMin: Int64 = 500_000_000
  static let pauseMax: Int64 = 8_000_000_000
  private static let patience = Duration.seconds(10)
  /// What the end of the process may take.
  private static let finishTime: Int64 = 2_000_000_000

  package private(set) var exported: UInt64 = 0
  package private(set) var dropped: UInt64 = 0

  private let client: HTTPClient
  private let driver: any HostDriver
  private let log: any LogSink
  private let target: String
  private let service: String
  private let instance: String
  private let version: String
  private var queue: [SpanRecord] = []
  private var task: Task<Void, Never>?
  private var isFailing = false
  private var onFinished: (() -> Void)?
  private lazy var timer = LoopTimer { [unowned self] in end() }

  /// `service` and `instance` are who we are in spans. Errors: the endpoint names no host.
  package init(
    _ endpoint: TraceEndpoint, service: String, instance: String, version: String, driver: any HostDriver,
    log: any LogSink
  ) throws(ConfigurationError) {
    guard let server = HTTPEndpoint(host: endpoint.host, port: endpoint.port, isTLS: endpoint.isTLS) else {
      throw ConfigurationError("MICRO_TRACE_ENDPOINT: \(endpoint) names no host")
    }
    var limits = HTTPClient.Limits()
    limits.bodyBytes = 64 * 1024
    client = HTTPClient(
      driver: driver, endpoints: [server], tls: endpoint.isTLS ? TLSSource(driver: driver) : nil, limits: limits)
    target = endpoint.path.isEmpty ? "/v1/traces" : endpoint.path
    self.driver = driver
    self.log = log
    self.service = service
    self.instance = instance
    self.version = version
  }

  package func export(_ spans: [SpanRecord]) {
    let room = max(Self.queueMax - queue.count, 0)
    queue += spans.prefix(room)
    dropped &+= UInt64(max(spans.count - room, 0))
    if task == nil, !queue.isEmpty {
      task = startTask(on: driver) { [weak self] in await self?.work() }
    }
  }

  private func work() async {
    while !queue.isEmpty, !Task.isCancelled {
      let batch = Array(queue.prefix(Self.batchMax))
      queue.removeFirst(batch.count)
      if await send(batch) { exported &+= UInt64(batch.count) } else { dropped &+= UInt64(batch.count) }
    }
    task = nil
    if onFinished != nil { end() }
  }

  /// False: the batch is lost.
  private func send(_ spans: [SpanRecord]) async -> Bool {
    let request = HTTPRequest(
      .post, target,
      body: OTLPWriter.request(spans, service: service, instance: instance, version: version),
      headers: [("Content-Type", "application/x-protobuf")])
    var pause = Self.pauseMin
    for attempt in 1...Self.triesMax {
      let failure: String
      do throws(HTTPFailure) {
        let reply = try await client.call(request, within: Self.patience)
        if (200..<300).contains(reply.status) {
          if isFailing { log.info("the trace collector takes spans again", [("endpoint", "\(client.endpoints[0])")]) }
          isFailing = false
          return true
        }
        failure = "it answered \(reply.status)"
        // OTLP/HTTP: only these may be tried again.
        guard [429, 502, 503, 504].contains(reply.status) else {
          complain(failure)
          return false
        }
      } catch {
        failure = error.description
      }
      complain(failure)
      // At the end there is no time for another.
      guard attempt < Self.triesMax, onFinished == nil, !Task.isCancelled else { return false }
      await driver.pause(nanoseconds: pause)
      pause = min(pause * 2, Self.pauseMax)
    }
    return false
  }

  private func complain(_ why: String) {
    guard !isFailing else { return }
    isFailing = true
    log.warning("spans are not taken: \(why)", [("endpoint", "\(client.endpoints[0])\(target)")])
  }

  package func finish(_ completion: @escaping () -> Void) {
    guard task != nil else {
      client.closeIdle()
      return completion()
    }
    onFinished = completion
    driver.timers.arm(timer, after: Self.finishTime, from: driver.now)
  }

  private func end() {
    timer.cancel()
    let completion = onFinished
    onFinished = nil
    dropped &+= UInt64(queue.count)
    queue = []
    task?.cancel()
    client.closeIdle()
    completion?()
  }
}
