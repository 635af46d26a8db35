// Protobuf's wire format, field by field, for small messages: envelopes, descriptors, health checks. The transcoder,
// which sees whole payloads, has its own loops.

/// Walks the fields of one protobuf message.
struct ProtobufReader {
  enum FieldValue: Equatable { case varint(UInt64), fixed64(UInt64), fixed32(UInt32), bytes(Range<Int>) }
  struct Field: Equatable {
    var number: UInt64
    var value: FieldValue
  }

  let bytes: UnsafeRawBufferPointer
  private(set) var offset: Int
  private let end: Int

  init(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>) {
    self.bytes = bytes
    offset = range.lowerBound
    end = range.upperBound
  }

  /// The next field; nil at the end. Errors: `WireError` for whatever protobuf can't be, groups included: no message of
  /// the framework has one.
  mutating func next() throws(WireError) -> Field? {
    guard offset < end else { return nil }
    let start = offset
    let key = try varint()
    let number = key &>> 3
    guard number > 0, number <= 536_870_911 else {
      throw WireError("protobuf: there is no such field number", offset: start)
    }
    switch key & 7 {
    case 0: return Field(number: number, value: .varint(try varint()))
    case 1:
      guard end - offset >= 8 else { throw WireError("protobuf: a field exceeds the message", offset: start) }
      let value = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
      offset += 8
      return Field(number: number, value: .fixed64(value))
    case 2:
      let length = try varint()
      guard length <= UInt64(end - offset) else {
        throw WireError("protobuf: a field exceeds the message", offset: start)
      }
      let range = offset..<(offset + Int(length))
      offset = range.upperBound
      return Field(number: number, value: .bytes(range))
    case 5:
      guard end - offset >= 4 else { throw WireError("protobuf: a field exceeds the message", offset: start) }
      let value = UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
      offset += 4
      return Field(number: number, value: .fixed32(value))
    default: throw WireError("protobuf: there is no such wire type", offset: start)
    }
  }

  private mutating func varint() throws(WireError) -> UInt64 {
    var value: UInt64 = 0
    var shift: UInt64 = 0
    while offset < end {
      let byte = bytes[offset]
      offset += 1
      if shift == 63, byte > 1 { throw WireError("protobuf: a number exceeds 64 bits", offset: offset - 1) }
      value |= UInt64(byte & 0x7F) &<< shift
      if byte < 0x80 { return value }
      shift += 7
    }
    throw WireError("protobuf: the message ends in a number", offset: offset)
  }
}

enum ProtobufWriter {
  static func varintSize(_ value: UInt64) -> Int { max(1, (70 - value.leadingZeroBitCount) / 7) }

  static func varint(_ value: UInt64, into buffer: ByteBuffer) {
    var value = value
    while value >= 0x80 {
      buffer.append(UInt8(truncatingIfNeeded: value) | 0x80)
      value &>>= 7
    }
    buffer.append(UInt8(value))
  }

  /// A numeric field, left out when zero as proto3 has it.
  static func field(_ number: UInt64, varint value: UInt64, into buffer: ByteBuffer) {
    guard value != 0 else { return }
    varint(number &<< 3, into: buffer)
    varint(value, into: buffer)
  }

  static func field(_ number: UInt64, _ bytes: UnsafeRawBufferPointer, into buffer: ByteBuffer) {
    guard !bytes.isEmpty else { return }
    varint(number &<< 3 | 2, into: buffer)
    varint(UInt64(bytes.count), into: buffer)
    buffer.append(bytes)
  }
}
