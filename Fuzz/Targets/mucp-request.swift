// What a framework caller sends, and the replies to it. Input: a byte that chooses between raw HTTP and a head made of
// choices; then the request, or the choices and the body. The last 16 bytes double as an error's text.
// core: Wire/HTTP1 Wire/JSON Wire/Mucp Wire/Protobuf/ProtobufReader.swift Wire/Protobuf/ProtoJSONForm.swift Wire/ByteBuffer.swift Wire/WireError.swift Model/Service.swift Model/SidecarError.swift Model/MicroError.swift Model/GRPCStatus.swift Model/GRPCFailure.swift Wire/MessagePack Wire/BSON Wire/FixedBytes.swift Observe/UTCTime.swift
// support: MucpOracle.swift

import SidecarCore

private let types: [StaticString] = [
  "application/json", "application/json-rpc", "application/protobuf", "application/proto-rpc",
  "application/octet-stream", "application/grpc", "text/plain", "", "application/grpc+json", "application/json-rpc2",
  "application/msgpack", "application/bson", "application/mercury", "application/json", "application/msgpack",
  "application/bson",
]
private let names: [StaticString] = ["Service", "Method", "Endpoint", "Protocol", "Target", "Topic", "Stream", "Error"]
private let values: [StaticString] = ["s", "A.B", "C.D", "mucp", "t", "t", "7", "EOS"]

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let mode = choices.byte()
  let text = UnsafeRawBufferPointer(rebasing: input.suffix(16))
  if mode & 1 == 0 {
    MucpOracle.read(.server, choices.rest) { head, body in MucpOracle.checkServer(head, body, text: text) }
    return
  }
  let present = choices.byte()
  let prefixed = choices.byte()
  let buffer = ByteBuffer()
  buffer.append("POST / HTTP/1.1\r\nHost: a\r\n")
  HTTP1Writer.field("Content-Type", types[Int(mode &>> 1 & 15)], to: buffer)
  for index in 0..<8 where present & (1 &<< UInt8(index)) != 0 {
    if prefixed & (1 &<< UInt8(index)) != 0 { buffer.append("X-") }
    buffer.append("Micro-")
    HTTP1Writer.field(names[index], values[index], to: buffer)
  }
  if mode & 32 != 0 { buffer.append("Timeout: 5000000000\r\nMicro-Id: 9\r\n") }
  HTTP1Writer.contentLength(choices.rest.count, to: buffer)
  buffer.append("\r\n")
  buffer.append(choices.rest)
  MucpOracle.readOne(.server, buffer) { head, body in MucpOracle.checkServer(head, body, text: text) }
}
