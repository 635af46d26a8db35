// A raw client for tests: does what its script says, one step after the other, and keeps what it hears.
//
//   let client = ScriptedClient(on: loop, to: address)
//     .send("GET / HTTP/1.1\r\n").pause(.seconds(2)).send("\r\n").expect("200 OK").close()
//   client.start()

import SidecarCore

package final class ScriptedClient: StreamHandler {
  private enum Step {
    case send([UInt8])
    case pause(Duration)
    case expect([UInt8])
    case expectEnd
    case stopReading
    case goOnReading
    case end
    case close
    case reset
  }

  private let driver: any Driver
  private let target: SocketAddress
  private var steps: [Step] = []
  private var stream: ByteStream?
  private var isOpen = false
  private var isCongested = false
  /// Where the next `expect` starts to look.
  private var searchStart = 0
  private lazy var timer = LoopTimer { [unowned self] in advance() }

  package private(set) var received: [UInt8] = []
  /// The peer ended its half.
  package private(set) var peerEnded = false
  /// How it ended; nil while it lives.
  package private(set) var end: StreamEnd?
  package private(set) var readCount = 0

  package init(on driver: any Driver, to target: SocketAddress) {
    self.driver = driver
    self.target = target
  }

  package var text: String { String(decoding: received, as: UTF8.self) }
  /// All steps are done.
  package var isDone: Bool { steps.isEmpty && !timer.isArmed && !isCongested }

  // MARK: The script

  package func send(_ text: String) -> Self { adding(.send(Array(text.utf8))) }
  package func send(_ bytes: [UInt8]) -> Self { adding(.send(bytes)) }
  /// The same bytes, cut into pieces with pauses.
  package func send(_ text: String, inPiecesOf size: Int, every pause: Duration) -> Self {
    let bytes = Array(text.utf8)
    for start in stride(from: 0, to: bytes.count, by: max(1, size)) {
      _ = adding(.send(Array(bytes[start..<min(start + max(1, size), bytes.count)]))).adding(.pause(pause))
    }
    return self
  }
  package func pause(_ duration: Duration) -> Self { adding(.pause(duration)) }
  /// Waits until this has arrived, after what the last `expect` found.
  package func expect(_ text: String) -> Self { adding(.expect(Array(text.utf8))) }
  /// Waits until the peer ends its half.
  package func expectEnd() -> Self { adding(.expectEnd) }
  package func stopReading() -> Self { adding(.stopReading) }
  package func goOnReading() -> Self { adding(.goOnReading) }
  /// Ends our half.
  package func shutdown() -> Self { adding(.end) }
  package func close() -> Self { adding(.close) }
  package func reset() -> Self { adding(.reset) }

  private func adding(_ step: Step) -> Self {
    steps.append(step)
    return self
  }

  /// Dials; the script starts when the connection stands. Steps added later run too, after `resume`.
  @discardableResult
  package func start() -> Self {
    if stream == nil { stream = driver.connect(to: target, handler: self) }
    return self
  }

  /// Goes on with steps that were added to a script already done.
  package func resume() { advance() }

  // MARK: Events

  package func streamOpened(_ stream: ByteStream) {
    isOpen = true
    advance()
  }
  package func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    received.append(contentsOf: bytes)
    readCount += 1
    advance()
  }
  package func streamEnded(_ stream: ByteStream) {
    peerEnded = true
    advance()
  }
  package func streamDrained(_ stream: ByteStream) {
    isCongested = false
    advance()
  }
  package func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    self.end = end
    self.stream = nil
    isOpen = false
    timer.cancel()
  }

  private func advance() {
    guard isOpen else { return }
    while let step = steps.first, let stream, !timer.isArmed, !isCongested {
      switch step {
      case .send(let bytes): isCongested = stream.write(bytes) == .congested
      case .pause(let duration):
        driver.timers.arm(timer, after: duration.saturatingNanoseconds, from: driver.now)
      case .expect(let pattern):
        guard let found = find(pattern) else { return }
        searchStart = found
      case .expectEnd: guard peerEnded else { return }
      case .stopReading: stream.pauseReading()
      case .goOnReading: stream.resumeReading()
      case .end: stream.shutdownWrites()
      case .close: stream.close()
      case .reset: stream.reset()
      }
      steps.removeFirst()
    }
  }

  private func find(_ pattern: [UInt8]) -> Int? {
    guard received.count - searchStart >= pattern.count else { return nil }
    return (searchStart...received.count - pattern.count)
      .first { received[$0..<$0 + pattern.count].elementsEqual(pattern) }
      .map { $0 + pattern.count }
  }
}
