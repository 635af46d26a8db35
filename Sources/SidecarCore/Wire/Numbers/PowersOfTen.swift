// Powers of ten in binary, to 128 bits: what reading and printing floating-point numbers both stand on. Computed once
// from exact integers rather than typed in.

enum PowersOfTen {
  static let minExponent = -342
  static let maxExponent = 324

  /// The upper 128 bits of 10^exponent, rounded down: 2^127 ≤ value < 2^128. Since 10^n = 5^n × 2^n these are those of
  /// the power of five.
  @inline(__always) static func floor(_ exponent: Int) -> (high: UInt64, low: UInt64) {
    let entry = table + (exponent &- minExponent)
    return (entry.pointee.high, entry.pointee.low)
  }

  /// The same rounded up; 10^0 … 10^55 are exact.
  @inline(__always) static func ceiling(_ exponent: Int) -> (high: UInt64, low: UInt64) {
    let (high, low) = floor(exponent)
    if exponent >= 0, exponent <= 55 { return (high, low) }
    let (sum, carries) = low.addingReportingOverflow(1)
    return (carries ? high &+ 1 : high, sum)
  }

  /// floor(log2(10^exponent)), for exponents within ±1200.
  @inline(__always) static func log2(_ exponent: Int) -> Int { (exponent &* 1_741_647) &>> 19 }

  private struct Entry {
    var high: UInt64 = 0
    var low: UInt64 = 0
  }

  // Never freed, never changed.
  nonisolated(unsafe) private static let table: UnsafePointer<Entry> = {
    let table = UnsafeMutablePointer<Entry>.allocate(capacity: maxExponent - minExponent + 1)
    table.initialize(repeating: Entry(), count: maxExponent - minExponent + 1)
    // Words from the lowest up; 5^324 has 753 bits.
    var power = [UInt64](repeating: 0, count: 13)
    power[0] = 1
    for exponent in 0...maxExponent {
      table[exponent - minExponent] = leading(power)
      var carry: UInt64 = 0
      for index in power.indices {
        let (high, low) = power[index].multipliedFullWidth(by: 5)
        let (sum, overflows) = low.addingReportingOverflow(carry)
        power[index] = sum
        carry = high + (overflows ? 1 : 0)
      }
    }
    // 2^1024 / 5^n, rounded down: dividing by five again and again rounds the same as dividing once by the power.
    var quotient = [UInt64](repeating: 0, count: 17)
    quotient[16] = 1
    for exponent in stride(from: -1, through: minExponent, by: -1) {
      var remainder: UInt64 = 0
      for index in quotient.indices.reversed() {
        let (part, rest) = UInt64(5).dividingFullWidth((remainder, quotient[index]))
        quotient[index] = part
        remainder = rest
      }
      table[exponent - minExponent] = leading(quotient)
    }
    return UnsafePointer(table)
  }()

  /// The highest 128 bits.
  private static func leading(_ words: [UInt64]) -> Entry {
    guard let top = words.lastIndex(where: { $0 != 0 }) else { return Entry() }
    func word(_ index: Int) -> UInt64 { index >= 0 ? words[index] : 0 }
    let shift = UInt64(words[top].leadingZeroBitCount)
    guard shift > 0 else { return Entry(high: word(top), low: word(top - 1)) }
    return Entry(
      high: word(top) << shift | word(top - 1) >> (64 - shift),
      low: word(top - 1) << shift | word(top - 2) >> (64 - shift))
  }
}
