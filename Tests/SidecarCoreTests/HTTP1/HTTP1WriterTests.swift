import Testing

@testable import SidecarCore

@Suite struct HTTP1WriterTests {
  private func written(_ write: (ByteBuffer) -> Void) -> String {
    let buffer = ByteBuffer()
    write(buffer)
    return String(decoding: buffer.bytes, as: UTF8.self)
  }

  @Test(arguments: [
    (200, "OK"), (101, "Switching Protocols"), (400, "Bad Request"), (408, "Request Timeout"), (418, "I'm a teapot"),
    (431, "Request Header Fields Too Large"), (502, "Bad Gateway"), (511, "Network Authentication Required"),
    (599, ""),
  ])
  func `status lines carry Go's phrases`(status: Int, phrase: String) {
    #expect(written { HTTP1Writer.statusLine(status, to: $0) } == "HTTP/1.1 \(status) \(phrase)\r\n")
  }

  @Test func `request targets are escaped where they would break the line`() {
    #expect(
      written { HTTP1Writer.requestLine("POST", target: "/a b\r\n#é", to: $0) }
        == "POST /a%20b%0d%0a%23%c3%a9 HTTP/1.1\r\n")
    #expect(written { HTTP1Writer.requestLine("GET", target: "", to: $0) } == "GET / HTTP/1.1\r\n")
    #expect(
      written { HTTP1Writer.requestLine("GET", target: "/?q={\"a\":1}", to: $0) } == "GET /?q={\"a\":1} HTTP/1.1\r\n")
  }

  @Test(arguments: [
    ("plain", "plain"), ("", ""), ("  a \t", "a"), ("a\r\nEvil: b", "a  Evil: b"), ("a\u{0}b\u{7f}c", "a b c"),
    ("tab\tinside", "tab\tinside"), ("long enough for a word, then\nmore", "long enough for a word, then more"),
    ("né", "né"), ("\r\na", "  a"),
  ])
  func `control bytes in values become spaces`(value: String, expected: String) {
    #expect(written { HTTP1Writer.field("Foo", value, to: $0) } == "Foo: \(expected)\r\n")
    #expect(written { HTTP1Writer.field(name: "Foo", value, to: $0) } == "Foo: \(expected)\r\n")
  }

  @Test(arguments: ["", "a b", ":path", "a\r\nb", "é", "a:", "a\u{0}"])
  func `a field whose name is no token is dropped`(name: String) {
    let text = written { buffer in
      #expect(!HTTP1Writer.field(name: name, "v", to: buffer))
    }
    #expect(text == "")
  }

  @Test(arguments: [
    (1, "1"), (9, "9"), (10, "a"), (15, "f"), (16, "10"), (255, "ff"), (4096, "1000"), (65535, "ffff"),
    (Int.max, "7fffffffffffffff"),
  ])
  func `chunk sizes are hexadecimal`(count: Int, digits: String) {
    #expect(written { HTTP1Writer.chunkStart(count, to: $0) } == digits + "\r\n")
  }

  @Test(arguments: [
    ("foo", "Foo"), ("Micro-ID", "Micro-Id"), ("x_y", "X_y"), ("CONTENT-type", "Content-Type"), ("", ""),
    ("a b", "a b"), ("x--y", "X--Y"), ("-x", "-X"), ("é", "é"), ("x.y9z", "X.y9z"), ("~A-~B", "~a-~b"),
    ("micro-from-service", "Micro-From-Service"),
  ])
  func `names are spelled as Go's textproto spells them`(name: String, canonical: String) {
    #expect(HTTP1Writer.canonicalName(name) == canonical)
    #expect(
      written { buffer in
        var name = name
        name.withUTF8 { HTTP1Writer.canonicalName(UnsafeRawBufferPointer($0), to: buffer) }
      } == canonical)
  }

  @Test func `a written request is read back the same`() {
    let buffer = ByteBuffer()
    HTTP1Writer.requestLine("POST", target: "/x", to: buffer)
    HTTP1Writer.field("Host", "a:1", to: buffer)
    HTTP1Writer.field(name: "Foo", "bar\r\n", to: buffer)
    HTTP1Writer.chunked(to: buffer)
    HTTP1Writer.endHead(to: buffer)
    for part in ["hello", String(repeating: "y", count: 300)] {
      HTTP1Writer.chunkStart(part.utf8.count, to: buffer)
      buffer.append(part)
      HTTP1Writer.chunkEnd(to: buffer)
    }
    HTTP1Writer.lastChunkBeforeTrailers(to: buffer)
    HTTP1Writer.field("Sum", decimal: -5, to: buffer)
    HTTP1Writer.endHead(to: buffer)
    #expect(
      HTTP1Transcript().run(Array(buffer.bytes)) == [
        "post POST /x HTTP/1.1 chunked keep-alive [71]", "  host Host: a:1", "  other Foo: bar",
        "  transferEncoding Transfer-Encoding: chunked", "body hello" + String(repeating: "y", count: 300),
        "trailer Sum: -5", "end",
      ])
  }

  @Test func `a written response is read back the same`() {
    let buffer = ByteBuffer()
    HTTP1Writer.statusLine(404, to: buffer)
    HTTP1Writer.field("Content-Type", "application/json" as StaticString, to: buffer)
    HTTP1Writer.contentLength(2, to: buffer)
    HTTP1Writer.endHead(to: buffer)
    buffer.append("{}")
    HTTP1Writer.statusLine(200, to: buffer)
    HTTP1Writer.chunked(to: buffer)
    HTTP1Writer.endHead(to: buffer)
    HTTP1Writer.lastChunk(to: buffer)
    #expect(
      HTTP1Transcript(role: .client).run(Array(buffer.bytes)) == [
        "status 404 HTTP/1.1 length(2) keep-alive [77]", "  contentType Content-Type: application/json",
        "  contentLength Content-Length: 2", "body {}", "end", "status 200 HTTP/1.1 chunked keep-alive [47]",
        "  transferEncoding Transfer-Encoding: chunked", "end",
      ])
  }

  @Test func `a parsed field is copied byte for byte`() {
    var parser = HTTP1Parser(.server)
    let request = Array("GET / HTTP/1.1\r\nhOST:  a\t\r\nX: \u{e9}\r\n\r\n".utf8)
    let text = written { buffer in
      request.withUnsafeBytes { bytes in
        var rest = bytes
        _ = try? parser.next(&rest)
        for field in parser.head.fields { HTTP1Writer.copy(field, of: parser.head, to: buffer) }
      }
    }
    #expect(text == "hOST: a\r\nX: \u{e9}\r\n")
  }
}
