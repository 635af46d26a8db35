// When a call is tried again, and the second attempt beside a slow one.

extension OutboundCall: GateWaiter {
  func admitted() { admit() }
}

extension OutboundCall: CallOwner {
  func callReplied(_ call: OutboundCall, _ payload: UnsafeRawBufferPointer, format: PayloadFormat) {
    hedgeReplied(call, payload)
  }

  func callFailed(_ call: OutboundCall, _ error: SidecarError) { hedgeFailed(call) }
}

/// The latency that 95 of 100 calls of an endpoint keep, as far as they tell. Loop-confined.
final class LatencyQuantile {
  private static let share: Float = 0.95
  /// Calls before which nothing is said.
  private static let callsMin = 20
  private static let valueMin: Float = 100_000
  private var estimate: Float = 0
  private var count = 0

  /// In nanoseconds.
  var value: Int64? { count < Self.callsMin ? nil : Int64(estimate) }

  /// Moves up by 19 parts for each call above the estimate and down by one for each below, so that it rests where one call
  /// in twenty is above.
  func add(_ latency: Int64) {
    let sample = max(Float(latency), Self.valueMin)
    if count == 0 { estimate = sample }
    let step: Float = count < Self.callsMin ? 0.25 : 0.05
    if sample > estimate {
      estimate = min(estimate * (1 + step * Self.share), sample)
    } else {
      estimate = max(estimate * (1 - step * (1 - Self.share)), Self.valueMin)
    }
    if count < Self.callsMin { count += 1 }
  }
}

/// What a node says about when to come back.
enum RetryAfter {
  /// The longest that is believed, in nanoseconds.
  static let max: Int64 = 10_000_000_000

  /// Of the header `Retry-After` in seconds; a date, which go by another clock, and anything else count as nothing said.
  static func nanoseconds(_ value: UnsafeRawBufferPointer) -> Int64? {
    guard !value.isEmpty, value.count <= 9 else { return nil }
    var seconds: Int64 = 0
    for byte in value {
      guard byte &- UInt8(ascii: "0") < 10 else { return nil }
      seconds = seconds * 10 + Int64(byte &- UInt8(ascii: "0"))
    }
    return min(seconds, max / 1_000_000_000) * 1_000_000_000
  }
}
