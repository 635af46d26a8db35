// Why a call would go where it goes: what `/explain` and `micro-sidecar explain` show. Nothing is sent, and nothing that is
// known changes.

extension Worker {
  /// What this worker knows about calls of the endpoint. `asked`: the words the caller used.
  func explanation(_ table: ServiceTable, _ endpoint: String, asked: String?) -> JSONValue {
    let now = driver.now
    let policy = policies.endpoint(table.name, endpoint)
    var members: [JSONValue.Member] = [
      .init("service", .string(table.name)), .init("endpoint", .string(endpoint)),
    ]
    if let asked {
      members.append(.init("path", .string(asked)))
      members.append(.init("namespace", .string(settings.namespace)))
    }
    members.append(.init("worker", JSONValue(index)))
    members.append(.init("known", .bool(table.status == .present)))
    members.append(.init("stale", .bool(table.isStale)))
    members.append(.init("stream", table.isStream(endpoint).map { .bool($0) } ?? .null))
    members.append(.init("call", callRules(table, endpoint, policy, now)))
    members.append(.init("selection", selectionRules(table, policy, now)))
    members.append(.init("candidates", .array(table.nodes.indices.map { candidate(table, $0, policy, now) })))
    members.append(
      .init(
        "uncallable",
        .array(
          table.uncallable.map { node in
            .object([
              .init("id", .string(node.id)), .init("address", .string(node.address)),
              .init(
                "reason",
                .string(
                  "speaks \(node.metadata["transport"] ?? node.metadata["protocol"] ?? "an address that is no host and port")"
                )),
            ])
          })))
    return .object(members)
  }

  private func callRules(
    _ table: ServiceTable, _ endpoint: String, _ policy: EndpointPolicy, _ now: Instant
  ) -> JSONValue {
    let values = policy.values
    let idempotent: JSONValue
    let because: String
    if let said = values.isIdempotent {
      (idempotent, because) = (.bool(said), "policy")
    } else if table.isIdempotent(endpoint) {
      (idempotent, because) = (.bool(true), "registry metadata")
    } else {
      (idempotent, because) = (.bool(false), "nothing says so; GET and Idempotency-Key make a call so")
    }
    func milliseconds(_ nanoseconds: Int64?) -> JSONValue { nanoseconds.map { JSONValue(Double($0) / 1e6) } ?? .null }
    return .object([
      .init("timeout_ms", milliseconds(values.timeout ?? settings.requestTimeout)),
      .init("attempt_timeout_ms", milliseconds(policy.attemptTimeout)),
      .init("connect_timeout_ms", milliseconds(settings.connectTimeout)),
      .init("idempotent", idempotent), .init("idempotent_because", .string(because)),
      .init("retries", JSONValue(values.retry.limit)),
      .init("retries_as", .string(values.retry.strict?.rawValue ?? "idempotent or not begun")),
      .init("retry_codes", .array(values.retry.codes.map { JSONValue($0) })),
      .init("retry_budget", JSONValue((table.budget.peek(now) * 10).rounded() / 10)),
      .init("hedge_after_ms", values.hedge.map { $0.after == 0 ? .string("p95") : milliseconds($0.after) } ?? .null),
      .init("priority", .string(values.priority.word)),
    ])
  }

  private func selectionRules(_ table: ServiceTable, _ policy: EndpointPolicy, _ now: Instant) -> JSONValue {
    let rules = table.policy
    let filter = policy.values.filter
    var filters: [JSONValue] = filter.labels.map { .string("\($0.key)=\($0.value)") }
    if let version = filter.version { filters.append(.string("version=\(version)")) }
    if let endpoint = filter.endpoint { filters.append(.string("endpoint=\(endpoint)")) }
    return .object([
      .init("selector", .string(selectorName(rules) ?? settings.selectorName)),
      .init("filters", .array(filters)),
      .init("zone", settings.zone.isEmpty ? .null : .string(settings.zone)),
      .init("usable", JSONValue(table.set.usableCount(filter, now))),
      .init("panicking", .bool(table.set.isPanicking(filter, now))),
      .init(
        "splits",
        .array(
          rules.splits.map { split in
            .object([
              .init("version", split.filter.version.map { .string($0) } ?? .null),
              .init("labels", .array(split.filter.labels.map { .string("\($0.key)=\($0.value)") })),
              .init("weight", JSONValue(split.weight)),
            ])
          })),
      .init("in_flight", JSONValue(table.gate.inside)), .init("in_flight_max", JSONValue(rules.limits.inFlight)),
      .init("waiting", JSONValue(table.gate.waitingCount)), .init("waiting_max", JSONValue(rules.limits.pending)),
      .init("failing_fast", .bool(table.gate.isFailingFast)),
    ])
  }

  private func candidate(_ table: ServiceTable, _ index: Int, _ policy: EndpointPolicy, _ now: Instant) -> JSONValue {
    let state = table.nodes[index]
    let load = table.set.loadOf(index)
    let health = table.set.healthOf(index)
    let latency = Double(load.latency(at: now, decay: table.policy.latencyDecay))
    let busyness = Double(load.inFlight + 1) * Double(load.pressure(at: now))
    let standing: String =
      switch health.standing {
      case .well: health.isUnhealthy ? "unhealthy" : "well"
      case .out: "out"
      case .halfOpen: "half_open"
      }
    let reason = table.set.exclusion(index, policy.values.filter, now)
    let target = state.target
    return .object([
      .init("id", .string(state.node.id)), .init("address", .string(state.node.address)),
      .init("version", .string(state.version)), .init("dialect", .string(state.dialect.words)),
      .init("zone", state.node.metadata["zone"].map { .string($0) } ?? .null),
      .init("tier", JSONValue(table.set.tierKey(index))), .init("weight", JSONValue(Double(load.weight))),
      .init("in_flight", JSONValue(Int(load.inFlight))),
      .init("latency_ms", load.latency == 0 ? .null : JSONValue((latency / 1e3).rounded() / 1e3)),
      .init("reported_load", load.reported == 0 ? .null : JSONValue((Double(load.reported) * 1e3).rounded() / 1e3)),
      .init(
        "score",
        load.latency == 0 || load.weight <= 0
          ? .null : JSONValue((latency * busyness / Double(load.weight) / 1e3).rounded() / 1e3)),
      .init("standing", .string(standing)),
      .init("cause", health.standing == .well ? .null : .string(health.cause.word)),
      .init(
        "back_in_ms", health.standing == .out ? JSONValue(health.until.nanoseconds(since: now) / 1_000_000) : .null),
      .init("connections", JSONValue(target.openCount)), .init("idle_connections", JSONValue(target.idle.count)),
      .init("excluded", reason.map { .string($0) } ?? .null),
    ])
  }
}

extension NodeDialect {
  /// How the node is spoken to, for people.
  var words: String {
    if isGRPC { return "grpc" }
    let frames = generation == .legacy ? "mucp, v0.14 to v0.21" : "mucp"
    return if case .grpc = transport { frames + " over the grpc transport" } else { frames }
  }
}

/// A question that waits until the registries have answered. Keeps itself alive until then.
final class ExplanationRequest: ResolutionWaiter {
  private let worker: Worker
  private let table: ServiceTable
  private let endpoint: String
  private let asked: String?
  private let completion: (Result<JSONValue, SidecarError>) -> Void

  /// `completion` is called once, at once or in a later turn. Errors: no such service; too many are being looked up.
  static func start(
    _ worker: Worker, _ service: ServiceName, _ endpoint: String, asked: String?,
    completion: @escaping (Result<JSONValue, SidecarError>) -> Void
  ) {
    guard let table = worker.service(service) else {
      return completion(.failure(SidecarError(.overloaded, "too many unknown services are being looked up")))
    }
    let request = ExplanationRequest(worker, table, endpoint, asked, completion)
    switch table.status {
    case .present: request.resolved(found: true)
    case .absent(let since) where worker.driver.now.nanoseconds(since: since) < worker.settings.negativeTTL:
      request.resolved(found: false)
    case .absent:
      worker.resolve(table)
      request.wait()
    case .resolving: request.wait()
    }
  }

  private init(
    _ worker: Worker, _ table: ServiceTable, _ endpoint: String, _ asked: String?,
    _ completion: @escaping (Result<JSONValue, SidecarError>) -> Void
  ) {
    self.worker = worker
    self.table = table
    self.endpoint = endpoint
    self.asked = asked
    self.completion = completion
  }

  private func wait() {
    guard table.waiting.count < ServiceTable.waitersMax else {
      return completion(.failure(SidecarError(.overloaded, "too many calls wait for the registries")))
    }
    table.waiting.append(self)
  }

  func resolved(found: Bool) {
    completion(
      found ? .success(worker.explanation(table, endpoint, asked: asked)) : .failure(.serviceNotFound(table.name)))
  }
}
