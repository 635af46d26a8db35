// A framework caller whose message opened a stream, or may have: the other side of `FrameCallee`, on the listener of the
// framework and on the local API alike (wire/rpc.md §2.4, §9).
//
//   starting ── callee connected ──▶ relaying ── callee's end ──▶ ended ── caller's end, or it closes ──▶ (connection)
//      └── fails ──▶ an ordinary error reply
//
// A caller does not say whether it calls or streams: the endpoint does (trap 12). Where that is known only when the
// registries have answered, the opening message is kept, since it is the whole request of a call that is none.

/// A stream of framework messages on a caller's connection. Loop-confined.
final class FrameCaller: StreamCaller, ConnectionStream {
  private enum State {
    case starting, relaying
    /// The callee's end is written; the caller may still send until it has read it.
    case ended
    case over
  }

  /// How long a caller may take to close after the end of its stream, in nanoseconds.
  private static let closingTime: Int64 = 5_000_000_000

  private unowned let connection: CallerConnection
  private let worker: Worker
  private let call: StreamCall
  private let opening: FrameRequest
  /// The opening message's payload.
  private var first: ByteBuffer?
  private var state = State.starting
  private var hasReplied = false
  private var isDrained = true

  /// `payload` is the opening message's; `connection.notes` must hold what the ranges of `opening` point into.
  init(
    connection: CallerConnection, call: StreamCall, opening: FrameRequest, payload: UnsafeRawBufferPointer
  ) {
    self.connection = connection
    self.call = call
    self.opening = opening
    worker = connection.worker
    call.replyFormat = opening.format
    call.audience = opening.jsonAudience
    call.isJSONRPC = opening.codec == .jsonRPC
    let first = worker.readers.buffers.take()
    first.append(payload)
    self.first = first
  }

  // MARK: From the caller

  func connectionMessage(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) {
    guard let notes = connection.notes else { return }
    do throws(FrameRefusal) {
      switch try FrameServer.decodeStreamMessage(head: head, body: body, opening: opening, notes: notes) {
      case .endOfStream:
        if state == .ended { return finish() }
        call.finishSending()
      case .message(let message):
        guard state == .relaying else { return }
        if call.send(message, opening.format) == .congested { connection.holdBack() }
      }
    } catch {
      fail(SidecarError(.badRequest, error.text, id: worker.settings.serviceName))
    }
  }

  func connectionRead(_ bytes: UnsafeRawBufferPointer) {}

  /// A framework client closes when it wants no more: up to v1.8 that is its only way to say so.
  func connectionEnded() {
    guard state == .relaying else { return finish() }
    connection.recordStream(.failed(.cancelled), call)
    call.cancel()
    finish()
  }

  func connectionFailed(_ error: WireError) { fail(SidecarError(error)) }

  // MARK: From the callee

  func calleeReady(_ call: StreamCall) {
    guard state == .starting else { return }
    state = .relaying
    connection.begin(self, .messages)
    guard call.isUnary || FrameServer.openingIsMessage(opening), let first else { return releaseFirst() }
    _ = call.send(first.bytes, opening.format)
    if call.isUnary { call.finishSending() }
    releaseFirst()
  }

  func calleeAnswered(_ call: StreamCall, metadata: UnsafeRawBufferPointer) {}

  func calleeSent(_ call: StreamCall, _ message: UnsafeRawBufferPointer) -> WriteState {
    guard state == .relaying, let notes = connection.notes else { return .closed }
    hasReplied = true
    let out = worker.scratch
    out.removeAll()
    do throws(WireError) {
      try FrameServer.encodeStreamMessage(to: opening, notes: notes, payload: message, into: out)
    } catch {
      fail(SidecarError(error, kind: .badUpstreamReply))
      return .closed
    }
    if connection.write(out.bytes) == .congested { isDrained = false }
    return isDrained ? .open : .congested
  }

  func calleeDrained(_ call: StreamCall) { connection.welcomeMore() }

  func calleeEnded(_ call: StreamCall, _ error: SidecarError?, trailers: UnsafeRawBufferPointer) {
    guard state == .starting || state == .relaying, let notes = connection.notes else { return }
    connection.recordStream(error.map { .failed($0.kind) } ?? .ok, call)
    if state == .starting {
      state = .over
      releaseFirst()
      if let error { return connection.sendFrameError(opening, notes, error) }
      return connection.sendFrameReply(opening, notes, .none, id: worker.settings.serviceName)
    }
    let out = worker.scratch
    out.removeAll()
    if let error {
      FrameServer.encodeReplyError(to: opening, notes: notes, error: error, into: out)
    } else if !call.isUnary {
      FrameServer.encodeEndOfStream(to: opening, notes: notes, into: out)
    } else if !hasReplied {
      try? FrameServer.encodeReply(to: opening, notes: notes, payload: .none, into: out)
    }
    if !out.isEmpty { _ = connection.write(out.bytes) }
    if call.isUnary { return finish() }
    state = .ended
    connection.welcomeMore()
  }

  // MARK: Ends

  private func fail(_ error: SidecarError) {
    guard state == .starting || state == .relaying else { return finish() }
    call.cancel()
    connection.keepAlive = false
    connection.recordStream(.failed(error.kind), call)
    if let notes = connection.notes {
      if state == .starting {
        state = .over
        releaseFirst()
        return connection.sendFrameError(opening, notes, error)
      }
      let out = worker.scratch
      out.removeAll()
      FrameServer.encodeReplyError(to: opening, notes: notes, error: error, into: out)
      _ = connection.write(out.bytes)
    }
    finish()
  }

  private func finish() {
    guard state != .over else { return }
    state = .over
    releaseFirst()
    connection.endStream()
  }

  private func releaseFirst() {
    if let first { worker.readers.buffers.give(first) }
    first = nil
  }

  func connectionDrained() {
    isDrained = true
    if state == .relaying { call.callerDrained() }
  }

  /// A stream may go on for as long as the drain lets it.
  func connectionDraining() {
    if state == .ended { finish() }
  }

  func connectionSweep(_ now: Instant, quietNanoseconds: Int64) {
    guard state == .ended, quietNanoseconds > Self.closingTime else { return }
    connection.keepAlive = false
    finish()
  }

  func connectionClosed() {
    guard state != .over else { return }
    let wasRunning = state != .ended
    state = .over
    releaseFirst()
    guard wasRunning else { return }
    connection.recordStream(.failed(.cancelled), call)
    call.cancel()
  }
}
