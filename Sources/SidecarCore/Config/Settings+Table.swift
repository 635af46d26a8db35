// The one table of settings: help, errors, `micro-sidecar config`, flags, environment and files are all read off it.
// To add a setting, add its typed field to `Settings` and a row here.

extension Settings {
  /// Every setting, in the order of the help.
  package static let table: [Setting] = rows.flatMap(\.withHolder)

  private static let rows: [Setting] = [
    // MARK: Listeners
    Setting(
      "MICRO_SIDECAR_ADDRESS", \.sidecarAddress, .listenAddress, .listeners,
      "where the app reaches the sidecar"),
    Setting(
      "MICRO_SERVER_ADDRESS", \.serverAddress, .listenAddress, .listeners,
      "where other services reach the app; port 0 takes a free one"),
    Setting(
      "MICRO_SERVER_ADVERTISE", \.serverAdvertise, SettingKind<String>.advertised.optional, .listeners,
      "what the registry says of that address; by default a private address of this host"),
    Setting(
      "MICRO_TRANSPORT", \.transport, .word, .listeners,
      "what the registry says other services should reach it by; both are served"),
    Setting(
      "POD_IP", \.podIP, SettingKind<String>.ipAddress.optional, .listeners,
      "the pod's address, advertised when MICRO_SERVER_ADVERTISE is not set"),
    Setting(
      "MICRO_ADMIN_ADDRESS", \.adminAddress, .listenAddressOrOff, .listeners,
      "health, metrics and status of the sidecar itself"),
    Setting(
      "MICRO_ADMIN_TOKEN", \.adminToken, SettingKind<String>.text.optional, .listeners, mask: .whole,
      "what MICRO_ADMIN_ADDRESS asks for as Authorization: Bearer; needed where that is not on loopback"),
    Setting(
      "MICRO_ADMIN_TLS_CERT_FILE", \.adminCertificateFile, SettingKind<String>.text.optional, .listeners,
      "certificate of the admin listener, which then speaks TLS; read again when it changes"),
    Setting(
      "MICRO_ADMIN_TLS_KEY_FILE", \.adminKeyFile, SettingKind<String>.text.optional, .listeners, "its private key"),
    Setting(
      "MICRO_ADMIN_TLS_CLIENT_CA_FILE", \.adminClientAuthorityFile, SettingKind<String>.text.optional, .listeners,
      "authority whose certificates do as well as the token; other certificates are refused"),
    Setting(
      "MICRO_ADMIN_TLS_CLIENT_CERT_FILE", \.adminClientCertificateFile, SettingKind<String>.text.optional, .listeners,
      "certificate that commands such as drain and tap show to the admin listener"),
    Setting(
      "MICRO_ADMIN_TLS_CLIENT_KEY_FILE", \.adminClientKeyFile, SettingKind<String>.text.optional, .listeners,
      "its private key"),
    Setting(
      "MICRO_ADMIN_OPEN_METRICS", \.adminOpenMetrics, .flag, .listeners,
      "/metrics needs no token; without a token it is all that other machines get, beside the probes"),
    Setting(
      "MICRO_SIDECAR_HOSTS", \.hosts, .list(of: "host names, or *"), .listeners,
      "names by which browsers may reach the sidecar, beyond localhost and addresses"),

    // MARK: The app
    Setting(
      "MICRO_SERVER_NAME", \.serverName, SettingKind<String>.name.optional, .app,
      aliases: ["MICRO_SIDECAR_SERVER_NAME"],
      "the app's service name; without one the sidecar only makes calls"),
    Setting("MICRO_SERVER_VERSION", \.serverVersion, .name, .app, "the app's version in the registry"),
    Setting(
      "MICRO_SERVER_ID", \.serverID, SettingKind<String>.name.optional, .app,
      "this instance's id; by default a fresh UUID"),
    Setting("MICRO_SERVER_METADATA", \.serverMetadata, .pairs, .app, "metadata of this instance in the registry"),
    Setting(
      "MICRO_APP_ADDRESS", \.appAddress, SettingKind<Destination>.destination.optional, .app,
      aliases: ["MICRO_SIDECAR_SERVER_ADDRESS"], "where the app listens"),
    Setting("MICRO_APP_PROTOCOL", \.appProtocol, .word, .app, "how the app is spoken to"),
    Setting(
      "MICRO_APP_STREAMS", \.appStreams, .list(of: "endpoints such as Chat.Talk or Chat.Talk=ndjson"), .app,
      "endpoints that the app serves as streams, over WebSocket or NDJSON"),
    Setting(
      "MICRO_APP_CONCURRENCY", \.appConcurrency, .concurrency, .app, aliases: ["MICRO_APP_MAX_CONCURRENCY"],
      "calls the app gets at once; more wait, and then are refused, low priority first"),
    Setting(
      "MICRO_APP_HEALTH", \.appHealth, SettingKind<AppHealthCheck>.healthCheck.optional, .app,
      aliases: ["MICRO_SIDECAR_HEALTHCHECK_URL"], "asked with GET; the app is registered while the answer is 2xx"),
    Setting("MICRO_APP_HEALTH_PERIOD", \.appHealthPeriod, .duration(), .app, "time between two checks"),
    Setting("MICRO_APP_HEALTH_TIMEOUT", \.appHealthTimeout, .duration(), .app, "time a check may take"),
    Setting(
      "MICRO_APP_HEALTH_FAILURES", \.appHealthFailures, .integer(1...1000), .app,
      "failed checks in a row that take the app out of the registry"),
    Setting(
      "MICRO_APP_HEALTH_SUCCESSES", \.appHealthSuccesses, .integer(1...1000), .app,
      "good checks in a row that bring it back"),

    // MARK: Registry and selection
    Setting(
      "MICRO_REGISTRY", \.registries, .plugins, .registry, mask: .options,
      "where services are found and the app is registered"),
    Setting(
      "MICRO_REGISTRY_ADDRESS", \.registryAddresses, .list(of: "addresses"), .registry, mask: .passwords,
      "addresses of the registry's servers; mdns, memory and file have none"),
    Setting(
      "MICRO_SIDECAR_SNAPSHOT", \.snapshotPath, SettingKind<String>.text.optional, .registry,
      "file that keeps what the registries said last, for a start while they are down"),
    Setting(
      "MICRO_SIDECAR_BRIDGE", \.bridges, .bridges, .registry, aliases: ["MICRO_BRIDGE"], mask: .options,
      "registries whose services are mirrored into another, such as consul->kubernetes"),
    Setting(
      "MICRO_REGISTER_TTL", \.registerTTL, .seconds(0...86_400), .registry,
      "seconds after which a registration not refreshed expires; 0 is never"),
    Setting(
      "MICRO_REGISTER_INTERVAL", \.registerInterval, .seconds(0...86_400), .registry,
      "seconds between two refreshes; 0 is once only"),
    Setting(
      "MICRO_SELECTOR", \.selector, .text, .registry,
      "how one of several nodes is chosen: a selector's name or name:argument, such as hash:header=X-User"),
    Setting(
      "STATIC_SELECTOR_DOMAIN_NAME", \.staticDomain, SettingKind<String>.name.optional, .registry,
      "for the selector static: what follows a service's name in its address"),
    Setting(
      "STATIC_SELECTOR_PORT_NUMBER", \.staticPort, .integer(1...65_535), .registry,
      "for the selector static: the port of its addresses"),
    Setting(
      "MICRO_ZONE", \.zone, SettingKind<String>.name.optional, .registry,
      "where this sidecar runs; nodes whose metadata zone says the same come first"),

    // MARK: Calls
    Setting(
      "MICRO_SIDECAR_NAMESPACE", \.namespace, SettingKind<String>.name.optional, .calls,
      "what is put before the service in /greeter/say/hello"),
    Setting(
      "MICRO_CLIENT_REQUEST_TIMEOUT", \.requestTimeout, .duration(), .calls,
      "time a call may take with all its attempts, when the caller does not say less"),
    Setting(
      "MICRO_SIDECAR_CONNECT_TIMEOUT", \.connectTimeout, .duration(), .calls, "time a connection to a node may take"),
    Setting("MICRO_CLIENT_RETRIES", \.retries, .integer(0...100), .calls, "attempts after the first, at other nodes"),
    Setting(
      "MICRO_SIDECAR_RETRY_BUDGET", \.retryBudget, .share(upTo: 10), .calls,
      "attempts beyond the first as a share of all calls"),
    Setting(
      "MICRO_SIDECAR_ATTEMPT_TIMEOUT", \.attemptTimeout, SettingKind<Duration>.duration().optional, .calls,
      "time one attempt may take; by default as long as the call"),
    Setting(
      "MICRO_SIDECAR_HEDGE", \.hedge, .hedge, .calls,
      "when an idempotent call that has no answer yet is sent to another node as well"),
    Setting(
      "MICRO_SIDECAR_EJECT_FAILURES", \.ejectFailures, .integer(0...1_000_000), .calls,
      "failures in a row after which a node gets no calls for a while; 0 is never"),
    Setting(
      "MICRO_SIDECAR_FAULT_HEADER", \.faultToken, SettingKind<String>.name.optional, .calls, mask: .whole,
      "token that X-Micro-Fault-Token must carry for X-Micro-Fault to be heard; without one it never is"),
    Setting(
      "MICRO_CLIENT_POOL_SIZE", \.poolSize, .integer(1...65_535), .calls, "connections to one node, for each worker"),
    Setting(
      "MICRO_CLIENT_POOL_TTL", \.poolTTL, .duration(), .calls, "age at which a connection to a node is replaced"),
    Setting(
      "MICRO_SIDECAR_POOL_IDLE", \.poolIdle, .duration(), .calls,
      "unused time after which a connection to a node is closed"),
    Setting(
      "MICRO_SIDECAR_CODECS", \.codecs, .list(of: "content-type=codec"), .calls,
      "content types of go-micro's plug-in codecs jsonrpc2, msgpackrpc, bsonrpc and mercury, besides the usual ones"),
    Setting(
      "MICRO_SIDECAR_CONTENT_TYPE", \.contentTypes, .list(of: "content types, each perhaps with service= before it"),
      .calls, "what nodes are called in, when their generation's own would not do"),
    Setting(
      "MICRO_SIDECAR_COMPAT", \.compatibility, .word, .calls,
      "how calls are repeated: safely (fixed), or as go-micro's clients of v0.14, v2 or v4.10 and later do it"),
    Setting(
      "MICRO_DESCRIPTORS", \.descriptors, .descriptorFiles, .calls,
      "message types, by which JSON and protobuf are translated; read again when they change"),

    // MARK: Limits
    Setting(
      "MICRO_SIDECAR_CORS", \.cors, .list(of: "origins, or *"), .limits, aliases: ["MICRO_PROXY_CORS"],
      "origins whose pages may call from a browser"),
    Setting(
      "MICRO_SIDECAR_MAX_BODY", \.maxBodyBytes, .byteSize(1024...(1 << 30)), .limits,
      "the largest body held in memory; above it 413"),
    Setting(
      "MICRO_SIDECAR_MAX_CONNECTIONS", \.maxConnections, .integer(1...1_000_000), .limits,
      "connections accepted on one listener, for each worker; above it new ones are closed"),
    Setting(
      "MICRO_SIDECAR_MAX_IN_FLIGHT", \.maxInFlight, .integer(1...1_000_000), .limits,
      "calls under way to one service, for each worker; above it 503"),
    Setting(
      "MICRO_SIDECAR_IDLE_TIMEOUT", \.idleTimeout, .duration(from: .seconds(1)), .limits,
      "time a caller's connection may stay unused"),
    Setting(
      "MICRO_SIDECAR_PING_INTERVAL", \.pingInterval, .duration(from: .seconds(1)), .limits,
      "silence after which a stream's caller is asked whether it is still there"),
    Setting(
      "MICRO_SIDECAR_HEADER_TIMEOUT", \.headerTimeout, .duration(from: .milliseconds(100)), .limits,
      "time a request's head may take to arrive; above it 408"),
    Setting(
      "MICRO_SIDECAR_WORKERS", \.workerCount, .workerCount, .limits,
      "threads that serve calls; auto is what the control group lets be kept busy, and 1 where it sets no limit"),
    Setting(
      "MICRO_SIDECAR_MEMORY_LIMIT", \.memoryLimit, .memoryLimit, .limits,
      "memory near which new calls get 503, before the kernel ends the process; auto is the control group's"),
    Setting(
      "MICRO_SIDECAR_CGROUP_ROOT", \.cgroupRoot, .text, .limits, "where the kernel shows control groups"),

    // MARK: Process
    Setting(
      "MICRO_SIDECAR_DRAIN", \.drain, .duration(from: .zero, upTo: .seconds(3600)), .process,
      "time calls under way get to finish after SIGTERM"),
    Setting(
      "MICRO_SIDECAR_RESTART_DRAIN", \.restartDrain, .duration(from: .zero, upTo: .seconds(86_400)), .process,
      "time connections and streams of the process that micro-sidecar restart replaces may go on"),
    Setting(
      "MICRO_SIDECAR_CORE_DUMPS", \.coreDumps, .flag, .process,
      "a crash may leave an image of the memory, with what calls and secrets are in it"),
    Setting("MICRO_LOG_LEVEL", \.logLevel, .logLevel, .process, "the least important lines logged"),
    Setting("MICRO_LOG_FORMAT", \.logFormat, .word, .process, "one line of text or one JSON object per event"),
    Setting(
      "MICRO_ACCESS_LOG", \.accessLog, SettingKind<LogDestination>.logDestination.optional, .process,
      "one line for each request; a file is opened anew on SIGHUP and SIGUSR1"),
    Setting(
      "MICRO_ACCESS_LOG_FORMAT", \.accessLogFormat, .accessLogFormat, .process, "what such a line looks like"),
    Setting(
      "MICRO_TRACE_ENDPOINT", \.traceEndpoint, SettingKind<TraceEndpoint>.traceEndpoint.optional, .process,
      "a collector that takes spans by OTLP/HTTP; without one calls are not traced"),
    Setting(
      "MICRO_TRACE_SAMPLE", \.traceSample, .share, .process,
      "the share of calls without a caller's decision that are traced"),
    Setting(
      "OTEL_EXPORTER_OTLP_ENDPOINT", \.collectorEndpoint, SettingKind<TraceEndpoint>.traceEndpoint.optional, .process,
      "as OpenTelemetry has it: /v1/traces is put behind it"),
    Setting(
      "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", \.collectorTracesEndpoint,
      SettingKind<TraceEndpoint>.traceEndpoint.optional, .process, "as OpenTelemetry has it: taken as it is"),
    Setting(
      "OTEL_SERVICE_NAME", \.telemetryName, SettingKind<String>.text.optional, .process,
      "who we are in spans; by default MICRO_SERVER_NAME"),
    Setting(
      "MICRO_SIDECAR_TAP_BODIES", \.tapBodies, .byteSize(0...65_536), .process,
      "bytes of request and reply that tap shows, of JSON only and with secrets masked; 0 shows none"),
    Setting(
      "MICRO_SIDECAR_TAP_MASK", \.tapMask, .list(of: "names of headers and JSON members"), .process,
      "further names whose values tap does not show"),
    Setting(
      "MICRO_PROXY_ADDRESS", \.proxyAddress, SettingKind<Destination>.destination.optional, .process,
      "where commands such as call find the running sidecar; by default at MICRO_SIDECAR_ADDRESS"),
    Setting(
      "MICRO_CONFIG", \.configFile, SettingKind<String>.text.optional, .process,
      "a YAML or JSON file of settings; flags and environment come first"),
  ]

  /// Settings of the table by each key of the environment, older ones included.
  static let byKey: [String: Setting] = {
    var rows: [String: Setting] = [:]
    for row in table {
      for key in [row.key] + row.aliases { rows[key] = row }
    }
    return rows
  }()

  /// Settings by the folded name of flag and file key, older ones included. What only the surroundings can know has
  /// neither.
  static let byName: [String: Setting] = {
    var rows: [String: Setting] = [:]
    for row in table where row.key.hasPrefix("MICRO_") {
      for key in [row.key] + row.aliases { rows[Setting.name(of: key)] = row }
    }
    return rows
  }()

  /// The row of a flag without its dashes, in any spelling.
  package static func setting(named name: String) -> Setting? { byName[Setting.folded(name)] }

  /// Keys that start with one of these are ours alone, so an unknown one is a mistake. Other MICRO_* keys may be
  /// go-micro's and are let be.
  static let ownPrefixes = ["MICRO_SIDECAR_", "MICRO_APP_", "MICRO_ADMIN_"]

  /// Something users may ask for and this version cannot do: going on without it would be worse than stopping.
  struct Unsupported: Sendable {
    var reason: String
    /// Values that ask for nothing, lower-case.
    var harmless: Set<String> = ["", "0", "false", "no", "off"]
  }

  static let unsupported: [String: Unsupported] = {
    let tls = Unsupported(reason: "TLS on the listeners is not in this version; end TLS in front of the sidecar")
    let acme = Unsupported(
      reason: "certificates from ACME are not in this version; end TLS in front of the sidecar")
    return [
      "MICRO_ENABLE_TLS": tls, "MICRO_TLS_CERT_FILE": tls, "MICRO_TLS_KEY_FILE": tls,
      "MICRO_TLS_CLIENT_CA_FILE": tls, "MICRO_ENABLE_ACME": acme, "MICRO_ACME_HOSTS": acme,
      "MICRO_SIDECAR_HANDLER": Unsupported(
        reason: "only the handler rpc is in this version; paths name a service and its method", harmless: ["", "rpc"]),
    ]
  }()

  /// go-micro's and the toolkit's own keys (cmd/cmd.go @ v0.14.0 … v6.10.0) that do not concern a sidecar. A key not
  /// here either is ignored as well, with a warning when it looks like a slip for one of ours.
  static let ignorable: Set<String> = [
    "MICRO_CLIENT", "MICRO_SERVER", "MICRO_BROKER", "MICRO_BROKER_ADDRESS",
    "MICRO_TRANSPORT_ADDRESS", "MICRO_PROXY", "MICRO_NETWORK", "MICRO_NETWORK_ADDRESS", "MICRO_ROUTER",
    "MICRO_ROUTER_ADDRESS", "MICRO_GATEWAY_ADDRESS", "MICRO_TUNNEL_ADDRESS", "MICRO_NAMESPACE", "MICRO_ENV",
    "MICRO_PROFILE", "MICRO_DEBUG_PROFILE", "MICRO_NATS_ADDRESS", "MICRO_TLS_SECURE", "MICRO_TLS_INSECURE",
    "MICRO_STORE", "MICRO_STORE_ADDRESS", "MICRO_STORE_DATABASE", "MICRO_STORE_TABLE", "MICRO_TRACER",
    "MICRO_TRACER_ADDRESS", "MICRO_AUTH", "MICRO_AUTH_ID", "MICRO_AUTH_SECRET", "MICRO_AUTH_PUBLIC_KEY",
    "MICRO_AUTH_PRIVATE_KEY", "MICRO_RUNTIME", "MICRO_RUNTIME_SOURCE", "MICRO_API_ADDRESS", "MICRO_API_HANDLER",
    "MICRO_API_NAMESPACE", "MICRO_API_RESOLVER", "MICRO_API_CORS", "MICRO_WEB_ADDRESS", "MICRO_WEB_NAMESPACE",
    "MICRO_WEB_CORS", "MICRO_PROXY_BACKEND", "MICRO_PROXY_PROTOCOL", "MICRO_PROXY_ENDPOINT", "MICRO_ENABLE_STATS",
    "MICRO_SERVICE_NAME", "MICRO_SERVICE_ADDRESS", "MICRO_SERVICE_ENDPOINT",
  ]
}
