import SidecarBuiltins
import SidecarCore
import SidecarUV

/// The sidecar a command talks to: the one that runs here, or one of the command's own.
final class SidecarPeer: @unchecked Sendable {
  private let driver: UVDriver
  private let address: SocketAddress
  private let own: Sidecar?

  private init(_ driver: UVDriver, _ address: SocketAddress, own: Sidecar?) {
    self.driver = driver
    self.address = address
    self.own = own
  }

  /// Errors: something answers where the sidecar should, but not as one; or a sidecar of our own cannot be started.
  static func find(_ settings: Settings, _ plugins: PluginTable, _ driver: UVDriver) async throws(LocalFailure)
    -> SidecarPeer
  {
    if let running = try await running(settings, driver) { return running }
    return try await start(settings, plugins, driver)
  }

  /// The sidecar that runs here; nil: none does. Errors: one was named and is not there, or is no sidecar.
  static func running(_ settings: Settings, _ driver: UVDriver) async throws(LocalFailure) -> SidecarPeer? {
    if let address = try await resolve(settings.commandTarget, driver) {
      do throws(LocalFailure) {
        _ = try await LocalRequest.send(driver, to: address, method: "GET", target: "/health", timeout: 2_000_000_000)
        return SidecarPeer(driver, address, own: nil)
      } catch {
        // A sidecar that was named has to be there; the default address may be free.
        guard error.isRefused, settings.proxyAddress == nil else {
          throw LocalFailure(message: "no sidecar at \(address): \(error.message)")
        }
      }
    }
    return nil
  }

  private static func resolve(_ target: Destination, _ driver: UVDriver) async throws(LocalFailure) -> SocketAddress? {
    switch target {
    case .address(let address):
      if case .unix = address { return address }
      return address.port == 0 ? nil : address
    case .name(let host, let port):
      let result = await withCheckedContinuation { continuation in
        driver.resolve(host: host) { continuation.resume(returning: LoopValue($0)) }
      }.value
      switch result {
      case .success(let addresses):
        guard var address = addresses.first else { throw LocalFailure(message: "\(host) has no address") }
        address.port = port
        return address
      case .failure(let error): throw LocalFailure(message: error.description)
      }
    }
  }

  private static func start(_ settings: Settings, _ plugins: PluginTable, _ driver: UVDriver)
    async throws(LocalFailure) -> SidecarPeer
  {
    var quiet = settings
    quiet.sidecarAddress = .loopback(port: 0)
    quiet.adminAddress = nil
    quiet.serverName = nil
    quiet.appAddress = nil
    quiet.workers = 1
    let sidecar: Sidecar
    do {
      sidecar = try Sidecar(
        settings: quiet, plugins: plugins, driver: driver, launcher: InlineLauncher(driver), log: WarningsOnly())
      let started = LoopValue(sidecar)
      await withCheckedContinuation { continuation in
        let once = LoopOnce { continuation.resume() }
        do throws(DriverError) {
          try started.value.start(onServing: { once.fire() }, onStopped: { _ in once.fire() })
        } catch {
          Terminal.error("\(error)\n")
          once.fire()
        }
      }
    } catch {
      throw LocalFailure(message: "\(error)")
    }
    guard sidecar.phase == .serving, let address = sidecar.appAddress else {
      throw LocalFailure(message: "cannot open a port on 127.0.0.1")
    }
    await sidecar.synced(within: 1_000_000_000)
    return SidecarPeer(driver, address, own: sidecar)
  }

  func send(
    _ method: StaticString, _ target: String, fields: [(String, String)] = [], body: [UInt8] = [],
    timeout: Int64 = 5_000_000_000
  ) async throws(LocalFailure) -> LocalReply {
    try await LocalRequest.send(
      driver, to: address, method: method, target: target, fields: fields, body: body, timeout: timeout)
  }

  func close() async {
    own?.shutdown(reason: "done")
  }
}

/// Calls its closure once, however often it is fired.
private final class LoopOnce {
  private var work: (() -> Void)?
  init(_ work: @escaping () -> Void) { self.work = work }
  func fire() {
    let work = work
    self.work = nil
    work?()
  }
}

/// What a command's own sidecar has to say on standard error.
private struct WarningsOnly: LogSink {
  var level: LogLevel { .warning }
  func log(
    _ level: LogLevel, _ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)]
  ) {
    guard level >= self.level else { return }
    let fields = fields().map { " \($0)=\($1)" }.joined()
    Terminal.error("\(message())\(fields)\n")
  }
}
