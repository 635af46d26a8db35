// Byte classes and eight-bytes-at-a-time searches for the HTTP/1 grammar. Each search looks at whole words while eight
// bytes are left and at single bytes for the rest, so nothing beyond `end` is ever read.
//
// The word tests are the classic "has a byte below n" and "has a zero byte": exact for the *lowest* byte they flag, as
// a borrow can only make false hits above a true one. The lowest is all we use.

enum ASCII {
  static let tab = UInt8(ascii: "\t")
  static let lf = UInt8(ascii: "\n")
  static let cr = UInt8(ascii: "\r")
  static let space = UInt8(ascii: " ")
  static let del: UInt8 = 0x7f
}

struct ByteClass {
  /// A byte of a token: method, field name, chunk extension (RFC 9110 §5.6.2).
  static let token: UInt8 = 1
  /// A byte we allow in a request target: visible ASCII but `#`, which a client must not send (RFC 9112 §3.2).
  static let target: UInt8 = 2
  /// A byte of a host with port, in any of its spellings (RFC 3986 §3.2.2).
  static let host: UInt8 = 4

  /// One digit per byte value, 32 a row; its low three bits are the classes above.
  @inline(__always) static var table: UnsafePointer<UInt8> {
    let classes: StaticString = """
      00000000000000000000000000000000\
      07217777667767727777777777662622\
      27777777777777777777777777762637\
      37777777777777777777777777723270\
      00000000000000000000000000000000\
      00000000000000000000000000000000\
      00000000000000000000000000000000\
      00000000000000000000000000000000
      """
    return classes.utf8Start
  }

  @inline(__always) static func contains(_ byte: UInt8, _ mask: UInt8) -> Bool {
    table[Int(byte)] & mask != 0
  }
}

enum Scan {
  private static let ones: UInt64 = 0x0101_0101_0101_0101
  private static let highs: UInt64 = 0x8080_8080_8080_8080

  @inline(__always) private static func word(_ at: UnsafeRawPointer) -> UInt64 {
    UInt64(littleEndian: at.loadUnaligned(as: UInt64.self))
  }

  @inline(__always) static func byte(_ at: UnsafeRawPointer) -> UInt8 { at.load(as: UInt8.self) }

  /// The first `:` from `start` on, or `end`.
  @inline(__always) static func colon(_ start: UnsafeRawPointer, _ end: UnsafeRawPointer) -> UnsafeRawPointer {
    var at = start
    while end - at >= 8 {
      let difference = word(at) ^ (ones &* 0x3a)
      let hits = (difference &- ones) & ~difference & highs
      if hits != 0 { return at + hits.trailingZeroBitCount &>> 3 }
      at += 8
    }
    while at < end, byte(at) != 0x3a { at += 1 }
    return at
  }

  /// The first byte that may not be in a field value (a control byte other than HTAB), or `end`. RFC 9110 §5.5.
  @inline(__always) static func valueEnd(_ start: UnsafeRawPointer, _ end: UnsafeRawPointer) -> UnsafeRawPointer {
    var at = start
    while end - at >= 8 {
      let bytes = word(at)
      let del = bytes ^ (ones &* 0x7f)
      let hits = (((bytes &- ones &* 0x20) & ~bytes) | ((del &- ones) & ~del)) & highs
      if hits != 0 {
        at += hits.trailingZeroBitCount &>> 3
        if byte(at) != ASCII.tab { return at }
        at += 1
      } else {
        at += 8
      }
    }
    while at < end {
      let next = byte(at)
      if (next < 0x20 && next != ASCII.tab) || next == ASCII.del { return at }
      at += 1
    }
    return at
  }

  /// The first byte that may not be in a request target, or `end`.
  @inline(__always) static func targetEnd(_ start: UnsafeRawPointer, _ end: UnsafeRawPointer) -> UnsafeRawPointer {
    var at = start
    while end - at >= 8 {
      let bytes = word(at)
      let fragment = bytes ^ (ones &* 0x23)
      let low = (bytes &- ones &* 0x21) & ~bytes
      let hits = (low | ((bytes &+ ones) | bytes) | ((fragment &- ones) & ~fragment)) & highs
      if hits != 0 { return at + hits.trailingZeroBitCount &>> 3 }
      at += 8
    }
    while at < end, ByteClass.contains(byte(at), ByteClass.target) { at += 1 }
    return at
  }

  /// The first byte not of the class `mask`, or `end`.
  @inline(__always) static func end(
    of mask: UInt8, _ start: UnsafeRawPointer, _ end: UnsafeRawPointer
  ) -> UnsafeRawPointer {
    let table = ByteClass.table
    var at = start
    while at < end, table[Int(byte(at))] & mask != 0 { at += 1 }
    return at
  }

  /// Whether `bytes` spell `lowercase`, which holds no upper-case letter, in any letter case.
  @inline(__always) static func equal(_ bytes: UnsafeRawBufferPointer, ignoringCase lowercase: StaticString) -> Bool {
    guard bytes.count == lowercase.utf8CodeUnitCount else { return false }
    for index in 0..<bytes.count {
      let byte = bytes[index]
      let isUpper = byte >= UInt8(ascii: "A") && byte <= UInt8(ascii: "Z")
      if (isUpper ? byte | 0x20 : byte) != lowercase.utf8Start[index] { return false }
    }
    return true
  }

  /// Whether both spell the same in any letter case.
  static func equal(_ left: UnsafeRawBufferPointer, ignoringCase right: UnsafeRawBufferPointer) -> Bool {
    guard left.count == right.count else { return false }
    for index in 0..<left.count {
      let difference = left[index] ^ right[index]
      if difference == 0 { continue }
      let folded = left[index] | 0x20
      guard difference == 0x20, folded >= UInt8(ascii: "a"), folded <= UInt8(ascii: "z") else { return false }
    }
    return true
  }

  /// Without spaces and tabs at both ends.
  @inline(__always) static func trimmed(_ bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
    var lower = 0
    var upper = bytes.count
    while lower < upper, bytes[lower] == ASCII.space || bytes[lower] == ASCII.tab { lower += 1 }
    while upper > lower, bytes[upper - 1] == ASCII.space || bytes[upper - 1] == ASCII.tab { upper -= 1 }
    return UnsafeRawBufferPointer(rebasing: bytes[lower..<upper])
  }

  /// Calls `body` with each non-empty element of a comma-separated list (RFC 9110 §5.6.1), trimmed.
  @inline(__always) static func forEachElement(
    _ list: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void
  ) {
    var start = 0
    while start <= list.count {
      var stop = start
      while stop < list.count, list[stop] != UInt8(ascii: ",") { stop += 1 }
      let element = trimmed(UnsafeRawBufferPointer(rebasing: list[start..<stop]))
      if element.count > 0 { body(element) }
      start = stop + 1
    }
  }
}
