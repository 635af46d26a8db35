// Timers for one loop: a hierarchical wheel, so that arming and cancelling cost a few pointer writes however many are
// armed. A proxy arms a deadline for every call and cancels nearly all of them.
//
//   level 0: 256 slots of 1 tick (4 ms)       covers 1.02 s
//   level 1:  64 slots of 256 ticks           covers 65 s
//   level 2:  64 slots of 16,384 ticks        covers 70 min
//   level 3:  64 slots of 1,048,576 ticks     covers 74 h; later ones wait in its last slot and are placed again
//
// A timer never fires early and at most one tick plus the loop's own delay late. Those of one tick fire in the order
// they came to its slot. A bit per slot says where timers are, so that the wheel leaps over empty time.

/// A timer. Owned by whoever arms it; loop-confined; may be armed again from its own callback.
///
/// While armed it is also kept alive by its wheel. Links are not counted and the one reference is, by hand: a chain of
/// strong links would be taken down recursively, on the small stack of a worker.
public final class LoopTimer {
  fileprivate var previous: Unmanaged<LoopTimer>?
  fileprivate var next: Unmanaged<LoopTimer>?
  fileprivate var list: Unmanaged<TimerWheel.Slot>?
  /// When it is due; meaningful while armed.
  public fileprivate(set) var due = Instant.distantFuture
  private var action: () -> Void

  /// `action` runs on the loop at or after the due time. It should capture its owner weakly or unowned.
  public init(_ action: @escaping () -> Void) { self.action = action }
  /// For an owner that keeps its timer in a `let`, and sets `action` once it is whole itself.
  package init() { action = {} }
  package func setAction(_ action: @escaping () -> Void) { self.action = action }

  public var isArmed: Bool { list != nil }

  /// Takes the timer off its wheel. Not armed: nothing happens.
  public func cancel() {
    guard let list else { return }
    list._withUnsafeGuaranteedRef { $0.remove(self) }
    Unmanaged.passUnretained(self).release()
  }

  fileprivate func fire() { action() }
}

/// The wheel of one loop. The driver calls `advance` when the earliest timer is due and sleeps no longer than to
/// `nextDue`.
public final class TimerWheel {
  /// Resolution, in nanoseconds.
  public static let tick: UInt64 = 4_000_000
  private static let slotCounts = [256, 64, 64, 64]

  final class Slot {
    private var first: Unmanaged<LoopTimer>?
    private var last: Unmanaged<LoopTimer>?
    private let wheel: Unmanaged<TimerWheel>
    /// Which bit of the wheel's `occupied` is this slot's.
    private let word: Int
    private let bit: UInt64

    init(_ wheel: TimerWheel, word: Int, bit: Int) {
      self.wheel = .passUnretained(wheel)
      self.word = word
      self.bit = 1 &<< UInt64(bit)
    }

    /// The first timer that waits here.
    var head: LoopTimer? { first?.takeUnretainedValue() }

    // A proxy arms and cancels a timer for every call: counting the references of its neighbours would cost more than all
    // the rest.
    func append(_ timer: LoopTimer) {
      let added = Unmanaged.passUnretained(timer)
      timer.previous = last
      timer.next = nil
      timer.list = .passUnretained(self)
      wheel._withUnsafeGuaranteedRef {
        if last == nil { $0.occupied[word] |= bit }
        $0.armedCount &+= 1
      }
      if let last { last._withUnsafeGuaranteedRef { $0.next = added } } else { first = added }
      last = added
    }

    func remove(_ timer: LoopTimer) {
      let (previous, next) = (timer.previous, timer.next)
      if let previous { previous._withUnsafeGuaranteedRef { $0.next = next } } else { first = next }
      if let next { next._withUnsafeGuaranteedRef { $0.previous = previous } } else { last = previous }
      timer.next = nil
      timer.previous = nil
      timer.list = nil
      wheel._withUnsafeGuaranteedRef {
        if first == nil { $0.occupied[word] &= ~bit }
        $0.armedCount &-= 1
      }
    }
  }

  /// All slots: 256 of level 0, then 64 of each other level.
  private var slots: [Slot] = []
  /// A bit per slot that holds timers: words 0 to 3 are level 0, words 4 to 6 levels 1 to 3.
  fileprivate let occupied: UnsafeMutablePointer<UInt64>
  /// The last tick whose slot has been run.
  private var currentTick: UInt64
  public fileprivate(set) var armedCount = 0
  /// Told when a timer is armed that is due before every other; the driver shortens its sleep.
  public var onEarlier: ((Instant) -> Void)?
  private var earliestKnown = Instant.distantFuture

  public init(now: Instant) {
    currentTick = now.nanoseconds / Self.tick
    occupied = .allocate(capacity: 7)
    occupied.initialize(repeating: 0, count: 7)
    for (level, count) in Self.slotCounts.enumerated() {
      for index in 0..<count {
        slots.append(Slot(self, word: level == 0 ? index / 64 : level + 3, bit: index % 64))
      }
    }
  }

  deinit {
    // Timers outlive the wheel in their owners' hands; none may point into it.
    for slot in slots {
      while let timer = slot.head {
        slot.remove(timer)
        Unmanaged.passUnretained(timer).release()
      }
    }
    occupied.deallocate()
  }

  /// Bits of a tick number below those that choose a slot of `level`.
  @inline(__always) private static func shift(_ level: Int) -> UInt64 { level == 0 ? 0 : UInt64(2 + 6 * level) }

  @inline(__always) private func slot(_ level: Int, at tick: UInt64) -> Slot {
    let index = Int(truncatingIfNeeded: tick &>> Self.shift(level))
    return level == 0 ? slots[index & 255] : slots[192 + 64 * level + index & 63]
  }

  /// Arms `timer` for `due`; one that is armed already moves. A time in the past fires in the next turn.
  public func arm(_ timer: LoopTimer, at due: Instant) {
    if let list = timer.list {
      list._withUnsafeGuaranteedRef { $0.remove(timer) }
    } else {
      _ = Unmanaged.passUnretained(timer).retain()
    }
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
    let (roundedUp, overflow) = timer.due.nanoseconds.addingReportingOverflow(Self.tick - 1)
    let dueTick = max((overflow ? .max : roundedUp) / Self.tick, currentTick + 1)
    let distance = dueTick - currentTick
    let level = distance < 1 &<< 8 ? 0 : distance < 1 &<< 14 ? 1 : distance < 1 &<< 20 ? 2 : 3
    // Beyond the last level: the slot farthest ahead; it is placed again when the wheel comes there.
    slot(level, at: min(dueTick, currentTick + 63 &<< 20)).append(timer)
  }

  /// Runs all that is due at `now`. Timers armed by a callback run in this call only if
  /// the wheel passes them later.
  public func advance(to now: Instant) {
    let target = now.nanoseconds / Self.tick
    guard target > currentTick else { return }
    while armedCount > 0 {
      let next = nextStop()
      if next > target { break }
      currentTick = next
      for level in 1..<4 {
        guard next & ((1 &<< Self.shift(level)) - 1) == 0 else { break }
        open(slot(level, at: next))
      }
      let slot = slot(0, at: next)
      while let timer = slot.head {
        slot.remove(timer)
        let owned = Unmanaged.passUnretained(timer)
        timer.fire()
        owned.release()
      }
    }
    currentTick = max(currentTick, target)
    earliestKnown = nextDue()
    if earliestKnown != .distantFuture { onEarlier?(earliestKnown) }
  }

  /// Moves the timers of a slot whose time has come to the levels below.
  private func open(_ slot: Slot) {
    // Take the whole list first: a far timer may be placed into the same slot again.
    var moved: [LoopTimer] = []
    while let timer = slot.head {
      slot.remove(timer)
      moved.append(timer)
    }
    for timer in moved {
      if timer.due.nanoseconds <= currentTick * Self.tick {
        self.slot(0, at: currentTick).append(timer)
      } else {
        place(timer)
      }
    }
  }

  /// When the driver must wake for the earliest timer, rounded up to a tick; `.distantFuture` when none is armed. A
  /// timer of a higher level may be reported early, at the time its slot is opened.
  public func nextDue() -> Instant {
    armedCount == 0 ? .distantFuture : Instant(nanoseconds: nextStop() * Self.tick)
  }

  /// The next tick at which there is something to do: a slot of level 0 to run, or another to open.
  private func nextStop() -> UInt64 {
    var best = UInt64.max / Self.tick
    // Level 0: the rest of the word the next tick lies in, the words after it, and the beginning of that word again.
    let start = currentTick + 1
    for step in 0...4 as ClosedRange<UInt64> {
      let wordTick = (start &>> 6 + step) &<< 6
      var bits = occupied[Int(wordTick &>> 6) & 3]
      if step == 0 { bits &= .max &<< (start & 63) }
      if bits != 0 {
        best = wordTick + UInt64(bits.trailingZeroBitCount)
        break
      }
    }
    // A higher slot that opens before that may hold an earlier one.
    for level in 1..<4 {
      let bits = occupied[3 + level]
      if bits == 0 { continue }
      let base = currentTick &>> Self.shift(level) + 1
      let turn = base & 63
      let rotated = bits &>> turn | (turn == 0 ? 0 : bits &<< (64 - turn))
      best = min(best, (base + UInt64(rotated.trailingZeroBitCount)) &<< Self.shift(level))
    }
    return best
  }
}
