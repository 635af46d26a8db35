// gRPC's small encodings, framing, metadata and the end of a call.

@testable import SidecarCore
import Testing

@Suite struct GRPCWireTests {
  private static func written(_ body: (ByteBuffer) -> Void) -> String {
    let buffer = ByteBuffer()
    body(buffer)
    return String(decoding: buffer.bytes, as: UTF8.self)
  }

  // MARK: Text

  @Test(
    "messages are percent-encoded and decoded",
    arguments: [
      ("plain", "plain"), ("100%", "100%25"), ("a\nb", "a%0Ab"), ("é", "%C3%A9"), ("", ""), ("~ \u{7F}", "~ %7F"),
    ])
  func percent(plain: String, encoded: String) {
    #expect(Self.written { buffer in Bytes.of(plain) { GRPCText.appendPercentEncoded($0, to: buffer) } } == encoded)
    #expect(Bytes.of(encoded) { GRPCText.percentDecoded($0) } == Array(plain.utf8))
  }

  @Test("a broken percent-encoding is kept as it is", arguments: ["%", "%4", "%zz", "a%4g"])
  func brokenPercent(text: String) {
    #expect(Bytes.of(text) { GRPCText.percentDecoded($0) } == Array(text.utf8))
  }

  @Test(
    "timeouts are read",
    arguments: [
      ("1n", 1), ("99999999u", 99_999_999_000), ("250m", 250_000_000), ("5S", 5_000_000_000), ("2M", 120_000_000_000),
      ("1H", 3_600_000_000_000), ("0S", 0), ("99999999H", Int64.max),
    ])
  func timeout(text: String, nanoseconds: Int64) {
    #expect(Bytes.of(text) { GRPCText.timeout($0) } == nanoseconds)
  }

  @Test("what is no timeout is refused", arguments: ["", "5", "S", "-1S", "123456789S", "5s", "1.5S", " 1S", "1S "])
  func badTimeout(text: String) {
    #expect(Bytes.of(text) { GRPCText.timeout($0) } == nil)
  }

  @Test("timeouts are written in the finest unit that fits, never longer than they are")
  func timeoutWritten() {
    for (nanoseconds, text) in [
      (1, "1n"), (0, "1n"), (-5, "1n"), (99_999_999, "99999999n"), (100_000_000, "100000u"),
      (5_000_000_000, "5000000u"), (100_000_000_000, "100000m"), (Int64.max, "2562047H"),
    ] as [(Int64, String)] {
      #expect(Self.written { GRPCText.appendTimeout(nanoseconds, to: $0) } == text)
    }
    var random = SeededRandom(seed: 7)
    for _ in 0..<10_000 {
      let value = Int64(bitPattern: random.next() >> UInt64(1 + random.below(62)))
      let text = Self.written { GRPCText.appendTimeout(value, to: $0) }
      let read = Bytes.of(text) { GRPCText.timeout($0) } ?? -1
      #expect(read <= max(value, 1) && read >= value - value / 1000, "\(value) as \(text)")
    }
  }

  @Test("base64 goes both ways, with and without padding and of either alphabet")
  func base64() {
    for (bytes, text) in [
      ([], ""), ([0], "AA"), ([0, 1], "AAE"), ([0, 1, 255], "AAH/"),
      (Array("any carnal pleas".utf8), "YW55IGNhcm5hbCBwbGVhcw"),
    ] as [([UInt8], String)] {
      #expect(Self.written { buffer in bytes.withUnsafeBytes { GRPCText.appendBase64($0, to: buffer) } } == text)
      #expect(Bytes.of(text) { GRPCText.base64Decoded($0) } == bytes)
    }
    #expect(Bytes.of("AA==") { GRPCText.base64Decoded($0) } == [0])
    #expect(Bytes.of("AAE=") { GRPCText.base64Decoded($0) } == [0, 1])
    #expect(Bytes.of("AAH_") { GRPCText.base64Decoded($0) } == [0, 1, 255])
    for bad in ["A", "AA=A", "A===", "A A", "AAAAA", "é"] {
      #expect(Bytes.of(bad) { GRPCText.base64Decoded($0) } == nil)
    }
  }

  // MARK: Framing

  private static func frame(_ message: [UInt8], flag: UInt8 = 0) -> [UInt8] {
    let count = UInt32(message.count)
    return [flag] + [24, 16, 8, 0].map { UInt8(count >> $0 & 255) } + message
  }

  private static func read(_ bytes: [UInt8], pieces: Int, limit: Int = 1 << 20) throws -> ([[UInt8]], Bool) {
    var reader = GRPCMessageReader(limit: limit, buffers: BufferPool())
    var messages: [[UInt8]] = []
    var offset = 0
    while offset < bytes.count {
      let end = min(offset + pieces, bytes.count)
      try bytes[offset..<end].withUnsafeBytes { piece in
        var input = piece
        while case .message(let message) = try reader.next(&input) { messages.append(Array(message)) }
        #expect(input.isEmpty)
      }
      offset = end
    }
    let isWhole = reader.isBetweenMessages
    reader.reset()
    return (messages, isWhole)
  }

  @Test("messages are cut out whatever the pieces", arguments: [1, 2, 3, 5, 6, 7, 64, 1 << 20])
  func framing(pieces: Int) throws {
    let messages: [[UInt8]] = [[], [1], Array(repeating: 2, count: 300), [], [3, 4, 5]]
    let bytes = messages.flatMap { Self.frame($0) }
    let (read, isWhole) = try Self.read(bytes, pieces: pieces)
    #expect(read == messages && isWhole)
    let (_, isCut) = try Self.read(Array(bytes.dropLast()), pieces: pieces)
    #expect(!isCut)
    let (_, insidePrefix) = try Self.read(bytes + [0, 0], pieces: pieces)
    #expect(!insidePrefix)
  }

  @Test("compressed, oversized and malformed messages are refused as soon as their prefix is here")
  func framingErrors() {
    for pieces in [1, 5, 100] {
      #expect(throws: GRPCFramingError.compressed) { try Self.read(Self.frame([1, 2], flag: 1), pieces: pieces) }
      #expect(throws: GRPCFramingError.badFlag(9)) { try Self.read([9, 0, 0, 0, 0], pieces: pieces) }
      #expect(throws: GRPCFramingError.tooLarge(bytes: 0xFFFF_FFFF, limit: 10)) {
        try Self.read([0, 255, 255, 255, 255], pieces: pieces, limit: 10)
      }
      #expect(throws: Never.self) {
        try Self.read(Self.frame(Array(repeating: 0, count: 10)), pieces: pieces, limit: 10)
      }
    }
    #expect(GRPCFramingError.compressed.status == .unimplemented)
    #expect(GRPCFramingError.tooLarge(bytes: 2, limit: 1).status == .resourceExhausted)
  }

  @Test("the prefix is written as it is read")
  func prefix() {
    for count in [0, 1, 255, 256, 70_000, 1 << 30] {
      let bytes = GRPCFraming.withPrefix(count) { Array($0) }
      #expect(bytes == [0] + [24, 16, 8, 0].map { UInt8(count >> $0 & 255) })
    }
  }

  // MARK: Metadata

  private static func fields(_ pairs: [(String, String)]) -> HTTP2Fields {
    let fields = HTTP2Fields()
    fields.begin()
    for (name, value) in pairs { Bytes.of(name) { name in Bytes.of(value) { fields.append(name, $0) } } }
    return fields
  }

  @Test("what belongs to gRPC, to the framework's routing or to the connection is no metadata")
  func metadataIn() {
    let fields = Self.fields([
      (":path", "/a/b"), ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "1S"),
      ("grpc-encoding", "identity"), ("timeout", "5"), ("x-content-type", "application/grpc+proto"),
      ("micro-service", "s"), ("local", "l"), ("foo", "bar"), ("foo-bin", "AAE"), ("authorization", "Bearer t"),
      ("micro-trace-id", "7"),
    ])
    #expect(
      Self.written { GRPCMetadata.append(from: fields, source: .framework, into: $0) }
        == "foo: bar\r\nfoo-bin: AAE\r\nauthorization: Bearer t\r\nmicro-trace-id: 7\r\n")
  }

  @Test("header lines become fields in lower case; binary ones are base64")
  func metadataOut() throws {
    let pair = HTTP2Pair()
    let list = pair.client.list([":method": "POST", ":scheme": "http", ":path": "/", ":authority": "x"])
    let lines =
      "Foo: bar\r\nBlob-Bin: raw bytes!\r\nKept-Bin: AAE, AA==\r\nContent-Length: 3\r\nTE: x\r\nGrpc-Status: 0\r\n"
      + "no colon\r\n: none\r\nConnection: close\r\nEmpty:\r\nLast:  x \r\n"
    Bytes.of(lines) { GRPCMetadata.append(lines: $0, to: list) }
    _ = try #require(pair.client.session.request(list, ends: true, handler: pair.client))
    pair.run()
    #expect(
      pair.server.log.first
        == "1 opened :method=POST :scheme=http :path=/ :authority=x foo=bar blob-bin=cmF3IGJ5dGVzIQ kept-bin=AAE, AA== empty= last=x"
    )
  }

  @Test(
    "content types",
    arguments: [
      ("application/grpc", PayloadFormat.protobuf), ("application/grpc+proto", .protobuf),
      ("application/grpc+json", .json), ("application/grpc;charset=utf-8", .protobuf),
      ("application/grpc+bytes", .bytes),
      ("Application/gRPC+JSON", .json),
      ("application/grpcx", nil), ("application/json", nil), ("application/grpc+thrift", nil), ("", nil),
    ])
  func contentTypes(type: String, format: PayloadFormat?) {
    #expect(Bytes.of(type) { GRPCMetadata.format(contentType: $0) } == format)
  }

  @Test("the smaller of gRPC's and the framework's timeouts counts")
  func timeouts() {
    #expect(GRPCMetadata.timeout(Self.fields([])).nanoseconds == nil)
    #expect(GRPCMetadata.timeout(Self.fields([("grpc-timeout", "2S")])).nanoseconds == 2_000_000_000)
    #expect(
      GRPCMetadata.timeout(Self.fields([("grpc-timeout", "2S"), ("timeout", "1000000")])).nanoseconds == 1_000_000)
    #expect(GRPCMetadata.timeout(Self.fields([("timeout", "1s")])).nanoseconds == nil)
    #expect(GRPCMetadata.timeout(Self.fields([("grpc-timeout", "soon")])).isBroken)
  }

  // MARK: The end

  /// The trailers of an error, as the client side of a real session reads them.
  private static func trailers(_ error: SidecarError?) throws -> (GRPCFailure?, String) {
    let pair = HTTP2Pair()
    let reader = TrailersReader()
    pair.server.onRequest = { stream in
      let list = pair.server.list([":status": "200"])
      GRPCTrailers.append(error, to: list)
      stream.respond(list, ends: true)
    }
    let list = pair.client.list([":method": "POST", ":scheme": "http", ":path": "/", ":authority": "x"])
    _ = try #require(pair.client.session.request(list, ends: true, handler: reader))
    pair.run()
    try #require(reader.text.contains("grpc-status="))
    return (reader.failure, reader.text)
  }

  private final class TrailersReader: HTTP2StreamHandler {
    var failure: GRPCFailure?
    var text = ""
    func http2Stream(_ stream: HTTP2Stream, received fields: HTTP2Fields, kind: HTTP2Stream.HeadKind) {
      failure = GRPCTrailers.failure(fields)
      text = HTTP2Side.text(fields)
    }
    func http2Stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {}
    func http2StreamEnded(_ stream: HTTP2Stream) {}
    func http2StreamDrained(_ stream: HTTP2Stream) {}
    func http2StreamClosed(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {}
  }

  @Test("an error goes out as go-micro's servers send it, and comes back the same")
  func errorTrailers() throws {
    let error = SidecarError(.serviceNotFound, "service é%: not found")
    let (failure, text) = try Self.trailers(error)
    let got = try #require(failure)
    #expect(text.hasPrefix(":status=200 grpc-status=5 grpc-message={\"id\":\"go.micro.client\",\"code\":404,"))
    #expect(got.status == 5)
    #expect(got.message.withUnsafeBytes { MicroError(parsing: $0) } == error.microError)
    #expect(got.details.withUnsafeBytes { GRPCFailure.microError(details: $0) } == error.microError)
    #expect(try Self.trailers(nil).0 == nil)
  }

  @Test("what came by gRPC goes on unchanged")
  func relayedTrailers() throws {
    for failure in [
      GRPCFailure(status: 9, message: Array("not now \u{1F680}".utf8), details: [1, 2, 3]),
      GRPCFailure(status: 77, message: []), GRPCFailure(status: 3, message: Array(" blanks ".utf8)),
    ] {
      #expect(try Self.trailers(SidecarError(failure)).0 == failure)
    }
    #expect(try Self.trailers(SidecarError(GRPCFailure(status: 0, message: []))).0?.status == 2, "no error is OK")
  }

  @Test("a long text is cut so that every client takes the trailers")
  func longTrailers() throws {
    let (failure, text) = try Self.trailers(SidecarError(.internal, String(repeating: "x\"", count: 20_000)))
    #expect(text.utf8.count < 8 * 1024)
    let micro = try #require(failure?.microError)
    #expect(micro.code == 500 && micro.detail.hasPrefix("x\"x\""))
  }

  @Test("an end without a status is UNKNOWN, or what the HTTP status says")
  func noStatus() {
    #expect(GRPCTrailers.failure(Self.fields([("foo", "1")]))?.status == GRPCStatus.unknown.rawValue)
    #expect(GRPCTrailers.failure(Self.fields([(":status", "503")]))?.status == GRPCStatus.unavailable.rawValue)
    #expect(GRPCTrailers.failure(Self.fields([(":status", "404")]))?.status == GRPCStatus.unimplemented.rawValue)
    #expect(GRPCTrailers.failure(Self.fields([("grpc-status", "x")]))?.status == GRPCStatus.unknown.rawValue)
    #expect(GRPCTrailers.failure(Self.fields([("grpc-status", "9999999999")]))?.status == GRPCStatus.unknown.rawValue)
    #expect(GRPCTrailers.failure(Self.fields([("grpc-status", "0")])) == nil)
    #expect(GRPCTrailers.failure(reset: .refusedStream).status == GRPCStatus.unavailable.rawValue)
    #expect(GRPCTrailers.failure(reset: .cancel).status == GRPCStatus.cancelled.rawValue)
  }
}
