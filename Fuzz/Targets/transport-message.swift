// A message of the gRPC transport on its way into HTTP/1 and back. Input: a byte that chooses who reads it, then the
// message. Whatever is in it, it is one message of HTTP/1, with this body and no header of ours changed.
// core: Wire/HTTP1 Wire/JSON/ASCIIText.swift Wire/Mucp/TransportMessage.swift Wire/Protobuf/ProtobufReader.swift Wire/ByteBuffer.swift Wire/WireError.swift

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let role: HTTP1Parser.Role = choices.byte() & 1 == 0 ? .server : .client
  let text = ByteBuffer()
  do throws(WireError) {
    try TransportMessage.appendHTTP1(choices.rest, for: role, to: text)
  } catch {
    return
  }
  var body: [UInt8] = []
  let again = ByteBuffer()
  read(text, role) { head, bytes in
    body = Array(bytes)
    for field in head.fields {
      let value = head.value(field)
      if field.id == .transferEncoding || field.id == .contentLength && !ASCIIText.isDecimal(value, bytes.count) {
        fail("framing came through")
      }
    }
    TransportMessage.append(head, bytes, to: again)
  }
  // Ours, read by ourselves, is the same.
  let second = ByteBuffer()
  do throws(WireError) {
    try TransportMessage.appendHTTP1(again.bytes, for: role, to: second)
  } catch {
    fail("we cannot read what we write: \(error)")
  }
  read(second, role) { _, bytes in
    if Array(bytes) != body { fail("another body: \(Array(bytes)) rather than \(body)") }
  }
}

/// The one message that `text` must be.
private func read(
  _ text: ByteBuffer, _ role: HTTP1Parser.Role, _ body: (HTTP1Head, UnsafeRawBufferPointer) -> Void
) {
  var parser = HTTP1Parser(role)
  var input = text.bytes
  var bytes = UnsafeRawBufferPointer(start: nil, count: 0)
  do throws(WireError) {
    reading: while true {
      switch try parser.next(&input) {
      case .head: break
      case .body(let part): bytes = part
      case .end: break reading
      case .needMore: fail("it is not whole: \(String(decoding: text.bytes, as: UTF8.self))")
      }
    }
  } catch {
    fail("\(error): \(String(decoding: text.bytes, as: UTF8.self))")
  }
  if !input.isEmpty { fail("more than one message: \(String(decoding: text.bytes, as: UTF8.self))") }
  body(parser.head, bytes)
}

extension ASCIIText {
  fileprivate static func isDecimal(_ text: UnsafeRawBufferPointer, _ number: Int) -> Bool {
    String(decoding: text, as: UTF8.self) == "\(number)"
  }
}
