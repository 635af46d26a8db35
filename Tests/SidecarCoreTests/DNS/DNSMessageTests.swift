import Testing

@testable import SidecarCore

@Suite("DNS names")
struct DNSNameTests {
  @Test("dots part labels, a dot at the end is optional, and the text comes back")
  func dots() throws {
    let name = try DNSName("foo-1.go.micro.srv.foo.local.")
    #expect(name == (try DNSName("foo-1.go.micro.srv.foo.local")))
    #expect(name.description == "foo-1.go.micro.srv.foo.local")
    #expect(name.wire.first == 5 && name.wire.last == 0)
    #expect(name.labels.map { String(decoding: $0, as: UTF8.self) } == ["foo-1", "go", "micro", "srv", "foo", "local"])
    #expect(DNSName.root.description == "." && DNSName.root.labels.isEmpty)
  }

  @Test("names are compared byte by byte, so case counts as it does for go-micro")
  func exactCase() throws {
    #expect(try DNSName("Foo.local") != DNSName("foo.local"))
  }

  @Test("63 bytes fit a label and 64 do not; 255 fit a name and 256 do not")
  func limits() throws {
    let label63 = String(repeating: "a", count: 63)
    #expect(try DNSName(label63).wire.count == 65)
    #expect(throws: WireError.self) { try DNSName(label63 + "a") }
    // 3 × 64 + 62 + 1 = 255 on the wire.
    let full = [label63, label63, label63, String(repeating: "b", count: 61)].joined(separator: ".")
    #expect(try DNSName(full).wire.count == 255)
    #expect(throws: WireError.self) { try DNSName(full + "b") }
    #expect(throws: WireError.self) { try DNSName("b").appending(DNSName(full)) }
  }

  @Test("empty names and empty labels are refused", arguments: ["", ".", "a..b", ".a", "a.."])
  func empty(_ text: String) {
    #expect(throws: WireError.self) { try DNSName(text) }
  }

  @Test("the part before a suffix is found at label borders only")
  func prefix() throws {
    let name = try DNSName("id-1.with.dots.foo.micro")
    #expect(name.prefix(before: try DNSName("foo.micro")) == "id-1.with.dots")
    #expect(name.prefix(before: name) == nil)
    #expect(name.prefix(before: try DNSName("foo.local")) == nil)
    #expect(try DNSName("xfoo.micro").prefix(before: DNSName("foo.micro")) == nil)
    // "\u{3}foo" as bytes inside a label looks like a label border and is none.
    #expect(try DNSName("a\u{3}foo.micro").prefix(before: DNSName("foo.micro")) == nil)
    #expect(try DNSName("foo").appending(DNSName("micro")) == DNSName("foo.micro"))
  }
}

@Suite("DNS messages")
struct DNSMessageTests {
  /// wire/registry-broker.md §2.5, the worked reply.
  static func workedReply() throws -> DNSMessage {
    let browse = try DNSName("foo.local")
    let instance = try DNSName("foo-1.foo.local")
    let text =
      "789cab560a4e2d2acb4c4e55b2524acbcf57d2510a4b2d2acecccf03f20df50cf40c8022ae792905f9997925c54a5679a539393"
      + "a4abea92589298925894a56d54a40422949a9b6160051ae16f2"
    return DNSMessage(
      flags: [.response, .authoritative], questions: [DNSQuestion(browse, .ptr)],
      answers: [
        DNSRecord(browse, ttl: 120, .ptr(instance)),
        DNSRecord(instance, ttl: 120, .srv(priority: 10, weight: 1, port: 8080, target: try DNSName("myhost"))),
        DNSRecord(try DNSName("myhost"), ttl: 120, .a(0xC0A8_010A)),
        DNSRecord(instance, ttl: 120, .txt([Array(text.utf8)])),
      ])
  }

  @Test("the worked query is written and read byte for byte")
  func workedQuery() throws {
    let query = DNSMessage(id: 0x1234, questions: [DNSQuestion(try DNSName("foo.local"), .ptr)])
    let bytes = hex("12340000000100000000000003666f6f056c6f63616c00000c0001")
    #expect(try query.bytes(compressed: false) == bytes)
    #expect(try query.bytes(compressed: true) == bytes)
    #expect(try DNSMessage(reading: bytes) == query)
  }

  @Test("the worked reply is written and read byte for byte")
  func workedReplyBytes() throws {
    let reply = try Self.workedReply()
    let bytes = try reply.bytes(compressed: false)
    let head = hex(
      """
      0000 8400 0001 0004 0000 0000
      03666f6f056c6f63616c00 000c 0001
      03666f6f056c6f63616c00 000c 0001 00000078 0011 05666f6f2d3103666f6f056c6f63616c00
      05666f6f2d3103666f6f056c6f63616c00 0021 0001 00000078 000e 000a 0001 1f90 066d79686f737400
      066d79686f737400 0001 0001 00000078 0004 c0a8010a
      05666f6f2d3103666f6f056c6f63616c00 0010 0001 00000078 009b 9a
      """)
    #expect(bytes.count == 310)
    #expect(Array(bytes.prefix(head.count)) == head)
    #expect(String(decoding: bytes.dropFirst(head.count), as: UTF8.self).hasPrefix("789cab56"))
    #expect(try DNSMessage(reading: bytes) == reply)
  }

  @Test("compression shortens a message, points into SRV data, and reads back the same")
  func compression() throws {
    let reply = try Self.workedReply()
    let bytes = try reply.bytes(compressed: true)
    #expect(bytes.count < 310)
    #expect(try DNSMessage(reading: bytes) == reply)
    // The SRV target itself stays uncompressed (RFC 2782); the A record's owner points at it.
    let target = hex("066d79686f737400")
    let offset = try #require((0..<bytes.count - 8).first { Array(bytes[$0..<$0 + 8]) == target })
    #expect(bytes[offset + 8] == 0xC0 && Int(bytes[offset + 9]) == offset)
  }

  @Test("every record type survives writing and reading")
  func recordTypes() throws {
    let name = try DNSName("a.b")
    let message = DNSMessage(
      id: 7, flags: .response, questions: [DNSQuestion(name, .any, classAndUnicast: 0x8001)],
      answers: [
        DNSRecord(name, ttl: 0, .aaaa(high: 0xFE80_0000_0000_0000, low: 1), classAndFlush: 0x8001),
        DNSRecord(name, ttl: .max, .txt([])), DNSRecord(name, ttl: 1, .txt([[], [1, 2, 3]])),
      ],
      authorities: [DNSRecord(name, ttl: 1, .other(DNSType(rawValue: 47), [0xC0, 0x0C, 1]))],
      additionals: [DNSRecord(.root, ttl: 1, .ptr(name))])
    for compressed in [false, true] {
      #expect(try DNSMessage(reading: message.bytes(compressed: compressed)) == message)
    }
  }

  @Test("a name may be compressed inside SRV data, where Go's library allows it")
  func compressedTarget() throws {
    let message = try DNSMessage(
      reading: hex(
        """
        0000 8400 0000 0001 0000 0000
        03666f6f056c6f63616c00 0021 0001 00000078 0008 000a 0001 1f90 c00c
        """))
    let name = try DNSName("foo.local")
    #expect(message.answers == [DNSRecord(name, ttl: 120, .srv(priority: 10, weight: 1, port: 8080, target: name))])
  }

  @Test("bytes after the last record are ignored")
  func trailing() throws {
    let bytes = try Self.workedReply().bytes(compressed: true)
    #expect(try DNSMessage(reading: bytes + [1, 2, 3]) == Self.workedReply())
  }

  @Test("a message cut at any byte is an error, never a crash or a shorter message")
  func cutAnywhere() throws {
    let bytes = try Self.workedReply().bytes(compressed: true)
    for count in 0..<bytes.count {
      #expect(throws: WireError.self, "cut at \(count)") { try DNSMessage(reading: Array(bytes[..<count])) }
    }
  }

  @Test(
    "hostile bytes are refused",
    arguments: [
      ("pointer to itself", "0000000000010000000000 00 c00c 000c 0001"),
      ("pointer forwards", "0000000000010000000000 00 c00e 000c 0001 00"),
      ("two pointers in a ring", "000000000002000000000000 01 61 c00c 000c 0001 c00c 000c 0001"),
      ("label type 01", "000000000001000000000000 41 61 00 000c 0001"),
      ("label type 10", "000000000001000000000000 81 61 00 000c 0001"),
      ("label past the end", "000000000001000000000000 3f 61 61"),
      ("more records than allowed", "000084000000ffffffffffff"),
      ("A of three bytes", "000084000000000100000000 00 0001 0001 00000078 0003 010203"),
      ("AAAA of four bytes", "000084000000000100000000 00 001c 0001 00000078 0004 01020304"),
      ("TXT string past its record", "000084000000000100000000 00 0010 0001 00000078 0002 0561"),
      ("SRV too short", "000084000000000100000000 00 0021 0001 00000078 0006 000a00011f90"),
      ("PTR shorter than its data", "000084000000000100000000 00 000c 0001 00000078 0004 01610000"),
      ("PTR longer than its data", "000084000000000100000000 00 000c 0001 00000078 0002 01610000"),
      ("data past the message", "000084000000000100000000 00 0010 0001 00000078 00ff 0161"),
    ])
  func hostile(_ what: String, _ text: String) {
    #expect(throws: WireError.self, "\(what)") { try DNSMessage(reading: hex(text)) }
  }

  @Test("a chain of pointers is followed 32 steps and no further")
  func pointerChain() throws {
    for (steps, fits) in [(31, true), (32, false)] {
      // A TXT record whose data is a chain of pointers, each to the one before; then a question-like PTR to its end.
      var bytes = hex("000084000000000200000000 00 0010 0001 00000078")

      var data: [UInt8] = [0]  // one empty TXT string: also the root name
      let start = bytes.count + 2
      for step in 0..<steps {
        // Each pair is read as TXT strings too, so pad each pointer into a string of its own.
        let target = step == 0 ? start : start + 2 + (step - 1) * 3
        data += [2, 0xC0 | UInt8(target >> 8), UInt8(target & 255)]
      }
      bytes += [UInt8(data.count >> 8), UInt8(data.count & 255)] + data
      let last = start + 2 + (steps - 1) * 3
      bytes += [0xC0 | UInt8(last >> 8), UInt8(last & 255)] + hex("0001 0001 00000078 0004 01020304")
      if fits {
        #expect(try DNSMessage(reading: bytes).answers.last == DNSRecord(.root, ttl: 120, .a(0x0102_0304)))
      } else {
        #expect(throws: WireError.self) { try DNSMessage(reading: bytes) }
      }
    }
  }

  @Test("random bytes and damaged messages never trap", arguments: [1, 2, 3] as [UInt64])
  func damaged(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let good = try Self.workedReply().bytes(compressed: true)
    var readable = 0
    for _ in 0..<20_000 {
      var bytes = good
      for _ in 0...random.below(6) { bytes[random.below(bytes.count)] = UInt8(random.below(256)) }
      if let message = try? DNSMessage(reading: bytes) {
        readable += 1
        // What can be read can be written, and means the same.
        #expect(try DNSMessage(reading: message.bytes(compressed: true)) == message, "seed \(seed)")
      }
    }
    #expect(readable > 0 && readable < 20_000)
  }

  @Test("what does not fit is an error when written")
  func tooLong() throws {
    let name = try DNSName("a")
    let long = DNSRecord(name, ttl: 1, .txt([[UInt8](repeating: 1, count: 256)]))
    #expect(throws: WireError.self) { try DNSMessage(answers: [long]).bytes(compressed: true) }
    let big = DNSRecord(name, ttl: 1, .other(DNSType(rawValue: 99), [UInt8](repeating: 1, count: 40_000)))
    #expect(throws: WireError.self) { try DNSMessage(answers: [big, big]).bytes(compressed: true) }
    let huge = DNSRecord(name, ttl: 1, .other(DNSType(rawValue: 99), [UInt8](repeating: 1, count: 70_000)))
    #expect(throws: WireError.self) { try DNSMessage(answers: [huge]).bytes(compressed: true) }
  }
}
