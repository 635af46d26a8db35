import SidecarBuiltins
import SidecarConformance
import SidecarCore
import SidecarSim
import Testing

@Suite("Registry conformance") struct RegistryConformanceTests {
  @Test(arguments: RegistryConformance.allCases.filter { $0.applies(to: RegistryTraits()) })
  func memory(_ rule: RegistryConformance) throws {
    let simulated = SimulatedLoop()
    let registry = MemoryRegistry(environment: simulated.environment())
    let subject = RegistrySubject(registry, driver: simulated.loop)
    try simulated.run { try await rule.check(subject) }
  }

  private static let fileTraits = {
    var traits = RegistryTraits()
    traits.isWritable = false
    traits.honoursTTL = false
    return traits
  }()

  @Test(arguments: RegistryConformance.allCases.filter { $0.applies(to: fileTraits) })
  func file(_ rule: RegistryConformance) throws {
    let simulated = SimulatedLoop()
    let editor = FileEditor(simulated)
    let registry = try FileRegistry(environment: simulated.environment(argument: "/etc/services.json"))
    var subject = RegistrySubject(registry, driver: simulated.loop, traits: Self.fileTraits)
    subject.write = { service, _ throws(RegistryError) in editor.put(service) }
    subject.erase = { service throws(RegistryError) in editor.take(service) }
    try simulated.run { [subject] in try await rule.check(subject) }
  }

  /// What is wrong with this registry must be found: the oracle's own test.
  @Test(arguments: BrokenRegistry.Defect.allCases)
  func `a broken registry fails`(_ defect: BrokenRegistry.Defect) throws {
    var failures: [String] = []
    for rule in RegistryConformance.allCases where rule.applies(to: RegistryTraits()) && rule != .`many services` {
      let simulated = SimulatedLoop()
      let registry = BrokenRegistry(MemoryRegistry(environment: simulated.environment()), defect)
      let subject = RegistrySubject(registry, driver: simulated.loop)
      do {
        try simulated.run { try await rule.check(subject) }
      } catch {
        failures.append(rule.rawValue)
      }
    }
    #expect(!failures.isEmpty)
  }
}

/// Edits the file of a file registry as a person would: whole, each time. Touched on the simulated loop only.
private final class FileEditor: @unchecked Sendable {
  private let simulated: SimulatedLoop
  private var services: [Service] = []

  init(_ simulated: SimulatedLoop) {
    self.simulated = simulated
    save()
  }

  func put(_ service: Service) {
    guard let at = services.firstIndex(where: { $0.name == service.name && $0.version == service.version }) else {
      services.append(service)
      return save()
    }
    let ids = Set(service.nodes.map(\.id))
    let kept = services[at].nodes.filter { !ids.contains($0.id) }
    services[at] = service
    services[at].nodes += kept
    save()
  }

  func take(_ service: Service) {
    let ids = Set(service.nodes.map(\.id))
    for at in services.indices where services[at].name == service.name && services[at].version == service.version {
      services[at].nodes.removeAll { ids.contains($0.id) }
    }
    services.removeAll { $0.nodes.isEmpty }
    save()
  }

  private func save() {
    // Written when the turn is over, as one edit: a thousand services are not a thousand files.
    guard !isSaving else { return }
    isSaving = true
    simulated.loop.later { [self] in
      isSaving = false
      store()
    }
    if simulated.host.files.content("/etc/services.json") == nil { store() }
  }

  private var isSaving = false

  private func store() {
    simulated.host.files.put("/etc/services.json", JSONValue.array(services.map { $0.json() }).text())
  }
}

/// A memory registry with one thing wrong.
final class BrokenRegistry: Registry, @unchecked Sendable {
  enum Defect: String, CaseIterable, Sendable {
    case snapshotMissing, eventsReordered, removalsSwallowed, ttlIgnored, lookupEmptyInsteadOfNotFound, listUnsorted
    case scopeIgnored, duplicateEvents, versionsMerged, deregisterTakesAll
  }

  private let base: MemoryRegistry
  private let defect: Defect

  init(_ base: MemoryRegistry, _ defect: Defect) {
    self.base = base
    self.defect = defect
  }

  var name: String { "broken" }

  func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    var service = service
    if defect == .versionsMerged { service.version = "one" }
    if defect == .duplicateEvents { try await base.deregister(service) }
    try await base.register(service, ttl: defect == .ttlIgnored ? nil : ttl)
  }

  func deregister(_ service: Service) async throws(RegistryError) {
    var service = service
    if defect == .versionsMerged { service.version = "one" }
    if defect == .deregisterTakesAll {
      for known in (try? await base.lookup(service.name)) ?? [] { try await base.deregister(known) }
    }
    try await base.deregister(service)
  }

  func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    guard defect == .lookupEmptyInsteadOfNotFound else { return try await base.lookup(name) }
    return (try? await base.lookup(name)) ?? []
  }

  func list() async throws(RegistryError) -> [ServiceName] {
    let names = try await base.list()
    return defect == .listUnsorted ? names.reversed() : names
  }

  /// The last event held back. Touched on the loop only.
  private final class Held: @unchecked Sendable { var event: RegistryEvent? }

  func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    let held = Held()
    let defect = defect
    try await base.watch(defect == .scopeIgnored ? .all : scope) { event in
      switch (defect, event) {
      case (.snapshotMissing, .snapshot(let services)):
        for service in services { await onEvent(.upsert(service)) }
      case (.removalsSwallowed, .remove): break
      case (.eventsReordered, .upsert):
        if let earlier = held.event {
          held.event = nil
          await onEvent(event)
          await onEvent(earlier)
        } else {
          held.event = event
        }
      default: await onEvent(event)
      }
    }
  }
}
