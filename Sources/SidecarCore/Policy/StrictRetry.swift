// How go-micro's own client repeats calls, generation by generation (wire/rpc.md §6; client/retry.go, client/backoff.go @
// v0.14.0 … v6.10.0): for MICRO_SIDECAR_COMPAT=strict.

/// Which client is followed.
package enum StrictRetry: String, CaseIterable, Hashable, Sendable {
  /// v0.14 to v1.18.
  case v1
  /// v2, v3 and v4 before v4.10.
  case v2
  /// v4.10 and later, v5, v6.
  case v4

  /// Attempts after the first, where MICRO_CLIENT_RETRIES does not say.
  package var retries: Int {
    switch self {
    case .v1, .v2: 1
    case .v4: 5
    }
  }

  /// The longest a call may take, where MICRO_CLIENT_REQUEST_TIMEOUT does not say, in nanoseconds.
  package var requestTimeout: Int64 {
    switch self {
    case .v1, .v2: 5_000_000_000
    case .v4: 30_000_000_000
    }
  }

  /// The longest an attempt may take, in nanoseconds; nil: there is no such limit.
  package var attemptTimeout: Int64? {
    switch self {
    case .v1, .v2: nil
    case .v4: 5_000_000_000
    }
  }

  /// Whether an error is followed by another attempt.
  package func repeats(_ error: SidecarError) -> Bool {
    let code = Self.code(error)
    return switch self {
    case .v1, .v2: code == 408 || code == 500
    case .v4: code == 408
    }
  }

  /// What the framework's client would call it: trouble with a connection is an internal error of the client's to it, and
  /// so is a service without nodes (client/rpc_client.go @ v0.14.0 … v6.10.0). A plain text has no code.
  private static func code(_ error: SidecarError) -> Int {
    switch error.kind {
    case .connectFailed, .upstreamReset, .badUpstreamReply: return 500
    case .upstreamError:
      guard let text = error.upstreamText else { return error.code }
      return text.withUnsafeBytes { MicroError(parsing: $0) }.code
    default: return error.code
    }
  }

  /// The pause before attempt `number`, the first being 0, in nanoseconds.
  package func pause(beforeAttempt number: Int) -> Int64 {
    guard number > 0 else { return 0 }
    switch self {
    case .v1:
      // 10^n ms; a client's own deadline ends the call long before the powers grow past a day.
      var pause: Int64 = 1_000_000
      for _ in 0..<min(number, 8) { pause *= 10 }
      return pause
    case .v2, .v4:
      guard number <= 13 else { return 120_000_000_000 }
      return Self.powers[number] * 100_000_000
    }
  }

  /// n to the power of e, rounded down, for 0 to 13 (util/backoff/backoff.go @ v3.7.1).
  private static let powers: [Int64] = [0, 1, 6, 19, 43, 79, 130, 198, 285, 392, 522, 677, 858, 1066]
}
