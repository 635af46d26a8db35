// A WebSocket after its handshake, either role: what is read, what is written, and how it ends. RFC 6455 §5–7.
//
//            close() ▶ Close written                   Close read
//   open ───────────────────────────────▶ closing ─────────────────────▶ over
//     ├── Close read ▶ its code is written back ─────────────────────────▲
//     └── a rule is broken ▶ Close with the reason is written ───────────┘
//
// Sans-IO: everything to be sent is appended to a buffer of the caller's.

/// Loop-confined. Holds no buffer between messages, and no compressor unless context was agreed on.
package struct WebSocketSession: ~Copyable {
  package enum State: Sendable {
    /// Messages go both ways.
    case open
    /// We have sent a Close and wait for the peer's. Messages still come, none may be sent.
    case closing
    /// Nothing more is read or written.
    case over
  }

  package private(set) var state = State.open
  private let isServer: Bool
  private let deflation: DeflateDirection?
  private let buffers: BufferPool
  private let deflaters: DeflatePool
  private var reader: WebSocketReader
  private var keys: SeededRandom
  /// Kept while the agreement keeps context.
  private var deflater: Deflater?

  /// `messageMax` is in bytes, after inflating; a longer message ends the session with 1009. `maskSeed` is what a client's
  /// masking keys come from: it should differ from session to session and not be guessable by who chooses the payloads.
  package init(
    _ role: WebSocketRole, messageMax: Int, deflate: DeflateAgreement?, buffers: BufferPool, deflaters: DeflatePool,
    maskSeed: UInt64
  ) {
    isServer = role == .server
    deflation = role == .server ? deflate?.server : deflate?.client
    self.buffers = buffers
    self.deflaters = deflaters
    keys = SeededRandom(seed: maskSeed)
    reader = WebSocketReader(
      role, messageMax: messageMax, inflation: role == .server ? deflate?.client : deflate?.server, buffers: buffers,
      inflaters: deflaters)
  }

  /// Whether no message is being received.
  package var isBetweenMessages: Bool { reader.isBetweenMessages }
  /// Bytes of buffers held for a message under way; zlib's are not counted.
  package var heldBytes: Int { reader.heldBytes }

  // MARK: Reading

  /// The next event in `input`, which shrinks from the front by what was used; what has to be sent for it (pongs, an
  /// answer to a Close, the Close after a broken rule) is appended to `out`. Pull until `needMore`, or stop earlier and
  /// keep the rest of the input.
  package mutating func receive(_ input: inout UnsafeRawBufferPointer, into out: ByteBuffer) -> WebSocketEvent {
    guard state != .over else {
      reader.takeBack()
      input = UnsafeRawBufferPointer(start: nil, count: 0)
      return .needMore
    }
    do throws(WebSocketFailure) {
      switch try reader.next(&input) {
      case .needMore: return .needMore
      case .message(let kind, let payload): return .message(kind, payload)
      case .ping(let payload):
        // After our Close a pong would only be in the way.
        if state == .open { appendControl(WebSocketOpcode.pong, payload, into: out) }
        return .ping(payload)
      case .pong(let payload): return .pong(payload)
      case .close(let code, let reason):
        let answer = UnsafeRawBufferPointer(start: nil, count: 0)
        if state == .open { appendClose(code == WebSocketCloseCode.none ? nil : code, answer, into: out) }
        state = .over
        return .closed(code, reason)
      }
    } catch {
      if state == .open {
        var reason = error.reason
        reason.withUTF8 { appendClose(error.code, Self.cut(UnsafeRawBufferPointer($0)), into: out) }
      }
      state = .over
      return .failed(error)
    }
  }

  // MARK: Writing

  /// Writes a message as one frame. Send `out`, then the bytes that are returned: a long payload is not copied. Compresses
  /// where that was agreed on. A text message must be UTF-8. Nothing is written unless the session is open.
  package mutating func send(
    _ kind: WebSocketKind, _ payload: UnsafeRawBufferPointer, into out: ByteBuffer
  ) -> UnsafeRawBufferPointer {
    let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
    guard state == .open else { return nothing }
    let opcode = kind == .text ? WebSocketOpcode.text : WebSocketOpcode.binary
    if payload.count >= WebSocketLimits.compressedPayloadMin, let deflation,
      sendCompressed(opcode, payload, deflation, into: out)
    {
      return nothing
    }
    if isServer, payload.count > WebSocketLimits.copiedPayloadMax {
      _ = appendHead(0x80 | opcode, payload.count, into: out)
      return payload
    }
    appendFrame(0x80 | opcode, payload, into: out)
    return nothing
  }

  /// At most 125 bytes; more are cut off.
  package mutating func ping(_ payload: UnsafeRawBufferPointer, into out: ByteBuffer) {
    guard state == .open else { return }
    appendControl(WebSocketOpcode.ping, payload, into: out)
  }

  /// Begins the closing handshake, once. A code that may not be sent becomes 1011; a reason longer than 123 bytes is cut
  /// between characters.
  package mutating func close(_ code: UInt16, _ reason: UnsafeRawBufferPointer, into out: ByteBuffer) {
    guard state == .open else { return }
    state = .closing
    let code = WebSocketCloseCode.isSendable(code) ? code : WebSocketCloseCode.internalError
    appendClose(code, Self.cut(reason), into: out)
  }

  package mutating func close(_ code: UInt16, _ reason: String, into out: ByteBuffer) {
    var reason = reason
    reason.withUTF8 { close(code, UnsafeRawBufferPointer($0), into: out) }
  }

  /// What fits into a Close of `text`, which is UTF-8: cut between characters.
  private static func cut(_ text: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
    guard text.count > WebSocketLimits.reasonBytes else { return text }
    var count = WebSocketLimits.reasonBytes
    while count > 0, text[count] & 0xC0 == 0x80 { count -= 1 }
    return UnsafeRawBufferPointer(rebasing: text[..<count])
  }

  private mutating func appendClose(_ code: UInt16?, _ reason: UnsafeRawBufferPointer, into out: ByteBuffer) {
    guard let code else { return appendControl(WebSocketOpcode.close, reason, into: out) }
    withUnsafeTemporaryAllocation(byteCount: WebSocketLimits.controlBytes, alignment: 2) { payload in
      payload.storeBytes(of: code.bigEndian, as: UInt16.self)
      UnsafeMutableRawBufferPointer(rebasing: payload[2...]).copyMemory(from: reason)
      appendControl(WebSocketOpcode.close, UnsafeRawBufferPointer(rebasing: payload[..<(2 + reason.count)]), into: out)
    }
  }

  private mutating func appendControl(_ opcode: UInt8, _ payload: UnsafeRawBufferPointer, into out: ByteBuffer) {
    let short = UnsafeRawBufferPointer(rebasing: payload.prefix(WebSocketLimits.controlBytes))
    appendFrame(0x80 | opcode, short, into: out)
  }

  private mutating func appendFrame(_ first: UInt8, _ payload: UnsafeRawBufferPointer, into out: ByteBuffer) {
    let key = appendHead(first, payload.count, into: out)
    guard !isServer else { return out.append(payload) }
    guard let start = payload.baseAddress else { return }
    out.reserve(payload.count)
    _ = WebSocketMask.copy(from: start, to: out.base + out.count, payload.count, key: key)
    out.advance(payload.count)
  }

  /// Answers with the masking key, 0 for a server.
  private mutating func appendHead(_ first: UInt8, _ count: Int, into out: ByteBuffer) -> UInt32 {
    out.reserve(WebSocketLimits.headBytes)
    out.append(first)
    let masked: UInt8 = isServer ? 0 : 0x80
    if count <= WebSocketLimits.controlBytes {
      out.append(masked | UInt8(truncatingIfNeeded: count))
    } else if count <= 0xFFFF {
      out.append(masked | 126)
      out.append(UInt8(truncatingIfNeeded: count &>> 8))
      out.append(UInt8(truncatingIfNeeded: count))
    } else {
      out.append(masked | 127)
      out.append(bigEndian: UInt32(truncatingIfNeeded: count &>> 32))
      out.append(bigEndian: UInt32(truncatingIfNeeded: count))
    }
    guard !isServer else { return 0 }
    let key = UInt32(truncatingIfNeeded: keys.next())
    out.append(bigEndian: key)
    return key.bigEndian
  }

  /// False when it is better, or only possible, to send the message as it is.
  private mutating func sendCompressed(
    _ opcode: UInt8, _ payload: UnsafeRawBufferPointer, _ deflation: DeflateDirection, into out: ByteBuffer
  ) -> Bool {
    guard payload.count <= UInt32.max, let deflater = deflater(for: deflation) else { return false }
    let scratch = buffers.take()
    defer { buffers.give(scratch) }
    deflater.compress(payload, into: scratch)
    // With context the peer must see what the compressor has seen.
    guard deflation.keepsContext || scratch.count < payload.count else { return false }
    appendFrame(0xC0 | opcode, scratch.bytes, into: out)
    return true
  }

  private mutating func deflater(for deflation: DeflateDirection) -> Deflater? {
    guard deflation.keepsContext else { return deflaters.freshDeflater(windowBits: deflation.windowBits) }
    if let deflater { return deflater }
    deflater = Deflater(windowBits: deflation.windowBits)
    return deflater
  }
}
