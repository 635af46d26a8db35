// JSON documents into messages. Input: a byte that chooses the type and what happens to unknown fields, then a
// document.
// core: Wire/Protobuf Wire/Numbers Wire/JSON/JSONScanner.swift Wire/JSON/JSONText.swift Wire/JSON/ASCIIText.swift Wire/ByteBuffer.swift Wire/FixedBytes.swift Wire/WireError.swift Model/Service.swift
// support: Transcoding.swift

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let choice = Int(choices.byte())
  let type = Transcoding.types[choice % Transcoding.types.count]
  let unknown: UnknownFields = choice & 0x80 == 0 ? .refuse : .ignore
  forEachPiece(choices.rest, cutAt: []) { document in
    guard let message = Transcoding.protobuf(document, type, unknown) else { return true }
    // Times out of range can be given as plain objects, and types nobody knows as plain Anys: these have no
    // canonical JSON.
    if let json = Transcoding.json(message.bytes, type, .canonical, .refuse) {
      Transcoding.checkWritten(json, type, .canonical)
    }
    guard let json = Transcoding.json(message.bytes, type, .goMicro, .refuse) else {
      // No document is the empty message, and the empty message of google.protobuf.Value is no value.
      if document.allSatisfy({ $0 <= 0x20 }) { return true }
      fail("what was read has no JSON")
    }
    Transcoding.checkWritten(json, type, .goMicro)
    return true
  }
}
