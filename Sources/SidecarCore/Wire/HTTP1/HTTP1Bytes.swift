// Byte classes and searches for the HTTP/1 grammar. A search looks at sixteen bytes at a time while that many are left
// and at single ones after that, so nothing beyond `end` is ever read.

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
  private typealias Block = SIMD16<UInt8>
  private static let blockCount = 16

  @inline(__always) private static func block(_ at: UnsafeRawPointer) -> Block { at.loadUnaligned(as: Block.self) }

  @inline(__always) static func byte(_ at: UnsafeRawPointer) -> UInt8 { at.load(as: UInt8.self) }

  /// A byte is 0xff where the comparison held. Only comparisons with a whole vector become one instruction here, and
  /// masks are best combined as words: a scalar operand, `.|` of masks or `any` cost hundreds of times as much (6.3).
  @inline(__always) private static func words(_ mask: SIMDMask<SIMD16<Int8>>) -> SIMD2<UInt64> {
    unsafeBitCast(mask, to: SIMD2<UInt64>.self)
  }

  /// Where the first byte is set, nil for none.
  @inline(__always) private static func first(_ mask: SIMD2<UInt64>) -> Int? {
    let low = UInt64(littleEndian: mask.x)
    if low != 0 { return low.trailingZeroBitCount &>> 3 }
    let high = UInt64(littleEndian: mask.y)
    if high != 0 { return 8 &+ high.trailingZeroBitCount &>> 3 }
    return nil
  }

  /// The first `:` from `start` on, or `end`.
  @inline(__always) static func colon(_ start: UnsafeRawPointer, _ end: UnsafeRawPointer) -> UnsafeRawPointer {
    var at = start
    while end - at >= blockCount {
      if let hit = first(words(block(at) .== Block(repeating: UInt8(ascii: ":")))) { return at + hit }
      at += blockCount
    }
    while at < end, byte(at) != UInt8(ascii: ":") { at += 1 }
    return at
  }

  /// The first byte that may not be in a field value (a control byte other than HTAB), or `end`. RFC 9110 §5.5.
  @inline(__always) static func valueEnd(_ start: UnsafeRawPointer, _ end: UnsafeRawPointer) -> UnsafeRawPointer {
    var at = start
    while end - at >= blockCount {
      let bytes = block(at)
      let hit = first(
        words(bytes .< Block(repeating: ASCII.space)) | words(bytes .== Block(repeating: ASCII.del)))
      guard let hit else {
        at += blockCount
        continue
      }
      at += hit
      if byte(at) != ASCII.tab { return at }
      at += 1
    }
    while at < end {
      let next = byte(at)
      if (next < ASCII.space && next != ASCII.tab) || next == ASCII.del { return at }
      at += 1
    }
    return at
  }

  /// The first byte that may not be in a request target, or `end`.
  @inline(__always) static func targetEnd(_ start: UnsafeRawPointer, _ end: UnsafeRawPointer) -> UnsafeRawPointer {
    var at = start
    while end - at >= blockCount {
      let bytes = block(at)
      let hit = first(
        words(bytes .<= Block(repeating: ASCII.space)) | words(bytes .>= Block(repeating: ASCII.del))
          | words(bytes .== Block(repeating: UInt8(ascii: "#"))))
      if let hit { return at + hit }
      at += blockCount
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
