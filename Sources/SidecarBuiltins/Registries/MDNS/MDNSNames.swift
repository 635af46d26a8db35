// The DNS names of go-micro's mDNS registry (registry/mdns/mdns.go @ v0.14.0, registry/mdns_registry.go @ v1.18.0).
//
//   browse       S.D              go.micro.srv.greeter.micro      no `_tcp`, the name's dots part labels
//   instance     I.S.D            the id's dots part labels too
//   list         _services.D      instances S._services.D
//   enumeration  _services._dns-sd._udp.D
//
// D is `local` up to v1.9.1 and `micro` from v1.10.0. The two worlds never meet by themselves, so we live in both.

import SidecarCore

enum MDNSDomain: CaseIterable, Hashable, Sendable {
  /// go-micro up to v1.9.1.
  case local
  /// go-micro from v1.10.0.
  case micro

  var name: DNSName {
    switch self {
    case .local: Self.localName
    case .micro: Self.microName
    }
  }
  /// The name under which services are listed.
  var listName: DNSName {
    switch self {
    case .local: Self.localList
    case .micro: Self.microList
    }
  }
  /// The DNS-SD name under which service types are listed (RFC 6763 §9).
  var enumerationName: DNSName {
    switch self {
    case .local: Self.localEnumeration
    case .micro: Self.microEnumeration
    }
  }

  private static let localName = literal("local")
  private static let microName = literal("micro")
  private static let localList = literal("_services.local")
  private static let microList = literal("_services.micro")
  private static let localEnumeration = literal("_services._dns-sd._udp.local")
  private static let microEnumeration = literal("_services._dns-sd._udp.micro")

  private static func literal(_ text: StaticString) -> DNSName {
    guard let name = try? DNSName("\(text)") else { preconditionFailure("\(text) is a DNS name") }
    return name
  }

  /// `S.D`
  func browseName(_ service: ServiceName) throws(WireError) -> DNSName { try DNSName(service).appending(name) }
  /// `I.S.D`
  func instanceName(_ id: String, of service: ServiceName) throws(WireError) -> DNSName {
    try DNSName(id).appending(browseName(service))
  }
  /// `S._services.D`
  func listInstanceName(_ service: ServiceName) throws(WireError) -> DNSName {
    try DNSName(service).appending(listName)
  }
}

/// A node within the registry: go-micro's ids are unique within a service.
struct MDNSNodeKey: Hashable, Comparable, Sendable {
  var service: ServiceName
  var id: String

  static func < (a: MDNSNodeKey, b: MDNSNodeKey) -> Bool { (a.service, a.id) < (b.service, b.id) }
}
