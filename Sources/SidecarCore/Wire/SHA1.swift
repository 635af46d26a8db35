// SHA-1 (RFC 3174), for the one place that still asks for it: the WebSocket handshake, where it only shows that the
// server has read the key. Nothing here relies on it being hard to forge.

package enum SHA1 {
  package static let digestBytes = 20

  /// Appends the digest of `message`.
  package static func append(_ message: UnsafeRawBufferPointer, into out: ByteBuffer) {
    // The message, a one bit, zeros, and its length in bits: whole blocks of 64 bytes.
    let padded = ByteBuffer(capacity: message.count + 72)
    padded.append(message)
    padded.append(0x80 as UInt8)
    while padded.count % 64 != 56 { padded.append(0 as UInt8) }
    let bits = UInt64(message.count) &* 8
    padded.append(bigEndian: UInt32(truncatingIfNeeded: bits &>> 32))
    padded.append(bigEndian: UInt32(truncatingIfNeeded: bits))

    var state: (UInt32, UInt32, UInt32, UInt32, UInt32) = (
      0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0
    )
    for start in stride(from: 0, to: padded.count, by: 64) { mix(padded.bytes(start..<(start + 64)), into: &state) }
    for word in [state.0, state.1, state.2, state.3, state.4] { out.append(bigEndian: word) }
  }

  private static func mix(
    _ block: UnsafeRawBufferPointer, into state: inout (UInt32, UInt32, UInt32, UInt32, UInt32)
  ) {
    withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 80) { words in
      for index in 0..<16 {
        words[index] = UInt32(bigEndian: block.loadUnaligned(fromByteOffset: index * 4, as: UInt32.self))
      }
      for index in 16..<80 {
        words[index] = rotate(words[index - 3] ^ words[index - 8] ^ words[index - 14] ^ words[index - 16], 1)
      }
      var (a, b, c, d, e) = state
      for index in 0..<80 {
        let (choice, constant): (UInt32, UInt32) =
          switch index {
          case 0..<20: (b & c | ~b & d, 0x5A82_7999)
          case 20..<40: (b ^ c ^ d, 0x6ED9_EBA1)
          case 40..<60: (b & c | b & d | c & d, 0x8F1B_BCDC)
          default: (b ^ c ^ d, 0xCA62_C1D6)
          }
        let next = rotate(a, 5) &+ choice &+ e &+ constant &+ words[index]
        (a, b, c, d, e) = (next, a, rotate(b, 30), c, d)
      }
      state = (state.0 &+ a, state.1 &+ b, state.2 &+ c, state.3 &+ d, state.4 &+ e)
    }
  }

  private static func rotate(_ word: UInt32, _ bits: UInt32) -> UInt32 { word &<< bits | word &>> (32 &- bits) }
}
