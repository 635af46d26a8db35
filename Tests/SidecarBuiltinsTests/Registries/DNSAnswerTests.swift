// What the `dns` registry believes of a server's reply.

import SidecarCore
import Testing

@testable import SidecarBuiltins

@Suite struct `DNS answers` {
  static func name(_ text: String) -> DNSName { try! DNSName(text) }
  let question = DNSQuestion(name("a.test"), .a)

  func judge(_ change: (inout DNSMessage) -> Void, isDatagram: Bool = true) -> DNSAnswer.Verdict {
    var message = DNSMessage(id: 7, flags: [.response], questions: [question])
    change(&message)
    return DNSAnswer.judge(message, id: 7, question: question, isDatagram: isDatagram)
  }

  @Test func `aliases are followed and the shortest time to live counts`() {
    let address = DNSRecord(Self.name("C.test"), ttl: 300, .a(1))
    let verdict = judge {
      $0.answers = [
        address, DNSRecord(Self.name("b.test"), ttl: 20, .cname(Self.name("c.TEST"))),
        DNSRecord(Self.name("A.test"), ttl: 90, .cname(Self.name("b.test"))),
        DNSRecord(Self.name("other.test"), ttl: 1, .a(2)),
      ]
    }
    #expect(verdict == .answer(DNSAnswer(records: [address], ttl: 20)))
  }

  @Test func `a circle of aliases ends`() {
    let verdict = judge {
      $0.answers = [
        DNSRecord(Self.name("a.test"), ttl: 9, .cname(Self.name("b.test"))),
        DNSRecord(Self.name("b.test"), ttl: 9, .cname(Self.name("a.test"))),
      ]
    }
    #expect(verdict == .answer(DNSAnswer(ttl: 5)))
  }

  @Test(arguments: [(300 as UInt32, 40 as UInt8, 40 as UInt32), (12, 40, 12), (0, 40, 1), (300, 250, 60)])
  func `no such name holds as long as the zone says, within bounds`(ttl: UInt32, minimum: UInt8, held: UInt32) {
    let verdict = judge {
      $0.flags = DNSMessage.Flags(rawValue: 0x8003)
      $0.authorities = [
        DNSRecord(Self.name("test"), ttl: ttl, .other(.soa, Array(repeating: 0, count: 21) + [minimum]))
      ]
    }
    #expect(verdict == .answer(DNSAnswer(ttl: held)))
  }

  @Test func `a time to live of nothing or of years is kept within bounds`() {
    for (ttl, held) in [(0 as UInt32, 1 as UInt32), (.max, 3600)] {
      let record = DNSRecord(Self.name("a.test"), ttl: ttl, .a(1))
      #expect(judge { $0.answers = [record] } == .answer(DNSAnswer(records: [record], ttl: held)))
    }
  }

  @Test func `what answers another question is foreign`() {
    #expect(judge { $0.id = 8 } == .foreign)
    #expect(judge { $0.flags = [] } == .foreign)
    #expect(judge { $0.questions = [] } == .foreign)
    #expect(judge { $0.questions = [DNSQuestion(Self.name("b.test"), .a)] } == .foreign)
    #expect(judge { $0.questions = [DNSQuestion(Self.name("a.test"), .aaaa)] } == .foreign)
  }

  @Test func `a server's refusals are told apart`() {
    #expect(judge { $0.flags = [.response, .truncated] } == .truncated)
    #expect(judge({ $0.flags = [.response, .truncated] }, isDatagram: false) == .answer(DNSAnswer(ttl: 5)))
    #expect(judge { $0.flags = DNSMessage.Flags(rawValue: 0x8001) } == .withoutEDNS)
    #expect(
      judge { $0.flags = DNSMessage.Flags(rawValue: 0x8002) } == .failed("it failed itself (SERVFAIL)"))
    #expect(
      judge { $0.flags = DNSMessage.Flags(rawValue: 0x8005) } == .failed("it refuses to answer (REFUSED)"))
  }

  @Test func `an alias is written and read again`() throws {
    let message = DNSMessage(id: 1, answers: [DNSRecord(Self.name("a.b.c"), ttl: 1, .cname(Self.name("d.b.c")))])
    #expect(try DNSMessage(reading: message.bytes(compressed: true)) == message)
  }
}
