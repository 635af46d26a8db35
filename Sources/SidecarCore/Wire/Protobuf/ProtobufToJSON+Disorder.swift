// Messages that are legal and that no serializer writes: a field twice, elements of a repeated field far from each
// other, two members of a oneof. They are put in order in memory of their own and read again; that nothing of it
// happens twice on one level keeps the cost within the message's size times its depth.

extension ProtobufToJSON {
  /// One field of the message as it stands on the wire.
  private struct Occurrence {
    var field: UnsafeMutablePointer<FieldTable>
    /// From the tag on.
    var start: UnsafePointer<UInt8>
    /// Behind the tag, and behind the length of a message.
    var valueStart: UnsafePointer<UInt8>
    var end: UnsafePointer<UInt8>
  }

  /// Runs `body` on what is left up to `end`, put in order: repeated fields together, of singular ones the last value,
  /// messages merged, of a oneof the last member. Afterwards the cursor is at `end`.
  func inOrder(
    _ table: UnsafeMutablePointer<MessageTable>, _ body: () throws(Stop) -> Void
  ) throws(Stop) {
    let bodyStart = position
    let ordered = try order(table)
    let outer = (start: start, end: end, fixedOffset: fixedOffset)
    if fixedOffset < 0 { fixedOffset = bodyStart - start }
    start = UnsafePointer(ordered.base.assumingMemoryBound(to: UInt8.self))
    position = start
    end = start + ordered.count
    try body()
    start = outer.start
    position = outer.end
    end = outer.end
    fixedOffset = outer.fixedOffset
    // What was read from it is not looked at any more.
    withExtendedLifetime(ordered) {}
  }

  private func order(_ table: UnsafeMutablePointer<MessageTable>) throws(Stop) -> ByteBuffer {
    var found: [Occurrence] = []
    // Of each oneof the member that came last, and since when no other came.
    var members: [Int: (field: UnsafeMutablePointer<FieldTable>, since: UnsafePointer<UInt8>)] = [:]
    while position < end {
      let tagStart = position
      let tag = try self.tag()
      guard let field = table.pointee.field(number: tag &>> 3) else {
        try unknown(tag, table, at: tagStart)
        continue
      }
      path[depth].field = field
      var valueStart = position
      try skip(tag)
      if field.pointee.type == .message, field.pointee.shape == .singular {
        guard tag & 7 == 2 else { throw wrongType(tagStart) }
        let valueEnd = position
        position = valueStart
        valueStart = valueEnd - (try length())
        position = valueEnd
      }
      let bit = field.pointee.oneofBit
      if bit >= 0, members[bit]?.field != field { members[bit] = (field, tagStart) }
      found.append(Occurrence(field: field, start: tagStart, valueStart: valueStart, end: position))
    }
    path[depth] = PathStep()
    found.sort {
      $0.field.pointee.index != $1.field.pointee.index
        ? $0.field.pointee.index < $1.field.pointee.index : $0.start < $1.start
    }
    let ordered = ByteBuffer(capacity: end - start + 16)
    var place = 0
    while place < found.count {
      let field = found[place].field
      var next = place
      while next < found.count, found[next].field == field { next += 1 }
      var run = found[place..<next]
      place = next
      if let member = members[field.pointee.oneofBit] {
        if member.field != field { continue }
        run = run.drop { $0.start < member.since }
      }
      append(run, of: field, to: ordered)
    }
    return ordered
  }

  private func append(
    _ run: ArraySlice<Occurrence>, of field: UnsafeMutablePointer<FieldTable>, to ordered: ByteBuffer
  ) {
    func bytes(_ from: UnsafePointer<UInt8>, _ to: UnsafePointer<UInt8>) -> UnsafeRawBufferPointer {
      UnsafeRawBufferPointer(start: from, count: to - from)
    }
    guard let last = run.last else { return }
    if field.pointee.shape != .singular {
      for occurrence in run { ordered.append(bytes(occurrence.start, occurrence.end)) }
    } else if run.count > 1, field.pointee.type == .message {
      ProtobufWriter.varint(UInt64(field.pointee.number) << 3 | 2, into: ordered)
      ProtobufWriter.varint(UInt64(run.reduce(0) { $0 + ($1.end - $1.valueStart) }), into: ordered)
      for occurrence in run { ordered.append(bytes(occurrence.valueStart, occurrence.end)) }
    } else {
      ordered.append(bytes(last.start, last.end))
    }
  }
}
