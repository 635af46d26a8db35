// Which misfortunes a simulated world deals out, and how often. A swarm run switches a random half of them on, at a
// random strength: a world in which everything fails at once finds fewer bugs than many worlds with a few faults each.

import SidecarCore

/// A misfortune the simulator can deal out.
package enum Fault: Int, CaseIterable, Sendable {
  // Streams, per read, write or segment.
  /// A read is cut to a few bytes.
  case splitRead
  /// The system takes nothing or a part of a write at once; the rest waits in the queue.
  case partialWrite
  /// A segment is late by up to 100 times the latency; what follows it waits.
  case lateSegment
  /// The connection is cut; both ends see a reset.
  case streamReset
  /// The path falls silent for 10 ms to 60 s, one time in eight for good.
  case streamStall
  /// A reset throws away what had arrived and was not read yet. (Linux keeps it, others do not.)
  case resetLosesUnread
  /// A reset stays unnoticed while reading is paused, until the next write or `resumeReading`.
  case resetUnnoticedWhilePaused
  // Streams, per connection.
  /// The receive window is 1 byte to 4 KiB.
  case smallWindow
  /// Up to 200 ms latency and 10 KB/s to 1 MB/s.
  case slowLink
  // Dials.
  case connectRefused
  case connectUnreachable
  /// Up to 10 s until the answer.
  case connectSlow
  /// No answer ever (the system gives up after two minutes).
  case connectLost
  // Loops.
  /// The timer wheel is turned up to 50 ms late.
  case lateTimer
  /// A loop stands still for 1 ms to 3 s after a turn.
  case loopStall
  /// What `later` was given runs in the next turn, not at the end of this one.
  case laterNextTurn
  /// Wall-clock time jumps by up to an hour, either way.
  case wallClockJump
  // Datagrams.
  case datagramLoss
  case datagramDuplicate
  /// A datagram is late by up to 500 ms; others overtake it.
  case datagramLate
  // Names and files.
  case resolveFailure
  /// Up to 5 s until the answer.
  case resolveSlow
  /// A file call fails with EIO.
  case diskError

  /// Probability at full strength.
  fileprivate var strongest: Double {
    switch self {
    case .splitRead, .partialWrite, .resetLosesUnread, .resetUnnoticedWhilePaused, .smallWindow, .slowLink,
      .laterNextTurn, .lateTimer:
      1
    case .lateSegment, .datagramLoss, .datagramDuplicate, .datagramLate, .resolveSlow, .connectSlow: 0.5
    case .connectRefused, .connectUnreachable, .connectLost, .resolveFailure: 0.3
    case .diskError: 0.1
    case .streamReset, .streamStall: 0.05
    case .loopStall, .wallClockJump: 0.02
    }
  }
}

/// Probabilities by fault. All zero is a fast and faultless network.
package struct FaultPlan: Equatable, Sendable, CustomStringConvertible {
  /// Of 2³², so that no floating-point rounding decides.
  private var thresholds = [UInt64](repeating: 0, count: Fault.allCases.count)

  package init() {}

  /// No faults.
  package static let none = FaultPlan()

  /// Faults that lose or delay but break no connection and no lookup: what a correct relay must survive without anybody
  /// noticing.
  package static let gentle: Set<Fault> = [
    .splitRead, .partialWrite, .lateSegment, .smallWindow, .slowLink, .connectSlow, .lateTimer, .loopStall,
    .laterNextTurn, .resolveSlow, .wallClockJump,
  ]

  /// A random half of `faults`, each at 1/64 to full strength.
  package static func swarm(
    _ random: inout SeededRandom, of faults: Set<Fault> = Set(Fault.allCases)
  ) -> FaultPlan {
    var plan = FaultPlan()
    for fault in Fault.allCases {
      // Always two draws per fault, so that leaving one out does not change the others.
      let isOn = random.next() & 1 == 0
      let strength = Double(1 &<< random.below(7)) / 64
      if isOn, faults.contains(fault) { plan[fault] = fault.strongest * strength }
    }
    return plan
  }

  /// Probability of a fault, 0 … 1.
  package subscript(_ fault: Fault) -> Double {
    get { Double(thresholds[fault.rawValue]) / 4_294_967_296 }
    set { thresholds[fault.rawValue] = UInt64(max(0, min(1, newValue)) * 4_294_967_296) }
  }

  /// The plan with one probability set.
  package func with(_ fault: Fault, _ probability: Double) -> FaultPlan {
    var plan = self
    plan[fault] = probability
    return plan
  }

  /// The plan with these faults switched off.
  package func without(_ faults: Fault...) -> FaultPlan {
    var plan = self
    for fault in faults { plan[fault] = 0 }
    return plan
  }

  /// Draws: true with the fault's probability.
  func strikes(_ fault: Fault, _ random: inout SeededRandom) -> Bool {
    let threshold = thresholds[fault.rawValue]
    return threshold > 0 && random.next() &>> 32 < threshold
  }

  package var description: String {
    let on = Fault.allCases.filter { self[$0] > 0 }
      .map { "\($0) \(Double(Int(self[$0] * 10_000)) / 100) %" }
    return on.isEmpty ? "none" : on.joined(separator: ", ")
  }
}
