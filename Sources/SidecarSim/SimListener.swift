// Listening sockets and the way a dial finds one.

import SidecarCore

final class SimListener: Listener {
  let driver: SimDriver
  private let bound: SocketAddress
  let isPortShared: Bool
  private let onAccept: (ByteStream) -> Void
  /// Connected by the system, not yet accepted by the program.
  private var backlog: [SimStream] = []
  private(set) var isClosed = false

  init(
    driver: SimDriver, address: SocketAddress, sharedPort: Bool, onAccept: @escaping (ByteStream) -> Void
  ) {
    self.driver = driver
    bound = address
    isPortShared = sharedPort
    self.onAccept = onAccept
    super.init()
  }

  override var address: SocketAddress { bound }

  var hasRoom: Bool { backlog.count < driver.world.network.backlog }

  /// Takes a connection into the backlog; the program gets it when the client's last word of the handshake is here.
  func admit(_ stream: SimStream, roundTrip: Int64) {
    backlog.append(stream)
    driver.world.schedule(after: roundTrip + driver.world.draw(0...20_000), on: driver) { [self] in
      guard let index = backlog.firstIndex(where: { $0 === stream }) else { return }
      backlog.remove(at: index)
      stream.announce(to: onAccept)
    }
  }

  override func close() {
    driver.checkConfined("Listener.close")
    if isClosed { return }
    isClosed = true
    driver.world.note(driver, "unlisten", Int(bound.port))
    driver.host.listeners.removeAll { $0 === self }
    if case .unix(let path) = bound { driver.host.files.removeSocket(path) }
    // As a system does with connections that nobody will accept any more.
    for stream in backlog { stream.reset() }
    backlog.removeAll()
  }
}

extension SimHost {
  /// Checks that a stream socket may be bound to `address` and chooses a port for port 0.
  func bindStream(_ address: SocketAddress, sharedPort: Bool) throws(DriverError) -> SocketAddress {
    if case .unix(let path) = address {
      try files.makeSocket(path)
      return address
    }
    try requireOwn(address)
    var bound = address
    if address.port == 0 {
      bound.port = makePort { port in listeners.contains { $0.address.port == port } }
    } else if listeners.contains(where: {
      $0.address.overlaps(address, dualStack: true) && !(sharedPort && $0.isPortShared)
    }) {
      throw DriverError(operation: "listen", code: "EADDRINUSE", message: "\(address) is in use")
    }
    return bound
  }

  func requireOwn(_ address: SocketAddress) throws(DriverError) {
    guard address.isWildcard || owns(address) || address.isMulticast || address.isLoopback else {
      throw DriverError(operation: "bind", code: "EADDRNOTAVAIL", message: "\(address.host) is not an address here")
    }
  }

  /// The listener that a dial of `target` reaches; of several on a shared port, a random one.
  func listener(for target: SocketAddress) -> SimListener? {
    let exact = listeners.filter { $0.address == target }
    let matching = exact.isEmpty ? listeners.filter { $0.address.accepts(target, dualStack: true) } : exact
    return matching.isEmpty ? nil : matching[matching.count == 1 ? 0 : world.random.below(matching.count)]
  }
}

extension SocketAddress {
  /// Both could receive the same packet. A listener on `::` takes IPv4 too (`dualStack`); a datagram socket does not.
  func overlaps(_ other: SocketAddress, dualStack: Bool = false) -> Bool {
    guard port == other.port else { return false }
    switch (self, other) {
    case (.unix(let a), .unix(let b)): return a == b
    case (.unix, _), (_, .unix): return false
    default: break
    }
    if isIPv6 != other.isIPv6 {
      return dualStack && (isIPv6 && isWildcard || other.isIPv6 && other.isWildcard)
    }
    return isWildcard || other.isWildcard || isSameHost(as: other)
  }

  /// A socket bound to this address gets what is sent to `target`.
  func accepts(_ target: SocketAddress, dualStack: Bool = false) -> Bool {
    guard port == target.port else { return false }
    if isWildcard { return isIPv6 == target.isIPv6 || isIPv6 && dualStack }
    return isSameHost(as: target)
  }
}

/// One dial: asks, is answered or not, and asks again with growing pauses as a system does.
struct SimDial {
  private let stream: SimStream
  private let target: SocketAddress
  private let world: SimWorld
  private let client: SimHost
  private let givesUpAt: Instant
  private let isLost: Bool

  init(_ stream: SimStream, to target: SocketAddress) {
    self.stream = stream
    self.target = target
    client = stream.driver.host
    world = client.world
    givesUpAt = world.now.advanced(byNanoseconds: world.network.dialLimit)
    isLost = world.strikes(.connectLost)
  }

  func start() {
    world.note(stream.driver, "dial", stream.number, Int(target.port))
    if world.strikes(.connectRefused) { return end(.refused, after: latency()) }
    if world.strikes(.connectUnreachable) { return end(.unreachable("no route to host"), after: latency()) }
    let slow = world.strikes(.connectSlow) ? world.draw(1_000_000...10_000_000_000) : 0
    ask(after: latency() + slow, pause: 1_000_000_000)
  }

  private func latency() -> Int64 {
    let isLocal = target.isLoopback || client.owns(target)
    return world.draw(isLocal ? world.network.localLatency : world.network.remoteLatency)
  }

  private func end(_ end: StreamEnd, after delay: Int64) {
    world.schedule(after: delay) { [self] in if stream.phase == .opening { stream.finish(end) } }
  }

  private func ask(after delay: Int64, pause: Int64) {
    world.schedule(after: delay) { [self] in arrive(pause: pause) }
  }

  /// Nobody answered: asks again, or gives up.
  private func askAgain(pause: Int64) {
    let next = world.now.advanced(byNanoseconds: pause)
    if next >= givesUpAt {
      end(.unreachable("connection timed out"), after: givesUpAt.nanoseconds(since: world.now))
    } else {
      ask(after: pause, pause: pause * 2)
    }
  }

  private func arrive(pause: Int64) {
    guard stream.phase == .opening else { return }
    let isLocal = target.isLoopback || client.owns(target)
    guard let server = isLocal ? client : world.hosts.first(where: { $0.owns(target) }) else {
      return end(.unreachable("no route to host"), after: 3_000_000_000)
    }
    if isLost || !server.isUp || (!isLocal && (world.isCut(client, server) || world.isCut(server, client))) {
      return askAgain(pause: pause)
    }
    guard let listener = server.listener(for: target) else { return end(.refused, after: latency()) }
    guard listener.hasRoom else { return askAgain(pause: pause) }

    let path = SimPath(client: client, server: server)
    let up = SimPipe(path: path, side: 0)
    let down = SimPipe(path: path, side: 1)
    let clientAddress = sourceAddress()
    let accepted = SimStream(accepting: path, on: listener.driver, local: target, peer: clientAddress)
    accepted.attach(outgoing: down, incoming: up)
    listener.admit(accepted, roundTrip: path.latency * 2)
    answer(path, up, down, clientAddress)
  }

  /// Connects the client's end when the answer reaches it.
  private func answer(_ path: SimPath, _ up: SimPipe, _ down: SimPipe, _ clientAddress: SocketAddress?) {
    world.schedule(after: path.latency) { [self] in
      if path.isBlocked(from: 1) {
        if world.now < givesUpAt {
          world.schedule(after: 1_000_000_000) { [self] in answer(path, up, down, clientAddress) }
        } else {
          if stream.phase == .opening { stream.finish(.unreachable("connection timed out")) }
          up.send(.reset)
        }
        return
      }
      guard stream.phase == .opening, down.sender != nil else {
        // The server reset it meanwhile, or the client no longer wants it.
        if stream.phase == .opening { stream.finish(.refused) }
        up.send(.reset)
        return
      }
      stream.establish(outgoing: up, incoming: down, local: clientAddress)
    }
  }

  private func sourceAddress() -> SocketAddress? {
    if case .unix = target { return nil }
    var address = client.sourceAddress(towards: target)
    address.port = client.makePort { port in client.listeners.contains { $0.address.port == port } }
    return address
  }
}
