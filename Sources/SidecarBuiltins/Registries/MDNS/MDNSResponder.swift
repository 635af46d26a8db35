// The answering half of go-micro's mDNS registry, sans-IO: knows the nodes registered here, answers questions about
// them, announces them and takes them back.
//
//                 register                      0 s, +1 s, +2 s
//   (unknown) ───────────────▶ announcing ×3 ───────────────────▶ quiet ──┐ register with other values: announcing again
//       ▲                          │                               │  ▲   │ register with equal values: only the lease
//       └── goodbye, TTL 0 ◀───────┴── deregister, lease over ─────┘  └───┘ is renewed
//
// What it knows beyond RFC 6762, from go-micro's own responders and readers (wire/registry-broker.md §2):
// - Both domains, one packet for each instance: readers look only at the last instance of a packet.
// - Replies go unicast to the asker at once, whatever the QU bit says, with ID 0 unless that bit is set. Readers wait 100 ms
//   in all, so RFC 6762's random delay would lose.
// - The question is echoed: readers from v2.9.1 on drop replies without it. Announcements carry none: go-micro's
//   responders answer every packet that has a question, also a response.
// - SRV, then the addresses, then TXT: readers need the owner of an address announced by the SRV before it.
// - The cache-flush bit stays clear. The list entry `S._services.D` is answered for and never announced.

import SidecarCore

/// A node as it is published: all that goes into its records.
struct MDNSPublishedNode: Equatable, Sendable {
  var key: MDNSNodeKey
  /// SRV target and owner of the addresses; nil takes the instance's own name.
  var host: DNSName?
  var port: UInt16
  var ipv4: UInt32?
  var ipv6: IPv6?
  /// The TXT record's strings.
  var text: [[UInt8]]

  struct IPv6: Equatable, Sendable {
    var high: UInt64
    var low: UInt64
  }
}

struct MDNSResponder {
  /// Nodes registered here; one more is refused.
  static let nodesMaximum = 1024
  /// Replies sent within one second; what is above is not answered. The answer to a short question is long, so this
  /// bounds what someone can make us send to a forged address.
  static let repliesPerSecondMaximum = 4096
  /// Questions answered of one query; the rest is ignored. go-micro asks one.
  static let questionsMaximum = 32
  /// Seconds that a record may be kept (go-micro's 120).
  static let recordTTL: UInt32 = 120
  static let announcementCount = 3
  static let announcementInterval: Int64 = 1_000_000_000

  private struct Registration {
    var node: MDNSPublishedNode
    var names: [MDNSDomain: (browse: DNSName, instance: DNSName)]
    var expiry: Instant
    var announcementsLeft: Int
    var nextAnnouncement: Instant

    var due: Instant { announcementsLeft > 0 ? min(expiry, nextAnnouncement) : expiry }
  }

  /// What a question's name stands for.
  private enum Subject {
    case service(ServiceName, MDNSDomain)
    case instance(MDNSNodeKey, MDNSDomain)
    case list(MDNSDomain)
    case listInstance(ServiceName, MDNSDomain)
    case enumeration(MDNSDomain)
    case host
  }

  private var registrations: [MDNSNodeKey: Registration] = [:]
  /// The node ids of each service, sorted.
  private var idsByService: [ServiceName: [String]] = [:]
  private var services: [DNSName: (service: ServiceName, domain: MDNSDomain)] = [:]
  private var listInstances: [DNSName: (service: ServiceName, domain: MDNSDomain)] = [:]
  private var instances: [DNSName: (key: MDNSNodeKey, domain: MDNSDomain)] = [:]
  /// How many nodes each host name stands for.
  private var hosts: [DNSName: Int] = [:]
  /// When `advance` has something to do next; `.distantFuture` for never. May be too early, never too late.
  private(set) var nextDue: Instant = .distantFuture
  private var replyWindowStart = Instant(nanoseconds: 0)
  private var repliesInWindow = 0
  /// Replies not sent because of `repliesPerSecondMaximum`.
  private(set) var repliesSuppressed = 0

  init() {}

  var isEmpty: Bool { registrations.isEmpty }

  enum RegisterResult: Equatable {
    /// Only the lease was renewed.
    case unchanged
    /// New or changed: announcements are due.
    case published
    /// `nodesMaximum` nodes are registered already.
    case full
  }

  /// Publishes `node`; it leaves when `expiry` comes without another call. Throws when a name or the records do not fit DNS.
  mutating func register(_ node: MDNSPublishedNode, expiry: Instant, now: Instant) throws(WireError) -> RegisterResult {
    if registrations[node.key]?.node == node {
      registrations[node.key]?.expiry = expiry
      nextDue = min(nextDue, expiry)
      return .unchanged
    }
    guard registrations[node.key] != nil || registrations.count < Self.nodesMaximum else { return .full }
    var names: [MDNSDomain: (browse: DNSName, instance: DNSName)] = [:]
    for domain in MDNSDomain.allCases {
      let browse = try domain.browseName(node.key.service)
      names[domain] = (browse, try domain.instanceName(node.key.id, of: node.key.service))
      _ = try domain.listInstanceName(node.key.service)
      let question = DNSQuestion(browse, .ptr)
      _ = try Self.reply(to: question, id: 0, serviceRecords(node, browse: browse, instance: names[domain]!.instance))
        .bytes(compressed: false)
    }
    unindex(node.key)
    let registration = Registration(
      node: node, names: names, expiry: expiry, announcementsLeft: Self.announcementCount, nextAnnouncement: now)
    registrations[node.key] = registration
    index(registration)
    nextDue = min(nextDue, now)
    return .published
  }

  /// Takes a node back; the goodbyes to multicast, none for a node that is not registered.
  mutating func deregister(_ key: MDNSNodeKey) -> [[UInt8]] {
    unindex(key)
    guard let registration = registrations.removeValue(forKey: key) else { return [] }
    return Self.packets(registration, ttl: 0)
  }

  /// Every node registered here, sorted.
  var keys: [MDNSNodeKey] { registrations.keys.sorted() }

  /// Announces everything once more, soon: an interface came up that has heard nothing yet.
  mutating func announceAgain(now: Instant) {
    for (key, var registration) in registrations {
      registration.announcementsLeft = max(registration.announcementsLeft, 1)
      registration.nextAnnouncement = now
      registrations[key] = registration
      nextDue = min(nextDue, now)
    }
  }

  struct Due: Equatable {
    /// Announcements and goodbyes to multicast.
    var packets: [[UInt8]] = []
    /// Nodes whose lease is over.
    var expired: [MDNSNodeKey] = []
  }

  /// What time has made due.
  mutating func advance(to now: Instant) -> Due {
    var due = Due()
    guard nextDue <= now else { return due }
    for key in registrations.filter({ $0.value.due <= now }).keys.sorted() {
      guard var registration = registrations[key] else { continue }
      if registration.expiry <= now {
        due.expired.append(key)
        due.packets += deregister(key)
      } else {
        due.packets += Self.packets(registration, ttl: Self.recordTTL)
        registration.announcementsLeft -= 1
        registration.nextAnnouncement = now.advanced(byNanoseconds: Self.announcementInterval)
        registrations[key] = registration
      }
    }
    nextDue = registrations.values.reduce(.distantFuture) { min($0, $1.due) }
    return due
  }

  // MARK: Answering

  /// The packets to send to whoever sent `query`, each by itself.
  mutating func replies(to query: DNSMessage, now: Instant) -> [[UInt8]] {
    guard query.flags.isDisjoint(with: [.response, .operation]), !registrations.isEmpty else { return [] }
    var packets: [[UInt8]] = []
    for question in query.questions.prefix(Self.questionsMaximum) where question.isInternet {
      guard let subject = subject(of: question.name) else { continue }
      for records in answers(to: question, subject) where !records.isEmpty {
        let reply = Self.reply(to: question, id: question.wantsUnicast ? query.id : 0, records)
        // What was registered fits, so writing cannot fail but for an answer longer than a datagram.
        guard let bytes = try? reply.bytes(compressed: true) else { continue }
        guard takeReply(now) else { return packets }
        packets.append(bytes)
      }
    }
    return packets
  }

  private mutating func takeReply(_ now: Instant) -> Bool {
    if now.nanoseconds(since: replyWindowStart) >= 1_000_000_000 {
      replyWindowStart = now
      repliesInWindow = 0
    }
    guard repliesInWindow < Self.repliesPerSecondMaximum else {
      repliesSuppressed += 1
      return false
    }
    repliesInWindow += 1
    return true
  }

  private static func reply(to question: DNSQuestion, id: UInt16, _ records: [DNSRecord]) -> DNSMessage {
    DNSMessage(id: id, flags: [.response, .authoritative], questions: [question], answers: records)
  }

  /// The records that answer a question, a list for each packet.
  private func answers(to question: DNSQuestion, _ subject: Subject) -> [[DNSRecord]] {
    let type = question.type
    let asksPointer = type == .ptr || type == .any
    switch subject {
    case .service(let service, let domain):
      guard asksPointer else { return [] }
      return nodes(of: service).compactMap { registration in
        guard let names = registration.names[domain] else { return nil }
        return serviceRecords(registration.node, browse: names.browse, instance: names.instance)
      }
    case .instance(let key, let domain):
      guard let registration = registrations[key], let names = registration.names[domain] else { return [] }
      return [
        Self.records(registration.node, instance: names.instance, ttl: Self.recordTTL).filter { record in
          // As go-micro does: SRV brings the addresses along.
          type == .any || record.type == type || (type == .srv && (record.type == .a || record.type == .aaaa))
        }
      ]
    case .list(let domain):
      return asksPointer ? idsByService.keys.sorted().map { listRecords($0, domain, withPointer: true) } : []
    case .listInstance(let service, let domain):
      return [listRecords(service, domain, withPointer: false).filter { type == .any || $0.type == type }]
    case .enumeration(let domain):
      guard asksPointer else { return [] }
      let names = idsByService.keys.sorted().compactMap { try? domain.browseName($0) } + [domain.listName]
      return names.map { [DNSRecord(domain.enumerationName, ttl: Self.recordTTL, .ptr($0))] }
    case .host:
      var records: [DNSRecord] = []
      for registration in registrations.sorted(by: { $0.key < $1.key }).map(\.value) {
        guard registration.node.host == question.name else { continue }
        for record in Self.addresses(registration.node, owner: question.name, ttl: Self.recordTTL)
        where record.type == type && !records.contains(record) && records.count < 64 {
          records.append(record)
        }
      }
      return [records]
    }
  }

  private func nodes(of service: ServiceName) -> [Registration] {
    (idsByService[service] ?? []).compactMap { registrations[MDNSNodeKey(service: service, id: $0)] }
  }

  private func serviceRecords(_ node: MDNSPublishedNode, browse: DNSName, instance: DNSName) -> [DNSRecord] {
    [DNSRecord(browse, ttl: Self.recordTTL, .ptr(instance))]
      + Self.records(node, instance: instance, ttl: Self.recordTTL)
  }

  /// go-micro's list entry: a whole set of records, of which readers use the names only.
  private func listRecords(_ service: ServiceName, _ domain: MDNSDomain, withPointer: Bool) -> [DNSRecord] {
    guard let instance = try? domain.listInstanceName(service) else { return [] }
    let ttl = Self.recordTTL
    let host = nodes(of: service).first?.node.host ?? instance
    let records = [
      DNSRecord(instance, ttl: ttl, .srv(priority: 10, weight: 1, port: 9999, target: host)),
      DNSRecord(host, ttl: ttl, .a(0)), DNSRecord(instance, ttl: ttl, .txt([])),
    ]
    return withPointer ? [DNSRecord(domain.listName, ttl: ttl, .ptr(instance))] + records : records
  }

  private static func records(_ node: MDNSPublishedNode, instance: DNSName, ttl: UInt32) -> [DNSRecord] {
    let host = node.host ?? instance
    return [DNSRecord(instance, ttl: ttl, .srv(priority: 10, weight: 1, port: node.port, target: host))]
      + addresses(node, owner: host, ttl: ttl) + [DNSRecord(instance, ttl: ttl, .txt(node.text))]
  }

  private static func addresses(_ node: MDNSPublishedNode, owner: DNSName, ttl: UInt32) -> [DNSRecord] {
    var records: [DNSRecord] = []
    if let address = node.ipv4 { records.append(DNSRecord(owner, ttl: ttl, .a(address))) }
    if let address = node.ipv6 {
      records.append(DNSRecord(owner, ttl: ttl, .aaaa(high: address.high, low: address.low)))
    }
    return records
  }

  /// The unsolicited responses of a node, one for each domain; uncompressed and without the AA flag, as recorded.
  private static func packets(_ registration: Registration, ttl: UInt32) -> [[UInt8]] {
    MDNSDomain.allCases.compactMap { domain in
      guard let names = registration.names[domain] else { return nil }
      let records = records(registration.node, instance: names.instance, ttl: ttl)
      return try? DNSMessage(flags: .response, answers: records).bytes(compressed: false)
    }
  }

  // MARK: Names

  /// What a name stands for; where two have the same, the service comes before the list's entry, a node and a host.
  private func subject(of name: DNSName) -> Subject? {
    for domain in MDNSDomain.allCases {
      if name == domain.listName { return .list(domain) }
      if name == domain.enumerationName { return .enumeration(domain) }
    }
    if let (service, domain) = services[name] { return .service(service, domain) }
    if let (service, domain) = listInstances[name] { return .listInstance(service, domain) }
    if let (key, domain) = instances[name] { return .instance(key, domain) }
    return hosts[name] == nil ? nil : .host
  }

  private mutating func index(_ registration: Registration) {
    let key = registration.node.key
    var ids = idsByService[key.service] ?? []
    ids.insert(key.id, at: ids.firstIndex { $0 > key.id } ?? ids.endIndex)
    idsByService[key.service] = ids
    for (domain, names) in registration.names {
      services[names.browse] = (key.service, domain)
      instances[names.instance] = (key, domain)
      if let name = try? domain.listInstanceName(key.service) { listInstances[name] = (key.service, domain) }
    }
    if let host = registration.node.host { hosts[host, default: 0] += 1 }
  }

  private mutating func unindex(_ key: MDNSNodeKey) {
    guard let registration = registrations[key] else { return }
    idsByService[key.service]?.removeAll { $0 == key.id }
    let isLast = idsByService[key.service]?.isEmpty ?? true
    if isLast { idsByService[key.service] = nil }
    for (domain, names) in registration.names {
      instances[names.instance] = nil
      guard isLast else { continue }
      services[names.browse] = nil
      if let name = try? domain.listInstanceName(key.service) { listInstances[name] = nil }
    }
    if let host = registration.node.host, let count = hosts[host] { hosts[host] = count > 1 ? count - 1 : nil }
  }
}
