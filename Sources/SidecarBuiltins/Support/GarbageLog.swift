// Entries of a registry that make no sense: each is counted and said once.

import SidecarCore

/// Threading: the control loop.
final class GarbageLog {
  /// Entries remembered as said; further ones are only counted.
  static let entriesMax = 1024

  private let registry: String
  private let log: any LogSink
  private var said: Set<String> = []
  /// Entries and messages that were left out, each time they were met.
  private(set) var skipped = SkippedEntries()

  init(registry: String, log: any LogSink) {
    self.registry = registry
    self.log = log
  }

  /// `entry` names it: its first 80 bytes are shown, without what could steer a terminal. `count` entries share the reason;
  /// `isFull`: it makes sense and there is no room for it.
  func leftOut(_ entry: String, because reason: String, count: Int = 1, isFull: Bool = false) {
    if isFull { skipped.asFull += count } else { skipped.asGarbage += count }
    let shown = String(
      decoding: entry.utf8.prefix(80).map { $0 < 0x20 || $0 == 0x7F ? UInt8(ascii: "?") : $0 }, as: UTF8.self)
    guard said.count < Self.entriesMax, said.insert(shown + reason).inserted else { return }
    log.warning("registry entry left out: \(reason)", [("registry", registry), ("entry", shown)])
  }

  /// With the nodes that `content` had no room for.
  func skipped(with content: WatchedServices) -> SkippedEntries {
    SkippedEntries(asGarbage: skipped.asGarbage, asFull: skipped.asFull + content.droppedCount)
  }
}
