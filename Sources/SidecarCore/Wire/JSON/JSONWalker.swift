// Walks a document that `JSONScanner.validate` has found good, value by value and without looking at any byte twice: for
// translation into another format. Nothing here can fail on such a document; on another one it would read nonsense, but
// never outside its bytes.

/// A number as JSON has it, in the narrowest type that holds it exactly as written.
enum JSONNumberValue: Equatable {
  case signed(Int64)
  /// Above `Int64.max`.
  case unsigned(UInt64)
  /// Written with a fraction or an exponent.
  case float(Double)
}

struct JSONWalker {
  let bytes: UnsafeRawBufferPointer
  private(set) var offset: Int

  /// `document` is what `JSONScanner.validate` gave.
  init(_ bytes: UnsafeRawBufferPointer, _ document: Range<Int>) {
    self.bytes = UnsafeRawBufferPointer(rebasing: bytes[..<document.upperBound])
    offset = document.lowerBound
  }

  /// What comes next, behind white space, commas and colons; nil at the end or before a closing bracket, which is read.
  mutating func next() -> JSONKind? {
    while offset < bytes.count {
      switch bytes[offset] {
      case 0x20, 0x0A, 0x0D, 0x09, UInt8(ascii: ","), UInt8(ascii: ":"): offset &+= 1
      case UInt8(ascii: "{"): return .object
      case UInt8(ascii: "["): return .array
      case UInt8(ascii: "\""): return .string
      case UInt8(ascii: "t"), UInt8(ascii: "f"): return .bool
      case UInt8(ascii: "n"): return .null
      case UInt8(ascii: "}"), UInt8(ascii: "]"):
        offset &+= 1
        return nil
      default: return .number
      }
    }
    return nil
  }

  /// Steps into the container that `next` announced.
  mutating func enter() { offset &+= 1 }

  mutating func null() { offset &+= 4 }

  mutating func bool() -> Bool {
    let value = bytes[offset] == UInt8(ascii: "t")
    offset &+= value ? 4 : 5
    return value
  }

  /// The string's content and whether it holds escapes.
  mutating func string() -> (content: Range<Int>, isEscaped: Bool) {
    offset &+= 1
    let start = offset
    var isEscaped = false
    while offset < bytes.count, bytes[offset] != UInt8(ascii: "\"") {
      let isEscape = bytes[offset] == UInt8(ascii: "\\")
      isEscaped = isEscaped || isEscape
      offset &+= isEscape ? 2 : 1
    }
    let content = start..<min(offset, bytes.count)
    offset &+= 1
    return (content, isEscaped)
  }

  /// Writes the string's text.
  mutating func string(into buffer: ByteBuffer) {
    let string = string()
    if string.isEscaped {
      JSONText.unescape(bytes, string.content, into: buffer)
    } else {
      buffer.append(UnsafeRawBufferPointer(rebasing: bytes[string.content]))
    }
  }

  /// Errors: `WireError` for an integer beyond 64 bits and for a number beyond a double.
  mutating func number() throws(WireError) -> JSONNumberValue {
    let start = offset
    var isInteger = true
    loop: while offset < bytes.count {
      switch bytes[offset] {
      case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "+"): break
      case UInt8(ascii: "."), UInt8(ascii: "e"), UInt8(ascii: "E"): isInteger = false
      default: break loop
      }
      offset &+= 1
    }
    let text = UnsafeRawBufferPointer(rebasing: bytes[start..<offset])
    if isInteger { return try Self.integer(text, at: start) }
    // Short texts need no memory of their own.
    guard let value = Double(String(decoding: text, as: UTF8.self)), value.isFinite else {
      throw WireError("JSON: a number exceeds a double", offset: start)
    }
    return .float(value)
  }

  private static func integer(_ text: UnsafeRawBufferPointer, at start: Int) throws(WireError) -> JSONNumberValue {
    let isNegative = text.first == UInt8(ascii: "-")
    var magnitude: UInt64 = 0
    for byte in text.dropFirst(isNegative ? 1 : 0) {
      let (product, tooMuch) = magnitude.multipliedReportingOverflow(by: 10)
      let (sum, tooMuchStill) = product.addingReportingOverflow(UInt64((byte &- UInt8(ascii: "0")) & 15))
      guard !tooMuch, !tooMuchStill else { throw WireError("JSON: an integer exceeds 64 bits", offset: start) }
      magnitude = sum
    }
    if isNegative {
      guard magnitude <= Int64.min.magnitude else { throw WireError("JSON: an integer exceeds 64 bits", offset: start) }
      return .signed(Int64(truncatingIfNeeded: 0 &- magnitude))
    }
    return magnitude <= UInt64(Int64.max) ? .signed(Int64(magnitude)) : .unsigned(magnitude)
  }
}
