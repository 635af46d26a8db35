// A framework stream delivered to an app over plain HTTP/1: `Log.Tail` becomes `POST /Log/Tail` whose body is one JSON
// document a line (`application/x-ndjson`, chunked), and the lines of the reply are the messages back. Both halves flow at
// the same time where the app can; one that reads its whole body first works too.
//
//   dialling ──▶ open ── reply's head ──▶ replying ──▶ over
//      │           └── a status that is no 2xx ──▶ collecting the error ──▶ over
//      └── refused: over

/// The app's side of a stream as lines of JSON. Loop-confined.
final class LinesApp: StreamCallee, StreamHandler {
  private enum State {
    case dialling
    /// The request's head is sent; its body may go on.
    case open
    /// The reply is 2xx: its lines are messages.
    case replying
    /// It is not: its body says why.
    case collecting(status: Int)
    case over
  }

  private unowned let call: StreamCall
  private let worker: Worker
  private let app: UpstreamTarget
  private let endpoint: FixedBytes
  private var state = State.dialling
  private var stream: ByteStream?
  private var parser: HTTP1Parser
  /// The begin of a line, or of an error's body.
  private var line: ByteBuffer?
  private var appError: SidecarError?
  private var holdsBack = false
  /// Among the app's connections.
  private var isCounted = false
  private var hasFinished = false
  private lazy var timer = LoopTimer { [unowned self] in self.dialTimedOut() }

  /// Starts to dial; `call` hears of it in a later turn.
  init(_ call: StreamCall, app: UpstreamTarget, endpoint: FixedBytes) {
    self.call = call
    self.app = app
    self.endpoint = endpoint
    worker = call.worker
    parser = HTTP1Parser(.client)
    isCounted = app.reserveConnection()
    guard isCounted else {
      worker.driver.later { [self] in
        end(
          SidecarError(
            .overloaded, "\(UpstreamTarget.connectionsMaxDefault) calls to the app are under way", id: errorID))
      }
      return
    }
    worker.timers.arm(timer, after: worker.settings.connectTimeout, from: worker.driver.now)
    app.withSocketAddress { [weak self] result in
      guard let self, case .dialling = state else { return }
      switch result {
      case .failure(let error): worker.driver.later { self.refused(error.description) }
      case .success(let address): stream = worker.driver.connect(to: address, handler: self)
      }
    }
  }

  private var errorID: String { worker.settings.serviceName ?? "go.micro.sidecar" }

  // MARK: StreamCallee

  func format(for caller: PayloadFormat) -> PayloadFormat { .json }

  func send(_ message: UnsafeRawBufferPointer) -> WriteState {
    switch state {
    case .open, .replying: break
    case .dialling, .collecting, .over: return .closed
    }
    let document: Range<Int>
    do throws(WireError) { document = try JSONScanner.validate(message) } catch {
      let error = SidecarError(.badRequest, "a message is not JSON: \(error)", id: errorID)
      worker.driver.later { [self] in end(error) }
      return .closed
    }
    let out = worker.scratch
    out.removeAll()
    HTTP1Writer.chunkStart(document.count + 1, to: out)
    JSONText.appendOnOneLine(UnsafeRawBufferPointer(rebasing: message[document]), into: out)
    out.append("\n")
    HTTP1Writer.chunkEnd(to: out)
    return write(out)
  }

  private func write(_ out: ByteBuffer) -> WriteState {
    worker.metrics.add(.bytesToNodes, out.count)
    return stream?.write(out.bytes) ?? .closed
  }

  func finishSending() {
    guard !hasFinished else { return }
    hasFinished = true
    switch state {
    case .open, .replying:
      let out = worker.scratch
      out.removeAll()
      HTTP1Writer.lastChunk(to: out)
      _ = write(out)
    case .dialling, .collecting, .over: break
    }
  }

  func resumeReplies() {
    guard holdsBack else { return }
    holdsBack = false
    stream?.resumeReading()
  }

  func abandon() {
    if case .over = state { return }
    close(reset: true)
  }

  // MARK: Request

  package func streamOpened(_ stream: ByteStream) {
    guard case .dialling = state else { return }
    timer.cancel()
    state = .open
    let out = worker.scratch
    out.removeAll()
    out.append("POST ")
    AppCall.appendPath(endpoint.span, to: out)
    out.append(" HTTP/1.1\r\n")
    HTTP1Writer.field("Host", app.hostHeader.span, to: out)
    out.append("Content-Type: application/x-ndjson\r\nAccept: application/x-ndjson\r\n")
    if call.deadline != .distantFuture {
      AppCall.appendTimeout(call.deadline.nanoseconds(since: worker.driver.now), to: out)
    }
    if let metadata = call.metadata { out.append(metadata.bytes) }
    HTTP1Writer.chunked(to: out)
    HTTP1Writer.endHead(to: out)
    _ = write(out)
    parser.expectResponse(toHEAD: false)
    call.calleeConnected()
  }

  // MARK: Reply

  package func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    worker.metrics.add(.bytesFromNodes, bytes.count)
    var input = bytes
    do throws(WireError) {
      while true {
        if case .over = state { return }
        switch try parser.next(&input) {
        case .needMore: return
        case .head: receivedHead(parser.head)
        case .body(let bytes): receivedBody(bytes)
        case .end: receivedEnd()
        }
      }
    } catch {
      end(SidecarError(.badUpstreamReply, "the app's reply cannot be read: \(error)", id: errorID))
    }
  }

  private func receivedHead(_ head: HTTP1Head) {
    guard head.status >= 200 else {
      parser.expectResponse(toHEAD: false)
      return
    }
    state = (200..<300).contains(head.status) ? .replying : .collecting(status: head.status)
  }

  private func receivedBody(_ bytes: UnsafeRawBufferPointer) {
    switch state {
    case .replying:
      var rest = bytes
      while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
        keep(UnsafeRawBufferPointer(rebasing: rest[rest.startIndex..<end]))
        lineEnded()
        guard case .replying = state else { return }
        rest = UnsafeRawBufferPointer(rebasing: rest[(end + 1)...])
      }
      keep(rest)
    case .collecting:
      keep(UnsafeRawBufferPointer(rebasing: bytes.prefix(max(AppCall.detailMax - (line?.count ?? 0), 0))))
    case .dialling, .open, .over: break
    }
  }

  private func keep(_ bytes: UnsafeRawBufferPointer) {
    guard !bytes.isEmpty else { return }
    let line = line ?? worker.readers.buffers.take()
    self.line = line
    line.append(bytes)
    if line.count > worker.settings.bodyMax {
      end(
        SidecarError(
          .badUpstreamReply, "a line of the app is longer than \(worker.settings.bodyMax) bytes", id: errorID))
    }
  }

  private func lineEnded() {
    guard let line else { return }
    self.line = nil
    defer { worker.readers.buffers.give(line) }
    if case .over = state { return }
    guard line.bytes.contains(where: { $0 > 0x20 }) else { return }
    let document: Range<Int>
    do throws(WireError) { document = try JSONScanner.validate(line.bytes) } catch {
      return end(SidecarError(.badUpstreamReply, "a line of the app is not JSON: \(error)", id: errorID))
    }
    if let error = Self.errorLine(line.bytes(document)) {
      appError = error
      return
    }
    if call.calleeSent(line.bytes(document), .json) == .congested, !holdsBack {
      holdsBack = true
      stream?.pauseReading()
    }
  }

  /// `{"error":{"id":…,"code":…,"detail":…}}`, the way a stream of lines says that it failed.
  private static func errorLine(_ line: UnsafeRawBufferPointer) -> SidecarError? {
    guard line.count >= 10, ASCIIText.hasPrefixIgnoringCase(line, "{\"error\"") else { return nil }
    do throws(WireError) {
      var scanner = JSONScanner(line)
      try scanner.enterObject()
      guard let member = try scanner.nextMember(), try scanner.nextMember() == nil else { return nil }
      let text = UnsafeRawBufferPointer(rebasing: line[member.value])
      return MicroError(parsing: text).isStructured ? SidecarError(upstreamText: text) : nil
    } catch {
      return nil
    }
  }

  private func receivedEnd() {
    switch state {
    case .replying:
      lineEnded()
      guard case .replying = state else { return }
      end(appError)
    case .collecting(let status): end(AppCall.appError(status, line?.bytes ?? .none, id: errorID))
    case .dialling, .open, .over: break
    }
  }

  package func streamEnded(_ stream: ByteStream) {
    if case .over = state { return }
    do throws(WireError) {
      if case .end = try parser.finish() { return receivedEnd() }
    } catch {}
    lost("closed the connection inside the stream")
  }

  package func streamDrained(_ stream: ByteStream) { call.calleeDrained() }

  package func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    if case .over = state { return }
    let why: String
    switch end {
    case .refused: why = "connection refused"
    case .unreachable(let text), .reset(let text): why = text
    case .closedHere, .ended: why = "closed the connection inside the stream"
    }
    if case .dialling = state { refused(why) } else { lost(why) }
  }

  // MARK: Ends

  private func dialTimedOut() {
    refused("no answer to the dial within \(Double(worker.settings.connectTimeout) / 1e9) s")
  }

  private func refused(_ why: String) {
    guard case .dialling = state else { return }
    worker.metrics.add(.dialsFailed)
    close(reset: true)
    call.calleeRefused("the app at \(app.hostHeader.text) cannot be reached: \(why)")
  }

  private func lost(_ why: String) {
    end(SidecarError(.upstreamReset, "the app at \(app.hostHeader.text): \(why)", id: errorID))
  }

  private func end(_ error: SidecarError?) {
    if case .over = state { return }
    close(reset: !hasFinished)
    call.calleeEnded(error)
  }

  private func close(reset: Bool) {
    state = .over
    timer.cancel()
    if let line { worker.readers.buffers.give(line) }
    line = nil
    if let stream {
      self.stream = nil
      if reset { stream.reset() } else { stream.close() }
    }
    if isCounted { app.releaseConnection() }
  }
}
