// A framework stream towards a node (or an app that speaks the framework itself): one connection of its own, whole HTTP
// messages both ways, paired with nothing (wire/rpc.md §1.4, §2.4).
//
//   dialling ──▶ connected ── opening message ──▶ open ── our end sent ──▶ listening ──▶ over
//      │                                           └── their end, error, connection lost ──▶ over
//      └── refused: over
//
// Real servers say nothing when a handler that has read our end returns in order. So while we only listen and the node
// is silent, it is asked now and then whether the stream is still there (`FrameClient.encodeEndProbe`).

/// The node's side of a streaming call over the HTTP transport. Loop-confined.
final class FrameCallee: StreamCallee, StreamHandler {
  private enum State {
    /// To: connected, over.
    case dialling
    /// The opening message is not sent: the format of the messages is not known yet. To: open.
    case connected
    case open
    /// Our end is sent.
    case listening
    case over
  }

  /// Silence after our end until the node is first asked whether the stream has ended, in nanoseconds; it doubles with
  /// each question, so that one which works on for an hour is asked no oftener than every ten seconds. Not sooner: a
  /// question that comes while the handler runs is never answered.
  private static let probeDelay: Int64 = 5_000_000
  private static let probeDelayMax: Int64 = 10_000_000_000
  /// Questions put to one node; servers keep at most 128 messages for a handler that does not read.
  private static let probesMax = 100

  private unowned let call: StreamCall
  private let worker: Worker
  private let target: UpstreamTarget
  /// Nil for the app.
  private let node: NodeState?
  private let dialect: NodeDialect
  private let routing: FixedBytes
  private let service: FixedBytes
  /// Nodes of v0.22 to v1.2 end a stream in order by closing the connection.
  private let endsByClosing: Bool
  private var state = State.dialling
  private var stream: ByteStream?
  private var reader: MessageReader
  private var frame: FrameStream?
  private var probes = 0
  private var holdsBack = false
  /// Among the target's connections.
  private var isCounted = false
  private lazy var timer = LoopTimer { [unowned self] in self.timePassed() }

  /// Starts to dial; `call` hears of it in a later turn.
  init(_ call: StreamCall, target: UpstreamTarget, node: NodeState?, service: FixedBytes, routing: FixedBytes) {
    self.call = call
    self.target = target
    self.service = service
    self.routing = routing
    worker = call.worker
    self.node = node
    dialect = node?.dialect ?? .explicitAddress
    endsByClosing = node?.node.metadata["server"] == "rpc"
    reader = MessageReader(.client, bodyMax: worker.settings.bodyMax, scratch: worker.readers)
    isCounted = target.reserveConnection()
    guard isCounted else {
      worker.driver.later { [self] in
        end(
          SidecarError(
            .overloaded, "\(target.connectionsMax) connections to \(target.hostHeader.text) are busy"))
      }
      return
    }
    worker.timers.arm(timer, after: worker.settings.connectTimeout, from: worker.driver.now)
    target.withSocketAddress { [weak self] result in
      guard let self, state == .dialling else { return }
      switch result {
      case .failure(let error): worker.driver.later { self.refused(error.description) }
      case .success(let address): stream = target.openStream(to: address, handler: self)
      }
    }
  }

  // MARK: StreamCallee

  func format(for caller: PayloadFormat) -> PayloadFormat {
    if frame == nil {
      let left = call.deadline == .distantFuture ? nil : call.deadline.nanoseconds(since: worker.driver.now)
      frame = FrameStream(id: worker.nextID(), node: dialect, format: wanted(for: caller), timeoutNanoseconds: left)
    }
    return frame?.codec.format ?? caller
  }

  /// What the node takes, where that is what the caller sends or can be made of it.
  private func wanted(for caller: PayloadFormat) -> PayloadFormat {
    // An app is sent what it is sent in calls (`FrameAppCall`).
    guard let node else { return caller == .json ? .json : .protobuf }
    let wanted = node.format(for: caller)
    guard caller.needsTranslation(to: wanted) else { return wanted }
    do throws(SidecarError) {
      return try call.method() == nil ? caller : wanted
    } catch {
      return wanted  // Several descriptors fit: the first message fails and says which.
    }
  }

  var audience: JSONAudience { dialect.jsonAudience }

  func send(_ message: UnsafeRawBufferPointer) -> WriteState {
    open()
    guard state == .open, let frame else { return .closed }
    let out = worker.scratch
    out.removeAll()
    do throws(WireError) {
      try FrameClient.encodeStreamMessage(
        frame, host: target.hostHeader.span, routing: routing.span, endpoint: call.endpoint.span, payload: message,
        into: out)
    } catch {
      let error = SidecarError(error)
      worker.driver.later { [self] in end(error) }
      return .closed
    }
    return write(out.bytes)
  }

  func finishSending() {
    open()
    guard state == .open, let frame else { return }
    state = .listening
    let out = worker.scratch
    out.removeAll()
    switch FrameClient.encodeEndOfStream(
      frame, host: target.hostHeader.span, routing: routing.span, endpoint: call.endpoint.span, into: out)
    {
    case .message:
      _ = write(out.bytes)
      armProbe()
    case .closeWrites: stream?.shutdownWrites()
    }
  }

  func resumeReplies() {
    guard holdsBack else { return }
    holdsBack = false
    stream?.resumeReading()
  }

  func abandon() {
    guard state != .over else { return }
    // The node learns at once that nobody listens.
    close(reset: state == .open || state == .listening)
  }

  // MARK: The stream

  /// Sends the opening message unless it is sent.
  private func open() {
    guard state == .connected else { return }
    state = .open
    _ = format(for: call.replyFormat)
    guard let frame, !frame.opensWithFirstMessage else { return }
    let out = worker.scratch
    out.removeAll()
    let metadata = call.metadata?.bytes ?? .none
    FrameClient.encodeStreamOpening(
      frame, host: target.hostHeader.span, routing: routing.span, endpoint: call.endpoint.span, into: out,
      metadata: { $0.append(metadata) })
    _ = write(out.bytes)
  }

  private func write(_ bytes: UnsafeRawBufferPointer) -> WriteState {
    guard let stream else { return .closed }
    if !stream.isCarried { worker.metrics.add(.bytesToNodes, bytes.count) }
    return stream.write(bytes)
  }

  private func armProbe() {
    guard probes < Self.probesMax, dialect.generation == .micro else { return }
    let delay = min(Self.probeDelay &<< Int64(min(probes, 20)), Self.probeDelayMax)
    worker.timers.arm(timer, after: delay, from: worker.driver.now)
  }

  private func timePassed() {
    switch state {
    case .dialling:
      refused("no answer to the dial within \(Double(worker.settings.connectTimeout) / 1e9) s")
    case .listening:
      guard let frame else { return }
      probes += 1
      let out = worker.scratch
      out.removeAll()
      FrameClient.encodeEndProbe(frame, host: target.hostHeader.span, service: service.span, into: out)
      _ = write(out.bytes)
      armProbe()
    case .connected, .open, .over: break
    }
  }

  private func received(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) {
    guard let frame else { return }
    switch FrameClient.decodeReply(head: head, body: body, codec: frame.codec) {
    case .payload(let range, let format):
      pass(UnsafeRawBufferPointer(rebasing: body[range]), format)
    case .translated(let json): pass(json.bytes, .json)
    case .endOfStream: end(nil)
    case .failed(var error):
      if probes > 0, FrameClient.isEndProbeAnswer(error) { return end(nil) }
      error = explained(error)
      error.isUnbegun = head.first(.xMicroUnbegun) != nil
      end(error)
    }
  }

  /// A node without a codec for the messages: the next stream is translated at once if that can be done.
  private func explained(_ error: SidecarError) -> SidecarError {
    guard error.kind == .unsupportedNodeDialect, let frame, let node else { return error }
    guard (try? call.method()) == nil else {
      _ = node.refuses(frame.codec.format)
      return error
    }
    return MessageTranslator.missing(after: error, call.serviceName.text, call.endpoint.text)
  }

  private func pass(_ message: UnsafeRawBufferPointer, _ format: PayloadFormat) {
    if state == .listening { armProbe() }
    guard call.calleeSent(message, format) == .congested, !holdsBack else { return }
    holdsBack = true
    stream?.pauseReading()
  }

  // MARK: Ends

  private func refused(_ why: String) {
    guard state == .dialling else { return }
    worker.metrics.add(.dialsFailed)
    close(reset: true)
    call.calleeRefused(why)
  }

  private func end(_ error: SidecarError?) {
    guard state != .over else { return }
    // Clients close the connection when a stream is over, whoever ended it.
    close(reset: false)
    call.calleeEnded(error)
  }

  private func close(reset: Bool) {
    state = .over
    timer.cancel()
    reader.finishMessage(worker.readers)
    if let stream {
      self.stream = nil
      if reset { stream.reset() } else { stream.close() }
    }
    if isCounted { target.releaseConnection() }
  }

  // MARK: StreamHandler

  package func streamOpened(_ stream: ByteStream) {
    guard state == .dialling else { return }
    timer.cancel()
    state = .connected
    call.calleeConnected()
    // One that only listens opens the stream too.
    open()
  }

  package func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    guard state != .over else { return }
    if !stream.isCarried { worker.metrics.add(.bytesFromNodes, bytes.count) }
    var input = bytes
    do throws(WireError) {
      while state != .over {
        if reader.isBetweenMessages { reader.expectResponse() }
        guard case .message(let body) = try reader.next(&input, worker.readers) else { return }
        let head = reader.head(worker.readers)
        if head.status >= 200 { received(head, body) }
        reader.finishMessage(worker.readers)
      }
    } catch {
      end(
        SidecarError(
          .badUpstreamReply, "\(target.hostHeader.text) sent a message that cannot be read: \(error.description)"))
    }
  }

  package func streamEnded(_ stream: ByteStream) { lost("closed the connection inside the stream") }

  package func streamDrained(_ stream: ByteStream) {
    if state == .open { call.calleeDrained() }
  }

  package func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    guard self.stream != nil, state != .over else { return }
    let why: String
    switch end {
    case .refused: why = "connection refused"
    case .unreachable(let text), .reset(let text): why = text
    case .closedHere, .ended: why = "closed the connection inside the stream"
    }
    if state == .dialling { refused(why) } else { lost(why) }
  }

  private func lost(_ why: String) {
    guard state != .over else { return }
    if endsByClosing, reader.isBetweenMessages { return end(nil) }
    end(.upstreamReset("\(target.hostHeader.text): \(why)"))
  }
}
