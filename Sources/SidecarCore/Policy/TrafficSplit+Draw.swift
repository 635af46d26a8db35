// Which part of a split a call goes to.

extension TrafficSplit {
  /// The filter of the part that `bits` falls into, each part as often as its weight has it; the same bits always into the
  /// same, so that a caller whose key they are stays where it is. A part without nodes passes its calls on to the others,
  /// by their weights. Nil: no part with a weight has nodes.
  static func draw(_ splits: [TrafficSplit], _ bits: UInt64, hasNodes: (NodeFilter) -> Bool) -> NodeFilter? {
    var bits = RateKey(seed: bits)
    bits.add(0x5317)
    guard let first = part(splits[...], bits.value) else { return nil }
    if hasNodes(first.filter) { return first.filter }
    let others = splits.filter { $0.filter != first.filter && hasNodes($0.filter) }
    bits.add(1)
    return part(others[...], bits.value)?.filter
  }

  private static func part(_ splits: ArraySlice<TrafficSplit>, _ bits: UInt64) -> TrafficSplit? {
    var total: UInt64 = 0
    for split in splits { total &+= UInt64(clamping: split.weight) }
    guard total > 0 else { return nil }
    var position = bits.multipliedFullWidth(by: total).high
    for split in splits {
      let weight = UInt64(clamping: split.weight)
      if position < weight { return split }
      position -= weight
    }
    return nil
  }
}
