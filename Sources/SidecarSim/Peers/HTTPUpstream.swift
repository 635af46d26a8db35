// A scripted HTTP/1 server for tests of the data path: it reads requests well and answers them as badly as it is told.
// Written over the driver contract, so it serves on the simulator and on libuv.
//
//   let upstream = try HTTPUpstream(on: loop, at: address) { request in
//     request.target == "/slow" ? .reply("late").after(.seconds(3)) : .reply("hello")
//   }

import SidecarCore

package final class HTTPUpstream {
  package struct Request {
    package var method: String
    package var target: String
    /// In order and spelling of arrival.
    package var headers: [(name: String, value: String)]
    package var body: [UInt8]
    /// Counts from 0, over all connections and on this one.
    package var index: Int
    package var indexOnConnection: Int
    /// Headers of the first request of this connection: go-micro's HTTP servers repeat them in every reply.
    package var firstHeaders: [(name: String, value: String)]

    package func header(_ name: String) -> String? {
      headers.first { $0.name.lowercased() == name.lowercased() }?.value
    }
    package var text: String { String(decoding: body, as: UTF8.self) }
  }

  /// What a connection does with one request. Steps run in order; the next request waits for the last.
  package struct Answer {
    enum Step {
      case write([UInt8])
      case wait(Duration)
      case end
      case close
      case reset
      case stall
      case stopReading
    }
    var steps: [Step]

    /// A correct reply.
    package static func reply(
      _ body: String = "", status: Int = 200, headers: [(name: String, value: String)] = []
    ) -> Answer { lie(body, claiming: body.utf8.count, status: status, headers: headers) }

    /// A reply whose Content-Length is not its body's.
    package static func lie(
      _ body: String, claiming length: Int, status: Int = 200, headers: [(name: String, value: String)] = []
    ) -> Answer {
      let fields = headers.map { "\($0.name): \($0.value)\r\n" }.joined()
      return .bytes("HTTP/1.1 \(status) Status\r\n\(fields)Content-Length: \(length)\r\n\r\n\(body)")
    }

    /// A chunked reply, one chunk per part; `trailers` are header lines without line ends.
    package static func chunks(_ parts: [String], trailers: [String] = [], finished: Bool = true) -> Answer {
      let chunks = parts.filter { !$0.isEmpty }.map { "\(String($0.utf8.count, radix: 16))\r\n\($0)\r\n" }.joined()
      let last = finished ? "0\r\n" + trailers.map { $0 + "\r\n" }.joined() + "\r\n" : ""
      return .bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\(chunks)\(last)")
    }

    /// These bytes, whatever they are.
    package static func bytes(_ text: String) -> Answer { Answer(steps: [.write(Array(text.utf8))]) }
    package static func bytes(_ bytes: [UInt8]) -> Answer { Answer(steps: [.write(bytes)]) }

    /// Never answers; the connection stays open.
    package static var stall: Answer { Answer(steps: [.stall]) }
    /// Never answers and takes no more bytes.
    package static var stopReading: Answer { Answer(steps: [.stopReading, .stall]) }
    /// Resets before the first byte.
    package static var reset: Answer { Answer(steps: [.reset]) }
    /// Closes before the first byte.
    package static var close: Answer { Answer(steps: [.close]) }

    /// Waits before the first step.
    package func after(_ delay: Duration) -> Answer { Answer(steps: [.wait(delay)] + steps) }
    package func thenClose() -> Answer { Answer(steps: steps + [.close]) }
    package func thenReset() -> Answer { Answer(steps: steps + [.reset]) }
    package func thenStall() -> Answer { Answer(steps: steps + [.stall]) }
    /// Ends its half and goes on reading.
    package func thenEnd() -> Answer { Answer(steps: steps + [.end]) }
    package func then(_ next: Answer) -> Answer { Answer(steps: steps + next.steps) }

    /// Only the first `count` bytes; combine with `thenReset`, `thenClose` or `thenStall`.
    package func cut(after count: Int) -> Answer {
      var left = count
      return Answer(
        steps: steps.map { step in
          guard case .write(let bytes) = step else { return step }
          defer { left -= min(left, bytes.count) }
          return .write(Array(bytes.prefix(left)))
        })
    }

    /// Written in parts of `size` bytes with pauses between them.
    package func inPieces(of size: Int, every pause: Duration) -> Answer {
      Answer(
        steps: steps.flatMap { step -> [Step] in
          guard case .write(let bytes) = step, !bytes.isEmpty else { return [step] }
          return stride(from: 0, to: bytes.count, by: max(1, size)).flatMap { start in
            [.write(Array(bytes[start..<min(start + max(1, size), bytes.count)])), .wait(pause)]
          }
        })
    }
  }

  package let driver: any Driver
  private let answer: (Request) -> Answer
  private var listener: Listener?
  private var connections: [HTTPUpstreamConnection] = []
  /// Everything asked so far, oldest first.
  package private(set) var requests: [Request] = []
  package private(set) var acceptedCount = 0
  package var openCount: Int { connections.count }
  package let address: SocketAddress

  package init(
    on driver: any Driver, at address: SocketAddress, answering answer: @escaping (Request) -> Answer
  ) throws(DriverError) {
    self.driver = driver
    self.answer = answer
    var accept: (ByteStream) -> Void = { _ in }
    let listener = try driver.listen(on: address, sharedPort: false) { accept($0) }
    self.listener = listener
    self.address = listener.address
    accept = { [weak self] stream in
      guard let self else { return stream.reset() }
      acceptedCount += 1
      let connection = HTTPUpstreamConnection(stream, of: self)
      connections.append(connection)
      stream.handler = connection
    }
  }

  /// Stops listening and resets what is open. Twice is once.
  package func stop() {
    listener?.close()
    listener = nil
    for connection in connections { connection.stream.reset() }
  }

  fileprivate func answer(to request: Request) -> Answer {
    var request = request
    request.index = requests.count
    requests.append(request)
    return answer(request)
  }

  fileprivate func closed(_ connection: HTTPUpstreamConnection) { connections.removeAll { $0 === connection } }
}

private final class HTTPUpstreamConnection: StreamHandler {
  let stream: ByteStream
  private weak var upstream: HTTPUpstream?
  private var input: [UInt8] = []
  private var steps: [HTTPUpstream.Answer.Step] = []
  private var isStalled = false
  private var peerHasEnded = false
  private var requestCount = 0
  private var firstHeaders: [(name: String, value: String)] = []
  private lazy var timer = LoopTimer { [unowned self] in advance() }

  init(_ stream: ByteStream, of upstream: HTTPUpstream) {
    self.stream = stream
    self.upstream = upstream
  }

  func streamOpened(_ stream: ByteStream) {}
  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    input.append(contentsOf: bytes)
    advance()
  }
  func streamEnded(_ stream: ByteStream) {
    peerHasEnded = true
    advance()
  }
  func streamDrained(_ stream: ByteStream) {}
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    timer.cancel()
    upstream?.closed(self)
  }

  private func advance() {
    while !timer.isArmed, !isStalled {
      if steps.isEmpty {
        guard let request = takeRequest(), let upstream else {
          if peerHasEnded { stream.close() }
          return
        }
        steps = upstream.answer(to: request).steps
        continue
      }
      switch steps.removeFirst() {
      case .write(let bytes): stream.write(bytes)
      case .wait(let duration):
        guard let driver = upstream?.driver else { return }
        driver.timers.arm(timer, after: duration.saturatingNanoseconds, from: driver.now)
      case .end: stream.shutdownWrites()
      case .close:
        isStalled = true
        stream.close()
      case .reset:
        isStalled = true
        stream.reset()
      case .stall: isStalled = true
      case .stopReading: stream.pauseReading()
      }
    }
  }

  /// The next whole request in `input`; nil while there is none. What is no HTTP closes the connection.
  private func takeRequest() -> HTTPUpstream.Request? {
    guard let headEnd = find("\r\n\r\n", from: 0) else { return nil }
    let lines = String(decoding: input[..<headEnd], as: UTF8.self).split(separator: "\r\n")
    let words = lines.first?.split(separator: " ") ?? []
    guard words.count == 3 else {
      stream.close()
      isStalled = true
      return nil
    }
    let headers = lines.dropFirst().map { line -> (name: String, value: String) in
      let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
      return (String(parts[0]), parts.count > 1 ? String(parts[1].drop { $0 == " " }) : "")
    }
    func value(_ name: String) -> String? { headers.first { $0.name.lowercased() == name }?.value }
    var end = headEnd + 4
    var body: [UInt8] = []
    if value("transfer-encoding")?.lowercased() == "chunked" {
      guard let (chunks, after) = takeChunks(from: end) else { return nil }
      (body, end) = (chunks, after)
    } else if let length = value("content-length").flatMap(Int.init), length > 0 {
      guard input.count - end >= length else { return nil }
      body = Array(input[end..<end + length])
      end += length
    }
    input.removeFirst(end)
    if requestCount == 0 { firstHeaders = headers }
    requestCount += 1
    return HTTPUpstream.Request(
      method: String(words[0]), target: String(words[1]), headers: headers, body: body, index: 0,
      indexOnConnection: requestCount - 1, firstHeaders: firstHeaders)
  }

  private func takeChunks(from start: Int) -> (body: [UInt8], end: Int)? {
    var body: [UInt8] = []
    var position = start
    while let lineEnd = find("\r\n", from: position) {
      let text = String(decoding: input[position..<lineEnd], as: UTF8.self)
      let size = Int(text.prefix { $0 != ";" }, radix: 16) ?? 0
      position = lineEnd + 2
      if size == 0 {
        // Trailers, then an empty line.
        while let next = find("\r\n", from: position) {
          if next == position { return (body, next + 2) }
          position = next + 2
        }
        return nil
      }
      guard input.count - position >= size + 2 else { return nil }
      body += input[position..<position + size]
      position += size + 2
    }
    return nil
  }

  private func find(_ text: String, from start: Int) -> Int? {
    let pattern = Array(text.utf8)
    guard input.count - start >= pattern.count else { return nil }
    return (start...input.count - pattern.count).first { input[$0..<$0 + pattern.count].elementsEqual(pattern) }
  }
}
