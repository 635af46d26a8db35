// What the control loop hands to the workers: immutable values, shared by reference, so that a worker reads the nodes of
// a service without a lock and a change costs one message. `Catalog` makes them, `CatalogFeed` carries them.

/// What all nodes of one version of a service share.
package final class VersionInfo: Sendable {
  package let service: ServiceName
  package let version: String
  package let metadata: [String: String]
  package let endpoints: [Endpoint]

  package init(service: ServiceName, version: String, metadata: [String: String], endpoints: [Endpoint]) {
    self.service = service
    self.version = version
    self.metadata = metadata
    self.endpoints = endpoints
  }

  package func endpoint(_ name: String) -> Endpoint? { endpoints.first { $0.name == name } }
}

/// Where a node's address leads.
package enum DialTarget: Hashable, Sendable {
  case socket(SocketAddress)
  /// A host name, to be looked up, and a port.
  case name(host: String, port: UInt16)
  /// No host and port: the address of a bus transport, such as a queue name. The HTTP transport cannot dial it.
  case opaque(String)

  /// Reads a registry's address: `host:port`, `[v6]:port`, `unix:/path`, anything else is opaque. Nil for what can never
  /// be dialled: empty text, blanks or control characters, a port of zero or above 65,535.
  package init?(_ address: String) {
    guard !address.isEmpty, address.utf8.count <= 1024, address.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F }) else {
      return nil
    }
    if let literal = SocketAddress(address), !address.hasPrefix(":") {
      if case .unix = literal {
        self = .socket(literal)
        return
      }
      guard literal.port > 0, !literal.isWildcard else { return nil }
      self = .socket(literal)
    } else if let (host, port) = SocketAddress.splitHostPort(address) {
      guard !host.isEmpty, port > 0, host.utf8.count <= 255 else { return nil }
      self = .name(host: host, port: port)
    } else {
      // `host:99999` and `host:` were meant to be a host and a port; a queue name does not end so.
      if let colon = address.utf8.lastIndex(of: UInt8(ascii: ":")) {
        let tail = address.utf8[address.utf8.index(after: colon)...]
        if tail.allSatisfy({ $0 >= 48 && $0 <= 57 }) { return nil }
      }
      self = .opaque(address)
    }
  }
}

/// One node as the data path sees it.
package struct CatalogNode: Sendable {
  package let node: Node
  package let version: VersionInfo
  package let target: DialTarget
  /// The registries that report this node, as positions in the order of configuration; the values used are those of
  /// the first, or of the first that is reachable.
  package let origins: [Int]

  package init(node: Node, version: VersionInfo, target: DialTarget, origins: [Int]) {
    self.node = node
    self.version = version
    self.target = target
    self.origins = origins
  }
}

/// All that is known of one service.
package final class ServiceEntry: Sendable {
  package let name: ServiceName
  /// Changes when, and only when, `nodes` or `versions` change: a selector need not be rebuilt for the same revision.
  /// Revisions of one catalog only grow, across services too.
  package let revision: UInt64
  /// One for each version, with its nodes; sorted by version. What people and the registry API are shown.
  package let versions: [Service]
  /// The nodes of all versions, sorted by version and id: an index into it is a selector's index.
  package let nodes: [CatalogNode]
  /// Every registry that reports this service is unreachable: these are the last nodes known.
  package let isStale: Bool

  package init(name: ServiceName, revision: UInt64, versions: [Service], nodes: [CatalogNode], isStale: Bool) {
    self.name = name
    self.revision = revision
    self.versions = versions
    self.nodes = nodes
    self.isStale = isStale
  }

  /// The same nodes at the same revision.
  init(_ other: ServiceEntry, isStale: Bool) {
    name = other.name
    revision = other.revision
    versions = other.versions
    nodes = other.nodes
    self.isStale = isStale
  }
}

/// What changed in the catalog since the last delta. Names appear once, in `changed` or in `removed`.
///
/// A worker may get an entry by another way too, as the answer to `ServiceResolver.resolve`; so it takes an entry over
/// unless it holds one of a higher revision, and removes one unless its revision is above the delta's.
package struct CatalogDelta: Sendable {
  /// The catalog's revision: the highest of any change in it.
  package var revision: UInt64
  package var changed: [ServiceEntry]
  package var removed: [ServiceName]

  package init(revision: UInt64, changed: [ServiceEntry] = [], removed: [ServiceName] = []) {
    self.revision = revision
    self.changed = changed
    self.removed = removed
  }

  package var isEmpty: Bool { changed.isEmpty && removed.isEmpty }

  /// What a removed service counts as in `parts`: its nodes are not known here.
  static let nodesOfRemoved = 10

  /// The same changes in the same order, in parts of at most `nodesMax` nodes each, but for a service that has more.
  func parts(nodesMax: Int) -> [CatalogDelta] {
    var parts: [CatalogDelta] = []
    var part = CatalogDelta(revision: revision)
    var nodes = 0
    func makeRoom(for count: Int) {
      if nodes + count > nodesMax, !part.isEmpty {
        parts.append(part)
        part = CatalogDelta(revision: revision)
        nodes = 0
      }
      nodes += count
    }
    for entry in changed {
      makeRoom(for: max(entry.nodes.count, 1))
      part.changed.append(entry)
    }
    for name in removed {
      makeRoom(for: Self.nodesOfRemoved)
      part.removed.append(name)
    }
    if !part.isEmpty { parts.append(part) }
    return parts
  }
}

/// How a registry is doing, for people and metrics.
package struct RegistryState: Equatable, Sendable {
  package enum Phase: String, Equatable, Sendable {
    /// No answer yet since the start.
    case waiting
    /// The watch stands; what is shown is what the registry says.
    case current
    /// The watch is lost; what is shown is the last that was known.
    case stale
  }
  package var name: String
  package var phase: Phase
  /// Time since the registry last confirmed its content: zero while the watch stands, since the start while waiting.
  package var age: Duration
  /// The cause of the present outage, or of the last one; nil when there was none.
  package var lastError: String?
  /// Since the start.
  package var outages: Int
  package var events: Int
  package var services: Int
  /// What the catalog did not take of it since the start.
  package var skipped = SkippedEntries()
}

/// The whole catalog at one time, for the admin page, the registry API and the command line.
package final class CatalogSnapshot: Sendable {
  package let revision: UInt64
  package let services: [ServiceName: ServiceEntry]
  /// In the order of configuration.
  package let registries: [RegistryState]

  init(revision: UInt64, services: [ServiceName: ServiceEntry], registries: [RegistryState]) {
    self.revision = revision
    self.services = services
    self.registries = registries
  }

  package var names: [ServiceName] { services.keys.sorted() }
  /// Every registry has been heard at least once.
  package var isSynced: Bool { registries.allSatisfy { $0.phase != .waiting } }
}
