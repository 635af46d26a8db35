// go-micro's registry model (go-micro registry/service.go @ v0.14.0 … registry/registry.go @ v6.10.0), the same in all
// generations but for the node's port.

/// The name services are registered and called under, such as `go.micro.srv.greeter`.
public typealias ServiceName = String

/// One version of a service and its nodes, as a registry knows it.
public struct Service: Hashable, Sendable {
  public var name: ServiceName
  public var version: String
  public var metadata: [String: String]
  public var endpoints: [Endpoint]
  public var nodes: [Node]

  public init(
    name: ServiceName, version: String = "latest", metadata: [String: String] = [:], endpoints: [Endpoint] = [],
    nodes: [Node] = []
  ) {
    self.name = name
    self.version = version
    self.metadata = metadata
    self.endpoints = endpoints
    self.nodes = nodes
  }
}

/// One running instance.
public struct Node: Hashable, Sendable {
  /// Unique in the system; go-micro's is `<service name>-<uuid>`.
  public var id: String
  /// `host:port` (IPv6 in brackets), or what a bus transport uses instead, such as a queue name.
  public var address: String
  public var metadata: [String: String]

  public init(id: String, address: String, metadata: [String: String] = [:]) {
    self.id = id
    self.address = address
    self.metadata = metadata
  }
}

/// A method of a service, described for people and for JSON.
public struct Endpoint: Hashable, Sendable {
  /// `Handler.Method`
  public var name: String
  public var request: Value?
  public var response: Value?
  public var metadata: [String: String]

  public init(name: String, request: Value? = nil, response: Value? = nil, metadata: [String: String] = [:]) {
    self.name = name
    self.request = request
    self.response = response
    self.metadata = metadata
  }

  /// A subscriber rather than a method.
  public var isSubscriber: Bool { metadata["subscriber"] == "true" }
}

/// The shape of a request or response: a field and the fields inside it.
public struct Value: Hashable, Sendable {
  public var name: String
  public var type: String
  public var values: [Value]

  public init(name: String, type: String, values: [Value] = []) {
    self.name = name
    self.type = type
    self.values = values
  }
}
