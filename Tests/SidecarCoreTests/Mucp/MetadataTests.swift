// Which headers go on as metadata, and that nothing comes back.

import Foundation
import Testing

@testable import SidecarCore

@Suite("Metadata hygiene")
struct MetadataTests {
  static func forwarded(_ lines: [String], _ source: Metadata.Source) throws -> [String] {
    let wire = "POST / HTTP/1.1\r\nHost: h\r\n" + lines.joined(separator: "\r\n") + "\r\nContent-Length: 0\r\n\r\n"
    let head = try Wire.messages(.server, Array(wire.utf8))[0].head
    let buffer = ByteBuffer()
    Metadata.append(from: head, source: source, into: buffer)
    return String(decoding: buffer.bytes, as: UTF8.self).components(separatedBy: "\r\n").dropLast()
  }

  static let never = [
    "Content-Type: a", "Content-Encoding: gzip", "Content-Language: de", "Connection: x-hop", "X-Hop: 1",
    "Keep-Alive: 5", "Te: trailers", "Trailer: X", "Upgrade: h2c", "Proxy-Authorization: a", "Proxy-Connection: a",
    "Proxy-Anything: a", "Http2-Settings: a", "Accept: a", "Accept-Encoding: gzip", "Accept-Language: de",
    "Accept-Charset: a", "Timeout: 5", "Request-Timeout: 5", "Grpc-Timeout: 5S", "Grpc-Encoding: gzip", "Local: a",
    "Remote: a", "Sec-Fetch-Mode: cors", "Sec-Websocket-Key: a",
  ]
  static let routing = [
    "Service", "Method", "Endpoint", "Id", "Error", "Stream", "Topic", "Target", "Protocol", "From-Service",
  ]
  static let always = [
    "Foo: bar", "foo_bar: 1", "Authorization: Bearer t", "User-Agent: curl", "X-Request-Id: 7", "Traceparent: 00-1",
    "Micro-Trace-Id: 1", "Micro-Span-Id: 2", "Micro-Namespace: ns", "Idempotency-Key: k", "Contents: x",
    "Acceptance: y",
    "Micro-Custom: z", "X-Forwarded-For: 1.2.3.4",
  ]
  static let browser = ["Cookie: a=b", "Origin: http://x", "Referer: http://x/y"]

  @Test("framing, routing, time and this connection's own never go on", arguments: [Metadata.Source.framework, .http])
  func neverForwarded(_ source: Metadata.Source) throws {
    #expect(try Self.forwarded(Self.never, source) == [])
    for prefix in ["Micro-", "X-Micro-", "micro-", "X-MICRO-"] {
      #expect(try Self.forwarded(Self.routing.map { "\(prefix)\($0): v" }, source) == [])
    }
  }

  @Test("the caller's own goes on as it came", arguments: [Metadata.Source.framework, .http])
  func alwaysForwarded(_ source: Metadata.Source) throws {
    #expect(try Self.forwarded(Self.always, source) == Self.always)
  }

  @Test("a browser's cookies stay with the sidecar; a framework caller's metadata of that name goes on")
  func cookies() throws {
    #expect(try Self.forwarded(Self.browser, .http) == [])
    #expect(try Self.forwarded(Self.browser, .framework) == Self.browser)
  }

  @Test("whatever Connection lists is dropped, known names too", arguments: [Metadata.Source.framework, .http])
  func connectionLists(_ source: Metadata.Source) throws {
    let lines = ["Connection: keep-alive, Authorization, x-own", "Authorization: a", "X-Own: 1", "X-Other: 2"]
    #expect(try Self.forwarded(lines, source) == ["X-Other: 2"])
  }

  @Test("a call made from a received call carries no trace of its routing")
  func nested() throws {
    let inbound = [
      "Content-Type: application/json", "Micro-Service: me", "Micro-Endpoint: My.Own", "Micro-Id: 5", "Micro-Stream: 5",
      "Micro-Error: EOS", "Micro-Topic: t", "Timeout: 1", "Local: l", "Remote: r", "Foo: bar",
    ]
    let wire = "POST / HTTP/1.1\r\nHost: h\r\n" + inbound.joined(separator: "\r\n") + "\r\nContent-Length: 0\r\n\r\n"
    let head = try Wire.messages(.server, Array(wire.utf8))[0].head
    let (message, _) = try encodeCall(.explicitAddress, format: .json, payload: [], id: 9) { buffer in
      Metadata.append(from: head, source: .framework, into: buffer)
    }
    #expect(message.head.first("foo") != nil)
    #expect(message.header(.microError) == nil && message.header(.microTopic) == nil)
    #expect(message.header(.microStream) == "9" && message.header(.microEndpoint) == "Hello.Ping")
    for id in [HeaderID.host, .contentType, .timeout, .microID, .microEndpoint, .microService, .contentLength] {
      #expect(!message.head.isRepeated(id), "\(id)")
    }
  }

  @Test("a server that echoes the first request's headers tells the next caller nothing")
  func echo() throws {
    let head = "Authorization: Bearer secret\nCookie: s=1\nFoo: one\nMicro-Id: 1\nTimeout: 5\nX-Request-Id: first"
    let wire = Array(
      "HTTP/1.1 200 OK\r\n\(head.replacingOccurrences(of: "\n", with: "\r\n"))\r\nContent-Length: 2\r\n\r\n{}".utf8)
    let reply = try Wire.messages(.client, wire)[0]
    // What is read of a reply is a range of its body; what is written to the next caller comes from that caller.
    let decoded = withBytes(reply.body) { FrameClient.decodeReply(head: reply.head, body: $0, codec: .json) }
    #expect(decoded == .payload(0..<2, .json))
    let next = try Decoded("Content-Type: application/json\nMicro-Endpoint: A.B\nMicro-Id: 2")
    let ours = try next.reply(reply.body)
    #expect(!String(decoding: ours.wire, as: UTF8.self).contains("secret") && ours.header(.microID) == "2")
    #expect(ours.head.fieldCount == 4)
  }
}
