// Reads JSON (RFC 8259) in place: checks it and cuts it into ranges, without a tree, an allocation or a copy.
//
// Stricter than the RFC's receivers need to be: UTF-8 is checked, nothing may follow the document, nesting is limited.
// As the RFC allows, `\uD800` without its partner passes; whoever decodes it gets U+FFFD, as encoding/json gives.
// Nesting lives in one word of bits (1 = object), so neither depth nor length of hostile input can use up a stack.

/// What a JSON value is, told from its first byte.
package enum JSONKind: Equatable, Sendable { case null, bool, number, string, array, object }

/// One member of an object, as ranges of the scanned bytes.
package struct JSONMember: Equatable, Sendable {
  /// Between the quotes.
  package var key: Range<Int>
  /// The key holds escapes, so its bytes are not its text.
  package var keyIsEscaped: Bool
  /// Without white space around it; a string's range includes its quotes.
  package var value: Range<Int>
}

/// A cursor over the bytes of one document. The bytes must outlive it. Errors: `WireError` with the offset of the
/// first byte that breaks a rule; after one, the scanner must not be used again.
package struct JSONScanner {
  /// Levels of nesting; a document with more is refused.
  package static let depthMax = 64

  package let bytes: UnsafeRawBufferPointer
  package private(set) var offset: Int
  private let depthMax: Int
  /// Whether a comma is due before the next member or element of the container that was entered.
  private var commaIsDue = false

  /// `depthMax` is at most `JSONScanner.depthMax`.
  package init(_ bytes: UnsafeRawBufferPointer, at offset: Int = 0, depthMax: Int = JSONScanner.depthMax) {
    precondition(depthMax >= 0 && depthMax <= Self.depthMax && offset >= 0 && offset <= bytes.count)
    self.bytes = bytes
    self.offset = offset
    self.depthMax = depthMax
  }

  /// Checks that `bytes` are one document and gives its range without white space around it.
  @discardableResult
  package static func validate(_ bytes: UnsafeRawBufferPointer) throws(WireError) -> Range<Int> {
    var scanner = JSONScanner(bytes)
    let range = try scanner.scanValue()
    try scanner.expectEnd()
    return range
  }

  // MARK: Cutting

  /// The next value, checked to its end.
  package mutating func scanValue() throws(WireError) -> Range<Int> {
    skipWhitespace()
    let start = offset
    try skipValue(depthMax: depthMax)
    return start..<offset
  }

  /// Only white space may follow.
  package mutating func expectEnd() throws(WireError) {
    skipWhitespace()
    guard offset == bytes.count else { throw fail("JSON: nothing may follow the document") }
  }

  /// Enters an object; `nextMember` then walks it. Objects and arrays inside are values, they are not entered.
  package mutating func enterObject() throws(WireError) {
    skipWhitespace()
    guard offset < bytes.count, bytes[offset] == UInt8(ascii: "{") else { throw fail("JSON: an object is expected") }
    guard depthMax > 0 else { throw fail("JSON: nested too deep") }
    offset += 1
    commaIsDue = false
  }

  /// The next member, or nil when the closing brace has been read. Duplicates are reported as they come; encoding/json
  /// lets the last one win.
  package mutating func nextMember() throws(WireError) -> JSONMember? {
    guard try advance(closing: UInt8(ascii: "}")) else { return nil }
    guard offset < bytes.count, bytes[offset] == UInt8(ascii: "\"") else { throw fail("JSON: a key is expected") }
    let start = offset + 1
    let escaped = try skipString()
    let key = start..<(offset - 1)
    try skipColon()
    skipWhitespace()
    let valueStart = offset
    try skipValue(depthMax: depthMax - 1)
    return JSONMember(key: key, keyIsEscaped: escaped, value: valueStart..<offset)
  }

  /// Enters an array; `nextElement` then walks it.
  package mutating func enterArray() throws(WireError) {
    skipWhitespace()
    guard offset < bytes.count, bytes[offset] == UInt8(ascii: "[") else { throw fail("JSON: an array is expected") }
    guard depthMax > 0 else { throw fail("JSON: nested too deep") }
    offset += 1
    commaIsDue = false
  }

  /// The next element, or nil when the closing bracket has been read.
  package mutating func nextElement() throws(WireError) -> Range<Int>? {
    guard try advance(closing: UInt8(ascii: "]")) else { return nil }
    let start = offset
    try skipValue(depthMax: depthMax - 1)
    return start..<offset
  }

  /// Steps to the next item of a container; false when it closes here.
  private mutating func advance(closing: UInt8) throws(WireError) -> Bool {
    skipWhitespace()
    guard offset < bytes.count else { throw fail("JSON: the document ends too early") }
    if bytes[offset] == closing {
      offset += 1
      return false
    }
    if commaIsDue {
      guard bytes[offset] == UInt8(ascii: ",") else { throw fail("JSON: a comma or the container's end is expected") }
      offset += 1
      skipWhitespace()
    }
    commaIsDue = true
    return true
  }

  // MARK: Looking at what was cut

  /// The kind of a value this scanner has cut.
  package func kind(of value: Range<Int>) -> JSONKind {
    switch bytes[value.lowerBound] {
    case UInt8(ascii: "{"): .object
    case UInt8(ascii: "["): .array
    case UInt8(ascii: "\""): .string
    case UInt8(ascii: "t"), UInt8(ascii: "f"): .bool
    case UInt8(ascii: "n"): .null
    default: .number
    }
  }

  /// Whether a key is `name`, which is lower-case ASCII, in any case of letters: how encoding/json finds struct fields.
  package func isKey(_ member: JSONMember, _ name: StaticString) -> Bool {
    if member.keyIsEscaped {
      let text = ByteBuffer(capacity: member.key.count)
      JSONText.unescape(bytes, member.key, into: text)
      return ASCIIText.equalsIgnoringCase(text.bytes, name)
    }
    return ASCIIText.equalsIgnoringCase(UnsafeRawBufferPointer(rebasing: bytes[member.key]), name)
  }

  // MARK: Grammar

  package func fail(_ rule: String) -> WireError { WireError(rule, offset: offset) }

  @inline(__always) package mutating func skipWhitespace() {
    while offset < bytes.count {
      let byte = bytes[offset]
      guard byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 else { return }
      offset &+= 1
    }
  }

  private mutating func skipColon() throws(WireError) {
    skipWhitespace()
    guard offset < bytes.count, bytes[offset] == UInt8(ascii: ":") else { throw fail("JSON: a colon is expected") }
    offset += 1
  }

  private mutating func skipKey() throws(WireError) {
    guard offset < bytes.count, bytes[offset] == UInt8(ascii: "\"") else { throw fail("JSON: a key is expected") }
    _ = try skipString()
    try skipColon()
  }

  /// Checks the value at the cursor and steps behind it.
  private mutating func skipValue(depthMax: Int) throws(WireError) {
    var containers: UInt64 = 0
    var depth = 0
    values: while true {
      skipWhitespace()
      guard offset < bytes.count else { throw fail("JSON: the document ends too early") }
      let byte = bytes[offset]
      switch byte {
      case UInt8(ascii: "{"), UInt8(ascii: "["):
        guard depth < depthMax else { throw fail("JSON: nested too deep") }
        let isObject = byte == UInt8(ascii: "{")
        offset &+= 1
        skipWhitespace()
        let close = isObject ? UInt8(ascii: "}") : UInt8(ascii: "]")
        if offset < bytes.count, bytes[offset] == close {
          offset &+= 1
          break
        }
        depth &+= 1
        containers = containers &<< 1 | (isObject ? 1 : 0)
        if isObject { try skipKey() }
        continue values
      case UInt8(ascii: "\""): _ = try skipString()
      case UInt8(ascii: "t"): try skipWord("true")
      case UInt8(ascii: "f"): try skipWord("false")
      case UInt8(ascii: "n"): try skipWord("null")
      case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): try skipNumber()
      default: throw fail("JSON: a value is expected")
      }
      // A value has ended: close what it closes, or go on to the next.
      while true {
        if depth == 0 { return }
        skipWhitespace()
        guard offset < bytes.count else { throw fail("JSON: the document ends too early") }
        let isObject = containers & 1 == 1
        switch bytes[offset] {
        case UInt8(ascii: ","):
          offset &+= 1
          if isObject {
            skipWhitespace()
            try skipKey()
          }
          continue values
        case isObject ? UInt8(ascii: "}") : UInt8(ascii: "]"):
          offset &+= 1
          depth &-= 1
          containers = containers &>> 1
        default: throw fail("JSON: a comma or the container's end is expected")
        }
      }
    }
  }

  private mutating func skipWord(_ word: StaticString) throws(WireError) {
    let length = word.utf8CodeUnitCount
    guard bytes.count - offset >= length else { throw fail("JSON: a value is expected") }
    for index in 0..<length where bytes[offset + index] != word.utf8Start[index] {
      throw fail("JSON: a value is expected")
    }
    offset += length
  }

  private mutating func skipNumber() throws(WireError) {
    if bytes[offset] == UInt8(ascii: "-") { offset &+= 1 }
    if offset < bytes.count, bytes[offset] == UInt8(ascii: "0") { offset &+= 1 } else { try skipDigits() }
    if offset < bytes.count, bytes[offset] == UInt8(ascii: ".") {
      offset &+= 1
      try skipDigits()
    }
    if offset < bytes.count, bytes[offset] | 0x20 == UInt8(ascii: "e") {
      offset &+= 1
      if offset < bytes.count, bytes[offset] == UInt8(ascii: "+") || bytes[offset] == UInt8(ascii: "-") {
        offset &+= 1
      }
      try skipDigits()
    }
  }

  private mutating func skipDigits() throws(WireError) {
    let start = offset
    while offset < bytes.count, bytes[offset] &- UInt8(ascii: "0") < 10 { offset &+= 1 }
    guard offset > start else { throw fail("JSON: a digit is expected") }
  }

  /// Steps over the string whose opening quote is at the cursor; true when it holds escapes.
  private mutating func skipString() throws(WireError) -> Bool {
    offset &+= 1
    var escaped = false
    while true {
      skipPlainASCII()
      guard offset < bytes.count else { throw fail("JSON: the document ends in a string") }
      let byte = bytes[offset]
      if byte == UInt8(ascii: "\"") {
        offset &+= 1
        return escaped
      } else if byte == UInt8(ascii: "\\") {
        escaped = true
        try skipEscape()
      } else if byte < 0x20 {
        throw fail("JSON: a control character must be escaped")
      } else {
        let length = UTF8Check.sequenceLength(bytes, at: offset)
        guard length > 0 else { throw fail("JSON: a string is not UTF-8") }
        offset &+= length
      }
    }
  }

  /// Steps over bytes that need no look of their own: ASCII but for quotes, backslashes and control characters. Eight
  /// at a time: the lowest set bit of `stop` marks the first byte that does.
  @inline(__always) private mutating func skipPlainASCII() {
    let ones: UInt64 = 0x0101_0101_0101_0101
    let highs: UInt64 = 0x8080_8080_8080_8080
    while bytes.count &- offset >= 8 {
      let word = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
      let quotes = word ^ (ones &* 0x22)
      let slashes = word ^ (ones &* 0x5C)
      let controls = (word &- ones &* 0x20) & ~word
      let stop = (controls | ((quotes &- ones) & ~quotes) | ((slashes &- ones) & ~slashes) | word) & highs
      if stop != 0 {
        offset &+= stop.trailingZeroBitCount &>> 3
        return
      }
      offset &+= 8
    }
    while offset < bytes.count {
      let byte = bytes[offset]
      guard byte >= 0x20, byte < 0x80, byte != 0x22, byte != 0x5C else { return }
      offset &+= 1
    }
  }

  private mutating func skipEscape() throws(WireError) {
    offset &+= 1
    guard offset < bytes.count else { throw fail("JSON: the document ends in a string") }
    switch bytes[offset] {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"), UInt8(ascii: "b"), UInt8(ascii: "f"),
      UInt8(ascii: "n"), UInt8(ascii: "r"), UInt8(ascii: "t"):
      offset &+= 1
    case UInt8(ascii: "u"):
      offset &+= 1
      for _ in 0..<4 {
        guard offset < bytes.count, ASCIIText.hexValue(bytes[offset]) != nil else {
          throw fail("JSON: \\u needs four hexadecimal digits")
        }
        offset &+= 1
      }
    default: throw fail("JSON: there is no such escape")
    }
  }
}
