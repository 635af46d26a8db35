// What every registry must do. Open to registries of others: run each case in a test of your own, as a task on the loop of
// the registry's environment.
//
//   let task = Task(executorPreference: environment.driver.executor) {
//     for rule in RegistryConformance.allCases where rule.applies(to: subject.traits) { try await rule.check(subject) }
//   }

import SidecarCore

/// What a registry cannot do by its nature, and how long it may take.
public struct RegistryTraits: Sendable {
  /// Entries end when their ttl passes without renewal.
  public var honoursTTL = true
  /// Metadata of the service, not only of its nodes, is kept.
  public var keepsServiceMetadata = true
  /// A service with an empty version can be written.
  public var takesEmptyVersion = true
  /// `register` and `deregister` work; otherwise the subject's own `write` and `erase` do.
  public var isWritable = true
  /// How long a change may take until lookups and watches show it.
  public var patience: Duration = .seconds(2)
  /// Services, of ten nodes each, in the case of many.
  public var many = 1000
  public init() {}
}

/// A registry to be checked. The same one may serve several cases: each uses service names of its own.
public struct RegistrySubject: @unchecked Sendable {
  public var registry: any Registry
  /// The driver of the registry's environment: its time is the time of the cases.
  public var driver: any Driver
  public var traits: RegistryTraits
  /// Puts nodes where the registry reads them.
  public var write: @Sendable (Service, Duration?) async throws(RegistryError) -> Void
  /// Takes nodes away there.
  public var erase: @Sendable (Service) async throws(RegistryError) -> Void

  public init(_ registry: any Registry, driver: any Driver, traits: RegistryTraits = RegistryTraits()) {
    self.registry = registry
    self.driver = driver
    self.traits = traits
    write = { service, ttl throws(RegistryError) in try await registry.register(service, ttl: ttl) }
    erase = { service throws(RegistryError) in try await registry.deregister(service) }
  }
}

public enum RegistryConformance: String, CaseIterable, Sendable {
  case `an unknown service is not found`
  case `what is registered is found as it was written`
  case `versions are looked up apart`
  case `nodes registered one by one come together`
  case `a node registered again has its new values`
  case `registering twice changes nothing`
  case `deregistering takes the named nodes only`
  case `deregistering what is not there is no error`
  case `the list is sorted and names each service once`
  case `an entry ends when its ttl passes`
  case `an entry that is renewed stays`
  case `a watch begins with one snapshot of what is there`
  case `a watch tells of changes in order`
  case `a watch of one service tells of no other`
  case `a slow watcher ends with the right picture`
  case `two watchers see the same`
  case `cancelling ends a watch soon`
  case `garbage harms nothing`
  case `many services`
  case `calls at the same time do not disturb each other`
  case `a registry that cannot be written says so`

  /// Whether the rule can be asked of such a registry.
  public func applies(to traits: RegistryTraits) -> Bool {
    switch self {
    case .`an entry ends when its ttl passes`, .`an entry that is renewed stays`:
      traits.honoursTTL && traits.isWritable
    case .`registering twice changes nothing`, .`garbage harms nothing`,
      .`deregistering what is not there is no error`, .`calls at the same time do not disturb each other`:
      traits.isWritable
    case .`a registry that cannot be written says so`: !traits.isWritable
    case .`an unknown service is not found`, .`what is registered is found as it was written`,
      .`versions are looked up apart`, .`nodes registered one by one come together`,
      .`a node registered again has its new values`, .`deregistering takes the named nodes only`,
      .`the list is sorted and names each service once`, .`a watch begins with one snapshot of what is there`,
      .`a watch tells of changes in order`, .`a watch of one service tells of no other`,
      .`a slow watcher ends with the right picture`, .`two watchers see the same`, .`cancelling ends a watch soon`,
      .`many services`:
      true
    }
  }

  /// Checks the rule. Call it from a task on the executor of the subject's driver.
  public func check(_ subject: RegistrySubject) async throws(ConformanceFailure) {
    let name = "conformance.\(Self.allCases.firstIndex(of: self) ?? 0)"
    do throws(ConformanceFailure) {
      try await run(RegistryBench(subject, name: name))
    } catch {
      throw ConformanceFailure("\(rawValue): \(error.message)")
    }
  }

  private func run(_ bench: RegistryBench) async throws(ConformanceFailure) {
    switch self {
    case .`an unknown service is not found`: try await bench.requireNotFound()
    case .`what is registered is found as it was written`: try await bench.roundTrip()
    case .`versions are looked up apart`: try await bench.versions()
    case .`nodes registered one by one come together`: try await bench.oneByOne()
    case .`a node registered again has its new values`: try await bench.update()
    case .`registering twice changes nothing`: try await bench.twice()
    case .`deregistering takes the named nodes only`: try await bench.deregister()
    case .`deregistering what is not there is no error`: try await bench.deregisterNothing()
    case .`the list is sorted and names each service once`: try await bench.list()
    case .`an entry ends when its ttl passes`: try await bench.expiry()
    case .`an entry that is renewed stays`: try await bench.renewal()
    case .`a watch begins with one snapshot of what is there`: try await bench.watchSnapshot()
    case .`a watch tells of changes in order`: try await bench.watchOrder()
    case .`a watch of one service tells of no other`: try await bench.watchOne()
    case .`a slow watcher ends with the right picture`: try await bench.slowWatcher()
    case .`two watchers see the same`: try await bench.twoWatchers()
    case .`cancelling ends a watch soon`: try await bench.cancellation()
    case .`garbage harms nothing`: try await bench.garbage()
    case .`many services`: try await bench.manyServices()
    case .`calls at the same time do not disturb each other`: try await bench.concurrent()
    case .`a registry that cannot be written says so`: try await bench.readOnly()
    }
  }
}
