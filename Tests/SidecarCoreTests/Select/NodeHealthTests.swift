@testable import SidecarCore
import Testing

@Suite struct NodeHealthTests {
  private enum Event: CaseIterable { case success, failure, refused, slowRefused, cancelled, began, second, minute }

  /// What must hold after each of a node's events, for every sequence of a length.
  @Test func `every short sequence of events keeps the rules`() {
    var policy = EjectionPolicy()
    policy.consecutiveFailures = 2
    func walk(_ health: NodeHealth, _ now: Instant, _ failures: Int, _ depth: Int) {
      guard depth > 0 else { return }
      for event in Event.allCases {
        var next = health
        var time = now
        var failuresNow = failures
        var change = NodeHealth.Change.nothing
        switch event {
        case .success:
          change = next.succeeded(time, policy)
          failuresNow = 0
          #expect(next.standing == .well && !next.isProbed)
          #expect((change == .recovered) == (health.standing != .well))
        case .failure:
          change = next.failed(time, policy)
          failuresNow += 1
          if health.standing == .halfOpen {
            #expect(change != .nothing, "a probe that failed puts the node out again")
          }
          if health.standing == .out { #expect(change == .nothing) }
          if health.standing == .well { #expect((change == .shouldEject(.failures)) == (failuresNow >= 2)) }
        case .refused, .slowRefused:
          change = next.refused()
          #expect(change == .shouldEject(.refused))
        case .cancelled:
          change = next.nothingLearned()
          #expect((change == .probeOver) == health.isProbed)
        case .began:
          next.began()
          #expect(next.isProbed == (health.isProbed || health.standing == .halfOpen))
        case .second, .minute:
          time = now.advanced(byNanoseconds: event == .second ? 1_000_000_000 : 60_000_000_000)
          if next.turn(time) {
            #expect(health.standing == .out && time >= health.until && next.standing == .halfOpen)
          } else {
            #expect(health.standing != .out || time < health.until)
          }
        }
        if case .shouldEject(let cause) = change {
          next.eject(cause, wasSlow: event == .slowRefused, time, policy)
          failuresNow = 0
          #expect(next.standing == .out && next.cause == cause && !next.isUsable)
          let out = next.until.nanoseconds(since: time)
          #expect(out >= policy.refusedTime && out <= policy.timeMax, "out for \(out) ns")
          if event == .refused { #expect(out == policy.refusedTime) }
          if event == .slowRefused { #expect(out <= NodeHealth.refusedTimeMax) }
        }
        #expect(next.isUsable == (next.standing == .well))
        walk(next, time, failuresNow, depth - 1)
      }
    }
    walk(NodeHealth(), Instant(nanoseconds: 1_000_000_000_000), 0, 5)
  }

  @Test func `each ejection is twice as long as the last, up to the longest, and a long good time clears the record`() {
    let policy = EjectionPolicy()
    var health = NodeHealth()
    var now = Instant(nanoseconds: 1_000_000_000_000)
    var times: [Int64] = []
    for _ in 0..<8 {
      health.eject(.failures, wasSlow: false, now, policy)
      times.append(health.until.nanoseconds(since: now) / 1_000_000_000)
      now = health.until
      _ = health.turn(now)
    }
    #expect(times == [10, 20, 40, 80, 160, 300, 300, 300])
    _ = health.succeeded(now, policy)
    now = now.advanced(byNanoseconds: policy.timeMax + 1)
    health.eject(.failures, wasSlow: false, now, policy)
    #expect(health.until.nanoseconds(since: now) == 10_000_000_000)
  }

  @Test func `a low share of successes is a cause only after enough calls`() {
    var policy = EjectionPolicy()
    policy.consecutiveFailures = 0
    policy.successRateMin = 0.8
    var health = NodeHealth()
    let now = Instant(nanoseconds: 1_000_000_000_000)
    let changes = (0..<20).map { _ in health.failed(now, policy) }
    #expect(changes == Array(repeating: .nothing, count: 19) + [.shouldEject(.successRate)])
    var good = NodeHealth()
    for call in 0..<200 {
      let change = call % 10 == 0 ? good.failed(now, policy) : good.succeeded(now, policy)
      #expect(change == .nothing)
    }
  }

  @Test func `old failures count for little`() {
    var policy = EjectionPolicy()
    policy.consecutiveFailures = 0
    policy.successRateMin = 0.5
    var health = NodeHealth()
    var now = Instant(nanoseconds: 1_000_000_000_000)
    for _ in 0..<15 { _ = health.failed(now, policy) }
    now = now.advanced(byNanoseconds: 60_000_000_000)
    for _ in 0..<30 { _ = health.succeeded(now, policy) }
    let change = health.failed(now, policy)
    #expect(change == .nothing)
  }

  @Test func `it takes 64 bytes at most`() { #expect(MemoryLayout<NodeHealth>.stride <= 64) }
}
