// Datagrams of a simulated world: unicast between hosts, multicast per interface and network, with loss, duplication
// and delay. Without faults they arrive once and in order, but for a receiver whose buffer is full.

import SidecarCore

package final class SimDatagramSocket: DatagramSocket {
  /// Bytes that wait for the program, per socket; what comes on top is lost. (Linux: net.core.rmem_default.)
  package static let receiveBufferBytes = 212_992
  /// Largest payload of a UDP datagram over IPv4, in bytes.
  package static let payloadMax = 65_507

  let driver: SimDriver
  private let bound: SocketAddress
  let isPortShared: Bool
  private var memberships: [(group: SocketAddress, interface: UInt32)] = []
  private var multicastInterface: UInt32?
  private var loopsBack = true
  private var isClosed = false
  private var waitingBytes = 0
  private var world: SimWorld { driver.world }
  private var host: SimHost { driver.host }

  init(driver: SimDriver, address: SocketAddress, sharedPort: Bool, handler: any DatagramHandler) {
    self.driver = driver
    bound = address
    isPortShared = sharedPort
    super.init()
    self.handler = handler
  }

  package override var address: SocketAddress { bound }

  // MARK: Membership

  package override func join(group: SocketAddress, interface: SocketAddress) throws(DriverError) {
    driver.checkConfined("join")
    let index = try require(group, interface, "join")
    if isMember(of: group, on: index) {
      throw DriverError(operation: "join", code: "EADDRINUSE", message: "already in \(group.host)")
    }
    memberships.append((group, index))
  }

  package override func leave(group: SocketAddress, interface: SocketAddress) throws(DriverError) {
    driver.checkConfined("leave")
    let index = try require(group, interface, "leave")
    guard isMember(of: group, on: index) else {
      throw DriverError(operation: "leave", code: "EADDRNOTAVAIL", message: "not in \(group.host)")
    }
    memberships.removeAll { $0.group.isSameHost(as: group) && $0.interface == index }
  }

  package override func setMulticastInterface(_ interface: SocketAddress) throws(DriverError) {
    driver.checkConfined("setMulticastInterface")
    multicastInterface =
      interface.isWildcard && !interface.isIPv6 ? nil : try index(of: interface, "multicast interface")
  }

  package override func setMulticastLoopback(_ on: Bool) throws(DriverError) {
    driver.checkConfined("setMulticastLoopback")
    loopsBack = on
  }

  private func require(
    _ group: SocketAddress, _ interface: SocketAddress, _ operation: String
  ) throws(DriverError) -> UInt32 {
    guard group.isMulticast, group.isIPv6 == bound.isIPv6 else {
      throw DriverError(operation: operation, code: "EINVAL", message: "\(group.host) is no group of this socket")
    }
    return try index(of: interface, operation)
  }

  private func index(of interface: SocketAddress, _ operation: String) throws(DriverError) -> UInt32 {
    if case .ipv6(_, _, let zone, _) = interface, zone != 0, host.interfaces.contains(where: { $0.index == zone }) {
      return zone
    }
    guard let found = host.interface(having: interface) else {
      throw DriverError(operation: operation, code: "ENODEV", message: "no interface has \(interface.host)")
    }
    return found.index
  }

  private func isMember(of group: SocketAddress, on interface: UInt32) -> Bool {
    memberships.contains { $0.group.isSameHost(as: group) && $0.interface == interface }
  }

  // MARK: Sending

  package override func send(_ bytes: UnsafeRawBufferPointer, to peer: SocketAddress) -> Bool {
    driver.checkConfined("send")
    guard !isClosed, bytes.count <= Self.payloadMax, peer.isIPv6 == bound.isIPv6, peer.port > 0 else { return false }
    world.note(driver, "send", Int(peer.port), bytes.count)
    world.noteBytes(bytes)
    return peer.isMulticast ? sendToGroup(bytes, peer) : sendToHost(bytes, peer)
  }

  private func sendToHost(_ bytes: UnsafeRawBufferPointer, _ peer: SocketAddress) -> Bool {
    let isLocal = peer.isLoopback || host.owns(peer)
    guard isLocal || host.interfaces.contains(where: { $0.isUp && $0.network != SimHost.loopbackNetwork }) else {
      return false
    }
    guard let target = isLocal ? host : world.hosts.first(where: { $0.owns(peer) }) else { return true }
    // A wildcard socket names the interface the peer's address lies on.
    let interface = target.interface(having: peer) ?? target.interfaces[0]
    let source = sourceAddress(isLocal ? peer : host.sourceAddress(towards: peer))
    let matching = target.datagramSockets.filter { $0.bound.accepts(peer) }
    let exact = matching.filter { !$0.bound.isWildcard }
    let receivers = exact.isEmpty ? matching : exact
    guard !receivers.isEmpty else { return true }
    let receiver = receivers[receivers.count == 1 ? 0 : world.random.below(receivers.count)]
    transmit(Array(bytes), to: receiver, from: source, interface: interface.index)
    return true
  }

  private func sendToGroup(_ bytes: UnsafeRawBufferPointer, _ group: SocketAddress) -> Bool {
    var chosen = multicastInterface
    if case .ipv6(_, _, let zone, _) = group, zone != 0 { chosen = zone }
    let way = host.interfaces.first { interface in
      guard interface.isUp, interface.addresses.contains(where: { $0.isIPv6 == group.isIPv6 }) else { return false }
      if let chosen { return interface.index == chosen && interface.carriesMulticast }
      return interface.isMulticastCapable && interface.network != SimHost.loopbackNetwork
    }
    guard let way, let own = way.addresses.first(where: { $0.isIPv6 == group.isIPv6 }) else { return false }
    let source = sourceAddress(own)
    let payload = Array(bytes)
    for target in world.hosts {
      if target === host ? !loopsBack : way.network == SimHost.loopbackNetwork { continue }
      for interface in target.interfaces
      where interface.isUp && interface.carriesMulticast
        && (target === host ? interface.index == way.index : interface.network == way.network)
      {
        for socket in target.datagramSockets where socket.hears(group, on: interface.index) {
          transmit(payload, to: socket, from: source, interface: interface.index)
        }
      }
    }
    return true
  }

  private func sourceAddress(_ address: SocketAddress) -> SocketAddress {
    var source = bound.isWildcard || bound.isMulticast ? address : bound
    source.port = bound.port
    return source
  }

  private func hears(_ group: SocketAddress, on interface: UInt32) -> Bool {
    guard bound.port == group.port, bound.isIPv6 == group.isIPv6, bound.isWildcard || bound.isSameHost(as: group)
    else { return false }
    if memberships.contains(where: { $0.group.isSameHost(as: group) }) { return isMember(of: group, on: interface) }
    return host.multicastReachesAll && host.datagramSockets.contains { $0.isMember(of: group, on: interface) }
  }

  private func transmit(
    _ bytes: [UInt8], to receiver: SimDatagramSocket, from source: SocketAddress, interface: UInt32
  ) {
    let settings = world.network
    let base = receiver.host === host ? settings.localLatency.lowerBound : settings.remoteLatency.lowerBound
    let copies = world.strikes(.datagramDuplicate) ? 2 : 1
    for _ in 0..<copies {
      if world.strikes(.datagramLoss) {
        world.note(nil, "datagram lost", bytes.count)
        continue
      }
      let delay = base + (world.strikes(.datagramLate) ? world.draw(0...500_000_000) : 0)
      world.schedule(after: delay) { [self] in
        guard receiver.host.isUp, receiver.host === host || !world.isCut(host, receiver.host) else { return }
        receiver.arrived(bytes, from: source, interface: interface)
      }
    }
  }

  private func arrived(_ bytes: [UInt8], from source: SocketAddress, interface: UInt32) {
    guard !isClosed, waitingBytes + bytes.count <= Self.receiveBufferBytes else { return }
    waitingBytes += bytes.count
    world.schedule(after: 0, on: driver) { [self] in
      waitingBytes -= bytes.count
      guard !isClosed, let handler else { return }
      world.note(driver, "datagram", Int(bound.port), bytes.count)
      let area = UnsafeMutableRawBufferPointer(rebasing: world.scratch[0..<bytes.count])
      area.copyBytes(from: bytes)
      handler.datagramReceived(self, UnsafeRawBufferPointer(area), from: source, interface: interface)
      area.initializeMemory(as: UInt8.self, repeating: 0xDB)
    }
  }

  package override func close() {
    driver.checkConfined("DatagramSocket.close")
    if isClosed { return }
    isClosed = true
    handler = nil
    host.datagramSockets.removeAll { $0 === self }
  }
}

extension SimHost.Interface {
  /// Linux carries multicast over the loopback interface when it is chosen by hand, though it does not say so.
  var carriesMulticast: Bool { isMulticastCapable || network == SimHost.loopbackNetwork }
}

extension SimDriver {
  package func bindDatagram(
    to address: SocketAddress, sharedPort: Bool, handler: any DatagramHandler
  ) throws(DriverError) -> DatagramSocket {
    checkConfined("bindDatagram")
    if case .unix = address {
      throw DriverError(operation: "bind", code: "EINVAL", message: "a datagram socket needs an IP address")
    }
    try host.requireOwn(address)
    var bound = address
    let sockets = host.datagramSockets
    if address.port == 0 {
      bound.port = host.makePort { port in sockets.contains { $0.address.port == port } }
    } else if sockets.contains(where: { $0.address.overlaps(address) && !(sharedPort && $0.isPortShared) }) {
      throw DriverError(operation: "bind", code: "EADDRINUSE", message: "\(address) is in use")
    }
    let socket = SimDatagramSocket(driver: self, address: bound, sharedPort: sharedPort, handler: handler)
    host.datagramSockets.append(socket)
    return socket
  }
}
