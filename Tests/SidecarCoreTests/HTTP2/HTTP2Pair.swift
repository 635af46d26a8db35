// Two sessions, client and server, joined back to back without a network: what one flushes the other receives.

@testable import SidecarCore

/// What one side has heard, in order, and what it answers.
final class HTTP2Side: HTTP2SessionHandler, HTTP2StreamHandler {
  let session: HTTP2Session
  private(set) var log: [String] = []
  private(set) var received: [Int32: [UInt8]] = [:]
  private(set) var closed: [Int32: HTTP2ErrorCode] = [:]
  private(set) var streams: [Int32: HTTP2Stream] = [:]
  private(set) var flushesWanted = 0
  /// False: bytes are kept from the peer's window until `consume`.
  var consumesAtOnce = true
  var onRequest: (HTTP2Stream) -> Void = { _ in }
  var onEnded: (HTTP2Stream) -> Void = { _ in }
  var onDrained: (HTTP2Stream) -> Void = { _ in }
  var takesRequests = true

  init(_ role: HTTP2Session.Role) {
    session = HTTP2Session(role, buffers: BufferPool(), now: Instant(nanoseconds: 0))
    session.handler = self
  }

  deinit { session.connectionLost() }

  static func text(_ fields: HTTP2Fields) -> String {
    (0..<fields.count).map {
      "\(String(decoding: fields.name($0), as: UTF8.self))=\(String(decoding: fields.value($0), as: UTF8.self))"
    }.joined(separator: " ")
  }

  func http2Session(_ session: HTTP2Session, opened stream: HTTP2Stream, _ head: HTTP2Fields, ends: Bool)
    -> (any HTTP2StreamHandler)?
  {
    guard takesRequests else { return nil }
    log.append("\(stream.id) opened \(Self.text(head))")
    streams[stream.id] = stream
    onRequest(stream)
    return self
  }
  func http2SessionSettingsChanged(_ session: HTTP2Session) {}
  func http2Session(_ session: HTTP2Session, peerLeaves lastStreamID: Int32, _ code: HTTP2ErrorCode) {
    log.append("peer leaves \(lastStreamID) \(code)")
  }
  func http2SessionPingAnswered(_ session: HTTP2Session, _ opaque: UInt64) { log.append("pong \(opaque)") }
  func http2SessionWantsFlush(_ session: HTTP2Session) { flushesWanted += 1 }

  func http2Stream(_ stream: HTTP2Stream, received fields: HTTP2Fields, kind: HTTP2Stream.HeadKind) {
    log.append("\(stream.id) \(kind) \(Self.text(fields))")
  }
  func http2Stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {
    received[stream.id, default: []].append(contentsOf: bytes)
    if consumesAtOnce { stream.consumed(bytes.count) }
  }
  func http2StreamEnded(_ stream: HTTP2Stream) {
    log.append("\(stream.id) ended")
    onEnded(stream)
  }
  func http2StreamDrained(_ stream: HTTP2Stream) {
    log.append("\(stream.id) drained")
    onDrained(stream)
  }
  func http2StreamClosed(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {
    log.append("\(stream.id) closed \(code)")
    closed[stream.id] = code
  }

  // MARK: Acting

  func list(_ fields: KeyValuePairs<String, String>) -> HTTP2HeaderList {
    let list = session.takeList()
    for (name, value) in fields { Bytes.of(value) { value in Bytes.of(name) { Self.append($0, value, to: list) } } }
    return list
  }
  private static func append(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, to list: HTTP2HeaderList)
  {
    // Pseudo-headers have no public way in but by literal.
    switch String(decoding: name, as: UTF8.self) {
    case ":status": list.append(":status", value)
    case ":method": list.append(":method", value)
    case ":path": list.append(":path", value)
    case ":scheme": list.append(":scheme", value)
    case ":authority": list.append(":authority", value)
    default: list.append(name: name, value: value)
    }
  }

  func request(ends: Bool = false, _ more: KeyValuePairs<String, String> = [:]) -> HTTP2Stream? {
    let list = list([":method": "POST", ":scheme": "http", ":path": "/a.B/C", ":authority": "x"])
    for (name, value) in more {
      Bytes.of(value) { value in Bytes.of(name) { _ = list.append(name: $0, value: value) } }
    }
    let stream = session.request(list, ends: ends, handler: self)
    if let stream { streams[stream.id] = stream }
    return stream
  }

  func respond(_ stream: HTTP2Stream, ends: Bool = false) { stream.respond(list([":status": "200"]), ends: ends) }
}

enum Bytes {
  static func of<Result>(_ text: String, _ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
    var text = text
    return try text.withUTF8 { try body(UnsafeRawBufferPointer($0)) }
  }
}

extension HTTP2Stream {
  func send(_ text: String) -> WriteState { Bytes.of(text) { send($0) } }
  func send(_ bytes: [UInt8]) -> WriteState { bytes.withUnsafeBytes { send($0) } }
}

final class HTTP2Pair {
  let client = HTTP2Side(.client)
  let server = HTTP2Side(.server)
  var now = Instant(nanoseconds: 1)
  /// Bytes handed over at once; all there are when nil.
  var pieces: Int?
  private(set) var bytes = 0

  /// Lets both talk until neither has more to say.
  func run() { while step(client, server) || step(server, client) {} }

  /// What one says goes to the other.
  @discardableResult func step(_ from: HTTP2Side, _ to: HTTP2Side) -> Bool {
    let out = ByteBuffer()
    while from.session.flush(into: out) {}
    from.session.settle()
    bytes += out.count
    var rest = out.bytes
    while !rest.isEmpty {
      let piece = UnsafeRawBufferPointer(rebasing: rest.prefix(pieces ?? rest.count))
      to.session.receive(piece, now: now)
      rest = UnsafeRawBufferPointer(rebasing: rest[piece.count...])
    }
    return !out.isEmpty
  }
}
