/// A point on a loop's monotonic clock.
///
/// Shape: nanoseconds since an arbitrary start, the same start for all loops of a process.
/// Units: nanoseconds. Edges: arithmetic saturates, so a hostile duration can never wrap into the past.
public struct Instant: Comparable, Hashable, Sendable {
  public var nanoseconds: UInt64

  public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

  public static let distantFuture = Instant(nanoseconds: .max)

  @inlinable public static func < (a: Instant, b: Instant) -> Bool { a.nanoseconds < b.nanoseconds }

  /// This instant moved by `nanoseconds`; a negative amount moves it back, not below zero.
  @inlinable public func advanced(byNanoseconds amount: Int64) -> Instant {
    if amount >= 0 {
      let (sum, overflow) = nanoseconds.addingReportingOverflow(UInt64(amount))
      return Instant(nanoseconds: overflow ? .max : sum)
    }
    let back = amount.magnitude
    return Instant(nanoseconds: nanoseconds > back ? nanoseconds - back : 0)
  }

  @inlinable public func advanced(by duration: Duration) -> Instant {
    advanced(byNanoseconds: duration.saturatingNanoseconds)
  }

  /// Nanoseconds from `earlier` to here; zero when `earlier` is later.
  @inlinable public func nanoseconds(since earlier: Instant) -> Int64 {
    nanoseconds <= earlier.nanoseconds ? 0 : Int64(clamping: nanoseconds - earlier.nanoseconds)
  }

  @inlinable public func duration(since earlier: Instant) -> Duration {
    .nanoseconds(nanoseconds(since: earlier))
  }
}

extension Duration {
  /// The whole duration in nanoseconds, clamped to what an `Int64` holds (292 years).
  @inlinable public var saturatingNanoseconds: Int64 {
    let (seconds, attoseconds) = components
    let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    if overflow { return seconds < 0 ? .min : .max }
    let (sum, overflowed) = product.addingReportingOverflow(attoseconds / 1_000_000_000)
    return overflowed ? (seconds < 0 ? .min : .max) : sum
  }
}
