/// A peer broke a rule of a wire format. `rule` names it in words that may be sent back; `offset` counts bytes from the
/// start of what was parsed.
public struct WireError: Error, Equatable, Sendable, CustomStringConvertible {
  public var rule: String
  public var offset: Int
  /// The HTTP status that answers it where HTTP is spoken.
  public var status: Int

  public init(_ rule: String, offset: Int = 0, status: Int = 400) {
    self.rule = rule
    self.offset = offset
    self.status = status
  }
  public var description: String { "\(rule) at byte \(offset)" }
}
