// What the records of a node say it is reached by.

import SidecarCore

/// What a node's host is published as.
struct MDNSAddresses: Equatable {
  var ipv4: UInt32?
  var ipv6: MDNSPublishedNode.IPv6?
  var port: UInt16

  /// A literal host as it is; for an empty or wildcard host one of this host's addresses. Nil for a name, and when the host
  /// has no address at all.
  init?(host: String, port: UInt16, interfaces: [NetworkInterface]) {
    self.port = port
    guard let literal = host.isEmpty ? .ipv4(address: 0, port: 0) : SocketAddress(host: host, port: 0) else {
      return nil
    }
    if literal.isWildcard {
      ipv4 = Self.ipv4(Self.chosen(interfaces) { !$0.isIPv6 })
      if ipv4 == nil || literal.isIPv6 {
        // A link-local address would need its zone, which no record carries.
        ipv6 = Self.ipv6(Self.chosen(interfaces) { $0.isIPv6 && !Self.isLinkLocal($0) })
      }
    } else {
      ipv4 = Self.ipv4(literal)
      ipv6 = Self.ipv6(literal)
    }
    guard ipv4 != nil || ipv6 != nil else { return nil }
  }

  /// The first address of each family.
  init?(resolved: [SocketAddress], port: UInt16) {
    self.port = port
    ipv4 = resolved.lazy.compactMap(Self.ipv4).first
    ipv6 = ipv4 == nil ? resolved.lazy.compactMap(Self.ipv6).first : nil
    guard ipv4 != nil || ipv6 != nil else { return nil }
  }

  /// What readers make of the records: the IPv4 address, else the IPv6 one in brackets, and the port.
  var text: String {
    if let ipv4 { return SocketAddress.ipv4(address: ipv4, port: port).description }
    guard let ipv6 else { return "" }
    return SocketAddress.ipv6(high: ipv6.high, low: ipv6.low, zone: 0, port: port).description
  }

  /// go-micro's choice (util/addr/addr.go @ v1.18.0): the first private address of an interface that is up, others before the
  /// loopback; without one, the last of the rest.
  private static func chosen(_ interfaces: [NetworkInterface], _ fits: (SocketAddress) -> Bool) -> SocketAddress? {
    let up = interfaces.filter { $0.isUp && fits($0.address) }
    let outside = up.filter { !$0.isLoopback }.map(\.address)
    return outside.first(where: \.isPrivate) ?? outside.last ?? up.first?.address
  }

  private static func isLinkLocal(_ address: SocketAddress) -> Bool {
    if case .ipv6(let high, _, _, _) = address { high &>> 54 == 0x3FA } else { false }
  }

  private static func ipv4(_ address: SocketAddress?) -> UInt32? {
    if case .ipv4(let address, _) = address { address } else { nil }
  }

  private static func ipv6(_ address: SocketAddress?) -> MDNSPublishedNode.IPv6? {
    if case .ipv6(let high, let low, _, _) = address { MDNSPublishedNode.IPv6(high: high, low: low) } else { nil }
  }
}
