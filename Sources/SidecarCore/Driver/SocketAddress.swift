/// Where a socket is bound or dialled: an IP address and port, or the path of a Unix socket.
///
/// Parsed and printed here, without the C library, so that the core stays free of it. Names are never looked up.
public enum SocketAddress: Hashable, Sendable, CustomStringConvertible {
  /// `address` is the four bytes in host order: 127.0.0.1 is 0x7F00_0001.
  case ipv4(address: UInt32, port: UInt16)
  /// `high` and `low` are the sixteen bytes in host order; `zone` is an interface index, zero for none.
  case ipv6(high: UInt64, low: UInt64, zone: UInt32, port: UInt16)
  case unix(path: String)

  public static func loopback(port: UInt16) -> SocketAddress { .ipv4(address: 0x7F00_0001, port: port) }

  public var port: UInt16 {
    get {
      switch self {
      case .ipv4(_, let port), .ipv6(_, _, _, let port): port
      case .unix: 0
      }
    }
    set {
      switch self {
      case .ipv4(let address, _): self = .ipv4(address: address, port: newValue)
      case .ipv6(let high, let low, let zone, _): self = .ipv6(high: high, low: low, zone: zone, port: newValue)
      case .unix: break
      }
    }
  }

  public var isIPv6: Bool { if case .ipv6 = self { true } else { false } }

  public var isLoopback: Bool {
    switch self {
    case .ipv4(let address, _): address &>> 24 == 127
    case .ipv6(let high, let low, _, _): high == 0 && low == 1
    case .unix: true
    }
  }

  /// All-zero address: `0.0.0.0` or `::`.
  public var isWildcard: Bool {
    switch self {
    case .ipv4(let address, _): address == 0
    case .ipv6(let high, let low, _, _): high == 0 && low == 0
    case .unix: false
    }
  }

  /// The ranges go-micro prefers when it chooses what to advertise: 10/8, 172.16/12, 192.168/16, 100.64/10 and fd00::/8
  /// (go-micro util/addr/addr.go @ v1.18.0).
  public var isPrivate: Bool {
    switch self {
    case .ipv4(let a, _):
      a &>> 24 == 10 || a &>> 20 == 0xAC1 || a &>> 16 == 0xC0A8 || a &>> 22 == 0x191
    case .ipv6(let high, _, _, _): high &>> 56 == 0xFD
    case .unix: false
    }
  }

  /// The address without its port; IPv6 without brackets.
  public var host: String {
    switch self {
    case .ipv4(let a, _): "\(a &>> 24).\(a &>> 16 & 255).\(a &>> 8 & 255).\(a & 255)"
    case .ipv6(let high, let low, let zone, _): Self.format(high, low) + (zone == 0 ? "" : "%\(zone)")
    case .unix(let path): path
    }
  }

  /// `127.0.0.1:80`, `[::1]:80` or `unix:/path`: the form `init(_:)` reads.
  public var description: String {
    switch self {
    case .ipv4(_, let port): "\(host):\(port)"
    case .ipv6(_, _, _, let port): "[\(host)]:\(port)"
    case .unix(let path): "unix:" + path
    }
  }

  /// Reads `a.b.c.d:port`, `[v6]:port`, `:port` (the wildcard, IPv4) and `unix:/path`. Nil for anything else, host names
  /// included.
  public init?(_ text: String) {
    if text.hasPrefix("unix:") {
      let path = text.dropFirst(5)
      guard !path.isEmpty, path.utf8.count < 104, !path.utf8.contains(0) else { return nil }
      self = .unix(path: String(path))
      return
    }
    guard let (host, port) = Self.splitHostPort(text) else { return nil }
    if host.isEmpty {
      self = .ipv4(address: 0, port: port)
    } else {
      self.init(host: host, port: port)
    }
  }

  /// Reads a literal IPv4 or IPv6 address (no brackets); nil for a name.
  public init?(host: some StringProtocol, port: UInt16) {
    if let address = Self.parseIPv4(host) {
      self = .ipv4(address: address, port: port)
      return
    }
    let parts = host.split(separator: "%", maxSplits: 1, omittingEmptySubsequences: false)
    guard let (high, low) = Self.parseIPv6(parts[0]) else { return nil }
    var zone: UInt32 = 0
    if parts.count == 2 {
      guard let number = UInt32(parts[1]) else { return nil }
      zone = number
    }
    self = .ipv6(high: high, low: low, zone: zone, port: port)
  }

  /// Four bytes in network order, or sixteen, in which IPv4 may be mapped (RFC 4291 §2.5.5.2); nil for other counts.
  package init?(bytes: some Collection<UInt8>, port: UInt16) {
    switch bytes.count {
    case 4: self = .ipv4(address: bytes.reduce(0) { $0 &<< 8 | UInt32($1) }, port: port)
    case 16:
      let high = bytes.prefix(8).reduce(0 as UInt64) { $0 &<< 8 | UInt64($1) }
      let low = bytes.dropFirst(8).reduce(0 as UInt64) { $0 &<< 8 | UInt64($1) }
      self =
        high == 0 && low >> 32 == 0xFFFF
        ? .ipv4(address: UInt32(truncatingIfNeeded: low), port: port)
        : .ipv6(high: high, low: low, zone: 0, port: port)
    default: return nil
    }
  }

  /// Splits at the last colon, as go-micro does; brackets around an IPv6 host are removed. Nil without a valid port.
  public static func splitHostPort(_ text: String) -> (host: String, port: UInt16)? {
    guard let colon = text.utf8.lastIndex(of: UInt8(ascii: ":")) else { return nil }
    let digits = text[text.utf8.index(after: colon)...]
    guard !digits.isEmpty, digits.utf8.allSatisfy({ $0 >= 48 && $0 <= 57 }), let port = UInt16(digits) else {
      return nil
    }
    var host = text[..<colon]
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
    } else if host.utf8.contains(UInt8(ascii: ":")) || host.utf8.contains(UInt8(ascii: "[")) {
      return nil
    }
    return (String(host), port)
  }

  private static func parseIPv4(_ text: some StringProtocol) -> UInt32? {
    var value: UInt32 = 0
    var octets = 0
    for part in text.split(separator: ".", omittingEmptySubsequences: false) {
      guard octets < 4, !part.isEmpty, part.utf8.count <= 3, part.utf8.allSatisfy({ $0 >= 48 && $0 <= 57 }),
        let octet = UInt8(part)
      else { return nil }
      value = value &<< 8 | UInt32(octet)
      octets += 1
    }
    return octets == 4 ? value : nil
  }

  private static func parseIPv6(_ text: some StringProtocol) -> (UInt64, UInt64)? {
    var groups: [UInt16] = []
    var gap: Int?
    var parts = text.split(separator: ":", omittingEmptySubsequences: false)[...]
    guard parts.count >= 3 else { return nil }
    if parts.first!.isEmpty {
      guard parts.dropFirst().first!.isEmpty else { return nil }
      parts = parts.dropFirst()
    }
    if parts.last!.isEmpty {
      guard parts.dropLast().last!.isEmpty else { return nil }
      parts = parts.dropLast()
    }
    for (index, part) in zip(parts.indices, parts) {
      if part.isEmpty {
        guard gap == nil else { return nil }
        gap = groups.count
      } else if index == parts.indices.last, part.contains(".") {
        guard let tail = parseIPv4(part) else { return nil }
        groups.append(UInt16(tail &>> 16))
        groups.append(UInt16(tail & 0xFFFF))
      } else {
        guard part.utf8.count <= 4, let group = UInt16(part, radix: 16), part.first != "+" else { return nil }
        groups.append(group)
      }
      if groups.count > 8 { return nil }
    }
    if let gap {
      guard groups.count < 8 else { return nil }
      groups.insert(contentsOf: Array(repeating: 0, count: 8 - groups.count), at: gap)
    }
    guard groups.count == 8 else { return nil }
    let high = groups[0..<4].reduce(0 as UInt64) { $0 &<< 16 | UInt64($1) }
    let low = groups[4..<8].reduce(0 as UInt64) { $0 &<< 16 | UInt64($1) }
    return (high, low)
  }

  /// RFC 5952: lower-case hexadecimal, the longest run of two or more zero groups as `::`.
  private static func format(_ high: UInt64, _ low: UInt64) -> String {
    let groups = (0..<8).map { index in
      UInt16(truncatingIfNeeded: (index < 4 ? high : low) &>> UInt64((3 - index % 4) * 16))
    }
    var best = 0..<0
    var start = 0
    while start < 8 {
      var end = start
      while end < 8, groups[end] == 0 { end += 1 }
      if end - start > best.count { best = start..<end }
      start = max(end, start + 1)
    }
    func text(_ part: ArraySlice<UInt16>) -> String {
      part.map { String($0, radix: 16) }.joined(separator: ":")
    }
    if best.count < 2 { return text(groups[...]) }
    return text(groups[..<best.lowerBound]) + "::" + text(groups[best.upperBound...])
  }
}
