// What a DNS response says about go-micro services. More patient than go-micro's reader: it takes every instance of a packet,
// in any order of records, with or without a question, and tells a node by the service named in its TXT record, so that the
// announcements of one domain never turn into ghosts in the other.

import SidecarCore

struct MDNSReply: Equatable {
  /// Nodes that are there: services with one node each.
  var found: [Service] = []
  /// Nodes that say goodbye (TTL 0).
  var gone: [MDNSNodeKey] = []
  /// Names of services, from replies about the list.
  var listed: [ServiceName] = []
  /// Entries of go-micro's domains that make no sense, and why.
  var garbage: [Garbage] = []

  struct Garbage: Equatable {
    var name: String
    var reason: String
  }

  /// Nothing for a message that is no response, or one about other names than ours: other mDNS traffic is no garbage.
  init(_ message: DNSMessage) {
    guard message.flags.contains(.response) else { return }
    let records = message.answers + message.additionals
    var addresses: [DNSName: (ipv4: UInt32?, ipv6: SocketAddress?)] = [:]
    var texts: [DNSName: [[UInt8]]] = [:]
    for record in records where record.classAndFlush & 0x7FFF == DNSRecord.classInternet {
      switch record.data {
      case .a(let address) where address != 0: addresses[record.name, default: (nil, nil)].ipv4 = address
      case .aaaa(let high, let low) where high | low != 0:
        addresses[record.name, default: (nil, nil)].ipv6 = .ipv6(high: high, low: low, zone: 0, port: 0)
      case .txt(let strings): texts[record.name] = strings
      case .ptr(let instance):
        for domain in MDNSDomain.allCases where record.name == domain.listName && record.ttl > 0 {
          if let service = instance.prefix(before: domain.listName) { listed.append(service) }
        }
      case .a, .aaaa, .cname, .srv, .other: break
      }
    }
    for record in records where record.classAndFlush & 0x7FFF == DNSRecord.classInternet {
      guard case .srv(_, _, let port, let target) = record.data else { continue }
      for domain in MDNSDomain.allCases
      where record.name.prefix(before: domain.name) != nil && record.name.prefix(before: domain.listName) == nil {
        read(
          record, domain, port: port, addresses: addresses[target] ?? addresses[record.name] ?? (nil, nil),
          text: texts[record.name])
      }
    }
  }

  private mutating func read(
    _ record: DNSRecord, _ domain: MDNSDomain, port: UInt16, addresses: (ipv4: UInt32?, ipv6: SocketAddress?),
    text: [[UInt8]]?
  ) {
    // Without TXT it may be any other mDNS service of `local`, printers for instance.
    guard let text, text.first?.isEmpty == false, Self.looksLikeOurs(text) else { return }
    let payload: MDNSPayload
    do {
      payload = try MDNSPayload(strings: text)
    } catch {
      garbage.append(Garbage(name: record.name.description, reason: error.description))
      return
    }
    guard let browse = try? domain.browseName(payload.service), let id = record.name.prefix(before: browse) else {
      garbage.append(
        Garbage(name: record.name.description, reason: "its record names another service: \(payload.service)"))
      return
    }
    let key = MDNSNodeKey(service: payload.service, id: id)
    if record.ttl == 0 {
      gone.append(key)
      return
    }
    guard port > 0 else {
      garbage.append(Garbage(name: record.name.description, reason: "port 0"))
      return
    }
    // go-micro's own order of preference (util/mdns @ v2.8): A, else AAAA.
    var address: SocketAddress
    if let ipv4 = addresses.ipv4 {
      address = .ipv4(address: ipv4, port: port)
    } else if let ipv6 = addresses.ipv6 {
      address = ipv6
      address.port = port
    } else {
      garbage.append(Garbage(name: record.name.description, reason: "no address"))
      return
    }
    found.append(
      Service(
        name: payload.service, version: payload.version, endpoints: payload.endpoints,
        nodes: [Node(id: id, address: address.description, metadata: payload.metadata)]))
  }

  /// Every payload of go-micro begins with the two bytes of a zlib stream, in hexadecimal; other services of `local` write
  /// `key=value`.
  private static func looksLikeOurs(_ text: [[UInt8]]) -> Bool {
    text.first?.starts(with: [UInt8(ascii: "7"), UInt8(ascii: "8")]) == true
  }
}
