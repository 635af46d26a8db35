// The `file` registry: services from a file, which is watched. The form is described in `ServiceFile`.
//
//   sound ── changed to something bad, or gone ──▶ outage (the last good content stays) ── good again ──▶ sound
//
// An outage ends the watches with an error, so that it is told and shown like that of any registry; a watch begun during
// an outage waits for its end.

import SidecarCore

/// Threading: the loop of its environment, as all registries.
public final class FileRegistry: Registry, @unchecked Sendable {
  /// Bytes of the file; more is an error.
  public static let fileBytesMax = YAML.bytesMax
  /// Nanoseconds between the first sign of a change and the reading: an editor empties a file before it fills it.
  static let settleNanoseconds: Int64 = 100_000_000

  public let name: String
  public var mayForget: Bool { false }
  private let path: String
  private let driver: any HostDriver
  private let log: any LogSink
  private let hub: WatchHub
  private var services: [Service] = []
  /// Why the file cannot be used now; nil while it is sound.
  private var outage: String?
  private var watch: (any FileWatch)?
  private var timer: LoopTimer?
  private var waiting: [ObjectIdentifier: Waiter] = [:]

  /// Reads the file: one that is missing or bad is a `ConfigurationError` that names it.
  public init(environment: PluginEnvironment) throws(ConfigurationError) {
    guard let path = environment.argument, !path.isEmpty else {
      throw ConfigurationError("registry file needs a path: expected file:services.yaml")
    }
    self.path = path
    name = "file:" + path
    driver = environment.driver
    log = environment.log
    hub = WatchHub(mailbox: environment.driver.mailbox)
    services = try Self.read(path, driver)
    hub.content = { [unowned self] in services }
    timer = LoopTimer { [unowned self] in reload() }
    do throws(DriverError) {
      watch = try driver.watchFile(path) { [weak self] in self?.changed() }
    } catch {
      throw ConfigurationError("registry file \(path) cannot be watched: \(error.message)")
    }
  }

  deinit {
    timer?.cancel()
    watch?.cancel()
  }

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) { throw .readOnly }
  public func deregister(_ service: Service) async throws(RegistryError) { throw .readOnly }

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    let found = services.filter { $0.name == name && !$0.nodes.isEmpty }
    if found.isEmpty { throw .notFound(name) }
    return found
  }

  public func list() async throws(RegistryError) -> [ServiceName] {
    Set(services.lazy.filter { !$0.nodes.isEmpty }.map(\.name)).sorted()
  }

  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    while outage != nil {
      if Task.isCancelled { throw .unavailable("cancelled") }
      await endOfOutage()
    }
    try await hub.watch(scope, onEvent: onEvent)
  }

  // MARK: The file

  private static func read(_ path: String, _ driver: any HostDriver) throws(ConfigurationError) -> [Service] {
    let bytes: [UInt8]
    do throws(DriverError) {
      bytes = try driver.readFile(path, limit: fileBytesMax)
    } catch {
      throw ConfigurationError("registry file \(path): \(error.message)")
    }
    do throws(ConfigurationError) {
      return try ServiceFile(try tree(bytes)).services
    } catch {
      throw ConfigurationError("registry file \(path): \(error.message)")
    }
  }

  private static func tree(_ bytes: [UInt8]) throws(ConfigurationError) -> JSONValue {
    do throws(YAMLError) { return try YAML.parse(bytes) } catch { throw ConfigurationError(error.description) }
  }

  private func changed() {
    guard let timer, !timer.isArmed else { return }
    driver.timers.arm(timer, after: Self.settleNanoseconds, from: driver.now)
  }

  private func reload() {
    let new: [Service]
    do throws(ConfigurationError) {
      new = try Self.read(path, driver)
    } catch {
      guard outage != error.message else { return }
      outage = error.message
      log.error("\(error.message); the last good content stays in use")
      hub.fail(.unavailable(error.message))
      return
    }
    let wasOut = outage != nil
    outage = nil
    if new != services {
      services = new
      log.info("registry \(name) was read again", [("services", "\(Set(new.map(\.name)).count)")])
      hub.publish(.snapshot(new))
    }
    guard wasOut else { return }
    let ended = waiting.values
    waiting.removeAll()
    for waiter in ended { waiter.wake() }
  }

  // MARK: Waiting for the end of an outage

  private final class Waiter: @unchecked Sendable {
    var continuation: CheckedContinuation<Void, Never>?
    func wake() { continuation.take()?.resume() }
  }

  private func endOfOutage() async {
    let waiter = Waiter()
    waiting[ObjectIdentifier(waiter)] = waiter
    let mailbox = driver.mailbox
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        // On the way here the task may have given the loop a turn.
        if outage == nil || Task.isCancelled { continuation.resume() } else { waiter.continuation = continuation }
      }
    } onCancel: {
      mailbox.post { waiter.wake() }
    }
    waiting[ObjectIdentifier(waiter)] = nil
  }
}
