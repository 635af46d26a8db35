// HighwayHash (https://arxiv.org/abs/1612.06257), by which go-micro's shard strategy chooses nodes.

package struct HighwayHash {
  package typealias Lanes = SIMD4<UInt64>

  private var v0: Lanes
  private var v1: Lanes
  private var mul0 = Lanes(0xDBE6_D5D5_FE4C_CE2F, 0xA409_3822_299F_31D0, 0x1319_8A2E_0370_7344, 0x243F_6A88_85A3_08D3)
  private var mul1 = Lanes(0x3BD3_9E10_CB0E_F593, 0xC0AC_F169_B5F1_8A8C, 0xBE54_66CF_34E9_0C6C, 0x4528_21E6_38D0_1377)

  private init(_ key: Lanes) {
    v0 = mul0 ^ key
    v1 = mul1 ^ (key &>> 32 | key &<< 32)
  }

  /// 64 bits of `bytes` under `key`.
  package static func hash64(_ bytes: UnsafeRawBufferPointer, key: Lanes) -> UInt64 {
    var state = HighwayHash(key)
    state.take(bytes)
    for _ in 0..<4 { state.permute() }
    return state.v0[0] &+ state.v1[0] &+ state.mul0[0] &+ state.mul1[0]
  }

  /// 256 bits of `bytes` under `key`.
  package static func hash256(_ bytes: UnsafeRawBufferPointer, key: Lanes) -> Lanes {
    var state = HighwayHash(key)
    state.take(bytes)
    for _ in 0..<10 { state.permute() }
    let a = state.v0 &+ state.mul0
    let b = state.v1 &+ state.mul1
    let low = reduced(b[1], b[0], a[1], a[0])
    let high = reduced(b[3], b[2], a[3], a[2])
    return Lanes(low.0, low.1, high.0, high.1)
  }

  private mutating func take(_ bytes: UnsafeRawBufferPointer) {
    var offset = 0
    while bytes.count &- offset >= 32 {
      let packet = Lanes(
        Self.word(bytes, offset), Self.word(bytes, offset &+ 8), Self.word(bytes, offset &+ 16),
        Self.word(bytes, offset &+ 24))
      update(packet)
      offset &+= 32
    }
    if offset < bytes.count { takeRest(UnsafeRawBufferPointer(rebasing: bytes[offset...])) }
  }

  private static func word(_ bytes: UnsafeRawBufferPointer, _ offset: Int) -> UInt64 {
    UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
  }

  /// 1 to 31 bytes at the end.
  private mutating func takeRest(_ rest: UnsafeRawBufferPointer) {
    let count = rest.count
    let odd = count & 3
    let whole = count & ~3
    v0 &+= Lanes(repeating: UInt64(count) &<< 32 &+ UInt64(count))
    for lane in 0..<4 {
      let low = UInt32(truncatingIfNeeded: v1[lane])
      let high = UInt32(truncatingIfNeeded: v1[lane] &>> 32)
      v1[lane] = UInt64(Self.rotated(high, count)) &<< 32 | UInt64(Self.rotated(low, count))
    }
    var packet = Lanes()
    withUnsafeMutableBytes(of: &packet) { packet in
      for index in 0..<whole { packet[index] = rest[index] }
      if count & 16 != 0 {
        for index in 0..<4 { packet[28 + index] = rest[whole + index + odd - 4] }
      } else if odd != 0 {
        packet[16] = rest[whole]
        packet[17] = rest[whole + odd &>> 1]
        packet[18] = rest[whole + odd - 1]
      }
    }
    update(Lanes(packet[0].littleEndian, packet[1].littleEndian, packet[2].littleEndian, packet[3].littleEndian))
  }

  private static func rotated(_ value: UInt32, _ count: Int) -> UInt32 {
    value &<< UInt32(count) | value &>> UInt32(32 - count)
  }

  @inline(__always)
  private mutating func update(_ packet: Lanes) {
    let low = Lanes(repeating: 0xFFFF_FFFF)
    v1 &+= mul0 &+ packet
    mul0 ^= (v1 & low) &* (v0 &>> 32)
    v0 &+= mul1
    mul1 ^= (v0 & low) &* (v1 &>> 32)
    v0 &+= Self.zipped(v1)
    v1 &+= Self.zipped(v0)
  }

  /// The bytes of each half, so mixed that every byte of a product reaches every other soon.
  @inline(__always)
  private static func zipped(_ v: Lanes) -> Lanes {
    Lanes(even(v[1], v[0]), odd(v[1], v[0]), even(v[3], v[2]), odd(v[3], v[2]))
  }

  @inline(__always)
  private static func even(_ v1: UInt64, _ v0: UInt64) -> UInt64 {
    let a = (v0 & 0xFF00_0000 | v1 & 0xFF_0000_0000) &>> 24
    let b = (v0 & 0xFF00_0000_0000 | v1 & 0xFF_0000_0000_0000) &>> 16
    let c = v0 & 0xFF_0000 | (v0 & 0xFF00) &<< 32
    return a | b | c | (v1 & 0xFF00_0000_0000_0000) &>> 8 | v0 &<< 56
  }

  @inline(__always)
  private static func odd(_ v1: UInt64, _ v0: UInt64) -> UInt64 {
    let a = (v1 & 0xFF00_0000 | v0 & 0xFF_0000_0000) &>> 24
    let b = v1 & 0xFF_0000 | (v1 & 0xFF00_0000_0000) &>> 16
    let c = (v1 & 0xFF00) &<< 24 | (v0 & 0xFF_0000_0000_0000) &>> 8
    return a | b | c | (v1 & 0xFF) &<< 48 | v0 & 0xFF00_0000_0000_0000
  }

  private mutating func permute() {
    let swapped = v0 &>> 32 | v0 &<< 32
    update(Lanes(swapped[2], swapped[3], swapped[0], swapped[1]))
  }

  private static func reduced(_ a3: UInt64, _ a2: UInt64, _ a1: UInt64, _ a0: UInt64) -> (UInt64, UInt64) {
    let a3 = a3 & 0x3FFF_FFFF_FFFF_FFFF
    return (
      a0 ^ a2 &<< 1 ^ a2 &<< 2,
      a1 ^ (a3 &<< 1 | a2 &>> 63) ^ (a3 &<< 2 | a2 &>> 62)
    )
  }
}
