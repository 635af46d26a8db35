// The flags that are no settings: parser, help, manual and completion read them off this table.

import SidecarCore

struct CommandOption: Sendable {
  var rule: OptionRule
  /// Stands for the value in the manual; empty when the option takes none.
  var value: String
  /// Commands it goes with; empty: all.
  var verbs: [String]
  var help: String

  static let all = [
    CommandOption(
      rule: OptionRule("output", "o", takesValue: true), value: "FORMAT", verbs: [],
      help: "text, json for machines, or, for call, raw: the reply byte for byte"),
    CommandOption(
      rule: OptionRule("address", takesValue: true), value: "HOST:PORT", verbs: ["call", "health"],
      help: "this node, rather than one that is chosen"),
    CommandOption(
      rule: OptionRule("metadata", takesValue: true), value: "KEY=VALUE", verbs: ["call"],
      help: "metadata of the call; may be given again"),
    CommandOption(
      rule: OptionRule("schema", takesValue: false), value: "", verbs: ["config"],
      help: "the JSON Schema of the configuration file"),
    CommandOption(
      rule: OptionRule("reference", takesValue: false), value: "", verbs: ["config"],
      help: "every setting, in Markdown: docs/configuration.md"),
    CommandOption(
      rule: OptionRule("help", "h", takesValue: false), value: "", verbs: [], help: "help, or that of a command"),
    CommandOption(rule: OptionRule("version", "v", takesValue: false), value: "", verbs: [], help: "the version"),
  ]

  /// `-o`, `--output`.
  var spellings: [String] { rule.names.map { ($0.count == 1 ? "-" : "--") + $0 } }
}
