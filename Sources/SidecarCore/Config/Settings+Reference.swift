// docs/configuration.md, from the table of settings and the parser of policies. A test compares the two.

extension Settings {
  /// The whole document, in Markdown; ends with a line break.
  package static func renderMarkdown() -> String {
    var text = """
      # Configuration

      Made by `micro-sidecar config --reference`; change the table of settings rather than this file.

      Flags come before variables of the environment, these before the file that `MICRO_CONFIG` names, and that before the
      defaults. Every setting has one name in three spellings: `MICRO_SERVER_NAME` in the environment, `--server_name` as a
      flag, `server_name` in the file, where `server: {name: …}` says the same. Flags and keys may have capitals and dashes. A
      variable that is empty is as good as none.

      - `micro-sidecar config` prints each value and where it came from, `micro-sidecar check-config FILE` looks for mistakes
        and starts nothing. Both exit with 64 when something is wrong, and say all of it, as a start would.
      - The file is YAML or JSON of at most 1 MiB; [`configuration.schema.json`](configuration.schema.json) is its JSON Schema
        (`micro-sidecar config --schema`). Editors that speak to a YAML language server take it with
        `# yaml-language-server: $schema=PATH` in the first line.
      - Durations are Go's: `250ms`, `5s`, `1m30s`. Sizes have a unit or are bytes: `4MiB`. Lists have commas, or are lists in the
        file.
      - **Secrets** can come from a file: for each setting marked so there is a second one with `_FILE` behind its name. Line
        ends after the value do not count. Both at once is a mistake. `config` shows the value as `***` and the file as its
        origin. Secrets of registries are [options of theirs](registries.md), with `_file` behind them.
      - Settings marked ↻ are read again on SIGHUP, when the file changes, and when a file with a secret changes
        ([more](policies.md#reload)). The others take effect with `micro-sidecar restart`.


      """
    let defaults = Settings()
    for group in SettingGroup.allCases {
      text += "## \(group.rawValue)\n\n| setting | default | value | what |\n|---|---|---|---|\n"
      for row in table where row.group == group { text += line(row, defaults) }
      text += "\n"
    }
    return text + policies() + environment()
  }

  private static func line(_ row: Setting, _ defaults: Settings) -> String {
    var name = code(row.key)
    if reloadable.contains(row.key) { name += " ↻" }
    if row.isSecret { name += " secret" }
    for alias in row.aliases { name += "<br>also \(code(alias))" }
    let value = row.holderOf == nil ? row.expected : "a path"
    return "| \(name) | \(row.format(defaults).map(code) ?? "none") | \(cell(value)) | \(cell(row.help)) |\n"
  }

  private static func policies() -> String {
    var text = """
      ## Policies

      Rules for services and endpoints, in the file only: `policies` is a list of them. [policies.md](policies.md) has examples and
      says how rules add up. They are read again like settings marked ↻.

      | field | default | value | what |
      |---|---|---|---|

      """
    text += lines(of: PolicyParser.fields(), "policies[0].") { PolicyParser.serviceFields.contains($0) }
    text += """

      Fields marked `service` hold for a service as a whole: a rule with `endpoint` cannot have them.

      ## Calls to the app

      The file's `inbound`:

      | field | default | value | what |
      |---|---|---|---|

      """
    text += lines(of: InboundPolicy.fields(), "inbound.") { _ in false }
    return text + "\n"
  }

  private static func lines(
    of fields: [PolicyField], _ prefix: String, isOfService: (String) -> Bool
  ) -> String {
    var text = ""
    var seen: Set<String> = []
    for field in fields where field.place.hasPrefix(prefix) {
      guard let meaning = PolicyReference.meanings[field.place], seen.insert(field.place).inserted else { continue }
      let name = String(field.place.dropFirst(prefix.count))
      let first = String(name.prefix { $0 != "." && $0 != "[" })
      let value =
        switch field.form {
        case .value(_, let expected): cell(expected)
        case .mapping(let words): "a mapping" + words.map { ", or \(code($0))" }.joined()
        case .list(let limit, let words): "a list of up to \(limit)" + words.map { ", or \(code($0))" }.joined()
        case .texts: "a mapping of texts"
        }
      let shown = name.replacing("[0]", with: "[]")
      let standard = meaning.standard.isEmpty ? "" : cell(meaning.standard)
      text +=
        "| \(code(shown))\(isOfService(first) ? " service" : "") | \(standard) | \(value) | \(cell(meaning.help)) |\n"
    }
    return text
  }

  private static func environment() -> String {
    let ignored = ignorable.sorted().map(code).joined(separator: ", ")
    let refused = unsupported.sorted { $0.key < $1.key }.map { "| \(code($0.key)) | \(cell($0.value.reason)) |\n" }
    return """
      ## What else is in the environment

      A name that begins with \(ownPrefixes.map { code($0) }.joined(separator: ", ")) and is not above is a mistake. Other `MICRO_` names
      are go-micro's own and let be: \(ignored). Set to anything but `false` and the like these stop the start, since
      going on without them would not be what was asked for:

      | setting | why |
      |---|---|
      \(refused.joined())
      """
  }

  private static func code(_ text: String) -> String { "`\(cell(text))`" }

  /// What a table of Markdown takes.
  private static func cell(_ text: String) -> String { text.replacing("|", with: "\\|").replacing("\n", with: " ") }
}

extension String {
  /// Foundation has it, and it is not here.
  fileprivate func replacing(_ old: String, with new: String) -> String {
    var text = ""
    var rest = self[...]
    while let first = rest.first {
      if rest.hasPrefix(old) {
        text += new
        rest = rest.dropFirst(old.count)
      } else {
        text.append(first)
        rest = rest.dropFirst()
      }
    }
    return text
  }
}
