// Connections on real sockets: what `ByteStream` promises, on TCP and on Unix sockets.

import Glibc
import SidecarCore
import Testing

@testable import SidecarUV

/// Where a pair of streams is made.
enum Medium: String, CaseIterable, CustomTestStringConvertible {
  case ipv4, ipv6, unix

  var address: SocketAddress {
    switch self {
    case .ipv4: .loopback(port: 0)
    case .ipv6: .ipv6(high: 0, low: 1, zone: 0, port: 0)
    case .unix: .unix(path: temporaryPath("socket"))
    }
  }
  var testDescription: String { rawValue }
}

func pattern(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) } }

@Suite struct UVStreamTests {
  @Test(arguments: Medium.allCases)
  func bytesWrittenOnOneSideArriveOnTheOther(medium: Medium) async throws {
    let (there, back) = try await onLoop { (driver, report: Report<(String, String)>) in
      try driver.makePair(on: medium.address) { pair in
        pair.farSide.read = { stream, _ in
          if pair.farSide.text == "hello, world" { stream.write("and back") }
        }
        pair.nearSide.read = { _, _ in
          if pair.nearSide.text == "and back" { report.succeed((pair.farSide.text, pair.nearSide.text)) }
        }
        let (first, second) = (Array("hello, ".utf8), Array("world".utf8))
        first.withUnsafeBytes { first in second.withUnsafeBytes { second in _ = pair.near.write(first, second) } }
      }
    }
    #expect(there == "hello, world")
    #expect(back == "and back")
  }

  @Test(arguments: Medium.allCases)
  func eachHalfEndsByItself(medium: Medium) async throws {
    let (near, far, ends) = try await onLoop { (driver, report: Report<([String], [String], [StreamEnd?])>) in
      try driver.makePair(on: medium.address) { pair in
        func finish() {
          guard pair.nearSide.end != nil, pair.farSide.end != nil else { return }
          report.succeed((pair.nearSide.events, pair.farSide.events, [pair.nearSide.end, pair.farSide.end]))
        }
        pair.farSide.ended = { stream in
          // Our half still stands: an answer to a request whose end was its end.
          stream.write("answer")
          stream.shutdownWrites()
          stream.shutdownWrites()
        }
        pair.nearSide.closed = { _, _ in finish() }
        pair.farSide.closed = { _, _ in finish() }
        pair.near.write("question")
        pair.near.shutdownWrites()
        if pair.near.write("too late") != .closed { report.fail(DeadlinePassed(description: "wrote after the end")) }
      }
    }
    #expect(near == ["opened", "read", "ended", "closed"])
    #expect(far == ["read", "ended", "closed"])
    #expect(ends == [.ended, .ended])
  }

  @Test(arguments: Medium.allCases)
  func closeDeliversWhatWasWritten(medium: Medium) async throws {
    let bytes = pattern(3_000_000)
    let (received, end, events) = try await onLoop { (driver, report: Report<([UInt8], StreamEnd?, [String])>) in
      try driver.makePair(on: medium.address) { pair in
        pair.near.write(bytes)
        pair.near.close()
        pair.near.close()
        pair.farSide.ended = { stream in stream.close() }
        pair.farSide.closed = { _, _ in
          report.succeed((pair.farSide.received, pair.nearSide.end, pair.nearSide.events))
        }
      }
    }
    #expect(received == bytes)
    #expect(end == .closedHere)
    #expect(events == ["opened", "closed"])
  }

  @Test(arguments: [Medium.ipv4, .ipv6])
  func aResetIsNeverTakenForAnEnd(medium: Medium) async throws {
    let (events, end, ourEnd) = try await onLoop { (driver, report: Report<([String], StreamEnd?, StreamEnd?)>) in
      try driver.makePair(on: medium.address) { pair in
        // The bytes and the reset are there together when the far side looks: libuv alone calls that an end.
        pair.near.write("part of a body")
        pair.near.reset()
        pair.farSide.closed = { _, end in report.succeed((pair.farSide.events, end, pair.nearSide.end)) }
      }
    }
    #expect(events == ["read", "closed"])
    guard case .reset(let message) = end else {
      Issue.record("ended with \(String(describing: end))")
      return
    }
    #expect(message.contains("ECONNRESET"))
    #expect(ourEnd == .closedHere)
  }

  @Test func aClosedPortRefuses() async throws {
    let end = try await onLoop { (driver, report: Report<StreamEnd?>) in
      let listener = try driver.listen(on: .loopback(port: 0), sharedPort: false) { _ in }
      let address = listener.address
      listener.close()
      let side = Recorder()
      side.closed = { _, end in report.succeed(side.events == ["closed"] ? end : nil) }
      report.keep(driver.connect(to: address, handler: side))
    }
    #expect(end == .refused)
  }

  @Test func aPathWithoutASocketRefuses() async throws {
    let end = try await onLoop { (driver, report: Report<StreamEnd>) in
      let side = Recorder()
      side.closed = { _, end in report.succeed(end) }
      let stream = driver.connect(to: .unix(path: temporaryPath("nobody")), handler: side)
      // Written before the dial failed: dropped with it, not another error.
      stream.write("hello")
      report.keep(stream)
    }
    #expect(end == .refused)
  }

  @Test func anAddressWithoutARouteIsUnreachable() async throws {
    let end = try await onLoop { (driver, report: Report<StreamEnd>) in
      let side = Recorder()
      side.closed = { _, end in report.succeed(end) }
      // Link-local without a zone: no interface to leave by.
      report.keep(
        driver.connect(to: .ipv6(high: 0xFE80_0000_0000_0000, low: 9, zone: 0, port: 9), handler: side))
    }
    guard case .unreachable(let message) = end else {
      Issue.record("ended with \(end)")
      return
    }
    #expect(!message.isEmpty)
  }

  @Test func aPathTooLongIsUnreachableAndNotCutOff() async throws {
    let end = try await onLoop { (driver, report: Report<StreamEnd>) in
      let side = Recorder()
      side.closed = { _, end in report.succeed(end) }
      report.keep(
        driver.connect(to: .unix(path: "/tmp/" + String(repeating: "x", count: 200)), handler: side))
    }
    guard case .unreachable(let message) = end else {
      Issue.record("ended with \(end)")
      return
    }
    #expect(message.contains("ENAMETOOLONG"))
  }

  @Test(arguments: Medium.allCases)
  func writesBeforeTheConnectionStandsArriveInOrder(medium: Medium) async throws {
    let bytes = pattern(300_000)
    let received = try await onLoop { (driver, report: Report<[UInt8]>) in
      let farSide = Recorder()
      farSide.ended = { stream in
        stream.close()
        report.succeed(farSide.received)
      }
      let listener = try driver.listen(on: medium.address, sharedPort: false) { stream in stream.handler = farSide }
      let near = driver.connect(to: listener.address, handler: Recorder())
      for start in stride(from: 0, to: bytes.count, by: 1_000) { near.write(Array(bytes[start..<start + 1_000])) }
      near.shutdownWrites()
    }
    #expect(received == bytes)
  }

  @Test func closingAnUnfinishedDialStillDeliversWhatWasWritten() async throws {
    let (text, events) = try await onLoop { (driver, report: Report<(String, [String])>) in
      let farSide = Recorder()
      let nearSide = Recorder()
      farSide.ended = { stream in
        stream.close()
        report.succeed((farSide.text, nearSide.events))
      }
      let listener = try driver.listen(on: .loopback(port: 0), sharedPort: false) { $0.handler = farSide }
      let near = driver.connect(to: listener.address, handler: nearSide)
      near.write("fire and forget")
      near.close()
    }
    #expect(text == "fire and forget")
    #expect(events == ["closed"])
  }

  @Test func anUnusedDialCanBeTakenBack() async throws {
    let (events, end) = try await onLoop { (driver, report: Report<([String], StreamEnd?)>) in
      let listener = try driver.listen(on: .loopback(port: 0), sharedPort: false) { $0.handler = Recorder() }
      let side = Recorder()
      side.closed = { _, end in report.succeed((side.events, end)) }
      driver.connect(to: listener.address, handler: side).close()
    }
    #expect(events == ["closed"])
    #expect(end == .closedHere)
  }

  // MARK: Backpressure

  @Test(arguments: Medium.allCases)
  func aSlowReaderHoldsTheWriterBack(medium: Medium) async throws {
    struct Outcome: Sendable {
      var received: [UInt8] = []
      var mostQueued = 0
      var drains = 0
      var queuedAtDrain = 0
      var events: [String] = []
    }
    let total = 8 * 1024 * 1024
    let piece = pattern(16_384)
    let outcome = try await onLoop { (driver, report: Report<Outcome>) in
      try driver.makePair(on: medium.address) { pair in
        var outcome = Outcome()
        var sent = 0
        func fill() {
          while sent < total {
            let state = pair.near.write(piece)
            sent += piece.count
            outcome.mostQueued = max(outcome.mostQueued, pair.near.queuedBytes)
            if state == .congested { return }
          }
          pair.near.shutdownWrites()
        }
        pair.nearSide.drained = { stream in
          outcome.drains += 1
          outcome.queuedAtDrain = max(outcome.queuedAtDrain, stream.queuedBytes)
          fill()
        }
        // The reader takes a little, rests a tick, and takes again.
        var reads = 0
        let resume = LoopTimer { pair.far.resumeReading() }
        report.keep(resume)
        pair.farSide.read = { stream, _ in
          reads += 1
          if reads % 20 == 0 {
            stream.pauseReading()
            driver.timers.arm(resume, after: 1_000_000, from: driver.now)
          }
        }
        pair.farSide.ended = { stream in
          outcome.received = pair.farSide.received
          outcome.events = pair.nearSide.events
          stream.close()
          report.succeed(outcome)
        }
        fill()
      }
    }
    #expect(outcome.received.count == total)
    for start in stride(from: 0, to: outcome.received.count, by: piece.count) {
      guard outcome.received[start..<start + piece.count].elementsEqual(piece) else {
        Issue.record("bytes out of order at \(start)")
        break
      }
    }
    #expect(outcome.mostQueued > ByteStream.highWatermark)
    #expect(outcome.mostQueued <= ByteStream.highWatermark + piece.count)
    #expect(outcome.drains > 0)
    #expect(outcome.queuedAtDrain < ByteStream.lowWatermark)
    #expect(!outcome.events.contains("REENTERED"))
  }

  @Test func aPausedStreamHearsNothingUntilItIsResumed() async throws {
    let (before, after) = try await onLoop { (driver, report: Report<([String], [String])>) in
      try driver.makePair { pair in
        pair.far.pauseReading()
        pair.far.pauseReading()
        pair.near.write("held back")
        pair.near.shutdownWrites()
        var before: [String] = []
        let resume = LoopTimer {
          before = pair.farSide.events
          pair.far.resumeReading()
          pair.far.resumeReading()
        }
        report.keep(resume)
        driver.timers.arm(resume, after: 30_000_000, from: driver.now)
        pair.farSide.ended = { _ in report.succeed((before, pair.farSide.events)) }
      }
    }
    #expect(before == [])
    #expect(after == ["read", "ended"])
  }

  @Test func anEndMetWhilePausedIsReportedAfterTheResume() async throws {
    let (before, after) = try await onLoop { (driver, report: Report<([String], [String])>) in
      try driver.makePair(on: .unix(path: temporaryPath("socket"))) { pair in
        var before: [String] = []
        let resume = LoopTimer {
          before = pair.farSide.events
          pair.far.resumeReading()
        }
        report.keep(resume)
        // Bytes and hang-up come together; the pause falls between them.
        pair.farSide.read = { stream, _ in
          stream.pauseReading()
          driver.timers.arm(resume, after: 20_000_000, from: driver.now)
        }
        pair.farSide.ended = { _ in report.succeed((before, pair.farSide.events)) }
        pair.near.write("last words")
        pair.near.close()
      }
    }
    #expect(before == ["read"])
    #expect(after == ["read", "ended"])
  }

  // MARK: Trouble

  @Test func whatThePeerSaidBeforeItHungUpIsHeardEvenIfOurWriteFails() async throws {
    let (text, end, lastWrite) = try await onLoop { (driver, report: Report<(String, StreamEnd, WriteState)>) in
      try driver.makePair { pair in
        var lastWrite = WriteState.open
        // The far side answers early and hangs up with our bytes unread, so the kernel resets the connection.
        pair.far.pauseReading()
        pair.near.write("a large upload begins")
        let hangUp = LoopTimer {
          pair.far.write("413 too large")
          pair.far.close()
          // Now that the reset is there and before anything was read: our next writes fail.
          for _ in 0..<3 { lastWrite = pair.near.write("and goes on") }
        }
        report.keep(hangUp)
        driver.timers.arm(hangUp, after: 10_000_000, from: driver.now)
        pair.nearSide.closed = { _, end in report.succeed((pair.nearSide.text, end, lastWrite)) }
      }
    }
    #expect(text == "413 too large")
    #expect(lastWrite == .closed)
    guard case .reset = end else {
      Issue.record("ended with \(end)")
      return
    }
  }

  @Test func aFailedWriteIsReportedInALaterTurn() async throws {
    let (insideCall, end) = try await onLoop { (driver, report: Report<(Bool, StreamEnd)>) in
      try driver.makePair(on: .unix(path: temporaryPath("socket"))) { pair in
        pair.near.pauseReading()
        pair.far.reset()
        var isInsideCall = false
        var closedInsideCall = false
        let write = LoopTimer {
          isInsideCall = true
          for _ in 0..<3 { pair.near.write("to nobody") }
          isInsideCall = false
        }
        report.keep(write)
        driver.timers.arm(write, after: 10_000_000, from: driver.now)
        pair.nearSide.closed = { _, end in
          closedInsideCall = isInsideCall
          report.succeed((closedInsideCall, end))
        }
      }
    }
    #expect(!insideCall)
    guard case .reset(let message) = end else {
      Issue.record("ended with \(end)")
      return
    }
    #expect(message.contains("EPIPE") || message.contains("ECONNRESET"))
  }

  @Test func aPeerThatTakesNothingIsCutOffAfterTheLingerTime() async throws {
    let (end, milliseconds) = try await onLoop { (driver, report: Report<(StreamEnd, Int64)>) in
      try driver.makePair { pair in
        pair.far.pauseReading()
        pair.near.write([UInt8](repeating: 1, count: 20_000_000))
        let start = driver.now
        pair.near.close()
        pair.nearSide.closed = { _, end in
          report.succeed((end, driver.now.nanoseconds(since: start) / 1_000_000))
        }
      }
    }
    guard case .reset = end else {
      Issue.record("ended with \(end)")
      return
    }
    #expect(milliseconds >= ByteStream.closeLinger / 1_000_000)
    #expect(milliseconds < ByteStream.closeLinger / 1_000_000 + 2_000)
  }

  @Test(arguments: ["close", "reset", "shut down", "pause"])
  func aHandlerMayDoAnythingFromInsideItsCallbacks(action: String) async throws {
    let events = try await onLoop { (driver, report: Report<[String]>) in
      func act(_ stream: ByteStream) {
        switch action {
        case "close": stream.close()
        case "reset": stream.reset()
        case "shut down":
          stream.shutdownWrites()
          stream.close()
        default:
          stream.pauseReading()
          stream.resumeReading()
          stream.close()
        }
        // All of them do nothing on a stream that is closing.
        stream.pauseReading()
        stream.resumeReading()
        stream.shutdownWrites()
        _ = stream.write("nothing")
        stream.close()
        stream.reset()
      }
      let farSide = Recorder()
      let listener = try driver.listen(on: .loopback(port: 0), sharedPort: false) { stream in
        stream.handler = farSide
        act(stream)
      }
      var rounds = 0
      var all: [String] = []
      farSide.closed = { _, _ in all.append(contentsOf: farSide.events) }
      func round() {
        let side = Recorder()
        switch rounds {
        case 0: side.opened = act
        case 1:
          side.opened = { $0.write("hello") }
          side.ended = act
        default: break
        }
        side.closed = { stream, _ in
          act(stream)
          all.append(contentsOf: side.events)
          rounds += 1
          if rounds < 2 { round() } else { report.succeed(all) }
        }
        report.keep(driver.connect(to: listener.address, handler: side))
      }
      round()
    }
    #expect(!events.contains("REENTERED"))
    #expect(events.filter { $0 == "closed" }.count >= 2)
  }

  @Test func emptyWritesWriteNothing() async throws {
    let (states, text) = try await onLoop { (driver, report: Report<([WriteState], String)>) in
      try driver.makePair { pair in
        let states = [pair.near.write(""), pair.near.write([UInt8]()), pair.near.write("x"), pair.near.write("")]
        pair.farSide.read = { _, _ in report.succeed((states, pair.farSide.text)) }
      }
    }
    #expect(states == [.open, .open, .open, .open])
    #expect(text == "x")
  }

  @Test func streamsKnowBothAddresses() async throws {
    let (near, far) = try await onLoop { (driver, report: Report<([SocketAddress?], [SocketAddress?])>) in
      try driver.makePair { pair in
        report.succeed(
          ([pair.near.localAddress, pair.near.peerAddress], [pair.far.peerAddress, pair.far.localAddress]))
      }
    }
    #expect(near == far)
    #expect(near.allSatisfy { $0?.isLoopback == true && $0?.port != 0 })
  }

  @Test func handlersAndStreamsAreFreedAfterTheClose() async throws {
    let (handlers, streams) = try await onLoop { (driver, report: Report<(Int, Int)>) in
      final class Weak { weak var handler: Recorder?; weak var stream: ByteStream? }
      var watched: [Weak] = []
      let listener = try driver.listen(on: .loopback(port: 0), sharedPort: false) { stream in
        let side = Recorder()
        side.read = { stream, _ in stream.close() }
        stream.handler = side
      }
      var open = 50
      for _ in 0..<50 {
        let side = Recorder()
        side.opened = { $0.write("x") }
        side.ended = { $0.close() }
        side.closed = { _, _ in
          open -= 1
          if open > 0 { return }
          driver.later {
            driver.later {
              report.succeed(
                (watched.filter { $0.handler != nil }.count, watched.filter { $0.stream != nil }.count))
            }
          }
        }
        let entry = Weak()
        entry.handler = side
        entry.stream = driver.connect(to: listener.address, handler: side)
        watched.append(entry)
      }
    }
    #expect(handlers == 0)
    #expect(streams == 0)
  }

  @Test func aStoppedLoopTellsEachStreamAndTakesNoNewOnes() async throws {
    let (thread, log) = (try UVThread.start(name: "test-stop") { _ in }, EventLog())
    try await thread.run { (driver, report: Report<Void>) in
      try driver.makePair { pair in
        pair.nearSide.closed = { _, end in
          log.add("near \(end)")
          let late = Recorder()
          late.closed = { _, end in log.add("late \(end)") }
          _ = driver.connect(to: .loopback(port: 1), handler: late)
          #expect(throws: DriverError.self) {
            _ = try driver.listen(on: .loopback(port: 0), sharedPort: false) { _ in }
          }
        }
        pair.farSide.closed = { _, end in log.add("far \(end)") }
        report.succeed(())
      }
    }
    thread.stop()
    thread.join()
    #expect(Set(log.events) == ["near closedHere", "far closedHere", "late unreachable(\"the loop is stopping\")"])
    thread.mailbox.post { log.add("ran after the stop") }
    #expect(log.events.count == 3)
  }
}
