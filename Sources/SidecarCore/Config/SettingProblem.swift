// What can be wrong with a setting, and where it came from.

/// Where a value came from.
package enum SettingSource: Sendable, Hashable, CustomStringConvertible {
  case flag(String)
  case environment(String)
  /// The file's path and the key as written there, with dots.
  case file(path: String, key: String)
  /// No source of values: the words after the command's name, or rules between several settings.
  case commandLine
  case combination

  package var kind: String {
    switch self {
    case .flag: "flag"
    case .environment: "environment"
    case .file: "file"
    case .commandLine: "command line"
    case .combination: "settings"
    }
  }

  package var description: String {
    switch self {
    case .flag(let name): "flag \(name)"
    case .environment(let name): "environment \(name)"
    case .file(let path, let key): key.isEmpty ? "file \(path)" : "file \(path): \(key)"
    case .commandLine: "command line"
    case .combination: "settings"
    }
  }
}

/// One thing that is wrong: where, what was found, what is expected.
package struct SettingProblem: Error, Sendable, Equatable, CustomStringConvertible {
  package var source: SettingSource
  /// A sentence without a full stop: what was found, what is expected, the next step.
  package var message: String
  /// Where in the source's file, from 1; nil when that is not known.
  package var line: Int?
  package init(_ source: SettingSource, _ message: String, line: Int? = nil) {
    self.source = source
    self.message = message
    self.line = line
  }
  package var description: String {
    guard let line, case .file(let path, let key) = source else { return "\(source): \(message)" }
    return "file \(path):\(line): " + (key.isEmpty ? "" : key + ": ") + message
  }
}

/// Everything that is wrong at once, in the order flags, environment, file, combinations. Never empty.
package struct SettingsError: Error, Sendable, Equatable, CustomStringConvertible {
  package var problems: [SettingProblem]
  package init(_ problems: [SettingProblem]) { self.problems = problems }
  package var description: String { problems.map(\.description).joined(separator: "\n") }
}
