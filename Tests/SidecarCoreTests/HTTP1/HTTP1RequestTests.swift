import Testing

@testable import SidecarCore

/// What a server accepts and refuses, one rule a row.
@Suite struct HTTP1RequestTests {
  static func request(_ fields: String = "Host: a\r\n", line: String = "GET / HTTP/1.1") -> String {
    line + "\r\n" + fields + "\r\n"
  }

  private func outcome(_ input: String, limits: HTTP1Limits = HTTP1Limits()) -> String {
    var transcript = HTTP1Transcript()
    transcript.limits = limits
    return transcript.run(input).last ?? ""
  }

  @Test func `a GET is reported whole`() {
    #expect(
      HTTP1Transcript().run("GET /a?b=c HTTP/1.1\r\nHost: x:80\r\nAccept:\t*/* \t\r\nFoo-Bar:\r\n\r\n") == [
        "get GET /a?b=c HTTP/1.1 none keep-alive [60]", "  host Host: x:80", "  accept Accept: */*",
        "  other Foo-Bar: ", "end",
      ])
  }

  @Test func `a body of known length ends the message`() {
    #expect(
      HTTP1Transcript().run("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").dropFirst(3) == [
        "body hello", "end",
      ])
  }

  @Test func `length zero has no body event`() {
    #expect(
      HTTP1Transcript().run(Self.request("Host: a\r\nContent-Length: 0\r\n", line: "POST / HTTP/1.1")) == [
        "post POST / HTTP/1.1 length(0) keep-alive [47]", "  host Host: a", "  contentLength Content-Length: 0", "end",
      ])
  }

  @Test func `the empty chunked body of Go clients ends at once`() {
    #expect(
      HTTP1Transcript().run(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTimeout: 2000000000\r\n\r\n0\r\n\r\n") == [
          "post POST / HTTP/1.1 chunked keep-alive [77]", "  host Host: a",
          "  transferEncoding Transfer-Encoding: chunked", "  timeout Timeout: 2000000000", "end",
        ])
  }

  @Test func `chunks, extensions and trailers`() {
    #expect(
      HTTP1Transcript().run(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"
          + "5\r\nhello\r\n00A;x;y=1;z=\"q\\\" ;\"\r\n0123456789\r\n0;last\r\nSum: 1\r\nNext:  b \r\n\r\n"
      ).dropFirst(3) == ["body hello0123456789", "trailer Sum: 1", "trailer Next: b", "end"])
  }

  @Test func `pipelined requests come one after the other`() {
    let three = """
      POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n\
      POST /3 HTTP/1.0\r\nContent-Length: 1\r\n\r\nx
      """
    #expect(
      HTTP1Transcript().run(three) == [
        "post POST /1 HTTP/1.1 length(2) keep-alive [48]", "  host Host: a", "  contentLength Content-Length: 2",
        "body hi", "end", "get GET /2 HTTP/1.1 none keep-alive [28]", "  host Host: a", "end",
        "post POST /3 HTTP/1.0 length(1) close [39]", "  contentLength Content-Length: 1", "body x", "end",
      ])
  }

  @Test(arguments: [
    ("Connection: close\r\n", "close"), ("Connection: Close\r\n", "close"), ("Connection: foo, CLOSE\r\n", "close"),
    ("Connection: foo\r\nConnection: close\r\n", "close"), ("Connection: keep-alive\r\n", "keep-alive"),
    ("Connection: closed\r\n", "keep-alive"), ("Connection: ,, ,\r\n", "keep-alive"), ("", "keep-alive"),
    ("Upgrade: websocket\r\n", "keep-alive"), ("Connection: upgrade\r\n", "keep-alive"),
    ("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n", "keep-alive upgrade"),
    ("Connection: upgrade\r\nUpgrade:\r\n", "keep-alive"),
    ("Connection: UPGRADE\r\nUpgrade: h2c\r\n", "keep-alive upgrade"),
    ("Expect: 100-Continue\r\n", "keep-alive expects-continue"),
  ])
  func `connection fields of HTTP/1.1`(fields: String, flags: String) throws {
    let line = try #require(HTTP1Transcript().run(Self.request("Host: a\r\n" + fields)).first)
    #expect(line.hasPrefix("get GET / HTTP/1.1 none \(flags) ["), "\(line)")
  }

  @Test(arguments: [
    ("", "close"), ("Connection: keep-alive\r\n", "keep-alive"), ("Connection: Keep-Alive, close\r\n", "close"),
    ("Expect: 100-continue\r\n", "close"), ("Connection: upgrade\r\nUpgrade: h2c\r\n", "close"),
  ])
  func `connection fields of HTTP/1.0`(fields: String, flags: String) throws {
    let line = try #require(HTTP1Transcript().run(Self.request(fields, line: "GET / HTTP/1.0")).first)
    #expect(line.hasPrefix("get GET / HTTP/1.0 none \(flags) ["), "\(line)")
  }

  @Test(arguments: [
    "GET / HTTP/1.1", "HEAD /a HTTP/1.0", "POST /%20?a={\"b\"|\\} HTTP/1.1", "PUT / HTTP/1.1", "DELETE / HTTP/1.1",
    "OPTIONS * HTTP/1.1", "OPTIONS / HTTP/1.1", "PATCH / HTTP/1.1", "TRACE / HTTP/1.1", "CONNECT a:443 HTTP/1.1",
    "CONNECT [::1]:443 HTTP/1.1", "GET http://a HTTP/1.1", "GET HTTPS://a/b?c HTTP/1.1", "GET http://a?c HTTP/1.1",
    "M-SEARCH / HTTP/1.1", "get / HTTP/1.1", "X / HTTP/1.1", "UPDATEREDIRECTREF / HTTP/1.1",
  ])
  func `good request lines`(line: String) {
    #expect(outcome(Self.request(line: line)) == "end")
  }

  @Test(arguments: [
    ("GET  / HTTP/1.1", "400: empty request target at 4"), (" GET / HTTP/1.1", "400: malformed method at 0"),
    ("GET / HTTP/1.1 ", "400: control byte in a line at 14"), ("GET /", "400: request line without a version at 5"),
    ("GET", "400: malformed method at 3"),
    ("G(T / HTTP/1.1", "400: malformed method at 1"),
    ("GET /\u{7f} HTTP/1.1", "400: malformed request target at 5"),
    ("GET /\u{0} HTTP/1.1", "400: malformed request target at 5"),
    ("GET /é HTTP/1.1", "400: malformed request target at 5"),
    ("GET /a\tHTTP/1.1", "400: malformed request target at 6"),
    ("GET /#a HTTP/1.1", "400: fragment in the request target at 5"),
    ("GET a HTTP/1.1", "400: malformed request target at 4"), ("GET * HTTP/1.1", "400: malformed request target at 4"),
    ("GET ftp://a HTTP/1.1", "400: malformed request target at 4"),
    ("GET http:// HTTP/1.1", "400: malformed request target at 4"),
    ("GET http:///a HTTP/1.1", "400: malformed request target at 4"),
    ("GET http://u@a/ HTTP/1.1", "400: malformed request target at 4"),
    ("CONNECT / HTTP/1.1", "400: malformed request target at 8"),
    ("CONNECT a HTTP/1.1", "400: malformed request target at 8"),
    ("CONNECT a:b HTTP/1.1", "400: malformed request target at 8"),
    ("CONNECT :1 HTTP/1.1", "400: malformed request target at 8"),
    ("GET / http/1.1", "400: malformed HTTP version at 6"), ("GET / HTTP/11", "400: malformed HTTP version at 12"),
    ("GET / HTTP/1.", "400: malformed HTTP version at 13"), ("GET / HTTP/1.12", "400: control byte in a line at 14"),
    ("GET / HTTP/2.0", "505: HTTP version not supported at 6"),
    ("GET / HTTP/0.9", "505: HTTP version not supported at 6"),
    ("GET / HTTP/1.2", "505: HTTP version not supported at 6"),
    ("PRI * HTTP/2.0", "505: HTTP version not supported at 6"),
    ("GETGETGETGETGETGETGETGETGETGETGETGETGET / HTTP/1.1", "400: method too long at 32"),
    ("\u{16}\u{3}\u{1}\u{2}", "400: malformed method at 0"),
  ])
  func `bad request lines`(line: String, error: String) {
    #expect(outcome(Self.request(line: line)) == "error " + error)
  }

  @Test func `one empty line may precede a request, in CRLF`() {
    #expect(outcome("\r\n" + Self.request()) == "end")
    #expect(outcome("\r\n\r\n" + Self.request()) == "error 400: malformed method at 0")
    #expect(outcome("\n" + Self.request()) == "error 400: malformed method at 0")
    #expect(outcome("\r" + Self.request()) == "error 400: CR without LF at 0")
  }

  @Test(arguments: [
    ("Host: a\r\nA : b\r\n", "400: white space in a field name at 26"),
    ("Host: a\r\nA\t: b\r\n", "400: white space in a field name at 26"),
    ("Host: a\r\n b: c\r\n", "400: folded header line at 25"), ("Host: a\r\n\tb\r\n", "400: folded header line at 25"),
    (" Host: a\r\n", "400: folded header line at 16"), ("Host: a\r\n: b\r\n", "400: empty field name at 25"),
    ("Host: a\r\nA\r\n", "400: field line without a colon at 26"),
    ("Host: a\r\nA\n: b\r\n", "400: LF without CR at 26"),
    ("Host: a\r\nA(: b\r\n", "400: malformed field name at 26"),
    ("Host: a\r\nAé: b\r\n", "400: malformed field name at 26"),
    ("Host: a\r\n\u{0}A: b\r\n", "400: malformed field name at 25"),
    ("Host: a\r\nA: b\u{0}c\r\n", "400: control byte in a line at 29"),
    ("Host: a\r\nA: b\u{7f}\r\n", "400: control byte in a line at 29"),
    ("Host: a\r\nA: b\u{1}\r\n", "400: control byte in a line at 29"),
    ("Host: a\r\nA: b\nC: d\r\n", "400: LF without CR at 29"),
    ("Host: a\r\nA: b\rC: d\r\n", "400: CR without LF at 29"), ("Host: a\r\nA: b\r\r\n", "400: CR without LF at 29"),
    ("Host: a\r\n\rA: b\r\n", "400: CR without LF at 25"), ("Host: a\n", "400: LF without CR at 23"),
    ("", "400: missing required Host header at 0"),
    ("Host: a\r\nhost: a\r\n", "400: repeated Host header at 16"),
    ("Host: a b\r\n", "400: malformed Host header at 16"), ("Host: a/b\r\n", "400: malformed Host header at 16"),
    ("Host: u@a\r\n", "400: malformed Host header at 16"), ("Host: é\r\n", "400: malformed Host header at 16"),
    (
      "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
      "400: both Transfer-Encoding and Content-Length at 25"
    ),
    (
      "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n",
      "400: both Transfer-Encoding and Content-Length at 53"
    ),
    ("Host: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n", "400: repeated Content-Length at 25"),
    ("Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n", "400: repeated Content-Length at 25"),
    ("Host: a\r\nContent-Length: 5, 5\r\n", "400: malformed Content-Length at 25"),
    ("Host: a\r\nContent-Length: +5\r\n", "400: malformed Content-Length at 25"),
    ("Host: a\r\nContent-Length: -5\r\n", "400: malformed Content-Length at 25"),
    ("Host: a\r\nContent-Length: 5 5\r\n", "400: malformed Content-Length at 25"),
    ("Host: a\r\nContent-Length: 0x5\r\n", "400: malformed Content-Length at 25"),
    ("Host: a\r\nContent-Length: \r\n", "400: malformed Content-Length at 25"),
    ("Host: a\r\nContent-Length: 5\t\r\n", "400: malformed Content-Length at 25"),
    ("Host: a\r\nContent-Length: 5;\r\n", "400: malformed Content-Length at 25"),
    ("Host: a\r\nContent-Length: 9223372036854775808\r\n", "400: Content-Length too large at 25"),
    ("Host: a\r\nContent-Length: 18446744073709551621\r\n", "400: Content-Length too large at 25"),
    ("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", "400: Transfer-Encoding other than chunked at 25"),
    ("Host: a\r\nTransfer-Encoding: chunked, chunked\r\n", "400: Transfer-Encoding other than chunked at 25"),
    (
      "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
      "400: Transfer-Encoding other than chunked at 25"
    ),
    ("Host: a\r\nTransfer-Encoding: xchunked\r\n", "400: Transfer-Encoding other than chunked at 25"),
    ("Host: a\r\nTransfer-Encoding: identity\r\n", "400: Transfer-Encoding other than chunked at 25"),
    ("Host: a\r\nTransfer-Encoding: \u{b}chunked\r\n", "400: control byte in a line at 44"),
    ("Host: a\r\nTransfer-Encoding: \"chunked\"\r\n", "400: Transfer-Encoding other than chunked at 25"),
    ("Host: a\r\nTransfer-Encoding:\r\n", "400: Transfer-Encoding other than chunked at 25"),
    ("Host: a\r\nExpect: 200-ok\r\n", "417: unknown expectation at 25"),
  ])
  func `bad fields`(fields: String, error: String) {
    #expect(outcome(Self.request(fields)) == "error " + error)
  }

  @Test func `HTTP/1.0 knows no transfer coding and needs no host`() {
    #expect(
      outcome(Self.request("Transfer-Encoding: chunked\r\n", line: "POST / HTTP/1.0"))
        == "error 400: Transfer-Encoding in HTTP/1.0 at 17")
    #expect(outcome(Self.request("", line: "GET / HTTP/1.0")) == "end")
    #expect(
      outcome(Self.request("Host: a\r\nHost: a\r\n", line: "GET / HTTP/1.0"))
        == "error 400: repeated Host header at 16")
  }

  @Test func `a CONNECT has no body`() {
    #expect(
      outcome(Self.request("Host: a\r\nContent-Length: 1\r\n", line: "CONNECT a:1 HTTP/1.1"))
        == "error 400: CONNECT request with a body at 0")
  }

  @Test func `raw UTF-8 in a value is passed as it came`() {
    #expect(
      HTTP1Transcript().run(Self.request("Host: a\r\nMicro-Error: né\r\n"))[2]
        == "  microError Micro-Error: n\\xc3\\xa9")
  }

  @Test(arguments: [
    ("+5\r\nhello", "malformed chunk size at 0"), ("-5\r\nhello", "malformed chunk size at 0"),
    ("0x5\r\nhello", "malformed chunk size at 1"), (" 5\r\nhello", "malformed chunk size at 0"),
    ("5 \r\nhello", "malformed chunk size at 1"), ("5\t;a\r\nhello", "malformed chunk size at 1"),
    ("\r\nhello", "malformed chunk size at 0"), (";a\r\nhello", "malformed chunk size at 0"),
    ("g\r\nhello", "malformed chunk size at 0"), ("5\nhello", "malformed chunk size at 1"),
    ("5\rhello", "CR without LF at 2"), ("00000000000000005\r\nhello", "chunk size too large at 16"),
    ("8000000000000000\r\nhello", "chunk size too large at 15"),
    ("ffffffffffffffff\r\nhello", "chunk size too large at 15"), ("5\r\nhello5\r\n", "chunk longer than its size at 0"),
    ("5\r\nhello\n0\r\n", "chunk longer than its size at 0"), ("5\r\nhello\r0\r\n", "CR without LF at 0"),
    ("5;a\nb\r\nhello", "malformed chunk extension at 3"), ("5;\r\nhello", "malformed chunk extension at 2"),
    ("5;a=\r\nhello", "malformed chunk extension at 4"), ("5;a=\"b\r\n", "malformed chunk extension at 6"),
    ("5;a\rb", "CR without LF at 4"), ("5; a\r\nhello", "malformed chunk extension at 2"),
    ("5;a=b c\r\n", "malformed chunk extension at 5"), ("0\r\n\n", "LF without CR at 0"),
    ("0\r\n\r\r", "CR without LF at 0"), ("0\r\nA : b\r\n\r\n", "white space in a field name at 1"),
    ("0\r\nContent-Length: 5\r\n\r\n", "framing field in the trailers at 0"),
    ("0\r\nTransfer-Encoding: chunked\r\n\r\n", "framing field in the trailers at 0"),
    ("0\r\nConnection: close\r\n\r\n", "framing field in the trailers at 0"),
    ("0\r\nA: b\r\nHost: b\r\n\r\n", "framing field in the trailers at 6"),
  ])
  func `chunk tricks`(body: String, rule: String) {
    #expect(
      outcome("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body) == "error 400: " + rule)
  }

  @Test func `the limits hold exactly`() {
    var limits = HTTP1Limits()
    limits.headBytes = 40
    limits.fieldCount = 3
    #expect(outcome(Self.request("Host: aaaaaaaaaaaaaa\r\n"), limits: limits) == "end")
    #expect(
      outcome(Self.request("Host: aaaaaaaaaaaaaaa\r\n"), limits: limits)
        == "error 431: header fields too large at 40")
    #expect(
      outcome(Self.request(line: "GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa HTTP/1.1"), limits: limits)
        == "error 414: request line too long at 40")
    #expect(outcome(Self.request("Host: a\r\nB:\r\nC:\r\n"), limits: limits) == "end")
    #expect(
      outcome(Self.request("Host: a\r\nB:\r\nC:\r\nD:\r\n"), limits: limits)
        == "error 431: too many header fields at 33")
  }

  @Test func `the default limits are 64 KiB and 256 fields`() {
    let rest = 64 * 1024 - Self.request("Host: a\r\nA: \r\n").utf8.count
    #expect(outcome(Self.request("Host: a\r\nA: " + String(repeating: "x", count: rest) + "\r\n")) == "end")
    #expect(
      outcome(Self.request("Host: a\r\nA: " + String(repeating: "x", count: rest + 1) + "\r\n"))
        == "error 431: header fields too large at 65536")
    #expect(outcome(Self.request("Host: a\r\n" + String(repeating: "A: b\r\n", count: 255))) == "end")
    #expect(
      outcome(Self.request("Host: a\r\n" + String(repeating: "A: b\r\n", count: 256)))
        == "error 431: too many header fields at 1555")
  }

  @Test func `chunk lines, extensions and trailers are limited`() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    let extensionOf = { (count: Int) in "1;" + String(repeating: "e", count: count) + "\r\nx\r\n" }
    #expect(outcome(head + extensionOf(253) + "0\r\n\r\n") == "end")
    #expect(outcome(head + extensionOf(255) + "0\r\n\r\n") == "error 400: chunk extensions too long at 256")
    #expect(
      outcome(head + String(repeating: extensionOf(200), count: 100) + "0\r\n\r\n").hasPrefix(
        "error 400: chunk extensions too long"))
    let trailer = { (count: Int) in "0\r\nA: " + String(repeating: "x", count: count) + "\r\n\r\n" }
    #expect(outcome(head + trailer(8 * 1024 - 7)) == "end")
    #expect(outcome(head + trailer(8 * 1024 - 6)) == "error 431: trailers too large at 8192")
  }

  @Test func `an end of stream is clean only between messages`() {
    var transcript = HTTP1Transcript()
    transcript.ends = true
    for good in ["", "\r", "\r\n", Self.request(), Self.request() + "\r\n"] {
      let last = transcript.run(good).last
      #expect(last == nil || last == "end", "\(good)")
    }
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    for cut in ["G", head, head + "5", head + "5\r\nhello", head + "0\r\n", head + "0\r\nA: b\r\n"] {
      #expect(transcript.run(cut).last == "error 400: connection closed inside a message at 0", "\(cut)")
    }
  }

  @Test func `nothing is accepted after an error`() {
    var parser = HTTP1Parser(.server)
    let bad = Array("bad\r\n".utf8)
    let good = Array(Self.request().utf8)
    bad.withUnsafeBytes { bytes in
      var rest = bytes
      #expect(throws: WireError.self) { _ = try parser.next(&rest) }
    }
    good.withUnsafeBytes { bytes in
      var rest = bytes
      #expect(throws: WireError("input after an error")) { _ = try parser.next(&rest) }
    }
    let isBetween = parser.isBetweenMessages
    #expect(!isBetween)
  }
}
