// From decimal digits to the nearest floating-point number: Clinger's exact case, then the multiplication of Eisel and
// Lemire ("Number Parsing at a Gigabyte per Second", 2021), which decides by 128 bits of the power of ten. Numbers of
// more than 19 digits that lie too close to a boundary are left to the standard library.

/// What differs between the two types.
private struct FloatLayout {
  var mantissaBits: Int
  var minExponent: Int
  var infinitePower: Int
  /// Powers of ten between which a number can lie half-way between two floats.
  var halfway: ClosedRange<Int>
  /// 10^n is exact up to here, and below the lower bound everything is zero, above the upper one infinite.
  var exactPowerMax: Int
  var exponents: ClosedRange<Int>

  static let double = FloatLayout(
    mantissaBits: 52, minExponent: -1023, infinitePower: 0x7FF, halfway: -4...23, exactPowerMax: 22,
    exponents: -342...308)
  static let float = FloatLayout(
    mantissaBits: 23, minExponent: -127, infinitePower: 0xFF, halfway: -17...10, exactPowerMax: 10,
    exponents: -65...38)
}

extension JSONNumber {
  /// The nearest double, ties to even; infinite when it is too large. `text` is the number as it was read.
  @inline(__always) package func double(_ text: UnsafeRawBufferPointer) -> Double {
    // Both are exact, so their product or quotient is rounded once.
    if !isTruncated, mantissa <= 1 &<< 53, exponent.magnitude <= 22 {
      let value = Double(mantissa)
      let power = Self.smallPower(exponent.magnitude)
      let scaled = exponent < 0 ? value / power : value * power
      return isNegative ? -scaled : scaled
    }
    guard let bits = bits(.double) else { return Double(String(decoding: text, as: UTF8.self)) ?? .nan }
    return Double(bitPattern: bits | (isNegative ? 1 &<< 63 : 0))
  }

  /// The nearest float, ties to even; infinite when it is too large.
  package func float(_ text: UnsafeRawBufferPointer) -> Float {
    if !isTruncated, mantissa <= 1 &<< 24, exponent.magnitude <= 10 {
      let value = Float(mantissa)
      let power = Float(Self.smallPower(exponent.magnitude))
      let scaled = exponent < 0 ? value / power : value * power
      return isNegative ? -scaled : scaled
    }
    guard let bits = bits(.float) else { return Float(String(decoding: text, as: UTF8.self)) ?? .nan }
    return Float(bitPattern: UInt32(truncatingIfNeeded: bits) | (isNegative ? 1 &<< 31 : 0))
  }

  /// 10^0 … 10^22, each of which a double holds exactly; 10^0 … 10^10 are exact as floats.
  @inline(__always) private static func smallPower(_ exponent: UInt) -> Double {
    switch exponent {
    case 0: 1
    case 1: 1e1
    case 2: 1e2
    case 3: 1e3
    case 4: 1e4
    case 5: 1e5
    case 6: 1e6
    case 7: 1e7
    case 8: 1e8
    case 9: 1e9
    case 10: 1e10
    case 11: 1e11
    case 12: 1e12
    case 13: 1e13
    case 14: 1e14
    case 15: 1e15
    case 16: 1e16
    case 17: 1e17
    case 18: 1e18
    case 19: 1e19
    case 20: 1e20
    case 21: 1e21
    default: 1e22
    }
  }

  /// The bits without the sign; nil when what was cut off decides.
  private func bits(_ layout: FloatLayout) -> UInt64? {
    guard let bits = nearest(mantissa, layout) else { return nil }
    // The true number lies between this mantissa and the next; when both round alike, so does it.
    return !isTruncated || nearest(mantissa + 1, layout) == bits ? bits : nil
  }

  /// The float nearest to `mantissa × 10^exponent`.
  private func nearest(_ mantissa: UInt64, _ layout: FloatLayout) -> UInt64? {
    let infinity = UInt64(layout.infinitePower) &<< UInt64(layout.mantissaBits)
    if mantissa == 0 || exponent < layout.exponents.lowerBound { return 0 }
    if exponent > layout.exponents.upperBound { return infinity }
    let leadingZeros = mantissa.leadingZeroBitCount
    let normalized = mantissa &<< UInt64(leadingZeros)
    // Between 5^-27 and 5^-1 rounded up, as the proof has it.
    let power =
      exponent < 0 && exponent >= -27 ? PowersOfTen.ceiling(exponent) : PowersOfTen.floor(exponent)
    var (high, low) = normalized.multipliedFullWidth(by: power.high)
    let mask = UInt64.max &>> UInt64(layout.mantissaBits &+ 3)
    if high & mask == mask {
      // The lower half of the power may carry into the bits that matter.
      let (sum, carries) = low.addingReportingOverflow(normalized.multipliedFullWidth(by: power.low).high)
      low = sum
      if carries { high &+= 1 }
    }
    let upperBit = Int(high &>> 63)
    let shift = UInt64(upperBit &+ 64 &- layout.mantissaBits &- 3)
    var result = high &>> shift
    var binary = PowersOfTen.log2(exponent) &+ 64 &+ upperBit &- leadingZeros &- layout.minExponent &- 1
    if binary <= 0 {
      // Subnormal.
      guard binary > -63 else { return 0 }
      result &>>= UInt64(1 &- binary)
      result = (result &+ (result & 1)) &>> 1
      // Rounding up may make it normal; the bit then stands where the exponent's lowest is.
      return result
    }
    if low <= 1, layout.halfway.contains(exponent), result & 3 == 1, result &<< shift == high { result &= ~1 }
    result = (result &+ (result & 1)) &>> 1
    if result >= 2 &<< UInt64(layout.mantissaBits) {
      result = 1 &<< UInt64(layout.mantissaBits)
      binary &+= 1
    }
    if binary >= layout.infinitePower { return infinity }
    result &= ~(1 &<< UInt64(layout.mantissaBits))
    return result | UInt64(binary) &<< UInt64(layout.mantissaBits)
  }
}
