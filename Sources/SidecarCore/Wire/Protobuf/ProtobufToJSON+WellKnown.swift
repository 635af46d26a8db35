// Well-known types in the JSON that protobuf gives them.

extension ProtobufToJSON {
  /// What is left up to `end` as a message of a well-known type.
  func wellKnown(_ table: UnsafeMutablePointer<MessageTable>) throws(Stop) {
    guard let fields = table.pointee.fields.baseAddress else { return try object(table) }
    switch table.pointee.kind {
    case .structure: return try structure(table, fields)
    case .listValue: return try list(table, fields)
    case .value: return try value(table, fields)
    case .plain, .empty: return try object(table)
    case .any, .timestamp, .duration, .fieldMask, .wrapper: break
    }
    if form.contains(.plainWellKnownTypes) { return try object(table) }
    switch table.pointee.kind {
    case .any: try any(table, fields)
    case .timestamp: try time(table, isTimestamp: true)
    case .duration: try time(table, isTimestamp: false)
    case .fieldMask: try fieldMask(table)
    case .wrapper:
      if try last(1, table, fields) {
        try value(fields, isMember: false, needsComma: false)
      } else {
        zero(fields)
      }
    case .structure, .listValue, .value, .plain, .empty: break
    }
    position = end
  }

  /// Goes to the last value of a field; false, and the cursor is at the end, when there is none.
  private func last(
    _ number: UInt32, _ table: UnsafeMutablePointer<MessageTable>, _ field: UnsafeMutablePointer<FieldTable>
  ) throws(Stop) -> Bool {
    var found: UnsafePointer<UInt8>?
    while position < end {
      let tagStart = position
      let tag = try self.tag()
      guard tag &>> 3 == number else {
        try unknown(tag, table, at: tagStart)
        continue
      }
      guard UInt8(truncatingIfNeeded: tag & 7) == field.pointee.type.wireType else { throw wrongType(tagStart) }
      found = position
      try skip(tag)
    }
    guard let found else { return false }
    position = found
    return true
  }

  // MARK: Struct

  private func structure(
    _ table: UnsafeMutablePointer<MessageTable>, _ field: UnsafeMutablePointer<FieldTable>
  ) throws(Stop) {
    reserve(1)
    put(UInt8(ascii: "{"))
    let firstKey = keys.count
    while position < end {
      let tagStart = position
      let tag = try self.tag()
      if tag &>> 3 == 1 {
        try entries(field, tag, follow: keys.count > firstKey)
      } else {
        try unknown(tag, table, at: tagStart)
      }
    }
    path[depth] = PathStep()
    dropOverwritten(from: firstKey)
    reserve(1)
    put(UInt8(ascii: "}"))
  }

  private func list(
    _ table: UnsafeMutablePointer<MessageTable>, _ field: UnsafeMutablePointer<FieldTable>
  ) throws(Stop) {
    reserve(1)
    put(UInt8(ascii: "["))
    var count = 0
    while position < end {
      let tagStart = position
      let tag = try self.tag()
      guard tag &>> 3 == 1 else {
        try unknown(tag, table, at: tagStart)
        continue
      }
      if count > 0 {
        reserve(1)
        put(UInt8(ascii: ","))
      }
      count += try elements(field, tag)
    }
    path[depth] = PathStep()
    reserve(1)
    put(UInt8(ascii: "]"))
  }

  /// The one member that is set; `null` when none is, as most implementations have it.
  private func value(
    _ table: UnsafeMutablePointer<MessageTable>, _ fields: UnsafeMutablePointer<FieldTable>
  ) throws(Stop) {
    let bodyStart = position
    var count = 0
    var last: (field: UnsafeMutablePointer<FieldTable>, place: UnsafePointer<UInt8>)?
    while position < end {
      let tagStart = position
      let tag = try self.tag()
      guard let field = table.pointee.field(number: tag &>> 3) else {
        try unknown(tag, table, at: tagStart)
        continue
      }
      guard UInt8(truncatingIfNeeded: tag & 7) == field.pointee.type.wireType else { throw wrongType(tagStart) }
      last = (field, position)
      count += 1
      try skip(tag)
    }
    guard let last else {
      reserve(8)
      return put("null")
    }
    if count > 1 {
      position = bodyStart
      return try inOrder(table) { () throws(Stop) in try value(table, fields) }
    }
    position = last.place
    if last.field.pointee.type == .double, end - position >= 8 {
      let bits = UInt64(littleEndian: UnsafeRawPointer(position).loadUnaligned(as: UInt64.self))
      guard Double(bitPattern: bits).isFinite else { throw fail("google.protobuf.Value holds no NaN and no infinity") }
    }
    try value(last.field, isMember: false, needsComma: false)
    position = end
  }

  // MARK: Any

  private func any(
    _ table: UnsafeMutablePointer<MessageTable>, _ fields: UnsafeMutablePointer<FieldTable>
  ) throws(Stop) {
    let anyStart = position
    var url = UnsafeRawBufferPointer(start: position, count: 0)
    var content = url
    while position < end {
      let tagStart = position
      let tag = try self.tag()
      guard tag &>> 3 == 1 || tag &>> 3 == 2 else {
        try unknown(tag, table, at: tagStart)
        continue
      }
      guard tag & 7 == 2 else { throw wrongType(tagStart) }
      let length = try self.length()
      let bytes = UnsafeRawBufferPointer(start: position, count: length)
      if tag &>> 3 == 1 { url = bytes } else { content = bytes }
      position += length
    }
    reserve(32)
    if url.count == 0 {
      guard content.count == 0 else { throw fail("google.protobuf.Any has a value and no type_url", at: anyStart) }
      return put("{}")
    }
    guard let slash = url.lastIndex(of: UInt8(ascii: "/")), slash + 1 < url.count else {
      throw fail("type_url must be a URL such as type.googleapis.com/package.Message", at: anyStart)
    }
    let name = UnsafeRawBufferPointer(rebasing: url[(slash + 1)...])
    guard let pool, let inner = pool._withUnsafeGuaranteedRef({ $0.table(name) }) else {
      throw fail(
        "the descriptors have no type \(String(decoding: name.prefix(256), as: UTF8.self)) (type_url); add its file to "
          + "MICRO_DESCRIPTORS", at: anyStart)
    }
    put("{\"@type\":")
    let outerEnd = end
    position = url.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt8.self)
    try string(url.count)
    position = content.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt8.self)
    end = position + content.count
    try enter()
    switch inner.pointee.kind {
    case .plain, .empty: try members(inner, follow: true)
    case .any, .timestamp, .duration, .fieldMask, .structure, .value, .listValue, .wrapper:
      reserve(16)
      put(",\"value\":")
      try message(inner)
    }
    depth &-= 1
    reserve(1)
    put(UInt8(ascii: "}"))
    end = outerEnd
    position = end
  }

  // MARK: Times

  private func time(_ table: UnsafeMutablePointer<MessageTable>, isTimestamp: Bool) throws(Stop) {
    let timeStart = position
    var time = ProtoTime(seconds: 0, nanoseconds: 0)
    while position < end {
      let tagStart = position
      let tag = try self.tag()
      switch tag {
      case 0x08: time.seconds = Int64(bitPattern: try varint())
      case 0x10: time.nanoseconds = Int32(truncatingIfNeeded: try varint())
      default:
        if tag &>> 3 == 1 || tag &>> 3 == 2 { throw wrongType(tagStart) }
        try unknown(tag, table, at: tagStart)
      }
    }
    reserve(48)
    put(UInt8(ascii: "\""))
    guard let count = isTimestamp ? time.writeTimestamp(to: output) : time.writeDuration(to: output) else {
      throw fail(
        isTimestamp
          ? "a time outside the years 1 to 9999, or with nanoseconds outside a second, has no JSON"
          : "a duration of more than 10,000 years, or with parts of different signs, has no JSON", at: timeStart)
    }
    output += count
    put(UInt8(ascii: "\""))
  }

  // MARK: FieldMask

  private func fieldMask(_ table: UnsafeMutablePointer<MessageTable>) throws(Stop) {
    reserve(2)
    put(UInt8(ascii: "\""))
    var isFirst = true
    while position < end {
      let tagStart = position
      let tag = try self.tag()
      guard tag &>> 3 == 1 else {
        try unknown(tag, table, at: tagStart)
        continue
      }
      guard tag & 7 == 2 else { throw wrongType(tagStart) }
      let length = try self.length()
      let pathEnd = position + length
      reserve(2)
      if !isFirst { put(UInt8(ascii: ",")) }
      isFirst = false
      try camelCase(upTo: pathEnd)
    }
    reserve(1)
    put(UInt8(ascii: "\""))
  }

  /// `user.display_name` as `user.displayName`; what would not read back the same has no JSON.
  private func camelCase(upTo pathEnd: UnsafePointer<UInt8>) throws(Stop) {
    let pathStart = position
    if position == pathEnd { throw fail("a path of a field mask is empty") }
    while position < pathEnd {
      let byte = position.pointee
      reserve(8)
      switch byte {
      case UInt8(ascii: "_"):
        guard pathEnd - position >= 2, position[1] &- UInt8(ascii: "a") < 26 else {
          throw fail("a path of a field mask has an underscore that lowerCamelCase cannot say", at: pathStart)
        }
        put(position[1] &- 32)
        position += 2
      case UInt8(ascii: "A")...UInt8(ascii: "Z"):
        throw fail("a path of a field mask has a capital letter, which snake_case cannot say", at: pathStart)
      case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: ","), 0..<0x20, 0x80...:
        throw fail("a path of a field mask is made of names and dots", at: pathStart)
      default:
        put(byte)
        position += 1
      }
    }
  }
}
