// The admin listener: a small HTTP/1 server on the control loop. Its requests are few and its answers small, so it is
// plain where the data path is fast.

/// A request to the admin listener.
package struct AdminRequest: Sendable {
  package var method: HTTP1Method
  package var path: String
  package var query: String
  /// Of its head, what answers depend on; nil: not there.
  package var host: String?
  package var origin: String?
  package var accept: String?
  package var authorization: String?
  package var fetchSite: String?
  package var fetchMode: String?
  package var body: [UInt8] = []
  /// It came from this machine, or over a Unix socket.
  package var isLocal = true
  /// Who asks has shown a certificate that is trusted here.
  package var isCertified = false

  package init(_ method: HTTP1Method, path: String, query: String = "") {
    self.method = method
    self.path = path
    self.query = query
  }
}

/// What the admin listener answers with.
package enum AdminReply {
  case whole(APIReply, fields: [(name: StaticString, value: String)] = [])
  /// 200 with a large body, which is sent a part in each turn of the loop.
  case long(ByteBuffer, contentType: String, fields: [(name: StaticString, value: String)])
  /// A reply without end, until either side ends it.
  case stream(contentType: StaticString, begin: (AdminStream) -> Void)
}

/// A reply that goes on. Loop-confined.
package final class AdminStream {
  /// Bytes that may wait for a reader; what is more than that is not written.
  package static let queuedMax = 1024 * 1024

  private weak var stream: ByteStream?
  /// The reader has left, or the listener is closed. Set by whoever writes.
  package var onEnd: (() -> Void)?

  fileprivate init(_ stream: ByteStream) { self.stream = stream }

  /// False: the reader is too slow for these bytes, and they are lost.
  package func write(_ bytes: [UInt8]) -> Bool {
    guard let stream, stream.queuedBytes + bytes.count <= Self.queuedMax else { return false }
    return stream.write(bytes) != .closed
  }

  package func end() { stream?.close() }

  fileprivate func ended() {
    let onEnd = onEnd
    self.onEnd = nil
    onEnd?()
  }
}

/// Puts TLS around the connections of the admin listener. Threading: the control loop.
package protocol AdminSecurity: AnyObject {
  /// The stream as its reader has it; nil: it cannot be secured.
  func secure(_ stream: ByteStream) -> ByteStream?
  /// Reads the certificates again.
  func reload()
}

package final class AdminServer {
  /// Connections at once; more are reset.
  package static let connectionsMax = 128
  /// Silence after which a connection is closed, in nanoseconds.
  static let idleTimeout: Int64 = 60_000_000_000

  fileprivate let driver: any Driver
  fileprivate let readers = ReaderScratch()
  fileprivate let handler: (AdminRequest, @escaping (AdminReply) -> Void) -> Void
  private let security: (any AdminSecurity)?
  private var listener: Listener?
  private var connections = ConnectionList<AdminConnection>()

  /// `handler` must call its completion exactly once, on the loop, at once or later.
  package init(
    driver: any Driver, security: (any AdminSecurity)? = nil,
    handler: @escaping (AdminRequest, @escaping (AdminReply) -> Void) -> Void
  ) {
    self.driver = driver
    self.security = security
    self.handler = handler
  }

  package func listen(at place: ListeningPlace) throws(DriverError) -> SocketAddress {
    let accept: (ByteStream) -> Void = { [unowned self] stream in
      guard connections.count < Self.connectionsMax else {
        stream.handler = RefusedConnection.shared
        stream.reset()
        return
      }
      guard let secured = security == nil ? stream : security?.secure(stream) else {
        stream.handler = RefusedConnection.shared
        stream.reset()
        return
      }
      let connection = AdminConnection(server: self, stream: secured)
      connections.add(connection)
      secured.handler = connection
    }
    let listener =
      switch place {
      case .address(let address, let isShared):
        try driver.listen(on: address, sharedPort: isShared, onAccept: accept)
      case .inherited(let descriptor): try driver.listen(inheriting: descriptor, onAccept: accept)
      }
    self.listener = listener
    return listener.address
  }

  /// The number of the listening socket, for a process that is to take it over.
  package var socketNumber: Int32? { listener?.descriptor }

  /// `leaving`: another process listens at the same socket.
  package func close(leaving: Bool = false) {
    if leaving { listener?.leave() } else { listener?.close() }
    listener = nil
    connections.forEach { $0.close() }
  }

  fileprivate func remove(_ connection: AdminConnection) { connections.remove(connection) }
}

private final class AdminConnection: StreamHandler, ListedConnection {
  var listIndex = -1
  private let server: AdminServer
  private let stream: ByteStream
  private var reader: MessageReader
  private var isAnswering = false
  private var isClosed = false
  private var keepAlive = true
  private var isHEAD = false
  private var running: AdminStream?
  /// What is still to be sent of a long body, and how much of it was.
  private var rest: (body: ByteBuffer, sent: Int)?
  /// Bytes of such a body sent in one turn of the loop.
  private static let partBytes = 64 * 1024
  private let ahead = ByteBuffer()
  private lazy var idleTimer = LoopTimer { [unowned self] in self.close() }

  init(server: AdminServer, stream: ByteStream) {
    self.server = server
    self.stream = stream
    reader = MessageReader(.server, bodyMax: 64 * 1024, scratch: server.readers)
    server.driver.timers.arm(idleTimer, after: AdminServer.idleTimeout, from: server.driver.now)
  }

  func streamOpened(_ stream: ByteStream) {}
  func streamDrained(_ stream: ByteStream) { sendRest() }

  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    // Whoever reads a stream has nothing more to say.
    guard !isClosed, running == nil else { return }
    server.driver.timers.arm(idleTimer, after: AdminServer.idleTimeout, from: server.driver.now)
    ahead.append(bytes)
    if ahead.count > 256 * 1024 { return close() }
    consume()
  }

  private func consume() {
    while !isAnswering, !isClosed, !ahead.isEmpty {
      var input = ahead.bytes
      do throws(WireError) {
        switch try reader.next(&input, server.readers) {
        case .needMore, .streaming:
          ahead.removeAll()
          return
        case .expectsContinue:
          stream.write("HTTP/1.1 100 Continue\r\n\r\n")
          ahead.removeFirst(ahead.count - input.count)
        case .message(let body):
          let head = reader.head(server.readers)
          isAnswering = true
          isHEAD = head.method == .head
          keepAlive = head.keepAlive
          let target = String(decoding: head.target, as: UTF8.self)
          var request = AdminRequest(head.method, path: "/")
          request.take(head, isLocal: stream.peerAddress?.isLoopback ?? true, isCertified: stream.peerIsCertified)
          request.body = Array(body)
          reader.finishMessage(server.readers)
          ahead.removeFirst(ahead.count - input.count)
          let parts = target.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
          request.path = String(parts.first ?? "/")
          request.query = parts.count > 1 ? String(parts[1]) : ""
          server.handler(request) { [weak self] in self?.answer($0) }
        }
      } catch {
        keepAlive = false
        isAnswering = true
        answer(.whole(.text(error.status, error.rule)))
      }
    }
  }

  private func answer(_ reply: AdminReply) {
    guard isAnswering, !isClosed else { return }
    switch reply {
    case .whole(let reply, let fields): answer(reply, fields)
    case .long(let body, let type, let fields):
      let out = ByteBuffer(capacity: 512)
      writeHead(APIReply(status: 200, contentType: type), length: body.count, fields, to: out)
      stream.write(out.bytes)
      if isHEAD { return answered() }
      rest = (body, 0)
      sendRest()
    case .stream(let type, let begin):
      idleTimer.cancel()
      let out = ByteBuffer(capacity: 256)
      HTTP1Writer.statusLine(200, to: out)
      out.append("Content-Type: ")
      out.append(type)
      out.append("\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n")
      HTTP1Writer.endHead(to: out)
      stream.write(out.bytes)
      let running = AdminStream(stream)
      self.running = running
      begin(running)
    }
  }

  private func answer(_ reply: APIReply, _ fields: [(name: StaticString, value: String)]) {
    let out = ByteBuffer(capacity: 256 + reply.body.count)
    writeHead(reply, length: reply.body.count, fields, to: out)
    if !isHEAD { out.append(reply.body) }
    stream.write(out.bytes)
    answered()
  }

  /// Sends the next part of a long body, and the one after it in a later turn or when this one is taken.
  private func sendRest() {
    guard let (body, sent) = rest, !isClosed else { return }
    let part = UnsafeRawBufferPointer(rebasing: body.bytes[sent..<min(sent + Self.partBytes, body.count)])
    let state = part.isEmpty ? .open : stream.write(part)
    guard sent + part.count < body.count else {
      rest = nil
      return answered()
    }
    rest = (body, sent + part.count)
    if state == .open { server.driver.later { [weak self] in self?.sendRest() } }
  }

  private func writeHead(
    _ reply: APIReply, length: Int, _ fields: [(name: StaticString, value: String)], to out: ByteBuffer
  ) {
    HTTP1Writer.statusLine(reply.status, to: out)
    if let type = reply.contentType { HTTP1Writer.field("Content-Type", type, to: out) }
    HTTP1Writer.contentLength(length, to: out)
    for (name, value) in fields { HTTP1Writer.field(name, value, to: out) }
    out.append("X-Content-Type-Options: nosniff\r\n")
    if !keepAlive { out.append("Connection: close\r\n") }
    HTTP1Writer.endHead(to: out)
  }

  private func answered() {
    isAnswering = false
    if !keepAlive {
      close()
    } else if !ahead.isEmpty {
      server.driver.later { [weak self] in self?.consume() }
    }
  }

  func close() {
    guard !isClosed else { return }
    isClosed = true
    stream.close()
  }

  func streamEnded(_ stream: ByteStream) { if !isAnswering || running != nil { close() } else { keepAlive = false } }

  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    isClosed = true
    idleTimer.cancel()
    running?.ended()
    running = nil
    reader.finishMessage(server.readers)
    server.remove(self)
  }
}

extension AdminRequest {
  fileprivate mutating func take(_ head: HTTP1Head, isLocal: Bool, isCertified: Bool) {
    self.isCertified = isCertified
    func text(_ value: UnsafeRawBufferPointer?) -> String? { value.map { String(decoding: $0, as: UTF8.self) } }
    host = text(head.first(.host))
    origin = text(head.first(.origin))
    accept = text(head.first(.accept))
    authorization = text(head.first(.authorization))
    fetchSite = text(head.first("Sec-Fetch-Site"))
    fetchMode = text(head.first("Sec-Fetch-Mode"))
    self.isLocal = isLocal
  }
}
