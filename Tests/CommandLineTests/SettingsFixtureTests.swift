import SidecarBuiltins
import SidecarCore
import Testing

@testable import micro_sidecar

@Suite("Settings from the command line to what config prints")
struct SettingsFixtureTests {
  /// Sections: `arguments` (one a line), `environment` (KEY=value a line), `file` (YAML or JSON), and what is expected:
  /// `errors`, or `config`, the lines of `micro-sidecar config` that are not defaults, or `warnings`.
  @Test("fixtures", arguments: Fixture.all(in: "settings"))
  func fixtures(fixture: Fixture) {
    let invocation = CommandInvocation(parsing: fixture.lines("arguments"))
    var sources = SettingsSources()
    sources.flags = invocation.flags
    for line in fixture.lines("environment") {
      let parts = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      sources.environment[String(parts[0])] = String(parts[1])
    }
    sources.registryNames = ["mdns", "memory", "file"]
    sources.selectorNames = ["random", "roundrobin"]
    if fixture.has("file") { sources.environment["MICRO_CONFIG"] = "/etc/sidecar.yaml" }
    sources.readFile = { _ in Array(fixture["file"].utf8) }
    sources.parseFile = { try YAML.parse($0) }
    do throws(SettingsError) {
      let settings = try Settings.load(sources, earlier: invocation.problems)
      let shown = settings.render(.text).split(separator: "\n").filter {
        !$0.hasSuffix("  default") && !$0.hasPrefix("MICRO_CONFIG")
      }
      let squeezed = shown.map { $0.split(separator: " ").joined(separator: " ") + "\n" }.joined()
      #expect(squeezed == fixture["config"])
    } catch {
      #expect(Formats.problems(error.problems, .text, Style(isColoured: false)) == fixture["errors"])
    }
  }
}
