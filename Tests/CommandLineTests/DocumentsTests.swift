import Foundation
import SidecarCore
import Testing

@testable import micro_sidecar

@Suite("What the program writes about itself")
struct DocumentsTests {
  private static let docs = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().appendingPathComponent("docs")

  @Test(
    "the published documents are what the program prints",
    arguments: [
      ("configuration.md", "config --reference"), ("configuration.schema.json", "config --schema"),
      ("micro-sidecar.1", "man"),
    ])
  func published(name: String, command: String) throws {
    let text =
      switch name {
      case "configuration.md": Reference.markdown
      case "micro-sidecar.1": ManualPage.text(version: programVersion)
      default: Formats.document(ConfigurationSchema.document())
      }
    let file = try String(contentsOf: Self.docs.appendingPathComponent(name), encoding: .utf8)
    #expect(file == text, "write it anew: micro-sidecar \(command) > docs/\(name)")
  }

  @Test("the reference has every setting and every field of policies")
  func reference() {
    let text = Reference.markdown
    for row in Settings.table { #expect(text.contains("| `\(row.key)`")) }
    for field in PolicyParser.fields() + InboundPolicy.fields() where PolicyReference.meanings[field.place] != nil {
      let name = field.place.drop { $0 != "." }.dropFirst()
      #expect(text.contains("| `\(String(name).replacingOccurrences(of: "[0]", with: "[]"))`"))
    }
  }

  @Test("the fields that are explained are those that the parser asks for")
  func meanings() {
    let asked = (PolicyParser.fields() + InboundPolicy.fields()).map(\.place).filter {
      !$0.hasSuffix("[0]") && $0 != "inbound"
    }
    #expect(Set(asked).sorted() == PolicyReference.meanings.keys.sorted())
  }

  @Test("every command, option and setting is in the manual and in every shell's completion", arguments: Shell.allCases)
  func completion(shell: Shell) {
    let script = Completion.script(for: shell)
    let manual = ManualPage.text(version: "1")
    for row in CommandInvocation.usages {
      #expect(script.contains(row.verb))
      #expect(manual.contains(".B " + row.usage.split(separator: " ")[1].replacingOccurrences(of: "-", with: "\\-")))
    }
    for row in Settings.table where row.key.hasPrefix("MICRO_") {
      #expect(script.contains(shell == .fish ? "-l \(row.name) " : row.flag))
      #expect(manual.contains("\\fB" + row.flag.replacingOccurrences(of: "-", with: "\\-") + "\\fR"))
    }
    #expect(script.hasSuffix("\n") && !script.contains("\u{1B}"))
  }
}
