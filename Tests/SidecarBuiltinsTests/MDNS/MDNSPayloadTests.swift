import SidecarCore
import Testing

@testable import SidecarBuiltins

private func hex(_ text: String) -> [UInt8] {
  stride(from: 0, to: text.utf8.count, by: 2).map { offset in
    let start = text.index(text.startIndex, offsetBy: offset)
    return UInt8(text[start..<text.index(start, offsetBy: 2)], radix: 16)!
  }
}

private func digits(_ bytes: [UInt8]) -> [UInt8] {
  bytes.flatMap { byte in Array((byte < 16 ? "0" : "").utf8) + Array(String(byte, radix: 16).utf8) }
}

/// The strings of a record that holds this JSON text.
private func record(_ json: String) throws -> [[UInt8]] { [digits(try Zlib.deflate(Array(json.utf8)))] }

@Suite("TXT payload")
struct MDNSPayloadTests {
  static let foo = MDNSPayload(service: "foo", version: "1.0.0", endpoints: [], metadata: ["a": "b"])

  @Test("the first worked example is written as the specification has it")
  func workedExample1() throws {
    let expected =
      "789cab560a4e2d2acb4c4e55b2524acbcf57d2510a4b2d2acecccf03f20df50cf40c8022ae792905f9997925c54a5679a539393"
      + "a4abea92589298925894a56d54a40422949a9b6160051ae16f2"
    #expect(try Self.foo.strings() == [Array(expected.utf8)])
    #expect(try MDNSPayload(strings: [Array(expected.utf8)]) == Self.foo)
  }

  @Test("Go's stored blocks are read too")
  func storedBlocks() throws {
    let stored =
      "789c004900b6ff7b2253657276696365223a22666f6f222c2256657273696f6e223a22312e302e30222c22456e64706f696e7473223a6e"
      + "756c6c2c224d65746164617461223a7b2261223a2262227d7d030051ae16f2"
    #expect(try MDNSPayload(strings: [Array(stored.utf8)]) == Self.foo)
  }

  @Test("the second worked example is cut into strings of 255 and 167, and written the same")
  func workedExample2() throws {
    let first =
      "789c8d903d6b03310c86ff8be6c3a4ebed812e5d12e85232b8778a63eaaf4acac111fcdf2b1fc971a14b269b578ff408dde08834f901a1"
      + "07974df40365c33419478882041d7c22b1cf498137b3333b4df6692cd92761e8bf6e906c6cdd473b9b770c212b40f87b4516e8d7eae19e74"
      + "2073790e261bf4b71db53c2bc9423eb90"
    let second =
      "d98ae21d4536d1a2e39313e79eed146b426ff4d91dd2ba28862472bb68994421b153fdba0536b3d75f0b1a97f53fed1bbf5701129cb2d9"
      + "cd79eb9d9c6c49ab05e7c21a80ccd4e36e98a248f9e5aff00af1a88a0"
    let name = Value(name: "name", type: "string")
    let payload = MDNSPayload(
      service: "go.micro.srv.greeter", version: "1.0.0",
      endpoints: [
        Endpoint(
          name: "Say.Hello", request: Value(name: "Request", type: "Request", values: [name]),
          response: Value(name: "Response", type: "Response", values: [Value(name: "msg", type: "string")]),
          metadata: ["stream": "false"])
      ], metadata: ["broker": "http", "registry": "mdns", "server": "rpc", "transport": "http"])
    let strings = [Array(first.utf8), Array(second.utf8)]
    #expect(strings.map(\.count) == [255, 167])
    #expect(try MDNSPayload(strings: strings) == payload)
    #expect(try payload.strings().map(\.count) == [255, 167])
    #expect(try payload.strings() == strings)
  }

  @Test("keys are read in any case and order, unknown ones ignored, missing ones empty")
  func tolerant() throws {
    #expect(
      try MDNSPayload(strings: record(#"{"x":[1],"metadata":{"a":"b"},"VERSION":"1.0.0","service":"foo"}"#)) == Self.foo
    )
    let bare = try MDNSPayload(strings: record(#"{"Service":"foo","Endpoints":null,"Metadata":null}"#))
    #expect(bare == MDNSPayload(service: "foo", version: "", endpoints: [], metadata: [:]))
  }

  @Test(
    "garbage is an error",
    arguments: ["", "7", "zz", "789c", "789cffff", "00", String(repeating: "78", count: 4000)])
  func garbage(_ text: String) {
    #expect(throws: WireError.self) { try MDNSPayload(strings: [Array(text.utf8)]) }
  }

  @Test(
    "JSON that is no service is an error",
    arguments: [
      "", "[]", "1", "{}", #"{"Service":7}"#, #"{"Service":""}"#, #"{"Service":"a","Endpoints":{}}"#,
      #"{"Service":"a","Metadata":[]}"#, String(repeating: "[", count: 5000),
    ])
  func noService(_ json: String) {
    #expect(throws: WireError.self) { try MDNSPayload(strings: record(json)) }
  }

  @Test("a record that would inflate to gigabytes stops at the limit")
  func bomb() throws {
    let zeros = try Zlib.deflate([UInt8](repeating: 0x20, count: 8 << 20))
    #expect(zeros.count < 16_000)
    #expect(throws: WireError.self) { try MDNSPayload(strings: [digits(zeros)]) }
    #expect(try Zlib.inflate(zeros, limit: 8 << 20).count == 8 << 20)
    #expect(throws: WireError.self) { try Zlib.inflate(zeros, limit: 8 << 20 - 1) }
  }

  @Test("zlib: empty input, cut streams, wrong checksums and bytes after the end")
  func zlib() throws {
    #expect(try Zlib.inflate(Zlib.deflate([]), limit: 0).isEmpty)
    let stream = try Zlib.deflate(Array("hello hello hello".utf8))
    #expect(try String(decoding: Zlib.inflate(stream, limit: 100), as: UTF8.self) == "hello hello hello")
    for count in 0..<stream.count {
      #expect(throws: WireError.self) { try Zlib.inflate(Array(stream[..<count]), limit: 100) }
    }
    #expect(throws: WireError.self) { try Zlib.inflate(stream + [0], limit: 100) }
    var broken = stream
    broken[broken.count - 1] ^= 1
    #expect(throws: WireError.self) { try Zlib.inflate(broken, limit: 100) }
    #expect(throws: WireError.self) { try Zlib.inflate(hex("1f8b0800"), limit: 100) }
  }
}

@Suite("what a reply says")
struct MDNSReplyTests {
  static func records(
    _ name: String, text: [[UInt8]], ttl: UInt32 = 120, port: UInt16 = 80, address: DNSRecord.Data? = .a(1)
  )
    throws -> [DNSRecord]
  {
    let instance = try DNSName(name)
    let host = try DNSName("host").appending(instance)
    return [DNSRecord(instance, ttl: ttl, .srv(priority: 10, weight: 1, port: port, target: host))]
      + (address.map { [DNSRecord(host, ttl: ttl, $0)] } ?? []) + [DNSRecord(instance, ttl: ttl, .txt(text))]
  }
  static func text(_ service: String) throws -> [[UInt8]] {
    try MDNSPayload(service: service, version: "1", endpoints: [], metadata: [:]).strings()
  }

  @Test("several instances of one packet are all read, in answers and additionals, in any order")
  func several() throws {
    let message = DNSMessage(
      flags: .response, answers: try Self.records("a.foo.micro", text: Self.text("foo")).reversed(),
      additionals: try Self.records("b.foo.local", text: Self.text("foo"), address: .aaaa(high: 0xFD00 &<< 48, low: 2)))
    let reply = MDNSReply(message)
    #expect(reply.garbage.isEmpty)
    #expect(
      reply.found.flatMap(\.nodes)
        == [Node(id: "a", address: "0.0.0.1:80"), Node(id: "b", address: "[fd00::2]:80")])
  }

  @Test("an IPv4 address comes before an IPv6 one, and wildcards are no addresses")
  func addresses() throws {
    var records = try Self.records("a.foo.micro", text: Self.text("foo"), address: .aaaa(high: 0, low: 1))
    records.append(DNSRecord(try DNSName("host.a.foo.micro"), ttl: 1, .a(0x7F00_0001)))
    #expect(
      MDNSReply(DNSMessage(flags: .response, answers: records)).found.first?.nodes.first?.address == "127.0.0.1:80")
    let wildcard = try Self.records("a.foo.micro", text: Self.text("foo"), address: .a(0))
    #expect(MDNSReply(DNSMessage(flags: .response, answers: wildcard)).garbage.map(\.reason) == ["no address"])
  }

  @Test("the domain's other names, other services and questions say nothing")
  func others() throws {
    let printer = try Self.records("office._ipp._tcp.local", text: [Array("txtvers=1".utf8), Array("rp=ipp".utf8)])
    #expect(MDNSReply(DNSMessage(flags: .response, answers: printer)) == MDNSReply(DNSMessage()))
    let foo = try Self.records("a.foo.micro", text: Self.text("foo"))
    #expect(MDNSReply(DNSMessage(answers: foo)) == MDNSReply(DNSMessage()))
    let list = try Self.records("foo._services.micro", text: [])
    #expect(MDNSReply(DNSMessage(flags: .response, answers: list)) == MDNSReply(DNSMessage()))
  }

  @Test("an instance is told by the service in its record: the other domain makes no ghosts")
  func ghosts() throws {
    // What v0.14 would list as the service "a.foo.micro." or the id "a.foo.micro".
    let odd = try Self.records("a.foo.micro.local", text: Self.text("foo"))
    let reply = MDNSReply(DNSMessage(flags: .response, answers: odd))
    #expect(reply.found.isEmpty && reply.garbage.count == 1)
  }

  @Test("TTL 0 is a goodbye; port 0 and broken records are garbage with a reason")
  func goodbyeAndGarbage() throws {
    let bye = try Self.records("a.foo.micro", text: Self.text("foo"), ttl: 0)
    #expect(MDNSReply(DNSMessage(flags: .response, answers: bye)).gone == [MDNSNodeKey(service: "foo", id: "a")])
    let port0 = try Self.records("a.foo.micro", text: Self.text("foo"), port: 0)
    #expect(MDNSReply(DNSMessage(flags: .response, answers: port0)).garbage.map(\.reason) == ["port 0"])
    let broken = try Self.records("a.foo.micro", text: [Array("789cqq".utf8)])
    #expect(
      MDNSReply(DNSMessage(flags: .response, answers: broken)).garbage.map(\.reason)
        == ["TXT is not hexadecimal at byte 4"])
  }
}

@Suite("settings of the mDNS registry")
struct MDNSOptionsTests {
  @Test("each setting is read, and nothing means the defaults")
  func settings() throws {
    #expect(try MDNSOptions(argument: nil) == MDNSOptions())
    #expect(try MDNSOptions(argument: "") == MDNSOptions())
    let options = try MDNSOptions(argument: "interface=eth0:interface=wlan0:folder=/run/x:port=5454:multicast=off")
    #expect(options.interfaces == ["eth0", "wlan0"] && options.folder == "/run/x" && options.port == 5454)
    #expect(!options.usesMulticast && options.usesRendezvous)
    #expect(try !MDNSOptions(argument: "rendezvous=off").usesRendezvous)
  }

  @Test(
    "anything else is an error that names what is known",
    arguments: ["x=1", "port=0", "port=x", "folder=x", "interface=", "y"])
  func unknown(_ argument: String) {
    #expect { try MDNSOptions(argument: argument) } throws: { "\($0)".contains("folder=/path, interface=name") }
  }
}
