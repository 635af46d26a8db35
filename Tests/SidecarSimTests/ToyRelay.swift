// A small relay, and the same relay with bugs planted in it: what the simulator's oracle must tell apart.

import SidecarCore
import SidecarSim

/// Accepts, dials its target for each connection, and moves bytes both ways with half-close, resets, backpressure and an
/// idle timeout.
final class ToyRelay {
  enum Bug: CaseIterable, Sendable {
    /// Loses the last byte of a read that meets a congested writer.
    case dropsByteWhenCongested
    /// Uses a read's bytes after the callback has returned.
    case keepsSpan
    /// Ends the other side in order when its own was reset, so that a cut-off stream looks complete.
    case hidesReset
    /// Goes on reading while the other side is congested.
    case ignoresCongestion
    /// Does not close the other side, and stops the timer that would.
    case forgetsOtherSide
    /// Touches a stream from a loop that is not its own.
    case usesWrongLoop
    /// Never gives an idle connection up.
    case hasNoIdleTimeout
  }

  static let idleTimeout: Int64 = 120_000_000_000
  let driver: SimDriver
  /// The loop the bug `usesWrongLoop` borrows.
  let otherDriver: SimDriver?
  let target: SocketAddress
  let bug: Bug?
  private var listener: Listener?

  init(
    on driver: SimDriver, at address: SocketAddress, to target: SocketAddress, bug: Bug? = nil,
    otherDriver: SimDriver? = nil
  ) throws {
    self.driver = driver
    self.otherDriver = otherDriver
    self.target = target
    self.bug = bug
    listener = try driver.listen(on: address, sharedPort: false) { [unowned self] stream in
      let (down, up) = (Side(self), Side(self))
      (down.other, up.other) = (up, down)
      down.stream = stream
      stream.handler = down
      up.stream = driver.connect(to: target, handler: up)
      down.touch()
    }
  }

  func stop() {
    listener?.close()
    listener = nil
  }

  final class Side: StreamHandler {
    let relay: ToyRelay
    weak var other: Side?
    var stream: ByteStream?
    lazy var idle = LoopTimer { [unowned self] in
      stream?.reset()
      other?.stream?.reset()
    }
    init(_ relay: ToyRelay) { self.relay = relay }

    /// Traffic in one direction keeps both sides alive.
    func touch() {
      if relay.bug == .hasNoIdleTimeout { return }
      if let other, other.stream != nil {
        relay.driver.timers.arm(other.idle, after: ToyRelay.idleTimeout, from: relay.driver.now)
      }
      if stream == nil { return }
      relay.driver.timers.arm(idle, after: ToyRelay.idleTimeout, from: relay.driver.now)
    }

    func streamOpened(_ stream: ByteStream) { touch() }

    func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
      touch()
      guard let target = other?.stream else { return }
      switch relay.bug {
      case .keepsSpan:
        let span = bytes
        relay.driver.later { target.write(span) }
        return
      case .usesWrongLoop where relay.otherDriver != nil:
        let copy = Array(bytes)
        relay.otherDriver?.timers.arm(LoopTimer { target.write(copy) }, at: relay.driver.now)
        return
      case .dropsByteWhenCongested where target.queuedBytes > 0:
        _ = target.write(UnsafeRawBufferPointer(rebasing: bytes.dropLast()))
        return
      default: break
      }
      if target.write(bytes) == .congested, relay.bug != .ignoresCongestion { stream.pauseReading() }
    }
    func streamEnded(_ stream: ByteStream) { other?.stream?.shutdownWrites() }
    func streamDrained(_ stream: ByteStream) { other?.stream?.resumeReading() }
    func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
      self.stream = nil
      idle.cancel()
      if end == .ended { return }
      if relay.bug == .forgetsOtherSide {
        other?.idle.cancel()
        return
      }
      relay.bug == .hidesReset ? other?.stream?.close() : other?.stream?.reset()
    }
  }
}

/// Client ─▶ relay ─▶ server, on three hosts; the server answers every byte changed, and ends when the client has ended.
/// Invariant: what each end has heard is the beginning of what the other said, the whole of it when the stream ended in
/// order; and in the end nothing is left open.
struct RelayScenario {
  var bug: ToyRelay.Bug?
  var clientCount = 3
  /// Bytes each client sends at most.
  var bytesMax = 20_000
  /// All connections must succeed, since no fault breaks any.
  var mustSucceed = false
  /// The server waits for ever for a client that is gone, so it cannot clean up behind a relay that does not.
  var serverIsPatient = false
  /// Bytes the server reads before it pauses for a second, so that congestion reaches the client; nil reads on.
  var serverPausesAfter: Int?

  final class Server: StreamHandler {
    let world: SimWorld
    let driver: SimDriver
    let pausesAfter: Int?
    let isPatient: Bool
    private var read = 0
    private lazy var timer = LoopTimer { [unowned self] in stream?.resumeReading() }
    /// A reset that the network lost leaves this end open for ever, unless it watches for silence.
    private lazy var idle = LoopTimer { [unowned self] in stream?.reset() }
    var stream: ByteStream? { didSet { touch() } }
    init(_ world: SimWorld, _ driver: SimDriver, pausesAfter: Int?, isPatient: Bool) {
      self.isPatient = isPatient
      self.world = world
      self.driver = driver
      self.pausesAfter = pausesAfter
    }
    private func touch() {
      if stream == nil { return idle.cancel() }
      if isPatient { return }
      driver.timers.arm(idle, after: 2 * ToyRelay.idleTimeout, from: driver.now)
    }
    func streamOpened(_ stream: ByteStream) {}
    func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
      touch()
      stream.write(bytes.map { $0 ^ 0x55 })
      read += bytes.count
      if let pausesAfter, read >= pausesAfter {
        read = 0
        stream.pauseReading()
        driver.timers.arm(timer, after: 1_000_000_000, from: driver.now)
      }
    }
    func streamEnded(_ stream: ByteStream) { stream.shutdownWrites() }
    func streamDrained(_ stream: ByteStream) { touch() }
    func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
      timer.cancel()
      self.stream = nil
    }
  }

  final class Client: StreamHandler {
    let driver: SimDriver
    let sent: [UInt8]
    private var position = 0
    private var stream: ByteStream?
    private(set) var received: [UInt8] = []
    private(set) var end: StreamEnd?
    private lazy var deadline = LoopTimer { [unowned self] in stream?.reset() }

    init(_ driver: SimDriver, to target: SocketAddress, sending sent: [UInt8], within patience: Int64) {
      self.driver = driver
      self.sent = sent
      stream = driver.connect(to: target, handler: self)
      driver.timers.arm(deadline, after: patience, from: driver.now)
    }
    func streamOpened(_ stream: ByteStream) { pump(stream) }
    func streamDrained(_ stream: ByteStream) { pump(stream) }
    func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) { received.append(contentsOf: bytes) }
    func streamEnded(_ stream: ByteStream) {}
    func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
      self.end = end
      self.stream = nil
      deadline.cancel()
    }
    private func pump(_ stream: ByteStream) {
      while position < sent.count {
        let next = min(sent.count, position + 1 + driver.random.below(16 * 1024))
        let state = stream.write(Array(sent[position..<next]))
        position = next
        if state != .open { return }
      }
      stream.shutdownWrites()
    }
  }

  private static func randomBytes(_ count: Int, _ random: inout SeededRandom) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      initialized = count
      var position = 0
      while position < count {
        var word = random.next()
        for _ in 0..<min(8, count - position) {
          buffer[position] = UInt8(truncatingIfNeeded: word)
          word &>>= 8
          position += 1
        }
      }
    }
  }

  func run(_ world: SimWorld) throws {
    let hosts = ["client", "relay", "server"].map { world.makeHost($0) }
    let (clientLoop, relayLoop, serverLoop) = (hosts[0].makeLoop(), hosts[1].makeLoop(), hosts[2].makeLoop())
    var accepted: [SocketAddress] = []
    let serverListener = try serverLoop.listen(on: hosts[2].address(port: 80), sharedPort: false) { stream in
      let server = Server(world, serverLoop, pausesAfter: serverPausesAfter, isPatient: serverIsPatient)
      stream.handler = server
      server.stream = stream
      if let peer = stream.peerAddress { accepted.append(peer) }
    }
    let relay = try ToyRelay(
      on: relayLoop, at: hosts[1].address(port: 80), to: serverListener.address, bug: bug, otherDriver: serverLoop)
    let patience: Int64 = mustSucceed ? 3_000_000_000_000 : 60_000_000_000
    let clients = (0..<clientCount).map { _ in
      let count = world.random.below(bytesMax + 1)
      let bytes = Self.randomBytes(count, &world.random)
      return Client(clientLoop, to: hosts[1].address(port: 80), sending: bytes, within: patience)
    }
    try world.require(
      world.runUntil({ clients.allSatisfy { $0.end != nil } }, within: .seconds(4_000)), "every client ends")
    for (index, client) in clients.enumerated() {
      let expected = client.sent.map { $0 ^ 0x55 }
      try world.require(expected.starts(with: client.received), "client \(index) hears what the server said")
      if client.end == .ended || mustSucceed {
        try world.require(
          client.end == .ended && client.received.count == expected.count,
          "client \(index) hears all: \(client.received.count) of \(expected.count) bytes, \(client.end!)")
      }
    }
    world.healAll()
    relay.stop()
    serverListener.close()
    // Longer than the system retransmits, so that what a silent path still holds is given up too.
    world.run(for: .seconds(2_000))
    try world.verify()
    let leaks = (serverIsPatient ? Array(hosts[..<2]) : hosts).flatMap { $0.leaks() }
    try world.require(leaks.isEmpty, "all is put away: \(leaks)")
  }
}
