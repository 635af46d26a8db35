// The `kubernetes` registry: services on the pods that serve them, as go-micro's plug-in keeps them (PodEntries.swift), or
// read from EndpointSlices (`mode=slices`). Settings: KubernetesOptions.swift.
//
// An entry of a pod has no time to live: it leaves with the pod, and while the pod does not run, is being deleted or is not
// ready it does not count. So a sidecar that is killed is found by the pod's readiness, and the next one in the same pod
// overwrites what it left behind.
//
// Without a watch (`micro-sidecar list`, one look-up) the objects are listed for each question.

import SidecarCore

/// Threading: the loop of its environment, as all registries.
public final class KubernetesRegistry: DiagnosableRegistry, @unchecked Sendable {
  public let name: String
  public var mayForget: Bool { false }
  let api: KubernetesAPI
  private let driver: any HostDriver
  private let log: any LogSink
  private let garbage: GarbageLog
  private let content: WatchedServices
  private let reflector: KubernetesReflector
  private var task: Task<Void, Never>?
  /// What this process has registered, by key and version.
  private var own: [String: [String: Service]] = [:]
  /// Keys of `own` that are to be written.
  private var dirty: Set<String> = []
  private var isWriting = false
  private var waiting: [LoopGate] = []

  public init(environment: PluginEnvironment) throws(ConfigurationError) {
    let options = try KubernetesOptions(environment)
    driver = environment.driver
    log = environment.log
    name = "kubernetes:" + options.endpoints.map(\.description).joined(separator: "+")
    api = KubernetesAPI(options, driver: environment.driver)
    content = WatchedServices(driver: environment.driver, cause: "the API server has not answered yet")
    garbage = GarbageLog(registry: name, log: environment.log)
    reflector = KubernetesReflector(api, content: content, driver: environment.driver, garbage: garbage)
    reflector.onListed = { [weak self] in self?.restore() }
  }

  deinit { task?.cancel() }

  public var skipped: SkippedEntries { garbage.skipped(with: content) }

  // MARK: Reading

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    let found = content.outage == nil ? content[name] : try await listed()[name]
    if found.isEmpty { throw .notFound(name) }
    return found
  }

  public func list() async throws(RegistryError) -> [ServiceName] {
    content.outage == nil ? content.names : try await listed().names
  }

  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    if task == nil { task = startTask(on: driver) { [reflector] in await reflector.run() } }
    try await content.watch(scope, onEvent: onEvent)
  }

  /// What is there now, for one question.
  private func listed() async throws(RegistryError) -> WatchedServices {
    let now = WatchedServices(driver: driver, cause: "not listed yet")
    try await KubernetesReflector(api, content: now, driver: driver, garbage: garbage).list()
    return now
  }

  // MARK: Writing

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    guard api.options.mode == .pods else { throw .readOnly }
    guard let key = PodEntries.key(service.name) else {
      throw .invalid(
        "service \(service.name.prefix(80)) cannot be written to a pod: its name must have 1 to \(PodEntries.nameBytesMax) "
          + "bytes and end with a letter or digit")
    }
    guard !service.nodes.isEmpty else { return }
    var version = own[key]?[service.version] ?? service
    let new = Set(service.nodes.map(\.id))
    version.metadata = service.metadata
    version.endpoints = service.endpoints
    version.nodes = version.nodes.filter { !new.contains($0.id) } + Self.distinct(service.nodes)
    version.nodes.sort { $0.id < $1.id }
    own[key, default: [:]][service.version] = version
    if isWritten(key) { return }
    try await write(key)
  }

  public func deregister(_ service: Service) async throws(RegistryError) {
    guard api.options.mode == .pods else { throw .readOnly }
    guard let key = PodEntries.key(service.name) else { return }
    // What another process of this pod has left behind can be taken away too.
    var versions = own[key] ?? left(by: service.name)
    let ids = Set(service.nodes.map(\.id))
    let before = versions
    for version in versions.keys {
      versions[version]?.nodes.removeAll { ids.contains($0.id) }
      if versions[version]?.nodes.isEmpty == true { versions[version] = nil }
    }
    guard versions != before || dirty.contains(key) else { return }
    own[key] = versions
    try await write(key)
    if own[key]?.isEmpty == true { own[key] = nil }
  }

  private static func distinct(_ nodes: [Node]) -> [Node] {
    Dictionary(nodes.map { ($0.id, $0) }, uniquingKeysWith: { _, last in last }).values.sorted { $0.id < $1.id }
  }

  private func versions(_ key: String) -> [Service] {
    (own[key] ?? [:]).sorted { $0.key < $1.key }.map(\.value)
  }

  private func left(by name: ServiceName) -> [String: Service] {
    guard let pod = reflector.ownPod else { return [:] }
    let found = PodEntries.written(on: pod) { _, _ in }.filter { $0.name == name }
    return Dictionary(found.map { ($0.version, $0) }, uniquingKeysWith: { first, _ in first })
  }

  /// Whether the watch shows our pod with just what we want there.
  private func isWritten(_ key: String) -> Bool {
    guard content.outage == nil, !dirty.contains(key), let metadata = reflector.ownPod?["metadata"],
      metadata["labels"]?[PodEntries.typeLabel]?.stringValue == PodEntries.labelValue
    else { return false }
    return PodEntries.annotations(key, versions(key)).allSatisfy { name, value in
      metadata["annotations"]?[name]?.stringValue == value
    }
  }

  /// Another may have taken our entries away while we were not watching, or the cluster was set up from a backup.
  private func restore() {
    let missing = own.keys.filter { !isWritten($0) }
    guard !missing.isEmpty else { return }
    _ = startTask(on: driver) { [self] in
      for key in missing where own[key] != nil { try? await write(key) }
    }
  }

  /// Writes what `own` has under `key`, and all else that is to be written, in one patch. One at a time: two patches on
  /// their way could overtake each other.
  private func write(_ key: String) async throws(RegistryError) {
    dirty.insert(key)
    while isWriting {
      let gate = LoopGate(driver: driver)
      waiting.append(gate)
      guard await gate.wait() == .opened else {
        waiting.removeAll { $0 === gate }
        throw .unavailable("cancelled")
      }
    }
    // Whoever wrote before took ours along.
    guard dirty.contains(key) else { return }
    isWriting = true
    let keys = dirty
    dirty = []
    defer {
      isWriting = false
      let gates = waiting
      waiting = []
      for gate in gates { gate.open() }
    }
    do throws(RegistryError) {
      let content = keys.sorted().map { (key: $0, versions: versions($0)) }
      let reply = try await api.patchPod(PodEntries.patch(content, isLast: isEmpty(after: content)))
      guard reply.isSuccess else {
        throw api.failure(reply.status, reply.body, verb: "patch", at: reply.endpoint)
      }
    } catch {
      dirty.formUnion(keys)
      throw error
    }
  }

  /// Whether no entry is left on our pod once `content` is written; entries of others that share it count.
  private func isEmpty(after content: [(key: String, versions: [Service])]) -> Bool {
    guard content.allSatisfy(\.versions.isEmpty), own.values.allSatisfy(\.isEmpty) else { return false }
    let removed = Set(content.map { PodEntries.servicePrefix + $0.key })
    return !(reflector.ownPod?["metadata"]?["annotations"]?.objectValue ?? []).contains {
      $0.key.hasPrefix(PodEntries.servicePrefix) && !removed.contains($0.key)
        && !PodEntries.isWish($0.key, $0.value.stringValue ?? "")
    }
  }
}
