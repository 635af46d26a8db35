// The driver contract as a suite that any driver can be held against: the simulator runs it, and libuv runs the very
// same one.
//
// A case is `async` code that must run on the loop under test:
//
//   Task(executorPreference: driver.executor) { try await aCase.run(on: driver, socketPath: "/tmp/x.sock") }
//
// It waits by timers of that loop, so it needs virtual time no more than real time, and takes milliseconds of either.

import SidecarCore

/// A rule of the contract was broken.
struct ConformanceFailure: Error, CustomStringConvertible, Sendable {
  var description: String
}

/// One rule, or a few that belong together.
package struct ConformanceCase: Sendable, CustomStringConvertible {
  package var name: String
  let body: @Sendable (ConformanceContext) async throws -> Void

  package var description: String { name }

  /// Runs on the loop of `driver`; throws what was broken. `socketPath` is a free path for a Unix socket.
  package func run(on driver: any Driver, socketPath: String) async throws {
    let context = ConformanceContext(driver: driver, socketPath: socketPath)
    do {
      try await body(context)
    } catch let failure as ConformanceFailure {
      context.problems.append(failure.description)
    }
    if !context.problems.isEmpty {
      throw ConformanceFailure(description: context.problems.prefix(5).joined(separator: "; "))
    }
  }
}

package enum DriverConformance {
  /// Every case; each must run on a loop of its own or after the one before has ended.
  package static let cases: [ConformanceCase] = streamCases + endingCases + listenerCases + loopCases + datagramCases
}

/// What a case uses of its surroundings. Loop-confined in fact, whatever the compiler is told.
final class ConformanceContext: @unchecked Sendable {
  let driver: any Driver
  let socketPath: String
  var problems: [String] = []
  /// Calls into the driver under way: a callback meanwhile breaks the contract.
  var callDepth = 0

  /// Patience per wait; a driver that works needs a few milliseconds.
  static let patience: Int64 = 20_000_000_000

  init(driver: any Driver, socketPath: String) {
    self.driver = driver
    self.socketPath = socketPath
  }

  func expect(_ condition: Bool, _ rule: String) { if !condition { problems.append(rule) } }

  /// Waits until `condition` holds.
  func until(_ what: String, _ condition: () -> Bool) async throws {
    let deadline = driver.now.advanced(byNanoseconds: Self.patience)
    while !condition() {
      guard driver.now < deadline else { throw ConformanceFailure(description: "never: \(what)") }
      await pause(milliseconds: 1)
    }
  }

  func pause(milliseconds: Int64) async {
    await withCheckedContinuation { continuation in
      let timer = LoopTimer { continuation.resume() }
      driver.timers.arm(timer, after: milliseconds * 1_000_000, from: driver.now)
    }
  }

  /// Lets everything under way come to rest, to see that nothing more happens.
  func settle() async { await pause(milliseconds: 60) }

  /// Marks a call, so that callbacks from inside it are noticed.
  func call<Result>(_ body: () throws(DriverError) -> Result) throws(DriverError) -> Result {
    callDepth += 1
    defer { callDepth -= 1 }
    return try body()
  }
  func call<Result>(_ body: () -> Result) -> Result {
    callDepth += 1
    defer { callDepth -= 1 }
    return body()
  }

  // MARK: Connections

  /// Two ends of one connection, both checked.
  struct Pair {
    var client: StreamProbe
    var server: StreamProbe
    var listener: Listener
  }

  func tcpAddress() -> SocketAddress { .loopback(port: 0) }

  /// Listens and keeps accepted streams as probes; `prepare` may set them up before reading starts.
  func listen(on address: SocketAddress, prepare: @escaping (StreamProbe) -> Void = { _ in }) throws -> ProbeListener {
    let accepting = ProbeListener()
    let listener = try call { () throws(DriverError) in
      try driver.listen(on: address, sharedPort: false) { [weak accepting, unowned self] stream in
        expect(callDepth == 0, "onAccept came from inside a call")
        let probe = StreamProbe(self, isAccepted: true)
        probe.attach(stream)
        accepting?.accepted.append(probe)
        prepare(probe)
      }
    }
    accepting.listener = listener
    return accepting
  }

  func dial(_ address: SocketAddress, prepare: (StreamProbe) -> Void = { _ in }) -> StreamProbe {
    let probe = StreamProbe(self, isAccepted: false)
    prepare(probe)
    probe.attach(call { driver.connect(to: address, handler: probe) })
    return probe
  }

  /// Connects two ends. `socket` says whether over TCP or a Unix socket.
  func connect(
    _ socket: SocketKind, client prepareClient: (StreamProbe) -> Void = { _ in },
    server prepareServer: @escaping (StreamProbe) -> Void = { _ in }
  ) async throws -> Pair {
    let accepting = try listen(on: address(socket), prepare: prepareServer)
    guard let listener = accepting.listener else { throw ConformanceFailure(description: "no listener") }
    let client = dial(listener.address, prepare: prepareClient)
    try await until("both ends connected") {
      client.isOpen ? !accepting.accepted.isEmpty : client.end != nil
    }
    guard client.isOpen, let server = accepting.accepted.first else {
      throw ConformanceFailure(description: "the dial ended with \(String(describing: client.end))")
    }
    return Pair(client: client, server: server, listener: listener)
  }

  func address(_ socket: SocketKind) -> SocketAddress {
    switch socket {
    case .tcp: tcpAddress()
    case .unix: .unix(path: socketPath)
    }
  }

  /// Ends both ends and the listener, and sees that each is told once.
  func finish(_ pair: Pair) async throws {
    call { pair.listener.close() }
    pair.client.close()
    pair.server.close()
    try await until("both ends closed") { pair.client.end != nil && pair.server.end != nil }
    await settle()
  }

  /// Bytes in which a lost, doubled or swapped part shows.
  func pattern(_ count: Int) -> [UInt8] {
    var random = SeededRandom(seed: UInt64(count))
    return (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
  }
}

enum SocketKind: String, CaseIterable, Sendable {
  case tcp, unix
}

final class ProbeListener {
  var accepted: [StreamProbe] = []
  var listener: Listener?
}

/// A stream handler that checks everything the contract says of callbacks, and records what it hears.
final class StreamProbe: StreamHandler {
  private unowned let context: ConformanceContext
  private let isAccepted: Bool
  private(set) var stream: ByteStream?
  private var callCount = 0

  private(set) var isOpen = false
  private(set) var received: [UInt8] = []
  private(set) var readCount = 0
  private(set) var peerEnded = false
  private(set) var drainCount = 0
  private(set) var end: StreamEnd?
  private(set) var isPaused = false
  private var isClosing = false

  var onOpened: (StreamProbe) -> Void = { _ in }
  var onRead: (StreamProbe) -> Void = { _ in }
  var onEnded: (StreamProbe) -> Void = { _ in }
  var onDrained: (StreamProbe) -> Void = { _ in }
  var onClosed: (StreamProbe) -> Void = { _ in }

  init(_ context: ConformanceContext, isAccepted: Bool) {
    self.context = context
    self.isAccepted = isAccepted
  }

  func attach(_ stream: ByteStream) {
    self.stream = stream
    if isAccepted {
      stream.handler = self
      isOpen = true
    }
  }

  // MARK: Calls

  @discardableResult
  func write(_ bytes: [UInt8]) -> WriteState { context.call { stream?.write(bytes) ?? .closed } }
  @discardableResult
  func write(_ text: String) -> WriteState { write(Array(text.utf8)) }
  func write(_ first: [UInt8], _ second: [UInt8]) -> WriteState {
    context.call {
      first.withUnsafeBytes { first in second.withUnsafeBytes { stream?.write(first, $0) ?? .closed } }
    }
  }
  func pause() {
    isPaused = true
    context.call { stream?.pauseReading() }
  }
  func resume() {
    isPaused = false
    context.call { stream?.resumeReading() }
  }
  func shutdown() { context.call { stream?.shutdownWrites() } }
  func close() {
    isClosing = true
    context.call { stream?.close() }
  }
  func reset() {
    isClosing = true
    context.call { stream?.reset() }
  }
  var queuedBytes: Int { stream?.queuedBytes ?? 0 }
  var text: String { String(decoding: received, as: UTF8.self) }
  /// The stream is gone for the driver; the probe lets go of it too.
  func forget() { stream = nil }

  // MARK: Callbacks

  private func heard(_ event: String, _ stream: ByteStream) {
    context.expect(context.callDepth == 0, "\(event) came from inside a call")
    context.expect(end == nil, "\(event) came after streamClosed")
    context.expect(self.stream == nil || self.stream === stream, "\(event) of another stream")
  }

  func streamOpened(_ stream: ByteStream) {
    heard("streamOpened", stream)
    context.expect(!isAccepted, "streamOpened for an accepted stream")
    context.expect(!isOpen, "streamOpened twice")
    context.expect(!isClosing, "streamOpened after close")
    isOpen = true
    onOpened(self)
  }
  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    heard("streamRead", stream)
    context.expect(isOpen, "streamRead before streamOpened")
    context.expect(!bytes.isEmpty, "an empty streamRead")
    context.expect(!isPaused, "streamRead while paused")
    context.expect(!peerEnded, "streamRead after streamEnded")
    context.expect(!isClosing, "streamRead after close")
    received.append(contentsOf: bytes)
    readCount += 1
    onRead(self)
  }
  func streamEnded(_ stream: ByteStream) {
    heard("streamEnded", stream)
    context.expect(!isPaused, "streamEnded while paused")
    context.expect(!peerEnded, "streamEnded twice")
    context.expect(!isClosing, "streamEnded after close")
    peerEnded = true
    onEnded(self)
  }
  func streamDrained(_ stream: ByteStream) {
    heard("streamDrained", stream)
    context.expect(stream.queuedBytes < ByteStream.lowWatermark, "streamDrained above the low watermark")
    context.expect(!isClosing, "streamDrained after close")
    drainCount += 1
    onDrained(self)
  }
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    heard("streamClosed", stream)
    self.end = end
    onClosed(self)
  }
}

extension StreamEnd {
  var isReset: Bool { if case .reset = self { true } else { false } }
}
