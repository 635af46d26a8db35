// UTF-8 checked as it arrives (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF), so that a message is
// refused with its first impossible byte and not at its end, as RFC 6455 §8.1 allows and the Autobahn suite demands.
//
//   accept ──C2…DF──▶ tail1 ──────────▶ accept          E0, ED, F0, F4 restrict the byte that follows them:
//     │ ├───E1…EF──▶ tail2 ──▶ tail1                    each has a state of its own
//     │ └───F1…F3──▶ tail3 ──▶ tail2
//     └── anything else ──▶ reject, for good
//
// The automaton is a table of shifts: a state is the bit offset of its own six-bit field in the row of each byte, and the
// field holds the next state. One load and one shift per byte; plain ASCII is skipped 32 bytes at a time.

/// The state between two pieces of one text.
struct UTF8Stream {
  private static let reject: UInt64 = 0
  private static let accept: UInt64 = 6
  private static let fieldMask: UInt64 = 63

  private var state = UTF8Stream.accept

  /// Whether the text may end here.
  var isComplete: Bool { state == Self.accept }

  mutating func restart() { state = Self.accept }

  /// Whether `text` as a whole is UTF-8.
  static func isValid(_ text: UnsafeRawBufferPointer) -> Bool {
    var stream = UTF8Stream()
    return stream.take(text) && stream.isComplete
  }

  /// Takes the next bytes; false when no valid text begins with what came so far.
  mutating func take(_ bytes: UnsafeRawBufferPointer) -> Bool {
    guard let start = bytes.baseAddress else { return state != Self.reject }
    let rows = Self.rows
    var current = state
    var offset = 0
    let count = bytes.count
    while offset < count {
      if current & Self.fieldMask == Self.accept {
        while count &- offset >= 32 {
          let block = (start + offset).loadUnaligned(as: SIMD4<UInt64>.self)
          if (block.x | block.y | block.z | block.w) & 0x8080_8080_8080_8080 != 0 { break }
          offset &+= 32
        }
      }
      // `&>>` takes the shift modulo 64, so a state needs no masking between two bytes.
      let stop = min(count, offset &+ 32)
      while offset < stop {
        current = rows[Int((start + offset).load(as: UInt8.self))] &>> current
        offset &+= 1
      }
      if current & Self.fieldMask == Self.reject { break }
    }
    state = current & Self.fieldMask
    return state != Self.reject
  }

  /// One row per byte value. Made once per process, never changed.
  nonisolated(unsafe) private static let rows: UnsafePointer<UInt64> = {
    let tail1: UInt64 = 12
    let tail2: UInt64 = 18
    let tail3: UInt64 = 24
    let afterE0: UInt64 = 30
    let afterED: UInt64 = 36
    let afterF0: UInt64 = 42
    let afterF4: UInt64 = 48
    let rows = UnsafeMutablePointer<UInt64>.allocate(capacity: 256)
    rows.initialize(repeating: 0, count: 256)
    func step(_ from: UInt64, _ bytes: ClosedRange<Int>, _ to: UInt64) {
      for byte in bytes { rows[byte] |= to << from }
    }
    step(accept, 0x00...0x7F, accept)
    step(accept, 0xC2...0xDF, tail1)
    step(accept, 0xE0...0xE0, afterE0)
    step(accept, 0xE1...0xEC, tail2)
    step(accept, 0xED...0xED, afterED)
    step(accept, 0xEE...0xEF, tail2)
    step(accept, 0xF0...0xF0, afterF0)
    step(accept, 0xF1...0xF3, tail3)
    step(accept, 0xF4...0xF4, afterF4)
    step(tail1, 0x80...0xBF, accept)
    step(tail2, 0x80...0xBF, tail1)
    step(tail3, 0x80...0xBF, tail2)
    step(afterE0, 0xA0...0xBF, tail1)
    step(afterED, 0x80...0x9F, tail1)
    step(afterF0, 0x90...0xBF, tail2)
    step(afterF4, 0x80...0x8F, tail2)
    return UnsafePointer(rows)
  }()
}
