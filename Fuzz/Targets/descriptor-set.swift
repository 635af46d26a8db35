// Descriptor sets of anybody's making, and messages of the types in them. Input: a byte that says where to cut, a set,
// and bytes taken for a message and for a document.
// core: Wire/Protobuf Wire/Numbers Wire/JSON/JSONScanner.swift Wire/JSON/JSONText.swift Wire/JSON/ASCIIText.swift Wire/ByteBuffer.swift Wire/FixedBytes.swift Wire/WireError.swift Model/Service.swift

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let cut = choices.cuts(1)[0]
  let set = Array(choices.rest[..<cut])
  let rest = Array(choices.rest[cut...])
  let pool: DescriptorPool
  do throws(DescriptorError) {
    pool = try DescriptorPool(sets: [DescriptorPool.Source(name: "input", bytes: set)])
  } catch {
    if error.message.isEmpty { fail("an error without a message") }
    return
  }
  let buffer = ByteBuffer()
  for service in pool.services {
    for method in service.methods {
      let found = try? pool.method(service: "x", endpoint: "\(service.fullName).\(method.methodName)")
      if let found, found.input.fullName != method.input.fullName, service.fullName == found.fullServiceName {
        fail("a method is found as another")
      }
    }
  }
  for name in pool.messageNames.prefix(12) {
    guard let type = pool.message(name) else { fail("a listed type is not found") }
    rest.withUnsafeBytes { bytes in
      for form in [ProtoJSONForm.canonical, .goMicro] {
        try? ProtobufToJSON().transcode(bytes, from: type, form: form, into: buffer)
      }
      try? JSONToProtobuf().transcode(bytes, to: type, unknownFields: .ignore, into: buffer)
    }
    buffer.removeAll()
  }
}
