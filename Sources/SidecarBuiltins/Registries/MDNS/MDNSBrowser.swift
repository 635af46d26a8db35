// The asking half of go-micro's mDNS registry, sans-IO: lookups, lists, and what watchers know.
//
// A lookup asks in both domains at 0, 60, 200 and 450 ms, until it is answered:
//
//               first node                 quiet for 2 ms, or 20 ms after the first node
//   asking ───────────────────▶ lingering ──────────────────────────────────────────────▶ answered
//     │                             └── every node a watch knows of has answered ─────────────▲
//     └── 500 ms without an answer ─────────────────────────────────────────────────────▶ not found
//
// go-micro asks once and always waits 100 ms. A live responder answers in under a millisecond, so the linger only
// collects its siblings; whoever is slower reaches the catalog through the watch.
//
// `MDNSBrowser+Watch.swift` has the table of nodes behind `watch`. Nodes known without asking (the rendezvous folder of
// this host) are handed in by `updateLocal` and come before what the network says of the same id.

import SidecarCore

enum MDNSBrowserAction: Equatable {
  /// Multicast a question for each name (PTR), from the ephemeral sockets.
  case ask([DNSName])
  /// A lookup is over; no services means not found.
  case lookedUp(MDNSToken, [Service])
  case listed(MDNSToken, [ServiceName])
  case event(MDNSToken, RegistryEvent)
}

/// Tells the calls of one registry apart.
struct MDNSToken: Hashable, Sendable {
  var number: UInt64
}

struct MDNSBrowser {
  /// When a lookup asks, counted from its start.
  static let lookupAsks: [Int64] = [0, 60_000_000, 200_000_000, 450_000_000]
  /// When a lookup without an answer gives up.
  static let lookupTimeout: Int64 = 500_000_000
  /// Silence after an answer that ends a lookup, and the longest wait for it.
  static let lingerQuiet: Int64 = 2_000_000
  static let lingerMaximum: Int64 = 20_000_000
  /// When a list asks; it ends after `listQuiet` without a new name, at `listTimeout` at the latest.
  static let listAsks: [Int64] = [0, 60_000_000, 150_000_000]
  static let listQuiet: Int64 = 100_000_000
  static let listTimeout: Int64 = 300_000_000
  /// Lookups and lists under way; one more is refused.
  static let pendingMaximum = 1024
  /// Nodes collected by one lookup; further ones are left out.
  static let lookupNodesMaximum = 1024
  /// Names collected by one list.
  static let listNamesMaximum = 4096

  struct Waiter: Equatable {
    var token: MDNSToken
    var deadline: Instant
  }

  struct Lookup {
    var names: [DNSName]
    var started: Instant
    var asksDone = 0
    var waiters: [Waiter]
    var found: [String: Service] = [:]
    var firstFound: Instant?
    var lastFound: Instant?

    var nextAsk: Instant {
      // Nodes of the rendezvous do not spare the first question.
      guard asksDone < MDNSBrowser.lookupAsks.count, asksDone == 0 || found.isEmpty else { return .distantFuture }
      return started.advanced(byNanoseconds: MDNSBrowser.lookupAsks[asksDone])
    }
    /// When what was found is the answer.
    var settled: Instant {
      guard let firstFound, let lastFound, !found.isEmpty else { return .distantFuture }
      return min(
        firstFound.advanced(byNanoseconds: MDNSBrowser.lingerMaximum),
        lastFound.advanced(byNanoseconds: MDNSBrowser.lingerQuiet))
    }
    var nextDue: Instant { waiters.reduce(min(nextAsk, settled)) { min($0, $1.deadline) } }
  }

  struct List {
    var started: Instant
    var asksDone = 0
    var waiters: [MDNSToken]
    var names: Set<ServiceName> = []
    var lastNew: Instant

    var nextAsk: Instant {
      asksDone < MDNSBrowser.listAsks.count
        ? started.advanced(byNanoseconds: MDNSBrowser.listAsks[asksDone]) : .distantFuture
    }
    var settled: Instant {
      // Silence counts from the last ask on, as long as nothing at all has answered.
      let quiet = lastNew.advanced(byNanoseconds: MDNSBrowser.listQuiet)
      let end = started.advanced(byNanoseconds: MDNSBrowser.listTimeout)
      return names.isEmpty ? end : min(end, quiet)
    }
  }

  var lookups: [ServiceName: Lookup] = [:]
  var list: List?
  var table = MDNSTable()
  /// Nodes known without asking, by service and id.
  var local: [MDNSNodeKey: Service] = [:]
  private var pending = 0

  init() {}

  // MARK: Lookups

  /// Starts a lookup, or joins the one under way. Nil when there are too many; `.lookedUp` follows otherwise. Throws when
  /// the name does not fit DNS.
  mutating func lookup(_ service: ServiceName, token: MDNSToken, now: Instant) throws(WireError)
    -> [MDNSBrowserAction]?
  {
    guard pending < Self.pendingMaximum else { return nil }
    var names: [DNSName] = []
    for domain in MDNSDomain.allCases { names.append(try domain.browseName(service)) }
    pending += 1
    let waiter = Waiter(token: token, deadline: now.advanced(byNanoseconds: Self.lookupTimeout))
    if var lookup = lookups[service] {
      lookup.waiters.append(waiter)
      // A late joiner gets its full share of asks, unless an answer is in already.
      if lookup.firstFound == nil, now.nanoseconds(since: lookup.started) >= Self.lookupAsks[1] {
        lookup.started = now
        lookup.asksDone = 0
      }
      lookups[service] = lookup
      return advanceLookup(service, now)
    }
    var lookup = Lookup(names: names, started: now, waiters: [waiter])
    for (key, entry) in local where key.service == service { lookup.found[key.id] = entry }
    if !lookup.found.isEmpty {
      lookup.firstFound = now
      lookup.lastFound = now
    }
    lookups[service] = lookup
    return advanceLookup(service, now)
  }

  /// Forgets a call whose caller left. Nothing is reported for it.
  mutating func cancel(_ token: MDNSToken) {
    for (service, var lookup) in lookups where lookup.waiters.contains(where: { $0.token == token }) {
      lookup.waiters.removeAll { $0.token == token }
      lookups[service] = lookup.waiters.isEmpty ? nil : lookup
      pending -= 1
      return
    }
    if var list, list.waiters.contains(token) {
      list.waiters.removeAll { $0 == token }
      self.list = list.waiters.isEmpty ? nil : list
      pending -= 1
    }
  }

  private mutating func advanceLookup(_ service: ServiceName, _ now: Instant) -> [MDNSBrowserAction] {
    guard var lookup = lookups[service] else { return [] }
    var actions: [MDNSBrowserAction] = []
    if !lookup.found.isEmpty, lookup.settled <= now || isWhole(lookup, service) {
      let services = MDNSTable.grouped(Array(lookup.found.values))
      actions += lookup.waiters.map { .lookedUp($0.token, services) }
      pending -= lookup.waiters.count
      lookups[service] = nil
      return actions
    }
    let late = lookup.waiters.filter { $0.deadline <= now }
    actions += late.map { .lookedUp($0.token, []) }
    pending -= late.count
    lookup.waiters.removeAll { $0.deadline <= now }
    guard !lookup.waiters.isEmpty else {
      lookups[service] = nil
      return actions
    }
    if lookup.nextAsk <= now {
      lookup.asksDone += 1
      actions.append(.ask(lookup.names))
    }
    lookups[service] = lookup
    return actions
  }

  /// Whether waiting longer can bring nothing new as far as a watch knows: each node it knows has answered. Nodes of the
  /// rendezvous alone are no such proof, since others may be on the network.
  private func isWhole(_ lookup: Lookup, _ service: ServiceName) -> Bool {
    guard let known = table.wholeSet(of: service), !known.isEmpty else { return false }
    return known.allSatisfy { lookup.found[$0] != nil }
  }

  // MARK: Lists

  /// Starts a list, or joins the one under way; `.listed` follows. Nil when there are too many calls.
  mutating func list(token: MDNSToken, now: Instant) -> [MDNSBrowserAction]? {
    guard pending < Self.pendingMaximum else { return nil }
    pending += 1
    if var list {
      list.waiters.append(token)
      list.started = now
      list.asksDone = 0
      self.list = list
    } else {
      list = List(started: now, waiters: [token], names: Set(local.keys.map(\.service)), lastNew: now)
    }
    return advanceList(now)
  }

  private mutating func advanceList(_ now: Instant) -> [MDNSBrowserAction] {
    guard var list else { return [] }
    if list.settled <= now {
      self.list = nil
      pending -= list.waiters.count
      return list.waiters.map { .listed($0, list.names.sorted()) }
    }
    guard list.nextAsk <= now else { return [] }
    list.asksDone += 1
    self.list = list
    return [.ask(MDNSDomain.allCases.map(\.listName))]
  }

  // MARK: Events

  /// A response arrived.
  mutating func received(_ reply: MDNSReply, now: Instant) -> [MDNSBrowserAction] {
    var actions: [MDNSBrowserAction] = []
    if var list {
      for name in reply.listed where list.names.count < Self.listNamesMaximum {
        if list.names.insert(name).inserted { list.lastNew = now }
      }
      self.list = list
    }
    var touched: [ServiceName] = []
    for service in reply.found {
      guard var lookup = lookups[service.name], let node = service.nodes.first else { continue }
      let isNew = lookup.found[node.id] == nil
      if isNew {
        guard lookup.found.count < Self.lookupNodesMaximum else { continue }
        lookup.firstFound = lookup.firstFound ?? now
        lookup.lastFound = now
      }
      if local[MDNSNodeKey(service: service.name, id: node.id)] == nil { lookup.found[node.id] = service }
      lookups[service.name] = lookup
      touched.append(service.name)
    }
    for key in reply.gone where local[key] == nil { lookups[key.service]?.found[key.id] = nil }
    actions += watchReceived(reply, now)
    for service in touched { actions += advanceLookup(service, now) }
    return actions
  }

  /// Nodes known without asking came or changed, or went (nil).
  mutating func updateLocal(_ changes: [MDNSNodeKey: Service?], now: Instant) -> [MDNSBrowserAction] {
    var changed: [MDNSNodeKey] = []
    for (key, service) in changes where local[key] != service {
      local[key] = service
      changed.append(key)
      guard let service, var lookup = lookups[key.service] else { continue }
      if lookup.found.updateValue(service, forKey: key.id) == nil {
        lookup.firstFound = lookup.firstFound ?? now
        lookup.lastFound = now
      }
      lookups[key.service] = lookup
    }
    return changed.sorted().flatMap { watchLocalChanged($0, now) }
  }

  /// What time has made due.
  mutating func advance(to now: Instant) -> [MDNSBrowserAction] {
    var actions: [MDNSBrowserAction] = []
    for service in lookups.keys.sorted() { actions += advanceLookup(service, now) }
    actions += advanceList(now)
    actions += watchAdvance(now)
    return actions
  }

  /// When `advance` has something to do next; `.distantFuture` for never.
  var nextDue: Instant {
    var due = table.nextDue
    for lookup in lookups.values { due = min(due, lookup.nextDue) }
    if let list { due = min(due, list.nextAsk, list.settled) }
    return due
  }
}
