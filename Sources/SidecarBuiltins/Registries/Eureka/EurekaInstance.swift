// An instance as Eureka's REST API has it in JSON, and the node it stands for (go-plugins registry/eureka @ v0.16.0;
// wire/registry-broker.md §8): app = service, metadata `version`, `instanceId` (the node's id), `endpoints` and `metadata`,
// which are JSON in strings.
//
// Eureka writes application names in capitals, and go-micro's readers make them small letters. A name that is not in small
// letters is kept in the metadata `name`, which other readers leave alone.

import SidecarCore

struct EurekaInstance {
  /// Seconds of the lease of what is to stay.
  static let leaseSecondsMax: Int64 = 365 * 86_400

  var app: String
  var id: String
  var status: String
  /// Nil for an instance that is no node of go-micro's.
  var service: Service?

  // MARK: Reading

  /// Errors: `WireError` for what is no instance. `takesForeign`: instances of other frameworks are services too.
  init(json: JSONValue, takesForeign: Bool) throws(WireError) {
    guard let app = json["app"]?.stringValue, !app.isEmpty else { throw WireError("an instance has no app") }
    self.app = app.lowercased()
    let host = json["hostName"]?.stringValue ?? ""
    id = json["instanceId"]?.stringValue ?? host
    status = json["status"]?.stringValue ?? "UP"
    guard !id.isEmpty else { throw WireError("an instance has neither an id nor a host") }
    let metadata = json["metadata"]
    let version = metadata?["version"]?.stringValue ?? ""
    guard !version.isEmpty || takesForeign, status == "UP" else { return }
    guard let address = Self.address(json), !address.isEmpty else { throw WireError("an instance has no address") }
    var name = self.app
    if let kept = metadata?["name"]?.stringValue, kept.lowercased() == name { name = kept }
    var node = Node(id: metadata?["instanceId"]?.stringValue ?? id, address: address)
    var service = Service(name: name, version: version.isEmpty ? "latest" : version)
    if let text = metadata?["metadata"]?.stringValue {
      for member in try JSONValue(parsing: text).objectValue ?? [] {
        node.metadata[member.key] = member.value.stringValue
      }
    }
    if let text = metadata?["endpoints"]?.stringValue {
      for endpoint in try JSONValue(parsing: text).arrayValue ?? [] where !endpoint.isNull {
        service.endpoints.append(try Endpoint(json: endpoint))
      }
    }
    if version.isEmpty { node.metadata["protocol"] = node.metadata["protocol"] ?? "http" }
    service.nodes = [node]
    self.service = service
  }

  /// `ipAddr` and the port; later plug-ins wrote both into `ipAddr`.
  private static func address(_ json: JSONValue) -> String? {
    guard let host = [json["ipAddr"], json["hostName"]].compactMap({ $0?.stringValue }).first(where: { !$0.isEmpty })
    else { return nil }
    if Node.splitHostPort(host) != nil { return host }
    // `{"$":8080,"@enabled":"true"}`; numbers may be strings.
    let value = json["port"]?["$"] ?? json["port"]
    guard let port = value?.intValue ?? value?.stringValue.flatMap({ Int($0) }), (0...65535).contains(port) else {
      return nil
    }
    return port > 0 ? Node.join(host: host, port: port) : host
  }

  // MARK: Writing

  static func id(of node: Node) -> String { (Node.splitHostPort(node.address)?.host ?? node.address) + ":" + node.id }

  /// The body of a registration. `now` in milliseconds since 1970: of two bodies the server keeps the one with the later.
  static func json(_ node: Node, of service: Service, ttl: Duration?, now: Int64) -> JSONValue {
    let (host, port) = Node.splitHostPort(node.address) ?? (node.address, 0)
    let lease = ttl.map { max(1, $0.saturatingNanoseconds / 1_000_000_000) } ?? leaseSecondsMax
    var metadata: [JSONValue.Member] = [
      .init("version", .string(service.version)), .init("instanceId", .string(node.id)),
      .init("endpoints", .string(JSONValue.array(service.endpoints.map { $0.json() }).text())),
      .init(
        "metadata",
        .string(
          JSONValue.object(node.metadata.sorted { $0.key < $1.key }.map { .init($0.key, .string($0.value)) }).text())),
    ]
    if service.name != service.name.lowercased() { metadata.append(.init("name", .string(service.name))) }
    return [
      "instance": [
        "instanceId": .string(id(of: node)), "hostName": .string(host), "app": .string(service.name.uppercased()),
        "ipAddr": .string(host), "vipAddress": .string(host), "status": "UP",
        "port": ["$": JSONValue(port), "@enabled": "true"], "securePort": ["$": "443", "@enabled": "false"],
        "dataCenterInfo": [
          "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn",
        ],
        "leaseInfo": [
          "renewalIntervalInSecs": JSONValue(max(1, lease / 3)), "durationInSecs": JSONValue(lease),
        ],
        "metadata": .object(metadata), "lastDirtyTimestamp": .string("\(now)"),
      ]
    ]
  }
}
