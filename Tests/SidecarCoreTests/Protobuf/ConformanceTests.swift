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
      to the transcoder with messages of our own. `ConformanceTests` runs them and writes this page. What other
      implementations make of random messages is at its end.

      | case | the suite wants | result |
      |---|---|---|

      """
    for test in Self.cases {
      let (result, why) = outcome(test)
      #expect(result == test.expected, "\(test.name): \(test.input) \(why)")
      let verdict = result == test.expected ? "passes" : "**fails**"
      table += "| \(test.name) | \(test.expected == "!" ? "refused" : "accepted") | \(verdict) |\n"
    }
    table += """

      ## Other implementations

      Random messages of all kinds of fields (`Tests/Fixtures/protobuf`), from protobuf to JSON and back, and from the other
      implementation's JSON in all its styles. "Different" counts messages that came back as another one.

      | beside | messages | seeds | different |
      |---|---|---|---|
      | swift-protobuf 1.39, `Tests/Oracles/SwiftProtobuf/run` | 700,000 | 5 | 0 |
      | Python protobuf (upb), `Tests/Oracles/run` | 480,000 | 7, 12, 13, 21 | 0 |

      Python's JSON is also put to both with a few characters changed. Where both take it they read the same; where only one
      takes it, the reason is one of these, and the oracle fails at any other:

      | only Python takes | because it |
      |---|---|
      | `"a b=c"` for bytes | passes over what is not base64, and over a wrong length |
      | `"0127"`, `" 5"`, `"1_0"` for numbers | reads strings with its own `int` and `float` |
      | `2147483.648` for an enum, `1.5` in quotes for an integer | rounds |
      | `true` for an integer or an enum | takes true for 1 |
      | `7e999` for a double, `-21474836480` for an enum | has no limit there |
      | `"1970-01-01T00:00:1Z"`, `"0.1234567891s"` | reads times without leading zeros, and cuts what is below a nanosecond |
      | `"a,,b"` for a field mask | passes over empty paths |
      | `[]` or `""` for a message | takes what is empty for an empty message |
      | `null` for a required field of proto2 | takes it for an absent one |
      | `"[a.b.c]"` for the extension `a.b` | drops the last part of a name it does not find |
      | other keys beside `@type` and `value` | passes over them |

      | only we take | because |
      |---|---|
      | no document at all | an empty body is the empty message in go-micro |
      | `{"value": 3}` for a wrapper, `{"seconds": 1}` for a time | go-micro up to v5.13 writes them so |

      """
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
