// The client role, beyond what the recordings show.

import Foundation
import Testing

@testable import SidecarCore

@Suite("Framework calls, client side")
struct FrameClientTests {
  @Test(
    "a node's dialect is told from its metadata",
    arguments: [
      ([:], NodeDialect(generation: .legacy)),
      (["server": "rpc", "transport": "http", "broker": "http", "registry": "mdns"], NodeDialect(generation: .legacy)),
      (["protocol": "mucp", "server": "mucp", "transport": "http"], NodeDialect(generation: .micro)),
      (["protocol": "mucp"], .explicitAddress), (["protocol": ""], NodeDialect(generation: .legacy)),
      (["protocol": "grpc", "server": "grpc", "transport": "grpc"], NodeDialect(generation: .micro, isGRPC: true)),
      (["server": "grpc", "transport": "grpc"], NodeDialect(generation: .legacy, isGRPC: true)),
      (["transport": "grpc"], NodeDialect(generation: .legacy, isGRPC: true)),
      (["transport": "grpc", "server": "rpc"], NodeDialect(generation: .legacy, transport: .grpc(isOld: true))),
      (
        ["transport": "grpc", "server": "mucp", "protocol": "mucp"],
        NodeDialect(generation: .micro, transport: .grpc(isOld: false))
      ),
      (["transport": "nats", "protocol": "mucp"], NodeDialect(generation: .micro, otherTransport: "nats")),
    ] as [([String: String], NodeDialect)])
  func dialects(_ metadata: [String: String], _ expected: NodeDialect) {
    let dialect = NodeDialect(metadata: metadata)
    #expect(dialect == expected)
    #expect(
      dialect.reusable == (expected.generation == .micro || expected.transport != .http),
      "v0.14 sticks to an HTTP connection's first headers (trap 1)")
  }

  static let legacy = NodeDialect(generation: .legacy)
  static let micro = NodeDialect(generation: .micro)

  @Test("payloads travel in the codec that every server of the node's generation reads")
  func codecs() {
    for node in [Self.legacy, Self.micro] { #expect(FrameClient.codec(for: .protobuf, to: node) == .protoRPC) }
    #expect(FrameClient.codec(for: .json, to: Self.legacy) == .jsonRPC)
    #expect(FrameClient.codec(for: .json, to: Self.micro) == .json)
    #expect(FrameClient.codec(for: .bytes, to: Self.micro) == .bytes)
    #expect(FrameClient.codec(for: .bytes, to: Self.legacy) == .protoRPC)
  }

  @Test("a request carries every generation's names")
  func superset() throws {
    let (message, _) = try encodeCall(
      Self.micro, format: .json, service: "go.micro.srv.x", endpoint: "Say.Hello", from: "me",
      payload: Array("{}".utf8),
      id: 42)
    let lines = message.head.fields.map {
      String(decoding: message.head.name($0), as: UTF8.self) + ": "
        + String(decoding: message.head.value($0), as: UTF8.self)
    }
    #expect(
      lines == [
        "Host: 127.0.0.1:9014", "Accept: application/json", "Content-Type: application/json", "Timeout: 5000000000",
        "Micro-Service: go.micro.srv.x", "Micro-Method: Say.Hello", "Micro-Endpoint: Say.Hello",
        "X-Micro-Service: go.micro.srv.x", "X-Micro-Method: Say.Hello", "X-Micro-Endpoint: Say.Hello",
        "Micro-From-Service: me", "X-Micro-From-Service: me", "Micro-Id: 42", "X-Micro-Id: 42", "Micro-Stream: 42",
        "Content-Length: 3",
      ])
    #expect(String(decoding: message.head.methodBytes, as: UTF8.self) == "POST" && message.body == Array("{}\n".utf8))
  }

  @Test("Micro-Stream keeps v4.10 and later from losing calls (trap 37); older nodes get none")
  func stream() throws {
    #expect(try encodeCall(Self.legacy, format: .json, payload: []).message.header(.microStream) == nil)
    #expect(try encodeCall(Self.micro, format: .protobuf, payload: [], id: 9).message.header(.microStream) == "9")
  }

  @Test(
    "the time left is at least a nanosecond",
    arguments: [(0, "1"), (-5, "1"), (1, "1"), (.max, "9223372036854775807")] as [(Int64, String)])
  func timeout(_ left: Int64, _ text: String) throws {
    #expect(try encodeCall(Self.micro, format: .json, payload: [], timeout: left).message.header(.timeout) == text)
  }

  @Test("empty messages: a document of their own for JSON, nothing for protobuf")
  func empty() throws {
    #expect(try encodeCall(Self.micro, format: .json, payload: []).message.body == Array("{}\n".utf8))
    #expect(
      try encodeCall(Self.legacy, format: .json, payload: []).message.body
        == Array("{\"method\":\"Hello.Ping\",\"params\":[{}],\"id\":7}\n".utf8))
    #expect(try ProtoRPC(encodeCall(Self.micro, format: .protobuf, payload: []).message.body).payload.isEmpty)
  }

  @Test("a payload that would break out of the JSON-RPC envelope is refused before a byte is written")
  func brokenPayload() {
    for payload in [#"1],"id":2,"x":["#, "{", "x"] {
      #expect(throws: WireError.self) { try encodeCall(Self.legacy, format: .json, payload: Array(payload.utf8)) }
    }
  }

  @Test("hostile names can't add header lines")
  func injection() throws {
    let message = try encodeCall(
      Self.micro, format: .json, service: "a\r\nX: y", endpoint: "A.B\nZ: 1", from: "c\u{0}d", payload: []
    ).message
    #expect(message.header(.microService) == "a  X: y" && message.header(.microFromService) == "c d")
    #expect(message.head.fieldCount == 16)
  }

  @Test(
    "every call reads on a server as it was meant",
    arguments: [legacy, micro], PayloadFormat.allCases)
  func roundTrip(_ node: NodeDialect, _ format: PayloadFormat) throws {
    for seed in 0..<100 as Range<UInt64> {
      var random = SeededRandom(seed: seed)
      let payload =
        format == .json
        ? Array(JSONValue.random(&random, depth: 4).text().utf8)
        : (0..<random.below(200)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
      let id = random.next()
      let timeout = Int64(1 + random.below(1 << 40))
      let (message, codec) = try encodeCall(
        node, format: format, service: "s", endpoint: "Söme.Thing", payload: payload, timeout: timeout, id: id)
      let view = try Decoded(message).view
      #expect(view.endpoint == "Söme.Thing" && view.service == "s" && view.id == "\(id)", "seed \(seed)")
      #expect(view.timeout == timeout && view.kind == .call && view.codec == codec, "seed \(seed)")
      #expect(view.payload == (codec == .json ? payload + [10] : payload), "seed \(seed)")
      if codec == .protoRPC { #expect(view.seq == id) }
      if codec == .jsonRPC { #expect(view.rawJSONID == "\(id)") }
    }
  }

  @Test(
    "every reply reads on a client as it was meant",
    arguments: [FrameCodec.json, .jsonRPC, .protobuf, .protoRPC, .bytes])
  func replyRoundTrip(_ codec: FrameCodec) throws {
    let names: [FrameCodec: String] = [
      .json: "json", .jsonRPC: "json-rpc", .protobuf: "protobuf", .protoRPC: "proto-rpc", .bytes: "octet-stream",
    ]
    for seed in 0..<100 as Range<UInt64> {
      var random = SeededRandom(seed: seed)
      let id = random.next()
      let (request, _) = try encodeCall(Self.micro, format: codec.format, codec: codec, payload: [], id: id)
      let call = try Decoded(request)
      #expect(call.view.codec == codec && request.header(.contentType) == "application/\(names[codec] ?? "")")
      let payload =
        codec.format == .json
        ? Array(JSONValue.array([.random(&random, depth: 4)]).text().utf8)
        : (0..<random.below(200)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
      #expect(ReplyView(try call.reply(payload), codec: codec) == .payload(payload, codec.format), "seed \(seed)")
      let error = MicroError(id: "x", code: 1 + random.below(600), detail: JSONValue.randomText(&random)).text
        .replacingOccurrences(of: "\u{7f}", with: "")
      #expect(ReplyView(try call.failure(error), codec: codec) == .error(error), "seed \(seed)")
    }
  }

  @Test("an envelope's error counts before Micro-Error, that before X-Micro-Error")
  func errorOrder() throws {
    let rpc = Array(#"{"id":1,"result":null,"error":"envelope"}"#.utf8)
    let headers = "Micro-Error: header\nX-Micro-Error: older"
    #expect(try ReplyView(headers, body: rpc, codec: .jsonRPC) == .error("envelope"))
    #expect(try ReplyView(headers, body: [], codec: .json) == .error("header"))
    #expect(try ReplyView("Micro-Error:\nX-Micro-Error: older", body: [], codec: .protobuf) == .error("older"))
    #expect(try ReplyView(headers, body: [], codec: .protoRPC) == .error("header"))
    #expect(try ReplyView(headers, body: [1], codec: .protoRPC) == .error("header"))
  }

  @Test(
    "JSON-RPC replies of all kinds",
    arguments: [
      (#"{"id":"1","result":{"a":1},"error":null}"#, .payload(Array(#"{"a":1}"#.utf8), .json)),
      (#"{"error":"","result":[],"id":null}"#, .payload([91, 93], .json)), (#"{"result":1}"#, .payload([49], .json)),
      (#"{"id":1,"result":null,"error":null}"#, .payload([], .json)), (#"{"error":"a\nb"}"#, .error("a\nb")),
      (#"{"result":{},"error":{"code":5}}"#, .error(#"{"code":5}"#)), (#"{"Error":7}"#, .error("7")),
      (#"{"id":"","result":null,"error":"EOS"}"#, .endOfStream), ("{", .fault(.badUpstreamReply)),
      ("[]", .fault(.badUpstreamReply)), ("", .fault(.badUpstreamReply)), ("{}}", .fault(.badUpstreamReply)),
    ] as [(String, ReplyView)])
  func jsonRPCReplies(_ body: String, _ expected: ReplyView) throws {
    #expect(try ReplyView("Content-Type: application/json-rpc", body: Array(body.utf8), codec: .jsonRPC) == expected)
  }

  @Test("what is no framework reply is told as such")
  func faults() throws {
    #expect(
      try ReplyView("", body: Array("down".utf8), codec: .json, status: "502 Bad Gateway") == .fault(.badUpstreamReply))
    #expect(try ReplyView("", body: [0, 0, 0, 9], codec: .protoRPC) == .fault(.badUpstreamReply))
    let text = Array("Unsupported Content-Type: x".utf8)
    let plain = try ReplyView("Content-Type: text/plain; charset=utf-8", body: text, codec: .json)
    #expect(plain == .fault(.unsupportedNodeDialect))
    let wire = Array("HTTP/1.1 502 Nope\r\nContent-Length: 4\r\n\r\ndown".utf8)
    let message = try Wire.messages(.client, wire)[0]
    let reply = withBytes(message.body) { FrameClient.decodeReply(head: message.head, body: $0, codec: .json) }
    guard case .failed(let error) = reply else { return #expect(Bool(false)) }
    #expect(error.detail == "502 Bad Gateway: down" && error.id == "go.micro.client.transport")
  }

  @Test("the reply's own content type is not believed: it may be an echo (trap 9)")
  func staleContentType() throws {
    let body = Array("{\"a\":1}\n".utf8)
    #expect(
      try ReplyView("Content-Type: application/protobuf\nMicro-Id: 99", body: body, codec: .json)
        == .payload(Array("{\"a\":1}".utf8), .json))
  }

  @Test("EOS is an error's text, not an error (trap 8)")
  func endOfStream() throws {
    #expect(try ReplyView("Micro-Error: EOS", body: [], codec: .protobuf) == .endOfStream)
  }
}

@Suite("Debug replies")
struct DebugRepliesTests {
  @Test("health is ok in both forms")
  func health() {
    let json = ByteBuffer()
    DebugReplies.health(format: .json, into: json)
    #expect(String(decoding: json.bytes, as: UTF8.self) == #"{"status":"ok"}"#)
    let proto = ByteBuffer()
    DebugReplies.health(format: .protobuf, into: proto)
    #expect(Array(proto.bytes) == [10, 2, 111, 107], "as recorded from v0.14.0")
  }

  @Test("stats have the layout of v1.18 and later")
  func stats() throws {
    let stats = DebugReplies.Stats(
      timestamp: 300, started: 200, uptime: 100, memory: 1 << 40, threads: 5, requests: .max, errors: 1)
    let json = ByteBuffer()
    DebugReplies.stats(stats, format: .json, into: json)
    #expect(
      String(decoding: json.bytes, as: UTF8.self)
        == #"{"timestamp":300,"started":200,"uptime":100,"memory":1099511627776,"threads":5,"gc":0,"requests":18446744073709551615,"errors":1}"#
    )
    let proto = ByteBuffer()
    DebugReplies.stats(stats, format: .protobuf, into: proto)
    var reader = ProtobufReader(proto.bytes, 0..<proto.count)
    var fields: [UInt64: UInt64] = [:]
    while let field = try reader.next() {
      if case .varint(let value) = field.value { fields[field.number] = value }
    }
    #expect(fields == [1: 300, 2: 200, 3: 100, 4: 1 << 40, 5: 5, 7: .max, 8: 1])
  }

  @Test(
    "they are found by endpoint",
    arguments: [
      ("Debug.Health", DebugReplies.Method.health), ("Debug.Stats", .stats), ("Debug.Log", nil), ("debug.health", nil),
    ] as [(String, DebugReplies.Method?)])
  func endpoints(_ name: String, _ method: DebugReplies.Method?) {
    #expect(withBytes(name) { DebugReplies.method($0) } == method)
  }
}
