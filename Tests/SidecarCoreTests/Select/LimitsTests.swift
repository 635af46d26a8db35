@testable import SidecarCore
import Testing

@Suite struct RetryBudgetTests {
  /// The bound that its documentation states, over random calls, pauses and repetitions.
  @Test(arguments: 0..<20)
  func `repetitions stay within the bound in any span of time`(_ seed: Int) {
    var random = SeededRandom(seed: UInt64(seed))
    var policy = RetryBudgetPolicy()
    policy.ratio = Double(random.below(100)) / 100
    policy.floorPerSecond = Double(random.below(20))
    policy.window = Int64(1 + random.below(10)) * 1_000_000_000
    var now = Instant(nanoseconds: 0)
    var budget = RetryBudget(policy, parts: 1, now: now)
    var calls: [Instant] = []
    var repetitions: [Instant] = []
    for _ in 0..<3000 {
      now = now.advanced(byNanoseconds: Int64(random.below(random.below(50) == 0 ? 2_000_000_000 : 5_000_000)))
      if random.below(3) == 0 {
        budget.deposit(now)
        calls.append(now)
      }
      while random.below(3) > 0, budget.withdraw(now) { repetitions.append(now) }
    }
    for _ in 0..<300 {
      guard !repetitions.isEmpty else { break }
      let start = repetitions[random.below(repetitions.count)]
      let end = start.advanced(byNanoseconds: Int64(random.below(20)) * 500_000_000)
      let made = repetitions.count { $0 >= start && $0 <= end }
      let seconds = Double(end.nanoseconds(since: start) + policy.window) / 1e9
      // What was earned before the window has faded to 1/e, so that some of it is left for ever.
      let since = start.advanced(byNanoseconds: -8 * policy.window)
      let earned = Double(calls.count { $0 >= since && $0 <= end }) * policy.ratio
      #expect(Double(made) <= earned + policy.floorPerSecond * seconds + 1)
    }
  }

  @Test func `with no calls at all the floor is what there is`() {
    var policy = RetryBudgetPolicy()
    policy.floorPerSecond = 10
    var now = Instant(nanoseconds: 0)
    var budget = RetryBudget(policy, parts: 2, now: now)
    // Half of the floor for one of two workers, saved up over the window.
    var made = 0
    while budget.withdraw(now) { made += 1 }
    #expect(made == 50)
    now = now.advanced(byNanoseconds: 1_000_000_000)
    while budget.withdraw(now) { made += 1 }
    #expect(made == 55)
  }

  @Test func `values beyond sense are clamped`() {
    var policy = RetryBudgetPolicy()
    policy.ratio = 1e9
    policy.floorPerSecond = -5
    policy.window = 0
    var budget = RetryBudget(policy, parts: 0, now: Instant(nanoseconds: 0))
    let isEmpty = !budget.withdraw(Instant(nanoseconds: 0))
    #expect(isEmpty)
    budget.deposit(Instant(nanoseconds: 0))
    var made = 0
    while made < 100, budget.withdraw(Instant(nanoseconds: 0)) { made += 1 }
    #expect(made == 10)
  }
}

private final class Waiter: GateWaiter {
  var isAdmitted = false
  func admitted() { isAdmitted = true }
}

@Suite struct CallGateTests {
  /// A model beside the gate: who is inside and who waits, in order.
  @Test(arguments: 0..<30)
  func `no place is ever lost or given twice`(_ seed: Int) {
    var random = SeededRandom(seed: UInt64(seed))
    var limits = LimitPolicy()
    limits.inFlight = 1 + random.below(5)
    limits.pending = random.below(200)
    var gate = CallGate()
    var inside: [Waiter] = []
    var waiting: [Waiter] = []
    func admit(_ waiter: (any GateWaiter)?) {
      guard let waiter = waiter as? Waiter else { return }
      #expect(waiting.first === waiter, "whoever waits longest is next")
      waiting.removeAll { $0 === waiter }
      inside.append(waiter)
    }
    for _ in 0..<5000 {
      switch random.below(10) {
      case 0..<4:
        let waiter = Waiter()
        switch gate.enter(waiter, limits) {
        case .admitted:
          #expect(inside.count < limits.inFlight && waiting.isEmpty)
          inside.append(waiter)
        case .waits:
          #expect(waiting.count < limits.pending)
          waiting.append(waiter)
        case .refused: #expect(gate.isFailingFast || waiting.count >= limits.pending)
        }
      case 4..<8 where !inside.isEmpty:
        inside.remove(at: random.below(inside.count))
        admit(gate.leave(limits))
      case 8 where !waiting.isEmpty:
        let waiter = waiting.remove(at: random.below(waiting.count))
        gate.giveUp(waiter, outOfPatience: random.below(2) == 0)
      case 9 where random.below(20) == 0:
        limits.inFlight = 1 + random.below(8)
        while let next = gate.next(limits) { admit(next) }
      default: break
      }
      #expect(gate.inside == inside.count && gate.waitingCount == waiting.count)
      #expect(waiting.isEmpty || inside.count >= limits.inFlight, "one waits though there is a place")
    }
    while !inside.isEmpty {
      inside.removeLast()
      admit(gate.leave(limits))
    }
    #expect(gate.inside == 0 && gate.waitingCount == 0 && waiting.isEmpty)
  }

  @Test func `after one has waited in vain others are refused at once, until a place falls free`() {
    var limits = LimitPolicy()
    limits.inFlight = 1
    var gate = CallGate()
    let waiter = Waiter()
    let verdicts = [gate.enter(Waiter(), limits), gate.enter(waiter, limits)]
    #expect(verdicts == [.admitted, .waits])
    gate.giveUp(waiter, outOfPatience: true)
    guard case .refused = gate.enter(Waiter(), limits) else {
      Issue.record("a call was let wait in vain")
      return
    }
    let next = gate.leave(limits)
    #expect(next == nil)
    let verdict = gate.enter(Waiter(), limits)
    #expect(verdict == .admitted)
  }
}

@Suite struct DecayTests {
  @Test func `the factor is within 0.2 % of e to the power of minus elapsed by constant`() {
    // The exponential function by its series, in steps so small that it is exact.
    func exponential(_ x: Double) -> Double {
      let halved = x / 1024
      var term = 1.0
      var sum = 1.0
      for n in 1...12 {
        term *= halved / Double(n)
        sum += term
      }
      for _ in 0..<10 { sum *= sum }
      return sum
    }
    for step in 1...20_000 {
      let elapsed = Int64(step) * 2_500_000
      let exact = exponential(-Double(elapsed) / 1e9)
      let factor = Double(Decay.factor(elapsed: elapsed, constant: 1_000_000_000))
      #expect(abs(factor / exact - 1) < 0.002, "at \(elapsed)")
    }
  }

  @Test func `it neither grows with time nor leaves 0 to 1, whatever it is given`() {
    var last: Float = 1
    for step in 0..<100_000 {
      let factor = Decay.factor(elapsed: Int64(step) * 1_000_000, constant: 1_000_000_000)
      #expect(factor <= last * 1.0001 && factor >= 0)
      last = factor
    }
    #expect(Decay.factor(elapsed: -5, constant: 10) == 1)
    #expect(Decay.factor(elapsed: 5, constant: 0) == 0)
    #expect(Decay.factor(elapsed: 5, constant: -1) == 0)
    #expect(Decay.factor(elapsed: .max, constant: 1) == 0)
    #expect(Decay.factor(elapsed: .max, constant: .max) < 0.4)
    #expect(Decay.factor(elapsed: 1, constant: .max) == 1)
  }

  @Test func `a higher latency counts at once, a lower one by and by`() {
    var load = NodeLoad()
    let start = Instant(nanoseconds: 1_000_000_000)
    load.observe(1_000_000, now: start, decay: 10_000_000_000)
    load.observe(50_000_000, now: start, decay: 10_000_000_000)
    #expect(load.latency == 50_000_000)
    load.observe(1_000_000, now: start.advanced(byNanoseconds: 1_000_000_000), decay: 10_000_000_000)
    #expect(load.latency > 40_000_000 && load.latency < 50_000_000)
    #expect(load.latency(at: start.advanced(byNanoseconds: 11_000_000_000), decay: 10_000_000_000) < 17_500_000)
    load.observe(-7, now: start, decay: 10_000_000_000)
    #expect(load.latency > 0)
  }
}

@Suite struct LatencyQuantileTests {
  @Test func `it says nothing before twenty calls, then what 95 of 100 calls keep`() {
    var random = SeededRandom(seed: 4)
    let quantile = LatencyQuantile()
    for call in 0..<20 {
      #expect(quantile.value == nil, "after \(call) calls")
      quantile.add(1_000_000)
    }
    #expect(quantile.value != nil)
    var below = 0
    for call in 0..<20_000 {
      // Even between 1 and 101 ms.
      let latency = 1_000_000 + Int64(random.below(100_000_000))
      if call > 2000, let value = quantile.value, latency <= value { below += 1 }
      quantile.add(latency)
    }
    #expect((0.92...0.98).contains(Double(below) / 18_000), "\(below) of 18,000")
  }

  @Test func `nothing it is given makes it no number`() throws {
    let quantile = LatencyQuantile()
    for latency in [Int64.max, .min, 0, -1, 1] { for _ in 0..<20 { quantile.add(latency) } }
    #expect(try #require(quantile.value) > 0)
  }
}
