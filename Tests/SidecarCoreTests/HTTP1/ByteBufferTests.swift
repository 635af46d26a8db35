// Numbers as text in the data path's bytes.

import SidecarCore
import Testing

@Suite struct ByteBufferTests {
  /// Each behind other text, in a buffer that has to grow for some of them.
  private func written(_ write: (ByteBuffer) -> Void) -> String {
    let buffer = ByteBuffer(capacity: 64)
    buffer.append("before ")
    write(buffer)
    buffer.append(" after")
    return String(decoding: buffer.bytes, as: UTF8.self)
  }

  @Test func `decimal digits of numbers of every length`() {
    var numbers: [UInt64] = [0, 1, 42, .max, .max - 1, 12_345_678_901_234_567_890]
    var power: UInt64 = 10
    while true {
      numbers += [power - 1, power, power + 1, power / 10 * 7]
      let (next, isOver) = power.multipliedReportingOverflow(by: 10)
      if isOver { break }
      power = next
    }
    for number in numbers + Array(0..<1200) {
      #expect(written { $0.append(decimal: number) } == "before \(number) after")
    }
    for number in [Int.min, -1, 0, .max] { #expect(written { $0.append(decimal: number) } == "before \(number) after") }
    let buffer = ByteBuffer(capacity: 64)
    for number in 0..<1000 { buffer.append(decimal: number) }
    #expect(String(decoding: buffer.bytes, as: UTF8.self) == (0..<1000).map { "\($0)" }.joined())
  }

  @Test func `hexadecimal digits`() {
    for number: UInt64 in [0, 1, 0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210, .max, 0x90A0_0F09_9999_AAAA] {
      let text = String(number, radix: 16)
      let digits = String(repeating: "0", count: 16 - text.count) + text
      #expect(written { $0.append(hex: number) } == "before \(digits) after")
      #expect(written { $0.append(hex: UInt32(truncatingIfNeeded: number)) } == "before \(digits.suffix(8)) after")
      #expect(written { $0.append(hex: UInt16(truncatingIfNeeded: number)) } == "before \(digits.suffix(4)) after")
    }
  }
}
