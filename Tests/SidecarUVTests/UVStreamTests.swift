// Connections on real sockets: what `ByteStream` promises, on TCP and on Unix sockets.

import SidecarCore
import Testing

@testable import SidecarUV

@Suite struct UVStreamTests {
  @Test func bytesWrittenOnOneSideArriveOnTheOther() async throws {
    let (there, back) = try await onLoop { (driver, report: Report<(String, String)>) in
      try driver.makePair { pair in
        pair.farSide.read = { stream, bytes in
          if pair.farSide.text == "hello, world" { stream.write("and back") }
        }
        pair.nearSide.read = { _, _ in
          if pair.nearSide.text == "and back" { report.succeed((pair.farSide.text, pair.nearSide.text)) }
        }
        let (first, second) = (Array("hello, ".utf8), Array("world".utf8))
        first.withUnsafeBytes { first in second.withUnsafeBytes { second in _ = pair.near.write(first, second) } }
      }
    }
    #expect(there == "hello, world")
    #expect(back == "and back")
  }
}
