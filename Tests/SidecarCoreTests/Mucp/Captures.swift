// Reads the recordings under Tests/Fixtures/rpc, rpc-streams, grpc and http-dialogues, and turns their bytes into messages with our own HTTP/1 parser.

import Foundation
import Testing

@testable import SidecarCore

/// A whole HTTP message, kept.
final class RecordedMessage {
  let head: HTTP1Head
  let body: [UInt8]
  /// The bytes it came in.
  let wire: [UInt8]
  init(head: HTTP1Head, body: [UInt8], wire: [UInt8]) {
    self.head = head
    self.body = body
    self.wire = wire
  }
  func header(_ id: HeaderID) -> String? { head.first(id).map { String(decoding: $0, as: UTF8.self) } }
}

struct CaptureError: Error, CustomStringConvertible {
  var description: String
}

enum Wire {
  /// Parses all messages in `bytes`, given to the parser in two pieces at `cut`. A rest that is no whole message is
  /// dropped: peers die in recordings.
  static func messages(_ role: HTTP1Parser.Role, _ bytes: [UInt8], cut: Int = 0) throws -> [RecordedMessage] {
    var found: [RecordedMessage] = []
    var parser = HTTP1Parser(role)
    var headBytes: [UInt8] = []
    var body: [UInt8] = []
    var start = 0
    let whole = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count + 1, alignment: 1)
    defer { whole.deallocate() }
    whole.copyBytes(from: bytes)
    for range in [0..<cut, cut..<bytes.count] where !range.isEmpty {
      var input = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(whole)[range])
      pieces: while true {
        switch try parser.next(&input) {
        case .needMore: break pieces
        case .head:
          headBytes = Array(parser.head.bytes)
          body = []
        case .body(let bytes): body += bytes
        case .end:
          let end = range.upperBound - input.count
          found.append(
            RecordedMessage(head: try standalone(role, headBytes), body: body, wire: Array(bytes[start..<end])))
          start = end
        }
      }
    }
    return found
  }

  /// A head with bytes of its own.
  private static func standalone(_ role: HTTP1Parser.Role, _ bytes: [UInt8]) throws -> HTTP1Head {
    try bytes.withUnsafeBytes { bytes in
      var input = bytes
      var parser = HTTP1Parser(role)
      guard case .head = try parser.next(&input) else { throw CaptureError(description: "a head must parse again") }
      parser.keepHead()
      return parser.head
    }
  }

  static func message(_ role: HTTP1Parser.Role, _ buffer: ByteBuffer) throws -> RecordedMessage {
    let messages = try messages(role, Array(buffer.bytes))
    guard messages.count == 1, messages[0].wire.count == buffer.count else {
      throw CaptureError(description: "not one whole message: \(String(decoding: buffer.bytes, as: UTF8.self))")
    }
    return messages[0]
  }
}

/// One file of packets.
struct PacketCapture: CustomTestStringConvertible, Sendable {
  var name: String
  var notes: [String: String] = [:]
  /// What each side of each TCP connection sent.
  var connections: [(client: [UInt8], server: [UInt8])] = []

  var testDescription: String { name }
  var version: String { String(name.prefix { $0 != "-" }) }
  /// `unary`, `err-plain`, `meta`, …
  var scenario: String {
    let parts = name.split(separator: "-")
    return parts[1] == "err" ? "err-\(parts[2])" : String(parts[1])
  }
  /// The value of an option of the Go program that ran.
  func option(_ name: String) -> String? {
    let command = (notes["command"] ?? "").split(separator: " ").map(String.init)
    guard let index = command.lastIndex(of: name), index + 1 < command.count else { return nil }
    return command[index + 1]
  }
  var isJSON: Bool { (notes["codec"] ?? "").contains("json") }
  /// gRPC's frames inside HTTP/1.
  var isGRPC: Bool { (notes["codec"] ?? "").contains("grpc") }

  static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().appendingPathComponent("Fixtures")

  /// Unary calls.
  static let all = read("rpc")
  static let streams = read("rpc-streams")
  /// HTTP/2, in a form without printable bytes.
  static let grpc = read("grpc")

  private static func read(_ name: String) -> [PacketCapture] {
    let folder = Self.folder.appendingPathComponent(name)
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
    return names.sorted().compactMap { name in
      guard name.hasSuffix(".txt"),
        let text = try? String(contentsOf: folder.appendingPathComponent(name), encoding: .utf8)
      else { return nil }
      return PacketCapture(name: String(name.dropLast(4)), text: text)
    }
  }

  init(name: String, text: String) {
    self.name = name
    var toServer = true
    for line in text.split(separator: "\n") {
      if line.hasPrefix("# ") {
        let parts = line.dropFirst(2).split(separator: ":", maxSplits: 1)
        if parts.count == 2 { notes[String(parts[0])] = parts[1].trimmingCharacters(in: .whitespaces) }
      } else if line.hasPrefix("=") {
        connections.append(([], []))
      } else if line.hasPrefix("> ") {
        connections[connections.count - 1].client += Self.hex(line.dropFirst(2))
      } else if line.hasPrefix("< ") {
        connections[connections.count - 1].server += Self.hex(line.dropFirst(2))
      } else if line.hasPrefix("---") {
        toServer = line.contains(">>>")
      } else if line.hasPrefix("  ") {
        let hex = line.dropFirst(8).prefix { $0 != "|" }.split(separator: " ")
        let bytes = hex.compactMap { UInt8($0, radix: 16) }
        if toServer {
          connections[connections.count - 1].client += bytes
        } else {
          connections[connections.count - 1].server += bytes
        }
      }
    }
  }
}

extension PacketCapture {
  /// Digits without spaces.
  private static func hex(_ digits: Substring) -> [UInt8] {
    let digits = Array(digits.utf8)
    return stride(from: 0, to: digits.count - 1, by: 2).map { index in
      (ASCIIText.hexValue(digits[index]) ?? 0) << 4 | (ASCIIText.hexValue(digits[index + 1]) ?? 0)
    }
  }
}

/// One section of a dialogue file.
struct Dialogue: CustomTestStringConvertible, Sendable {
  var version: String
  var title: String
  var client: [UInt8] = []
  var server: [UInt8] = []
  /// What the Go client printed, if one ran: the reply's text field, and the error.
  var result: (reply: String, error: String?)?
  var testDescription: String { "\(version) \(title)" }

  static let all: [Dialogue] = {
    let folder = PacketCapture.folder.appendingPathComponent("http-dialogues")
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
    return names.sorted().flatMap { name -> [Dialogue] in
      guard let text = try? String(contentsOf: folder.appendingPathComponent(name), encoding: .utf8) else { return [] }
      return read(version: String(name.dropLast(4)), text)
    }
  }()

  private static func read(version: String, _ text: String) -> [Dialogue] {
    var found: [Dialogue] = []
    for line in text.split(separator: "\n") {
      if line.hasPrefix("===== ") {
        found.append(Dialogue(version: version, title: String(line.dropFirst(6))))
      } else if found.isEmpty {
        continue
      } else if line.hasPrefix("C>S \""), !line.hasPrefix("C>S \"<") {
        found[found.count - 1].client += unquote(line.dropFirst(4))
      } else if line.hasPrefix("S>C \""), !line.hasPrefix("S>C \"<") {
        found[found.count - 1].server += unquote(line.dropFirst(4))
      } else if line.hasPrefix("RESULT rsp="), let split = line.range(of: " err=") {
        let reply = unquote(line[..<split.lowerBound].dropFirst(11))
        let error = String(line[split.upperBound...])
        found[found.count - 1].result = (String(decoding: reply, as: UTF8.self), error == "<nil>" ? nil : error)
      }
    }
    return found
  }

  /// Go's `%q`.
  static func unquote(_ text: Substring) -> [UInt8] {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8.dropFirst().dropLast())[...]
    let simple: [UInt8: UInt8] = [
      UInt8(ascii: "n"): 10, UInt8(ascii: "r"): 13, UInt8(ascii: "t"): 9, UInt8(ascii: "a"): 7, UInt8(ascii: "b"): 8,
      UInt8(ascii: "f"): 12, UInt8(ascii: "v"): 11, UInt8(ascii: "\\"): 92, UInt8(ascii: "\""): 34,
    ]
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "\\"), let escape = rest.popFirst() else {
        bytes.append(byte)
        continue
      }
      if let plain = simple[escape] {
        bytes.append(plain)
        continue
      }
      let digits = escape == UInt8(ascii: "x") ? 2 : 4
      let value = UInt32(String(decoding: rest.prefix(digits), as: UTF8.self), radix: 16) ?? 0xFFFD
      rest = rest.dropFirst(digits)
      bytes += digits == 2 ? [UInt8(value)] : Array(String(UnicodeScalar(value) ?? "\u{fffd}").utf8)
    }
    return bytes
  }
}
