// What one worker knows of one service: its nodes with their connections, the selector that chooses among them, and the
// calls that wait until the registries have answered.

/// A node of a service as one worker uses it.
package final class NodeState {
  package private(set) var node: Node
  private(set) var version: String
  package let dialect: NodeDialect
  package let target: UpstreamTarget
  /// The header line that tells a caller which node answered.
  let truthHeader: FixedBytes
  /// Its position among the nodes of its service; -1 once it has left.
  package internal(set) var index = -1
  /// Health checks in a row that went that way.
  var probeFailures = 0
  var probeSuccesses = 0
  /// Takes every payload as it comes, over HTTP: `format(for:)` would only say so.
  fileprivate(set) var isPlain: Bool
  /// What it has no codec for, as it said.
  fileprivate var refusedFormat: PayloadFormat?
  /// While the registries' news are taken over: it is among them.
  fileprivate var isKept = false

  init(_ catalogNode: CatalogNode, of service: ServiceName, worker: Worker) {
    node = catalogNode.node
    version = catalogNode.version.version
    dialect = Self.dialect(of: node, service, worker)
    let header = ByteBuffer()
    // Through the writer: an id may be anything a registry holds.
    HTTP1Writer.field("X-Micro-Node", node.id, to: header)
    truthHeader = FixedBytes(header.bytes)
    isPlain = !dialect.isGRPC && dialect.preferred == nil
    target = UpstreamTarget(
      address: catalogNode.target, hostHeader: FixedBytes(node.address), isReusable: dialect.reusable,
      transport: dialect.transport, worker: worker)
  }

  private static func dialect(of node: Node, _ service: ServiceName, _ worker: Worker) -> NodeDialect {
    var dialect = NodeDialect(metadata: node.metadata)
    dialect.preferred = worker.settings.contentTypes.codec(
      service: service, metadata: node.metadata, dialect.generation, worker.settings.codecs)
    return dialect
  }

  /// Takes over what the registries say now of the same node. False: it is to be dialled or spoken to in another way, so
  /// that its connections are of no use.
  func update(_ catalogNode: CatalogNode, of service: ServiceName, worker: Worker) -> Bool {
    let new = catalogNode.node
    if new != node {
      guard new.address == node.address, Self.dialect(of: new, service, worker) == dialect else { return false }
      node = new
    }
    version = catalogNode.version.version
    return true
  }
}

extension NodeState {
  /// The format that a payload ought to have for it. Every gRPC server takes protobuf, and to the framework's own gRPC
  /// clients bytes are that (client/grpc/codec.go @ v1.18.0).
  func format(for payload: PayloadFormat) -> PayloadFormat {
    if dialect.isGRPC { return .protobuf }
    if let preferred = dialect.preferred { return preferred.codec.format }
    guard let refusedFormat, !refusedFormat.needsTranslation(to: payload) else { return payload }
    return payload == .json ? .protobuf : .json
  }

  /// It has refused that format; false if it is not offered it in vain anyway.
  func refuses(_ format: PayloadFormat) -> Bool {
    guard !dialect.isGRPC, dialect.preferred == nil, refusedFormat == nil else { return false }
    refusedFormat = format
    isPlain = false
    return true
  }
}

/// Finds the nodes of before among those of now. A registry lists them mostly in the same order, so the next one is looked at
/// first, and what comes by another way is looked up in a table that is made when it is first needed.
private struct KnownNodes {
  private let nodes: [NodeState]
  private var next = 0
  private var left: Int
  private var byID: [String: NodeState]?

  init(_ nodes: [NodeState]) {
    self.nodes = nodes
    left = nodes.count
  }

  /// One of that id that is not kept yet; a registry may hold an id twice.
  mutating func find(_ id: String) -> NodeState? {
    // Of two in a row one may have gone.
    for index in next..<min(next + 2, nodes.count) where !nodes[index].isKept && nodes[index].node.id == id {
      next = index + 1
      return nodes[index]
    }
    guard left > 0 else { return nil }
    if byID == nil {
      byID = [:]
      for state in nodes where !state.isKept { byID?[state.node.id] = state }
    }
    guard let state = byID?[id], !state.isKept else { return nil }
    next = state.index + 1
    return state
  }

  mutating func keep(_ state: NodeState) {
    state.isKept = true
    left -= 1
  }
}

/// A call that waits until the registries have answered.
protocol ResolutionWaiter: AnyObject {
  func resolved(found: Bool)
}

/// One service on one worker. Loop-confined.
package final class ServiceTable {
  /// Calls that may wait for the registries' first answer; more are answered with `overloaded`.
  package static let waitersMax = 1024

  package enum Status: Equatable {
    /// The registries have been asked.
    case resolving
    case present
    /// No registry has it, as of then.
    case absent(since: Instant)
  }

  package let name: ServiceName
  package let nameBytes: FixedBytes
  package internal(set) var status = Status.resolving
  /// Only nodes that can be called, by HTTP frames or by gRPC; an index here is a selector's index.
  package private(set) var nodes: [NodeState] = [] {
    didSet { isGRPC = !nodes.isEmpty && nodes.allSatisfy { $0.dialect.isGRPC } }
  }
  /// All nodes speak gRPC, and there is one.
  private(set) var isGRPC = false
  /// Nodes left out because they speak another transport or dialect.
  package private(set) var uncallable: [Node] = []
  package private(set) var revision: UInt64 = 0
  package private(set) var isStale = false
  var selector: any Selector
  /// By what a call is sent; nil: by nothing.
  private(set) var keyRule: KeyRule?
  /// How loaded and how well the nodes are.
  package let set: NodeSet
  package private(set) var policy: ServicePolicy
  var budget: RetryBudget
  var gate = CallGate()
  /// Asks the nodes whether they are well, if the policy wants that.
  private var prober: NodeProber?
  var waiting: [any ResolutionWaiter] = []
  /// What its nodes said of their messages.
  var description = Description()
  private var versions: Set<String> = []
  /// Which endpoints the registries know, and whether they are streams.
  private var endpoints: [String: Bool] = [:]
  /// Endpoints whose calls may be made twice, as their metadata say.
  private var idempotent: Set<String> = []
  /// What the registries say of their requests; only of those of which they say something.
  private var requests: [String: Value] = [:]
  private unowned(unsafe) let worker: Worker

  init(name: ServiceName, worker: Worker) {
    self.name = name
    nameBytes = FixedBytes(name)
    self.worker = worker
    policy = worker.policies.service(name)
    selector = worker.makeSelector(policy)
    keyRule = worker.keyRule(policy)
    set = NodeSet(policy, zone: worker.settings.zone)
    budget = RetryBudget(policy.budget, parts: worker.settings.workers, now: worker.driver.now)
    watchEjections()
    startProber()
  }

  private func startProber() {
    prober?.stop()
    prober = policy.healthCheck.map { NodeProber(self, worker, $0) }
  }

  /// The service is forgotten, or its worker stops.
  func stopProber() {
    prober?.stop()
    prober = nil
  }

  private func watchEjections() {
    set.onChange = { [unowned self] index, health, isOut in
      guard nodes.indices.contains(index) else { return }
      worker.metrics.add(isOut ? .ejections : .ejectionsEnded)
    }
  }

  /// The configuration changed.
  func replacePolicy() {
    let policy = worker.policies.service(name)
    guard policy != self.policy else { return }
    keyRule = worker.keyRule(policy)
    if policy.selector != self.policy.selector || (policy.affinity == nil) != (self.policy.affinity == nil) {
      selector = worker.makeSelector(policy)
      selector.rebuild(Candidates(revision: revision, nodes: candidates))
    }
    if policy.budget != self.policy.budget {
      budget = RetryBudget(policy.budget, parts: worker.settings.workers, now: worker.driver.now)
    }
    let isProbedOtherwise = policy.healthCheck != self.policy.healthCheck
    self.policy = policy
    if isProbedOtherwise { startProber() }
    for node in nodes { node.target.connectionsMax = policy.limits.connectionsPerNode }
    set.replacePolicy(policy, candidates: candidates, now: worker.driver.now)
    // A higher limit lets in some of those who wait.
    while let next = gate.next(policy.limits) { next.admitted() }
  }

  /// A call that was let in has ended.
  func leaveGate() {
    gate.leave(policy.limits)?.admitted()
  }

  private var candidates: [Candidate] { nodes.map { Candidate(node: $0.node, version: $0.version) } }

  /// Takes over what the registries say now. Nodes that stay keep their connections.
  func update(_ entry: ServiceEntry) {
    isStale = entry.isStale
    status = .present
    guard entry.revision > revision else { return }
    revision = entry.revision
    var known = KnownNodes(nodes)
    var kept: [NodeState] = []
    var keptNodes: [CatalogNode] = []
    kept.reserveCapacity(entry.nodes.count)
    keptNodes.reserveCapacity(entry.nodes.count)
    uncallable.removeAll()
    for catalogNode in entry.nodes {
      if let state = known.find(catalogNode.node.id), state.update(catalogNode, of: name, worker: worker) {
        known.keep(state)
        kept.append(state)
        keptNodes.append(catalogNode)
        continue
      }
      let state = NodeState(catalogNode, of: name, worker: worker)
      if case .opaque = catalogNode.target {
        uncallable.append(catalogNode.node)
      } else if state.dialect.otherTransport != nil {
        uncallable.append(catalogNode.node)
      } else {
        kept.append(state)
        keptNodes.append(catalogNode)
      }
    }
    for state in nodes where !state.isKept {
      state.index = -1
      state.target.retire()
    }
    let previous = kept.map(\.index)
    nodes = kept
    for (index, state) in kept.enumerated() {
      state.index = index
      state.isKept = false
      state.target.connectionsMax = policy.limits.connectionsPerNode
    }
    let candidates = candidates
    set.rebuild(keptNodes, candidates: candidates, previous: previous, now: worker.driver.now)
    selector.rebuild(Candidates(revision: revision, nodes: candidates))
    let versions = Set(entry.versions.map(\.version))
    if versions != self.versions {
      self.versions = versions
      description.askedAt = nil
    }
    endpoints.removeAll()
    requests.removeAll()
    idempotent.removeAll()
    for version in entry.versions {
      for endpoint in version.endpoints {
        let isStream = endpoint.metadata["stream"] == "true" || endpoints[endpoint.name] == true
        endpoints[endpoint.name] = isStream
        if endpoint.metadata["idempotent"] == "true" { idempotent.insert(endpoint.name) }
        if let request = endpoint.request, !request.values.isEmpty, requests[endpoint.name] == nil {
          requests[endpoint.name] = request
        }
      }
    }
  }

  /// Whether the registries know the endpoint for a stream; nil when they do not list it. `Route.isStream` remembers it.
  func isStream(_ endpoint: String) -> Bool? { endpoints[endpoint] }

  /// Whether the registries say that calls of the endpoint may be made twice.
  func isIdempotent(_ endpoint: String) -> Bool { !idempotent.isEmpty && idempotent.contains(endpoint) }

  /// The fields of an endpoint's request and their types, where a registry tells.
  func request(of endpoint: String) -> Value? { requests.isEmpty ? nil : requests[endpoint] }

  /// Why no node of it can be picked.
  var noNodeError: SidecarError {
    if set.areAllFull {
      return SidecarError(
        .overloaded,
        "each node of \(name) has \(policy.limits.inFlightPerNode) calls under way, as many as its policy allows")
    }
    guard nodes.isEmpty, let node = uncallable.first else { return .noHealthyNode(name) }
    return SidecarError(
      .unsupportedNodeDialect,
      "node \(node.id) of \(name) speaks "
        + "\(node.metadata["protocol"] ?? node.metadata["transport"] ?? "an unknown transport"), which this version cannot call"
    )
  }

  func removeAll(at now: Instant) {
    status = .absent(since: now)
    stopProber()
    // Nobody will be asked any more; those who wait find out that there is no node.
    let waiting = description.waiting
    description = Description()
    worker.driver.later { for waiter in waiting { waiter.described() } }
    for node in nodes {
      node.index = -1
      node.target.retire()
    }
    nodes = []
    uncallable = []
    set.rebuild([], candidates: [], previous: [], now: now)
    selector.rebuild(Candidates(revision: revision, nodes: []))
  }
}
