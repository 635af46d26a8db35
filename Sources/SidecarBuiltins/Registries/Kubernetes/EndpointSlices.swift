// Services as Kubernetes itself knows them: the EndpointSlices (discovery.k8s.io/v1) of every Service, for systems whose
// services do not register. A Service may say what go-micro's registry would, by labels that Kubernetes copies to its
// slices:
//
//   micro.mu/name      the service's name, where it is not the Service's with the `prefix` option before it
//   micro.mu/version   its version
//   micro.mu/protocol  what its nodes speak, where the port does not say so by `appProtocol` or its name

import SidecarCore

enum EndpointSlices {
  static let serviceLabel = "kubernetes.io/service-name"
  static let shape: JSONShape = .members([
    "metadata": .members([
      "name": .whole, "namespace": .whole, "resourceVersion": .whole, "deletionTimestamp": .whole, "labels": .whole,
    ]),
    "addressType": .whole, "endpoints": .whole, "ports": .whole,
  ])
  /// Names of ports that are preferred where there are several, in this order.
  private static let preferredPorts = ["grpc", "mucp", "micro", "http"]

  static func services(
    of slice: JSONValue, _ options: KubernetesOptions, leftOut: (String, String) -> Void
  ) -> [Service] {
    guard let metadata = slice["metadata"], metadata["deletionTimestamp"]?.isNull ?? true,
      let labels = metadata["labels"], let plain = labels[serviceLabel]?.stringValue, !plain.isEmpty
    else { return [] }
    let namespace = options.namespace == "*" ? metadata["namespace"]?.stringValue.map { "." + $0 } ?? "" : ""
    let name = labels["micro.mu/name"]?.stringValue ?? options.prefix + plain + namespace
    guard let port = port(of: slice, options), let number = port["port"]?.intValue, (1...65535).contains(number) else {
      // Headless Services have no port, and those of UDP none of ours.
      leftOut((metadata["namespace"]?.stringValue ?? "") + "/" + plain, "the Service has no TCP port to be used")
      return []
    }
    let nodeProtocol = labels["micro.mu/protocol"]?.stringValue ?? options.nodeProtocol ?? spoken(port)
    var nodes: [Node] = []
    for endpoint in slice["endpoints"]?.arrayValue ?? [] {
      let conditions = endpoint["conditions"]
      // Nil means ready; one that ends takes no new calls.
      guard conditions?["ready"]?.boolValue ?? true, !(conditions?["terminating"]?.boolValue ?? false) else { continue }
      guard let address = endpoint["addresses"]?[0]?.stringValue, !address.isEmpty else {
        leftOut(plain, "an endpoint has no address")
        continue
      }
      var node = Node(
        id: name + "-" + (endpoint["targetRef"]?["name"]?.stringValue ?? address),
        address: Node.join(host: address, port: number))
      if let nodeProtocol { node.metadata["protocol"] = nodeProtocol }
      if let zone = endpoint["zone"]?.stringValue { node.metadata["zone"] = zone }
      nodes.append(node)
    }
    guard !nodes.isEmpty else { return [] }
    return [Service(name: name, version: labels["micro.mu/version"]?.stringValue ?? options.version, nodes: nodes)]
  }

  private static func port(of slice: JSONValue, _ options: KubernetesOptions) -> JSONValue? {
    let ports = (slice["ports"]?.arrayValue ?? []).filter { ($0["protocol"]?.stringValue ?? "TCP") == "TCP" }
    if let wanted = options.port {
      return ports.first { $0["name"]?.stringValue == wanted || $0["port"]?.numberText == wanted }
    }
    for name in preferredPorts {
      if let port = ports.first(where: { isNamed($0["name"]?.stringValue ?? "", name) }) { return port }
    }
    return ports.first
  }

  private static func isNamed(_ port: String, _ word: String) -> Bool { port == word || port.hasPrefix(word + "-") }

  /// What a port's `appProtocol` or name says.
  private static func spoken(_ port: JSONValue) -> String? {
    let words = [port["appProtocol"]?.stringValue ?? "", port["name"]?.stringValue ?? ""]
    if words.contains(where: { isNamed($0, "grpc") }) { return "grpc" }
    if words.contains(where: { isNamed($0, "mucp") || isNamed($0, "micro") }) { return "mucp" }
    return words.contains { isNamed($0, "http") } ? "http" : nil
  }
}
