// The future of a simulated world: what happens when, ordered by time and, at one time, by who asked first.
//
// The heap holds small plain values; the actions lie beside it in slots that are used again, so sifting moves no
// references.

/// A priority queue of actions. Equal times keep the order of scheduling.
struct EventQueue {
  private struct Entry {
    var time: UInt64
    var sequence: UInt64
    var slot: Int

    static func < (a: Entry, b: Entry) -> Bool { a.time == b.time ? a.sequence < b.sequence : a.time < b.time }
  }

  struct Event {
    var time: UInt64
    var sequence: UInt64
    /// The loop that must run it; nil for what the network itself does.
    var loop: SimDriver?
    var action: () -> Void
  }

  private var heap: [Entry] = []
  private var slots: [Event?] = []
  private var free: [Int] = []
  private var nextSequence: UInt64 = 0

  var count: Int { heap.count }
  var nextTime: UInt64? { heap.first?.time }

  mutating func add(at time: UInt64, on loop: SimDriver?, _ action: @escaping () -> Void) {
    nextSequence += 1
    insert(Event(time: time, sequence: nextSequence, loop: loop, action: action))
  }

  /// Puts an event back for a later time; it keeps its place among its old neighbours.
  mutating func postpone(_ event: Event, to time: UInt64) {
    var event = event
    event.time = time
    insert(event)
  }

  private mutating func insert(_ event: Event) {
    let slot: Int
    if let used = free.popLast() {
      slot = used
      slots[slot] = event
    } else {
      slot = slots.count
      slots.append(event)
    }
    heap.append(Entry(time: event.time, sequence: event.sequence, slot: slot))
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      guard heap[child] < heap[parent] else { break }
      heap.swapAt(child, parent)
      child = parent
    }
  }

  mutating func popFirst() -> Event? {
    guard let first = heap.first else { return nil }
    let last = heap.removeLast()
    if !heap.isEmpty {
      heap[0] = last
      var parent = 0
      while true {
        var least = parent
        for child in [parent * 2 + 1, parent * 2 + 2] where child < heap.count && heap[child] < heap[least] {
          least = child
        }
        if least == parent { break }
        heap.swapAt(least, parent)
        parent = least
      }
    }
    let event = slots[first.slot]
    slots[first.slot] = nil
    free.append(first.slot)
    return event
  }

  mutating func removeAll() {
    heap.removeAll()
    slots.removeAll()
    free.removeAll()
  }
}
