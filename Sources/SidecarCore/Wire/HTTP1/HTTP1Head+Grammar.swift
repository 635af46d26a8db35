// The grammar of a head: RFC 9112 §2–5, the strict reading. No line ends but CRLF, no folding, no white space before a
// colon, no control bytes. One pass over the bytes.
//
// A head may arrive in pieces. What can be judged is judged at once, so the outcome is a function of the bytes and
// never of the cuts between them (the tests and fuzzers compare exactly that). `Progress` remembers the line and how
// far into it we are; a sender of single bytes can't make us look at the same ones again and again.

extension HTTP1Head {
  /// How far an incomplete head is understood. All zero at the start of a head.
  struct Progress {
    /// Offset of the line not yet complete.
    var line = 0
    /// Within that line, bytes before this offset need no second look: they belong to the target, the field name, or
    /// (when `colon` is set) the field value.
    var scanned = 0
    /// Offset of the line's colon, 0 as long as none was seen.
    var colon = 0
    /// The start line is complete.
    var inFields = false
  }

  /// Fewest fields a table is made for.
  private static let tableCapacityMin = 32
  /// Bytes of a method. Longer than any registered one (IANA's longest is `UPDATEREDIRECTREF`, 17).
  private static let methodCountMax = 32

  @inline(__always) func begin() {
    progress = Progress()
    fieldCount = 0
    present = 0
    repeated = 0
    method = .other
    methodCount = 0
    targetOffset = 0
    targetCount = 0
    status = 0
  }

  /// A trailer section says nothing of what a head says; what the object said before must not shine through.
  func beginTrailers() {
    begin()
    bytes = UnsafeRawBufferPointer(start: nil, count: 0)
    minorVersion = 1
    framing = .none
    keepAlive = true
    expectsContinue = false
    upgrade = false
  }

  /// Parses the head at `start`, of which `available` bytes are there. Returns its length, or nil when more must come
  /// (then call again with the same bytes and more, wherever they lie now).
  @inline(__always) func parse(
    _ start: UnsafeRawPointer, _ available: Int, _ role: HTTP1Parser.Role, _ limits: HTTP1Limits
  ) throws(WireError) -> Int? {
    let window = min(available, limits.headBytes)
    let end = start + window
    if !progress.inFields {
      let next =
        switch role {
        case .server: try requestLine(start, end)
        case .client: try statusLine(start, end)
        }
      guard let next else {
        if window < available || window == limits.headBytes {
          throw role == .server
            ? WireError("request line too long", offset: window, status: 414)
            : WireError("status line too long", offset: window, status: 431)
        }
        return nil
      }
      progress.inFields = true
      progress.line = next - start
      progress.scanned = 0
    }
    guard let stop = try fieldLines(start, end, limits.fieldCount) else {
      if window == limits.headBytes { throw WireError("header fields too large", offset: window, status: 431) }
      return nil
    }
    bytes = UnsafeRawBufferPointer(start: start, count: stop - start)
    return stop - start
  }

  /// The same for the trailer section of a chunked body: field lines and an empty line.
  func parseTrailers(
    _ start: UnsafeRawPointer, _ available: Int, _ limits: HTTP1Limits
  ) throws(WireError) -> Int? {
    let window = min(available, limits.trailerBytes)
    guard let stop = try fieldLines(start, start + window, limits.fieldCount) else {
      if window == limits.trailerBytes { throw WireError("trailers too large", offset: window, status: 431) }
      return nil
    }
    bytes = UnsafeRawBufferPointer(start: start, count: stop - start)
    return stop - start
  }

  // MARK: Start lines

  @inline(__always) private func requestLine(
    _ start: UnsafeRawPointer, _ end: UnsafeRawPointer
  ) throws(WireError) -> UnsafeRawPointer? {
    var at: UnsafeRawPointer
    if end - start >= 8 {
      let word = UInt64(littleEndian: start.loadUnaligned(as: UInt64.self))
      if word & 0xff_ffff_ffff == 0x20_5453_4f50 {  // "POST "
        method = .post
        methodCount = 4
        at = start + 5
      } else if word & 0xffff_ffff == 0x2054_4547 {  // "GET "
        method = .get
        methodCount = 3
        at = start + 4
      } else {
        guard let next = try otherMethod(start, end) else { return nil }
        at = next
      }
    } else {
      guard let next = try otherMethod(start, end) else { return nil }
      at = next
    }

    let target = at
    at = Scan.targetEnd(max(target, start + progress.scanned), end)
    guard at < end else {
      progress.scanned = at - start
      return nil
    }
    guard Scan.byte(at) == ASCII.space else { throw targetError(start, target, at) }
    guard at > target else { throw WireError("empty request target", offset: at - start) }
    progress.scanned = at - start
    targetOffset = target - start
    targetCount = at - target

    let version = at + 1
    if end - version >= 10,
      version.loadUnaligned(fromByteOffset: 8, as: UInt16.self) == UInt16(littleEndian: 0x0a0d)
    {
      let word = UInt64(littleEndian: version.loadUnaligned(as: UInt64.self))
      if word | 0x0100_0000_0000_0000 == 0x312e_312f_5054_5448 {  // "HTTP/1.1", or "HTTP/1.0"
        minorVersion = Int(word &>> 56) & 1
        try checkTarget(start)
        return version + 10
      }
    }
    guard let next = try self.version(start, version, end) else { return nil }
    guard next + 1 < end else {
      if next < end, Scan.byte(next) != ASCII.cr { throw lineEndError(start, next, end) }
      return nil
    }
    guard Scan.byte(next) == ASCII.cr, Scan.byte(next + 1) == ASCII.lf else { throw lineEndError(start, next, end) }
    try checkTarget(start)
    return next + 2
  }

  @inline(never) private func otherMethod(
    _ start: UnsafeRawPointer, _ end: UnsafeRawPointer
  ) throws(WireError) -> UnsafeRawPointer? {
    let stop = Scan.end(of: ByteClass.token, start, end)
    guard stop - start <= Self.methodCountMax else { throw WireError("method too long", offset: Self.methodCountMax) }
    guard stop < end else { return nil }
    guard stop > start, Scan.byte(stop) == ASCII.space else {
      throw WireError("malformed method", offset: stop - start)
    }
    methodCount = stop - start
    let name = UnsafeRawBufferPointer(start: start, count: methodCount)
    method = HTTP1Method.known.first { $0.name == name }?.method ?? .other
    return stop + 1
  }

  @inline(__always) private func statusLine(
    _ start: UnsafeRawPointer, _ end: UnsafeRawPointer
  ) throws(WireError) -> UnsafeRawPointer? {
    guard let afterVersion = try version(start, start, end) else { return nil }
    var digits = 0
    status = 0
    var at = afterVersion
    guard at < end else { return nil }
    guard Scan.byte(at) == ASCII.space else { throw WireError("malformed status line", offset: at - start) }
    at += 1
    while digits < 3 {
      guard at < end else { return nil }
      let digit = Scan.byte(at) &- UInt8(ascii: "0")
      guard digit <= 9, digits > 0 || (1...5).contains(digit) else {
        throw WireError("malformed status code", offset: at - start)
      }
      status = status &* 10 &+ Int(digit)
      digits &+= 1
      at += 1
    }
    guard at < end else { return nil }
    if Scan.byte(at) == ASCII.space {
      // The reason phrase may be empty, and some servers leave out its space as well.
      at = Scan.valueEnd(max(at, start + progress.scanned), end)
      progress.scanned = at - start
    }
    guard at < end else { return nil }
    guard Scan.byte(at) == ASCII.cr else { throw lineEndError(start, at, end) }
    guard at + 1 < end else { return nil }
    guard Scan.byte(at + 1) == ASCII.lf else { throw lineEndError(start, at, end) }
    return at + 2
  }

  /// Reads `HTTP/1.0` or `HTTP/1.1`, judging as many of its bytes as are there.
  @inline(__always) private func version(
    _ start: UnsafeRawPointer, _ version: UnsafeRawPointer, _ end: UnsafeRawPointer
  ) throws(WireError) -> UnsafeRawPointer? {
    if end - version >= 8 {
      let word = UInt64(littleEndian: version.loadUnaligned(as: UInt64.self))
      if word | 0x0100_0000_0000_0000 == 0x312e_312f_5054_5448 {
        minorVersion = Int(word &>> 56) & 1
        return version + 8
      }
    }
    return try oddVersion(start, version, end)
  }

  @inline(never) private func oddVersion(
    _ start: UnsafeRawPointer, _ version: UnsafeRawPointer, _ end: UnsafeRawPointer
  ) throws(WireError) -> UnsafeRawPointer? {
    let shape: StaticString = "HTTP/0.0"
    var index = 0
    while index < 8 {
      guard version + index < end else { return nil }
      let byte = Scan.byte(version + index)
      let expected = shape.utf8Start[index]
      let fits = expected == UInt8(ascii: "0") ? byte &- expected <= 9 : byte == expected
      guard fits else { throw WireError("malformed HTTP version", offset: version + index - start) }
      index += 1
    }
    throw WireError("HTTP version not supported", offset: version - start, status: 505)
  }

  // MARK: Field lines

  /// Reads lines from `progress.line` on; returns the end of the section, or nil when its empty line is yet to come.
  @inline(__always) private func fieldLines(
    _ start: UnsafeRawPointer, _ end: UnsafeRawPointer, _ countMax: Int
  ) throws(WireError) -> UnsafeRawPointer? {
    var line = start + progress.line
    var resumed = progress
    while true {
      if resumed.scanned == 0 { line = plainLines(start, line, end, countMax) }
      guard line + 1 < end else {
        if line < end, Scan.byte(line) != ASCII.cr { break }
        progress = Progress(line: line - start, inFields: true)
        return nil
      }
      if Scan.byte(line) == ASCII.cr {
        guard Scan.byte(line + 1) == ASCII.lf else { throw lineEndError(start, line, end) }
        return line + 2
      }
      guard let next = try anyLine(start, line, end, resumed, countMax) else { return nil }
      line = next
      resumed = Progress()
    }
    return try anyLine(start, line, end, resumed, countMax)
  }

  /// The hot loop. Takes the lines that are whole and look as nearly all do, `Name: value` with one space; returns the
  /// first that isn't one of these, for `anyLine` to judge.
  @inline(__always) private func plainLines(
    _ start: UnsafeRawPointer, _ first: UnsafeRawPointer, _ end: UnsafeRawPointer, _ countMax: Int
  ) -> UnsafeRawPointer {
    guard let table else { return first }
    let names = self.names
    // The table may be larger than this parser's limit: it is shared.
    let capacity = min(tableCapacity, countMax)
    var line = first
    var count = fieldCount
    var present = self.present
    var repeated = self.repeated
    while count < capacity, line < end {
      // Peers send the same names in the same order again and again: try the one that stood here last time.
      var id = table[count].id
      var nameCount = names.count(id)
      if end - line <= HeaderNameTable.rowBytes + 8 || Scan.byte(line + nameCount) != UInt8(ascii: ":")
        || !names.begins(line, id, nameCount)
      {
        nameCount = Scan.colon(line, end) - line
        guard end - line > nameCount + 4 else { break }
        // A name we know needs no check of its bytes.
        id = names.identify(line, nameCount)
        if id == .other {
          guard nameCount > 0, nameCount <= Int(UInt16.max),
            Scan.end(of: ByteClass.token, line, line + nameCount) == line + nameCount
          else { break }
        }
      }
      let colon = line + nameCount
      let value = colon + 2
      guard Scan.byte(colon + 1) == ASCII.space, Scan.byte(value) > ASCII.space else { break }
      let stop = Scan.valueEnd(value, end)
      guard end - stop >= 2, stop.loadUnaligned(as: UInt16.self) == UInt16(littleEndian: 0x0a0d),
        Scan.byte(stop - 1) > ASCII.space
      else { break }
      table[count] = HTTP1Field(
        nameOffset: UInt32(truncatingIfNeeded: line - start), valueOffset: UInt32(truncatingIfNeeded: value - start),
        valueCount: UInt32(truncatingIfNeeded: stop - value), nameCount: UInt16(truncatingIfNeeded: nameCount),
        id: id)
      count &+= 1
      let bit = Self.bit(id)
      repeated |= present & bit
      present |= bit
      line = stop + 2
    }
    fieldCount = count
    self.present = present
    self.repeated = repeated
    return line
  }

  /// Takes one line of any kind, from where `resumed` says; nil when its end is yet to come.
  @inline(never) private func anyLine(
    _ start: UnsafeRawPointer, _ line: UnsafeRawPointer, _ end: UnsafeRawPointer, _ resumed: Progress, _ countMax: Int
  ) throws(WireError) -> UnsafeRawPointer? {
    var colon = start + resumed.colon
    if resumed.colon == 0 {
      colon = Scan.colon(max(line, start + resumed.scanned), end)
      let stop = Scan.end(of: ByteClass.token, max(line, start + resumed.scanned), colon)
      guard stop == colon, colon > line else { throw nameError(start, line, stop) }
      guard colon < end else {
        progress = Progress(line: line - start, scanned: end - start, inFields: true)
        return nil
      }
      guard colon - line <= Int(UInt16.max) else {
        throw WireError("field name too long", offset: line - start, status: 431)
      }
    }

    var value = colon + 1
    while value < end, Scan.byte(value) == ASCII.space || Scan.byte(value) == ASCII.tab { value += 1 }
    let stop = Scan.valueEnd(max(value, start + resumed.scanned), end)
    guard stop + 1 < end else {
      if stop < end, Scan.byte(stop) != ASCII.cr { throw lineEndError(start, stop, end) }
      progress = Progress(line: line - start, scanned: stop - start, colon: colon - start, inFields: true)
      return nil
    }
    guard stop.loadUnaligned(as: UInt16.self) == UInt16(littleEndian: 0x0a0d) else {
      throw lineEndError(start, stop, end)
    }
    var valueEnd = stop
    while valueEnd > value, Scan.byte(valueEnd - 1) == ASCII.space || Scan.byte(valueEnd - 1) == ASCII.tab {
      valueEnd -= 1
    }

    guard fieldCount < countMax else {
      throw WireError("too many header fields", offset: line - start, status: 431)
    }
    let id = names.identify(line, colon - line)
    table(growingTo: countMax)[fieldCount] = HTTP1Field(
      nameOffset: UInt32(truncatingIfNeeded: line - start), valueOffset: UInt32(truncatingIfNeeded: value - start),
      valueCount: UInt32(truncatingIfNeeded: valueEnd - value), nameCount: UInt16(truncatingIfNeeded: colon - line),
      id: id)
    fieldCount += 1
    let bit = Self.bit(id)
    repeated |= present & bit
    present |= bit
    return stop + 2
  }

  /// The table, with room for one more.
  private func table(growingTo countMax: Int) -> UnsafeMutablePointer<HTTP1Field> {
    if let table, fieldCount < tableCapacity { return table }
    let capacity = min(max(tableCapacity * 2, Self.tableCapacityMin), max(countMax, 1))
    let larger = UnsafeMutablePointer<HTTP1Field>.allocate(capacity: capacity)
    larger.initialize(repeating: HTTP1Field(), count: capacity)
    if let table {
      larger.update(from: table, count: tableCapacity)
      table.deallocate()
    }
    table = larger
    tableCapacity = capacity
    return larger
  }

  // MARK: What went wrong

  /// `at` is where a line's text stops, and it isn't at a CRLF. Says why.
  @inline(never) private func lineEndError(
    _ start: UnsafeRawPointer, _ at: UnsafeRawPointer, _ end: UnsafeRawPointer
  ) -> WireError {
    let rule =
      switch Scan.byte(at) {
      case ASCII.cr: "CR without LF"
      case ASCII.lf: "LF without CR"
      default: "control byte in a line"
      }
    return WireError(rule, offset: at - start)
  }

  /// `at` is the first byte of the line that is none of a name.
  @inline(never) private func nameError(
    _ start: UnsafeRawPointer, _ line: UnsafeRawPointer, _ at: UnsafeRawPointer
  ) -> WireError {
    let rule =
      switch Scan.byte(at) {
      case ASCII.space where at == line, ASCII.tab where at == line: "folded header line"
      case ASCII.space, ASCII.tab: "white space in a field name"
      case ASCII.lf: "LF without CR"
      case ASCII.cr: "field line without a colon"
      case UInt8(ascii: ":") where at == line: "empty field name"
      default: "malformed field name"
      }
    return WireError(rule, offset: at - start)
  }

  @inline(never) private func targetError(
    _ start: UnsafeRawPointer, _ target: UnsafeRawPointer, _ at: UnsafeRawPointer
  ) -> WireError {
    let byte = Scan.byte(at)
    let rule =
      switch byte {
      case ASCII.cr, ASCII.lf: "request line without a version"
      case UInt8(ascii: "#"): "fragment in the request target"
      default: "malformed request target"
      }
    return WireError(rule, offset: at - start)
  }
}

extension HTTP1Method {
  /// Those with a case of their own. Methods are case-sensitive (RFC 9110 §9.1).
  fileprivate static let known: [(name: StaticString, method: HTTP1Method)] = [
    ("GET", .get), ("HEAD", .head), ("POST", .post), ("PUT", .put), ("DELETE", .delete), ("OPTIONS", .options),
    ("PATCH", .patch), ("CONNECT", .connect), ("TRACE", .trace),
  ]
}

private func == (known: StaticString, bytes: UnsafeRawBufferPointer) -> Bool {
  known.utf8CodeUnitCount == bytes.count
    && bytes.elementsEqual(UnsafeRawBufferPointer(start: known.utf8Start, count: bytes.count))
}
