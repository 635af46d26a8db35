// One connection of the echo program, either role: handshake, then every message back as it came.

import SidecarCore

/// Loop-confined.
final class EchoPeer: StreamHandler {
  /// Bytes of a message. The suite sends 16 MiB; 1009 ends what is larger.
  static let messageMax = 64 << 20
  /// How long the other end may take to close the connection after both Close frames, in nanoseconds.
  private static let closeTimeout: Int64 = 2_000_000_000

  private let driver: any Driver
  private let role: WebSocketRole
  private let wish: DeflateWish
  private let buffers = BufferPool()
  private let deflaters = DeflatePool()
  private let out = ByteBuffer()
  private var parser: HTTP1Parser
  private var session: WebSocketSession?
  private var stream: ByteStream?
  /// What was read while our writes were congested.
  private let ahead = ByteBuffer()
  private var isCongested = false
  private let address: String
  private let path: String
  private var key: [UInt8] = []
  private lazy var closeTimer = LoopTimer { [unowned self] in stream?.reset() }

  /// The client's: nil for the end of the connection.
  private var onMessage: ((String?) -> Void)?
  private let echoes: Bool

  init(_ driver: any Driver, serving stream: ByteStream, _ wish: DeflateWish) {
    self.driver = driver
    self.stream = stream
    self.wish = wish
    role = .server
    parser = HTTP1Parser(.server)
    address = ""
    path = ""
    echoes = true
  }

  /// Dials and asks for `path`. With `onMessage` messages go there instead of back; it is called with nil at the end.
  init(
    _ driver: any Driver, calling address: SocketAddress, _ path: String, _ wish: DeflateWish, echoes: Bool,
    onMessage: @escaping (String?) -> Void
  ) {
    self.driver = driver
    self.wish = wish
    self.path = path
    self.address = address.description
    self.echoes = echoes
    self.onMessage = onMessage
    role = .client
    parser = HTTP1Parser(.client)
    stream = driver.connect(to: address, handler: self)
  }

  func streamOpened(_ stream: ByteStream) {
    key = WebSocketHandshake.makeKey(&driver.random)
    out.append("GET \(path) HTTP/1.1\r\nHost: \(address)\r\n")
    WebSocketHandshake.appendRequest(key: key, deflate: wish, into: out)
    HTTP1Writer.endHead(to: out)
    flush(stream)
  }

  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    var input = bytes
    if session == nil { handshake(stream, &input) }
    guard session != nil, !input.isEmpty else { return }
    if ahead.isEmpty, !isCongested { consume(stream, &input) }
    ahead.append(input)
  }

  private func handshake(_ stream: ByteStream, _ input: inout UnsafeRawBufferPointer) {
    do throws(WireError) {
      while true {
        switch try parser.next(&input) {
        case .needMore: return
        case .head:
          let agreement: WebSocketAgreement
          if role == .server {
            let fields = ByteBuffer()
            agreement = try WebSocketHandshake.accept(parser.head, deflate: wish, fields: fields)
            HTTP1Writer.statusLine(101, to: out)
            out.append("Server: micro-sidecar\r\n")
            out.append(fields.bytes)
            HTTP1Writer.endHead(to: out)
            flush(stream)
          } else {
            agreement = try WebSocketHandshake.check(parser.head, key: key, deflate: wish)
          }
          session = WebSocketSession(
            role, messageMax: Self.messageMax, deflate: agreement.deflate, buffers: buffers, deflaters: deflaters,
            maskSeed: driver.random.next())
          if role == .server { return }
        case .body: break
        case .end: return
        }
      }
    } catch {
      print("handshake failed: \(error)")
      HTTP1Writer.statusLine(role == .server ? error.status : 400, to: out)
      out.append("Connection: close\r\nSec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n")
      if role == .server { flush(stream) }
      stream.close()
    }
  }

  private func consume(_ stream: ByteStream, _ input: inout UnsafeRawBufferPointer) {
    while !isCongested {
      guard let event = session?.receive(&input, into: out) else { return }
      switch event {
      case .needMore: return flush(stream)
      case .ping, .pong: flush(stream)
      case .message(let kind, let payload):
        guard echoes else {
          onMessage?(String(decoding: payload, as: UTF8.self))
          continue
        }
        let rest = session?.send(kind, payload, into: out) ?? payload
        note(stream.write(out.bytes, rest), stream)
        out.removeAll()
      case .closed:
        flush(stream)
        finish(stream)
        return
      case .failed:
        flush(stream)
        // Closing with unread bytes would reset the connection and take our Close with it.
        stream.shutdownWrites()
        driver.timers.arm(closeTimer, after: Self.closeTimeout, from: driver.now)
        return
      }
    }
  }

  /// Both have said Close: the server ends the connection, the client waits for that (RFC 6455 §7.1.1).
  private func finish(_ stream: ByteStream) {
    if role == .server { return stream.close() }
    driver.timers.arm(closeTimer, after: Self.closeTimeout, from: driver.now)
  }

  private func flush(_ stream: ByteStream) {
    guard !out.isEmpty else { return }
    note(stream.write(out.bytes), stream)
    out.removeAll()
  }

  private func note(_ state: WriteState, _ stream: ByteStream) {
    guard state == .congested, !isCongested else { return }
    isCongested = true
    stream.pauseReading()
  }

  func streamDrained(_ stream: ByteStream) {
    guard isCongested else { return }
    isCongested = false
    var input = ahead.bytes
    consume(stream, &input)
    ahead.removeFirst(ahead.count - input.count)
    if !isCongested { stream.resumeReading() }
  }

  func streamEnded(_ stream: ByteStream) { stream.close() }

  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    closeTimer.cancel()
    self.stream = nil
    onMessage?(nil)
    onMessage = nil
  }
}
