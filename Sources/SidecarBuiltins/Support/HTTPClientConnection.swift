// One HTTP/1.1 connection to a server: a request and its reply, then the next.
//
//   idle ─ send ─▶ awaiting the head ─▶ body ─▶ idle (if both sides keep it) or over

import SidecarCore

/// The status line and fields of a reply.
package struct HTTPReplyHead: Sendable {
  package var status: Int
  package var headers: [(name: String, value: String)]
}

/// Threading: its loop only. One exchange at a time.
final class HTTPClientConnection {
  let connection: AsyncConnection
  /// When it became idle.
  var idleSince = Instant(nanoseconds: 0)
  private var parser = HTTP1Parser(.client)
  private var head: HTTPReplyHead?
  /// Body bytes that were read and not yet taken.
  private var body: [UInt8] = []
  private var hasEnded = true
  private var keepsAlive = false
  /// Bytes of the reply under way that were read.
  private(set) var hasHeardReply = false

  init(_ connection: AsyncConnection) { self.connection = connection }

  /// May carry another exchange.
  var isReusable: Bool { hasEnded && keepsAlive && connection.isUsable && connection.bufferedBytes == 0 }

  func send(
    _ request: HTTPRequest, to endpoint: HTTPEndpoint, headers: [(name: String, value: String)], deadline: Instant
  ) async throws(ConnectionError) {
    head = nil
    body = []
    hasEnded = false
    hasHeardReply = false
    let out = ByteBuffer(capacity: 512)
    var target = endpoint.basePath + request.target
    target.withUTF8 { target in
      let target = UnsafeRawBufferPointer(target)
      switch request.method {
      case .get: HTTP1Writer.requestLine("GET", target: target, to: out)
      case .put: HTTP1Writer.requestLine("PUT", target: target, to: out)
      case .post: HTTP1Writer.requestLine("POST", target: target, to: out)
      case .delete: HTTP1Writer.requestLine("DELETE", target: target, to: out)
      case .patch: HTTP1Writer.requestLine("PATCH", target: target, to: out)
      }
    }
    HTTP1Writer.field("Host", endpoint.authority, to: out)
    HTTP1Writer.field("User-Agent", "micro-sidecar", to: out)
    for header in headers + request.headers { HTTP1Writer.field(name: header.name, header.value, to: out) }
    if let body = request.body { HTTP1Writer.contentLength(body.count, to: out) }
    HTTP1Writer.endHead(to: out)
    if let body = request.body { out.append(body) }
    try await connection.write([UInt8](out.bytes), deadline: deadline)
  }

  func readHead(deadline: Instant) async throws(ConnectionError) -> HTTPReplyHead {
    while true {
      if let head { return head }
      try await advance(deadline)
    }
  }

  /// More of the body, never none; nil at its end.
  func readBody(deadline: Instant) async throws(ConnectionError) -> [UInt8]? {
    while body.isEmpty {
      if hasEnded { return nil }
      try await advance(deadline)
    }
    let bytes = body
    body = []
    return bytes
  }

  private func advance(_ deadline: Instant) async throws(ConnectionError) {
    guard let bytes = try await connection.read(deadline: deadline) else {
      do throws(WireError) {
        guard case .end = try parser.finish() else { throw WireError("the connection was closed before a reply") }
        hasEnded = true
      } catch {
        throw .closed(error.rule)
      }
      return
    }
    hasHeardReply = true
    let result = bytes.withUnsafeBytes { bytes in
      Result { () throws(WireError) in try self.feed(bytes) }
    }
    do throws(WireError) {
      try result.get()
    } catch {
      throw .closed("it does not answer in HTTP/1.1: \(error.rule)")
    }
  }

  private func feed(_ bytes: UnsafeRawBufferPointer) throws(WireError) {
    var input = bytes
    while true {
      switch try parser.next(&input) {
      case .needMore:
        if parser.head.status == 101 { throw WireError("it switched protocols unasked") }
        return
      case .head:
        let parsed = parser.head
        // Interim replies say nothing yet.
        guard parsed.status >= 200 || parsed.status == 101 else { continue }
        keepsAlive = parsed.keepAlive
        head = HTTPReplyHead(
          status: parsed.status,
          headers: parsed.fields.map { field in
            (
              String(decoding: parsed.name(field), as: UTF8.self).lowercased(),
              String(decoding: parsed.value(field), as: UTF8.self)
            )
          })
      case .body(let part): body.append(contentsOf: part)
      case .end:
        guard head != nil else { continue }
        hasEnded = true
        // What nobody asked for belongs to no reply.
        if !input.isEmpty { keepsAlive = false }
        return
      }
    }
  }
}
