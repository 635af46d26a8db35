// Who is a member, by hashicorp/memberlist's rules (state.go, broadcast.go @ v0.1.0): each second one member is asked whether
// it lives, directly, then through another; silence makes it suspect, and suspicion that it does not refute makes it dead.
//
//   alive ── no answer, or told so ──▶ suspect ── 3 s × log₁₀ n ──▶ dead ── 30 s ──▶ forgotten
//     ▲                                  │ refuted: alive of a higher incarnation      │
//     └──────────────────────────────────┴──────────── came back, higher incarnation ──┘
//
// What is learnt spreads with datagrams to three random members each 100 ms, a few times for each piece. Whole states are
// exchanged over streams at the join and each 15 s with somebody.

import SidecarCore

struct GossipTiming: Equatable, Sendable {
  var gossip: Int64 = 100_000_000
  var probe: Int64 = 1_000_000_000
  /// How long a direct answer may take; the rest of `probe` is for indirect ones.
  var probeAnswer: Int64 = 200_000_000
  var pushPull: Int64 = 15_000_000_000
  var suspicion: Int64 = 3_000_000_000
  var forget: Int64 = 30_000_000_000
  /// While nobody else is known the peers of the settings are tried so often.
  var rejoin: Int64 = 1_000_000_000
}

struct GossipMachine {
  /// Members known, dead ones included; others are not taken in.
  static let membersMax = 5000
  /// Pieces of news on their way; the next one to be told makes room.
  static let newsMax = 4096
  static let fanout = 3
  static let indirectProbes = 3
  /// How often a piece is told: this times log₁₀ of the members.
  static let retransmits = 4
  /// How often a user's message is told to each member on the average: nobody passes it on.
  static let userRetransmits = 5
  /// How often what others told is passed on: this times log₁₀ of the members. One in e¹² misses it.
  static let relayRetransmits = 12
  static let tellingsMax = 1000
  /// Pings done for others at a time.
  static let relaysMax = 256

  enum Action: Equatable {
    case send([UInt8], to: SocketAddress)
    /// Exchange states over a stream.
    case exchange(with: SocketAddress, isJoin: Bool)
    /// A user's message arrived.
    case deliver([UInt8])
    /// A member that was not there before, or that came back.
    case joined(Memberlist.Member)
    /// One that died or left.
    case gone(Memberlist.Member)
  }

  private struct Known {
    var member: Memberlist.Member
    var since: Instant
    /// When a suspect becomes dead.
    var deadline = Instant.distantFuture
  }

  /// Newer news of a subject takes the place of older.
  private struct News {
    var bytes: [UInt8]
    var told = 0
    var tellings: Int
  }

  private enum Probe {
    case direct(name: String, sequence: UInt32, until: Instant, end: Instant)
    case indirect(name: String, sequence: UInt32, end: Instant)
  }

  /// A ping sent for somebody else.
  private struct Relay {
    var asker: SocketAddress
    var sequence: UInt32
    var until: Instant
    var wantsNack: Bool
  }

  private(set) var own: Memberlist.Member
  private let timing: GossipTiming
  /// Where a cluster is looked for, by us and by its parts that lost each other.
  var peers: [SocketAddress]
  /// What changed since the actions were last taken.
  private var changes: [Action] = []
  private var random: SeededRandom
  private var known: [String: Known] = [:]
  private var news: [String: News] = [:]
  /// Subjects in the order in which they are told next.
  private var line: [String] = []
  private var order: [String] = []
  private var probe: Probe?
  private var relays: [UInt32: Relay] = [:]
  private var sequence: UInt32 = 0
  private var nextGossip = Instant.distantFuture
  private var nextProbe: Instant
  private var nextExchange: Instant
  private var isLeaving = false

  init(
    name: String, address: SocketAddress, peers: [SocketAddress], timing: GossipTiming, random: SeededRandom,
    now: Instant
  ) {
    own = Memberlist.Member(name: name, address: address, incarnation: 1)
    self.peers = peers.filter { $0 != address }
    self.timing = timing
    self.random = random
    nextProbe = now.advanced(byNanoseconds: timing.probe)
    nextExchange = now
  }

  /// Members that live or may live, ourselves not counted.
  var others: [Memberlist.Member] {
    known.values.map(\.member).filter { $0.state == .alive || $0.state == .suspect }.sorted { $0.name < $1.name }
  }
  var isAlone: Bool { others.isEmpty }
  func state(of name: String) -> Memberlist.State? { known[name]?.member.state }

  var nextDue: Instant {
    var due = min(nextProbe, nextExchange)
    if !news.isEmpty { due = min(due, nextGossip) }
    switch probe {
    case .direct(_, _, let until, _): due = min(due, until)
    case .indirect(_, _, let end): due = min(due, end)
    case nil: break
    }
    return due
  }

  // MARK: Others speak

  mutating func received(_ message: Memberlist.Message, from peer: SocketAddress, now: Instant) -> [Action] {
    switch message {
    case .ping(let sequence, let node):
      // A port that another process had before must not answer for it.
      guard node.isEmpty || node == own.name else { return [] }
      return [.send(Memberlist.datagram(.ack(sequence: sequence)), to: peer)]
    case .indirectPing(let sequence, let target, let node, let wantsNack):
      guard relays.count < Self.relaysMax else { return [] }
      let mine = nextSequence()
      relays[mine] = Relay(
        asker: peer, sequence: sequence, until: now.advanced(byNanoseconds: timing.probeAnswer), wantsNack: wantsNack)
      return [.send(Memberlist.datagram(.ping(sequence: mine, node: node)), to: target)]
    case .ack(let sequence):
      if let relay = relays.removeValue(forKey: sequence) {
        return [.send(Memberlist.datagram(.ack(sequence: relay.sequence)), to: relay.asker)]
      }
      switch probe {
      case .direct(_, sequence, _, _), .indirect(_, sequence, _): probe = nil
      case .direct, .indirect, nil: break
      }
    case .nack: break
    case .alive(let member): alive(member, now)
    case .suspect(let incarnation, let node, _): suspect(node, incarnation, now)
    case .dead(let incarnation, let node, let from): dead(node, incarnation, hasLeft: node == from, now)
    case .user(let payload): return [.deliver(payload)]
    }
    return takeChanges()
  }

  private mutating func takeChanges() -> [Action] {
    defer { changes.removeAll() }
    return changes
  }

  /// The state that a stream brought. What others hold for dead is only suspected, so that it may refute.
  mutating func merge(_ members: [Memberlist.Member], now: Instant) -> [Action] {
    for member in members {
      switch member.state {
      case .alive: alive(member, now)
      case .left: dead(member.name, member.incarnation, hasLeft: true, now)
      case .suspect, .dead: suspect(member.name, member.incarnation, now)
      }
    }
    return takeChanges()
  }

  /// The state that we bring.
  var members: [Memberlist.Member] { [own] + known.values.map(\.member).sorted { $0.name < $1.name } }

  // MARK: We speak

  /// Tells everyone of something, at once and again with the next rounds, since members do not pass a user's message on;
  /// `subject` as in `News`.
  mutating func tell(_ payload: [UInt8], about subject: String, now: Instant) -> [Action] {
    let bytes = Memberlist.datagram(.user(payload))
    let tellings = min(max(others.count * Self.userRetransmits, Self.retransmits), Self.tellingsMax)
    spread(bytes, about: "user " + subject, now, tellings: tellings)
    return others.map { .send(bytes, to: $0.address) }
  }

  /// Passes on what another member told: it may be gone, and knew perhaps not all of us. More often than news of members,
  /// which whole states bring to those who missed them.
  mutating func relay(_ payload: [UInt8], about subject: String, now: Instant) {
    let tellings = Self.relayRetransmits * Self.digits(known.count + 1)
    spread(Memberlist.datagram(.user(payload)), about: "user " + subject, now, tellings: tellings)
  }

  /// What was told or passed on about `subject` holds no longer.
  mutating func takeBack(about subject: String) {
    let subject = "user " + subject
    guard news.removeValue(forKey: subject) != nil else { return }
    line.removeAll { $0 == subject }
  }

  /// Tells everyone that we go, who pass it on. Nothing is refuted from here on.
  mutating func leave() -> [Action] {
    isLeaving = true
    let bytes = Memberlist.datagram(.dead(incarnation: own.incarnation, node: own.name, from: own.name))
    return others.map { .send(bytes, to: $0.address) }
  }

  /// All that is due.
  mutating func advance(to now: Instant) -> [Action] {
    var actions = advanceProbe(to: now)
    for (name, entry) in known {
      if entry.deadline <= now { dead(name, entry.member.incarnation, hasLeft: false, now, byUs: true) }
      let isGone = entry.member.state == .dead || entry.member.state == .left
      if isGone, now.nanoseconds(since: entry.since) >= timing.forget { known[name] = nil }
    }
    for (mine, relay) in relays where relay.until <= now {
      relays[mine] = nil
      if relay.wantsNack {
        actions.append(.send(Memberlist.datagram(.nack(sequence: relay.sequence)), to: relay.asker))
      }
    }
    if nextExchange <= now { actions += exchange(now) }
    if !news.isEmpty, nextGossip <= now { actions += gossip(now) }
    return takeChanges() + actions
  }

  private mutating func exchange(_ now: Instant) -> [Action] {
    let living = known.values.filter { $0.member.state == .alive }.map(\.member)
    if living.isEmpty {
      nextExchange = now.advanced(byNanoseconds: timing.rejoin)
      guard !peers.isEmpty else { return [] }
      return peers.shuffled(using: &random).prefix(Self.fanout).map { .exchange(with: $0, isJoin: true) }
    }
    nextExchange = now.advanced(byNanoseconds: timing.pushPull + Int64(random.below(Int(timing.pushPull / 4) + 1)))
    // Parts that lost each other meet again through the peers that everyone has.
    let addresses = Set(living.map(\.address))
    if let lost = peers.filter({ !addresses.contains($0) }).shuffled(using: &random).first, random.below(2) == 0 {
      return [.exchange(with: lost, isJoin: true)]
    }
    return [.exchange(with: living[random.below(living.count)].address, isJoin: false)]
  }

  private mutating func gossip(_ now: Instant) -> [Action] {
    nextGossip = now.advanced(byNanoseconds: timing.gossip)
    let hearers = known.values.filter { entry in
      entry.member.state == .alive || entry.member.state == .suspect
        || now.nanoseconds(since: entry.since) < timing.forget / 2
    }.map(\.member.address).sorted { $0.description < $1.description }.shuffled(using: &random).prefix(Self.fanout)
    guard !hearers.isEmpty else {
      news.removeAll()
      line.removeAll()
      return []
    }
    var actions: [Action] = []
    for hearer in hearers {
      var batch: [[UInt8]] = []
      var room = Memberlist.datagramBytesMax - 2
      var told = 0
      for subject in line {
        guard let piece = news[subject], piece.bytes.count + 2 <= room, batch.count < 255 else { break }
        room -= piece.bytes.count + 2
        batch.append(piece.bytes)
        news[subject]?.told += 1
        told += 1
      }
      guard !batch.isEmpty else { break }
      actions.append(.send(Memberlist.compound(batch), to: hearer))
      // Those that were told stand behind the others.
      let subjects = line.prefix(told)
      line.removeFirst(told)
      for subject in subjects {
        if let piece = news[subject], piece.told < piece.tellings { line.append(subject) } else { news[subject] = nil }
      }
    }
    return actions
  }

  private mutating func spread(_ bytes: [UInt8], about subject: String, _ now: Instant, tellings: Int? = nil) {
    // What fits no datagram goes by streams.
    guard bytes.count + 4 <= Memberlist.datagramBytesMax else { return }
    if news.isEmpty { nextGossip = now }
    let piece = News(bytes: bytes, tellings: tellings ?? Self.retransmits * Self.digits(known.count + 1))
    if news.updateValue(piece, forKey: subject) == nil {
      if news.count > Self.newsMax { news[line.removeFirst()] = nil }
      line.append(subject)
    }
  }

  // MARK: Probing

  private mutating func advanceProbe(to now: Instant) -> [Action] {
    var actions: [Action] = []
    switch probe {
    case .direct(let name, let sequence, let until, let end) where until <= now:
      probe = .indirect(name: name, sequence: sequence, end: end)
      guard let member = known[name]?.member else { break }
      let helpers = known.values.filter { $0.member.state == .alive && $0.member.name != name }.map(\.member)
      for helper in helpers.shuffled(using: &random).prefix(Self.indirectProbes) {
        let message = Memberlist.Message.indirectPing(
          sequence: sequence, target: member.address, node: name, wantsNack: false)
        actions.append(.send(Memberlist.datagram(message), to: helper.address))
      }
    case .indirect(let name, _, let end) where end <= now:
      probe = nil
      if let member = known[name]?.member { suspect(name, member.incarnation, now) }
    case .direct, .indirect, nil: break
    }
    guard nextProbe <= now else { return actions }
    nextProbe = now.advanced(byNanoseconds: timing.probe)
    if probe == nil, let member = nextToProbe() {
      let number = nextSequence()
      probe = .direct(
        name: member.name, sequence: number, until: now.advanced(byNanoseconds: timing.probeAnswer), end: nextProbe)
      var messages = [Memberlist.datagram(.ping(sequence: number, node: member.name))]
      // So that it can refute at once.
      if member.state == .suspect {
        messages.append(
          Memberlist.datagram(.suspect(incarnation: member.incarnation, node: member.name, from: own.name)))
      }
      actions.append(.send(Memberlist.compound(messages), to: member.address))
    }
    return actions
  }

  /// All in turn, in an order of chance.
  private mutating func nextToProbe() -> Memberlist.Member? {
    for _ in 0..<2 {
      while let name = order.popLast() {
        if let member = known[name]?.member, member.state == .alive || member.state == .suspect { return member }
      }
      order = known.keys.sorted().shuffled(using: &random)
    }
    return nil
  }

  private mutating func nextSequence() -> UInt32 {
    sequence &+= 1
    return sequence
  }

  // MARK: What is said of a member

  private mutating func alive(_ member: Memberlist.Member, _ now: Instant) {
    guard !member.name.isEmpty else { return }
    if member.name == own.name {
      // An earlier life of ours, or somebody who does not know our present one.
      if member.incarnation > own.incarnation
        || (member.incarnation == own.incarnation && member.address != own.address)
      {
        refute(member.incarnation, now)
      }
      return
    }
    if let entry = known[member.name] {
      let isGone = entry.member.state == .dead || entry.member.state == .left
      // Two processes of one name: the first keeps it while it lives.
      guard entry.member.address == member.address || isGone else { return }
      guard member.incarnation > entry.member.incarnation else { return }
    } else {
      guard known.count < Self.membersMax else { return }
    }
    var member = member
    let before = known[member.name]?.member.state
    member.state = .alive
    known[member.name] = Known(member: member, since: now)
    if before == nil || before == .dead || before == .left { changes.append(.joined(member)) }
    spread(Memberlist.datagram(.alive(member)), about: member.name, now)
  }

  private mutating func suspect(_ name: String, _ incarnation: UInt32, _ now: Instant) {
    if name == own.name { return refute(incarnation, now) }
    guard var entry = known[name], incarnation >= entry.member.incarnation, entry.member.state == .alive else { return }
    entry.member.state = .suspect
    entry.member.incarnation = incarnation
    entry.since = now
    entry.deadline = now.advanced(byNanoseconds: timing.suspicion * Int64(Self.digits(known.count)))
    known[name] = entry
    spread(Memberlist.datagram(.suspect(incarnation: incarnation, node: name, from: own.name)), about: name, now)
  }

  private mutating func dead(
    _ name: String, _ incarnation: UInt32, hasLeft: Bool, _ now: Instant, byUs: Bool = false
  ) {
    if name == own.name { return refute(incarnation, now) }
    guard var entry = known[name], incarnation >= entry.member.incarnation, entry.member.state != .dead,
      entry.member.state != .left
    else { return }
    entry.member.state = hasLeft ? .left : .dead
    entry.member.incarnation = incarnation
    entry.since = now
    entry.deadline = .distantFuture
    known[name] = entry
    changes.append(.gone(entry.member))
    if isAlone { nextExchange = min(nextExchange, now.advanced(byNanoseconds: timing.rejoin)) }
    let from = hasLeft ? name : own.name
    spread(Memberlist.datagram(.dead(incarnation: incarnation, node: name, from: from)), about: name, now)
  }

  private mutating func refute(_ incarnation: UInt32, _ now: Instant) {
    guard !isLeaving, incarnation >= own.incarnation else { return }
    own.incarnation = incarnation == .max ? .max : incarnation + 1
    spread(Memberlist.datagram(.alive(own)), about: own.name, now)
  }

  /// log₁₀ rounded up, at least 1.
  private static func digits(_ count: Int) -> Int {
    var (digits, reach) = (1, 10)
    while reach < count {
      digits += 1
      reach *= 10
    }
    return digits
  }
}
