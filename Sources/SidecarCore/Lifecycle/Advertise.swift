/// What goes into the registry as our address.
package enum Advertise {
  /// `host:port` for other hosts to dial. `advertise` (`host` or `host:port`) wins, then `podIP`, then the bind address,
  /// and for a wildcard go-micro's rule: the first private address of an interface that is not loopback, IPv4 first,
  /// then any other such address, then loopback (go-micro util/addr/addr.go @ v1.18.0).
  package static func address(
    advertise: String?, podIP: String?, bound: SocketAddress, interfaces: [NetworkInterface]
  ) -> String {
    if let advertise {
      if SocketAddress.splitHostPort(advertise) != nil { return advertise }
      return join(advertise, bound.port)
    }
    if let podIP { return join(podIP, bound.port) }
    guard bound.isWildcard else { return bound.description }
    let usable = interfaces.filter { $0.isUp && !$0.isLoopback && !isLinkLocal($0.address) }.map(\.address)
    let chosen =
      usable.first { !$0.isIPv6 && $0.isPrivate } ?? usable.first { !$0.isIPv6 } ?? usable.first { $0.isPrivate }
      ?? usable.first ?? .loopback(port: 0)
    var address = chosen
    address.port = bound.port
    return address.description
  }

  private static func join(_ host: String, _ port: UInt16) -> String {
    host.utf8.contains(UInt8(ascii: ":")) && !host.hasPrefix("[") ? "[\(host)]:\(port)" : "\(host):\(port)"
  }

  private static func isLinkLocal(_ address: SocketAddress) -> Bool {
    switch address {
    case .ipv4(let value, _): value &>> 16 == 0xA9FE
    case .ipv6(let high, _, _, _): high &>> 54 == 0x3FA
    case .unix: true
    }
  }
}
