// Watching: keeps the table of nodes up to date and tells each watch what changed.
//
//                 quiet for 120 ms, at most 300 ms
//   gathering ───────────────────────────────────▶ snapshot given ──▶ events, in order, until cancelled

import SidecarCore

extension MDNSBrowser {
  /// Starts a watch; its `.snapshot` follows. Nil when there are too many. Throws when the name does not fit DNS.
  mutating func watch(_ scope: WatchScope, token: MDNSToken, now: Instant) throws(WireError) -> [MDNSBrowserAction]? {
    guard table.watches.count < MDNSTable.watchesMaximum else { return nil }
    if case .service(let name) = scope { for domain in MDNSDomain.allCases { _ = try domain.browseName(name) } }
    table.watches[token] = MDNSTable.Watch(
      scope: scope, gatherEnd: now.advanced(byNanoseconds: MDNSTable.gatherMaximum), lastNews: now)
    if case .service(let name) = scope { _ = entry(name, now) }
    for (key, service) in local where table.isInteresting(key.service) { table.view[key] = service }
    table.roundsStarted = now
    table.roundsDone = 0
    table.nextRound = now
    return watchAdvance(now)
  }

  /// Ends a watch. The table goes with the last one.
  mutating func unwatch(_ token: MDNSToken) {
    guard table.watches.removeValue(forKey: token) != nil else { return }
    if !table.isWatched {
      let old = table
      table = MDNSTable()
      table.random = old.random
      table.leftOut = old.leftOut
      return
    }
    for name in table.services.keys where !table.isInteresting(name) { drop(name) }
    table.view = table.view.filter { table.isInteresting($0.key.service) }
  }

  /// Everything within a watch's scope as it is known now: for one that missed events.
  func snapshot(for token: MDNSToken) -> [Service] {
    table.watches[token].map { table.snapshot($0.scope) } ?? []
  }

  /// Asks everything again now: an interface came up, or a neighbour died.
  mutating func refresh(now: Instant) -> [MDNSBrowserAction] {
    guard table.isWatched else { return [] }
    table.nextRound = now
    return watchAdvance(now)
  }

  /// Takes out nodes that are known to be dead.
  mutating func forget(_ keys: [MDNSNodeKey]) -> [MDNSBrowserAction] {
    var actions: [MDNSBrowserAction] = []
    for key in keys {
      remove(key)
      actions += publish(key)
    }
    return actions
  }

  // MARK: What came in

  mutating func watchReceived(_ reply: MDNSReply, _ now: Instant) -> [MDNSBrowserAction] {
    guard table.isWatched else { return [] }
    var actions: [MDNSBrowserAction] = []
    var newNames: [ServiceName] = []
    for name in reply.listed where table.watchesAll {
      if table.services[name] == nil {
        guard entry(name, now) else { continue }
        newNames.append(name)
      }
      table.services[name]?.listed = now
    }
    for service in reply.found {
      guard table.isInteresting(service.name), let node = service.nodes.first else { continue }
      let key = MDNSNodeKey(service: service.name, id: node.id)
      guard entry(service.name, now) else { continue }
      if table.services[service.name]?.nodes[node.id] == nil {
        guard table.nodeCount < MDNSTable.nodesMaximum else {
          table.leftOut += 1
          continue
        }
        table.nodeCount += 1
        table.newInRound += 1
      }
      table.services[service.name]?.nodes[node.id] = MDNSTable.Known(service: service, heard: now)
      if let left = table.goodbyes.removeValue(forKey: key), now.nanoseconds(since: left) < MDNSTable.goodbyeMemory {
        table.services[service.name]?.nodes[node.id]?.unanswered = 1
        let check = now.advanced(byNanoseconds: MDNSTable.answerTime)
        table.services[service.name]?.check = check
        table.earliestCheck = min(table.earliestCheck, check)
      }
      actions += publish(key, now)
    }
    for key in reply.gone where table.isInteresting(key.service) {
      if table.goodbyes.count >= MDNSTable.goodbyesMaximum { table.goodbyes = [:] }
      table.goodbyes[key] = now
      remove(key)
      actions += publish(key, now)
    }
    if table.newInRound + newNames.count >= MDNSTable.crowd {
      table.nextRound = min(table.nextRound, now.advanced(byNanoseconds: MDNSTable.crowdInterval))
    }
    if !newNames.isEmpty {
      table.newInRound += newNames.count
      for (token, watch) in table.watches where watch.scope == .all { table.watches[token]?.lastNews = now }
      actions += askSoon(newNames, now)
    }
    return actions
  }

  mutating func watchLocalChanged(_ key: MDNSNodeKey, _ now: Instant) -> [MDNSBrowserAction] {
    table.isInteresting(key.service) ? publish(key, now) : []
  }

  // MARK: Time

  mutating func watchAdvance(_ now: Instant) -> [MDNSBrowserAction] {
    guard table.isWatched else { return [] }
    var actions: [MDNSBrowserAction] = []
    if table.nextRound <= now { actions += startRound(now) }
    if table.queueDue <= now { actions += askNextBatch(now) }
    if table.earliestCheck <= now {
      let due = table.services.filter { $0.value.check <= now }.keys.sorted()
      var silent: [ServiceName] = []
      for name in due {
        actions += removeDead(name, now)
        if table.services[name]?.nodes.values.contains(where: { $0.unanswered > 0 }) == true { silent.append(name) }
      }
      actions += askSoon(silent, now)
      table.earliestCheck = table.services.values.reduce(.distantFuture) { min($0, $1.check) }
    }
    for (token, watch) in table.watches.sorted(by: { $0.key.number < $1.key.number }) where watch.snapshotDue <= now {
      table.watches[token]?.gatherEnd = nil
      actions.append(.event(token, .snapshot(table.snapshot(watch.scope))))
    }
    return actions
  }

  private mutating func startRound(_ now: Instant) -> [MDNSBrowserAction] {
    table.roundsDone += 1
    var isWhole = true
    if table.roundsDone < MDNSTable.firstRounds.count {
      table.nextRound = table.roundsStarted.advanced(byNanoseconds: MDNSTable.firstRounds[table.roundsDone])
    } else {
      if table.nextWhole <= now || table.nextWhole == .distantFuture {
        let tenth = MDNSTable.roundInterval / 10
        let jitter = Int64(table.random.below(Int(tenth * 2))) - tenth
        table.nextWhole = now.advanced(byNanoseconds: MDNSTable.roundInterval + jitter)
      } else {
        isWhole = false
      }
      table.nextRound = table.nextWhole
    }
    table.newInRound = 0
    for (name, entry) in table.services where entry.nodes.isEmpty {
      let isAsked = table.watches.values.contains { $0.scope == .service(name) }
      if !isAsked, now.nanoseconds(since: entry.listed) > MDNSTable.listedTimeout { drop(name) }
    }
    table.queue = table.services.filter { isWhole || $0.value.nodes.isEmpty }.keys.sorted(by: >)
    table.queueDue = now
    return table.watchesAll ? [.ask(MDNSDomain.allCases.map(\.listName))] : []
  }

  private mutating func askNextBatch(_ now: Instant) -> [MDNSBrowserAction] {
    var names: [ServiceName] = []
    var expected = 0
    while let name = table.queue.last, names.count < MDNSTable.batch, expected < MDNSTable.batchAnswers {
      table.queue.removeLast()
      names.append(name)
      expected += max(table.services[name]?.nodes.count ?? 0, 2) * MDNSDomain.allCases.count
    }
    table.queueDue = table.queue.isEmpty ? .distantFuture : now.advanced(byNanoseconds: MDNSTable.batchPause)
    return ask(names, now)
  }

  /// A few are asked for at once; of many the answers would come all together and be lost.
  private mutating func askSoon(_ names: [ServiceName], _ now: Instant) -> [MDNSBrowserAction] {
    if table.newInRound < MDNSTable.crowd, names.count < MDNSTable.crowd { return ask(names, now) }
    let waiting = Set(table.queue)
    table.queue.insert(contentsOf: names.filter { !waiting.contains($0) }, at: 0)
    if table.queueDue == .distantFuture, !table.queue.isEmpty {
      table.queueDue = now.advanced(byNanoseconds: MDNSTable.batchPause)
    }
    return []
  }

  private mutating func ask(_ names: [ServiceName], _ now: Instant) -> [MDNSBrowserAction] {
    var questions: [DNSName] = []
    for name in names {
      guard var entry = table.services[name] else { continue }
      questions += entry.names
      // Questions in quick succession count as one: a lost packet of the first volley is no proof of death.
      let counts = entry.asked.map { now.nanoseconds(since: $0) >= MDNSTable.answerTime * 9 / 10 } ?? true
      if counts {
        for id in entry.nodes.keys { entry.nodes[id]?.unanswered += 1 }
        entry.asked = now
      }
      entry.check = now.advanced(byNanoseconds: MDNSTable.answerTime)
      table.earliestCheck = min(table.earliestCheck, entry.check)
      table.services[name] = entry
    }
    return questions.isEmpty ? [] : [.ask(questions)]
  }

  /// An answer should have come by now.
  private mutating func removeDead(_ name: ServiceName, _ now: Instant) -> [MDNSBrowserAction] {
    guard let entry = table.services[name] else { return [] }
    table.services[name]?.check = .distantFuture
    var actions: [MDNSBrowserAction] = []
    for (id, known) in entry.nodes.sorted(by: { $0.key < $1.key }) {
      let isExpired = now.nanoseconds(since: known.heard) >= MDNSTable.heardTimeout
      if known.unanswered >= MDNSTable.unansweredMaximum || isExpired {
        let key = MDNSNodeKey(service: name, id: id)
        remove(key)
        actions += publish(key, now)
      }
    }
    return actions
  }

  // MARK: The table

  /// Makes sure there is an entry for a service; false when the table is full or the name does not fit DNS.
  private mutating func entry(_ name: ServiceName, _ now: Instant) -> Bool {
    if table.services[name] != nil { return true }
    guard table.services.count < MDNSTable.servicesMaximum else {
      table.leftOut += 1
      return false
    }
    let names = MDNSDomain.allCases.compactMap { try? $0.browseName(name) }
    guard names.count == MDNSDomain.allCases.count else { return false }
    table.services[name] = MDNSTable.Entry(names: names, listed: now)
    return true
  }

  private mutating func remove(_ key: MDNSNodeKey) {
    if table.services[key.service]?.nodes.removeValue(forKey: key.id) != nil { table.nodeCount -= 1 }
  }

  private mutating func drop(_ name: ServiceName) {
    table.nodeCount -= table.services.removeValue(forKey: name)?.nodes.count ?? 0
  }

  /// Brings the view of one node up to date and tells the watches.
  private mutating func publish(_ key: MDNSNodeKey, _ now: Instant? = nil) -> [MDNSBrowserAction] {
    let new = local[key] ?? table.services[key.service]?.nodes[key.id]?.service
    let old = table.view[key]
    guard new != old else { return [] }
    table.view[key] = new
    guard let event = new.map({ RegistryEvent.upsert($0) }) ?? old.map({ RegistryEvent.remove($0) }) else { return [] }
    var actions: [MDNSBrowserAction] = []
    for (token, watch) in table.watches.sorted(by: { $0.key.number < $1.key.number }) where watch.covers(key.service) {
      if watch.gatherEnd == nil {
        actions.append(.event(token, event))
      } else if let now {
        table.watches[token]?.lastNews = now
      }
    }
    return actions
  }
}
