// How many calls may be at the app at once, who waits for a place, and who is turned away first.
//
//   enter ──a place is free──▶ inside ──leave──▶ the next that waits is let in, those that matter most first
//     ├── all taken ──▶ waits ──let in, gives up, or makes way for one that matters more──▶
//     └── too many wait, or it matters little ──▶ refused
//
// Nothing of a call that is refused has reached the app, and its caller is told so.

/// A call for the app that waits for a place.
protocol AppGateWaiter: AnyObject {
  /// A place is this call's from now on; `leave` must follow. What it leads to must wait for a later turn.
  func appAdmitted()
  /// It waits no more. What it leads to must wait for a later turn.
  func appRefused(_ error: SidecarError)
}

/// One for each worker. Loop-confined.
struct AppGate {
  /// Calls that may wait; fewer where the limit is lower than that.
  static let waitingMax = 1024
  /// Share of the places that calls of low priority may take, in tenths.
  private static let lowTenths = 8

  enum Verdict {
    case admitted
    /// `appAdmitted` or `appRefused` follows, unless `giveUp` comes first.
    case waits
    /// The same, in the place of one that waited and is to be told that it does not any more.
    case waitsInsteadOf(any AppGateWaiter)
    case refused
  }

  /// Calls that may be at the app at once; 0: as many as come.
  var limit = 0
  private(set) var inside = 0
  /// By priority.
  private var waiting: [[any AppGateWaiter]] = Array(repeating: [], count: CallPriority.allCases.count)
  private(set) var waitingCount = 0

  /// Calls that are there or wait, in hundredths of `limit`.
  func load(of limit: Int) -> Int { (inside &+ waitingCount) &* 100 / max(limit, 1) }

  private var queueMax: Int { min(max(limit, 16), Self.waitingMax) }

  mutating func enter(_ waiter: any AppGateWaiter, _ priority: CallPriority) -> Verdict {
    guard limit > 0 else {
      inside += 1
      return .admitted
    }
    if priority == .low {
      // They never wait: where others have to, there is no room for them.
      guard waitingCount == 0, inside < max(limit * Self.lowTenths / 10, 1) else { return .refused }
      inside += 1
      return .admitted
    }
    if inside < limit, !waiting[priority.rawValue...].contains(where: { !$0.isEmpty }) {
      inside += 1
      return .admitted
    }
    if waitingCount < queueMax {
      waiting[priority.rawValue].append(waiter)
      waitingCount += 1
      return .waits
    }
    for lower in 0..<priority.rawValue where !waiting[lower].isEmpty {
      let victim = waiting[lower].removeLast()
      waiting[priority.rawValue].append(waiter)
      return .waitsInsteadOf(victim)
    }
    return .refused
  }

  /// A call that was inside has ended, or the limit has changed. The answer has a place now, and must be told so; ask
  /// again until there is none.
  mutating func leave() -> (any AppGateWaiter)? {
    inside -= 1
    return next()
  }

  mutating func next() -> (any AppGateWaiter)? {
    guard waitingCount > 0, limit == 0 || inside < limit else { return nil }
    for priority in waiting.indices.reversed() where !waiting[priority].isEmpty {
      waitingCount -= 1
      inside += 1
      return waiting[priority].removeFirst()
    }
    return nil
  }

  /// Waits no more.
  mutating func giveUp(_ waiter: any AppGateWaiter) {
    for priority in waiting.indices {
      guard let index = waiting[priority].firstIndex(where: { $0 === waiter }) else { continue }
      waiting[priority].remove(at: index)
      waitingCount -= 1
      return
    }
  }
}

/// A call's place at the app, or its wait for one.
struct AppPlace {
  fileprivate enum State { case none, waiting, inside }
  fileprivate var state = State.none
  fileprivate var since = Instant(nanoseconds: 0)
  var isWaiting: Bool { state == .waiting }
}

extension Worker {
  enum AppVerdict {
    case admitted
    case waits
    case refused(SidecarError)
  }

  /// Asks for a place at the app for a call of `endpoint`; `lines` are its metadata.
  @inline(__always)
  func enterApp(
    _ waiter: any AppGateWaiter, _ place: inout AppPlace, _ endpoint: UnsafeRawBufferPointer,
    _ lines: UnsafeRawBufferPointer
  ) -> AppVerdict {
    var priority = CallPriority.normal
    if appGate.limit > 0 || !policies.inbound.rateLimits.isEmpty {
      if let refusal = takeInbound(endpoint, lines) { return .refused(refusal) }
      if let word = HeaderLines.value("micro-priority", lines), word.count <= 8 {
        priority = CallPriority(word: String(decoding: word, as: UTF8.self).lowercased()) ?? .normal
      }
    }
    switch appGate.enter(waiter, priority) {
    case .admitted:
      place.state = .inside
      place.since = driver.now
      return .admitted
    case .waits:
      place.state = .waiting
      return .waits
    case .waitsInsteadOf(let victim):
      place.state = .waiting
      victim.appRefused(appOverloaded("calls of a higher priority took its place among those that wait"))
      return .waits
    case .refused:
      return .refused(
        appOverloaded(
          priority == .low
            ? "\(appGate.inside) of \(appGate.limit) calls are under way, and this one's priority is low"
            : "\(appGate.limit) calls are under way, and \(appGate.waitingCount) wait"))
    }
  }

  /// A waiting call was let in.
  func appAdmitted(_ place: inout AppPlace) {
    place.state = .inside
    place.since = driver.now
  }

  func appRefused(_ place: inout AppPlace) { place.state = .none }

  /// The call is over. `hasAnswer`: by an answer of the app, or (false) because its time was up; nil: its time says
  /// nothing about the app.
  @inline(__always)
  func leaveApp(_ waiter: any AppGateWaiter, _ place: inout AppPlace, hasAnswer: Bool?) {
    switch place.state {
    case .none: return
    case .waiting: appGate.giveUp(waiter)
    case .inside:
      if let hasAnswer, appLimit != nil {
        appLimit?.ended(place.since, inside: appGate.inside, hasAnswer: hasAnswer, now: driver.now)
        appGate.limit = appLimit?.limit ?? 0
      }
      appGate.leave()?.appAdmitted()
      // A limit that has grown lets in more than one.
      while let next = appGate.next() { next.appAdmitted() }
    }
    place.state = .none
  }

  /// How busy the app is, in hundredths of what it takes at once; nil: it has no limit.
  var appLoad: Int? {
    guard appGate.limit > 0 else { return nil }
    return appGate.load(of: appLimit?.steady ?? appGate.limit)
  }

  /// The line of a reply to the framework that says so; empty where there is nothing to say. Valid until the next one.
  var appLoadLine: UnsafeRawBufferPointer {
    guard let appLoad else { return .none }
    loadLine.removeAll()
    LoadReport.appendLine(appLoad, to: loadLine)
    return loadLine.bytes
  }

  private func appOverloaded(_ why: String) -> SidecarError {
    var error = SidecarError(.overloaded, "the app takes no more calls: \(why)", id: settings.serviceName)
    error.isUnbegun = true
    error.retryAfter = 1_000_000_000
    return error
  }

  private func takeInbound(_ endpoint: UnsafeRawBufferPointer, _ lines: UnsafeRawBufferPointer) -> SidecarError? {
    let limits = policies.inbound.rateLimits
    guard !limits.isEmpty else { return nil }
    let name = String(decoding: endpoint, as: UTF8.self)
    let caller = HeaderLines.value("micro-from-service", lines)
    for (index, limit) in limits.enumerated() where limit.endpoint.matches(name) {
      var key = RateKey(seed: keySeed)
      key.add(UInt64(index))
      key.add(limit.rate.bitPattern)
      key.add(endpoint)
      if let wanted = limit.caller {
        let text = caller.map { String(decoding: $0, as: UTF8.self) } ?? ""
        guard wanted.matches(text) else { continue }
        if let caller { key.add(caller) }
      }
      let parts = Double(max(settings.workers, 1))
      let wait = inboundLimiter.take(
        key.value, rate: limit.rate / parts, burst: max(limit.burst / parts, 1), now: driver.now)
      guard wait > 0 else { continue }
      var error = SidecarError.rateLimited(
        "\(name) takes \(Self.plain(limit.rate)) calls a second\(limit.caller == nil ? "" : " of one caller")",
        wait: wait)
      error.id = settings.serviceName ?? error.id
      error.isUnbegun = true
      return error
    }
    return nil
  }
}
