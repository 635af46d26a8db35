// A connection to one of several NATS servers that comes back by itself, for the control plane.
//
//   dialling ── INFO, TLS, CONNECT, PING, PONG ──▶ up ── broke, silent, -ERR ──▶ waiting (0 … 1 s, jitter) ──▶ dialling
//
// Subscriptions stand as long as the client does and are made anew on every connection. What is published while there is
// none fails: NATS keeps nothing, so a late message would be an old one.

import SidecarCore
import SidecarTLS

struct NATSSettings {
  var servers: [ServerAddress]
  /// Read anew for each connection.
  var credentials: () throws(ConfigurationError) -> [(key: String, value: String)]
  /// Nil: in the clear, unless the server demands TLS.
  var tls: TLSSource?
  var name: String
  /// Whether the server sends us what we publish.
  var hearsItself = false
}

/// Threading: the control loop only.
final class NATSClient: @unchecked Sendable {
  /// Bytes of a message taken; servers allow 1 MiB unless told otherwise and 64 MiB at most.
  static let messageBytesMax = 8 << 20
  static let subscriptionsMax = 4096
  /// Bytes waiting for a server that does not read; more end the connection.
  static let outgoingBytesMax = 16 << 20
  /// How long dialling, greeting and the first answer may take.
  static let connectNanoseconds: Int64 = 2_000_000_000
  /// The longest wait between two rounds over the servers: so soon after a server's return we are back.
  static let backoffNanoseconds: Int64 = 1_000_000_000
  /// A server that was silent so long is asked, and given up when it does not answer within the same time.
  static let pingNanoseconds: Int64 = 10_000_000_000

  /// A message, copied from its connection's buffer.
  struct Message: Sendable {
    var reply: String?
    var payload: [UInt8]
    /// The server says that nobody listens.
    var hasNoResponders: Bool
  }

  private struct Subscription {
    var subject: String
    var handler: (Message) -> Void
  }

  let settings: NATSSettings
  private let driver: any HostDriver
  private var subscriptions: [UInt64: Subscription] = [:]
  private var lastSubscription: UInt64 = 0
  private var connection: AsyncConnection?
  private var isUp = false
  private var task: Task<Void, Never>?
  /// PONGs that are due, oldest first, each with who waits for it.
  private var pongs: [LoopGate?] = []
  private var out = ByteBuffer()
  private var isWriting = false
  /// What the server complained of since a flush began to wait.
  private(set) var lastError: String?

  /// A connection stands: subscriptions are made. Runs before anything is received on it.
  var onUp: () -> Void = {}
  /// The connection is gone, or could not be made; the cause, again for every failed round.
  var onDown: (RegistryError) -> Void = { _ in }

  init(settings: NATSSettings, driver: any HostDriver) {
    self.settings = settings
    self.driver = driver
  }

  deinit {
    task?.cancel()
    connection?.close()
  }

  /// Twice is once.
  func start() {
    guard task == nil else { return }
    task = startTask(on: driver) { [weak self] in
      var index = 0
      var failures = 0
      while !Task.isCancelled {
        guard let count = self?.settings.servers.count else { return }
        let wasUp = await self?.serve(index % count) ?? false
        if wasUp { failures = 0 } else { index += 1 }
        failures += 1
        guard let driver = self?.driver, !Task.isCancelled else { return }
        // The other servers first; after a round over all a wait that grows.
        guard wasUp || index % count == 0 else { continue }
        let span = min(50_000_000 << Int64(min(failures / count, 8)), Self.backoffNanoseconds)
        await driver.pause(nanoseconds: Int64(driver.random.below(Int(span) + 1)))
      }
    }
  }

  // MARK: Talking

  /// Hears of messages to `subject` from now on; the number to end it with. Nil when there are too many.
  func subscribe(_ subject: String, _ handler: @escaping (Message) -> Void) -> UInt64? {
    guard subscriptions.count < Self.subscriptionsMax else { return nil }
    lastSubscription += 1
    subscriptions[lastSubscription] = Subscription(subject: subject, handler: handler)
    if isUp {
      NATSWriter.subscribe(subject, as: lastSubscription, into: out)
      flushSoon()
    }
    return lastSubscription
  }

  func unsubscribe(_ id: UInt64) {
    guard subscriptions.removeValue(forKey: id) != nil, isUp else { return }
    NATSWriter.unsubscribe(id, into: out)
    flushSoon()
  }

  /// False when there is no connection; the message is dropped then.
  @discardableResult
  func publish(_ subject: String, reply: String? = nil, _ payload: [UInt8]) -> Bool {
    guard isUp else { return false }
    payload.withUnsafeBytes { payload in
      Array(subject.utf8).withUnsafeBytes { subject in
        guard let reply else { return NATSWriter.publish(subject, payload, into: out) }
        Array(reply.utf8).withUnsafeBytes { NATSWriter.publish(subject, reply: $0, payload, into: out) }
      }
    }
    flushSoon()
    return true
  }

  /// Waits until the server has taken what was published so far. Errors: no connection, no answer in time, or what the
  /// server says is not permitted.
  func confirm(within nanoseconds: Int64) async throws(RegistryError) {
    guard isUp else { throw .unavailable("nats: not connected") }
    lastError = nil
    let gate = LoopGate(driver: driver)
    pongs.append(gate)
    NATSWriter.ping(into: out)
    flushSoon()
    switch await gate.wait(until: driver.now.advanced(byNanoseconds: nanoseconds)) {
    case .opened: break
    case .timedOut: throw .unavailable("nats: no answer within \(nanoseconds / 1_000_000) ms")
    case .cancelled: throw .unavailable("cancelled")
    }
    guard isUp else { throw .unavailable("nats: the connection broke") }
    if let lastError, lastError.lowercased().hasPrefix("permissions violation") {
      throw .refused("nats: the server says: \(lastError)")
    }
  }

  /// What is said meanwhile goes out with the next write.
  private func flushSoon() {
    guard !isWriting, let connection else { return }
    guard out.count <= Self.outgoingBytesMax else { return connection.close() }
    isWriting = true
    _ = startTask(on: driver) { [weak self] in
      while let self, self.connection === connection, !out.isEmpty {
        let bytes = [UInt8](out.bytes)
        out.removeAll()
        guard (try? await connection.write(bytes)) != nil else { break }
      }
      self?.isWriting = false
      // Another connection may have come meanwhile.
      if let self, self.connection !== connection, !out.isEmpty { flushSoon() }
    }
  }

  // MARK: The connection

  /// Serves one connection to its end; whether it stood.
  private func serve(_ index: Int) async -> Bool {
    let server = settings.servers[index]
    var wasUp = false
    do throws(RegistryError) {
      let connection = try await connect(server)
      wasUp = true
      try await read(connection)
    } catch {
      isUp = false
      connection?.close()
      connection = nil
      out.removeAll()
      let waiting = pongs
      pongs = []
      for gate in waiting { gate?.open() }
      onDown(error)
    }
    return wasUp
  }

  private func connect(_ server: ServerAddress) async throws(RegistryError) -> AsyncConnection {
    let place = "nats server \(server.authority)"
    do throws(NATSTrouble) {
      let connection = try await greet(server)
      self.connection = connection
      isUp = true
      out.removeAll()
      for (id, subscription) in subscriptions { NATSWriter.subscribe(subscription.subject, as: id, into: out) }
      flushSoon()
      onUp()
      return connection
    } catch {
      switch error {
      case .connection(let error): throw .unavailable("\(place): \(error)")
      case .wire(let error): throw .unavailable("\(place) does not speak NATS: \(error.rule)")
      case .tls(let error): throw .unavailable("\(place): \(error.message)")
      case .said(let text): throw .refused("\(place) says: \(text)")
      case .settings(let error): throw .refused(error.message)
      }
    }
  }

  private enum NATSTrouble: Error {
    case connection(ConnectionError)
    case wire(WireError)
    case tls(TLSError)
    case said(String)
    case settings(ConfigurationError)
  }

  /// INFO is read by itself, since TLS begins right after it.
  private func greet(_ server: ServerAddress) async throws(NATSTrouble) -> AsyncConnection {
    let deadline = driver.now.advanced(byNanoseconds: Self.connectNanoseconds)
    let target: Destination =
      SocketAddress(host: server.host, port: server.port).map { .address($0) }
      ?? .name(host: server.host, port: server.port)
    let connection: AsyncConnection
    do throws(ConnectionError) {
      connection = try await AsyncConnection.dial(target, driver: driver, deadline: deadline)
    } catch {
      throw .connection(error)
    }
    do throws(NATSTrouble) {
      var reader = NATSReader(messageBytesMax: Self.messageBytesMax)
      let line = try await Self.line(connection, deadline)
      var info: JSONValue?
      try Self.receive(line, &reader) { operation in
        if case .info(let bytes) = operation { info = try? JSONValue(parsing: bytes) }
      }
      guard let info else { throw NATSTrouble.wire(WireError("its first line is no INFO")) }
      let isTLS = settings.tls != nil || server.scheme == "tls" || info["tls_required"]?.boolValue == true
      if isTLS { try await secure(connection, server, deadline) }
      let credentials: [(key: String, value: String)]
      do throws(ConfigurationError) { credentials = try settings.credentials() } catch {
        throw NATSTrouble.settings(error)
      }
      let hello = ByteBuffer()
      NATSWriter.connect(
        name: settings.name, credentials: credentials, isTLS: isTLS, hearsItself: settings.hearsItself, into: hello)
      NATSWriter.ping(into: hello)
      do throws(ConnectionError) {
        try await connection.write([UInt8](hello.bytes), deadline: deadline)
      } catch {
        throw NATSTrouble.connection(error)
      }
      var isTaken = false
      while !isTaken {
        var complaint: String?
        try Self.receive(try await Self.line(connection, deadline), &reader) { operation in
          switch operation {
          case .pong: isTaken = true
          case .error(let text): complaint = String(decoding: text, as: UTF8.self)
          case .info, .message, .ping, .ok: break
          }
        }
        if let complaint { throw NATSTrouble.said(complaint) }
      }
      return connection
    } catch {
      connection.close()
      throw error
    }
  }

  private func secure(_ connection: AsyncConnection, _ server: ServerAddress, _ deadline: Instant)
    async throws(NATSTrouble)
  {
    let source = settings.tls ?? TLSSource(driver: driver)
    let context: TLSContext
    do throws(TLSError) { context = try source.context() } catch { throw .tls(error) }
    do throws(ConnectionError) {
      try await connection.startTLS(
        context, host: source.verifies ? source.serverName ?? server.host : nil, deadline: deadline)
    } catch {
      throw .connection(error)
    }
  }

  private static func line(_ connection: AsyncConnection, _ deadline: Instant) async throws(NATSTrouble) -> [UInt8] {
    do throws(ConnectionError) {
      return try await connection.read(until: 0x0A, limit: NATSReader.infoBytesMax, deadline: deadline) + [0x0A]
    } catch {
      throw .connection(error)
    }
  }

  private static func receive(
    _ bytes: [UInt8], _ reader: inout NATSReader, _ handle: (NATSOperation) -> Void
  ) throws(NATSTrouble) {
    let result = bytes.withUnsafeBytes { bytes in
      Result { () throws(WireError) in try reader.receive(bytes, handle) }
    }
    if case .failure(let error) = result { throw .wire(error) }
  }

  private func read(_ connection: AsyncConnection) async throws(RegistryError) {
    var reader = NATSReader(messageBytesMax: Self.messageBytesMax)
    var isAsked = false
    while true {
      let bytes: [UInt8]
      do throws(ConnectionError) {
        guard let read = try await connection.read(deadline: driver.now.advanced(byNanoseconds: Self.pingNanoseconds))
        else { throw .closed("it ended the connection") }
        bytes = read
      } catch {
        guard error == .timedOut, !isAsked else { throw .unavailable("nats: \(error)") }
        isAsked = true
        pongs.append(nil)
        NATSWriter.ping(into: out)
        flushSoon()
        continue
      }
      isAsked = false
      do throws(NATSTrouble) {
        try Self.receive(bytes, &reader) { self.take($0) }
      } catch {
        guard case .wire(let error) = error else { continue }
        throw .unavailable("nats: the server broke a rule: \(error)")
      }
    }
  }

  private func take(_ operation: NATSOperation) {
    switch operation {
    case .message(let message):
      guard let subscription = subscriptions[message.subscription] else { return }
      var hasNoResponders = false
      if !message.headers.isEmpty {
        hasNoResponders = NATSHeaders.read(message.headers) { _, _ in } == .code(503)
      }
      subscription.handler(
        Message(
          reply: message.reply.map { String(decoding: $0, as: UTF8.self) }, payload: [UInt8](message.payload),
          hasNoResponders: hasNoResponders))
    case .ping:
      NATSWriter.pong(into: out)
      flushSoon()
    case .pong: if !pongs.isEmpty { pongs.removeFirst()?.open() }
    // An error that ends the connection is followed by its end.
    case .error(let text): lastError = String(decoding: text, as: UTF8.self)
    case .info, .ok: break
    }
  }
}
