// One direction of a WebSocket, read: bytes in, messages out. RFC 6455 §5, strict.
//
//             data frame                       last frame of a message
//   head ──────────────▶ data(remaining) ────▶ head ─────────────▶ message
//    │ ▲                                        │ (else more frames follow)
//    │ └──── ping, pong ◀── control(remaining)  │
//    └──────────────────────▶ └── close ──▶ ended ◀── any broken rule
//
// An unmasked message in one frame that lies whole in the input is reported where it lies. Everything else is unmasked,
// inflated and checked on its way into a buffer of the pool, which goes back with the next call: between messages nothing
// is held.

/// Loop-confined, does no I/O.
struct WebSocketReader: ~Copyable {
  enum Item {
    case needMore
    case message(WebSocketKind, UnsafeRawBufferPointer)
    case ping(UnsafeRawBufferPointer)
    case pong(UnsafeRawBufferPointer)
    case close(UInt16, UnsafeRawBufferPointer)
  }

  private enum State {
    /// Before or inside a frame's head; `partial` holds what came of it.
    case head
    /// Payload bytes of a data or control frame to come.
    case data(Int)
    case control(Int)
    /// After a Close or a broken rule: input is ignored.
    case ended
  }

  private let isServer: Bool
  private let messageMax: Int
  private let inflation: DeflateDirection?
  private let buffers: BufferPool
  private let inflaters: DeflatePool

  private var state = State.head
  private var partial: (UInt64, UInt64) = (0, 0)
  private var partialCount = 0
  /// The frame at hand. The key is in the order of the wire, turned to fit the next byte.
  private var opcode: UInt8 = 0
  private var isFinal = false
  private var key: UInt32 = 0
  /// The message under way, nil between messages.
  private var kind: WebSocketKind?
  private var isCompressed = false
  private var hasCompressedBytes = false
  private var text = UTF8Stream()
  private var message: ByteBuffer?
  private var control: ByteBuffer?
  /// What the last item lies in.
  private var lent: ByteBuffer?
  private var inflater: Inflater?

  init(
    _ role: WebSocketRole, messageMax: Int, inflation: DeflateDirection?, buffers: BufferPool, inflaters: DeflatePool
  ) {
    isServer = role == .server
    self.messageMax = messageMax
    self.inflation = inflation
    self.buffers = buffers
    self.inflaters = inflaters
  }

  deinit {
    for buffer in [message, control, lent] { if let buffer { buffers.give(buffer) } }
  }

  /// Whether no message is under way.
  var isBetweenMessages: Bool { kind == nil }

  /// Bytes of buffers held, without an inflater's.
  var heldBytes: Int { (message?.capacity ?? 0) + (control?.capacity ?? 0) + (lent?.capacity ?? 0) }

  /// The next item in `input`, which shrinks from the front by what was used. Spans are valid until the next call.
  mutating func next(_ input: inout UnsafeRawBufferPointer) throws(WebSocketFailure) -> Item {
    takeBack()
    do throws(WebSocketFailure) {
      while true {
        switch state {
        case .head: if try !takeHead(&input) { return .needMore }
        case .data(let remaining):
          if let item = try takeData(&input, remaining) { return item }
          if case .data = state { return .needMore }
        case .control(let remaining):
          guard let item = try takeControl(&input, remaining) else { return .needMore }
          return item
        case .ended:
          input = UnsafeRawBufferPointer(start: nil, count: 0)
          return .needMore
        }
      }
    } catch {
      stop()
      takeBack()
      throw error
    }
  }

  /// The span of the last item is not used any more.
  mutating func takeBack() {
    guard let lent else { return }
    buffers.give(lent)
    self.lent = nil
  }

  /// Takes no more input and lets go of everything.
  mutating func stop() {
    state = .ended
    for buffer in [message, control] { if let buffer { buffers.give(buffer) } }
    message = nil
    control = nil
    kind = nil
    inflater = nil
  }

  // MARK: Heads

  private mutating func takeHead(_ input: inout UnsafeRawBufferPointer) throws(WebSocketFailure) -> Bool {
    guard let start = input.baseAddress, input.count > 0 else { return false }
    if partialCount == 0, let used = try parseHead(start, input.count) {
      input.dropFront(used)
      return true
    }
    // In pieces: at most `headBytes` of them, each looked at as soon as it is here.
    while let byte = input.first, partialCount < WebSocketLimits.headBytes {
      input.dropFront(1)
      let index = partialCount
      withUnsafeMutableBytes(of: &partial) { $0[index] = byte }
      partialCount += 1
      let (copy, count) = (partial, partialCount)
      var used: Int?
      var failure: WebSocketFailure?
      withUnsafeBytes(of: copy) { bytes in
        guard let base = bytes.baseAddress else { return }
        do throws(WebSocketFailure) { used = try parseHead(base, count) } catch { failure = error }
      }
      if let failure { throw failure }
      if used != nil {
        partialCount = 0
        return true
      }
    }
    return false
  }

  /// Reads the head at `start`; nil when more of it has to come. Rules are checked as soon as they can be.
  @inline(__always)
  private mutating func parseHead(_ start: UnsafeRawPointer, _ count: Int) throws(WebSocketFailure) -> Int? {
    let first = start.load(as: UInt8.self)
    let opcode = first & 0x0F
    let isFinal = first & 0x80 != 0
    let isControl = opcode & 0x08 != 0
    try checkFirst(first, opcode, isFinal)
    guard count >= 2 else { return nil }

    let second = start.load(fromByteOffset: 1, as: UInt8.self)
    guard (second & 0x80 != 0) == isServer else {
      throw .broken(isServer ? "a client's frame is not masked" : "a server's frame is masked")
    }
    var length = Int(second & 0x7F)
    var size = 2
    if length > WebSocketLimits.controlBytes {
      if isControl { throw .broken("control frame longer than 125 bytes") }
      if length == 126 {
        size = 4
        guard count >= size else { return nil }
        length = Int(UInt16(bigEndian: (start + 2).loadUnaligned(as: UInt16.self)))
        guard length >= 126 else { throw .broken("frame length not in its shortest form") }
      } else {
        size = 10
        guard count >= size else { return nil }
        let wide = UInt64(bigEndian: (start + 2).loadUnaligned(as: UInt64.self))
        guard wide >= 65536 else { throw .broken("frame length not in its shortest form") }
        guard wide <= UInt64(Int64.max) else { throw .broken("frame length beyond 63 bits") }
        length = Int(wide)
      }
    }
    var key: UInt32 = 0
    if isServer {
      guard count >= size + 4 else { return nil }
      key = (start + size).loadUnaligned(as: UInt32.self)
      size += 4
    }

    self.opcode = opcode
    self.isFinal = isFinal
    self.key = key
    if isControl {
      state = .control(length)
      return size
    }
    if opcode != WebSocketOpcode.continuation {
      kind = opcode == WebSocketOpcode.text ? .text : .binary
      isCompressed = first & 0x40 != 0
      hasCompressedBytes = false
      text.restart()
    }
    // What is compressed is judged by what it becomes.
    if !isCompressed, length > messageMax - (message?.count ?? 0) {
      throw WebSocketFailure(WebSocketCloseCode.messageTooBig, "message larger than \(messageMax) bytes")
    }
    state = .data(length)
    return size
  }

  @inline(__always)
  private func checkFirst(_ first: UInt8, _ opcode: UInt8, _ isFinal: Bool) throws(WebSocketFailure) {
    switch opcode {
    case WebSocketOpcode.continuation:
      guard kind != nil else { throw .broken("continuation without a message") }
    case WebSocketOpcode.text, WebSocketOpcode.binary:
      guard kind == nil else { throw .broken("new message inside another") }
    case WebSocketOpcode.close, WebSocketOpcode.ping, WebSocketOpcode.pong:
      guard isFinal else { throw .broken("fragmented control frame") }
    default: throw .broken("reserved opcode \(opcode)")
    }
    guard first & 0x70 != 0 else { return }
    let starts = opcode == WebSocketOpcode.text || opcode == WebSocketOpcode.binary
    guard first & 0x30 == 0, inflation != nil, starts else { throw .broken("reserved bit set") }
  }

  // MARK: Data

  private mutating func takeData(
    _ input: inout UnsafeRawBufferPointer, _ remaining: Int
  ) throws(WebSocketFailure) -> Item? {
    let count = min(remaining, input.count)
    let piece = UnsafeRawBufferPointer(rebasing: input[..<count])
    input.dropFront(count)
    if count == remaining, isFinal, !isServer, message == nil, !isCompressed, let kind {
      if kind == .text { try check(piece) }
      return try finishMessage(kind, piece)
    }
    if count > 0 { try append(piece, of: remaining) }
    guard count == remaining else {
      state = .data(remaining - count)
      return nil
    }
    state = .head
    guard isFinal, let kind else { return nil }
    if isCompressed { try finishInflating() }
    lent = message
    message = nil
    return try finishMessage(kind, lent?.bytes ?? UnsafeRawBufferPointer(start: nil, count: 0))
  }

  private mutating func finishMessage(
    _ kind: WebSocketKind, _ bytes: UnsafeRawBufferPointer
  ) throws(WebSocketFailure) -> Item {
    state = .head
    self.kind = nil
    guard kind == .binary || text.isComplete else {
      throw WebSocketFailure(WebSocketCloseCode.invalidPayload, "text ends inside a character")
    }
    return .message(kind, bytes)
  }

  @inline(__always) private mutating func check(_ piece: UnsafeRawBufferPointer) throws(WebSocketFailure) {
    guard text.take(piece) else { throw WebSocketFailure(WebSocketCloseCode.invalidPayload, "text is not UTF-8") }
  }

  /// Bytes handled at a time: what was just unmasked is still near when it is checked.
  private static let block = 4096

  private mutating func append(_ piece: UnsafeRawBufferPointer, of remaining: Int) throws(WebSocketFailure) {
    guard let start = piece.baseAddress else { return }
    let buffer = message ?? buffers.take()
    if isCompressed {
      message = buffer
      return try inflate(piece, into: buffer)
    }
    if message == nil {
      message = buffer
      buffer.reserve(min(remaining, WebSocketLimits.reservedAhead))
    }
    buffer.reserve(piece.count)
    let isText = kind == .text
    var offset = 0
    while offset < piece.count {
      let count = min(Self.block, piece.count - offset)
      key = WebSocketMask.copy(from: start + offset, to: buffer.base + buffer.count, count, key: key)
      let from = buffer.count
      buffer.advance(count)
      if isText { try check(buffer.bytes(from..<buffer.count)) }
      offset += count
    }
  }

  private mutating func inflate(_ piece: UnsafeRawBufferPointer, into buffer: ByteBuffer) throws(WebSocketFailure) {
    guard let inflation, let start = piece.baseAddress else { return }
    guard let inflater = inflater ?? inflaters.takeInflater(windowBits: inflation.windowBits) else {
      throw WebSocketFailure(WebSocketCloseCode.internalError, "no memory to inflate with")
    }
    self.inflater = inflater
    hasCompressedBytes = true
    let isText = kind == .text
    let limit = messageMax
    var key = key
    var text = text
    var failure: WebSocketFailure?
    withUnsafeTemporaryAllocation(byteCount: Self.block, alignment: 16) { plain in
      guard let target = plain.baseAddress else { return }
      var offset = 0
      do throws(WebSocketFailure) {
        while offset < piece.count {
          let count = min(Self.block, piece.count - offset)
          key = WebSocketMask.copy(from: start + offset, to: target, count, key: key)
          let from = buffer.count
          try inflater.inflate(UnsafeRawBufferPointer(start: target, count: count), into: buffer, limit: limit)
          if isText, !text.take(buffer.bytes(from..<buffer.count)) {
            throw WebSocketFailure(WebSocketCloseCode.invalidPayload, "text is not UTF-8")
          }
          offset += count
        }
      } catch {
        failure = error
      }
    }
    self.key = key
    self.text = text
    if let failure { throw failure }
  }

  /// The last frame of a compressed message is read.
  private mutating func finishInflating() throws(WebSocketFailure) {
    // A message without a single byte is no deflate stream, but what zlib's users send for an empty message when they
    // flush twice. Nothing else can be meant.
    guard hasCompressedBytes, let inflater, let buffer = message else { return }
    let from = buffer.count
    try inflater.finishMessage(into: buffer, limit: messageMax)
    if kind == .text { try check(buffer.bytes(from..<buffer.count)) }
    if inflation?.keepsContext != true {
      self.inflater = nil
      inflaters.give(inflater)
    }
  }

  // MARK: Control

  private mutating func takeControl(
    _ input: inout UnsafeRawBufferPointer, _ remaining: Int
  ) throws(WebSocketFailure) -> Item? {
    let count = min(remaining, input.count)
    if count > 0, let start = input.baseAddress {
      let buffer = control ?? buffers.take()
      control = buffer
      buffer.reserve(count)
      key = WebSocketMask.copy(from: start, to: buffer.base + buffer.count, count, key: key)
      buffer.advance(count)
      input.dropFront(count)
    }
    guard count == remaining else {
      state = .control(remaining - count)
      return nil
    }
    state = .head
    lent = control
    control = nil
    let payload = lent?.bytes ?? UnsafeRawBufferPointer(start: nil, count: 0)
    switch opcode {
    case WebSocketOpcode.ping: return .ping(payload)
    case WebSocketOpcode.pong: return .pong(payload)
    default:
      let item = try readClose(payload)
      stop()
      return item
    }
  }

  private func readClose(_ payload: UnsafeRawBufferPointer) throws(WebSocketFailure) -> Item {
    guard payload.count > 0 else { return .close(WebSocketCloseCode.none, payload) }
    guard payload.count >= 2 else { throw .broken("Close with half a code") }
    let code = UInt16(bigEndian: payload.loadUnaligned(as: UInt16.self))
    guard WebSocketCloseCode.isSendable(code) else { throw .broken("Close with code \(code)") }
    let reason = UnsafeRawBufferPointer(rebasing: payload[2...])
    guard UTF8Check.isValid(reason) else {
      throw WebSocketFailure(WebSocketCloseCode.invalidPayload, "reason of Close is not UTF-8")
    }
    return .close(code, reason)
  }
}
