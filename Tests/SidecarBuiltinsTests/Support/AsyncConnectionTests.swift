import SidecarBuiltins
import SidecarCore
import SidecarSim
import Testing

@Suite("Connections for async code") struct AsyncConnectionTests {
  /// A world of two hosts, with a server on the second that does what `onRead` says.
  private final class Peer: StreamHandler, @unchecked Sendable {
    let simulated = SimulatedLoop()
    let address: SocketAddress
    var onOpen: (ByteStream) -> Void = { _ in }
    var onRead: (ByteStream, [UInt8]) -> Void = { _, _ in }
    private(set) var received: [UInt8] = []
    private(set) var endCount = 0
    private(set) var streams: [ByteStream] = []
    private let loop: SimDriver
    private var listener: Listener?

    init() throws {
      let host = simulated.world.makeHost("peer")
      loop = host.makeLoop()
      address = host.address(port: 4000)
      listener = try loop.listen(on: address, sharedPort: false) { [unowned self] stream in
        stream.handler = self
        streams.append(stream)
        onOpen(stream)
      }
    }

    func streamOpened(_ stream: ByteStream) {}
    func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
      received += bytes
      onRead(stream, Array(bytes))
    }
    func streamEnded(_ stream: ByteStream) {
      endCount += 1
      stream.close()
    }
    func streamDrained(_ stream: ByteStream) {}
    func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {}
    func goOnReading() { loop.mailbox.post { [self] in streams.first?.resumeReading() } }

    func dial(within seconds: Int64 = 5) async throws(ConnectionError) -> AsyncConnection {
      let loop = simulated.loop
      return try await AsyncConnection.dial(
        .address(address), driver: loop, deadline: loop.now.advanced(by: .seconds(seconds)))
    }
    func soon(_ milliseconds: Int64 = 100) -> Instant { simulated.loop.now.advanced(by: .milliseconds(milliseconds)) }
  }

  private func failure<Value>(
    _ work: () async throws(ConnectionError) -> Value
  ) async -> ConnectionError? {
    do throws(ConnectionError) {
      _ = try await work()
      return nil
    } catch {
      return error
    }
  }

  @Test func `what is written arrives, and what comes back is read`() throws {
    let peer = try Peer()
    peer.onRead = { stream, bytes in stream.write(Array("<".utf8) + bytes + Array(">".utf8)) }
    try peer.simulated.run { [self] in
      let connection = try await peer.dial()
      try await connection.write(Array("hello".utf8))
      #expect(try await connection.read(exactly: 3) == Array("<he".utf8))
      #expect(try await connection.read(until: UInt8(ascii: ">"), limit: 10) == Array("llo".utf8))
      let failed1 = await failure { () throws(ConnectionError) in try await connection.read(deadline: peer.soon()) }
      #expect(failed1 == .timedOut)
      #expect(connection.isUsable)
      connection.close()
      #expect(!connection.isUsable)
      let failed2 = await failure { () throws(ConnectionError) in try await connection.write([1]) }
      #expect(failed2 != nil)
    }
    #expect(peer.endCount == 1)
  }

  @Test func `the peer's end is nil for a read and an error inside a message`() throws {
    let peer = try Peer()
    peer.onOpen = { stream in
      stream.write("abc")
      stream.close()
    }
    try peer.simulated.run { [self] in
      let connection = try await peer.dial()
      #expect(try await connection.read(exactly: 2) == Array("ab".utf8))
      let failed3 = await failure { () throws(ConnectionError) in try await connection.read(exactly: 2) }
      #expect(failed3 == .closed("\(peer.address) ended the connection inside a message"))
      #expect(try await connection.read() == Array("c".utf8))
      #expect(try await connection.read() == nil)
      #expect(!connection.isUsable)
    }
  }

  @Test func `a line longer than its limit is refused`() throws {
    let peer = try Peer()
    peer.onOpen = { $0.write(String(repeating: "x", count: 200)) }
    try peer.simulated.run { [self] in
      let connection = try await peer.dial()
      let error = await failure { () throws(ConnectionError) in
        try await connection.read(until: 10, limit: 100, deadline: peer.soon())
      }
      #expect(error == .closed("\(peer.address) sent more than 100 bytes without an end"))
    }
  }

  @Test func `dialling says why it failed`() throws {
    let peer = try Peer()
    nonisolated(unsafe) let loop = peer.simulated.loop
    try peer.simulated.run { [self] in
      for (text, expected) in [("10.0.0.2:4001", ConnectionError.refused), ("10.9.9.9:1", .timedOut)] {
        let target = try #require(Destination(text))
        let error = await failure { () throws(ConnectionError) in
          try await AsyncConnection.dial(target, driver: loop, deadline: peer.soon(3000))
        }
        if expected == .refused { #expect(error == .refused) } else { #expect(error != nil) }
      }
      let error = await failure { () throws(ConnectionError) in
        try await AsyncConnection.dial(.name(host: "nowhere", port: 1), driver: loop, deadline: peer.soon(3000))
      }
      guard case .unreachable(let why) = error else { throw ConnectionError.closed("expected unreachable") }
      #expect(why.hasPrefix("nowhere cannot be looked up"))
    }
  }

  @Test func `a name's second address is dialled when the first refuses`() throws {
    let peer = try Peer()
    peer.simulated.world.setName("registry", to: ["10.0.0.1", peer.address.host])
    nonisolated(unsafe) let loop = peer.simulated.loop
    try peer.simulated.run {
      let connection = try await AsyncConnection.dial(
        .name(host: "registry", port: 4000), driver: loop, deadline: loop.now.advanced(by: .seconds(3)))
      #expect(connection.peerAddress == peer.address)
    }
  }

  @Test func `cancelling ends a wait soon`() throws {
    let peer = try Peer()
    nonisolated(unsafe) let loop = peer.simulated.loop
    try peer.simulated.run {
      let connection = try await peer.dial()
      let outcome = Box<ConnectionError?>(nil)
      let task = startTask(on: loop) {
        do throws(ConnectionError) { _ = try await connection.read() } catch { outcome.value = error }
      }
      await loop.pause(nanoseconds: 50_000_000)
      #expect(outcome.value == nil)
      let before = loop.now
      task.cancel()
      await task.value
      #expect(outcome.value == .cancelled)
      #expect(loop.now.nanoseconds(since: before) < 10_000_000)
    }
  }

  @Test func `a reader that takes its time holds the peer back, and nothing is lost`() throws {
    let peer = try Peer()
    let total = 3 << 20
    peer.onOpen = { stream in
      var sent = 0
      while sent < total {
        stream.write((0..<4096).map { UInt8(truncatingIfNeeded: (sent + $0) % 251) })
        sent += 4096
      }
      stream.shutdownWrites()
    }
    nonisolated(unsafe) let loop = peer.simulated.loop
    try peer.simulated.run {
      let connection = try await peer.dial()
      await loop.pause(nanoseconds: 2_000_000_000)
      #expect(connection.bufferedBytes < 2 * AsyncConnection.bufferedMax)
      var count = 0
      while let bytes = try await connection.read() {
        #expect(bytes.first == UInt8(truncatingIfNeeded: count % 251))
        count += bytes.count
        await loop.pause(nanoseconds: 1_000_000)
      }
      #expect(count == total)
    }
  }

  @Test func `a writer waits while the peer does not read`() throws {
    let peer = try Peer()
    peer.onOpen = { $0.pauseReading() }
    nonisolated(unsafe) let loop = peer.simulated.loop
    try peer.simulated.run { [self] in
      let connection = try await peer.dial()
      let block = [UInt8](repeating: 7, count: 1 << 20)
      var error: ConnectionError?
      var written = 0
      while error == nil, written < 64 {
        error = await failure { () throws(ConnectionError) in
          try await connection.write(block, deadline: peer.soon(500))
        }
        written += 1
      }
      #expect(error == .timedOut)
      #expect(written < 16)
      peer.goOnReading()
      try await connection.write([8], deadline: peer.soon(30_000))
      await loop.pause(nanoseconds: 2_000_000_000)
      #expect(peer.received.count > block.count)
    }
  }
}

/// A value that a task hands to its test. Touched on one loop only.
final class Box<Value>: @unchecked Sendable {
  var value: Value
  init(_ value: Value) { self.value = value }
}
