// The codecs that go-micro has as plug-ins, and gRPC's frames inside HTTP/1: the shapes of wire/rpc.md §3.6 and §3.8.

import Foundation
import Testing

@testable import SidecarCore

@Suite("Plug-in codecs")
struct PluginCodecTests {
  static let legacy = NodeDialect(metadata: [:])
  static let micro = NodeDialect.explicitAddress
  static let envelopes: [FrameCodec] = [.jsonRPC2, .msgpackRPC, .bsonRPC]

  static func call(_ type: String, _ body: [UInt8], _ more: String = "") throws -> Decoded {
    try Decoded("Content-Type: \(type)\nMicro-Id: 5\(more)", body: body)
  }

  @Test("jsonrpc2 is read with either kind of id, and the id comes back as it came")
  func jsonRPC2() throws {
    for id in ["7", "\"a-7\"", "null"] {
      let text = #"{"jsonrpc":"2.0","method":"Say.Hello","params":{"name":"J"},"id":\#(id)}"#
      let call = try Self.call("application/json-rpc2", Array(text.utf8))
      #expect(call.view.codec == .jsonRPC2 && call.view.endpoint == "Say.Hello")
      #expect(String(decoding: call.view.payload, as: UTF8.self) == #"{"name":"J"}"#)
      let reply = try call.reply(Array(#"{"msg":"x"}"#.utf8))
      #expect(
        String(decoding: reply.body, as: UTF8.self) == "{\"jsonrpc\":\"2.0\",\"id\":\(id),\"result\":{\"msg\":\"x\"}}\n"
      )
      #expect(reply.header(.contentType) == "application/json-rpc2")
    }
  }

  @Test("jsonrpc2 errors are the framework's JSON itself, or a code and a message")
  func jsonRPC2Errors() throws {
    let call = try Self.call(
      "application/json-rpc2", Array(#"{"jsonrpc":"2.0","method":"A.B","params":{},"id":1}"#.utf8))
    func error(_ text: String) throws -> String {
      let json = try JSONValue(parsing: try call.failure(text).body)
      #expect(json.objectValue?.count == 3, "the client takes exactly three keys")
      return try #require(json["error"]).text()
    }
    let micro = #"{"id":"x","code":400,"detail":"bad","status":"Bad Request"}"#
    #expect(try error(micro) == micro)
    #expect(try error("boom") == #"{"code":-32000,"message":"boom"}"#)
    #expect(try error("rpc: can't find service X") == #"{"code":-32601,"message":"rpc: can't find service X"}"#)
    #expect(try error("{broken}") == #"{"code":-32000,"message":"{broken}"}"#)
    for text in [micro, "boom", "rpc: can't find service X"] {
      #expect(try ReplyView(call.failure(text), codec: .jsonRPC2) == .error(text))
    }
  }

  @Test("msgpackrpc is read with either kind of id, and the id comes back as it came")
  func messagePack() throws {
    // [0, id, "Say.Hello", [{"name": "J"}]]
    for id in ["07", "ce 00010000", "a3 612d37"] {
      let request = hex("94 00 \(id) a9 5361792e48656c6c6f 91 81 a4 6e616d65 a1 4a")
      let call = try Self.call("application/msgpack", request)
      #expect(call.view.codec == .msgpackRPC && call.view.endpoint == "Say.Hello")
      #expect(String(decoding: call.view.payload, as: UTF8.self) == #"{"name":"J"}"#)
      #expect(try call.reply(Array(#"{"msg":"x"}"#.utf8)).body == hex("94 01 \(id) c0 81 a3 6d7367 a1 78"))
      #expect(try call.reply([]).body == hex("94 01 \(id) c0 c0"))
      #expect(try call.failure("no").body == hex("94 01 \(id) a2 6e6f c0"))
    }
    let none = try Self.call("application/x-msgpack", hex("94 00 07 a3 412e42 90"))
    #expect(none.view.payload.isEmpty && none.view.endpoint == "A.B")
  }

  @Test("bsonrpc is two documents of the framework's dialect")
  func bson() throws {
    func document(_ json: String) throws -> [UInt8] { try BSONTests.packed(json, .vitess) }
    for seq in ["7", "\"a-7\""] {
      let request = try document(#"{"ServiceMethod":"Say.Hello","Seq":\#(seq)}"#) + document(#"{"Name":"J"}"#)
      let call = try Self.call("application/bson", request)
      #expect(call.view.codec == .bsonRPC && call.view.endpoint == "Say.Hello")
      #expect(String(decoding: call.view.payload, as: UTF8.self) == #"{"Name":"J"}"#)
      let header = #"{"ServiceMethod":"Say.Hello","Seq":\#(seq),"Error":""#
      #expect(try call.reply(Array(#"{"Msg":"x"}"#.utf8)).body == document(header + "\"}") + document(#"{"Msg":"x"}"#))
      #expect(try call.failure("no").body == document(header + "no\"}") + document("{}"))
    }
  }

  @Test("mercury's endpoint is in a header of its own")
  func mercury() throws {
    let call = try Self.call(
      "application/mercury", [10, 1, 97], "\nService: greeter\nEndpoint: Say.Hello\nContent-Encoding: request")
    #expect(call.view.codec == .mercury && call.view.endpoint == "Say.Hello" && call.view.service == "greeter")
    #expect(call.view.payload == [10, 1, 97])
    let reply = try call.reply([1, 2])
    #expect(reply.body == [1, 2] && reply.header(.contentEncoding) == "response")
    let ours = try encodeCall(Self.legacy, format: .protobuf, codec: .mercury, payload: [10, 1, 97]).message
    #expect(ours.header(.contentEncoding) == "request" && ours.body == [10, 1, 97])
    #expect(ours.head.first("Endpoint").map { String(decoding: $0, as: UTF8.self) } == "Hello.Ping")
  }

  @Test("ids towards a node are those of its generation")
  func ids() throws {
    let json = Array(#"{"a":1}"#.utf8)
    func body(_ node: NodeDialect, _ codec: FrameCodec) throws -> [UInt8] {
      try encodeCall(node, format: .json, codec: codec, payload: json, id: 7).message.body
    }
    #expect(try String(decoding: body(Self.legacy, .jsonRPC2), as: UTF8.self).contains(#""id":7}"#))
    #expect(try String(decoding: body(Self.micro, .jsonRPC2), as: UTF8.self).contains(#""id":"7"}"#))
    #expect(try body(Self.legacy, .msgpackRPC).starts(with: [0x94, 0, 7]))
    #expect(try body(Self.micro, .msgpackRPC).starts(with: [0x94, 0, 0xA1, 0x37]))
    let seq = try BSONTests.packed(#"{"ServiceMethod":"Hello.Ping","Seq":7}"#, .vitess)
    #expect(try body(Self.legacy, .bsonRPC).starts(with: seq))
    let text = try BSONTests.packed(#"{"ServiceMethod":"Hello.Ping","Seq":"7"}"#, .vitess)
    #expect(try body(Self.micro, .bsonRPC).starts(with: text))
  }

  @Test(
    "what we send in each codec reads as the same call, and what we answer as the same reply",
    arguments: envelopes + [.grpcFramedJSON], [legacy, micro])
  func roundTrip(_ codec: FrameCodec, _ node: NodeDialect) throws {
    let json = Array(#"{"name":"J","n":[1,2.5,null,true]}"#.utf8)
    let sent = try encodeCall(node, format: .json, codec: codec, payload: json)
    let call = try Decoded(sent.message)
    #expect(sent.codec == codec && call.view.codec == codec && call.view.endpoint == "Hello.Ping")
    #expect(call.view.payload == json)
    #expect(try ReplyView(call.reply(json), codec: codec) == .payload(json, .json))
    #expect(try ReplyView(call.failure("no"), codec: codec) == .error("no"))
    let bad = Array("{".utf8)
    if codec.isEnvelope {
      #expect(throws: WireError.self) { try encodeCall(node, format: .json, codec: codec, payload: bad) }
      #expect(throws: WireError.self) { try call.reply(bad) }
    }
  }

  @Test("streams keep their codec, message by message, up to the end", arguments: envelopes + [.grpcFramedJSON])
  func streams(_ codec: FrameCodec) throws {
    let stream = EncodedStream(
      stream: FrameStream(id: 7, node: Self.micro, format: .json, codec: codec), service: "chat", endpoint: "Chat.Talk")
    let server = try DecodedStream([stream.opening()])
    #expect(server.opening.view.endpoint == "Chat.Talk")
    for text in [#"{"n":1}"#, #"{"n":2}"#] {
      #expect(try server.next(stream.message(Array(text.utf8))) == .message(Array(text.utf8)))
      #expect(try ReplyView(server.sent(Array(text.utf8)), codec: codec) == .payload(Array(text.utf8), .json))
    }
    #expect(try server.next(try #require(stream.end().message)) == .end)
    #expect(try ReplyView(server.end(), codec: codec) == .endOfStream)
  }

  @Test(
    "broken envelopes are refused",
    arguments: [
      ("application/json-rpc2", "7b7d7d"), ("application/json-rpc2", "7b226d6574686f64223a317d"),
      ("application/msgpack", ""), ("application/msgpack", "93 00 07 a3 412e42"),
      ("application/msgpack", "94 01 07 a3 412e42 90"), ("application/msgpack", "94 00 c0 a3 412e42 90"),
      ("application/msgpack", "94 00 07 a3 412e42 92 01 02"), ("application/msgpack", "94 00 07 a3 412e42 90 00"),
      ("application/bson", ""), ("application/bson", "05000000 00"), ("application/bson", "05000000 00 05000000"),
      ("application/grpc", "00 00000002 01"), ("application/grpc", "01 00000001 01"),
      ("application/grpc", "00 00000001 01 00"), ("application/grpc", "00 0000"), ("application/grpc", "00 ffffffff"),
    ])
  func broken(_ type: String, _ body: String) {
    let refusal = #expect(throws: FrameRefusal.self) { try Self.call(type, hex(body), "\nMicro-Endpoint: A.B") }
    #expect(refusal?.reason == .malformed)
  }

  @Test("gRPC's frame may be left out around an empty message, and its status is an error where no other is")
  func grpc() throws {
    let type = "application/grpc+proto"
    #expect(try Self.call(type, [], "\nMicro-Endpoint: A.B").view.payload.isEmpty)
    #expect(try Self.call(type, hex("00 00000000"), "\nMicro-Endpoint: A.B").view.payload.isEmpty)
    let call = try Self.call(type, hex("00 00000001 05"), "\nMicro-Endpoint: A.B")
    #expect(call.view.payload == [5] && call.view.codec == .grpcFramed)
    #expect(try call.reply([7]).body == hex("00 00000001 07"))
    func status(_ message: RecordedMessage) -> String? {
      message.head.first("Grpc-Status").map { String(decoding: $0, as: UTF8.self) }
    }
    #expect(try status(call.reply([7])) == "0" && status(call.failure("no")) == "13")
    #expect(try status(call.failure("EOS")) == "0")
    #expect(try ReplyView("Grpc-Status: 13\nGrpc-Message: no", body: [], codec: .grpcFramed) == .error("no"))
    #expect(try ReplyView("Grpc-Status: 0", body: [], codec: .grpcFramed) == .payload([], .protobuf))
    #expect(try ReplyView("", body: hex("01 00000000"), codec: .grpcFramed) == .fault(.badUpstreamReply))
  }
}

@Suite("Which codec a content type and a node have")
struct CodecTableTests {
  @Test("types are added before the usual ones, and what cannot be is said")
  func table() throws {
    let table = try FrameCodecTable(adding: ["application/x-thrift = jsonrpc2", "application/msgpack=bsonrpc"])
    func codec(_ type: String) -> FrameCodec? { withBytes(type) { table.codec($0) } }
    #expect(codec("application/x-thrift") == .jsonRPC2 && codec("application/msgpack") == .bsonRPC)
    #expect(codec("application/bson") == .bsonRPC && codec("Application/Bson") == nil)
    for bad in ["x", "a/b", "a/b=", "a/b=json", "application/json=jsonrpc2", "a b/c=mercury", "/=mercury", "=mercury"] {
      #expect(throws: SettingMismatch.self, "\(bad)") { try FrameCodecTable(adding: [bad]) }
    }
    let many = (0..<40).map { "a/t\($0)=mercury" }
    #expect(throws: SettingMismatch.self) { try FrameCodecTable(adding: many) }
  }

  @Test("the service's own setting counts more than the node's word, and that more than the setting for all")
  func choice() throws {
    let codecs = FrameCodecTable.standard
    let choice = try ContentTypeChoice(["application/json-rpc", "greeter = application/msgpack"], codecs: codecs)
    func codec(_ service: String, _ metadata: [String: String] = [:]) -> FrameCodec? {
      choice.codec(service: service, metadata: metadata, .micro, codecs)?.codec
    }
    #expect(codec("greeter", ["content-type": "application/bson"]) == .msgpackRPC)
    #expect(codec("other", ["content-type": "application/bson"]) == .bsonRPC)
    #expect(codec("other", ["content-type": "what/ever"]) == .jsonRPC && codec("other") == .jsonRPC)
    #expect(ContentTypeChoice().codec(service: "x", metadata: [:], .micro, codecs) == nil)
    for bad in ["x", "a/b", "greeter=", "=application/json", "greeter=a/b"] {
      #expect(throws: SettingMismatch.self, "\(bad)") { try ContentTypeChoice([bad], codecs: codecs) }
    }
  }

  @Test("a node's choice is used for payloads of its format, under the name it was given")
  func node() throws {
    var node = NodeDialect.explicitAddress
    node.preferred = CodecChoice(codec: .msgpackRPC, contentType: "application/x-msgpack")
    #expect(FrameClient.codec(for: .json, to: node) == .msgpackRPC)
    #expect(FrameClient.streamCodec(for: .json, to: node) == .msgpackRPC)
    #expect(FrameClient.codec(for: .protobuf, to: node) == .protoRPC)
    let sent = try encodeCall(node, format: .json, payload: Array("{}".utf8)).message
    #expect(sent.header(.contentType) == "application/x-msgpack" && sent.header(.accept) == "application/x-msgpack")
    #expect(FrameCodecTable.standard.choice("application/json", .legacy)?.codec == .jsonRPC)
    #expect(FrameCodecTable.standard.choice("application/json", .micro)?.codec == .json)
    #expect(FrameCodecTable.standard.choice("application/grpc", .legacy) == nil)
  }
}
