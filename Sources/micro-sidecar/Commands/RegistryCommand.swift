// `register` and `deregister`: a sidecar that runs here does it, as it does for `POST /registry`; where none runs the
// registries are written directly, as `micro register` did (micro toolkit internal/command/cli/command.go @ v0.16.0).

import SidecarBuiltins
import SidecarCore
import SidecarUV

extension ClientCommand {
  /// Nanoseconds one registry may take.
  private static let writeLimit: Int64 = 5_000_000_000

  func register(_ service: Service, _ driver: UVDriver) async throws(LocalFailure) {
    if let peer = try await SidecarPeer.running(settings, driver) { return try await send("POST", service, peer) }
    if let problem = LeaseTable.problem(with: service) { return fail(problem.description) }
    try await write(driver) { (registry) throws(RegistryError) in
      guard registry.keepsEntries else {
        throw .invalid("\(registry.name) keeps an entry only as long as who wrote it runs: start a sidecar first")
      }
      try await registry.register(service, ttl: nil)
    }
  }

  func deregister(_ service: Service, _ driver: UVDriver) async throws(LocalFailure) {
    if let peer = try await SidecarPeer.running(settings, driver) { return try await send("DELETE", service, peer) }
    guard !service.nodes.isEmpty else { return fail(LeaseTable.namesNoNodes.description) }
    try await write(driver) { (registry) throws(RegistryError) in try await registry.deregister(service) }
  }

  private func send(_ method: StaticString, _ service: Service, _ peer: SidecarPeer) async throws(LocalFailure) {
    let body = ByteBuffer()
    service.json().write(into: body)
    let reply = try await peer.send(
      method, "/registry", fields: [("Content-Type", "application/json")], body: Array(body.bytes))
    if reply.status == 200 { Terminal.print("ok\n") } else { fail(reply) }
  }

  /// Does it in every registry that can be written; one that says no fails the command.
  private func write(
    _ driver: UVDriver, _ work: @escaping @Sendable (any Registry) async throws(RegistryError) -> Void
  ) async throws(LocalFailure) {
    var isWritten = false
    for choice in settings.registries {
      let registry: any Registry
      do throws(ConfigurationError) {
        registry = try plugins.makeRegistry(choice, settings, driver: driver, log: NoLog())
      } catch {
        throw LocalFailure(message: error.message)
      }
      do throws(RegistryError) {
        try await driver.limited(nanoseconds: Self.writeLimit) { () async throws(RegistryError) in
          try await work(registry)
        }
        isWritten = true
      } catch {
        if error != .readOnly { return fail("registry \(choice.shown): \(error)") }
      }
    }
    if isWritten { Terminal.print("ok\n") } else { fail("none of the registries can be written") }
  }
}
