// The `hash` selector: calls of one key go to one node, whoever makes them.

import SidecarCore

/// Consistent hashing on a ring of points, up to `pointsPerNode` for a node of mean weight. A key asks the ring at `probesMax`
/// places and takes the point that follows one of them most closely (multi-probe consistent hashing, arXiv 1505.00062),
/// which evens the nodes' shares out as four times the points would.
///
/// The ring holds all candidates. A node that is out or tried is skipped, so that only its own keys move, each to the node
/// that would have it were the other not there; they return with it. A call without a key goes anywhere.
struct HashSelector: Selector {
  static let pointsPerNode = 16
  /// A heavier node has no more points than this, so that it cannot make the ring large.
  static let pointsMax = 4096
  private static let probesMax = 4
  /// Points walked past from one place. A subset that is hardly on the ring is ranked by its own hashes instead.
  private static let stepsMax = 128

  private let ring = HashRing()

  mutating func rebuild(_ candidates: Candidates) { ring.replace(candidates.nodes) }

  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    guard let key = context.key else { return context.drawUntried(&random).map { Int($0) } }
    guard !context.allowed.isEmpty else { return nil }
    ring.prepare()
    var best: UInt32?
    var bestDistance = UInt64.max
    var place = key.hash
    for _ in 0..<Self.probesMax {
      place = MixedHash.mixed(place)
      ring.walk(from: place &>> HashRing.indexBits, steps: Self.stepsMax) { index, distance in
        if distance >= bestDistance { return true }
        guard context.mayPick(Int(index)) else { return false }
        bestDistance = distance
        best = index
        return true
      }
    }
    return (best ?? ranked(context, key.hash)).map { Int($0) }
  }

  /// The highest of the allowed by a hash of node and key (rendezvous hashing).
  private func ranked(_ context: SelectContext, _ key: UInt64) -> UInt32? {
    var best: UInt32?
    var highest: UInt64 = 0
    for index in context.allowed where !context.wasTried(index) {
      let score = MixedHash.mixed(ring.hashes[Int(index)] ^ key)
      if best == nil || score > highest {
        best = index
        highest = score
      }
    }
    return best
  }
}

/// Points in ascending order: 40 bits of place, 24 of a node's index.
private final class HashRing {
  static let indexBits: UInt64 = 24
  private static let placeBits: UInt64 = 40

  /// By node, of its id.
  private(set) var hashes: [UInt64] = []
  private var nodes: [Candidate] = []
  private var points: UnsafeMutablePointer<UInt64>
  private var count = 0
  private var capacity = 0
  private var isReady = false

  init() { points = .allocate(capacity: 0) }

  deinit { points.deallocate() }

  /// The points are made when a call with a key comes: most services have none.
  func replace(_ nodes: [Candidate]) {
    self.nodes = nodes
    isReady = false
  }

  @inline(__always)
  func prepare() {
    if !isReady { build() }
  }

  private func build() {
    isReady = true
    hashes.removeAll(keepingCapacity: true)
    hashes.reserveCapacity(nodes.count)
    for node in nodes { hashes.append(MixedHash.of(node.node.id)) }
    let total = nodes.reduce(0) { $0 + $1.weight }
    // A power of two, so that a node that comes or goes seldom changes the others' points.
    let mean = Self.powerOfTwo(above: Double(total) / Double(max(nodes.count, 1)))
    let numbers = nodes.map { node in
      let number = (Double(HashSelector.pointsPerNode * node.weight) / mean).rounded()
      return node.weight == 0 ? 0 : min(max(Int(number), 1), HashSelector.pointsMax)
    }
    count = numbers.reduce(0, +)
    if capacity < count {
      points.deallocate()
      capacity = count
      points = .allocate(capacity: capacity)
    }
    var unsorted: [UInt64] = []
    unsorted.reserveCapacity(count)
    for (index, number) in numbers.enumerated() {
      var place = hashes[index]
      for _ in 0..<number {
        place = MixedHash.mixed(place)
        unsorted.append((place &>> Self.indexBits) &<< Self.indexBits | UInt64(index))
      }
    }
    sort(unsorted)
    nodes = []
  }

  /// The least that is not below `value`.
  private static func powerOfTwo(above value: Double) -> Double {
    guard value > 0 else { return 1 }
    var power = 1.0
    while power < value { power *= 2 }
    while power / 2 >= value { power /= 2 }
    return power
  }

  /// Places are even, so that a bucket for each of them holds about one.
  private func sort(_ unsorted: [UInt64]) {
    var starts = [Int](repeating: 0, count: count + 1)
    for point in unsorted { starts[position(of: point &>> Self.indexBits) + 1] += 1 }
    for bucket in starts.indices.dropFirst() { starts[bucket] += starts[bucket - 1] }
    for point in unsorted {
      let bucket = position(of: point &>> Self.indexBits)
      points[starts[bucket]] = point
      starts[bucket] += 1
    }
    for end in 1..<max(count, 1) {
      let point = points[end]
      var position = end
      while position > 0, points[position - 1] > point {
        points[position] = points[position - 1]
        position -= 1
      }
      points[position] = point
    }
  }

  /// Where a place is if all are as even as can be.
  @inline(__always)
  private func position(of place: UInt64) -> Int {
    Int(truncatingIfNeeded: place.multipliedFullWidth(by: UInt64(count) &<< 24).high)
  }

  /// Hands the points at and after `place` to `body`, with how far they are away, until it says true.
  @inline(__always)
  func walk(from place: UInt64, steps: Int, _ body: (_ index: UInt32, _ distance: UInt64) -> Bool) {
    guard count > 0 else { return }
    let target = place &<< Self.indexBits
    var position = position(of: place)
    // The guess is off by the root of the points' number at most; strides that double find the side and the range.
    var low: Int
    var high: Int
    if points[position] < target {
      low = position
      var stride = 8
      high = low &+ stride
      while high < count, points[high] < target {
        low = high
        stride &*= 2
        high = low &+ stride
      }
      high = min(high, count)
    } else {
      high = position
      var stride = 8
      low = high &- stride
      while low >= 0, points[low] >= target {
        high = low
        stride &*= 2
        low = high &- stride
      }
      low = max(low, -1)
    }
    // points[low] < target ≤ points[high]
    while high &- low > 1 {
      let middle = (low &+ high) &>> 1
      if points[middle] < target { low = middle } else { high = middle }
    }
    position = high == count ? 0 : high
    for _ in 0..<min(steps, count) {
      let point = points[position]
      let distance = ((point &>> Self.indexBits) &- place) & ((1 &<< Self.placeBits) &- 1)
      if body(UInt32(truncatingIfNeeded: point & ((1 &<< Self.indexBits) &- 1)), distance) { return }
      position = position &+ 1 == count ? 0 : position &+ 1
    }
  }
}
