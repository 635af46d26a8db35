// Runs bytes through a parser and writes down everything it said, so that a test compares plain lines of text. The
// input can be cut anywhere; each piece lies in memory of its own that is overwritten once it has been read, as the
// shared read buffer of a loop would be.

@testable import SidecarCore

struct HTTP1Transcript {
  var role = HTTP1Parser.Role.server
  var limits = HTTP1Limits()
  /// Client role: what each coming final response answers.
  var answersHEAD = false
  var answersCONNECT = false
  /// Report the end of the stream after the last byte.
  var ends = false
  /// Copy each head when it is reported.
  var keepsHeads = false
  /// Let another message pass through the shared head after each piece, as other connections of the loop do.
  var disturbs = true

  /// One line per event; body bytes that follow each other are one line, however they came.
  func run(_ input: [UInt8], cutAt cuts: [Int] = []) -> [String] {
    let shared = HTTP1Head()
    var parser = HTTP1Parser(role, limits: limits, head: shared)
    var other = HTTP1Parser(.server, head: shared)
    if answersHEAD || answersCONNECT { parser.expectResponse(toHEAD: answersHEAD, toCONNECT: answersCONNECT) }
    var lines: [String] = []
    var body: [UInt8] = []
    func flushBody() {
      guard !body.isEmpty else { return }
      lines.append("body " + Self.text(body))
      body = []
    }
    var start = 0
    do throws(WireError) {
      for stop in cuts + [input.count] {
        let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: max(stop - start, 1), alignment: 1)
        input.withUnsafeBytes { piece.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<stop])) }
        defer {
          piece.initializeMemory(as: UInt8.self, repeating: 0xff)
          piece.deallocate()
        }
        var rest = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(piece)[0..<(stop - start)])
        start = stop
        pulling: while true {
          switch try parser.next(&rest) {
          case .needMore:
            break pulling
          case .head:
            if keepsHeads { parser.keepHead() }
            lines += Self.describe(parser.head, role)
          case .body(let bytes):
            precondition(bytes.count > 0, "an empty body event")
            body += bytes
          case .end:
            flushBody()
            lines += Self.trailers(parser.trailers)
            lines.append("end")
          }
        }
        if disturbs { Self.disturb(&other) }
      }
      if ends {
        if case .end = try parser.finish() {
          flushBody()
          lines.append("end")
          parser.releaseMemory()
        }
      }
      flushBody()
      switch parser.isBetweenMessages {
      case true: if parser.heldBytes != 0 { lines.append("holds \(parser.heldBytes) bytes while idle") }
      case false: lines.append("inside a message")
      }
    } catch {
      flushBody()
      lines.append("error \(error.status): \(error.rule) at \(error.offset)")
    }
    return lines
  }

  func run(_ input: String, cutAt cuts: [Int] = []) -> [String] { run(Array(input.utf8), cutAt: cuts) }

  private static func disturb(_ other: inout HTTP1Parser) {
    let message = Array("OPTIONS * HTTP/1.1\r\nHost: other\r\nX: 1\r\nY: 2\r\nZ: 3\r\n\r\n".utf8)
    message.withUnsafeBytes { bytes in
      var rest = bytes
      while rest.count > 0 { _ = try? other.next(&rest) }
      _ = try? other.next(&rest)
    }
  }

  private static func describe(_ head: HTTP1Head, _ role: HTTP1Parser.Role) -> [String] {
    var flags = head.keepAlive ? "keep-alive" : "close"
    if head.upgrade { flags += " upgrade" }
    if head.expectsContinue { flags += " expects-continue" }
    let start =
      switch role {
      case .server: "\(head.method) \(text(head.methodBytes)) \(text(head.target))"
      case .client: "status \(head.status)"
      }
    let fields = head.fields.map { field in
      "  \(field.id) \(text(head.name(field))): \(text(head.value(field)))"
    }
    return ["\(start) HTTP/1.\(head.minorVersion) \(head.framing) \(flags) [\(head.bytes.count)]"] + fields
  }

  private static func trailers(_ trailers: HTTP1Head?) -> [String] {
    guard let trailers else { return [] }
    return trailers.fields.map { "trailer \(text(trailers.name($0))): \(text(trailers.value($0)))" }
  }

  /// Printable ASCII as it is, other bytes as `\xNN`.
  static func text(_ bytes: some Sequence<UInt8>) -> String {
    var text = ""
    for byte in bytes {
      if byte >= 0x20, byte < 0x7f, byte != 0x5c {
        text.unicodeScalars.append(Unicode.Scalar(byte))
      } else {
        let digits = String(byte, radix: 16)
        text += "\\x" + (digits.count < 2 ? "0" : "") + digits
      }
    }
    return text
  }
}
