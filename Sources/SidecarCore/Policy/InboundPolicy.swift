// What holds for calls that come in to the app: the configuration file's `inbound`.
//
//   inbound:
//     rate_limits:
//     - endpoint: Say.*        # * where it is missing
//       caller: go.micro.web   # who says in Micro-From-Service that it calls; * where it is missing
//       rate: 100
//       burst: 20

/// A limit for calls of some endpoints by some callers. Each pair of an endpoint and a caller has tokens of its own.
package struct InboundRateLimit: Hashable, Sendable {
  package var endpoint: Wildcard
  /// Nil: callers make no difference, and all share one.
  package var caller: Wildcard?
  /// Tokens a second, and the most that are saved up.
  package var rate: Double
  package var burst: Double
}

package struct InboundPolicy: Hashable, Sendable {
  package static let rateLimitsMax = 256
  /// All that fit hold at once.
  package var rateLimits: [InboundRateLimit] = []
  /// As the file has it, for those who ask what is set.
  package var written = JSONValue.null

  package init() {}

  package static func parse(
    _ value: JSONValue, at place: String = "inbound"
  ) -> (policy: InboundPolicy, problems: [PolicyProblem]) {
    let complaints = PolicyComplaints()
    return (parse(value, at: place, complaints), complaints.list)
  }

  /// Every field that `inbound` can have.
  package static func fields() -> [PolicyField] {
    let complaints = PolicyComplaints(describing: true)
    _ = parse([:], at: "inbound", complaints)
    return complaints.fields ?? []
  }

  private static func parse(_ value: JSONValue, at place: String, _ complaints: PolicyComplaints) -> InboundPolicy {
    var policy = InboundPolicy()
    guard value != .null, var reader = PolicyReader(value, at: place, complaints) else {
      return policy
    }
    policy.written = value
    for (element, place) in reader.list("rate_limits", upTo: rateLimitsMax, of: "limits") ?? [] {
      guard var part = PolicyReader(element, at: place, complaints) else { continue }
      let endpoint = part.value("endpoint", .wildcard) ?? Wildcard("*")
      let caller = part.value("caller", .wildcard)
      var rate = 1.0
      var burst = 1.0
      if PolicyParser.takeRate(&part, &rate, &burst) {
        policy.rateLimits.append(InboundRateLimit(endpoint: endpoint, caller: caller, rate: rate, burst: burst))
      }
      part.close()
    }
    reader.close()
    return policy
  }
}
