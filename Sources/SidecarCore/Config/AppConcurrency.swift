// MICRO_APP_CONCURRENCY: how many calls the app gets at once.

package enum AppConcurrency: Hashable, Sendable {
  /// As many as come.
  case off
  case fixed(Int)
  /// As many as it takes without getting slower.
  case adaptive

  /// How many of the process's workers take calls for the app: each needs a place there, so that all of them together
  /// never have more than the limit.
  package func workers(of workers: Int) -> Int {
    if case .fixed(let limit) = self { return max(min(workers, limit), 1) }
    return max(workers, 1)
  }
}

extension SettingKind<AppConcurrency> {
  static var concurrency: SettingKind {
    .scalar(
      "off, adaptive or a whole number from 0 to 1000000",
      shape: .either([.words(["off", "adaptive"]), .integer(0...1_000_000)]),
      format: {
        switch $0 {
        case .off: "off"
        case .fixed(let limit): "\(limit)"
        case .adaptive: "adaptive"
        }
      },
      read: { text in
        switch text.lowercased() {
        case "off", "false", "0": .off
        case "adaptive": .adaptive
        default: Int(text).flatMap { (1...1_000_000).contains($0) ? .fixed($0) : nil }
        }
      })
  }
}
