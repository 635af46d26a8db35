// From the text that a call is sent by to the key that selectors go by: the same on every worker, sidecar and machine.

extension SelectKeyHash {
  package func key(_ text: UnsafeRawBufferPointer) -> SelectKey {
    switch self {
    case .mixed: return SelectKey(MixedHash.of(text))
    case .highway:
      let lanes = HighwayHash.hash256(text, key: HighwayHash.Lanes())
      return SelectKey(lanes[0], (lanes[1], lanes[2], lanes[3]))
    case .crc32: return SelectKey(UInt64(CRC32.of(text)))
    }
  }
}

/// A hash of 64 bits in which every bit depends on every byte. Not for secrets, nor against whoever wants collisions.
package enum MixedHash {
  package static func of(_ bytes: UnsafeRawBufferPointer) -> UInt64 {
    var hash: UInt64 = 0x6D69_6372_6F2D_7363 ^ UInt64(bytes.count)
    var offset = 0
    while bytes.count &- offset >= 8 {
      let word = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
      hash = mixed(hash ^ word)
      offset &+= 8
    }
    var rest: UInt64 = 0
    while offset < bytes.count {
      rest = rest &<< 8 | UInt64(bytes[offset])
      offset &+= 1
    }
    return mixed(hash ^ rest)
  }

  package static func of(_ text: String) -> UInt64 {
    var text = text
    return text.withUTF8 { of(UnsafeRawBufferPointer($0)) }
  }

  /// A permutation of the numbers in which every bit of the result depends on every bit (SplitMix64's end).
  @inlinable @inline(__always) package static func mixed(_ value: UInt64) -> UInt64 {
    var z = value &+ 0x9E37_79B9_7F4A_7C15
    z = (z ^ (z &>> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z &>> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z &>> 31)
  }
}
