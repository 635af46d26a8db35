// The gossip registry's parts: recorded frames, three generations of updates, and swarms of members that lose datagrams,
// halves of the cluster and their lives.

import Foundation
import SidecarCore
import Testing

@testable import SidecarBuiltins

@Suite struct `Gossip wire` {
  /// Datagrams and streams of the recording: kind of transport, bytes.
  static func recording() throws -> [(isStream: Bool, bytes: [UInt8])] {
    let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent().appendingPathComponent("Fixtures/registry/v014-registry-gossip-register.txt")
    var found: [(isStream: Bool, bytes: [UInt8])] = []
    for line in try String(contentsOf: path, encoding: .utf8).split(separator: "\n") {
      if line.hasPrefix("=== UDP") || (line.hasPrefix("---") && line.hasSuffix("bytes")) {
        found.append((line.hasPrefix("---"), []))
      } else if line.hasPrefix("  "), !found.isEmpty {
        let digits = line.dropFirst(8).prefix(50).split(separator: " ")
        found[found.count - 1].bytes += digits.compactMap { UInt8($0, radix: 16) }
      }
    }
    return found.filter { !$0.bytes.isEmpty }
  }

  static func messages(_ bytes: [UInt8]) throws -> [Memberlist.Message] {
    var found: [Memberlist.Message] = []
    let result = bytes.withUnsafeBytes { bytes in Result { try Memberlist.read(datagram: bytes) { found.append($0) } } }
    try result.get()
    return found
  }

  static func stream(_ bytes: [UInt8]) throws -> Memberlist.StreamMessage? {
    try bytes.withUnsafeBytes { bytes in Result { try Memberlist.read(stream: bytes) } }.get()
  }

  @Test func `every recorded frame is read: states, pings, acks, and updates of the first generation`() throws {
    var services: Set<String> = []
    var states = 0
    var kinds: [String: Int] = [:]
    for (isStream, bytes) in try Self.recording() {
      if isStream {
        guard case .pushPull(let state)? = try Self.stream(bytes) else {
          Issue.record("a stream is no push/pull")
          continue
        }
        states += 1
        #expect(state.isJoin && state.members.count == 1 && state.members[0].address.host == "10.77.0.1")
        for service in try GossipUpdate.readState(state.userState, { Issue.record("\($0): \($1)") }) {
          services.insert(service.name)
        }
        for cut in stride(from: 0, to: bytes.count, by: 7) { #expect(try Self.stream(Array(bytes[..<cut])) == nil) }
        continue
      }
      for message in try Self.messages(bytes) {
        kinds["\(message)".prefix { $0 != "(" }.description, default: 0] += 1
        guard case .user(let payload) = message else { continue }
        #expect(payload.first == UInt8(ascii: "d"))
        for update in try GossipUpdate.read(payload) { services.insert(update.service.name) }
      }
      for cut in 0..<bytes.count { _ = try? Self.messages(Array(bytes[..<cut])) }
    }
    #expect(states == 2)
    #expect(services.isSuperset(of: ["hello-g1", "topic:events"]), "\(services)")
    #expect((kinds["ping"] ?? 0) > 0 && (kinds["ack"] ?? 0) > 0 && (kinds["alive"] ?? 0) > 0, "\(kinds)")
  }

  @Test func `what is written is read again`() throws {
    let member = Memberlist.Member(
      name: "n1", address: SocketAddress("10.0.0.1:7946")!, meta: [1, 2], incarnation: 300, state: .alive)
    let other = Memberlist.Member(
      name: String(repeating: "x", count: 40), address: SocketAddress("[fd00::1]:9")!, incarnation: 70_000, state: .left
    )
    let messages: [Memberlist.Message] = [
      .ping(sequence: 7, node: "n1"), .ack(sequence: .max), .nack(sequence: 0), .alive(member),
      .indirectPing(sequence: 1, target: member.address, node: "n2", wantsNack: true),
      .suspect(incarnation: 1, node: "a", from: "b"), .dead(incarnation: 2, node: "a", from: "a"), .user([1, 2, 3]),
    ]
    for message in messages { #expect(try Self.messages(Memberlist.datagram(message)) == [message]) }
    #expect(try Self.messages(Memberlist.compound(messages.map(Memberlist.datagram))) == messages)
    let streams: [Memberlist.StreamMessage] = [
      .pushPull(
        Memberlist.PushPull(members: [member, other], isJoin: true, userState: Array(repeating: 7, count: 70_000))),
      .user(Array(repeating: 9, count: 3000)), .error("no"), .ping(sequence: 1, node: ""), .ack(sequence: 1),
    ]
    for message in streams { #expect(try Self.stream(Memberlist.stream(message)) == message) }
  }

  @Test func `the bytes are those of memberlist's own examples`() {
    func hex(_ bytes: [UInt8]) -> String { bytes.map { String(format: "%02x", $0) }.joined() }
    #expect(hex(Memberlist.datagram(.ping(sequence: 7, node: "n1"))) == "0082a55365714e6f07a44e6f6465a26e31")
    let alive = Memberlist.Member(name: "n1", address: SocketAddress("10.0.0.1:7946")!, incarnation: 1)
    #expect(
      hex(Memberlist.datagram(.alive(alive)))
        == "0486ab496e6361726e6174696f6e01a44e6f6465a26e31a441646472a40a000001a4506f7274cd1f0aa44d657461a0a356736ea6010402000000"
    )
  }

  /// Go tells an address that it has parsed in sixteen bytes, and a member that hears of itself in four takes it for
  /// another's: "Conflicting address" (state.go @ v0.2.2).
  @Test func `a member is told of in the form in which it told of itself`() throws {
    let fields: [UInt8] =
      [0x86, 0xAB] + Array("Incarnation".utf8) + [0x07, 0xA4] + Array("Node".utf8) + [0xA1, 0x67, 0xA4]
      + Array("Addr".utf8) + [0xB0] + [UInt8](repeating: 0, count: 10) + [0xFF, 0xFF, 10, 77, 0, 1, 0xA4]
      + Array("Port".utf8) + [0xCD, 0x1F, 0x0A, 0xA4] + Array("Meta".utf8) + [0xA0, 0xA3] + Array("Vsn".utf8)
      + [0xA6, 1, 5, 2, 2, 5, 4]
    let alive: [UInt8] = [4] + fields
    let message = try #require(Self.messages(alive).first)
    guard case .alive(let member) = message else {
      Issue.record("\(message)")
      return
    }
    #expect(member.address == .ipv4(address: 0x0A4D_0001, port: 7946))
    #expect(member.versions == [1, 5, 2, 2, 5, 4])
    #expect(Memberlist.datagram(message) == alive)
    let state = Memberlist.stream(.pushPull(.init(members: [member], isJoin: true, userState: [])))
    guard case .pushPull(let read) = try Self.stream(state) else {
      Issue.record("no state")
      return
    }
    #expect(read.members == [member])
  }

  @Test func `bombs and circles are refused`() {
    // Compression of compression of …, and a checksum that is wrong.
    var nested = Memberlist.datagram(.ping(sequence: 1, node: ""))
    for _ in 0..<6 { nested = [7, 1, UInt8(nested.count >> 8), UInt8(nested.count & 255)] + nested }
    #expect(throws: WireError.self) { try Self.messages(nested) }
    #expect(throws: WireError.self) { try Self.messages([12, 0, 0, 0, 0] + Memberlist.datagram(.ack(sequence: 1))) }
    #expect(throws: WireError.self) { try Self.messages([6, 0x80]) }
    #expect(throws: WireError.self) { try Self.messages([0, 0xDF, 0xFF, 0xFF, 0xFF, 0xFF]) }
    #expect(throws: WireError.self) { try Self.stream([6, 0x81, 0xA5] + Array("Nodes".utf8) + [0xCE, 0xFF, 0, 0, 0]) }
    // A long run of one byte: each code stands for a longer string.
    let limit = 1000
    var codes = [0x61]
    for code in 258..<500 { codes.append(code) }
    var bytes: [UInt8] = []
    var (bits, held, width, next) = (0, 0, 9, 258)
    for code in codes {
      bits |= code << held
      held += width
      while held >= 8 {
        bytes.append(UInt8(bits & 255))
        bits >>= 8
        held -= 8
      }
      next += 1
      if next > 1 << width { width += 1 }
    }
    bytes += [UInt8(bits & 255), 0, 0]
    #expect(throws: WireError.self) {
      try bytes.withUnsafeBytes { b in Result { try LZW.decompress(b, limit: limit) } }.get()
    }
  }

  @Test(arguments: GossipGeneration.allCases) func `an update of each generation is read again`(
    generation: GossipGeneration
  ) throws {
    let service = Service(
      name: "hello", version: "1", nodes: [Node(id: "hello-1", address: "10.0.0.1:80", metadata: ["a": "b"])])
    let now: Int64 = 1_800_000_000_000_000_000
    for action in [GossipUpdate.Action.add, .remove] {
      let update = GossipUpdate(action: action, service: service, expires: action == .add ? now + 90_000_000_000 : nil)
      for form in NodeAddressForm.allCases {
        let bytes = update.bytes(generation, now: now, addressForm: form)
        #expect(try GossipUpdate.read(bytes) == [update])
        for cut in 0..<bytes.count { #expect((try? GossipUpdate.read(Array(bytes[..<cut]))) ?? [] == []) }
      }
    }
  }

  @Test func `kinds of updates that Go leaves out are left out, and what is none is refused`() throws {
    #expect(try GossipUpdate.read([0x10, 1, 0x18, 4]) == [])
    #expect(try GossipUpdate.read([0x10, 2, 0x18, 1]) == [])
    for bytes in [[], [0xFF], [0x64], [0x64, 0x7B], [0x10, 1, 0x18, 1], [0x08]] as [[UInt8]] {
      #expect(throws: WireError.self) { try GossipUpdate.read(bytes) }
    }
  }
}

/// Members in virtual time, with a network that loses and cuts.
private final class GossipSwarm {
  var machines: [GossipMachine?] = []
  var heard: [[[UInt8]]] = []
  var now = Instant(nanoseconds: 1_000_000_000)
  var random: SeededRandom
  var loss = 0
  /// Which part of the network each member is in.
  var parts: [Int] = []
  private var flying: [(due: Instant, from: Int, to: SocketAddress, bytes: [UInt8])] = []

  init(_ count: Int, seed: UInt64) {
    random = SeededRandom(seed: seed)
    for index in 0..<count {
      machines.append(nil)
      heard.append([])
      parts.append(0)
      start(index)
    }
  }

  static func address(_ index: Int) -> SocketAddress { .ipv4(address: 0x0A00_0001 + UInt32(index), port: 7946) }
  private func index(_ address: SocketAddress) -> Int? {
    machines.indices.first { Self.address($0) == address && machines[$0] != nil }
  }

  func start(_ index: Int) {
    machines[index] = GossipMachine(
      name: "m\(index)", address: Self.address(index), peers: [Self.address(0), Self.address(1)],
      timing: GossipTiming(),
      random: SeededRandom(seed: random.next()), now: now)
  }

  func kill(_ index: Int) { machines[index] = nil }

  func act(_ index: Int, _ work: (inout GossipMachine) -> [GossipMachine.Action]) {
    guard machines[index] != nil else { return }
    for action in work(&machines[index]!) {
      switch action {
      case .send(let bytes, let address):
        if random.below(100) < loss { continue }
        let due = now.advanced(byNanoseconds: Int64(1_000_000 + random.below(20_000_000)))
        flying.append((due, index, address, bytes))
      case .exchange(let address, _):
        guard let other = self.index(address), parts[other] == parts[index], random.below(100) >= loss else { continue }
        let (mine, theirs) = (machines[index]!.members, machines[other]!.members)
        let time = now
        act(other) { $0.merge(mine, now: time) }
        act(index) { $0.merge(theirs, now: time) }
      case .deliver(let payload): heard[index].append(payload)
      case .joined, .gone: break
      }
    }
  }

  func run(seconds: Int) {
    let end = now.advanced(byNanoseconds: Int64(seconds) * 1_000_000_000)
    while now < end {
      now = now.advanced(byNanoseconds: 20_000_000)
      let due = flying.filter { $0.due <= now }
      flying.removeAll { $0.due <= now }
      for packet in due {
        guard let target = index(packet.to), parts[target] == parts[packet.from] else { continue }
        let time = now
        for message in (try? `Gossip wire`.messages(packet.bytes)) ?? [] {
          act(target) { $0.received(message, from: Self.address(packet.from), now: time) }
        }
      }
      let time = now
      for index in machines.indices { act(index) { $0.nextDue <= time ? $0.advance(to: time) : [] } }
    }
  }

  /// What each living member holds for living.
  var views: [[String]] {
    machines.compactMap { $0 }.map { machine in ([machine.own] + machine.others).map(\.name).sorted() }
  }
  var living: [String] { machines.compactMap { $0?.own.name }.sorted() }
}

@Suite struct `Gossip swarms` {
  @Test(arguments: 1...12) func `all find each other, losses, deaths and restarts notwithstanding`(seed: Int) {
    let swarm = GossipSwarm(4 + seed % 9, seed: UInt64(seed))
    swarm.loss = seed % 3 * 10
    swarm.run(seconds: 20)
    swarm.loss = 0
    swarm.run(seconds: 20)
    #expect(swarm.views.allSatisfy { $0 == swarm.living }, "seed \(seed): \(swarm.views)")
    let victim = 2 + seed % 2
    swarm.kill(victim)
    swarm.run(seconds: 30)
    #expect(swarm.views.allSatisfy { $0 == swarm.living }, "seed \(seed): a dead member lives on: \(swarm.views)")
    swarm.start(victim)
    swarm.run(seconds: 30)
    #expect(swarm.views.allSatisfy { $0 == swarm.living }, "seed \(seed): one that came back is not seen")
  }

  @Test(arguments: 1...8) func `two halves that lost each other meet again`(seed: Int) {
    let swarm = GossipSwarm(8, seed: UInt64(seed))
    swarm.run(seconds: 10)
    for index in 0..<8 { swarm.parts[index] = index % 2 }
    swarm.run(seconds: 60)
    #expect(swarm.views.allSatisfy { $0.count == 4 }, "seed \(seed): \(swarm.views)")
    for index in 0..<8 { swarm.parts[index] = 0 }
    swarm.run(seconds: 120)
    #expect(swarm.views.allSatisfy { $0 == swarm.living }, "seed \(seed): \(swarm.views)")
  }

  @Test(arguments: 1...5) func `a member that others suspect refutes it and is not lost`(seed: Int) {
    let swarm = GossipSwarm(5, seed: UInt64(seed))
    swarm.run(seconds: 10)
    let time = swarm.now
    let suspicion = Memberlist.Message.suspect(incarnation: 1, node: "m3", from: "m4")
    for index in [0, 1, 2] { swarm.act(index) { $0.received(suspicion, from: GossipSwarm.address(4), now: time) } }
    #expect(swarm.machines[0]?.state(of: "m3") == .suspect)
    swarm.run(seconds: 10)
    #expect(swarm.views.allSatisfy { $0 == swarm.living }, "seed \(seed)")
    #expect((swarm.machines[3]?.own.incarnation ?? 0) > 1)
    #expect(swarm.machines[0]?.state(of: "m3") == .alive)
  }

  @Test func `what is told reaches nearly everyone, though a fifth is lost; the next renewal reaches the rest`() {
    var heard = 0
    for seed in 1...10 {
      let swarm = GossipSwarm(6, seed: UInt64(seed))
      swarm.run(seconds: 10)
      swarm.loss = 20
      let time = swarm.now
      swarm.act(2) { $0.tell([1, 2, 3], about: "x", now: time) }
      swarm.run(seconds: 3)
      heard += swarm.heard.count { $0.contains([1, 2, 3]) }
      let renewal = swarm.now
      swarm.act(2) { $0.tell([1, 2, 3], about: "x", now: renewal) }
      swarm.run(seconds: 3)
      #expect(swarm.heard.count { $0.contains([1, 2, 3]) } == 5, "seed \(seed)")
    }
    #expect(heard >= 48, "\(heard) of 50 heard it the first time")
  }

  @Test func `one that leaves is gone at once and is not suspected`() {
    let swarm = GossipSwarm(4, seed: 3)
    swarm.run(seconds: 10)
    let time = swarm.now
    swarm.act(3) { $0.leave() }
    swarm.run(seconds: 1)
    #expect((0..<3).allSatisfy { swarm.machines[$0]?.state(of: "m3") == .left })
    // What is said of it, and late, changes nothing, by itself either.
    swarm.act(3) {
      $0.received(.suspect(incarnation: 1, node: "m3", from: "m0"), from: GossipSwarm.address(0), now: time)
    }
    swarm.run(seconds: 1)
    #expect((0..<3).allSatisfy { swarm.machines[$0]?.state(of: "m3") == .left })
  }

  @Test(arguments: 1...5) func `what one member passes on reaches all, unless it is taken back`(seed: Int) {
    let swarm = GossipSwarm(9, seed: UInt64(seed))
    swarm.run(seconds: 10)
    let time = swarm.now
    swarm.act(4) {
      $0.relay([1, 2, 3], about: "x", now: time)
      $0.relay([4, 5, 6], about: "y", now: time)
      $0.takeBack(about: "y")
      return []
    }
    // Whoever hears it for the first time passes it on, as the registry does.
    var passed: Set<Int> = [4]
    for _ in 0..<20 {
      swarm.run(seconds: 1)
      for index in 0..<9 where swarm.heard[index].contains([1, 2, 3]) && passed.insert(index).inserted {
        let now = swarm.now
        swarm.act(index) {
          $0.relay([1, 2, 3], about: "x", now: now)
          return []
        }
      }
    }
    #expect(passed.count == 9, "seed \(seed): \(passed)")
    #expect(swarm.heard.allSatisfy { !$0.contains([4, 5, 6]) })
  }
}
