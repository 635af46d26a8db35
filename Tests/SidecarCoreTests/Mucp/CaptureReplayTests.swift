// Every recorded unary call over the HTTP transport, replayed in both roles, whole and cut at every byte.

import Testing

@testable import SidecarCore

@Suite("Recorded calls, replayed")
struct CaptureReplayTests {
  /// What the Go program was told to send.
  static func expectedRequest(_ capture: PacketCapture) -> (endpoint: String, payload: [UInt8], timeout: Int64) {
    let endpoint = capture.option("-m") ?? "Hello.Ping"
    let argument = capture.option("-d") ?? #"{"name":"World"}"#
    // From 4.10 on the header says the connection's timeout, not the call's (trap 30).
    let isShort = capture.option("-timeout") == "200ms" && capture.version != "v4"
    let timeout: Int64 = isShort ? 200_000_000 : 5_000_000_000
    if argument == #"{"ms":500}"# { return (endpoint, [0x18, 0xF4, 0x03], timeout) }
    if capture.isJSON { return (endpoint, Array(argument.utf8), timeout) }
    let name = argument.split(separator: "\"")[3]
    return (endpoint, [0x0A, UInt8(name.utf8.count)] + Array(name.utf8), timeout)
  }

  /// What the Go program printed; nil when it says too little about the reply.
  static func expectedReply(_ capture: PacketCapture) -> ReplyView? {
    let output = capture.notes["client-output"] ?? ""
    let failure = "ERR type=client.serverError "
    if output.hasPrefix(failure) { return .error(String(output.dropFirst(failure.count))) }
    if capture.scenario != "unary" { return nil }
    return capture.isJSON
      ? .payload(Array(#"{"msg":"Hello World"}"#.utf8), .json)
      : .payload([0x0A, 11] + Array("Hello World".utf8), .protobuf)
  }

  @Test("all are there")
  func present() {
    #expect(PacketCapture.all.count == 76)
    #expect(PacketCapture.all.allSatisfy { !$0.connections.isEmpty })
    for version in ["v014", "v118", "v4"] {
      for scenario in ["unary", "err-badrequest", "err-plain", "err-panic", "err-timeout", "meta"] {
        #expect(PacketCapture.all.contains { $0.version == version && $0.scenario == scenario })
      }
    }
  }

  @Test("a server reads what the client sent", arguments: PacketCapture.all)
  func decodesRequests(_ capture: PacketCapture) throws {
    let expected = Self.expectedRequest(capture)
    for connection in capture.connections {
      for (index, message) in try Wire.messages(.server, connection.client).enumerated() {
        let view = try Decoded(message).view
        #expect(view.endpoint == expected.endpoint)
        #expect(view.payload == expected.payload || view.payload == expected.payload + [10])
        #expect(view.timeout == expected.timeout)
        #expect(view.kind == .call)
        if capture.version == "v014" {
          #expect(view.dialect == .legacy && view.service.isEmpty && view.codec.isEnvelope)
          #expect(view.codec == .protoRPC ? view.seq == UInt64(index) : view.rawJSONID == "\(index)")
        } else {
          #expect(view.dialect == .micro && view.service == capture.option("-s"))
          // Ids of gRPC's recordings go on from call to call.
          if !capture.isGRPC { #expect(view.id == "\(index)") }
          if view.codec == .jsonRPC { #expect(view.rawJSONID == "\"\(index)\"") }
        }
      }
    }
  }

  @Test("its metadata goes on, and nothing else does", arguments: PacketCapture.all)
  func metadata(_ capture: PacketCapture) throws {
    for connection in capture.connections {
      for message in try Wire.messages(.server, connection.client) {
        let head = message.head
        let names = head.fields.filter { Metadata.isForwardable($0, of: head, from: .framework) }
          .map { String(decoding: head.name($0), as: UTF8.self) }
        let sent = capture.scenario == "meta" ? ["User-Agent", "Foo", "X-Request-Id", "Lower-Case"] : ["User-Agent"]
        #expect(Set(names) == Set(sent))
      }
    }
  }

  @Test("a client reads what the server answered", arguments: PacketCapture.all)
  func decodesReplies(_ capture: PacketCapture) throws {
    var replies = 0
    for connection in capture.connections {
      let requests = try Wire.messages(.server, connection.client)
      for (request, message) in zip(requests, try Wire.messages(.client, connection.server)) {
        replies += 1
        let view = ReplyView(message, codec: try Decoded(request).view.codec)
        if let expected = Self.expectedReply(capture) {
          #expect(view == expected)
        } else if case .payload(let bytes, _) = view {
          let text = String(decoding: bytes, as: UTF8.self)
          #expect(text.contains(capture.scenario == "meta" ? "Hello World" : "slept 500 ms"))
        } else {
          Issue.record("\(view)")
        }
      }
    }
    switch (capture.scenario, capture.version) {
    case ("err-panic", _), ("err-timeout", "v014"): #expect(replies == 0)
    case ("unary", _): #expect(replies == 2)
    default: #expect(replies == 1)
    }
  }

  @Test("our reply says what theirs said", arguments: PacketCapture.all)
  func repliesAlike(_ capture: PacketCapture) throws {
    for connection in capture.connections {
      let requests = try Wire.messages(.server, connection.client)
      for (request, theirs) in zip(requests, try Wire.messages(.client, connection.server)) {
        let call = try Decoded(request)
        let codec = call.request.codec
        let ours: RecordedMessage
        switch ReplyView(theirs, codec: codec) {
        case .payload(let payload, _):
          ours = try call.reply(payload)
          // A 1.x server leaves the method out of its proto-rpc header; v0.14 and we repeat it.
          if codec != .protoRPC || capture.version == "v014" { #expect(ours.body == theirs.body) }
          #expect(ours.header(.microError) == nil && ours.header(.xMicroError) == nil)
        case .error(let text):
          ours = try call.failure(text)
          #expect(ours.header(.microError) == text && ours.header(.xMicroError) == text)
          if capture.version != "v014" { #expect(theirs.header(.microError) == text) }
          if !codec.isEnvelope { #expect(ours.body == theirs.body) }
        case .endOfStream, .fault: throw CaptureError(description: "no unary reply is one")
        }
        #expect(ReplyView(ours, codec: codec) == ReplyView(theirs, codec: codec))
        #expect(ours.head.status == 200)
        #expect(ours.header(.contentType) == theirs.header(.contentType))
        #expect(ours.header(.contentLength) == "\(ours.body.count)")
        if capture.version == "v118" {
          #expect(ours.header(.microID) == theirs.header(.microID))
          if theirs.header(.microError) == nil { #expect(ours.header(.xMicroID) == theirs.header(.xMicroID)) }
        }
        let names = Set(ours.head.fields.map { ours.head.name($0).map { $0 | 0x20 } })
        let allowed = [
          "content-length", "content-type", "micro-id", "x-micro-id", "micro-error", "x-micro-error",
          "grpc-status", "grpc-message",
        ]
        #expect(names.isSubset(of: Set(allowed.map { $0.utf8.map { $0 | 0x20 } })), "nothing is echoed")
      }
    }
  }

  @Test("our request is the same call to a server as theirs", arguments: PacketCapture.all)
  func requestsAlike(_ capture: PacketCapture) throws {
    let node: NodeDialect = capture.version == "v014" ? NodeDialect(metadata: ["server": "rpc"]) : .explicitAddress
    for connection in capture.connections {
      for message in try Wire.messages(.server, connection.client) {
        let theirs = try Decoded(message).view
        let ours = try encodeCall(
          node, format: theirs.codec.format, codec: theirs.codec,
          service: theirs.service.isEmpty ? "hellooo" : theirs.service, endpoint: theirs.endpoint,
          payload: theirs.payload, timeout: theirs.timeout ?? 0, id: UInt64(theirs.id) ?? theirs.seq)
        // bare JSON and protobuf get their meaning from the headers, which v0.14 has not: its servers see json-rpc.
        let view = try Decoded(ours.message).view
        #expect(view.endpoint == theirs.endpoint && view.timeout == theirs.timeout && view.kind == .call)
        #expect(view.codec == theirs.codec && ours.codec == theirs.codec)
        #expect(view.payload == theirs.payload)
        // To a v0.14 server only the envelope counts: it must be theirs, byte for byte.
        if theirs.codec == .protoRPC { #expect(ours.message.body == message.body) }
      }
    }
  }

  @Test("every request reads the same when it comes in two pieces", arguments: PacketCapture.all)
  func requestsCut(_ capture: PacketCapture) throws {
    for connection in capture.connections {
      let whole = try Wire.messages(.server, connection.client).map { try Decoded($0).view }
      for cut in 1..<connection.client.count {
        let pieces = try Wire.messages(.server, connection.client, cut: cut).map { try Decoded($0).view }
        #expect(pieces == whole, "cut at \(cut)")
      }
    }
  }

  @Test("every reply reads the same when it comes in two pieces", arguments: PacketCapture.all)
  func repliesCut(_ capture: PacketCapture) throws {
    for connection in capture.connections where !connection.server.isEmpty {
      let request = try #require(try Wire.messages(.server, connection.client).first)
      let codec = try Decoded(request).view.codec
      let whole = try Wire.messages(.client, connection.server).map { ReplyView($0, codec: codec) }
      for cut in 1..<connection.server.count {
        let pieces = try Wire.messages(.client, connection.server, cut: cut).map { ReplyView($0, codec: codec) }
        #expect(pieces == whole, "cut at \(cut)")
      }
    }
  }

  @Test("an envelope cut short is refused, never read as a shorter message", arguments: PacketCapture.all)
  func envelopesCutShort(_ capture: PacketCapture) throws {
    for connection in capture.connections {
      for message in try Wire.messages(.server, connection.client) where try Decoded(message).request.codec.isEnvelope {
        // The line end behind a JSON-RPC document is not part of it.
        let needed = message.body.last == 10 ? message.body.count - 1 : message.body.count
        for count in 0..<needed {
          let short = RecordedMessage(head: message.head, body: Array(message.body.prefix(count)), wire: [])
          let refusal = #expect(throws: FrameRefusal.self) { try Decoded(short) }
          #expect(refusal?.reason == .malformed && refusal?.closes == (capture.version == "v014"))
        }
      }
    }
  }
}
