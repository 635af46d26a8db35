// A connection for `async` code of the control plane, over the driver's streams: dial, read, write, close, each with a
// deadline, each ended soon by cancellation of its task.
//
//   dial ──▶ open ──▶ (peer ends its half: reads give nil) ──▶ over
//     └── fails ─────────────── close(), error ────────────────▲
//
// Reading holds the peer back: when `bufferedMax` bytes wait to be read, the socket is not read on. Writing waits while
// the driver's queue is above its high watermark. `startTLS` may come at any time after the dial: some protocols speak
// in the clear first.

import SidecarCore
import SidecarTLS

/// Why a connection could not be made or is of no use any more.
package enum ConnectionError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Something answered at the address, and said no: nothing listens there.
  case refused
  /// The name has no address, or there is no way to it.
  case unreachable(String)
  case timedOut
  /// It broke, or the peer ended it where more was due.
  case closed(String)
  case cancelled
  /// The TLS handshake or a record failed; a sentence with the next step.
  case tls(String)

  package var description: String {
    switch self {
    case .refused: "the connection was refused"
    case .unreachable(let why): "it cannot be reached: \(why)"
    case .timedOut: "no answer in time"
    case .closed(let why): why
    case .cancelled: "cancelled"
    case .tls(let why): why
    }
  }
}

/// Threading: the loop of its driver only (`Sendable` so that tasks on that loop may hold it). One task may read while
/// another writes; two that read at once, or write at once, are a programmer's error.
package final class AsyncConnection: @unchecked Sendable {
  /// Bytes received and not yet read above which the socket is left alone until half of them are read.
  package static let bufferedMax = 256 * 1024

  private let driver: any Driver
  private let target: Destination
  private let readGate: LoopGate
  private let writeGate: LoopGate
  private var stream: ByteStream?
  private var tls: TLSSession?
  private var received = ByteBuffer()
  private var isOpen = false
  private var isPaused = false
  private var isCongested = false
  private var peerEnded = false
  private var isClosedHere = false
  /// Why it is over; nil while it lives.
  private var failure: ConnectionError?

  private init(driver: any Driver, target: Destination) {
    self.driver = driver
    self.target = target
    readGate = LoopGate(driver: driver)
    writeGate = LoopGate(driver: driver)
  }

  deinit { stream?.reset() }

  /// Dials `target`; a name's addresses are tried in order, each for its share of the time that is left.
  package static func dial(
    _ target: Destination, driver: any Driver, deadline: Instant
  ) async throws(ConnectionError) -> AsyncConnection {
    let connection = AsyncConnection(driver: driver, target: target)
    let addresses = try await connection.addresses(deadline)
    var last = ConnectionError.unreachable("\(target) has no address")
    for (index, address) in addresses.enumerated() {
      let share = deadline.nanoseconds(since: driver.now) / Int64(addresses.count - index)
      do throws(ConnectionError) {
        try await connection.open(address, min(deadline, driver.now.advanced(byNanoseconds: share)))
        return connection
      } catch {
        if error == .cancelled { throw error }
        last = error
      }
    }
    throw last
  }

  /// The peer, once dialled.
  package var peerAddress: SocketAddress? { stream?.peerAddress }
  package var localAddress: SocketAddress? { stream?.localAddress }
  /// Neither half has ended and nothing has failed.
  package var isUsable: Bool { isOpen && !peerEnded && failure == nil }
  /// Bytes that were received and not yet read.
  package var bufferedBytes: Int { received.count }

  /// Secures the connection. `host`: the name or address that the peer's certificate is to be for; nil takes any.
  package func startTLS(_ context: TLSContext, host: String?, deadline: Instant) async throws(ConnectionError) {
    precondition(tls == nil, "a connection is secured once")
    do throws(TLSError) {
      let session = try TLSSession(context, peer: .server(host: host))
      tls = session
      try session.handshake()
      let early = received
      received = ByteBuffer()
      if !early.isEmpty { decrypt(early.bytes) }
      flush(session)
      while !session.isEstablished {
        if let failure { throw TLSError(failure.description) }
        if peerEnded { throw TLSError("\(target) ended the connection during the TLS handshake") }
        switch await readGate.wait(until: deadline) {
        case .opened: break
        case .timedOut: throw TLSError("\(target) did not finish the TLS handshake in time")
        case .cancelled: throw TLSError("cancelled")
        }
      }
    } catch {
      // What the session itself said is kept: the socket's end that follows it says less.
      let failure = failure ?? .tls(error.message)
      close()
      throw Task.isCancelled ? .cancelled : failure
    }
  }

  // MARK: Reading and writing

  /// The next bytes, as many as are here, never none; nil once the peer has ended its half in order.
  package func read(deadline: Instant = .distantFuture) async throws(ConnectionError) -> [UInt8]? {
    guard try await awaitBytes(1, deadline) else { return nil }
    let bytes = [UInt8](received.bytes)
    received.removeAll()
    afterRead()
    return bytes
  }

  /// Exactly `count` bytes, at most `bufferedMax`; a peer that ends before is `.closed`.
  package func read(
    exactly count: Int, deadline: Instant = .distantFuture
  ) async throws(ConnectionError) -> [UInt8] {
    precondition(count >= 0 && count <= Self.bufferedMax, "more than is ever buffered")
    guard try await awaitBytes(count, deadline) else {
      throw .closed("\(target) ended the connection inside a message")
    }
    return take(count)
  }

  /// Bytes up to and without the next `delimiter`, which is taken too. `.closed` when the peer ends before one comes or
  /// sends more than `limit` bytes without one.
  package func read(
    until delimiter: UInt8, limit: Int, deadline: Instant = .distantFuture
  ) async throws(ConnectionError) -> [UInt8] {
    var searched = 0
    while true {
      if let found = received.bytes[searched...].firstIndex(of: delimiter) {
        var bytes = take(found + 1)
        bytes.removeLast()
        return bytes
      }
      searched = received.count
      guard searched < min(limit, Self.bufferedMax) else {
        throw .closed("\(target) sent more than \(limit) bytes without an end")
      }
      guard try await awaitBytes(searched + 1, deadline) else {
        throw .closed("\(target) ended the connection inside a message")
      }
    }
  }

  /// Takes the bytes in, to be sent in order, and waits until the queue is below its high watermark.
  package func write(_ bytes: [UInt8], deadline: Instant = .distantFuture) async throws(ConnectionError) {
    if Task.isCancelled { throw .cancelled }
    if let failure { throw failure }
    send(bytes)
    while isCongested {
      switch await writeGate.wait(until: deadline) {
      case .opened: if let failure { throw failure }
      case .timedOut: throw .timedOut
      case .cancelled: throw .cancelled
      }
    }
  }

  /// Ends our half after what was written.
  package func finishWriting() { stream?.shutdownWrites() }

  /// Ends it after what was written; reads and writes under way end with `.closed`. Twice is once.
  package func close() {
    isClosedHere = true
    if let tls {
      tls.close()
      flush(tls)
    }
    fail(.closed("the connection was closed here"))
    stream?.close()
  }

  private func take(_ count: Int) -> [UInt8] {
    let bytes = [UInt8](received.bytes(0..<count))
    received.removeFirst(count)
    afterRead()
    return bytes
  }

  private func afterRead() {
    if received.isEmpty, received.capacity > BufferPool.keptCapacity { received = ByteBuffer() }
    guard isPaused, received.count <= Self.bufferedMax / 2 else { return }
    isPaused = false
    stream?.resumeReading()
  }

  /// Whether `count` bytes are here before the peer's end. What was received is given out before a failure is told.
  private func awaitBytes(_ count: Int, _ deadline: Instant) async throws(ConnectionError) -> Bool {
    if Task.isCancelled { throw .cancelled }
    while received.count < count {
      if peerEnded, !isClosedHere { return false }
      if let failure { throw failure }
      switch await readGate.wait(until: deadline) {
      case .opened: break
      case .timedOut: throw .timedOut
      case .cancelled: throw .cancelled
      }
    }
    return true
  }

  private func send(_ bytes: [UInt8]) {
    guard let tls else {
      if stream?.write(bytes) == .congested { isCongested = true }
      return
    }
    do throws(TLSError) {
      let result = bytes.withUnsafeBytes { bytes in Result { () throws(TLSError) in try tls.write(bytes) } }
      try result.get()
      flush(tls)
    } catch {
      fail(.tls(error.message))
    }
  }

  /// Sends what TLS has to say.
  private func flush(_ session: TLSSession) {
    let out = ByteBuffer()
    session.takeOutput(into: out)
    guard !out.isEmpty else { return }
    if stream?.write(out.bytes) == .congested { isCongested = true }
  }

  private func take(_ bytes: UnsafeRawBufferPointer) {
    if tls == nil { received.append(bytes) } else { decrypt(bytes) }
  }

  private func decrypt(_ bytes: UnsafeRawBufferPointer) {
    guard let tls else { return }
    do throws(TLSError) {
      try tls.receive(bytes)
      try tls.read(into: received)
      if tls.peerEnded { peerEnded = true }
    } catch {
      fail(.tls(error.message))
    }
    flush(tls)
  }

  // MARK: Dialling

  private func addresses(_ deadline: Instant) async throws(ConnectionError) -> [SocketAddress] {
    guard case .name(let host, let port) = target else {
      guard case .address(let address) = target else { return [] }
      return [address]
    }
    let lookup = Lookup()
    driver.resolve(host: host) { [readGate] result in
      lookup.result = result
      readGate.open()
    }
    while true {
      if let result = lookup.result {
        switch result {
        case .failure(let error): throw .unreachable("\(host) cannot be looked up: \(error.message)")
        case .success(var addresses):
          for index in addresses.indices { addresses[index].port = port }
          return addresses
        }
      }
      switch await readGate.wait(until: deadline) {
      case .opened: break
      case .timedOut: throw .unreachable("\(host) could not be looked up in time")
      case .cancelled: throw .cancelled
      }
    }
  }

  /// What a look-up said. Touched on the loop only.
  private final class Lookup: @unchecked Sendable { var result: Result<[SocketAddress], DriverError>? }

  private func open(_ address: SocketAddress, _ deadline: Instant) async throws(ConnectionError) {
    if Task.isCancelled { throw .cancelled }
    failure = nil
    let stream = driver.connect(to: address, handler: Relay(self))
    self.stream = stream
    while !isOpen {
      if let failure { throw failure }
      let wake = await readGate.wait(until: deadline)
      if wake == .opened { continue }
      self.stream = nil
      stream.reset()
      throw wake == .timedOut ? .timedOut : .cancelled
    }
  }

  private func fail(_ error: ConnectionError) {
    guard failure == nil else { return }
    failure = error
    isCongested = false
    readGate.open()
    writeGate.open()
  }

  // MARK: Events

  /// What the driver holds instead of the connection, so that one nobody holds any more ends.
  private final class Relay: StreamHandler {
    private weak var connection: AsyncConnection?
    init(_ connection: AsyncConnection) { self.connection = connection }

    /// The connection, if `stream` is its present one and not of a dial given up.
    private func owner(_ stream: ByteStream) -> AsyncConnection? {
      connection.flatMap { $0.stream === stream ? $0 : nil }
    }

    func streamOpened(_ stream: ByteStream) {
      guard let connection = owner(stream) else { return }
      connection.isOpen = true
      connection.readGate.open()
    }

    func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
      guard let connection = owner(stream), connection.failure == nil else { return }
      connection.take(bytes)
      if connection.received.count >= AsyncConnection.bufferedMax, !connection.isPaused {
        connection.isPaused = true
        stream.pauseReading()
      }
      connection.readGate.open()
    }

    func streamEnded(_ stream: ByteStream) {
      guard let connection = owner(stream) else { return }
      // Without TLS's own goodbye somebody may have cut what was said.
      if let tls = connection.tls, tls.isEstablished, !tls.peerEnded {
        return connection.fail(.closed("\(connection.target) ended the connection without TLS's goodbye"))
      }
      connection.peerEnded = true
      connection.readGate.open()
    }

    func streamDrained(_ stream: ByteStream) {
      guard let connection = owner(stream) else { return }
      connection.isCongested = false
      connection.writeGate.open()
    }

    func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
      guard let connection = owner(stream) else { return }
      connection.stream = nil
      switch end {
      case .refused: connection.fail(.refused)
      case .unreachable(let why): connection.fail(.unreachable(why))
      case .reset(let why): connection.fail(.closed("the connection broke: \(why)"))
      case .closedHere, .ended: connection.fail(.closed("\(connection.target) ended the connection"))
      }
    }
  }
}
