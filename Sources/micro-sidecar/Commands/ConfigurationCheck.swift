// `micro-sidecar check-config`: everything a start would refuse, without one. Plug-ins are made, as a start makes them, so that
// their options are looked at too; nothing is bound, dialled or written.

import SidecarBuiltins
import SidecarCore
import SidecarUV

struct ConfigurationCheck {
  let output: OutputFormat
  let plugins: PluginTable

  /// Prints what is wrong, or a summary, and returns the exit status.
  func run(_ load: () throws(SettingsError) -> Settings) -> Int32 {
    let settings: Settings
    do throws(SettingsError) { settings = try load() } catch { return refuse(error.problems) }
    let problems = [settings.exposure].compactMap { $0 } + refusals(settings)
    guard problems.isEmpty else { return refuse(problems) }
    Terminal.print(output == .json ? Self.json(settings) : Self.summary(settings))
    return ExitCode.ok.rawValue
  }

  private func refuse(_ problems: [SettingProblem]) -> Int32 {
    if output == .json {
      let rows = problems.map(Self.row)
      Terminal.print(Formats.document(["valid": false, "problems": .array(rows)]))
    } else {
      Terminal.error(Formats.problems(problems, .text, Terminal.errorStyle))
      let count = problems.count == 1 ? "1 problem" : "\(problems.count) problems"
      Terminal.error("\(count); a sidecar with these settings would not start\n")
    }
    return ExitCode.usage.rawValue
  }

  /// What plug-ins and files say.
  private func refusals(_ settings: Settings) -> [SettingProblem] {
    let driver: UVDriver
    do throws(DriverError) { driver = try UVDriver() } catch {
      return [SettingProblem(.combination, error.description)]
    }
    var problems: [SettingProblem] = []
    var quiet = settings
    // Opening it would make it.
    quiet.accessLog = nil
    do throws(ConfigurationError) {
      _ = try Sidecar(settings: quiet, plugins: plugins, driver: driver, launcher: InlineLauncher(driver), log: NoLog())
    } catch {
      problems.append(SettingProblem(.combination, error.message))
    }
    return problems
  }

  // MARK: Printing

  private static func counts(_ settings: Settings) -> [(kind: String, count: Int)] {
    let others: Set<String> = ["policies", "inbound", "MICRO_CONFIG"]
    let kinds = settings.origins.filter { !others.contains($0.key) }.values.map(\.kind)
    return ["flag", "environment", "file"].map { kind in (kind, kinds.count { $0 == kind }) }
  }

  private static func summary(_ settings: Settings) -> String {
    let counts = counts(settings)
    var text = (settings.configFile.map { "\($0) is good" } ?? "good, without a file") + "; settings: "
    text += counts.map { "\($0.count) by \($0.kind)" }.joined(separator: ", ")
    text += "; policies: \(settings.policyRules.count)"
    return ([text] + settings.warnings.map { "warning: " + $0 }).map { Formats.safe($0) + "\n" }.joined()
  }

  private static func json(_ settings: Settings) -> String {
    let counted = counts(settings).map { JSONValue.Member($0.kind, .number("\($0.count)")) }
    return Formats.document([
      "valid": true, "file": settings.configFile.map { .string($0) } ?? .null, "settings": .object(counted),
      "policies": .number("\(settings.policyRules.count)"), "problems": [],
      "warnings": .array(settings.warnings.map { .string($0) }),
      "ignored": .array(settings.ignored.map { .string($0) }),
    ])
  }

  private static func row(_ problem: SettingProblem) -> JSONValue {
    var file = JSONValue.null
    var key = JSONValue.null
    switch problem.source {
    case .file(let path, let place):
      file = .string(path)
      if !place.isEmpty { key = .string(place) }
    case .flag(let name), .environment(let name): key = .string(name)
    case .commandLine, .combination: break
    }
    return [
      "source": .string(problem.source.kind), "file": file, "line": problem.line.map { .number("\($0)") } ?? .null,
      "key": key, "message": .string(problem.message),
    ]
  }
}
