// The `mdns` registry: go-micro's default since v0.21, compatible with v0.14 to v6. Nothing to install: sidecars and
// go-micro services of one network find each other, and sidecars of one host also where multicast does not work.

import SidecarCore

/// The mDNS registry. Any task may call it; its work is done on the control loop.
///
/// Beyond the `Registry` contract: a service's own metadata reaches only sidecars of this host, since go-micro's records have
/// no place for it. Nodes keep their registration on the network for as long as this process lives; peers learn of its
/// death by asking. A node needs `host:port`; one bound to all addresses is published with the one go-micro would choose.
public final class MDNSRegistry: DiagnosableRegistry {
  public let name = "mdns"
  private let runner: LoopConfined<MDNSRunner>
  private let mailbox: any Mailbox

  /// Call it on the control loop. Opens nothing yet. Errors: a setting that is not known.
  public convenience init(environment: PluginEnvironment) throws(ConfigurationError) {
    self.init(environment, try MDNSOptions(argument: environment.argument))
  }

  init(_ environment: PluginEnvironment, _ options: MDNSOptions) {
    runner = LoopConfined(MDNSRunner(driver: environment.driver, log: environment.log, options: options))
    mailbox = environment.driver.mailbox
  }

  public var keepsEntries: Bool { false }
  public var skipped: SkippedEntries { runner.value.skipped }

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) {
    try await perform { runner, _, done in runner.register(service, ttl: ttl, done) }
  }

  public func deregister(_ service: Service) async throws(RegistryError) {
    try await perform { runner, _, done in
      runner.deregister(service)
      done(.success(()))
    }
  }

  public func release(_ service: Service) { runner.value.release(service) }

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    try await perform { runner, call, done in call.token = runner.lookup(name, done) }
  }

  public func list() async throws(RegistryError) -> [ServiceName] {
    try await perform { runner, call, done in call.token = runner.list(done) }
  }

  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    let token: MDNSToken = try await perform { runner, _, done in runner.watch(scope, done) }
    defer { mailbox.post { [runner] in runner.value.unwatch(token) } }
    while true {
      let event: RegistryEvent = try await perform { runner, call, done in
        call.token = token
        runner.nextEvent(token, done)
      }
      await onEvent(event)
    }
  }

  /// What works and what does not, after a test of half a second. Errors: `.unavailable` when closed or cancelled.
  public func diagnose() async throws(RegistryError) -> [Diagnosis] {
    try await perform { runner, _, done in runner.diagnose(done) }
  }

  /// Says goodbye for everything registered here and ends every call. Twice is once; no call works afterwards.
  public func close() async {
    await withCheckedContinuation { continuation in
      mailbox.post { [runner] in
        runner.value.close()
        continuation.resume()
      }
    }
  }

  /// Runs `start` on the loop and waits for its answer, or for the task's cancellation, whichever comes first.
  private func perform<Value: Sendable>(
    _ start: @escaping @Sendable (MDNSRunner, MDNSCall, @escaping MDNSRunner.Answer<Value>) -> Void
  ) async throws(RegistryError) -> Value {
    let call = LoopConfined(MDNSCall())
    let result = await withTaskCancellationHandler {
      await withCheckedContinuation { (continuation: CheckedContinuation<Result<Value, RegistryError>, Never>) in
        mailbox.post { [runner] in
          let call = call.value
          let answer = { (result: Result<Value, RegistryError>) in
            guard !call.isOver else { return }
            call.isOver = true
            call.onCancel = nil
            continuation.resume(returning: result)
          }
          if call.isCancelled { return answer(.failure(.unavailable("cancelled"))) }
          call.onCancel = { answer(.failure(.unavailable("cancelled"))) }
          start(runner.value, call, answer)
        }
      }
    } onCancel: {
      mailbox.post { [runner] in
        call.value.isCancelled = true
        if let token = call.value.token { runner.value.cancel(token) }
        call.value.onCancel?()
      }
    }
    return try result.get()
  }
}

/// One call under way. Loop-confined.
fileprivate final class MDNSCall {
  var token: MDNSToken?
  var isCancelled = false
  var isOver = false
  var onCancel: (() -> Void)?
}

/// Carries something across threads that is touched on the control loop only.
fileprivate struct LoopConfined<Value>: @unchecked Sendable {
  let value: Value
  init(_ value: Value) { self.value = value }
}
