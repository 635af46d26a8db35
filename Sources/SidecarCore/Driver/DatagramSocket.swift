/// Hears the datagrams of one socket, on its loop; never from inside a call into the socket.
public protocol DatagramHandler: AnyObject {
  /// One datagram. The span is valid during the call only. `interface` is the receiving interface's index, 0 if unknown.
  func datagramReceived(
    _ socket: DatagramSocket, _ bytes: UnsafeRawBufferPointer, from peer: SocketAddress, interface: UInt32)
}

/// A UDP socket. Loop-confined. Receives from the moment it is bound until `close()`.
open class DatagramSocket {
  public final var handler: (any DatagramHandler)?
  public init() {}

  /// Sends one datagram; false when the system would not take it (buffer full, no route): datagrams are not queued.
  @discardableResult
  open func send(_ bytes: UnsafeRawBufferPointer, to peer: SocketAddress) -> Bool {
    preconditionFailure("a driver overrides this")
  }
  @discardableResult
  public final func send(_ bytes: [UInt8], to peer: SocketAddress) -> Bool {
    bytes.withUnsafeBytes { send($0, to: peer) }
  }
  /// Joins `group` on the interface that has `interface` as its address (IPv4) or as its zone (IPv6).
  open func join(group: SocketAddress, interface: SocketAddress) throws(DriverError) {
    preconditionFailure("a driver overrides this")
  }
  open func leave(group: SocketAddress, interface: SocketAddress) throws(DriverError) {
    preconditionFailure("a driver overrides this")
  }
  /// The interface that multicast leaves by.
  open func setMulticastInterface(_ interface: SocketAddress) throws(DriverError) {
    preconditionFailure("a driver overrides this")
  }
  /// Whether our own multicast comes back to sockets of this host; on when never set.
  open func setMulticastLoopback(_ on: Bool) throws(DriverError) {
    preconditionFailure("a driver overrides this")
  }
  open var address: SocketAddress { preconditionFailure("a driver overrides this") }
  /// No callback follows. Twice is once.
  open func close() { preconditionFailure("a driver overrides this") }
}
