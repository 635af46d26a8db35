// The small encodings of gRPC's headers (gRPC over HTTP2): percent-encoded messages, timeouts, and base64 for names that
// end in `-bin`.

package enum GRPCText {
  // MARK: grpc-message

  /// Appends `text` with every byte that is not printable ASCII, and `%`, as `%XX`.
  package static func appendPercentEncoded(_ text: UnsafeRawBufferPointer, to buffer: ByteBuffer) {
    buffer.reserve(text.count)
    for byte in text {
      if byte >= 0x20, byte <= 0x7E, byte != UInt8(ascii: "%") {
        buffer.append(byte)
      } else {
        buffer.append(UInt8(ascii: "%"))
        buffer.append(upperHexDigit(byte >> 4))
        buffer.append(upperHexDigit(byte & 15))
      }
    }
  }

  /// How many bytes of `text` have a percent-encoding of `encodedMax` bytes at most.
  package static func prefix(of text: UnsafeRawBufferPointer, encodedMax: Int) -> Int {
    var encoded = 0
    for (index, byte) in text.enumerated() {
      encoded += byte >= 0x20 && byte <= 0x7E && byte != UInt8(ascii: "%") ? 1 : 3
      if encoded > encodedMax { return index }
    }
    return text.count
  }

  private static func upperHexDigit(_ value: UInt8) -> UInt8 { value < 10 ? 0x30 + value : 0x41 + value - 10 }

  /// Undoes percent-encoding. What is not a valid `%XX` stays as it is: a broken message must not hide an error.
  package static func appendPercentDecoded(_ text: UnsafeRawBufferPointer, to buffer: ByteBuffer) {
    var index = 0
    while index < text.count {
      let byte = text[index]
      if byte == UInt8(ascii: "%"), index + 2 < text.count, let high = ASCIIText.hexValue(text[index + 1]),
        let low = ASCIIText.hexValue(text[index + 2])
      {
        buffer.append(high &<< 4 | low)
        index += 3
      } else {
        buffer.append(byte)
        index += 1
      }
    }
  }

  package static func percentDecoded(_ text: UnsafeRawBufferPointer) -> [UInt8] {
    let buffer = ByteBuffer(capacity: text.count)
    appendPercentDecoded(text, to: buffer)
    return Array(buffer.bytes)
  }

  // MARK: grpc-timeout

  /// Nanoseconds of a `grpc-timeout`: up to eight digits and one of `H M S m u n`. Nil for anything else. More than fits
  /// is the most that fits.
  package static func timeout(_ text: UnsafeRawBufferPointer) -> Int64? {
    guard (2...9).contains(text.count) else { return nil }
    var amount: Int64 = 0
    for byte in text.dropLast() {
      let digit = byte &- 0x30
      guard digit < 10 else { return nil }
      amount = amount * 10 + Int64(digit)
    }
    let unit: Int64
    switch text[text.count - 1] {
    case UInt8(ascii: "H"): unit = 3_600_000_000_000
    case UInt8(ascii: "M"): unit = 60_000_000_000
    case UInt8(ascii: "S"): unit = 1_000_000_000
    case UInt8(ascii: "m"): unit = 1_000_000
    case UInt8(ascii: "u"): unit = 1000
    case UInt8(ascii: "n"): unit = 1
    default: return nil
    }
    let (nanoseconds, overflow) = amount.multipliedReportingOverflow(by: unit)
    return overflow ? .max : nanoseconds
  }

  /// Appends a `grpc-timeout` of at least one nanosecond, in the finest unit that fits eight digits, rounded down.
  package static func appendTimeout(_ nanoseconds: Int64, to buffer: ByteBuffer) {
    let most: Int64 = 99_999_999
    let value = max(nanoseconds, 1)
    let units: [(Int64, UInt8)] = [
      (1, UInt8(ascii: "n")), (1000, UInt8(ascii: "u")), (1_000_000, UInt8(ascii: "m")),
      (1_000_000_000, UInt8(ascii: "S")), (60_000_000_000, UInt8(ascii: "M")),
    ]
    for (size, letter) in units where value / size <= most {
      buffer.append(decimal: UInt64(value / size))
      buffer.append(letter)
      return
    }
    buffer.append(decimal: UInt64(min(value / 3_600_000_000_000, most)))
    buffer.append(UInt8(ascii: "H"))
  }

  // MARK: -bin

  /// Whether a header's value is base64 of bytes. `name` is in any case of letters.
  package static func isBinary(_ name: UnsafeRawBufferPointer) -> Bool {
    name.count > 4 && ASCIIText.equalsIgnoringCase(UnsafeRawBufferPointer(rebasing: name[(name.count - 4)...]), "-bin")
  }

  /// Appends base64 without padding, as gRPC wants it written.
  package static func appendBase64(_ bytes: UnsafeRawBufferPointer, to buffer: ByteBuffer) {
    var index = 0
    while index + 2 < bytes.count {
      let group = UInt32(bytes[index]) &<< 16 | UInt32(bytes[index + 1]) &<< 8 | UInt32(bytes[index + 2])
      for shift in [18, 12, 6, 0] as [UInt32] { buffer.append(base64Letter(group &>> shift & 63)) }
      index += 3
    }
    switch bytes.count - index {
    case 1:
      buffer.append(base64Letter(UInt32(bytes[index]) &>> 2))
      buffer.append(base64Letter(UInt32(bytes[index]) &<< 4 & 63))
    case 2:
      let group = UInt32(bytes[index]) &<< 8 | UInt32(bytes[index + 1])
      buffer.append(base64Letter(group &>> 10))
      buffer.append(base64Letter(group &>> 4 & 63))
      buffer.append(base64Letter(group &<< 2 & 63))
    default: break
    }
  }

  /// Appends what base64 `text` stands for, with or without padding, of either alphabet. False, and nothing appended,
  /// when it is none.
  package static func appendBase64Decoded(_ text: UnsafeRawBufferPointer, to buffer: ByteBuffer) -> Bool {
    var text = text
    if text.count % 4 == 0 {
      for _ in 0..<2 where text.last == UInt8(ascii: "=") { text = UnsafeRawBufferPointer(rebasing: text.dropLast()) }
    }
    guard text.count % 4 != 1 else { return false }
    let start = buffer.count
    buffer.reserve(text.count * 3 / 4)
    var group: UInt32 = 0
    for (index, byte) in text.enumerated() {
      guard let value = base64Value(byte) else {
        buffer.truncate(to: start)
        return false
      }
      group = group &<< 6 | UInt32(value)
      if index % 4 == 3 {
        for shift in [16, 8, 0] as [UInt32] { buffer.append(UInt8(truncatingIfNeeded: group &>> shift)) }
        group = 0
      }
    }
    switch text.count % 4 {
    case 2: buffer.append(UInt8(truncatingIfNeeded: group &>> 4))
    case 3:
      buffer.append(UInt8(truncatingIfNeeded: group &>> 10))
      buffer.append(UInt8(truncatingIfNeeded: group &>> 2))
    default: break
    }
    return true
  }

  package static func base64Decoded(_ text: UnsafeRawBufferPointer) -> [UInt8]? {
    let buffer = ByteBuffer(capacity: text.count)
    return appendBase64Decoded(text, to: buffer) ? Array(buffer.bytes) : nil
  }

  private static func base64Letter(_ value: UInt32) -> UInt8 {
    switch value {
    case 0..<26: UInt8(0x41 + value)
    case 26..<52: UInt8(0x61 + value - 26)
    case 52..<62: UInt8(0x30 + value - 52)
    case 62: UInt8(ascii: "+")
    default: UInt8(ascii: "/")
    }
  }

  private static func base64Value(_ byte: UInt8) -> UInt8? {
    switch byte {
    case 0x41...0x5A: byte - 0x41
    case 0x61...0x7A: byte - 0x61 + 26
    case 0x30...0x39: byte - 0x30 + 52
    case UInt8(ascii: "+"), UInt8(ascii: "-"): 62
    case UInt8(ascii: "/"), UInt8(ascii: "_"): 63
    default: nil
    }
  }
}
