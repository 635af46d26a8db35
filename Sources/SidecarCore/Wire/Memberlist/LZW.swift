// LZW as memberlist compresses with it: Go's compress/lzw, least significant bit first, literals of 8 bits (the GIF form).
//
//   codes 0…255 bytes · 256 clear · 257 end · 258… strings, each the one before and the next one's first byte
//   width 9 bits, one more whenever the table is full for it, 12 at most; then codes are no longer added
//
// Only read: memberlist takes uncompressed messages from anyone.

package enum LZW {
  private static let clear = 256
  private static let end = 257
  private static let codesMax = 4096

  /// The bytes that `input` stands for. Errors: a code that cannot be, an end too soon, more than `limit` bytes.
  package static func decompress(_ input: UnsafeRawBufferPointer, limit: Int) throws(WireError) -> [UInt8] {
    var output: [UInt8] = []
    // The string of a code: its last byte, and the code of what stands before it.
    var prefixes = [UInt16](repeating: 0, count: codesMax)
    var suffixes = [UInt8](repeating: 0, count: codesMax)
    var scratch: [UInt8] = []
    var (bits, held, width, next) = (UInt32(0), 0, 9, end + 1)
    var previous: Int?
    var offset = 0
    while true {
      while held < width {
        guard offset < input.count else { throw WireError("LZW data ends too soon", offset: offset) }
        bits |= UInt32(input[offset]) &<< UInt32(held)
        held += 8
        offset += 1
      }
      let code = Int(bits & ((1 &<< UInt32(width)) &- 1))
      bits &>>= UInt32(width)
      held -= width
      if code == end { return output }
      if code == clear {
        (width, next, previous) = (9, end + 1, nil)
        continue
      }
      guard code < clear || (code > end && code < next) || (code == next && previous != nil && next < codesMax) else {
        throw WireError("an LZW code that cannot be", offset: offset)
      }
      scratch.removeAll(keepingCapacity: true)
      // The one code that may be used before it is added: the previous string and its own first byte.
      var walk = code == next ? previous ?? code : code
      while walk > end {
        scratch.append(suffixes[walk])
        walk = Int(prefixes[walk])
      }
      let first = UInt8(truncatingIfNeeded: walk)
      scratch.append(first)
      guard output.count + scratch.count + 1 <= limit else {
        throw WireError("LZW data stands for more than \(limit) bytes", offset: offset)
      }
      output.append(contentsOf: scratch.reversed())
      if code == next { output.append(first) }
      if let previous, next < codesMax {
        prefixes[next] = UInt16(previous)
        suffixes[next] = first
        next += 1
      }
      if next >= 1 << width, width < 12 { width += 1 }
      previous = code
    }
  }
}
