// Well-known types from the JSON that protobuf gives them. Each is taken as the plain object of its fields too, as
// go-micro before 5.14 writes it, wherever that cannot mean anything else.

extension JSONToProtobuf {
  func wellKnown(_ table: UnsafeMutablePointer<MessageTable>) throws(Stop) {
    guard position < end else { throw fail("the document ends too early") }
    let isObject = position.pointee == UInt8(ascii: "{")
    let fields = table.pointee.fields.baseAddress
    switch table.pointee.kind {
    case .plain, .empty: try object(table)
    case .any: try any(table)
    case .structure:
      path[depth].field = nil
      if let fields { try map(fields) }
    case .listValue:
      path[depth].field = nil
      if let fields { try array(fields) }
      path[depth].index = -1
    case .value: if let fields { try value(fields) }
    case .timestamp: if isObject { try object(table) } else { try timestamp() }
    case .duration: if isObject { try object(table) } else { try duration() }
    case .fieldMask: if isObject { try object(table) } else { try fieldMask() }
    case .wrapper:
      if isObject {
        try object(table)
      } else if let fields {
        _ = try singular(fields, keepsZero: fields.pointee.hasPresence)
      }
    }
  }

  /// google.protobuf.Value: whatever JSON is there. `fields` are its six members.
  private func value(_ fields: UnsafeMutablePointer<FieldTable>) throws(Stop) {
    switch position.pointee {
    case UInt8(ascii: "n"):
      try literal("null")
      reserve(16)
      put(tag: fields)
      put(varint: 0)
    case UInt8(ascii: "\""): _ = try singular(fields + 2, keepsZero: true)
    case UInt8(ascii: "t"), UInt8(ascii: "f"): _ = try singular(fields + 3, keepsZero: true)
    case UInt8(ascii: "{"): try nested(fields + 4)
    case UInt8(ascii: "["): try nested(fields + 5)
    default: _ = try singular(fields + 1, keepsZero: true)
    }
  }

  // MARK: Any

  /// `{"@type": URL, …}` with the fields of that type beside it, or under `value` for types with JSON of their own.
  private func any(_ table: UnsafeMutablePointer<MessageTable>) throws(Stop) {
    guard position.pointee == UInt8(ascii: "{") else { throw fail("an object with \"@type\" is expected") }
    let objectStart = position
    guard let url = try typeURL() else {
      // Without a type it is empty, or the plain message.
      position = objectStart
      return try object(table)
    }
    let name = try url.name(self, at: objectStart)
    guard let pool, let inner = pool._withUnsafeGuaranteedRef({ $0.table(name) }) else {
      throw fail(
        "the descriptors have no type \(String(decoding: name.prefix(256), as: UTF8.self)) (@type); add its file to "
          + "MICRO_DESCRIPTORS", at: objectStart)
    }
    reserve(url.bytes.count + 24)
    output[0] = 0x0A
    output += 1
    put(varint: UInt64(url.bytes.count))
    UnsafeMutableRawPointer(output).copyMemory(from: url.bytes.baseAddress!, byteCount: url.bytes.count)
    output += url.bytes.count
    reserve(8)
    output[0] = 0x12
    output += 1
    let start = open()
    position = objectStart
    try enter()
    if inner.pointee.kind == .plain {
      try object(inner, skipsType: true)
    } else {
      try anyValue(inner)
    }
    depth &-= 1
    close(start)
    // An empty message has no bytes, and proto3 leaves empty bytes out.
    if written == start { rollBack(to: start - 2) }
  }

  private struct TypeURL {
    var bytes: UnsafeRawBufferPointer

    /// What stands behind the last slash.
    func name(_ owner: JSONToProtobuf, at place: UnsafePointer<UInt8>) throws(Stop) -> UnsafeRawBufferPointer {
      guard let slash = bytes.lastIndex(of: UInt8(ascii: "/")), slash + 1 < bytes.count else {
        throw owner.fail("@type must be a URL such as type.googleapis.com/package.Message", at: place)
      }
      return UnsafeRawBufferPointer(rebasing: bytes[(slash + 1)...])
    }
  }

  /// The `@type` of the object at the cursor, wherever in it that stands. Checks the object up to there.
  private func typeURL() throws(Stop) -> TypeURL? {
    position += 1
    skipWhitespace()
    if position < end, position.pointee == UInt8(ascii: "}") { return nil }
    repeat {
      skipWhitespace()
      let name = try self.name()
      let isType = ASCIIText.equals(UnsafeRawBufferPointer(start: name.base, count: name.count), "@type")
      skipWhitespace()
      guard isType else {
        try skipValue()
        continue
      }
      let (content, isEscaped) = try string()
      guard isEscaped else { return TypeURL(bytes: content) }
      // A copy of its own: the scratch text is used again for every key.
      let text = try unescaped(content, true)
      let copy = escapedURL(UnsafeRawBufferPointer(start: text.base, count: text.count))
      return TypeURL(bytes: copy)
    } while try !isLast(UInt8(ascii: "}"))
    return nil
  }

  /// `{"@type": …, "value": …}`; Empty may come without its value, as only some write it.
  private func anyValue(_ table: UnsafeMutablePointer<MessageTable>) throws(Stop) {
    position += 1
    var hasType = false
    var hasValue = false
    repeat {
      skipWhitespace()
      let keyStart = position
      let name = try self.name()
      let bytes = UnsafeRawBufferPointer(start: name.base, count: name.count)
      skipWhitespace()
      if ASCIIText.equals(bytes, "@type") {
        if hasType { throw fail("@type is given twice", at: keyStart) }
        hasType = true
        try skipValue()
      } else if ASCIIText.equals(bytes, "value") {
        if hasValue { throw fail("value is given twice", at: keyStart) }
        hasValue = true
        guard position < end else { throw fail("the document ends too early") }
        try message(table)
      } else if unknownFields == .ignore {
        try skipValue()
      } else {
        throw fail("beside @type only \"value\" is expected for this type", at: keyStart)
      }
    } while try !isLast(UInt8(ascii: "}"))
    guard hasValue || table.pointee.kind == .empty else {
      throw fail("\"value\" is expected beside @type for this type")
    }
  }

  // MARK: Times

  private func timestamp() throws(Stop) {
    let valueStart = position
    let (content, isEscaped) = try string()
    let text = try unescaped(content, isEscaped)
    guard let time = ProtoTime.readTimestamp(UnsafeRawBufferPointer(start: text.base, count: text.count)) else {
      throw fail("a time of the years 1 to 9999 is expected, such as 2024-05-01T12:00:00.5Z", at: valueStart)
    }
    putTime(time)
  }

  private func duration() throws(Stop) {
    let valueStart = position
    let (content, isEscaped) = try string()
    let text = try unescaped(content, isEscaped)
    guard let time = ProtoTime.readDuration(UnsafeRawBufferPointer(start: text.base, count: text.count)) else {
      throw fail("seconds of at most 10,000 years are expected, such as 1.5s", at: valueStart)
    }
    putTime(time)
  }

  /// Timestamp and Duration have the same fields.
  private func putTime(_ time: ProtoTime) {
    reserve(32)
    if time.seconds != 0 {
      output[0] = 0x08
      output += 1
      put(varint: UInt64(bitPattern: time.seconds))
    }
    if time.nanoseconds != 0 {
      output[0] = 0x10
      output += 1
      put(varint: UInt64(bitPattern: Int64(time.nanoseconds)))
    }
  }

  // MARK: FieldMask

  /// `"user.displayName,photo"`: paths with commas between them, in lowerCamelCase.
  private func fieldMask() throws(Stop) {
    let valueStart = position
    let (content, isEscaped) = try string()
    let text = try unescaped(content, isEscaped)
    let last = text.base + text.count
    var at = text.base
    while at < last {
      var stop = at
      while stop < last, stop.pointee != UInt8(ascii: ",") { stop += 1 }
      guard stop > at else {
        throw fail("a path of a field mask is empty", at: valueStart)
      }
      reserve((stop - at) * 2 + 24)
      output[0] = 0x0A
      output += 1
      let start = open()
      while at < stop {
        let byte = at.pointee
        switch byte {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"):
          output[0] = UInt8(ascii: "_")
          output[1] = byte | 0x20
          output += 2
        case UInt8(ascii: "_"): throw fail("paths of a field mask are in lowerCamelCase", at: valueStart)
        default:
          output[0] = byte
          output += 1
        }
        at += 1
      }
      close(start)
      if at < last {
        at += 1
        if at == last { throw fail("a path of a field mask is empty", at: valueStart) }
      }
    }
  }
}
