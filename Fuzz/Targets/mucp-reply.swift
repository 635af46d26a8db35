// What a node answers, and the requests that ask it. Input: a byte of mode and one of codec and node; then a raw HTTP
// response, or a body, or the parts of a call separated by line ends.
// core: Wire/HTTP1 Wire/JSON Wire/Mucp Wire/Protobuf/ProtobufReader.swift Wire/Protobuf/ProtoJSONForm.swift Wire/ByteBuffer.swift Wire/WireError.swift Model/Service.swift Model/SidecarError.swift Model/MicroError.swift Model/GRPCStatus.swift Model/GRPCFailure.swift Wire/MessagePack Wire/BSON Wire/FixedBytes.swift Observe/UTCTime.swift
// support: MucpOracle.swift

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let mode = choices.byte()
  let selector = choices.byte()
  let codecs: [FrameCodec] = FrameCodec.allCases
  let codec = codecs[Int(selector & 15) % codecs.count]
  switch mode % 3 {
  case 0: MucpOracle.read(.client, choices.rest) { head, body in MucpOracle.checkReplyReading(head, body, codec) }
  case 1:
    let buffer = ByteBuffer()
    buffer.append("HTTP/1.1 200 OK\r\n")
    if selector & 16 != 0 { buffer.append("Micro-Error: boom\r\n") }
    if selector & 64 != 0 { buffer.append("X-Micro-Error: EOS\r\n") }
    if selector & 32 != 0 { buffer.append("Content-Type: text/plain\r\n") }
    HTTP1Writer.contentLength(choices.rest.count, to: buffer)
    buffer.append("\r\n")
    buffer.append(choices.rest)
    MucpOracle.readOne(.client, buffer) { head, body in MucpOracle.checkReplyReading(head, body, codec) }
  default:
    let parts = choices.rest.split(separator: 10, maxSplits: 2, omittingEmptySubsequences: false)
      .map { UnsafeRawBufferPointer(rebasing: $0) }
    let call = FrameCall(
      id: UInt64(mode), node: NodeDialect(generation: selector & 64 == 0 ? .legacy : .micro), format: codec.format,
      codec: selector & 128 == 0 ? nil : codec, timeoutNanoseconds: Int64(selector))
    MucpOracle.checkClient(
      call, service: parts[0], endpoint: parts.count > 1 ? parts[1] : MucpOracle.empty,
      payload: parts.count > 2 ? parts[2] : MucpOracle.empty)
  }
}
