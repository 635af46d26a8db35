// What the admin listener answers. Threading: the control loop.

struct AdminAPI {
  private let sidecar: Sidecar

  init(_ sidecar: Sidecar) { self.sidecar = sidecar }

  func answer(_ request: AdminRequest, _ reply: @escaping (APIReply) -> Void) {
    switch request.path {
    case "/livez":
      reply(.text(200, "ok"))
    case "/startupz":
      reply(sidecar.phase == .starting ? .text(503, "starting") : .text(200, "ok"))
    case "/readyz":
      reply(readiness())
    case "/metrics":
      sidecar.gatherMetrics { [sidecar] workers in
        reply(
          APIReply(
            status: 200, contentType: MetricsPage.contentType,
            body: MetricsPage.render(workers, sidecar.processFamilies())))
      }
    case "/config":
      reply(APIReply(status: 200, contentType: "application/json", body: Array(sidecar.settings.render(.json).utf8)))
    case "/nodes":
      reply(.json(value: nodes()))
    case "/drain", "/shutdown":
      guard request.method == .post else {
        return reply(.text(405, "POST \(request.path) stops the sidecar after its calls have ended"))
      }
      reply(.text(200, "draining"))
      sidecar.driver.later { [sidecar] in sidecar.shutdown(reason: "POST \(request.path)") }
    case "/":
      reply(.text(200, "micro-sidecar: /livez /readyz /startupz /metrics /config /nodes, POST /drain /shutdown"))
    default:
      reply(.text(404, "no such page; see /"))
    }
  }

  /// Ready: listeners bound and every registry heard once. The app's health does not count: it decides about the
  /// registration, and a sidecar that makes calls is of use without it.
  private func readiness() -> APIReply {
    switch sidecar.phase {
    case .starting: return .text(503, "starting")
    case .draining, .stopped: return .text(503, "draining")
    case .serving: break
    }
    let waiting = sidecar.catalog.snapshot(now: sidecar.driver.now).registries.filter { $0.phase == .waiting }
    if waiting.isEmpty { return .text(200, "ok") }
    return .text(503, "waiting for " + waiting.map(\.name).joined(separator: ", "))
  }

  private func nodes() -> JSONValue {
    let snapshot = sidecar.catalog.snapshot(now: sidecar.driver.now)
    let services = snapshot.names.compactMap { snapshot.services[$0] }.map { entry in
      JSONValue.object([
        .init("name", .string(entry.name)), .init("revision", JSONValue(entry.revision)),
        .init("stale", .bool(entry.isStale)), .init("versions", .array(entry.versions.map { $0.json() })),
      ])
    }
    let registries = snapshot.registries.map { state in
      JSONValue.object([
        .init("name", .string(state.name)), .init("state", .string(state.phase.rawValue)),
        .init("age_seconds", JSONValue(state.age.saturatingNanoseconds / 1_000_000_000)),
        .init("last_error", state.lastError.map { .string($0) } ?? .null),
        .init("outages", JSONValue(state.outages)), .init("services", JSONValue(state.services)),
      ])
    }
    return .object([.init("registries", .array(registries)), .init("services", .array(services))])
  }
}

extension Sidecar {
  /// What only the control loop knows, for the metrics page.
  func processFamilies() -> [MetricFamily] {
    let snapshot = catalog.snapshot(now: driver.now)
    func perRegistry(_ name: String, _ kind: MetricFamily.Kind, _ help: String, _ value: (RegistryState) -> Double)
      -> MetricFamily
    {
      MetricFamily(name, kind, help, snapshot.registries.map { .init([("registry", $0.name)], value($0)) })
    }
    return [
      MetricFamily(
        "micro_sidecar_start_time_seconds", .gauge, "When the process started, in seconds since 1970.",
        [.init([], Double(startedUnix) / 1e9)]),
      MetricFamily(
        "micro_sidecar_resident_bytes", .gauge, "Resident memory of the process.",
        [.init([], Double(driver.residentBytes))]),
      MetricFamily(
        "micro_sidecar_app_healthy", .gauge, "1 while the app behind this sidecar is healthy, or there is none.",
        [.init([], isAppHealthy ? 1 : 0)]),
      MetricFamily(
        "micro_sidecar_services", .gauge, "Services known from all registries.",
        [.init([], Double(snapshot.services.count))]),
      MetricFamily(
        "micro_sidecar_registry_entries_skipped_total", .counter, "Registry entries that were not taken over.",
        [
          .init([("cause", "garbage")], Double(snapshot.counters.skippedAsGarbage)),
          .init([("cause", "full")], Double(snapshot.counters.skippedAsFull)),
        ]),
      perRegistry("micro_sidecar_registry_up", .gauge, "1 while the registry's watch stands.") {
        $0.phase == .current ? 1 : 0
      },
      perRegistry(
        "micro_sidecar_registry_age_seconds", .gauge, "Time since the registry last confirmed what is used of it."
      ) { Double($0.age.saturatingNanoseconds) / 1e9 },
      perRegistry("micro_sidecar_registry_outages_total", .counter, "Times the watch was lost.") { Double($0.outages) },
      perRegistry("micro_sidecar_registry_events_total", .counter, "Changes heard.") { Double($0.events) },
    ]
  }
}
