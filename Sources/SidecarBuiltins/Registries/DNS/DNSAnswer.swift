// What a DNS server's reply says about one question (RFC 1034 §4.3, RFC 2308, RFC 6891).

import SidecarCore

/// The records asked for and how long they may be used; no records: there is no such name or type.
struct DNSAnswer: Equatable, Sendable {
  var records: [DNSRecord] = []
  /// Addresses the server sent along, for targets of SRV records.
  var additionals: [DNSRecord] = []
  /// Seconds, within `DNSTimes`.
  var ttl: UInt32

  /// Aliases followed in one reply.
  static let aliasesMax = 8

  /// What a reply means for the asker.
  enum Verdict: Equatable {
    case answer(DNSAnswer)
    /// Ask the same server over TCP.
    case truncated
    /// The server knows nothing of EDNS0: ask it again without.
    case withoutEDNS
    /// Not an answer to this question: forged, or late.
    case foreign
    /// This server will not or cannot say; another may.
    case failed(String)
  }

  /// Judges `message` as the reply to `question`, asked with `id`.
  static func judge(_ message: DNSMessage, id: UInt16, question: DNSQuestion, isDatagram: Bool) -> Verdict {
    guard message.id == id, message.flags.contains(.response) else { return .foreign }
    let code = message.flags.rawValue & DNSMessage.Flags.failure.rawValue
    if let echoed = message.questions.first {
      guard echoed.type == question.type, echoed.name.folded == question.name.folded else { return .foreign }
    } else if code == 0 {
      return .foreign
    }
    switch code {
    case 0, 3: break
    case 1, 4: return .withoutEDNS
    case 2: return .failed("it failed itself (SERVFAIL)")
    case 5: return .failed("it refuses to answer (REFUSED)")
    case let other: return .failed("it answered with code \(other)")
    }
    if isDatagram, message.flags.contains(.truncated) { return .truncated }
    return .answer(read(message, question))
  }

  private static func read(_ message: DNSMessage, _ question: DNSQuestion) -> DNSAnswer {
    var name = question.name.folded
    var ttl = DNSTimes.ttlMax
    for _ in 0...aliasesMax {
      let found = message.answers.filter { $0.type == question.type && $0.name.folded == name }
      guard found.isEmpty else {
        for record in found { ttl = min(ttl, record.ttl) }
        return DNSAnswer(records: found, additionals: message.additionals, ttl: max(ttl, DNSTimes.ttlMin))
      }
      guard let alias = message.answers.first(where: { $0.type == .cname && $0.name.folded == name }),
        case .cname(let target) = alias.data
      else { break }
      ttl = min(ttl, alias.ttl)
      name = target.folded
    }
    return DNSAnswer(ttl: max(min(ttl, negativeTTL(message)), DNSTimes.ttlMin))
  }

  /// RFC 2308 §5: the smaller of the SOA's own TTL and its last field, MINIMUM.
  private static func negativeTTL(_ message: DNSMessage) -> UInt32 {
    for record in message.authorities {
      guard case .other(.soa, let data) = record.data, data.count >= 22 else { continue }
      let minimum = data.suffix(4).reduce(0 as UInt32) { $0 &<< 8 | UInt32($1) }
      return min(record.ttl, minimum, DNSTimes.negativeMax)
    }
    return DNSTimes.negativeDefault
  }
}

/// Bounds of what servers say about time, in seconds.
enum DNSTimes {
  /// An answer is asked for again no oftener, whatever its TTL.
  static let ttlMin: UInt32 = 1
  static let ttlMax: UInt32 = 3600
  static let negativeMax: UInt32 = 60
  /// Where a server does not say how long "there is none" holds.
  static let negativeDefault: UInt32 = 5
}

extension DNSName {
  /// In lower case: DNS servers may answer in another case than they were asked in.
  var folded: [UInt8] { wire.map { $0 &- UInt8(ascii: "A") < 26 ? $0 | 0x20 : $0 } }
}
