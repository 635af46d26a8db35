// Protobuf into JSON in one pass over its bytes: each field is written as it comes, no tree is built and nothing is
// allocated per field.
//
// Senders write fields once and elements of a repeated field together, nearly always. Where they do not, JSON needs
// what protobuf's rules make of it (the last value counts, parts of a message are merged, a oneof has one member), so
// the message is put in order first and read again: see ProtobufToJSON+Disorder.swift.

/// Translates messages into JSON. One per loop: it keeps its scratch memory from call to call. Errors:
/// `TranscodeError`.
package final class ProtobufToJSON: Transcoder {
  /// The root's types; kept alive by the caller.
  var pool: Unmanaged<DescriptorPool>?
  var form = ProtoJSONForm.canonical
  var usesOriginalNames = false
  var unknownFields = UnknownFields.ignore

  /// Appends a message of this type as one JSON document to `buffer`. After an error the buffer is as it was.
  package func transcode(
    _ message: UnsafeRawBufferPointer, from type: ProtoMessage, form: ProtoJSONForm = .canonical,
    unknownFields: UnknownFields = .ignore, into buffer: ByteBuffer
  ) throws(TranscodeError) {
    begin(message, into: buffer, room: message.count * 2 + 64)
    pool = .passUnretained(type.pool)
    self.form = form
    usesOriginalNames = form.contains(.originalNames)
    self.unknownFields = unknownFields
    do throws(Stop) {
      try self.message(type.table)
    } catch {
      throw abandon()
    }
    finish()
  }

  // MARK: Messages

  /// What is left up to `end`, as a message.
  func message(_ table: UnsafeMutablePointer<MessageTable>) throws(Stop) {
    if table.pointee.kind == .plain { return try object(table) }
    try wellKnown(table)
  }

  func object(_ table: UnsafeMutablePointer<MessageTable>) throws(Stop) {
    reserve(2)
    put(UInt8(ascii: "{"))
    try members(table, follow: false)
    reserve(1)
    put(UInt8(ascii: "}"))
  }

  /// The fields up to `end` as members of an object. `follow`: others stand before them.
  func members(_ table: UnsafeMutablePointer<MessageTable>, follow: Bool) throws(Stop) {
    if table.pointee.isMessageSet { throw fail("message sets (message_set_wire_format) have no JSON") }
    let bodyStart = position
    let outputStart = written
    let firstWord = pushSeen(table.pointee.seenWords)
    let fields = table.pointee.fields
    var hint = 0
    var requiredCount = 0
    var needsComma = follow
    while position < end {
      let tagStart = position
      let tag = try self.tag()
      let number = tag &>> 3
      let field: UnsafeMutablePointer<FieldTable>
      if hint < fields.count, fields.baseAddress.unsafelyUnwrapped[hint].number == number {
        field = fields.baseAddress.unsafelyUnwrapped + hint
      } else if let found = table.pointee.field(number: number) {
        field = found
      } else {
        try unknown(tag, table, at: tagStart)
        continue
      }
      hint = field.pointee.index &+ 1
      path[depth].field = field
      if !mark(field.pointee.index, from: firstWord)
        || (field.pointee.oneofBit >= 0 && !mark(field.pointee.oneofBit, from: firstWord))
      {
        // Not as senders do it. What has been written is thrown away.
        rollBack(to: outputStart)
        popSeen(firstWord)
        position = bodyStart
        path[depth] = PathStep()
        return try inOrder(table) { () throws(Stop) in try members(table, follow: follow) }
      }
      let before = written
      switch field.pointee.shape {
      case .singular:
        guard UInt8(truncatingIfNeeded: tag & 7) == field.pointee.type.wireType else { throw wrongType(tagStart) }
        if field.pointee.isRequired { requiredCount &+= 1 }
        try value(field, isMember: true, needsComma: needsComma)
      case .repeated: try repeated(field, tag, needsComma)
      case .map: try map(field, tag, needsComma)
      }
      if written != before { needsComma = true }
    }
    path[depth] = PathStep()
    if requiredCount != table.pointee.requiredCount { throw missing(table, firstWord) }
    popSeen(firstWord)
  }

  /// A nested message: its length, then the message. `end` is that of the outer one again afterwards.
  func nested(_ table: UnsafeMutablePointer<MessageTable>) throws(Stop) {
    let outerEnd = end
    let length = try self.length()
    end = position + length
    try enter()
    try message(table)
    depth &-= 1
    position = end
    end = outerEnd
  }

  private func repeated(
    _ field: UnsafeMutablePointer<FieldTable>, _ firstTag: UInt32, _ needsComma: Bool
  ) throws(Stop) {
    let before = written
    key(field, needsComma)
    put(UInt8(ascii: "["))
    if try elements(field, firstTag) == 0 {
      // Packed, and nothing in it, or nothing but unknown values of a closed enum.
      rollBack(to: before)
    } else {
      reserve(1)
      put(UInt8(ascii: "]"))
    }
  }

  /// Elements that stand together, packed or not, with commas between them; how many.
  func elements(_ field: UnsafeMutablePointer<FieldTable>, _ firstTag: UInt32) throws(Stop) -> Int {
    var tag = firstTag
    var count = 0
    @inline(__always) func element() throws(Stop) {
      path[depth].index = count
      let before = written
      if count > 0 {
        reserve(1)
        put(UInt8(ascii: ","))
      }
      let start = written
      try value(field, isMember: false, needsComma: false)
      if written == start { rollBack(to: before) } else { count &+= 1 }
    }
    while true {
      let wireType = UInt8(truncatingIfNeeded: tag & 7)
      if wireType == field.pointee.type.wireType {
        try element()
      } else if wireType == 2, field.pointee.type.isPackable {
        let length = try self.length()
        let outerEnd = end
        end = position + length
        while position < end { try element() }
        end = outerEnd
      } else {
        throw wrongType(position)
      }
      guard position < end else { break }
      let next = position
      tag = try self.tag()
      if tag &>> 3 != field.pointee.number {
        position = next
        break
      }
    }
    path[depth].index = -1
    return count
  }

  private func map(_ field: UnsafeMutablePointer<FieldTable>, _ firstTag: UInt32, _ needsComma: Bool) throws(Stop) {
    let before = written
    key(field, needsComma)
    put(UInt8(ascii: "{"))
    let firstKey = keys.count
    try entries(field, firstTag, follow: false)
    if keys.count == firstKey {
      rollBack(to: before)
      return
    }
    dropOverwritten(from: firstKey)
    reserve(1)
    put(UInt8(ascii: "}"))
  }

  /// Entries that stand together, as members of an object.
  func entries(_ field: UnsafeMutablePointer<FieldTable>, _ firstTag: UInt32, follow: Bool) throws(Stop) {
    guard let entry = field.pointee.message else { throw fail("the descriptors lack this field's type") }
    guard firstTag & 7 == 2 else { throw wrongType(position) }
    var needsComma = follow
    while true {
      let outerEnd = end
      let length = try self.length()
      end = position + length
      let before = written
      try self.entry(entry, needsComma)
      if written != before { needsComma = true }
      position = end
      end = outerEnd
      guard position < end else { break }
      let next = position
      let tag = try self.tag()
      if tag &>> 3 != field.pointee.number {
        position = next
        break
      }
      guard tag & 7 == 2 else { throw wrongType(next) }
    }
    path[depth].writtenKey = nil
  }

  /// An entry is a message of a key (1) and a value (2), which may be missing and may come in any order.
  private func entry(_ table: UnsafeMutablePointer<MessageTable>, _ needsComma: Bool) throws(Stop) {
    let fields = table.pointee.fields.baseAddress.unsafelyUnwrapped
    let bodyStart = position
    var keyPlace: UnsafePointer<UInt8>?
    var valuePlace: UnsafePointer<UInt8>?
    while position < end {
      let tagStart = position
      let tag = try self.tag()
      switch tag &>> 3 {
      case 1:
        guard UInt8(truncatingIfNeeded: tag & 7) == fields[0].type.wireType else { throw wrongType(tagStart) }
        keyPlace = position
        try skip(tag)
      case 2:
        guard UInt8(truncatingIfNeeded: tag & 7) == fields[1].type.wireType else { throw wrongType(tagStart) }
        if valuePlace != nil, fields[1].type == .message {
          // Parts of a message, to be merged.
          position = bodyStart
          return try inOrder(table) { () throws(Stop) in try entry(table, needsComma) }
        }
        valuePlace = position
        try skip(tag)
      default: try unknown(tag, table, at: tagStart)
      }
    }
    let before = written
    if needsComma {
      reserve(1)
      put(UInt8(ascii: ","))
    }
    let keyStart = written
    let isQuoted = fields[0].type == .string || (fields[0].type.isWide && !form.contains(.plainIntegers))
    if !isQuoted {
      reserve(1)
      put(UInt8(ascii: "\""))
    }
    if let keyPlace {
      position = keyPlace
      try value(fields, isMember: false, needsComma: false)
    } else {
      zero(fields)
    }
    reserve(2)
    if !isQuoted { put(UInt8(ascii: "\"")) }
    let keyCount = written - keyStart
    put(UInt8(ascii: ":"))
    let valueStart = written
    let mark = keys.count
    keys.append(start: keyStart, count: keyCount)
    path[depth].writtenKey = (keyStart + 1, keyCount - 2)
    // An entry is a message of its own on the wire.
    guard depth < Self.depthMax else { throw fail("messages are nested more than \(Self.depthMax) deep") }
    depth &+= 1
    path[depth] = PathStep()
    if let valuePlace {
      position = valuePlace
      try value(fields + 1, isMember: false, needsComma: false)
    } else {
      try missingValue(fields + 1)
    }
    depth &-= 1
    if written == valueStart {
      // An unknown value of a closed enum.
      rollBack(to: before)
      keys.truncate(to: mark)
    }
  }

  private func missingValue(_ field: UnsafeMutablePointer<FieldTable>) throws(Stop) {
    guard field.pointee.type == .message, let table = field.pointee.message else { return zero(field) }
    let outer = (position, end)
    end = position
    try enter()
    try message(table)
    depth &-= 1
    (position, end) = outer
  }

  /// Of entries with the same key the last one counts: the others are taken out of what has been written.
  func dropOverwritten(from firstKey: Int) {
    if keys.hasDuplicates(from: firstKey, in: UnsafePointer(bytesWritten(from: 0))) {
      let overwritten = keys.overwritten(from: firstKey, in: UnsafePointer(bytesWritten(from: 0)))
      let bounds = keys.starts(from: firstKey)
      let all = bytesWritten(from: 0)
      var target = bounds[0]
      for (place, start) in bounds.enumerated() where !overwritten.contains(start) {
        // An entry reaches up to the comma before the next one.
        let stop = place + 1 < bounds.count ? bounds[place + 1] - 1 : written
        if target > bounds[0] {
          all[target] = UInt8(ascii: ",")
          target += 1
        }
        UnsafeMutableRawPointer(all + target).copyMemory(from: all + start, byteCount: stop - start)
        target += stop - start
      }
      rollBack(to: target)
    }
    keys.truncate(to: firstKey)
  }

  // MARK: Fields

  /// A comma where one is due, the field's name and its colon.
  @inline(__always) func key(_ field: UnsafeMutablePointer<FieldTable>, _ needsComma: Bool) {
    let name = usesOriginalNames ? field.pointee.originalKey : field.pointee.jsonKey
    // As much again as any number needs.
    reserve(name.count &+ 48)
    if needsComma { put(UInt8(ascii: ",")) }
    let source = name.baseAddress.unsafelyUnwrapped
    if name.count <= 16 {
      let target = UnsafeMutableRawPointer(output)
      target.storeBytes(of: source.loadUnaligned(as: UInt64.self), as: UInt64.self)
      target.storeBytes(
        of: source.loadUnaligned(fromByteOffset: 8, as: UInt64.self), toByteOffset: 8, as: UInt64.self)
    } else {
      UnsafeMutableRawPointer(output).copyMemory(from: source, byteCount: name.count)
    }
    output += name.count
  }

  /// `reserve` comes first.
  @inline(__always) func put(_ byte: UInt8) {
    output.pointee = byte
    output += 1
  }

  // MARK: Wire

  @inline(__always) func tag() throws(Stop) -> UInt32 {
    let start = position
    let value = try varint()
    guard value <= UInt64(UInt32.max), value >= 8 else { throw fail("there is no such field number", at: start) }
    return UInt32(truncatingIfNeeded: value)
  }

  @inline(__always) func varint() throws(Stop) -> UInt64 {
    if position < end, position.pointee < 0x80 {
      let value = UInt64(position.pointee)
      position += 1
      return value
    }
    return try longVarint()
  }

  @inline(never) private func longVarint() throws(Stop) -> UInt64 {
    var value: UInt64 = 0
    var shift: UInt64 = 0
    let start = position
    while position < end {
      let byte = position.pointee
      position += 1
      if shift == 63, byte > 1 { throw fail("a number has more than 64 bits", at: start) }
      value |= UInt64(byte & 0x7F) &<< shift
      if byte < 0x80 { return value }
      shift &+= 7
    }
    throw fail("the message ends in a number", at: start)
  }

  @inline(__always) func length() throws(Stop) -> Int {
    let start = position
    let length = try varint()
    guard length <= UInt64(end - position) else { throw fail("a length exceeds the message", at: start) }
    return Int(truncatingIfNeeded: length)
  }

  @inline(__always) func fixed32() throws(Stop) -> UInt32 {
    guard end - position >= 4 else { throw fail("the message ends in a number") }
    let value = UInt32(littleEndian: UnsafeRawPointer(position).loadUnaligned(as: UInt32.self))
    position += 4
    return value
  }

  @inline(__always) func fixed64() throws(Stop) -> UInt64 {
    guard end - position >= 8 else { throw fail("the message ends in a number") }
    let value = UInt64(littleEndian: UnsafeRawPointer(position).loadUnaligned(as: UInt64.self))
    position += 8
    return value
  }

  func wrongType(_ place: UnsafePointer<UInt8>) -> Stop {
    fail("the wire type is not that of the field; are these descriptors of another version?", at: place)
  }

  func unknown(
    _ tag: UInt32, _ table: UnsafeMutablePointer<MessageTable>, at start: UnsafePointer<UInt8>
  ) throws(Stop) {
    if unknownFields == .refuse {
      throw fail("\(String(decoding: table.pointee.name, as: UTF8.self)) has no field \(tag &>> 3)", at: start)
    }
    try skip(tag)
  }

  /// Steps over the value behind a tag.
  func skip(_ tag: UInt32) throws(Stop) {
    switch tag & 7 {
    case 0: _ = try varint()
    case 1: _ = try fixed64()
    case 2: position += try length()
    case 3: try skipGroup(tag)
    case 5: _ = try fixed32()
    case 4: throw fail("a group ends that has not begun")
    default: throw fail("there is no such wire type")
    }
  }

  /// Up to the end of the group that has begun.
  private func skipGroup(_ first: UInt32) throws(Stop) {
    var open = [first &>> 3]
    while let innermost = open.last {
      guard position < end else { throw fail("the message ends in a group") }
      let tag = try self.tag()
      switch tag & 7 {
      case 3:
        guard open.count < Self.depthMax else { throw fail("groups are nested more than \(Self.depthMax) deep") }
        open.append(tag &>> 3)
      case 4:
        guard tag &>> 3 == innermost else { throw fail("a group ends that has not begun") }
        open.removeLast()
      default: try skip(tag)
      }
    }
  }
}
