/// Carries catalog deltas to one worker, one message at a time: while a message is under way further deltas are merged
/// into the next, so a slow worker costs one pending delta however fast registries flap.
///
/// A message with many nodes is taken over in parts, one a turn of the worker's loop, so that a whole registry that arrives
/// at once does not hold up calls.
///
/// Threading: made and fed on the control loop; `deliver` runs on the worker's loop.
package final class CatalogFeed: @unchecked Sendable {
  /// Nodes taken over in one turn of a worker's loop; a service with more is taken whole.
  package static let nodesPerTurn = 50

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
    deliver(delta.parts(nodesMax: Self.nodesPerTurn), from: 0)
  }

  /// Called on the control loop for the first part, then on the worker's, where a post waits for the next turn.
  private func deliver(_ parts: [CatalogDelta], from index: Int) {
    worker.post { [self] in
      deliver(parts[index])
      if index + 1 < parts.count {
        deliver(parts, from: index + 1)
      } else {
        control.post { [self] in delivered() }
      }
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
