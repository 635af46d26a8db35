// Whole messages, however their bytes come.

@testable import SidecarCore
import Testing

/// Reads pieces, each in memory of its own that is overwritten afterwards, and writes down what came of them.
private struct ReaderRun {
  var role = HTTP1Parser.Role.server
  var bodyMax = 1000
  var ends = false

  func lines(_ text: String, cutAt cuts: [Int] = []) -> [String] {
    let input = Array(text.utf8)
    let scratch = ReaderScratch()
    var reader = MessageReader(role, bodyMax: bodyMax, scratch: scratch)
    var lines: [String] = []
    var start = 0
    func describe(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) {
      let first = role == .server ? String(decoding: head.target, as: UTF8.self) : "\(head.status)"
      let mark = head.fields.map {
        String(decoding: head.name($0), as: UTF8.self) + "=" + String(decoding: head.value($0), as: UTF8.self)
      }
      lines.append("\(first) \(mark) [\(String(decoding: body, as: UTF8.self))]")
    }
    do throws(WireError) {
      for stop in cuts + [input.count] {
        let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: max(stop - start, 1), alignment: 1)
        input.withUnsafeBytes { piece.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<stop])) }
        defer {
          piece.initializeMemory(as: UInt8.self, repeating: 0xDB)
          piece.deallocate()
        }
        var rest = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(piece)[0..<(stop - start)])
        start = stop
        reading: while true {
          switch try reader.next(&rest, scratch) {
          case .needMore, .streaming: break reading
          case .expectsContinue: lines.append("continue")
          case .message(let body):
            describe(reader.head(scratch), body)
            reader.finishMessage(scratch)
          }
        }
        // Another connection of the loop uses what is shared.
        disturb(scratch)
      }
      if ends {
        if case .message(let body) = try reader.finish(scratch) { describe(reader.head(scratch), body) }
      }
    } catch {
      lines.append("error \(error.status)")
    }
    reader.finishMessage(scratch)
    return lines
  }

  private func disturb(_ scratch: ReaderScratch) {
    var other = MessageReader(.server, bodyMax: 10, scratch: scratch)
    let bytes = FixedBytes("POST /other HTTP/1.1\r\nHost: other\r\nContent-Length: 3\r\n\r\nxyz")
    for range in [0..<30, 30..<bytes.span.count] {
      var input = UnsafeRawBufferPointer(rebasing: bytes.span[range])
      while let step = try? other.next(&input, scratch) {
        guard case .message = step else { break }
        other.finishMessage(scratch)
      }
    }
    other.finishMessage(scratch)
  }
}

@Suite struct MessageReaderTests {
  private static let length = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
  private static let chunked =
    "POST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n"
  private static let bodiless = "GET /c?x HTTP/1.1\r\nHost: h\r\n\r\n"

  @Test func messagesAreTheSameWhereverTheyAreCut() {
    let text = Self.length + Self.chunked + Self.bodiless + Self.length
    let whole = ReaderRun().lines(text)
    #expect(
      whole == [
        #"/a ["Host=h", "Content-Length=5"] [hello]"#, #"/b ["Host=h", "Transfer-Encoding=chunked"] [abcde]"#,
        #"/c?x ["Host=h"] []"#, #"/a ["Host=h", "Content-Length=5"] [hello]"#,
      ])
    for cut in 1..<text.utf8.count { #expect(ReaderRun().lines(text, cutAt: [cut]) == whole, "cut at \(cut)") }
    #expect(ReaderRun().lines(text, cutAt: Array(1..<text.utf8.count)) == whole, "byte by byte")
  }

  @Test func aBodyOverTheLimitIs413AtOnceOrWhenItGrowsOver() {
    let run = ReaderRun(bodyMax: 4)
    #expect(run.lines(Self.length) == ["error 413"])
    #expect(run.lines(Self.length, cutAt: [50]) == ["error 413"])
    #expect(run.lines(Self.chunked) == ["error 413"])
    #expect(run.lines(Self.chunked, cutAt: Array(1..<Self.chunked.utf8.count)) == ["error 413"])
    #expect(run.lines("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9223372036854775807\r\n\r\n") == ["error 413"])
    #expect(ReaderRun(bodyMax: 5).lines(Self.length + Self.chunked).count == 2, "the limit itself is allowed")
  }

  @Test func theSenderIsToldToContinueOnlyWhileItWaits() {
    let head = "POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    let message = #"/a ["Host=h", "Expect=100-continue", "Content-Length=2"] [hi]"#
    #expect(ReaderRun().lines(head + "hi", cutAt: [head.utf8.count]) == ["continue", message])
    #expect(ReaderRun().lines(head + "hi") == [message])
    #expect(ReaderRun(bodyMax: 1).lines(head) == ["error 413"], "refused before the body is sent")
  }

  @Test func aReplyMayLastUntilTheConnectionEnds() {
    let text = "HTTP/1.0 200 OK\r\nServer: x\r\n\r\nall of it"
    let run = ReaderRun(role: .client, ends: true)
    for cut in 1..<text.utf8.count {
      #expect(run.lines(text, cutAt: [cut]) == [#"200 ["Server=x"] [all of it]"#], "cut at \(cut)")
    }
    #expect(run.lines("HTTP/1.0 200 OK\r\n\r\n") == ["200 [] []"])
    #expect(run.lines("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel") == ["error 502"])
  }

  @Test func itHoldsNothingBetweenMessages() throws {
    let scratch = ReaderScratch()
    var reader = MessageReader(.server, bodyMax: 100, scratch: scratch)
    #expect(reader.isBetweenMessages && !reader.isHoldingMemory)
    let bytes = FixedBytes(Self.length)
    for range in [0..<50, 50..<bytes.span.count] {
      var input = UnsafeRawBufferPointer(rebasing: bytes.span[range])
      guard case .message = try reader.next(&input, scratch) else {
        #expect(!reader.isBetweenMessages && reader.isHoldingMemory)
        continue
      }
    }
    reader.finishMessage(scratch)
    #expect(reader.isBetweenMessages && !reader.isHoldingMemory)
  }
}
