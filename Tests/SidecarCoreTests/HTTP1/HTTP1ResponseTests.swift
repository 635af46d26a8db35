import Testing

@testable import SidecarCore

/// What a client accepts and refuses of a response.
@Suite struct HTTP1ResponseTests {
  private func transcript(_ input: String, toHEAD: Bool = false, toCONNECT: Bool = false, ends: Bool = false)
    -> [String]
  {
    HTTP1Transcript(role: .client, answersHEAD: toHEAD, answersCONNECT: toCONNECT, ends: ends).run(input)
  }

  @Test(arguments: [
    ("HTTP/1.1 200 OK", "status 200 HTTP/1.1"), ("HTTP/1.0 200 OK", "status 200 HTTP/1.0"),
    ("HTTP/1.1 200 ", "status 200 HTTP/1.1"), ("HTTP/1.1 200", "status 200 HTTP/1.1"),
    ("HTTP/1.1 599 né\tä", "status 599 HTTP/1.1"), ("HTTP/1.1 404 Not: Found ", "status 404 HTTP/1.1"),
    ("HTTP/1.1 400 Bad Request: missing required Host header", "status 400 HTTP/1.1"),
  ])
  func `good status lines`(line: String, start: String) {
    #expect(transcript(line + "\r\nContent-Length: 0\r\n\r\n").first?.hasPrefix(start + " length(0)") == true)
  }

  @Test(arguments: [
    ("HTTP/1.1  200 OK", "malformed status code at 9"), ("HTTP/1.1 20 OK", "malformed status code at 11"),
    ("HTTP/1.1 2000 OK", "control byte in a line at 12"), ("HTTP/1.1 099 OK", "malformed status code at 9"),
    ("HTTP/1.1 600 OK", "malformed status code at 9"), ("HTTP/1.1 +20 OK", "malformed status code at 9"),
    ("HTTP/1.1", "malformed status line at 8"), ("HTTP/2.0 200 OK", "HTTP version not supported at 0"),
    ("HTTP/1.1\t200 OK", "malformed status line at 8"), ("http/1.1 200 OK", "malformed HTTP version at 0"),
    ("ICY 200 OK", "malformed HTTP version at 0"), (" HTTP/1.1 200 OK", "malformed HTTP version at 0"),
    ("\r\nHTTP/1.1 200 OK", "malformed HTTP version at 0"), ("HTTP/1.1 200 a\u{0}b", "control byte in a line at 14"),
    ("HTTP/1.1 200 a\nb", "LF without CR at 14"), ("HTTP/1.1 200\n", "LF without CR at 12"),
    ("HTTP/1.1 200 a\rb", "CR without LF at 14"), ("200 OK", "malformed HTTP version at 0"),
  ])
  func `bad status lines`(line: String, error: String) {
    #expect(transcript(line + "\r\n\r\n").last == "error 502: " + error)
  }

  @Test(arguments: [
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Content-Length: 5\r\nContent-Length: 5\r\n",
    "Content-Length: 5, 5\r\n", "Content-Length: -1\r\n", "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: gzip\r\n", "A : b\r\n", " A: b\r\n", "A\r\n", "A: b\nC: d\r\n",
  ])
  func `ambiguous or malformed fields are refused whatever the response is`(fields: String) {
    for status in [100, 200, 204, 304] {
      #expect(transcript("HTTP/1.1 \(status) x\r\n" + fields + "\r\n").last?.hasPrefix("error 502: ") == true)
    }
  }

  @Test func `HTTP/1.0 responses have no transfer coding`() {
    #expect(
      transcript("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").last
        == "error 502: Transfer-Encoding in HTTP/1.0 at 17")
  }

  @Test func `a body without length ends with the connection`() {
    let input = "HTTP/1.1 200 OK\r\nFoo: bar\r\n\r\nhello HTTP/1.1 200 OK\r\n\r\n"
    let start = ["status 200 HTTP/1.1 untilClose close [29]", "  other Foo: bar"]
    let body = "body hello HTTP/1.1 200 OK\\x0d\\x0a\\x0d\\x0a"
    #expect(transcript(input) == start + [body, "inside a message"])
    #expect(transcript(input, ends: true) == start + [body, "end"])
    #expect(transcript("HTTP/1.1 200 OK\r\n\r\n", ends: true) == ["status 200 HTTP/1.1 untilClose close [19]", "end"])
  }

  @Test(arguments: [204, 304])
  func `some statuses never have a body`(status: Int) {
    let next = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    #expect(
      transcript("HTTP/1.1 \(status) x\r\nContent-Length: 5\r\n\r\n" + next) == [
        "status \(status) HTTP/1.1 none keep-alive [37]", "  contentLength Content-Length: 5", "end",
        "status 200 HTTP/1.1 length(2) keep-alive [38]", "  contentLength Content-Length: 2", "body hi", "end",
      ])
  }

  @Test func `the answer to HEAD has no body, and the one after it may`() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    #expect(
      transcript("HTTP/1.1 100 Continue\r\n\r\n" + head + head + "hi", toHEAD: true) == [
        "status 100 HTTP/1.1 none keep-alive [25]", "end", "status 200 HTTP/1.1 none keep-alive [38]",
        "  contentLength Content-Length: 2", "end", "status 200 HTTP/1.1 length(2) keep-alive [38]",
        "  contentLength Content-Length: 2", "body hi", "end",
      ])
  }

  @Test func `after 101 the bytes are another protocol's`() {
    let response = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    #expect(transcript(response + "\u{1}\u{2}", ends: true).suffix(2) == ["end", "inside a message"])
    var parser = HTTP1Parser(.client)
    Array((response + "frame").utf8).withUnsafeBytes { bytes in
      var rest = bytes
      for _ in 0..<4 { _ = try? parser.next(&rest) }
      #expect(rest.elementsEqual("frame".utf8))
    }
  }

  @Test func `a tunnel opens with a 2xx to CONNECT only`() {
    let opened = transcript("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", toCONNECT: true)
    #expect(opened.first == "status 200 HTTP/1.1 none keep-alive [38]")
    #expect(opened.suffix(2) == ["end", "inside a message"])
    let refused = transcript("HTTP/1.1 407 x\r\nContent-Length: 3\r\n\r\nabc", toCONNECT: true)
    #expect(refused.suffix(2) == ["body abc", "end"])
  }

  @Test func `trailers say nothing of the head whose memory they use again`() throws {
    let message =
      "HTTP/1.0 404 x\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"
      + "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n"
    var parser = HTTP1Parser(.client)
    try Array(message.utf8).withUnsafeBytes { bytes in
      var rest = UnsafeRawBufferPointer(rebasing: bytes[..<10])
      _ = try parser.next(&rest)
      rest = UnsafeRawBufferPointer(rebasing: bytes[10...])
      for _ in 0..<4 { _ = try parser.next(&rest) }
      let section = parser.trailers
      let trailers = try #require(section)
      #expect(trailers.fieldCount == 1)
      #expect(trailers.status == 0)
      #expect(trailers.framing == .none)
    }
  }

  @Test func `an interim response that announces a body is refused`() {
    for fields in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
      #expect(
        transcript("HTTP/1.1 103 x\r\n" + fields + "\r\n").last
          == "error 502: interim response with a body at 0")
    }
    #expect(transcript("HTTP/1.1 103 x\r\nContent-Length: 0\r\n\r\n").last == "end")
  }

  @Test func `an end of stream inside a response is an error`() {
    for cut in [
      "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    ] {
      #expect(transcript(cut, ends: true).last == "error 502: connection closed inside a message at 0", "\(cut)")
    }
  }
}
