// gRPC's messages and header texts. Input: a byte of mode, three of cuts, then bytes of a stream, or a text.
// core: Wire/GRPC/GRPCFraming.swift Wire/GRPC/GRPCText.swift Wire/ByteBuffer.swift Wire/JSON/ASCIIText.swift Model/GRPCStatus.swift

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  switch choices.byte() & 3 {
  case 0: checkFraming(&choices)
  case 1: checkWriting(&choices)
  case 2: checkTexts(choices.rest)
  default: checkTimeout(choices.rest)
  }
}

private let limit = 600

/// What a reader made of a stream.
private struct Outcome: Equatable {
  var messages: [[UInt8]] = []
  var error: GRPCFramingError?
  var isWhole = false
}

private func read(_ bytes: UnsafeRawBufferPointer, cutAt cuts: [Int]) -> Outcome {
  var reader = GRPCMessageReader(limit: limit, buffers: BufferPool())
  var outcome = Outcome()
  forEachPiece(bytes, cutAt: cuts) { piece in
    var input = piece
    do throws(GRPCFramingError) {
      while case .message(let message) = try reader.next(&input) { outcome.messages.append(Array(message)) }
      if !input.isEmpty { fail("bytes were left though more are needed") }
      return true
    } catch {
      outcome.error = error
      return false
    }
  }
  outcome.isWhole = outcome.error == nil && reader.isBetweenMessages
  reader.reset()
  return outcome
}

/// However a stream is cut, the same messages come out, and they are what a plain reading of the rules says.
private func checkFraming(_ choices: inout Choices) {
  let cuts = choices.cuts(3)
  let bytes = Array(choices.rest)
  let whole = read(choices.rest, cutAt: [])
  if read(choices.rest, cutAt: cuts) != whole { fail("cuts change what is read") }
  var expected = Outcome(isWhole: true)
  var offset = 0
  while offset < bytes.count {
    guard bytes.count - offset >= 5 else {
      expected.isWhole = false
      break
    }
    let length = bytes[offset + 1..<offset + 5].reduce(0) { $0 << 8 | Int($1) }
    if bytes[offset] == 1 { expected.error = .compressed }
    if bytes[offset] > 1 { expected.error = .badFlag(bytes[offset]) }
    if bytes[offset] == 0, length > limit { expected.error = .tooLarge(bytes: length, limit: limit) }
    guard expected.error == nil, bytes.count - offset - 5 >= length else {
      expected.isWhole = false
      break
    }
    expected.messages.append(Array(bytes[offset + 5..<offset + 5 + length]))
    offset += 5 + length
  }
  if whole != expected { fail("read \(whole) instead of \(expected)") }
}

/// What is written is read back.
private func checkWriting(_ choices: inout Choices) {
  let cuts = choices.cuts(3)
  let stream = ByteBuffer()
  var messages: [[UInt8]] = []
  for part in choices.rest.split(separator: 10, maxSplits: 8, omittingEmptySubsequences: false).prefix(9) {
    let message = Array(part.prefix(limit))
    messages.append(message)
    GRPCFraming.withPrefix(message.count) { stream.append($0) }
    stream.append(message)
  }
  // The cuts were chosen for the input, which may be longer; and the buffer has to outlive what is read from it.
  let outcome = withExtendedLifetime(stream) { read(stream.bytes, cutAt: cuts.map { min($0, stream.count) }) }
  if outcome != Outcome(messages: messages, isWhole: true) { fail("not what was written") }
}

private func checkTexts(_ text: UnsafeRawBufferPointer) {
  let encoded = ByteBuffer()
  GRPCText.appendPercentEncoded(text, to: encoded)
  if encoded.bytes.contains(where: { $0 < 0x20 || $0 > 0x7E }) { fail("not printable") }
  if GRPCText.percentDecoded(encoded.bytes) != Array(text) { fail("percent-encoding loses bytes") }
  if GRPCText.prefix(of: text, encodedMax: encoded.count) != text.count { fail("the encoding is counted short") }
  _ = GRPCText.percentDecoded(text)
  encoded.removeAll()
  GRPCText.appendBase64(text, to: encoded)
  if GRPCText.base64Decoded(encoded.bytes) != Array(text) { fail("base64 loses bytes") }
  if let bytes = GRPCText.base64Decoded(text), bytes.count > text.count { fail("base64 makes more of less") }
}

private func checkTimeout(_ text: UnsafeRawBufferPointer) {
  guard let nanoseconds = GRPCText.timeout(text) else { return }
  if nanoseconds < 0 { fail("a timeout below zero") }
  let written = ByteBuffer()
  GRPCText.appendTimeout(nanoseconds, to: written)
  guard let again = GRPCText.timeout(written.bytes), again <= max(nanoseconds, 1) else { fail("a timeout grows") }
}
