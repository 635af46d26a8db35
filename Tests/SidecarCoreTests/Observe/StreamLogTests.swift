import Foundation
import Synchronization
import Testing

@testable import SidecarCore

/// A clock that is set and a sink that remembers, and may refuse.
private final class LogBench: Sendable {
  private struct State {
    var now: Int64 = 1_542_791_100_042_000_000
    var lines: [String] = []
    var room = Int.max
  }
  private let state = Mutex(State())

  var lines: [String] { state.withLock { $0.lines } }
  func advance(_ duration: Duration) { state.withLock { $0.now += duration.saturatingNanoseconds } }
  func leaveRoom(for lines: Int) { state.withLock { $0.room = lines } }
  func clear() { state.withLock { $0.lines = [] } }

  func log(_ level: LogLevel = .info, _ format: LogFormat = .text) -> StreamLog {
    StreamLog(
      level: level, format: format, clock: { self.state.withLock { $0.now } },
      write: { line in
        self.state.withLock { state in
          guard state.room > 0 else { return false }
          state.room -= 1
          state.lines.append(String(decoding: line, as: UTF8.self))
          return true
        }
      })
  }
}

@Suite("Log")
struct StreamLogTests {
  @Test("a line of text has time, level, sentence and fields")
  func text() {
    let bench = LogBench()
    let log = bench.log()
    log.warning("the registry is not reachable", [("registry", "consul"), ("error", "connection refused"), ("n", "")])
    log.info("ready")
    #expect(
      bench.lines == [
        "2018-11-21T09:05:00.042Z WARN  the registry is not reachable registry=consul error=\"connection refused\" n=\"\"\n",
        "2018-11-21T09:05:00.042Z INFO  ready\n",
      ])
  }

  @Test("a line of JSON is one object, and a name given twice stays two")
  func json() throws {
    let bench = LogBench()
    bench.log(.info, .json).error("a \"b\"\n\u{1B}", [("error", "x\\y"), ("error", "z"), ("time", "noon")])
    #expect(
      bench.lines == [
        #"{"time":"2018-11-21T09:05:00.042Z","level":"error","message":"a \"b\"\n\u001b","error":"x\\y","error_1":"z","time_2":"noon"}"#
          + "\n"
      ])
    _ = try JSONSerialization.jsonObject(with: Data(bench.lines[0].utf8))
  }

  @Test("lines below the level are not even put together")
  func levels() {
    let bench = LogBench()
    let log = bench.log(.warning)
    var built = 0
    func sentence() -> String {
      built += 1
      return "sentence"
    }
    for level in LogLevel.allCases { log.log(level, sentence(), []) }
    #expect(built == 2)
    #expect(bench.lines.count == 2)
  }

  @Test("nothing that is logged can begin a second line, colour a terminal or end a quoted value")
  func escaping() {
    let bench = LogBench()
    bench.log().info("a\r\nb\u{1B}[31m\u{202E}", [("k\n", "v\" x=\"\\\t\u{7F}\u{9B}\u{2028}é")])
    #expect(
      bench.lines == [
        "2018-11-21T09:05:00.042Z INFO  a\\r\\nb\\u{1b}[31m\\u{202e} k\\n=\"v\\\" x=\\\"\\\\\\t\\u{7f}\\u{9b}\\u{2028}é\"\n"
      ])
  }

  @Test("a long message is cut at the border of a character")
  func longMessages() {
    let bench = LogBench()
    for format in LogFormat.allCases { bench.log(.info, format).info(String(repeating: "é", count: 100_000)) }
    for line in bench.lines {
      #expect(line.utf8.count < StreamLog.bytesMax + 200)
      #expect(line.contains("é…"))
      #expect(!line.contains("\u{FFFD}"))
    }
  }

  @Test("of lines that say the same ten pass in a second, and the next second tells how many did not")
  func repeats() {
    let bench = LogBench()
    let log = bench.log()
    for index in 0..<25 { log.error("dial failed", [("node", "\(index)")]) }
    log.info("dial failed")
    #expect(bench.lines.count == LogRepeats.passedMax + 1)
    bench.clear()
    bench.advance(.seconds(1))
    log.info("something else")
    #expect(
      bench.lines == [
        "2018-11-21T09:05:01.042Z ERROR suppressed 15 lines that say the same suppressed=15 like=\"dial failed\"\n",
        "2018-11-21T09:05:01.042Z INFO  something else\n",
      ])
  }

  @Test("the end of the process tells what was held back")
  func flush() {
    let bench = LogBench()
    let log = bench.log()
    for _ in 0..<12 { log.info("again") }
    bench.clear()
    log.flush()
    log.flush()
    #expect(bench.lines.count == 1)
    #expect(bench.lines.first?.contains("suppressed 2 lines") == true)
  }

  @Test("many different lines do not make the bound's own memory grow")
  func kinds() {
    var repeats = LogRepeats()
    var held = 0
    for index in 0..<10_000 {
      for _ in 0..<11 {
        held += repeats.admit(.init(level: .info, message: "\(index)"), second: 1).held.reduce(0) { $0 + $1.count }
      }
      #expect(
        Mirror(reflecting: repeats).children.contains { ($0.value as? [LogRepeats.Kind: Int])?.count ?? 0 <= 256 })
    }
    held += repeats.takeHeld().reduce(0) { $0 + $1.count }
    #expect(held == 10_000)
  }

  @Test("a sink without room loses lines, never blocks, and is told how many")
  func dropped() {
    let bench = LogBench()
    let log = bench.log()
    bench.leaveRoom(for: 1)
    log.info("one")
    log.info("two")
    log.info("three")
    #expect(bench.lines.count == 1)
    bench.leaveRoom(for: 2)
    log.info("four")
    #expect(bench.lines.count == 3)
    #expect(bench.lines[1].contains("dropped 2 log lines"))
    #expect(bench.lines[2].contains("four"))
    bench.leaveRoom(for: 0)
    log.info("five")
    bench.leaveRoom(for: 5)
    log.flush()
    #expect(bench.lines.last?.contains("dropped 1 log lines") == true)
  }

  @Test("threads may log at the same time, and every line stays whole")
  func threads() async {
    let bench = LogBench()
    let log = bench.log()
    await withTaskGroup(of: Void.self) { group in
      for task in 0..<8 {
        group.addTask { for index in 0..<200 { log.info("line of task \(task) number \(index)") } }
      }
    }
    #expect(bench.lines.count == 1600)
    #expect(
      bench.lines.allSatisfy { $0.hasPrefix("2018-11-21T09:05:00.042Z INFO  line of task ") && $0.hasSuffix("\n") })
  }

  @Test("times are those of another calendar implementation", arguments: [11, 12] as [UInt64])
  func times(seed: UInt64) {
    let formatter = ISO8601DateFormatter()
    formatter.formatOptions = [.withInternetDateTime, .withFractionalSeconds]
    var random = SeededRandom(seed: seed)
    for _ in 0..<3_000 {
      // From 1584 on, after which Foundation's calendar is the Gregorian one as ours always is; whole milliseconds,
      // which a Double holds exactly enough.
      let milliseconds = Int64(random.below(19_300_000_000_000)) - 10_000_000_000_000
      let (nanoseconds, overflow) = milliseconds.multipliedReportingOverflow(by: 1_000_000)
      if overflow { continue }
      let expected = formatter.string(from: Date(timeIntervalSince1970: Double(milliseconds) / 1000 + 0.0001))
      let text = UTCTime.rfc3339(unixNanoseconds: nanoseconds)
      if text.hasPrefix("15") || text.hasPrefix("16") { continue }
      #expect(text == expected, "seed \(seed): \(milliseconds)")
    }
  }

  @Test(
    "times at the borders",
    arguments: [
      (0, "1970-01-01T00:00:00.000Z"), (-1, "1969-12-31T23:59:59.999Z"),
      (951_782_400_000_000_000, "2000-02-29T00:00:00.000Z"), (1_709_251_199_999_999_999, "2024-02-29T23:59:59.999Z"),
      (Int64.max, "2262-04-11T23:47:16.854Z"), (Int64.min, "1677-09-21T00:12:43.145Z"),
    ] as [(Int64, String)])
  func borders(nanoseconds: Int64, text: String) {
    #expect(UTCTime.rfc3339(unixNanoseconds: nanoseconds) == text)
  }
}
