// The webhook's listener: HTTP/1.1 over TLS on the control loop. An API server keeps a few connections and asks for each
// pod; whoever else dials is given little time and little memory.
//
//   accepted ─ TLS within 10 s ─▶ idle ─ first byte ─▶ request, whole within 10 s ─▶ answered ─▶ idle, for 120 s at most
//                                  └ at most 256; for one more the connection that has been idle longest is ended

import SidecarCore
import SidecarTLS

/// Threading: the loop of its driver.
package final class InjectorServer {
  package static let connectionsMax = 256
  /// Bytes of a review: the API server's own limit of an object is 3 MiB of JSON (etcd's is 1.5 MiB).
  package static let bodyBytesMax = 3 << 20
  /// Bytes of requests that are not whole yet, of all connections together; above it 503.
  package static let heldBytesMax = 24 << 20
  /// Bytes of requests sent before the answer of the one before.
  static let aheadBytesMax = 64 << 10
  /// Nanoseconds a handshake and a request may take. The API server itself gives up after 10 s (the manifests' timeout).
  static let requestTimeout: Int64 = 10_000_000_000
  /// Nanoseconds; Go's clients end an idle connection after 90 s, so that the server never does it under a request.
  static let idleTimeout: Int64 = 120_000_000_000
  /// Nanoseconds in which what a refused request still sends is taken and dropped, so that the reset that answers it
  /// otherwise does not reach its sender before the reason does.
  static let lingerTimeout: Int64 = 2_000_000_000

  fileprivate let driver: any Driver
  fileprivate let certificates: CertificateFiles
  private let table: CertificateTable
  fileprivate let scratch = ReaderScratch()
  fileprivate var heldBytes = 0
  private let review: AdmissionReview
  private let log: any LogSink
  private var listener: Listener?
  private var connections: [ObjectIdentifier: InjectorConnection] = [:]
  private var outcomes: [ReviewOutcome: Int] = [:]
  fileprivate var handshakeFailures = 0
  private var onIdle: (() -> Void)?

  package init(
    review: AdmissionReview, certificates: CertificateFiles, table: CertificateTable, driver: any Driver,
    log: any LogSink
  ) {
    self.review = review
    self.table = table
    self.certificates = certificates
    self.driver = driver
    self.log = log
  }

  package func listen(on address: SocketAddress) throws(DriverError) -> SocketAddress {
    let listener = try driver.listen(on: address, sharedPort: false) { [unowned self] in accept($0) }
    self.listener = listener
    return listener.address
  }

  private func accept(_ stream: ByteStream) {
    if connections.count >= Self.connectionsMax {
      let idle = connections.values.filter(\.isIdle).min { $0.lastActive < $1.lastActive }
      guard let idle else {
        stream.handler = Refused.shared
        return stream.reset()
      }
      idle.end()
    }
    do throws(TLSError) {
      let connection = InjectorConnection(self, stream, try TLSSession(certificates.context, peer: .client))
      connections[ObjectIdentifier(connection)] = connection
      stream.handler = connection
    } catch {
      log.error("a connection cannot be secured: \(error.message)")
      stream.handler = Refused.shared
      stream.reset()
    }
  }

  /// Takes no more connections; those that stand end with the answer under way. `completion` runs when all have ended.
  package func close(_ completion: @escaping () -> Void) {
    listener?.close()
    listener = nil
    onIdle = completion
    for connection in connections.values { connection.endAfterAnswer() }
    if connections.isEmpty { finish() }
  }

  fileprivate var isClosing: Bool { listener == nil }

  fileprivate func remove(_ connection: InjectorConnection) {
    connections[ObjectIdentifier(connection)] = nil
    if isClosing, connections.isEmpty { finish() }
  }

  private func finish() {
    let completion = onIdle
    onIdle = nil
    if let completion { driver.later(completion) }
  }

  // MARK: Answers

  fileprivate func answer(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) -> (APIReply, allow: StaticString?) {
    let target = String(decoding: head.target, as: UTF8.self)
    let path = target.prefix { $0 != "?" }
    switch path {
    case "/inject":
      guard head.method == .post else { return (.text(405, "an AdmissionReview is posted here"), "POST") }
      guard Self.isJSON(head.first(.contentType)) else {
        return (.text(415, "expected Content-Type: application/json"), nil)
      }
      return (inject(body), nil)
    case "/livez", "/readyz", "/metrics":
      guard head.method == .get || head.method == .head else { return (.text(405, "GET \(path)"), "GET, HEAD") }
      if path == "/metrics" { return (metrics(), nil) }
      return (path == "/readyz" && isClosing ? .text(503, "ending") : .text(200, "ok"), nil)
    default:
      return (.text(404, "no such page: POST /inject, GET /livez /readyz /metrics"), nil)
    }
  }

  private func inject(_ body: UnsafeRawBufferPointer) -> APIReply {
    let answer = review.answer(body)
    outcomes[answer.outcome, default: 0] += 1
    switch answer.outcome {
    case .patched: log.info("a sidecar was put into a pod", [("pod", answer.pod)])
    case .refused: log.warning("a pod was refused: \(answer.message)", [("pod", answer.pod)])
    case .malformed: log.warning("a request was no review: \(answer.message)")
    case .unchanged: log.debug("a pod was left as it is", [("pod", answer.pod)])
    }
    return answer.reply
  }

  private static func isJSON(_ type: UnsafeRawBufferPointer?) -> Bool {
    guard let type else { return false }
    let media = String(decoding: type, as: UTF8.self).prefix { $0 != ";" }.lowercased()
    return media.filter { $0 != " " && $0 != "\t" } == "application/json"
  }

  private func metrics() -> APIReply {
    let reviews = MetricFamily(
      "micro_injector_reviews_total", .counter, "Admission reviews by what came of them.",
      ReviewOutcome.allCases.map { .init([("outcome", $0.rawValue)], Double(outcomes[$0] ?? 0)) })
    let families = [
      reviews,
      MetricFamily(
        "micro_injector_certificate_reloads_total", .counter, "Times the certificate's files were read anew.",
        [
          .init([("outcome", "replaced")], Double(certificates.reloads)),
          .init([("outcome", "refused")], Double(certificates.failures)),
        ]),
      table.family("micro_injector_certificate_expiry_timestamp_seconds"),
      MetricFamily(
        "micro_injector_connections", .gauge, "Connections that stand.", [.init([], Double(connections.count))]),
      MetricFamily(
        "micro_injector_handshake_failures_total", .counter, "Connections that failed to agree on TLS.",
        [.init([], Double(handshakeFailures))]),
    ]
    return APIReply(
      status: 200, contentType: MetricsPage.Form.prometheus.contentType, body: MetricsPage.render([], families))
  }
}

/// One connection of the webhook.
private final class InjectorConnection: StreamHandler {
  private let server: InjectorServer
  private let stream: ByteStream
  private let session: TLSSession
  private var reader: MessageReader
  private var plain = ByteBuffer()
  private var isEnding = false
  private var isClosed = false
  /// Bytes of the request that is not whole yet, as counted at the server.
  private var heldBytes = 0
  private(set) var lastActive: Instant
  private lazy var timer = LoopTimer { [unowned self] in self.outOfTime() }

  init(_ server: InjectorServer, _ stream: ByteStream, _ session: TLSSession) {
    self.server = server
    self.stream = stream
    self.session = session
    reader = MessageReader(.server, bodyMax: InjectorServer.bodyBytesMax, scratch: server.scratch)
    lastActive = server.driver.now
    server.driver.timers.arm(timer, after: InjectorServer.requestTimeout, from: server.driver.now)
  }

  var isIdle: Bool { session.isEstablished && !isEnding && reader.isBetweenMessages && plain.isEmpty }

  // MARK: Events

  func streamOpened(_ stream: ByteStream) {}
  func streamDrained(_ stream: ByteStream) {
    guard !isClosed else { return }
    stream.resumeReading()
    consume()
  }

  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    guard !isClosed, !isEnding else { return }
    lastActive = server.driver.now
    do throws(TLSError) {
      try session.receive(bytes)
      try session.read(into: plain)
    } catch {
      if !session.isEstablished { server.handshakeFailures += 1 }
      flush()
      return end()
    }
    flush()
    consume()
    if !isEnding, session.peerEnded { end() }
  }

  func streamEnded(_ stream: ByteStream) { if isEnding { stream.close() } else { end() } }

  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    isClosed = true
    timer.cancel()
    hold(0)
    reader.finishMessage(server.scratch)
    server.remove(self)
  }

  // MARK: Requests

  /// Answers what is whole. A peer that does not read its answers is not read from.
  private func consume() {
    while !isEnding, !isClosed, !plain.isEmpty {
      if stream.queuedBytes > ByteStream.highWatermark { return stream.pauseReading() }
      let before = plain.count
      var input = plain.bytes
      do throws(WireError) {
        switch try reader.next(&input, server.scratch) {
        case .needMore, .streaming:
          hold(heldBytes + before)
          plain.removeAll()
          if server.heldBytes > InjectorServer.heldBytesMax {
            refuse(.text(503, "too many requests are under way"))
          }
        case .expectsContinue:
          send("HTTP/1.1 100 Continue\r\n\r\n")
          hold(heldBytes + before - input.count)
          plain.removeFirst(before - input.count)
        case .message(let body):
          let head = reader.head(server.scratch)
          let keepAlive = head.keepAlive && !server.isClosing
          let (reply, allow) = server.answer(head, body)
          let isHEAD = head.method == .head
          reader.finishMessage(server.scratch)
          plain.removeFirst(before - input.count)
          hold(0)
          write(reply, allow: allow, keepAlive: keepAlive, withBody: !isHEAD)
          if !keepAlive { end() }
        }
      } catch {
        refuse(.text(error.status, error.rule))
      }
    }
    if plain.isEmpty, plain.capacity > InjectorServer.aheadBytesMax { plain = ByteBuffer() }
    armTimer()
  }

  /// Between requests the long time, within one the short one from its first byte on.
  private func armTimer() {
    guard !isEnding, !isClosed, session.isEstablished else { return }
    if reader.isBetweenMessages {
      server.driver.timers.arm(timer, after: InjectorServer.idleTimeout, from: server.driver.now)
      isTimed = false
    } else if !isTimed {
      server.driver.timers.arm(timer, after: InjectorServer.requestTimeout, from: server.driver.now)
      isTimed = true
    }
  }
  private var isTimed = false

  private func hold(_ bytes: Int) {
    server.heldBytes += bytes - heldBytes
    heldBytes = bytes
  }

  private func refuse(_ reply: APIReply) {
    write(reply, allow: nil, keepAlive: false, withBody: true)
    guard !isEnding, !isClosed else { return }
    isEnding = true
    plain = ByteBuffer()
    reader.finishMessage(server.scratch)
    hold(0)
    session.close()
    flush()
    stream.shutdownWrites()
    server.driver.timers.arm(timer, after: InjectorServer.lingerTimeout, from: server.driver.now)
  }

  private func outOfTime() {
    if isEnding {
      stream.close()
    } else if session.isEstablished, !reader.isBetweenMessages {
      refuse(.text(408, "the request was not whole in time"))
    } else {
      end()
    }
  }

  private func write(_ reply: APIReply, allow: StaticString?, keepAlive: Bool, withBody: Bool) {
    let out = ByteBuffer(capacity: 256 + reply.body.count)
    HTTP1Writer.statusLine(reply.status, to: out)
    if let type = reply.contentType { HTTP1Writer.field("Content-Type", type, to: out) }
    if let allow { HTTP1Writer.field("Allow", allow, to: out) }
    HTTP1Writer.contentLength(reply.body.count, to: out)
    if !keepAlive { out.append("Connection: close\r\n") }
    HTTP1Writer.endHead(to: out)
    if withBody { out.append(reply.body) }
    send(out.bytes)
  }

  private func send(_ text: StaticString) {
    send(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  private func send(_ bytes: UnsafeRawBufferPointer) {
    guard !isClosed, session.isEstablished else { return }
    do throws(TLSError) { try session.write(bytes) } catch { return stream.reset() }
    flush()
  }

  /// Sends what TLS has to say.
  private func flush() {
    guard !isClosed else { return }
    let out = ByteBuffer()
    session.takeOutput(into: out)
    if !out.isEmpty { stream.write(out.bytes) }
  }

  // MARK: End

  func endAfterAnswer() { if isIdle || !session.isEstablished { end() } }

  /// Twice is once.
  func end() {
    guard !isEnding, !isClosed else { return }
    isEnding = true
    timer.cancel()
    session.close()
    flush()
    stream.close()
  }
}

/// Hears the end of a connection that was turned away.
private final class Refused: StreamHandler {
  nonisolated(unsafe) static let shared = Refused()
  func streamOpened(_ stream: ByteStream) {}
  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {}
  func streamEnded(_ stream: ByteStream) {}
  func streamDrained(_ stream: ByteStream) {}
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {}
}
