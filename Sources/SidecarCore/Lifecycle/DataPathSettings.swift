/// What the data path needs of the settings, in the units it computes with. Immutable, shared by all workers.
package struct DataPathSettings: Sendable {
  // Calls. All times in nanoseconds.
  package var requestTimeout: Int64 = 5_000_000_000
  package var connectTimeout: Int64 = 1_000_000_000
  package var namespace = "go.micro.srv"
  /// Makes the selector that a service's policy names; without a name the one of the settings.
  package var makeSelector: @Sendable (_ name: String?) -> any Selector
  /// What MICRO_SELECTOR says.
  package var selectorName = PluginTable.defaultSelector
  /// By what keys that selector goes.
  package var selectorKeys: @Sendable (_ name: String?) -> (hash: SelectKeyHash?, affinity: AffinityKey?) = { _ in
    (nil, nil)
  }
  /// Calls get their nodes from `Worker.applyNodes` rather than from the registries.
  package var hasNodeSource = false
  /// The policies at the start; later ones come by `Worker.policies`.
  package var policies = PolicyTable()
  /// Where this sidecar runs, as nodes write it in their metadata; empty: nobody said.
  package var zone = ""
  /// Who calls, for the callee's metadata; empty without a name.
  package var fromService = FixedBytes.empty
  /// What a caller must know to ask for faults; nil: nobody may.
  package var faultToken: FixedBytes?
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
  /// Calls under way at once on one worker, to all services; more are answered with `overloaded`.
  package var callsMax = Self.callsMaxDefault
  package static let callsMaxDefault = 16_384
  package var bodyMax = 4 * 1024 * 1024
  /// Bytes a caller may send ahead while its call is under way; then reading pauses.
  package var pipelineMax = 64 * 1024

  /// Names that browsers may reach us by.
  package var hosts = HostNames([])
  /// Origins browsers may call from; `*` is any.
  package var corsOrigins = ["*"]

  // The app behind this sidecar.
  package var serviceName: ServiceName?
  package var appTarget: DialTarget?
  package var appProtocol = AppProtocol.http
  package var appConcurrency = AppConcurrency.off
  package var appHost = FixedBytes.empty
  /// The app's endpoints that are streams, by name.
  package var appStreams: [String: AppStream] = [:]
  /// What single requests are watched for; nil: they are not.
  package var accessLog: AccessLogFormat?
  package var tracing: TraceSettings?
  package var tap = TapSettings()
  /// Workers of the process: what is limited for all of them together is shared by so many.
  package var workers = 1
  /// Threads of the process, for Debug.Stats.
  package var threads = 2

  package init(makeSelector: @escaping @Sendable (_ name: String?) -> any Selector) {
    self.makeSelector = makeSelector
  }

  package init(_ settings: Settings, plans: @escaping @Sendable (_ name: String?) -> SelectorPlan) {
    self.init(makeSelector: { plans($0).make() })
    selectorKeys = {
      let plan = plans($0)
      return (plan.keyHash, plan.affinity)
    }
    requestTimeout = settings.requestTimeout.saturatingNanoseconds
    connectTimeout = settings.connectTimeout.saturatingNanoseconds
    policies = settings.policies
    appConcurrency = settings.appConcurrency
    faultToken = settings.faultToken.map { FixedBytes($0) }
    zone = settings.zone ?? ""
    selectorName = settings.selector
    workers = settings.workers
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
    hosts = HostNames(settings.hosts)
    if settings.accessLog != nil { accessLog = settings.accessLogFormat }
    if settings.traceTarget != nil { tracing = TraceSettings(share: settings.traceSample) }
    tap.bodyBytes = settings.tapBodies
    tap.masked = Set(settings.tapMask.map { $0.lowercased() })
    callsMax = max(settings.maxInFlight, Self.callsMaxDefault)
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
