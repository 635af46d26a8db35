// From a floating-point number to the shortest digits that read back as it, and of those the nearest: Schubfach
// (Giulietti, "The Schubfach way to render doubles", 2020). One multiplication by a power of ten per boundary tells
// which decimals lie between the neighbours' midpoints.

extension DecimalText {
  /// Writes the shortest digits that read back as the same number, in the form of ECMAScript and Go's encoding/json:
  /// with an exponent below 1e-6 and from 1e21 on. `target` has 32 bytes; how many were written. The number is finite.
  package static func write(_ value: Double, to target: UnsafeMutablePointer<UInt8>) -> Int {
    let bits = value.bitPattern
    let isNegative = bits &>> 63 != 0
    if isNegative { target.pointee = UInt8(ascii: "-") }
    let sign = isNegative ? 1 : 0
    let fraction = bits & (1 &<< 52 &- 1)
    let exponent = Int(bits &>> 52 & 0x7FF)
    if fraction == 0, exponent == 0 { return writeZero(isNegative, target) }
    let (digits, power) = shortest(fraction, exponent)
    return sign &+ layOut(digits, power, target + sign)
  }

  package static func write(_ value: Float, to target: UnsafeMutablePointer<UInt8>) -> Int {
    let bits = value.bitPattern
    let isNegative = bits &>> 31 != 0
    if isNegative { target.pointee = UInt8(ascii: "-") }
    let sign = isNegative ? 1 : 0
    let fraction = bits & (1 &<< 23 &- 1)
    let exponent = Int(bits &>> 23 & 0xFF)
    if fraction == 0, exponent == 0 { return writeZero(isNegative, target) }
    let (digits, power) = shortest(fraction, exponent)
    return sign &+ layOut(digits, power, target + sign)
  }

  /// Some readers take `-0` for an integer, which has no negative zero.
  private static func writeZero(_ isNegative: Bool, _ target: UnsafeMutablePointer<UInt8>) -> Int {
    let text: StaticString = isNegative ? "-0.0" : "0"
    for index in 0..<text.utf8CodeUnitCount { target[index] = text.utf8Start[index] }
    return text.utf8CodeUnitCount
  }

  // MARK: Schubfach

  /// The digits of a double as an integer and its power of ten.
  private static func shortest(_ fraction: UInt64, _ exponent: Int) -> (digits: UInt64, power: Int) {
    let significand = exponent != 0 ? fraction | 1 &<< 52 : fraction
    let binary = exponent != 0 ? exponent &- 1075 : -1074
    if exponent != 0, binary <= 0, binary > -53, significand.trailingZeroBitCount >= -binary {
      return (significand &>> UInt64(-binary), 0)
    }
    // Above a power of two the next number below is only half as far away.
    let isPower = fraction == 0 && exponent > 1
    let k = (binary &* 1_262_611 &- (isPower ? 524_031 : 0)) &>> 22
    let shift = UInt64(binary &+ PowersOfTen.log2(-k) &+ 1)
    let power = PowersOfTen.ceiling(-k)
    func scaled(_ value: UInt64) -> UInt64 {
      let shifted = value &<< shift
      let upper = shifted.multipliedFullWidth(by: power.high)
      let (middle, carries) = upper.low.addingReportingOverflow(shifted.multipliedFullWidth(by: power.low).high)
      // Rounded to odd: what was cut off is remembered in the lowest bit.
      return (carries ? upper.high &+ 1 : upper.high) | (middle > 1 ? 1 : 0)
    }
    let isOdd = significand & 1
    return choose(
      value: scaled(significand &* 4), lower: scaled(significand &* 4 &- (isPower ? 1 : 2)) &+ isOdd,
      upper: scaled(significand &* 4 &+ 2) &- isOdd, k)
  }

  /// The digits of a float as an integer and its power of ten.
  private static func shortest(_ fraction: UInt32, _ exponent: Int) -> (digits: UInt64, power: Int) {
    let significand = exponent != 0 ? UInt64(fraction | 1 &<< 23) : UInt64(fraction)
    let binary = exponent != 0 ? exponent &- 150 : -149
    if exponent != 0, binary <= 0, binary > -24, significand.trailingZeroBitCount >= -binary {
      return (significand &>> UInt64(-binary), 0)
    }
    let isPower = fraction == 0 && exponent > 1
    let k = (binary &* 1_262_611 &- (isPower ? 524_031 : 0)) &>> 22
    let shift = UInt64(binary &+ PowersOfTen.log2(-k) &+ 1)
    // 64 bits of the power are enough here, rounded up.
    let exact = PowersOfTen.floor(-k)
    let power = exact.low == 0 ? exact.high : exact.high &+ 1
    func scaled(_ value: UInt64) -> UInt64 {
      let product = (value &<< shift).multipliedFullWidth(by: power)
      return product.high & 0xFFFF_FFFF | (product.low &>> 32 > 1 ? 1 : 0)
    }
    let isOdd = significand & 1
    return choose(
      value: scaled(significand &* 4), lower: scaled(significand &* 4 &- (isPower ? 1 : 2)) &+ isOdd,
      upper: scaled(significand &* 4 &+ 2) &- isOdd, k)
  }

  /// All in quarters of 10^k: one digit less if a multiple of ten lies between the boundaries, else the nearest.
  @inline(__always) private static func choose(
    value: UInt64, lower: UInt64, upper: UInt64, _ k: Int
  ) -> (digits: UInt64, power: Int) {
    let whole = value / 4
    if whole >= 10 {
      let tens = whole / 10
      let isBelowInside = lower <= tens &* 40
      let isAboveInside = tens &* 40 &+ 40 <= upper
      if isBelowInside != isAboveInside { return (isAboveInside ? tens &+ 1 : tens, k &+ 1) }
    }
    let isBelowInside = lower <= whole &* 4
    let isAboveInside = whole &* 4 &+ 4 <= upper
    if isBelowInside != isAboveInside { return (isAboveInside ? whole &+ 1 : whole, k) }
    let middle = whole &* 4 &+ 2
    let roundsUp = value > middle || (value == middle && whole & 1 != 0)
    return (roundsUp ? whole &+ 1 : whole, k)
  }

  // MARK: Layout

  private static func layOut(_ number: UInt64, _ power: Int, _ target: UnsafeMutablePointer<UInt8>) -> Int {
    var digits = number
    var power = power
    if power != 0 {
      while digits % 10 == 0 {
        digits /= 10
        power &+= 1
      }
    }
    let count = digitCount(digits)
    // Digits before the point.
    let point = count &+ power
    if power >= 0, point <= 21 {
      let length = write(digits, to: target)
      for index in length..<(length &+ power) { target[index] = UInt8(ascii: "0") }
      return length &+ power
    }
    if point > 0, point <= 21 {
      _ = write(digits, to: target)
      for index in stride(from: count, to: point, by: -1) { target[index] = target[index &- 1] }
      target[point] = UInt8(ascii: ".")
      return count &+ 1
    }
    if point <= 0, point > -6 {
      target[0] = UInt8(ascii: "0")
      target[1] = UInt8(ascii: ".")
      for index in 0..<(-point) { target[2 &+ index] = UInt8(ascii: "0") }
      return 2 &- point &+ write(digits, to: target + (2 &- point))
    }
    var length = write(digits, to: target + 1)
    target[0] = target[1]
    if length > 1 {
      target[1] = UInt8(ascii: ".")
      length &+= 1
    }
    target[length] = UInt8(ascii: "e")
    target[length &+ 1] = point > 0 ? UInt8(ascii: "+") : UInt8(ascii: "-")
    length &+= 2
    return length &+ write(UInt64((point &- 1).magnitude), to: target + length)
  }
}
