// How a pod's grace period is shared out, so that the parts add up to less than it. What is late is killed.
//
//   deletion ─▶ preStop: out of the registry, and quiet seconds in which callers hear of it
//            ─▶ SIGTERM: (deregistration again, at most 3 s) ─▶ calls under way end, drain seconds at most ─▶ exit
//   └───────────────────────── terminationGracePeriodSeconds ─────────────────────────┘

package struct DrainPlan: Sendable, Equatable {
  /// What Kubernetes gives a pod that does not say.
  package static let graceDefault = 30
  /// Between leaving the registry and the signal, for callers whose watch is slow.
  package static let quietDefault = 5
  /// `LeaseTiming.removeLimit`: what taking the app out of a registry may cost.
  package static let deregistration = 3
  /// For the end of the process itself.
  package static let margin = 1
  package static let drainDefault = 20

  package var grace: Int
  package var quiet: Int
  package var drain: Int

  /// Seconds that calls under way may have in a pod with `grace` seconds.
  package static func drainMax(grace: Int, quiet: Int) -> Int { max(grace - quiet - deregistration - margin, 0) }

  /// Without a wish the drain is shortened to what the pod has, down to none. Errors: the wish does not fit.
  static func make(grace: Int, wanted: Int?) throws(InjectionError) -> DrainPlan {
    let quiet = grace >= 2 * quietDefault + deregistration + margin ? quietDefault : min(1, max(grace - 5, 0))
    let room = drainMax(grace: grace, quiet: quiet)
    guard let wanted else { return DrainPlan(grace: grace, quiet: quiet, drain: min(drainDefault, room)) }
    guard wanted <= room else {
      throw InjectionError(
        "\(Annotation.drainSeconds.key) is \(wanted), and of terminationGracePeriodSeconds, \(grace), are \(room) left for it "
          + "(\(quiet) until callers know, \(deregistration) for the registry, \(margin) for the end): "
          + "set terminationGracePeriodSeconds to \(wanted + quietDefault + deregistration + margin) or more")
    }
    return DrainPlan(grace: grace, quiet: quiet, drain: wanted)
  }
}
