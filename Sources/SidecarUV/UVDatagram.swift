// UDP sockets. Made and read here, with `uv_poll` for readiness: libuv's own UDP handle does not say which interface a
// datagram came in by, and mDNS answers on that one.

import CUV
import Glibc
import SidecarCore

final class UVDatagram: DatagramSocket, LoopResource {
  /// Datagrams read per turn, so that a flood cannot starve the connections.
  static let readsPerTurn = 64
  /// Room for one datagram's control data; we ask for one `in_pktinfo` or `in6_pktinfo`. Bytes.
  private static let controlBytes = 128

  private let poll: UnsafeMutablePointer<uv_poll_t>
  private unowned(unsafe) let driver: UVDriver
  private let descriptor: Int32
  private let bound: SocketAddress
  private var isOpen = true

  init(
    driver: UVDriver, address: SocketAddress, sharedPort: Bool, handler: any DatagramHandler
  ) throws(DriverError) {
    guard address.family != AF_UNIX else { throw DriverError("bind \(address)", status: -EAFNOSUPPORT) }
    let socket = try OwnedDescriptor(socket: address.family, SOCK_DGRAM)
    if sharedPort {
      try socket.set(SOL_SOCKET, SO_REUSEADDR, to: 1, "SO_REUSEADDR")
      try socket.set(SOL_SOCKET, SO_REUSEPORT, to: 1, "SO_REUSEPORT")
    }
    if address.isIPv6 {
      // One socket per family, as multicast wants it.
      try socket.set(Int32(IPPROTO_IPV6), IPV6_V6ONLY, to: 1, "IPV6_V6ONLY")
      try socket.set(Int32(IPPROTO_IPV6), IPV6_RECVPKTINFO, to: 1, "IPV6_RECVPKTINFO")
      // Only the groups this socket has joined, not all that any process of the host has.
      try? socket.set(Int32(IPPROTO_IPV6), cuvIPv6MulticastAll, to: 0, "IPV6_MULTICAST_ALL")
    } else {
      try socket.set(Int32(IPPROTO_IP), IP_PKTINFO, to: 1, "IP_PKTINFO")
      try socket.set(Int32(IPPROTO_IP), cuvIPMulticastAll, to: 0, "IP_MULTICAST_ALL")
    }
    try SidecarUV.bind(socket.number, to: address)
    let poll = UnsafeMutablePointer<uv_poll_t>.allocate(capacity: 1)
    let status = uv_poll_init(driver.loop, poll, socket.number)
    if status < 0 {
      poll.deallocate()
      throw DriverError("bind \(address)", status: status)
    }
    self.driver = driver
    self.poll = poll
    bound = SocketAddress(boundTo: socket.number) ?? address
    descriptor = socket.handOn()
    super.init()
    self.handler = handler
    poll.pointee.data = Unmanaged.passRetained(self).toOpaque()
    uv_poll_start(poll, Int32(UV_READABLE.rawValue), datagramReadable)
  }

  override var address: SocketAddress { bound }

  // MARK: Receiving

  fileprivate func receiveWaiting(_ status: Int32) {
    if status < 0, isOpen {
      // libuv stops a poll that reports an error; reading takes the error off the socket.
      uv_poll_start(poll, Int32(UV_READABLE.rawValue), datagramReadable)
    }
    var budget = Self.readsPerTurn
    while isOpen, budget > 0, receiveOne() { budget -= 1 }
  }

  /// False when nothing more waits.
  private func receiveOne() -> Bool {
    var peer = sockaddr_storage()
    return withUnsafeTemporaryAllocation(byteCount: Self.controlBytes, alignment: 16) { control in
      withUnsafeMutablePointer(to: &peer) { peer in
        var part = iovec(iov_base: driver.readBuffer.baseAddress, iov_len: driver.readBuffer.count)
        return withUnsafeMutablePointer(to: &part) { part in
          var message = msghdr()
          message.msg_name = UnsafeMutableRawPointer(peer)
          message.msg_namelen = socklen_t(MemoryLayout<sockaddr_storage>.size)
          message.msg_iov = part
          message.msg_iovlen = 1
          message.msg_control = control.baseAddress
          message.msg_controllen = control.count
          let count = recvmsg(descriptor, &message, 0)
          // An error other than "nothing there" is an ICMP answer to something sent before; the next read goes on.
          if count < 0 { return errno != EAGAIN }
          guard
            let from = SocketAddress(sockaddr: peer.cast(to: sockaddr.self), length: Int(message.msg_namelen))
          else { return true }
          let interface = Self.interface(of: &message)
          let bytes = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(driver.readBuffer)[..<count])
          handler?.datagramReceived(self, bytes, from: from, interface: interface)
          return true
        }
      }
    }
  }

  private static func interface(of message: inout msghdr) -> UInt32 {
    var part = cuv_cmsg_first(&message)
    while let current = part {
      let (level, type) = (current.pointee.cmsg_level, current.pointee.cmsg_type)
      if let data = cuv_cmsg_data(current) {
        // `struct in_pktinfo` begins with the index; `struct in6_pktinfo` has it after the 16 bytes of the address.
        if level == Int32(IPPROTO_IP), type == IP_PKTINFO {
          return UInt32(bitPattern: data.loadUnaligned(as: Int32.self))
        }
        if level == Int32(IPPROTO_IPV6), type == IPV6_PKTINFO {
          return data.loadUnaligned(fromByteOffset: 16, as: UInt32.self)
        }
      }
      part = cuv_cmsg_next(&message, current)
    }
    return 0
  }

  // MARK: Sending

  override func send(_ bytes: UnsafeRawBufferPointer, to peer: SocketAddress) -> Bool {
    guard isOpen else { return false }
    let sent = try? peer.withSockaddr("send") { pointer, length in
      sendto(descriptor, bytes.baseAddress, bytes.count, 0, pointer, length)
    }
    return sent == bytes.count
  }

  // MARK: Multicast

  override func join(group: SocketAddress, interface: SocketAddress) throws(DriverError) {
    try changeMembership("join \(group.host)", group, interface, IP_ADD_MEMBERSHIP, IPV6_JOIN_GROUP)
  }

  override func leave(group: SocketAddress, interface: SocketAddress) throws(DriverError) {
    try changeMembership("leave \(group.host)", group, interface, IP_DROP_MEMBERSHIP, IPV6_LEAVE_GROUP)
  }

  private func changeMembership(
    _ operation: String, _ group: SocketAddress, _ interface: SocketAddress, _ v4Option: Int32, _ v6Option: Int32
  ) throws(DriverError) {
    try checkOpen(operation)
    switch (group, interface) {
    case (.ipv4(let group, _), .ipv4(let interface, _)):
      let request = ip_mreq(
        imr_multiaddr: in_addr(s_addr: group.bigEndian), imr_interface: in_addr(s_addr: interface.bigEndian))
      try setOption(descriptor, Int32(IPPROTO_IP), v4Option, to: request, operation)
    case (.ipv6(let high, let low, _, _), .ipv6(_, _, let zone, _)):
      let request = ipv6_mreq(ipv6mr_multiaddr: in6_addr(high: high, low: low), ipv6mr_interface: zone)
      try setOption(descriptor, Int32(IPPROTO_IPV6), v6Option, to: request, operation)
    default:
      throw DriverError(operation, status: -EAFNOSUPPORT)
    }
  }

  override func setMulticastInterface(_ interface: SocketAddress) throws(DriverError) {
    let operation = "multicast by \(interface.host)"
    try checkOpen(operation)
    switch interface {
    case .ipv4(let address, _):
      try setOption(
        descriptor, Int32(IPPROTO_IP), IP_MULTICAST_IF, to: in_addr(s_addr: address.bigEndian), operation)
    case .ipv6(_, _, let zone, _):
      try setOption(descriptor, Int32(IPPROTO_IPV6), IPV6_MULTICAST_IF, to: zone, operation)
    case .unix:
      throw DriverError(operation, status: -EAFNOSUPPORT)
    }
  }

  override func setMulticastLoopback(_ on: Bool) throws(DriverError) {
    try checkOpen("multicast loopback")
    let value: Int32 = on ? 1 : 0
    if bound.isIPv6 {
      try setOption(descriptor, Int32(IPPROTO_IPV6), IPV6_MULTICAST_LOOP, to: value, "multicast loopback")
    } else {
      try setOption(descriptor, Int32(IPPROTO_IP), IP_MULTICAST_LOOP, to: value, "multicast loopback")
    }
  }

  private func checkOpen(_ operation: String) throws(DriverError) {
    if !isOpen { throw DriverError(operation, status: -EBADF) }
  }

  override func close() {
    guard isOpen else { return }
    isOpen = false
    handler = nil
    uv_close(poll.cast(to: uv_handle_t.self), freeHandleAndOwner)
    Glibc.close(descriptor)
  }

  func closeForStop() { close() }
}

// From <linux/in.h> and <linux/in6.h>: glibc 2.36 has only the first of the two, and not in every mode.
private let cuvIPMulticastAll: Int32 = 49
private let cuvIPv6MulticastAll: Int32 = 29

private func datagramReadable(_ poll: UnsafeMutablePointer<uv_poll_t>?, _ status: Int32, _: Int32) {
  withOwner(poll?.pointee.data, UVDatagram.self) { $0.receiveWaiting(status) }
}
