// A whole worker between a recorded client and a recorded server: it takes the client's bytes, calls the server, and what
// it answers must mean what the server's bytes mean. HTTP/2 on both sides, virtual time.

import SidecarSim
import Testing

@testable import SidecarCore

/// Plays what a recorded server sent: each stream's frames once that stream has been opened.
private final class RecordedServer {
  /// One for each connection of the recording.
  private let scripts: [[RecordedFrame]]
  private var listener: Listener?
  private var acceptedCount = 0

  init(on driver: any Driver, at address: SocketAddress, playing scripts: [[UInt8]]) throws {
    self.scripts = scripts.map { RecordedFrame.split($0[...]).frames }
    listener = try driver.listen(on: address, sharedPort: false) { [self] stream in
      stream.handler = Connection(self.scripts[min(acceptedCount, self.scripts.count - 1)], stream)
      acceptedCount += 1
    }
  }

  private final class Connection: StreamHandler {
    private var script: ArraySlice<RecordedFrame>
    private var input: [UInt8] = []
    private var read = 0
    private var opened = 0

    init(_ script: [RecordedFrame], _ stream: ByteStream) {
      self.script = script[...]
      // SETTINGS, without which nobody begins.
      if let first = self.script.popFirst() { stream.write(Array(first.bytes)) }
    }

    func streamOpened(_ stream: ByteStream) {}
    func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
      input += bytes
      if read == 0, input.count >= RecordedFrame.preface { read = RecordedFrame.preface }
      let (frames, count) = RecordedFrame.split(input[read...])
      read += count
      opened += frames.count(where: \.opensStream)
      while let frame = script.first, frame.stream == 0 ? read > 0 : frame.stream <= opened * 2 - 1 {
        stream.write(Array(frame.bytes))
        script.removeFirst()
      }
    }
    func streamEnded(_ stream: ByteStream) { stream.close() }
    func streamDrained(_ stream: ByteStream) {}
    func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {}
  }
}

@Suite("Recorded gRPC through a worker")
struct GRPCRelayTests {
  /// The client's bytes, without its resets: it sends them when it has heard enough, and here that is not known in advance.
  static func script(_ client: [UInt8]) -> [UInt8] {
    let frames = RecordedFrame.split(client[RecordedFrame.preface...]).frames.filter { $0.type != 3 }
    return client[..<RecordedFrame.preface] + frames.flatMap(\.bytes)
  }

  @Test("the answer means what the recorded server's meant", arguments: PacketCapture.grpc)
  func relays(_ capture: PacketCapture) throws {
    guard capture.version != "v014" else { return }
    for connection in capture.connections {
      let rig = try DataPathWorld { $0.appProtocol = .grpc }
      let server = try RecordedServer(
        on: rig.app, at: rig.app.host.address(port: DataPathWorld.appPort), playing: [connection.server])
      defer { _ = server }
      let count = RecordingReader.streams(.server, connection.client).count
      let theirs = RecordingReader.streams(.client, connection.server, opened: count)
      let client = ScriptedClient(on: rig.app, to: rig.framework).send(Self.script(connection.client)).start()
      rig.run(.seconds(8))
      let ours = RecordingReader.streams(.client, client.received, opened: count)
      #expect(ours.count == count)
      for (our, their) in zip(ours, theirs) {
        #expect(our.messages == their.messages)
        let outcome = try #require(our.outcome, "the call ends")
        switch capture.scenario {
        case "err-timeout": #expect(outcome?.status == GRPCStatus.deadlineExceeded.rawValue)
        case "err-panic" where capture.version == "v014grpc": #expect(outcome != nil)
        default: #expect(outcome == their.outcome)
        }
        #expect(our.head["content-type"]?.hasPrefix("application/grpc") == true)
      }
    }
  }

  @Test(
    "a recorded server of the transport answers our calls",
    arguments: PacketCapture.grpc.filter { $0.version == "v014" && $0.option("-mode") == nil })
  func callsTransport(_ capture: PacketCapture) throws {
    let notes = RecordingNotes(capture)
    let rig = try DataPathWorld()
    let loop = rig.world.makeHost("node").makeLoop()
    let address = loop.host.address(port: 5000)
    let server = try RecordedServer(on: loop, at: address, playing: capture.connections.map(\.server))
    defer { _ = server }
    rig.register("go.micro.srv.hello", at: [address], metadata: ["transport": "grpc", "server": "rpc"])
    let type = notes.isJSON ? "application/json" : "application/protobuf"
    let reply = try rig.ask(Ask.post("/hello/hello/ping", notes.isJSON ? "{}" : "", type: type))
    if let failure = notes.failure {
      #expect(reply.status == 400 && failure.contains(reply.detail))
    } else {
      #expect(reply.status == 200)
      #expect(try RecordingNotes.values(Array(reply.body.utf8), isJSON: notes.isJSON) == notes.replies[0])
    }
    try rig.finish()
  }

  @Test(
    "a recorded client of the transport gets what its server gave",
    arguments: PacketCapture.grpc.filter { $0.version == "v014" && $0.option("-mode") == nil })
  func servesTransport(_ capture: PacketCapture) throws {
    let notes = RecordingNotes(capture)
    let connection = capture.connections[0]
    let rig = try DataPathWorld()
    _ = try rig.startApp { request in
      guard request.target == "/Hello/Ping" else {
        let error = notes.failure.map { $0.drop { $0 != "{" } } ?? "{}"
        return .reply(String(error), status: 400, headers: [("Content-Type", "application/json")])
      }
      let body = notes.isJSON ? #"{"msg":"Hello World"}"# : "\u{0A}\u{0B}Hello World"
      let type = notes.isJSON ? "application/json" : "application/protobuf"
      return .reply(body, headers: [("Content-Type", type)])
    }
    let client = ScriptedClient(on: rig.app, to: rig.framework).send(Self.script(connection.client)).start()
    rig.run(.seconds(8))
    let codec = try #require(
      try GRPCReplayTests.frames(RecordingReader.streams(.server, connection.client)[0], .server).first.map {
        try Decoded($0)
      }
    ).request.codec
    func answers(_ bytes: [UInt8]) throws -> [ReplyView] {
      try GRPCReplayTests.frames(RecordingReader.streams(.client, bytes, opened: 1)[0], .client).map {
        ReplyView($0, codec: codec)
      }
    }
    let ours = try answers(client.received)
    let theirs = try answers(connection.server)
    #expect(ours.count == theirs.count)
    for (our, their) in zip(ours, theirs) {
      guard case .error(let our) = our, case .error(let their) = their else {
        #expect(our == their)
        continue
      }
      #expect(Bytes.of(our) { MicroError(parsing: $0) } == Bytes.of(their) { MicroError(parsing: $0) })
    }
  }
}
