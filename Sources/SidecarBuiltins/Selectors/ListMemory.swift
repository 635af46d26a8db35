// What a selector worked out of a list of allowed nodes, for as long as the list stays.

import SidecarCore

/// Values by subset and generation. A subset has several lists when calls spill over to other zones and priorities, and a
/// call may be shown any of them, so the values of a few are kept. Loop-confined, as its selector.
final class ListMemory<Value: AnyObject> {
  /// Lists of one subset that are remembered.
  static var listsMax: Int { 4 }

  private struct Entry {
    var generation: UInt64
    var used: UInt64
    let value: Value
  }

  /// `listsMax` places for each subset.
  private var entries: [Entry?] = []
  private var clock: UInt64 = 0

  /// The value for the list at hand; `build` fills it when the list is new, into the memory of the one unused for the
  /// longest time.
  @inline(__always)
  func find(_ context: SelectContext, build: (Value) -> Void, make: () -> Value) -> Value {
    let first = context.subset &* Self.listsMax
    if first < entries.count, let entry = entries[first], entry.generation == context.generation { return entry.value }
    return search(context, first, build, make)
  }

  private func search(
    _ context: SelectContext, _ first: Int, _ build: (Value) -> Void, _ make: () -> Value
  ) -> Value {
    while entries.count < first + Self.listsMax { entries.append(nil) }
    clock &+= 1
    var victim = first
    for place in first..<first + Self.listsMax {
      guard let entry = entries[place] else {
        victim = place
        break
      }
      if entry.generation == context.generation {
        entries[place]?.used = clock
        // The next call is likely to be shown the same list.
        entries.swapAt(first, place)
        return entry.value
      }
      if let oldest = entries[victim], entry.used < oldest.used { victim = place }
    }
    let value = entries[victim]?.value ?? make()
    build(value)
    entries[victim] = Entry(generation: context.generation, used: clock, value: value)
    entries.swapAt(first, victim)
    return value
  }

  func removeAll() { entries.removeAll(keepingCapacity: true) }
}
