// Reads MessagePack (msgpack.org's spec.md of 2017, with str, bin and timestamps) and writes it as JSON, in one pass and
// without a tree.
//
//   nil, bool, int, str    themselves; a str must be UTF-8
//   float                  shortest digits; NaN and the infinities as the strings of protobuf's JSON mapping
//   bin                    standard base64
//   array, map             themselves; a map's key is a str, or an int or bool written as a string
//   timestamp (ext -1)     RFC 3339
//   other ext, other keys  refused: JSON has no form for them
//   a key that comes twice refused

/// A cursor over MessagePack. Errors: `WireError` with the offset of the value that breaks a rule; then the reader must
/// not be used again, and what was written is to be dropped.
package struct MessagePackReader {
  /// Levels of arrays and maps; more are refused. As many as JSON may have here.
  package static let depthMax = JSONScanner.depthMax

  package let bytes: UnsafeRawBufferPointer
  package private(set) var offset: Int
  private var keys = KeyTracker()

  package init(_ bytes: UnsafeRawBufferPointer, at offset: Int = 0) {
    self.bytes = bytes
    self.offset = min(max(offset, 0), bytes.count)
  }

  /// Writes the one value that `bytes` are as JSON.
  package static func translate(_ bytes: UnsafeRawBufferPointer, into buffer: ByteBuffer) throws(WireError) {
    var reader = MessagePackReader(bytes)
    try reader.value(into: buffer)
    try reader.expectEnd()
  }

  package func expectEnd() throws(WireError) {
    guard offset == bytes.count else { throw fail("nothing may follow the value", at: offset) }
  }

  private func fail(_ rule: String, at offset: Int) -> WireError { WireError("MessagePack: \(rule)", offset: offset) }

  // MARK: Parts of an envelope

  /// The number of elements of the array that comes next.
  package mutating func arrayHeader() throws(WireError) -> Int {
    let start = offset
    switch try head() {
    case .array(let count): return count
    default: throw fail("an array is expected", at: start)
    }
  }

  /// An unsigned integer, however it is packed.
  package mutating func unsigned() throws(WireError) -> UInt64 {
    let start = offset
    switch try head() {
    case .unsigned(let value): return value
    case .signed(let value) where value >= 0: return UInt64(value)
    default: throw fail("an unsigned integer is expected", at: start)
    }
  }

  /// The content of a str.
  package mutating func string() throws(WireError) -> Range<Int> {
    let start = offset
    guard case .string(let range) = try head() else { throw fail("a str is expected", at: start) }
    return range
  }

  /// The content of a str, or nil for nil.
  package mutating func optionalString() throws(WireError) -> Range<Int>? {
    if offset < bytes.count, bytes[offset] == 0xC0 {
      offset += 1
      return nil
    }
    return try string()
  }

  /// Steps over a value that is an integer or a str and gives all its bytes, to be echoed.
  package mutating func rawScalar() throws(WireError) -> Range<Int> {
    let start = offset
    switch try head() {
    case .unsigned, .signed, .string: return start..<offset
    default: throw fail("an integer or a str is expected", at: start)
    }
  }

  // MARK: Values

  private enum Head {
    case null
    case bool(Bool)
    case unsigned(UInt64)
    case signed(Int64)
    case float(Float)
    case double(Double)
    case string(Range<Int>)
    case binary(Range<Int>)
    case array(Int)
    case map(Int)
    case ext(type: Int8, Range<Int>)
  }

  /// Writes the next value as JSON.
  package mutating func value(into buffer: ByteBuffer) throws(WireError) { try value(into: buffer, depth: 0) }

  private mutating func value(into buffer: ByteBuffer, depth: Int) throws(WireError) {
    let start = offset
    switch try head() {
    case .null: buffer.append("null")
    case .bool(let value): buffer.append(value ? "true" : "false")
    case .unsigned(let value): buffer.append(decimal: value)
    case .signed(let value): buffer.append(decimal: Int(value))
    case .float(let value): JSONForm.append(value, into: buffer)
    case .double(let value): JSONForm.append(value, into: buffer)
    case .string(let range): try append(string: range, at: start, into: buffer)
    case .binary(let range): JSONForm.append(base64: UnsafeRawBufferPointer(rebasing: bytes[range]), into: buffer)
    case .array(let count):
      guard depth < Self.depthMax else { throw fail("nested too deep", at: start) }
      buffer.append(UInt8(ascii: "["))
      for index in 0..<count {
        if index > 0 { buffer.append(UInt8(ascii: ",")) }
        try value(into: buffer, depth: depth + 1)
      }
      buffer.append(UInt8(ascii: "]"))
    case .map(let count):
      guard depth < Self.depthMax else { throw fail("nested too deep", at: start) }
      let seen = keys.open()
      buffer.append(UInt8(ascii: "{"))
      for index in 0..<count {
        if index > 0 { buffer.append(UInt8(ascii: ",")) }
        let keyOffset = offset
        let written = buffer.count
        try key(into: buffer)
        guard keys.isNew(written..<buffer.count, in: buffer, seen) else {
          throw fail("a key comes twice", at: keyOffset)
        }
        buffer.append(UInt8(ascii: ":"))
        try value(into: buffer, depth: depth + 1)
      }
      keys.close(seen)
      buffer.append(UInt8(ascii: "}"))
    case .ext(let type, let range): try append(ext: type, range, at: start, into: buffer)
    }
  }

  private func append(string range: Range<Int>, at start: Int, into buffer: ByteBuffer) throws(WireError) {
    let text = UnsafeRawBufferPointer(rebasing: bytes[range])
    guard UTF8Check.isValid(text) else { throw fail("a str is not UTF-8", at: start) }
    JSONText.append(text, escaping: .plain, into: buffer)
  }

  private mutating func key(into buffer: ByteBuffer) throws(WireError) {
    let start = offset
    switch try head() {
    case .string(let range): try append(string: range, at: start, into: buffer)
    case .unsigned(let value):
      buffer.append(UInt8(ascii: "\""))
      buffer.append(decimal: value)
      buffer.append(UInt8(ascii: "\""))
    case .signed(let value):
      buffer.append(UInt8(ascii: "\""))
      buffer.append(decimal: Int(value))
      buffer.append(UInt8(ascii: "\""))
    case .bool(let value): buffer.append(value ? "\"true\"" : "\"false\"")
    default: throw fail("a map's key must be a str, an int or a bool", at: start)
    }
  }

  /// Timestamps of all three lengths.
  private func append(ext type: Int8, _ range: Range<Int>, at start: Int, into buffer: ByteBuffer) throws(WireError) {
    guard type == -1 else { throw fail("extension type \(type) has no JSON form", at: start) }
    let seconds: Int64
    var nanoseconds: UInt32 = 0
    switch range.count {
    case 4: seconds = Int64(load(range.lowerBound, UInt32.self))
    case 8:
      let packed = load(range.lowerBound, UInt64.self)
      nanoseconds = UInt32(packed &>> 34)
      seconds = Int64(packed & 0x3_FFFF_FFFF)
    case 12:
      nanoseconds = load(range.lowerBound, UInt32.self)
      seconds = load(range.lowerBound + 4, Int64.self)
    default: throw fail("a timestamp has 4, 8 or 12 bytes", at: start)
    }
    guard nanoseconds < 1_000_000_000, JSONForm.secondsRange.contains(seconds) else {
      throw fail("a timestamp is out of range", at: start)
    }
    JSONForm.append(seconds: seconds, nanoseconds: nanoseconds, into: buffer)
  }

  // MARK: Bytes

  /// A big-endian integer that the caller knows to be there.
  @inline(__always) private func load<T: FixedWidthInteger>(_ at: Int, _ type: T.Type) -> T {
    T(bigEndian: bytes.loadUnaligned(fromByteOffset: at, as: T.self))
  }

  @inline(__always) private mutating func take<T: FixedWidthInteger>(_ type: T.Type) throws(WireError) -> T {
    guard bytes.count - offset >= MemoryLayout<T>.size else { throw fail("the message ends too early", at: offset) }
    defer { offset += MemoryLayout<T>.size }
    return load(offset, type)
  }

  @inline(__always) private mutating func take(_ count: Int) throws(WireError) -> Range<Int> {
    guard count <= bytes.count - offset else { throw fail("a length exceeds the message", at: offset) }
    defer { offset += count }
    return offset..<(offset + count)
  }

  /// Each element is at least a byte, so that a count that lies ends here and not in a long loop.
  private mutating func checked(_ count: Int, _ bytesEach: Int) throws(WireError) -> Int {
    guard count <= (bytes.count - offset) / bytesEach else { throw fail("a count exceeds the message", at: offset) }
    return count
  }

  private mutating func ext(_ count: Int) throws(WireError) -> Head {
    let type = try take(Int8.self)
    return .ext(type: type, try take(count))
  }

  private mutating func head() throws(WireError) -> Head {
    let start = offset
    let byte = try take(UInt8.self)
    switch byte {
    case 0x00...0x7F: return .unsigned(UInt64(byte))
    case 0x80...0x8F: return .map(try checked(Int(byte & 15), 2))
    case 0x90...0x9F: return .array(try checked(Int(byte & 15), 1))
    case 0xA0...0xBF: return .string(try take(Int(byte & 31)))
    case 0xC0: return .null
    case 0xC2: return .bool(false)
    case 0xC3: return .bool(true)
    case 0xC4: return .binary(try take(Int(take(UInt8.self))))
    case 0xC5: return .binary(try take(Int(take(UInt16.self))))
    case 0xC6: return .binary(try take(Int(take(UInt32.self))))
    case 0xC7: return try ext(Int(take(UInt8.self)))
    case 0xC8: return try ext(Int(take(UInt16.self)))
    case 0xC9: return try ext(Int(take(UInt32.self)))
    case 0xCA: return .float(Float(bitPattern: try take(UInt32.self)))
    case 0xCB: return .double(Double(bitPattern: try take(UInt64.self)))
    case 0xCC: return .unsigned(UInt64(try take(UInt8.self)))
    case 0xCD: return .unsigned(UInt64(try take(UInt16.self)))
    case 0xCE: return .unsigned(UInt64(try take(UInt32.self)))
    case 0xCF: return .unsigned(try take(UInt64.self))
    case 0xD0: return .signed(Int64(try take(Int8.self)))
    case 0xD1: return .signed(Int64(try take(Int16.self)))
    case 0xD2: return .signed(Int64(try take(Int32.self)))
    case 0xD3: return .signed(try take(Int64.self))
    case 0xD4...0xD8: return try ext(1 &<< Int(byte - 0xD4))
    case 0xD9: return .string(try take(Int(take(UInt8.self))))
    case 0xDA: return .string(try take(Int(take(UInt16.self))))
    case 0xDB: return .string(try take(Int(take(UInt32.self))))
    case 0xDC: return .array(try checked(Int(take(UInt16.self)), 1))
    case 0xDD: return .array(try checked(Int(take(UInt32.self)), 1))
    case 0xDE: return .map(try checked(Int(take(UInt16.self)), 2))
    case 0xDF: return .map(try checked(Int(take(UInt32.self)), 2))
    case 0xE0...0xFF: return .signed(Int64(Int8(bitPattern: byte)))
    default: throw fail("there is no such type", at: start)
    }
  }
}
