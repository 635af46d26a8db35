// The `blacklist` selector, by another name `cacheblack`.

import SidecarCore

/// go-micro's (selector/blacklist @ v0.14.0): any node but those with three errors or more, the last of them less than 30 s
/// ago. All errors count; a success erases them. When all nodes are out there is none to pick, which ejection by the data
/// path never brings about.
struct BlacklistSelector: Selector {
  static let errorsMax: UInt8 = 3
  static let outTime: Int64 = 30_000_000_000

  private struct Record {
    var errors: UInt8 = 0
    var until = Instant(nanoseconds: 0)
  }

  private var records: [Record] = []
  private var ids: [String] = []
  private var revision: UInt64 = 0

  mutating func rebuild(_ candidates: Candidates) {
    var known: [String: Record] = [:]
    for (index, record) in records.enumerated() where record.errors > 0 { known[ids[index]] = record }
    ids = candidates.nodes.map(\.node.id)
    records = ids.map { known[$0] ?? Record() }
    revision = candidates.revision
  }

  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    for _ in 0..<8 {
      guard let index = context.drawUntried(&random) else { return nil }
      if !isOut(Int(index), now) { return Int(index) }
    }
    let count = context.allowed.count
    let start = random.below(count)
    for step in 0..<count {
      let index = context.allowed[(start &+ step) % count]
      if !context.wasTried(index), !isOut(Int(index), now) { return Int(index) }
    }
    return nil
  }

  private func isOut(_ index: Int, _ now: Instant) -> Bool {
    records[index].errors >= Self.errorsMax && now < records[index].until
  }

  mutating func mark(_ index: Int, revision: UInt64, outcome: CallOutcome, now: Instant) {
    guard revision == self.revision, records.indices.contains(index) else { return }
    switch outcome {
    case .success: records[index] = Record()
    case .cancelled: break
    case .failure, .connectFailed, .broken, .timedOut:
      // What was out for its time begins anew.
      if records[index].errors > 0, now >= records[index].until { records[index].errors = 0 }
      records[index].errors = min(records[index].errors &+ 1, Self.errorsMax)
      records[index].until = now.advanced(byNanoseconds: Self.outTime)
    }
  }

  mutating func reset() {
    for index in records.indices { records[index] = Record() }
  }
}
