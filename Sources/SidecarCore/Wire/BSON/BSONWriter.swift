// Writes a JSON object as a BSON document. Strings stay strings: which of them are base64 or times, nothing says.

package enum BSONWriter {
  /// Writes one JSON object. Errors: `WireError` for what is no JSON or no object (BSON has no other documents), for a
  /// name that holds a zero or comes twice, and for a number that the dialect cannot hold; then what was written is to be
  /// dropped.
  package static func translate(
    json: UnsafeRawBufferPointer, dialect: BSONDialect, into buffer: ByteBuffer
  ) throws(WireError) {
    let document = try JSONScanner.validate(json)
    buffer.reserve(json.count)
    var walker = JSONWalker(json, document)
    guard walker.next() == .object else { throw WireError("BSON: a document must be an object") }
    guard json.count <= Int(Int32.max) / 16 else { throw WireError("BSON: the document is too long", status: 413) }
    var keys = KeyTracker()
    try container(isArray: false, &walker, &keys, dialect, into: buffer)
  }

  private static func container(
    isArray: Bool, _ walker: inout JSONWalker, _ keys: inout KeyTracker, _ dialect: BSONDialect,
    into buffer: ByteBuffer
  ) throws(WireError) {
    walker.enter()
    let start = buffer.count
    let seen = keys.open()
    append(0 as Int32, into: buffer)
    var index = 0
    while var kind = walker.next() {
      let type = buffer.count
      buffer.append(0 as UInt8)
      if isArray {
        buffer.append(decimal: index)
        index += 1
      } else {
        let offset = walker.offset
        let name = buffer.count
        walker.string(into: buffer)
        let range = name..<buffer.count
        guard !buffer.bytes(range).contains(0) else { throw WireError("BSON: a name holds a zero", offset: offset) }
        guard keys.isNew(range, in: buffer, seen) else { throw WireError("JSON: a key comes twice", offset: offset) }
        guard let next = walker.next() else { break }
        kind = next
      }
      buffer.append(0 as UInt8)
      let code = try value(kind, &walker, &keys, dialect, into: buffer)
      buffer.base.storeBytes(of: code, toByteOffset: type, as: UInt8.self)
    }
    keys.close(seen)
    buffer.append(0 as UInt8)
    overwrite(buffer.count - start, at: start, in: buffer)
  }

  /// Writes a value and says its type.
  private static func value(
    _ kind: JSONKind, _ walker: inout JSONWalker, _ keys: inout KeyTracker, _ dialect: BSONDialect,
    into buffer: ByteBuffer
  ) throws(WireError) -> UInt8 {
    switch kind {
    case .null:
      walker.null()
      return 0x0A
    case .bool:
      buffer.append(walker.bool() ? 1 as UInt8 : 0)
      return 0x08
    case .number:
      let offset = walker.offset
      switch try walker.number() {
      case .signed(let value):
        if dialect == .standard, let small = Int32(exactly: value) {
          append(small, into: buffer)
          return 0x10
        }
        append(value, into: buffer)
        return 0x12
      case .unsigned(let value):
        guard dialect == .vitess else { throw WireError("BSON: an integer exceeds int64", offset: offset) }
        append(value, into: buffer)
        return 0x12
      case .float(let value):
        append(value.bitPattern, into: buffer)
        return 0x01
      }
    case .string:
      let start = buffer.count
      append(0 as Int32, into: buffer)
      if dialect == .vitess { buffer.append(0 as UInt8) }
      let content = buffer.count
      walker.string(into: buffer)
      if dialect == .standard { buffer.append(0 as UInt8) }
      overwrite(buffer.count - content, at: start, in: buffer)
      return dialect == .vitess ? 0x05 : 0x02
    case .object, .array:
      try container(isArray: kind == .array, &walker, &keys, dialect, into: buffer)
      return kind == .array ? 0x04 : 0x03
    }
  }

  // MARK: Parts of an envelope

  /// Opens a document to which `append(name:…)` adds; the result goes to `close`.
  static func open(_ buffer: ByteBuffer) -> Int {
    append(0 as Int32, into: buffer)
    return buffer.count - 4
  }

  static func close(_ start: Int, in buffer: ByteBuffer) {
    buffer.append(0 as UInt8)
    overwrite(buffer.count - start, at: start, in: buffer)
  }

  /// A member whose value is a string in the framework's dialect.
  static func append(name: StaticString, string: UnsafeRawBufferPointer, into buffer: ByteBuffer) {
    buffer.append(0x05 as UInt8)
    buffer.append(name)
    buffer.append(0 as UInt8)
    append(Int32(truncatingIfNeeded: string.count), into: buffer)
    buffer.append(0 as UInt8)
    buffer.append(string)
  }

  static func append(name: StaticString, int64 value: UInt64, into buffer: ByteBuffer) {
    buffer.append(0x12 as UInt8)
    buffer.append(name)
    buffer.append(0 as UInt8)
    append(value, into: buffer)
  }

  private static func append<T: FixedWidthInteger>(_ value: T, into buffer: ByteBuffer) {
    withUnsafeBytes(of: value.littleEndian) { buffer.append($0) }
  }

  /// A length, at the place left for it. JSON of a length checked before grows less than sixteenfold.
  private static func overwrite(_ length: Int, at offset: Int, in buffer: ByteBuffer) {
    buffer.overwrite(bigEndian: UInt32(truncatingIfNeeded: length).byteSwapped, at: offset)
  }
}
