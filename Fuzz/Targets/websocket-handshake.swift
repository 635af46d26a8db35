// The opening handshake, both sides. Input: a byte of choices, then header lines.
// core: Wire/HTTP1 Wire/WebSocket Wire/SHA1.swift Wire/JSON/ASCIIText.swift Wire/ByteBuffer.swift Wire/WireError.swift Wire/FixedBytes.swift Driver/SeededRandom.swift

import SidecarCore

private let key = Array("dGhlIHNhbXBsZSBub25jZQ==".utf8)
private let asked = """
  GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n
  """
private let answered = """
  HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n
  """

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let mode = choices.byte()
  let wish: DeflateWish? = mode & 1 == 0 ? nil : mode & 2 == 0 ? .withContext : .withoutContext
  // Half of the inputs begin with what a handshake needs, so that the rest of it is reached.
  serve(text(mode & 4 == 0 ? asked : "GET / HTTP/1.1\r\n", choices.rest), wish)
  call(text(mode & 4 == 0 ? answered : "HTTP/1.1 101 x\r\n", choices.rest), wish)
}

private func text(_ start: String, _ rest: UnsafeRawBufferPointer) -> [UInt8] {
  Array(start.utf8) + Array(rest) + Array("\r\n\r\n".utf8)
}

private func serve(_ request: [UInt8], _ wish: DeflateWish?) {
  request.withUnsafeBytes { bytes in
    var parser = HTTP1Parser(.server)
    var input = bytes
    guard let event = try? parser.next(&input), case .head = event else { return }
    let fields = ByteBuffer()
    guard
      let agreement = try? WebSocketHandshake.accept(
        parser.head, subprotocols: ["json", "proto"], deflate: wish, fields: fields)
    else { return }
    if wish == nil, agreement.deflate != nil { fail("compression was agreed on against our wish") }
    for direction in [agreement.deflate?.server, agreement.deflate?.client] {
      if let direction, !(8...15).contains(direction.windowBits) { fail("a window out of range") }
      if let direction, direction.keepsContext, wish != .withContext { fail("context is kept against our wish") }
    }
    // The answer is one head, whatever the request said.
    let answer = ByteBuffer()
    answer.append("HTTP/1.1 101 Switching Protocols\r\n")
    answer.append(fields.bytes)
    answer.append("\r\n")
    var reader = HTTP1Parser(.client)
    var written = answer.bytes
    guard let event = try? reader.next(&written), case .head = event, written.isEmpty, reader.head.status == 101 else {
      fail("the answer is no head")
    }
  }
}

private func call(_ answer: [UInt8], _ wish: DeflateWish?) {
  answer.withUnsafeBytes { bytes in
    var parser = HTTP1Parser(.client)
    var input = bytes
    guard let event = try? parser.next(&input), case .head = event else { return }
    do throws(WireError) {
      let agreement = try WebSocketHandshake.check(parser.head, key: key, subprotocols: ["json"], deflate: wish)
      if let chosen = agreement.subprotocol, chosen != "json" { fail("a subprotocol nobody offered") }
      if wish == nil, agreement.deflate != nil { fail("an extension nobody offered") }
    } catch {
      if error.status != 502 { fail("the server's fault is answered with \(error.status)") }
    }
  }
}
