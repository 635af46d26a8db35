// A DNS message to bytes. With compression the bytes are those of the DNS library that go-micro uses, so that recorded
// replies can be compared as they are: owners and PTR data are compressed; the target of an SRV record is not (RFC 2782)
// but later names may point into it.

extension DNSMessage {
  /// Bytes of one datagram over IPv4 (65,535 less the IP and UDP heads); a longer message cannot be sent.
  package static let bytesMaximum = 65_507

  /// Throws when the message or a part of it does not fit its length field.
  package func bytes(compressed: Bool) throws(WireError) -> [UInt8] {
    var writer = DNSWriter(compressed: compressed)
    writer.append(id)
    writer.append(flags.rawValue)
    for count in [questions.count, answers.count, authorities.count, additionals.count] {
      guard let count = UInt16(exactly: count) else { throw WireError("more than 65,535 DNS records") }
      writer.append(count)
    }
    for question in questions {
      writer.append(question.name, compressed: compressed)
      writer.append(question.type.rawValue)
      writer.append(question.classAndUnicast)
    }
    for record in answers { try writer.append(record) }
    for record in authorities { try writer.append(record) }
    for record in additionals { try writer.append(record) }
    guard writer.bytes.count <= Self.bytesMaximum else {
      throw WireError("DNS message of \(writer.bytes.count) bytes, at most \(Self.bytesMaximum) fit a datagram")
    }
    return writer.bytes
  }
}

private struct DNSWriter {
  private(set) var bytes: [UInt8] = []
  private let compressed: Bool
  /// Where a name, or the rest of one, was written; only offsets a pointer can hold.
  private var offsets: [ArraySlice<UInt8>: UInt16] = [:]

  init(compressed: Bool) { self.compressed = compressed }

  mutating func append(_ number: UInt16) {
    bytes.append(UInt8(number &>> 8))
    bytes.append(UInt8(number & 255))
  }

  mutating func append(_ number: UInt32) {
    append(UInt16(number &>> 16))
    append(UInt16(number & 0xFFFF))
  }

  mutating func append(_ number: UInt64) {
    append(UInt32(number &>> 32))
    append(UInt32(number & 0xFFFF_FFFF))
  }

  mutating func append(_ name: DNSName, compressed useful: Bool) {
    var rest = name.wire[...]
    while rest.count > 1 {
      if useful, let offset = offsets[rest] {
        append(0xC000 | offset)
        return
      }
      if compressed, bytes.count < 0x4000, offsets[rest] == nil { offsets[rest] = UInt16(bytes.count) }
      let length = 1 + Int(rest.first!)
      bytes.append(contentsOf: rest.prefix(length))
      rest = rest.dropFirst(length)
    }
    bytes.append(0)
  }

  mutating func append(_ record: DNSRecord) throws(WireError) {
    append(record.name, compressed: compressed)
    append(record.type.rawValue)
    append(record.classAndFlush)
    append(record.ttl)
    let lengthOffset = bytes.count
    append(0 as UInt16)
    switch record.data {
    case .a(let address):
      append(address)
    case .aaaa(let high, let low):
      append(high)
      append(low)
    case .ptr(let name), .cname(let name):
      append(name, compressed: compressed)
    case .srv(let priority, let weight, let port, let target):
      append(priority)
      append(weight)
      append(port)
      append(target, compressed: false)
    case .txt(let strings):
      for string in strings {
        guard let length = UInt8(exactly: string.count) else { throw WireError("TXT string longer than 255 bytes") }
        bytes.append(length)
        bytes.append(contentsOf: string)
      }
    case .other(_, let data):
      bytes.append(contentsOf: data)
    }
    guard let length = UInt16(exactly: bytes.count - lengthOffset - 2) else {
      throw WireError("DNS record data longer than 65,535 bytes", offset: lengthOffset)
    }
    bytes[lengthOffset] = UInt8(length &>> 8)
    bytes[lengthOffset + 1] = UInt8(length & 255)
  }
}
