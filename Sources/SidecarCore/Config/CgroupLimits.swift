// What the kernel lets this process have, as its control groups say it: processors and memory. Both versions of the interface,
// and both views of it: a process that sees its own groups from outside finds them by /proc/self/cgroup, one in a container
// often sees its group as the root.
//
//   version 2   cpu.max "200000 100000", memory.max "100663296"; "max" is no limit
//   version 1   cpu/cpu.cfs_quota_us "200000" and cpu.cfs_period_us, memory/memory.limit_in_bytes; -1 and near 2^63 are none
//
// A group's limit holds for all below it, so the tightest on the way up counts.

package struct CgroupLimits: Equatable, Sendable {
  /// Processors that may be kept busy, such as 0.5 or 2; nil: as many as there are.
  package var processors: Double?
  /// Bytes; nil: as many as there are.
  package var memoryBytes: Int?

  package init() {}

  /// Levels of groups that are looked at.
  private static let levelsMax = 32

  /// `read` gives the bytes of a file, nil where there is none.
  package init(root: String, read: (String) -> [UInt8]?) {
    func text(_ path: String) -> String? {
      read(path).map { SettingText.trimmed(String(decoding: $0.prefix(4096), as: UTF8.self)) }
    }
    for (folder, path, isUnified) in Self.groups(text("/proc/self/cgroup") ?? "") {
      let base = root + folder
      for group in Self.ways(path) {
        if isUnified {
          if let words = text(base + group + "/cpu.max")?.split(separator: " "), words.count == 2 {
            takeProcessors(quota: Double(words[0]), period: Double(words[1]))
          }
          takeMemory(text(base + group + "/memory.max"))
        } else {
          if let quota = text(base + group + "/cpu.cfs_quota_us") {
            takeProcessors(
              quota: Double(quota), period: text(base + group + "/cpu.cfs_period_us").flatMap { Double($0) })
          }
          takeMemory(text(base + group + "/memory.limit_in_bytes"))
        }
      }
    }
  }

  /// The folders below the root that may have something to say, with this process's group in each.
  private static func groups(_ table: String) -> [(folder: String, path: String, isUnified: Bool)] {
    var groups: [(folder: String, path: String, isUnified: Bool)] = []
    for line in table.split(separator: "\n") {
      let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard parts.count == 3 else { continue }
      if parts[1].isEmpty {
        groups.append(("", String(parts[2]), true))
        // Where both versions are mounted.
        groups.append(("/unified", String(parts[2]), true))
      } else {
        let names = parts[1].split(separator: ",")
        guard names.contains("cpu") || names.contains("memory") else { continue }
        groups.append(("/" + parts[1], String(parts[2]), false))
        if names.count > 1 { for name in names { groups.append(("/" + name, String(parts[2]), false)) } }
      }
    }
    return groups
  }

  /// The group and those above it, the root as `""`.
  private static func ways(_ path: String) -> [String] {
    var ways = [""]
    // Outside of what is mounted here: the root is what we see of it.
    guard !path.hasPrefix("/..") else { return ways }
    var way = ""
    for part in path.split(separator: "/").prefix(levelsMax) {
      way += "/" + part
      ways.append(way)
    }
    return ways
  }

  private mutating func takeProcessors(quota: Double?, period: Double?) {
    guard let quota, let period, quota > 0, period > 0, (quota / period).isFinite else { return }
    processors = min(processors ?? .infinity, quota / period)
  }

  private mutating func takeMemory(_ text: String?) {
    // Version 1 says "none" as the largest number of whole pages.
    guard let text, let bytes = Int(text), bytes > 0, bytes < 1 << 60 else { return }
    memoryBytes = min(memoryBytes ?? .max, bytes)
  }

  /// Threads that serve calls where nobody says how many: what the quota keeps busy, and one where there is none, since a
  /// sidecar is a guest on its machine.
  package var workers: Int { processors.map { Int(min(max($0.rounded(), 1), Double(WorkerCount.max))) } ?? 1 }
}

/// MICRO_SIDECAR_WORKERS.
package enum WorkerCount: Hashable, Sendable {
  package static let max = 64

  case automatic
  case fixed(Int)
}

extension SettingKind<WorkerCount> {
  static var workerCount: SettingKind {
    .scalar(
      "auto or a whole number from 1 to \(WorkerCount.max)",
      shape: .either([.words(["auto"]), .integer(1...WorkerCount.max)]),
      format: { if case .fixed(let count) = $0 { "\(count)" } else { "auto" } },
      read: { text in
        if text.lowercased() == "auto" { return .automatic }
        return Int(text).flatMap { (1...WorkerCount.max).contains($0) ? .fixed($0) : nil }
      })
  }
}

/// MICRO_SIDECAR_MEMORY_LIMIT.
package enum MemoryLimit: Hashable, Sendable {
  case automatic, off
  case bytes(Int)
}

extension SettingKind<MemoryLimit> {
  static var memoryLimit: SettingKind {
    .scalar(
      "auto, off or a size of at least 1MiB, such as 96MiB",
      shape: .either([.words(["auto", "off"]), .size((1 << 20)...Int.max)]),
      format: {
        switch $0 {
        case .automatic: "auto"
        case .off: "off"
        case .bytes(let bytes): ByteSize.format(bytes)
        }
      },
      read: { text in
        switch text.lowercased() {
        case "auto": .automatic
        case "off", "false": .off
        default: ByteSize.parse(text).flatMap { $0 >= 1 << 20 ? .bytes($0) : nil }
        }
      })
  }
}
