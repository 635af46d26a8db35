// Entries of a registry that make no sense: each is counted and said once.

import SidecarCore

/// Threading: the control loop.
struct GarbageLog {
  /// Entries remembered as said; further ones are only counted.
  static let entriesMax = 1024

  private let registry: String
  private let log: any LogSink
  private var said: Set<String> = []
  /// Entries and messages that were left out, each time they were met.
  private(set) var count = 0

  init(registry: String, log: any LogSink) {
    self.registry = registry
    self.log = log
  }

  /// `entry` names it: its first 80 bytes are shown, without what could steer a terminal.
  mutating func leftOut(_ entry: String, because reason: String) {
    count += 1
    let shown = String(
      decoding: entry.utf8.prefix(80).map { $0 < 0x20 || $0 == 0x7F ? UInt8(ascii: "?") : $0 }, as: UTF8.self)
    guard said.count < Self.entriesMax, said.insert(shown + reason).inserted else { return }
    log.warning("registry entry left out: \(reason)", [("registry", registry), ("entry", shown)])
  }
}
