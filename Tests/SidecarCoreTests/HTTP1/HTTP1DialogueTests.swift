import Foundation
import Testing

@testable import SidecarCore

/// Recorded connections between real go-micro clients and servers, both directions, through the parser.
@Suite struct HTTP1DialogueTests {
  /// The bytes of one direction of one connection.
  struct Stream: CustomTestStringConvertible {
    var file: String
    var line: Int
    var fromClient: Bool
    var pieces: [[UInt8]] = []
    var testDescription: String { "\(file):\(line)" }
  }

  static let streams: [Stream] = {
    let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent().appending(path: "Fixtures/http-dialogues")
    let files = try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
    return (files ?? []).sorted { $0.path() < $1.path() }.flatMap(streams(of:))
  }()

  static func streams(of file: URL) -> [Stream] {
    guard let text = try? String(contentsOf: file, encoding: .utf8) else { return [] }
    var done: [Stream] = []
    var open: [Bool: Stream] = [:]
    func close(_ fromClient: Bool) {
      if let stream = open.removeValue(forKey: fromClient) { done.append(stream) }
    }
    for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
      if line.hasPrefix("-- new tcp connection") {
        close(true)
        close(false)
      }
      guard line.hasPrefix("C>S ") || line.hasPrefix("S>C ") else { continue }
      let fromClient = line.hasPrefix("C")
      let quoted = line.dropFirst(4)
      guard quoted.first == "\"", quoted.last == "\"", quoted != "\"<EOF>\"" else {
        close(fromClient)
        continue
      }
      var stream = open[fromClient] ?? Stream(file: file.lastPathComponent, line: number + 1, fromClient: fromClient)
      stream.pieces.append(unquoted(quoted.dropFirst().dropLast()))
      open[fromClient] = stream
    }
    close(true)
    close(false)
    return done
  }

  /// Undoes Go's `%q`.
  static func unquoted(_ text: Substring) -> [UInt8] {
    var bytes: [UInt8] = []
    var rest = text.utf8[...]
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "\\"), let kind = rest.popFirst() else {
        bytes.append(byte)
        continue
      }
      switch kind {
      case UInt8(ascii: "x"):
        bytes.append(UInt8(String(Substring(rest.prefix(2))), radix: 16) ?? 0)
        rest = rest.dropFirst(2)
      case UInt8(ascii: "u"):
        let scalar = UInt32(String(Substring(rest.prefix(4))), radix: 16).flatMap(Unicode.Scalar.init)
        if let scalar { bytes += Array(String(Character(scalar)).utf8) }
        rest = rest.dropFirst(4)
      case UInt8(ascii: "a"): bytes.append(7)
      case UInt8(ascii: "b"): bytes.append(8)
      case UInt8(ascii: "t"): bytes.append(9)
      case UInt8(ascii: "n"): bytes.append(10)
      case UInt8(ascii: "v"): bytes.append(11)
      case UInt8(ascii: "f"): bytes.append(12)
      case UInt8(ascii: "r"): bytes.append(13)
      default: bytes.append(kind)
      }
    }
    return bytes
  }

  @Test func `the recordings are there`() {
    #expect(Set(Self.streams.map(\.file)) == ["v0.14.0.txt", "v1.18.0.txt", "v2.9.1.txt", "v4.11.0.txt"])
    #expect(Self.streams.count > 100)
  }

  @Test(arguments: streams)
  func `a recorded stream is whole messages, however it is cut`(stream: Stream) throws {
    let input = stream.pieces.flatMap(\.self)
    let transcript = HTTP1Transcript(role: stream.fromClient ? .server : .client, ends: true)
    let expected = transcript.run(input)
    // One recording lacks its Host on purpose; the rest is whole messages.
    let isHostless =
      stream.file == "v0.14.0.txt" && stream.fromClient && !String(decoding: input, as: UTF8.self).contains("Host:")
    #expect(expected.last == (isHostless ? "error 400: missing required Host header at 0" : "end"))

    var offset = 0
    let recorded = stream.pieces.dropLast().map { piece in
      offset += piece.count
      return offset
    }
    #expect(transcript.run(input, cutAt: recorded) == expected)
    for cut in 0...input.count {
      let found = transcript.run(input, cutAt: [cut])
      try #require(found == expected, "cut at \(cut)")
    }
    #expect(transcript.run(input, cutAt: Array(0...input.count)) == expected)
  }
}
