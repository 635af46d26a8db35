// One machine: its addresses, its wall clock, its files and processes, and the loops that run on it.

import SidecarCore

/// A simulated machine with one program on it (its loops), which may crash and start again.
package final class SimHost {
  static let loopbackNetwork = -1

  package let world: SimWorld
  package let number: Int
  package let name: String
  package private(set) var loops: [SimDriver] = []
  /// False after `crash` until `restart`.
  package private(set) var isUp = true
  package let files: SimFiles
  package let processes: SimProcesses
  /// Linux gives a group's datagrams to every wildcard socket of the port once any socket of the host has joined the
  /// group on that interface (IP_MULTICAST_ALL). Off: only to sockets that joined themselves.
  package var multicastReachesAll = true
  /// The program's environment.
  package var environment: [String: String] = [:]
  /// Resident memory it reports.
  package var residentBytes = 8 * 1024 * 1024

  struct Interface {
    var name: String
    var index: UInt32
    var addresses: [SocketAddress]
    var network: Int
    var isUp = true
    var isMulticastCapable: Bool
  }
  private(set) var interfaces: [Interface] = []
  var listeners: [SimListener] = []
  var datagramSockets: [SimDatagramSocket] = []
  private var nextPort: UInt16 = 32_768
  /// Nanoseconds since 1970 at the start of the world.
  private var wallClock: Int64 = 1_700_000_000_000_000_000

  init(world: SimWorld, number: Int, name: String) {
    self.world = world
    self.number = number
    self.name = name
    files = SimFiles(world: world)
    processes = SimProcesses(world: world, firstID: Int32(1000 + number * 1000))
  }

  // MARK: Building

  /// Adds an interface. Hosts with interfaces on the same `network` hear each other's multicast.
  package func addInterface(
    _ name: String, index: UInt32? = nil, addresses: [String], network: Int = 0, multicast: Bool = true
  ) {
    let index = index ?? UInt32(interfaces.count + 1)
    let parsed = addresses.compactMap { SocketAddress(host: $0, port: 0) }
    precondition(parsed.count == addresses.count, "not an address in \(addresses)")
    interfaces.append(
      Interface(name: name, index: index, addresses: parsed, network: network, isMulticastCapable: multicast))
  }

  /// Switches an interface on or off, or changes whether it carries multicast.
  package func setInterface(_ name: String, up: Bool? = nil, multicast: Bool? = nil) {
    guard let at = interfaces.firstIndex(where: { $0.name == name }) else { return }
    if let up { interfaces[at].isUp = up }
    if let multicast { interfaces[at].isMulticastCapable = multicast }
  }

  /// Another event loop of the program on this host.
  package func makeLoop(_ label: String? = nil) -> SimDriver {
    precondition(isUp, "host \(name) is down")
    let label = label ?? "\(name)/\(loops.count)"
    let loop = SimDriver(host: self, number: world.loops.count, name: label, seed: world.random.next())
    world.adopt(loop)
    loops.append(loop)
    return loop
  }

  /// Its first address on the network 0, for dialling it.
  package func address(port: UInt16) -> SocketAddress {
    var address = interfaces.first { $0.network == 0 }?.addresses.first ?? .loopback(port: 0)
    address.port = port
    return address
  }

  // MARK: Disasters

  /// What the peers of a host see when it goes.
  package enum PeersSee: Sendable {
    /// The program died, the system lives: its connections are reset and its ports refuse.
    case resets
    /// The machine is gone: nothing answers, nothing is refused.
    case silence
  }

  /// Stops every loop of the host at once: no callback runs on them any more. Files stay; sockets' paths too.
  package func crash(_ peersSee: PeersSee) {
    world.note(nil, "crash", number, peersSee == .resets ? 1 : 0)
    for loop in loops { loop.die(resetting: peersSee == .resets) }
    loops.removeAll()
    listeners.removeAll()
    datagramSockets.removeAll()
    processes.removeAll()
    files.removeWatches()
    isUp = peersSee == .resets
  }

  /// The machine runs again, with no loops: make new ones.
  package func restart() {
    world.note(nil, "restart", number)
    isUp = true
    world.releaseWaiting()
  }

  /// Moves the wall clock of this host.
  package func jumpWallClock(by duration: Duration) {
    let (moved, overflow) = wallClock.addingReportingOverflow(duration.saturatingNanoseconds)
    if !overflow { wallClock = moved }
    world.note(nil, "wall clock", number, Int(duration.saturatingNanoseconds))
  }

  /// Delivers a signal to the program: each loop that asked for it hears it once.
  package func deliverSignal(_ number: Int32) {
    for loop in loops { loop.deliverSignal(number) }
  }

  // MARK: For the other parts of the simulator

  func unixNanoseconds(at now: Instant) -> Int64 {
    let (sum, overflow) = wallClock.addingReportingOverflow(now.nanoseconds(since: world.start))
    return overflow ? .max : sum
  }

  func owns(_ address: SocketAddress) -> Bool { interface(having: address) != nil }

  func interface(having address: SocketAddress) -> Interface? {
    interfaces.first { interface in interface.addresses.contains { $0.isSameHost(as: address) } }
  }

  /// The address this host would use towards `target`.
  func sourceAddress(towards target: SocketAddress) -> SocketAddress {
    if owns(target) || target.isLoopback { return target }
    let candidates = interfaces.filter { $0.isUp && $0.network != Self.loopbackNetwork }.flatMap(\.addresses)
    return candidates.first { $0.isIPv6 == target.isIPv6 } ?? .loopback(port: 0)
  }

  /// The next ephemeral port; one in use is skipped.
  func makePort(isUsed: (UInt16) -> Bool) -> UInt16 {
    for _ in 0..<28_000 {
      let port = nextPort
      nextPort = nextPort == 60_999 ? 32_768 : nextPort + 1
      if !isUsed(port) { return port }
    }
    return 0
  }

  /// What is still open, armed or queued on its loops.
  package func leaks() -> [String] { loops.flatMap { $0.leaks() } }

  func tearDown() {
    for loop in loops { loop.die(resetting: false) }
    loops.removeAll()
    listeners.removeAll()
    datagramSockets.removeAll()
    processes.removeAll()
    files.removeWatches()
  }
}

extension SocketAddress {
  /// Same IP address, whatever the port. A zone matters only where both name one.
  func isSameHost(as other: SocketAddress) -> Bool {
    switch (self, other) {
    case (.ipv4(let a, _), .ipv4(let b, _)): a == b
    case (.ipv6(let aHigh, let aLow, let aZone, _), .ipv6(let bHigh, let bLow, let bZone, _)):
      aHigh == bHigh && aLow == bLow && (aZone == bZone || aZone == 0 || bZone == 0)
    default: false
    }
  }

  var isMulticast: Bool {
    switch self {
    case .ipv4(let address, _): address &>> 28 == 0xE
    case .ipv6(let high, _, _, _): high &>> 56 == 0xFF
    case .unix: false
    }
  }
}
