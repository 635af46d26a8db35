// Masking of RFC 6455 §5.3: each payload byte is XORed with one of four key bytes in turn. Both directions are the same.

enum WebSocketMask {
  /// Copies `count` bytes and masks them; both may be the same memory. Answers with the key for the bytes that follow.
  /// `key` holds the four bytes in the order of the wire. 32 bytes at a time; the loop is bound by memory.
  @inline(__always)
  static func copy(
    from source: UnsafeRawPointer, to target: UnsafeMutableRawPointer, _ count: Int, key: UInt32
  ) -> UInt32 {
    let pair = UInt64(key) | UInt64(key) &<< 32
    let block = SIMD4<UInt64>(repeating: pair)
    var offset = 0
    while count &- offset >= 32 {
      let masked = (source + offset).loadUnaligned(as: SIMD4<UInt64>.self) ^ block
      (target + offset).storeBytes(of: masked, as: SIMD4<UInt64>.self)
      offset &+= 32
    }
    while count &- offset >= 8 {
      (target + offset).storeBytes(of: (source + offset).loadUnaligned(as: UInt64.self) ^ pair, as: UInt64.self)
      offset &+= 8
    }
    var rest = UInt32(littleEndian: key)
    while offset < count {
      let byte = (source + offset).load(as: UInt8.self) ^ UInt8(truncatingIfNeeded: rest)
      (target + offset).storeBytes(of: byte, as: UInt8.self)
      rest = rest &>> 8 | rest &<< 24
      offset &+= 1
    }
    // The loops before the last take multiples of four bytes, so the rotation counted there is the whole of it.
    return UInt32(littleEndian: rest)
  }
}
