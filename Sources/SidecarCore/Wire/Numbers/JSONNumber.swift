// A number as JSON writes it (RFC 8259 §6), taken apart: its digits as one integer, and a power of ten.

/// `mantissa × 10^exponent`, and a little more if `isTruncated`.
package struct JSONNumber: Equatable, Sendable {
  /// Without zeros at its end; 0 only for zero.
  package var mantissa: UInt64 = 0
  package var exponent = 0
  package var isNegative = false
  /// The number has more digits than fit into `mantissa`, which holds the first 19.
  package var isTruncated = false

  /// Exponents beyond this are taken for it: no type comes near.
  private static let exponentMax = 1_000_000

  /// The number at the start of `bytes`, and how many bytes it has; nil when there is none.
  package static func read(_ bytes: UnsafeRawBufferPointer) -> (JSONNumber, length: Int)? {
    var number = JSONNumber()
    var at = 0
    @inline(__always) func skipDigits() {
      while at < bytes.count, bytes[at] &- UInt8(ascii: "0") < 10 { at &+= 1 }
    }
    if at < bytes.count, bytes[at] == UInt8(ascii: "-") {
      number.isNegative = true
      at = 1
    }
    let first = at
    skipDigits()
    guard at > first, at == first &+ 1 || bytes[first] != UInt8(ascii: "0") else { return nil }
    var last = at
    var fractionDigits = 0
    if at < bytes.count, bytes[at] == UInt8(ascii: ".") {
      at &+= 1
      skipDigits()
      fractionDigits = at &- last &- 1
      guard fractionDigits > 0 else { return nil }
      last = at
    }
    var exponent = 0
    if at < bytes.count, bytes[at] | 0x20 == UInt8(ascii: "e") {
      at &+= 1
      let isNegative = at < bytes.count && bytes[at] == UInt8(ascii: "-")
      if isNegative || (at < bytes.count && bytes[at] == UInt8(ascii: "+")) { at &+= 1 }
      let start = at
      while at < bytes.count, bytes[at] &- UInt8(ascii: "0") < 10 {
        if exponent < exponentMax { exponent = exponent &* 10 &+ Int(bytes[at] &- UInt8(ascii: "0")) }
        at &+= 1
      }
      guard at > start else { return nil }
      if isNegative { exponent = 0 &- exponent }
    }
    number.exponent = exponent &- fractionDigits
    number.takeDigits(UnsafeRawBufferPointer(rebasing: bytes[first..<last]))
    return (number, at)
  }

  /// Digits with at most one point among them; `exponent` is that of the last one.
  @inline(__always) private mutating func takeDigits(_ digits: UnsafeRawBufferPointer) {
    var last = digits.count
    while last > 0 {
      let byte = digits[last &- 1]
      guard byte == UInt8(ascii: "0") || byte == UInt8(ascii: ".") else { break }
      if byte == UInt8(ascii: "0") { exponent &+= 1 }
      last &-= 1
    }
    var count = 0
    for place in 0..<last {
      let digit = digits[place] &- UInt8(ascii: "0")
      guard digit < 10 else { continue }
      if count < 19 {
        mantissa = mantissa &* 10 &+ UInt64(digit)
        if mantissa != 0 { count &+= 1 }
        continue
      }
      // UInt64 has room for some numbers of 20 digits.
      if count == 19 {
        let (product, overflows) = mantissa.multipliedReportingOverflow(by: 10)
        let (sum, carries) = product.addingReportingOverflow(UInt64(digit))
        if !overflows, !carries, place == last &- 1 {
          mantissa = sum
          return
        }
      }
      count &+= 1
      isTruncated = true
      exponent &+= 1
    }
    if mantissa == 0 { exponent = 0 }
  }
}
