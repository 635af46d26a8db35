// Finds out whether a map has a key twice, without an allocation per key and without letting anybody make it slow by
// choosing keys: few are compared with each other, many go through a hash table, and keys that collide too often are
// sorted instead.

/// Remembers where keys were written. Loop-confined; nested maps use it like a stack.
final class KeyLedger {
  private struct Key {
    var start: Int
    var count: Int
  }

  /// Keys compared with each other without a table.
  private static let pairwiseMax = 12
  /// Steps taken in the table for one key before they are sorted.
  private static let probesMax = 32

  /// Keys whose memory is kept for the next message.
  private static let keptMax = 4096

  private var keys: [Key] = []
  private var slots: [Int32] = []

  var count: Int { keys.count }

  func removeAll() {
    guard keys.capacity > Self.keptMax else { return keys.removeAll(keepingCapacity: true) }
    keys = []
    slots = []
  }

  func truncate(to count: Int) { keys.removeLast(keys.count - count) }
  @inline(__always) func append(start: Int, count: Int) { keys.append(Key(start: start, count: count)) }

  /// Whether two keys from `first` on have the same bytes, which are counted from `base`.
  func hasDuplicates(from first: Int, in base: UnsafePointer<UInt8>) -> Bool {
    let count = keys.count - first
    if count < 2 { return false }
    return keys.withUnsafeBufferPointer { all in
      let keys = UnsafeBufferPointer(rebasing: all[first...])
      if count <= Self.pairwiseMax {
        for right in 1..<count {
          for left in 0..<right where Self.areEqual(keys[left], keys[right], base) { return true }
        }
        return false
      }
      return searchTable(keys, base) ?? !duplicates(keys, base).isEmpty
    }
  }

  /// Starts of all keys from `first` on whose bytes come again later.
  func overwritten(from first: Int, in base: UnsafePointer<UInt8>) -> Set<Int> {
    keys.withUnsafeBufferPointer { all in
      duplicates(UnsafeBufferPointer(rebasing: all[first...]), base)
    }
  }

  /// Starts of all keys from `first` on, in the order in which they came.
  func starts(from first: Int) -> [Int] { keys[first...].map(\.start) }

  /// Nil when it takes too long.
  private func searchTable(_ keys: UnsafeBufferPointer<Key>, _ base: UnsafePointer<UInt8>) -> Bool? {
    guard keys.count < Int32.max / 4 else { return nil }
    var size = 32
    while size < keys.count * 2 { size *= 2 }
    if slots.count < size { slots = Array(repeating: -1, count: size) }
    return slots.withUnsafeMutableBufferPointer { slots in
      for index in 0..<size { slots[index] = -1 }
      for (place, key) in keys.enumerated() {
        var index = NameTable.hash(base + key.start, key.count) & (size - 1)
        var probes = 0
        while slots[index] >= 0 {
          if Self.areEqual(keys[Int(slots[index])], key, base) { return true }
          probes += 1
          if probes > Self.probesMax { return nil }
          index = (index + 1) & (size - 1)
        }
        slots[index] = Int32(truncatingIfNeeded: place)
      }
      return false
    }
  }

  /// By sorting: the cost has a bound whatever the keys are.
  private func duplicates(_ keys: UnsafeBufferPointer<Key>, _ base: UnsafePointer<UInt8>) -> Set<Int> {
    let sorted = keys.sorted { left, right in
      let order = Self.compare(left, right, base)
      return order == 0 ? left.start < right.start : order < 0
    }
    var result: Set<Int> = []
    for place in 1..<max(sorted.count, 1) where Self.areEqual(sorted[place - 1], sorted[place], base) {
      result.insert(sorted[place - 1].start)
    }
    return result
  }

  @inline(__always) private static func areEqual(_ left: Key, _ right: Key, _ base: UnsafePointer<UInt8>) -> Bool {
    left.count == right.count && Bytes.areEqual(base + left.start, base + right.start, left.count)
  }

  private static func compare(_ left: Key, _ right: Key, _ base: UnsafePointer<UInt8>) -> Int {
    let (a, b) = (base + left.start, base + right.start)
    for place in 0..<min(left.count, right.count) where a[place] != b[place] { return a[place] < b[place] ? -1 : 1 }
    return left.count - right.count
  }
}
