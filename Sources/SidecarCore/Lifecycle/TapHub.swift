// Those who look on at the admin listener (`/tap`), and the lines that come to them from all workers.

/// Threading: the control loop.
final class TapHub {
  /// Lookers-on at once; one more is refused.
  static let tapsMax = 8

  private var sinks: [Int: (TapLines) -> Void] = [:]
  private var lastID = 0

  var count: Int { sinks.count }

  /// `sink` gets whole lines until `remove`. Nil: there are too many.
  func add(_ sink: @escaping (TapLines) -> Void) -> Int? {
    guard sinks.count < Self.tapsMax else { return nil }
    lastID += 1
    sinks[lastID] = sink
    return lastID
  }

  func remove(_ id: Int) { sinks[id] = nil }

  func take(_ lines: TapLines) { sinks[lines.id]?(lines) }
}
