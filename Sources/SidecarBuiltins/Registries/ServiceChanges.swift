// What changed between two pictures of one service, as a registry's watch tells it: for registries whose servers say that
// something changed, but not what.

import SidecarCore

enum ServiceChanges {
  /// The events that turn `old` into `new`: both hold versions of services, each version once, with nodes sorted or not.
  /// None when they are equal but for order.
  static func events(from old: [Service], to new: [Service]) -> [RegistryEvent] {
    var events: [RegistryEvent] = []
    for after in new {
      guard let before = old.first(where: { $0.name == after.name && $0.version == after.version }) else {
        events.append(.upsert(after))
        continue
      }
      if before == after { continue }
      let known = byID(before.nodes)
      let kept = byID(after.nodes)
      var changed = after
      if before.metadata == after.metadata, before.endpoints == after.endpoints {
        changed.nodes.removeAll { known[$0.id] == $0 }
      }
      var gone = before
      gone.nodes.removeAll { kept[$0.id] != nil }
      if !gone.nodes.isEmpty { events.append(.remove(gone)) }
      if !changed.nodes.isEmpty { events.append(.upsert(changed)) }
    }
    for before in old where !new.contains(where: { $0.name == before.name && $0.version == before.version }) {
      events.append(.remove(before))
    }
    return events
  }

  private static func byID(_ nodes: [Node]) -> [String: Node] {
    Dictionary(nodes.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
  }
}
