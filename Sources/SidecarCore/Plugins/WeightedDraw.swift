// Draws an index by weight at the price of one number and one look at a table, however skewed the weights are (Walker's
// alias method).

/// One slot of the table: a part of it stands for its own position, the rest for another one's.
@frozen public struct WeightedSlot: Sendable {
  /// Numbers below it mean the slot's own position.
  @usableFromInline let threshold: UInt32
  @usableFromInline let other: UInt32

  @usableFromInline init(threshold: UInt32, other: UInt32) {
    self.threshold = threshold
    self.other = other
  }
}

/// The table for a list of weights. Memory of its own, eight bytes for each weight; grows, never shrinks.
public struct WeightedDraw: ~Copyable {
  private var slots: UnsafeMutableBufferPointer<WeightedSlot>
  private var count = 0

  public init() { slots = .allocate(capacity: 0) }

  deinit { slots.deallocate() }

  /// The slots, one for each weight; nil when there are none.
  public var pointer: UnsafePointer<WeightedSlot>? { count == 0 ? nil : UnsafePointer(slots.baseAddress) }

  public mutating func removeAll() { count = 0 }

  /// Makes the table of `weights`, all above 0. In one sweep: what a light one's slot has left is given to the heavy one at
  /// hand, and a heavy one that has given its excess away is light itself.
  public mutating func build(count: Int, weight: (Int) -> Float) {
    if slots.count < count {
      slots.deallocate()
      slots = .allocate(capacity: count)
    }
    self.count = count
    var total = 0.0
    for index in 0..<count { total += Double(weight(index)) }
    let mean = total / Double(max(count, 1))
    guard mean > 0 else {
      self.count = 0
      return
    }
    var light = Self.next(0, count) { Double(weight($0)) <= mean }
    var heavy = Self.next(0, count) { Double(weight($0)) > mean }
    var left = heavy < count ? Double(weight(heavy)) : 0
    while heavy < count {
      if left > mean {
        // Only rounding leaves a heavy one without a light one.
        guard light < count else { break }
        let own = Double(weight(light))
        slots.initializeElement(at: light, to: Self.slot(own / mean, other: heavy))
        left -= mean - own
        light = Self.next(light + 1, count) { Double(weight($0)) <= mean }
      } else {
        let next = Self.next(heavy + 1, count) { Double(weight($0)) > mean }
        guard next < count else { break }
        slots.initializeElement(at: heavy, to: Self.slot(left / mean, other: next))
        left = Double(weight(next)) - (mean - left)
        heavy = next
      }
    }
    // What is left has a whole slot each, but for rounding.
    while light < count {
      slots.initializeElement(at: light, to: Self.slot(1, other: light))
      light = Self.next(light + 1, count) { Double(weight($0)) <= mean }
    }
    while heavy < count {
      slots.initializeElement(at: heavy, to: Self.slot(1, other: heavy))
      heavy = Self.next(heavy + 1, count) { Double(weight($0)) > mean }
    }
  }

  private static func next(_ start: Int, _ count: Int, _ isWanted: (Int) -> Bool) -> Int {
    var index = start
    while index < count, !isWanted(index) { index += 1 }
    return index
  }

  private static func slot(_ share: Double, other: Int) -> WeightedSlot {
    WeightedSlot(threshold: UInt32(min(max(share, 0) * 0x1p32, 0x1p32 - 1)), other: UInt32(truncatingIfNeeded: other))
  }
}
