// What one registry has said so far: services by name and version, cleaned and bounded.
//
// Rules an entry must keep, or it is skipped: a name of 1 to 255 bytes without slashes, blanks or control characters; a
// version of at most 255 bytes without control characters (empty is allowed: Consul and etcd have such); a node id of 1
// to 512 bytes without control characters; an address that `DialTarget` takes, and one without host and port only where
// the node names a bus transport that has such.

package struct RegistryView {
  /// Bounds on what one registry may make us hold. An entry beyond them is skipped and counted; what was there stays.
  package struct Limits: Sendable {
    /// Services of one registry.
    package var servicesMax = 10_000
    /// Versions of one service.
    package var versionsPerServiceMax = 128
    /// Nodes of one service, over all versions.
    package var nodesPerServiceMax = 2_000
    /// Nodes of all services of one registry.
    package var nodesMax = 100_000
    /// Bytes of a node's id, address and metadata.
    package var nodeBytesMax = 16 * 1024
    /// Bytes of a version's metadata and endpoint descriptions.
    package var versionBytesMax = 256 * 1024
    /// Levels of request and response descriptions; go-micro writes three.
    package var valueDepthMax = 16
    package init() {}
  }

  /// An entry that was not taken.
  package struct Skip: Equatable {
    package var subject: String
    package var rule: String
    package var isFull: Bool
  }

  private let limits: Limits
  private var services: [ServiceName: [String: Service]] = [:]
  private var nodeCount = 0

  package init(limits: Limits = Limits()) { self.limits = limits }

  package var names: Dictionary<ServiceName, [String: Service]>.Keys { services.keys }
  package func contains(_ name: ServiceName) -> Bool { services[name] != nil }
  /// Versions of a service; nil when it is not there.
  package subscript(name: ServiceName) -> [String: Service]? { services[name] }

  /// The nodes of `self` that `newer` lacks, of those services that lost more than half of their nodes: what a registry
  /// forgot rather than what left. A node whose address `newer` has under another id is not among them.
  package func forgotten(by newer: RegistryView) -> [Service] {
    var forgotten: [Service] = []
    for (name, versions) in services where newer.services[name] != versions {
      let known = newer.services[name] ?? [:]
      let addresses = Set(known.values.flatMap { $0.nodes.map(\.address) })
      var missing = 0
      var found: [Service] = []
      for (version, service) in versions {
        let ids = Set((known[version]?.nodes ?? []).map(\.id))
        var left = service
        left.nodes.removeAll { ids.contains($0.id) || addresses.contains($0.address) }
        missing += left.nodes.count
        if !left.nodes.isEmpty { found.append(left) }
      }
      if missing * 2 > versions.values.reduce(0, { $0 + $1.nodes.count }) { forgotten += found }
    }
    return forgotten
  }

  // MARK: Changes. Each adds to `dirty` the names whose content may have changed.

  /// Everything is replaced. Names whose content stays equal are not made dirty.
  package mutating func replaceAll(_ new: [Service], dirty: inout Set<ServiceName>) -> [Skip] {
    let old = services
    services.removeAll(keepingCapacity: true)
    nodeCount = 0
    var skips: [Skip] = []
    var ignored: Set<ServiceName> = []
    for service in new { skips += upsert(service, dirty: &ignored) }
    for (name, versions) in services where old[name] != versions { dirty.insert(name) }
    for name in old.keys where services[name] == nil { dirty.insert(name) }
    return skips
  }

  /// Each node replaces the one of its id; others stay.
  package mutating func upsert(_ service: Service, dirty: inout Set<ServiceName>) -> [Skip] {
    if let skip = check(service) { return [skip] }
    guard !service.nodes.isEmpty else { return [] }
    var versions = services[service.name] ?? [:]
    if versions.isEmpty, services.count >= limits.servicesMax {
      return [Skip(subject: service.name, rule: "more than \(limits.servicesMax) services", isFull: true)]
    }
    if versions[service.version] == nil, versions.count >= limits.versionsPerServiceMax {
      let rule = "more than \(limits.versionsPerServiceMax) versions of one service"
      return [Skip(subject: "\(service.name) \(service.version)", rule: rule, isFull: true)]
    }
    var skips: [Skip] = []
    var merged = service
    merged.nodes = versions[service.version]?.nodes ?? []
    var positions: [String: Int] = [:]
    for (index, node) in merged.nodes.enumerated() { positions[node.id] = index }
    var held = versions.values.reduce(0) { $0 + $1.nodes.count }
    for node in service.nodes {
      if let skip = check(node, of: service) {
        skips.append(skip)
      } else if let index = positions[node.id] {
        merged.nodes[index] = node
      } else if held >= limits.nodesPerServiceMax {
        let rule = "more than \(limits.nodesPerServiceMax) nodes of one service"
        skips.append(Skip(subject: service.name, rule: rule, isFull: true))
      } else if nodeCount >= limits.nodesMax {
        skips.append(Skip(subject: service.name, rule: "more than \(limits.nodesMax) nodes", isFull: true))
      } else {
        positions[node.id] = merged.nodes.count
        merged.nodes.append(node)
        held += 1
        nodeCount += 1
      }
    }
    guard !merged.nodes.isEmpty, versions[service.version] != merged else { return skips }
    versions[service.version] = merged
    services[service.name] = versions
    dirty.insert(service.name)
    return skips
  }

  /// Each node is removed by id; a service without nodes loses all of its version.
  package mutating func remove(_ service: Service, dirty: inout Set<ServiceName>) {
    guard var versions = services[service.name], var known = versions[service.version] else { return }
    let before = known.nodes.count
    if service.nodes.isEmpty {
      known.nodes.removeAll()
    } else {
      let leaving = Set(service.nodes.map(\.id))
      known.nodes.removeAll { leaving.contains($0.id) }
    }
    guard known.nodes.count != before else { return }
    nodeCount -= before - known.nodes.count
    versions[service.version] = known.nodes.isEmpty ? nil : known
    services[service.name] = versions.isEmpty ? nil : versions
    dirty.insert(service.name)
  }

  /// Removes the nodes of `service` by version and id, and those of any version that have the address of one of them.
  package mutating func removeReplaced(by service: Service, dirty: inout Set<ServiceName>) {
    guard let versions = services[service.name] else { return }
    let ids = Set(service.nodes.map(\.id))
    let addresses = Set(service.nodes.map(\.address))
    for (version, var known) in versions {
      known.nodes.removeAll { !addresses.contains($0.address) && !(version == service.version && ids.contains($0.id)) }
      if !known.nodes.isEmpty { remove(known, dirty: &dirty) }
    }
  }

  /// Removes all versions of a service.
  package mutating func removeAll(_ name: ServiceName, dirty: inout Set<ServiceName>) {
    guard let versions = services.removeValue(forKey: name) else { return }
    nodeCount -= versions.values.reduce(0) { $0 + $1.nodes.count }
    dirty.insert(name)
  }

  // MARK: Rules

  /// Whether `name` may be a service's name.
  package static func isValid(name: ServiceName) -> Bool {
    !name.isEmpty && name.utf8.count <= 255
      && name.utf8.allSatisfy { $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: "/") }
  }

  private static func hasControls(_ text: String) -> Bool { text.utf8.contains { $0 < 0x20 || $0 == 0x7F } }

  /// `text` for a log line: short, and without characters that could steer a terminal.
  private static func shown(_ text: String) -> String {
    String(decoding: text.utf8.prefix(80).map { $0 < 0x20 || $0 == 0x7F ? UInt8(ascii: "?") : $0 }, as: UTF8.self)
  }

  private func check(_ service: Service) -> Skip? {
    func skip(_ rule: String) -> Skip { Skip(subject: Self.shown(service.name), rule: rule, isFull: false) }
    guard Self.isValid(name: service.name) else {
      return skip("a service's name has 1 to 255 bytes and no slash, blank or control character")
    }
    guard service.version.utf8.count <= 255, !Self.hasControls(service.version) else {
      return skip("a version has at most 255 bytes and no control character")
    }
    var bytes = Self.bytes(service.metadata)
    for endpoint in service.endpoints where bytes <= limits.versionBytesMax {
      bytes += endpoint.name.utf8.count + Self.bytes(endpoint.metadata) + 64
      for value in [endpoint.request, endpoint.response] {
        guard let value else { continue }
        guard let size = size(of: value, depth: 1) else {
          return skip("endpoint descriptions nest deeper than \(limits.valueDepthMax)")
        }
        bytes += size
      }
    }
    guard bytes <= limits.versionBytesMax else {
      return skip("metadata and endpoints are larger than \(limits.versionBytesMax) bytes")
    }
    return nil
  }

  private func check(_ node: Node, of service: Service) -> Skip? {
    func skip(_ rule: String) -> Skip {
      Skip(subject: "\(Self.shown(service.name)) \(Self.shown(node.id))", rule: rule, isFull: false)
    }
    guard !node.id.isEmpty, node.id.utf8.count <= 512, !Self.hasControls(node.id) else {
      return skip("a node's id has 1 to 512 bytes and no control character")
    }
    guard let target = DialTarget(node.address) else {
      return skip("address \(Self.shown(node.address)): expected host:port with a port from 1 to 65535")
    }
    if case .opaque = target {
      switch node.metadata["transport"] {
      case nil, "", "http", "tcp", "grpc", "quic", "utp":
        return skip("address \(Self.shown(node.address)): expected host:port")
      default: break
      }
    }
    let bytes = node.id.utf8.count + node.address.utf8.count + Self.bytes(node.metadata)
    guard bytes <= limits.nodeBytesMax else { return skip("a node is larger than \(limits.nodeBytesMax) bytes") }
    return nil
  }

  private static func bytes(_ metadata: [String: String]) -> Int {
    metadata.reduce(0) { $0 + $1.key.utf8.count + $1.value.utf8.count }
  }

  /// Bytes of a description, nil when it nests too deep.
  private func size(of value: Value, depth: Int) -> Int? {
    guard depth <= limits.valueDepthMax else { return nil }
    var bytes = value.name.utf8.count + value.type.utf8.count + 32
    for child in value.values {
      guard let size = size(of: child, depth: depth + 1) else { return nil }
      bytes += size
      if bytes > limits.versionBytesMax { return bytes }
    }
    return bytes
  }
}
