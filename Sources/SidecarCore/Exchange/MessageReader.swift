// Whole HTTP/1 messages out of a stream of bytes. Calls of the framework are whole messages by nature, so everything
// behind this sees a head and a body at once.
//
//   one read holds the whole message   → head and body are spans of that read: nothing is copied
//   it comes in several reads          → head and body are collected in a pooled buffer, and the head is parsed again
//                                        from there when the message is whole (100 ns, and one code path for all)

/// Cuts one direction of a connection into messages. Holds no buffer between messages. Loop-confined.
package struct MessageReader: ~Copyable {
  package enum Step {
    /// All input is consumed and no message is complete.
    case needMore
    /// The head is read, its sender waits for `100 Continue`; call again after sending it.
    case expectsContinue
    /// A message; `head` and `body` are valid until `finishMessage`.
    case message(body: UnsafeRawBufferPointer)
    /// A head whose body is to be read as it comes, with `nextOfBody`; the first bytes of it may be here already.
    /// `head` is valid until the callback that read it returns.
    case streaming(firstBytes: UnsafeRawBufferPointer)
  }

  private var parser: HTTP1Parser
  private let role: HTTP1Parser.Role
  /// Bytes of body above which a message is refused with 413.
  private let bodyMax: Int
  private var held: ByteBuffer?
  private var heldHeadCount = 0
  /// Read with the head of a streamed body, and not handed on yet; valid within that read only.
  private var aheadOfBody: UnsafeRawBufferPointer?
  /// The head of a message whose body is still to come is in `held`.
  private var isInBody = false
  private var isReparsed = false
  /// Asked of a head whose body has not all come: is it to be read as it comes, rather than collected?
  private let streamsBody: (HTTP1Head) -> Bool

  package init(
    _ role: HTTP1Parser.Role, bodyMax: Int, scratch: ReaderScratch,
    streamsBody: @escaping (HTTP1Head) -> Bool = { _ in false }
  ) {
    self.role = role
    self.streamsBody = streamsBody
    self.bodyMax = bodyMax
    parser = HTTP1Parser(role, head: scratch.head)
  }

  /// No byte of a message has been read since the last one ended.
  package var isBetweenMessages: Bool { !isInBody && parser.isBetweenMessages }
  package var isHoldingMemory: Bool { held != nil || parser.heldBytes > 0 }

  package mutating func expectResponse(toHEAD: Bool = false) { parser.expectResponse(toHEAD: toHEAD) }

  /// The head of the message reported last.
  package func head(_ scratch: ReaderScratch) -> HTTP1Head {
    isReparsed ? scratch.reparsedHead : parser.head
  }

  package mutating func next(_ input: inout UnsafeRawBufferPointer, _ scratch: ReaderScratch)
    throws(WireError) -> Step
  {
    var direct = UnsafeRawBufferPointer(start: nil, count: 0)
    var hasDirectHead = false
    while true {
      switch try parser.next(&input) {
      case .needMore:
        if hasDirectHead {
          if streamsBody(parser.head) { return .streaming(firstBytes: direct) }
          hold(direct, scratch)
        }
        return .needMore
      case .head:
        if case .length(let length) = parser.head.framing, length > bodyMax, !streamsBody(parser.head) {
          throw tooLarge()
        }
        isInBody = true
        hasDirectHead = true
        if parser.head.expectsContinue, input.isEmpty, parser.head.framing != .none {
          if streamsBody(parser.head) { return .streaming(firstBytes: direct) }
          hold(direct, scratch)
          return .expectsContinue
        }
      case .body(let bytes):
        if hasDirectHead, direct.isEmpty {
          if bytes.count > bodyMax { throw tooLarge() }
          direct = bytes
          continue
        }
        if hasDirectHead {
          if streamsBody(parser.head) {
            // Two parts of the body in one read: the second is handed on with the rest.
            aheadOfBody = bytes
            return .streaming(firstBytes: direct)
          }
          hold(direct, scratch)
          hasDirectHead = false
        }
        guard let held else { throw WireError("body without a head") }
        if held.count - heldHeadCount + bytes.count > bodyMax { throw tooLarge() }
        held.append(bytes)
      case .end:
        isInBody = false
        if hasDirectHead { return .message(body: direct) }
        return try reparsed(scratch)
      }
    }
  }

  /// After `.streaming`: the next bytes of the body, which lie in the input, or its end.
  package mutating func nextOfBody(_ input: inout UnsafeRawBufferPointer) throws(WireError) -> BodyStep {
    if let bytes = aheadOfBody {
      aheadOfBody = nil
      return .bytes(bytes)
    }
    switch try parser.next(&input) {
    case .needMore: return .needMore
    case .body(let bytes): return .bytes(bytes)
    case .head: throw WireError("a head inside a body")
    case .end:
      isInBody = false
      return .end
    }
  }

  package enum BodyStep {
    case needMore
    case bytes(UnsafeRawBufferPointer)
    case end
  }

  /// The peer has ended its half. A message whose body runs to the end of the connection is complete now.
  package mutating func finish(_ scratch: ReaderScratch) throws(WireError) -> Step {
    switch try parser.finish() {
    case .end:
      isInBody = false
      return try reparsed(scratch)
    default: return .needMore
    }
  }

  /// Gives back what the last message held. To be called after each `.message`, and when the connection ends.
  package mutating func finishMessage(_ scratch: ReaderScratch) {
    isReparsed = false
    guard let buffer = held else { return }
    scratch.buffers.give(buffer)
    held = nil
    heldHeadCount = 0
  }

  private func tooLarge() -> WireError {
    WireError("body is larger than \(bodyMax) bytes", status: 413)
  }

  private mutating func hold(_ body: UnsafeRawBufferPointer, _ scratch: ReaderScratch) {
    let buffer = scratch.buffers.take()
    buffer.append(parser.head.bytes)
    heldHeadCount = buffer.count
    if case .length(let length) = parser.head.framing { buffer.reserve(min(length, bodyMax)) }
    buffer.append(body)
    held = buffer
  }

  private mutating func reparsed(_ scratch: ReaderScratch) throws(WireError) -> Step {
    guard let held else { throw WireError("message without a head") }
    try scratch.reparse(held.bytes(0..<heldHeadCount), role)
    isReparsed = true
    return .message(body: held.bytes(heldHeadCount..<held.count))
  }
}

/// What the readers of one loop share: a head to parse into, since a head is used up within the callback that read it,
/// another for those parsed again, and the buffers.
package final class ReaderScratch {
  package let head = HTTP1Head()
  package let reparsedHead = HTTP1Head()
  package let buffers = BufferPool()

  package init() {}

  fileprivate func reparse(_ bytes: UnsafeRawBufferPointer, _ role: HTTP1Parser.Role) throws(WireError) {
    var parser = HTTP1Parser(role, head: reparsedHead)
    var input = bytes
    guard case .head = try parser.next(&input) else { throw WireError("head is not whole") }
  }
}
