// JSON into protobuf in one pass over its bytes: each value is written as soon as it is read, no tree is built and
// nothing is allocated per field. What JSON a message has is told by protobuf's ProtoJSON page; what more is taken is
// listed in docs/transcoding.md.
//
// A nested message's length stands before it and is known after it: one byte is left for it, and what follows moves
// when it turns out to need more. Most messages are shorter than 128 bytes, and moving the others costs less than
// measuring everything twice.

/// Translates JSON documents. One per loop: it keeps its scratch memory from call to call. Errors: `TranscodeError`.
package final class JSONToProtobuf: Transcoder {
  /// The root's types; kept alive by the caller.
  var pool: Unmanaged<DescriptorPool>?
  var unknownFields = UnknownFields.refuse
  /// Text of keys and numbers with escapes.
  private(set) var text = ByteBuffer(capacity: 256)
  /// Bytes of `text` that are kept for the next message.
  private static let keptTextBytes = 64 * 1024
  /// Type URLs with escapes, of all Anys under way.
  private var urls: [FixedBytes] = []

  /// Appends `json` as a message of this type to `buffer`. White space alone is the empty message, as go-micro sends
  /// it. After an error the buffer is as it was.
  package func transcode(
    _ json: UnsafeRawBufferPointer, to message: ProtoMessage, unknownFields: UnknownFields = .refuse,
    into buffer: ByteBuffer
  ) throws(TranscodeError) {
    begin(json, into: buffer, room: json.count + 64)
    pool = .passUnretained(message.pool)
    self.unknownFields = unknownFields
    if !urls.isEmpty { urls.removeAll() }
    if text.capacity > Self.keptTextBytes { text = ByteBuffer(capacity: 256) }
    do throws(Stop) {
      skipWhitespace()
      if position < end { try self.message(message.table) }
      skipWhitespace()
      guard position == end else { throw fail("nothing may follow the document") }
    } catch {
      throw abandon()
    }
    finish()
  }

  // MARK: Writing

  /// For this and the next two, `reserve` comes first: 16 bytes are enough for a tag and a number.
  @inline(__always) func put(tag field: UnsafeMutablePointer<FieldTable>) {
    UnsafeMutableRawPointer(output).storeBytes(of: field.pointee.tag.littleEndian, as: UInt64.self)
    output += field.pointee.tagBytes
  }

  @inline(__always) func put(varint value: UInt64) {
    var value = value
    while value >= 0x80 {
      output.pointee = UInt8(truncatingIfNeeded: value) | 0x80
      output += 1
      value &>>= 7
    }
    output.pointee = UInt8(truncatingIfNeeded: value)
    output += 1
  }

  @inline(__always) func put(fixed value: UInt64) {
    UnsafeMutableRawPointer(output).storeBytes(of: value.littleEndian, as: UInt64.self)
    output += 8
  }

  @inline(__always) func put(fixed value: UInt32) {
    UnsafeMutableRawPointer(output).storeBytes(of: value.littleEndian, as: UInt32.self)
    output += 4
  }

  /// Leaves a byte for the length of what follows; `close` gets the answer.
  @inline(__always) func open() -> Int {
    reserve(1)
    output += 1
    return written
  }

  @inline(__always) func close(_ start: Int) {
    let length = written &- start
    if length < 0x80 {
      bytesWritten(from: start &- 1).pointee = UInt8(truncatingIfNeeded: length)
    } else {
      closeLong(start, length)
    }
  }

  @inline(never) private func closeLong(_ start: Int, _ length: Int) {
    let more = ProtobufWriter.varintSize(UInt64(length)) - 1
    reserve(more)
    let body = UnsafeMutableRawPointer(bytesWritten(from: start))
    (body + more).copyMemory(from: body, byteCount: length)
    output = bytesWritten(from: start - 1)
    put(varint: UInt64(length))
    output += length
  }

  // MARK: Messages

  /// The value at the cursor as a message, whose length is the caller's business.
  func message(_ table: UnsafeMutablePointer<MessageTable>) throws(Stop) {
    if table.pointee.kind == .plain { return try object(table) }
    try wellKnown(table)
  }

  /// A nested message with its tag.
  func nested(_ field: UnsafeMutablePointer<FieldTable>) throws(Stop) {
    guard let table = field.pointee.message else { throw fail("the descriptors lack this field's type") }
    reserve(8)
    put(tag: field)
    let start = open()
    try enter()
    try message(table)
    depth &-= 1
    close(start)
  }

  /// An object as the fields of a message. `skipsType`: its `@type` has been read before.
  func object(_ table: UnsafeMutablePointer<MessageTable>, skipsType: Bool = false) throws(Stop) {
    guard position < end, position.pointee == UInt8(ascii: "{") else {
      throw fail("an object is expected for \(String(decoding: table.pointee.name, as: UTF8.self))")
    }
    if table.pointee.isMessageSet { throw fail("message sets (message_set_wire_format) have no JSON") }
    position += 1
    let firstWord = pushSeen(table.pointee.seenWords)
    var hint = 0
    var requiredCount = 0
    skipWhitespace()
    if position < end, position.pointee == UInt8(ascii: "}") {
      position += 1
    } else {
      while true {
        if let field = try key(table, &hint, skipsType) {
          path[depth].field = field
          guard mark(field.pointee.index, from: firstWord) else { throw fail("the field is given twice") }
          if try value(of: field, firstWord), field.pointee.isRequired { requiredCount &+= 1 }
        }
        path[depth] = PathStep()
        if try isLast(UInt8(ascii: "}")) { break }
        skipWhitespace()
      }
    }
    if requiredCount != table.pointee.requiredCount { throw missing(table, firstWord) }
    popSeen(firstWord)
  }

  /// Steps over what follows a value: true for the container's end.
  @inline(__always) func isLast(_ close: UInt8) throws(Stop) -> Bool {
    skipWhitespace()
    guard position < end else { throw fail("the document ends too early") }
    let byte = position.pointee
    guard byte == UInt8(ascii: ",") || byte == close else { throw fail("a comma or the container's end is expected") }
    position += 1
    return byte == close
  }

  /// The value of a field; false for a null, which sets nothing.
  private func value(of field: UnsafeMutablePointer<FieldTable>, _ firstWord: Int) throws(Stop) -> Bool {
    skipWhitespace()
    guard position < end else { throw fail("the document ends too early") }
    if position.pointee == UInt8(ascii: "n"), !takesNull(field) || field.pointee.shape != .singular {
      try literal("null")
      if field.pointee.isRequired { throw fail("a required field cannot be null") }
      return false
    }
    if field.pointee.oneofBit >= 0, !mark(field.pointee.oneofBit, from: firstWord) {
      throw fail("another field of the same oneof is given too")
    }
    switch field.pointee.shape {
    case .singular: return try singular(field, keepsZero: field.pointee.hasPresence)
    case .repeated: try array(field)
    case .map: try map(field)
    }
    return true
  }

  /// Whether null is a value of the field's type: of google.protobuf.Value and NullValue.
  func takesNull(_ field: UnsafeMutablePointer<FieldTable>) -> Bool {
    if let message = field.pointee.message { return message.pointee.kind == .value }
    return field.pointee.enumeration?.pointee.isNullValue ?? false
  }

  // MARK: Keys

  /// Reads a key and its colon; nil when the member has been skipped. The next field in order is the likeliest, and its
  /// name is compared before a hash is made.
  @inline(__always) private func key(
    _ table: UnsafeMutablePointer<MessageTable>, _ hint: inout Int, _ skipsType: Bool
  ) throws(Stop) -> UnsafeMutablePointer<FieldTable>? {
    let fields = table.pointee.fields
    if hint < fields.count {
      let field = fields.baseAddress.unsafelyUnwrapped + hint
      let jsonKey = field.pointee.jsonKey
      if matches(jsonKey) {
        hint &+= 1
        return field
      }
      let originalKey = field.pointee.originalKey
      if originalKey.baseAddress != jsonKey.baseAddress, matches(originalKey) {
        hint &+= 1
        return field
      }
    }
    return try searchedKey(table, &hint, skipsType)
  }

  @inline(__always) private func matches(_ key: UnsafeRawBufferPointer) -> Bool {
    guard end - position >= key.count,
      Bytes.areEqual(
        position, key.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt8.self), key.count)
    else { return false }
    position += key.count
    return true
  }

  @inline(never) private func searchedKey(
    _ table: UnsafeMutablePointer<MessageTable>, _ hint: inout Int, _ skipsType: Bool
  ) throws(Stop) -> UnsafeMutablePointer<FieldTable>? {
    let keyStart = position
    let name = try self.name()
    if let place = table.pointee.names.find(name.base, name.count) {
      hint = Int(place) &+ 1
      return table.pointee.fields.baseAddress.unsafelyUnwrapped + Int(place)
    }
    let bytes = UnsafeRawBufferPointer(start: name.base, count: name.count)
    if !(skipsType && ASCIIText.equals(bytes, "@type")), unknownFields == .refuse {
      throw fail(
        "\(String(decoding: table.pointee.name, as: UTF8.self)) has no field "
          + "\"\(String(decoding: bytes.prefix(64), as: UTF8.self))\"", at: keyStart)
    }
    try skipValue()
    path[depth] = PathStep()
    return nil
  }

  /// A key as text, and its colon stepped over. Valid until the next key or number is read.
  func name() throws(Stop) -> (base: UnsafePointer<UInt8>, count: Int) {
    guard position < end, position.pointee == UInt8(ascii: "\"") else { throw fail("a key is expected") }
    let (content, isEscaped) = try string()
    skipWhitespace()
    guard position < end, position.pointee == UInt8(ascii: ":") else { throw fail("a colon is expected") }
    position += 1
    return try unescaped(content, isEscaped)
  }

  /// The text of a string's content, copied only if it has escapes.
  func unescaped(_ content: UnsafeRawBufferPointer, _ isEscaped: Bool) throws(Stop) -> (
    base: UnsafePointer<UInt8>, count: Int
  ) {
    guard isEscaped else {
      let base = content.baseAddress?.assumingMemoryBound(to: UInt8.self)
      return (base ?? UnsafePointer(placeholder), content.count)
    }
    text.removeAll()
    text.reserve(content.count + 16)
    let base = text.base.assumingMemoryBound(to: UInt8.self)
    let count = try unescape(content, to: base)
    return (UnsafePointer(base), count)
  }

  /// Checks the value at the cursor and steps over it.
  func skipValue() throws(Stop) {
    var scanner = JSONScanner(UnsafeRawBufferPointer(start: start, count: end - start), at: position - start)
    do throws(WireError) {
      _ = try scanner.scanValue()
      position = start + scanner.offset
    } catch {
      throw fail(error.rule, at: start + error.offset)
    }
  }

  /// Keeps a type URL until the document has been read. Nobody escapes them, so that it may allocate.
  func escapedURL(_ bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
    let copy = FixedBytes(bytes)
    urls.append(copy)
    return copy.span
  }

  // MARK: Arrays and maps

  func array(_ field: UnsafeMutablePointer<FieldTable>) throws(Stop) {
    guard position < end, position.pointee == UInt8(ascii: "[") else { throw fail("an array is expected") }
    position += 1
    skipWhitespace()
    if position < end, position.pointee == UInt8(ascii: "]") {
      position += 1
      return
    }
    let isPacked = field.pointee.isPacked
    let takesNull = takesNull(field)
    var start = 0
    var tagStart = 0
    if isPacked {
      reserve(8)
      tagStart = written
      put(tag: field)
      start = open()
    }
    path[depth].index = 0
    repeat {
      skipWhitespace()
      guard position < end else { throw fail("the document ends too early") }
      if position.pointee == UInt8(ascii: "n"), !takesNull { throw fail("null cannot be an element") }
      if isPacked {
        _ = try scalar(field, isTagged: false, keepsZero: true)
      } else {
        _ = try singular(field, keepsZero: true)
      }
      path[depth].index &+= 1
    } while try !isLast(UInt8(ascii: "]"))
    if isPacked {
      // Nothing but names of enums that are ignored.
      if written == start { rollBack(to: tagStart) } else { close(start) }
    }
  }

  func map(_ field: UnsafeMutablePointer<FieldTable>) throws(Stop) {
    guard let entry = field.pointee.message?.pointee.fields.baseAddress else {
      throw fail("the descriptors lack this field's type")
    }
    guard position < end, position.pointee == UInt8(ascii: "{") else { throw fail("an object is expected") }
    position += 1
    skipWhitespace()
    if position < end, position.pointee == UInt8(ascii: "}") {
      position += 1
      return
    }
    let valueField = entry + 1
    let takesNull = takesNull(valueField)
    let firstKey = keys.count
    repeat {
      skipWhitespace()
      reserve(8)
      let tagStart = written
      put(tag: field)
      let start = open()
      try mapKey(entry)
      let keyBytes = written - start
      skipWhitespace()
      guard position < end else { throw fail("the document ends too early") }
      if position.pointee == UInt8(ascii: "n"), !takesNull { throw fail("null cannot be a value of a map") }
      // An entry is a message of its own on the wire.
      let outer = depth
      guard depth < Self.depthMax else { throw fail("messages are nested more than \(Self.depthMax) deep") }
      depth &+= 1
      path[depth] = PathStep()
      let isTaken = try singular(valueField, keepsZero: true)
      depth = outer
      if isTaken {
        let length = written - start
        close(start)
        keys.append(start: written - length, count: keyBytes)
      } else {
        rollBack(to: tagStart)
      }
    } while try !isLast(UInt8(ascii: "}"))
    if keys.hasDuplicates(from: firstKey, in: UnsafePointer(bytesWritten(from: 0))) {
      throw fail("a key of the map is given twice")
    }
    keys.truncate(to: firstKey)
    path[depth].key = nil
  }

  /// Writes a map's key and steps over the colon.
  private func mapKey(_ field: UnsafeMutablePointer<FieldTable>) throws(Stop) {
    guard position < end, position.pointee == UInt8(ascii: "\"") else { throw fail("a key is expected") }
    let keyStart = position
    switch field.pointee.type {
    case .string: _ = try singular(field, keepsZero: true)
    case .bool:
      let (content, isEscaped) = try string()
      let name = try unescaped(content, isEscaped)
      let bytes = UnsafeRawBufferPointer(start: name.base, count: name.count)
      let isTrue = ASCIIText.equals(bytes, "true")
      guard isTrue || ASCIIText.equals(bytes, "false") else {
        throw fail("a key of the map must be \"true\" or \"false\"", at: keyStart)
      }
      reserve(16)
      put(tag: field)
      put(varint: isTrue ? 1 : 0)
    default: _ = try scalar(field, isTagged: true, keepsZero: true)
    }
    path[depth].key = UnsafeRawBufferPointer(start: keyStart + 1, count: max(position - keyStart - 2, 0))
    skipWhitespace()
    guard position < end, position.pointee == UInt8(ascii: ":") else { throw fail("a colon is expected") }
    position += 1
  }
}
