/// One thing that was checked, for people: `micro-sidecar doctor` prints a list of them.
public struct Diagnosis: Equatable, Sendable {
  /// What was checked, such as `multicast on eth0`.
  public var subject: String
  public var isProblem: Bool
  /// What was found, in a sentence: for a problem its cause.
  public var finding: String
  /// What to do about a problem.
  public var nextStep: String?

  public static func fine(_ subject: String, _ finding: String) -> Diagnosis {
    Diagnosis(subject: subject, isProblem: false, finding: finding, nextStep: nil)
  }
  public static func problem(_ subject: String, _ finding: String, nextStep: String) -> Diagnosis {
    Diagnosis(subject: subject, isProblem: true, finding: finding, nextStep: nextStep)
  }
}
