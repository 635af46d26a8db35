// Everything that can be set, with its type and default. `Settings+Table.swift` says how each is spelled, `Settings+Load`
// where its value comes from.

/// How the app is spoken to.
package enum AppProtocol: String, CaseIterable, Sendable { case http, grpc, mucp }

/// The framework's transports that the sidecar serves, all on one port; callers use the one they find in the registry.
package enum AdvertisedTransport: String, CaseIterable, Sendable { case http, grpc }

/// How calls are repeated: as this sidecar does it by default, or exactly as a client of the framework does, of the
/// generation named; `strict` is that of 2018.
package enum Compatibility: String, CaseIterable, Sendable {
  case fixed, strict
  case strictV2 = "strict-v2"
  case strictV4 = "strict-v4"

  package var retry: StrictRetry? {
    switch self {
    case .fixed: nil
    case .strict: .v1
    case .strictV2: .v2
    case .strictV4: .v4
    }
  }
}

package enum LogFormat: String, CaseIterable, Sendable { case text, json }

/// The settings of one run: immutable once loaded, so any thread may read them. The initial values are the defaults.
package struct Settings: Sendable {
  // Listeners
  /// The app's side.
  package var sidecarAddress = SocketAddress.loopback(port: 8081)
  /// The framework's side.
  package var serverAddress = SocketAddress.ipv4(address: 0, port: 0)
  /// What to write into the registry, `host` or `host:port`; nil: found from the bind address.
  package var serverAdvertise: String?
  package var transport = AdvertisedTransport.http
  /// The pod's address, from the downward API; used when `serverAdvertise` is nil.
  package var podIP: String?
  /// Nil: no admin listener.
  package var adminAddress: SocketAddress? = .loopback(port: 8083)

  /// Whoever shows it may ask everything at the admin listener; nil: nobody needs one.
  package var adminToken: String?
  /// With these the admin listener speaks TLS.
  package var adminCertificateFile: String?
  package var adminKeyFile: String?
  /// Who signs certificates that do as well as the token.
  package var adminClientAuthorityFile: String?
  /// What commands show to the admin listener.
  package var adminClientCertificateFile: String?
  package var adminClientKeyFile: String?
  /// `/metrics` needs no token.
  package var adminOpenMetrics = false
  /// Names of this host that a Host field may have, beyond loopback names and addresses; `*` is any.
  package var hosts: [String] = []

  // The app
  /// Who the app is; nil: the sidecar only makes calls.
  package var serverName: String?
  package var serverVersion = "latest"
  /// Nil: a fresh UUID.
  package var serverID: String?
  package var serverMetadata: [String: String] = [:]
  /// Where the app listens; nil: it takes no calls.
  package var appAddress: Destination?
  package var appProtocol = AppProtocol.http
  package var appStreams: [String] = []
  package var appConcurrency = AppConcurrency.off
  /// Nil: the app counts as well once it accepts connections.
  package var appHealth: AppHealthCheck?
  package var appHealthPeriod = Duration.seconds(5)
  package var appHealthTimeout = Duration.seconds(1)
  package var appHealthFailures = 3
  package var appHealthSuccesses = 1

  // Registries and selection
  package var registries = [PluginChoice(name: "mdns")]
  package var registryAddresses: [String] = []
  package var snapshotPath: String?
  package var bridges: [BridgeChoice] = []
  /// Zero: entries never expire.
  package var registerTTL = Duration.seconds(90)
  /// Zero: registered once, never refreshed.
  package var registerInterval = Duration.seconds(30)
  package var selector = "ewma"
  /// For the selector `static`, as go-micro's plug-in reads them.
  package var staticDomain: String?
  package var staticPort = 8080
  /// Where this sidecar runs; nodes of the same zone come first. Nil: zones mean nothing.
  package var zone: String?

  // Calls
  /// Nil: paths name services in full.
  package var namespace: String? = "go.micro.srv"
  package var requestTimeout = Duration.seconds(5)
  package var connectTimeout = Duration.seconds(1)
  package var retries = 1
  /// Connections to one node, per worker.
  package var poolSize = 100
  /// Age at which a pooled connection is not used again.
  package var poolTTL = Duration.seconds(60)
  /// Unused time after which a pooled connection is closed, when the node does not say otherwise.
  package var poolIdle = Duration.seconds(3)
  package var compatibility = Compatibility.fixed
  /// The longest one attempt may take; nil: as long as the call.
  package var attemptTimeout: Duration?
  package var hedge: HedgePolicy?
  /// Repetitions for each call.
  package var retryBudget = 0.2
  /// Failures in a row after which a node gets a rest; 0: never for that.
  package var ejectFailures = 5
  /// What `X-Micro-Fault-Token` must say for `X-Micro-Fault` to be heard; nil: it never is.
  package var faultToken: String?
  /// Rules for services and endpoints, of the file.
  package var policyRules: [PolicyRule] = []
  /// What holds for calls to the app, of the file.
  package var inboundPolicy = InboundPolicy()
  /// Content types and codecs beyond the built-in ones: `type=codec`.
  package var codecs: [String] = []
  /// Content types towards nodes: `type`, or `service=type`.
  package var contentTypes: [String] = []

  /// Message types for translating between JSON and protobuf.
  package var descriptors: [DescriptorFile] = []

  // Limits
  /// Origins that may call; `*` is any, empty is none.
  package var cors = ["*"]
  package var maxBodyBytes = 4 * 1024 * 1024
  /// Connections accepted on one listener, per worker.
  package var maxConnections = 10_000
  /// Calls under way to one service, per worker.
  package var maxInFlight = 1024
  package var idleTimeout = Duration.seconds(75)
  package var pingInterval = Duration.seconds(30)
  package var headerTimeout = Duration.seconds(10)
  package var workerCount = WorkerCount.automatic
  package var memoryLimit = MemoryLimit.automatic
  /// Where the kernel's control groups are shown.
  package var cgroupRoot = "/sys/fs/cgroup"
  /// What those say of this process.
  package var cgroup = CgroupLimits()

  // Life cycle, logs, commands
  /// A crash leaves an image of this process's memory, as far as the system writes any.
  package var coreDumps = false
  package var drain = Duration.seconds(25)
  /// How long the process that was replaced by a restart in place keeps connections that are in use.
  package var restartDrain = Duration.seconds(600)
  package var logLevel = LogLevel.info
  package var logFormat = LogFormat.text
  /// One line for each request; nil: none is written.
  package var accessLog: LogDestination?
  package var accessLogFormat = AccessLogFormat.text
  /// The URL that spans are sent to; nil: as the collector's own variables have it.
  package var traceEndpoint: TraceEndpoint?
  /// The share of new traces that are sampled.
  package var traceSample = 1.0
  /// OpenTelemetry's own variables: a base URL, the URL for traces, and who we are.
  package var collectorEndpoint: TraceEndpoint?
  package var collectorTracesEndpoint: TraceEndpoint?
  package var telemetryName: String?
  /// Bytes of bodies that `/tap` shows; 0: none.
  package var tapBodies = 0
  /// Names of headers and JSON members, beyond the usual ones, whose values `/tap` does not show.
  package var tapMask: [String] = []
  /// Where commands find a running sidecar; nil: at `sidecarAddress`.
  package var proxyAddress: Destination?
  package var configFile: String?

  // How they came about
  /// Files that hold secrets, by the key of the setting whose value they are.
  package var secretPaths: [String: String] = [:]
  /// Where each value came from, by the setting's key; a key that is not here has its default.
  package var origins: [String: SettingSource] = [:]
  /// MICRO_* variables of the environment that are go-micro's own and mean nothing to the sidecar, sorted.
  package var ignored: [String] = []
  /// Sentences about what is legal and probably not meant.
  package var warnings: [String] = []

  package init() {}
}

extension Settings {
  /// Where spans go; nil: calls are not traced.
  package var traceTarget: TraceEndpoint? {
    if let given = traceEndpoint ?? collectorTracesEndpoint { return given }
    guard var base = collectorEndpoint else { return nil }
    base.path = (base.path.hasSuffix("/") ? String(base.path.dropLast()) : base.path) + "/v1/traces"
    return base
  }

  /// What holds for calls: the settings as defaults, then the file's rules.
  package var policies: PolicyTable {
    PolicyTable(service: servicePolicy, endpoint: endpointPolicy, rules: policyRules, inbound: inboundPolicy)
  }

  /// What holds for a service without a rule.
  package var servicePolicy: ServicePolicy {
    var policy = ServicePolicy()
    policy.limits.inFlight = maxInFlight
    policy.budget.ratio = retryBudget
    policy.ejection.consecutiveFailures = ejectFailures
    if compatibility.retry != nil {
      // The framework's clients take no node out, and know no queue before a service.
      if origins["MICRO_SIDECAR_EJECT_FAILURES"] == nil { policy.ejection.consecutiveFailures = 0 }
      policy.ejection.refusedTime = 0
      policy.zoneFirst = false
    }
    return policy
  }

  /// What holds for an endpoint without a rule.
  package var endpointPolicy: EndpointPolicy.Values {
    var values = EndpointPolicy.Values()
    values.retry.limit = retries
    if let strict = compatibility.retry {
      values.retry.strict = strict
      if origins["MICRO_CLIENT_RETRIES"] == nil { values.retry.limit = strict.retries }
    }
    values.attemptTimeout = attemptTimeout?.saturatingNanoseconds
    values.hedge = hedge
    return values
  }

  /// Threads that serve calls.
  package var workers: Int {
    get { if case .fixed(let count) = workerCount { count } else { cgroup.workers } }
    set { workerCount = .fixed(newValue) }
  }

  /// Bytes of memory that this process should stay below; nil: nobody said.
  package var memoryBytesMax: Int? {
    switch memoryLimit {
    case .automatic: cgroup.memoryBytes
    case .off: nil
    case .bytes(let bytes): bytes
    }
  }

  /// Whether inbound calls are taken: there is an app, and a name to register it under.
  package var takesCalls: Bool { serverName != nil && appAddress != nil }

  /// Where commands reach the sidecar that runs here.
  package var commandTarget: Destination {
    if let proxyAddress { return proxyAddress }
    // Only a listener on port 0 is no target; no command can know which port that became.
    return Destination(sidecarAddress.description) ?? .address(sidecarAddress)
  }
}

extension Settings {
  /// The position of the registry that a setting calls `name`: whole, as `MICRO_REGISTRY` has it, or without its argument.
  package func registryIndex(_ name: String) -> Int? {
    registries.firstIndex { $0.description == name } ?? registries.firstIndex { $0.name == name }
  }
}

extension PluginTable {
  /// Where nodes come from if the setting's selector says that; nil: from the registries. Call it on the control loop.
  func makeNodeSource(
    _ settings: Settings, driver: any HostDriver, log: any LogSink
  ) throws(ConfigurationError) -> NodeSource? {
    let choice = PluginChoice(settings.selector)
    guard let factory = nodeSources[choice.name] else { return nil }
    var argument = choice.argument
    if choice.name == "static" {
      let parts = [settings.staticDomain.map { "domain=\($0)" }, "port=\(settings.staticPort)", argument]
      // What the selector's own argument says comes last and counts.
      argument = parts.compactMap { $0 }.joined(separator: ",")
    }
    let registry = try factory(PluginEnvironment(driver: driver, log: log, argument: argument))
    return NodeSource(registry, driver: driver, log: log)
  }

  /// The registry that a setting names. Call it on the control loop.
  package func makeRegistry(
    _ choice: PluginChoice, _ settings: Settings, driver: any HostDriver, log: any LogSink,
    certificates: CertificateTable = CertificateTable()
  ) throws(ConfigurationError) -> any Registry {
    var environment = PluginEnvironment(
      driver: driver, log: log, argument: choice.argument, addresses: settings.registryAddresses)
    environment.certificates = certificates
    return try registry(choice.name)(environment)
  }
}
