// Cuts the arguments of a command into words, settings and the command's own options. What a flag means is not decided
// here; whether it exists is.

/// A setting given by a flag, as written: `--server-name=hello` is `("--server-name", "hello")`.
package struct FlagValue: Sendable, Equatable {
  package var flag: String
  package var value: String
  package init(_ flag: String, _ value: String) {
    self.flag = flag
    self.value = value
  }
}

/// A flag that is no setting, such as `-o`.
package struct OptionRule: Sendable {
  /// Without dashes; the first is the one reported.
  package var names: [String]
  package var takesValue: Bool
  package init(_ names: String..., takesValue: Bool) {
    self.names = names
    self.takesValue = takesValue
  }
}

/// Arguments, cut. Every argument ends up in exactly one place.
package struct ScannedArguments: Sendable, Equatable {
  /// What is no flag, in order, up to `--`.
  package var words: [String] = []
  package var settings: [FlagValue] = []
  /// Options by their rule's first name, in order; an option without a value has an empty one.
  package var options: [FlagValue] = []
  /// What follows `--`; nil when there is none.
  package var rest: [String]?
  package var problems: [SettingProblem] = []
}

package enum FlagScanner {
  /// Flags may stand anywhere before `--`; `--name value`, `--name=value` and, as Go's flag package has it, the same with
  /// one dash. A lone `-` is a word. Errors are collected in `problems`.
  package static func scan(_ arguments: [String], options rules: [OptionRule]) -> ScannedArguments {
    var scanned = ScannedArguments()
    var index = 0
    while index < arguments.count {
      let argument = arguments[index]
      index += 1
      if argument == "--" {
        scanned.rest = Array(arguments[index...])
        break
      }
      guard argument.hasPrefix("-"), argument != "-" else {
        scanned.words.append(argument)
        continue
      }
      let equals = argument.firstIndex(of: "=")
      let flag = String(argument[..<(equals ?? argument.endIndex)])
      let name = Setting.folded(String(flag.dropFirst(flag.hasPrefix("--") ? 2 : 1)))
      let rule = rules.first { $0.names.contains(name) }
      guard rule != nil || Settings.byName[name] != nil else {
        let near = nearest(name, rules)
        scanned.problems.append(SettingProblem(.flag(flag), unknown(name, near)))
        // What follows a mistyped flag is its value, not a word to complain about as well.
        let takesValue = near.map { near in rules.first { $0.names.contains(near) }?.takesValue ?? true } ?? false
        if equals == nil, takesValue, index < arguments.count, !arguments[index].hasPrefix("-") { index += 1 }
        continue
      }
      var value = equals.map { String(argument[argument.index(after: $0)...]) }
      if let rule, !rule.takesValue {
        if value != nil { scanned.problems.append(SettingProblem(.flag(flag), "takes no value")) }
        scanned.options.append(FlagValue(rule.names[0], ""))
        continue
      }
      if value == nil, index < arguments.count, arguments[index] != "--" {
        value = arguments[index]
        index += 1
      }
      guard let value else {
        scanned.problems.append(SettingProblem(.flag(flag), "a value must follow, as \(flag) VALUE or \(flag)=VALUE"))
        continue
      }
      if let rule {
        scanned.options.append(FlagValue(rule.names[0], value))
      } else {
        scanned.settings.append(FlagValue(flag, value))
      }
    }
    return scanned
  }

  private static func nearest(_ name: String, _ rules: [OptionRule]) -> String? {
    NearestName.of(name, among: Settings.byName.keys.map { $0 } + rules.flatMap(\.names).filter { $0.utf8.count > 1 })
  }

  private static func unknown(_ name: String, _ near: String?) -> String {
    if let reason = Settings.unsupported.first(where: { Setting.name(of: $0.key) == name })?.value.reason {
      return reason
    }
    return near.map { "no such flag; did you mean --\($0)?" } ?? "no such flag; micro-sidecar help lists them"
  }
}
