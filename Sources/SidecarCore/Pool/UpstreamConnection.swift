// One HTTP/1 connection to a node or to the app; one exchange at a time (wire/rpc.md §9: never pipeline unary calls).
//
//   dialling ──opened──▶ busy ──reply, kept──▶ idle ──take──▶ busy …
//      │                  │                     │
//      └── failed ────────┴── broke, abandoned ─┴── peer closed, too old ──▶ closed

package final class UpstreamConnection: StreamHandler {
  private enum State {
    /// To: busy, closed.
    case dialling
    /// Waiting for a reply. To: idle, closed.
    case busy
    /// In the pool. To: busy, closed.
    case idle
    case closed
  }

  let target: UpstreamTarget
  private unowned(unsafe) let worker: Worker
  private var stream: ByteStream?
  private var reader: MessageReader
  private var state = State.dialling
  private var user: (any UpstreamUser)?
  private var dialTimer: LoopTimer?
  private var bornAt: Instant
  private var served = 0
  private var replyBytes = 0
  var idleSince = Instant(nanoseconds: 0)

  init(target: UpstreamTarget) {
    self.target = target
    worker = target.worker
    bornAt = worker.driver.now
    reader = MessageReader(.client, bodyMax: worker.settings.bodyMax, scratch: worker.readers)
  }

  /// The timer refers to it unowned.
  deinit { dialTimer?.cancel() }

  var wasReused: Bool { served > 0 }

  func isTooOld(_ now: Instant) -> Bool {
    now.nanoseconds(since: bornAt) > worker.settings.upstreamConnectionAge
  }

  func dial(for user: any UpstreamUser) {
    self.user = user
    // No weak references: an object that has had one is counted in a table of its own from then on, with each call.
    target.withSocketAddress { [self] result in
      guard state == .dialling else { return }
      switch result {
      case .failure(let error): fail(later: .connectFailed(error.description))
      case .success(let address):
        let timer = LoopTimer { [unowned self] in dialTimedOut() }
        dialTimer = timer
        worker.driver.timers.arm(timer, after: worker.settings.connectTimeout, from: worker.driver.now)
        stream = target.openStream(to: address, handler: self)
      }
    }
  }

  private func dialTimedOut() {
    guard state == .dialling else { return }
    let seconds = Double(worker.settings.connectTimeout) / 1e9
    finish(.connectFailed("no answer to the dial within \(seconds) s"))
  }

  /// Reports a failure that was known inside a call of the user, who must not be called back from there.
  private func fail(later failure: UpstreamFailure) {
    worker.driver.later { [self] in
      if state != .closed { finish(failure) }
    }
  }

  func take(_ user: any UpstreamUser) {
    state = .busy
    self.user = user
  }

  /// Sends one request, head and body in two parts, and expects its reply.
  func send(_ head: UnsafeRawBufferPointer, _ body: UnsafeRawBufferPointer) {
    replyBytes = 0
    reader.expectResponse()
    guard let stream else { return }
    if !stream.isCarried { worker.metrics.add(.bytesToNodes, head.count &+ body.count) }
    _ = stream.write(head, body)
  }

  /// The user leaves before the reply: the connection cannot be used again.
  func abandon() {
    user = nil
    close()
  }

  /// Closes without telling anyone.
  func close() {
    guard state != .closed else { return }
    let wasBusy = state == .busy
    release()
    // A peer that still works on a call learns at once that nobody waits; an idle one just sees the end.
    if wasBusy { stream?.reset() } else { stream?.close() }
  }

  private func release() {
    state = .closed
    dialTimer?.cancel()
    dialTimer = nil
    reader.finishMessage(worker.readers)
    target.forget(self)
  }

  private func finish(_ failure: UpstreamFailure) {
    guard state != .closed else { return }
    if case .connectFailed = failure { worker.metrics.add(.dialsFailed) }
    release()
    stream?.reset()
    let user = user
    self.user = nil
    user?.upstreamFailed(self, failure)
  }

  // MARK: StreamHandler

  package func streamOpened(_ stream: ByteStream) {
    guard state == .dialling else { return }
    dialTimer?.cancel()
    dialTimer = nil
    state = .busy
    user?.upstreamReady(self)
  }

  package func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    guard state == .busy else {
      // Bytes nobody asked for: this connection can no longer be trusted to be in step.
      if state == .idle { close() }
      return
    }
    replyBytes &+= bytes.count
    if !stream.isCarried { worker.metrics.add(.bytesFromNodes, bytes.count) }
    var input = bytes
    do throws(WireError) {
      while state == .busy {
        guard case .message(let body) = try reader.next(&input, worker.readers) else {
          if bytes.count < ByteStream.heldBackMax { stream.acknowledge() }
          return
        }
        replied(body, rest: input.count)
      }
    } catch {
      finish(.malformed(error))
    }
  }

  /// `rest`: bytes that came behind the reply; only an interim reply (1xx) may have any.
  private func replied(_ body: UnsafeRawBufferPointer, rest: Int, atEnd: Bool = false) {
    let head = reader.head(worker.readers)
    if head.status < 200, head.status != 101 {
      reader.finishMessage(worker.readers)
      reader.expectResponse()
      return
    }
    // A reply that overtakes its own request: the peer may not mean to read the rest of it.
    let isSent = stream?.queuedBytes == 0
    let mayStay = head.keepAlive && rest == 0 && !atEnd && isSent
    served += 1
    let user = self.user
    self.user = nil
    let keep = user?.upstreamReplied(self, head, body) ?? false
    guard state == .busy else { return }
    reader.finishMessage(worker.readers)
    state = .idle
    if keep && mayStay { target.giveBack(self) } else { close() }
  }

  package func streamEnded(_ stream: ByteStream) {
    switch state {
    case .idle: close()
    case .busy:
      do throws(WireError) {
        if case .message(let body) = try reader.finish(worker.readers) {
          replied(body, rest: 0, atEnd: true)
          return
        }
      } catch {
        finish(.brokeInReply("the peer closed the connection inside the reply"))
        return
      }
      finish(
        replyBytes == 0
          ? .brokeBeforeReply(wasReused: wasReused, "the peer closed the connection")
          : .brokeInReply("the peer closed the connection inside the reply"))
    case .dialling, .closed: break
    }
  }

  package func streamDrained(_ stream: ByteStream) {}

  package func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    self.stream = nil
    let why: String
    switch end {
    case .refused: why = "connection refused"
    case .unreachable(let text), .reset(let text): why = text
    case .closedHere, .ended: why = "the peer closed the connection"
    }
    switch state {
    case .dialling: finish(.connectFailed(why))
    case .busy:
      finish(replyBytes == 0 ? .brokeBeforeReply(wasReused: wasReused, why) : .brokeInReply(why))
    case .idle: close()
    case .closed: break
    }
  }
}
