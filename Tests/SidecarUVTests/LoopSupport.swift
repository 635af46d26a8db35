// How tests talk to a loop: it runs on a thread of its own, the test's body runs on it, and the test waits for the
// report with a deadline that the loop itself keeps. Nothing sleeps.

import Glibc
import SidecarCore
import Synchronization
import Testing

@testable import SidecarUV

struct DeadlinePassed: Error, CustomStringConvertible {
  var description: String
}

/// What a body on the loop says to the test that waits. The first word counts. Keeps alive what the body gives it.
final class Report<Value: Sendable>: @unchecked Sendable {
  private var continuation: CheckedContinuation<Value, any Error>?
  private var kept: [Any] = []
  /// Shown when the deadline passes.
  var progress: String = ""

  init(_ continuation: CheckedContinuation<Value, any Error>) { self.continuation = continuation }

  func succeed(_ value: Value) { end(.success(value)) }
  func fail(_ error: any Error) { end(.failure(error)) }

  private func end(_ result: Result<Value, any Error>) {
    continuation?.resume(with: result)
    continuation = nil
  }

  func keep(_ object: Any) { kept.append(object) }
}

/// Runs `body` on a new loop and returns what it reports; then stops the loop and waits until all of it is gone.
func onLoop<Value: Sendable>(
  within limit: Duration = .seconds(20), _ body: @escaping @Sendable (UVDriver, Report<Value>) throws -> Void
) async throws -> Value {
  let thread = try UVThread.start(name: "test-loop") { _ in }
  defer {
    thread.stop()
    thread.join()
  }
  return try await thread.run(within: limit, body)
}

extension UVThread {
  func run<Value: Sendable>(
    within limit: Duration = .seconds(20), _ body: @escaping @Sendable (UVDriver, Report<Value>) throws -> Void
  ) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
      post { driver in
        let report = Report(continuation)
        let deadline = LoopTimer { report.fail(DeadlinePassed(description: "still waiting: \(report.progress)")) }
        report.keep(deadline)
        driver.timers.arm(deadline, after: limit.saturatingNanoseconds, from: driver.now)
        do { try body(driver, report) } catch { report.fail(error) }
      }
    }
  }
}

/// A stream handler made of closures; it also notes what happened, in order.
final class Recorder: StreamHandler {
  var opened: (ByteStream) -> Void = { _ in }
  var read: (ByteStream, UnsafeRawBufferPointer) -> Void = { _, _ in }
  var ended: (ByteStream) -> Void = { _ in }
  var drained: (ByteStream) -> Void = { _ in }
  var closed: (ByteStream, StreamEnd) -> Void = { _, _ in }

  private(set) var events: [String] = []
  private(set) var received: [UInt8] = []
  private(set) var end: StreamEnd?
  private var isInside = false

  var text: String { String(decoding: received, as: UTF8.self) }

  func streamOpened(_ stream: ByteStream) { note("opened") { opened(stream) } }
  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    received.append(contentsOf: bytes)
    note("read", merging: true) { read(stream, bytes) }
  }
  func streamEnded(_ stream: ByteStream) { note("ended") { ended(stream) } }
  func streamDrained(_ stream: ByteStream) { note("drained", merging: true) { drained(stream) } }
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    self.end = end
    note("closed") { closed(stream, end) }
  }

  private func note(_ event: String, merging: Bool = false, _ body: () -> Void) {
    // The contract: never from inside a call into the stream, which here would be from inside a callback.
    if isInside { events.append("REENTERED") }
    if !merging || events.last != event { events.append(event) }
    isInside = true
    body()
    isInside = false
  }
}

/// Two connected streams of one loop, by way of a listener that is closed once both stand.
final class Pair {
  let near: ByteStream
  let far: ByteStream
  let nearSide: Recorder
  let farSide: Recorder
  init(near: ByteStream, far: ByteStream, nearSide: Recorder, farSide: Recorder) {
    self.near = near
    self.far = far
    self.nearSide = nearSide
    self.farSide = farSide
  }
}

extension UVDriver {
  /// Dials `address` (port 0 of the loopback when none) and calls `body` when both ends stand.
  func makePair(
    on address: SocketAddress = .loopback(port: 0), _ body: @escaping (Pair) -> Void
  ) throws {
    var listener: Listener?
    var far: ByteStream?
    var isOpen = false
    let (nearSide, farSide) = (Recorder(), Recorder())
    var near: ByteStream?
    func bothStand() {
      guard isOpen, let far, let near else { return }
      listener?.close()
      listener = nil
      body(Pair(near: near, far: far, nearSide: nearSide, farSide: farSide))
    }
    let made = try listen(on: address, sharedPort: false) { stream in
      stream.handler = farSide
      far = stream
      bothStand()
    }
    listener = made
    nearSide.opened = { _ in
      isOpen = true
      bothStand()
    }
    near = connect(to: made.address, handler: nearSide)
  }
}

/// Notes from any thread.
final class EventLog: Sendable {
  private let lines = Mutex<[String]>([])
  func add(_ line: String) { lines.withLock { $0.append(line) } }
  var events: [String] { lines.withLock { $0 } }
}

/// A path nobody else uses, below 100 bytes, as Unix sockets need it.
func temporaryPath(_ kind: String) -> String {
  let serial = temporaryCount.add(1, ordering: .relaxed).newValue
  return "/tmp/sidecar-test-\(getpid())-\(serial).\(kind)"
}
private let temporaryCount = Atomic(0)
