// Timestamp and Duration as JSON has them: RFC 3339 in UTC, and seconds with an `s`.

struct ProtoTime: Equatable {
  var seconds: Int64
  /// -999,999,999…999,999,999, of the sign of `seconds`; never negative for a time.
  var nanoseconds: Int32

  /// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
  static let timestampRange: ClosedRange<Int64> = -62_135_596_800...253_402_300_799
  /// About 10,000 years either way.
  static let durationMax: Int64 = 315_576_000_000

  // MARK: Reading

  /// `2024-05-01T12:00:00.123456789Z`, or with an offset such as `+02:00`.
  static func readTimestamp(_ text: UnsafeRawBufferPointer) -> ProtoTime? {
    func digits(_ place: Int, _ count: Int) -> Int64? {
      guard place + count <= text.count else { return nil }
      var value: Int64 = 0
      for index in place..<(place + count) {
        let digit = text[index] &- UInt8(ascii: "0")
        guard digit < 10 else { return nil }
        value = value * 10 + Int64(digit)
      }
      return value
    }
    guard text.count >= 20, text[4] == UInt8(ascii: "-"), text[7] == UInt8(ascii: "-"), text[10] == UInt8(ascii: "T"),
      text[13] == UInt8(ascii: ":"), text[16] == UInt8(ascii: ":"), let year = digits(0, 4), let month = digits(5, 2),
      let day = digits(8, 2), let hour = digits(11, 2), let minute = digits(14, 2), let second = digits(17, 2),
      (1...9999).contains(year), (1...12).contains(month), day >= 1, day <= days(of: month, in: year), hour < 24,
      minute < 60, second < 60
    else { return nil }
    var place = 19
    var nanoseconds: Int32 = 0
    if text[place] == UInt8(ascii: ".") {
      guard let fraction = readFraction(text, at: place + 1) else { return nil }
      nanoseconds = fraction.nanoseconds
      place = fraction.end
    }
    var seconds = daysSince1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
    guard place < text.count else { return nil }
    switch text[place] {
    case UInt8(ascii: "Z"):
      guard place + 1 == text.count else { return nil }
    case UInt8(ascii: "+"), UInt8(ascii: "-"):
      guard place + 6 == text.count, text[place + 3] == UInt8(ascii: ":"), let hours = digits(place + 1, 2),
        let minutes = digits(place + 4, 2), hours < 24, minutes < 60
      else { return nil }
      let offset = hours * 3600 + minutes * 60
      seconds += text[place] == UInt8(ascii: "+") ? -offset : offset
    default: return nil
    }
    guard timestampRange.contains(seconds) else { return nil }
    return ProtoTime(seconds: seconds, nanoseconds: nanoseconds)
  }

  /// `-1.5s`
  static func readDuration(_ text: UnsafeRawBufferPointer) -> ProtoTime? {
    var place = 0
    let isNegative = text.first == UInt8(ascii: "-")
    if isNegative { place = 1 }
    let first = place
    var seconds: Int64 = 0
    while place < text.count, text[place] &- UInt8(ascii: "0") < 10 {
      seconds = seconds * 10 + Int64(text[place] &- UInt8(ascii: "0"))
      guard seconds <= durationMax else { return nil }
      place += 1
    }
    guard place > first, place < text.count else { return nil }
    var nanoseconds: Int32 = 0
    if text[place] == UInt8(ascii: ".") {
      guard let fraction = readFraction(text, at: place + 1) else { return nil }
      nanoseconds = fraction.nanoseconds
      place = fraction.end
    }
    guard place + 1 == text.count, text[place] == UInt8(ascii: "s") else { return nil }
    return ProtoTime(seconds: isNegative ? -seconds : seconds, nanoseconds: isNegative ? -nanoseconds : nanoseconds)
  }

  /// One to nine digits behind a point.
  private static func readFraction(_ text: UnsafeRawBufferPointer, at start: Int) -> (nanoseconds: Int32, end: Int)? {
    var place = start
    var value: Int32 = 0
    while place < text.count, place - start < 9, text[place] &- UInt8(ascii: "0") < 10 {
      value = value * 10 + Int32(text[place] &- UInt8(ascii: "0"))
      place += 1
    }
    guard place > start else { return nil }
    for _ in (place - start)..<9 { value *= 10 }
    return (value, place)
  }

  // MARK: Writing

  /// Writes to `target`, which has 40 bytes; how many were written. Nil when the time cannot be written.
  func writeTimestamp(to target: UnsafeMutablePointer<UInt8>) -> Int? {
    guard Self.timestampRange.contains(seconds), (0...999_999_999).contains(nanoseconds) else { return nil }
    let days = (seconds - Self.timestampRange.lowerBound) / 86_400 + Self.daysSince1970(1, 1, 1)
    let rest = seconds - days * 86_400
    let (year, month, day) = Self.date(days)
    var place = 0
    func put(_ value: Int64, _ count: Int, _ after: UInt8) {
      var value = value
      for index in stride(from: place + count - 1, through: place, by: -1) {
        target[index] = UInt8(ascii: "0") + UInt8(truncatingIfNeeded: value % 10)
        value /= 10
      }
      target[place + count] = after
      place += count + 1
    }
    put(year, 4, UInt8(ascii: "-"))
    put(month, 2, UInt8(ascii: "-"))
    put(day, 2, UInt8(ascii: "T"))
    put(rest / 3600, 2, UInt8(ascii: ":"))
    put(rest / 60 % 60, 2, UInt8(ascii: ":"))
    put(rest % 60, 2, UInt8(ascii: "Z"))
    place = Self.writeFraction(nanoseconds, to: target, at: place - 1)
    target[place] = UInt8(ascii: "Z")
    return place + 1
  }

  /// Writes to `target`, which has 40 bytes; how many were written. Nil when the duration cannot be written.
  func writeDuration(to target: UnsafeMutablePointer<UInt8>) -> Int? {
    guard (-Self.durationMax...Self.durationMax).contains(seconds),
      (-999_999_999...999_999_999).contains(nanoseconds), seconds <= 0 || nanoseconds >= 0,
      seconds >= 0 || nanoseconds <= 0
    else { return nil }
    var place = 0
    if seconds < 0 || nanoseconds < 0 {
      target[0] = UInt8(ascii: "-")
      place = 1
    }
    var value = seconds.magnitude
    var count = 1
    var left = value / 10
    while left > 0 {
      count += 1
      left /= 10
    }
    for index in stride(from: place + count - 1, through: place, by: -1) {
      target[index] = UInt8(ascii: "0") + UInt8(truncatingIfNeeded: value % 10)
      value /= 10
    }
    place = Self.writeFraction(nanoseconds < 0 ? -nanoseconds : nanoseconds, to: target, at: place + count)
    target[place] = UInt8(ascii: "s")
    return place + 1
  }

  /// Nothing, or a point and 3, 6 or 9 digits; where it ends.
  private static func writeFraction(_ nanoseconds: Int32, to target: UnsafeMutablePointer<UInt8>, at start: Int) -> Int
  {
    if nanoseconds == 0 { return start }
    var value = nanoseconds
    var digits = 9
    while digits > 3, value % 1000 == 0 {
      value /= 1000
      digits -= 3
    }
    target[start] = UInt8(ascii: ".")
    for index in stride(from: start + digits, to: start, by: -1) {
      target[index] = UInt8(ascii: "0") + UInt8(truncatingIfNeeded: value % 10)
      value /= 10
    }
    return start + digits + 1
  }

  // MARK: Calendar

  private static func days(of month: Int64, in year: Int64) -> Int64 {
    switch month {
    case 4, 6, 9, 11: 30
    case 2: year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28
    default: 31
    }
  }

  /// Days of the Gregorian calendar, counted in years that start in March: then a leap day is the last of its year.
  private static func daysSince1970(_ year: Int64, _ month: Int64, _ day: Int64) -> Int64 {
    let shifted = month > 2 ? year : year - 1
    let century = shifted / 400
    let yearOfCycle = shifted - century * 400
    let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
    let dayOfCycle = yearOfCycle * 365 + yearOfCycle / 4 - yearOfCycle / 100 + dayOfYear
    return century * 146_097 + dayOfCycle - 719_468
  }

  /// The date of a day from 0001-01-01 on.
  private static func date(_ days: Int64) -> (year: Int64, month: Int64, day: Int64) {
    let shifted = days + 719_468
    let cycle = shifted / 146_097
    let dayOfCycle = shifted - cycle * 146_097
    let yearOfCycle = (dayOfCycle - dayOfCycle / 1460 + dayOfCycle / 36_524 - dayOfCycle / 146_096) / 365
    let dayOfYear = dayOfCycle - (365 * yearOfCycle + yearOfCycle / 4 - yearOfCycle / 100)
    let monthFromMarch = (5 * dayOfYear + 2) / 153
    let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
    return (cycle * 400 + yearOfCycle + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * monthFromMarch + 2) / 5 + 1)
  }
}
