// base64 between buffers (RFC 4648 §4 and §5): JSON's form of bytes.

package enum Base64 {
  private static let alphabet: StaticString = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

  /// For each ASCII byte the value of that digit in either alphabet, shifted by 48 so that it can stand in a literal;
  /// `~` for what is no digit.
  private static let values: StaticString = """
    ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~n~n~odefghijklm~~~~~~\
    ~0123456789:;<=>?@ABCDEFGHI~~~~o~JKLMNOPQRSTUVWXYZ[\\]^_`abc~~~~~
    """

  /// 0…63, or more than 63 for what is no digit.
  @inline(__always) private static func value(_ byte: UInt8) -> UInt32 {
    byte < 0x80 ? UInt32(values.utf8Start[Int(byte)] &- 48) : 255
  }

  /// Decodes `count` digits without padding, `count % 4 != 1`; false when one of them is none. Bits beyond the last
  /// whole byte are not looked at, as most decoders do.
  static func decode(_ source: UnsafePointer<UInt8>, _ count: Int, to target: UnsafeMutablePointer<UInt8>) -> Bool {
    var at = source
    var to = target
    var left = count
    while left >= 4 {
      let (a, b, c, d) = (value(at[0]), value(at[1]), value(at[2]), value(at[3]))
      guard a | b | c | d < 64 else { return false }
      let bits = a &<< 18 | b &<< 12 | c &<< 6 | d
      to[0] = UInt8(truncatingIfNeeded: bits &>> 16)
      to[1] = UInt8(truncatingIfNeeded: bits &>> 8)
      to[2] = UInt8(truncatingIfNeeded: bits)
      at += 4
      to += 3
      left &-= 4
    }
    if left >= 2 {
      let (a, b) = (value(at[0]), value(at[1]))
      let c = left == 3 ? value(at[2]) : 0
      guard a | b | c < 64 else { return false }
      let bits = a &<< 18 | b &<< 12 | c &<< 6
      to[0] = UInt8(truncatingIfNeeded: bits &>> 16)
      if left == 3 { to[1] = UInt8(truncatingIfNeeded: bits &>> 8) }
    }
    return true
  }

  /// Characters of `count` bytes, padding included.
  static func encodedCount(_ count: Int) -> Int { (count + 2) / 3 * 4 }

  /// Writes `encodedCount` characters.
  static func encode(_ source: UnsafePointer<UInt8>, _ count: Int, to target: UnsafeMutablePointer<UInt8>) {
    let digits = alphabet.utf8Start
    var at = source
    var to = target
    var left = count
    while left >= 3 {
      let bits = Int(at[0]) &<< 16 | Int(at[1]) &<< 8 | Int(at[2])
      to[0] = digits[bits &>> 18]
      to[1] = digits[bits &>> 12 & 63]
      to[2] = digits[bits &>> 6 & 63]
      to[3] = digits[bits & 63]
      at += 3
      to += 4
      left &-= 3
    }
    guard left > 0 else { return }
    let bits = Int(at[0]) &<< 16 | (left == 2 ? Int(at[1]) &<< 8 : 0)
    to[0] = digits[bits &>> 18]
    to[1] = digits[bits &>> 12 & 63]
    to[2] = left == 2 ? digits[bits &>> 6 & 63] : UInt8(ascii: "=")
    to[3] = UInt8(ascii: "=")
  }

  /// The text of `bytes`, for the control plane.
  package static func encoded(_ bytes: UnsafeRawBufferPointer) -> String {
    guard let source = bytes.bindMemory(to: UInt8.self).baseAddress else { return "" }
    return String(unsafeUninitializedCapacity: encodedCount(bytes.count)) { target in
      guard let start = target.baseAddress else { return 0 }
      encode(source, bytes.count, to: start)
      return encodedCount(bytes.count)
    }
  }
}
