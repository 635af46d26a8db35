// The NATS client's codec: recorded servers, cuts at every byte, broken lines and sizes, and what a client writes.

import Foundation
import Testing

@testable import SidecarCore

@Suite struct `NATS codec` {
  static func said(_ pieces: [[UInt8]], messageBytesMax: Int = 1 << 20) throws -> [String] {
    var reader = NATSReader(messageBytesMax: messageBytesMax)
    var found: [String] = []
    func text(_ bytes: UnsafeRawBufferPointer) -> String { String(decoding: bytes, as: UTF8.self) }
    for piece in pieces {
      let result = piece.withUnsafeBytes { bytes in
        Result {
          try reader.receive(bytes) { operation in
            switch operation {
            case .info(let json): found.append("info \(json.count)")
            case .message(let m):
              found.append(
                "\(text(m.subject)) \(m.subscription) \(m.reply.map(text) ?? "-") [\(text(m.headers))] "
                  + "\(text(m.payload))")
            case .ping: found.append("ping")
            case .pong: found.append("pong")
            case .ok: found.append("ok")
            case .error(let sentence): found.append("error \(text(sentence))")
            }
          }
        }
      }
      try result.get()
    }
    #expect(reader.keptBytes == 0)
    return found
  }

  @Test func `every cut of what a server says gives the same`() throws {
    let session = Array(
      ("INFO {\"server_id\":\"a\"} \r\nPING\r\nMSG a.b 12 5\r\nhe\r\no\r\nMSG a 1 re.ply 0\r\n\r\n"
        + "hmsg a 2 r 19 22\r\nNATS/1.0\r\nA: b\r\n\r\n\u{1}\u{2}\u{3}\r\n-ERR 'Slow Consumer'\r\n+OK\r\nPONG\r\n").utf8
    )
    let expected = [
      "info 17", "ping", "a.b 12 - [] he\r\no", "a 1 re.ply [] ",
      "a 2 r [NATS/1.0\r\nA: b\r\n\r\n] \u{1}\u{2}\u{3}", "error Slow Consumer", "ok", "pong",
    ]
    // 18 bytes of headers are what the line above must say; the text counts them.
    let fixed = Array(String(decoding: session, as: UTF8.self).replacing("r 19 22", with: "r 18 21").utf8)
    #expect(try Self.said([fixed]) == expected)
    for cut in 0...fixed.count { #expect(try Self.said([Array(fixed[..<cut]), Array(fixed[cut...])]) == expected) }
    #expect(try Self.said(fixed.map { [$0] }) == expected)
  }

  @Test(arguments: [
    "HELLO\r\n", "\r\n", "MSG a 1\r\n", "MSG a x 3\r\n", "MSG a 1 -3\r\n", "MSG a 1 3\r\nabcd\r\n",
    "MSG a 1 2 3 4 5\r\n",
    "MSG a 1 99999999999999999999\r\n", "MSG a 1 2000000\r\n", "HMSG a 1 9 3\r\n", "HMSG a 1 3\r\n",
    "MSG a 18446744073709551616 0\r\n\r\n",
  ])
  func `a broken line is refused`(line: String) {
    #expect(throws: WireError.self) { _ = try Self.said([Array(line.utf8)]) }
  }

  @Test func `a line without an end is refused soon`() {
    #expect(throws: WireError.self) { _ = try Self.said([Array(repeating: UInt8(ascii: "x"), count: 5000)]) }
    #expect(throws: WireError.self) {
      _ = try Self.said([Array("INFO {".utf8), Array(repeating: UInt8(ascii: "x"), count: 70_000)])
    }
  }

  @Test func `what a client writes is what the protocol says`() throws {
    let out = ByteBuffer()
    NATSWriter.subscribe("micro.nats.query", as: 1, into: out)
    NATSWriter.subscribe("a", queue: "q", as: 2, into: out)
    NATSWriter.unsubscribe(2, after: 5, into: out)
    Array("a.b".utf8).withUnsafeBytes { subject in
      Array("in".utf8).withUnsafeBytes { reply in
        Array("xyz".utf8).withUnsafeBytes { payload in
          NATSWriter.publish(subject, payload, into: out)
          NATSWriter.publish(subject, reply: reply, headers: reply, payload, into: out)
        }
      }
    }
    NATSWriter.ping(into: out)
    #expect(
      String(decoding: out.bytes, as: UTF8.self)
        == "SUB micro.nats.query 1\r\nSUB a q 2\r\nUNSUB 2 5\r\nPUB a.b 3\r\nxyz\r\nHPUB a.b in 2 5\r\ninxyz\r\nPING\r\n"
    )
  }

  @Test func `the greeting is JSON on one line, whatever the password holds`() throws {
    let out = ByteBuffer()
    NATSWriter.connect(
      name: "n", credentials: [("user", "a\r\nPUB x 0"), ("pass", "\"<&>")], isTLS: true, hearsItself: false, into: out)
    let text = String(decoding: out.bytes, as: UTF8.self)
    #expect(text.hasPrefix("CONNECT {") && text.hasSuffix("}\r\n") && text.dropLast(1).allSatisfy { $0 != "\r\n" })
    let json = try JSONValue(parsing: String(text.dropFirst(8)))
    #expect(json["user"] == "a\r\nPUB x 0" && json["pass"] == "\"<&>" && json["echo"] == false)
  }

  @Test func `headers are written and read again, and cannot smuggle a line`() {
    let out = ByteBuffer()
    #expect(NATSHeaders.write([("Content-Type", "application/json"), ("X", "")], into: out))
    var found: [String] = []
    let status = NATSHeaders.read(out.bytes) { name, value in
      found.append(String(decoding: name, as: UTF8.self) + "=" + String(decoding: value, as: UTF8.self))
    }
    #expect(status == NATSHeaders.Status.none && found == ["Content-Type=application/json", "X="])
    #expect(!NATSHeaders.write([("A", "b\r\nC: d")], into: out))
    #expect(!NATSHeaders.write([("A:", "b")], into: out))
    let none = Array("NATS/1.0 503\r\n\r\n".utf8)
    #expect(none.withUnsafeBytes { NATSHeaders.read($0) { _, _ in } } == .code(503))
    for broken in ["", "NATS/1.0", "HTTP/1.1\r\n\r\n", "NATS/1.0\r\nA\r\n\r\n", "NATS/1.0\r\nA: b\r\n"] {
      #expect(Array(broken.utf8).withUnsafeBytes { NATSHeaders.read($0) { _, _ in } } == nil)
    }
  }

  @Test func `subjects with blanks, ends of lines or empty tokens are none`() {
    for subject in ["a", "micro.nats.query", "_INBOX.x"] { #expect(NATSSubject.isPublishable(subject)) }
    for subject in ["", "a b", "a\r\nPUB b 0", "a..b", ".a", "a.", "a.*", "a.>", String(repeating: "a", count: 1025)] {
      #expect(!NATSSubject.isPublishable(subject))
    }
    #expect(NATSSubject.isSubscribable("a.*.>") && !NATSSubject.isSubscribable("a.>.b"))
  }
}
