// What `micro-sidecar doctor` says of a registry: its findings, and who can tell them.

import SidecarCore

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

/// A registry that can tell why it does not answer, or what is about to go wrong although it does.
public protocol DiagnosableRegistry: Registry {
  /// Tries what the registry needs, one thing after another, within a few seconds and without changing what it holds.
  /// Throws when not even that can be tried.
  func diagnose() async throws(RegistryError) -> [Diagnosis]
}

extension HTTPFailure {
  /// What to do about a server of a registry that cannot be reached.
  var nextStep: String {
    switch cause {
    case .refused: "start it there, or correct the address in MICRO_REGISTRY"
    case .unreachable: "correct the host in MICRO_REGISTRY, or let this process reach it (DNS, routes, network policy)"
    case .timedOut: "see whether a firewall or network policy drops what is sent to it, or whether it is overloaded"
    case .closed: "see its log; it may expect https, or not be such a server at all"
    case .tls:
      "name the authority of its certificate with ca_file=PATH, its name with server_name=NAME, or use http if it has "
        + "no TLS"
    case .cancelled: "try again"
    }
  }
}
