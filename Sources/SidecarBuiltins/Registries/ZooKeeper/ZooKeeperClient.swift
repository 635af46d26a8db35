// A session with one of several ZooKeeper servers, which outlives its connections.
//
//   dialling ── connect with the session we have ──▶ up ── broke, silent ──▶ waiting (0 … 1 s, jitter) ──▶ dialling
//      └── timeout 0: the server knows it no more ──▶ dialling anew, without one: ephemeral nodes are gone
//
// Watches live with a connection: whoever uses them reads everything again at `onUp`.

import SidecarCore

/// Threading: the control loop only.
final class ZooKeeperClient: @unchecked Sendable {
  /// Requests under way; more wait in line.
  static let underWayMax = 128
  static let connectNanoseconds: Int64 = 3_000_000_000
  static let requestNanoseconds: Int64 = 5_000_000_000
  static let backoffNanoseconds: Int64 = 1_000_000_000

  private final class Request: @unchecked Sendable {
    let xid: Int32
    let gate: LoopGate
    var reply: ZooKeeperWire.Reply?
    init(_ xid: Int32, _ driver: any Driver) {
      self.xid = xid
      gate = LoopGate(driver: driver)
    }
  }

  private let servers: [ServerAddress]
  private let driver: any HostDriver
  private let timeout: Int32
  private let credentials: () throws(ConfigurationError) -> String?
  private(set) var session = ZooKeeperWire.Session.none
  private var lastZxid: Int64 = 0
  /// The server would not have our session: the same one is to be asked for a new one, at once.
  private var isAnew = false
  private var connection: AsyncConnection?
  private var pending: [Request] = []
  private var line: [LoopGate] = []
  private var lastXid: Int32 = 0
  private var out: [UInt8] = []
  private var isWriting = false
  private var task: Task<Void, Never>?

  /// A connection stands; `isNew`: with a new session, so ours has no nodes any more.
  var onUp: (_ isNew: Bool) -> Void = { _ in }
  var onDown: (RegistryError) -> Void = { _ in }
  var onEvent: (ZooKeeperWire.Event) -> Void = { _ in }

  /// `credentials`: `user:password`, read anew for each connection.
  init(
    servers: [ServerAddress], timeoutMilliseconds: Int, driver: any HostDriver,
    credentials: @escaping () throws(ConfigurationError) -> String?
  ) {
    self.servers = servers
    self.driver = driver
    timeout = Int32(clamping: timeoutMilliseconds)
    self.credentials = credentials
  }

  deinit {
    task?.cancel()
    connection?.close()
  }

  func start() {
    guard task == nil else { return }
    task = startTask(on: driver) { [weak self] in
      var index = 0
      var failures = 0
      while !Task.isCancelled {
        guard let count = self?.servers.count else { return }
        let wasUp = await self?.serve(index % count) ?? false
        if self?.isAnew == true {
          self?.isAnew = false
          continue
        }
        if wasUp { failures = 0 } else { index += 1 }
        failures += 1
        guard let driver = self?.driver, !Task.isCancelled else { return }
        guard wasUp || index % count == 0 else { continue }
        let span = min(50_000_000 << Int64(min(failures / count, 8)), Self.backoffNanoseconds)
        await driver.pause(nanoseconds: Int64(driver.random.below(Int(span) + 1)))
      }
    }
  }

  // MARK: Asking

  /// The reply of one operation, whatever its code. Errors: no connection, or no reply in time.
  func ask(
    _ operation: ZooKeeperWire.Operation, _ body: (inout ZooKeeperWriter) -> Void
  ) async throws(RegistryError) -> ZooKeeperWire.Reply {
    while pending.count >= Self.underWayMax {
      let gate = LoopGate(driver: driver)
      line.append(gate)
      let wake = await gate.wait(until: driver.now.advanced(byNanoseconds: Self.requestNanoseconds))
      line.removeAll { $0 === gate }
      if wake != .opened { throw .unavailable(wake == .cancelled ? "cancelled" : "zookeeper: no answer in time") }
    }
    guard connection != nil else { throw .unavailable("zookeeper: not connected") }
    lastXid = lastXid == .max ? 1 : lastXid + 1
    let request = Request(lastXid, driver)
    pending.append(request)
    send(ZooKeeperWire.request(request.xid, operation, body))
    switch await request.gate.wait(until: driver.now.advanced(byNanoseconds: Self.requestNanoseconds)) {
    case .opened: break
    case .timedOut: throw .unavailable("zookeeper: no answer in time")
    case .cancelled: throw .unavailable("cancelled")
    }
    guard let reply = request.reply else { throw .unavailable("zookeeper: the connection broke") }
    return reply
  }

  private func send(_ frame: [UInt8]) {
    out += frame
    guard !isWriting, let connection else { return }
    isWriting = true
    _ = startTask(on: driver) { [weak self] in
      while let self, self.connection === connection, !out.isEmpty {
        let bytes = out
        out = []
        guard (try? await connection.write(bytes)) != nil else { break }
      }
      self?.isWriting = false
      if let self, self.connection !== connection, !out.isEmpty { send([]) }
    }
  }

  // MARK: The connection

  private func serve(_ index: Int) async -> Bool {
    let server = servers[index]
    var wasUp = false
    do throws(RegistryError) {
      let new = try await connect(server)
      wasUp = true
      try await read(new)
    } catch {
      connection?.close()
      connection = nil
      out = []
      let broken = pending
      pending = []
      for request in broken { request.gate.open() }
      for gate in line { gate.open() }
      onDown(error)
    }
    return wasUp
  }

  private func connect(_ server: ServerAddress) async throws(RegistryError) -> AsyncConnection {
    let place = "zookeeper server \(server.authority)"
    let deadline = driver.now.advanced(byNanoseconds: Self.connectNanoseconds)
    let target: Destination =
      SocketAddress(host: server.host, port: server.port).map { .address($0) }
      ?? .name(host: server.host, port: server.port)
    do throws(ConnectionError) {
      let new = try await AsyncConnection.dial(target, driver: driver, deadline: deadline)
      try await new.write(
        ZooKeeperWire.connect(session, timeout: timeout, lastZxid: lastZxid), deadline: deadline)
      let granted: ZooKeeperWire.Session
      do throws(ConnectionError) {
        let frame = try await Self.frame(new, deadline)
        do throws(WireError) { granted = try ZooKeeperWire.session(frame) } catch { throw .closed("\(error)") }
        guard granted.timeout > 0 else { throw .closed("the session is over") }
      } catch {
        // One that lost its data hangs up on clients that have seen later changes than it has.
        isAnew = session != .none
        session = .none
        lastZxid = 0
        new.close()
        throw error
      }
      let isNew = granted.id != session.id
      session = granted
      connection = new
      out = []
      do throws(ConfigurationError) {
        if let text = try credentials() {
          send(
            ZooKeeperWire.request(ZooKeeperWire.authXid, .auth) {
              $0.int32(0)
              $0.text("digest")
              $0.text(text)
            })
        }
      } catch {
        throw .closed(error.message)
      }
      onUp(isNew)
      return new
    } catch {
      throw .unavailable("\(place): \(error)")
    }
  }

  private static func frame(_ connection: AsyncConnection, _ deadline: Instant) async throws(ConnectionError) -> [UInt8]
  {
    let head = try await connection.read(exactly: 4, deadline: deadline)
    var left = head.reduce(0) { $0 << 8 | Int($1) }
    guard left <= ZooKeeperWire.frameBytesMax else { throw .closed("a frame of \(left) bytes: it speaks no ZooKeeper") }
    var frame: [UInt8] = []
    while left > 0 {
      let part = try await connection.read(exactly: min(left, AsyncConnection.bufferedMax / 2), deadline: deadline)
      frame += part
      left -= part.count
    }
    return frame
  }

  /// Reads until it breaks. A third of the session's time of silence brings a ping, two thirds end the connection.
  private func read(_ connection: AsyncConnection) async throws(RegistryError) {
    let third = Int64(session.timeout) * 1_000_000 / 3
    let timer = LoopTimer { [weak self] in self?.ping(every: third) }
    driver.timers.arm(timer, after: third, from: driver.now)
    pingTimer = timer
    defer { timer.cancel() }
    do throws(ConnectionError) {
      while true {
        let frame = try await Self.frame(connection, driver.now.advanced(byNanoseconds: 2 * third))
        do throws(WireError) { try take(frame) } catch { throw .closed("the server broke a rule: \(error)") }
      }
    } catch {
      throw .unavailable("zookeeper: \(error)")
    }
  }
  private var pingTimer: LoopTimer?

  private func ping(every nanoseconds: Int64) {
    send(ZooKeeperWire.request(ZooKeeperWire.pingXid, .ping))
    if let pingTimer { driver.timers.arm(pingTimer, after: nanoseconds, from: driver.now) }
  }

  private func take(_ frame: [UInt8]) throws(WireError) {
    let (reply, zxid) = try ZooKeeperWire.reply(frame)
    switch reply.xid {
    case ZooKeeperWire.eventXid: onEvent(try ZooKeeperWire.event(reply.body))
    case ZooKeeperWire.pingXid: break
    case ZooKeeperWire.authXid:
      if reply.code != .ok { throw WireError("it does not take the credentials") }
    default:
      lastZxid = max(lastZxid, zxid)
      guard let request = pending.first, request.xid == reply.xid else {
        throw WireError("an answer to nothing that was asked")
      }
      pending.removeFirst()
      request.reply = reply
      request.gate.open()
      line.first?.open()
    }
  }
}
