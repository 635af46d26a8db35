// The log: one line of text or one JSON object per event, to a sink that takes bytes. What a line says is decided where
// it is logged; here it is made safe (no control characters, bounded length) and bounded in number.
//
// Text:  2018-11-21T09:05:00.042Z WARN  the registry is not reachable registry=consul error="connection refused"
// JSON:  {"time":"2018-11-21T09:05:00.042Z","level":"warn","message":"…","registry":"consul","error":"…"}

import Synchronization

/// Takes log lines from any thread. A line below the level costs one comparison; others are put together outside the
/// lock, which is held for the bounds and the sink.
///
/// Bounds: of lines with the same level and message, `LogRepeats.passedMax` a second pass; how many did not is told by
/// the first line of any kind in a later second. A sink that does not take a line drops it; that count is told before
/// the next line it takes.
package final class StreamLog: LogSink {
  /// Bytes of one message or value; what is longer ends in `…`.
  package static let bytesMax = 4096

  package let level: LogLevel
  private let format: LogFormat
  private let clock: @Sendable () -> Int64
  /// Writes one whole line, its line break included; false when there was no room for it. Must not block, and must not
  /// log.
  private let write: @Sendable (_ line: [UInt8]) -> Bool
  private let state = Mutex(State())

  private struct State {
    var repeats = LogRepeats()
    var dropped = 0
  }

  /// `clock` gives wall-clock nanoseconds since 1970, from any thread.
  package init(
    level: LogLevel, format: LogFormat, clock: @escaping @Sendable () -> Int64,
    write: @escaping @Sendable (_ line: [UInt8]) -> Bool
  ) {
    self.level = level
    self.format = format
    self.clock = clock
    self.write = write
  }

  package func log(
    _ level: LogLevel, _ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)]
  ) {
    guard level >= self.level else { return }
    let time = clock()
    let kind = LogRepeats.Kind(level: level, message: LogText.bounded(message()))
    let line = line(time, level, kind.message, fields())
    state.withLock { state in
      let (passes, held) = state.repeats.admit(kind, second: time / 1_000_000_000)
      for held in held { tell(held, time, &state) }
      if passes { deliver(line, time, &state) }
    }
  }

  /// Tells what was held back and not told yet. For the end of the process.
  package func flush() {
    let time = clock()
    state.withLock { state in
      for held in state.repeats.takeHeld() { tell(held, time, &state) }
      if state.dropped > 0 { deliver([], time, &state) }
    }
  }

  private func tell(_ held: LogRepeats.Held, _ time: Int64, _ state: inout State) {
    let fields = [("suppressed", "\(held.count)"), ("like", held.kind.message)]
    deliver(line(time, held.kind.level, "suppressed \(held.count) lines that say the same", fields), time, &state)
  }

  private func deliver(_ line: [UInt8], _ time: Int64, _ state: inout State) {
    if state.dropped > 0 {
      let notice = self.line(time, .warning, "dropped \(state.dropped) log lines, the log's reader was too slow", [])
      guard write(notice) else {
        state.dropped += line.isEmpty ? 0 : 1
        return
      }
      state.dropped = 0
    }
    if !line.isEmpty, !write(line) { state.dropped += 1 }
  }

  // MARK: One line

  private func line(_ time: Int64, _ level: LogLevel, _ message: String, _ fields: [(String, String)]) -> [UInt8] {
    let buffer = ByteBuffer(capacity: 256)
    switch format {
    case .text:
      buffer.append(UTCTime.rfc3339(unixNanoseconds: time))
      buffer.append(level.column)
      LogText.append(message, quoting: .never, into: buffer)
      for (name, value) in fields {
        buffer.append(UInt8(ascii: " "))
        LogText.append(name, quoting: .never, into: buffer)
        buffer.append(UInt8(ascii: "="))
        LogText.append(value, quoting: .whenNeeded, into: buffer)
      }
    case .json:
      buffer.append("{\"time\":\"")
      buffer.append(UTCTime.rfc3339(unixNanoseconds: time))
      buffer.append("\",\"level\":\"")
      buffer.append(level.word)
      buffer.append("\",\"message\":")
      JSONText.append(LogText.bounded(message), escaping: .plain, into: buffer)
      for (index, (name, value)) in fields.enumerated() {
        // Readers keep one of two members with one name, and which one differs; so a later one gets its number.
        let isTaken =
          ["time", "level", "message"].contains(name) || fields[..<index].contains { $0.0 == name }
        buffer.append(UInt8(ascii: ","))
        JSONText.append(LogText.bounded(isTaken ? "\(name)_\(index)" : name), escaping: .plain, into: buffer)
        buffer.append(UInt8(ascii: ":"))
        JSONText.append(LogText.bounded(value), escaping: .plain, into: buffer)
      }
      buffer.append(UInt8(ascii: "}"))
    }
    buffer.append(0x0A as UInt8)
    return Array(buffer.bytes)
  }
}

extension LogLevel {
  fileprivate var column: StaticString {
    switch self {
    case .trace: " TRACE "
    case .debug: " DEBUG "
    case .info: " INFO  "
    case .warning: " WARN  "
    case .error: " ERROR "
    }
  }
}

/// Text that cannot break out of its line or fool a terminal: control characters are written as escapes.
enum LogText {
  enum Quoting { case never, whenNeeded }

  /// `text` cut to `StreamLog.bytesMax` at the border of a character.
  static func bounded(_ text: String) -> String {
    guard text.utf8.count > StreamLog.bytesMax else { return text }
    let utf8 = text.utf8
    var end = utf8.index(utf8.startIndex, offsetBy: StreamLog.bytesMax)
    while end > utf8.startIndex, utf8[end] & 0xC0 == 0x80 { end = utf8.index(before: end) }
    return String(text[..<end]) + "…"
  }

  /// Quotes stand around what is empty or has white space, `"` or `=` in it, so that fields can be cut again.
  static func append(_ text: String, quoting: Quoting, into buffer: ByteBuffer) {
    let text = bounded(text)
    let isQuoted =
      quoting == .whenNeeded
      && (text.isEmpty || text.utf8.contains { $0 <= 0x20 || $0 == UInt8(ascii: "\"") || $0 == UInt8(ascii: "=") })
    if isQuoted { buffer.append(UInt8(ascii: "\"")) }
    for scalar in text.unicodeScalars {
      switch scalar.value {
      case 0x0A: buffer.append("\\n")
      case 0x0D: buffer.append("\\r")
      case 0x09: buffer.append("\\t")
      case 0x22 where isQuoted: buffer.append("\\\"")
      case 0x5C where isQuoted: buffer.append("\\\\")
      // C0, DEL, C1, line separators and the characters that turn the direction of writing.
      case 0...0x1F, 0x7F...0x9F, 0x2028...0x202E, 0x2066...0x2069:
        buffer.append("\\u{")
        buffer.append(String(scalar.value, radix: 16))
        buffer.append("}")
      default: for byte in UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter { buffer.append(byte) }
      }
    }
    if isQuoted { buffer.append(UInt8(ascii: "\"")) }
  }
}
