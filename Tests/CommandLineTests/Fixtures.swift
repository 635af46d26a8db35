// Pairs of input and expected output as text files: sections that begin with a line `-- name --`.

import Foundation
import Testing

struct Fixture: CustomTestStringConvertible, Sendable {
  var name: String
  private var sections: [String: String] = [:]

  var testDescription: String { name }

  /// The lines of a section with their line breaks; empty when it is not there.
  subscript(section: String) -> String { sections[section] ?? "" }
  func has(_ section: String) -> Bool { sections[section] != nil }
  func lines(_ section: String) -> [String] { self[section].split(separator: "\n").map(String.init) }

  init(name: String, text: String) {
    self.name = name
    var current: String?
    for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast(text.hasSuffix("\n") ? 1 : 0) {
      if line.hasPrefix("-- "), line.hasSuffix(" --") {
        current = String(line.dropFirst(3).dropLast(3))
        sections[current ?? ""] = ""
      } else if let current {
        sections[current, default: ""] += line + "\n"
      }
    }
  }

  /// Every fixture of a folder, by name. An empty or missing folder fails the test that asks.
  static func all(in folder: String) -> [Fixture] {
    let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Fixtures/\(folder)")
    let names = ((try? FileManager.default.contentsOfDirectory(atPath: root.path)) ?? []).sorted()
    if names.isEmpty { Issue.record("no fixtures in \(folder)") }
    return names.map { name in
      let text = try? String(contentsOf: root.appendingPathComponent(name), encoding: .utf8)
      return Fixture(name: name, text: text ?? "")
    }
  }
}
