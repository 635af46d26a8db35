// Everything that can be set, with its type and default. `Settings+Table.swift` says how each is spelled, `Settings+Load`
// where its value comes from.

/// How the app is spoken to.
package enum AppProtocol: String, CaseIterable, Sendable { case http, grpc, mucp }

/// The framework's transports that the sidecar serves, all on one port; callers use the one they find in the registry.
package enum AdvertisedTransport: String, CaseIterable, Sendable { case http, grpc }

/// `fixed` repairs the defects of the 2018 sidecar; `strict` keeps them for those who depend on them.
package enum Compatibility: String, CaseIterable, Sendable { case fixed, strict }

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
  package var selector = "random"

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
  package var workers = 1

  // Life cycle, logs, commands
  package var drain = Duration.seconds(25)
  package var logLevel = LogLevel.info
  package var logFormat = LogFormat.text
  /// Where commands find a running sidecar; nil: at `sidecarAddress`.
  package var proxyAddress: Destination?
  package var configFile: String?

  // How they came about
  /// Where each value came from, by the setting's key; a key that is not here has its default.
  package var origins: [String: SettingSource] = [:]
  /// MICRO_* variables of the environment that are go-micro's own and mean nothing to the sidecar, sorted.
  package var ignored: [String] = []
  /// Sentences about what is legal and probably not meant.
  package var warnings: [String] = []

  package init() {}
}

extension Settings {
  /// Whether inbound calls are taken: there is an app, and a name to register it under.
  package var takesCalls: Bool { serverName != nil && appAddress != nil }

  /// Where commands reach the sidecar that runs here.
  package var commandTarget: Destination {
    if let proxyAddress { return proxyAddress }
    // Only a listener on port 0 is no target; no command can know which port that became.
    return Destination(sidecarAddress.description) ?? .address(sidecarAddress)
  }
}

/// Where a value came from.
package enum SettingSource: Sendable, Hashable, CustomStringConvertible {
  case flag(String)
  case environment(String)
  /// The file's path and the key as written there, with dots.
  case file(path: String, key: String)
  /// No source of values: the words after the command's name, or rules between several settings.
  case commandLine
  case combination

  package var kind: String {
    switch self {
    case .flag: "flag"
    case .environment: "environment"
    case .file: "file"
    case .commandLine: "command line"
    case .combination: "settings"
    }
  }

  package var description: String {
    switch self {
    case .flag(let name): "flag \(name)"
    case .environment(let name): "environment \(name)"
    case .file(let path, let key): key.isEmpty ? "file \(path)" : "file \(path): \(key)"
    case .commandLine: "command line"
    case .combination: "settings"
    }
  }
}

/// One thing that is wrong: where, what was found, what is expected.
package struct SettingProblem: Error, Sendable, Equatable, CustomStringConvertible {
  package var source: SettingSource
  /// A sentence without a full stop: what was found, what is expected, the next step.
  package var message: String
  package init(_ source: SettingSource, _ message: String) {
    self.source = source
    self.message = message
  }
  package var description: String { "\(source): \(message)" }
}

/// Everything that is wrong at once, in the order flags, environment, file, combinations. Never empty.
package struct SettingsError: Error, Sendable, Equatable, CustomStringConvertible {
  package var problems: [SettingProblem]
  package init(_ problems: [SettingProblem]) { self.problems = problems }
  package var description: String { problems.map(\.description).joined(separator: "\n") }
}

extension Settings {
  /// The position of the registry that a setting calls `name`: whole, as `MICRO_REGISTRY` has it, or without its argument.
  package func registryIndex(_ name: String) -> Int? {
    registries.firstIndex { $0.description == name } ?? registries.firstIndex { $0.name == name }
  }
}

extension PluginTable {
  /// The registry that a setting names. Call it on the control loop.
  package func makeRegistry(
    _ choice: PluginChoice, _ settings: Settings, driver: any HostDriver, log: any LogSink
  ) throws(ConfigurationError) -> any Registry {
    try registry(choice.name)(
      PluginEnvironment(driver: driver, log: log, argument: choice.argument, addresses: settings.registryAddresses))
  }
}
