// Messages into JSON. Input: a byte that chooses the type, the form and what happens to unknown fields, then a message.
// core: Wire/Protobuf Wire/Numbers Wire/JSON/JSONScanner.swift Wire/JSON/JSONText.swift Wire/JSON/ASCIIText.swift Wire/ByteBuffer.swift Wire/FixedBytes.swift Wire/WireError.swift Model/Service.swift
// support: Transcoding.swift

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let choice = Int(choices.byte())
  let type = Transcoding.types[choice % Transcoding.types.count]
  let form: ProtoJSONForm = choice & 0x40 == 0 ? .canonical : .goMicro
  forEachPiece(choices.rest, cutAt: []) { message in
    if let json = Transcoding.json(message, type, form, choice & 0x80 == 0 ? .refuse : .ignore) {
      Transcoding.checkWritten(json, type, form)
    }
    return true
  }
}
