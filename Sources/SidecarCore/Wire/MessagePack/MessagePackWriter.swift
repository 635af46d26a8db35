// Writes JSON as MessagePack, in the shortest form of each value but for long containers (see `close`). Strings stay
// strings: which of them are base64 or times, nothing says.

package enum MessagePackWriter {
  /// Bytes of an element count and of what it counts; a container whose content is longer keeps the five bytes that were
  /// left for its count, which are legal for any count. Shorter ones are moved up to their shortest head, at most once
  /// per level of nesting.
  private static let movedMax = 4096

  /// Writes one JSON document. Errors: `WireError` for what is no JSON, for a key that comes twice and for a number that
  /// neither an integer of 64 bits nor a double holds; then what was written is to be dropped.
  package static func translate(json: UnsafeRawBufferPointer, into buffer: ByteBuffer) throws(WireError) {
    let document = try JSONScanner.validate(json)
    buffer.reserve(json.count)
    var walker = JSONWalker(json, document)
    var keys = KeyTracker()
    guard let kind = walker.next() else { return }
    try value(kind, &walker, &keys, into: buffer)
  }

  private static func value(
    _ kind: JSONKind, _ walker: inout JSONWalker, _ keys: inout KeyTracker, into buffer: ByteBuffer
  ) throws(WireError) {
    switch kind {
    case .null:
      walker.null()
      buffer.append(0xC0 as UInt8)
    case .bool: buffer.append(walker.bool() ? 0xC3 as UInt8 : 0xC2)
    case .number:
      switch try walker.number() {
      case .signed(let value): append(value, into: buffer)
      case .unsigned(let value): append(value, into: buffer)
      case .float(let value):
        buffer.append(0xCB as UInt8)
        append(bigEndian: value.bitPattern, into: buffer)
      }
    case .string: string(&walker, into: buffer)
    case .array:
      walker.enter()
      let start = open(buffer)
      var count = 0
      while let kind = walker.next() {
        try value(kind, &walker, &keys, into: buffer)
        count += 1
      }
      close(start, count, fix: 0x90, wide: 0xDC, in: buffer)
    case .object:
      walker.enter()
      let start = open(buffer)
      let seen = keys.open()
      var count = 0
      while walker.next() != nil {
        let offset = walker.offset
        let written = buffer.count
        string(&walker, into: buffer)
        guard keys.isNew(written..<buffer.count, in: buffer, seen) else {
          throw WireError("JSON: a key comes twice", offset: offset)
        }
        guard let kind = walker.next() else { break }
        try value(kind, &walker, &keys, into: buffer)
        count += 1
      }
      keys.close(seen)
      close(start, count, fix: 0x80, wide: 0xDE, in: buffer)
    }
  }

  private static func string(_ walker: inout JSONWalker, into buffer: ByteBuffer) {
    let text = walker.string()
    guard text.isEscaped else {
      return append(string: UnsafeRawBufferPointer(rebasing: walker.bytes[text.content]), into: buffer)
    }
    let plain = ByteBuffer(capacity: text.content.count)
    JSONText.unescape(walker.bytes, text.content, into: plain)
    append(string: plain.bytes, into: buffer)
  }

  // MARK: Containers

  private static func open(_ buffer: ByteBuffer) -> Int {
    let start = buffer.count
    buffer.append(0 as UInt8)
    buffer.append(bigEndian: 0)
    return start
  }

  /// Writes the head into the place left for it. `fix` is the code of up to 15 elements, `wide` that of 16 bits.
  private static func close(_ start: Int, _ count: Int, fix: UInt8, wide: UInt8, in buffer: ByteBuffer) {
    let base = buffer.base
    let content = buffer.count - start - 5
    if content <= movedMax, count < 65_536 {
      let head = count < 16 ? 1 : 3
      (base + start + head).copyMemory(from: base + start + 5, byteCount: content)
      buffer.truncate(to: start + head + content)
      base.storeBytes(of: count < 16 ? fix | UInt8(count) : wide, toByteOffset: start, as: UInt8.self)
      if count >= 16 {
        base.storeBytes(of: UInt16(count).bigEndian, toByteOffset: start + 1, as: UInt16.self)
      }
    } else {
      base.storeBytes(of: wide + 1, toByteOffset: start, as: UInt8.self)
      buffer.overwrite(bigEndian: UInt32(truncatingIfNeeded: count), at: start + 1)
    }
  }

  // MARK: Scalars

  package static func append(string text: UnsafeRawBufferPointer, into buffer: ByteBuffer) {
    switch text.count {
    case 0..<32: buffer.append(0xA0 | UInt8(text.count))
    case 32..<256:
      buffer.append(0xD9 as UInt8)
      buffer.append(UInt8(text.count))
    case 256..<65_536:
      buffer.append(0xDA as UInt8)
      append(bigEndian: UInt16(text.count), into: buffer)
    default:
      precondition(text.count <= Int(UInt32.max), "a message is far below 4 GiB")
      buffer.append(0xDB as UInt8)
      buffer.append(bigEndian: UInt32(text.count))
    }
    buffer.append(text)
  }

  package static func append(_ value: UInt64, into buffer: ByteBuffer) {
    switch value {
    case 0..<128: buffer.append(UInt8(value))
    case 128..<256:
      buffer.append(0xCC as UInt8)
      buffer.append(UInt8(value))
    case 256..<65_536:
      buffer.append(0xCD as UInt8)
      append(bigEndian: UInt16(value), into: buffer)
    case 65_536...UInt64(UInt32.max):
      buffer.append(0xCE as UInt8)
      buffer.append(bigEndian: UInt32(value))
    default:
      buffer.append(0xCF as UInt8)
      append(bigEndian: value, into: buffer)
    }
  }

  package static func append(_ value: Int64, into buffer: ByteBuffer) {
    if value >= 0 { return append(UInt64(value), into: buffer) }
    if value >= -32 {
      buffer.append(UInt8(bitPattern: Int8(value)))
    } else if value >= Int64(Int8.min) {
      buffer.append(0xD0 as UInt8)
      buffer.append(UInt8(bitPattern: Int8(value)))
    } else if value >= Int64(Int16.min) {
      buffer.append(0xD1 as UInt8)
      append(bigEndian: UInt16(bitPattern: Int16(value)), into: buffer)
    } else if value >= Int64(Int32.min) {
      buffer.append(0xD2 as UInt8)
      buffer.append(bigEndian: UInt32(bitPattern: Int32(value)))
    } else {
      buffer.append(0xD3 as UInt8)
      append(bigEndian: UInt64(bitPattern: value), into: buffer)
    }
  }

  private static func append<T: FixedWidthInteger>(bigEndian value: T, into buffer: ByteBuffer) {
    withUnsafeBytes(of: value.bigEndian) { buffer.append($0) }
  }
}
