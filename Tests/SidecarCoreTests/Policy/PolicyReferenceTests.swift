import Testing

@testable import SidecarCore

@Suite("What the reference says of policies")
struct PolicyReferenceTests {
  @Test("the defaults it tells are the defaults")
  func defaults() {
    let service = ServicePolicy()
    let endpoint = EndpointPolicy.Values()
    let check = HealthCheckPolicy()
    func time(_ nanoseconds: Int64) -> String { GoDuration.format(.nanoseconds(nanoseconds)) }
    func share(_ part: Double) -> String { part == 0 ? "0" : "\(Int(part * 100))%" }
    let actual = [
      "zone_first": "\(service.zoneFirst)", "slow_start": time(service.slowStart),
      "panic_threshold": share(service.panicThreshold), "latency_decay": time(service.latencyDecay),
      "ejection.consecutive_failures": "\(service.ejection.consecutiveFailures)",
      "ejection.base_time": time(service.ejection.baseTime), "ejection.max_time": time(service.ejection.timeMax),
      "ejection.max_share": share(service.ejection.shareMax),
      "ejection.success_rate": share(service.ejection.successRateMin),
      "ejection.window": time(service.ejection.window), "ejection.min_calls": "\(service.ejection.callsMin)",
      "ejection.latency_factor": "\(Int(service.ejection.latencyFactor))",
      "ejection.refused_time": time(service.ejection.refusedTime),
      "limits.in_flight_per_node": "\(service.limits.inFlightPerNode)", "limits.pending": "\(service.limits.pending)",
      "limits.pending_time": time(service.limits.pendingTime),
      "limits.connections_per_node": "\(service.limits.connectionsPerNode)",
      "retry_budget.floor": "\(Int(service.budget.floorPerSecond))", "retry_budget.window": time(service.budget.window),
      "health_check.probe": "\(check.probe)", "health_check.period": time(check.period),
      "health_check.timeout": time(check.timeout), "health_check.failures": "\(check.failures)",
      "health_check.successes": "\(check.successes)",
      "retry_codes": endpoint.retry.codes.map(String.init).joined(separator: ", "),
      "retry_on_break": "\(endpoint.retry.onBreak)", "backoff.base": time(endpoint.retry.backoff.base),
      "backoff.max": time(endpoint.retry.backoff.max), "requires_endpoint": "\(endpoint.requiresEndpoint)",
      "rate_limit.scope": RateLimitPolicy().scope.rawValue, "mirror.share": share(MirrorPolicy(service: "a").share),
      "priority": endpoint.priority.word,
    ]
    for (name, standard) in actual {
      #expect(PolicyReference.meanings["policies[0]." + name]?.standard == standard, "\(name)")
    }
  }
}
