import Testing

@testable import SidecarCore

/// The parser's outcome is a function of the bytes: wherever they are cut into reads, the events, the bytes and the
/// error (with its offset) are the same. Tried for good and bad messages at every position, for short ones at every
/// pair of positions, and byte by byte.
@Suite struct HTTP1CutTests {
  static let requests: [String] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\nGET / HTTP/1.0\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nhost:a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\nSum:  1 \r\n\r\n",
    "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
    "POST /say HTTP/1.1\r\nHost: a\r\nMicro-Service: b\r\nX-Long-Name-Of-No-Meaning: \t some\tvalue \r\n\r\n",
    "POST / HTTP/1.1\r\nHost: 127.0.0.1:38449\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 32\r\n"
      + "Accept: application/octet-stream\r\nContent-Type: application/octet-stream\r\nFoo: one\r\n"
      + "Timeout: 5000000000\r\nX-Micro-From-Service: cli\r\n\r\n0123456789abcdef0123456789abcdef",
    // Refused, at the same byte each time.
    "GET /#\r\n", "GET / HTTP/1.2\r\n", "GET / HTTP/1.1\n", "\r\n\r\nGET", "\rG", "GET / HTTP/1.1\r\nA\r\n\r\n",
    "GET / HTTP/1.1\r\nA b: c\r\n\r\n", "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", "GET / HTTP/1.1\r\nA: b\nc: d\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello5\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA b\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "SOMEMETHODTHATISVERYLONGINDEEDFORONE / HTTP/1.1\r\n", "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}",
  ]
  static let responses: [String] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 204\r\n\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 500 Some Phrase\r\nA: b\r\n\r\nuntil close",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\nHTTP/1.1 304 x\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc",
    "HTTP/1.1 600 x\r\n\r\n", "HTTP/1.1 200 a\u{7f}\r\n\r\n", "HTTP/3.1 200 a\r\n\r\n", "\r\nHTTP/1.1 200 OK\r\n\r\n",
  ]

  private func compare(_ transcript: HTTP1Transcript, _ message: String) {
    let input = Array(message.utf8)
    let expected = transcript.run(input)
    var isSame = true
    func check(_ cuts: [Int], _ transcript: HTTP1Transcript) {
      guard isSame else { return }
      let found = transcript.run(input, cutAt: cuts)
      isSame = found == expected
      if !isSame { Issue.record("cut at \(cuts): \(found) instead of \(expected)") }
    }
    var keeping = transcript
    keeping.keepsHeads = true
    var alone = transcript
    alone.disturbs = false
    for first in 0...input.count {
      check([first], transcript)
      check([first], keeping)
      check([first], alone)
      guard input.count <= 72 else { continue }
      for second in first...input.count { check([first, second], transcript) }
    }
    for one in [transcript, keeping, alone] { check(Array(1..<max(input.count, 1)), one) }
  }

  @Test(arguments: requests, [false, true])
  func `requests are the same however they are cut`(message: String, ends: Bool) {
    compare(HTTP1Transcript(ends: ends), message)
  }

  @Test(arguments: responses, [false, true])
  func `responses are the same however they are cut`(message: String, ends: Bool) {
    compare(HTTP1Transcript(role: .client, ends: ends), message)
  }

  @Test func `a head at its limit`() {
    var transcript = HTTP1Transcript()
    transcript.limits.headBytes = 40
    transcript.limits.fieldCount = 2
    for message in [
      "GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaa\r\n\r\n", "GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaa\r\n\r\n",
      "GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\n", "GET / HTTP/1.1\r\nA:\r\nB:\r\nC:\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaa\n\r\n",
    ] {
      compare(transcript, message)
    }
  }

  @Test func `trailers at their limit`() {
    var transcript = HTTP1Transcript()
    transcript.limits.trailerBytes = 10
    for trailer in ["A: bcd\r\n", "A: bcde\r\n", "ABCDEFGHIJKL", "A: b\r\n"] {
      compare(
        transcript,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + trailer + "\r\nGET / HTTP/1.0\r\n\r\n"
      )
    }
  }

  /// Each byte of a head is looked at once, however it comes: 64 KiB sent byte by byte must not take quadratic time.
  @Test func `a long line is resumed, not read again`() throws {
    for (start, fill) in [
      ("GET /", "a"), ("GET / HTTP/1.1\r\n", "a"), ("GET / HTTP/1.1\r\nA: ", "a"), ("GET / HTTP/1.1\r\nA:", " "),
    ] {
      let head = HTTP1Head()
      head.begin()
      let input = Array((start + String(repeating: fill, count: 1000)).utf8)
      for count in stride(from: start.utf8.count + 100, through: input.count, by: 100) {
        try input.withUnsafeBytes { bytes in
          let base = try #require(bytes.baseAddress)
          #expect(try head.parse(base, count, .server, HTTP1Limits()) == nil)
          #expect(head.progress.scanned == count)
        }
      }
    }
  }
}
