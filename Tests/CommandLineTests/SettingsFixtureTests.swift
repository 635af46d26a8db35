import SidecarBuiltins
import SidecarCore
import Testing

@testable import micro_sidecar

@Suite("Settings from the command line to what config prints")
struct SettingsFixtureTests {
  /// Sections: `arguments` (one a line), `environment` (KEY=value a line), `file` (YAML or JSON), `secret` (what every
  /// file of /run/secrets holds), and what is expected: `errors`, or `config`, the lines of `micro-sidecar config` that are not defaults, or `warnings`.
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
    sources.selectorNames = ["ewma", "random", "roundrobin"]
    if fixture.has("file") { sources.environment["MICRO_CONFIG"] = "/etc/sidecar.yaml" }
    sources.readFile = { path in
      if path.hasPrefix("/run/secrets/") { return Array(fixture["secret"].utf8) }
      guard path == "/etc/sidecar.yaml" else { throw NoSuchFile() }
      return Array(fixture["file"].utf8)
    }
    sources.parseFile = { try YAML.parse($0) }
    sources.locateKeys = { YAML.lines(of: $0) }
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

private struct NoSuchFile: Error, CustomStringConvertible {
  var description: String { "no such file" }
}
