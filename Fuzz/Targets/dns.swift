// DNS messages as mDNS reads them. Input: a datagram.
// core: Wire/DNS Wire/WireError.swift

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  forEachPiece(input, cutAt: []) { bytes in
    let message: DNSMessage
    do throws(WireError) {
      message = try DNSMessage(reading: bytes)
    } catch {
      if !(0...bytes.count).contains(error.offset) { fail("an error lies outside the datagram") }
      return true
    }
    for name in names(message) {
      if name.wire.count > DNSName.bytesMaximum || name.wire.last != 0 { fail("a name is none") }
      if name.labels.contains(where: { $0.isEmpty || $0.count > DNSName.labelBytesMaximum }) { fail("a label is none") }
      _ = name.description
    }
    // What was read can be written, with and without compression, and reads the same; compressed it is not longer. Only
    // pointers make it longer than it came, up to more than a datagram.
    var sizes: [Int] = []
    for compressed in [false, true] {
      guard let written = try? message.bytes(compressed: compressed) else {
        if bytes.count < 512 { continue }
        return true
      }
      guard let again = try? DNSMessage(reading: written), again == message else { fail("a written message differs") }
      sizes.append(written.count)
    }
    if sizes.count == 2, sizes[1] > sizes[0] { fail("compression makes a message longer") }
    return true
  }
}

private func names(_ message: DNSMessage) -> [DNSName] {
  var found = message.questions.map(\.name)
  for record in message.answers + message.authorities + message.additionals {
    found.append(record.name)
    switch record.data {
    case .ptr(let name), .cname(let name): found.append(name)
    case .srv(_, _, _, let target): found.append(target)
    case .a, .aaaa, .txt, .other: break
    }
  }
  return found
}
