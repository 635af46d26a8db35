// The JSON Schema (draft 2020-12) of the configuration file, made from what reads that file: the table of settings, and the
// questions that the parser of policies asks. Editors complete and check files with it; `check-config` knows more, such as
// the bounds of durations and what contradicts what.
//
// A setting's key may be cut into mappings at every `_`: `server_name` is `server: {name: …}`. So each beginning of a key
// that ends at a `_` is a group, a definition of its own.

package enum ConfigurationSchema {
  package static let dialect = "https://json-schema.org/draft/2020-12/schema"

  package static func document() -> JSONValue {
    var definitions: [JSONValue.Member] = []
    for (name, row) in names { definitions.append(JSONValue.Member("setting." + name, setting(row, name))) }
    for group in groups { definitions.append(JSONValue.Member("group." + group, self.group(group + "_"))) }
    var members = properties("")
    members.append(JSONValue.Member("policies", rules()))
    members.append(JSONValue.Member("inbound", tree(InboundPolicy.fields(), "inbound")))
    return [
      "$schema": .string(dialect), "title": "The configuration file of micro-sidecar",
      "description":
        "Names are lower-case with underscores here; micro-sidecar also takes capitals and dashes. Settings may stand in mappings: server_name, or name within server.",
      "type": ["object", "null"], "properties": .object(members), "additionalProperties": false,
      "$defs": .object(definitions),
    ]
  }

  // MARK: Settings

  /// Keys of the file, sorted; those of a setting's older names too.
  private static let names: [(name: String, row: Setting)] = Settings.byName.filter { $0.value.key != "MICRO_CONFIG" }
    .map { ($0.key, $0.value) }.sorted { $0.name < $1.name }

  private static let groups: [String] = {
    var groups: Set<String> = []
    for (name, _) in names {
      for index in name.indices where name[index] == "_" { groups.insert(String(name[..<index])) }
    }
    return groups.sorted()
  }()

  private static func setting(_ row: Setting, _ name: String) -> JSONValue {
    var members = [JSONValue.Member("description", .string(row.help + " (\(row.key))"))]
    if name != row.name { members.append(JSONValue.Member("deprecated", true)) }
    if let standard = row.format(Settings()) { members.append(JSONValue.Member("default", .string(standard))) }
    members.append(JSONValue.Member("anyOf", .array(row.shape.alternatives + [["type": "null"]])))
    return .object(members)
  }

  private static func group(_ prefix: String) -> JSONValue {
    ["type": "object", "properties": .object(properties(prefix)), "additionalProperties": false]
  }

  /// What may follow `prefix`, which is empty or ends with `_`.
  private static func properties(_ prefix: String) -> [JSONValue.Member] {
    var found: [String: [JSONValue]] = [:]
    for (name, _) in names where name.hasPrefix(prefix) && name != prefix {
      found[String(name.dropFirst(prefix.count)), default: []].append(["$ref": .string("#/$defs/setting." + name)])
    }
    for group in groups where group.hasPrefix(prefix) {
      found[String(group.dropFirst(prefix.count)), default: []].append(["$ref": .string("#/$defs/group." + group)])
    }
    return found.sorted { $0.key < $1.key }.map { JSONValue.Member($0.key, JSONValue.anyOf($0.value)) }
  }

  // MARK: Policies

  private static func rules() -> JSONValue {
    let rule = tree(PolicyParser.fields(), "policies[0]", nullable: false)
    let refused = PolicyParser.serviceFields.map { JSONValue.Member($0, .bool(false)) }
    guard case .object(let members) = rule else { return rule }
    let whole = JSONValue.object(
      members + [
        JSONValue.Member("dependentSchemas", ["endpoint": ["properties": .object(refused)]])
      ])
    return ["type": ["array", "null"], "maxItems": .number("\(PolicyParser.rulesMax)"), "items": whole]
  }

  /// The schema of what stands at `place`, from all fields.
  private static func tree(_ fields: [PolicyField], _ place: String, nullable: Bool = true) -> JSONValue {
    let own = fields.filter { $0.place == place }
    let below = fields.filter { $0.place.hasPrefix(place + ".") }
    var alternatives: [JSONValue] = []
    var isThere = !nullable
    for field in own {
      if field.isRequired { isThere = true }
      switch field.form {
      case .value(let shape, _): alternatives += shape.alternatives
      case .texts: alternatives.append(["type": "object", "additionalProperties": SettingShape.scalar])
      case .mapping(let words): if !words.isEmpty { alternatives += SettingShape.any(of: words) }
      case .list(let limit, let words):
        alternatives.append([
          "type": "array", "maxItems": .number("\(limit)"), "items": tree(fields, place + "[0]", nullable: false),
        ])
        if !words.isEmpty { alternatives += SettingShape.any(of: words) }
      }
    }
    if !below.isEmpty { alternatives.insert(mapping(fields, place, below), at: 0) }
    if !isThere { alternatives.append(["type": "null"]) }
    return JSONValue.anyOf(alternatives)
  }

  private static func mapping(_ fields: [PolicyField], _ place: String, _ below: [PolicyField]) -> JSONValue {
    var members: [JSONValue.Member] = []
    var required: [JSONValue] = []
    var seen: Set<String> = []
    for field in below {
      let name = String(field.place.dropFirst(place.count + 1).prefix { $0 != "." && $0 != "[" })
      guard seen.insert(name).inserted else { continue }
      if field.isRequired { required.append(.string(name)) }
      var schema = tree(fields, place + "." + name)
      if let meaning = PolicyReference.meanings[place + "." + name], case .object(let parts) = schema {
        schema = .object([JSONValue.Member("description", .string(meaning.help))] + parts)
      }
      members.append(JSONValue.Member(name, schema))
    }
    var parts = [
      JSONValue.Member("type", "object"), JSONValue.Member("properties", .object(members)),
      JSONValue.Member("additionalProperties", false),
    ]
    if !required.isEmpty { parts.append(JSONValue.Member("required", .array(required))) }
    return .object(parts)
  }
}
