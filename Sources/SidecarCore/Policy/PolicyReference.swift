// What the fields of the file's `policies` and `inbound` mean, for the reference and the schema. Which fields there are and
// what they take is the parser's to say; a test compares the two.

package enum PolicyReference {
  package struct Meaning: Sendable {
    package var standard: String
    package var help: String
    init(_ standard: String, _ help: String) {
      self.standard = standard
      self.help = help
    }
  }

  /// By place, as in `policies[0].limits.pending`.
  package static let meanings: [String: Meaning] = {
    var all: [String: Meaning] = [:]
    for (name, meaning) in rule { all["policies[0]." + name] = meaning }
    for (name, meaning) in inbound { all["inbound." + name] = meaning }
    return all
  }()

  private static let rule: [String: Meaning] = [
    "service": .init("must be there", "the services the rule holds for"),
    "endpoint": .init("all", "the endpoints it holds for; then only fields of endpoints may follow"),

    "selector": .init("MICRO_SELECTOR", "how one of several nodes is chosen"),
    "affinity": .init("off", "what selectors and splits that go by a key take it from"),
    "affinity.header": .init("", "a header of the call"),
    "affinity.cookie": .init("", "a cookie of the call"),
    "zone_first": .init("true", "nodes of MICRO_ZONE come first"),
    "slow_start": .init("0s", "time in which a new node's share grows to its whole"),
    "panic_threshold": .init("50%", "share of usable nodes below which ejected ones are used as well"),
    "latency_decay": .init("10s", "when a latency's average has fallen to 1/e with nothing observed"),
    "ejection": .init("", "when a node is left out for a while"),
    "ejection.consecutive_failures": .init("5", "failures in a row after which a node is left out; 0 is never"),
    "ejection.base_time": .init("10s", "how long a node is left out the first time; it doubles each time"),
    "ejection.max_time": .init("5m", "the longest it is left out"),
    "ejection.max_share": .init("50%", "nodes that may be out at once; one always may"),
    "ejection.success_rate": .init("0", "share of successes below which a node is left out; 0 is never"),
    "ejection.window": .init("10s", "time over which rates are judged"),
    "ejection.min_calls": .init("20", "calls at least by which rates are judged"),
    "ejection.latency_factor": .init("0", "a node slower than this many times the median is left out; 0 is never"),
    "ejection.refused_time": .init("1s", "rest of a node that refused a connection"),
    "limits": .init("", "calls at once"),
    "limits.in_flight": .init(
      "MICRO_SIDECAR_MAX_IN_FLIGHT", "calls and streams at the service, for each worker; more wait"),
    "limits.in_flight_per_node": .init("0", "the same at one node; 0 is no limit"),
    "limits.pending": .init("1024", "calls that may wait; above it 503"),
    "limits.pending_time": .init("3s", "time a call may wait; then 503"),
    "limits.connections_per_node": .init("1024", "connections to one node, for each worker"),
    "retry_budget": .init("", "repetitions and hedges that a service's calls may cost"),
    "retry_budget.ratio": .init("MICRO_SIDECAR_RETRY_BUDGET", "as a share of calls"),
    "retry_budget.floor": .init("10", "repetitions a second allowed at any load"),
    "retry_budget.window": .init("10s", "how long what is unspent is kept"),
    "split": .init("off", "parts of the calls for subsets of the nodes"),
    "split[0].weight": .init("must be there", "the part's share, as a weight beside the others"),
    "split[0].version": .init("any", "the version of the part's nodes"),
    "split[0].labels": .init("any", "metadata of the part's nodes"),
    "health_check": .init("off", "asking nodes whether they are well"),
    "health_check.probe": .init("debug", "what is asked: a connection, HTTP, gRPC's health service or Debug.Health"),
    "health_check.path": .init("/", "of the probe http"),
    "health_check.period": .init("10s", "time between two checks of a node"),
    "health_check.timeout": .init("1s", "time a check may take"),
    "health_check.failures": .init("3", "failed checks in a row after which a node is left out"),
    "health_check.successes": .init("1", "good checks in a row that bring it back"),

    "timeout": .init("MICRO_CLIENT_REQUEST_TIMEOUT", "the longest a call may take with all attempts"),
    "attempt_timeout": .init("MICRO_SIDECAR_ATTEMPT_TIMEOUT", "the longest one attempt may take"),
    "retries": .init("MICRO_CLIENT_RETRIES", "attempts after the first"),
    "retry_codes": .init("408, 429, 500, 502, 503, 504", "errors after which an idempotent call is repeated"),
    "retry_on_break": .init("true", "broken connections and attempts out of time count as such errors"),
    "backoff": .init("", "pauses between attempts: random, up to base, doubling to max"),
    "backoff.base": .init("25ms", "the longest first pause"),
    "backoff.max": .init("250ms", "the longest pause of all"),
    "hedge": .init("MICRO_SIDECAR_HEDGE", "when an idempotent call without an answer goes to a second node as well"),
    "hedge.after": .init("must be there", "after that time, or after the 95th percentile"),
    "idempotent": .init("by registry, method and Idempotency-Key", "whether a call may be made twice"),
    "version": .init("any", "the version of nodes that may be called"),
    "labels": .init("any", "metadata of nodes that may be called"),
    "requires_endpoint": .init("false", "only nodes that list the endpoint in the registry, where any does"),
    "rate_limit": .init("off", "calls a second"),
    "rate_limit.rate": .init("must be there", "calls a second"),
    "rate_limit.burst": .init("the rate", "calls that are saved up"),
    "rate_limit.scope": .init("endpoint", "what has a limit of its own"),
    "fault": .init("off", "trouble on purpose"),
    "fault.delay": .init("", "how long calls are held back"),
    "fault.delay_share": .init("100%", "share of calls that are"),
    "fault.abort": .init("", "the code with which calls are answered"),
    "fault.abort_share": .init("100%", "share of calls that are"),
    "mirror": .init("off", "calls are made there too, and nobody hears the answer"),
    "mirror.service": .init("must be there", "where"),
    "mirror.share": .init("100%", "share of calls"),
    "priority": .init("normal", "sent as Micro-Priority, unless the caller says one"),
  ]

  private static let inbound: [String: Meaning] = [
    "rate_limits": .init("", "limits for calls to the app; all that fit hold at once"),
    "rate_limits[0].endpoint": .init("*", "endpoints of the app"),
    "rate_limits[0].caller": .init("all share one", "who calls, by Micro-From-Service; each has tokens of its own"),
    "rate_limits[0].rate": .init("must be there", "calls a second"),
    "rate_limits[0].burst": .init("the rate", "calls that are saved up"),
  ]
}
