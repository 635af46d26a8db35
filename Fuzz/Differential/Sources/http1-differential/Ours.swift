// SidecarCore's parser, translated.

import SidecarCore

final class Ours {
  private let head = HTTP1Head()

  func run(_ input: [UInt8], _ isRequest: Bool, into transcript: inout Transcript) {
    var parser = HTTP1Parser(isRequest ? .server : .client, head: head)
    input.withUnsafeBytes { bytes in
      var rest = bytes
      var isLast = false
      do throws(WireError) {
        while true {
          switch try parser.next(&rest) {
          case .needMore:
            return
          case .head:
            let head = parser.head
            if isRequest {
              transcript.head("\(escaped(head.methodBytes)) \(escaped(head.target)) 1.\(head.minorVersion)")
            } else {
              transcript.head("\(head.status) 1.\(head.minorVersion)")
            }
            for field in head.fields { transcript.field(head.name(field), head.value(field)) }
            let framing =
              switch head.framing {
              case .none, .length(0): "none"
              case .length(let count): "\(count)"
              case .chunked: "chunked"
              case .untilClose: "until close"
              }
            transcript.endOfHead(framing: framing, keepAlive: head.keepAlive, upgrade: head.upgrade)
            // What follows is another protocol, if the other side agrees, or nothing that may be read; to know that is
            // our caller's business. llhttp stops by itself.
            isLast = !head.keepAlive || (isRequest && (head.upgrade || head.method == .connect))
          case .body(let part):
            transcript.body(part)
          case .end:
            if let trailers = parser.trailers {
              for field in trailers.fields { transcript.field(trailers.name(field), trailers.value(field)) }
            }
            transcript.end()
            if isLast { return }
          }
        }
      } catch {
        transcript.error = "\(error)"
      }
    }
  }
}
