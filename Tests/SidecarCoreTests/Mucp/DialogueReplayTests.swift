// The dialogues recorded through a logging proxy: Go clients, and bytes written by hand, against Go servers.

import Testing

@testable import SidecarCore

@Suite("Recorded dialogues, replayed")
struct DialogueReplayTests {
  static let unary = Dialogue.all.filter { !$0.title.hasPrefix("stream") && $0.title != "raw missing host" }

  @Test("all are there")
  func present() {
    #expect(Dialogue.all.count == 111)
    #expect(Set(Dialogue.all.map(\.version)) == ["v0.14.0", "v1.18.0", "v2.9.1", "v4.11.0"])
    #expect(Self.unary.count == 97)
    #expect(Self.unary.filter { $0.result != nil }.count == 45)
  }

  @Test(
    "what Go clients sent reads as their calls, and the replies as what they printed",
    arguments: unary.filter { $0.result != nil })
  func goClients(_ dialogue: Dialogue) throws {
    let request = try #require(try Wire.messages(.server, dialogue.client).last)
    let replies = try Wire.messages(.client, dialogue.server)
    let view = try? Decoded(request).view
    if dialogue.title != "ill formed" {
      let view = try #require(view)
      let endpoints = ["unknown method": "Hello.Nope", "debug": "Debug.Health"]
      #expect(view.endpoint == endpoints[dialogue.title] ?? "Hello.Ping")
      #expect(view.timeout == 5_000_000_000 || view.timeout == 2_000_000_000)
      #expect(view.dialect == (dialogue.version == "v0.14.0" ? .legacy : .micro))
      #expect(view.payload.isEmpty == ["empty proto", "debug"].contains(dialogue.title))
    }
    let result = try #require(dialogue.result)
    if dialogue.version == "v2.9.1", result.error != nil, view?.codec == .protobuf {
      #expect(replies.isEmpty, "these servers never send an error with bare protobuf (trap 14)")
      return
    }
    let reply = try #require(replies.last)
    let meaning = ReplyView(reply, codec: view?.codec ?? .protoRPC)
    if let error = result.error {
      #expect(meaning == .error(error))
    } else if case .payload(let bytes, let format) = meaning {
      switch format {
      case .json: #expect(try JSONValue(parsing: bytes)["value"]?.stringValue == result.reply)
      case .protobuf, .bytes:
        let field = [10, UInt8(result.reply.utf8.count)] + Array(result.reply.utf8)
        #expect(result.reply.isEmpty ? bytes.isEmpty : bytes.starts(with: field))
      }
    } else {
      Issue.record("\(meaning)")
    }
  }

  @Test("every message reads the same when it comes in two pieces", arguments: unary)
  func cut(_ dialogue: Dialogue) throws {
    func views(_ cut: Int) throws -> [Result<CallView, FrameRefusal>] {
      try Wire.messages(.server, dialogue.client, cut: cut).map { message in
        Result { () throws(FrameRefusal) in try Decoded(message).view }
      }
    }
    let whole = try views(0)
    #expect(!whole.isEmpty)
    for cut in 1..<dialogue.client.count { #expect(try views(cut) == whole, "cut at \(cut)") }
  }

  @Test("without Host it is no HTTP/1.1")
  func noHost() throws {
    let dialogue = try #require(Dialogue.all.first { $0.title == "raw missing host" })
    #expect(throws: WireError.self) { try Wire.messages(.server, dialogue.client) }
  }

  static func view(_ title: String, _ version: String) throws -> CallView {
    let dialogue = try #require(Dialogue.all.first { $0.title == title && $0.version == version })
    let message = try #require(try Wire.messages(.server, dialogue.client).first)
    return try Decoded(message).view
  }

  @Test("bytes written by hand are read as the servers read them", arguments: ["v1.18.0", "v2.9.1", "v4.11.0"])
  func byHand(_ version: String) throws {
    let octets = try Self.view("raw v0.14 style octet-stream", version)
    #expect(octets.dialect == .legacy && octets.codec == .protoRPC && octets.seq == 5 && octets.payload == [10, 1, 97])
    let json = try Self.view("raw v0.14 style json", version)
    #expect(json.codec == .jsonRPC && json.rawJSONID == "1000000" && json.payload == Array(#"{"value":"j"}"#.utf8))
    let bare = try Self.view("raw no content type, endpoint only", version)
    #expect(bare.codec == .protobuf && bare.contentType == .absent && bare.endpoint == "Hello.Ping")
    #expect(bare.timeout == nil)
    #expect(try Self.view("raw method only", version).endpoint == "Hello.Ping")
    let prefixed = try Self.view("raw X- headers all", version)
    #expect(prefixed.dialect == .xMicro && prefixed.endpoint == "Hello.Ping" && prefixed.service == "s")
    #expect(try Self.view("raw X- endpoint only", version).dialect == .xMicro)
    let both = try Self.view("raw proto-rpc + micro headers", version)
    #expect(both.codec == .protoRPC && both.dialect == .micro && both.id == "9" && both.seq == 5)
    #expect(try Self.view("raw octet-stream new style", version).codec == .bytes)
    #expect(try Self.view("raw stray EOS", version).kind == .endOfStream)
    let stream = try Self.view("raw unary with Micro-Stream", version)
    #expect(stream.kind == .call && stream.stream == "1")
    let event = try Self.view("raw Micro-Topic", version)
    #expect(event.kind == .event && event.topic == "foo" && event.codec == .json)
  }

  @Test("an event is answered with an empty 200", arguments: ["v1.18.0", "v4.11.0"])
  func event(_ version: String) throws {
    let dialogue = try #require(Dialogue.all.first { $0.title == "raw Micro-Topic" && $0.version == version })
    let call = try Decoded(try #require(try Wire.messages(.server, dialogue.client).first))
    let theirs = try #require(try Wire.messages(.client, dialogue.server).first)
    let ours = try call.reply(Array("ignored".utf8))
    #expect(ours.body.isEmpty && theirs.body.isEmpty)
    #expect(ours.header(.contentType) == theirs.header(.contentType))
    #expect(try call.failure("no subscriber").header(.microError) == "no subscriber")
  }

  @Test("an unknown content type is refused in their words", arguments: unary.filter { $0.title.hasPrefix("raw bad") })
  func badContentType(_ dialogue: Dialogue) throws {
    let request = try #require(try Wire.messages(.server, dialogue.client).first)
    let theirs = try #require(try Wire.messages(.client, dialogue.server).first)
    let refusal = try #require(throws: FrameRefusal.self) { try Decoded(request) }
    let buffer = ByteBuffer()
    FrameServer.encodeRefusal(refusal, notes: ByteBuffer(), into: buffer)
    let ours = try Wire.message(.client, buffer)
    #expect(ours.header(.contentType) == "text/plain")
    #expect(ours.body.map { $0 | 0x20 } == theirs.body.map { $0 | 0x20 })
    for message in [ours, theirs] { #expect(ReplyView(message, codec: .json) == .fault(.unsupportedNodeDialect)) }
  }

  @Test("what v0.14 calls ill-formed is refused in its words")
  func illFormed() throws {
    let dialogue = try #require(Dialogue.all.first { $0.title == "ill formed" })
    let request = try #require(try Wire.messages(.server, dialogue.client).first)
    let refusal = try #require(throws: FrameRefusal.self) { try Decoded(request) }
    #expect(refusal.text == dialogue.result?.error && !refusal.closes)
  }
}
