// The registry model as JSON, in the spelling every go-micro generation writes and reads (registry/service.go @ v0.14.0,
// registry/registry.go @ v6.10.0): lower-case keys, none left out, `null` for what is empty. Keys are read in any case
// of letters, as encoding/json does.
//
// The node's address has two shapes. Up to v1.7 host and port are apart; from v1.8 they are one string. Both are read.
// When written, *joined* is understood by the RPC clients of every version; *split* only by those up to v1.7, whose
// http broker and gateways need it.

/// How a node's address is written.
public enum NodeAddressForm: String, Sendable, CaseIterable {
  /// `"address":"10.0.0.5:9090"`: v1.8 and later, and the RPC clients before.
  case joined
  /// `"address":"10.0.0.5","port":9090`: up to v1.7. An address without a port is written with port 0.
  case split
}

extension Service {
  /// Reads a service. Errors: `WireError` naming the key whose value has the wrong type, and for a missing name.
  /// Unknown keys are ignored.
  public init(json: JSONValue) throws(WireError) {
    try JSONShape.expectObject(json, "service")
    self.init(
      name: try JSONShape.string(json, "name", of: "service"),
      version: try JSONShape.string(json, "version", of: "service"),
      metadata: try JSONShape.metadata(json, of: "service"),
      endpoints: try JSONShape.list(json, "endpoints", of: "service", Endpoint.init(json:)),
      nodes: try JSONShape.list(json, "nodes", of: "service", Node.init(json:)))
    if name.isEmpty { throw WireError("service: a name is missing") }
  }

  public func json(addressForm: NodeAddressForm = .joined) -> JSONValue {
    [
      "name": .string(name), "version": .string(version), "metadata": JSONShape.json(metadata),
      "endpoints": JSONShape.json(endpoints) { $0.json() },
      "nodes": JSONShape.json(nodes) { $0.json(addressForm: addressForm) },
    ]
  }
}

extension Node {
  /// Reads a node of either generation; a `port` above 0 is joined to the address. Errors as for `Service`, and for a
  /// port above 65535.
  public init(json: JSONValue) throws(WireError) {
    try JSONShape.expectObject(json, "node")
    let address = try JSONShape.string(json, "address", of: "node")
    var port = 0
    if let value = json.value(ignoringCase: "port"), !value.isNull {
      guard let number = value.intValue, (0...65535).contains(number) else {
        throw WireError("node: port must be a number from 0 to 65535")
      }
      port = number
    }
    self.init(
      id: try JSONShape.string(json, "id", of: "node"),
      address: port > 0 ? Node.join(host: address, port: port) : address,
      metadata: try JSONShape.metadata(json, of: "node"))
  }

  public func json(addressForm: NodeAddressForm = .joined) -> JSONValue {
    switch addressForm {
    case .joined:
      return ["id": .string(id), "address": .string(address), "metadata": JSONShape.json(metadata)]
    case .split:
      // v0.14 dials "address:port" as text, so an IPv6 host keeps its brackets. A port of 0 means none there, so one
      // that is written out stays with the address.
      var (host, port) = Node.splitHostPort(address) ?? (address, 0)
      if port == 0 { host = address }
      return [
        "id": .string(id), "address": .string(host), "port": JSONValue(port), "metadata": JSONShape.json(metadata),
      ]
    }
  }

  /// `host:port`, with brackets around an IPv6 host that has none. A host that already ends in this port stays as it is.
  public static func join(host: String, port: Int) -> String {
    if let split = splitHostPort(host), split.port == port { return host }
    return host.contains(":") && !host.hasPrefix("[") ? "[\(host)]:\(port)" : "\(host):\(port)"
  }

  /// The parts of `host:port` or `[v6]:port`, brackets kept; nil for anything else, such as a bare host, a bare IPv6
  /// address or the queue name of a bus transport.
  public static func splitHostPort(_ address: String) -> (host: String, port: Int)? {
    guard let colon = address.lastIndex(of: ":") else { return nil }
    let host = address[..<colon]
    let digits = address[address.index(after: colon)...]
    // `08` would come back as `8`.
    guard !digits.isEmpty, digits.utf8.allSatisfy({ $0 &- UInt8(ascii: "0") < 10 }), let port = Int(digits),
      port <= 65535, digits.count == 1 || digits.first != "0"
    else { return nil }
    guard !host.contains(":") || (host.hasPrefix("[") && host.hasSuffix("]")) else { return nil }
    return (String(host), port)
  }
}

extension Endpoint {
  /// Reads an endpoint. Errors as for `Service`.
  public init(json: JSONValue) throws(WireError) {
    try JSONShape.expectObject(json, "endpoint")
    self.init(
      name: try JSONShape.string(json, "name", of: "endpoint"),
      request: try JSONShape.optional(json, "request", Value.init(json:)),
      response: try JSONShape.optional(json, "response", Value.init(json:)),
      metadata: try JSONShape.metadata(json, of: "endpoint"))
  }

  public func json() -> JSONValue {
    [
      "name": .string(name), "request": request?.json() ?? .null, "response": response?.json() ?? .null,
      "metadata": JSONShape.json(metadata),
    ]
  }
}

extension Value {
  /// Reads the shape of a message. Errors as for `Service`.
  public init(json: JSONValue) throws(WireError) {
    try JSONShape.expectObject(json, "value")
    self.init(
      name: try JSONShape.string(json, "name", of: "value"), type: try JSONShape.string(json, "type", of: "value"),
      values: try JSONShape.list(json, "values", of: "value", Value.init(json:)))
  }

  public func json() -> JSONValue {
    ["name": .string(name), "type": .string(type), "values": JSONShape.json(values) { $0.json() }]
  }
}

/// Reads and writes the few shapes the model is made of.
private enum JSONShape {
  static func expectObject(_ json: JSONValue, _ what: String) throws(WireError) {
    guard case .object = json else { throw WireError("\(what): an object is expected") }
  }

  static func string(_ json: JSONValue, _ key: String, of what: String) throws(WireError) -> String {
    guard let value = json.value(ignoringCase: key), !value.isNull else { return "" }
    guard let text = value.stringValue else { throw WireError("\(what): \(key) must be a string") }
    return text
  }

  static func metadata(_ json: JSONValue, of what: String) throws(WireError) -> [String: String] {
    guard let value = json.value(ignoringCase: "metadata"), !value.isNull else { return [:] }
    guard let members = value.objectValue else { throw WireError("\(what): metadata must be an object") }
    var metadata: [String: String] = [:]
    for member in members {
      switch member.value {
      case .string(let text): metadata[member.key] = text
      case .null: metadata[member.key] = ""
      case .bool, .number, .array, .object:
        throw WireError("\(what): the metadata's values must be strings")
      }
    }
    return metadata
  }

  /// Null entries are skipped: Go writes a nil pointer in a slice so.
  static func list<Element>(
    _ json: JSONValue, _ key: String, of what: String, _ read: (JSONValue) throws(WireError) -> Element
  ) throws(WireError) -> [Element] {
    guard let value = json.value(ignoringCase: key), !value.isNull else { return [] }
    guard let elements = value.arrayValue else { throw WireError("\(what): \(key) must be an array") }
    var result: [Element] = []
    for element in elements where !element.isNull { result.append(try read(element)) }
    return result
  }

  static func optional<Element>(
    _ json: JSONValue, _ key: String, _ read: (JSONValue) throws(WireError) -> Element
  ) throws(WireError) -> Element? {
    guard let value = json.value(ignoringCase: key), !value.isNull else { return nil }
    return try read(value)
  }

  static func json(_ metadata: [String: String]) -> JSONValue {
    if metadata.isEmpty { return .null }
    return .object(metadata.sorted { $0.key < $1.key }.map { JSONValue.Member($0.key, .string($0.value)) })
  }

  static func json<Element>(_ elements: [Element], _ write: (Element) -> JSONValue) -> JSONValue {
    elements.isEmpty ? .null : .array(elements.map(write))
  }
}
