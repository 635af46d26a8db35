// A scripted gRPC server on the simulator: it reads requests well and answers them as badly as it is told.

@testable import SidecarCore
import SidecarSim

final class GRPCPeer {
  struct Request {
    var headers: [String: String]
    var message: [UInt8]
    /// Counts from 0, over all connections.
    var index: Int
    var connection: Int
    var text: String { String(decoding: message, as: UTF8.self) }
  }

  enum Answer {
    case reply(String)
    case later(Duration, String)
    case fail(Int, String)
    case stall
    case reset(HTTP2ErrorCode)
    /// GOAWAY that says nothing of this connection was seen, then nothing.
    case leaveUnseen
    /// A reply, and GOAWAY before it.
    case leaveSeen(String)
    case dropConnection
  }

  let driver: any Driver
  let address: SocketAddress
  private let answer: (Request) -> Answer
  private var listener: Listener?
  fileprivate(set) var requests: [Request] = []
  fileprivate(set) var resets: [HTTP2ErrorCode] = []
  /// Virtual times of pings.
  fileprivate(set) var pings: [Instant] = []
  fileprivate(set) var acceptedCount = 0
  fileprivate(set) var openConnections = 0
  fileprivate(set) var openStreams = 0
  fileprivate(set) var openStreamsMost = 0

  init(on driver: any Driver, at address: SocketAddress, answering answer: @escaping (Request) -> Answer) throws {
    self.driver = driver
    self.address = address
    self.answer = answer
    listener = try driver.listen(on: address, sharedPort: false) { [self] stream in
      acceptedCount += 1
      openConnections += 1
      stream.handler = GRPCPeerConnection(self, stream, number: acceptedCount - 1)
    }
  }

  func stop() { listener?.close() }

  fileprivate func answer(_ request: Request) -> Answer {
    requests.append(request)
    return answer(request)
  }
}

private final class GRPCPeerConnection: StreamHandler, HTTP2SessionHandler {
  let peer: GRPCPeer
  let number: Int
  private let session: HTTP2Session
  private var stream: ByteStream?
  private var flushIsDue = false
  private var framesSeen: UInt64 = 0

  init(_ peer: GRPCPeer, _ stream: ByteStream, number: Int) {
    self.peer = peer
    self.stream = stream
    self.number = number
    session = HTTP2Session(.server, buffers: BufferPool(), now: peer.driver.now)
    session.handler = self
    http2SessionWantsFlush(session)
  }

  func streamOpened(_ stream: ByteStream) {}
  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    // A ping is the frame of eight bytes and type 6 on stream 0; the client's come alone.
    if bytes.count == 17, bytes[3] == 6, bytes[4] == 0 { peer.pings.append(peer.driver.now) }
    session.receive(bytes, now: peer.driver.now)
    flush()
  }
  func streamEnded(_ stream: ByteStream) { stream.close() }
  func streamDrained(_ stream: ByteStream) { flush() }
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    self.stream = nil
    peer.openConnections -= 1
    session.connectionLost()
  }

  func http2SessionWantsFlush(_ session: HTTP2Session) {
    guard !flushIsDue else { return }
    flushIsDue = true
    peer.driver.later { [self] in flush() }
  }

  private func flush() {
    flushIsDue = false
    let out = ByteBuffer()
    while session.flush(into: out) {}
    if !out.isEmpty { stream?.write(out.bytes) }
    session.settle()
    if session.isOver { stream?.close() }
  }

  func http2Session(_ session: HTTP2Session, opened stream: HTTP2Stream, _ head: HTTP2Fields, ends: Bool)
    -> (any HTTP2StreamHandler)?
  {
    var headers: [String: String] = [:]
    for index in 0..<head.count {
      headers[String(decoding: head.name(index), as: UTF8.self)] = String(decoding: head.value(index), as: UTF8.self)
    }
    peer.openStreams += 1
    peer.openStreamsMost = max(peer.openStreamsMost, peer.openStreams)
    return GRPCPeerStream(self, headers)
  }
  func http2SessionSettingsChanged(_ session: HTTP2Session) {}
  func http2Session(_ session: HTTP2Session, peerLeaves lastStreamID: Int32, _ code: HTTP2ErrorCode) {}
  func http2SessionPingAnswered(_ session: HTTP2Session, _ opaque: UInt64) {}

  func answer(_ stream: HTTP2Stream, _ headers: [String: String], _ message: [UInt8]) {
    let request = GRPCPeer.Request(headers: headers, message: message, index: peer.requests.count, connection: number)
    switch peer.answer(request) {
    case .reply(let text): reply(stream, text)
    case .later(let delay, let text):
      let timer = LoopTimer { [self] in reply(stream, text) }
      peer.driver.timers.arm(timer, after: delay.saturatingNanoseconds, from: peer.driver.now)
    case .fail(let status, let message):
      let list = session.takeList()
      list.append(":status", "200")
      list.append("content-type", "application/grpc")
      list.append("grpc-status") { $0.append(decimal: status) }
      list.append("grpc-message") { $0.append(message) }
      stream.respond(list, ends: true)
    case .stall: break
    case .reset(let code): stream.reset(code)
    case .leaveUnseen:
      // nghttp2 would say that it has seen the stream, so the frame is made by hand.
      let frame: [UInt8] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
      self.stream?.write(frame)
    case .leaveSeen(let text):
      session.leave()
      reply(stream, text)
    case .dropConnection: self.stream?.reset()
    }
  }

  private func reply(_ stream: HTTP2Stream, _ text: String) {
    let head = session.takeList()
    head.append(":status", "200")
    head.append("content-type", "application/grpc")
    stream.respond(head)
    var text = text
    text.withUTF8 { bytes in
      let bytes = UnsafeRawBufferPointer(bytes)
      _ = GRPCFraming.withPrefix(bytes.count) { stream.send($0, bytes) }
    }
    let trailers = session.takeList()
    trailers.append("grpc-status", "0")
    stream.finish(trailers: trailers)
  }
}

private final class GRPCPeerStream: HTTP2StreamHandler {
  private let connection: GRPCPeerConnection
  private let headers: [String: String]
  private var body: [UInt8] = []

  init(_ connection: GRPCPeerConnection, _ headers: [String: String]) {
    self.connection = connection
    self.headers = headers
  }
  func http2Stream(_ stream: HTTP2Stream, received fields: HTTP2Fields, kind: HTTP2Stream.HeadKind) {}
  func http2Stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {
    body += bytes
    stream.consumed(bytes.count)
  }
  func http2StreamEnded(_ stream: HTTP2Stream) {
    connection.answer(stream, headers, Array(body.dropFirst(5)))
  }
  func http2StreamDrained(_ stream: HTTP2Stream) {}
  func http2StreamClosed(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {
    connection.peer.openStreams -= 1
    if code != .noError { connection.peer.resets.append(code) }
  }
}

extension DataPathWorld {
  static let grpc = ["protocol": "grpc", "transport": "grpc", "server": "grpc"]

  /// Starts a scripted gRPC node on a host of its own.
  func grpcNode(_ name: String = "grpc-node", answering answer: @escaping (GRPCPeer.Request) -> GRPCPeer.Answer) throws
    -> GRPCPeer
  {
    let loop = world.makeHost(name).makeLoop()
    return try GRPCPeer(on: loop, at: loop.host.address(port: 5000), answering: answer)
  }
}
