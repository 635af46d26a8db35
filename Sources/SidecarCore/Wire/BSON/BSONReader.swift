// Reads BSON (bsonspec.org 1.1) and writes it as JSON, in one pass and without a tree.
//
//   double, bool, null, undefined, int32, int64      themselves; undefined is null; NaN and the infinities as strings
//   string, symbol                                   must be UTF-8
//   document, array                                  themselves; the names in an array are not looked at
//   binary                                           standard base64; in the framework's dialect subtype 0 is a string
//   datetime                                         RFC 3339
//   ObjectId                                         24 hexadecimal digits
//   regular expression, code, pointer, timestamp,    refused: JSON has no form for them
//   decimal128, min and max key
//   a name that comes twice                          refused

/// Which BSON it is.
package enum BSONDialect: UInt8, Sendable {
  /// As MongoDB's drivers write it.
  case standard
  /// As the framework's bsonrpc codec writes it, which is vitess's: strings are binaries of subtype 0, unsigned integers
  /// int64 (go-plugins codec/bsonrpc @ 4fe90d56). Reading, ordinary strings are taken as well.
  case vitess
}

/// A cursor over BSON documents. Errors: `WireError` with the offset of the value that breaks a rule; then the reader
/// must not be used again, and what was written is to be dropped.
package struct BSONReader {
  /// Levels of documents and arrays; more are refused. As many as JSON may have here.
  package static let depthMax = JSONScanner.depthMax

  package let bytes: UnsafeRawBufferPointer
  package private(set) var offset: Int
  private let dialect: BSONDialect
  private var keys = KeyTracker()

  package init(_ bytes: UnsafeRawBufferPointer, at offset: Int = 0, dialect: BSONDialect) {
    self.bytes = bytes
    self.offset = min(max(offset, 0), bytes.count)
    self.dialect = dialect
  }

  /// Writes the one document that `bytes` are as JSON.
  package static func translate(
    _ bytes: UnsafeRawBufferPointer, dialect: BSONDialect, into buffer: ByteBuffer
  ) throws(WireError) {
    var reader = BSONReader(bytes, dialect: dialect)
    try reader.document(into: buffer)
    try reader.expectEnd()
  }

  package func expectEnd() throws(WireError) {
    guard offset == bytes.count else { throw fail("nothing may follow the document", at: offset) }
  }

  private func fail(_ rule: String, at offset: Int) -> WireError { WireError("BSON: \(rule)", offset: offset) }

  /// Writes the next document as a JSON object.
  package mutating func document(into buffer: ByteBuffer) throws(WireError) {
    try container(isArray: false, into: buffer, depth: 0)
  }

  private mutating func container(isArray: Bool, into buffer: ByteBuffer, depth: Int) throws(WireError) {
    let start = offset
    guard depth < Self.depthMax else { throw fail("nested too deep", at: start) }
    let length = try take(Int32.self)
    guard length >= 5, Int(length) <= bytes.count - start else {
      throw fail("a document's length exceeds the message", at: start)
    }
    let end = start + Int(length) - 1
    let seen = keys.open()
    buffer.append(isArray ? UInt8(ascii: "[") : UInt8(ascii: "{"))
    var isFirst = true
    while offset < end {
      let elementStart = offset
      let type = try take(UInt8.self)
      guard type != 0 else { throw fail("a document is shorter than its length", at: elementStart) }
      let name = try cstring(before: end)
      if !isFirst { buffer.append(UInt8(ascii: ",")) }
      isFirst = false
      if !isArray {
        let written = buffer.count
        try append(text: name, at: elementStart, into: buffer)
        guard keys.isNew(written..<buffer.count, in: buffer, seen) else {
          throw fail("a name comes twice", at: elementStart)
        }
        buffer.append(UInt8(ascii: ":"))
      }
      try value(type, at: elementStart, into: buffer, depth: depth)
      guard offset <= end else { throw fail("a value exceeds its document", at: elementStart) }
    }
    guard offset == end, bytes[end] == 0 else { throw fail("a document must end with a zero", at: end) }
    offset = end + 1
    keys.close(seen)
    buffer.append(isArray ? UInt8(ascii: "]") : UInt8(ascii: "}"))
  }

  private mutating func value(_ type: UInt8, at start: Int, into buffer: ByteBuffer, depth: Int) throws(WireError) {
    switch type {
    case 0x01: JSONForm.append(Double(bitPattern: try take(UInt64.self)), into: buffer)
    case 0x02, 0x0E: try append(text: try string(), at: start, into: buffer)
    case 0x03: try container(isArray: false, into: buffer, depth: depth + 1)
    case 0x04: try container(isArray: true, into: buffer, depth: depth + 1)
    case 0x05: try binary(at: start, into: buffer)
    case 0x06, 0x0A: buffer.append("null")
    case 0x07:
      buffer.append(UInt8(ascii: "\""))
      for byte in UnsafeRawBufferPointer(rebasing: bytes[try take(12)]) {
        buffer.append(ASCIIText.hexDigit(byte &>> 4))
        buffer.append(ASCIIText.hexDigit(byte & 15))
      }
      buffer.append(UInt8(ascii: "\""))
    case 0x08:
      switch try take(UInt8.self) {
      case 0: buffer.append("false")
      case 1: buffer.append("true")
      default: throw fail("a bool is 0 or 1", at: start)
      }
    case 0x09:
      let milliseconds = try take(Int64.self)
      let seconds = milliseconds >= 0 ? milliseconds / 1000 : -((-1 - milliseconds) / 1000) - 1
      guard JSONForm.secondsRange.contains(seconds) else { throw fail("a datetime is out of range", at: start) }
      JSONForm.append(
        seconds: seconds, nanoseconds: UInt32(milliseconds - seconds * 1000) * 1_000_000, into: buffer)
    case 0x10: buffer.append(decimal: Int(try take(Int32.self)))
    case 0x12: buffer.append(decimal: Int(try take(Int64.self)))
    // vitess's own unsigned integer.
    case 0x3F where dialect == .vitess: buffer.append(decimal: try take(UInt64.self))
    case 0x0B, 0x0C, 0x0D, 0x0F, 0x11, 0x13, 0x7F, 0xFF:
      throw fail("type 0x\(String(type, radix: 16)) has no JSON form", at: start)
    default: throw fail("there is no type 0x\(String(type, radix: 16))", at: start)
    }
  }

  private mutating func binary(at start: Int, into buffer: ByteBuffer) throws(WireError) {
    let length = try take(Int32.self)
    let subtype = try take(UInt8.self)
    guard length >= 0 else { throw fail("a length is negative", at: start) }
    var range = try take(Int(length))
    if subtype == 2 {
      // The old form has its length twice.
      guard range.count >= 4, Int(load(range.lowerBound, Int32.self)) == range.count - 4 else {
        throw fail("an old binary's two lengths differ", at: start)
      }
      range = (range.lowerBound + 4)..<range.upperBound
    }
    let content = UnsafeRawBufferPointer(rebasing: bytes[range])
    if subtype == 0, dialect == .vitess, UTF8Check.isValid(content) {
      JSONText.append(content, escaping: .plain, into: buffer)
    } else {
      JSONForm.append(base64: content, into: buffer)
    }
  }

  // MARK: Bytes

  private func append(text range: Range<Int>, at start: Int, into buffer: ByteBuffer) throws(WireError) {
    let text = UnsafeRawBufferPointer(rebasing: bytes[range])
    guard UTF8Check.isValid(text) else { throw fail("a string is not UTF-8", at: start) }
    JSONText.append(text, escaping: .plain, into: buffer)
  }

  private mutating func cstring(before end: Int) throws(WireError) -> Range<Int> {
    let start = offset
    while offset < end, bytes[offset] != 0 { offset += 1 }
    guard offset < end else { throw fail("a name has no end", at: start) }
    offset += 1
    return start..<(offset - 1)
  }

  /// The content of a string: its length counts the zero at its end.
  private mutating func string() throws(WireError) -> Range<Int> {
    let start = offset
    let length = try take(Int32.self)
    guard length >= 1 else { throw fail("a string's length counts its zero", at: start) }
    let range = try take(Int(length))
    guard bytes[range.upperBound - 1] == 0 else { throw fail("a string must end with a zero", at: start) }
    return range.lowerBound..<(range.upperBound - 1)
  }

  @inline(__always) private func load<T: FixedWidthInteger>(_ at: Int, _ type: T.Type) -> T {
    T(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: T.self))
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
}
