// The pushing half of a registry that knows its own content: each watch gets a snapshot, then every change in order. A
// reader too slow for its queue gets a new snapshot instead of the changes it missed.

import SidecarCore

/// Threading: the control loop only (`Sendable` so that watching tasks may hold it).
final class WatchHub: @unchecked Sendable {
  /// Changes waiting for one reader; when full they are dropped and a snapshot takes their place.
  static let queueMax = 1024
  /// Watches at a time; one more is refused.
  static let watchesMax = 1024

  private final class Reader: @unchecked Sendable {
    let scope: WatchScope
    var queue: [RegistryEvent] = []
    var needsSnapshot = true
    var failure: RegistryError?
    var waiting: CheckedContinuation<Void, Never>?
    init(_ scope: WatchScope) { self.scope = scope }

    func wake() { waiting.take()?.resume() }
  }

  private let mailbox: any Mailbox
  private var readers: [ObjectIdentifier: Reader] = [:]
  /// All services, as a snapshot shows them.
  var content: () -> [Service] = { [] }

  init(mailbox: any Mailbox) { self.mailbox = mailbox }

  var watchCount: Int { readers.count }

  /// Tells every watch whose scope the event touches.
  func publish(_ event: RegistryEvent) {
    for reader in readers.values {
      guard !reader.needsSnapshot, concerns(reader.scope, event) else { continue }
      if case .snapshot = event {
        reader.needsSnapshot = true
        reader.queue.removeAll()
      } else if reader.queue.count >= Self.queueMax {
        reader.needsSnapshot = true
        reader.queue.removeAll()
      } else {
        reader.queue.append(event)
      }
      reader.wake()
    }
  }

  /// Ends every watch with an error.
  func fail(_ error: RegistryError) {
    for reader in readers.values {
      reader.failure = error
      reader.wake()
    }
  }

  /// The body of `Registry.watch`.
  func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    guard readers.count < Self.watchesMax else {
      throw .refused("more than \(Self.watchesMax) watches of one registry")
    }
    let reader = Reader(scope)
    readers[ObjectIdentifier(reader)] = reader
    defer { readers[ObjectIdentifier(reader)] = nil }
    while true {
      if Task.isCancelled { throw .unavailable("cancelled") }
      if let failure = reader.failure { throw failure }
      if reader.needsSnapshot {
        reader.needsSnapshot = false
        await onEvent(.snapshot(snapshot(scope)))
      } else if !reader.queue.isEmpty {
        let events = reader.queue
        reader.queue.removeAll()
        for event in events {
          if Task.isCancelled { break }
          await onEvent(event)
          // A gap opened meanwhile: the rest is older than the snapshot that closes it.
          if reader.needsSnapshot { break }
        }
      } else {
        await next(reader)
      }
    }
  }

  private func next(_ reader: Reader) async {
    let mailbox = mailbox
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        // On the way here the task may have given the loop a turn, and what it waits for may have come.
        if reader.needsSnapshot || !reader.queue.isEmpty || reader.failure != nil || Task.isCancelled {
          continuation.resume()
        } else {
          reader.waiting = continuation
        }
      }
    } onCancel: {
      mailbox.post { reader.wake() }
    }
  }

  private func snapshot(_ scope: WatchScope) -> [Service] {
    switch scope {
    case .all: content()
    case .service(let name): content().filter { $0.name == name }
    }
  }

  private func concerns(_ scope: WatchScope, _ event: RegistryEvent) -> Bool {
    guard case .service(let name) = scope else { return true }
    switch event {
    case .snapshot: return true
    case .upsert(let service), .remove(let service): return service.name == name
    }
  }
}
