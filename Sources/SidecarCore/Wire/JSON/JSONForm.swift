// How the values that JSON has no word for are written in it, the same for every binary format that is translated:
// the forms of protobuf's JSON mapping, which every framework's decoder of well-known types reads.

enum JSONForm {
  /// Bytes as standard base64 with padding, in quotes.
  static func append(base64 bytes: UnsafeRawBufferPointer, into buffer: ByteBuffer) {
    buffer.reserve(bytes.count / 3 * 4 + 6)
    buffer.append(UInt8(ascii: "\""))
    var index = 0
    while index < bytes.count {
      let left = min(bytes.count - index, 3)
      var group: UInt32 = 0
      for step in 0..<3 { group = group &<< 8 | (step < left ? UInt32(bytes[index + step]) : 0) }
      for step in 0..<4 {
        let digit = UInt8(truncatingIfNeeded: group &>> UInt32(18 - 6 * step) & 63)
        buffer.append(step <= left ? base64Digit(digit) : UInt8(ascii: "="))
      }
      index += 3
    }
    buffer.append(UInt8(ascii: "\""))
  }

  private static func base64Digit(_ value: UInt8) -> UInt8 {
    switch value {
    case 0..<26: UInt8(ascii: "A") + value
    case 26..<52: UInt8(ascii: "a") + (value - 26)
    case 52..<62: UInt8(ascii: "0") + (value - 52)
    case 62: UInt8(ascii: "+")
    default: UInt8(ascii: "/")
    }
  }

  /// The shortest digits that read back the same, always with a fraction or an exponent so that it stays a float on its
  /// way back; `"NaN"`, `"Infinity"` and `"-Infinity"` for the rest.
  static func append(_ number: Double, into buffer: ByteBuffer) {
    number.isFinite ? buffer.append("\(number)" as String) : append(special: number, into: buffer)
  }
  static func append(_ number: Float, into buffer: ByteBuffer) {
    number.isFinite ? buffer.append("\(number)" as String) : append(special: Double(number), into: buffer)
  }
  private static func append(special number: Double, into buffer: ByteBuffer) {
    buffer.append(number.isNaN ? "\"NaN\"" : number < 0 ? "\"-Infinity\"" : "\"Infinity\"")
  }

  /// Seconds since 1970 of 0001-01-01 and of the last second of 9999: what RFC 3339 can write.
  static let secondsRange: ClosedRange<Int64> = -62_135_596_800...253_402_300_799

  /// RFC 3339 in UTC with as many digits of a second as it takes: none, 3, 6 or 9. `seconds` is in `secondsRange`,
  /// `nanoseconds` below 1,000,000,000.
  static func append(seconds: Int64, nanoseconds: UInt32, into buffer: ByteBuffer) {
    let days = seconds >= 0 ? seconds / 86_400 : -((86_399 - seconds) / 86_400)
    let ofDay = seconds - days * 86_400
    let date = UTCTime.date(days: days)
    buffer.append(UInt8(ascii: "\""))
    append(date.year, digits: 4, into: buffer)
    buffer.append(UInt8(ascii: "-"))
    append(date.month, digits: 2, into: buffer)
    buffer.append(UInt8(ascii: "-"))
    append(date.day, digits: 2, into: buffer)
    buffer.append(UInt8(ascii: "T"))
    append(ofDay / 3600, digits: 2, into: buffer)
    buffer.append(UInt8(ascii: ":"))
    append(ofDay / 60 % 60, digits: 2, into: buffer)
    buffer.append(UInt8(ascii: ":"))
    append(ofDay % 60, digits: 2, into: buffer)
    if nanoseconds > 0 {
      buffer.append(UInt8(ascii: "."))
      if nanoseconds % 1_000_000 == 0 {
        append(Int64(nanoseconds / 1_000_000), digits: 3, into: buffer)
      } else if nanoseconds % 1000 == 0 {
        append(Int64(nanoseconds / 1000), digits: 6, into: buffer)
      } else {
        append(Int64(nanoseconds), digits: 9, into: buffer)
      }
    }
    buffer.append("Z\"")
  }

  private static func append(_ number: Int64, digits: Int, into buffer: ByteBuffer) {
    var divisor: Int64 = 1
    for _ in 1..<digits { divisor *= 10 }
    while divisor > 0 {
      buffer.append(UInt8(ascii: "0") + UInt8(truncatingIfNeeded: number / divisor % 10))
      divisor /= 10
    }
  }
}

/// Finds keys that come twice in one object, over all the objects that are open at a time. Keys are ranges of the
/// buffer that is written. Costs one hash per key; a document of n keys costs O(n) whatever they are, since the hash is
/// seeded by the process.
struct KeyTracker {
  private struct Entry {
    var hash: Int
    var key: Range<Int>
  }
  /// Keys of an object up to which they are compared one by one; above, a set is kept.
  private static let listedMax = 16

  private var entries: [Entry] = []
  /// One for each open object that has more keys than are listed, innermost last, with where its entries begin.
  private var sets: [(start: Int, hashes: Set<Int>)] = []

  /// Opens an object; the result goes to `isNew` and `close`.
  func open() -> Int { entries.count }

  mutating func close(_ start: Int) {
    entries.removeSubrange(start...)
    if let last = sets.last, last.start == start { sets.removeLast() }
  }

  /// Notes a key of the innermost open object; false when it has come before.
  mutating func isNew(_ key: Range<Int>, in buffer: ByteBuffer, _ start: Int) -> Bool {
    var hasher = Hasher()
    hasher.combine(bytes: buffer.bytes(key))
    let hash = hasher.finalize()
    defer { entries.append(Entry(hash: hash, key: key)) }
    if entries.count - start < Self.listedMax { return !contains(hash, key, in: buffer, start) }
    if sets.last?.start != start { sets.append((start, Set(entries[start...].map(\.hash)))) }
    if sets[sets.count - 1].hashes.insert(hash).inserted { return true }
    return !contains(hash, key, in: buffer, start)
  }

  private func contains(_ hash: Int, _ key: Range<Int>, in buffer: ByteBuffer, _ start: Int) -> Bool {
    for entry in entries[start...]
    where entry.hash == hash && ASCIIText.equals(buffer.bytes(entry.key), buffer.bytes(key)) { return true }
    return false
  }
}
