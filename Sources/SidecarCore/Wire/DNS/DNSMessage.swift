// DNS messages (RFC 1035 §4, SRV: RFC 2782, AAAA: RFC 3596), as far as multicast DNS in go-micro's shape and the `dns`
// registry need them.
// `DNSMessage+Reading.swift` and `DNSMessage+Writing.swift` turn them from and into bytes.

package struct DNSMessage: Equatable, Sendable {
  package var id: UInt16
  package var flags: Flags
  package var questions: [DNSQuestion]
  package var answers: [DNSRecord]
  package var authorities: [DNSRecord]
  package var additionals: [DNSRecord]

  package init(
    id: UInt16 = 0, flags: Flags = [], questions: [DNSQuestion] = [], answers: [DNSRecord] = [],
    authorities: [DNSRecord] = [], additionals: [DNSRecord] = []
  ) {
    self.id = id
    self.flags = flags
    self.questions = questions
    self.answers = answers
    self.authorities = authorities
    self.additionals = additionals
  }

  package struct Flags: OptionSet, Sendable {
    package let rawValue: UInt16
    package init(rawValue: UInt16) { self.rawValue = rawValue }
    package static let response = Flags(rawValue: 0x8000)
    package static let authoritative = Flags(rawValue: 0x0400)
    /// The answer did not fit the datagram.
    package static let truncated = Flags(rawValue: 0x0200)
    package static let recursionDesired = Flags(rawValue: 0x0100)
    /// Bits of the operation code; all zero for a standard query.
    package static let operation = Flags(rawValue: 0x7800)
    /// Bits of the response code; all zero for success.
    package static let failure = Flags(rawValue: 0x000F)
  }
}

package struct DNSQuestion: Hashable, Sendable {
  package var name: DNSName
  package var type: DNSType
  /// The class in the low 15 bits; the top bit asks for a unicast answer (RFC 6762 §5.4).
  package var classAndUnicast: UInt16

  package init(_ name: DNSName, _ type: DNSType, classAndUnicast: UInt16 = DNSRecord.classInternet) {
    self.name = name
    self.type = type
    self.classAndUnicast = classAndUnicast
  }

  package var wantsUnicast: Bool { classAndUnicast & 0x8000 != 0 }
  /// The Internet class, or any.
  package var isInternet: Bool { classAndUnicast & 0x7FFF == 1 || classAndUnicast & 0x7FFF == 255 }
}

package struct DNSRecord: Hashable, Sendable {
  package static let classInternet: UInt16 = 1

  package var name: DNSName
  /// The class in the low 15 bits; the top bit asks caches to flush (RFC 6762 §10.2).
  package var classAndFlush: UInt16
  /// Seconds. Zero takes the record back.
  package var ttl: UInt32
  package var data: Data

  package init(_ name: DNSName, ttl: UInt32, _ data: Data, classAndFlush: UInt16 = DNSRecord.classInternet) {
    self.name = name
    self.ttl = ttl
    self.data = data
    self.classAndFlush = classAndFlush
  }

  package enum Data: Hashable, Sendable {
    case a(UInt32)
    case aaaa(high: UInt64, low: UInt64)
    case ptr(DNSName)
    case cname(DNSName)
    case srv(priority: UInt16, weight: UInt16, port: UInt16, target: DNSName)
    /// The character-strings, at most 255 bytes each; none for an RDLENGTH of zero, as go-micro's list entries have it.
    case txt([[UInt8]])
    /// Any other type, its bytes as they came (names inside are not expanded).
    case other(DNSType, [UInt8])
  }

  package var type: DNSType {
    switch data {
    case .a: .a
    case .aaaa: .aaaa
    case .ptr: .ptr
    case .cname: .cname
    case .srv: .srv
    case .txt: .txt
    case .other(let type, _): type
    }
  }
}

/// A record type, or in a question also `any`.
package struct DNSType: RawRepresentable, Hashable, Sendable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }
  package static let a = DNSType(rawValue: 1)
  package static let cname = DNSType(rawValue: 5)
  package static let soa = DNSType(rawValue: 6)
  package static let ptr = DNSType(rawValue: 12)
  package static let txt = DNSType(rawValue: 16)
  package static let aaaa = DNSType(rawValue: 28)
  package static let srv = DNSType(rawValue: 33)
  /// EDNS0 (RFC 6891): a record whose class is the size of datagrams its sender takes.
  package static let opt = DNSType(rawValue: 41)
  package static let any = DNSType(rawValue: 255)
}
