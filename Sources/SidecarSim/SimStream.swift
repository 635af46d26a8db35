// One end of a simulated connection.
//
//   opening ──▶ open ──▶ lingering (close was called, bytes are still queued) ──▶ finishing ──▶ closed
//      └──────────┴──────────── reset, refusal, error, both halves ended ──────────▲    streamClosed is due; nothing
//                                                                                       else is called any more
//
// Every callback is an event of the loop, so none can come from inside a call. A read's bytes lie in a buffer that is
// overwritten when the callback returns, at a random offset, so that code that keeps the pointer or expects alignment
// is found out.

import SidecarCore

package final class SimStream: ByteStream {
  enum Phase { case opening, open, lingering, finishing, closed }

  let driver: SimDriver
  /// Unique in its world: even for a dial, odd for an accepted stream.
  let number: Int
  private var world: SimWorld { driver.world }
  private var outgoing: SimPipe?
  private var incoming: SimPipe?
  private var peer: SocketAddress?
  private var local: SocketAddress?
  private(set) var phase: Phase
  /// `streamOpened` has been called, or `onAccept`: reads may follow.
  private var isAnnounced = false
  private var isPaused = false

  /// Taken by `write`, not yet by the system.
  private var unsent = ByteQueue()
  private var isCongested = false
  private var isFlushScheduled = false
  private var isDrainScheduled = false
  private var isWriteEnded = false
  private var isEndSent = false

  /// Arrived and not read.
  private var received = ByteQueue()
  private var isReadScheduled = false
  private var hasEndArrived = false
  private var isEndReported = false
  private var droppedWhileLingering = false
  /// A reset that the reader has yet to notice.
  private var pendingReset: String?

  /// A dialling end.
  init(dialling target: SocketAddress, on driver: SimDriver, handler: any StreamHandler) {
    self.driver = driver
    phase = .opening
    number = 2 * driver.world.makeConnectionNumber()
    super.init()
    peer = target
    self.handler = handler
    driver.world.streamObjects += 1
    driver.adopt(self)
  }

  /// An accepting end, already connected.
  init(accepting path: SimPath, on driver: SimDriver, local: SocketAddress, peer: SocketAddress?) {
    self.driver = driver
    phase = .open
    number = 2 * path.number + 1
    super.init()
    self.local = local
    self.peer = peer
    driver.world.streamObjects += 1
    driver.adopt(self)
  }

  deinit { driver.world.streamObjects -= 1 }

  package override var peerAddress: SocketAddress? { peer }
  package override var localAddress: SocketAddress? { local }
  package override var queuedBytes: Int { unsent.count }
  var isDead: Bool { phase == .finishing || phase == .closed }
  var stateName: String { "\(phase), \(unsent.count) bytes unsent, \(received.count) unread" }

  // MARK: Calls

  package override func write(_ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer) -> WriteState {
    driver.checkConfined("write")
    guard phase == .opening || phase == .open, !isWriteEnded else {
      world.note(driver, "write to closed", number, first.count + second.count)
      return .closed
    }
    if let reason = pendingReset {
      finish(.reset(reason))
      return .closed
    }
    world.note(driver, "write", number, first.count + second.count)
    world.noteBytes(first)
    world.noteBytes(second)
    unsent.append(first)
    unsent.append(second)
    if unsent.count > world.queuedBytesMax { world.violation("stream \(number) has \(unsent.count) bytes queued") }
    if phase == .open {
      if world.strikes(.partialWrite) {
        flush(atMost: world.random.below(first.count + second.count + 1))
        scheduleFlush()
      } else {
        flush()
      }
    }
    guard unsent.count > Self.highWatermark else { return .open }
    isCongested = true
    return .congested
  }

  package override func pauseReading() {
    driver.checkConfined("pauseReading")
    if !isPaused { world.note(driver, "pause", number) }
    isPaused = true
  }

  package override func resumeReading() {
    driver.checkConfined("resumeReading")
    if isPaused { world.note(driver, "resume", number) }
    isPaused = false
    scheduleRead()
  }

  package override func shutdownWrites() {
    driver.checkConfined("shutdownWrites")
    guard phase == .opening || phase == .open, !isWriteEnded else { return }
    world.note(driver, "shutdown", number)
    isWriteEnded = true
    if phase == .open { flush() }
  }

  package override func close() {
    driver.checkConfined("close")
    switch phase {
    case .opening:
      world.note(driver, "close", number)
      finish(.closedHere)
    case .open:
      world.note(driver, "close", number, unsent.count)
      phase = .lingering
      if let reason = pendingReset { return finish(.reset(reason)) }
      world.schedule(after: Self.closeLinger) { [self] in
        guard phase == .lingering else { return }
        world.note(driver, "linger over", number, unsent.count)
        outgoing?.send(.reset)
        finish(.reset("the peer did not take the last bytes"))
      }
      flush()
    case .lingering, .finishing, .closed: break
    }
  }

  package override func reset() {
    driver.checkConfined("reset")
    guard !isDead else { return }
    world.note(driver, "reset", number, unsent.count)
    outgoing?.send(.reset)
    finish(.closedHere)
  }

  // MARK: The system's side: sending

  /// Hands queued bytes to the system as far as the window allows.
  func flush(atMost limit: Int = .max) {
    guard phase == .open || phase == .lingering, pendingReset == nil, let outgoing else { return }
    var left = limit
    while !unsent.isEmpty, left > 0, outgoing.space > 0 {
      let size = min(unsent.count, left, outgoing.space, SimWorld.readMax)
      left -= size
      outgoing.send(.bytes(unsent.take(size)))
    }
    if unsent.isEmpty, limit == .max {
      if phase == .lingering { return closeNow() }
      if isWriteEnded, !isEndSent {
        isEndSent = true
        outgoing.send(.end)
        finishIfBothEnded()
      }
    }
    if isCongested, unsent.count < Self.lowWatermark { scheduleDrain() }
  }

  private func scheduleFlush() {
    guard !isFlushScheduled else { return }
    isFlushScheduled = true
    world.schedule(after: world.draw(1_000...1_000_000)) { [self] in
      isFlushScheduled = false
      flush()
    }
  }

  private func scheduleDrain() {
    guard !isDrainScheduled, phase == .open else { return }
    isDrainScheduled = true
    world.schedule(after: world.draw(0...20_000), on: driver) { [self] in
      isDrainScheduled = false
      // Writes since then may have filled the queue again; a later flush schedules the next drain.
      guard phase == .open, isAnnounced, isCongested, unsent.count < Self.lowWatermark else { return }
      isCongested = false
      world.note(driver, "drained", number)
      handler?.streamDrained(self)
    }
  }

  /// All is written: closes as a system does, with a reset when something that arrived was never read.
  private func closeNow() {
    if !received.isEmpty || droppedWhileLingering {
      outgoing?.send(.reset)
    } else if !isEndSent {
      outgoing?.send(.end)
    }
    finish(.closedHere)
  }

  // MARK: The system's side: receiving

  func arrived(_ segment: SimPipe.Segment) {
    // What was on the way when the connection was cut never arrives, or there would be a hole in front of it.
    if pendingReset != nil { return }
    switch segment {
    case .bytes(let bytes):
      if phase == .lingering {
        droppedWhileLingering = true
        incoming?.acknowledge(bytes.count)
      } else {
        received.append(bytes)
        scheduleRead()
      }
    case .end:
      hasEndArrived = true
      scheduleRead()
    case .reset: resetArrived("connection reset by peer")
    }
  }

  func resetArrived(_ reason: String) {
    switch phase {
    case .opening: finish(.refused)
    case .lingering: finish(.reset(reason))
    case .finishing, .closed: break
    case .open where pendingReset != nil: break
    case .open:
      world.note(driver, "reset arrived", number, received.count)
      if world.strikes(.resetLosesUnread) { received.removeAll() }
      if !isAnnounced || (isPaused && world.strikes(.resetUnnoticedWhilePaused)) {
        pendingReset = reason
      } else if isPaused || received.isEmpty {
        finish(.reset(reason))
      } else {
        pendingReset = reason
        scheduleRead()
      }
    }
  }

  private func scheduleRead() {
    guard isAnnounced, phase == .open, !isPaused, !isReadScheduled,
      !received.isEmpty || pendingReset != nil || (hasEndArrived && !isEndReported)
    else { return }
    isReadScheduled = true
    // The delay lets segments pile up, so that reads are merged as well as split.
    world.schedule(after: world.draw(0...20_000), on: driver) { [self] in
      isReadScheduled = false
      deliverRead()
    }
  }

  private func deliverRead() {
    guard phase == .open, !isPaused, let handler else { return }
    if !received.isEmpty {
      var size = min(received.count, SimWorld.readMax)
      if world.strikes(.splitRead) {
        // Mostly tiny against short input, but a long backlog must not take a thousand reads each time.
        let bounds = [8, 512, size, size]
        size = min(size, 1 + world.random.below(bounds[world.random.below(4)]))
      }
      let offset = world.random.below(16)
      let area = UnsafeMutableRawBufferPointer(rebasing: world.scratch[offset..<offset + size])
      received.take(into: area)
      incoming?.acknowledge(size)
      world.note(driver, "read", number, size)
      handler.streamRead(self, UnsafeRawBufferPointer(area))
      area.initializeMemory(as: UInt8.self, repeating: 0xDB)
      scheduleRead()
    } else if let reason = pendingReset {
      finish(.reset(reason))
    } else if hasEndArrived, !isEndReported {
      isEndReported = true
      world.note(driver, "ended", number)
      handler.streamEnded(self)
      finishIfBothEnded()
    }
  }

  private func finishIfBothEnded() {
    if isEndSent, isEndReported, phase == .open { finish(.ended) }
  }

  // MARK: Life

  /// The dial was answered: connects the ends. `streamOpened` follows in a turn of the loop.
  func establish(outgoing: SimPipe, incoming: SimPipe, local: SocketAddress?) {
    attach(outgoing: outgoing, incoming: incoming)
    self.local = local
    phase = .open
    world.schedule(after: world.draw(0...20_000), on: driver) { [self] in
      guard phase == .open else { return }
      isAnnounced = true
      world.note(driver, "opened", number, outgoing.path.number)
      handler?.streamOpened(self)
      flush()
      scheduleRead()
    }
  }

  func attach(outgoing: SimPipe, incoming: SimPipe) {
    self.outgoing = outgoing
    self.incoming = incoming
    outgoing.sender = self
    incoming.receiver = self
  }

  /// Gives an accepted stream to the program.
  func announce(to onAccept: (ByteStream) -> Void) {
    guard phase == .open else { return }
    world.note(driver, "accepted", number, outgoing?.path.number ?? 0)
    onAccept(self)
    isAnnounced = true
    if handler == nil, phase == .open {
      world.violation("stream \(number) was accepted without a handler")
      reset()
    }
    scheduleRead()
  }

  /// Ends the stream: what is queued is dropped and `streamClosed` follows in a turn of the loop.
  func finish(_ end: StreamEnd) {
    guard !isDead else { return }
    phase = .finishing
    detach()
    world.schedule(after: world.draw(0...20_000), on: driver) { [self] in
      phase = .closed
      world.note(driver, "closed", number, 0, "\(end)")
      driver.release(self)
      let handler = handler
      handler?.streamClosed(self, end)
      self.handler = nil
    }
  }

  private func detach() {
    outgoing?.sender = nil
    incoming?.receiver = nil
    outgoing = nil
    incoming = nil
    unsent.removeAll()
    received.removeAll()
  }

  /// The program is gone. Its system closes the connection, in order where it can; a machine without power does not.
  func die(resetting: Bool) {
    if resetting, !isDead {
      outgoing?.send(!received.isEmpty || world.random.below(2) == 0 ? .reset : .end)
    }
    phase = .closed
    detach()
    handler = nil
  }
}
