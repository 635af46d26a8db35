// `micro-sidecar explain` for people.

import SidecarCore

extension Formats {
  /// What `/explain` says, as a table of nodes with the rules above it. JSON: the answer itself.
  static func explanation(_ value: JSONValue, _ output: OutputFormat, _ style: Style) -> String {
    if output == .json { return document(value) }
    let call = value["call"] ?? .null
    let selection = value["selection"] ?? .null
    var lines: [String] = []
    lines.append("service   \(word(value["service"]))")
    lines.append("endpoint  \(word(value["endpoint"]))" + (value["stream"] == .bool(true) ? " (a stream)" : ""))
    if let path = value["path"] { lines.append("path      \(word(path)) in namespace \(word(value["namespace"]))") }
    if value["stale"] == .bool(true) {
      lines.append(style.paint("its registries are away; these are the last nodes known", .yellow))
    }
    lines.append(
      "time      \(word(call["timeout_ms"])) ms a call, \(word(call["attempt_timeout_ms"], none: "the same")) "
        + "an attempt, \(word(call["connect_timeout_ms"])) ms a dial")
    lines.append(
      "retries   \(word(call["retries"])) (\(word(call["retries_as"]))); the budget pays for "
        + "\(word(call["retry_budget"])) now; idempotent: \(call["idempotent"] == .bool(true) ? "yes" : "no"), "
        + "\(word(call["idempotent_because"]))")
    if let hedge = call["hedge_after_ms"], hedge != .null { lines.append("hedge     after \(word(hedge)) ms") }
    let filters = selection["filters"]?.arrayValue?.map { word($0) } ?? []
    lines.append(
      "selector  \(word(selection["selector"])), \(word(selection["usable"])) nodes usable"
        + (filters.isEmpty ? "" : ", only \(filters.joined(separator: ", "))")
        + (selection["panicking"] == .bool(true) ? ", ejected ones too because so few are left" : ""))
    lines.append(
      "calls     \(word(selection["in_flight"])) of \(word(selection["in_flight_max"])) under way, "
        + "\(word(selection["waiting"])) of \(word(selection["waiting_max"])) waiting")
    lines.append("")
    let nodes = value["candidates"]?.arrayValue ?? []
    if nodes.isEmpty { lines.append("no node can be called") }
    let header = ["NODE", "ADDRESS", "VERSION", "DIALECT", "WEIGHT", "CALLS", "LATENCY", "SCORE", "STATE"]
    let rows = nodes.map { node in
      [
        word(node["id"]), word(node["address"]), word(node["version"]), word(node["dialect"]), word(node["weight"]),
        word(node["in_flight"]), word(node["latency_ms"], none: "-", unit: " ms"), word(node["score"], none: "-"),
        node["excluded"] == .null ? word(node["standing"]) : word(node["excluded"]),
      ]
    }
    if !rows.isEmpty { lines.append(TextTable.render([header] + rows).trimmingLineEnd) }
    for node in value["uncallable"]?.arrayValue ?? [] {
      lines.append("not callable: \(word(node["id"])) at \(word(node["address"])): \(word(node["reason"]))")
    }
    return lines.joined(separator: "\n") + "\n"
  }

  private static func word(_ value: JSONValue?, none: String = "-", unit: String = "") -> String {
    switch value {
    case nil, .null?: none
    case .bool(let value)?: value ? "yes" : "no"
    case .number(let digits)?: digits + unit
    case .string(let text)?: safe(text)
    case .array?, .object?: none
    }
  }
}
