// Floating-point numbers as text and back, beside the standard library.

import Testing

@testable import SidecarCore

@Suite("Numbers as text") struct NumberTextTests {
  private func text(_ write: (UnsafeMutablePointer<UInt8>) -> Int) -> String {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 32) { buffer in
      guard let base = buffer.baseAddress else { return "" }
      return String(decoding: UnsafeBufferPointer(start: base, count: write(base)), as: UTF8.self)
    }
  }

  private func read(_ text: String) -> (double: Double, float: Float, number: JSONNumber)? {
    Array(text.utf8).withUnsafeBytes { bytes in
      JSONNumber.read(bytes).map { ($0.0.double(bytes), $0.0.float(bytes), $0.0) }
    }
  }

  @Test(
    arguments: [
      (0.0, "0"), (-0.0, "-0.0"), (1, "1"), (1.5, "1.5"), (0.1, "0.1"), (1e20, "100000000000000000000"),
      (1e21, "1e+21"),
      (1e-6, "0.000001"), (1e-7, "1e-7"), (1.25e-9, "1.25e-9"), (.leastNonzeroMagnitude, "5e-324"),
      (123_456.789, "123456.789"),
      (1.7976931348623157e308, "1.7976931348623157e+308"), (-9_007_199_254_740_992, "-9007199254740992"),
    ])
  func `numbers are written as Go and ECMAScript write them`(_ value: Double, _ expected: String) {
    #expect(text { DecimalText.write(value, to: $0) } == expected)
    #expect(read(expected)?.double == value)
  }

  @Test func `random numbers are as short as the standard library's, and read back the same`() throws {
    var random = SeededRandom(seed: 0xF10A7)
    func sameDigits(_ left: String, _ right: String) -> Bool { read(left)?.number == read(right)?.number }
    for _ in 0..<20_000 {
      let double = Double(bitPattern: random.next())
      if double.isFinite {
        let written = text { DecimalText.write(double, to: $0) }
        #expect(sameDigits(written, "\(double)"), "\(double) \(written)")
        #expect(read(written)?.double == double, "\(written)")
      }
      let float = Float(bitPattern: UInt32(truncatingIfNeeded: random.next()))
      if float.isFinite {
        let written = text { DecimalText.write(float, to: $0) }
        #expect(sameDigits(written, "\(float)"), "\(float) \(written)")
        #expect(read(written)?.float == float, "\(written)")
      }
    }
  }

  @Test func `random digits are read as the standard library reads them`() throws {
    var random = SeededRandom(seed: 0xD161)
    for _ in 0..<20_000 {
      let digits = (0..<Int.random(in: 1...24, using: &random)).map { _ in "\(Int.random(in: 0...9, using: &random))" }
      let text = "1\(digits.joined()).\(digits.reversed().joined())e\(Int.random(in: -370...310, using: &random))"
      let value = try #require(read(text))
      #expect(value.double == Double(text), "\(text)")
      #expect(value.float == Float(text), "\(text)")
    }
    #expect(read("9007199254740993")?.double == 9_007_199_254_740_992, "ties go to even")
    #expect(read("9007199254740993.00000000000000000001")?.double == 9_007_199_254_740_994)
  }

  @Test func `what is no number is none`() {
    for text in ["", "-", "01", "1.", ".5", "1e", "1e+", "+1", "x"] { #expect(read(text) == nil, "\(text)") }
  }
}
