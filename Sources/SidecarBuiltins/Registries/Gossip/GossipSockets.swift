// Gives the gossip machine its port: datagrams both ways, and streams for whole states and for news that fit no datagram.

import SidecarCore

/// Threading: the control loop only.
final class GossipSockets: @unchecked Sendable, DatagramHandler {
  /// Streams of others at a time; more are reset.
  static let streamsMax = 64
  /// How long a stream may take.
  static let streamNanoseconds: Int64 = 10_000_000_000
  /// Exchanges of ours at a time.
  static let exchangesMax = 4
  /// Ports of the system's choice tried until one is free for both kinds of sockets.
  static let bindAttempts = 16

  private(set) var machine: GossipMachine
  private let driver: any HostDriver
  private let options: GossipOptions
  private var listener: Listener
  private var socket: DatagramSocket?
  private var timer: LoopTimer?
  private var exchanges = 0
  fileprivate var streams = 0
  private(set) var badMessages = 0

  var onUser: ([UInt8]) -> Void = { _ in }
  var onState: ([UInt8]) -> Void = { _ in }
  var onJoined: (Memberlist.Member) -> Void = { _ in }
  var onGone: (Memberlist.Member) -> Void = { _ in }
  /// Nil: the cluster is there; else why not.
  var onReachable: (String?) -> Void = { _ in }
  var localState: () -> [UInt8] = { [] }

  init(options: GossipOptions, driver: any HostDriver) throws(DriverError) {
    self.options = options
    self.driver = driver
    let port = Port()
    var attempt = 0
    while true {
      attempt += 1
      listener = try driver.listen(on: options.bind, sharedPort: false) { port.owner?.accept($0) ?? $0.reset() }
      var address = options.bind
      address.port = listener.address.port
      do throws(DriverError) {
        socket = try driver.bindDatagram(to: address, sharedPort: false, handler: port)
        break
      } catch {
        listener.close()
        guard options.bind.port == 0, attempt < Self.bindAttempts else { throw error }
      }
    }
    let bound = listener.address
    var advertised = options.advertise ?? Self.reachable(bound, driver.interfaces())
    if advertised.port == 0 { advertised.port = bound.port }
    machine = GossipMachine(
      name: options.memberName ?? "micro-\(driver.hostName)-\(driver.random.uuid())", address: advertised, peers: [],
      timing: GossipTiming(), random: SeededRandom(seed: driver.random.next()), now: driver.now)
    port.owner = self
  }

  deinit {
    timer?.cancel()
    listener.close()
    socket?.close()
  }

  /// What the sockets hold instead of us, so that they do not keep us alive.
  private final class Port: DatagramHandler {
    weak var owner: GossipSockets?
    func datagramReceived(
      _ socket: DatagramSocket, _ bytes: UnsafeRawBufferPointer, from peer: SocketAddress, interface: UInt32
    ) {
      owner?.datagramReceived(socket, bytes, from: peer, interface: interface)
    }
  }

  /// What others dial for a port bound to all addresses: a private one of this host, else any, else the loopback.
  private static func reachable(_ bound: SocketAddress, _ interfaces: [NetworkInterface]) -> SocketAddress {
    guard bound.isWildcard else { return bound }
    let usable = interfaces.filter { $0.isUp && $0.address.isIPv6 == bound.isIPv6 && !$0.isLoopback }.map(\.address)
    var address = usable.first(where: \.isPrivate) ?? usable.first ?? .loopback(port: 0)
    address.port = bound.port
    return address
  }

  /// Looks the peers up and begins.
  func start() {
    let timer = LoopTimer { [unowned self] in run() }
    self.timer = timer
    let literal = options.peers.compactMap { SocketAddress(host: $0.host, port: $0.port) }
    machine.peers = literal.filter { $0 != machine.own.address }
    for peer in options.peers where SocketAddress(host: peer.host, port: peer.port) == nil { lookUp(peer) }
    run()
  }

  /// A name may mean other members each time, as a headless service of Kubernetes does.
  private func lookUp(_ peer: ServerAddress) {
    driver.resolve(host: peer.host) { [weak self] result in
      guard let self else { return }
      if case .success(let addresses) = result {
        for var address in addresses {
          address.port = peer.port
          if address != machine.own.address, !machine.peers.contains(address) { machine.peers.append(address) }
        }
      }
      let again = LoopTimer { [weak self] in self?.lookUp(peer) }
      driver.timers.arm(again, after: 30_000_000_000, from: driver.now)
    }
  }

  // MARK: Speaking

  func tell(_ payload: [UInt8], about subject: String) {
    if payload.count > Memberlist.datagramBytesMax - 8 {
      for member in machine.others { stream(payload, to: member.address) }
    } else {
      perform(machine.tell(payload, about: subject, now: driver.now))
    }
    rearm()
  }

  func relay(_ payload: [UInt8], about subject: String) {
    machine.relay(payload, about: subject, now: driver.now)
    rearm()
  }

  func takeBack(about subject: String) { machine.takeBack(about: subject) }

  func leave() { perform(machine.leave()) }

  func send(user payload: [UInt8], to address: SocketAddress) {
    if payload.count > Memberlist.datagramBytesMax - 8 {
      stream(payload, to: address)
    } else {
      send(datagram: Memberlist.datagram(.user(payload)), to: address)
    }
  }

  /// Asks a member for all it knows, without telling it what it would then keep for ever.
  func pull() {
    guard let member = machine.others.randomElement(using: &driver.random) else { return }
    exchange(with: member.address, isJoin: true, userState: [])
  }

  private func run() {
    perform(machine.advance(to: driver.now))
    rearm()
  }

  private func rearm() {
    guard let timer else { return }
    driver.timers.arm(timer, at: machine.nextDue)
  }

  private func perform(_ actions: [GossipMachine.Action]) {
    for action in actions {
      switch action {
      case .send(let bytes, let address): send(datagram: bytes, to: address)
      case .exchange(let address, let isJoin):
        exchange(with: address, isJoin: isJoin, userState: isJoin ? localState() : [])
      case .deliver(let payload): onUser(payload)
      case .joined(let member): onJoined(member)
      case .gone(let member):
        onGone(member)
        if machine.isAlone, !machine.peers.isEmpty { onReachable("no other member can be reached") }
      }
    }
  }

  // MARK: Datagrams

  private func send(datagram bytes: [UInt8], to address: SocketAddress) {
    guard let keyring = options.keyring else { return _ = socket?.send(bytes, to: address) }
    if let sealed = keyring.sealed(bytes) { socket?.send(sealed, to: address) }
  }

  func datagramReceived(
    _ socket: DatagramSocket, _ bytes: UnsafeRawBufferPointer, from peer: SocketAddress, interface: UInt32
  ) {
    var messages: [Memberlist.Message] = []
    do throws(WireError) {
      if let keyring = options.keyring {
        try Self.read(datagram: try keyring.opened(datagram: bytes)) { messages.append($0) }
      } else {
        try Memberlist.read(datagram: bytes) { messages.append($0) }
      }
    } catch {
      badMessages += 1
    }
    for message in messages { perform(machine.received(message, from: peer, now: driver.now)) }
    rearm()
  }

  private static func read(
    datagram bytes: [UInt8], _ handle: (Memberlist.Message) -> Void
  ) throws(WireError) {
    let result = bytes.withUnsafeBytes { bytes in
      Result { () throws(WireError) in try Memberlist.read(datagram: bytes, handle) }
    }
    try result.get()
  }

  // MARK: Streams

  /// A message as it is written to a stream; nil when it cannot be encrypted.
  private func sealed(_ message: Memberlist.StreamMessage) -> [UInt8]? {
    let bytes = Memberlist.stream(message)
    return options.keyring.map { $0.sealed(stream: bytes) } ?? bytes
  }

  /// The message that the bytes of a stream make; nil while they are not all there.
  fileprivate func message(_ bytes: [UInt8]) throws(WireError) -> Memberlist.StreamMessage? {
    guard let keyring = options.keyring else { return try bytes.readStream() }
    guard let opened = try keyring.opened(stream: bytes) else { return nil }
    guard let message = try opened.readStream() else { throw WireError("an encrypted memberlist message is cut") }
    return message
  }

  private func exchange(with address: SocketAddress, isJoin: Bool, userState: [UInt8]) {
    guard exchanges < Self.exchangesMax else { return }
    exchanges += 1
    let state = Memberlist.PushPull(members: machine.members, isJoin: isJoin, userState: userState)
    guard let said = sealed(.pushPull(state)) else { return exchanges -= 1 }
    let hint = options.keyring == nil ? "as members of an encrypted cluster do" : "as members with another key do"
    _ = startTask(on: driver) { [weak self] in
      guard let driver = self?.driver else { return }
      let deadline = driver.now.advanced(byNanoseconds: Self.streamNanoseconds)
      var failure: String?
      var isDialled = false
      do throws(ConnectionError) {
        let connection = try await AsyncConnection.dial(.address(address), driver: driver, deadline: deadline)
        isDialled = true
        try await connection.write(said, deadline: deadline)
        var received: [UInt8] = []
        while true {
          guard let bytes = try await connection.read(deadline: deadline) else {
            throw .closed("it ended the exchange")
          }
          received += bytes
          guard let self else { return connection.close() }
          let message: Memberlist.StreamMessage?
          do throws(WireError) {
            message = try self.message(received)
          } catch {
            connection.close()
            throw .closed("it does not speak memberlist as we do (\(error.rule))")
          }
          guard let message else { continue }
          connection.close()
          exchanged(message, with: address)
          break
        }
      } catch {
        failure = "\(address): \(error)"
        if case .closed = error, isDialled { failure?.append(", \(hint)") }
      }
      guard let self else { return }
      exchanges -= 1
      if let failure, machine.isAlone { onReachable(failure) }
    }
  }

  private func exchanged(_ message: Memberlist.StreamMessage, with address: SocketAddress) {
    switch message {
    case .pushPull(let state):
      take(state)
      onReachable(nil)
    case .error(let sentence): onReachable("\(address) refuses: \(sentence)")
    case .ping, .ack, .user: break
    }
  }

  private func take(_ state: Memberlist.PushPull) {
    perform(machine.merge(state.members, now: driver.now))
    if !state.userState.isEmpty { onState(state.userState) }
    rearm()
  }

  /// A user's message by a stream of its own; one that cannot be dialled hears of it with the next renewal.
  private func stream(_ payload: [UInt8], to address: SocketAddress) {
    guard let said = sealed(.user(payload)) else { return }
    _ = startTask(on: driver) { [weak self] in
      guard let driver = self?.driver else { return }
      let deadline = driver.now.advanced(byNanoseconds: Self.streamNanoseconds)
      guard let connection = try? await AsyncConnection.dial(.address(address), driver: driver, deadline: deadline)
      else { return }
      try? await connection.write(said, deadline: deadline)
      connection.close()
    }
  }

  private func accept(_ stream: ByteStream) {
    guard streams < Self.streamsMax else { return stream.reset() }
    streams += 1
    stream.handler = Incoming(self, stream, driver)
  }

  /// What a message on a stream of somebody else's is answered with; nil: nothing.
  fileprivate func answer(_ message: Memberlist.StreamMessage) -> [UInt8]? {
    switch message {
    case .pushPull(let state):
      let reply = Memberlist.PushPull(
        members: machine.members, isJoin: state.isJoin, userState: state.isJoin ? localState() : [])
      take(state)
      onReachable(nil)
      return sealed(.pushPull(reply))
    case .ping(let sequence, let node):
      return node.isEmpty || node == machine.own.name
        ? sealed(.ack(sequence: sequence)) : nil
    case .user(let payload):
      onUser(payload)
      return nil
    case .ack, .error: return nil
    }
  }
  fileprivate func wasBad() { badMessages += 1 }
}

extension [UInt8] {
  fileprivate func readStream() throws(WireError) -> Memberlist.StreamMessage? {
    let result = withUnsafeBytes { bytes in Result { () throws(WireError) in try Memberlist.read(stream: bytes) } }
    return try result.get()
  }
}

/// A stream that somebody else began: one message, and its answer.
private final class Incoming: StreamHandler {
  private weak var owner: GossipSockets?
  private var received: [UInt8] = []
  private var isDone = false
  private var timer: LoopTimer?

  init(_ owner: GossipSockets, _ stream: ByteStream, _ driver: any Driver) {
    self.owner = owner
    let timer = LoopTimer { [weak stream] in stream?.reset() }
    self.timer = timer
    driver.timers.arm(timer, after: GossipSockets.streamNanoseconds, from: driver.now)
  }

  func streamOpened(_ stream: ByteStream) {}

  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    guard !isDone, let owner else { return }
    received += bytes
    do throws(WireError) {
      guard let message = try owner.message(received) else { return }
      isDone = true
      if let answer = owner.answer(message) { stream.write(answer) }
      stream.close()
    } catch {
      isDone = true
      owner.wasBad()
      stream.reset()
    }
  }

  func streamEnded(_ stream: ByteStream) { if !isDone { stream.reset() } }
  func streamDrained(_ stream: ByteStream) {}
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    timer?.cancel()
    owner?.streams -= 1
  }
}
