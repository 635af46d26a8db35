// Bytes to a DNS message. Everything here comes from anyone on the local network: each length is checked before it is
// used, and the work is bounded by the limits below whatever the bytes say.

extension DNSMessage {
  /// Questions and records in one message; more are an error.
  package static let entriesMaximum = 512
  /// Compression pointers followed in one name; more are an error. Honest writers need one.
  package static let pointersMaximum = 32

  /// Reads one datagram. Throws for any broken rule: nothing of such a message is to be used. Bytes after the last
  /// record are ignored, as Go's reader does.
  package init(reading bytes: UnsafeRawBufferPointer) throws(WireError) {
    var reader = DNSReader(bytes)
    let id = try reader.uint16()
    let flags = Flags(rawValue: try reader.uint16())
    let counts = (
      questions: Int(try reader.uint16()), answers: Int(try reader.uint16()),
      authorities: Int(try reader.uint16()), additionals: Int(try reader.uint16())
    )
    guard counts.questions + counts.answers + counts.authorities + counts.additionals <= Self.entriesMaximum else {
      throw WireError("DNS message claims more than \(Self.entriesMaximum) questions and records", offset: 4)
    }
    self.init(id: id, flags: flags)
    for _ in 0..<counts.questions {
      let name = try reader.name()
      let type = DNSType(rawValue: try reader.uint16())
      questions.append(DNSQuestion(name, type, classAndUnicast: try reader.uint16()))
    }
    answers = try reader.records(counts.answers)
    authorities = try reader.records(counts.authorities)
    additionals = try reader.records(counts.additionals)
  }

  package init(reading bytes: [UInt8]) throws(WireError) {
    let result = bytes.withUnsafeBytes { span in
      Result { () throws(WireError) -> DNSMessage in try DNSMessage(reading: span) }
    }
    self = try result.get()
  }
}

private struct DNSReader {
  let bytes: UnsafeRawBufferPointer
  var offset = 0

  init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  mutating func need(_ count: Int) throws(WireError) {
    guard bytes.count - offset >= count else { throw WireError("DNS message ends too soon", offset: offset) }
  }

  mutating func uint16() throws(WireError) -> UInt16 {
    try need(2)
    defer { offset += 2 }
    return UInt16(bytes[offset]) &<< 8 | UInt16(bytes[offset + 1])
  }

  mutating func uint32() throws(WireError) -> UInt32 {
    let high = try uint16()
    return UInt32(high) &<< 16 | UInt32(try uint16())
  }

  mutating func uint64() throws(WireError) -> UInt64 {
    let high = try uint32()
    return UInt64(high) &<< 32 | UInt64(try uint32())
  }

  mutating func take(_ count: Int) throws(WireError) -> [UInt8] {
    try need(count)
    defer { offset += count }
    return Array(bytes[offset..<offset + count])
  }

  /// A name at the offset, pointers followed. A pointer must lead strictly backwards from where the name or the last
  /// jump began, so no loop is possible; `pointersMaximum` keeps a chain of pointers from costing much.
  mutating func name() throws(WireError) -> DNSName {
    var wire: [UInt8] = []
    var position = offset
    var lowest = offset
    var jumps = 0
    var end: Int?
    while true {
      guard position < bytes.count else { throw WireError("DNS name runs past the message", offset: position) }
      let length = Int(bytes[position])
      switch length & 0xC0 {
      case 0x00:
        guard length > 0 else {
          wire.append(0)
          offset = end ?? position + 1
          return DNSName(trustedWire: wire)
        }
        guard bytes.count - position > length else {
          throw WireError("DNS label runs past the message", offset: position)
        }
        guard wire.count + length + 2 <= DNSName.bytesMaximum else {
          throw WireError("DNS name longer than 255 bytes", offset: position)
        }
        wire.append(contentsOf: bytes[position...position + length])
        position += length + 1
      case 0xC0:
        guard position + 1 < bytes.count else { throw WireError("DNS pointer cut off", offset: position) }
        let target = (length & 0x3F) &<< 8 | Int(bytes[position + 1])
        guard target < lowest else { throw WireError("DNS pointer does not lead backwards", offset: position) }
        jumps += 1
        guard jumps <= DNSMessage.pointersMaximum else {
          throw WireError("too many DNS pointers in a name", offset: position)
        }
        if end == nil { end = position + 2 }
        lowest = target
        position = target
      case _:
        throw WireError("unknown kind of DNS label", offset: position)
      }
    }
  }

  mutating func records(_ count: Int) throws(WireError) -> [DNSRecord] {
    var records: [DNSRecord] = []
    for _ in 0..<count {
      let name = try name()
      let type = DNSType(rawValue: try uint16())
      let classAndFlush = try uint16()
      let ttl = try uint32()
      let length = Int(try uint16())
      try need(length)
      let end = offset + length
      let data = try data(of: type, end: end)
      guard offset == end else { throw WireError("DNS record data has a wrong length", offset: offset) }
      records.append(DNSRecord(name, ttl: ttl, data, classAndFlush: classAndFlush))
    }
    return records
  }

  /// Reads the data of one record, which must fill the bytes up to `end`; the caller checks that it did. A name may be
  /// compressed anywhere, in SRV too, where RFC 2782 forbids it and go-micro's library allows it.
  private mutating func data(of type: DNSType, end: Int) throws(WireError) -> DNSRecord.Data {
    switch type {
    case .a:
      guard end - offset == 4 else { throw WireError("A record is not four bytes", offset: offset) }
      return .a(try uint32())
    case .aaaa:
      guard end - offset == 16 else { throw WireError("AAAA record is not sixteen bytes", offset: offset) }
      let high = try uint64()
      return .aaaa(high: high, low: try uint64())
    case .ptr:
      return .ptr(try name())
    case .cname:
      return .cname(try name())
    case .srv:
      guard end - offset >= 7 else { throw WireError("SRV record too short", offset: offset) }
      let priority = try uint16()
      let weight = try uint16()
      let port = try uint16()
      return .srv(priority: priority, weight: weight, port: port, target: try name())
    case .txt:
      var strings: [[UInt8]] = []
      while offset < end {
        let length = Int(bytes[offset])
        guard end - offset > length else { throw WireError("TXT string runs past its record", offset: offset) }
        offset += 1
        strings.append(try take(length))
      }
      return .txt(strings)
    case _:
      return .other(type, try take(end - offset))
    }
  }
}
