// Cases of protobuf's official conformance suite (conformance/binary_json_conformance_suite.cc), kept in
// Tests/Fixtures/protobuf/conformance.txt, and the table of them in docs/transcoding-conformance.md, which this test
// writes when MICRO_WRITE_DOCS is set and compares otherwise.

import Foundation
import Testing

@testable import SidecarCore

@Suite("Protobuf JSON conformance") struct ConformanceTests {
  struct Case: Sendable {
    var name: String
    var input: String
    /// The canonical JSON; `!` for a refusal.
    var expected: String
  }

  static let cases: [Case] = {
    let file = ProtobufFixtures.folder.appending(path: "conformance.txt")
    guard let text = try? String(contentsOf: file, encoding: .utf8) else { return [] }
    return text.split(separator: "\n").filter { !$0.hasPrefix("#") }.map { line in
      let parts = line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
      return Case(name: parts[0], input: parts[1], expected: parts[2])
    }
  }()

  /// What the transcoder makes of a case, in the same words as `expected`, and why.
  private func outcome(_ test: Case) -> (result: String, why: String) {
    do throws(TranscodeError) {
      if !test.input.hasPrefix("0x") { return (try ProtobufFixtures.again(test.input), "") }
      let digits = Array(test.input.utf8.dropFirst(2))
      let bytes = stride(from: 0, to: digits.count, by: 2).map { index in
        (ASCIIText.hexValue(digits[index]) ?? 0) << 4 | (ASCIIText.hexValue(digits[index + 1]) ?? 0)
      }
      return (try ProtobufFixtures.json(bytes), "")
    } catch {
      return ("!", error.description)
    }
  }

  @Test func `every case ends as the suite has it, and the table in docs says so`() throws {
    #expect(Self.cases.count > 300)
    var table = """
      # Protobuf's conformance cases

      The cases of the official suite's categories *JSON input* and *protobuf input* (for proto3, with JSON as output), put
      to the transcoder with messages of our own. `ConformanceTests` runs them and writes this page.

      | case | the suite wants | result |
      |---|---|---|

      """
    for test in Self.cases {
      let (result, why) = outcome(test)
      #expect(result == test.expected, "\(test.name): \(test.input) \(why)")
      let verdict = result == test.expected ? "passes" : "**fails**"
      table += "| \(test.name) | \(test.expected == "!" ? "refused" : "accepted") | \(verdict) |\n"
    }
    let page = ProtobufFixtures.folder.deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent().appending(path: "docs/transcoding-conformance.md")
    if ProcessInfo.processInfo.environment["MICRO_WRITE_DOCS"] != nil {
      try table.write(to: page, atomically: true, encoding: .utf8)
    }
    #expect(
      try String(contentsOf: page, encoding: .utf8) == table,
      "run MICRO_WRITE_DOCS=1 swift test --filter ConformanceTests, and look at the difference")
  }
}
