// The wheel against a model that keeps every timer in a plain list and knows the exact tick each is due at.

import SidecarCore
import Testing

private let tick = TimerWheel.tick

/// Drives a wheel with random work and checks each promise of it: never early, at most one tick late, none lost, none
/// twice, in order of ticks.
private final class WheelUnderTest {
  struct Violation: Error, CustomStringConvertible { var description: String }

  private(set) var random: SeededRandom
  private(set) var now: Instant
  private var wheel: TimerWheel
  private var timers: [LoopTimer] = []
  /// The tick each timer must fire at; nil when it is not armed.
  private var dueTicks: [UInt64?] = []
  /// The tick the wheel has reached, as the model sees it; inside a callback, the tick being run.
  private var reachedTick: UInt64
  private var targetTick: UInt64
  private var violations: [String] = []
  private(set) var fired = 0
  /// What a callback does besides, in hundredths: arm itself again, cancel or arm another.
  private let callbackWork: Int

  init(seed: UInt64, timers count: Int, start: UInt64, callbackWork: Int) {
    random = SeededRandom(seed: seed)
    now = Instant(nanoseconds: start)
    wheel = TimerWheel(now: now)
    reachedTick = start / tick
    targetTick = reachedTick
    self.callbackWork = callbackWork
    dueTicks = Array(repeating: nil, count: count)
    for index in 0..<count {
      timers.append(LoopTimer { [unowned self] in firing(index) })
    }
  }

  private func firing(_ index: Int) {
    fired += 1
    guard let due = dueTicks[index] else {
      violations.append("timer \(index) fired and was not armed")
      return
    }
    if due > targetTick { violations.append("timer \(index) fired \(due - targetTick) ticks early") }
    if due < reachedTick { violations.append("timer \(index) of tick \(due) fired after tick \(reachedTick)") }
    if timers[index].isArmed { violations.append("timer \(index) is armed while it fires") }
    reachedTick = due
    dueTicks[index] = nil
    guard random.below(100) < callbackWork else { return }
    switch random.below(3) {
    case 0: arm(index)
    case 1: cancel(random.below(timers.count))
    default: arm(random.below(timers.count))
    }
  }

  /// From the past to days ahead, with as many in each span, and often at the edge of a tick or of a level.
  private func randomDue() -> UInt64 {
    let spans: [UInt64] = [1, 50, 1_000, 1_100, 70_000, 4_200_000, 300_000_000, 2_000_000_000]
    let milliseconds = UInt64(random.below(Int(spans[random.below(spans.count)]) + 1))
    var due = now.nanoseconds + milliseconds * 1_000_000 + UInt64(random.below(1_000_000))
    switch random.below(8) {
    case 0: due = due / tick * tick
    case 1: due = due / tick * tick + 1
    case 2: due = due / (tick &<< 8) * (tick &<< 8)
    case 3: due = due / (tick &<< 14) * (tick &<< 14)
    case 4: due = due / (tick &<< 20) * (tick &<< 20)
    case 5: due = due > milliseconds * 2_000_000 ? due - milliseconds * 2_000_000 : 0
    default: break
    }
    return due
  }

  func arm(_ index: Int) {
    let due = randomDue()
    dueTicks[index] = max((due + tick - 1) / tick, reachedTick + 1)
    wheel.arm(timers[index], at: Instant(nanoseconds: due))
    if !timers[index].isArmed { violations.append("timer \(index) was armed and is not") }
  }

  func cancel(_ index: Int) {
    dueTicks[index] = nil
    timers[index].cancel()
    if timers[index].isArmed { violations.append("timer \(index) was cancelled and is armed") }
  }

  func randomOperation() {
    let index = random.below(timers.count)
    if random.below(4) == 0 { cancel(index) } else { arm(index) }
  }

  func advance(by nanoseconds: UInt64) throws {
    now.nanoseconds += nanoseconds
    targetTick = now.nanoseconds / tick
    let reached = reachedTick
    wheel.advance(to: now)
    reachedTick = max(reached, targetTick)
    try check()
  }

  func advanceToNextDue() throws {
    let next = wheel.nextDue()
    guard next != .distantFuture else { return }
    try advance(by: next.nanoseconds - now.nanoseconds)
  }

  func advanceRandomly() throws {
    let spans = [1, 4, 30, 1_100, 66_000, 4_300_000, 100_000_000]
    let weighted = spans[min(random.below(spans.count), random.below(spans.count))]
    try advance(by: UInt64(random.below(weighted)) * 1_000_000 + UInt64(random.below(1_000_000)))
  }

  private func check() throws {
    var armed = 0
    var earliest = UInt64.max
    for due in dueTicks {
      guard let due else { continue }
      armed += 1
      earliest = min(earliest, due)
    }
    if armed > 0, earliest <= targetTick { violations.append("a timer of tick \(earliest) is late at \(targetTick)") }
    if wheel.armedCount != armed { violations.append("\(wheel.armedCount) armed, \(armed) expected") }
    let next = wheel.nextDue()
    if armed == 0 {
      if next != .distantFuture { violations.append("an empty wheel is due at \(next)") }
    } else if next.nanoseconds > earliest * tick || next.nanoseconds <= targetTick * tick {
      violations.append("next due \(next.nanoseconds / tick), earliest \(earliest), reached \(targetTick)")
    }
    if let first = violations.first { throw Violation(description: "\(first) (\(violations.count) in all)") }
  }

  var armedCount: Int { wheel.armedCount }
}

@Suite struct TimerWheelTests {
  @Test(arguments: 0..<200 as Range<UInt64>)
  func randomWorkOverDaysKeepsEveryPromise(seed: UInt64) throws {
    let wheel = WheelUnderTest(
      seed: seed, timers: 40, start: seed &* 0x9E37_79B9_7F4A_7C15 &>> 6, callbackWork: Int(seed % 100))
    do {
      for _ in 0..<2_000 {
        for _ in 0..<wheel.randomCount { wheel.randomOperation() }
        try wheel.advanceRandomly()
      }
    } catch { Issue.record("seed \(seed), at \(wheel.now): \(error)") }
    #expect(wheel.fired > 500, "seed \(seed)")
  }

  @Test(arguments: 0..<50 as Range<UInt64>)
  func wakingOnlyWhenDueFiresEverythingAtItsTick(seed: UInt64) throws {
    let wheel = WheelUnderTest(seed: seed, timers: 100, start: 12_345_678_901, callbackWork: 0)
    for index in 0..<100 { wheel.arm(index) }
    var wakes = 0
    while wheel.armedCount > 0, wakes < 1_000_000 {
      try wheel.advanceToNextDue()
      wakes += 1
    }
    #expect(wheel.fired == 100, "seed \(seed)")
    // Each timer wakes the loop once to fire, once per level it comes down, and once per turn of the last level.
    #expect(wakes <= 100 * 12, "seed \(seed)")
  }

  @Test func everyDelayOfTheFirstLevelsFiresAtItsExactTick() {
    // Each start residue matters, because slots are chosen by the low bits of the tick.
    for start in [0, 1, 254, 255, 256, 257, 16_383, 16_384, 1_048_575] as [UInt64] {
      let wheel = TimerWheel(now: Instant(nanoseconds: start * tick))
      var firedAt: [UInt64: UInt64] = [:]
      var current = start
      let delays = Array(1...600 as ClosedRange<UInt64>) + [16_127, 16_128, 16_383, 16_384, 16_385, 20_000]
      let timers = delays.map { delay in (delay, LoopTimer { firedAt[delay] = current - start }) }
      for (delay, timer) in timers { wheel.arm(timer, at: Instant(nanoseconds: (start + delay) * tick)) }
      while wheel.armedCount > 0, current < start + 30_000 {
        current += 1
        wheel.advance(to: Instant(nanoseconds: current * tick))
      }
      for delay in delays { #expect(firedAt[delay] == delay, "start \(start)") }
    }
  }

  @Test func aNanosecondBeforeItsTimeATimerDoesNotFire() {
    var fired = false
    let wheel = TimerWheel(now: Instant(nanoseconds: 0))
    let timer = LoopTimer { fired = true }
    wheel.arm(timer, at: Instant(nanoseconds: 10 * tick))
    wheel.advance(to: Instant(nanoseconds: 10 * tick - 1))
    #expect(!fired)
    wheel.advance(to: Instant(nanoseconds: 10 * tick))
    #expect(fired)
  }

  @Test func timersOfOneTickFireInTheOrderTheyWereArmed() {
    var order: [Int] = []
    let wheel = TimerWheel(now: Instant(nanoseconds: 0))
    let timers = (0..<20).map { index in LoopTimer { order.append(index) } }
    for timer in timers { wheel.arm(timer, at: Instant(nanoseconds: 500 * tick)) }
    wheel.advance(to: Instant(nanoseconds: 600 * tick))
    #expect(order == Array(0..<20))
  }

  @Test func aCallbackMayCancelItsNeighboursAndArmItself() {
    let wheel = TimerWheel(now: Instant(nanoseconds: 0))
    var log: [String] = []
    var others: [LoopTimer] = []
    var again: LoopTimer?
    let first = LoopTimer {
      log.append("first")
      for other in others { other.cancel() }
      if log.count < 3, let again { wheel.arm(again, at: Instant(nanoseconds: 0)) }
    }
    again = first
    others = (0..<3).map { _ in LoopTimer { log.append("cancelled one") } }
    wheel.arm(first, at: Instant(nanoseconds: tick))
    for other in others { wheel.arm(other, at: Instant(nanoseconds: tick)) }
    wheel.advance(to: Instant(nanoseconds: 10 * tick))
    // Armed for the past from its own callback, it runs at each next tick, and all of them lie within this advance.
    #expect(log == ["first", "first", "first"])
    #expect(wheel.armedCount == 0)
  }

  @Test func aTimerInTheFarFutureWaitsForDays() {
    var fired = 0
    let wheel = TimerWheel(now: Instant(nanoseconds: 0))
    let timer = LoopTimer { fired += 1 }
    let tenDays: UInt64 = 864_000 * 1_000_000_000
    wheel.arm(timer, at: Instant(nanoseconds: tenDays))
    wheel.advance(to: Instant(nanoseconds: tenDays - 1))
    #expect(fired == 0)
    wheel.advance(to: Instant(nanoseconds: tenDays))
    #expect(fired == 1)
    wheel.arm(timer, at: .distantFuture)
    wheel.advance(to: Instant(nanoseconds: 100 * tenDays))
    #expect(fired == 1)
    #expect(timer.isArmed)
  }

  @Test func onlyAnEarlierTimerIsAnnounced() {
    let wheel = TimerWheel(now: Instant(nanoseconds: 0))
    var announced: [UInt64] = []
    wheel.onEarlier = { announced.append($0.nanoseconds) }
    let timers = (0..<4).map { _ in LoopTimer {} }
    for (timer, due) in zip(timers, [500, 900, 300, 301] as [UInt64]) {
      wheel.arm(timer, at: Instant(nanoseconds: due * tick))
    }
    #expect(announced == [500 * tick, 300 * tick])
  }

  @Test func armedTimersOutliveTheirWheel() {
    var wheel: TimerWheel? = TimerWheel(now: Instant(nanoseconds: 0))
    let kept = LoopTimer {}
    weak var dropped: LoopTimer?
    do {
      let timer = LoopTimer {}
      dropped = timer
      wheel?.arm(timer, at: Instant(nanoseconds: 9 * tick))
    }
    wheel?.arm(kept, at: Instant(nanoseconds: 9 * tick))
    #expect(dropped != nil, "the wheel keeps what is armed")
    wheel = nil
    #expect(dropped == nil)
    #expect(!kept.isArmed)
    kept.cancel()
  }

  @Test func aMillionArmedTimersAreLetGoWithoutDeepRecursion() {
    var alive = 0
    final class Token {
      let count: (Int) -> Void
      init(_ count: @escaping (Int) -> Void) {
        self.count = count
        count(1)
      }
      deinit { count(-1) }
    }
    var wheel: TimerWheel? = TimerWheel(now: Instant(nanoseconds: 0))
    for _ in 0..<1_000_000 {
      let token = Token { alive += $0 }
      wheel?.arm(LoopTimer { _ = token }, at: Instant(nanoseconds: 5_000 * tick))
    }
    #expect(alive == 1_000_000)
    wheel = nil
    #expect(alive == 0)
  }

  @Test func aLeapOverAnEmptyCenturyIsInstant() {
    // Not measured: a wheel that walked each tick would need minutes here, and the whole suite takes seconds.
    let wheel = TimerWheel(now: Instant(nanoseconds: 0))
    var fired = false
    let timer = LoopTimer { fired = true }
    wheel.arm(timer, at: Instant(nanoseconds: 1_000 * tick))
    wheel.advance(to: Instant(nanoseconds: 3_155_760_000_000_000_000))
    #expect(fired)
  }
}

extension WheelUnderTest {
  fileprivate var randomCount: Int {
    // Derived from the time, so that bursts and quiet stretches alternate without another stream of numbers.
    now.nanoseconds % 7 == 0 ? 30 : Int(now.nanoseconds % 3)
  }
}
