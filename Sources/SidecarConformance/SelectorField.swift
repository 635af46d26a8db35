// What a selector is shown when there is no data path around it: nodes with loads, those that may be picked, and the call.

import SidecarCore

/// A service's nodes for tests and measurements of selectors. Not for use by several threads.
public final class SelectorField {
  public private(set) var count = 0
  public private(set) var revision: UInt64 = 100
  public private(set) var candidates: [Candidate] = []
  private var loads: [NodeLoad] = []
  private var allowed: [UInt32] = []
  private var bits: [UInt64] = []
  private var fullBits: [UInt64] = []
  private var generation: UInt64 = 0
  private var lists: UInt64 = 0
  private var weightMax: Float = 0
  private var isEven = true
  private var draw = WeightedDraw()
  public var key: SelectKey?
  /// Which subset of a service the nodes are shown as.
  public var subset = 0
  public var latencyDecay: Int64 = 10_000_000_000

  public init() {}

  /// Other nodes: `weights` has one for each, of 1 where there is none.
  public func rebuild(_ count: Int, weights: [Int] = []) {
    rebuild(ids: (0..<count).map { "node-\($0)" }, weights: weights)
  }

  /// The same with nodes of these ids.
  public func rebuild(ids: [String], weights: [Int] = []) {
    count = ids.count
    revision += 1
    candidates = (0..<count).map { index in
      let weight = index < weights.count ? weights[index] : 1
      return Candidate(
        node: Node(
          id: ids[index], address: "10.0.\(index &>> 8 & 255).\(index & 255):80",
          metadata: ["weight": "\(weight)"]), version: "latest")
    }
    loads = candidates.map {
      var load = NodeLoad()
      load.weight = Float($0.weight)
      return load
    }
    fullBits = []
    allow { _ in true }
  }

  /// Which nodes may be picked from now on. `shown`: the generation of a list that was shown before.
  public func allow(asGeneration shown: UInt64? = nil, _ mayBePicked: (Int) -> Bool) {
    allowed = (0..<count).filter { mayBePicked($0) && loads[$0].weight > 0 }.map { UInt32($0) }
    bits = Array(repeating: 0, count: count / 64 + 1)
    for index in allowed { bits[Int(index) / 64] |= 1 << UInt64(index % 64) }
    weightMax = allowed.map { loads[Int($0)].weight }.max() ?? 0
    isEven = allowed.allSatisfy { loads[Int($0)].weight == weightMax }
    draw.removeAll()
    if !isEven { draw.build(count: allowed.count) { loads[Int(allowed[$0])].weight } }
    lists += 1
    generation = shown ?? lists
  }

  /// Which nodes have as many calls as they may have from now on, whether they are allowed or not.
  public func fill(_ isFull: (Int) -> Bool) {
    fullBits = Array(repeating: 0, count: count / 64 + 1)
    for index in 0..<count where isFull(index) { fullBits[index / 64] |= 1 << UInt64(index % 64) }
    if fullBits.allSatisfy({ $0 == 0 }) { fullBits = [] }
  }

  public func load(_ index: Int) -> NodeLoad { loads[index] }
  public func setLoad(_ index: Int, _ change: (inout NodeLoad) -> Void) { change(&loads[index]) }

  /// Hands `body` the call's view of the nodes; `tried` are not to be picked.
  public func withContext<Result>(tried: [UInt32] = [], _ body: (SelectContext) -> Result) -> Result {
    allowed.withUnsafeBufferPointer { allowed in
      bits.withUnsafeBufferPointer { bits in
        loads.withUnsafeBufferPointer { loads in
          tried.withUnsafeBufferPointer { tried in
            // An empty array has no address; nothing is read there.
            withUnsafePointer(to: UInt64(0)) { none in
              withUnsafePointer(to: NodeLoad()) { noLoad in
                fullBits.withUnsafeBufferPointer { full in
                  body(
                    SelectContext(
                      allowed: allowed, allowedBits: bits.baseAddress ?? none, loads: loads.baseAddress ?? noLoad,
                      weightMax: weightMax, isEven: isEven, slots: draw.pointer, generation: generation,
                      subset: subset, tried: tried, fullBits: full.isEmpty ? nil : full.baseAddress, key: key,
                      latencyDecay: latencyDecay))
                }
              }
            }
          }
        }
      }
    }
  }
}
