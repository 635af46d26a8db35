// The configuration file's policies. Input: a JSON document.

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  guard let value = try? JSONValue(parsing: input, depthLimit: 32) else { return }
  let result = PolicyParser.parse(value, selectors: ["random", "p2c"])
  // The same file means the same.
  let again = PolicyParser.parse(value, selectors: ["random", "p2c"])
  if result.problems != again.problems { fail("a second reading finds other problems") }
  for problem in result.problems where problem.message.isEmpty || !problem.place.hasPrefix("policies") {
    fail("a problem without its place: \(problem)")
  }
  _ = InboundPolicy.parse(value)
  guard result.problems.isEmpty else { return }
  let table = PolicyTable(rules: result.rules)
  for rule in result.rules {
    let policy = table.service(rule.service.pattern)
    if policy.limits.inFlight < 1 || policy.limits.pending < 0 || policy.limits.connectionsPerNode < 1 {
      fail("a limit that stops everything")
    }
    if !(0...1).contains(policy.panicThreshold) || !(0...1).contains(policy.ejection.shareMax) {
      fail("a share out of its range")
    }
    if !policy.splits.isEmpty, policy.splits.allSatisfy({ $0.weight == 0 }) { fail("a split of nothing") }
    for split in policy.splits where split.weight < 0 { fail("a negative weight") }
    let values = table.endpoint(rule.service.pattern, rule.endpoint?.pattern ?? "A.B").values
    if values.timeout.map({ $0 <= 0 }) ?? false { fail("no time at all") }
    if let limit = values.rateLimit, !(limit.rate > 0 && limit.rate.isFinite && limit.burst >= 1) {
      fail("a rate that lets nothing through")
    }
    if let fault = values.fault, !(400...599).contains(fault.abortCode) || fault.delay < 0 {
      fail("a fault of no kind")
    }
    var random = SeededRandom(seed: 1)
    for number in 1...70 where values.retry.backoff.pause(number, &random) < 0 { fail("a pause into the past") }
  }
}
