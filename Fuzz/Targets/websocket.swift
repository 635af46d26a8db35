// A WebSocket session, either role, with and without compression. Input: a byte of choices, three places to cut, then what
// the peer sends.
// core: Wire/HTTP1 Wire/WebSocket Wire/SHA1.swift Wire/JSON/ASCIIText.swift Wire/ByteBuffer.swift Wire/WireError.swift Wire/FixedBytes.swift Driver/SeededRandom.swift

import SidecarCore

private let messageMax = 2048
/// Compressors are dear to make; those of the pool are set back before each use.
nonisolated(unsafe) private let deflaters = DeflatePool()

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let mode = choices.byte()
  let role = mode & 1 == 0 ? WebSocketRole.server : .client
  var agreement: DeflateAgreement?
  if mode & 2 != 0 {
    let direction = DeflateDirection(keepsContext: mode & 0x0C == 0x0C, windowBits: mode & 0x10 != 0 ? 9 : 15)
    agreement = DeflateAgreement(server: direction, client: direction)
  }
  let cuts = choices.cuts(3)
  let pieces = run(choices.rest, cuts, role, agreement, echo: mode & 0x20 != 0)
  let whole = run(choices.rest, [], role, agreement, echo: false)
  if pieces != whole { fail("cut at \(cuts): \(pieces) instead of \(whole)") }
}

/// What the session reports, in lines; checks everything it writes by reading it as the peer would.
private func run(
  _ bytes: UnsafeRawBufferPointer, _ cuts: [Int], _ role: WebSocketRole, _ agreement: DeflateAgreement?, echo: Bool
) -> [String] {
  let buffers = BufferPool()
  var session = WebSocketSession(
    role, messageMax: messageMax, deflate: agreement, buffers: buffers, deflaters: deflaters, maskSeed: 1)
  var peer = WebSocketSession(
    role == .server ? .client : .server, messageMax: messageMax, deflate: agreement, buffers: buffers,
    deflaters: deflaters, maskSeed: 2)
  let out = ByteBuffer()
  let unused = ByteBuffer()
  var lines: [String] = []
  var isOver = false
  forEachPiece(bytes, cutAt: cuts) { piece in
    var rest = piece
    while true {
      switch session.receive(&rest, into: out) {
      case .needMore:
        if !rest.isEmpty { fail("more is wanted while input is left") }
        return true
      case .message(let kind, let payload):
        if payload.count > messageMax { fail("a message is over the limit") }
        if kind == .text, String(validating: payload, as: UTF8.self) == nil { fail("a text is not UTF-8") }
        lines.append("\(kind) \(Array(payload))")
        if echo { repeatBack(kind, payload, &session, &peer, out) }
      case .ping(let payload): lines.append("ping \(Array(payload))")
      case .pong(let payload): lines.append("pong \(Array(payload))")
      case .closed(let code, let reason):
        if String(validating: reason, as: UTF8.self) == nil { fail("a reason is not UTF-8") }
        lines.append("closed \(code) \(Array(reason))")
        isOver = true
      case .failed(let failure):
        // Of two faults in one compressed message, which is seen first depends on the cuts.
        lines.append(agreement == nil ? "failed \(failure.code) \(failure.reason)" : "failed")
        isOver = true
      }
      if isOver, session.state != .over { fail("the session goes on after its end") }
      hear(out, &peer, unused)
    }
  }
  if session.isBetweenMessages, session.heldBytes > 0, isOver { fail("memory is held after the end") }
  return lines
}

/// What was written without being asked for is what a strict peer accepts: pongs and a Close.
private func hear(_ out: ByteBuffer, _ peer: inout WebSocketSession, _ unused: ByteBuffer) {
  var sent = out.bytes
  while !sent.isEmpty {
    switch peer.receive(&sent, into: unused) {
    case .needMore: if !sent.isEmpty { fail("half a frame was written") }
    case .message, .ping: fail("something was written that nobody asked for")
    case .pong, .closed: break
    case .failed(let failure): fail("the peer refuses what was written: \(failure)")
    }
  }
  out.removeAll()
}

/// The message sent back arrives as it came.
private func repeatBack(
  _ kind: WebSocketKind, _ payload: UnsafeRawBufferPointer, _ session: inout WebSocketSession,
  _ peer: inout WebSocketSession, _ out: ByteBuffer
) {
  let wire = ByteBuffer()
  wire.append(session.send(kind, payload, into: wire))
  var sent = wire.bytes
  guard case .message(let heard, let bytes) = peer.receive(&sent, into: ByteBuffer()) else {
    fail("a message was written that is none")
  }
  if heard != kind || !bytes.elementsEqual(payload) { fail("a message does not survive") }
  if !sent.isEmpty { fail("something follows a message") }
}
