// Wall-clock time as people read it. The core has no C library, so the calendar is worked out here.

package enum UTCTime {
  /// RFC 3339 in UTC with milliseconds: `2018-11-21T09:05:00.042Z`. Before 1970 as well; years have at least four digits.
  package static func rfc3339(unixNanoseconds: Int64) -> String {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(24)
    let milliseconds = floorDivide(unixNanoseconds, 1_000_000)
    let seconds = floorDivide(milliseconds, 1000)
    let days = floorDivide(seconds, 86_400)
    let (year, month, day) = date(days: days)
    let ofDay = seconds - days * 86_400
    append(year, 4, &bytes)
    bytes.append(UInt8(ascii: "-"))
    append(month, 2, &bytes)
    bytes.append(UInt8(ascii: "-"))
    append(day, 2, &bytes)
    bytes.append(UInt8(ascii: "T"))
    append(ofDay / 3600, 2, &bytes)
    bytes.append(UInt8(ascii: ":"))
    append(ofDay / 60 % 60, 2, &bytes)
    bytes.append(UInt8(ascii: ":"))
    append(ofDay % 60, 2, &bytes)
    bytes.append(UInt8(ascii: "."))
    append(milliseconds - seconds * 1000, 3, &bytes)
    bytes.append(UInt8(ascii: "Z"))
    return String(decoding: bytes, as: UTF8.self)
  }

  /// Gregorian date of a day counted from 1970-01-01. Counting in years that begin in March puts the leap day last, so
  /// that months have a regular length; 146,097 days are 400 years.
  static func date(days: Int64) -> (year: Int64, month: Int64, day: Int64) {
    let shifted = days + 719_468
    let era = floorDivide(shifted, 146_097)
    let dayOfEra = shifted - era * 146_097
    let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let marchMonth = (5 * dayOfYear + 2) / 153
    let day = dayOfYear - (153 * marchMonth + 2) / 5 + 1
    let month = marchMonth < 10 ? marchMonth + 3 : marchMonth - 9
    return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, day)
  }

  private static func floorDivide(_ a: Int64, _ b: Int64) -> Int64 { a >= 0 ? a / b : -((-1 - a) / b) - 1 }

  private static func append(_ number: Int64, _ width: Int, _ bytes: inout [UInt8]) {
    let digits = Array("\(number)".utf8)
    for _ in 0..<max(0, width - digits.count) { bytes.append(UInt8(ascii: "0")) }
    bytes.append(contentsOf: digits)
  }
}
