// Is the local app there? Decides whether its service may be in the registry.
//
//              first success                    3 failures in a row
//   starting ─────────────────▶ healthy ────────────────────────────▶ unhealthy
//   every 50 ms                 every 5 s  ◀──────────────────────── every 1 s
//                                                 1 success
//
// Without a health path a probe is a TCP connection to the app's address: an app that does not listen yet must not be
// registered, and one that listens counts as well. With one, it is a GET that must answer 2xx in time.

package struct AppHealthTiming: Equatable, Sendable {
  /// Nanoseconds between probes of a healthy app.
  package var period: Int64 = 5_000_000_000
  /// A probe that takes longer has failed.
  package var timeout: Int64 = 1_000_000_000
  /// Failures in a row that make a healthy app unhealthy.
  package var failuresMax = 3
  /// Between probes of an app that has not been up yet, so that it is registered as soon as it listens…
  package var startingPeriod: Int64 = 50_000_000
  /// …for this many probes (half a minute), then at `unhealthyPeriod`.
  package var startingProbes = 600
  /// Between probes of an app that is down; not above `period`.
  package var unhealthyPeriod: Int64 = 1_000_000_000
  package init() {}
}

/// What a probe came to; a failure carries a sentence's end: "refused the connection".
package enum ProbeOutcome: Equatable, Sendable {
  case success
  case failure(String)
}

package struct AppHealthMachine: ~Copyable {
  package struct Step: Equatable {
    /// The app became healthy (true) or unhealthy (false) with this probe; nil when nothing changed.
    package var change: Bool?
    /// Probe again after that many nanoseconds.
    package var wait: Int64
  }

  private enum State {
    /// Not seen up since the start; probes so far. → healthy
    case starting(probes: Int)
    /// Failures in a row. → unhealthy
    case healthy(failures: Int)
    /// → healthy
    case unhealthy
  }

  private var state = State.starting(probes: 0)
  private let timing: AppHealthTiming

  /// `isHealthy`: another process has seen it up a moment ago.
  package init(timing: AppHealthTiming = AppHealthTiming(), isHealthy: Bool = false) {
    self.timing = timing
    if isHealthy { state = .healthy(failures: 0) }
  }

  package var isHealthy: Bool { if case .healthy = state { true } else { false } }

  package mutating func probed(_ outcome: ProbeOutcome) -> Step {
    switch (state, outcome) {
    case (.healthy, .success):
      state = .healthy(failures: 0)
      return Step(change: nil, wait: timing.period)
    case (.starting, .success), (.unhealthy, .success):
      state = .healthy(failures: 0)
      return Step(change: true, wait: timing.period)
    case (.starting(let probes), .failure):
      state = .starting(probes: min(probes + 1, timing.startingProbes))
      return Step(
        change: nil, wait: probes + 1 < timing.startingProbes ? timing.startingPeriod : unhealthyPeriod)
    case (.healthy(let failures), .failure):
      if failures + 1 < timing.failuresMax {
        state = .healthy(failures: failures + 1)
        return Step(change: nil, wait: timing.period)
      }
      state = .unhealthy
      return Step(change: false, wait: unhealthyPeriod)
    case (.unhealthy, .failure): return Step(change: nil, wait: unhealthyPeriod)
    }
  }

  private var unhealthyPeriod: Int64 { min(timing.unhealthyPeriod, timing.period) }
}
