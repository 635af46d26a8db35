// Protobuf's scalars as JSON's.

extension FieldType {
  /// Integers that a double cannot hold.
  var isWide: Bool {
    switch self {
    case .int64, .uint64, .sint64, .fixed64, .sfixed64: true
    case .double, .float, .int32, .fixed32, .bool, .string, .group, .message, .bytes, .uint32, .enumeration, .sfixed32,
      .sint32:
      false
    }
  }
}

extension ProtobufToJSON {
  /// The value at the cursor. As a member it comes with its key and is left out when it is zero and says nothing by it.
  /// Nothing is written for an unknown value of a closed enum.
  func value(_ field: UnsafeMutablePointer<FieldTable>, isMember: Bool, needsComma: Bool) throws(Stop) {
    @inline(__always) func begin() {
      if isMember { key(field, needsComma) } else { reserve(48) }
    }
    let skipsZero = isMember && !field.pointee.hasPresence
    switch field.pointee.type {
    case .string:
      let length = try self.length()
      if length == 0, skipsZero { return }
      begin()
      try string(length)
    case .int64:
      let value = Int64(bitPattern: try varint())
      if value == 0, skipsZero { return }
      begin()
      put(wide: value)
    case .uint64:
      let value = try varint()
      if value == 0, skipsZero { return }
      begin()
      put(wide: value)
    case .int32:
      let value = Int32(truncatingIfNeeded: try varint())
      if value == 0, skipsZero { return }
      begin()
      put(signed: Int64(value))
    case .uint32:
      let value = UInt32(truncatingIfNeeded: try varint())
      if value == 0, skipsZero { return }
      begin()
      put(decimal: UInt64(value))
    case .bool:
      let value = try varint() != 0
      if !value, skipsZero { return }
      begin()
      put(value ? "true" : "false")
    case .enumeration:
      let value = Int32(truncatingIfNeeded: try varint())
      if value == 0, skipsZero { return }
      guard let table = field.pointee.enumeration else { return }
      let known = table.pointee.value(value)
      if known == nil, table.pointee.isClosed {
        if unknownFields == .ignore { return }
        throw fail("\(String(decoding: table.pointee.name, as: UTF8.self)) has no value \(value)")
      }
      begin()
      if table.pointee.isNullValue {
        put("null")
      } else if let known, !form.contains(.enumNumbers) {
        let name = known.pointee.quoted
        reserve(name.count)
        UnsafeMutableRawPointer(output).copyMemory(from: name.baseAddress.unsafelyUnwrapped, byteCount: name.count)
        output += name.count
      } else {
        put(signed: Int64(value))
      }
    case .double:
      let value = Double(bitPattern: try fixed64())
      if value.bitPattern == 0, skipsZero { return }
      begin()
      put(value)
    case .float:
      let value = Float(bitPattern: try fixed32())
      if value.bitPattern == 0, skipsZero { return }
      begin()
      put(value)
    case .bytes:
      let length = try self.length()
      if length == 0, skipsZero { return }
      begin()
      reserve(Base64.encodedCount(length) + 2)
      put(UInt8(ascii: "\""))
      Base64.encode(position, length, to: output)
      output += Base64.encodedCount(length)
      put(UInt8(ascii: "\""))
      position += length
    case .sint64:
      let value = try varint()
      if value == 0, skipsZero { return }
      begin()
      put(wide: Int64(bitPattern: value &>> 1) ^ (0 &- Int64(bitPattern: value & 1)))
    case .sint32:
      let value = UInt32(truncatingIfNeeded: try varint())
      if value == 0, skipsZero { return }
      begin()
      put(signed: Int64(Int32(bitPattern: value &>> 1) ^ (0 &- Int32(bitPattern: value & 1))))
    case .fixed64:
      let value = try fixed64()
      if value == 0, skipsZero { return }
      begin()
      put(wide: value)
    case .sfixed64:
      let value = Int64(bitPattern: try fixed64())
      if value == 0, skipsZero { return }
      begin()
      put(wide: value)
    case .fixed32:
      let value = try fixed32()
      if value == 0, skipsZero { return }
      begin()
      put(decimal: UInt64(value))
    case .sfixed32:
      let value = Int32(bitPattern: try fixed32())
      if value == 0, skipsZero { return }
      begin()
      put(signed: Int64(value))
    case .message:
      guard let table = field.pointee.message else { throw fail("the descriptors lack this field's type") }
      begin()
      try nested(table)
    case .group: throw fail("groups are not supported: they have no place in go-micro's messages")
    }
  }

  /// What a field is that is not there.
  func zero(_ field: UnsafeMutablePointer<FieldTable>) {
    reserve(48)
    switch field.pointee.type {
    case .string, .bytes: put("\"\"")
    case .int64, .uint64, .sint64, .fixed64, .sfixed64: put(wide: 0 as UInt64)
    case .bool: put("false")
    case .double, .float, .int32, .uint32, .sint32, .fixed32, .sfixed32, .message, .group: put("0")
    case .enumeration:
      guard let table = field.pointee.enumeration else { return }
      let value = table.pointee.value(table.pointee.defaultNumber)
      if table.pointee.isNullValue {
        put("null")
      } else if let value, !form.contains(.enumNumbers) {
        let name = value.pointee.quoted
        reserve(name.count)
        UnsafeMutableRawPointer(output).copyMemory(from: name.baseAddress.unsafelyUnwrapped, byteCount: name.count)
        output += name.count
      } else {
        put(signed: Int64(table.pointee.defaultNumber))
      }
    }
  }

  // MARK: Writing; `reserve` comes first

  func put(_ word: StaticString) {
    for index in 0..<word.utf8CodeUnitCount { output[index] = word.utf8Start[index] }
    output += word.utf8CodeUnitCount
  }

  @inline(__always) func put(wide value: Int64) {
    if form.contains(.plainIntegers) { return put(signed: value) }
    put(UInt8(ascii: "\""))
    put(signed: value)
    put(UInt8(ascii: "\""))
  }

  @inline(__always) func put(wide value: UInt64) {
    if form.contains(.plainIntegers) { return put(decimal: value) }
    put(UInt8(ascii: "\""))
    put(decimal: value)
    put(UInt8(ascii: "\""))
  }

  @inline(__always) func put(signed value: Int64) {
    if value < 0 { put(UInt8(ascii: "-")) }
    put(decimal: value.magnitude)
  }

  @inline(__always) func put(decimal value: UInt64) { output += DecimalText.write(value, to: output) }

  private func put(_ value: Double) {
    guard value.isFinite else { return put(value.isNaN ? "\"NaN\"" : value < 0 ? "\"-Infinity\"" : "\"Infinity\"") }
    output += DecimalText.write(value, to: output)
  }

  private func put(_ value: Float) {
    guard value.isFinite else { return put(value.isNaN ? "\"NaN\"" : value < 0 ? "\"-Infinity\"" : "\"Infinity\"") }
    output += DecimalText.write(value, to: output)
  }

  // MARK: Strings

  /// The next `count` bytes as a string. Protobuf's strings are UTF-8; anything else has no JSON.
  func string(_ count: Int) throws(Stop) {
    reserve(count &+ 32)
    put(UInt8(ascii: "\""))
    try content(count)
    reserve(1)
    put(UInt8(ascii: "\""))
  }

  /// Copies eight bytes at a time as long as nothing among them is special.
  @inline(__always) private func content(_ count: Int) throws(Stop) {
    let ones: UInt64 = 0x0101_0101_0101_0101
    let highs: UInt64 = 0x8080_8080_8080_8080
    let stringEnd = position + count
    while stringEnd - position >= 8 {
      let raw = UnsafeRawPointer(position).loadUnaligned(as: UInt64.self)
      let word = UInt64(littleEndian: raw)
      let quotes = word ^ (ones &* 0x22)
      let slashes = word ^ (ones &* 0x5C)
      let controls = word &- ones &* 0x20
      let stop = ((controls & ~word) | ((quotes &- ones) & ~quotes) | ((slashes &- ones) & ~slashes) | word) & highs
      UnsafeMutableRawPointer(output).storeBytes(of: raw, as: UInt64.self)
      if stop != 0 {
        let plain = stop.trailingZeroBitCount &>> 3
        output += plain
        position += plain
        return try contentWithMore(stringEnd)
      }
      output += 8
      position += 8
    }
    while position < stringEnd {
      let byte = position.pointee
      guard byte >= 0x20, byte < 0x80, byte != 0x22, byte != 0x5C else { return try contentWithMore(stringEnd) }
      output.pointee = byte
      output += 1
      position += 1
    }
  }

  @inline(never) private func contentWithMore(_ stringEnd: UnsafePointer<UInt8>) throws(Stop) {
    let all = UnsafeRawBufferPointer(start: start, count: stringEnd - start)
    while position < stringEnd {
      // No byte becomes more than six.
      reserve(stringEnd - position &+ 16)
      let byte = position.pointee
      if byte >= 0x80 {
        let length = UTF8Check.sequenceLength(all, at: position - start)
        if length == 0 { throw fail("a string is not UTF-8") }
        for index in 0..<length { output[index] = position[index] }
        output += length
        position += length
        continue
      }
      position += 1
      switch byte {
      case UInt8(ascii: "\""): put("\\\"")
      case UInt8(ascii: "\\"): put("\\\\")
      case 0x0A: put("\\n")
      case 0x0D: put("\\r")
      case 0x09: put("\\t")
      case 0..<0x20:
        put("\\u00")
        put(ASCIIText.hexDigit(byte &>> 4))
        put(ASCIIText.hexDigit(byte & 15))
      default: put(byte)
      }
    }
  }
}
