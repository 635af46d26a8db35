// Every recorded stream over the HTTP transport, replayed in both roles, whole and cut at every byte.

import Foundation
import Testing

@testable import SidecarCore

/// What a stream's caller sent, and the opening message to form answers to.
struct DecodedStream {
  enum Message: Equatable { case opening, message([UInt8]), end }
  let opening: Decoded
  var messages: [Message] = []

  init(_ recorded: [RecordedMessage]) throws {
    let first = try #require(recorded.first)
    opening = try Decoded(first)
    messages.append(FrameServer.openingIsMessage(opening.request) ? .message(opening.view.payload) : .opening)
    for message in recorded.dropFirst() { messages.append(try next(message)) }
  }

  func next(_ message: RecordedMessage) throws -> Message {
    defer { #expect(opening.notes.count < 4096, "a long stream must not fill the notes") }
    return try withBytes(message.body) { body in
      switch try FrameServer.decodeStreamMessage(
        head: message.head, body: body, opening: opening.request, notes: opening.notes)
      {
      case .message(let payload): .message(Array(payload))
      case .endOfStream: .end
      }
    }
  }

  func sent(_ payload: [UInt8]) throws -> RecordedMessage {
    let buffer = ByteBuffer()
    try withBytes(payload) {
      try FrameServer.encodeStreamMessage(
        to: opening.request, notes: opening.notes, payload: $0, into: buffer)
    }
    return try Wire.message(.client, buffer)
  }

  func end() throws -> RecordedMessage {
    let buffer = ByteBuffer()
    FrameServer.encodeEndOfStream(to: opening.request, notes: opening.notes, into: buffer)
    return try Wire.message(.client, buffer)
  }
}

/// The client side of one stream, as the sidecar writes it.
struct EncodedStream {
  var stream: FrameStream
  var service: String
  var endpoint: String

  func write(
    _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer, UnsafeRawBufferPointer, ByteBuffer) throws -> Void
  ) throws -> RecordedMessage? {
    let buffer = ByteBuffer()
    let routing = ByteBuffer()
    try withBytes(service) { service in
      try withBytes(endpoint) { endpoint in
        FrameClient.appendRouting(
          service: service, endpoint: endpoint, from: UnsafeRawBufferPointer(start: nil, count: 0), into: routing)
        try withBytes("127.0.0.1:9014") { try body($0, routing.bytes, endpoint, buffer) }
      }
    }
    return buffer.isEmpty ? nil : try Wire.message(.server, buffer)
  }

  func opening(metadata: String = "") throws -> RecordedMessage {
    try #require(
      try write { host, routing, endpoint, buffer in
        FrameClient.encodeStreamOpening(
          stream, host: host, routing: routing, endpoint: endpoint, into: buffer, metadata: { $0.append(metadata) })
      })
  }

  func message(_ payload: [UInt8]) throws -> RecordedMessage {
    try #require(
      try write { host, routing, endpoint, buffer in
        try withBytes(payload) {
          try FrameClient.encodeStreamMessage(
            stream, host: host, routing: routing, endpoint: endpoint, payload: $0, into: buffer)
        }
      })
  }

  func end() throws -> (how: FrameStreamEnd, message: RecordedMessage?) {
    var how = FrameStreamEnd.message
    let message = try write { host, routing, endpoint, buffer in
      how = FrameClient.encodeEndOfStream(stream, host: host, routing: routing, endpoint: endpoint, into: buffer)
    }
    return (how, message)
  }
}

@Suite("Recorded streams, replayed")
struct StreamReplayTests {
  static func endpoint(_ capture: PacketCapture) -> String {
    capture.scenario == "bidi" ? "Hello.PingPong" : "Hello.Stream"
  }

  static func protobuf(_ text: String, _ rest: [UInt8] = []) -> [UInt8] {
    [0x0A, UInt8(text.utf8.count)] + Array(text.utf8) + rest
  }

  /// What the Go client was told to send.
  static func sent(_ capture: PacketCapture) -> [[UInt8]] {
    switch (capture.scenario, capture.isJSON) {
    case ("bidi", true): ["a", "b", "bye"].map { Array("{\"name\":\"\($0)\"}".utf8) }
    case ("bidi", false): ["a", "b", "bye"].map { protobuf($0) }
    case ("stream", true): [Array(#"{"name":"S","count":3,"ms":50}"#.utf8)]
    case ("stream", false): [protobuf("S", [0x10, 3, 0x18, 50])]
    case (_, true): [Array(#"{"name":"fail","count":2,"ms":50}"#.utf8)]
    case (_, false): [protobuf("fail", [0x10, 2, 0x18, 50])]
    }
  }

  /// What the Go server answered, as the Go client printed it.
  static func answered(_ capture: PacketCapture) -> [ReplyView] {
    let output = capture.notes["client-output"] ?? ""
    var views: [ReplyView] = []
    for part in output.components(separatedBy: "RECV ").dropFirst() {
      let text = part.split(separator: " ERR ")[0].replacingOccurrences(of: " EOF", with: "")
      let json = text.trimmingCharacters(in: .whitespaces)
      let words = json.split(whereSeparator: { "\":,}".contains($0) })
      let seq = UInt8(words[words.count - 1]) ?? 0
      views.append(
        capture.isJSON
          ? .payload(Array(json.utf8), .json) : .payload(protobuf(String(words[2]), [0x10, seq]), .protobuf))
    }
    if let error = output.range(of: "ERR type=client.serverError ") {
      views.append(.error(String(output[error.upperBound...])))
    } else {
      views.append(.endOfStream)
    }
    return views
  }

  @Test("all are there")
  func present() {
    #expect(PacketCapture.streams.count == 45)
    #expect(PacketCapture.streams.allSatisfy { $0.connections.count == 1 })
  }

  @Test("a server reads the opening, the messages and the end", arguments: PacketCapture.streams)
  func decodesCallers(_ capture: PacketCapture) throws {
    let recorded = try Wire.messages(.server, capture.connections[0].client)
    let stream = try DecodedStream(recorded)
    #expect(stream.opening.view.endpoint == Self.endpoint(capture))
    #expect(stream.opening.view.kind == .call)
    #expect(stream.opening.view.stream == (capture.version == "v014" ? "" : "0"))
    let line = stream.opening.view.codec == .json ? [10 as UInt8] : []
    var expected = [DecodedStream.Message.opening] + Self.sent(capture).map { .message($0 + line) }
    // In gRPC's frames the opening message counts, and the Go client sends the first twice.
    if capture.isGRPC { expected[0] = expected[1] }
    // v0.14 only closes; v1.18 does so with gRPC's frames when the server has closed first, in the midst of its end.
    if capture.version != "v014", recorded.last?.header(.microError) == "EOS" { expected.append(.end) }
    #expect(stream.messages == expected)
  }

  @Test("a client reads the messages and the end or the error", arguments: PacketCapture.streams)
  func decodesServers(_ capture: PacketCapture) throws {
    let connection = capture.connections[0]
    let codec = try DecodedStream(Wire.messages(.server, connection.client)).opening.request.codec
    let replies = try Wire.messages(.client, connection.server).map { ReplyView($0, codec: codec) }
    let answered = Self.answered(capture)
    guard capture.isGRPC, capture.scenario == "bidi" else {
      #expect(replies == answered)
      return
    }
    // The opening message was answered too, so that the program saw one reply and the end no more.
    #expect(replies.count == answered.count + 1 && replies.last == .endOfStream)
    #expect(replies.starts(with: answered.dropLast()))
  }

  @Test("our messages to a caller say what theirs said", arguments: PacketCapture.streams)
  func answersAlike(_ capture: PacketCapture) throws {
    let connection = capture.connections[0]
    let stream = try DecodedStream(Wire.messages(.server, connection.client))
    let codec = stream.opening.request.codec
    for theirs in try Wire.messages(.client, connection.server) {
      let view = ReplyView(theirs, codec: codec)
      let ours: RecordedMessage
      switch view {
      case .payload(let payload, _):
        ours = try stream.sent(payload)
        // A 1.x server leaves the method out of its proto-rpc header; v0.14 and we repeat it.
        if codec != .protoRPC || capture.version == "v014" { #expect(ours.body == theirs.body) }
        #expect(ours.header(.microError) == nil && ours.header(.xMicroError) == nil)
      case .endOfStream:
        ours = try stream.end()
        #expect(ours.header(.microError) == "EOS" && ours.header(.xMicroError) == "EOS")
        if codec == .protoRPC, capture.version == "v014" { #expect(ours.body == theirs.body) }
        if !codec.isEnvelope { #expect(ours.body.isEmpty && theirs.body.isEmpty) }
      case .error(let text):
        ours = try stream.opening.failure(text)
        #expect(ours.header(.microError) == text)
      case .fault(let kind): throw CaptureError(description: "\(kind)")
      }
      #expect(ReplyView(ours, codec: codec) == view)
      #expect(ours.header(.contentType) == theirs.header(.contentType))
      #expect(ours.header(.contentLength) == "\(ours.body.count)")
    }
  }

  @Test("our stream is the same to a server as theirs", arguments: PacketCapture.streams)
  func callsAlike(_ capture: PacketCapture) throws {
    let recorded = try Wire.messages(.server, capture.connections[0].client)
    let theirs = try DecodedStream(recorded)
    let node: NodeDialect = capture.version == "v014" ? NodeDialect(metadata: ["server": "rpc"]) : .explicitAddress
    let codec = theirs.opening.request.codec
    let ours = EncodedStream(
      stream: FrameStream(id: 0, node: node, format: codec.format, codec: codec),
      service: capture.option("-s") ?? "", endpoint: Self.endpoint(capture))
    let opening = try ours.opening()
    let server = try DecodedStream([opening])
    #expect(server.opening.view.codec == codec && server.opening.view.endpoint == Self.endpoint(capture))
    #expect(server.opening.view.timeout == nil, "nobody gave a deadline")
    for (message, theirMessage) in zip(theirs.messages, recorded).dropFirst() {
      switch message {
      case .message(let payload):
        let written = try ours.message(payload)
        #expect(try server.next(written) == message)
        if written.header(.contentType) == theirMessage.header(.contentType) {
          #expect(try theirs.next(written) == message, "ours would pass in their stream")
        }
        // To a v0.14 server only the envelope counts: it must be theirs, byte for byte.
        if codec.isEnvelope, codec != .jsonRPC || capture.version == "v014" {
          #expect(written.body == theirMessage.body)
        }
        #expect(written.header(.microID) == "0")
        #expect(written.header(.microStream) == (capture.version == "v014" ? nil : "0"))
      case .end:
        let end = try ours.end()
        let written = try #require(end.message)
        #expect(end.how == .message)
        if written.header(.contentType) == theirMessage.header(.contentType) {
          #expect(try theirs.next(written) == .end)
        }
        #expect(written.body == theirMessage.body, "also in the envelope")
        #expect(written.header(.microError) == "EOS")
      case .opening: throw CaptureError(description: "only the first opens")
      }
    }
    if capture.version == "v014" {
      let end = try ours.end()
      #expect(end.how == .closeWrites && end.message == nil)
    }
  }

  @Test("both directions read the same when they come in two pieces", arguments: PacketCapture.streams)
  func cut(_ capture: PacketCapture) throws {
    let connection = capture.connections[0]
    let whole = try DecodedStream(Wire.messages(.server, connection.client))
    for cut in 1..<connection.client.count {
      let pieces = try DecodedStream(Wire.messages(.server, connection.client, cut: cut))
      #expect(pieces.messages == whole.messages, "cut at \(cut)")
    }
    let codec = whole.opening.request.codec
    let replies = try Wire.messages(.client, connection.server).map { ReplyView($0, codec: codec) }
    for cut in 1..<connection.server.count {
      let pieces = try Wire.messages(.client, connection.server, cut: cut).map { ReplyView($0, codec: codec) }
      #expect(pieces == replies, "cut at \(cut)")
    }
  }
}

@Suite("Stream messages")
struct StreamMessageTests {
  static let modern = EncodedStream(
    stream: FrameStream(id: 7, node: .explicitAddress, format: .json), service: "chat", endpoint: "Chat.Talk")

  @Test("each generation of nodes gets the codec that loses nothing there")
  func codecs() {
    let legacy = NodeDialect(metadata: [:])
    let modern = NodeDialect.explicitAddress
    #expect(FrameClient.streamCodec(for: .json, to: modern) == .json)
    #expect(FrameClient.streamCodec(for: .protobuf, to: modern) == .protobuf)
    #expect(FrameClient.streamCodec(for: .bytes, to: modern) == .bytes)
    #expect(FrameClient.streamCodec(for: .json, to: legacy) == .jsonRPC)
    #expect(FrameClient.streamCodec(for: .protobuf, to: legacy) == .protoRPC)
    #expect(FrameClient.streamCodec(for: .bytes, to: legacy) == .protoRPC)
  }

  @Test("a deadline goes along when the caller gave one, metadata with the opening only")
  func headers() throws {
    var stream = Self.modern
    let opening = try stream.opening(metadata: "Trace: 1\r\n")
    #expect(opening.header(.timeout) == nil)
    #expect(String(decoding: opening.head.bytes, as: UTF8.self).contains("Trace: 1\r\n"))
    stream.stream.timeoutNanoseconds = 1_500_000_000
    #expect(try stream.opening().header(.timeout) == "1500000000")
    stream.stream.timeoutNanoseconds = -5
    #expect(try stream.message([]).header(.timeout) == "1", "over, but still a number")
  }

  @Test("a message of another stream is refused, and so is another content type")
  func foreign() throws {
    let server = try DecodedStream([Self.modern.opening()])
    var other = Self.modern
    other.stream.id = 8
    let foreign = try other.message(Array("{}".utf8))
    #expect(throws: FrameRefusal.self) { try server.next(foreign) }
    other = Self.modern
    other.stream.codec = .jsonRPC
    let changed = try other.message(Array("{}".utf8))
    #expect(throws: FrameRefusal.self) { try server.next(changed) }
  }

  @Test("an empty envelope is refused, unless a header says that it is the end")
  func emptyEnvelope() throws {
    var stream = Self.modern
    stream.stream.codec = .protoRPC
    let server = try DecodedStream([stream.opening()])
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/proto-rpc\r\nMicro-Stream: 7\r\n"
    let bare = try Wire.messages(.server, Array("\(head)Content-Length: 0\r\n\r\n".utf8))[0]
    #expect(throws: FrameRefusal.self) { try server.next(bare) }
    let end = try Wire.messages(.server, Array("\(head)Micro-Error: EOS\r\nContent-Length: 0\r\n\r\n".utf8))[0]
    #expect(try server.next(end) == .end)
  }

  @Test("the end is asked for with a call that no service has, and its refusal is known")
  func probe() throws {
    let buffer = ByteBuffer()
    withBytes("127.0.0.1:1") { host in
      withBytes("chat") { FrameClient.encodeEndProbe(Self.modern.stream, host: host, service: $0, into: buffer) }
    }
    let message = try Wire.message(.server, buffer)
    #expect(message.header(.microStream) == "7" && message.header(.microError) == nil)
    let endpoint = try #require(message.header(.microEndpoint))
    let handler = endpoint.prefix { $0 != "." }
    func isAnswer(_ text: String) -> Bool {
      withBytes(text) { FrameClient.isEndProbeAnswer(SidecarError(upstreamText: $0)) }
    }
    #expect(isAnswer("rpc: can't find service \(handler)"))
    #expect(!isAnswer("rpc: can't find service Chat"))
    #expect(!isAnswer(#"{"id":"x","code":500,"detail":"MicroSidecar"}"#))
  }
}
