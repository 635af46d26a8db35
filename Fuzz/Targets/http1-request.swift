// Requests on one connection. Input: one byte of flags, three of cuts, then what the client sends.
//
// core: Wire/HTTP1 Wire/JSON/ASCIIText.swift Wire/ByteBuffer.swift Wire/WireError.swift
// support: HTTP1Oracle.swift

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let flags = choices.byte()
  let cuts = choices.cuts(3)
  let oracle = HTTP1Oracle(role: .server, ends: flags & 1 != 0, keepsHeads: flags & 2 != 0)
  oracle.check(choices.rest, cutAt: cuts, byteByByte: flags & 4 != 0)
}
