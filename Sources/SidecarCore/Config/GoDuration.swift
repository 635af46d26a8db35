// Go's way of writing durations (time.ParseDuration), because every MICRO_* duration is one.

/// Reads and writes `1h30m`, `250ms`, `1.5s`, `0`.
package enum GoDuration {
  /// Nanoseconds in each unit. Both spellings of micro, as Go takes them: U+00B5 and U+03BC.
  private static let units: [(name: [UInt8], nanoseconds: UInt64)] = [
    (Array("ns".utf8), 1),
    (Array("us".utf8), 1_000), (Array("\u{B5}s".utf8), 1_000), (Array("\u{3BC}s".utf8), 1_000),
    (Array("ms".utf8), 1_000_000),
    (Array("s".utf8), 1_000_000_000),
    (Array("m".utf8), 60_000_000_000),
    (Array("h".utf8), 3_600_000_000_000),
  ]

  /// An optional sign, then one or more decimal numbers each with a unit; or a lone `0`. Nil for anything else and for
  /// what does not fit 64 bits of nanoseconds (292 years). Digits of a fraction below a nanosecond are cut off.
  package static func parse(_ text: String) -> Duration? {
    var rest = Array(text.utf8)[...]
    var isNegative = false
    if let sign = rest.first, sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+") {
      isNegative = sign == UInt8(ascii: "-")
      rest = rest.dropFirst()
    }
    if rest.elementsEqual([UInt8(ascii: "0")]) { return .zero }
    guard !rest.isEmpty else { return nil }
    var total: UInt64 = 0
    while !rest.isEmpty {
      guard let number = DecimalNumber.take(from: &rest) else { return nil }
      let unitEnd = rest.firstIndex { $0 == UInt8(ascii: ".") || DecimalNumber.isDigit($0) } ?? rest.endIndex
      guard let unit = units.first(where: { $0.name.elementsEqual(rest[..<unitEnd]) }) else { return nil }
      rest = rest[unitEnd...]
      guard let part = number.times(unit.nanoseconds)?.whole else { return nil }
      let (sum, overflow) = total.addingReportingOverflow(part)
      guard !overflow, sum <= UInt64(Int64.max) else { return nil }
      total = sum
    }
    return .nanoseconds(isNegative ? -Int64(total) : Int64(total))
  }

  /// The shortest form `parse` reads back to the same value, in whole nanoseconds: `1m30s`, `250ms`, `1h`, `0s`. Beyond
  /// 292 years it is cut to that.
  package static func format(_ duration: Duration) -> String {
    let nanoseconds = duration.saturatingNanoseconds
    if nanoseconds == 0 { return "0s" }
    let sign = nanoseconds < 0 ? "-" : ""
    let amount = min(nanoseconds.magnitude, UInt64(Int64.max))
    if amount < 1_000_000_000 {
      for (name, size) in [("ms", 1_000_000), ("us", 1_000)] as [(String, UInt64)] where amount >= size {
        return sign + decimal(amount, per: size) + name
      }
      return "\(sign)\(amount)ns"
    }
    let hours = amount / 3_600_000_000_000
    let minutes = amount / 60_000_000_000 % 60
    let seconds = amount % 60_000_000_000
    var text = sign
    if hours > 0 { text += "\(hours)h" }
    if minutes > 0 { text += "\(minutes)m" }
    if seconds > 0 { text += decimal(seconds, per: 1_000_000_000) + "s" }
    return text
  }

  /// `amount / size` with as many decimals as it needs; `size` is a power of ten.
  private static func decimal(_ amount: UInt64, per size: UInt64) -> String {
    var text = "\(amount / size)"
    var remainder = amount % size
    guard remainder > 0 else { return text }
    text += "."
    var place = size / 10
    while remainder > 0 {
      text += "\(remainder / place)"
      remainder %= place
      place /= 10
    }
    return text
  }
}

/// An unsigned decimal number as written, kept exact until it is multiplied by its unit.
struct DecimalNumber {
  private var whole: UInt64
  /// The digits after the point as a number, and ten to the power of how many they are.
  private var fraction: UInt64 = 0
  private var scale: UInt64 = 1
  /// A digit other than zero was left out because there was no room for it.
  private var isCut = false

  static func isDigit(_ byte: UInt8) -> Bool { byte &- UInt8(ascii: "0") < 10 }

  /// Takes digits with at most one point, at least one digit in all. Nil, with `bytes` in any state, for anything else.
  static func take(from bytes: inout ArraySlice<UInt8>) -> DecimalNumber? {
    var number = DecimalNumber(whole: 0)
    var digits = 0
    while let byte = bytes.first, isDigit(byte) {
      let (product, overflow) = number.whole.multipliedReportingOverflow(by: 10)
      let (sum, overflowed) = product.addingReportingOverflow(UInt64(byte - UInt8(ascii: "0")))
      guard !overflow, !overflowed else { return nil }
      number.whole = sum
      digits += 1
      bytes = bytes.dropFirst()
    }
    if bytes.first == UInt8(ascii: ".") {
      bytes = bytes.dropFirst()
      while let byte = bytes.first, isDigit(byte) {
        let digit = UInt64(byte - UInt8(ascii: "0"))
        // 18 digits are a billionth of a nanosecond, and the next one would not fit.
        if number.scale < 1_000_000_000_000_000_000 {
          number.fraction = number.fraction * 10 + digit
          number.scale *= 10
        } else if digit != 0 {
          number.isCut = true
        }
        digits += 1
        bytes = bytes.dropFirst()
      }
    }
    return digits > 0 ? number : nil
  }

  /// The number times `unit`, cut to a whole number, and whether nothing was cut off. Nil when it does not fit.
  func times(_ unit: UInt64) -> (whole: UInt64, isExact: Bool)? {
    let (product, overflow) = whole.multipliedReportingOverflow(by: unit)
    // fraction < scale, so the quotient is below `unit` and the division cannot overflow.
    let (quotient, remainder) = scale.dividingFullWidth(fraction.multipliedFullWidth(by: unit))
    let (sum, overflowed) = product.addingReportingOverflow(quotient)
    return overflow || overflowed ? nil : (sum, remainder == 0 && !isCut)
  }
}
