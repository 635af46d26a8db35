// What holds for the calls of one endpoint: time, repetition, and what is done to traffic on purpose.

/// The policies of one endpoint. A class, so that a call carries a reference; immutable. All times are in nanoseconds.
package final class EndpointPolicy: Hashable, Sendable {
  package let values: Values

  package struct Values: Hashable, Sendable {
    /// The longest a call may take with all its attempts; nil: as MICRO_CLIENT_REQUEST_TIMEOUT says.
    package var timeout: Int64?
    /// The longest one attempt may take; nil: as long as the call.
    package var attemptTimeout: Int64?
    package var retry = RetryPolicy()
    package var hedge: HedgePolicy?
    /// The call may be made twice; nil: as the registry's metadata, the method and `Idempotency-Key` say.
    package var isIdempotent: Bool?
    /// Which nodes its calls may go to.
    package var filter = NodeFilter()
    /// Only nodes of versions that list the endpoint in the registry.
    package var requiresEndpoint = false
    package var rateLimit: RateLimitPolicy?
    package var fault: FaultPolicy?
    package var mirror: MirrorPolicy?
    package var priority = CallPriority.normal

    package init() {}
  }

  /// Attempts are watched by a timer.
  let isPaced: Bool
  /// Calls may be turned away, delayed or doubled before they go anywhere.
  let shapesTraffic: Bool
  /// Calls are counted by who makes them.
  let limitsCallers: Bool
  /// The header line that tells the service how much the call matters; empty where that is as usual.
  let priorityLine: FixedBytes
  /// The longest one attempt may take, in nanoseconds.
  let attemptTimeout: Int64?
  /// Which nodes its calls may go to; nil: any.
  let filter: NodeSet.SharedFilter?

  package init(_ values: Values) {
    self.values = values
    filter = values.filter.isEmpty ? nil : NodeSet.SharedFilter(values.filter)
    attemptTimeout = values.attemptTimeout ?? values.retry.strict?.attemptTimeout
    shapesTraffic = values.rateLimit != nil || values.fault != nil || values.mirror != nil
    limitsCallers = values.rateLimit?.scope == .caller
    priorityLine = FixedBytes(values.priority == .normal ? "" : "Micro-Priority: \(values.priority.word)\r\n")
    isPaced = attemptTimeout != nil || values.hedge != nil
  }

  package static func == (a: EndpointPolicy, b: EndpointPolicy) -> Bool { a === b || a.values == b.values }
  package func hash(into hasher: inout Hasher) { hasher.combine(values) }
}

/// When and how often a call is tried again. What was not sent, or was refused before it was begun, may always be tried
/// elsewhere and counts nowhere here.
package struct RetryPolicy: Hashable, Sendable {
  /// Attempts after the first that may repeat work.
  package var limit = 1
  /// Errors of a node after which an idempotent call is repeated, by their code; sorted.
  package var codes = [408, 429, 500, 502, 503, 504]
  /// Broken connections and attempts out of time are repeated, if the call is idempotent.
  package var onBreak = true
  package var backoff = RetryBackoff()
  /// Exactly as a client of the framework does it, which knows neither idempotency nor a budget.
  package var strict: StrictRetry?

  package init() {}
}

/// Pauses between attempts, in nanoseconds.
package struct RetryBackoff: Hashable, Sendable {
  package var base: Int64 = 25_000_000
  package var max: Int64 = 250_000_000

  package init() {}

  /// The pause before repetition `number`, counted from 1: anything up to base × 2^(number-1), at most `max`, each as
  /// likely (full jitter).
  package func pause(_ number: Int, _ random: inout SeededRandom) -> Int64 {
    let shift = Swift.min(Swift.max(number - 1, 0), 30)
    let (grown, overflow) = base.multipliedReportingOverflow(by: 1 &<< Int64(shift))
    let most = overflow ? max : Swift.min(grown, max)
    return most <= 0 ? 0 : Int64(random.below(Int(most)))
  }
}

/// A second attempt beside one that has not answered yet, for idempotent calls; paid from the retry budget.
package struct HedgePolicy: Hashable, Sendable {
  /// How long the first attempt gets before. 0: the latency that 95 of 100 calls of the endpoint keep.
  package var after: Int64 = 0

  package init() {}
}

/// Tokens for calls: `rate` a second, at most `burst` saved up.
package struct RateLimitPolicy: Hashable, Sendable {
  package enum Scope: String, Hashable, Sendable, CaseIterable { case service, endpoint, caller }
  package var rate = 100.0
  package var burst = 100.0
  /// What shares one bucket.
  package var scope = Scope.endpoint

  package init() {}
}

/// Trouble made on purpose.
package struct FaultPolicy: Hashable, Sendable {
  /// Share of the calls that wait first, 0 to 1, and how long.
  package var delayShare = 0.0
  package var delay: Int64 = 0
  /// Share of the calls that fail without being sent, 0 to 1, and their code.
  package var abortShare = 0.0
  package var abortCode = 503

  package init() {}
}

/// Calls sent to another service as well, whose answers nobody hears.
package struct MirrorPolicy: Hashable, Sendable {
  package var service: String
  package var share = 1.0

  package init(service: String) { self.service = service }
}

/// Which calls are turned away first when there are too many.
package enum CallPriority: Int, Hashable, Sendable, CaseIterable, Comparable {
  case low, normal, high, critical
  package static func < (a: CallPriority, b: CallPriority) -> Bool { a.rawValue < b.rawValue }

  package init?(word: String) {
    switch word {
    case "low": self = .low
    case "normal": self = .normal
    case "high": self = .high
    case "critical": self = .critical
    default: return nil
    }
  }

  package var word: String {
    switch self {
    case .low: "low"
    case .normal: "normal"
    case .high: "high"
    case .critical: "critical"
    }
  }
}
