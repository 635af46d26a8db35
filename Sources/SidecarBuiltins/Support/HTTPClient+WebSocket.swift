// WebSockets of the control plane's HTTP client: the handshake on a connection of its own, then text messages.

import SidecarCore

extension HTTPClient {
  /// Opens a WebSocket at the server that is asked first, or the next that can be reached; nil when it answers with
  /// anything but an upgrade. `within` is for the handshake.
  func webSocket(_ target: String, messageMax: Int, within: Duration) async throws(HTTPFailure) -> WebSocketClient? {
    let deadline = driver.now.advanced(by: within)
    let found = try await onAnyServer(deadline) { (index, deadline) async throws(ConnectionError) in
      let connection = try await dial(index, deadline)
      do throws(ConnectionError) {
        let socket = WebSocketClient(connection, endpoints[index], driver: driver, messageMax: messageMax)
        return try await socket.open(target, headers: headers, deadline: deadline) ? socket : nil
      } catch {
        connection.close()
        throw error
      }
    } isUnfit: { (_: WebSocketClient?) in
      false
    }
    return found
  }
}

/// The client's end of a WebSocket. Let go of, it closes its connection. Loop-confined; one reader.
final class WebSocketClient: @unchecked Sendable {
  private let connection: AsyncConnection
  private let endpoint: HTTPEndpoint
  private let driver: any Driver
  private var session: WebSocketSession
  private var parser = HTTP1Parser(.client)
  /// Read and not yet given to the session.
  private var pending: [UInt8] = []
  private var messages: [[UInt8]] = []
  private var isOver = false

  init(_ connection: AsyncConnection, _ endpoint: HTTPEndpoint, driver: any Driver, messageMax: Int) {
    self.connection = connection
    self.endpoint = endpoint
    self.driver = driver
    session = WebSocketSession(
      .client, messageMax: messageMax, deflate: nil, buffers: BufferPool(), deflaters: DeflatePool(),
      maskSeed: driver.random.next())
  }

  deinit { connection.close() }

  /// The handshake. False when the server answers without an upgrade.
  func open(
    _ target: String, headers: [(name: String, value: String)], deadline: Instant
  ) async throws(ConnectionError) -> Bool {
    let key = WebSocketHandshake.makeKey(&driver.random)
    let out = ByteBuffer(capacity: 512)
    var path = endpoint.basePath + target
    path.withUTF8 { HTTP1Writer.requestLine("GET", target: UnsafeRawBufferPointer($0), to: out) }
    HTTP1Writer.field("Host", endpoint.authority, to: out)
    HTTP1Writer.field("User-Agent", "micro-sidecar", to: out)
    for header in headers { HTTP1Writer.field(name: header.name, header.value, to: out) }
    WebSocketHandshake.appendRequest(key: key, deflate: nil, into: out)
    HTTP1Writer.endHead(to: out)
    try await connection.write([UInt8](out.bytes), deadline: deadline)
    while true {
      guard let bytes = try await connection.read(deadline: deadline) else {
        throw .closed("it ended the connection during the WebSocket handshake")
      }
      do throws(WireError) {
        let result = bytes.withUnsafeBytes { bytes in Result { () throws(WireError) in try readHead(bytes, key) } }
        if let isUpgraded = try result.get() { return isUpgraded }
      } catch {
        throw .closed(error.rule)
      }
    }
  }

  /// Nil: more of the head is to come.
  private func readHead(_ bytes: UnsafeRawBufferPointer, _ key: [UInt8]) throws(WireError) -> Bool? {
    var input = bytes
    while true {
      switch try parser.next(&input) {
      case .needMore:
        if parser.head.status == 101 { pending = Array(input) }
        return parser.head.status == 101 ? true : nil
      case .head:
        let status = parser.head.status
        guard status >= 200 || status == 101 else { continue }
        guard status == 101 else { return false }
        _ = try WebSocketHandshake.check(parser.head, key: key, deflate: nil)
      case .body, .end: continue
      }
    }
  }

  /// The next message; nil when the peer has closed in order. Pings are answered meanwhile.
  func next(silence: Duration) async throws(HTTPFailure) -> [UInt8]? {
    do throws(ConnectionError) {
      while messages.isEmpty {
        if isOver { return nil }
        if pending.isEmpty {
          guard let bytes = try await connection.read(deadline: driver.now.advanced(by: silence)) else {
            throw .closed("it ended the connection without closing the WebSocket")
          }
          pending = bytes
        }
        let out = ByteBuffer()
        let failure = feed(out)
        pending = []
        if !out.isEmpty { try await connection.write([UInt8](out.bytes)) }
        if let failure { throw .closed(failure) }
      }
    } catch {
      throw HTTPFailure(endpoint: endpoint, cause: error)
    }
    return messages.removeFirst()
  }

  /// Gives what was read to the session; what was wrong with it.
  private func feed(_ out: ByteBuffer) -> String? {
    pending.withUnsafeBytes { bytes in
      var input = bytes
      while true {
        switch session.receive(&input, into: out) {
        case .needMore: return nil
        case .message(_, let payload): messages.append(Array(payload))
        case .ping, .pong: continue
        case .closed:
          isOver = true
          return nil
        case .failed(let failure): return failure.reason
        }
      }
    }
  }

  func close() {
    let out = ByteBuffer()
    session.close(WebSocketCloseCode.normal, "", into: out)
    if !out.isEmpty, connection.isUsable {
      _ = startTask(on: driver) { [connection, bytes = [UInt8](out.bytes)] in
        _ = try? await connection.write(bytes)
        connection.close()
      }
    } else {
      connection.close()
    }
  }
}
