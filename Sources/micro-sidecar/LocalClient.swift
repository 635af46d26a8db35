// The commands' way to a sidecar: one HTTP/1 request at a time, on the command's own loop.

import SidecarBuiltins
import SidecarCore
import SidecarTLS
import SidecarUV

/// An answer of the local API.
struct LocalReply {
  var status: Int
  var body: [UInt8]
}

/// What stood between a command and an answer.
struct LocalFailure: Error {
  var message: String
  /// Nothing listens there.
  var isRefused = false
}

/// Sends one request on a fresh connection and waits for the whole reply. Loop-confined.
final class LocalRequest: StreamHandler {
  private let driver: UVDriver
  private let message: ByteBuffer
  private var reader: MessageReader
  private let scratch = ReaderScratch()
  private var stream: ByteStream?
  private var completion: ((Result<LocalReply, LocalFailure>) -> Void)?
  private lazy var timer = LoopTimer { [unowned self] in self.finish(.failure(LocalFailure(message: self.late))) }
  private let late: String

  /// `timeout` in nanoseconds.
  static func send(
    _ driver: UVDriver, to address: SocketAddress, method: StaticString, target: String,
    fields: [(String, String)] = [], body: [UInt8] = [], tls: TLSSource? = nil, timeout: Int64
  ) async throws(LocalFailure) -> LocalReply {
    var secured: TLSStream?
    if let tls {
      do throws(TLSError) {
        secured = try TLSStream(client: try tls.context(), host: nil, driver)
      } catch {
        throw LocalFailure(message: error.message)
      }
    }
    let result = await withCheckedContinuation { continuation in
      let request = LocalRequest(driver, address, method, target, fields, body, timeout) {
        continuation.resume(returning: $0)
      }
      request.start(address, secured, timeout)
    }
    return try result.get()
  }

  private init(
    _ driver: UVDriver, _ address: SocketAddress, _ method: StaticString, _ target: String,
    _ fields: [(String, String)], _ body: [UInt8], _ timeout: Int64,
    _ completion: @escaping (Result<LocalReply, LocalFailure>) -> Void
  ) {
    self.driver = driver
    self.completion = completion
    late = "\(address) did not answer within \(timeout / 1_000_000_000) s"
    message = ByteBuffer(capacity: 512 + body.count)
    reader = MessageReader(.client, bodyMax: 64 * 1024 * 1024, scratch: scratch)
    reader.expectResponse()
    HTTP1Writer.requestLine(method, target: target, to: message)
    HTTP1Writer.field("Host", address.description, to: message)
    for (name, value) in fields { _ = HTTP1Writer.field(name: name, value, to: message) }
    HTTP1Writer.contentLength(body.count, to: message)
    HTTP1Writer.endHead(to: message)
    message.append(body)
  }

  private func start(_ address: SocketAddress, _ secured: TLSStream?, _ timeout: Int64) {
    driver.timers.arm(timer, after: timeout, from: driver.now)
    guard let secured else {
      stream = driver.connect(to: address, handler: self)
      return
    }
    secured.handler = self
    secured.connect(to: address)
    stream = secured
  }

  private func finish(_ result: Result<LocalReply, LocalFailure>) {
    guard let completion else { return }
    self.completion = nil
    timer.cancel()
    stream?.close()
    completion(result)
  }

  func streamOpened(_ stream: ByteStream) { stream.write(message.bytes) }

  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    var input = bytes
    do throws(WireError) {
      guard case .message(let body) = try reader.next(&input, scratch) else { return }
      finish(.success(LocalReply(status: reader.head(scratch).status, body: Array(body))))
      reader.finishMessage(scratch)
    } catch {
      finish(.failure(LocalFailure(message: "the answer is not HTTP: \(error)")))
    }
  }

  func streamEnded(_ stream: ByteStream) {
    finish(.failure(LocalFailure(message: "the connection was closed before the answer was whole")))
  }

  func streamDrained(_ stream: ByteStream) {}

  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    self.stream = nil
    switch end {
    case .refused: finish(.failure(LocalFailure(message: "connection refused", isRefused: true)))
    case .unreachable(let why), .reset(let why): finish(.failure(LocalFailure(message: why)))
    case .closedHere, .ended: finish(.failure(LocalFailure(message: "the connection was closed")))
    }
  }
}
