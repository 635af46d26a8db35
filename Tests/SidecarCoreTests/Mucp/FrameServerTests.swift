// The server role, beyond what the recordings show.

import Foundation
import Testing

@testable import SidecarCore

@Suite("Framework requests and replies, server side")
struct FrameServerTests {
  static func jsonRPC(_ body: String, head: String = "") throws -> Decoded {
    try Decoded("Content-Type: application/json-rpc" + (head.isEmpty ? "" : "\n" + head), body: Array(body.utf8))
  }

  @Test(
    "JSON-RPC is read whatever its order, spelling and extras",
    arguments: [
      (#"{"method":"A.B","params":[{"x":1}],"id":0}"#, #"{"x":1}"#, "0"),
      (#" { "params" : [ {"x":1} ] , "id" : "7" , "method" : "A.B" } "#, #"{"x":1}"#, #""7""#),
      (#"{"jsonrpc":"2.0","method":"A.B","params":{"x":1},"id":null}"#, #"{"x":1}"#, "null"),
      (#"{"METHOD":"A.B","Params":[1,2],"ID":1e6}"#, "1", "1e6"), (#"{"method":"A.B"}"#, "", ""),
      (#"{"method":"A.B","params":null,"id":[1,{"a":2}]}"#, "", #"[1,{"a":2}]"#),
      (#"{"method":"A.B","params":[],"id":1}"#, "", "1"), (#"{"method":"x","method":"A.B","id":1}"#, "", "1"),
      (#"{"m\u0065thod":"A\u002eB","id":1}"#, "", "1"), (#"{"method":"A.B","error":null,"id":1}"#, "", "1"),
    ])
  func jsonRPCForms(_ body: String, _ payload: String, _ id: String) throws {
    let view = try Self.jsonRPC(body).view
    #expect(view.endpoint == "A.B" && view.kind == .call)
    #expect(String(decoding: view.payload, as: UTF8.self) == payload && view.rawJSONID == id)
  }

  @Test("its id is echoed as it came; a missing one is null (trap 16)", arguments: ["0", #""0""#, "1e6", "null", ""])
  func echoesID(_ id: String) throws {
    let call = try Self.jsonRPC(id.isEmpty ? #"{"method":"A.B"}"# : #"{"method":"A.B","id":\#(id)}"#)
    let shown = id.isEmpty ? "null" : id
    #expect(
      try String(decoding: call.reply(Array("[1]\n".utf8)).body, as: UTF8.self)
        == "{\"id\":\(shown),\"result\":[1],\"error\":null}\n")
    #expect(
      try String(decoding: call.reply([]).body, as: UTF8.self) == "{\"id\":\(shown),\"result\":{},\"error\":null}\n")
    #expect(
      try String(decoding: call.reply(Array(" null".utf8)).body, as: UTF8.self)
        == "{\"id\":\(shown),\"result\":{},\"error\":null}\n")
    #expect(
      try String(decoding: call.failure("a \"b\" <c>").body, as: UTF8.self)
        == "{\"id\":\(shown),\"result\":null,\"error\":\"a \\\"b\\\" \\u003cc\\u003e\"}\n")
  }

  @Test("a payload that would break out of the JSON-RPC envelope is refused before a byte is written")
  func brokenPayload() throws {
    let call = try Self.jsonRPC(#"{"method":"A.B","id":1}"#)
    for payload in [#"1},"error":"x""#, "{", "plain", "1 2"] {
      #expect(throws: WireError.self) { try call.reply(Array(payload.utf8)) }
      let buffer = ByteBuffer()
      withBytes(payload) { payload in
        _ = try? FrameServer.encodeReply(to: call.request, notes: call.notes, payload: payload, into: buffer)
      }
      #expect(buffer.isEmpty)
    }
  }

  @Test(
    "an envelope that can't be read is refused; legacy callers are told and cut off",
    arguments: [
      "", "{", "[]", "null", #"{"method":1}"#, #"{"method":"A.B"} x"#, "{\"method\":\"\u{1}\"}",
      #"{"method":"A.B","id":""# + String(repeating: "x", count: 1100) + #""}"#,
      #"{"method":"A.B","params":"# + String(repeating: "[", count: 100) + String(repeating: "]", count: 100) + "}",
    ])
  func brokenJSONRPC(_ body: String) throws {
    let legacy = #expect(throws: FrameRefusal.self) { try Self.jsonRPC(body) }
    #expect(legacy?.closes == true && legacy?.text.hasPrefix("rpc: server cannot decode request: ") == true)
    let micro = try #require(
      throws: FrameRefusal.self
    ) { try Self.jsonRPC(body, head: "Micro-Endpoint: A.B\nMicro-Id: 9") }
    #expect(!micro.closes && micro.text.hasPrefix("rpc: router cannot decode request: "))
    let buffer = ByteBuffer()
    FrameServer.encodeRefusal(try #require(legacy), notes: ByteBuffer(), into: buffer)
    let reply = try Wire.message(.client, buffer)
    #expect(reply.header(.connection) == "close" && !reply.head.keepAlive)
    #expect(ReplyView(reply, codec: .jsonRPC) == .error(try #require(legacy).text))
  }

  static func envelope(_ header: [UInt8], _ payload: [UInt8]) -> [UInt8] {
    func length(_ count: Int) -> [UInt8] { [0, 0, UInt8(count >> 8), UInt8(count & 255)] }
    return length(header.count) + header + length(payload.count) + payload
  }
  static let method: [UInt8] = [0x0A, 3] + Array("A.B".utf8)
  static let seq: [UInt8] = [0x11, 1, 2, 3, 4, 5, 6, 7, 8]

  @Test(
    "proto-rpc headers are read with fields missing, reordered, repeated and unknown",
    arguments: [
      (method + seq, 0x0807_0605_0403_0201), (seq + method, 0x0807_0605_0403_0201), (method, 0),
      (method + [0x10, 5], 5), (method + [0x1A, 0], 0), ([0x0A, 1, 120] + method, 0),
      (method + [0x20, 0xFF, 1, 0x29] + seq[1...] + [0x35, 1, 2, 3, 4, 0x3A, 2, 9, 9], 0),
    ] as [([UInt8], UInt64)])
  func protoHeaders(_ header: [UInt8], _ seq: UInt64) throws {
    let call = try Decoded("Content-Type: application/octet-stream", body: Self.envelope(header, [1, 2, 3]))
    #expect(call.view.endpoint == "A.B" && call.view.seq == seq && call.view.payload == [1, 2, 3])
    let reply = try ProtoRPC(call.reply([7]).body)
    #expect(reply == ProtoRPC(method: "A.B", seq: seq, error: "", payload: [7]))
    #expect(try ProtoRPC(call.failure("no").body) == ProtoRPC(method: "A.B", seq: seq, error: "no", payload: []))
  }

  @Test("an empty proto-rpc header is legal when the endpoint is in the headers (trap 17)")
  func emptyHeader() throws {
    let call = try Decoded(
      "Content-Type: application/proto-rpc\nMicro-Method: A.B", body: [0, 0, 0, 0, 0, 0, 0, 0])
    #expect(call.view.endpoint == "A.B" && call.view.payload.isEmpty)
    let none = #expect(throws: FrameRefusal.self) {
      try Decoded("Content-Type: application/proto-rpc", body: [0, 0, 0, 0, 0, 0, 0, 0])
    }
    #expect(none?.text == "rpc: service/method request ill-formed: ")
  }

  @Test(
    "lying lengths and broken headers are refused",
    arguments: [
      [], [0], [0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0], [255, 255, 255, 255, 0, 0, 0, 0],
      [0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 255, 255, 255, 255, 1],
      [0, 0, 0, 0, 0, 0, 0, 0, 0], envelope([0x0A, 9, 65], []), envelope([0x0A], []), envelope([0x11, 1], []),
      envelope([0x0B], []), envelope([0x0F], []), envelope([0x00, 0], []), envelope([0x08, 1], []),
      envelope([0x12, 1, 65], []), envelope([0x0A] + [UInt8](repeating: 0xFF, count: 12), []),
      envelope([0x10] + [UInt8](repeating: 0xFF, count: 10), []), envelope([0x1D, 1, 2, 3], []),
      envelope([0x0A] + [UInt8](repeating: 0xFF, count: 9) + [1], []),
    ] as [[UInt8]])
  func brokenProto(_ body: [UInt8]) {
    #expect(throws: FrameRefusal.self) { try Decoded("Content-Type: application/octet-stream", body: body) }
    #expect(throws: FrameRefusal.self) {
      try Decoded("Content-Type: application/proto-rpc\nMicro-Endpoint: A.B", body: body)
    }
  }

  @Test(
    "an endpoint has one dot, something on both sides, and nothing that ends a header line",
    arguments: [
      "", "A", ".", "A.", ".B", "A.B.C", "A B.C", "A.B\r\nX: y", "A.B\u{0}", "A.\u{7f}",
      String(repeating: "a", count: 1023) + ".b",
    ])
  func illFormed(_ endpoint: String) throws {
    let body = JSONValue.object([JSONValue.Member("method", .string(endpoint))]).text()
    let refusal = try #require(throws: FrameRefusal.self) { try Self.jsonRPC(body) }
    #expect(refusal.text.hasPrefix("rpc: service/method request ill-formed: ") && !refusal.closes)
    let buffer = ByteBuffer()
    FrameServer.encodeRefusal(refusal, notes: ByteBuffer(), into: buffer)
    let reply = try Wire.message(.client, buffer)
    #expect(reply.head.fieldCount == 4, "one line each: length, type and two errors")
    if !endpoint.isEmpty, !endpoint.contains(where: { $0.isWhitespace || $0 == "\u{0}" || $0 == "\u{7f}" }) {
      let micro = #expect(throws: FrameRefusal.self) {
        try Decoded("Content-Type: application/json\nMicro-Endpoint: \(endpoint)")
      }
      #expect(micro?.text.hasPrefix("rpc: service/endpoint request ill-formed: ") == true)
    }
  }

  @Test("broken UTF-8 is no endpoint")
  func brokenEndpoint() {
    let body = Self.envelope([0x0A, 3, 65, 46, 0xFF], [])
    #expect(throws: FrameRefusal.self) { try Decoded("Content-Type: application/octet-stream", body: body) }
  }

  @Test("headers route before the envelope does")
  func precedence() throws {
    let view = try Self.jsonRPC(#"{"method":"C.D","id":1}"#, head: "Micro-Method: A.B").view
    #expect(view.endpoint == "A.B")
    let both = try Decoded("Content-Type: application/json\nMicro-Method: A.B\nMicro-Endpoint: C.D").view
    #expect(both.endpoint == "C.D")
  }

  @Test(
    "Timeout is unsigned decimal nanoseconds, clamped (trap 3)",
    arguments: [
      ("5000000000", 5_000_000_000), ("0", 0), ("007", 7), ("86400000000001", 86_400_000_000_000),
      ("9223372036854775808", 86_400_000_000_000), ("99999999999999999999999999", 86_400_000_000_000), ("-1", nil),
      ("+1", nil), ("5s", nil), ("1.5", nil), ("", nil), ("1 2", nil), ("٣", nil),
    ] as [(String, Int64?)])
  func timeouts(_ text: String, _ expected: Int64?) {
    #expect(withBytes(text) { FrameServer.parseTimeout($0) } == expected)
  }

  @Test("Micro-Stream does not end a stream by a leaked Micro-Error (traps 9 and 12)")
  func leaks() throws {
    let type = "Content-Type: application/json\nMicro-Endpoint: A.B"
    #expect(try Decoded(type + "\nMicro-Stream: 1\nMicro-Error: EOS").view.kind == .endOfStream)
    #expect(try Decoded(type + "\nMicro-Stream: 1\nMicro-Error: EOS", body: Array("{}".utf8)).view.kind == .call)
    #expect(try Decoded(type + "\nMicro-Error: EOS").view.kind == .call)
    #expect(try Decoded(type + "\nMicro-Stream: 1\nMicro-Error: boom").view.kind == .call)
    #expect(
      try Self.jsonRPC(#"{"id":"0","result":null,"error":"EOS"}"#, head: "Micro-Stream: 0").view.kind == .endOfStream)
    let proto = Self.envelope(Self.method + [0x1A, 3] + Array("EOS".utf8), [])
    #expect(try Decoded("Content-Type: application/proto-rpc", body: proto).view.kind == .endOfStream)
  }

  @Test("a leaked topic does not turn a call into an event (trap 11)")
  func leakedTopic() throws {
    let type = "Content-Type: application/protobuf\nMicro-Topic: t"
    #expect(try Decoded(type + "\nMicro-Endpoint: A.B").view.kind == .call)
    let event = try Decoded(type + "\nMicro-Id: 5", body: [1]).view
    #expect(event.kind == .event && event.topic == "t" && event.payload == [1] && event.id == "5")
  }

  @Test(
    "events carry a document or a message, whatever name gRPC or the bytes codec gives it",
    arguments: ["application/grpc+proto", "application/grpc", "application/octet-stream", "application/proto-rpc"])
  func eventTypes(_ type: String) throws {
    #expect(try Decoded("Content-Type: \(type)\nX-Micro-Topic: t", body: [1]).view.codec == .protobuf)
  }

  @Test("bare JSON replies end their line once; empty messages stay empty (trap 4)")
  func lineEnds() throws {
    let json = try Decoded("Content-Type: application/json\nMicro-Endpoint: A.B")
    #expect(try json.reply(Array("{}".utf8)).body == Array("{}\n".utf8))
    #expect(try json.reply(Array("{}\n".utf8)).body == Array("{}\n".utf8))
    let empty = try json.reply([])
    #expect(empty.body.isEmpty && empty.header(.contentLength) == "0")
    let proto = try Decoded("Micro-Endpoint: A.B")
    #expect(try proto.reply([]).header(.contentLength) == "0")
    #expect(try proto.reply([1]).header(.contentType) == "application/protobuf")
  }

  @Test("errors go into both headers on one line, and whole into the envelope (traps 7 and 33)")
  func errors() throws {
    let text = "line one\r\nInjected: yes\n\u{1}tab\tümlaut"
    let flat = "line one  Injected: yes  tab\tümlaut"
    let bare = try Decoded("Content-Type: application/json\nX-Micro-Endpoint: A.B\nX-Micro-Id: 3").failure(text)
    #expect(bare.header(.microError) == flat && bare.header(.xMicroError) == flat)
    #expect(
      bare.header(.microID) == "3" && bare.header(.xMicroID) == "3" && bare.body.isEmpty && bare.head.status == 200)
    let wrapped = try Self.jsonRPC(#"{"method":"A.B","id":1}"#).failure(text)
    #expect(ReplyView(wrapped, codec: .jsonRPC) == .error(text))
  }

  @Test("a blank error is still an error, a huge one is cut in the headers only")
  func errorSizes() throws {
    let bare = try Decoded("Content-Type: application/json\nMicro-Endpoint: A.B")
    for blank in ["", " ", "\r\n\t", "\u{0}\u{7f}"] {
      #expect(try bare.failure(blank).header(.microError) == "unknown error")
    }
    let huge = String(repeating: "x", count: 100_000)
    #expect(try bare.failure(huge).header(.microError)?.count == FrameServer.errorHeaderBytesMax)
    let wrapped = try Decoded("Content-Type: application/proto-rpc", body: Self.envelope(Self.method, [])).failure(huge)
    #expect(ReplyView(wrapped, codec: .protoRPC) == .error(huge))
  }

  @Test("a SidecarError is answered in go-micro's JSON, a service's own words unchanged")
  func sidecarErrors() throws {
    let call = try Decoded("Content-Type: application/json\nMicro-Endpoint: A.B")
    for error in [SidecarError.serviceNotFound("x"), withBytes("plain") { SidecarError(upstreamText: $0) }] {
      let buffer = ByteBuffer()
      FrameServer.encodeReplyError(to: call.request, notes: call.notes, error: error, into: buffer)
      let text = try #require(try Wire.message(.client, buffer).header(.microError))
      #expect(text == (error.upstreamText == nil ? error.microError.text : "plain"))
    }
  }

  @Test("extra header lines are part of the head")
  func extraFields() throws {
    let call = try Decoded("Content-Type: application/json\nMicro-Endpoint: A.B")
    let buffer = ByteBuffer()
    try withBytes("X-Request-Id: 7\r\n") { extra in
      try withBytes("1") {
        try FrameServer.encodeReply(to: call.request, notes: call.notes, payload: $0, extraFields: extra, into: buffer)
      }
    }
    let reply = try Wire.message(.client, buffer)
    #expect(reply.header(.xRequestID) == "7" && reply.body == Array("1\n".utf8))
  }
}

/// A proto-rpc message as a value.
struct ProtoRPC: Equatable {
  var method: String
  var seq: UInt64
  var error: String
  var payload: [UInt8]

  init(method: String, seq: UInt64, error: String, payload: [UInt8]) {
    self.method = method
    self.seq = seq
    self.error = error
    self.payload = payload
  }

  init(_ body: [UInt8]) throws {
    let envelope = try withBytes(body) { try ProtoRPCEnvelope(parsing: $0) }
    method = String(decoding: body[envelope.method], as: UTF8.self)
    seq = envelope.seq
    error = String(decoding: body[envelope.error], as: UTF8.self)
    payload = Array(body[envelope.payload])
  }
}
