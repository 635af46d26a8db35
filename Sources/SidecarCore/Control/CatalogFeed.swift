/// Carries catalog deltas to one worker, one message at a time: while a message is under way further deltas are merged
/// into the next, so a slow worker costs one pending delta however fast registries flap.
///
/// Threading: made and fed on the control loop; `deliver` runs on the worker's loop.
package final class CatalogFeed: @unchecked Sendable {
  private let worker: any Mailbox
  private let control: any Mailbox
  private let deliver: @Sendable (CatalogDelta) -> Void
  private var underWay = false
  private var revision: UInt64 = 0
  /// What waits for the message under way, by name; nil means removed.
  private var pending: [ServiceName: ServiceEntry?] = [:]

  package init(worker: any Mailbox, control: any Mailbox, deliver: @escaping @Sendable (CatalogDelta) -> Void) {
    self.worker = worker
    self.control = control
    self.deliver = deliver
  }

  package func send(_ delta: CatalogDelta) {
    guard !delta.isEmpty else { return }
    if !underWay {
      post(delta)
      return
    }
    revision = delta.revision
    for entry in delta.changed { pending[entry.name] = .some(entry) }
    for name in delta.removed { pending[name] = .some(nil) }
  }

  private func post(_ delta: CatalogDelta) {
    underWay = true
    worker.post { [self] in
      deliver(delta)
      control.post { [self] in delivered() }
    }
  }

  private func delivered() {
    underWay = false
    guard !pending.isEmpty else { return }
    var delta = CatalogDelta(revision: revision)
    for (name, entry) in pending {
      if let entry { delta.changed.append(entry) } else { delta.removed.append(name) }
    }
    pending.removeAll()
    post(delta)
  }
}
