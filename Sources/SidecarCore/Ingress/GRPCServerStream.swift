// A gRPC call made to us: one HTTP/2 stream as the caller's end of a `StreamCall`. Unary calls and the three kinds of
// streams are the same here.
//
//   path and metadata ─▶ service and endpoint ─▶ StreamCall ─▶ …
//
//                 app's side                                          framework's side
//   service       metadata `micro-service`, else an `:authority`      this app
//                 that is no host, else the path's package
//   endpoint      `/{package}.Say/Hello` → Say.Hello                  the same; the package is whatever the caller's
//                                                                     generation puts there (wire/rpc.md §4b)
//
// A message goes on as soon as it is whole. While the callee is congested what comes is kept, at most a window of it, and
// the window is not given back: so a slow callee stops the caller.

final class GRPCServerStream: HTTP2StreamHandler, StreamCaller {
  private unowned let connection: GRPCServerConnection
  private let worker: Worker
  private let stream: HTTP2Stream
  private let format: PayloadFormat
  private let startedAt: Instant
  private var reader: GRPCMessageReader
  private var call: StreamCall?
  private var route: Route?
  private var endpoint: InboundEndpoint?
  /// What the sidecar answers itself, once the request is whole.
  private var builtIn: GRPCBuiltIn?
  /// Bytes that wait while the callee is congested.
  private var waiting: ByteBuffer?
  private var isHeldBack = false
  private var inputEnded = false
  private var hasHead = false
  private var isOver = false
  /// For those who watch.
  private var observed = CallNotes()

  init(_ connection: GRPCServerConnection, _ stream: HTTP2Stream, _ format: PayloadFormat) {
    self.connection = connection
    worker = connection.worker
    self.stream = stream
    self.format = format
    startedAt = worker.driver.now
    reader = GRPCMessageReader(limit: worker.settings.bodyMax, buffers: worker.readers.buffers)
  }

  // MARK: The request's head

  /// Starts the call, or ends the stream with an error.
  func begin(_ path: UnsafeRawBufferPointer, _ head: HTTP2Fields) {
    worker.observer?.begin(&observed, head)
    guard let target = GRPCPath(path) else {
      return fail(
        SidecarError(
          .badRequest,
          "malformed method name: \(String(decoding: path.prefix(200), as: UTF8.self)); it is /package.Handler/Method"))
    }
    let timeout = GRPCMetadata.timeout(head)
    if timeout.isBroken { return fail(SidecarError(.badRequest, "grpc-timeout is not a timeout")) }
    let deadline = timeout.nanoseconds.map { worker.driver.now.advanced(byNanoseconds: $0) } ?? .distantFuture
    let name = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(name) }
    target.appendEndpoint(path, to: name)
    do throws(SidecarError) {
      switch connection.side {
      case .app: try beginOutbound(path, target, endpoint: name.bytes, head, deadline)
      case .framework: try beginInbound(path, target, endpoint: name.bytes, head, deadline)
      }
    } catch {
      fail(error)
    }
  }

  private func beginOutbound(
    _ path: UnsafeRawBufferPointer, _ target: GRPCPath, endpoint: UnsafeRawBufferPointer, _ head: HTTP2Fields,
    _ deadline: Instant
  ) throws(SidecarError) {
    let service: UnsafeRawBufferPointer
    if let named = head.first("micro-service"), !named.isEmpty {
      service = named
    } else if let authority = head.authority, GRPCPath.namesService(authority) {
      service = authority
    } else {
      if let method = GRPCBuiltIn(path, connection), method.isOfSidecar { return answer(method) }
      service = target.package(path)
    }
    guard !service.isEmpty else {
      throw SidecarError(
        .badRequest,
        "the call names no service; say which in metadata micro-service, in the authority, or as the proto package")
    }
    let route = try worker.namedRoute(service, endpoint)
    self.route = route
    let call = StreamCall(worker: worker, target: .service(route))
    call.wish.key = route.service.keyRule?.key(head)
    start(call, head, .http, deadline)
  }

  private func beginInbound(
    _ path: UnsafeRawBufferPointer, _ target: GRPCPath, endpoint: UnsafeRawBufferPointer, _ head: HTTP2Fields,
    _ deadline: Instant
  ) throws(SidecarError) {
    if let method = GRPCBuiltIn(path, connection) { return answer(method) }
    if DebugReplies.method(endpoint) != nil { return answer(.debug(DebugReplies.method(endpoint) ?? .health)) }
    self.endpoint = worker.inboundEndpoint(endpoint)
    guard worker.app != nil else {
      throw SidecarError(
        .appUnavailable, "no app is configured behind this sidecar; set MICRO_APP_ADDRESS",
        id: worker.settings.serviceName)
    }
    let call = StreamCall(worker: worker, target: .app(endpoint: FixedBytes(endpoint)))
    if worker.settings.appProtocol == .grpc { call.path = FixedBytes(path) }
    start(call, head, .framework, deadline)
  }

  private func start(_ call: StreamCall, _ head: HTTP2Fields, _ source: Metadata.Source, _ deadline: Instant) {
    let metadata = worker.readers.buffers.take()
    GRPCMetadata.append(from: head, source: source, observed, into: metadata)
    call.span = observed.span
    call.metadata = metadata
    call.takeHints { head.first($0) }
    call.replyFormat = format
    call.deadline = deadline
    call.assumesStream = false
    self.call = call
    call.start(for: self)
  }

  private func answer(_ method: GRPCBuiltIn) {
    builtIn = method
    if case .reflection(let reflection) = method, reflection.isEmpty {
      fail(
        SidecarError(
          GRPCFailure(.unimplemented, "no descriptors are known here; name files with them in MICRO_DESCRIPTORS")))
    }
  }

  // MARK: The request's messages

  func http2Stream(_ stream: HTTP2Stream, received fields: HTTP2Fields, kind: HTTP2Stream.HeadKind) {
    // Trailers of a request mean nothing in gRPC.
  }

  func http2Stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) {
    if isOver { return stream.consumed(bytes.count) }
    if isHeldBack { return keep(bytes) }
    var input = bytes
    take(&input)
    if !input.isEmpty { keep(input) }
  }

  private func keep(_ bytes: UnsafeRawBufferPointer) {
    let buffer = waiting ?? worker.readers.buffers.take()
    waiting = buffer
    buffer.append(bytes)
  }

  /// Hands on messages from the front of `input` until the callee is congested.
  private func take(_ input: inout UnsafeRawBufferPointer) {
    let given = input.count
    do throws(GRPCFramingError) {
      while !isHeldBack, !isOver {
        guard case .message(let message) = try reader.next(&input) else { break }
        if let builtIn {
          answer(builtIn, message)
          continue
        }
        guard let call else { break }
        if call.send(message, format) == .congested { isHeldBack = true }
      }
    } catch {
      return failCall(SidecarError(GRPCFailure(error.status, error.message)))
    }
    if isOver { input = .none }
    stream.consumed(given - input.count)
  }

  func http2StreamEnded(_ stream: HTTP2Stream) {
    inputEnded = true
    if waiting == nil { endInput() }
  }

  private func endInput() {
    guard !isOver else { return }
    guard reader.isBetweenMessages else {
      let error = GRPCFramingError.truncated
      return failCall(SidecarError(GRPCFailure(error.status, error.message)))
    }
    if case .reflection = builtIn { return end(nil) }
    if case .watch = builtIn { return }
    if builtIn != nil {
      return failCall(SidecarError(GRPCFailure(.internal, "the request has no message")))
    }
    call?.finishSending()
  }

  func calleeDrained(_ call: StreamCall) { takeOn() }

  /// Goes on with what has been kept.
  private func takeOn() {
    guard isHeldBack, !isOver else { return }
    isHeldBack = false
    if let buffer = waiting {
      waiting = nil
      var input = buffer.bytes
      take(&input)
      if !isOver, !input.isEmpty {
        buffer.removeFirst(buffer.count - input.count)
        waiting = buffer
      } else {
        worker.readers.buffers.give(buffer)
      }
    }
    if inputEnded, waiting == nil { endInput() }
  }

  // MARK: The answer

  func calleeReady(_ call: StreamCall) {}

  func calleeAnswered(_ call: StreamCall, metadata: UnsafeRawBufferPointer) { sendHead(metadata) }

  private func sendHead(_ metadata: UnsafeRawBufferPointer = .none) {
    guard !hasHead else { return }
    hasHead = true
    let list = makeHead()
    GRPCMetadata.append(lines: metadata, to: list)
    stream.respond(list)
  }

  private func makeHead() -> HTTP2HeaderList {
    let list = connection.session.takeList()
    list.append(":status", "200")
    list.append("content-type", GRPCMetadata.contentType(format))
    return list
  }

  func calleeSent(_ call: StreamCall, _ message: UnsafeRawBufferPointer) -> WriteState {
    guard !isOver else { return .closed }
    return send(message)
  }

  private func send(_ message: UnsafeRawBufferPointer) -> WriteState {
    sendHead()
    return GRPCFraming.withPrefix(message.count) { stream.send($0, message) }
  }

  func http2StreamDrained(_ stream: HTTP2Stream) {
    if builtIn != nil { return takeOn() }
    call?.callerDrained()
  }

  func calleeEnded(_ call: StreamCall, _ error: SidecarError?, trailers: UnsafeRawBufferPointer) {
    self.call = nil
    if worker.observer != nil { observed.note(call) }
    end(error, trailers)
  }

  /// Ends the stream with an error before there is a call.
  private func fail(_ error: SidecarError) { end(error) }

  /// Ends the stream, and the call with it.
  private func failCall(_ error: SidecarError) {
    let call = call
    self.call = nil
    if worker.observer != nil, let call { observed.note(call) }
    end(error)
    call?.cancel()
  }

  private func end(_ error: SidecarError?, _ trailers: UnsafeRawBufferPointer = .none) {
    guard !isOver else { return }
    isOver = true
    observed.status = Int(error?.grpcStatus.rawValue ?? 0)
    record(error.map { .failed($0.kind) } ?? .ok)
    if hasHead {
      let list = connection.session.takeList()
      appendTrailers(error, trailers, to: list)
      stream.finish(trailers: list)
    } else {
      // Head and trailers in one, which says that there is no message.
      let list = makeHead()
      appendTrailers(error, trailers, to: list)
      stream.respond(list, ends: true)
    }
    release()
  }

  private func appendTrailers(_ error: SidecarError?, _ trailers: UnsafeRawBufferPointer, to list: HTTP2HeaderList) {
    GRPCTrailers.append(error, to: list)
    if connection.side == .framework, let load = worker.appLoad {
      list.append("x-micro-load", isVarying: true) { LoadReport.append(load, to: $0) }
    }
    GRPCMetadata.append(lines: trailers, to: list)
  }

  /// The caller has left, or its connection has; or all is over.
  func http2StreamClosed(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {
    if case .watch(let watch) = builtIn { connection.remove(watch) }
    guard !isOver else { return }
    isOver = true
    if worker.observer != nil, let call { observed.note(call) }
    observed.status = Int(GRPCStatus.cancelled.rawValue)
    record(.failed(.cancelled))
    let call = call
    self.call = nil
    call?.cancel()
    release()
  }

  private func release() {
    reader.reset()
    // Given back by whoever reads from it.
    if isHeldBack, let waiting {
      self.waiting = nil
      stream.consumed(waiting.count)
      worker.readers.buffers.give(waiting)
    }
  }

  private func record(_ outcome: MetricOutcome) {
    let handle: WorkerMetrics.Handle
    switch connection.side {
    case .app: handle = route?.handle(.grpc) ?? worker.unroutedHandle
    case .framework:
      worker.inboundRequests &+= 1
      if outcome == .ok { endpoint?.isReal = true } else { worker.inboundErrors &+= 1 }
      handle = endpoint?.handle(.grpc) ?? worker.inboundHandle
    }
    let latency = worker.driver.now.nanoseconds(since: startedAt)
    worker.metrics.record(handle, outcome, latency: latency)
    guard let observer = worker.observer else { return }
    let isOut = connection.side == .app
    observer.end(
      &observed,
      CallEnd(
        direction: isOut ? .out : .in, dialect: CallerForm.grpc.dialect,
        service: (isOut ? route?.service.nameBytes.span : worker.settings.fromService.span) ?? .none,
        endpoint: (isOut ? route?.endpoint.span : endpoint?.nameBytes.span) ?? .none, outcome: outcome,
        latency: latency, series: handle))
  }

  // MARK: What the sidecar answers itself

  private func answer(_ method: GRPCBuiltIn, _ message: UnsafeRawBufferPointer) {
    let reply = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(reply) }
    do throws(SidecarError) {
      switch method {
      case .healthCheck:
        GRPCHealth.append(try GRPCHealth.status(message, connection), to: reply)
      case .healthWatch:
        let watch = GRPCHealthWatch(
          stream: self, connection: connection, name: try GRPCHealth.service(message))
        builtIn = .watch(watch)
        connection.add(watch)
        watch.tell()
        return
      case .watch: return failCall(SidecarError(GRPCFailure(.internal, "the request has more than one message")))
      case .debug(.health):
        guard worker.isAppHealthy else {
          throw SidecarError(
            .appUnavailable, "the app does not answer its health check", id: worker.settings.serviceName)
        }
        DebugReplies.health(format: format, into: reply)
      case .debug(.stats): DebugReplies.stats(worker.stats(), format: format, into: reply)
      case .reflection(let reflection):
        try reflection.answer(message, into: reply)
        // A caller that asks on and on must take the answers.
        if send(reply.bytes) == .congested { isHeldBack = true }
        return
      }
    } catch {
      return failCall(error)
    }
    _ = send(reply.bytes)
    end(nil)
  }

  /// A reply of a watch.
  func tell(_ message: UnsafeRawBufferPointer) {
    guard !isOver else { return }
    _ = send(message)
  }

  func endWatch() { end(SidecarError(GRPCFailure(.unavailable, "the sidecar is stopping"))) }
}
