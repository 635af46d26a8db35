// What the objects of a registry say together: an object (a pod, an EndpointSlice, an instance) says a few services, and two
// objects may say the same node, such as the IPv4 and the IPv6 slice of one pod. It stays until the last of them has left.

import SidecarCore

/// Threading: the control loop only.
final class SaidServices {
  private let content: WatchedServices
  private var said: [String: [Service]] = [:]
  /// Which objects say a node.
  private var sayers: [ServiceName: [String: [String]]] = [:]

  init(_ content: WatchedServices) { self.content = content }

  var keys: [String] { Array(said.keys) }

  /// What the object `key` says from now on; nothing: it is gone.
  func set(_ key: String, _ services: [Service]) {
    let old = said[key] ?? []
    if old == services { return }
    said[key] = services.isEmpty ? nil : services
    let kept = Set(services.flatMap { service in service.nodes.map { service.name + "\n" + $0.id } })
    for service in services {
      for node in service.nodes where !(sayers[service.name]?[node.id]?.contains(key) ?? false) {
        sayers[service.name, default: [:]][node.id, default: []].append(key)
      }
      // The one that said it first is believed.
      var own = service
      own.nodes.removeAll { sayers[service.name]?[$0.id]?.first != key }
      content.put(own)
    }
    for service in old {
      var gone: [String] = []
      for node in service.nodes where !kept.contains(service.name + "\n" + node.id) {
        var rest = sayers[service.name]?[node.id] ?? []
        let wasFirst = rest.first == key
        rest.removeAll { $0 == key }
        sayers[service.name]?[node.id] = rest.isEmpty ? nil : rest
        if rest.isEmpty { gone.append(node.id) } else if wasFirst { restore(node.id, of: service.name, from: rest[0]) }
      }
      if sayers[service.name]?.isEmpty == true { sayers[service.name] = nil }
      content.remove(gone, of: service.name)
    }
  }

  private func restore(_ id: String, of name: ServiceName, from key: String) {
    for service in said[key] ?? [] where service.name == name {
      var part = service
      part.nodes.removeAll { $0.id != id }
      content.put(part)
    }
  }
}
