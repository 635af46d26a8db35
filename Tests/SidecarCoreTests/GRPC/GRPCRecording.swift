// What is in a recording of HTTP/2: streams with their heads and messages, read by our own sessions.

import Foundation
import Testing

@testable import SidecarCore

/// What one side said in one stream.
struct RecordedStream: Equatable {
  var head: [String: String] = [:]
  var format: PayloadFormat?
  var messages: [[UInt8]] = []
  var hasEnded = false
  /// How the answer ended, nil while it has not; the inner nil is OK.
  var outcome: GRPCFailure??
  var reset: HTTP2ErrorCode?
}

/// Reads one direction of a recorded connection.
final class RecordingReader: HTTP2SessionHandler, HTTP2StreamHandler {
  private let session: HTTP2Session
  private var readers: [Int32: GRPCMessageReader] = [:]
  private(set) var streams: [Int32: RecordedStream] = [:]
  private(set) var hasFailed = false

  /// `opened`: streams that a client has opened before it reads the answers.
  init(_ role: HTTP2Session.Role, opened: Int = 0) {
    session = HTTP2Session(role, buffers: BufferPool(), now: Instant(nanoseconds: 0))
    session.handler = self
    for _ in 0..<opened {
      let list = session.takeList()
      list.append(":method", "POST")
      list.append(":scheme", "http")
      list.append(":path", "/a.B/C")
      guard let stream = session.request(list, ends: false, handler: self) else { continue }
      begin(stream, RecordedStream())
    }
    flush()
  }

  deinit { session.connectionLost() }

  private func begin(_ stream: HTTP2Stream, _ recorded: RecordedStream) {
    streams[stream.id] = recorded
    readers[stream.id] = GRPCMessageReader(limit: 1 << 22, buffers: BufferPool())
  }

  private func flush() {
    let out = ByteBuffer()
    while session.flush(into: out) {}
    session.settle()
  }

  func read(_ bytes: ArraySlice<UInt8>) {
    bytes.withUnsafeBytes { session.receive($0, now: Instant(nanoseconds: 1)) }
    flush()
    hasFailed = session.isOver
  }

  /// The streams in `bytes`, in order, which are read in two pieces.
  static func streams(_ role: HTTP2Session.Role, _ bytes: [UInt8], opened: Int = 0, cut: Int = 0) -> [RecordedStream] {
    let reader = RecordingReader(role, opened: opened)
    if cut > 0 { reader.read(bytes[..<cut]) }
    reader.read(bytes[cut...])
    #expect(!reader.hasFailed)
    return reader.streams.sorted { $0.key < $1.key }.map(\.value)
  }

  private func fields(_ fields: HTTP2Fields) -> [String: String] {
    var found: [String: String] = [:]
    for index in 0..<fields.count {
      found[String(decoding: fields.name(index), as: UTF8.self)] = String(decoding: fields.value(index), as: UTF8.self)
    }
    return found
  }

  func http2Session(_ session: HTTP2Session, opened stream: HTTP2Stream, _ head: HTTP2Fields, ends: Bool)
    -> (any HTTP2StreamHandler)?
  {
    begin(stream, RecordedStream(head: fields(head), format: GRPCMetadata.format(head)))
    return self
  }
  func http2SessionSettingsChanged(_ session: HTTP2Session) {}
  func http2Session(_ session: HTTP2Session, peerLeaves lastStreamID: Int32, _ code: HTTP2ErrorCode) {}
  func http2SessionPingAnswered(_ session: HTTP2Session, _ opaque: UInt64) {}
  func http2SessionWantsFlush(_ session: HTTP2Session) {}

  func http2Stream(_ stream: HTTP2Stream, received fields: HTTP2Fields, kind: HTTP2Stream.HeadKind) {
    if kind == .final { streams[stream.id]?.head = self.fields(fields) }
    if kind == .trailers || fields.first("grpc-status") != nil {
      streams[stream.id]?.outcome = .some(GRPCTrailers.failure(fields))
    }
  }
  func http2Stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {
    var input = bytes
    while case .message(let message)? = try? readers[stream.id]?.next(&input) {
      streams[stream.id]?.messages.append(Array(message))
    }
    stream.consumed(bytes.count)
  }
  func http2StreamEnded(_ stream: HTTP2Stream) { streams[stream.id]?.hasEnded = true }
  func http2StreamDrained(_ stream: HTTP2Stream) {}
  func http2StreamClosed(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {
    if code != .noError { streams[stream.id]?.reset = code }
  }
}

/// HTTP/2 as frames, for peers that play a recording.
struct RecordedFrame {
  var bytes: ArraySlice<UInt8>
  var type: UInt8 { bytes[bytes.startIndex + 3] }
  var flags: UInt8 { bytes[bytes.startIndex + 4] }
  var stream: Int { bytes[(bytes.startIndex + 5)..<(bytes.startIndex + 9)].reduce(0) { $0 << 8 | Int($1) } }
  var opensStream: Bool { type == 1 }

  static let preface = 24

  /// The whole frames at the front of `bytes`, and how many bytes they are.
  static func split(_ bytes: ArraySlice<UInt8>) -> (frames: [RecordedFrame], count: Int) {
    var frames: [RecordedFrame] = []
    var start = bytes.startIndex
    while bytes.endIndex - start >= 9 {
      let length = bytes[start..<start + 3].reduce(0) { $0 << 8 | Int($1) }
      guard bytes.endIndex - start >= 9 + length else { break }
      frames.append(RecordedFrame(bytes: bytes[start..<start + 9 + length]))
      start += 9 + length
    }
    return (frames, start - bytes.startIndex)
  }
}

/// What the Go client was told to send and what it printed, from the head of a recording.
struct RecordingNotes {
  /// `name`, `count` and `ms`, or `msg` and `seq`, as far as they are set.
  typealias Message = [String]

  let endpoint: String
  let isJSON: Bool
  let isTransport: Bool
  var requests: [Message]
  var replies: [Message]
  /// The words of the error.
  let failure: String?

  init(_ capture: PacketCapture) {
    endpoint = capture.option("-m") ?? "Hello.Ping"
    isJSON = capture.isJSON
    isTransport = capture.name.contains("transport")
    let given = (capture.notes["command"] ?? "").split(separator: " -d ").dropFirst().first ?? "{\"name\":\"World\"}"
    let documents = given.split(separator: " ")[0].split(separator: ";").map(String.init)
    let count = Int(capture.option("-n") ?? "1") ?? 1
    requests = Array(repeating: documents, count: count).flatMap { $0 }.map(Self.values)
    let output = capture.notes["client-output"] ?? ""
    replies = output.components(separatedBy: "{\"msg\"").dropFirst().map { rest in
      Self.values("{\"msg\"" + rest.prefix { $0 != "}" } + "}")
    }
    failure = output.range(of: "ERR ").map { String(output[$0.upperBound...]) }
  }

  /// The values of a flat JSON document, numbers and numbers in strings alike.
  static func values(_ json: String) -> Message {
    guard let members = try? JSONValue(parsing: json).objectValue else { return [json] }
    return members.compactMap { $0.value.stringValue ?? $0.value.numberText }
  }

  static func values(_ message: [UInt8], isJSON: Bool) throws -> Message {
    if isJSON { return values(String(decoding: message, as: UTF8.self)) }
    return try message.withUnsafeBytes { all in
      var reader = ProtobufReader(all, 0..<all.count)
      var found: Message = []
      while let field = try reader.next() {
        switch field.value {
        case .bytes(let range): found.append(String(decoding: all[range], as: UTF8.self))
        case .varint(let number), .fixed64(let number): found.append("\(number)")
        case .fixed32(let number): found.append("\(number)")
        }
      }
      return found
    }
  }
}
