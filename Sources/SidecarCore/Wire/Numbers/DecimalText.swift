// Numbers as decimal digits, written where they belong without a `String` between.

package enum DecimalText {
  /// 00 … 99
  private static let pairs: StaticString = """
    0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849\
    5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899
    """

  @inline(__always) static func digitCount(_ value: UInt64) -> Int {
    if value < 10 { return 1 }
    if value < 100 { return 2 }
    if value < 1000 { return 3 }
    if value < 10_000 { return 4 }
    var count = 4
    var left = value / 10_000
    while left > 0 {
      count &+= 1
      left /= 10
    }
    return count
  }

  /// Writes the digits to `target`, which has 20 bytes; how many.
  @inline(__always) package static func write(_ value: UInt64, to target: UnsafeMutablePointer<UInt8>) -> Int {
    if value < 10 {
      target.pointee = UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: value)
      return 1
    }
    return writeMore(value, to: target)
  }

  private static func writeMore(_ number: UInt64, to target: UnsafeMutablePointer<UInt8>) -> Int {
    let count = digitCount(number)
    let pairs = pairs.utf8Start
    var value = number
    var at = count
    while value >= 100 {
      let (quotient, remainder) = value.quotientAndRemainder(dividingBy: 100)
      let pair = Int(truncatingIfNeeded: remainder) &* 2
      at &-= 2
      target[at] = pairs[pair]
      target[at &+ 1] = pairs[pair &+ 1]
      value = quotient
    }
    if value >= 10 {
      let pair = Int(truncatingIfNeeded: value) &* 2
      target[0] = pairs[pair]
      target[1] = pairs[pair &+ 1]
    } else {
      target[0] = UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: value)
    }
    return count
  }
}
