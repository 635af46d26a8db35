/// What the data path needs of the settings, in the units it computes with. Immutable, shared by all workers.
package struct DataPathSettings: Sendable {
  // Calls. All times in nanoseconds.
  package var requestTimeout: Int64 = 5_000_000_000
  package var connectTimeout: Int64 = 1_000_000_000
  /// Further attempts after the first that may have cost the node work; refused dials do not count.
  package var retries = 1
  package var namespace = "go.micro.srv"
  package var makeSelector: @Sendable () -> any Selector
  /// Who calls, for the callee's metadata; empty without a name.
  package var fromService = FixedBytes.empty
  /// How long "no such service" is remembered.
  package var negativeTTL: Int64 = 1_000_000_000

  /// Content types that are not built in.
  package var codecs = FrameCodecTable.standard
  package var contentTypes = ContentTypeChoice()

  // Connections.
  package var idleUpstreamsMax = 100
  package var upstreamIdleTimeout: Int64 = 3_000_000_000
  package var upstreamConnectionAge: Int64 = 60_000_000_000
  package var downstreamIdleTimeout: Int64 = 75_000_000_000
  /// Silence on a stream after which its caller is asked whether it is still there.
  package var pingInterval: Int64 = 30_000_000_000
  /// A message must go on within this time once it has begun.
  package var messageTimeout: Int64 = 10_000_000_000
  package var connectionsMax = 10_000
  /// Calls under way at once on one worker; more are answered with `overloaded`.
  package var callsMax = 1024
  package var bodyMax = 4 * 1024 * 1024
  /// Bytes a caller may send ahead while its call is under way; then reading pauses.
  package var pipelineMax = 64 * 1024

  /// Origins browsers may call from; `*` is any.
  package var corsOrigins = ["*"]

  // The app behind this sidecar.
  package var serviceName: ServiceName?
  package var appTarget: DialTarget?
  package var appProtocol = AppProtocol.http
  package var appHost = FixedBytes.empty
  /// The app's endpoints that are streams, by name.
  package var appStreams: [String: AppStream] = [:]
  /// Threads of the process, for Debug.Stats.
  package var threads = 2

  package init(makeSelector: @escaping @Sendable () -> any Selector) { self.makeSelector = makeSelector }

  package init(_ settings: Settings, makeSelector: @escaping @Sendable () -> any Selector) {
    self.init(makeSelector: makeSelector)
    requestTimeout = settings.requestTimeout.saturatingNanoseconds
    connectTimeout = settings.connectTimeout.saturatingNanoseconds
    retries = settings.retries
    namespace = settings.namespace ?? ""
    // Both were checked when the settings were loaded.
    codecs = (try? FrameCodecTable(adding: settings.codecs)) ?? .standard
    contentTypes = (try? ContentTypeChoice(settings.contentTypes, codecs: codecs)) ?? ContentTypeChoice()
    fromService = FixedBytes(settings.serverName ?? "")
    idleUpstreamsMax = settings.poolSize
    upstreamIdleTimeout = settings.poolIdle.saturatingNanoseconds
    upstreamConnectionAge = settings.poolTTL.saturatingNanoseconds
    downstreamIdleTimeout = settings.idleTimeout.saturatingNanoseconds
    pingInterval = settings.pingInterval.saturatingNanoseconds
    messageTimeout = settings.headerTimeout.saturatingNanoseconds
    connectionsMax = settings.maxConnections
    callsMax = settings.maxInFlight
    bodyMax = settings.maxBodyBytes
    corsOrigins = settings.cors
    serviceName = settings.serverName
    threads = settings.workers + 1
    for stream in settings.appStreams.compactMap({ AppStream($0) }) { appStreams[stream.endpoint] = stream }
    appProtocol = settings.appProtocol
    if let app = settings.appAddress {
      switch app {
      case .address(let address):
        appTarget = .socket(address)
        appHost = if case .unix = address { FixedBytes("localhost") } else { FixedBytes(address.description) }
      case .name(let host, let port):
        appTarget = .name(host: host, port: port)
        appHost = FixedBytes("\(host):\(port)")
      }
    }
  }
}
