// The HTTP/1.1 parser: bytes in, events out. RFC 9112, strict where leniency lets messages be smuggled.
//
//               head seen                       body bytes
//    idle ───────────────────▶ (length n) ─────────────────▶ ending ──▶ idle
//     │ ▲ bodiless: ending ──▶ (until close) ── finish() ──▶ ending ──▶ finished
//     │ │                      (chunked) size line ▶ data ▶ CRLF ─┐
//     │ └─ ending ◀── trailers ◀── size 0 ────────────▲───────────┘
//     └─▶ head in pieces ──▶ as above             101, CONNECT: ending ──▶ switched
//    any ──▶ failed, for good
//
// A message that lies whole in the input is parsed where it lies: nothing is copied or allocated. Only a head (or
// trailer section) that comes in pieces is collected, in a head object of the parser's own.

/// Bounds of what a peer may send before its meaning is known.
package struct HTTP1Limits: Sendable {
  /// Bytes of a head. Above: 414 if it is the start line that doesn't end, else 431.
  package var headBytes = 64 * 1024
  /// Field lines of a head, and of a trailer section. Above: 431.
  package var fieldCount = 256
  /// Bytes of a trailer section. Above: 431.
  package var trailerBytes = 8 * 1024
  /// Bytes of one chunk's size line with its extensions. Above: 400.
  package var chunkLineBytes = 256
  /// Bytes of chunk extensions in one message, which nobody reads: a body must not consist of them. Above: 400.
  package var extensionBytes = 16 * 1024

  package init() {}
}

/// Parses the messages of one direction of one connection. Loop-confined, does no I/O, holds no buffer while idle.
///
/// Pull `next` with the bytes that were read until it says `needMore`, or stop earlier and keep the rest of the input.
/// After a thrown error the connection is beyond repair: answer with the error's status and close it.
package struct HTTP1Parser: ~Copyable {
  /// What the owner is: a server reads requests, a client responses.
  package enum Role: Sendable { case server, client }

  package enum Event {
    /// All input is used up (or, after a protocol switch, not for this parser).
    case needMore
    /// A head is in `head`.
    case head
    /// Some bytes of the body, never none. They lie in the input.
    case body(UnsafeRawBufferPointer)
    /// The message is over; every message has one, also without a body. Another may follow in the same input.
    case end
  }

  private enum State {
    /// Between messages. → crBefore, head, or what follows a head
    case idle
    /// Server role: the CR, or all, of the one empty line that may precede a request (RFC 9112 §2.2). → idle's
    case crBefore, emptyLineBefore
    /// `own` holds the head so far.
    case head
    /// Body bytes to come, at least one. → ending
    case length(Int)
    case untilClose
    /// In a size line: the value and the number of its digits so far.
    case chunkSize(Int, digits: Int)
    case chunkExtension(Int, ExtensionState)
    /// After the CR of a size line.
    case chunkLineFeed(Int)
    /// Chunk bytes to come, at least one. → chunkDataCR
    case chunkData(Int)
    case chunkDataCR, chunkDataLF
    /// After the last chunk's size line. → trailers, trailersCR
    case trailersStart
    /// After a CR there: no trailers. → ending
    case trailersCR
    /// `trailers` holds the section so far. → ending
    case trailers
    /// Everything is reported but the end. → idle, switched, finished
    case ending
    /// After 101 or a 2xx to CONNECT: what follows is another protocol.
    case switched
    /// The peer's end of stream was seen.
    case finished
    case failed
  }

  private enum ExtensionState { case nameStart, name, valueStart, value, quoted, escaped, afterQuoted }

  private var state = State.idle
  private let role: Role
  private var nextHeadRequest = false
  private var nextConnect = false
  private var switchesAfterEnd = false
  private let limits: HTTP1Limits
  /// Bytes of the current size line, and of extensions in this message.
  private var lineBytes = 0
  private var extensionBytes = 0
  private let shared: HTTP1Head
  private var own: HTTP1Head?

  /// The trailer section of the chunked message that just ended, nil when it had none. Valid as long as a kept head.
  package private(set) var trailers: HTTP1Head?

  /// `head` is scratch space that all parsers of a loop may share, since a head is read within the callback that
  /// brought it; without one the parser has its own.
  package init(_ role: Role, limits: HTTP1Limits = HTTP1Limits(), head: HTTP1Head = HTTP1Head()) {
    self.role = role
    self.limits = limits
    shared = head
  }

  /// The head of the current message, from `.head` on. Valid until the read callback returns; if it came in several
  /// reads, or after `keepHead()`, until the call of `next` or `releaseMemory` that follows `.end`.
  package var head: HTTP1Head {
    @inline(__always) get { own ?? shared }
  }

  /// Whether no message is under way: the moment to reuse, park or close the connection.
  package var isBetweenMessages: Bool {
    switch state {
    case .idle, .crBefore, .emptyLineBefore, .finished: true
    case .head, .length, .untilClose, .chunkSize, .chunkExtension, .chunkLineFeed, .chunkData, .chunkDataCR,
      .chunkDataLF, .trailersStart, .trailersCR, .trailers, .ending, .switched, .failed:
      false
    }
  }

  /// Bytes of buffers and tables of its own, 0 when idle.
  package var heldBytes: Int { (own?.heldBytes ?? 0) + (trailers?.heldBytes ?? 0) }

  /// Copies the current head where it stays valid until its message is over. Call it within the callback that got
  /// `.head`; a second call does nothing.
  package mutating func keepHead() {
    guard own == nil else { return }
    let kept = takeSpare()
    kept.copy(shared)
    own = kept
  }

  /// Lets go of the kept head and the trailers, so that an idle connection holds nothing. Only between messages;
  /// `next` does the same when it is called again.
  package mutating func releaseMemory() {
    guard isBetweenMessages, own != nil || trailers != nil else { return }
    if let own { giveSpare(own) }
    own = nil
    if let trailers { giveSpare(trailers) }
    trailers = nil
  }

  /// Client role, before the response to a HEAD or CONNECT is read: both have rules of their own about the body. Holds
  /// for the next final response; 1xx responses don't use it up. Nothing need be said about other requests.
  package mutating func expectResponse(toHEAD: Bool, toCONNECT: Bool = false) {
    nextHeadRequest = toHEAD
    nextConnect = toCONNECT
  }

  /// The next event in `input`, which shrinks from the front by what was used. Throws what a peer broke, with the
  /// status that answers it: 400, 414, 417, 431 or 505 to a request, 502 for a response.
  package mutating func next(_ input: inout UnsafeRawBufferPointer) throws(WireError) -> Event {
    do throws(WireError) {
      return try step(&input)
    } catch {
      state = .failed
      guard role == .client else { throw error }
      throw WireError(error.rule, offset: error.offset, status: 502)
    }
  }

  /// The peer's end of stream. `.end` ends a body that lasts until then, `.needMore` says that nothing was cut off.
  package mutating func finish() throws(WireError) -> Event {
    switch state {
    case .idle, .crBefore, .emptyLineBefore, .finished:
      releaseMemory()
      state = .finished
      return .needMore
    case .untilClose, .ending:
      state = .finished
      return .end
    case .switched:
      return .needMore
    case .head, .length, .chunkSize, .chunkExtension, .chunkLineFeed, .chunkData, .chunkDataCR, .chunkDataLF,
      .trailersStart, .trailersCR, .trailers, .failed:
      state = .failed
      throw WireError("connection closed inside a message", status: role == .server ? 400 : 502)
    }
  }

  // MARK: The machine

  @inline(__always) private mutating func step(_ input: inout UnsafeRawBufferPointer) throws(WireError) -> Event {
    while true {
      switch state {
      case .ending:
        state = switchesAfterEnd ? .switched : .idle
        switchesAfterEnd = false
        return .end

      case .idle:
        if own != nil || trailers != nil { releaseMemory() }
        guard let start = input.baseAddress, input.count > 0 else { return .needMore }
        if role == .server, Scan.byte(start) == ASCII.cr {
          input.dropFront(1)
          state = .crBefore
          continue
        }
        return try beginHead(&input, start)
      case .crBefore:
        guard input.count > 0 else { return .needMore }
        guard input[0] == ASCII.lf else { throw WireError("CR without LF") }
        input.dropFront(1)
        state = .emptyLineBefore
      case .emptyLineBefore:
        guard let start = input.baseAddress, input.count > 0 else { return .needMore }
        return try beginHead(&input, start)
      case .head:
        return try continueHead(&input)

      case .length(let remaining):
        guard let start = input.baseAddress, input.count > 0 else { return .needMore }
        let count = min(remaining, input.count)
        input.dropFront(count)
        state = count == remaining ? .ending : .length(remaining &- count)
        return .body(UnsafeRawBufferPointer(start: start, count: count))
      case .untilClose:
        guard input.count > 0 else { return .needMore }
        let bytes = input
        input.dropFront(input.count)
        return .body(bytes)

      case .chunkData(let remaining):
        guard let start = input.baseAddress, input.count > 0 else { return .needMore }
        let count = min(remaining, input.count)
        input.dropFront(count)
        state = count == remaining ? .chunkDataCR : .chunkData(remaining &- count)
        return .body(UnsafeRawBufferPointer(start: start, count: count))
      case .chunkSize, .chunkExtension, .chunkLineFeed, .chunkDataCR, .chunkDataLF, .trailersStart, .trailersCR:
        guard input.count > 0 else { return .needMore }
        let byte = input[0]
        if case .trailersStart = state, byte != ASCII.cr {
          let section = takeSpare()
          section.beginTrailers()
          trailers = section
          state = .trailers
          continue
        }
        input.dropFront(1)
        try chunkByte(byte)
      case .trailers:
        return try continueTrailers(&input)

      case .switched, .finished:
        return .needMore
      case .failed:
        throw WireError("input after an error")
      }
    }
  }

  @inline(__always) private mutating func beginHead(
    _ input: inout UnsafeRawBufferPointer, _ start: UnsafeRawPointer
  ) throws(WireError) -> Event {
    let head = shared
    head.begin()
    guard let count = try head.parse(start, input.count, role, limits) else {
      // In pieces: start over in a head of our own, as the shared one serves other connections meanwhile.
      own = takeSpare()
      own?.begin()
      state = .head
      return try continueHead(&input)
    }
    input.dropFront(count)
    try headDone(head)
    return .head
  }

  /// Bytes moved into the parser's own buffer at a time; what belongs to the body should not be among them.
  private static let collectStep = 1024

  @inline(never) private mutating func continueHead(
    _ input: inout UnsafeRawBufferPointer
  ) throws(WireError) -> Event {
    guard let head = own else { return .needMore }
    let buffer = head.buffer()
    while input.count > 0 {
      let before = buffer.count
      let moved = min(input.count, Self.collectStep)
      buffer.append(UnsafeRawBufferPointer(rebasing: input[..<moved]))
      if let count = try head.parse(UnsafeRawPointer(buffer.base), buffer.count, role, limits) {
        input.dropFront(count - before)
        buffer.truncate(to: count)
        try headDone(head)
        return .head
      }
      input.dropFront(moved)
    }
    return .needMore
  }

  @inline(never) private mutating func continueTrailers(
    _ input: inout UnsafeRawBufferPointer
  ) throws(WireError) -> Event {
    guard let section = trailers else { return .needMore }
    let buffer = section.buffer()
    while input.count > 0 {
      let before = buffer.count
      let moved = min(input.count, Self.collectStep)
      buffer.append(UnsafeRawBufferPointer(rebasing: input[..<moved]))
      if let count = try section.parseTrailers(UnsafeRawPointer(buffer.base), buffer.count, limits) {
        input.dropFront(count - before)
        buffer.truncate(to: count)
        try section.finishTrailers()
        state = .idle
        return .end
      }
      input.dropFront(moved)
    }
    return .needMore
  }

  /// A head is complete: what comes next?
  @inline(__always) private mutating func headDone(_ head: HTTP1Head) throws(WireError) {
    switch role {
    case .server:
      try head.finishRequest()
    case .client:
      try head.finishResponse(toHEAD: nextHeadRequest, toCONNECT: nextConnect)
      if head.status == 101 || (nextConnect && head.status >= 200 && head.status < 300) { switchesAfterEnd = true }
      if head.status >= 200 {
        nextHeadRequest = false
        nextConnect = false
      }
    }
    switch head.framing {
    case .none, .length(0):
      state = .ending
    case .length(let count):
      state = .length(count)
    case .chunked:
      lineBytes = 0
      extensionBytes = 0
      state = .chunkSize(0, digits: 0)
    case .untilClose:
      state = .untilClose
    }
  }

  // MARK: Chunked bodies, RFC 9112 §7.1

  /// Digits of a chunk size; more than fit in 64 bits are no honest number.
  private static let chunkDigitsMax = 16

  @inline(__always) private mutating func chunkByte(_ byte: UInt8) throws(WireError) {
    switch state {
    case .chunkSize(let size, let digits):
      lineBytes &+= 1
      if let digit = Self.hexDigit(byte) {
        guard digits < Self.chunkDigitsMax, size <= Int.max &>> 4 else {
          throw WireError("chunk size too large", offset: lineBytes - 1)
        }
        state = .chunkSize(size &<< 4 | digit, digits: digits &+ 1)
      } else if digits > 0, byte == ASCII.cr {
        state = .chunkLineFeed(size)
      } else if digits > 0, byte == UInt8(ascii: ";") {
        extensionBytes &+= 1
        state = .chunkExtension(size, .nameStart)
      } else {
        throw WireError("malformed chunk size", offset: lineBytes - 1)
      }
    case .chunkExtension(let size, let part):
      lineBytes &+= 1
      extensionBytes &+= 1
      guard lineBytes <= limits.chunkLineBytes, extensionBytes <= limits.extensionBytes else {
        throw WireError("chunk extensions too long", offset: lineBytes - 1)
      }
      try extensionByte(byte, size, part)
    case .chunkLineFeed(let size):
      guard byte == ASCII.lf else { throw WireError("CR without LF", offset: lineBytes) }
      lineBytes = 0
      state = size > 0 ? .chunkData(size) : .trailersStart
    case .chunkDataCR:
      guard byte == ASCII.cr else { throw WireError("chunk longer than its size") }
      state = .chunkDataLF
    case .chunkDataLF:
      guard byte == ASCII.lf else { throw WireError("CR without LF") }
      state = .chunkSize(0, digits: 0)
    case .trailersStart:
      state = .trailersCR
    case .trailersCR:
      guard byte == ASCII.lf else { throw WireError("CR without LF") }
      state = .ending
    case .idle, .crBefore, .emptyLineBefore, .head, .length, .untilClose, .chunkData, .trailers, .ending, .switched,
      .finished, .failed:
      break
    }
  }

  /// `;name`, `;name=token` or `;name="quoted"`, any number of them, without white space. Read to be skipped.
  @inline(never) private mutating func extensionByte(
    _ byte: UInt8, _ size: Int, _ part: ExtensionState
  ) throws(WireError) {
    let isToken = ByteClass.contains(byte, ByteClass.token)
    let isText = (byte >= 0x20 && byte != ASCII.del) || byte == ASCII.tab
    let next: ExtensionState?
    switch part {
    case .nameStart: next = isToken ? .name : nil
    case .name: next = isToken ? .name : byte == UInt8(ascii: "=") ? .valueStart : nil
    case .valueStart: next = isToken ? .value : byte == UInt8(ascii: "\"") ? .quoted : nil
    case .value: next = isToken ? .value : nil
    case .quoted:
      next = byte == UInt8(ascii: "\"") ? .afterQuoted : byte == UInt8(ascii: "\\") ? .escaped : isText ? .quoted : nil
    case .escaped: next = isText ? .quoted : nil
    case .afterQuoted: next = nil
    }
    if let next {
      state = .chunkExtension(size, next)
      return
    }
    switch part {
    case .name, .value, .afterQuoted:
      if byte == ASCII.cr {
        state = .chunkLineFeed(size)
        return
      }
      if byte == UInt8(ascii: ";") {
        state = .chunkExtension(size, .nameStart)
        return
      }
    case .nameStart, .valueStart, .quoted, .escaped:
      break
    }
    throw WireError("malformed chunk extension", offset: lineBytes - 1)
  }

  @inline(__always) private static func hexDigit(_ byte: UInt8) -> Int? {
    let decimal = byte &- UInt8(ascii: "0")
    if decimal <= 9 { return Int(decimal) }
    let letter = (byte | 0x20) &- UInt8(ascii: "a")
    return letter <= 5 ? Int(letter) &+ 10 : nil
  }

  // MARK: Heads of our own

  private func takeSpare() -> HTTP1Head {
    guard let spare = shared.spare else { return HTTP1Head() }
    shared.spare = nil
    spare.storage?.removeAll()
    return spare
  }

  /// Keeps one per shared head for the next connection that needs it, unless it has grown large.
  private func giveSpare(_ head: HTTP1Head) {
    if shared.spare == nil, head.heldBytes <= BufferPool.keptCapacity { shared.spare = head }
  }
}

extension UnsafeRawBufferPointer {
  /// Drops `amount` bytes, at most `count`, from the front.
  @inline(__always) mutating func dropFront(_ amount: Int) {
    self = UnsafeRawBufferPointer(start: baseAddress.map { $0 + amount }, count: count &- amount)
  }
}

extension HTTP1Head {
  /// The buffer that collects this head.
  func buffer() -> ByteBuffer {
    if let storage { return storage }
    let buffer = ByteBuffer(capacity: 1024)
    storage = buffer
    return buffer
  }

  /// Becomes a copy of `other` with bytes of its own.
  func copy(_ other: HTTP1Head) {
    begin()
    let buffer = buffer()
    buffer.append(other.bytes)
    bytes = buffer.bytes
    method = other.method
    status = other.status
    minorVersion = other.minorVersion
    framing = other.framing
    keepAlive = other.keepAlive
    expectsContinue = other.expectsContinue
    upgrade = other.upgrade
    methodCount = other.methodCount
    targetOffset = other.targetOffset
    targetCount = other.targetCount
    if other.fieldCount > tableCapacity {
      table?.deallocate()
      let larger = UnsafeMutablePointer<HTTP1Field>.allocate(capacity: other.fieldCount)
      larger.initialize(repeating: HTTP1Field(), count: other.fieldCount)
      table = larger
      tableCapacity = other.fieldCount
    }
    if let table, let source = other.table { table.update(from: source, count: other.fieldCount) }
    fieldCount = other.fieldCount
    present = other.present
    repeated = other.repeated
  }
}
