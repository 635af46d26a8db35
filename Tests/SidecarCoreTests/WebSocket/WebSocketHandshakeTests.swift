import Testing

@testable import SidecarCore

/// The key and the answer of RFC 6455 §1.3.
let sampleKey = Array("dGhlIHNhbXBsZSBub25jZQ==".utf8)
let acceptedFields =
  "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
private let asked = """
  Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
  Sec-WebSocket-Version: 13\r\n
  """

func requestHead(_ fields: String, asked: String = asked, line: String = "GET /chat HTTP/1.1") throws(WireError)
  -> HTTP1Head
{
  try head(.server, "\(line)\r\nHost: a\r\n\(asked)\(fields)\r\n")
}

func answerHead(_ fields: String, status: String = "101 Switching Protocols") throws(WireError) -> HTTP1Head {
  try head(.client, "HTTP/1.1 \(status)\r\n\(fields)\r\n")
}

private func head(_ role: HTTP1Parser.Role, _ text: String) throws(WireError) -> HTTP1Head {
  let source = FixedBytes(text)
  defer { withExtendedLifetime(source) {} }
  var parser = HTTP1Parser(role)
  var bytes = source.span
  guard case .head = try parser.next(&bytes) else { throw WireError("no head") }
  parser.keepHead()
  return parser.head
}

@Suite struct WebSocketHandshakeTests {
  @Test func theExampleOfTheSpecification() throws {
    let fields = ByteBuffer()
    let agreement = try WebSocketHandshake.accept(
      try requestHead("Sec-WebSocket-Protocol: chat, superchat\r\n"), subprotocols: ["superchat", "chat"], deflate: nil,
      fields: fields)
    #expect(agreement == WebSocketAgreement(subprotocol: "chat"))
    #expect(String(decoding: fields.bytes, as: UTF8.self) == acceptedFields + "Sec-WebSocket-Protocol: chat\r\n")
  }

  @Test func digestsOfTheSpecificationOfSHA1() {
    for (text, digest) in [
      ("abc", "a9993e364706816aba3e25717850c26c9cd0d89d"), ("", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
      ("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "84983e441c3bd26ebaae4aa1f95129e5e54670f1"),
      (String(repeating: "a", count: 1_000_000), "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
    ] {
      let out = ByteBuffer()
      Array(text.utf8).withUnsafeBytes { SHA1.append($0, into: out) }
      #expect(hex(out.bytes) == digest)
    }
  }

  static let refused: [(String, String, Int)] = [
    ("POST /chat HTTP/1.1", asked, 400), ("GET /chat HTTP/1.0", asked, 400), ("GET /chat HTTP/1.1", "", 426),
    ("GET /chat HTTP/1.1", asked.replacing("Connection: Upgrade", with: "Connection: keep-alive"), 426),
    ("GET /chat HTTP/1.1", asked.replacing("Upgrade: websocket", with: "Upgrade: h2c"), 426),
    ("GET /chat HTTP/1.1", asked.replacing("13", with: "8"), 426),
    (
      "GET /chat HTTP/1.1", asked.replacing("Version: 13\r\n", with: "Version: 13\r\nSec-WebSocket-Version: 13\r\n"),
      426
    ),
    ("GET /chat HTTP/1.1", asked.replacing("Q==", with: "QQQ="), 400),
    ("GET /chat HTTP/1.1", asked.replacing("dGhl", with: "dG-l"), 400),
    ("GET /chat HTTP/1.1", asked.replacing("dGhl", with: ""), 400),
    ("GET /chat HTTP/1.1", asked + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", 400),
    ("GET /chat HTTP/1.1", asked + "Content-Length: 1\r\n", 400),
    ("GET /chat HTTP/1.1", asked + "Sec-WebSocket-Protocol: a, a\r\n", 400),
    ("GET /chat HTTP/1.1", asked + "Sec-WebSocket-Protocol: a b\r\n", 400),
    ("GET /chat HTTP/1.1", asked + "Sec-WebSocket-Extensions: ;\r\n", 400),
    ("GET /chat HTTP/1.1", asked + "Sec-WebSocket-Extensions: a; b=\"c d\"\r\n", 400),
    ("GET /chat HTTP/1.1", asked + "Sec-WebSocket-Extensions: a b\r\n", 400),
  ]

  @Test(arguments: refused) func aRequestThatIsNotOneIsRefused(_ line: String, _ fields: String, _ status: Int) throws {
    let head = try requestHead("", asked: fields, line: line)
    let error = #expect(throws: WireError.self) {
      try WebSocketHandshake.accept(head, subprotocols: ["a"], deflate: .withoutContext, fields: ByteBuffer())
    }
    #expect(error?.status == status)
  }

  @Test func namesAreComparedWithoutCaseWhereTheSpecificationSaysSo() throws {
    let fields = asked.replacing("Upgrade: websocket", with: "upgrade: foo, WebSocket").replacing(
      "Connection: Upgrade", with: "connection: keep-alive, uPGRADE")
    _ = try WebSocketHandshake.accept(try requestHead("", asked: fields), deflate: nil, fields: ByteBuffer())
  }

  @Test func clientAndServerAgree() throws {
    var random = SeededRandom(seed: 5)
    for wish in [DeflateWish.withContext, .withoutContext] {
      let key = WebSocketHandshake.makeKey(&random)
      let request = ByteBuffer()
      WebSocketHandshake.appendRequest(key: key, subprotocols: ["json", "proto"], deflate: wish, into: request)
      let fields = ByteBuffer()
      let served = try WebSocketHandshake.accept(
        try requestHead("", asked: String(decoding: request.bytes, as: UTF8.self)), subprotocols: ["proto"],
        deflate: wish, fields: fields)
      let heard = try WebSocketHandshake.check(
        try answerHead(String(decoding: fields.bytes, as: UTF8.self)), key: key, subprotocols: ["json", "proto"],
        deflate: wish)
      #expect(served == heard && served.subprotocol == "proto" && served.deflate != nil)
    }
  }

  static let wrongAnswers: [(String, String)] = [
    ("200 OK", acceptedFields + "Content-Length: 0\r\n"), ("101 x", acceptedFields.replacing("s3pP", with: "S3pP")),
    ("101 x", acceptedFields.replacing("Connection: Upgrade\r\n", with: "")),
    ("101 x", acceptedFields.replacing("websocket", with: "websockets")),
    ("101 x", acceptedFields + "Sec-WebSocket-Protocol: other\r\n"),
    ("101 x", acceptedFields + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
  ]

  @Test(arguments: wrongAnswers) func aWrongAnswerIsRefused(_ status: String, _ fields: String) throws {
    let head = try answerHead(fields, status: status)
    #expect(throws: WireError.self) {
      try WebSocketHandshake.check(head, key: sampleKey, subprotocols: ["chat"], deflate: nil)
    }
  }
}
