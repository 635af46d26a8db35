// What the admin listener answers. Threading: the control loop.

struct AdminAPI {
  let sidecar: Sidecar

  init(_ sidecar: Sidecar) { self.sidecar = sidecar }

  func answer(_ request: AdminRequest, _ reply: @escaping (AdminReply) -> Void) {
    let whole: (APIReply) -> Void = { reply(.whole($0, fields: [("Cache-Control", "no-store")])) }
    switch request.path {
    case "/livez": whole(.text(200, "ok"))
    case "/startupz": whole(sidecar.phase == .starting ? .text(503, "starting") : .text(200, "ok"))
    case "/readyz": whole(readiness())
    case "/metrics": metrics(.init(accept: request.accept), reply)
    case "/config":
      whole(APIReply(status: 200, contentType: "application/json", body: Array(sidecar.settings.render(.json).utf8)))
    case "/nodes": whole(.json(value: nodes()))
    case "/tap": reply(tap(request))
    case "/status": status(request, whole)
    case "/call": call(request, whole)
    case "/explain": explain(request, whole)
    case "/drain":
      guard request.method == .post else {
        return whole(.text(405, "POST /drain takes the app out of the registry for good; calls are still served"))
      }
      sidecar.withdraw(reason: "POST /drain") { whole(.text(200, "out of the registry, still serving")) }
    case "/shutdown":
      guard request.method == .post else {
        return whole(.text(405, "POST /shutdown stops the sidecar after its calls have ended"))
      }
      whole(.text(200, "draining"))
      sidecar.driver.later { [sidecar] in sidecar.shutdown(reason: "POST \(request.path)") }
    case "/restart":
      guard request.method == .post else {
        return whole(.text(405, "POST /restart puts a new process in this one's place, without a lost call"))
      }
      guard let restart = sidecar.onRestart else { return whole(.text(503, "this process cannot be replaced")) }
      restart { problem in whole(problem.map { .text(503, $0) } ?? .text(200, "a new process serves")) }
    case "/": reply(page(request))
    default: whole(.text(404, "no such page; see /"))
    }
  }

  /// For people a page, for programs the paths there are.
  private func page(_ request: AdminRequest) -> AdminReply {
    guard request.accept?.contains("text/html") == true else {
      return .whole(
        .text(
          200,
          "micro-sidecar: /livez /readyz /startupz /metrics /config /nodes /status /tap, POST /drain /restart /shutdown"
        ))
    }
    let fields: [(name: StaticString, value: String)] = [
      ("Content-Security-Policy", AdminPage.policy), ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer"),
    ]
    return .whole(
      APIReply(status: 200, contentType: "text/html; charset=utf-8", body: Array(AdminPage.html.utf8)), fields: fields)
  }

  private func metrics(_ form: MetricsPage.Form, _ reply: @escaping (AdminReply) -> Void) {
    sidecar.gatherMetrics { [sidecar] workers in
      let begun = sidecar.driver.processorNanoseconds
      sidecar.scrapeTurnMax = max(sidecar.scrapeTurnMax, workers.map(\.reportNanoseconds).max() ?? 0)
      let page = MetricsPage(workers.map(\.metrics), sidecar.processFamilies(workers), form: form)
      sidecar.finish(page, begun: begun) {
        reply(.long($0, contentType: form.contentType, fields: [("Cache-Control", "no-store")]))
      }
    }
  }

  /// Ready: listeners bound and every registry heard once. The app's health does not count: it decides about the
  /// registration, and a sidecar that makes calls is of use without it.
  private func readiness() -> APIReply {
    switch sidecar.phase {
    case .starting: return .text(503, "starting")
    case .draining, .stopped: return .text(503, "draining")
    case .serving: if sidecar.isWithdrawn { return .text(503, "draining") }
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
    return .object([
      .init("registries", .array(registries)), .init("services", .array(services)),
      .init("certificates", sidecar.certificates.json()),
    ])
  }
}

extension Sidecar {
  /// Processor time of one turn of the control loop that is spent on a page of metrics.
  private static let scrapeTurnNanoseconds: Int64 = 300_000

  /// Puts the page together, a little in each turn of the loop; this one began with `begun` on the thread's clock.
  func finish(_ page: MetricsPage, begun: Int64? = nil, _ completion: @escaping (ByteBuffer) -> Void) {
    let start = begun ?? driver.processorNanoseconds
    var spent = driver.processorNanoseconds &- start
    var isMore = true
    while isMore, spent < Self.scrapeTurnNanoseconds {
      isMore = page.step()
      spent = driver.processorNanoseconds &- start
    }
    scrapeTurnMax = max(scrapeTurnMax, spent)
    guard isMore else { return completion(page.buffer) }
    let rest = LoopBound((self, page, completion))
    driver.mailbox.post { rest.value.0.finish(rest.value.1, rest.value.2) }
  }

  /// What only the control loop knows, for the metrics page.
  func processFamilies(_ workers: [WorkerReport]) -> [MetricFamily] {
    let snapshot = catalog.snapshot(now: driver.now)
    // Some are left out by the registries themselves, the others by the catalog.
    let skipped = zip(snapshot.registries, registries).flatMap { state, registry -> [MetricFamily.Sample] in
      let sum = state.skipped + registry.skipped
      return [
        .init([("registry", state.name), ("cause", "garbage")], Double(sum.asGarbage)),
        .init([("registry", state.name), ("cause", "full")], Double(sum.asFull)),
      ]
    }
    func perRegistry(_ name: String, _ kind: MetricFamily.Kind, _ help: String, _ value: (RegistryState) -> Double)
      -> MetricFamily
    {
      MetricFamily(name, kind, help, snapshot.registries.map { .init([("registry", $0.name)], value($0)) })
    }
    var services: [String: ServiceReport] = [:]
    for service in workers.flatMap(\.services) {
      if services[service.name] == nil {
        services[service.name] = service
      } else {
        services[service.name]?.add(service)
      }
    }
    let inOrder = ServiceReport.bounded(Array(services.values))
    func perService(_ name: String, _ help: String, _ value: (ServiceReport) -> Double) -> MetricFamily {
      MetricFamily(name, .gauge, help, inOrder.map { .init([("service", $0.name)], value($0)) })
    }
    return [
      MetricFamily(
        "micro_sidecar_start_time_seconds", .gauge, "When the process started, in seconds since 1970.",
        [.init([], Double(startedUnix) / 1e9)]),
      MetricFamily(
        "micro_sidecar_resident_bytes", .gauge, "Resident memory of the process.",
        [.init([], Double(driver.residentBytes))]),
      MetricFamily(
        "micro_sidecar_memory_limit_bytes", .gauge, "Memory near which new calls are refused; 0 is no limit.",
        [.init([], Double(settings.memoryBytesMax ?? 0))]),
      MetricFamily(
        "micro_sidecar_memory_short", .gauge, "1 while new calls are refused for want of memory.",
        [.init([], memoryWatch?.isShort == true ? 1 : 0)]),
      MetricFamily(
        "micro_sidecar_build_info", .gauge, "1; the labels say which build this is.", [.init([("version", version)], 1)]
      ),
      MetricFamily(
        "micro_sidecar_config_info", .gauge, "1; the labels say how it is set up.",
        [
          .init(
            [
              ("registry", settings.registries.map(\.name).joined(separator: ",")), ("selector", settings.selector),
              ("app_protocol", settings.appProtocol.rawValue), ("workers", "\(settings.workers)"),
              ("access_log", settings.accessLog == nil ? "off" : "on"),
              ("tracing", settings.traceTarget == nil ? "off" : "on"),
            ], 1)
        ]),
      MetricFamily(
        "micro_sidecar_memory_bytes", .gauge, "Memory by use, as far as it is known.",
        [
          .init([("use", "counters")], Double(workers.reduce(0) { $0 + $1.countersBytes })),
          .init([("use", "spare_buffers")], Double(workers.reduce(0) { $0 + $1.buffersBytes })),
        ]),
      MetricFamily(
        "micro_sidecar_loop_lag_seconds", .gauge,
        "The longest time that a worker's loop was late since the last scrape.",
        workers.map { .init([("worker", "\($0.index)")], Double($0.lagMax) / 1e9) }),
      certificates.family("micro_sidecar_certificate_expiry_timestamp_seconds"),
      MetricFamily(
        "micro_sidecar_scrape_turn_seconds_max", .gauge,
        "The most processor time that a loop was held up at once by a page like this.",
        [.init([], Double(scrapeTurnMax) / 1e9)]),
      MetricFamily("micro_sidecar_taps", .gauge, "Lookers-on at /tap.", [.init([], Double(taps.count))]),
      MetricFamily(
        "micro_sidecar_spans_exported_total", .counter, "Spans that the collector has taken.",
        [.init([], Double(spanExporter?.exported ?? 0))]),
      MetricFamily(
        "micro_sidecar_spans_dropped_total", .counter, "Spans that the collector did not take in time.",
        [.init([], Double(spanExporter?.dropped ?? 0))]),
      perService("micro_sidecar_service_nodes", "Nodes of a called service.") { Double($0.nodes) },
      perService("micro_sidecar_service_nodes_ejected", "Of these, those that are out, as the worker with most has it.")
      {
        Double($0.ejected)
      },
      perService("micro_sidecar_service_in_flight", "Attempts under way at its nodes.") { Double($0.inFlight) },
      perService("micro_sidecar_retry_budget", "Repetitions that could be paid for now.") { $0.budget },
      MetricFamily(
        "micro_sidecar_app_healthy", .gauge, "1 while the app behind this sidecar is healthy, or there is none.",
        [.init([], isAppHealthy ? 1 : 0)]),
      MetricFamily(
        "micro_sidecar_config_reloads_total", .counter, "Times the configuration was read again, by what came of it.",
        [
          .init([("result", "taken")], Double(configuration.taken)),
          .init([("result", "refused")], Double(configuration.refused)),
        ]),
      MetricFamily(
        "micro_sidecar_config_last_reload_success_timestamp_seconds", .gauge,
        "When the configuration in use was read, in seconds since 1970.",
        [.init([], Double(configuration.takenAt) / 1e9)]),
      MetricFamily(
        "micro_sidecar_services", .gauge, "Services known from all registries.",
        [.init([], Double(snapshot.services.count))]),
      MetricFamily(
        "micro_sidecar_registry_entries_skipped_total", .counter,
        "Registry entries that were not taken over, each time they were met.", skipped),
      MetricFamily(
        "micro_sidecar_registry_apply_seconds_max", .gauge,
        "The most processor time that a worker's loop was held up by changes of registries at once.",
        [.init([], Double(workers.map(\.metrics.longestApply).max() ?? 0) / 1e9)]),
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
