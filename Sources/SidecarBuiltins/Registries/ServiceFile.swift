// The file of the `file` registry: services written by hand, or go-micro's own JSON.
//
//   greeter:                              # service name; a file may also be a list of services with a `name` each
//     version: "2"                        # "latest" when left out
//     metadata: { team: blue }
//     endpoints: [ Say.Hello ]            # names, or go-micro's endpoint objects
//     nodes:
//       - 10.0.0.7:8080                   # an address alone; its id is then greeter-10.0.0.7:8080
//       - address: 10.0.0.8:8080
//         id: greeter-8
//         metadata: { protocol: mucp }
//   clock: 10.0.0.9:8080                  # a service of one node
//   mailer: [ 10.0.0.4:80, 10.0.0.5:80 ]  # a service of nodes and nothing else
//
// Everything may also stand under one key `services`. Keys may be written in any case, as go-micro writes them. A key that
// is not known is an error: a misspelt `adress` must not make a node vanish.

import SidecarCore

/// Reads services from the tree of a file. Errors name the place: `greeter.nodes[1].address`.
struct ServiceFile {
  let services: [Service]

  init(_ root: JSONValue) throws(ConfigurationError) {
    var services: [Service] = []
    try Self.readAll(root, at: "", into: &services)
    var seen: Set<[String]> = []
    for service in services where !seen.insert([service.name, service.version]).inserted {
      throw ConfigurationError("service \(service.name) version \(service.version) is there twice")
    }
    for service in services {
      var ids: Set<String> = []
      for node in service.nodes where !ids.insert(node.id).inserted {
        throw ConfigurationError("service \(service.name) has two nodes of id \(node.id)")
      }
    }
    self.services = services
  }

  private static func readAll(
    _ value: JSONValue, at path: String, into services: inout [Service]
  ) throws(ConfigurationError) {
    switch value {
    case .array(let items):
      for (index, item) in items.enumerated() {
        services.append(try service(item, name: nil, at: "\(path)[\(index)]"))
      }
    case .object(let members):
      if path.isEmpty, members.count == 1, members[0].key.lowercased() == "services" {
        try readAll(members[0].value, at: "services", into: &services)
      } else if value.value(ignoringCase: "name")?.stringValue != nil, value.value(ignoringCase: "nodes") != nil {
        services.append(try service(value, name: nil, at: path))
      } else {
        for member in members {
          let place = path.isEmpty ? member.key : "\(path).\(member.key)"
          if case .array(let versions) = member.value, versions.contains(where: isService) {
            for (index, version) in versions.enumerated() {
              services.append(try service(version, name: member.key, at: "\(place)[\(index)]"))
            }
          } else {
            services.append(try service(member.value, name: member.key, at: place))
          }
        }
      }
    case .null, .bool, .number, .string:
      throw ConfigurationError("expected a list or a map of services; an empty one is written {}")
    }
  }

  /// A list below a service's name holds nodes, or versions of it: those have nodes of their own.
  private static func isService(_ value: JSONValue) -> Bool { value.value(ignoringCase: "nodes") != nil }

  private static func service(
    _ value: JSONValue, name: String?, at path: String
  ) throws(ConfigurationError) -> Service {
    var service = Service(name: name ?? "")
    switch value {
    case .string, .array: service.nodes = try nodes(value, of: service.name, at: path)
    case .object(let members):
      try known(members, ["name", "version", "metadata", "endpoints", "nodes"], at: path)
      for member in members where !member.value.isNull {
        let place = "\(path).\(member.key)"
        switch member.key.lowercased() {
        case "name": service.name = try text(member.value, at: place)
        case "version": service.version = try text(member.value, at: place)
        case "metadata": service.metadata = try metadata(member.value, at: place)
        case "endpoints": service.endpoints = try endpoints(member.value, at: place)
        default: break
        }
      }
      if let name, service.name != name {
        throw ConfigurationError("\(path).name: is \(service.name), but the service stands under \(name)")
      }
      if let value = value.value(ignoringCase: "nodes"), !value.isNull {
        service.nodes = try nodes(value, of: service.name, at: "\(path).nodes")
      }
    case .null, .bool, .number:
      throw ConfigurationError("\(path): expected a service: an address, a list of addresses, or a map with nodes")
    }
    guard !service.name.isEmpty else { throw ConfigurationError("\(path): a service needs a name") }
    if let skip = service.problem() { throw ConfigurationError("\(path): \(skip)") }
    return service
  }

  private static func nodes(
    _ value: JSONValue, of service: ServiceName, at path: String
  ) throws(ConfigurationError) -> [Node] {
    guard case .array(let items) = value else { return [try node(value, of: service, at: path)] }
    var nodes: [Node] = []
    for (index, item) in items.enumerated() { nodes.append(try node(item, of: service, at: "\(path)[\(index)]")) }
    return nodes
  }

  private static func node(
    _ value: JSONValue, of service: ServiceName, at path: String
  ) throws(ConfigurationError) -> Node {
    var node = Node(id: "", address: "")
    switch value {
    case .string(let address): node.address = address
    case .object(let members):
      try known(members, ["id", "address", "port", "metadata"], at: path)
      var port: Int?
      for member in members where !member.value.isNull {
        let place = "\(path).\(member.key)"
        switch member.key.lowercased() {
        case "id": node.id = try text(member.value, at: place)
        case "address": node.address = try text(member.value, at: place)
        case "port":
          guard let number = member.value.intValue, (0...65535).contains(number) else {
            throw ConfigurationError("\(place): expected a port from 0 to 65535")
          }
          port = number
        default: node.metadata = try metadata(member.value, at: place)
        }
      }
      if let port, port > 0 { node.address = Node.join(host: node.address, port: port) }
    case .null, .bool, .number, .array:
      throw ConfigurationError("\(path): expected a node: host:port, or a map with an address")
    }
    guard !node.address.isEmpty else { throw ConfigurationError("\(path): a node needs an address like host:port") }
    if node.id.isEmpty { node.id = "\(service)-\(node.address)" }
    return node
  }

  private static func endpoints(_ value: JSONValue, at path: String) throws(ConfigurationError) -> [Endpoint] {
    guard case .array(let items) = value else { throw ConfigurationError("\(path): expected a list of endpoints") }
    var endpoints: [Endpoint] = []
    for (index, item) in items.enumerated() {
      if case .string(let name) = item {
        endpoints.append(Endpoint(name: name))
        continue
      }
      do throws(WireError) {
        endpoints.append(try Endpoint(json: item))
      } catch {
        throw ConfigurationError("\(path)[\(index)]: \(error.rule)")
      }
    }
    return endpoints
  }

  private static func metadata(_ value: JSONValue, at path: String) throws(ConfigurationError) -> [String: String] {
    guard case .object(let members) = value else { throw ConfigurationError("\(path): expected a map of texts") }
    var metadata: [String: String] = [:]
    for member in members { metadata[member.key] = try text(member.value, at: "\(path).\(member.key)") }
    return metadata
  }

  /// YAML reads `version: 2` as a number and `stream: true` as a truth: both are meant as they are written.
  private static func text(_ value: JSONValue, at path: String) throws(ConfigurationError) -> String {
    switch value {
    case .string(let text), .number(let text): text
    case .bool(let flag): flag ? "true" : "false"
    case .null: ""
    case .array, .object: throw ConfigurationError("\(path): expected a text")
    }
  }

  private static func known(
    _ members: [JSONValue.Member], _ keys: [String], at path: String
  ) throws(ConfigurationError) {
    for member in members where !keys.contains(member.key.lowercased()) {
      throw ConfigurationError(
        "\(path): unknown key \(member.key); known: \(keys.sorted().joined(separator: ", "))")
    }
  }
}

extension Service {
  /// What the catalog would skip this entry for, so that the person who wrote it is told at once; nil when all is well.
  func problem() -> String? {
    var view = RegistryView()
    var dirty: Set<ServiceName> = []
    return view.upsert(self, dirty: &dirty).first?.rule
  }
}
