// Decoded requests and replies as values that can be compared and printed.

import Foundation
import Testing

@testable import SidecarCore

/// What a request means.
struct CallView: Equatable, CustomStringConvertible {
  var dialect: FrameDialect
  var kind: FrameKind
  var codec: FrameCodec
  var contentType: FrameContentType
  var service: String
  var endpoint: String
  var topic: String
  var id: String
  var rawJSONID: String
  var stream: String
  var seq: UInt64
  var payload: [UInt8]
  var timeout: Int64?

  init(_ request: FrameRequest, notes: ByteBuffer, body: [UInt8]) {
    func text(_ range: Range<Int>) -> String { String(decoding: notes.bytes(range), as: UTF8.self) }
    dialect = request.dialect
    kind = request.kind
    codec = request.codec
    contentType = request.contentType
    service = text(request.service)
    endpoint = text(request.endpoint)
    topic = text(request.topic)
    id = text(request.id)
    rawJSONID = text(request.rawJSONID)
    stream = text(request.stream)
    seq = request.seq
    payload = withBytes(body) { Array(request.payload($0, notes)) }
    timeout = request.timeoutNanoseconds
  }

  var description: String {
    "\(dialect) \(kind) \(codec) \(service) \(endpoint) id=\(id)/\(rawJSONID)/\(seq) stream=\(stream) \(payload)"
  }
}

/// A decoded request with its notes, to form replies with.
struct Decoded {
  var request: FrameRequest
  var notes: ByteBuffer
  var view: CallView

  init(_ message: RecordedMessage) throws(FrameRefusal) {
    let notes = ByteBuffer()
    let result = withBytes(message.body) { body in
      Result { () throws(FrameRefusal) in
        try FrameServer.decodeRequest(head: message.head, body: body, notes: notes)
      }
    }
    request = try result.get()
    self.notes = notes
    view = CallView(request, notes: notes, body: message.body)
  }

  init(_ text: String, body: [UInt8] = []) throws {
    let head = text.replacingOccurrences(of: "\n", with: "\r\n")
    let wire = Array("POST / HTTP/1.1\r\nHost: h\r\n\(head)\r\nContent-Length: \(body.count)\r\n\r\n".utf8) + body
    try self.init(Wire.messages(.server, wire)[0])
  }

  func reply(_ payload: [UInt8]) throws -> RecordedMessage {
    let buffer = ByteBuffer()
    try withBytes(payload) { try FrameServer.encodeReply(to: request, notes: notes, payload: $0, into: buffer) }
    return try Wire.message(.client, buffer)
  }

  func failure(_ text: [UInt8]) throws -> RecordedMessage {
    let buffer = ByteBuffer()
    withBytes(text) { FrameServer.encodeReplyError(to: request, notes: notes, text: $0, into: buffer) }
    return try Wire.message(.client, buffer)
  }
  func failure(_ text: String) throws -> RecordedMessage { try failure(Array(text.utf8)) }
}

/// What a reply means.
enum ReplyView: Equatable {
  case payload([UInt8], PayloadFormat)
  /// The service's own words.
  case error(String)
  case endOfStream
  /// Ours, about the node.
  case fault(SidecarError.Kind)

  init(_ message: RecordedMessage, codec: FrameCodec) {
    let reply = withBytes(message.body) { FrameClient.decodeReply(head: message.head, body: $0, codec: codec) }
    switch reply {
    case .payload(let range, let format): self = .payload(Array(message.body[range]), format)
    case .translated(let json): self = .payload(Array(json.bytes), .json)
    case .endOfStream: self = .endOfStream
    case .failed(let error):
      self = error.upstreamText.map { .error(String(decoding: $0, as: UTF8.self)) } ?? .fault(error.kind)
    }
  }

  init(_ head: String, body: [UInt8], codec: FrameCodec, status: String = "200 OK") throws {
    let lines = head.isEmpty ? "" : head.replacingOccurrences(of: "\n", with: "\r\n") + "\r\n"
    let wire = Array("HTTP/1.1 \(status)\r\n\(lines)Content-Length: \(body.count)\r\n\r\n".utf8) + body
    self.init(try Wire.messages(.client, wire)[0], codec: codec)
  }
}

/// Encodes a call the way the sidecar does.
func encodeCall(
  _ node: NodeDialect, format: PayloadFormat, codec: FrameCodec? = nil, service: String = "hello",
  endpoint: String = "Hello.Ping", from caller: String = "", payload: [UInt8], timeout: Int64 = 5_000_000_000,
  id: UInt64 = 7, metadata: (ByteBuffer) -> Void = { _ in }
) throws -> (message: RecordedMessage, codec: FrameCodec) {
  let buffer = ByteBuffer()
  let call = FrameCall(id: id, node: node, format: format, codec: codec, timeoutNanoseconds: timeout)
  let used = try withBytes("127.0.0.1:9014") { host in
    try withBytes(service) { service in
      try withBytes(endpoint) { endpoint in
        try withBytes(caller) { caller in
          try withBytes(payload) { payload in
            try FrameClient.encodeRequest(
              call, host: host, service: service, endpoint: endpoint, from: caller, payload: payload, into: buffer,
              metadata: metadata)
          }
        }
      }
    }
  }
  return (try Wire.message(.server, buffer), used)
}
