// Timers for one loop: a hierarchical wheel, so that arming and cancelling cost a few pointer writes however many are
// armed. A proxy arms a deadline for every call and cancels nearly all of them.
//
//   level 0: 256 slots of 1 tick (4 ms)       covers 1.02 s
//   level 1:  64 slots of 256 ticks           covers 65 s
//   level 2:  64 slots of 16,384 ticks        covers 70 min
//   level 3:  64 slots of 1,048,576 ticks     covers 74 h; later ones wait in its last slot and are placed again
//
// A timer never fires early and at most one tick plus the loop's own delay late.

/// A timer. Owned by whoever arms it; loop-confined; may be armed again from its own callback.
public final class LoopTimer {
  fileprivate unowned(unsafe) var previous: LoopTimer?
  fileprivate var next: LoopTimer?
  fileprivate unowned(unsafe) var list: TimerWheel.Slot?
  /// When it is due; meaningful while armed.
  public fileprivate(set) var due = Instant.distantFuture
  private let action: () -> Void

  /// `action` runs on the loop at or after the due time. It should capture its owner weakly or unowned.
  public init(_ action: @escaping () -> Void) { self.action = action }

  public var isArmed: Bool { list != nil }

  /// Takes the timer off its wheel. Not armed: nothing happens.
  public func cancel() {
    guard let list else { return }
    list.remove(self)
  }

  fileprivate func fire() { action() }
}

/// The wheel of one loop. The driver calls `advance` each turn and sleeps no longer than to `nextDue`.
public final class TimerWheel {
  /// Resolution, in nanoseconds.
  public static let tick: UInt64 = 4_000_000
  private static let levelBits: [UInt64] = [0, 8, 14, 20]
  private static let slotCounts = [256, 64, 64, 64]

  final class Slot {
    var first: LoopTimer?
    var count = 0
    unowned(unsafe) let wheel: TimerWheel
    init(_ wheel: TimerWheel) { self.wheel = wheel }

    func append(_ timer: LoopTimer) {
      timer.next = first
      timer.previous = nil
      first?.previous = timer
      first = timer
      timer.list = self
      count += 1
      wheel.armedCount += 1
    }

    func remove(_ timer: LoopTimer) {
      let next = timer.next
      if let previous = timer.previous { previous.next = next } else { first = next }
      next?.previous = timer.previous
      timer.next = nil
      timer.previous = nil
      timer.list = nil
      count -= 1
      wheel.armedCount -= 1
    }
  }

  private var levels: [[Slot]] = []
  /// The last tick whose slot has been run.
  private var currentTick: UInt64
  public private(set) var armedCount = 0
  /// Told when a timer is armed that is due before every other; the driver shortens its sleep.
  public var onEarlier: ((Instant) -> Void)?
  private var earliestKnown = Instant.distantFuture

  public init(now: Instant) {
    currentTick = now.nanoseconds / Self.tick
    levels = Self.slotCounts.map { count in (0..<count).map { _ in Slot(self) } }
  }

  /// Arms `timer` for `due`; one that is armed already moves. A time in the past fires in the next turn.
  public func arm(_ timer: LoopTimer, at due: Instant) {
    timer.cancel()
    timer.due = due
    place(timer)
    if due < earliestKnown {
      earliestKnown = due
      onEarlier?(due)
    }
  }

  public func arm(_ timer: LoopTimer, after nanoseconds: Int64, from now: Instant) {
    arm(timer, at: now.advanced(byNanoseconds: nanoseconds))
  }

  private func place(_ timer: LoopTimer) {
    let roundedUp = timer.due.nanoseconds.addingReportingOverflow(Self.tick - 1)
    let dueTick = max((roundedUp.overflow ? .max : roundedUp.partialValue) / Self.tick, currentTick + 1)
    let distance = dueTick - currentTick
    for level in 0..<4 {
      let bits = Self.levelBits[level]
      let slots = UInt64(Self.slotCounts[level])
      if distance < slots &<< bits || level == 3 {
        // Beyond the last level: the slot farthest ahead; it is placed again when the wheel comes there.
        let tick = min(dueTick, currentTick + (slots &<< bits) - (1 &<< bits))
        levels[level][Int(tick &>> bits) & (Self.slotCounts[level] - 1)].append(timer)
        return
      }
    }
  }

  /// Runs all that is due at `now`. Timers armed by a callback run in this call only if the wheel passes them later.
  public func advance(to now: Instant) {
    let target = now.nanoseconds / Self.tick
    guard target > currentTick else { return }
    if armedCount == 0 {
      currentTick = target
      earliestKnown = .distantFuture
      return
    }
    while currentTick < target {
      if armedCount == 0 {
        currentTick = target
        break
      }
      currentTick += 1
      for level in 1..<4 {
        let bits = Self.levelBits[level]
        guard currentTick & ((1 &<< bits) - 1) == 0 else { break }
        open(levels[level][Int(currentTick &>> bits) & (Self.slotCounts[level] - 1)])
      }
      let slot = levels[0][Int(currentTick) & 255]
      while let timer = slot.first {
        slot.remove(timer)
        timer.fire()
      }
    }
    earliestKnown = nextDue()
    if earliestKnown != .distantFuture { onEarlier?(earliestKnown) }
  }

  /// Moves the timers of a slot whose time has come to the levels below.
  private func open(_ slot: Slot) {
    // Take the whole list first: a far timer may be placed into the same slot again.
    var moved: [LoopTimer] = []
    moved.reserveCapacity(slot.count)
    while let timer = slot.first {
      slot.remove(timer)
      moved.append(timer)
    }
    for timer in moved {
      if timer.due.nanoseconds <= currentTick * Self.tick {
        levels[0][Int(currentTick) & 255].append(timer)
      } else {
        place(timer)
      }
    }
  }

  /// When the driver must wake for the earliest timer, rounded up to a tick; `.distantFuture` when none is armed. A
  /// timer of a higher level may be reported early, at the time its slot is opened.
  public func nextDue() -> Instant {
    if armedCount == 0 { return .distantFuture }
    for offset in 1...256 where levels[0][Int(currentTick + UInt64(offset)) & 255].count > 0 {
      let tick = currentTick + UInt64(offset)
      // A higher slot that opens before that may hold an earlier one.
      return Instant(nanoseconds: min(tick, nextOpening(before: tick)) * Self.tick)
    }
    return Instant(nanoseconds: nextOpening(before: .max / Self.tick) * Self.tick)
  }

  private func nextOpening(before limit: UInt64) -> UInt64 {
    var best = limit
    for level in 1..<4 {
      let bits = Self.levelBits[level]
      let base = currentTick &>> bits
      for offset in 1...UInt64(Self.slotCounts[level]) {
        let opens = (base + offset) &<< bits
        if opens >= best { break }
        if levels[level][Int(base + offset) & (Self.slotCounts[level] - 1)].count > 0 {
          best = opens
          break
        }
      }
    }
    return best
  }
}
