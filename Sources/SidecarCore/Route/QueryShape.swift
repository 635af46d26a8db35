// What a registry says of an endpoint's request (names and types, wire/registry-broker.md §1) gives the texts of a query
// the types its service wants: services that read JSON the Go way refuse "5" where a number belongs. Descriptors say more,
// but most services of the framework are registered with this and without those.
//
//   ?userName=ann&age=41&vip&tags=a&address.city=Rome
//   {"user_name":"ann","age":41,"vip":true,"tags":["a"],"address":{"city":"Rome"}}

enum QueryShape {
  /// `query` is an object whose values are texts, or arrays of texts. What the tree does not know, or what is not of its
  /// type, stays as it is, for the service to judge: the tree ends at the third level, and its versions may differ.
  static func shaped(_ query: JSONValue, by tree: Value) -> JSONValue {
    guard case .object(let members) = query else { return query }
    return object(members.map { ($0.key[...], $0.value) }, by: tree)
  }

  private static func object(_ fields: [(key: Substring, value: JSONValue)], by tree: Value) -> JSONValue {
    var members: [JSONValue.Member] = []
    var nested: [(tree: Value, fields: [(key: Substring, value: JSONValue)])] = []
    for field in fields {
      if let known = find(field.key, in: tree), !members.contains(where: { $0.key == known.name }) {
        members.append(.init(known.name, typed(field.value, by: known)))
      } else if let dot = field.key.firstIndex(of: "."), let known = find(field.key[..<dot], in: tree),
        !known.values.isEmpty, !known.type.hasPrefix("[]")
      {
        let rest = (field.key[field.key.index(after: dot)...], field.value)
        if let index = nested.firstIndex(where: { $0.tree.name == known.name }) {
          nested[index].fields.append(rest)
        } else {
          nested.append((known, [rest]))
        }
      } else {
        members.append(.init(String(field.key), field.value))
      }
    }
    for part in nested { members.append(.init(part.tree.name, object(part.fields, by: part.tree))) }
    return .object(members)
  }

  /// By its own name, else by one that differs in case and underscores: `userName` is `user_name`.
  private static func find(_ key: Substring, in tree: Value) -> Value? {
    if let exact = tree.values.first(where: { $0.name == key }) { return exact }
    let plain = plain(key)
    return tree.values.first { Self.plain($0.name[...]) == plain }
  }

  private static func plain(_ name: Substring) -> [UInt8] {
    name.utf8.filter { $0 != UInt8(ascii: "_") }.map(ASCIIText.lowercased)
  }

  private static func typed(_ value: JSONValue, by tree: Value) -> JSONValue {
    // Go's []byte is base64 in JSON: one text.
    if tree.type.hasPrefix("[]"), tree.type != "[]uint8", tree.type != "[]byte" {
      let element = tree.values.first ?? Value(name: "", type: String(tree.type.dropFirst(2)))
      return .array((value.arrayValue ?? [value]).map { single($0, of: element) })
    }
    if case .array(let all) = value { return .array(all.map { single($0, of: tree) }) }
    return single(value, of: tree)
  }

  private static func single(_ value: JSONValue, of tree: Value) -> JSONValue {
    guard case .string(let text) = value else { return value }
    switch tree.type {
    case "bool":
      switch text {
      case "true", "1", "": return .bool(true)
      case "false", "0": return .bool(false)
      default: return value
      }
    case "int", "int8", "int16", "int32", "int64", "uint", "uint8", "uint16", "uint32", "uint64":
      guard !text.utf8.contains(where: { $0 == UInt8(ascii: ".") || $0 | 0x20 == UInt8(ascii: "e") }) else {
        return value
      }
      return number(text) ?? value
    case "float32", "float64": return number(text) ?? value
    default:
      // A document in the place of one that the service describes.
      guard !tree.values.isEmpty, text.utf8.first == UInt8(ascii: "{") else { return value }
      return (try? JSONValue(parsing: text)) ?? value
    }
  }

  private static func number(_ text: String) -> JSONValue? {
    guard let parsed = try? JSONValue(parsing: text), let digits = parsed.numberText else { return nil }
    return .number(digits)
  }
}

extension ServiceTable {
  /// Appends the query or form in `json`, whose values are texts, as its endpoint is registered to want it. False: nothing
  /// is known of the endpoint's request.
  func appendShaped(query json: UnsafeRawBufferPointer, endpoint: String, to out: ByteBuffer) -> Bool {
    guard let tree = request(of: endpoint), let query = try? JSONValue(parsing: json) else { return false }
    QueryShape.shaped(query, by: tree).write(into: out)
    return true
  }
}
