// What must hold for the HTTP/1 parser whatever the bytes are:
// - the events, bytes and error don't depend on where the input is cut;
// - between messages it holds no memory;
// - what it accepted, written again, is accepted again with the same fields and framing.

import SidecarCore

struct HTTP1Oracle {
  var role: HTTP1Parser.Role
  var answersHEAD = false
  var answersCONNECT = false
  var ends = false
  var keepsHeads = false

  /// Bytes of an input that is also fed one by one; longer ones would take most of the time.
  private static let byteByByteMax = 96

  /// Everything the parser said, as bytes; body bytes that follow each other count as one.
  func record(_ input: UnsafeRawBufferPointer, cutAt cuts: [Int]) -> [UInt8] {
    record(input) { feed in
      forEachPiece(input, cutAt: cuts, feed)
    }
  }

  /// The same for bytes that come one by one.
  func recordBytes(_ input: UnsafeRawBufferPointer) -> [UInt8] {
    record(input) { feed in
      for index in input.indices {
        guard feed(UnsafeRawBufferPointer(rebasing: input[index...index])) else { return }
      }
    }
  }

  private func record(
    _ input: UnsafeRawBufferPointer, _ feeding: (_ feed: (UnsafeRawBufferPointer) -> Bool) -> Void
  ) -> [UInt8] {
    let shared = HTTP1Head()
    var parser = HTTP1Parser(role, head: shared)
    var other = HTTP1Parser(.server, head: shared)
    parser.expectResponse(toHEAD: answersHEAD, toCONNECT: answersCONNECT)
    var log: [UInt8] = []
    log.reserveCapacity(256 + input.count * 3)
    var isInBody = false
    func note(_ kind: Character) {
      isInBody = false
      log.append(kind.asciiValue ?? 0)
    }
    var error: WireError?
    feeding { piece in
      var rest = piece
      do throws(WireError) {
        pulling: while true {
          switch try parser.next(&rest) {
          case .needMore:
            break pulling
          case .head:
            note("H")
            if keepsHeads { parser.keepHead() }
            Self.append(parser.head, to: &log)
          case .body(let bytes):
            if bytes.isEmpty { fail("an empty body event") }
            if !isInBody { note("B") }
            isInBody = true
            log += bytes
          case .end:
            note("E")
            if let trailers = parser.trailers { Self.append(trailers, to: &log) }
          }
        }
        if parser.isBetweenMessages, parser.heldBytes != 0 { fail("an idle parser holds memory") }
      } catch let thrown {
        error = thrown
      }
      if piece.count > 1 { Self.disturb(&other) }
      return error == nil
    }
    if error == nil, ends {
      do throws(WireError) {
        if case .end = try parser.finish() { note("E") } else { note("F") }
      } catch let thrown {
        error = thrown
      }
    }
    if let error {
      note("X")
      log += Array("\(error.status) \(error.rule) \(error.offset)".utf8)
    }
    return log
  }

  func check(_ input: UnsafeRawBufferPointer, cutAt cuts: [Int], byteByByte: Bool) {
    let whole = record(input, cutAt: [])
    if record(input, cutAt: cuts) != whole { fail("cutting at \(cuts) makes a difference") }
    if byteByByte, input.count <= Self.byteByByteMax, recordBytes(input) != whole {
      fail("cutting everywhere makes a difference")
    }
    checkWriting(input)
  }

  /// Writes the first head and parses that.
  private func checkWriting(_ input: UnsafeRawBufferPointer) {
    var parser = HTTP1Parser(role)
    var rest = input
    guard case .head? = try? parser.next(&rest) else { return }
    let head = parser.head
    let buffer = ByteBuffer()
    switch role {
    case .server where head.minorVersion == 1:
      HTTP1Writer.requestLine(head.methodBytes, target: head.target, to: buffer)
    case .client where head.minorVersion == 1:
      HTTP1Writer.statusLine(head.status, to: buffer)
    case .server, .client:
      return
    }
    for field in head.fields { HTTP1Writer.copy(field, of: head, to: buffer) }
    HTTP1Writer.endHead(to: buffer)
    var again = HTTP1Parser(role)
    var written = buffer.bytes
    // The status phrase may be longer than the one that came, and so break the limit.
    if buffer.count > HTTP1Limits().headBytes { return }
    guard case .head? = try? again.next(&written), written.isEmpty else { fail("a written head is refused") }
    let copy = again.head
    guard copy.framing == head.framing, copy.keepAlive == head.keepAlive, copy.method == head.method,
      copy.target.elementsEqual(head.target), copy.status == head.status, copy.fieldCount == head.fieldCount
    else { fail("a written head means something else") }
    for (left, right) in zip(head.fields, copy.fields) {
      guard left.id == right.id, head.name(left).elementsEqual(copy.name(right)),
        head.value(left).elementsEqual(copy.value(right))
      else { fail("a written field differs") }
    }
  }

  private static func append(_ head: HTTP1Head, to log: inout [UInt8]) {
    func number(_ value: Int) { withUnsafeBytes(of: value) { log += $0 } }
    log += [head.method.rawValue, UInt8(head.minorVersion)]
    log += [head.keepAlive, head.expectsContinue, head.upgrade].map { $0 ? 1 : 0 }
    number(head.status)
    switch head.framing {
    case .none: number(-1)
    case .length(let count): number(count)
    case .chunked: number(-2)
    case .untilClose: number(-3)
    }
    number(head.bytes.count)
    log += head.methodBytes
    number(head.target.count)
    log += head.target
    for field in head.fields {
      log.append(field.id.rawValue)
      number(head.name(field).count)
      log += head.name(field)
      number(head.value(field).count)
      log += head.value(field)
      if field.id != HeaderID.identify(head.name(field)) { fail("a name is taken for another") }
      if !head.has(field.id) { fail("a field is there and isn't") }
    }
  }

  /// Another connection of the loop uses the shared head in between.
  private static func disturb(_ other: inout HTTP1Parser) {
    let message: StaticString = "OPTIONS * HTTP/1.1\r\nHost: other\r\nX: 1\r\nContent-Length: 0\r\n\r\n"
    var rest = UnsafeRawBufferPointer(start: message.utf8Start, count: message.utf8CodeUnitCount)
    for _ in 0..<3 { _ = try? other.next(&rest) }
  }
}
