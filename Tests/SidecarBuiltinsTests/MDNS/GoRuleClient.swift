import SidecarCore

/// What a go-micro client makes of reply packets: its assembly rule, written from the description of its behaviour (the
/// table by name, the link from SRV target to instance, and the look at only the last entry a packet touched).
struct GoRuleClient {
  enum Generation: CaseIterable {
    /// v0.14 … v2.7: A records only, replies without question accepted.
    case v014
    /// v2.8 … v2.9.0: A, else AAAA.
    case v28
    /// v2.9.1 … v6: also drops replies whose first question is another name.
    case v291

    var domain: String { self == .v014 ? "local" : "micro" }
  }

  struct Entry: Equatable {
    var name: String
    var host: String = ""
    var port: UInt16 = 0
    var ipv4: String?
    var ipv6: String?
    var text: [[UInt8]] = []
    var hasText = false
    var ttl: UInt32 = 0
  }

  struct FoundNode: Equatable {
    var id: String
    var address: String
    var payload: MDNSPayloadFields
  }
  struct MDNSPayloadFields: Equatable {
    var service: String
    var version: String
  }

  let generation: Generation
  let service: String

  /// The nodes that replies to the question for `service` give, in order of arrival; `decode` reads a TXT record.
  func nodes(_ packets: [DNSMessage], decode: ([[UInt8]]) -> MDNSPayloadFields?) -> [FoundNode] {
    let browse = "\(service).\(generation.domain)."
    // Entries are shared between names, as Go's pointers are.
    var slots: [Entry] = []
    var table: [String: Int] = [:]
    var sent: Set<Int> = []
    var found: [FoundNode] = []
    func slot(_ name: String) -> Int {
      if let known = table[name] { return known }
      slots.append(Entry(name: name))
      table[name] = slots.count - 1
      return slots.count - 1
    }
    for packet in packets {
      if generation == .v291, packet.questions.first.map({ "\($0.name)." }) != browse { continue }
      var last: Int?
      for record in packet.answers + packet.additionals {
        let owner = "\(record.name)."
        switch record.data {
        case .ptr(let target): last = slot("\(target).")
        case .srv(_, _, let port, let target):
          if "\(target)." != owner { table["\(target)."] = slot(owner) }
          last = slot(owner)
          slots[last!].host = "\(target)."
          slots[last!].port = port
        case .txt(let strings):
          last = slot(owner)
          slots[last!].text = strings
          slots[last!].hasText = true
        case .a(let address):
          last = slot(owner)
          slots[last!].ipv4 = SocketAddress.ipv4(address: address, port: 0).host
        case .aaaa(let high, let low):
          last = slot(owner)
          slots[last!].ipv6 = SocketAddress.ipv6(high: high, low: low, zone: 0, port: 0).host
        case .cname, .other: break
        }
        if let last { slots[last].ttl = record.ttl }
      }
      guard let last, !sent.contains(last) else { continue }
      let entry = slots[last]
      guard entry.ipv4 != nil || entry.ipv6 != nil, entry.port != 0, entry.hasText else { continue }
      sent.insert(last)
      guard entry.ttl > 0, let payload = decode(entry.text), payload.service == service else { continue }
      let address: String
      switch generation {
      case .v014: address = entry.ipv4 ?? "<nil>"
      case .v28, .v291: address = entry.ipv4 ?? "[\(entry.ipv6!)]"
      }
      let suffix = "." + browse
      let id = entry.name.hasSuffix(suffix) ? String(entry.name.dropLast(suffix.count)) : entry.name
      found.append(FoundNode(id: id, address: "\(address):\(entry.port)", payload: payload))
    }
    return found
  }
}
