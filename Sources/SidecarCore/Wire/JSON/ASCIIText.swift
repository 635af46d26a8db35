// Small questions about bytes that several parsers ask.

package enum ASCIIText {
  /// 0…15, or nil for a byte that is no hexadecimal digit.
  @inline(__always) package static func hexValue(_ byte: UInt8) -> UInt8? {
    let digit = byte &- UInt8(ascii: "0")
    if digit < 10 { return digit }
    let letter = (byte | 0x20) &- UInt8(ascii: "a")
    return letter < 6 ? letter + 10 : nil
  }

  /// The lower-case digit of a value below 16.
  @inline(__always) package static func hexDigit(_ value: UInt8) -> UInt8 {
    value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "a") + (value - 10)
  }

  @inline(__always) package static func lowercased(_ byte: UInt8) -> UInt8 {
    byte &- UInt8(ascii: "A") < 26 ? byte | 0x20 : byte
  }

  @inline(__always) package static func equals(_ bytes: UnsafeRawBufferPointer, _ text: StaticString) -> Bool {
    guard bytes.count == text.utf8CodeUnitCount else { return false }
    for index in 0..<bytes.count where bytes[index] != text.utf8Start[index] { return false }
    return true
  }

  @inline(__always) package static func equals(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Bool
  {
    guard left.count == right.count else { return false }
    for index in 0..<left.count where left[index] != right[index] { return false }
    return true
  }

  /// `text` is lower-case ASCII.
  @inline(__always)
  package static func equalsIgnoringCase(_ bytes: UnsafeRawBufferPointer, _ text: StaticString) -> Bool {
    guard bytes.count == text.utf8CodeUnitCount else { return false }
    for index in 0..<bytes.count where lowercased(bytes[index]) != text.utf8Start[index] { return false }
    return true
  }

  /// `prefix` is lower-case ASCII.
  @inline(__always)
  /// Whether `text`, which is in lower case, stands anywhere in `bytes`, in any case of letters.
  package static func containsIgnoringCase(_ bytes: UnsafeRawBufferPointer, _ text: StaticString) -> Bool {
    var rest = bytes
    while rest.count >= text.utf8CodeUnitCount {
      if hasPrefixIgnoringCase(rest, text) { return true }
      rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst())
    }
    return false
  }

  package static func hasPrefixIgnoringCase(_ bytes: UnsafeRawBufferPointer, _ prefix: StaticString) -> Bool {
    guard bytes.count >= prefix.utf8CodeUnitCount else { return false }
    for index in 0..<prefix.utf8CodeUnitCount where lowercased(bytes[index]) != prefix.utf8Start[index] {
      return false
    }
    return true
  }
}

package enum UTF8Check {
  /// Bytes of the character that starts at `offset`, which must be inside: 1…4, or 0 when it is broken (RFC 3629: no
  /// overlong forms, no surrogates, nothing above U+10FFFF).
  @inline(__always) package static func sequenceLength(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> Int {
    let first = bytes[offset]
    if first < 0x80 { return 1 }
    let left = bytes.count &- offset
    @inline(__always) func follows(_ index: Int) -> Bool { bytes[offset &+ index] & 0xC0 == 0x80 }
    switch first {
    case 0xC2...0xDF:
      return left >= 2 && follows(1) ? 2 : 0
    case 0xE0...0xEF:
      guard left >= 3, follows(1), follows(2) else { return 0 }
      let second = bytes[offset &+ 1]
      return (first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ? 0 : 3
    case 0xF0...0xF4:
      guard left >= 4, follows(1), follows(2), follows(3) else { return 0 }
      let second = bytes[offset &+ 1]
      return (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F) ? 0 : 4
    default: return 0
    }
  }

  package static func isValid(_ bytes: UnsafeRawBufferPointer) -> Bool {
    var offset = 0
    while offset < bytes.count {
      let length = sequenceLength(bytes, at: offset)
      if length == 0 { return false }
      offset &+= length
    }
    return true
  }
}
