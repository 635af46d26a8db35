// What a line of the access log looks like: text (`name=value`), JSON, or a template of one's own.
//
//   2018-11-21T09:05:00.042Z out dialect=http service=go.micro.srv.greeter endpoint=Say.Hello node=greeter-1
//     address=10.0.0.7:9090 status=200 flag=- reason=ok attempts=1 duration_ms=1.042 upstream_ms=0.871 bytes_in=14
//     bytes_out=21 trace_id=-                                                                    (one line)

/// A field of the access log; its raw value is its name in text, JSON and templates.
package enum AccessLogField: String, CaseIterable, Sendable {
  case time, direction, dialect, service, endpoint, node, address, status, flag, reason, attempts
  case duration = "duration_ms"
  case upstream = "upstream_ms"
  case bytesIn = "bytes_in"
  case bytesOut = "bytes_out"
  case trace = "trace_id"

  /// Written as a number in JSON.
  var isNumber: Bool {
    switch self {
    case .status, .attempts, .duration, .upstream, .bytesIn, .bytesOut: true
    case .time, .direction, .dialect, .service, .endpoint, .node, .address, .flag, .reason, .trace: false
    }
  }
}

/// How a line is put together.
package enum AccessLogFormat: Equatable, Sendable, CustomStringConvertible {
  package enum Piece: Equatable, Sendable {
    case text(String)
    case field(AccessLogField)
  }

  /// Bytes of a template.
  package static let templateBytesMax = 1024

  case text
  case json
  case template(String, [Piece])

  /// `text`, `json`, or a text with `{field}` in it. Nil: a name in braces is no field's, or a brace is left open.
  package init?(_ word: String) {
    switch word.lowercased() {
    case "text": self = .text
    case "json": self = .json
    default:
      guard word.utf8.count <= Self.templateBytesMax, let pieces = Self.pieces(word) else { return nil }
      self = .template(word, pieces)
    }
  }

  private static func pieces(_ template: String) -> [Piece]? {
    var pieces: [Piece] = []
    var rest = template[...]
    while let open = rest.firstIndex(of: "{") {
      guard let close = rest[open...].firstIndex(of: "}"),
        let field = AccessLogField(rawValue: String(rest[rest.index(after: open)..<close]))
      else { return nil }
      if open > rest.startIndex { pieces.append(.text(String(rest[..<open]))) }
      pieces.append(.field(field))
      rest = rest[rest.index(after: close)...]
    }
    guard pieces.contains(where: { if case .field = $0 { true } else { false } }) else { return nil }
    if !rest.isEmpty { pieces.append(.text(String(rest))) }
    return pieces
  }

  package var description: String {
    switch self {
    case .text: "text"
    case .json: "json"
    case .template(let text, _): text
    }
  }
}

/// Writes one line after another. Loop-confined; keeps the date of the second it is in.
struct CallLine {
  private var second: Int64 = .min
  private let date = ByteBuffer(capacity: 32)
  /// What stands before each field's value in a line of text, one after another, and where each ends.
  private let labels = ByteBuffer(capacity: 256)
  private var labelEnds: [Int] = []

  init() {
    for field in AccessLogField.allCases {
      switch field {
      case .time: break
      case .direction: labels.append(" ")
      default: labels.append(" \(field.rawValue)=")
      }
      labelEnds.append(labels.count)
    }
  }

  mutating func append(
    _ format: AccessLogFormat, _ notes: CallNotes, _ call: CallEnd, unixNanoseconds: Int64, now: Instant,
    to out: ByteBuffer
  ) {
    switch format {
    case .text:
      var begin = 0
      for (index, field) in AccessLogField.allCases.enumerated() {
        out.append(labels.bytes(begin..<labelEnds[index]))
        begin = labelEnds[index]
        append(field, notes, call, unixNanoseconds, now, .text, to: out)
      }
    case .json: appendJSON(notes, call, unixNanoseconds: unixNanoseconds, now: now, to: out)
    case .template(_, let pieces):
      for piece in pieces {
        switch piece {
        case .text(let text): out.append(text)
        case .field(let field): append(field, notes, call, unixNanoseconds, now, .text, to: out)
        }
      }
    }
    out.append(0x0A as UInt8)
  }

  /// One JSON object, without a line break.
  mutating func appendJSON(
    _ notes: CallNotes, _ call: CallEnd, unixNanoseconds: Int64, now: Instant, to out: ByteBuffer
  ) {
    out.append("{\"")
    for field in AccessLogField.allCases {
      if field != .time { out.append(",\"") }
      out.append(field.rawValue)
      out.append("\":")
      if !field.isNumber { out.append("\"") }
      append(field, notes, call, unixNanoseconds, now, .json, to: out)
      if !field.isNumber { out.append("\"") }
    }
    out.append("}")
  }

  private enum Style { case text, json }

  private mutating func append(
    _ field: AccessLogField, _ notes: CallNotes, _ call: CallEnd, _ time: Int64, _ now: Instant, _ style: Style,
    to out: ByteBuffer
  ) {
    switch field {
    case .time: append(time: time, to: out)
    case .direction: out.append(call.direction == .out ? "out" : "in")
    case .dialect: out.append(call.dialect)
    case .service: Self.append(call.service, style, to: out)
    case .endpoint: Self.append(call.endpoint, style, to: out)
    case .node: Self.append(notes.node?.node.id, style, to: out)
    case .address: Self.append(notes.node?.node.address, style, to: out)
    case .status: out.append(decimal: notes.status)
    case .flag:
      if let kind = call.outcome.kind { out.append(kind.flag) } else if style == .text { out.append("-") }
    case .reason: out.append(call.outcome.label)
    case .attempts: out.append(decimal: notes.attempts)
    case .duration: Self.append(milliseconds: call.latency, to: out)
    case .upstream:
      Self.append(milliseconds: notes.attemptStarted.map { now.nanoseconds(since: $0) } ?? 0, to: out)
    case .bytesIn: out.append(decimal: notes.bytesIn)
    case .bytesOut: out.append(decimal: notes.bytesOut)
    case .trace:
      if notes.trace.isValid {
        notes.trace.appendTrace(to: out)
      } else if style == .text {
        out.append("-")
      }
    }
  }

  /// RFC 3339 with milliseconds; all but those is kept for a second.
  private mutating func append(time: Int64, to out: ByteBuffer) {
    let second = time / 1_000_000_000
    if second != self.second || date.isEmpty {
      self.second = second
      date.removeAll()
      let text = UTCTime.rfc3339(unixNanoseconds: second * 1_000_000_000)
      // Up to the point.
      date.append(String(text.dropLast(4)))
    }
    out.append(date.bytes)
    let milliseconds = UInt64(max(time % 1_000_000_000, 0) / 1_000_000)
    if milliseconds < 100 { out.append("0") }
    if milliseconds < 10 { out.append("0") }
    out.append(decimal: milliseconds)
    out.append("Z")
  }

  /// With three digits behind the point.
  private static func append(milliseconds nanoseconds: Int64, to out: ByteBuffer) {
    let micros = UInt64(max(nanoseconds, 0) / 1000)
    out.append(decimal: micros / 1000)
    out.append(".")
    let rest = micros % 1000
    if rest < 100 { out.append("0") }
    if rest < 10 { out.append("0") }
    out.append(decimal: rest)
  }

  private static func append(_ text: String?, _ style: Style, to out: ByteBuffer) {
    guard var text, !text.isEmpty else { return append(UnsafeRawBufferPointer.none, style, to: out) }
    text.withUTF8 { append(UnsafeRawBufferPointer($0), style, to: out) }
  }

  /// Text that stays inside its field: in a line of text white space, quotes, `=`, `\` and control characters are written
  /// as `\xNN`, and nothing at all as `-`; in JSON as JSON has it.
  private static func append(_ text: UnsafeRawBufferPointer, _ style: Style, to out: ByteBuffer) {
    let text = UnsafeRawBufferPointer(start: text.baseAddress, count: min(text.count, MetricSeries.bytesMax * 2))
    if style == .text, text.isEmpty { return out.append("-") }
    if isPlain(text) { return out.append(text) }
    if style == .json {
      var quoted = String(decoding: text, as: UTF8.self)
      quoted.makeContiguousUTF8()
      let buffer = ByteBuffer(capacity: text.count + 16)
      JSONText.append(quoted, escaping: .plain, into: buffer)
      // Without its quotes, which stand around the field already.
      return out.append(buffer.bytes(1..<max(buffer.count - 1, 1)))
    }
    for byte in text {
      if isPlain(byte) {
        out.append(byte)
      } else {
        out.append("\\x")
        out.append(ASCIIText.hexDigit(byte &>> 4))
        out.append(ASCIIText.hexDigit(byte & 15))
      }
    }
  }

  /// Needs no escape in either style: nearly every name there is.
  private static func isPlain(_ text: UnsafeRawBufferPointer) -> Bool {
    guard text.count >= 8, let start = text.baseAddress else { return text.allSatisfy(isPlain) }
    // Eight at a time; the last eight may be looked at twice in part.
    for offset in stride(from: 0, to: text.count &- 8, by: 8) where !areAllPlain(start + offset) { return false }
    return areAllPlain(start + (text.count &- 8))
  }

  @inline(__always) private static func isPlain(_ byte: UInt8) -> Bool {
    switch byte {
    case 0x21, 0x23...0x3C, 0x3E...0x5B, 0x5D...0x7E: true
    default: false
    }
  }

  @inline(__always) private static func areAllPlain(_ start: UnsafeRawPointer) -> Bool {
    let ones: UInt64 = 0x0101_0101_0101_0101
    let bytes = start.loadUnaligned(as: UInt64.self)
    // The highest bit of a byte says that something is wrong with it, or with one below it.
    func holds(_ byte: UInt8) -> UInt64 {
      let rest = bytes ^ ones &* UInt64(byte)
      return (rest &- ones) & ~rest
    }
    let tooLow = (bytes &- ones &* 0x21) & ~bytes
    let tooHigh = bytes | (bytes &+ ones)
    let bad = tooLow | tooHigh | holds(UInt8(ascii: "\"")) | holds(UInt8(ascii: "=")) | holds(UInt8(ascii: "\\"))
    return bad & (ones &* 0x80) == 0
  }
}

/// The lines of one worker on their way to the file, which the control loop writes: at most one batch is there at a time, so
/// that a slow disk costs lines and never a call.
final class AccessLogWriter {
  /// A batch this large is handed over at once, another after `interval` nanoseconds.
  static let handedAt = 256 * 1024
  static let interval: Int64 = 100_000_000
  /// Bytes kept while the last batch is still being written; further lines are dropped and counted.
  static let bytesMax = 1024 * 1024

  private let format: AccessLogFormat
  private unowned(unsafe) let worker: Worker
  private var line = CallLine()
  private var buffer = ByteBuffer(capacity: 4096)
  private var spare: ByteBuffer?
  private var isUnderWay = false
  private lazy var timer = LoopTimer { [unowned self] in handOver() }

  init(_ format: AccessLogFormat, worker: Worker) {
    self.format = format
    self.worker = worker
  }

  func write(_ notes: CallNotes, _ call: CallEnd) {
    guard buffer.count < Self.bytesMax else {
      worker.metrics.add(.accessLogDropped)
      return
    }
    if buffer.isEmpty, !isUnderWay { worker.timers.arm(timer, after: Self.interval, from: worker.driver.now) }
    line.append(
      format, notes, call, unixNanoseconds: worker.driver.unixNanoseconds, now: worker.driver.now, to: buffer)
    if buffer.count >= Self.handedAt { handOver() }
  }

  private func handOver() {
    timer.cancel()
    guard !buffer.isEmpty, !isUnderWay else { return }
    isUnderWay = true
    let batch = buffer
    buffer = spare ?? ByteBuffer(capacity: 4096)
    spare = nil
    worker.give(LoopBound(batch))
  }

  /// The batch is written, or lost; its buffer comes back.
  func written(_ batch: ByteBuffer) {
    isUnderWay = false
    batch.removeAll()
    if batch.capacity <= 2 * Self.handedAt { spare = batch }
    if buffer.count >= Self.handedAt {
      handOver()
    } else if !buffer.isEmpty {
      worker.timers.arm(timer, after: Self.interval, from: worker.driver.now)
    }
  }

  func flush() { handOver() }

  func takeRest() -> ByteBuffer {
    let rest = buffer
    buffer = ByteBuffer()
    return rest
  }
}
