import Testing

@testable import SidecarCore

/// The automaton against the standard library: all texts of one and two bytes, longer ones at every border, and random ones cut anywhere.
@Suite struct UTF8StreamTests {
  private func verdict(_ bytes: [UInt8], cutAt cut: Int = 0) -> Bool {
    var stream = UTF8Stream()
    return bytes.withUnsafeBytes { bytes in
      stream.take(UnsafeRawBufferPointer(rebasing: bytes[..<cut]))
        && stream.take(UnsafeRawBufferPointer(rebasing: bytes[cut...])) && stream.isComplete
    }
  }

  @Test func shortTexts() {
    var wrong: [[UInt8]] = []
    func check(_ bytes: [UInt8]) {
      if verdict(bytes) != (String(validating: bytes, as: UTF8.self) != nil) { wrong.append(bytes) }
    }
    for first in 0...255 as ClosedRange<UInt8> {
      check([first])
      for second in 0...255 as ClosedRange<UInt8> {
        check([first, second])
        guard first >= 0xE0, [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0].contains(second) else { continue }
        for third in [0x7F, 0x80, 0xBF, 0xC0] as [UInt8] {
          check([first, second, third])
          for fourth in [0x7F, 0x80, 0xBF, 0xC0] as [UInt8] { check([first, second, third, fourth]) }
        }
      }
    }
    #expect(wrong.isEmpty)
  }

  @Test func longTextsCutAnywhere() {
    var random = SeededRandom(seed: 11)
    let pieces = [
      "a", "ascii text that fills a whole block of bytes", "ß", "€", "𝄞", "\u{7FF}", "\u{FFFF}", "\u{10FFFF}",
    ]
    for round in 0..<120 {
      var bytes: [UInt8] = []
      while bytes.count < 120 { bytes += Array(pieces[random.below(pieces.count)].utf8) }
      if round % 2 == 1 { bytes[random.below(bytes.count)] = UInt8(random.below(256)) }
      let expected = String(validating: bytes, as: UTF8.self) != nil
      #expect((0...bytes.count).allSatisfy { verdict(bytes, cutAt: $0) == expected }, "\(bytes)")
    }
  }
}
