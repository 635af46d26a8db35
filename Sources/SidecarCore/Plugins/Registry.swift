// The Registry plug-in point (go-micro registry/registry.go): where services are written down and found.

/// What went wrong at a registry. Every case carries a sentence with the next step where there is one.
public enum RegistryError: Error, Equatable, Sendable, CustomStringConvertible {
  /// No such service.
  case notFound(ServiceName)
  /// Not reachable, or it answered with a failure; worth trying again.
  case unavailable(String)
  /// It answered and will not: permission, or a request it does not take. Trying again does not help.
  case refused(String)
  /// What was asked can never be written here: a name too long for DNS, say.
  case invalid(String)
  /// This registry cannot be written.
  case readOnly

  public var description: String {
    switch self {
    case .notFound(let name): "service \(name): not found"
    case .unavailable(let why), .refused(let why), .invalid(let why): why
    case .readOnly: "this registry can only be read"
    }
  }
}

/// A change a registry reports.
public enum RegistryEvent: Equatable, Sendable {
  /// Everything within the watch's scope; what is not in it is gone.
  case snapshot([Service])
  /// Nodes appeared or changed: each node of `service` replaces the one of its id; other nodes stay.
  case upsert(Service)
  /// Nodes left: each node of `service` is removed by id; a service without nodes here loses all of that version.
  case remove(Service)
}

/// Entries that a registry holds and that were not taken over, each time they were met.
public struct SkippedEntries: Equatable, Sendable {
  /// They make no sense.
  public var asGarbage = 0
  /// A limit was reached.
  public var asFull = 0

  public init(asGarbage: Int = 0, asFull: Int = 0) {
    self.asGarbage = asGarbage
    self.asFull = asFull
  }

  static func + (one: SkippedEntries, other: SkippedEntries) -> SkippedEntries {
    SkippedEntries(asGarbage: one.asGarbage &+ other.asGarbage, asFull: one.asFull &+ other.asFull)
  }
}

public enum WatchScope: Equatable, Sendable {
  case all
  case service(ServiceName)
}

/// A registry. Control plane: `async`, called from tasks that prefer the control loop's executor.
///
/// Shape: `Service` values as in the model; a lookup returns one per version. All calls may run at the same time.
/// Errors: `RegistryError`; cancellation of the task ends any call soon with `.unavailable("cancelled")`.
public protocol Registry: Sendable {
  /// The name of this instance for people and metrics, such as `mdns` or `file:services.yaml`.
  var name: String { get }
  /// What is written stays when this process ends, until its ttl passes. False for a registry that is spoken for by its
  /// members, such as mdns.
  var keepsEntries: Bool { get }
  /// Services write themselves in here and renew that, so after an outage it may lack nodes that are there all the same.
  /// False for a registry that is kept by others, such as DNS: what it does not say is not.
  var mayForget: Bool { get }
  /// Entries that this plug-in left out itself since it was made, for metrics; what it tells of and others skip is counted
  /// by those. Read on the control loop.
  var skipped: SkippedEntries { get }
  /// Writes the nodes of `service`, replacing those of the same id. Called again within `ttl` to keep them: an entry
  /// not renewed for `ttl` may vanish. Nil: it stays until deregistered. Twice with equal values changes nothing.
  func register(_ service: Service, ttl: Duration?) async throws(RegistryError)
  /// Removes the nodes of `service` by id. A node that is not there is no error.
  func deregister(_ service: Service) async throws(RegistryError)
  /// Another process of this host has registered the nodes of `service` under the same ids and holds them from now on: what
  /// this instance keeps of them in memory is forgotten, and nobody is told. Called on the control loop. For registries
  /// whose members speak for their nodes; others have nothing to do.
  func release(_ service: Service)
  /// The versions of a service with their nodes; `.notFound` when there is none.
  func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service]
  /// The names of all services, sorted, each once.
  func list() async throws(RegistryError) -> [ServiceName]
  /// Reports what is there, then changes in order. One `.snapshot` comes first; more may follow after a gap. Returns
  /// only by throwing; cancel the task to stop. `onEvent` is awaited, so a slow reader holds the watch back.
  func watch(_ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void)
    async throws(RegistryError)
  /// The last call, when the process ends, after what was written was taken out: says goodbye where others look for us.
  /// On the control loop; must not wait.
  func close()
}

extension Registry {
  public func close() {}
  public var keepsEntries: Bool { true }
  public var mayForget: Bool { true }
  public var skipped: SkippedEntries { SkippedEntries() }
  public func release(_ service: Service) {}
}
