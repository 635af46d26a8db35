// Every recorded gRPC session and every session of the gRPC transport, replayed in both roles, whole and cut at every byte.

import SidecarSim
import Testing

@testable import SidecarCore

@Suite("Recorded gRPC, replayed")
struct GRPCReplayTests {
  /// Recordings whose Go server died, and said nothing more.
  static func isCutShort(_ capture: PacketCapture) -> Bool {
    capture.name.hasPrefix("v014grpc-err-panic") || capture.scenario == "err-timeout"
  }

  /// Clients that send JSON and do not say so in the content type; only we understand them.
  static func hidesJSON(_ capture: PacketCapture) -> Bool {
    capture.isJSON
      && (capture.version == "v014grpc"
        || capture.version == "v118grpc" && ["bidi", "stream", "streamfail"].contains(capture.scenario))
  }

  static func read(_ capture: PacketCapture) -> (requests: [RecordedStream], replies: [RecordedStream]) {
    var requests: [RecordedStream] = []
    var replies: [RecordedStream] = []
    for connection in capture.connections {
      let asked = RecordingReader.streams(.server, connection.client)
      requests += asked
      replies += RecordingReader.streams(.client, connection.server, opened: asked.count)
    }
    return (requests, replies)
  }

  @Test("all are there")
  func present() {
    #expect(PacketCapture.grpc.count == 89)
    let versions = Set(PacketCapture.grpc.map(\.version))
    #expect(versions == ["v014", "v014grpc", "v118grpc", "v2grpc"])
  }

  @Test("a server reads path, format and messages", arguments: PacketCapture.grpc.filter { $0.version != "v014" })
  func readsCallers(_ capture: PacketCapture) throws {
    let notes = RecordingNotes(capture)
    let requests = Self.read(capture).requests
    var messages: [RecordingNotes.Message] = []
    for request in requests {
      let path = try #require(request.head[":path"])
      let endpoint = ByteBuffer()
      try Bytes.of(path) { try #require(GRPCPath($0)).appendEndpoint($0, to: endpoint) }
      #expect(String(decoding: endpoint.bytes, as: UTF8.self) == notes.endpoint)
      #expect(request.format == (notes.isJSON ? .json : .protobuf))
      #expect(request.head["timeout"] != nil || capture.version == "v2grpc")
      messages += try request.messages.map { try RecordingNotes.values($0, isJSON: notes.isJSON) }
    }
    // The Go client gives up a stream once the server has refused its first message.
    if Self.hidesJSON(capture), capture.scenario == "bidi" {
      #expect(notes.requests.starts(with: messages))
    } else if capture.scenario == "err-timeout" {
      #expect(messages == [["500"]])
    } else if !messages.isEmpty || !capture.scenario.hasPrefix("err-no") {
      #expect(messages == notes.requests)
    }
  }

  @Test("a client reads messages and the end", arguments: PacketCapture.grpc.filter { $0.version != "v014" })
  func readsServers(_ capture: PacketCapture) throws {
    let notes = RecordingNotes(capture)
    let (requests, replies) = Self.read(capture)
    #expect(replies.count == requests.count)
    let isRefused = Self.hidesJSON(capture)
    let messages = try replies.flatMap(\.messages).map { try RecordingNotes.values($0, isJSON: notes.isJSON) }
    if capture.scenario == "meta" {
      #expect(messages.count == 1 && messages[0].first == "Hello World")
    } else {
      #expect(messages == notes.replies)
    }
    for reply in replies {
      guard !Self.isCutShort(capture) else { continue }
      let outcome = try #require(reply.outcome, "the call has an end")
      #expect((outcome == nil) == (notes.failure == nil))
      guard let failure = outcome else { continue }
      let error = SidecarError(failure)
      if isRefused {
        #expect(failure.status == GRPCStatus.internal.rawValue || capture.scenario.hasPrefix("err-no"))
      } else if capture.scenario == "err-badrequest" || capture.scenario == "streamfail" {
        #expect(error.code == 400 && error.microError.isStructured)
        #expect(notes.failure?.contains(error.detail) == true)
      } else if capture.scenario.hasPrefix("err-no") {
        #expect(error.kind == .endpointNotFound)
      } else {
        #expect(notes.failure?.contains(error.detail) == true)
      }
    }
  }

  @Test("both directions read the same when they come in two pieces", arguments: PacketCapture.grpc)
  func cut(_ capture: PacketCapture) throws {
    for connection in capture.connections {
      let requests = RecordingReader.streams(.server, connection.client)
      for cut in 1..<connection.client.count {
        #expect(RecordingReader.streams(.server, connection.client, cut: cut) == requests, "cut at \(cut)")
      }
      let replies = RecordingReader.streams(.client, connection.server, opened: requests.count)
      for cut in 1..<connection.server.count {
        let pieces = RecordingReader.streams(.client, connection.server, opened: requests.count, cut: cut)
        #expect(pieces == replies, "cut at \(cut)")
      }
    }
  }

  // MARK: The gRPC transport

  /// The messages of one side as the HTTP/1 messages they stand for.
  static func frames(_ stream: RecordedStream, _ role: HTTP1Parser.Role) throws -> [RecordedMessage] {
    let text = ByteBuffer()
    for message in stream.messages {
      try message.withUnsafeBytes { try TransportMessage.appendHTTP1($0, for: role, to: text) }
    }
    return try Wire.messages(role, Array(text.bytes))
  }

  @Test("the transport's messages are frames of v0.14", arguments: PacketCapture.grpc.filter { $0.version == "v014" })
  func transport(_ capture: PacketCapture) throws {
    let notes = RecordingNotes(capture)
    let (requests, replies) = Self.read(capture)
    let request = try #require(requests.first)
    #expect(requests.count == 1 && replies.count == 1)
    #expect(Bytes.of(request.head[":path"] ?? "") { TransportMessage.isPath($0) })
    let asked = try Self.frames(request, .server)
    let calls = try asked.map { try Decoded($0) }
    #expect(calls.allSatisfy { $0.view.endpoint == notes.endpoint && $0.view.dialect == .legacy })
    // The first message of a stream only opens it.
    let isStream = ["bidi", "stream"].contains(capture.option("-mode"))
    let payloads = calls.dropFirst(isStream ? 1 : 0).map(\.view.payload)
    #expect(try payloads.map { try RecordingNotes.values($0, isJSON: notes.isJSON) } == notes.requests)
    #expect(calls.allSatisfy { $0.view.timeout == 5_000_000_000 })
    let codec = try #require(calls.first).request.codec
    let answers = try Self.frames(#require(replies.first), .client).map { ReplyView($0, codec: codec) }
    let messages = try answers.compactMap { view in
      if case .payload(let bytes, _) = view { try RecordingNotes.values(bytes, isJSON: notes.isJSON) } else { nil }
    }
    #expect(messages == notes.replies)
    if let failure = notes.failure {
      guard case .error(let text) = answers.last else { throw CaptureError(description: "an error is missing") }
      #expect(failure.contains(text))
    } else if isStream, capture.scenario != "transport" || capture.option("-mode") == "stream" {
      #expect(answers.last == .endOfStream)
    }
    // What we write says the same, header by header, but for what only we add.
    for message in asked {
      let out = ByteBuffer()
      withBytes(message.body) { TransportMessage.append(message.head, $0, to: out) }
      let again = try Self.frames(RecordedStream(messages: [Array(out.bytes)]), .server)
      #expect(again.count == 1 && again[0].body == message.body)
      #expect(Set(headers(again[0])) == Set(headers(message)))
    }
  }

  private func headers(_ message: RecordedMessage) -> [String] {
    message.head.fields.map {
      "\(String(decoding: message.head.name($0), as: UTF8.self)): \(String(decoding: message.head.value($0), as: UTF8.self))"
    }.filter { !$0.hasPrefix("Host") }
  }
}
