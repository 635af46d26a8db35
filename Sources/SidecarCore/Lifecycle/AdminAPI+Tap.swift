// `/tap`: requests as they end, one JSON object a line (NDJSON), or as Server-Sent Events for whoever asks for those.

extension AdminAPI {
  func tap(_ request: AdminRequest) -> AdminReply {
    let filter: TapFilter
    let perSecond: Int
    do throws(WireError) {
      let fields = QueryFields(request.query).json
      filter = try TapFilter(query: fields)
      perSecond = min(max(Int(fields["rate"]?.stringValue ?? "") ?? TapFilter.rateDefault, 1), Tap.rateMax)
    } catch {
      return .whole(.text(400, error.rule))
    }
    guard sidecar.taps.count < TapHub.tapsMax else {
      return .whole(.text(503, "\(TapHub.tapsMax) look on already"))
    }
    let isEvents = request.accept?.contains("text/event-stream") == true
    return .stream(contentType: isEvents ? "text/event-stream" : "application/x-ndjson") { [sidecar] stream in
      let reader = TapReader(stream, isEvents: isEvents, driver: sidecar.driver)
      guard let id = sidecar.taps.add({ reader.take($0) }) else { return stream.end() }
      // The workers share the rate.
      let share = max(perSecond / max(sidecar.workers.count, 1), 1)
      for worker in sidecar.workers { worker.post { $0.beginTap(id, filter, perSecond: share) } }
      stream.onEnd = { [weak sidecar] in
        reader.stop()
        guard let sidecar else { return }
        sidecar.taps.remove(id)
        for worker in sidecar.workers { worker.post { $0.endTap(id) } }
      }
    }
  }
}

/// Writes lines to one looker-on.
private final class TapReader {
  /// How often a silent stream is written to, so that a reader who left is noticed, in nanoseconds.
  private static let silenceMax: Int64 = 10_000_000_000

  private let stream: AdminStream
  private let isEvents: Bool
  private let driver: any Driver
  private var lost = 0
  private lazy var timer = LoopTimer { [unowned self] in keepAlive() }

  init(_ stream: AdminStream, isEvents: Bool, driver: any Driver) {
    self.stream = stream
    self.isEvents = isEvents
    self.driver = driver
    // A reader knows by it that everything from now on is shown.
    keepAlive()
  }

  func take(_ batch: TapLines) {
    lost += batch.lost
    var bytes = isEvents ? events(batch.lines) : batch.lines
    if lost > 0 {
      let line = Array("{\"lost\":\(lost)}\n".utf8)
      bytes += isEvents ? events(line) : line
    }
    if stream.write(bytes) {
      lost = 0
    } else {
      lost += batch.lines.reduce(0) { $1 == 0x0A ? $0 + 1 : $0 }
    }
  }

  private func events(_ lines: [UInt8]) -> [UInt8] {
    let out = ByteBuffer(capacity: lines.count + 1024)
    for line in lines.split(separator: 0x0A) {
      out.append("data: ")
      line.withUnsafeBytes { out.append($0) }
      out.append("\n\n")
    }
    return Array(out.bytes)
  }

  private func keepAlive() {
    _ = stream.write(Array((isEvents ? ":\n\n" : "\n").utf8))
    driver.timers.arm(timer, after: Self.silenceMax, from: driver.now)
  }

  func stop() { timer.cancel() }
}
