// `/status`: what the page for people shows, gathered from all workers, as one JSON document.

extension AdminAPI {
  /// Services of one answer; the page asks for the next by `after`.
  static let servicesMax = 100
  /// Nodes of one service shown.
  static let nodesMax = 100

  func status(_ request: AdminRequest, _ reply: @escaping (APIReply) -> Void) {
    let query = QueryFields(request.query)
    let after = query["after"] ?? ""
    let wanted = query["search"]?.lowercased() ?? ""
    let snapshot = sidecar.catalog.snapshot(now: sidecar.driver.now)
    let names = snapshot.names.filter { $0 > after && (wanted.isEmpty || $0.lowercased().contains(wanted)) }
    let shown = Array(names.prefix(Self.servicesMax))
    sidecar.gather({ (worker: Worker) in (worker.report(keepsLag: true), worker.nodeReports(shown)) }) {
      [sidecar] (answers: [(WorkerReport, [ServiceName: [NodeReport]])]) in
      var reports: [String: [NodeReport]] = [:]
      for (_, nodes) in answers { for (name, list) in nodes { reports[name, default: []] += list } }
      let services = shown.compactMap { name in
        snapshot.services[name].map { Self.service($0, reports[name] ?? []) }
      }
      reply(
        .json(
          value: .object([
            .init("name", .string(sidecar.settings.serverName ?? "")), .init("version", .string(sidecar.version)),
            .init("phase", .string(sidecar.phase.rawValue)), .init("app_healthy", .bool(sidecar.isAppHealthy)),
            .init("app", .string(sidecar.settings.appAddress?.description ?? "")),
            .init("sidecar_address", .string(sidecar.appAddress?.description ?? "")),
            .init("server_address", .string(sidecar.frameworkAddress?.description ?? "")),
            .init(
              "uptime_seconds", JSONValue(sidecar.driver.now.nanoseconds(since: sidecar.startedAt) / 1_000_000_000)),
            .init("resident_bytes", JSONValue(sidecar.driver.residentBytes)),
            .init("totals", Self.totals(answers.map(\.0))),
            .init("registries", .array(snapshot.registries.map(Self.registry))),
            .init("certificates", sidecar.certificates.json()),
            .init("broker", .string("No broker: this version neither publishes nor subscribes.")),
            .init("services_count", JSONValue(snapshot.names.count)),
            .init("services", .array(services)), .init("more", .bool(names.count > shown.count)),
          ])))
    }
  }

  /// Sums since the start, of which the page makes rates.
  private static func totals(_ workers: [WorkerReport]) -> JSONValue {
    let totals = RequestTotals(workers.map(\.metrics))
    return .object([
      .init("requests", JSONValue(totals.requests)), .init("failures", JSONValue(totals.failures)),
      .init("in_flight", JSONValue(workers.reduce(0) { $0 + Int($1.metrics[.requestsInFlight]) })),
      .init("retries", JSONValue(workers.reduce(0 as UInt64) { $0 &+ $1.metrics[.retries] })),
      .init("ejections", JSONValue(workers.reduce(0 as UInt64) { $0 &+ $1.metrics[.ejections] })),
      .init("latency_seconds", JSONValue(Double(totals.nanoseconds) / 1e9)),
      .init("buckets", .array(totals.buckets.map { JSONValue($0) })),
      .init("bounds_seconds", .array(WorkerMetrics.bounds.map { JSONValue(Double($0) / 1e9) })),
    ])
  }

  private static func registry(_ state: RegistryState) -> JSONValue {
    .object([
      .init("name", .string(state.name)), .init("state", .string(state.phase.rawValue)),
      .init("age_seconds", JSONValue(state.age.saturatingNanoseconds / 1_000_000_000)),
      .init("last_error", state.lastError.map { .string($0) } ?? .null), .init("outages", JSONValue(state.outages)),
      .init("services", JSONValue(state.services)),
    ])
  }

  private static func service(_ entry: ServiceEntry, _ reports: [NodeReport]) -> JSONValue {
    let nodes = entry.nodes.prefix(nodesMax).map { node in
      let known = reports.filter { $0.id == node.node.id }
      return JSONValue.object([
        .init("id", .string(node.node.id)), .init("address", .string(node.node.address)),
        .init("version", .string(node.version.version)),
        .init("dialect", .string(known.first?.dialect ?? dialect(node.node.metadata))),
        .init("called", .bool(!known.isEmpty)),
        .init("health", .string(known.map(\.health).max { rank($0) < rank($1) } ?? "unknown")),
        .init("cause", .string(known.first { !$0.cause.isEmpty }?.cause ?? "")),
        .init("latency_ms", known.map(\.latency).max().map { JSONValue(($0 / 1e6 * 1000).rounded() / 1000) } ?? .null),
        .init("in_flight", JSONValue(known.reduce(0) { $0 + $1.inFlight })),
      ])
    }
    let endpoints = entry.versions.first?.endpoints ?? []
    return .object([
      .init("name", .string(entry.name)), .init("stale", .bool(entry.isStale)),
      .init("versions", .array(entry.versions.map { .string($0.version) })), .init("nodes", .array(nodes)),
      .init("nodes_count", JSONValue(entry.nodes.count)),
      .init("endpoints", .array(endpoints.prefix(nodesMax).map { $0.json() })),
    ])
  }

  private static func rank(_ health: String) -> Int {
    switch health {
    case "out": 3
    case "unhealthy": 2
    case "half-open": 1
    default: 0
    }
  }

  private static func dialect(_ metadata: [String: String]) -> String {
    metadata["protocol"] ?? metadata["server"] ?? metadata["transport"] ?? ""
  }
}

/// What one worker knows of one node.
struct NodeReport: Sendable {
  var id: String
  var dialect: String
  /// `well`, `out`, `half-open`, `unhealthy`.
  var health: String
  var cause: String
  /// Moving average in nanoseconds; 0: nothing is known.
  var latency: Double
  var inFlight: Int
}

extension Worker {
  /// The nodes of services that this worker has called.
  func nodeReports(_ names: [ServiceName]) -> [ServiceName: [NodeReport]] {
    var reports: [ServiceName: [NodeReport]] = [:]
    for name in names {
      guard let table = knownService(name), table.status == .present else { continue }
      reports[name] = table.nodes.indices.prefix(AdminAPI.nodesMax).map { index in
        let node = table.nodes[index]
        let load = table.set.loadOf(index)
        let health = table.set.healthOf(index)
        let standing =
          switch health.standing {
          case .well: health.isUnhealthy ? "unhealthy" : "well"
          case .out: "out"
          case .halfOpen: "half-open"
          }
        return NodeReport(
          id: node.node.id, dialect: node.dialect.isGRPC ? "grpc" : "\(node.dialect.generation)", health: standing,
          cause: health.standing == .well ? "" : health.cause.word,
          latency: Double(load.latency(at: driver.now, decay: table.policy.latencyDecay)), inFlight: Int(load.inFlight))
      }
    }
    return reports
  }
}

/// The members of a query, the last of each name.
struct QueryFields {
  private var values: [String: String] = [:]
  private(set) var json = JSONValue.object([])

  init(_ query: String) {
    let buffer = ByteBuffer()
    var query = query
    let isRead = query.withUTF8 { (try? QueryToJSON.append(UnsafeRawBufferPointer($0), to: buffer)) != nil }
    guard isRead, let members = try? JSONValue(parsing: buffer.bytes), case .object(let list) = members else { return }
    json = members
    for member in list { values[member.key] = member.value.stringValue }
  }

  subscript(_ name: String) -> String? { values[name] }
}
