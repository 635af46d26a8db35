// How calls to one service are spread over its nodes, and when a node or the service is given a rest. Immutable: a reload
// makes new values, which reach the workers by their mailboxes.

/// The policies that hold for a service as a whole. All times are in nanoseconds.
package struct ServicePolicy: Hashable, Sendable {
  /// How one of several nodes is chosen, by the name of a selector plug-in; nil: as MICRO_SELECTOR says.
  package var selector: String?
  /// What a call is sent by, for selectors that go by a key.
  package var affinity: AffinityKey?
  package var ejection = EjectionPolicy()
  package var limits = LimitPolicy()
  package var budget = RetryBudgetPolicy()
  /// Time over which a new node's share grows from a tenth to its whole; 0: at once.
  package var slowStart: Int64 = 0
  /// Share of usable nodes, 0 to 1, below which ejected ones are used as well: few nodes must not carry what all did.
  package var panicThreshold = 0.5
  /// Nodes of our own zone come first, while enough of them are well.
  package var zoneFirst = true
  /// Parts of the calls that go to subsets of the nodes; empty: no split. Nodes of no part get none.
  package var splits: [TrafficSplit] = []
  /// How nodes are asked whether they are well, without a call; nil: they are not.
  package var healthCheck: HealthCheckPolicy?
  /// When a latency's moving average has fallen to 1/e with nothing observed.
  package var latencyDecay: Int64 = 10_000_000_000

  package init() {}
}

/// Where the key of an affine call is found.
public enum AffinityKey: Hashable, Sendable {
  /// Lower-case. Metadata of the framework are headers by the time the sidecar sees them.
  case header(String)
  case cookie(String)
}

/// When a node is taken out for a while. An ejected node comes back by one call at a time (half-open).
package struct EjectionPolicy: Hashable, Sendable {
  /// Failures in a row; 0: never for that.
  package var consecutiveFailures = 5
  /// How long, the first time; twice as long each time after, up to `timeMax`.
  package var baseTime: Int64 = 10_000_000_000
  package var timeMax: Int64 = 300_000_000_000
  /// The most of a service's nodes that failures may take out, 0 to 1; one may always be.
  package var shareMax = 0.5
  /// Share of successes below which a node is taken out, 0 to 1; 0: never for that.
  package var successRateMin = 0.0
  /// Time constant over which successes and latencies are weighed.
  package var window: Int64 = 10_000_000_000
  /// Calls in the window below which nothing is concluded from rates and latencies.
  package var callsMin = 20
  /// A node slower than this many times the median of the service's nodes is taken out; 0: never for that.
  package var latencyFactor = 0.0
  /// How long a node is passed over after a refused dial; dials that time out count twice as long each time.
  package var refusedTime: Int64 = 1_000_000_000

  package init() {}
}

/// How much may be under way at once, counted on each worker.
package struct LimitPolicy: Hashable, Sendable {
  /// Calls and streams at one node; 0: no limit of its own.
  package var inFlightPerNode = 0
  /// Calls and streams at the service; more wait.
  package var inFlight = 1024
  /// Calls that wait for a place; more are refused.
  package var pending = 1024
  /// How long a call waits for a place. After that, and until a place falls free again, others are refused at once.
  package var pendingTime: Int64 = 3_000_000_000
  /// Connections to one node.
  package var connectionsPerNode = 1024

  package init() {}
}

/// How much of the load may be repetitions: retries and hedges together.
package struct RetryBudgetPolicy: Hashable, Sendable {
  /// Repetitions for each call, 0 to 10.
  package var ratio = 0.2
  /// Repetitions a second that are allowed at any load.
  package var floorPerSecond = 10.0
  /// How long what was not spent is kept.
  package var window: Int64 = 10_000_000_000

  package init() {}
}

/// Which nodes of a service are meant. All conditions hold at once; none means all nodes.
package struct NodeFilter: Hashable, Sendable {
  package var version: String?
  /// Metadata that a node must have, sorted by key.
  package var labels: [Label] = []
  /// Nodes of versions whose list of endpoints has this one; versions that list none may have any.
  package var endpoint: String?
  /// Two filters hold at once that contradict each other: no node matches.
  package var isContradictory = false

  package struct Label: Hashable, Sendable {
    package var key: String
    package var value: String
    package init(_ key: String, _ value: String) {
      self.key = key
      self.value = value
    }
  }

  package init(version: String? = nil, labels: [Label] = [], endpoint: String? = nil) {
    self.version = version
    self.labels = labels.sorted { ($0.key, $0.value) < ($1.key, $1.value) }
    self.endpoint = endpoint
  }

  package var isEmpty: Bool { version == nil && labels.isEmpty && endpoint == nil }

  package func matches(_ node: CatalogNode) -> Bool {
    if isContradictory { return false }
    if let version, node.version.version != version { return false }
    for label in labels where node.node.metadata[label.key] != label.value { return false }
    if let endpoint, !node.version.endpoints.isEmpty, node.version.endpoint(endpoint) == nil { return false }
    return true
  }
}

/// One part of a split.
package struct TrafficSplit: Hashable, Sendable {
  package var filter: NodeFilter
  /// Relative to the other parts; 0: none of the calls.
  package var weight: Int
  package init(_ filter: NodeFilter, weight: Int) {
    self.filter = filter
    self.weight = weight
  }
}

/// How nodes are asked whether they are well.
package struct HealthCheckPolicy: Hashable, Sendable {
  package enum Probe: Hashable, Sendable {
    /// A connection can be made.
    case tcp
    /// GET of that path is answered with 2xx.
    case http(path: String)
    /// `grpc.health.v1` says SERVING.
    case grpc
    /// go-micro's `Debug.Health` answers ok.
    case debug
  }
  package var probe = Probe.debug
  package var period: Int64 = 10_000_000_000
  package var timeout: Int64 = 1_000_000_000
  /// Failures in a row after which a node is out, and successes after which it is back.
  package var failures = 3
  package var successes = 1

  package init() {}
}
