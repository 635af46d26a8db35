// The configuration file's `policies`: from a tree to rules, or to everything that is wrong with them.
//
//   policies:
//   - service: go.micro.srv.*          # which services; * stands for any text
//     limits: {in_flight: 200}
//   - service: go.micro.srv.greeter
//     endpoint: Say.*                  # which endpoints; then only fields of endpoints may follow
//     hedge: p95
//
// docs/policies.md describes every field. A field that is a mapping of its own changes what it names and leaves the rest
// (ejection, limits, retry_budget, backoff), or takes the place of the whole (all others).

package struct PolicyParser {
  /// Rules of a file.
  package static let rulesMax = 1024
  /// Parts of a split, and labels of a filter.
  package static let partsMax = 16
  private static let codesMax = 64

  /// What came of a file's `policies`.
  package struct Result {
    package var rules: [PolicyRule] = []
    package var problems: [PolicyProblem] = []
  }

  private typealias ServiceChange = @Sendable (inout ServicePolicy) -> Void
  private typealias EndpointChange = @Sendable (inout EndpointPolicy.Values) -> Void

  private let selectors: [String]?
  private let checkSelector: (_ selector: String) throws(ConfigurationError) -> Void
  private let complaints: PolicyComplaints
  private var serviceChanges: [ServiceChange] = []
  private var endpointChanges: [EndpointChange] = []

  /// Reads the list of rules that stands at `place`. `selectors`: names that a selector may have; nil: any. `defaults`:
  /// what the rules change, by which contradictions are found.
  package static func parse(
    _ value: JSONValue, at place: String = "policies", selectors: [String]? = nil,
    checkSelector: @escaping (_ selector: String) throws(ConfigurationError) -> Void = { _ in },
    service: ServicePolicy = ServicePolicy(), endpoint: EndpointPolicy.Values = EndpointPolicy.Values()
  ) -> Result {
    var parser = PolicyParser(selectors: selectors, checkSelector: checkSelector)
    var rules: [PolicyRule] = []
    switch value {
    case .null: break
    case .array(let elements) where elements.count <= rulesMax:
      for (index, element) in elements.enumerated() {
        let place = "\(place)[\(index)]"
        guard let rule = parser.rule(element, at: place) else { continue }
        rules.append(rule)
        parser.check(rules, at: place, PolicyTable(service: service, endpoint: endpoint, rules: rules))
      }
    case .array(let elements):
      parser.complaints.add(place, "found a list of \(elements.count), expected at most \(rulesMax) rules")
    case .bool, .number, .string, .object:
      parser.complaints.add(place, "found \(PolicyComplaints.shown(value)), expected a list of rules")
    }
    return Result(rules: rules, problems: parser.complaints.list)
  }

  /// Every field that a rule can have, in the order in which they are read.
  package static func fields() -> [PolicyField] {
    var parser = PolicyParser(selectors: nil, checkSelector: { _ in }, complaints: PolicyComplaints(describing: true))
    _ = parser.rule(.null, at: "policies[0]")
    return parser.complaints.fields ?? []
  }

  private init(
    selectors: [String]?, checkSelector: @escaping (_ selector: String) throws(ConfigurationError) -> Void,
    complaints: PolicyComplaints = PolicyComplaints()
  ) {
    self.complaints = complaints
    self.selectors = selectors
    self.checkSelector = checkSelector
  }

  /// Fields that hold for a service as a whole.
  package static let serviceFields = [
    "selector", "affinity", "zone_first", "slow_start", "panic_threshold", "latency_decay", "ejection", "limits",
    "retry_budget", "split", "health_check",
  ]

  private mutating func rule(_ value: JSONValue, at place: String) -> PolicyRule? {
    guard var reader = PolicyReader(value, at: place, complaints) else { return nil }
    serviceChanges = []
    endpointChanges = []
    let service = reader.required("service", .wildcard, "; * is all services")
    let endpoint = reader.value("endpoint", .wildcard)
    if endpoint == nil {
      takeService(&reader)
    } else {
      reader.refuse(
        Self.serviceFields, "holds for a whole service; move it into a rule without endpoint")
    }
    takeEndpoint(&reader)
    reader.close()
    if serviceChanges.isEmpty, endpointChanges.isEmpty, complaints.list.isEmpty {
      complaints.add(place, "changes nothing")
    }
    guard let service else { return nil }
    return PolicyRule(
      service: service, endpoint: endpoint, written: value,
      changeService: { [serviceChanges] policy in for change in serviceChanges { change(&policy) } },
      changeEndpoint: { [endpointChanges] values in for change in endpointChanges { change(&values) } })
  }

  // MARK: Changes

  private mutating func set<Value: Sendable>(
    _ path: any WritableKeyPath<ServicePolicy, Value> & Sendable, _ value: Value?
  ) {
    if let value { serviceChanges.append { $0[keyPath: path] = value } }
  }

  private mutating func set<Value: Sendable>(
    _ path: any WritableKeyPath<EndpointPolicy.Values, Value> & Sendable, _ value: Value?
  ) {
    if let value { endpointChanges.append { $0[keyPath: path] = value } }
  }

  // MARK: Services

  private mutating func takeService(_ reader: inout PolicyReader) {
    takeSelector(&reader)
    set(\.zoneFirst, reader.value("zone_first", .flag))
    set(\.slowStart, reader.value("slow_start", .nanoseconds(from: .zero, upTo: .seconds(3600))))
    set(\.panicThreshold, reader.value("panic_threshold", .share()))
    set(\.latencyDecay, reader.value("latency_decay", .nanoseconds(from: .milliseconds(1), upTo: .seconds(3600))))
    takeEjection(&reader)
    if case .mapping(var limits) = reader.part("limits", words: []) {
      set(\.limits.inFlight, limits.value("in_flight", .integer(1...1_000_000)))
      set(\.limits.inFlightPerNode, limits.value("in_flight_per_node", .integer(0...1_000_000)))
      set(\.limits.pending, limits.value("pending", .integer(0...1_000_000)))
      set(\.limits.pendingTime, limits.value("pending_time", .nanoseconds(upTo: .seconds(3600))))
      set(\.limits.connectionsPerNode, limits.value("connections_per_node", .integer(1...65_535)))
      limits.close()
    }
    if case .mapping(var budget) = reader.part("retry_budget", words: []) {
      set(\.budget.ratio, budget.value("ratio", .share(upTo: 10)))
      set(\.budget.floorPerSecond, budget.value("floor", .number(0...1_000_000)))
      set(\.budget.window, budget.value("window", .nanoseconds(from: .milliseconds(100), upTo: .seconds(3600))))
      budget.close()
    }
    takeSplit(&reader)
    takeHealthCheck(&reader)
  }

  private mutating func takeSelector(_ reader: inout PolicyReader) {
    if let text = reader.value("selector", .text) {
      let name = PluginChoice(text).name
      if let selectors, !selectors.contains(name) {
        let near = NearestName.of(name, among: selectors).map { "; did you mean \($0)?" } ?? ""
        reader.complain(
          "selector",
          "found selector \(PolicyComplaints.quoted(name)), expected one of \(selectors.sorted().joined(separator: ", "))"
            + near)
      } else {
        do throws(ConfigurationError) {
          try checkSelector(text)
          set(\.selector, .some(text))
        } catch {
          reader.complain("selector", error.message)
        }
      }
    }
    switch reader.part("affinity") {
    case .absent: break
    case .word: serviceChanges.append { $0.affinity = nil }
    case .mapping(var affinity):
      let header = affinity.value("header", .headerName)
      let cookie = affinity.value("cookie", .headerName)
      affinity.close()
      switch (header, cookie) {
      case (let header?, nil): set(\.affinity, .some(.header(header.lowercased())))
      case (nil, let cookie?): set(\.affinity, .some(.cookie(cookie)))
      case (nil, nil): reader.complain("affinity", "expected a header or a cookie")
      case (.some, .some): reader.complain("affinity", "names a header and a cookie, expected one of them")
      }
    }
  }

  private mutating func takeEjection(_ reader: inout PolicyReader) {
    switch reader.part("ejection") {
    case .absent: return
    case .word:
      serviceChanges.append {
        $0.ejection.consecutiveFailures = 0
        $0.ejection.successRateMin = 0
        $0.ejection.latencyFactor = 0
      }
    case .mapping(var ejection):
      set(\.ejection.consecutiveFailures, ejection.value("consecutive_failures", .integer(0...1_000_000)))
      set(\.ejection.baseTime, ejection.value("base_time", .nanoseconds()))
      set(\.ejection.timeMax, ejection.value("max_time", .nanoseconds()))
      set(\.ejection.shareMax, ejection.value("max_share", .share()))
      set(\.ejection.successRateMin, ejection.value("success_rate", .share()))
      set(\.ejection.window, ejection.value("window", .nanoseconds(from: .milliseconds(100), upTo: .seconds(3600))))
      set(\.ejection.callsMin, ejection.value("min_calls", .integer(1...1_000_000)))
      if let factor = ejection.value("latency_factor", .number(0...1000)) {
        if factor > 0, factor < 1 {
          ejection.complain("latency_factor", "found \(factor), expected 0 for never, or 1 and more")
        }
        set(\.ejection.latencyFactor, .some(factor))
      }
      set(\.ejection.refusedTime, ejection.value("refused_time", .nanoseconds(from: .zero, upTo: .seconds(3600))))
      ejection.close()
    }
  }

  private mutating func takeSplit(_ reader: inout PolicyReader) {
    switch reader.member("split") {
    case .bool(false)?, .string("off")?: return serviceChanges.append { $0.splits = [] }
    default: break
    }
    guard let elements = reader.list("split", upTo: Self.partsMax, of: "parts", words: ["off"]) else { return }
    var splits: [TrafficSplit] = []
    for (value, place) in elements {
      guard var part = PolicyReader(value, at: place, complaints) else { continue }
      let weight = part.required("weight", .integer(0...1_000_000))
      let filter = NodeFilter(version: part.value("version", .text), labels: Self.labels(&part) ?? [])
      part.close()
      if filter.isEmpty, part.member("version") == nil, part.member("labels") == nil {
        complaints.add(place, "expected a version or labels, which say whose part it is")
      } else if splits.contains(where: { $0.filter == filter }) {
        complaints.add(place, "is the same part as another")
      }
      if let weight { splits.append(TrafficSplit(filter, weight: weight)) }
    }
    if splits.count == elements.count, splits.allSatisfy({ $0.weight == 0 }) {
      reader.complain("split", splits.isEmpty ? "has no part; off is no split" : "all weights are zero")
    }
    set(\.splits, .some(splits))
  }

  private static func labels(_ reader: inout PolicyReader) -> [NodeFilter.Label]? {
    guard let texts = reader.texts("labels") else { return nil }
    guard texts.count <= partsMax else {
      reader.complain("labels", "found \(texts.count), expected at most \(partsMax)")
      return []
    }
    return texts.map { NodeFilter.Label($0.key, $0.value) }
  }

  private enum ProbeWord: String, CaseIterable { case tcp, http, grpc, debug }

  private mutating func takeHealthCheck(_ reader: inout PolicyReader) {
    switch reader.part("health_check") {
    case .absent: return
    case .word: serviceChanges.append { $0.healthCheck = nil }
    case .mapping(var part):
      var check = HealthCheckPolicy()
      let word = part.value("probe", SettingKind<ProbeWord>.word) ?? .debug
      let path = part.value("path", .text)
      switch word {
      case .tcp: check.probe = .tcp
      case .http: check.probe = .http(path: path ?? "/")
      case .grpc: check.probe = .grpc
      case .debug: check.probe = .debug
      }
      if let path {
        if word != .http {
          part.complain("path", "belongs to probe http, and the probe is \(word.rawValue)")
        } else if !path.hasPrefix("/") || path.utf8.contains(UInt8(ascii: " ")) {
          part.complain(
            "path", "found \(PolicyComplaints.quoted(path)), expected a path that starts with / and has no spaces")
        }
      }
      check.period = part.value("period", .nanoseconds(from: .milliseconds(100))) ?? check.period
      check.timeout = part.value("timeout", .nanoseconds()) ?? min(check.timeout, check.period)
      check.failures = part.value("failures", .integer(1...1000)) ?? check.failures
      check.successes = part.value("successes", .integer(1...1000)) ?? check.successes
      if check.timeout > check.period { part.complain("timeout", "is longer than the period") }
      part.close()
      set(\.healthCheck, .some(check))
    }
  }

  // MARK: Endpoints

  private mutating func takeEndpoint(_ reader: inout PolicyReader) {
    set(\.timeout, reader.value("timeout", .nanoseconds()).map { .some($0) })
    set(\.attemptTimeout, reader.value("attempt_timeout", .nanoseconds()).map { .some($0) })
    takeRetries(&reader)
    takeHedge(&reader)
    set(\.isIdempotent, reader.value("idempotent", .flag).map { .some($0) })
    if let version = reader.value("version", .text) { endpointChanges.append { $0.filter.version = version } }
    if let labels = Self.labels(&reader) {
      let labels = NodeFilter(labels: labels).labels
      endpointChanges.append { $0.filter.labels = labels }
    }
    set(\.requiresEndpoint, reader.value("requires_endpoint", .flag))
    takeRateLimit(&reader)
    takeFault(&reader)
    switch reader.part("mirror") {
    case .absent: break
    case .word: endpointChanges.append { $0.mirror = nil }
    case .mapping(var part):
      let service = part.required("service", .name)
      let share = part.value("share", .share())
      part.close()
      if let service {
        var mirror = MirrorPolicy(service: service)
        mirror.share = share ?? 1
        set(\.mirror, .some(mirror))
      }
    }
    set(\.priority, reader.value("priority", .priority))
  }

  private mutating func takeRetries(_ reader: inout PolicyReader) {
    set(\.retry.limit, reader.value("retries", .integer(0...100)))
    if let elements = reader.list("retry_codes", upTo: Self.codesMax, of: "codes") {
      let codes = elements.compactMap { reader.read($0.value, .integer(400...599), at: $0.place) }
      set(\.retry.codes, .some(Array(Set(codes)).sorted()))
    }
    set(\.retry.onBreak, reader.value("retry_on_break", .flag))
    guard case .mapping(var backoff) = reader.part("backoff", words: []) else { return }
    set(\.retry.backoff.base, backoff.value("base", .nanoseconds(from: .zero, upTo: .seconds(3600))))
    set(\.retry.backoff.max, backoff.value("max", .nanoseconds(from: .zero, upTo: .seconds(3600))))
    backoff.close()
  }

  private mutating func takeHedge(_ reader: inout PolicyReader) {
    switch reader.part("hedge", words: ["off", "p95"]) {
    case .absent: break
    case .word(let word): set(\.hedge, .some(word == "p95" ? HedgePolicy() : nil))
    case .mapping(var part):
      var hedge = HedgePolicy()
      let after = part.required("after", .hedgeDelay)
      part.close()
      hedge.after = after ?? 0
      set(\.hedge, .some(hedge))
    }
  }

  private mutating func takeRateLimit(_ reader: inout PolicyReader) {
    switch reader.part("rate_limit") {
    case .absent: break
    case .word: endpointChanges.append { $0.rateLimit = nil }
    case .mapping(var part):
      var limit = RateLimitPolicy()
      limit.scope = part.value("scope", .word) ?? limit.scope
      let isSound = Self.takeRate(&part, &limit.rate, &limit.burst)
      part.close()
      if isSound { set(\.rateLimit, .some(limit)) }
    }
  }

  /// Tokens a second and how many are saved up: as many as come in a second, where `burst` does not say.
  static func takeRate(_ reader: inout PolicyReader, _ rate: inout Double, _ burst: inout Double) -> Bool {
    let found = reader.required("rate", .number(0...10_000_000))
    if found == 0 { reader.complain("rate", "found 0, expected calls a second above 0; off is no limit") }
    rate = max(found ?? rate, 1e-6)
    burst = reader.value("burst", .number(1...10_000_000)) ?? max(rate, 1)
    return found != nil
  }

  private mutating func takeFault(_ reader: inout PolicyReader) {
    switch reader.part("fault") {
    case .absent: break
    case .word: endpointChanges.append { $0.fault = nil }
    case .mapping(var part):
      var fault = FaultPolicy()
      let delay = part.value("delay", .nanoseconds(from: .zero, upTo: .seconds(3600)))
      let delayShare = part.value("delay_share", .share())
      let abort = part.value("abort", .integer(400...599))
      let abortShare = part.value("abort_share", .share())
      part.close()
      if delayShare != nil, part.member("delay") == nil { part.complain("delay_share", "is there without delay") }
      if abortShare != nil, part.member("abort") == nil { part.complain("abort_share", "is there without abort") }
      if part.member("delay") == nil, part.member("abort") == nil {
        reader.complain("fault", "expected a delay or an abort")
      }
      if let delay {
        fault.delay = delay
        fault.delayShare = delayShare ?? 1
      }
      if let abort {
        fault.abortCode = abort
        fault.abortShare = abortShare ?? 1
      }
      set(\.fault, .some(fault))
    }
  }

  // MARK: Contradictions

  /// What the last of `rules` makes of those before it must make sense.
  private func check(_ rules: [PolicyRule], at place: String, _ table: PolicyTable) {
    guard let rule = rules.last else { return }
    // A rule before it holds for all of its services if it holds for its pattern, taken as a name.
    if rule.endpoint == nil {
      checkService(table.service(rule.service.pattern), rule.written, at: place)
    }
    checkEndpoint(table.endpoint(rule.service.pattern, rule.endpoint?.pattern ?? "*"), rule.written, at: place)
  }

  private func checkService(_ policy: ServicePolicy, _ written: JSONValue, at place: String) {
    if policy.ejection.baseTime > policy.ejection.timeMax, written["ejection"] != nil {
      complaints.add(
        "\(place).ejection.base_time",
        "\(Self.shown(policy.ejection.baseTime)) is longer than max_time \(Self.shown(policy.ejection.timeMax))")
    }
    if policy.limits.inFlightPerNode > policy.limits.inFlight, written["limits"] != nil {
      complaints.add(
        "\(place).limits.in_flight_per_node",
        "\(policy.limits.inFlightPerNode) is more than in_flight \(policy.limits.inFlight) of the service")
    }
  }

  private func checkEndpoint(_ policy: EndpointPolicy, _ written: JSONValue, at place: String) {
    let values = policy.values
    if let timeout = values.timeout, let attempt = values.attemptTimeout, attempt > timeout,
      written["timeout"] != nil || written["attempt_timeout"] != nil
    {
      complaints.add(
        "\(place).attempt_timeout",
        "\(Self.shown(attempt)) is longer than the timeout \(Self.shown(timeout)) of the whole call")
    }
    if values.retry.backoff.base > values.retry.backoff.max, written["backoff"] != nil {
      complaints.add(
        "\(place).backoff.base",
        "\(Self.shown(values.retry.backoff.base)) is longer than max \(Self.shown(values.retry.backoff.max))")
    }
    if let hedge = values.hedge, let attempt = values.attemptTimeout, hedge.after >= attempt, hedge.after > 0,
      written["hedge"] != nil || written["attempt_timeout"] != nil
    {
      complaints.add(
        "\(place).hedge.after",
        "\(Self.shown(hedge.after)) is not below attempt_timeout \(Self.shown(attempt)), so no hedge would ever be made"
      )
    }
    if values.isIdempotent == false, values.hedge != nil, written["hedge"] != nil {
      complaints.add("\(place).hedge", "is made only for idempotent calls, and idempotent is false")
    }
  }

  private static func shown(_ nanoseconds: Int64) -> String { GoDuration.format(.nanoseconds(nanoseconds)) }
}

// MARK: Kinds

extension SettingKind<String> {
  /// A header's or a cookie's name (RFC 9110 §5.6.2).
  static var headerName: SettingKind {
    .scalar(
      "a name of letters, digits and - _ .", shape: .pattern("^[A-Za-z0-9_.!#$%&'*+^`|~-]{1,128}$"), format: { $0 },
      read: { text in
        let isToken = text.utf8.allSatisfy { byte in
          byte | 0x20 >= UInt8(ascii: "a") && byte | 0x20 <= UInt8(ascii: "z") || DecimalNumber.isDigit(byte)
            || "-_.!#$%&'*+^`|~".utf8.contains(byte)
        }
        return isToken && !text.isEmpty && text.utf8.count <= 128 ? text : nil
      })
  }
}

extension SettingKind<Int64> {
  /// When a hedge is made: a duration, or `p95` (0).
  static var hedgeDelay: SettingKind {
    let kind = SettingKind<Int64>.nanoseconds(upTo: .seconds(3600))
    return SettingKind(
      "p95, or \(kind.expected)", shape: .either([.pattern("^p95$"), kind.shape]),
      parse: { (raw) throws(SettingMismatch) in
        if raw == .text("p95") { return 0 }
        guard let value = try? kind.parse(raw) else { throw SettingMismatch("p95, or \(kind.expected)") }
        return value
      },
      format: { $0 == 0 ? "p95" : kind.format($0) })
  }
}

extension SettingKind<HedgePolicy?> {
  static var hedge: SettingKind {
    let delay = SettingKind<Int64>.hedgeDelay
    return SettingKind(
      "off, \(delay.expected)", shape: .either([.words(["off"]), delay.shape]),
      parse: { (raw) throws(SettingMismatch) in
        if case .text(let text) = raw, ["off", "false"].contains(text.lowercased()) { return nil }
        guard let after = try? delay.parse(raw) else { throw SettingMismatch("off, \(delay.expected)") }
        var hedge = HedgePolicy()
        hedge.after = after
        return hedge
      },
      format: { $0.map { delay.format($0.after) } ?? "off" })
  }
}
