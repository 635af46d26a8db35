// The `weightedroundrobin` selector.

import SidecarCore

/// Nodes take turns as often as their weights have it, each at even distances. Nodes of one weight are a group, within which
/// they simply follow one another; groups have their turns by earliest deadline first: a group's next turn comes the
/// reciprocal of its whole weight after its last one. So a pick costs the logarithm of the number of different weights.
struct WeightedRoundRobinSelector: Selector {
  private let turns = ListMemory<TurnQueue>()

  mutating func rebuild(_ candidates: Candidates) { turns.removeAll() }

  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    guard !context.allowed.isEmpty else { return nil }
    let queue = turns.find(context) { queue in
      queue.build(context, &random)
    } make: {
      TurnQueue()
    }
    return queue.next(context).map { Int($0) }
  }

  mutating func reset() { turns.removeAll() }
}

/// Whose turn is next among the allowed of one generation.
private final class TurnQueue {
  private struct Group {
    /// Its members, and the one whose turn is next.
    var start: Int
    var end: Int
    var next: Int
    /// Time between two of its turns.
    var distance: UInt64
  }

  private var members: [UInt32] = []
  private var groups: [Group] = []
  /// A heap of groups, the earliest turn first. Time in the upper bits, the group in the lower.
  private var heap: [UInt64] = []
  /// Turns that were passed over for one call.
  private var passed: [UInt64] = []

  private static let groupBits: UInt64 = 24
  /// Time between two turns of the heaviest group. So much that rounding it matters little for its neighbours.
  private static let step: Float = 4096
  private static let distanceMax: Float = 0x1p37
  /// Beyond this time all of it is set back.
  private static let timeMax: UInt64 = 1 &<< 39

  func build(_ context: SelectContext, _ random: inout SeededRandom) {
    members.removeAll(keepingCapacity: true)
    members.append(contentsOf: context.allowed)
    groups.removeAll(keepingCapacity: true)
    if context.isEven {
      addGroup(0..<members.count)
    } else {
      let loads = context.loads
      members.sort { (loads[Int($0)].weight, $0) < (loads[Int($1)].weight, $1) }
      var start = 0
      for end in 1...members.count
      where end == members.count || loads[Int(members[end])].weight != loads[Int(members[start])].weight {
        addGroup(start..<end)
        start = end
      }
    }
    func weight(_ group: Group) -> Float {
      Float(group.end - group.start) * context.loads[Int(members[group.start])].weight
    }
    let heaviest = groups.reduce(0) { max($0, weight($1)) }
    heap.removeAll(keepingCapacity: true)
    for index in groups.indices {
      groups[index].distance = UInt64(min(Self.step * heaviest / weight(groups[index]), Self.distanceMax))
      // Anywhere in its first round: as if the rotation had gone on for long.
      let first = UInt64(random.below(Int(groups[index].distance)))
      groups[index].next += random.below(groups[index].end - groups[index].start)
      heap.append(first &<< Self.groupBits | UInt64(index))
      rise(heap.count - 1)
    }
  }

  private func addGroup(_ range: Range<Int>) {
    groups.append(Group(start: range.lowerBound, end: range.upperBound, next: range.lowerBound, distance: 0))
  }

  func next(_ context: SelectContext) -> UInt32? {
    guard let turn = heap.first else { return nil }
    if turn &>> Self.groupBits > Self.timeMax { setBack() }
    let group = Self.group(heap[0])
    if let index = member(of: group, context) {
      heap[0] &+= groups[group].distance &<< Self.groupBits
      sink(0)
      return index
    }
    return nextOfOthers(context)
  }

  private static func group(_ turn: UInt64) -> Int { Int(truncatingIfNeeded: turn & ((1 &<< groupBits) &- 1)) }

  /// The group's next member that was not tried; one that was keeps its turn for the next call.
  private func member(of group: Int, _ context: SelectContext) -> UInt32? {
    let position = groups[group].next
    let index = members[position]
    if !context.wasTried(index) {
      groups[group].next = position &+ 1 == groups[group].end ? groups[group].start : position &+ 1
      return index
    }
    let count = groups[group].end - groups[group].start
    var other = position
    // One more than were tried is one that was not; of full ones nobody knows how many there are.
    for _ in 0..<(context.fullBits == nil ? min(count, context.tried.count &+ 1) : count) {
      if !context.wasTried(members[other]) {
        let found = members[other]
        // Those of this round that are still to come change places; one of the last round is just served once more.
        if other > position {
          members.swapAt(position, other)
          groups[group].next = position &+ 1 == groups[group].end ? groups[group].start : position &+ 1
        }
        return found
      }
      other = other &+ 1 == groups[group].end ? groups[group].start : other &+ 1
    }
    return nil
  }

  /// All of the next group were tried. Groups that are passed over keep their turns.
  private func nextOfOthers(_ context: SelectContext) -> UInt32? {
    passed.removeAll(keepingCapacity: true)
    var found: UInt32?
    while found == nil, !heap.isEmpty {
      let turn = heap[0]
      found = member(of: Self.group(turn), context)
      if found != nil {
        heap[0] &+= groups[Self.group(turn)].distance &<< Self.groupBits
      } else {
        passed.append(turn)
        heap[0] = heap[heap.count - 1]
        heap.removeLast()
      }
      if heap.count > 1 { sink(0) }
    }
    for turn in passed {
      heap.append(turn)
      rise(heap.count - 1)
    }
    return found
  }

  private func setBack() {
    let past = (heap[0] &>> Self.groupBits) &<< Self.groupBits
    for position in heap.indices { heap[position] &-= past }
  }

  private func sink(_ start: Int) {
    heap.withUnsafeMutableBufferPointer { heap in
      let count = heap.count
      let moved = heap[start]
      var position = start
      while true {
        var child = position &* 2 &+ 1
        guard child < count else { break }
        if child &+ 1 < count, heap[child &+ 1] < heap[child] { child &+= 1 }
        guard heap[child] < moved else { break }
        heap[position] = heap[child]
        position = child
      }
      heap[position] = moved
    }
  }

  private func rise(_ start: Int) {
    let moved = heap[start]
    var position = start
    while position > 0 {
      let parent = (position &- 1) / 2
      guard moved < heap[parent] else { break }
      heap[position] = heap[parent]
      position = parent
    }
    heap[position] = moved
  }
}
