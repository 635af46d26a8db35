import Testing

@testable import SidecarCore

@Suite("Lease machine") struct LeaseMachineTests {
  private enum Event: CaseIterable {
    case healthy, unhealthy, changed, stop, timer, writeGood, writeBad, removeGood, removeBad
  }

  /// What the runner would know: checks each action against what is under way.
  private struct Model: ~Copyable {
    var machine = LeaseMachine(timing: LeaseTiming())
    var random = SeededRandom(seed: 1)
    var isWriting = false
    var isRemoving = false
    var isArmed = false
    /// A write has begun since the last good removal.
    var mayBeThere = false
    var wishesToHold = false
    var isStopped = false
    var ends = 0
    var removals = 0

    init() {}

    func allows(_ event: Event) -> Bool {
      switch event {
      case .healthy, .unhealthy, .changed, .stop: true
      case .timer: isArmed
      case .writeGood, .writeBad: isWriting
      case .removeGood, .removeBad: isRemoving
      }
    }

    mutating func apply(_ event: Event) -> String? {
      let action: LeaseMachine.Action
      switch event {
      case .healthy:
        if !isStopped { wishesToHold = true }
        action = machine.appHealthy()
      case .unhealthy:
        wishesToHold = false
        action = machine.appUnhealthy()
      case .changed: action = machine.changed()
      case .stop:
        isStopped = true
        wishesToHold = false
        action = machine.stop()
      case .timer:
        isArmed = false
        action = machine.timerFired()
      case .writeGood:
        isWriting = false
        action = machine.writeSucceeded(random: &random)
      case .writeBad:
        isWriting = false
        action = machine.writeFailed(.unavailable("down"), random: &random)
      case .removeGood:
        isRemoving = false
        mayBeThere = false
        removals = 0
        action = machine.removeSucceeded()
      case .removeBad:
        isRemoving = false
        removals += 1
        action = machine.removeFailed(random: &random)
      }
      switch action {
      case .none: break
      case .write:
        if isWriting || isRemoving { return "writes while another call is under way" }
        if isStopped { return "writes after stop" }
        if !wishesToHold { return "writes though the app is unhealthy" }
        isArmed = false
        isWriting = true
        mayBeThere = true
        removals = 0
      case .remove:
        if isWriting || isRemoving { return "removes while another call is under way" }
        if wishesToHold { return "removes though the app is healthy" }
        isArmed = false
        isRemoving = true
      case .wait(let nanoseconds):
        if isWriting || isRemoving { return "waits while a call is under way" }
        if nanoseconds < 0 || nanoseconds > 33_000_000_000 { return "waits \(nanoseconds) ns" }
        isArmed = true
      case .cancelWrite:
        if !isWriting { return "cancels a write that is not under way" }
      case .end:
        ends += 1
        isArmed = false
        if isWriting || isRemoving { return "ends while a call is under way" }
        if ends > 1 { return "ends twice" }
        if !isStopped { return "ends without being stopped" }
      }
      let isIdle = !isWriting && !isRemoving && !isArmed
      if wishesToHold, isIdle { return "is stuck though the app is healthy" }
      if isStopped, isIdle, ends == 0 { return "is stuck though it was stopped" }
      if !wishesToHold, mayBeThere, isIdle, ends == 0, removals < LeaseMachine.removeAttemptsMax {
        return "leaves an entry behind"
      }
      return nil
    }
  }

  /// Every sequence of up to seven events that can happen keeps the rules of `Model`.
  @Test func `no short history breaks a rule`() {
    var explored = 0
    func explore(_ history: [Event]) {
      explored += 1
      var model = Model()
      for (index, event) in history.enumerated() {
        guard model.allows(event) else { return }
        if let problem = model.apply(event) {
          Issue.record("\(history.prefix(index + 1)): \(problem)")
          return
        }
      }
      guard history.count < 7 else { return }
      let next = Event.allCases.filter { event in model.allows(event) }
      for event in next { explore(history + [event]) }
    }
    explore([])
    #expect(explored > 50_000)
  }

  @Test func `long random histories keep the rules, and stop ends them`() {
    for seed in UInt64(0)..<300 {
      var choice = SeededRandom(seed: seed)
      var model = Model()
      for _ in 0..<200 {
        let possible = Event.allCases.filter { event in model.allows(event) && event != .stop }
        let problem = model.apply(possible[choice.below(possible.count)])
        #expect(problem == nil, "seed \(seed)")
      }
      var problems = [model.apply(.stop)]
      for event in [Event.writeBad, .removeBad, .removeGood, .writeGood] where model.allows(event) {
        problems.append(model.apply(event))
      }
      let ends = model.ends
      #expect(problems.compactMap(\.self).isEmpty, "seed \(seed)")
      #expect(ends == 1, "seed \(seed)")
    }
  }

  @Test func `refreshes keep within a tenth of the interval, retries grow to a second and a half`() {
    var random = SeededRandom(seed: 7)
    var machine = LeaseMachine(timing: LeaseTiming())
    _ = machine.appHealthy()
    var refreshes: Set<Int64> = []
    for _ in 0..<200 {
      guard case .wait(let wait) = machine.writeSucceeded(random: &random) else {
        Issue.record("no refresh")
        return
      }
      #expect((27_000_000_000...33_000_000_000).contains(wait))
      refreshes.insert(wait / 1_000_000_000)
      let fired = machine.timerFired()
      #expect(fired == .write)
    }
    #expect(refreshes.count >= 6, "refreshes are spread")
    var longest: Int64 = 0
    for failure in 0..<100 {
      guard case .wait(let wait) = machine.writeFailed(.unavailable("x"), random: &random) else {
        Issue.record("no retry")
        return
      }
      #expect(wait <= min(100_000_000 << Int64(min(failure, 10)), Backoff.capNanoseconds))
      longest = max(longest, wait)
      let fired = machine.timerFired()
      #expect(fired == .write)
    }
    #expect(longest > Backoff.capNanoseconds * 8 / 10)
  }

  @Test func `what a registry will not take is tried again at the pace of refreshes`() {
    var random = SeededRandom(seed: 7)
    var machine = LeaseMachine(timing: LeaseTiming())
    _ = machine.appHealthy()
    guard case .wait(let wait) = machine.writeFailed(.invalid("name too long"), random: &random) else {
      Issue.record("no retry")
      return
    }
    #expect(wait >= 27_000_000_000)
  }

  @Test func `a read-only registry ends its lease`() {
    var random = SeededRandom(seed: 7)
    var machine = LeaseMachine(timing: LeaseTiming())
    _ = machine.appHealthy()
    let actions = [machine.writeFailed(.readOnly, random: &random), machine.stop()]
    let phase = machine.phase
    #expect(actions == [.end, .none])
    #expect(phase == .ended)
  }
}

@Suite("App health machine") struct AppHealthMachineTests {
  private let down = ProbeOutcome.failure("refused the connection")

  /// `#expect` cannot hold a machine that must not be copied; this takes what the machine said.
  private func expect<Value: Equatable>(
    _ found: Value, _ expected: Value, sourceLocation: SourceLocation = #_sourceLocation
  ) {
    #expect(found == expected, sourceLocation: sourceLocation)
  }

  @Test func `a starting app is asked every 50 ms and is healthy with its first answer`() {
    var machine = AppHealthMachine()
    for _ in 0..<100 { expect(machine.probed(down), .init(change: nil, wait: 50_000_000)) }
    expect(machine.probed(.success), .init(change: true, wait: 5_000_000_000))
  }

  @Test func `an app that does not start is asked less often after half a minute`() {
    var machine = AppHealthMachine()
    var waited: Int64 = 0
    while waited < 30_000_000_000 { waited += machine.probed(down).wait }
    expect(machine.probed(down).wait, 1_000_000_000)
    expect(machine.probed(.success).change, true)
  }

  @Test func `only three failures in a row make an app unhealthy, one success makes it healthy again`() {
    var machine = AppHealthMachine()
    _ = machine.probed(.success)
    for _ in 0..<5 {
      expect(machine.probed(down).change, nil)
      expect(machine.probed(down).change, nil)
      expect(machine.probed(.success), .init(change: nil, wait: 5_000_000_000))
    }
    expect(machine.probed(down).change, nil)
    expect(machine.probed(down).change, nil)
    expect(machine.probed(down), .init(change: false, wait: 1_000_000_000))
    expect(machine.probed(down), .init(change: nil, wait: 1_000_000_000))
    expect(machine.probed(.success), .init(change: true, wait: 5_000_000_000))
  }

  @Test func `random outcomes agree with a count of failures in a row`() {
    for seed in UInt64(0)..<200 {
      var random = SeededRandom(seed: seed)
      var machine = AppHealthMachine()
      var isHealthy = false
      var failures = 0
      for _ in 0..<200 {
        let good = random.below(3) > 0
        failures = good ? 0 : failures + 1
        let step = machine.probed(good ? .success : down)
        let expected = good ? true : isHealthy && failures < 3
        #expect(step.change == (expected == isHealthy ? nil : expected), "seed \(seed)")
        isHealthy = expected
        let says = machine.isHealthy
        #expect(says == isHealthy, "seed \(seed)")
      }
    }
  }
}
