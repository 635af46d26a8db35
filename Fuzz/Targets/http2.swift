// The glue around nghttp2, as server and as client: whatever a peer sends, every stream ends once, nothing is heard after
// its end, memory stays within the limits, and a session that gave up says so with GOAWAY. Input: a byte of mode (role,
// whether frames are built from choices or come raw, how handlers behave), one of piece size, then frames.
// core: Wire/HTTP2 Wire/ByteBuffer.swift Wire/JSON/ASCIIText.swift Driver/Instant.swift Driver/ByteStream.swift Driver/SocketAddress.swift
// link: CNGHTTP2 nghttp2

import SidecarCore

private final class Peer: HTTP2SessionHandler, HTTP2StreamHandler {
  let session: HTTP2Session
  let mode: UInt8
  private var open: [ObjectIdentifier: HTTP2Stream] = [:]
  private var held: [(HTTP2Stream, Int)] = []
  private var events = 0

  init(_ role: HTTP2Session.Role, mode: UInt8) {
    self.mode = mode
    session = HTTP2Session(role, buffers: BufferPool(), now: Instant(nanoseconds: 0))
    session.handler = self
  }

  private func heard(_ stream: HTTP2Stream) {
    events += 1
    if open[ObjectIdentifier(stream)] == nil { fail("an event of a stream that is not open") }
  }

  func http2Session(_ session: HTTP2Session, opened stream: HTTP2Stream, _ head: HTTP2Fields, ends: Bool)
    -> (any HTTP2StreamHandler)?
  {
    if session.role == .client { fail("a client was asked") }
    if head.method == nil { fail("a request without a method") }
    check(head)
    open[ObjectIdentifier(stream)] = stream
    switch (mode >> 3 &+ UInt8(truncatingIfNeeded: events)) & 7 {
    case 0:
      open[ObjectIdentifier(stream)] = nil
      return nil
    case 1: answer(stream, ends: true)
    case 2:
      answer(stream, ends: false)
      stream.finish(trailers: trailers())
    case 3:
      open[ObjectIdentifier(stream)] = nil
      stream.reset(.cancel)
    default: answer(stream, ends: false)
    }
    return self
  }

  private func check(_ head: HTTP2Fields) {
    var size = 0
    for index in 0..<head.count {
      size += head.name(index).count + head.value(index).count + 32
      if head.value(index).contains(where: { $0 == 0 || $0 == 10 || $0 == 13 }) { fail("a line break in a field") }
    }
    if size > HTTP2Limits.headerListMax || head.count > HTTP2Limits.fieldsMax { fail("a list over its limit") }
  }

  func answer(_ stream: HTTP2Stream, ends: Bool) {
    let list = session.takeList()
    list.append(":status", "200")
    stream.respond(list, ends: ends)
  }

  func trailers() -> HTTP2HeaderList {
    let list = session.takeList()
    list.append("grpc-status", "0")
    return list
  }

  func request(_ ends: Bool) {
    let list = session.takeList()
    list.append(":method", "POST")
    list.append(":scheme", "http")
    list.append(":path", "/a/b")
    list.append(":authority", "x")
    if let stream = session.request(list, ends: ends, handler: self) { open[ObjectIdentifier(stream)] = stream }
  }

  func http2SessionSettingsChanged(_ session: HTTP2Session) { events += 1 }
  func http2Session(_ session: HTTP2Session, peerLeaves lastStreamID: Int32, _ code: HTTP2ErrorCode) { events += 1 }
  func http2SessionPingAnswered(_ session: HTTP2Session, _ opaque: UInt64) { events += 1 }
  func http2SessionWantsFlush(_ session: HTTP2Session) {}

  func http2Stream(_ stream: HTTP2Stream, received fields: HTTP2Fields, kind: HTTP2Stream.HeadKind) {
    heard(stream)
    check(fields)
    if (kind == .trailers) != (fields.status == 0) { fail("a head taken for another kind") }
  }

  func http2Stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {
    heard(stream)
    // Read every byte, so that one out of bounds is found.
    if bytes.reduce(0, { $0 &+ Int($1) }) < 0 { fail("a sum of bytes below zero") }
    if mode & 2 == 0 { stream.consumed(bytes.count) } else { held.append((stream, bytes.count)) }
    if session.role == .server, stream.send(bytes) == .congested, mode & 128 != 0 {
      open[ObjectIdentifier(stream)] = nil
      stream.reset(.internalError)
    }
  }

  func http2StreamEnded(_ stream: HTTP2Stream) {
    heard(stream)
    if !stream.peerEnded { fail("an end that did not come") }
    stream.finish()
  }

  func http2StreamDrained(_ stream: HTTP2Stream) {
    heard(stream)
    if stream.queuedBytes >= HTTP2Limits.streamHighWatermark { fail("drained, and still full") }
  }

  func http2StreamClosed(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {
    heard(stream)
    open[ObjectIdentifier(stream)] = nil
    if stream.session != nil { fail("closed, and still of a session") }
  }

  func giveBack() {
    for (stream, count) in held { stream.consumed(count) }
    held = []
  }

  func end() {
    session.connectionLost()
    if !open.isEmpty || session.streamCount != 0 { fail("a stream outlived its connection") }
    let after = events
    session.receive(UnsafeRawBufferPointer(start: nil, count: 0), now: Instant(nanoseconds: 1))
    if events != after { fail("an event after the end") }
  }
}

private let preface: StaticString = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let mode = choices.byte()
  let pieces = Int(choices.byte())
  let peer = Peer(mode & 1 == 0 ? .server : .client, mode: mode)
  let bytes = ByteBuffer()
  if mode & 4 == 0 {
    if mode & 1 == 0 {
      bytes.append(UnsafeRawBufferPointer(start: preface.utf8Start, count: preface.utf8CodeUnitCount))
    }
    // SETTINGS, which must be the first.
    for byte in [0, 0, 0, 4, 0, 0, 0, 0, 0] as [UInt8] { bytes.append(byte) }
    build(&choices, into: bytes)
  } else {
    bytes.append(choices.rest)
  }
  let out = ByteBuffer()
  var now = Instant(nanoseconds: 1)
  if peer.session.role == .client { for index in 0..<3 { peer.request(index == 1) } }
  var offset = 0
  while offset < bytes.count {
    let count = min(pieces == 0 ? bytes.count : pieces * 4, bytes.count - offset)
    // In memory of its own size, and gone afterwards.
    let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 1)
    piece.copyMemory(from: bytes.bytes(offset..<offset + count))
    peer.session.receive(UnsafeRawBufferPointer(piece), now: now)
    piece.deallocate()
    offset += count
    now = now.advanced(byNanoseconds: 1_000_000)
    out.removeAll()
    let hasMore = peer.session.flush(into: out)
    if out.count > HTTP2Limits.flushMax + (1 << 17) { fail("\(out.count) bytes in one flush") }
    peer.session.settle()
    if mode & 64 != 0 { peer.giveBack() }
    if peer.session.isFailed, !hasMore, !peer.session.isOver { fail("failed, and not over") }
  }
  peer.end()
}

/// Frames whose lengths are right, so that what is inside is reached.
private func build(_ choices: inout Choices, into bytes: ByteBuffer) {
  while !choices.rest.isEmpty {
    let type = choices.byte()
    let flags = choices.byte()
    let stream = choices.byte()
    let count = min(Int(choices.byte()), choices.rest.count)
    bytes.append(0)
    bytes.append(0)
    bytes.append(UInt8(count))
    bytes.append(type & 15)
    bytes.append(flags)
    for byte in [0, 0, 0, stream] { bytes.append(byte) }
    for _ in 0..<count { bytes.append(choices.byte()) }
  }
}
