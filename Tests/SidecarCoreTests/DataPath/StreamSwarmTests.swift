// Streams through two hops of sidecar in hostile worlds: a caller of lines → local API → the framework's frames → framework
// listener → lines → the app, and back. Whatever breaks: lines arrive in order, none twice, an end in order means that
// all came, and in the end nothing is left.

import Foundation
import SidecarSim
import Testing

@testable import SidecarCore

private let environment = ProcessInfo.processInfo.environment

private let faults: Set<Fault> = [
  .splitRead, .partialWrite, .lateSegment, .streamReset, .resetLosesUnread, .resetUnnoticedWhilePaused,
  .smallWindow, .slowLink, .connectRefused, .connectUnreachable, .connectSlow, .connectLost, .lateTimer, .loopStall,
  .laterNextTurn,
]

/// What an app does with a stream.
private enum AppHabit {
  case echoes, echoesSlowly, failsInside, refuses, diesInside, stopsReading
  /// The planted bug.
  case echoesTwice

  static let usual: [AppHabit] = [.echoes, .echoes, .echoesSlowly, .failsInside, .refuses, .diesInside, .stopsReading]
}

/// An app that answers a body of lines with the same lines.
private final class LineApp {
  private let driver: any Driver
  private var listener: Listener?
  fileprivate var connections: [LineAppConnection] = []

  init(on driver: any Driver, at address: SocketAddress, habit: @escaping () -> AppHabit) throws {
    self.driver = driver
    listener = try driver.listen(on: address, sharedPort: false) { [unowned self] stream in
      let connection = LineAppConnection(stream, driver, habit())
      connections.append(connection)
      stream.handler = connection
    }
  }
  func stop() { listener?.close() }
}

private final class LineAppConnection: StreamHandler {
  private let stream: ByteStream
  private let driver: any Driver
  private let habit: AppHabit
  private var parser = HTTP1Parser(.server)
  private var seen = 0
  private var isOver = false
  private lazy var timer = LoopTimer { [unowned self] in stream.resumeReading() }

  init(_ stream: ByteStream, _ driver: any Driver, _ habit: AppHabit) {
    self.stream = stream
    self.driver = driver
    self.habit = habit
  }

  func streamOpened(_ stream: ByteStream) {}
  func streamEnded(_ stream: ByteStream) { stream.close() }
  func streamDrained(_ stream: ByteStream) { if !isOver { stream.resumeReading() } }
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    isOver = true
    timer.cancel()
  }

  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    var input = bytes
    while !isOver, let event = try? parser.next(&input) {
      switch event {
      case .needMore: return
      case .head:
        guard habit != .refuses else {
          isOver = true
          stream.write("HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\nno")
          return stream.close()
        }
        stream.write("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
      case .body(let bytes): echo(bytes)
      case .end:
        stream.write("0\r\n\r\n")
        stream.close()
      }
    }
  }

  private func echo(_ bytes: UnsafeRawBufferPointer) {
    seen += bytes.count
    if habit == .echoesTwice, seen == bytes.count { stream.write("3\r\n{}\n\r\n") }
    let out = ByteBuffer()
    HTTP1Writer.chunkStart(bytes.count, to: out)
    out.append(bytes)
    HTTP1Writer.chunkEnd(to: out)
    if stream.write(out.bytes) == .congested { stream.pauseReading() }
    switch habit {
    case .echoesSlowly:
      stream.pauseReading()
      driver.timers.arm(timer, after: 20_000_000, from: driver.now)
    case .stopsReading where seen > 50: stream.pauseReading()
    case .failsInside where seen > 50:
      isOver = true
      stream.write("2d\r\n{\"error\":{\"id\":\"me\",\"code\":409,\"detail\":\"no\"}}\r\n0\r\n\r\n")
      stream.close()
    case .diesInside where seen > 50:
      isOver = true
      stream.reset()
    default: break
    }
  }
}

/// Sends numbered lines and reads what comes back.
private final class LineCaller: StreamHandler {
  let name: String
  private let driver: any Driver
  private var stream: ByteStream?
  private var parser = HTTP1Parser(.client)
  private var random: SeededRandom
  private let lineCount: Int
  private let padding: String
  private var sent = 0
  private var text: [UInt8] = []
  private lazy var timer = LoopTimer { [unowned self] in goOn() }
  private let leavesAfter: Int?
  private(set) var lines: [String] = []
  private(set) var status = 0
  /// The reply ended as HTTP has it.
  private(set) var endedInOrder = false
  private(set) var isOver = false

  init(_ name: String, on driver: any Driver, to address: SocketAddress, seed: UInt64) {
    self.name = name
    self.driver = driver
    random = SeededRandom(seed: seed)
    lineCount = random.below(12)
    padding = String(repeating: "x", count: random.below(4) == 0 ? random.below(40_000) : random.below(60))
    leavesAfter = random.below(4) == 0 ? random.below(6) : nil
    stream = driver.connect(to: address, handler: self)
    parser.expectResponse(toHEAD: false)
  }

  func line(_ index: Int) -> String { "{\"c\":\"\(name)\",\"n\":\(index),\"p\":\"\(padding)\"}" }
  var sentEverything: Bool { sent > lineCount }
  var lineTotal: Int { lineCount }
  var leaves: Bool { leavesAfter.map { $0 <= lineCount } ?? false }

  func streamOpened(_ stream: ByteStream) {
    stream.write(
      "POST /s/A.B HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nX-Who: \(name)\r\n"
        + "Transfer-Encoding: chunked\r\n\r\n")
    goOn()
  }

  private func goOn() {
    guard let stream, !isOver else { return }
    stream.resumeReading()
    if sent == leavesAfter {
      isOver = true
      return random.below(2) == 0 ? stream.reset() : stream.close()
    }
    guard sent <= lineCount else { return }
    if sent == lineCount {
      sent += 1
      stream.write("0\r\n\r\n")
      return
    }
    let data = Array((line(sent) + "\n").utf8)
    sent += 1
    let cut = random.below(data.count)
    for part in [data[..<cut], data[cut...]] where !part.isEmpty {
      let out = ByteBuffer()
      HTTP1Writer.chunkStart(part.count, to: out)
      out.append(Array(part))
      HTTP1Writer.chunkEnd(to: out)
      stream.write(out.bytes)
    }
    if random.below(3) == 0 { stream.pauseReading() }
    driver.timers.arm(timer, after: Int64(random.below(80)) * 1_000_000, from: driver.now)
  }

  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    var input = bytes
    while let event = try? parser.next(&input) {
      switch event {
      case .needMore: return
      case .head: status = parser.head.status
      case .body(let bytes):
        text.append(contentsOf: bytes)
        while let end = text.firstIndex(of: 10) {
          if end > 0 { lines.append(String(decoding: text[..<end], as: UTF8.self)) }
          text.removeSubrange(...end)
        }
      case .end:
        endedInOrder = true
        stream.close()
      }
    }
  }
  func streamEnded(_ stream: ByteStream) { stream.close() }
  func streamDrained(_ stream: ByteStream) {}
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    isOver = true
    timer.cancel()
    self.stream = nil
  }
  func end() {
    isOver = true
    timer.cancel()
    stream?.reset()
  }
}

private final class StreamScenario {
  let rig: DataPathWorld
  private var random: SeededRandom
  var complete = 0
  var broken = 0

  init(_ world: SimWorld) throws {
    random = SeededRandom(seed: world.seed &* 13)
    rig = try DataPathWorld(world: world, randomSelector: true) {
      $0.requestTimeout = 2_000_000_000
      $0.pipelineMax = 2048
      $0.appStreams = ["A.B": AppStream("A.B=ndjson")!]
    }
  }

  /// `habit`: of every app; without one the app has any, and the sidecar may be drained meanwhile.
  func run(_ habit: AppHabit? = nil) throws {
    // The sidecar is its own node: each stream passes both of its sides.
    rig.register("s", at: [rig.framework])
    let app = try LineApp(on: rig.app, at: rig.app.host.address(port: DataPathWorld.appPort)) { [unowned self] in
      habit ?? AppHabit.usual[random.below(AppHabit.usual.count)]
    }
    var callers: [LineCaller] = []
    for index in 0..<(1 + random.below(5)) {
      callers.append(LineCaller("c\(index)", on: rig.app, to: rig.api, seed: random.next()))
    }
    if habit == nil, random.below(5) == 0 {
      rig.world.at(.milliseconds(random.below(1500))) { [rig] in rig.worker.driver.mailbox.post { rig.drain() } }
    }
    _ = rig.world.runUntil({ callers.allSatisfy(\.isOver) }, within: .seconds(30))
    for caller in callers { try check(caller, mustComplete: habit != nil && !caller.leaves) }
    for caller in callers { caller.end() }
    app.stop()
    try rig.finish(within: .seconds(60))
  }

  private func check(_ caller: LineCaller, mustComplete: Bool) throws {
    let world = rig.world
    var lines = caller.lines
    var failed = !(200..<300).contains(caller.status)
    if let last = lines.last, last.hasPrefix("{\"error\":") {
      lines.removeLast()
      failed = true
    }
    if failed, caller.status >= 400 { lines.removeAll() }
    for (index, line) in lines.enumerated() {
      try world.require(line == caller.line(index), "\(caller.name) line \(index): \(line.prefix(60))")
    }
    try world.require(!mustComplete || caller.endedInOrder && !failed, "\(caller.name) did not end in order")
    if caller.endedInOrder, !failed {
      try world.require(
        caller.sentEverything && lines.count == caller.lineTotal,
        "\(caller.name) ended in order with \(lines.count) of \(caller.lineTotal) lines")
      complete += 1
    } else {
      broken += 1
    }
  }
}

@Suite struct StreamSwarmTests {
  @Test func linesArriveInOrderOrTheStreamSaysThatItFailed() throws {
    let swarm = Swarm(
      "linesArriveInOrderOrTheStreamSaysThatItFailed", seeds: 1_000, faults: faults, environment: environment)
    var complete = 0
    var broken = 0
    let report = try swarm.run { world in
      let scenario = try StreamScenario(world)
      try scenario.run()
      complete += scenario.complete
      broken += scenario.broken
    }
    print("\(report.seeds) seeds, \(complete) streams complete, \(broken) broken")
    if report.seeds >= 100 { #expect(complete > report.seeds / 4 && broken > report.seeds / 4) }
  }

  @Test func withoutFaultsEveryStreamThatStaysIsComplete() throws {
    for seed in 1...50 as ClosedRange<UInt64> {
      let world = SimWorld(seed: seed, plan: .none)
      defer { world.tearDown() }
      let scenario = try StreamScenario(world)
      try scenario.run(.echoes)
    }
  }

  @Test func aPlantedBugIsFound() throws {
    #expect(throws: SimFailure.self) {
      for seed in 1...20 as ClosedRange<UInt64> {
        let world = SimWorld(seed: seed, plan: .none)
        defer { world.tearDown() }
        try StreamScenario(world).run(.echoesTwice)
      }
    }
  }
}
