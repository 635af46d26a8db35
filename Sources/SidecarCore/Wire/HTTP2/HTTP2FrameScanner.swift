// Looks at the heads of frames before nghttp2 does: it does not tell of types it does not know, nor of PRIORITY once
// priorities are declined, and both count as floods.

/// Follows frame boundaries through bytes that come in any pieces.
struct HTTP2FrameScanner {
  /// A frame's head. `dependency` is what a PRIORITY frame says its stream depends on.
  struct Head {
    var type: UInt8
    var flags: UInt8
    var length: Int
    var stream: UInt32
    var dependency: UInt32?
  }

  /// Bytes of a head, and of a PRIORITY frame with the part that counts.
  private static let headBytes = 9
  private static let priorityBytes = 13
  /// Bytes of a client's preface.
  static let prefaceBytes = 24

  /// Bytes until the next head.
  private var skip: Int
  /// What has come of the head at hand, first byte first in memory.
  private var partial: (UInt64, UInt64) = (0, 0)
  private var partialCount = 0

  init(skip: Int) { self.skip = skip }

  /// The next head in `input`, whose bytes are taken; nil when there is none in the rest.
  mutating func next(_ input: inout UnsafeRawBufferPointer) -> Head? {
    while true {
      if skip > 0 {
        let step = min(skip, input.count)
        skip &-= step
        input = UnsafeRawBufferPointer(rebasing: input[step...])
      }
      if input.isEmpty { return nil }
      if partialCount == 0, input.count >= Self.priorityBytes {
        // The common case: all here.
        let head = Self.read(input)
        let taken = head.dependency == nil ? Self.headBytes : Self.priorityBytes
        skip = Self.headBytes &+ head.length &- taken
        input = UnsafeRawBufferPointer(rebasing: input[taken...])
        return head
      }
      let wanted = partialCount < Self.headBytes ? Self.headBytes : Self.priorityBytes
      let step = min(wanted - partialCount, input.count)
      withUnsafeMutableBytes(of: &partial) {
        UnsafeMutableRawBufferPointer(rebasing: $0[partialCount...])
          .copyMemory(from: UnsafeRawBufferPointer(rebasing: input[..<step]))
      }
      partialCount += step
      input = UnsafeRawBufferPointer(rebasing: input[step...])
      guard partialCount == wanted else { return nil }
      var head = withUnsafeBytes(of: &partial) { Self.read($0) }
      if wanted == Self.headBytes, head.dependency != nil {
        // Its dependency is still to come.
        continue
      }
      if wanted == Self.headBytes { head.dependency = nil }
      skip = Self.headBytes &+ head.length &- wanted
      partialCount = 0
      return head
    }
  }

  /// `bytes` has 13 or more; those beyond what has come are not looked at but for `dependency`.
  private static func read(_ bytes: UnsafeRawBufferPointer) -> Head {
    let first = UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 0, as: UInt32.self))
    let stream = UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 5, as: UInt32.self)) & 0x7FFF_FFFF
    var head = Head(
      type: UInt8(truncatingIfNeeded: first), flags: bytes[4], length: Int(first &>> 8), stream: stream,
      dependency: nil)
    if head.type == 2, head.length == 5 {
      head.dependency = UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: 9, as: UInt32.self)) & 0x7FFF_FFFF
    }
    return head
  }
}
