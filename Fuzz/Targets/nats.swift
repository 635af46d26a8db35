// What a NATS server says. Input: three bytes that choose where reads are cut, then the server's bytes.
// core: Wire/NATS Wire/JSON Wire/Numbers Wire/ByteBuffer.swift Wire/WireError.swift Wire/FixedBytes.swift Observe/UTCTime.swift

import SidecarCore

private let messageBytesMax = 512

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let cuts = choices.cuts(3)
  let whole = said(choices.rest, cutAt: [])
  let pieces = said(choices.rest, cutAt: cuts)
  // An error found early may keep what stands before it in the same read from nobody.
  if whole.operations != pieces.operations { fail("cuts change what was said") }
  if whole.hasFailed != pieces.hasFailed { fail("cuts change whether it is sound") }
}

private func said(_ bytes: UnsafeRawBufferPointer, cutAt cuts: [Int]) -> (operations: [String], hasFailed: Bool) {
  var reader = NATSReader(messageBytesMax: messageBytesMax)
  var operations: [String] = []
  var hasFailed = false
  forEachPiece(bytes, cutAt: cuts) { piece in
    do throws(WireError) {
      try reader.receive(piece) { operation in
        switch operation {
        case .info(let json): operations.append("info \(Array(json))")
        case .message(let message):
          if message.headers.count + message.payload.count > messageBytesMax { fail("a message larger than allowed") }
          var fields = 0
          let status = NATSHeaders.read(message.headers) { name, _ in
            if name.isEmpty { fail("a field without a name") }
            fields += 1
          }
          operations.append(
            "\(Array(message.subject)) \(message.subscription) \(message.reply.map(Array.init) ?? []) "
              + "\(Array(message.headers)) \(Array(message.payload)) \(String(describing: status)) \(fields)")
        case .ping: operations.append("ping")
        case .pong: operations.append("pong")
        case .ok: operations.append("ok")
        case .error(let text): operations.append("error \(Array(text))")
        }
      }
    } catch {
      hasFailed = true
    }
    return !hasFailed
  }
  return (operations, hasFailed)
}
