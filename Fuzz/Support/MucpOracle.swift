// What must hold for the framework's dialects whatever the bytes are:
// - ranges lie within what they are ranges of, and a decoded call can be put into a header line;
// - a reply that is written is one HTTP message, and says to a client what it was written to say;
// - so does a request to a server.

import SidecarCore

enum MucpOracle {
  static var empty: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: nil, count: 0) }

  /// Parses bytes that must be exactly one message.
  static func readOne<R>(
    _ role: HTTP1Parser.Role, _ buffer: ByteBuffer, _ use: (HTTP1Head, UnsafeRawBufferPointer) -> R
  ) -> R {
    guard let result = read(role, buffer.bytes, mustBeWhole: true, use) else { fail("a written message is not one") }
    return result
  }

  /// Calls `use` with the first whole message in `bytes`, its body in memory of its own.
  static func read<R>(
    _ role: HTTP1Parser.Role, _ bytes: UnsafeRawBufferPointer, mustBeWhole: Bool = false,
    _ use: (HTTP1Head, UnsafeRawBufferPointer) -> R
  ) -> R? {
    var parser = HTTP1Parser(role)
    var rest = bytes
    var body: [UInt8] = []
    do throws(WireError) {
      while true {
        switch try parser.next(&rest) {
        case .needMore: return nil
        case .head: break
        case .body(let bytes): body += bytes
        case .end:
          if mustBeWhole, !rest.isEmpty { fail("bytes follow a written message") }
          var result: R?
          body.withUnsafeBytes { body in
            forEachPiece(body, cutAt: []) { body in
              result = use(parser.head, body)
              return true
            }
          }
          return result
        }
      }
    } catch {
      return nil
    }
  }

  // MARK: Server side

  static func checkServer(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer, text: UnsafeRawBufferPointer) {
    let notes = ByteBuffer()
    do throws(FrameRefusal) {
      let request = try FrameServer.decodeRequest(head: head, body: body, notes: notes)
      for range in [request.service, request.endpoint, request.topic, request.id, request.rawJSONID, request.stream] {
        if range.upperBound > notes.count { fail("a range leaves the notes") }
      }
      if request.payload.upperBound > (request.payloadIsInNotes ? notes.count : body.count) {
        fail("a payload leaves the body")
      }
      if let timeout = request.timeoutNanoseconds, !(0...FrameRequest.timeoutNanosecondsMax).contains(timeout) {
        fail("a timeout is out of bounds")
      }
      if request.kind == .call { checkEndpoint(notes.bytes(request.endpoint)) }
      let payload = ByteBuffer()
      payload.append(request.payload(body, notes))
      checkReply(request, notes, payload.bytes)
      checkFailure(request, notes, text)
    } catch {
      let buffer = ByteBuffer()
      FrameServer.encodeRefusal(error, notes: notes, into: buffer)
      readOne(.client, buffer) { head, _ in
        if head.status != 200 { fail("a refusal is no 200") }
        if error.closes == head.keepAlive { fail("a refusal says the wrong thing about its connection") }
      }
    }
  }

  private static func checkEndpoint(_ endpoint: UnsafeRawBufferPointer) {
    let dots = endpoint.count { $0 == UInt8(ascii: ".") }
    guard dots == 1, endpoint.count >= 3, !endpoint.contains(where: { $0 <= 0x20 || $0 == 0x7F }) else {
      fail("an ill-formed endpoint is accepted")
    }
  }

  private static func checkReply(_ request: FrameRequest, _ notes: ByteBuffer, _ payload: UnsafeRawBufferPointer) {
    let buffer = ByteBuffer()
    do throws(WireError) {
      try FrameServer.encodeReply(to: request, notes: notes, payload: payload, into: buffer)
    } catch {
      if !request.codec.isEnvelope || request.codec == .protoRPC || !buffer.isEmpty { fail("a reply is refused") }
      return
    }
    readOne(.client, buffer) { head, body in
      if request.kind == .event { return }
      switch FrameClient.decodeReply(head: head, body: body, codec: request.codec) {
      case .payload(let range, let format):
        if format != request.format { fail("a reply has another format") }
        let read = UnsafeRawBufferPointer(rebasing: body[range])
        if !means(read, payload, request.codec) { fail("a reply carries another payload") }
      case .translated(let json):
        if (try? JSONScanner.validate(json.bytes)) == nil { fail("a translated reply is not JSON") }
      case .endOfStream, .failed: fail("a reply reads as a failure")
      }
    }
  }

  /// Equal but for the line end of bare JSON, and for what JSON-RPC makes of empty and null results.
  private static func means(
    _ read: UnsafeRawBufferPointer, _ written: UnsafeRawBufferPointer, _ codec: FrameCodec
  ) -> Bool {
    switch codec {
    case .protobuf, .protoRPC, .bytes, .grpcFramed, .grpcFramedJSON, .mercury: return read.elementsEqual(written)
    case .msgpackRPC, .bsonRPC: return read.isEmpty
    case .json:
      var end = written.count
      while end > 0, written[end - 1] == 10 || written[end - 1] == 13 { end -= 1 }
      return read.elementsEqual(written[..<end])
    case .jsonRPC2:
      guard let range = try? JSONScanner.validate(written) else { return ASCIIText.equals(read, "{}") }
      let core = UnsafeRawBufferPointer(rebasing: written[range])
      return read.elementsEqual(core) || (ASCIIText.equals(core, "null") && read.isEmpty)
    case .jsonRPC:
      guard let range = try? JSONScanner.validate(written) else { return ASCIIText.equals(read, "{}") }
      let core = UnsafeRawBufferPointer(rebasing: written[range])
      return read.elementsEqual(core) || (ASCIIText.equals(core, "null") && ASCIIText.equals(read, "{}"))
    }
  }

  private static func checkFailure(_ request: FrameRequest, _ notes: ByteBuffer, _ text: UnsafeRawBufferPointer) {
    let buffer = ByteBuffer()
    FrameServer.encodeReplyError(to: request, notes: notes, text: text, into: buffer)
    readOne(.client, buffer) { head, body in
      guard let line = head.first(.microError), let copy = head.first(.xMicroError), line.elementsEqual(copy) else {
        fail("an error is not in both headers")
      }
      switch FrameClient.decodeReply(head: head, body: body, codec: request.codec) {
      case .payload, .translated: fail("a failure reads as a success")
      case .endOfStream:
        if !ASCIIText.equals(line, "EOS") { fail("a failure reads as a stream's end") }
      case .failed(let error):
        guard let words = error.upstreamText, !words.isEmpty else { fail("a failure loses its words") }
        let isVisible = text.contains { $0 > 0x20 && $0 != 0x7F }
        if request.codec == .protoRPC, isVisible, !words.elementsEqual(text) { fail("a failure's words differ") }
      }
    }
  }

  // MARK: Client side

  static func checkClient(
    _ call: FrameCall, service: UnsafeRawBufferPointer, endpoint: UnsafeRawBufferPointer,
    payload: UnsafeRawBufferPointer
  ) {
    let buffer = ByteBuffer()
    let host: StaticString = "a:1"
    let codec: FrameCodec
    do throws(WireError) {
      codec = try FrameClient.encodeRequest(
        call, host: UnsafeRawBufferPointer(start: host.utf8Start, count: host.utf8CodeUnitCount), service: service,
        endpoint: endpoint, from: service, payload: payload, into: buffer)
    } catch {
      if !buffer.isEmpty { fail("a refused request is written") }
      return
    }
    readOne(.server, buffer) { head, body in
      let notes = ByteBuffer()
      guard let request = try? FrameServer.decodeRequest(head: head, body: body, notes: notes) else {
        if isPlain(endpoint) { fail("a request is refused") }
        return
      }
      if request.kind == .event { fail("a call reads as an event") }
      if !isPlain(endpoint) { return }
      if request.codec != codec || request.kind != .call { fail("a request reads as another") }
      if !notes.bytes(request.endpoint).elementsEqual(endpoint) { fail("a request has another endpoint") }
      let read = request.payload(body, notes)
      if codec == .msgpackRPC || codec == .bsonRPC {
        if (try? JSONScanner.validate(read)) == nil { fail("a translated request is not JSON") }
      } else if codec == .grpcFramedJSON {
        if !read.elementsEqual(payload) { fail("a request carries another payload") }
      } else if payload.isEmpty {
        if codec.format == .json, !read.starts(with: "{}".utf8) { fail("an empty document is not written as one") }
      } else if codec == .json {
        if !read.starts(with: payload) { fail("a request carries another payload") }
      } else if codec == .jsonRPC || codec == .jsonRPC2 {
        guard let range = try? JSONScanner.validate(payload), read.elementsEqual(payload[range]) else {
          fail("a request carries another payload")
        }
      } else if !read.elementsEqual(payload) {
        fail("a request carries another payload")
      }
    }
  }

  /// An endpoint any server takes.
  private static func isPlain(_ endpoint: UnsafeRawBufferPointer) -> Bool {
    endpoint.allSatisfy { $0 > 0x20 && $0 < 0x7F } && endpoint.count { $0 == UInt8(ascii: ".") } == 1
      && endpoint.first != UInt8(ascii: ".") && endpoint.last != UInt8(ascii: ".")
      && endpoint.count <= FrameRequest.endpointBytesMax
  }

  static func checkReplyReading(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer, _ codec: FrameCodec) {
    let reply = FrameClient.decodeReply(head: head, body: body, codec: codec)
    if reply != FrameClient.decodeReply(head: head, body: body, codec: codec) {
      fail("a reply reads twice differently")
    }
    switch reply {
    case .payload(let range, let format):
      if range.upperBound > body.count { fail("a payload leaves the body") }
      if format != codec.format { fail("a reply has another format") }
      if head.status != 200 { fail("a reply with status \(head.status) is a success") }
    case .translated(let json):
      if (try? JSONScanner.validate(json.bytes)) == nil { fail("a translated reply is not JSON") }
      if codec.format != .json || head.status != 200 { fail("a reply has another format") }
    case .endOfStream: break
    case .failed(let error):
      let text = ByteBuffer()
      error.writeFrameText(into: text)
      if text.isEmpty { fail("a failure has no words") }
      let json = ByteBuffer()
      error.writeJSON(into: json)
      if !MicroError(parsing: json.bytes).isStructured { fail("a failure's JSON is none") }
      if !(400...599).contains(error.httpStatus) { fail("a failure has status \(error.httpStatus)") }
    }
  }
}
