/// What an attempt at a node came to, as a selector and the retry rule see it.
public enum CallOutcome: Equatable, Sendable {
  /// A reply, good or an application's error below 500.
  case success(latency: Int64)
  /// The node answered with a server-side failure (framework code 500 and above).
  case failure(latency: Int64)
  /// The dial failed: nothing was sent.
  case connectFailed
  /// The connection broke after something was sent and before the reply was whole.
  case broken
  /// No whole reply before the deadline.
  case timedOut
  /// The caller left first; says nothing about the node.
  case cancelled
}
