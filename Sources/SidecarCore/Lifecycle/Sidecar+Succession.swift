// One process in the place of another, without a lost call. Both have the same listening sockets, so that nobody who waits in
// their queues is turned away; who accepts from them is the only difference:
//
//   the old      serving ── bequest() ─────────────────────────────▶ serving ── retire() ──▶ draining ──▶ stopped
//   the new               starting, catching up: registries, the app ──▶ serving ▲
//                                                                         └ told when what was registered is held here too
//
// The node in the registries is one and the same: the new process writes it under the same id before the old one forgets it
// without a word. A new process that fails before it serves changes nothing.

/// What a sidecar waits for before it takes another's place.
final class CatchUp {
  /// Nanoseconds after which it goes on with what the other process knew.
  static let limit: Int64 = 5_000_000_000
  static let pollInterval: Int64 = 10_000_000

  let deadline: Instant
  let timer: LoopTimer
  /// The app has answered, or had no chance to.
  var appWasAsked = false

  init(deadline: Instant, _ look: @escaping () -> Void) {
    self.deadline = deadline
    timer = LoopTimer(look)
  }
}

extension Sidecar {
  // MARK: The new process

  func inherit(_ bequest: Bequest) {
    appAddress = bequest.place(.app)?.bound
    frameworkAddress = bequest.place(.framework)?.bound
    adminAddress = bequest.place(.admin)?.bound
    serverID = bequest.serverID
    guard bequest.registries != .null else { return }
    do throws(WireError) {
      try SnapshotFile.restore(bequest.registries, into: catalog, driver, log)
    } catch {
      log.warning("what the process before knew of the registries is not used", [("cause", "\(error)")])
    }
  }

  /// The workers' loops turn, and nobody listens yet.
  func beginCatchingUp() {
    registerApp()
    let waiting = CatchUp(deadline: driver.now.advanced(byNanoseconds: CatchUp.limit)) { [unowned self] in lookWhere() }
    waiting.appWasAsked = appLease == nil || !isAppHealthy
    catchUp = waiting
    // The app was seen up, and the machine that watches it now tells changes only.
    if appLease != nil, isAppHealthy { appHealthChanged(true) }
    lookWhere()
  }

  private func lookWhere() {
    guard phase == .starting, let waiting = catchUp else { return }
    let isCurrent = catalog.states(now: driver.now).allSatisfy { $0.phase == .current }
    guard isCurrent && waiting.appWasAsked || driver.now >= waiting.deadline else {
      driver.timers.arm(waiting.timer, after: CatchUp.pollInterval, from: driver.now)
      return
    }
    catchUp = nil
    takePlaces()
  }

  /// The numbers under which sockets were inherited; once this process serves it has others for them.
  package var inheritedSockets: [Int32] { bequest?.numbers ?? [] }

  private func takePlaces() {
    guard let bequest else { return }
    if let admin, let number = bequest.numbers(of: .admin).first {
      do throws(DriverError) {
        _ = try admin.listen(at: .inherited(number))
      } catch {
        return cannotListen(error)
      }
    }
    let app = Bequest.shares(of: bequest.numbers(of: .app), among: workers.count)
    let framework = Bequest.shares(of: bequest.numbers(of: .framework), among: min(frameworkWorkers, workers.count))
    let left = LoopCounter(workers.count) { [weak self] in
      if self?.phase == .starting { self?.serve() }
    }
    for (index, worker) in workers.enumerated() {
      worker.post {
        [mailbox = driver.mailbox, app = app[index], framework = index < framework.count ? framework[index] : []] worker
        in
        var failure: DriverError?
        do throws(DriverError) {
          for number in app { _ = try worker.listenForApp(at: .inherited(number)) }
          for number in framework { _ = try worker.listenForFramework(at: .inherited(number)) }
        } catch {
          failure = error
        }
        mailbox.post { [self, failure] in
          if let failure, phase == .starting { cannotListen(failure) }
          left.one()
        }
      }
    }
  }

  /// Writes into the registries what the other process has written. `completion` runs when that is there, or does not come.
  func holdWhatWasHeld(_ completion: @escaping () -> Void) {
    leases.inherit(bequest?.leases)
    if !isWithdrawn, isAppHealthy { appLease?.setHealthy(true) }
    let told = LoopCounter(1) { [weak self] in
      self?.holding = nil
      completion()
    }
    let both = LoopCounter(2) { told.one() }
    leases.whenWritten { both.one() }
    if let appLease, isAppHealthy, !isWithdrawn {
      appLease.whenWritten { _ in both.one() }
    } else {
      both.one()
    }
    let limit = LoopTimer { told.one() }
    holding = limit
    driver.timers.arm(limit, after: CatchUp.limit, from: driver.now)
  }

  // MARK: The old process

  /// What a process needs that is to take this one's place. `completion` runs on the loop; nil: not in this phase.
  package func bequeath(_ completion: @escaping (Bequest?) -> Void) {
    guard phase == .serving else { return completion(nil) }
    gather({ $0.socketNumbers }) { [weak self] numbers in
      guard let self, phase == .serving else { return completion(nil) }
      var left = Bequest()
      func add(_ role: Bequest.Place.Role, _ configured: SocketAddress?, _ bound: SocketAddress?, _ sockets: [Int32]) {
        guard let configured, let bound, !sockets.isEmpty else { return }
        left.places.append(
          .init(role: role, configured: configured.description, bound: bound, sockets: sockets.count))
        left.numbers += sockets
      }
      add(.app, settings.sidecarAddress, appAddress, numbers.flatMap(\.app))
      add(.framework, settings.serverAddress, frameworkAddress, numbers.flatMap(\.framework))
      add(.admin, settings.adminAddress, adminAddress, admin?.socketNumber.map { [$0] } ?? [])
      // The sockets that are handed on are always the first process's; a worker here may listen at one that others have too.
      if let bequest {
        left.places = bequest.places
        left.numbers = bequest.numbers
      }
      left.serverID = serverID
      left.isWithdrawn = isWithdrawn
      left.isAppHealthy = isAppHealthy
      left.leases = leases.bequest()
      left.registries = SnapshotFile.content(catalog, driver)
      completion(left)
    }
  }

  /// Another process serves at the same sockets: nobody is accepted here any more, what was registered is left to it, and
  /// connections go on until they have nothing more to say or `MICRO_SIDECAR_RESTART_DRAIN` is over.
  package func retire() {
    guard phase == .serving else { return }
    phase = .draining
    isRetiring = true
    log.info("another process serves now; what is under way here goes on")
    admin?.close(leaving: true)
    appLease?.abandon()
    leases.abandon()
    for bridge in bridges { bridge.abandon() }
    health?.stop()
    endDraining(after: settings.restartDrain)
    drainWorkers(handingOver: true)
  }

  /// The process is to end, and another has taken its place before.
  func hurry() {
    isRetiring = false
    endDraining(after: settings.drain)
    for worker in workers { worker.post { $0.hurry() } }
  }

  private func endDraining(after limit: Duration) {
    let timer = LoopTimer { [weak self] in
      guard let self, phase == .draining else { return }
      log.warning("connections were still open after \(limit); closed")
      stop()
    }
    drainTimer?.cancel()
    drainTimer = timer
    driver.timers.arm(timer, after: limit.saturatingNanoseconds, from: driver.now)
  }
}
