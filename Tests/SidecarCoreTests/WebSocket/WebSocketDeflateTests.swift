import Testing

@testable import SidecarCore

/// permessage-deflate, RFC 7692: its examples, its borders, its bombs, and what both sides negotiate.
@Suite struct WebSocketDeflateTests {
  private static func client(keepsContext: Bool, messageMax: Int = 1 << 20) -> WebSocketTranscript {
    let direction = DeflateDirection(keepsContext: keepsContext)
    return WebSocketTranscript(
      role: .client, messageMax: messageMax, deflate: DeflateAgreement(server: direction, client: direction))
  }

  @Test func examplesOfTheSpecification() {
    let alone = Self.client(keepsContext: false)
    #expect(alone.run(unhex("c107f248cdc9c90700")) == [#"text "Hello""#])
    #expect(alone.run(unhex("4103f248cd 8004c9c90700")) == [#"text "Hello""#])
    // Uncompressed between compressed ones; a stored block; a block marked as the last; two blocks.
    #expect(alone.run(unhex("8101 61 c107f248cdc9c90700")) == [#"text "a""#, #"text "Hello""#])
    #expect(alone.run(unhex("c10b000500faff48656c6c6f00")) == [#"text "Hello""#])
    #expect(alone.run(unhex("c108f348cdc9c9070000")) == [#"text "Hello""#])
    #expect(alone.run(unhex("c10df2480500 0000ffff cac9c90700")) == [#"text "Hello""#])
    let together = Self.client(keepsContext: true)
    #expect(together.run(unhex("c107f248cdc9c90700 c105f200110000")) == [#"text "Hello""#, #"text "Hello""#])
    #expect(together.run(unhex("c108f348cdc9c9070000 c105f200110000")) == [#"text "Hello""#, #"text "Hello""#])
    #expect(alone.run(unhex("c107f248cdc9c90700 c105f200110000")).last?.hasPrefix("sent 88") == true)
  }

  @Test func anEmptyMessage() {
    #expect(
      Self.client(keepsContext: false).run(unhex("c10100 c100 c10100")) == Array(repeating: #"text """#, count: 3))
  }

  @Test(arguments: ["c106f248cdc9c907", "c104f248cdc9", "c101ff", "c1020500"])
  func aCutOrBrokenStreamIsRefused(_ bytes: String) {
    #expect(Self.client(keepsContext: false).run(unhex(bytes)).first?.hasPrefix("failed 1007") == true)
  }

  @Test func textIsCheckedAfterInflating() {
    // A stored block of FF.
    #expect(
      Self.client(keepsContext: false).run(unhex("c107 000100feffff 00")).first == "failed 1007 text is not UTF-8")
  }

  @Test func reservedBitOneMayOnlyStandOnTheFirstFrame() {
    let alone = Self.client(keepsContext: false)
    #expect(alone.run(unhex("4103f248cd c004c9c90700")).first == "failed 1002 reserved bit set")
    #expect(alone.run(unhex("c900")).first == "failed 1002 reserved bit set")
  }

  /// 1 GiB of zeros in about 1 MiB: refused after as many bytes as a message may have, whatever is announced.
  @Test func aBombEndsWith1009() throws {
    let deflater = try #require(Deflater(windowBits: 15))
    let packed = ByteBuffer()
    [UInt8](repeating: 0, count: 1 << 22).withUnsafeBytes { deflater.compress($0, into: packed) }
    packed.append([0, 0, 0xFF, 0xFF])
    let once = Array(packed.bytes)
    var bomb: [UInt8] = []
    for _ in 0..<256 { bomb += once }
    let limit = 1 << 20
    let lines = Self.client(keepsContext: false, messageMax: limit).run(frame(0xC2, bomb, key: nil))
    #expect(lines.first == "failed 1009 message larger than \(limit) bytes when inflated")
    let justFits = ByteBuffer()
    [UInt8](repeating: 0, count: limit).withUnsafeBytes {
      deflater.restart()
      deflater.compress($0, into: justFits)
    }
    #expect(
      Self.client(keepsContext: false, messageMax: limit).run(frame(0xC2, Array(justFits.bytes), key: nil))
        .first?.hasPrefix("binary (\(limit) bytes") == true)
  }

  @Test func cuttingTheBytesChangesNothing() {
    for client in [Self.client(keepsContext: false), Self.client(keepsContext: true)] {
      for input in ["c107f248cdc9c90700 8101 61 c107f248cdc9c90700", "4103f248cd 8900 8004c9c90700 c106f248cdc9c907"] {
        let bytes = unhex(input)
        let expected = client.run(bytes)
        for cut in 0...bytes.count { #expect(client.run(bytes, cutAt: [cut]) == expected) }
        #expect(client.run(bytes, cutAt: Array(1..<bytes.count)) == expected)
      }
    }
  }

  /// zlib cannot compress with a window of 256 bytes; messages then go as they are.
  @Test func aWindowOfEightBitsMeansNoCompression() {
    let small = DeflateDirection(keepsContext: true, windowBits: 8)
    var session = WebSocketSession(
      .server, messageMax: 1000, deflate: DeflateAgreement(server: small, client: small), buffers: BufferPool(),
      deflaters: DeflatePool(), maskSeed: 1)
    let out = ByteBuffer()
    [UInt8](repeating: 65, count: 500).withUnsafeBytes { out.append(session.send(.text, $0, into: out)) }
    #expect(out.count == 504 && out.bytes[0] == 0x81)
  }

  // MARK: Negotiation

  static let offers: [(String, String?, String?)] = [
    ("permessage-deflate", "server_no_context_takeover; client_no_context_takeover", ""),
    ("permessage-deflate; client_max_window_bits", "server_no_context_takeover; client_no_context_takeover", ""),
    (
      "permessage-deflate; client_max_window_bits=10; server_max_window_bits=\"9\"",
      "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=10",
      "server_max_window_bits=9; client_max_window_bits=10"
    ),
    (
      "permessage-deflate; server_no_context_takeover",
      "server_no_context_takeover; client_no_context_takeover", "server_no_context_takeover"
    ),
    (
      "permessage-deflate; client_no_context_takeover",
      "server_no_context_takeover; client_no_context_takeover", "client_no_context_takeover"
    ),
    (
      "x-other; a=\"b\", permessage-deflate; unknown, permessage-deflate; server_max_window_bits=16, permessage-deflate",
      "server_no_context_takeover; client_no_context_takeover", ""
    ),
    ("permessage-deflate; server_max_window_bits", nil, nil),
    ("permessage-deflate; server_max_window_bits=08", nil, nil),
    ("permessage-deflate; server_max_window_bits=7", nil, nil),
    ("permessage-deflate; client_no_context_takeover=1", nil, nil),
    ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", nil, nil),
    ("permessage-deflate; client_max_window_bits; client_max_window_bits=9", nil, nil),
    ("Permessage-Deflate", nil, nil),
    (",  ,", nil, nil),
  ]

  @Test(arguments: offers)
  func theFirstAcceptableOfferIsAnswered(_ offer: String, _ alone: String?, _ together: String?) throws {
    for (wish, expected) in [(DeflateWish.withoutContext, alone), (.withContext, together)] {
      let head = try requestHead("Sec-WebSocket-Extensions: \(offer)\r\n")
      let fields = ByteBuffer()
      let agreement = try WebSocketHandshake.accept(head, deflate: wish, fields: fields)
      let text = String(decoding: fields.bytes, as: UTF8.self)
      #expect((agreement.deflate != nil) == (expected != nil))
      let prefix = "Sec-WebSocket-Extensions: permessage-deflate"
      guard let expected else {
        #expect(!text.contains("Extensions"))
        continue
      }
      #expect(text.hasSuffix(prefix + (expected.isEmpty ? "" : "; " + expected) + "\r\n"), "\(text)")
      // A client of ours understands it the same way, where its own offer allows that answer.
      if wish == .withContext, !expected.contains("client_max") || offer.contains("client_max") {
        let answer = try answerHead(text)
        let heard = try WebSocketHandshake.check(answer, key: sampleKey, deflate: wish)
        #expect(heard.deflate == agreement.deflate)
      }
    }
  }

  @Test func compressionIsRefusedWhereItIsNotWished() throws {
    let fields = ByteBuffer()
    let agreement = try WebSocketHandshake.accept(
      try requestHead("Sec-WebSocket-Extensions: permessage-deflate\r\n"), deflate: nil, fields: fields)
    #expect(agreement.deflate == nil && !String(decoding: fields.bytes, as: UTF8.self).contains("Extensions"))
  }

  @Test(arguments: [
    "permessage-deflate; client_max_window_bits", "permessage-deflate, permessage-deflate", "x-webkit-deflate-frame",
    "permessage-deflate; foo", "permessage-deflate; server_max_window_bits=16", "permessage-deflate;",
    "permessage-deflate =",
  ]) func aWrongAnswerIsRefused(_ answer: String) throws {
    let head = try answerHead("\(acceptedFields)Sec-WebSocket-Extensions: \(answer)\r\n")
    #expect(throws: WireError.self) { try WebSocketHandshake.check(head, key: sampleKey, deflate: .withContext) }
  }

  @Test func aServerThatKeepsContextAgainstOurOfferIsRefused() throws {
    let head = try answerHead("\(acceptedFields)Sec-WebSocket-Extensions: permessage-deflate\r\n")
    #expect(throws: WireError.self) { try WebSocketHandshake.check(head, key: sampleKey, deflate: .withoutContext) }
    #expect(throws: WireError.self) { try WebSocketHandshake.check(head, key: sampleKey, deflate: nil) }
  }
}
