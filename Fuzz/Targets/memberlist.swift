// Memberlist's datagrams and streams. Input: the bytes of either.
// core: Wire/Memberlist Driver/SocketAddress.swift Wire/WireError.swift

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  forEachPiece(input, cutAt: []) { bytes in
    var messages: [Memberlist.Message] = []
    try? Memberlist.read(datagram: bytes) { messages.append($0) }
    for message in messages {
      if case .user = message { continue }
      var again: [Memberlist.Message] = []
      let written = Memberlist.datagram(message)
      written.withUnsafeBytes { written in try? Memberlist.read(datagram: written) { again.append($0) } }
      // Text that is no UTF-8 is replaced when it is read.
      if again != [message] { fail("a written message differs: \(message), \(again)") }
    }
    guard let stream = try? Memberlist.read(stream: bytes) else { return true }
    let written = Memberlist.stream(stream)
    let again = written.withUnsafeBytes { try? Memberlist.read(stream: $0) }
    if again != stream { fail("a written stream differs") }
    for cut in [0, written.count / 2, written.count - 1] where cut < written.count {
      let whole = written.withUnsafeBytes { bytes -> Bool in
        let piece = UnsafeRawBufferPointer(rebasing: bytes[..<cut])
        guard let found = try? Memberlist.read(stream: piece) else { return false }
        return found != nil
      }
      if whole { fail("a stream that was cut is whole") }
    }
    return true
  }
}
