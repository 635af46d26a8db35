@testable import SidecarCore
import Testing

@Suite struct NodeSetTests {
  @Test func `a node with five failures in a row gets no calls, then one at a time, then its share`() {
    let rig = SelectRig(4)
    rig.fail(2)
    #expect(rig.set.ejectedCount == 1)
    #expect(rig.counts(400)[2] == 0)
    rig.pass(10)
    // Its probe goes to a call that may be repeated.
    #expect(rig.counts(100)[2] == 0)
    #expect(rig.pick(isRepeatable: true) == 2)
    rig.set.began(2)
    #expect(rig.pick(isRepeatable: true) != 2)
    rig.set.ended(2, .success(latency: 1_000_000), elapsed: 1, now: rig.now)
    #expect(rig.set.ejectedCount == 0)
    #expect(rig.counts(400)[2] > 50)
  }

  @Test func `a half-open node takes any call after a second without one that may be repeated`() {
    let rig = SelectRig(4)
    rig.fail(2)
    rig.pass(10)
    #expect(rig.counts(50)[2] == 0)
    rig.pass(1.1)
    #expect(rig.pick() == 2)
    // Not one that has failed elsewhere already.
    #expect(rig.pick(tried: [0]) != 2)
  }

  @Test func `a refused dial takes a node out at once and any call finds out whether it is back`() {
    let rig = SelectRig(4)
    rig.call(1, .connectFailed, elapsed: 100_000)
    #expect(rig.counts(200)[1] == 0)
    rig.pass(1)
    #expect(rig.pick() == 1)
  }

  @Test func `failures take out half of the nodes at most, refusals all but the last resort`() {
    let rig = SelectRig(6)
    for index in 0..<6 { rig.fail(index) }
    #expect(rig.set.ejectedCount == 3)
    #expect(rig.counts(300).count { $0 > 0 } >= 3)
    let refused = SelectRig(6)
    for index in 0..<6 { refused.call(index, .connectFailed, elapsed: 0) }
    // There is always a node to try.
    #expect(refused.pick() != nil)
  }

  @Test func `the only node stays in use though it fails`() {
    let rig = SelectRig(1)
    rig.fail(0, times: 50)
    #expect(rig.pick() == 0)
  }

  @Test(arguments: 0..<40)
  func `whatever happens there is a node, as long as there is one that is not full`(_ seed: Int) {
    var policy = ServicePolicy()
    policy.ejection.successRateMin = 0.8
    policy.ejection.latencyFactor = 3
    policy.slowStart = 2_000_000_000
    let count = 1 + seed % 7
    let rig = SelectRig(count, seed: UInt64(seed), policy: policy)
    var script = SeededRandom(seed: UInt64(seed) &+ 1000)
    var underway: [Int] = []
    for _ in 0..<3000 {
      rig.now = rig.now.advanced(byNanoseconds: Int64(script.below(300_000_000)))
      guard let index = rig.pick(isRepeatable: script.below(2) == 0) else {
        Issue.record("no node was picked of \(count)")
        return
      }
      rig.set.began(index)
      underway.append(index)
      while underway.count > 8 || (!underway.isEmpty && script.below(2) == 0) {
        let ended = underway.remove(at: script.below(underway.count))
        let outcomes: [CallOutcome] = [
          .success(latency: Int64(script.below(50_000_000))), .failure(latency: 1_000_000), .connectFailed, .broken,
          .timedOut, .cancelled,
        ]
        rig.set.ended(ended, outcomes[script.below(6)], elapsed: Int64(script.below(1_000_000_000)), now: rig.now)
      }
      let out = (0..<count).count {
        rig.set.healthOf($0).standing != .well && rig.set.healthOf($0).cause != .refused
      }
      #expect(rig.set.ejectedCount == out)
    }
    for index in underway { rig.set.ended(index, .cancelled, elapsed: 0, now: rig.now) }
    for index in 0..<count { #expect(rig.set.loadOf(index).inFlight == 0) }
  }

  @Test func `a node's limit holds even when no other is left`() {
    var policy = ServicePolicy()
    policy.limits.inFlightPerNode = 2
    let rig = SelectRig(2, policy: policy)
    for _ in 0..<4 {
      let index = rig.pick()
      #expect(index != nil)
      if let index { rig.set.began(index) }
    }
    #expect(rig.pick() == nil)
    rig.set.ended(1, .success(latency: 1), elapsed: 1, now: rig.now)
    #expect(rig.pick() == 1)
  }

  @Test func `nodes that fill and empty change no list, and every place is used`() {
    var policy = ServicePolicy()
    policy.limits.inFlightPerNode = 2
    let rig = SelectRig(500, policy: policy)
    _ = rig.pick()
    let version = rig.set.version
    for _ in 0..<1000 {
      guard let index = rig.pick() else { return #expect(Bool(false), "a place is free") }
      #expect(rig.set.loadOf(index).inFlight < 2)
      rig.set.began(index)
    }
    #expect(rig.pick() == nil && rig.set.areAllFull)
    for index in [77, 300] { rig.set.ended(index, .success(latency: 1), elapsed: 1, now: rig.now) }
    #expect(Set((0..<50).compactMap { _ in rig.pick() }) == [77, 300])
    #expect(rig.pick(tried: [77]) == 300 && rig.pick(tried: [77, 300]) == nil)
    #expect(rig.set.version == version)
  }

  @Test func `a limit that is raised or taken away frees places`() {
    var policy = ServicePolicy()
    policy.limits.inFlightPerNode = 1
    let rig = SelectRig(2, policy: policy)
    for index in 0..<2 { rig.set.began(index) }
    #expect(rig.pick() == nil)
    policy.limits.inFlightPerNode = 2
    rig.set.replacePolicy(policy, candidates: rig.candidates, now: rig.now)
    #expect(rig.pick() != nil)
    for index in 0..<2 { rig.set.began(index) }
    #expect(rig.pick() == nil)
    policy.limits.inFlightPerNode = 0
    rig.set.replacePolicy(policy, candidates: rig.candidates, now: rig.now)
    #expect(rig.pick() != nil)
  }

  @Test func `when our zone's nodes are full others are used`() {
    var policy = ServicePolicy()
    policy.limits.inFlightPerNode = 1
    let rig = SelectRig([["zone": "a"], ["zone": "a"], ["zone": "b"]], zone: "a", policy: policy)
    for _ in 0..<2 {
      let index = rig.pick() ?? -1
      #expect(index < 2 && index >= 0, "ours first")
      if index >= 0 { rig.set.began(index) }
    }
    #expect(rig.pick() == 2)
  }

  @Test func `the first replies of streams count only where no calls tell`() {
    let rig = SelectRig(2)
    rig.set.observeStream(0, 300_000_000, now: rig.now)
    #expect(rig.set.loadOf(0).latency == 300_000_000)
    rig.set.observeStream(1, NodeSet.streamReplyMax, now: rig.now)
    #expect(rig.set.loadOf(1).latency == 0, "that long it waits for something to say")
    rig.call(1, .success(latency: 2_000_000))
    rig.set.observeStream(1, 400_000_000, now: rig.now)
    #expect(rig.set.loadOf(1).latency == 2_000_000)
    rig.pass(11)
    rig.set.observeStream(1, 400_000_000, now: rig.now)
    #expect(rig.set.loadOf(1).latency == 400_000_000, "calls have not told for long")
  }

  @Test func `a weight of zero means no calls, even where nothing else is well`() {
    let rig = SelectRig([["weight": "0"], [:], [:]])
    #expect(rig.counts(300)[0] == 0)
    rig.call(1, .connectFailed, elapsed: 0)
    rig.call(2, .connectFailed, elapsed: 0)
    #expect(rig.counts(100)[0] == 0)
    let none = SelectRig([["weight": "0"], ["weight": "0"]])
    #expect(none.pick() == nil)
  }

  @Test func `shares are as the registry's weights`() {
    let rig = SelectRig([["weight": "1"], ["weight": "3"], ["weight": "6"]])
    let counts = rig.counts(10_000)
    #expect((900...1100).contains(counts[0]) && (2850...3150).contains(counts[1]), "\(counts)")
  }

  @Test func `a new node's share grows from a tenth while slow start lasts; the first nodes have theirs at once`() {
    var policy = ServicePolicy()
    policy.slowStart = 10_000_000_000
    let rig = SelectRig(2, policy: policy)
    #expect(rig.set.loadOf(0).weight == 1)
    rig.rebuild([("n0", [:]), ("n1", [:]), ("n2", [:])])
    _ = rig.pick()
    #expect(rig.set.loadOf(2).weight == 0.1)
    rig.pass(5)
    _ = rig.pick()
    #expect(abs(rig.set.loadOf(2).weight - 0.5) < 0.01)
    #expect((1500...2500).contains(rig.counts(10_000)[2]))
    rig.pass(5)
    _ = rig.pick()
    #expect(rig.set.loadOf(2).weight == 1)
  }

  @Test func `a policy that changes keeps what is known of the nodes`() {
    let rig = SelectRig(4)
    rig.fail(0)
    rig.set.began(1)
    var policy = ServicePolicy()
    policy.limits.inFlightPerNode = 1
    rig.set.replacePolicy(policy, candidates: rig.candidates, now: rig.now)
    let counts = rig.counts(300)
    #expect(counts[0] == 0 && counts[1] == 0 && counts[2] > 0)
  }

  @Test func `a node that stays keeps its load and health wherever it moves`() {
    let rig = SelectRig(4)
    rig.fail(3)
    rig.set.began(2)
    rig.rebuild([("n3", [:]), ("x", [:]), ("n2", [:])])
    #expect(rig.set.healthOf(0).standing == .out && rig.set.loadOf(2).inFlight == 1)
    #expect(rig.set.healthOf(1).standing == .well)
    #expect(rig.set.ejectedCount == 1)
    rig.rebuild([("x", [:])])
    #expect(rig.set.ejectedCount == 0)
  }

  @Test func `a node much slower than the median is taken out, if the policy has it`() {
    var policy = ServicePolicy()
    policy.ejection.latencyFactor = 5
    let rig = SelectRig(5, policy: policy)
    for _ in 0..<40 {
      for index in 0..<5 where rig.set.healthOf(index).standing == .well {
        rig.call(index, .success(latency: index == 4 ? 80_000_000 : 4_000_000))
      }
      rig.pass(0.1)
    }
    #expect(rig.set.healthOf(4).standing == .out && rig.set.healthOf(4).cause == .latency)
    #expect((0..<4).allSatisfy { rig.set.healthOf($0).standing == .well })
  }

  @Test func `what an active check says counts like an ejection`() {
    let rig = SelectRig(3)
    rig.set.setUnhealthy(1, true)
    #expect(rig.counts(300)[1] == 0)
    rig.set.setUnhealthy(1, false)
    #expect(rig.counts(300)[1] > 0)
    for index in 0..<3 { rig.set.setUnhealthy(index, true) }
    #expect(rig.pick() != nil)
  }

  @Test func `what was learned can be forgotten`() {
    let rig = SelectRig(3)
    rig.fail(0)
    rig.set.resetLearned()
    #expect(rig.set.ejectedCount == 0 && rig.counts(300)[0] > 0)
  }
}

@Suite struct NodeSubsetTests {
  private static func zones(_ near: Int, _ far: Int) -> [[String: String]] {
    Array(repeating: ["zone": "a"], count: near) + Array(repeating: ["zone": "b"], count: far)
  }

  @Test func `calls stay in their zone while enough of its nodes are well`() {
    let rig = SelectRig(Self.zones(4, 4), zone: "a")
    #expect(rig.counts(1000)[4...].allSatisfy { $0 == 0 })
    // Three of four are above 1/1.4.
    rig.fail(0)
    #expect(rig.counts(1000)[4...].allSatisfy { $0 == 0 })
  }

  @Test func `calls spill over by as much as the zone lacks`() {
    let rig = SelectRig(Self.zones(4, 4), zone: "a")
    rig.call(0, .connectFailed, elapsed: 0)
    rig.call(1, .connectFailed, elapsed: 0)
    // Two of four times 1.4: 70 % stay.
    let near = rig.counts(10_000)[..<4].reduce(0, +)
    #expect((6800...7200).contains(near), "\(near)")
  }

  @Test func `without a zone of ours, and where zones do not count, all are alike`() {
    #expect(SelectRig(Self.zones(4, 4)).counts(1000)[4...].reduce(0, +) > 350)
    var policy = ServicePolicy()
    policy.zoneFirst = false
    #expect(SelectRig(Self.zones(4, 4), zone: "a", policy: policy).counts(1000)[4...].reduce(0, +) > 350)
    #expect(SelectRig(Self.zones(0, 4), zone: "a").counts(1000).allSatisfy { $0 > 150 })
  }

  @Test func `a higher priority comes before nearness`() {
    let rig = SelectRig(
      [["zone": "a", "priority": "1"], ["zone": "b", "priority": "0"], ["zone": "a", "priority": "0"]], zone: "a")
    #expect(rig.counts(100) == [0, 0, 100])
    rig.call(2, .connectFailed, elapsed: 0)
    #expect(rig.counts(100) == [0, 100, 0])
    rig.call(1, .connectFailed, elapsed: 0)
    #expect(rig.counts(100) == [100, 0, 0])
  }

  @Test func `when the first zone's nodes were all tried, another's are picked`() {
    let rig = SelectRig(Self.zones(2, 2), zone: "a")
    #expect(Set((0..<50).map { _ in rig.pick(tried: [0, 1]) }) == [2, 3])
  }

  @Test func `below the panic threshold ejected nodes are used, those that refused dials last`() {
    var policy = ServicePolicy()
    policy.ejection.shareMax = 1
    let rig = SelectRig(4, policy: policy)
    for index in 0..<2 { rig.fail(index) }
    #expect(rig.counts(100)[0] == 0, "two of four are no panic")
    rig.fail(2)
    #expect(rig.counts(1000).allSatisfy { $0 > 150 })
    rig.call(2, .connectFailed, elapsed: 0)
    #expect(rig.counts(1000)[2] == 0)
    for index in [0, 1, 3] { rig.call(index, .connectFailed, elapsed: 0) }
    #expect(rig.counts(1000).allSatisfy { $0 > 150 })
  }

  @Test func `filters narrow to versions, labels and endpoints`() {
    let rig = SelectRig([
      ["version": "v1", "region": "eu", "endpoints": "Say.Hello"], ["version": "v2", "region": "eu"],
      ["version": "v2", "region": "us", "endpoints": "Say.Bye"],
    ])
    func seen(_ filter: NodeFilter) -> Set<Int> { Set((0..<100).compactMap { _ in rig.pick(filter) }) }
    #expect(seen(NodeFilter(version: "v2")) == [1, 2])
    #expect(seen(NodeFilter(labels: [.init("region", "eu")])) == [0, 1])
    #expect(seen(NodeFilter(version: "v2", labels: [.init("region", "eu")])) == [1])
    // A version that lists no endpoints may have any.
    #expect(seen(NodeFilter(endpoint: "Say.Hello")) == [0, 1])
    #expect(seen(NodeFilter(version: "v3")) == [])
    var contradictory = NodeFilter(version: "v1")
    contradictory.narrow(by: NodeFilter(version: "v2"))
    #expect(seen(contradictory) == [])
    #expect(seen(NodeFilter()) == [0, 1, 2])
  }

  @Test func `no more than 32 subsets are kept, and those that go are made again`() {
    let rig = SelectRig((0..<40).map { ["version": "v\($0)"] })
    for round in 0..<3 {
      for version in 0..<40 {
        rig.pass(0.001)
        #expect(rig.pick(NodeFilter(version: "v\(version)")) == version, "round \(round)")
      }
    }
    let ids = Set((0..<200).map { rig.set.subset(NodeFilter(version: "v\($0)"), rig.now).id })
    #expect(ids.allSatisfy { $0 > 0 && $0 < NodeSet.subsetsMax })
  }

  @Test func `a subset follows nodes that come and go`() {
    let rig = SelectRig([["version": "v1"], ["version": "v2"]])
    let filter = NodeFilter(version: "v2")
    #expect(rig.pick(filter) == 1)
    rig.rebuild([("n1", ["version": "v2"]), ("x", ["version": "v1"]), ("y", ["version": "v2"])])
    #expect(Set((0..<50).compactMap { _ in rig.pick(filter) }) == [0, 2])
    rig.rebuild([("x", ["version": "v1"])])
    #expect(rig.pick(filter) == nil)
  }
}
