// What is special about each selector, beyond what all must do.

import SidecarConformance
import SidecarCore
import SidecarSim
import Testing

@testable import SidecarBuiltins

/// A selector with nodes, time and randomness.
private final class Rig {
  var selector: any Selector
  let field = SelectorField()
  var random = SeededRandom(seed: 7)
  var now = Instant(nanoseconds: 1_000_000_000)

  init(_ selector: any Selector, _ count: Int, weights: [Int] = []) {
    self.selector = selector
    field.rebuild(count, weights: weights)
    self.selector.rebuild(Candidates(revision: field.revision, nodes: field.candidates))
  }

  func pick(tried: [UInt32] = [], key: SelectKey? = nil) -> Int? {
    field.key = key
    return field.withContext(tried: tried) { selector.pick($0, random: &random, now: now) }
  }

  func mark(_ index: Int, _ outcome: CallOutcome) {
    selector.mark(index, revision: field.revision, outcome: outcome, now: now)
  }

  func counts(_ picks: Int, key: SelectKey? = nil) -> [Int] {
    var counts = Array(repeating: 0, count: field.count)
    for _ in 0..<picks { counts[pick(key: key) ?? 0] += 1 }
    return counts
  }

  func know(_ index: Int, latency: Int64, inFlight: Int32 = 0) {
    field.setLoad(index) {
      $0.latency = Float(latency)
      $0.observedAt = now
      $0.inFlight = inFlight
    }
  }
}

@Suite("Selectors") struct SelectorTests {
  @Test func `ewma keeps away from a node that is much slower, and not from one a little slower`() {
    let rig = Rig(EWMASelector(), 5)
    for index in 0..<5 { rig.know(index, latency: index == 2 ? 200_000_000 : 1_000_000) }
    #expect(rig.counts(2000)[2] == 0)
    rig.know(2, latency: 1_200_000)
    #expect((300...500).contains(rig.counts(2000)[2]))
    for index in 0..<5 { rig.know(index, latency: index == 2 ? 13_000_000 : 10_000_000) }
    #expect(rig.counts(2000)[2] < 10, "three tenths slower is slower")
  }

  @Test func `ewma tries a node again whose bad latency is old`() {
    let rig = Rig(EWMASelector(), 5)
    for index in 0..<5 { rig.know(index, latency: index == 2 ? 200_000_000 : 1_000_000) }
    rig.now = rig.now.advanced(byNanoseconds: 60_000_000_000)
    for index in 0..<5 where index != 2 { rig.know(index, latency: 1_000_000) }
    #expect(rig.counts(2000)[2] > 300)
  }

  @Test func `ewma sends a quick node more calls until its queue outweighs its quickness`() {
    let rig = Rig(EWMASelector(), 2)
    rig.know(0, latency: 1_000_000, inFlight: 3)
    rig.know(1, latency: 10_000_000)
    #expect(rig.counts(100) == [100, 0])
    rig.know(0, latency: 1_000_000, inFlight: 30)
    #expect(rig.counts(100) == [0, 100])
  }

  @Test func `ewma neither floods a node nobody knows nor starves it`() {
    let rig = Rig(EWMASelector(), 10)
    for index in 1..<10 { rig.know(index, latency: 1_000_000, inFlight: 20) }
    // The new one answers nothing: calls pile up there, but not more than elsewhere.
    var others = 0
    for _ in 0..<2000 {
      guard let index = rig.pick() else { continue }
      if index == 0 { rig.field.setLoad(0) { $0.inFlight += 1 } } else { others += 1 }
    }
    let pending = rig.field.load(0).inFlight
    #expect((5...11).contains(pending), "\(pending) calls wait at the new node")
    #expect(others > 1900)
  }

  @Test func `ewma without any latencies goes by calls under way`() {
    let rig = Rig(EWMASelector(), 3)
    for index in 0..<3 { rig.field.setLoad(index) { $0.inFlight = index == 1 ? 1 : 8 } }
    #expect(rig.counts(100) == [0, 100, 0])
  }

  @Test func `leastrequest goes by calls under way for a node's weight`() {
    let rig = Rig(LeastRequestSelector(), 2, weights: [4, 1])
    rig.field.setLoad(0) { $0.inFlight = 6 }
    rig.field.setLoad(1) { $0.inFlight = 2 }
    // 7 for a weight of 4 is less than 3 for one of 1.
    #expect(rig.counts(100) == [100, 0])
    rig.field.setLoad(0) { $0.inFlight = 12 }
    #expect(rig.counts(100) == [0, 100])
  }

  @Test func `leastrequest of many keeps calls even`() {
    let rig = Rig(LeastRequestSelector(), 100)
    for _ in 0..<10_000 {
      guard let index = rig.pick() else { continue }
      rig.field.setLoad(index) { $0.inFlight += 1 }
    }
    let loads = (0..<100).map { rig.field.load($0).inFlight }
    #expect((loads.max() ?? 0) <= 104 && (loads.min() ?? 0) >= 94, "\(loads)")
  }

  @Test func `roundrobin goes on where it was when others leave or return`() {
    let rig = Rig(RoundRobinSelector(), 6)
    let first = rig.pick() ?? 0
    #expect(rig.pick() == (first + 1) % 6)
    rig.field.allow { $0 != (first + 2) % 6 }
    #expect(rig.pick() == (first + 3) % 6)
    rig.field.allow { _ in true }
    #expect(rig.pick() == (first + 4) % 6)
    #expect(rig.pick(tried: [UInt32((first + 5) % 6)]) == first)
  }

  @Test func `weightedroundrobin spreads a node's turns evenly`() {
    let rig = Rig(WeightedRoundRobinSelector(), 4, weights: [5, 3, 1, 1])
    var last = [0, 0, 0, 0]
    var gaps: [Set<Int>] = [[], [], [], []]
    for turn in 1...10_000 {
      guard let index = rig.pick() else { continue }
      if last[index] > 0 { gaps[index].insert(turn - last[index]) }
      last[index] = turn
    }
    // Of ten turns the first has five: every second one, give or take one.
    #expect(gaps[0].isSubset(of: 1...3), "\(gaps[0])")
    #expect(gaps[1].isSubset(of: 2...5), "\(gaps[1])")
    #expect(gaps[2].isSubset(of: 7...13), "\(gaps[2])")
  }

  @Test func `weightedroundrobin gives a node its turn after it was tried`() {
    let rig = Rig(WeightedRoundRobinSelector(), 3)
    var counts = [0, 0, 0]
    for turn in 0..<300 { counts[rig.pick(tried: turn % 2 == 0 ? [1] : []) ?? 0] += 1 }
    // It is there for every second call only, and others had to take some of its turns.
    #expect(counts[1] >= 70 && counts[0] >= 75 && counts[2] >= 75, "\(counts)")
  }

  @Test func `weightedroundrobin goes on when its time has grown large`() {
    let rig = Rig(WeightedRoundRobinSelector(), 2, weights: [65_535, 1])
    rig.field.setLoad(1) { $0.weight = 0.1 }
    rig.field.allow { _ in true }
    let counts = rig.counts(2_000_000)
    #expect(counts[1] <= 5 && counts[0] > 1_999_990)
  }

  @Test func `hash without a key goes anywhere`() {
    let rig = Rig(HashSelector(), 4)
    #expect(rig.counts(400).allSatisfy { $0 > 50 })
  }

  @Test func `hash of ten nodes keeps shares within a third`() {
    let rig = Rig(HashSelector(), 10)
    var counts = Array(repeating: 0, count: 10)
    for key in 0..<20_000 { counts[rig.pick(key: SelectKey(MixedHash.mixed(UInt64(key)))) ?? 0] += 1 }
    #expect((counts.max() ?? 0) < 2700 && (counts.min() ?? 0) > 1300, "\(counts)")
  }

  @Test func `hash moves about one key in n when a node joins, all of them to it`() {
    let field = SelectorField()
    var selector = HashSelector()
    var random = SeededRandom(seed: 1)
    func nodes(_ count: Int) -> [Int] {
      field.rebuild(count)
      selector.rebuild(Candidates(revision: field.revision, nodes: field.candidates))
      return (0..<4000).map { key in
        field.key = SelectKey(MixedHash.mixed(UInt64(key)))
        return field.withContext { selector.pick($0, random: &random, now: Instant(nanoseconds: 0)) } ?? -1
      }
    }
    let before = nodes(40)
    let after = nodes(41)
    let moved = zip(before, after).filter { $0.0 != $0.1 }
    #expect(moved.allSatisfy { $0.1 == 40 })
    #expect((50...180).contains(moved.count), "\(moved.count) of 4,000 keys moved, about 98 ought to")
  }

  @Test func `hash finds the nodes of a subset that is hardly on the ring`() {
    let rig = Rig(HashSelector(), 10_000)
    rig.field.allow { $0 == 17 || $0 == 9_000 }
    var seen: Set<Int> = []
    for key in 0..<200 { if let index = rig.pick(key: SelectKey(MixedHash.mixed(UInt64(key)))) { seen.insert(index) } }
    #expect(seen == [17, 9_000])
  }

  @Test func `shard ranks nodes by HighwayHash of their ids under the key`() {
    let rig = Rig(ShardSelector(), 20)
    for text in ["user-1", "user-2", "", "a much longer key than thirty-two bytes are"] {
      let key = Array(text.utf8).withUnsafeBytes { SelectKeyHash.highway.key($0) }
      let lanes = HighwayHash.Lanes(key.hash, key.rest.0, key.rest.1, key.rest.2)
      let ranked = (0..<20).sorted { a, b in
        let hashes = [a, b].map { index in
          Array("node-\(index)".utf8).withUnsafeBytes { HighwayHash.hash64($0, key: lanes) }
        }
        return hashes[0] > hashes[1]
      }
      var tried: [UInt32] = []
      for expected in ranked {
        #expect(rig.pick(tried: tried, key: key) == expected)
        tried.append(UInt32(expected))
      }
      #expect(rig.pick(tried: tried, key: key) == nil)
      #expect(rig.pick(key: key) == ranked[0])
    }
  }

  @Test func `crc32 takes the key modulo the number of nodes`() {
    let rig = Rig(CRC32Selector(), 7)
    // The check value of CRC-32/ISO-HDLC.
    let key = Array("123456789".utf8).withUnsafeBytes { SelectKeyHash.crc32.key($0) }
    #expect(key.hash == 0xCBF4_3926)
    let index = Int(key.hash % 7)
    #expect(rig.pick(key: key) == index)
    #expect(rig.pick(tried: [UInt32(index)], key: key) == (index + 1) % 7)
  }

  @Test func `blacklist puts a node out for 30 s after its third error`() {
    let rig = Rig(BlacklistSelector(), 3)
    for outcome in [CallOutcome.failure(latency: 1), .broken] { rig.mark(1, outcome) }
    #expect(rig.counts(300)[1] > 0)
    rig.mark(1, .timedOut)
    #expect(rig.counts(300)[1] == 0)
    rig.now = rig.now.advanced(byNanoseconds: 29_999_999_999)
    #expect(rig.counts(300)[1] == 0)
    rig.now = rig.now.advanced(byNanoseconds: 1)
    #expect(rig.counts(300)[1] > 0)
    // It begins anew: one more error is the first of three.
    rig.mark(1, .connectFailed)
    #expect(rig.counts(300)[1] > 0)
  }

  @Test func `blacklist forgets errors at a success, remembers nodes by id, and finds none when all are out`() {
    let rig = Rig(BlacklistSelector(), 3)
    for _ in 0..<2 { rig.mark(0, .broken) }
    rig.mark(0, .success(latency: 1))
    rig.mark(0, .broken)
    #expect(rig.counts(300)[0] > 0)
    for _ in 0..<3 { rig.mark(2, .broken) }
    rig.field.rebuild(ids: ["node-2", "node-0"])
    rig.selector.rebuild(Candidates(revision: rig.field.revision, nodes: rig.field.candidates))
    #expect(rig.counts(300) == [0, 300])
    for _ in 0..<3 { rig.mark(1, .broken) }
    #expect(rig.pick() == nil)
    rig.selector.reset()
    #expect(rig.pick() != nil)
  }

  @Test func `label prefers the nodes of an earlier label and shares calls among them`() throws {
    let labels = try LabelSelector.labels(argument: "region=eu,tier=gold")
    var selector = LabelSelector(labels)
    let metadata: [[String: String]] = [
      ["tier": "gold"], ["region": "eu"], [:], ["region": "eu", "tier": "gold"], ["region": "us"],
    ]
    let candidates = metadata.enumerated().map {
      Candidate(node: Node(id: "\($0.offset)", address: "10.0.0.1:80", metadata: $0.element), version: "1")
    }
    let field = SelectorField()
    field.rebuild(5)
    selector.rebuild(Candidates(revision: 1, nodes: candidates))
    var random = SeededRandom(seed: 3)
    func pick(_ tried: [UInt32]) -> Int? {
      field.withContext(tried: tried) { selector.pick($0, random: &random, now: Instant(nanoseconds: 0)) }
    }
    #expect(Set((0..<100).map { _ in pick([]) }) == [1, 3])
    #expect(Set((0..<100).map { _ in pick([1, 3]) }) == [0])
    #expect(Set((0..<100).map { _ in pick([0, 1, 3]) }) == [2, 4])
    #expect(pick([0, 1, 2, 3, 4]) == nil)
    for wrong in [nil, "", "eu", "=eu", "a=1,,b=2"] {
      #expect(throws: ConfigurationError.self) { try LabelSelector.labels(argument: wrong) }
    }
  }

  @Test(arguments: ["leastrequest", "ewma", "label:tier=gold"])
  func `of three or four nodes that are equally good each is as likely as its weight`(_ name: String) throws {
    for count in [3, 4] {
      let rig = Rig(try builtinPlugins().selector(name).make(), count, weights: [1, 1, 1, 2])
      // The first is busier than all others, the rest are equal for their weights.
      for index in 0..<count { rig.know(index, latency: 5_000_000, inFlight: index == 0 ? 40 : index == 3 ? 9 : 4) }
      let counts = rig.counts(6000)
      #expect(counts[0] == 0)
      let whole = count == 3 ? 2.0 : 4.0
      for index in 1..<count {
        let share = Double(counts[index]) / 6000 * whole / (index == 3 ? 2 : 1)
        #expect((0.9...1.1).contains(share), "\(count) nodes: \(counts)")
      }
    }
  }

  @Test(arguments: ["leastrequest", "ewma"])
  func `a node whose app is busy with others' calls gets fewer, until nothing has been heard of it for long`(
    _ name: String
  ) throws {
    let rig = Rig(try builtinPlugins().selector(name).make(), 5)
    for index in 0..<5 { rig.know(index, latency: 5_000_000, inFlight: 3) }
    rig.field.setLoad(2) { $0.reported = 0.5 }
    #expect((300...500).contains(rig.counts(2000)[2]), "half full is room enough")
    rig.field.setLoad(2) { $0.reported = 1 }
    // It is the only one drawn now and then.
    #expect(rig.counts(2000)[2] < 10)
    rig.field.setLoad(2) { $0.inFlight = 0 }
    #expect(rig.counts(2000)[2] > 300, "at three times our own calls it is still the least busy")
    rig.field.setLoad(2) {
      $0.inFlight = 3
      $0.reported = .infinity
    }
    #expect(rig.counts(2000)[2] < 10)
    rig.now = rig.now.advanced(byNanoseconds: 6_000_000_000)
    #expect((300...500).contains(rig.counts(2000)[2]), "what was said is old")
  }

  @Test func `with nothing under way anywhere a node that says it is full is passed over`() throws {
    let rig = Rig(LeastRequestSelector(), 3)
    for index in 0..<3 { rig.know(index, latency: 0) }
    rig.field.setLoad(1) { $0.reported = 1 }
    #expect(rig.counts(600)[1] == 0)
  }

  /// What goes through all nodes would take a thousand times as long.
  @Test func `a pick among ten thousand nodes takes little longer than one among ten`() {
    func time(_ make: () -> any Selector, _ count: Int) -> Double {
      let rig = Rig(make(), count, weights: (0..<count).map { 1 + $0 % 10 })
      let keys = (0..<16).map { SelectKey(MixedHash.mixed(UInt64($0))) }
      for key in keys { _ = rig.pick(key: key) }
      var best = Double.infinity
      for _ in 0..<20 {
        let start = ContinuousClock.now
        for turn in 0..<200 { _ = rig.pick(key: keys[turn % 16]) }
        best = min(best, (ContinuousClock.now - start) / .nanoseconds(1))
      }
      return best
    }
    for (name, subject) in SelectorConformanceTests.subjects {
      let ratio = time(subject.make, 10_000) / time(subject.make, 10)
      #expect(ratio < 30, "\(name): \(ratio) times as long")
    }
  }

  @Test func `names of nodes follow from names of services`() throws {
    let world = SimWorld(seed: 1)
    defer { world.tearDown() }
    let driver = world.makeHost("a").makeLoop()
    func address(_ argument: String?, _ service: String) throws -> String {
      NamedNodes("static", try NamedNodes.rule(argument: argument), driver: driver).address(of: service)
    }
    #expect(try address(nil, "go.micro.srv.a") == "go.micro.srv.a:8080")
    #expect(try address("domain=shop.local", "greeter") == "greeter.shop.local:8080")
    #expect(try address("domain=.shop.local,port=9090", "greeter") == "greeter.shop.local:9090")
    #expect(try address("port=9090", "10.0.0.1:80") == "10.0.0.1:80")
    #expect(NamedNodes("named", .name, driver: driver).address(of: "go.micro.srv.a") == "go.micro.srv.a")
    for wrong in ["port=0", "port=x", "domain", "a=b"] {
      #expect(throws: ConfigurationError.self) { try NamedNodes.rule(argument: wrong) }
    }
  }

  @Test func `selectors are known by name, with arguments that fit`() throws {
    let plugins = try builtinPlugins()
    for name in ["default", "cache", "registry", "ewma"] {
      #expect(try plugins.selector(name).make() is EWMASelector)
    }
    #expect(try plugins.selector("cacheblack").make() is BlacklistSelector)
    #expect(try plugins.selector("weightedrandom").make() is RandomSelector)
    #expect(try plugins.selector("static:port=1").make() is EWMASelector)
    let hash = try plugins.selector("hash:header=X-User")
    #expect(hash.affinity == .header("x-user") && hash.keyHash == .mixed)
    #expect(try plugins.selector("shard:cookie=sid").affinity == .cookie("sid"))
    #expect(try plugins.selector("crc32").affinity == nil)
    for wrong in ["ewma:x", "hash:user", "hash:header=", "hash:header=a b", "label", "label:x", "mercurial"] {
      #expect(throws: ConfigurationError.self, "\(wrong)") { try plugins.selector(wrong) }
    }
    #expect(plugins.selectorNames.count == 19)
  }
}
