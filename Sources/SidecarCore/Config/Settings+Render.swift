// What `micro-sidecar config`, the admin listener and the help print of the table.

extension Settings {
  package enum RenderFormat: Sendable { case text, json }

  /// Each value in use and where it came from, in the order of the table, passwords masked. Text: three columns, then
  /// what is ignored and warnings. JSON: `{"settings":[{"key","flag","value","source","from"}],"policies","inbound","ignored","warnings"}`,
  /// values as the environment would spell them, null where there is none. Ends with a line break.
  package func render(_ format: RenderFormat) -> String {
    switch format {
    case .text: renderText()
    case .json: json().text(layout: .tabbed, escaping: .plain) + "\n"
    }
  }

  private func renderText() -> String {
    var rows = Self.table.map { row in
      [row.key, shownValue(row) ?? "-", origins[row.key]?.description ?? "default"]
    }
    for (index, rule) in policyRules.enumerated() {
      rows.append(["policies[\(index)]", rule.written.text(), Self.placed(origins["policies"], "[\(index)]")])
    }
    if inboundPolicy.written != .null {
      rows.append(["inbound", inboundPolicy.written.text(), Self.placed(origins["inbound"], "")])
    }
    var text = TextTable.render(rows)
    if !ignored.isEmpty { text += "\nignored: \(ignored.joined(separator: ", "))\n" }
    for warning in warnings { text += "\nwarning: \(warning)\n" }
    return text
  }

  package func json() -> JSONValue {
    let rows = Self.table.map { row in
      let origin = origins[row.key]
      return [
        "key": .string(row.key), "flag": row.key.hasPrefix("MICRO_") ? .string(row.flag) : .null,
        "value": shownValue(row).map { .string($0) } ?? .null, "source": .string(origin?.kind ?? "default"),
        "from": origin.map { .string($0.place) } ?? .null,
      ] as JSONValue
    }
    return [
      "settings": .array(rows), "policies": .array(policyRules.map(\.written)), "inbound": inboundPolicy.written,
      "ignored": .array(ignored.map { .string($0) }),
      "warnings": .array(warnings.map { .string($0) }),
    ]
  }

  private static func placed(_ source: SettingSource?, _ suffix: String) -> String {
    (source?.description ?? "default") + suffix
  }

  private func shownValue(_ row: Setting) -> String? { row.format(self).map { row.shown($0) } }

  /// The table for the help: groups, then a line with flag, key and default and one of explanation for each setting.
  package static func renderReference() -> String {
    let defaults = Settings()
    var text = ""
    for group in SettingGroup.allCases {
      text += "\(group.rawValue)\n"
      for row in table where row.group == group {
        let names = row.key.hasPrefix("MICRO_") ? "\(row.flag), \(row.key)" : row.key
        text += "  \(names)\(row.format(defaults).map { " (\($0))" } ?? "")\n      \(row.help)\n"
      }
      text += "\n"
    }
    return text
  }
}

extension SettingSource {
  /// The name or place without the kind of source.
  fileprivate var place: String {
    switch self {
    case .flag(let name), .environment(let name): name
    case .file(let path, let key): "\(path): \(key)"
    case .commandLine, .combination: ""
    }
  }
}

/// Columns of text.
package enum TextTable {
  /// Two spaces between columns, each as wide as its widest cell but for the last; every row on a line of its own.
  package static func render(_ rows: [[String]]) -> String {
    var widths: [Int] = []
    for row in rows {
      for (column, cell) in row.enumerated() {
        if column == widths.count { widths.append(0) }
        widths[column] = max(widths[column], cell.count)
      }
    }
    var text = ""
    for row in rows {
      for (column, cell) in row.enumerated() {
        text += cell
        if column < row.count - 1 { text += String(repeating: " ", count: widths[column] - cell.count + 2) }
      }
      text += "\n"
    }
    return text
  }
}
