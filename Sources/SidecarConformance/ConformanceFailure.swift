/// A plug-in does not do what its protocol's documentation says.
public struct ConformanceFailure: Error, Sendable, CustomStringConvertible {
  /// A sentence: what was expected and what was found.
  public var message: String
  public init(_ message: String) { self.message = message }
  public var description: String { message }
}

func require(_ condition: Bool, _ message: @autoclosure () -> String) throws(ConformanceFailure) {
  if !condition { throw ConformanceFailure(message()) }
}
