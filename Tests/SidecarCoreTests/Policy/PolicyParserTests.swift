import Testing

@testable import SidecarCore

private func parse(_ json: String) throws -> PolicyParser.Result {
  PolicyParser.parse(try JSONValue(parsing: json), selectors: ["p2c", "random", "roundrobin"])
}

/// What the rules make of a service and an endpoint; there must be nothing wrong with them.
private func table(_ json: String) throws -> PolicyTable {
  let result = try parse(json)
  #expect(result.problems.map(\.description) == [])
  return PolicyTable(rules: result.rules)
}

@Suite("Policies of the configuration file")
struct PolicyParserTests {
  @Test("a rule changes what it names for the services that fit, and a later rule has the last word")
  func order() throws {
    let table = try table(
      """
      [{"service": "*", "timeout": "2s", "limits": {"in_flight": 50}},
       {"service": "go.micro.srv.*", "limits": {"pending": 7}, "retries": 0},
       {"service": "go.micro.srv.greeter", "endpoint": "Say.*", "timeout": "250ms"}]
      """)
    let greeter = table.service("go.micro.srv.greeter")
    #expect(greeter.limits.inFlight == 50)
    #expect(greeter.limits.pending == 7)
    #expect(table.service("other").limits.pending == LimitPolicy().pending)
    let hello = table.endpoint("go.micro.srv.greeter", "Say.Hello").values
    #expect(hello.timeout == 250_000_000)
    #expect(hello.retry.limit == 0)
    #expect(table.endpoint("go.micro.srv.greeter", "Stats.Get").values.timeout == 2_000_000_000)
    #expect(table.endpoint("other", "A.B").values.retry.limit == RetryPolicy().limit)
  }

  @Test("every field of a service arrives")
  func serviceFields() throws {
    let policy = try table(
      """
      [{"service": "a", "selector": "roundrobin", "affinity": {"header": "X-User"}, "zone_first": false,
        "slow_start": "30s", "panic_threshold": "25%", "latency_decay": "5s",
        "ejection": {"consecutive_failures": 7, "base_time": "2s", "max_time": "1m", "max_share": 0.3,
          "success_rate": "80%", "window": "20s", "min_calls": 50, "latency_factor": 3.5, "refused_time": "0s"},
        "limits": {"in_flight": 10, "in_flight_per_node": 4, "pending": 0, "pending_time": "100ms",
          "connections_per_node": 8},
        "retry_budget": {"ratio": "10%", "floor": 2.5, "window": "30s"},
        "split": [{"version": "2", "weight": 5}, {"labels": {"track": "stable", "zone": "a"}, "weight": 95}],
        "health_check": {"probe": "http", "path": "/healthz", "period": "3s", "timeout": "500ms", "failures": 2,
          "successes": 4}}]
      """
    ).service("a")
    var wanted = ServicePolicy()
    wanted.selector = "roundrobin"
    wanted.affinity = .header("x-user")
    wanted.zoneFirst = false
    wanted.slowStart = 30_000_000_000
    wanted.panicThreshold = 0.25
    wanted.latencyDecay = 5_000_000_000
    wanted.ejection.consecutiveFailures = 7
    wanted.ejection.baseTime = 2_000_000_000
    wanted.ejection.timeMax = 60_000_000_000
    wanted.ejection.shareMax = 0.3
    wanted.ejection.successRateMin = 0.8
    wanted.ejection.window = 20_000_000_000
    wanted.ejection.callsMin = 50
    wanted.ejection.latencyFactor = 3.5
    wanted.ejection.refusedTime = 0
    wanted.limits.inFlight = 10
    wanted.limits.inFlightPerNode = 4
    wanted.limits.pending = 0
    wanted.limits.pendingTime = 100_000_000
    wanted.limits.connectionsPerNode = 8
    wanted.budget.ratio = 0.1
    wanted.budget.floorPerSecond = 2.5
    wanted.budget.window = 30_000_000_000
    wanted.splits = [
      TrafficSplit(NodeFilter(version: "2"), weight: 5),
      TrafficSplit(NodeFilter(labels: [.init("track", "stable"), .init("zone", "a")]), weight: 95),
    ]
    var check = HealthCheckPolicy()
    check.probe = .http(path: "/healthz")
    check.period = 3_000_000_000
    check.timeout = 500_000_000
    check.failures = 2
    check.successes = 4
    wanted.healthCheck = check
    #expect(policy == wanted)
  }

  @Test("every field of an endpoint arrives")
  func endpointFields() throws {
    let values = try table(
      """
      [{"service": "a", "endpoint": "B.*", "timeout": "3s", "attempt_timeout": "1s", "retries": 4,
        "retry_codes": [503, 429], "retry_on_break": false, "backoff": {"base": "10ms", "max": "1s"},
        "hedge": {"after": "20ms"}, "idempotent": true, "version": 2, "labels": {"track": "canary"},
        "requires_endpoint": true, "rate_limit": {"rate": 5, "burst": 2, "scope": "caller"},
        "fault": {"delay": "200ms", "delay_share": "5%", "abort": 502, "abort_share": 0.01},
        "mirror": {"service": "a-next", "share": "1%"}, "priority": "high"}]
      """
    ).endpoint("a", "B.C").values
    var wanted = EndpointPolicy.Values()
    wanted.timeout = 3_000_000_000
    wanted.attemptTimeout = 1_000_000_000
    wanted.retry.limit = 4
    wanted.retry.codes = [429, 503]
    wanted.retry.onBreak = false
    wanted.retry.backoff.base = 10_000_000
    wanted.retry.backoff.max = 1_000_000_000
    var hedge = HedgePolicy()
    hedge.after = 20_000_000
    wanted.hedge = hedge
    wanted.isIdempotent = true
    wanted.filter = NodeFilter(version: "2", labels: [.init("track", "canary")])
    wanted.requiresEndpoint = true
    var limit = RateLimitPolicy()
    limit.rate = 5
    limit.burst = 2
    limit.scope = .caller
    wanted.rateLimit = limit
    var fault = FaultPolicy()
    fault.delay = 200_000_000
    fault.delayShare = 0.05
    fault.abortCode = 502
    fault.abortShare = 0.01
    wanted.fault = fault
    var mirror = MirrorPolicy(service: "a-next")
    mirror.share = 0.01
    wanted.mirror = mirror
    wanted.priority = .high
    #expect(values == wanted)
  }

  @Test("what one rule switched on a later one switches off")
  func switchedOff() throws {
    let table = try table(
      """
      [{"service": "*", "affinity": {"cookie": "id"}, "split": [{"version": "1", "weight": 1}],
        "health_check": {"probe": "tcp"}, "hedge": "p95", "rate_limit": {"rate": 1}, "fault": {"delay": "1s"},
        "mirror": {"service": "b"}},
       {"service": "a", "affinity": "off", "split": false, "health_check": "off", "ejection": "off", "hedge": "off",
        "rate_limit": false, "fault": "off", "mirror": "off"}]
      """)
    let service = table.service("a")
    #expect(service.affinity == nil && service.splits.isEmpty && service.healthCheck == nil)
    #expect(service.ejection.consecutiveFailures == 0)
    #expect(table.endpoint("a", "B.C").values == EndpointPolicy.Values())
    let other = table.endpoint("other", "B.C").values
    #expect(other.hedge == HedgePolicy() && other.rateLimit?.burst == 1 && other.fault?.delayShare == 1)
    #expect(other.mirror?.share == 1)
  }

  @Test(
    "what is wrong is named with its place and what was expected",
    arguments: [
      ("{}", "policies: found a mapping, expected a list of rules"),
      ("[3]", #"policies[0]: found "3", expected a mapping"#),
      (#"[{"timeout": "1s"}]"#, "policies[0].service: is missing; * is all services"),
      (#"[{"service": "a"}]"#, "policies[0]: changes nothing"),
      (
        #"[{"service": "a", "limits": {"pendnig": 3}}]"#,
        "policies[0].limits.pendnig: no such field; did you mean pending?"
      ),
      (#"[{"service": "a", "retires": 3}]"#, "policies[0].retires: no such field; did you mean retries?"),
      (#"[{"service": "a", "retries": 1, "retries": 2}]"#, "policies[0].retries: is there twice"),
      (
        #"[{"service": "a", "endpoint": "B.C", "limits": {"pending": 3}}]"#,
        "policies[0].limits: holds for a whole service; move it into a rule without endpoint"
      ),
      (
        #"[{"service": "a", "timeout": 3}]"#,
        #"policies[0].timeout: found "3", expected a duration with its unit from 1ms to 24h, such as 25s, 250ms or 1m30s"#
      ),
      (
        #"[{"service": "a", "timeout": []}]"#,
        "policies[0].timeout: found a list, expected a duration with its unit from 1ms to 24h, such as 25s, 250ms or 1m30s"
      ),
      (
        #"[{"service": "a", "limits": {"pending": -1}}]"#,
        #"policies[0].limits.pending: found "-1", expected a whole number from 0 to 1000000"#
      ),
      (#"[{"service": "a", "limits": 3}]"#, #"policies[0].limits: found "3", expected a mapping or "#),
      (
        #"[{"service": "a", "panic_threshold": "120%"}]"#,
        #"policies[0].panic_threshold: found "120%", expected a share from 0 to 1, such as 0.2 or 20%"#
      ),
      (
        #"[{"service": "a", "selector": "randm"}]"#,
        #"policies[0].selector: found selector "randm", expected one of p2c, random, roundrobin; did you mean random?"#
      ),
      (
        #"[{"service": "a", "affinity": {"header": "a", "cookie": "b"}}]"#,
        "policies[0].affinity: names a header and a cookie, expected one of them"
      ),
      (
        #"[{"service": "a", "affinity": {"header": "a b"}}]"#,
        #"policies[0].affinity.header: found "a b", expected a name of letters, digits and - _ ."#
      ),
      (
        #"[{"service": "a", "ejection": {"base_time": "1h"}}]"#,
        "policies[0].ejection.base_time: 1h is longer than max_time 5m"
      ),
      (
        #"[{"service": "a", "ejection": {"latency_factor": 0.5}}]"#,
        "policies[0].ejection.latency_factor: found 0.5, expected 0 for never, or 1 and more"
      ),
      (
        #"[{"service": "*", "limits": {"in_flight": 5}}, {"service": "a", "limits": {"in_flight_per_node": 6}}]"#,
        "policies[1].limits.in_flight_per_node: 6 is more than in_flight 5 of the service"
      ),
      (
        #"[{"service": "a", "split": [{"version": "1", "weight": 0}, {"version": "2", "weight": 0}]}]"#,
        "policies[0].split: all weights are zero"
      ),
      (#"[{"service": "a", "split": [{"version": "1"}]}]"#, "policies[0].split[0].weight: is missing"),
      (
        #"[{"service": "a", "split": [{"weight": 1}]}]"#,
        "policies[0].split[0]: expected a version or labels, which say whose part it is"
      ),
      (
        #"[{"service": "a", "split": [{"version": "1", "weight": 1}, {"version": "1", "weight": 2}]}]"#,
        "policies[0].split[1]: is the same part as another"
      ),
      (#"[{"service": "a", "split": []}]"#, "policies[0].split: has no part; off is no split"),
      (
        #"[{"service": "a", "health_check": {"probe": "tcp", "path": "/x"}}]"#,
        "policies[0].health_check.path: belongs to probe http, and the probe is tcp"
      ),
      (
        #"[{"service": "a", "health_check": {"period": "1s", "timeout": "2s"}}]"#,
        "policies[0].health_check.timeout: is longer than the period"
      ),
      (
        #"[{"service": "a", "timeout": "1s", "attempt_timeout": "2s"}]"#,
        "policies[0].attempt_timeout: 2s is longer than the timeout 1s of the whole call"
      ),
      (#"[{"service": "a", "backoff": {"base": "1s"}}]"#, "policies[0].backoff.base: 1s is longer than max 250ms"),
      (
        #"[{"service": "a", "hedge": {"after": "1s"}, "attempt_timeout": "1s"}]"#,
        "policies[0].hedge.after: 1s is not below attempt_timeout 1s, so no hedge would ever be made"
      ),
      (
        #"[{"service": "a", "hedge": "p95", "idempotent": false}]"#,
        "policies[0].hedge: is made only for idempotent calls, and idempotent is false"
      ),
      (#"[{"service": "a", "hedge": {}}]"#, "policies[0].hedge.after: is missing"),
      (
        #"[{"service": "a", "retry_codes": [503, 42]}]"#,
        #"policies[0].retry_codes[1]: found "42", expected a whole number from 400 to 599"#
      ),
      (#"[{"service": "a", "rate_limit": {"burst": 3}}]"#, "policies[0].rate_limit.rate: is missing"),
      (
        #"[{"service": "a", "rate_limit": {"rate": 0}}]"#,
        "policies[0].rate_limit.rate: found 0, expected calls a second above 0; off is no limit"
      ),
      (
        #"[{"service": "a", "rate_limit": {"rate": 1, "scope": "node"}}]"#,
        #"policies[0].rate_limit.scope: found "node", expected service or endpoint or caller"#
      ),
      (#"[{"service": "a", "fault": {"abort_share": 1}}]"#, "policies[0].fault.abort_share: is there without abort"),
      (#"[{"service": "a", "fault": {}}]"#, "policies[0].fault: expected a delay or an abort"),
      (#"[{"service": "a", "mirror": {"share": 1}}]"#, "policies[0].mirror.service: is missing"),
      (
        #"[{"service": "a", "priority": "urgent"}]"#,
        #"policies[0].priority: found "urgent", expected low, normal, high, critical"#
      ),
      (#"[{"service": "a", "idempotent": "yes"}]"#, #"policies[0].idempotent: found "yes", expected true or false"#),
    ])
  func complaints(json: String, complaint: String) throws {
    let problems = try parse(json).problems.map(\.description)
    #expect(problems.contains { $0.hasPrefix(complaint) }, "\(problems)")
  }

  @Test("everything that is wrong is said at once")
  func allAtOnce() throws {
    let problems = try parse(
      """
      [{"service": "a", "timeout": "x", "limits": {"pending": "y", "z": 1}}, {"service": "b", "retries": true}]
      """
    ).problems.map(\.place)
    #expect(
      problems == ["policies[0].limits.pending", "policies[0].limits.z", "policies[0].timeout", "policies[1].retries"])
  }

  @Test("a file with no end of mistakes gets an end of complaints")
  func bounded() throws {
    let rules = Array(repeating: #"{"x": 1}"#, count: 300).joined(separator: ",")
    #expect(try parse("[\(rules)]").problems.count == PolicyComplaints.countMax)
    let tooMany = Array(repeating: #"{"service": "a", "retries": 1}"#, count: PolicyParser.rulesMax + 1)
    let result = try parse("[\(tooMany.joined(separator: ","))]")
    #expect(result.rules.isEmpty && result.problems.count == 1)
  }

  @Test("limits for calls that come in are read, and what is wrong with them is named")
  func inbound() throws {
    let (policy, problems) = InboundPolicy.parse(
      try JSONValue(
        parsing:
          #"{"rate_limits": [{"endpoint": "Say.*", "caller": "go.micro.web", "rate": 10, "burst": 3}, {"rate": 2}]}"#))
    #expect(problems == [])
    #expect(
      policy.rateLimits == [
        InboundRateLimit(endpoint: Wildcard("Say.*"), caller: Wildcard("go.micro.web"), rate: 10, burst: 3),
        InboundRateLimit(endpoint: Wildcard("*"), caller: nil, rate: 2, burst: 2),
      ])
    let wrong = InboundPolicy.parse(try JSONValue(parsing: #"{"rate_limit": 1, "rate_limits": [{"rat": 1}]}"#)).problems
    #expect(
      wrong.map(\.description) == [
        "inbound.rate_limits[0].rate: is missing",
        "inbound.rate_limits[0].rat: no such field; did you mean rate?",
        "inbound.rate_limit: no such field; did you mean rate_limits?",
      ])
  }
}
