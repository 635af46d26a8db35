// The admin listener: a small HTTP/1 server on the control loop. Its requests are few and its answers small, so it is
// plain where the data path is fast.

/// A request to the admin listener.
package struct AdminRequest: Sendable {
  package var method: HTTP1Method
  package var path: String
  package var query: String
}

package final class AdminServer {
  /// Connections at once; more are reset.
  package static let connectionsMax = 128
  /// Silence after which a connection is closed, in nanoseconds.
  static let idleTimeout: Int64 = 60_000_000_000

  fileprivate let driver: any Driver
  fileprivate let readers = ReaderScratch()
  fileprivate let handler: (AdminRequest, @escaping (APIReply) -> Void) -> Void
  private var listener: Listener?
  private var connections = ConnectionList<AdminConnection>()

  /// `handler` must call its completion exactly once, on the loop, at once or later.
  package init(
    driver: any Driver, handler: @escaping (AdminRequest, @escaping (APIReply) -> Void) -> Void
  ) {
    self.driver = driver
    self.handler = handler
  }

  package func listen(on address: SocketAddress) throws(DriverError) -> SocketAddress {
    let listener = try driver.listen(on: address, sharedPort: false) { [unowned self] stream in
      guard connections.count < Self.connectionsMax else {
        stream.handler = RefusedConnection.shared
        stream.reset()
        return
      }
      let connection = AdminConnection(server: self, stream: stream)
      connections.add(connection)
      stream.handler = connection
    }
    self.listener = listener
    return listener.address
  }

  package func close() {
    listener?.close()
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
  private let ahead = ByteBuffer()
  private lazy var idleTimer = LoopTimer { [unowned self] in self.close() }

  init(server: AdminServer, stream: ByteStream) {
    self.server = server
    self.stream = stream
    reader = MessageReader(.server, bodyMax: 64 * 1024, scratch: server.readers)
    server.driver.timers.arm(idleTimer, after: AdminServer.idleTimeout, from: server.driver.now)
  }

  func streamOpened(_ stream: ByteStream) {}
  func streamDrained(_ stream: ByteStream) {}

  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    guard !isClosed else { return }
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
        case .message:
          let head = reader.head(server.readers)
          isAnswering = true
          isHEAD = head.method == .head
          keepAlive = head.keepAlive
          let target = String(decoding: head.target, as: UTF8.self)
          let method = head.method
          reader.finishMessage(server.readers)
          ahead.removeFirst(ahead.count - input.count)
          let parts = target.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
          let request = AdminRequest(
            method: method, path: String(parts.first ?? "/"), query: parts.count > 1 ? String(parts[1]) : "")
          server.handler(request) { [weak self] in self?.answer($0) }
        }
      } catch {
        keepAlive = false
        isAnswering = true
        answer(.text(error.status, error.rule))
      }
    }
  }

  private func answer(_ reply: APIReply) {
    guard isAnswering, !isClosed else { return }
    let out = ByteBuffer(capacity: 256 + reply.body.count)
    HTTP1Writer.statusLine(reply.status, to: out)
    if let type = reply.contentType { HTTP1Writer.field("Content-Type", type, to: out) }
    HTTP1Writer.contentLength(reply.body.count, to: out)
    if !keepAlive { out.append("Connection: close\r\n") }
    HTTP1Writer.endHead(to: out)
    if !isHEAD { out.append(reply.body) }
    stream.write(out.bytes)
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

  func streamEnded(_ stream: ByteStream) { if !isAnswering { close() } else { keepAlive = false } }

  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    isClosed = true
    idleTimer.cancel()
    reader.finishMessage(server.readers)
    server.remove(self)
  }
}
