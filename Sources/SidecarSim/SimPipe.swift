// The network under a stream: one `SimPath` per connection, one `SimPipe` per direction.
//
//   write ─▶ SimStream.unsent ─▶ (window) ─▶ SimPipe: on the way ─▶ waiting, while the path is blocked ─▶
//                                                                        SimStream.received ─▶ streamRead
//
// Segments never overtake each other. What is blocked is sent again when the path heals; a reset is sent once and may
// be lost. A segment that reaches a dead end is answered with a reset, as a real system does.

import SidecarCore

/// What both directions of one connection share.
final class SimPath {
  let world: SimWorld
  let number: Int
  /// The client's host and the server's; equal for a connection within a host.
  let hosts: (SimHost, SimHost)
  let latency: Int64
  let bandwidth: Int64?
  let window: Int
  /// Until then nothing passes, either way.
  private(set) var blockedUntil = Instant(nanoseconds: 0)

  init(client: SimHost, server: SimHost) {
    world = client.world
    number = world.makeConnectionNumber()
    hosts = (client, server)
    let settings = world.network
    if world.strikes(.slowLink) {
      latency = world.draw(1_000_000...200_000_000)
      bandwidth = world.draw(10_000...1_000_000)
    } else {
      latency = world.draw(client === server ? settings.localLatency : settings.remoteLatency)
      bandwidth = settings.bandwidth
    }
    window = world.strikes(.smallWindow) ? [1, 16, 256, 1_500, 4_096][world.random.below(5)] : settings.window
  }

  func isBlocked(from side: Int) -> Bool {
    let (from, to) = side == 0 ? (hosts.0, hosts.1) : (hosts.1, hosts.0)
    return blockedUntil > world.now || !to.isUp || (from !== to && world.isCut(from, to))
  }

  /// Lets nothing pass for a while; nil is for good.
  func block(for nanoseconds: Int64?) {
    world.note(nil, "stall path", number, Int(nanoseconds ?? -1))
    let until = nanoseconds.map { world.now.advanced(byNanoseconds: $0) } ?? .distantFuture
    blockedUntil = max(blockedUntil, until)
    guard until < .distantFuture else { return }
    world.schedule(at: until) { [world] in world.releaseWaiting() }
  }
}

final class SimPipe {
  enum Segment {
    case bytes([UInt8])
    case end
    case reset
  }

  let path: SimPath
  /// The side that sends into it: 0 the client, 1 the server.
  let side: Int
  /// Nil once that end is dead.
  var sender: SimStream?
  var receiver: SimStream?
  /// Bytes sent and not known to be read: never more than the window.
  private(set) var unacknowledged = 0
  private var lastArrival = Instant(nanoseconds: 0)
  private var busyUntil = Instant(nanoseconds: 0)
  private var waiting: [Segment] = []
  private var waitingCredit = 0
  private var isRegistered = false
  private var waitingSince = 0

  private var world: SimWorld { path.world }

  init(path: SimPath, side: Int) {
    self.path = path
    self.side = side
  }

  var space: Int { max(0, path.window - unacknowledged) }

  func send(_ segment: Segment) {
    var size: Int64 = 40
    if case .bytes(let bytes) = segment {
      size += Int64(bytes.count)
      unacknowledged += bytes.count
      if world.strikes(.streamReset) { return cutConnection() }
      if world.strikes(.streamStall) {
        path.block(for: world.random.below(8) == 0 ? nil : world.draw(10_000_000...60_000_000_000))
      }
    }
    var latency = path.latency + world.draw(0...path.latency / 4)
    if world.strikes(.lateSegment) { latency += world.draw(0...path.latency * 100) }
    var departure = world.now
    if let bandwidth = path.bandwidth {
      departure = max(departure, busyUntil)
      busyUntil = departure.advanced(byNanoseconds: size * 1_000_000_000 / max(bandwidth, 1))
    }
    let arrival = max(lastArrival, departure.advanced(byNanoseconds: latency))
    lastArrival = arrival
    world.schedule(at: arrival) { [self] in arrive(segment) }
  }

  private func arrive(_ segment: Segment) {
    let isBlocked = path.isBlocked(from: side)
    if case .reset = segment {
      isBlocked ? world.note(nil, "reset lost", path.number, side) : deliver(segment)
    } else if isBlocked || !waiting.isEmpty {
      waiting.append(segment)
      register()
    } else {
      deliver(segment)
    }
  }

  private func deliver(_ segment: Segment) {
    if let receiver { return receiver.arrived(segment) }
    guard case .bytes = segment else { return }
    world.note(nil, "answered by reset", path.number, side)
    world.schedule(after: path.latency) { [self] in
      if !path.isBlocked(from: 1 - side) { sender?.resetArrived("connection reset by peer") }
    }
  }

  /// The receiver has read `amount` bytes, so as many more may be sent.
  func acknowledge(_ amount: Int) {
    guard let sender else { return }
    if path.isBlocked(from: 1 - side) {
      waitingCredit += amount
      register()
    } else if sender.queuedBytes == 0 {
      unacknowledged -= amount
    } else {
      world.schedule(after: path.latency) { [self] in
        unacknowledged -= amount
        self.sender?.flush()
      }
    }
  }

  /// Something between the ends cuts the connection.
  private func cutConnection() {
    world.note(nil, "cut connection", path.number, side)
    world.schedule(after: path.latency) { [self] in
      receiver?.resetArrived("connection reset by peer")
      sender?.resetArrived("connection reset by peer")
    }
  }

  private func register() {
    guard !isRegistered else { return }
    isRegistered = true
    world.waitingPipes.append(self)
    if waitingSince == 0 {
      waitingSince = world.eventCount + 1
      let since = waitingSince
      world.schedule(after: world.network.retransmitLimit) { [self] in
        guard waitingSince == since else { return }
        waiting.removeAll()
        waitingSince = 0
        sender?.resetArrived("connection timed out")
      }
    }
  }

  /// The path may be free again: sends what waited, after the pause a retransmission takes.
  func retransmit() {
    isRegistered = false
    if path.isBlocked(from: side) || path.isBlocked(from: 1 - side) { return register() }
    world.schedule(after: world.draw(0...1_000_000_000)) { [self] in
      if path.isBlocked(from: side) || path.isBlocked(from: 1 - side) { return register() }
      waitingSince = 0
      let segments = waiting
      waiting.removeAll()
      for segment in segments { deliver(segment) }
      unacknowledged -= waitingCredit
      waitingCredit = 0
      sender?.flush()
    }
  }
}
