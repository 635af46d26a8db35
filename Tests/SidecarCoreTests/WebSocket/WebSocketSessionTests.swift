import Testing

@testable import SidecarCore

/// What a session makes of its peer's bytes: the examples of RFC 6455 §5.7, every rule of §5 broken once, and that cutting
/// the bytes anywhere changes nothing.
@Suite struct WebSocketSessionTests {
  private let server = WebSocketTranscript()

  @Test func examplesOfTheSpecification() {
    let client = WebSocketTranscript(role: .client)
    #expect(client.run(unhex("810548656c6c6f")) == [#"text "Hello""#])
    #expect(server.run(unhex("818537fa213d7f9f4d5158")) == [#"text "Hello""#])
    #expect(client.run(unhex("010348656c 80026c6f")) == [#"text "Hello""#])
    #expect(client.run(unhex("890548656c6c6f")).first == #"ping "Hello""#)
    #expect(server.run(unhex("8a8537fa213d7f9f4d5158")) == [#"pong "Hello""#])
    #expect(
      client.run(unhex("827e0100") + [UInt8](repeating: 0, count: 256)).first?.hasPrefix("binary (256 bytes") == true)
    #expect(
      client.run(unhex("827f0000000000010000") + [UInt8](repeating: 7, count: 65536)).first?.hasPrefix(
        "binary (65536 bytes")
        == true)
  }

  @Test func aPingIsAnsweredWithItsPayloadAlsoInsideAMessage() {
    #expect(
      server.run(frame(0x01, "He") + frame(0x89, "now") + frame(0x80, "llo"))
        == [#"ping "now""#, #"text "Hello""#, "sent 8a036e6f77"])
  }

  @Test func aCloseIsAnsweredWithItsCodeAndWhatFollowsIsIgnored() {
    #expect(
      server.run(closeFrame(1001, "bye") + frame(0x81, "late")) == [#"closed 1001 "bye""#, "sent 880203e9"])
    #expect(server.run(frame(0x88, "")) == [#"closed 1005 """#, "sent 8800"])
  }

  static let broken: [(String, [UInt8], Int)] = [
    ("reserved bit 1 without an extension", frame(0xC1, "a"), 1002), ("reserved bit 2", frame(0xA1, "a"), 1002),
    ("reserved bit 3", frame(0x91, "a"), 1002), ("reserved opcode 3", frame(0x83, "a"), 1002),
    ("reserved opcode 11", frame(0x8B, "a"), 1002), ("unmasked", frame(0x81, [97], key: nil), 1002),
    ("continuation of nothing", frame(0x80, "a"), 1002),
    ("a message inside another", frame(0x01, "a") + frame(0x81, "b"), 1002),
    ("fragmented ping", frame(0x09, "a"), 1002),
    ("long ping", frame(0x89, [UInt8](repeating: 0, count: 126)), 1002),
    ("padded length", unhex("81fe0001 00000000 61"), 1002),
    ("padded length of 64 bits", unhex("81ff000000000000ffff 00000000"), 1002),
    ("length of 64 bits", unhex("81ffffffffffffffffff 00000000"), 1002),
    ("half a code", frame(0x88, [3]), 1002), ("code 999", closeFrame(999), 1002), ("code 1004", closeFrame(1004), 1002),
    ("code 1005", closeFrame(1005), 1002), ("code 1006", closeFrame(1006), 1002), ("code 1015", closeFrame(1015), 1002),
    ("code 1016", closeFrame(1016), 1002), ("code 2999", closeFrame(2999), 1002), ("code 5000", closeFrame(5000), 1002),
    ("reason not UTF-8", frame(0x88, [3, 232, 0xC3]), 1007), ("text not UTF-8", frame(0x81, [0xC0, 0x80]), 1007),
    ("text cut inside a character", frame(0x81, [0xE2, 0x82]), 1007),
    ("message over the limit", frame(0x82, [UInt8](repeating: 0, count: 1001)), 1009),
    (
      "frames over the limit",
      frame(0x02, [UInt8](repeating: 0, count: 600)) + frame(0x80, [UInt8](repeating: 0, count: 401)), 1009
    ),
  ]

  @Test(arguments: broken) func aBrokenRuleEndsTheSession(_ name: String, _ bytes: [UInt8], _ code: Int) {
    var limited = server
    limited.messageMax = 1000
    let lines = limited.run(bytes + frame(0x81, "never seen"))
    #expect(lines.count == 2)
    #expect(lines.first?.hasPrefix("failed \(code) ") == true, "\(lines)")
    let answer = "sent 88"
    #expect(lines.last?.hasPrefix(answer) == true && lines.last?.dropFirst(answer.count + 2).hasPrefix("03") == true)
  }

  @Test func theLimitIsTheLargestMessage() {
    var limited = server
    limited.messageMax = 1000
    #expect(limited.run(frame(0x82, [UInt8](repeating: 0, count: 1000))).first?.hasPrefix("binary (1000") == true)
  }

  /// The rest of the frame never comes, so only a check of each piece can find it.
  @Test func badTextIsRefusedBeforeItsFrameIsWhole() {
    let start = frame(0x81, Array("κόσμε".utf8) + [0xF4, 0x90, 0x80, 0x80] + Array("edited".utf8))
    let upTo = start.dropLast("edited".utf8.count + 2)
    #expect(server.run(Array(upTo)).first?.hasPrefix("failed 1007") == true)
    #expect(server.run(Array(upTo.dropLast())) == [])
  }

  @Test func aReservedOpcodeIsRefusedWithItsFirstByte() {
    #expect(server.run([0x83]).first == "failed 1002 reserved opcode 3")
  }

  @Test func cuttingTheBytesChangesNothing() {
    let long = String(repeating: "größer als ein Block — ", count: 12)
    let inputs: [[UInt8]] =
      [
        frame(0x81, "Hello") + frame(0x01, "κό") + frame(0x89, "p") + frame(0x00, "") + frame(0x80, "σμε")
          + closeFrame(1000, "ü"),
        frame(0x81, long) + frame(0x82, [UInt8](0...255)), frame(0x01, "a") + frame(0x81, "b"),
        frame(0x81, [0xE2, 0x82, 0xAC, 0xFF]), frame(0x81, ""), frame(0x02, "") + frame(0x80, ""),
      ] + Self.broken.map(\.1).filter { $0.count < 100 }
    for input in inputs {
      let expected = server.run(input)
      for cut in 0...input.count { #expect(server.run(input, cutAt: [cut]) == expected, "cut at \(cut)") }
      #expect(server.run(input, cutAt: Array(1..<max(input.count, 1))) == expected)
    }
  }

  /// Whatever one role writes the other reads, with and without compression; lengths around every border.
  @Test(arguments: [WebSocketRole.server, .client], [nil, false, true])
  func whatIsWrittenIsRead(_ role: WebSocketRole, _ keepsContext: Bool?) {
    let direction = keepsContext.map { DeflateDirection(keepsContext: $0, windowBits: 10) }
    let agreement = direction.map { DeflateAgreement(server: $0, client: $0) }
    let pool = BufferPool()
    let deflaters = DeflatePool()
    var writer = WebSocketSession(
      role, messageMax: 1 << 20, deflate: agreement, buffers: pool, deflaters: deflaters, maskSeed: 7)
    var reader = WebSocketSession(
      role == .server ? .client : .server, messageMax: 1 << 20, deflate: agreement, buffers: pool, deflaters: deflaters,
      maskSeed: 8)
    var random = SeededRandom(seed: 3)
    for count in [0, 1, 2, 3, 4, 5, 31, 32, 33, 125, 126, 127, 128, 4095, 4096, 4097, 65535, 65536, 300_000] {
      for kind in [WebSocketKind.text, .binary] {
        let payload = (0..<count).map { _ in kind == .text ? UInt8(97 + random.below(9)) : UInt8(random.below(256)) }
        let wire = ByteBuffer()
        payload.withUnsafeBytes { wire.append(writer.send(kind, $0, into: wire)) }
        var input = wire.bytes
        guard case .message(let readKind, let read) = reader.receive(&input, into: ByteBuffer()) else {
          Issue.record("\(count) bytes of \(kind) are no message")
          return
        }
        #expect(readKind == kind && read.elementsEqual(payload))
        guard case .needMore = reader.receive(&input, into: ByteBuffer()) else {
          Issue.record("something follows")
          return
        }
        if keepsContext != nil, kind == .text, count > 200 { #expect(wire.count < count * 3 / 4) }
        #expect(reader.heldBytes == 0)
      }
    }
  }

  @Test func afterItsCloseASessionSendsNothingAndHearsTheAnswer() {
    var session = WebSocketSession(
      .server, messageMax: 100, deflate: nil, buffers: BufferPool(), deflaters: DeflatePool(), maskSeed: 1)
    let out = ByteBuffer()
    session.close(4404, String(repeating: "größe ", count: 30), into: out)
    let sent = Array(out.bytes)
    #expect(sent.count <= 2 + 125 && sent[2] == 0x11 && sent[3] == 0x34)
    #expect(String(validating: sent[4...], as: UTF8.self) != nil)
    out.removeAll()
    session.close(1000, "", into: out)
    session.ping(UnsafeRawBufferPointer(start: nil, count: 0), into: out)
    let rest = session.send(.text, UnsafeRawBufferPointer(start: nil, count: 0), into: out)
    #expect(out.isEmpty && rest.isEmpty)
    (frame(0x89, "x") + frame(0x81, "late") + closeFrame(4404)).withUnsafeBytes { bytes in
      var input = bytes
      var seen: [String] = []
      for _ in 0..<4 {
        switch session.receive(&input, into: out) {
        case .ping: seen.append("ping")
        case .message: seen.append("message")
        case .closed(let code, _): seen.append("closed \(code)")
        case .needMore: seen.append("needMore")
        case .pong, .failed: seen.append("?")
        }
      }
      #expect(seen == ["ping", "message", "closed 4404", "needMore"])
      #expect(out.isEmpty)
    }
  }
}
