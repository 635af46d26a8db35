// What a NATS server says (docs.nats.io, "NATS client protocol"; recordings v014-registry-nats-*): lines, and after MSG and
// HMSG as many bytes as the line said.
//
//   line ── MSG, HMSG ──▶ payload, CRLF ──▶ line        INFO, PING, PONG, +OK, -ERR: a line and nothing else
//
// A message that one read holds is handed on as spans of that read. What a read cuts is kept until it is whole, and not
// looked at again before enough bytes are there.

/// One operation of the server. Spans are valid during the callback only.
package enum NATSOperation {
  /// JSON.
  case info(UnsafeRawBufferPointer)
  case message(NATSMessage)
  case ping, pong, ok
  /// The sentence, without its quotes.
  case error(UnsafeRawBufferPointer)
}

/// A message of a subscription of ours.
package struct NATSMessage {
  package var subject: UnsafeRawBufferPointer
  /// Ours, as given to SUB.
  package var subscription: UInt64
  /// Where an answer is to go; nil when none is wanted.
  package var reply: UnsafeRawBufferPointer?
  /// `NATS/1.0…` and fields, with the empty line at the end; empty for MSG.
  package var headers: UnsafeRawBufferPointer
  package var payload: UnsafeRawBufferPointer
}

/// Threading: one loop. An error is final: the connection is to be closed.
package struct NATSReader: ~Copyable {
  /// Bytes of a line, as in the server (4 KiB), but for INFO, which lists a cluster's servers.
  package static let lineBytesMax = 4096
  package static let infoBytesMax = 64 * 1024

  /// Bytes of a message, headers included, above which the server breaks a rule.
  private let messageBytesMax: Int
  private var kept = ByteBuffer()
  /// `kept` is not worth looking at with fewer bytes.
  private var needed = 0

  package init(messageBytesMax: Int) { self.messageBytesMax = messageBytesMax }

  /// Bytes that wait for the rest of their operation.
  package var keptBytes: Int { kept.count }

  /// Takes what was received and calls `handle` for every whole operation, in order.
  package mutating func receive(
    _ bytes: UnsafeRawBufferPointer, _ handle: (NATSOperation) -> Void
  ) throws(WireError) {
    if kept.isEmpty {
      let used = try read(bytes, handle)
      if used < bytes.count { kept.append(UnsafeRawBufferPointer(rebasing: bytes[used...])) }
      return
    }
    kept.append(bytes)
    guard kept.count >= needed else { return }
    let used = try read(kept.bytes, handle)
    if used < kept.count { kept.removeFirst(used) } else { kept.removeAll() }
    if kept.isEmpty, kept.capacity > BufferPool.keptCapacity { kept = ByteBuffer() }
  }

  /// Bytes of whole operations; `needed` says what the next one is known to need.
  private mutating func read(
    _ bytes: UnsafeRawBufferPointer, _ handle: (NATSOperation) -> Void
  ) throws(WireError) -> Int {
    var start = 0
    needed = 0
    while start < bytes.count {
      let rest = UnsafeRawBufferPointer(rebasing: bytes[start...])
      guard let end = Self.lineEnd(rest) else {
        let isInfo =
          rest.count >= 4 && ASCIIText.equalsIgnoringCase(UnsafeRawBufferPointer(rebasing: rest[..<4]), "info")
        guard rest.count < (isInfo ? Self.infoBytesMax : Self.lineBytesMax) else {
          throw WireError("a NATS line without an end", offset: start)
        }
        return start
      }
      let line = UnsafeRawBufferPointer(rebasing: rest[..<(end > 0 && rest[end - 1] == 0x0D ? end - 1 : end)])
      let after = start + end + 1
      var words = Words(line)
      guard let verb = words.next() else { throw WireError("an empty NATS line", offset: start) }
      if ASCIIText.equalsIgnoringCase(verb, "msg") || ASCIIText.equalsIgnoringCase(verb, "hmsg") {
        let (head, sizes) = try message(&words, hasHeaders: verb.count == 4, at: start)
        let (end, overflow) = after.addingReportingOverflow(sizes.total + 2)
        guard !overflow, end <= bytes.count else {
          needed = overflow ? .max : end - start
          return start
        }
        guard bytes[end - 2] == 0x0D, bytes[end - 1] == 0x0A else {
          throw WireError("a NATS message does not end where it said", offset: end - 2)
        }
        var message = head
        message.headers = UnsafeRawBufferPointer(rebasing: bytes[after..<after + sizes.headers])
        message.payload = UnsafeRawBufferPointer(rebasing: bytes[after + sizes.headers..<after + sizes.total])
        handle(.message(message))
        start = end
        continue
      }
      handle(try Self.operation(verb, line, at: start))
      start = after
    }
    return start
  }

  private static func operation(
    _ verb: UnsafeRawBufferPointer, _ line: UnsafeRawBufferPointer, at start: Int
  ) throws(WireError) -> NATSOperation {
    if ASCIIText.equalsIgnoringCase(verb, "ping") { return .ping }
    if ASCIIText.equalsIgnoringCase(verb, "pong") { return .pong }
    if ASCIIText.equalsIgnoringCase(verb, "+ok") { return .ok }
    let rest = trimmed(UnsafeRawBufferPointer(rebasing: line[verb.count...]))
    if ASCIIText.equalsIgnoringCase(verb, "info") { return .info(rest) }
    if ASCIIText.equalsIgnoringCase(verb, "-err") {
      let isQuoted = rest.count >= 2 && rest[0] == UInt8(ascii: "'") && rest[rest.count - 1] == UInt8(ascii: "'")
      return .error(isQuoted ? UnsafeRawBufferPointer(rebasing: rest[1..<rest.count - 1]) : rest)
    }
    throw WireError("a NATS line of an unknown kind", offset: start)
  }

  /// `MSG subject sid [reply] bytes` and `HMSG subject sid [reply] header-bytes bytes`.
  private func message(
    _ words: inout Words, hasHeaders: Bool, at start: Int
  ) throws(WireError) -> (NATSMessage, (headers: Int, total: Int)) {
    let none = UnsafeRawBufferPointer(start: nil, count: 0)
    guard let subject = words.next(), let identity = words.next().flatMap(Self.number),
      let third = words.next()
    else { throw WireError("a NATS message without subject, subscription or size", offset: start) }
    var found = [third]
    while let word = words.next(), found.count < 4 { found.append(word) }
    let sizes = hasHeaders ? 2 : 1
    guard found.count == sizes || found.count == sizes + 1, let total = Self.number(found[found.count - 1]),
      let headers = hasHeaders ? Self.number(found[found.count - 2]) : 0
    else { throw WireError("a NATS message with a broken size", offset: start) }
    guard total <= UInt64(messageBytesMax) else {
      throw WireError("a NATS message of \(total) bytes, more than the \(messageBytesMax) taken", offset: start)
    }
    guard headers <= total else { throw WireError("a NATS message smaller than its headers", offset: start) }
    let message = NATSMessage(
      subject: subject, subscription: identity, reply: found.count == sizes + 1 ? found[0] : nil, headers: none,
      payload: none)
    return (message, (Int(headers), Int(total)))
  }

  private static func lineEnd(_ bytes: UnsafeRawBufferPointer) -> Int? {
    let limit = min(bytes.count, infoBytesMax)
    for index in 0..<limit where bytes[index] == 0x0A { return index }
    return nil
  }

  private static func trimmed(_ bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
    var range = 0..<bytes.count
    while let first = range.first, bytes[first] == 0x20 || bytes[first] == 0x09 { range = first + 1..<range.upperBound }
    while let last = range.last, bytes[last] == 0x20 || bytes[last] == 0x09 { range = range.lowerBound..<last }
    return UnsafeRawBufferPointer(rebasing: bytes[range])
  }

  /// Digits only; nil for anything else and for what does not fit.
  private static func number(_ bytes: UnsafeRawBufferPointer) -> UInt64? {
    guard !bytes.isEmpty, bytes.count <= 19 else { return nil }
    var value: UInt64 = 0
    for byte in bytes {
      let digit = byte &- UInt8(ascii: "0")
      guard digit < 10 else { return nil }
      value = value &* 10 &+ UInt64(digit)
    }
    return value
  }

  /// Words between blanks.
  private struct Words {
    private let line: UnsafeRawBufferPointer
    private var offset = 0
    init(_ line: UnsafeRawBufferPointer) { self.line = line }

    mutating func next() -> UnsafeRawBufferPointer? {
      while offset < line.count, line[offset] == 0x20 || line[offset] == 0x09 { offset += 1 }
      guard offset < line.count else { return nil }
      let start = offset
      while offset < line.count, line[offset] != 0x20, line[offset] != 0x09 { offset += 1 }
      return UnsafeRawBufferPointer(rebasing: line[start..<offset])
    }
  }
}
