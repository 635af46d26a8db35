// JSON's scalars as protobuf's: strings, numbers in all their spellings, base64, names of enum values.

extension JSONToProtobuf {
  // MARK: Fields

  /// One value with its tag; zero is left out unless it is kept. False: nothing was written, as the name of an enum
  /// value is not known and unknown ones are ignored.
  func singular(_ field: UnsafeMutablePointer<FieldTable>, keepsZero: Bool) throws(Stop) -> Bool {
    switch field.pointee.type {
    case .message:
      try nested(field)
      return true
    case .group: throw fail("groups are not supported: they have no place in go-micro's messages")
    default: return try scalar(field, isTagged: true, keepsZero: keepsZero)
    }
  }

  /// A value that is no message.
  func scalar(
    _ field: UnsafeMutablePointer<FieldTable>, isTagged: Bool, keepsZero: Bool
  ) throws(Stop) -> Bool {
    @inline(__always) func begin() {
      reserve(24)
      if isTagged { put(tag: field) }
    }
    switch field.pointee.type {
    case .string: try stringField(field, keepsZero: keepsZero)
    case .int64:
      let value = try signed(max: UInt64(Int64.max))
      guard value != 0 || keepsZero else { return true }
      begin()
      put(varint: UInt64(bitPattern: value))
    case .int32:
      let value = try signed(max: UInt64(Int32.max))
      guard value != 0 || keepsZero else { return true }
      begin()
      put(varint: UInt64(bitPattern: value))
    case .uint64:
      let value = try unsigned(max: .max)
      guard value != 0 || keepsZero else { return true }
      begin()
      put(varint: value)
    case .uint32:
      let value = try unsigned(max: UInt64(UInt32.max))
      guard value != 0 || keepsZero else { return true }
      begin()
      put(varint: value)
    case .bool:
      let value = try bool()
      guard value || keepsZero else { return true }
      begin()
      put(varint: value ? 1 : 0)
    case .enumeration:
      guard let value = try enumeration(field) else { return false }
      guard value != 0 || keepsZero else { return true }
      begin()
      put(varint: UInt64(bitPattern: Int64(value)))
    case .double:
      let value = try double()
      guard value.bitPattern != 0 || keepsZero else { return true }
      begin()
      put(fixed: value.bitPattern)
    case .float:
      let value = try float()
      guard value.bitPattern != 0 || keepsZero else { return true }
      begin()
      put(fixed: value.bitPattern)
    case .bytes: try bytesField(field, keepsZero: keepsZero)
    case .sint64:
      let value = try signed(max: UInt64(Int64.max))
      guard value != 0 || keepsZero else { return true }
      begin()
      put(varint: UInt64(bitPattern: value &<< 1 ^ value &>> 63))
    case .sint32:
      let value = try signed(max: UInt64(Int32.max))
      guard value != 0 || keepsZero else { return true }
      begin()
      put(varint: UInt64(UInt32(truncatingIfNeeded: value &<< 1 ^ value &>> 63)))
    case .fixed64:
      let value = try unsigned(max: .max)
      guard value != 0 || keepsZero else { return true }
      begin()
      put(fixed: value)
    case .sfixed64:
      let value = try signed(max: UInt64(Int64.max))
      guard value != 0 || keepsZero else { return true }
      begin()
      put(fixed: UInt64(bitPattern: value))
    case .fixed32:
      let value = try unsigned(max: UInt64(UInt32.max))
      guard value != 0 || keepsZero else { return true }
      begin()
      put(fixed: UInt32(truncatingIfNeeded: value))
    case .sfixed32:
      let value = try signed(max: UInt64(Int32.max))
      guard value != 0 || keepsZero else { return true }
      begin()
      put(fixed: UInt32(truncatingIfNeeded: value))
    case .message, .group: throw fail("a message cannot stand here")
    }
    return true
  }

  // MARK: Small things

  @inline(__always) func skipWhitespace() {
    while position < end {
      let byte = position.pointee
      guard byte <= 0x20, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 else { return }
      position += 1
    }
  }

  func literal(_ word: StaticString) throws(Stop) {
    let count = word.utf8CodeUnitCount
    guard end - position >= count, Bytes.areEqual(position, word.utf8Start, count) else {
      throw fail("\(word) is expected")
    }
    position += count
  }

  private func bool() throws(Stop) -> Bool {
    guard position < end else { throw fail("the document ends too early") }
    switch position.pointee {
    case UInt8(ascii: "t"):
      try literal("true")
      return true
    case UInt8(ascii: "f"):
      try literal("false")
      return false
    default: throw fail("true or false is expected")
    }
  }

  /// Nil: a name that is not known, and unknown ones are ignored.
  private func enumeration(_ field: UnsafeMutablePointer<FieldTable>) throws(Stop) -> Int32? {
    guard let table = field.pointee.enumeration, position < end else { throw fail("an enum value is expected") }
    let valueStart = position
    if position.pointee == UInt8(ascii: "\"") {
      let (content, isEscaped) = try string()
      let name = try unescaped(content, isEscaped)
      if let number = table.pointee.names.find(name.base, name.count) { return number }
      if unknownFields == .ignore { return nil }
      let shown = UnsafeRawBufferPointer(start: name.base, count: min(name.count, 64))
      throw fail(
        "\(String(decoding: table.pointee.name, as: UTF8.self)) has no value "
          + "\"\(String(decoding: shown, as: UTF8.self))\"", at: valueStart)
    }
    if position.pointee == UInt8(ascii: "n"), table.pointee.isNullValue {
      try literal("null")
      return 0
    }
    let number = Int32(truncatingIfNeeded: try signed(max: UInt64(Int32.max)))
    if table.pointee.isClosed, table.pointee.value(number) == nil {
      if unknownFields == .ignore { return nil }
      throw fail("\(String(decoding: table.pointee.name, as: UTF8.self)) has no value \(number)", at: valueStart)
    }
    return number
  }

  // MARK: Strings

  /// Steps over the string at the cursor, checked to its end but for surrogates, and gives what is between its quotes.
  @inline(__always) func string() throws(Stop) -> (content: UnsafeRawBufferPointer, isEscaped: Bool) {
    guard position < end, position.pointee == UInt8(ascii: "\"") else { throw fail("a string is expected") }
    let ones: UInt64 = 0x0101_0101_0101_0101
    let highs: UInt64 = 0x8080_8080_8080_8080
    let content = position + 1
    var at = content
    // Eight at a time: the lowest set bit of `stop` marks the first byte that is not plain ASCII.
    while end - at >= 8 {
      let word = UInt64(littleEndian: UnsafeRawPointer(at).loadUnaligned(as: UInt64.self))
      let quotes = word ^ (ones &* 0x22)
      let slashes = word ^ (ones &* 0x5C)
      let controls = word &- ones &* 0x20
      let stop = ((controls & ~word) | ((quotes &- ones) & ~quotes) | ((slashes &- ones) & ~slashes) | word) & highs
      if stop == 0 {
        at += 8
        continue
      }
      at += stop.trailingZeroBitCount &>> 3
      if at.pointee == UInt8(ascii: "\"") {
        position = at + 1
        return (UnsafeRawBufferPointer(start: content, count: at - content), false)
      }
      break
    }
    return try stringWithMore(content, from: at)
  }

  @inline(never) private func stringWithMore(
    _ content: UnsafePointer<UInt8>, from first: UnsafePointer<UInt8>
  ) throws(Stop) -> (content: UnsafeRawBufferPointer, isEscaped: Bool) {
    let all = UnsafeRawBufferPointer(start: start, count: end - start)
    var at = first
    var isEscaped = false
    while at < end {
      let byte = at.pointee
      if byte == UInt8(ascii: "\"") {
        position = at + 1
        return (UnsafeRawBufferPointer(start: content, count: at - content), isEscaped)
      } else if byte == UInt8(ascii: "\\") {
        isEscaped = true
        guard end - at >= 2 else { break }
        switch at[1] {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"), UInt8(ascii: "b"), UInt8(ascii: "f"),
          UInt8(ascii: "n"), UInt8(ascii: "r"), UInt8(ascii: "t"):
          at += 2
        case UInt8(ascii: "u"):
          guard end - at >= 6 else { throw fail("\\u needs four hexadecimal digits", at: at) }
          for index in 2..<6 where ASCIIText.hexValue(at[index]) == nil {
            throw fail("\\u needs four hexadecimal digits", at: at)
          }
          at += 6
        default: throw fail("there is no such escape", at: at)
        }
      } else if byte < 0x20 {
        throw fail("a control character must be escaped", at: at)
      } else if byte < 0x80 {
        at += 1
      } else {
        let length = UTF8Check.sequenceLength(all, at: at - start)
        if length == 0 { throw fail("a string is not UTF-8", at: at) }
        at += length
      }
    }
    throw fail("the document ends in a string", at: end)
  }

  /// Writes the text of a string that `string` has stepped over; at most as many bytes as `content` has. Protobuf's
  /// strings are UTF-8, so half a surrogate pair is an error here.
  func unescape(_ content: UnsafeRawBufferPointer, to target: UnsafeMutablePointer<UInt8>) throws(Stop) -> Int {
    guard let first = content.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return 0 }
    let last = first + content.count
    var at = first
    var to = target
    while at < last {
      let byte = at.pointee
      guard byte == UInt8(ascii: "\\") else {
        to.pointee = byte
        to += 1
        at += 1
        continue
      }
      switch at[1] {
      case UInt8(ascii: "b"): to.pointee = 0x08
      case UInt8(ascii: "f"): to.pointee = 0x0C
      case UInt8(ascii: "n"): to.pointee = 0x0A
      case UInt8(ascii: "r"): to.pointee = 0x0D
      case UInt8(ascii: "t"): to.pointee = 0x09
      case UInt8(ascii: "u"):
        var scalar = Self.codeUnit(at + 2)
        var length = 6
        if scalar & 0xF800 == 0xD800 {
          guard scalar < 0xDC00, last - at >= 12, at[6] == UInt8(ascii: "\\"), at[7] == UInt8(ascii: "u") else {
            throw fail("half a surrogate pair is no character", at: at)
          }
          let low = Self.codeUnit(at + 8)
          guard low & 0xFC00 == 0xDC00 else { throw fail("half a surrogate pair is no character", at: at) }
          scalar = 0x10000 &+ (scalar & 0x3FF) &<< 10 &+ (low & 0x3FF)
          length = 12
        }
        to += Self.encode(scalar, to: to)
        at += length
        continue
      case let other: to.pointee = other
      }
      to += 1
      at += 2
    }
    return to - target
  }

  private static func codeUnit(_ digits: UnsafePointer<UInt8>) -> UInt32 {
    var unit: UInt32 = 0
    for index in 0..<4 { unit = unit &<< 4 | UInt32(ASCIIText.hexValue(digits[index]) ?? 0) }
    return unit
  }

  /// UTF-8 of a character; the number of its bytes.
  private static func encode(_ scalar: UInt32, to target: UnsafeMutablePointer<UInt8>) -> Int {
    func tail(_ shift: UInt32) -> UInt8 { 0x80 | UInt8(truncatingIfNeeded: scalar &>> shift & 0x3F) }
    switch scalar {
    case 0..<0x80:
      target[0] = UInt8(truncatingIfNeeded: scalar)
      return 1
    case 0x80..<0x800:
      target[0] = 0xC0 | UInt8(truncatingIfNeeded: scalar &>> 6)
      target[1] = tail(0)
      return 2
    case 0x800..<0x10000:
      target[0] = 0xE0 | UInt8(truncatingIfNeeded: scalar &>> 12)
      target[1] = tail(6)
      target[2] = tail(0)
      return 3
    default:
      target[0] = 0xF0 | UInt8(truncatingIfNeeded: scalar &>> 18)
      target[1] = tail(12)
      target[2] = tail(6)
      target[3] = tail(0)
      return 4
    }
  }

  private func stringField(_ field: UnsafeMutablePointer<FieldTable>, keepsZero: Bool) throws(Stop) {
    let (content, isEscaped) = try string()
    if content.count == 0, !keepsZero { return }
    reserve(content.count &+ 24)
    put(tag: field)
    if isEscaped {
      try escapedString(content)
      return
    }
    put(varint: UInt64(truncatingIfNeeded: content.count))
    guard let from = content.baseAddress else { return }
    Bytes.copy(from, to: output, content.count, sourceEnd: end)
    output += content.count
  }

  @inline(never) private func escapedString(_ content: UnsafeRawBufferPointer) throws(Stop) {
    // Its length is known when it is written; it takes at most as much room as with its escapes.
    let lengthBytes = ProtobufWriter.varintSize(UInt64(content.count))
    let target = output + lengthBytes
    let count = try unescape(content, to: target)
    put(varint: UInt64(count))
    if output != target { UnsafeMutableRawPointer(output).copyMemory(from: target, byteCount: count) }
    output += count
  }

  // MARK: Bytes

  /// base64 of either alphabet, with or without padding.
  private func bytesField(_ field: UnsafeMutablePointer<FieldTable>, keepsZero: Bool) throws(Stop) {
    let valueStart = position
    let (content, isEscaped) = try string()
    let source = try unescaped(content, isEscaped)
    if source.count == 0, !keepsZero { return }
    var count = source.count
    while count > 0, source.count - count < 2, source.base[count - 1] == UInt8(ascii: "=") { count -= 1 }
    // Padding fills the last four characters up, or is not there.
    guard count % 4 != 1, count == source.count || source.count % 4 == 0 else {
      throw fail("base64 of this length cannot be", at: valueStart)
    }
    let length = count / 4 * 3 + [0, 0, 1, 2][count % 4]
    if length == 0, !keepsZero { return }
    reserve(length + 24)
    put(tag: field)
    put(varint: UInt64(length))
    guard Base64.decode(source.base, count, to: output) else { throw fail("this is not base64", at: valueStart) }
    output += length
  }
}
