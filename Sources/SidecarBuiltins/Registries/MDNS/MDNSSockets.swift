// The sockets of the mDNS registry and the interfaces they reach.
//
//   listen4, listen6   port 5353, shared, member of 224.0.0.251 and ff02::fb on every interface: hear questions and
//                      announcements, send replies, announcements and goodbyes
//   ask4, ask6         a port of our own: send questions, get the replies, which go-micro sends unicast

import SidecarCore

final class MDNSSockets {
  /// Interface addresses used; further ones are left out.
  static let interfacesMaximum = 64

  private let driver: any HostDriver
  private let options: MDNSOptions
  private let group4: SocketAddress
  private let group6: SocketAddress
  private var listen4: DatagramSocket?
  private var listen6: DatagramSocket?
  private var ask4: DatagramSocket?
  private var ask6: DatagramSocket?
  /// The addresses multicast goes out by, IPv4 and IPv6.
  private(set) var interfaces: [NetworkInterface] = []
  /// Failures as they stand, by what they are about.
  private(set) var failures: [Failure: DriverError] = [:]
  /// Addresses by which the last datagram could not be sent.
  private(set) var unsendable: Set<String> = []

  enum Failure: Hashable {
    case bind(isIPv6: Bool)
    case join(interface: String, isIPv6: Bool)
  }

  init(driver: any HostDriver, options: MDNSOptions) {
    self.driver = driver
    self.options = options
    group4 = .ipv4(address: 0xE000_00FB, port: options.port)
    group6 = .ipv6(high: 0xFF02_0000_0000_0000, low: 0xFB, zone: 0, port: options.port)
  }

  func open(handler: any DatagramHandler) {
    guard options.usesMulticast else { return }
    let any4 = SocketAddress.ipv4(address: 0, port: 0)
    let any6 = SocketAddress.ipv6(high: 0, low: 0, zone: 0, port: 0)
    listen4 = bind(any4, options.port, sharedPort: true, handler)
    ask4 = bind(any4, 0, sharedPort: false, handler)
    // A host without IPv6 is no problem worth reporting: its interfaces have no such address.
    listen6 = bind(any6, options.port, sharedPort: true, handler)
    ask6 = bind(any6, 0, sharedPort: false, handler)
    _ = refresh()
  }

  private func bind(
    _ address: SocketAddress, _ port: UInt16, sharedPort: Bool, _ handler: any DatagramHandler
  ) -> DatagramSocket? {
    var address = address
    address.port = port
    do throws(DriverError) {
      return try driver.bindDatagram(to: address, sharedPort: sharedPort, handler: handler)
    } catch {
      failures[.bind(isIPv6: address.isIPv6)] = error
      return nil
    }
  }

  /// Joins the groups on interfaces that came and forgets those that went; whether anything changed.
  func refresh() -> Bool {
    guard options.usesMulticast else { return false }
    let current = Self.usable(driver.interfaces(), options.interfaces)
    guard current != interfaces else { return false }
    for gone in interfaces where !current.contains(gone) {
      // The kernel drops the membership with the interface; one that lost an address only is still worth leaving.
      try? socket(listening: true, for: gone)?.leave(group: group(for: gone), interface: gone.address)
      failures[.join(interface: gone.name, isIPv6: gone.address.isIPv6)] = nil
    }
    for new in current where !interfaces.contains(new) {
      let failure = Failure.join(interface: new.name, isIPv6: new.address.isIPv6)
      do throws(DriverError) {
        try socket(listening: true, for: new)?.join(group: group(for: new), interface: new.address)
        failures[failure] = nil
      } catch {
        // Joined already, by another address of the same interface.
        if error.code != "EADDRINUSE" { failures[failure] = error }
      }
    }
    interfaces = current
    return true
  }

  /// Which addresses multicast goes by: every interface that is up and can, and for want of any, the loopback, so that peers
  /// of this host that joined there are reached. One IPv6 address for each interface is enough: its zone counts.
  static func usable(_ all: [NetworkInterface], _ wanted: Set<String>) -> [NetworkInterface] {
    let up = all.filter { $0.isUp && (wanted.isEmpty || wanted.contains($0.name)) }
    var chosen = up.filter { $0.isMulticastCapable && !$0.isLoopback }
    if chosen.isEmpty { chosen = up.filter { $0.isLoopback && !$0.address.isIPv6 } }
    var seen: Set<UInt32> = []
    var result: [NetworkInterface] = []
    for var interface in chosen {
      if case .ipv6(let high, let low, _, let port) = interface.address {
        guard seen.insert(interface.index).inserted else { continue }
        interface.address = .ipv6(high: high, low: low, zone: interface.index, port: port)
      }
      result.append(interface)
    }
    return Array(result.prefix(interfacesMaximum))
  }

  private func group(for interface: NetworkInterface) -> SocketAddress {
    guard case .ipv6(_, _, let zone, _) = interface.address, case .ipv6(let high, let low, _, let port) = group6
    else { return group4 }
    return .ipv6(high: high, low: low, zone: zone, port: port)
  }

  private func socket(listening: Bool, for interface: NetworkInterface) -> DatagramSocket? {
    interface.address.isIPv6 ? (listening ? listen6 : ask6) : (listening ? listen4 : ask4)
  }

  var canListen: Bool { listen4 != nil || listen6 != nil }

  /// Multicasts each packet by every interface, from the shared port.
  func multicast(_ packets: [[UInt8]]) { send(packets, listening: true, by: interfaces) }
  /// Multicasts questions by every interface, from our own port.
  func ask(_ packets: [[UInt8]]) { send(packets, listening: false, by: interfaces) }
  func ask(_ packet: [UInt8], by interface: NetworkInterface) { send([packet], listening: false, by: [interface]) }

  private func send(_ packets: [[UInt8]], listening: Bool, by interfaces: [NetworkInterface]) {
    guard !packets.isEmpty else { return }
    for interface in interfaces {
      guard let socket = socket(listening: listening, for: interface) else { continue }
      let group = group(for: interface)
      var isSent = (try? socket.setMulticastInterface(interface.address)) != nil
      for packet in packets where isSent { isSent = socket.send(packet, to: group) }
      if isSent {
        unsendable.remove(interface.address.host)
      } else {
        unsendable.insert(interface.address.host)
      }
    }
  }

  func close() {
    for socket in [listen4, listen6, ask4, ask6] { socket?.close() }
    listen4 = nil
    listen6 = nil
    ask4 = nil
    ask6 = nil
    interfaces = []
  }
}
