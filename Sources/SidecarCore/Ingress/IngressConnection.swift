// One connection of the app to the local API: HTTP/1 in, calls out. What it shares with the framework's connections is
// in `CallerConnection`; here is what a request means and how each kind of caller is answered.

final class IngressConnection: CallerConnection, CallOwner {
  /// Bytes of payload up to which head and payload are sent from one buffer.
  private static let copiedPayloadMax = 4096

  private var call: OutboundCall?
  var route: Route?
  /// How the caller spoke, so how it is answered: frames always with 200 and errors in the framework's form.
  var form = CallerForm.path
  private var isHEAD = false
  private(set) var isHTTP10 = false
  private var proxiedType: [UInt8]?
  /// MessagePack or BSON, when the caller wants its reply so.
  private var packedReply: PackedBody?
  private var origin: [UInt8]?

  // MARK: CallerConnection

  /// A framework client closes to cancel; a plain HTTP caller may have ended its half only, and still reads.
  override var outlivesCallersEnd: Bool { !form.isFrame }

  override var mayContinue: Bool { !isHTTP10 }

  override func answerMalformed(_ error: WireError) {
    form = .path
    route = nil
    origin = nil
    isHEAD = false
    let kind: SidecarError.Kind =
      switch error.status {
      case 413: .bodyTooLarge
      case 431: .headTooLarge
      default: .badRequest
      }
    reply(error: SidecarError(error, kind: kind), status: error.status)
  }

  override func cancelAnswer() {
    guard let call else { return }
    self.call = nil
    if worker.observer != nil { observed.note(call) }
    observed.status = SidecarError.Kind.cancelled.row.code
    record(.failed(.cancelled))
    call.cancel()
  }

  override func ended() { worker.remove(self) }

  override func handOver(_ stream: ByteStream, toHTTP2 bytes: UnsafeRawBufferPointer) -> Bool {
    worker.takeOverHTTP2(stream, side: .app, initial: bytes)
    worker.remove(self)
    return true
  }

  override func refused(_ refusal: FrameRefusal) {
    record(.failed(refusal.reason == .unsupportedContentType ? .unsupportedMediaType : .badRequest))
  }

  // MARK: Requests

  private func startRequest(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) {
    if let observer = worker.observer {
      observer.begin(&observed, head)
      observed.bytesIn = body.count
      observed.tapped?.takeRequest(body, worker.settings.tap)
    }
    isHTTP10 = head.minorVersion == 0
    isHEAD = head.method == .head
    form = .path
    route = nil
    proxiedType = nil
    packedReply = nil
    origin = nil
    if let value = head.first(.origin), CORS.allows(value, worker.settings.corsOrigins) { origin = Array(value) }
  }

  override func received(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) {
    startRequest(head, body)
    guard mayAsk(head) else { return }
    if head.method == .options {
      reply(APIReply(status: 200))
      return
    }
    let target = Self.originForm(head.target)
    let question = target.firstIndex(of: UInt8(ascii: "?"))
    let path = UnsafeRawBufferPointer(rebasing: target[..<(question ?? target.endIndex)])
    let query = question.map { UnsafeRawBufferPointer(rebasing: target[($0 + 1)...]) }

    if head.upgrade, head.method == .get, WebSocketHandshake.isAsked(for: head) {
      return startWebSocket(head, path, query)
    }
    if head.method == .post, path.count == 1, Self.looksLikeFrame(head) {
      receivedFrame(head, body)
      return
    }
    if let (service, endpoint) = Self.namedEndpoint(head) {
      form = .headers
      startCall(head, body, query: query, route: namedRoute(service, endpoint))
      return
    }
    if path.count <= 9 {
      if ASCIIText.equals(path, "/rpc") { return receivedRPC(head, body) }
      if ASCIIText.equals(path, "/registry") { return receivedRegistry(head, body, query) }
      if ASCIIText.equals(path, "/health") { return ask(.appHealth) }
      if ASCIIText.equals(path, "/stats"), head.method == .get {
        return ask(.stats(isJSON: ASCIIText.equals(Self.mediaType(head.first(.contentType)), "application/json")))
      }
      if ASCIIText.equals(path, "/explain") { return receivedExplain(head, query) }
      if ASCIIText.equals(path, "/broker") {
        return reply(error: SidecarError(.unsupportedNodeDialect, "/broker is not in this version"))
      }
    }
    if let route = worker.routes.find(path) {
      startCall(head, body, query: query, route: route)
    } else {
      startCall(head, body, query: query, route: pathRoute(path))
    }
  }

  static func namedEndpoint(
    _ head: HTTP1Head
  ) -> (service: UnsafeRawBufferPointer, endpoint: UnsafeRawBufferPointer)? {
    guard let service = head.first(.microService),
      let endpoint = head.first(.microEndpoint) ?? head.first(.microMethod),
      !service.isEmpty, !endpoint.isEmpty
    else { return nil }
    return (service, endpoint)
  }

  /// Browsers only, which send one of these fields with every request of a page: a name that a page's owner made point here
  /// (DNS rebinding) is none of ours, and by it any page would be of the same origin. Other callers may use any name.
  private func mayAsk(_ head: HTTP1Head) -> Bool {
    guard head.has(.origin) || head.has(.referer) || head.first("Sec-Fetch-Site") != nil else { return true }
    guard let host = head.first(.host), !worker.settings.hosts.knows(host) else { return true }
    var error = SidecarError(
      .badRequest,
      "pages may not reach the sidecar by the name \(String(decoding: host.prefix(200), as: UTF8.self)); use localhost or an address, or name it in MICRO_SIDECAR_HOSTS"
    )
    error.code = 421
    reply(error: error, status: 421)
    return false
  }

  override func receivedStreaming(
    _ head: HTTP1Head, _ firstBytes: UnsafeRawBufferPointer
  ) -> (any ConnectionStream)? {
    startRequest(head, .none)
    guard mayAsk(head) else { return nil }
    let target = Self.originForm(head.target)
    let path = UnsafeRawBufferPointer(
      rebasing: target[..<(target.firstIndex(of: UInt8(ascii: "?")) ?? target.endIndex)])
    let route: Route?
    if let (service, endpoint) = Self.namedEndpoint(head) {
      route = namedRoute(service, endpoint)
    } else {
      route = worker.routes.find(path) ?? pathRoute(path)
    }
    guard let route else { return nil }
    self.route = route
    guard head.method == .post || head.method == .put else {
      reply(error: SidecarError(.methodNotAllowed, "Method not allowed; calls are POST or GET"))
      return nil
    }
    guard let stream = startStream(head, route.target, Self.acceptsEvents(head) ? .events : .ndjson) else { return nil }
    if !firstBytes.isEmpty { stream.connectionRead(firstBytes) }
    return stream
  }

  /// `http://host/path` is the same as `/path` here.
  private static func originForm(_ target: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
    guard target.first != UInt8(ascii: "/"), target.count > 7, ASCIIText.hasPrefixIgnoringCase(target, "http://") else {
      return target
    }
    guard let slash = target[7...].firstIndex(of: UInt8(ascii: "/")) else {
      return UnsafeRawBufferPointer(rebasing: target[..<0])
    }
    return UnsafeRawBufferPointer(rebasing: target[slash...])
  }

  func pathRoute(_ path: UnsafeRawBufferPointer) -> Route? {
    guard let text = String(validating: path, as: UTF8.self) else {
      reply(error: SidecarError(.badRequest, "the path is not UTF-8"))
      return nil
    }
    guard let parsed = PathRoute(path: text, namespace: worker.settings.namespace) else {
      reply(
        error: SidecarError(
          .serviceNotFound,
          "path \(text.prefix(200)) names no service and method; use /service/handler/method, or /full.service.name/Handler.Method"
        ))
      return nil
    }
    return routeOrReply { () throws(SidecarError) in
      try worker.makeRoute(parsed.service, parsed.endpoint, key: path)
    }
  }

  func namedRoute(_ service: UnsafeRawBufferPointer, _ endpoint: UnsafeRawBufferPointer) -> Route? {
    routeOrReply { () throws(SidecarError) in try worker.namedRoute(service, endpoint) }
  }

  private func routeOrReply(_ find: () throws(SidecarError) -> Route) -> Route? {
    do throws(SidecarError) { return try find() } catch {
      reply(error: error)
      return nil
    }
  }

  // MARK: Calls

  private func startCall(
    _ head: HTTP1Head, _ body: UnsafeRawBufferPointer, query: UnsafeRawBufferPointer?, route: Route?
  ) {
    guard let route else { return }
    let worker = worker
    self.route = route
    guard head.method == .post || head.method == .get || head.method == .put || head.method == .head else {
      reply(error: SidecarError(.methodNotAllowed, "Method not allowed; calls are POST or GET"))
      return
    }
    if head.has(.accept) || head.has(.contentType), let form = Self.streamForm(head) {
      startWholeStream(head, body, query, route, form)
      return
    }
    let call = worker.takeCall()
    let request = worker.readers.buffers.take()
    call.request = request
    call.isIdempotent = head.method == .get || head.method == .head || head.has(.idempotencyKey)
    call.setRoute(route)
    call.span = observed.span
    call.hints = .read(call.policy, worker) { head.first($0) }
    appendMetadata(of: head, from: .http, to: request)
    call.metadata = 0..<request.count
    do throws(SidecarError) {
      try setWish(&call.wish, head, route.service)
      (call.format, call.isQuery) = try appendPayload(head, body, query, to: request)
      call.payload = call.metadata.upperBound..<request.count
      call.deadline = try deadline(head, call.policy)
    } catch {
      call.discard()
      reply(error: error)
      return
    }
    self.call = call
    call.start(for: self)
  }

  /// Appends the body in the form a node takes, and says which, and whether it was a query or a form.
  func appendPayload(
    _ head: HTTP1Head, _ body: UnsafeRawBufferPointer, _ query: UnsafeRawBufferPointer?, to request: ByteBuffer
  ) throws(SidecarError) -> (format: PayloadFormat, isQuery: Bool) {
    let type = Self.mediaType(head.first(.contentType))
    let packed = PackedBody(mediaType: type)
    packedReply = PackedBody.reply(head.first(.accept), request: packed)
    if body.isEmpty, head.method == .get || head.method == .head || type.isEmpty {
      do throws(WireError) {
        try QueryToJSON.append(query ?? UnsafeRawBufferPointer(start: nil, count: 0), to: request)
      } catch {
        throw SidecarError(error)
      }
      return (.json, true)
    }
    if ASCIIText.equalsIgnoringCase(type, "application/json") || type.isEmpty {
      try appendJSON(body, to: request)
    } else if ASCIIText.equalsIgnoringCase(type, "application/protobuf")
      || ASCIIText.equalsIgnoringCase(type, "application/proto")
      || ASCIIText.equalsIgnoringCase(type, "application/x-protobuf")
      || ASCIIText.equalsIgnoringCase(type, "application/octet-stream")
    {
      proxiedType = Array(type)
      request.append(body)
      return (.protobuf, false)
    } else if let packed {
      do throws(WireError) { try packed.appendJSON(body, to: request) } catch { throw SidecarError(error) }
    } else if ASCIIText.equalsIgnoringCase(type, "application/x-www-form-urlencoded") {
      // `curl -d '{…}'` says so of JSON; a form never begins with a brace.
      if body.first == UInt8(ascii: "{") {
        try appendJSON(body, to: request)
      } else {
        do throws(WireError) { try QueryToJSON.append(body, to: request) } catch { throw SidecarError(error) }
        return (.json, true)
      }
    } else {
      throw SidecarError(
        .unsupportedMediaType,
        "content type \(String(decoding: type.prefix(100), as: UTF8.self)) cannot be sent; use application/json, application/protobuf, application/msgpack or application/bson"
      )
    }
    return (.json, false)
  }

  /// What a plain HTTP caller says about the node. Errors: `X-Micro-Select` is malformed.
  func setWish(
    _ wish: inout NodeSet.Wish, _ head: HTTP1Head, _ service: ServiceTable
  ) throws(SidecarError) {
    if let rule = service.keyRule { wish.key = rule.key(head) }
    if let conditions = head.first(.xMicroSelect) { wish.filter = try NodeFilter(header: conditions) }
  }

  override func recordStream(_ outcome: MetricOutcome, _ call: StreamCall) {
    if worker.observer != nil {
      observed.note(call)
      observed.status = outcome.kind?.row.code ?? 200
    }
    record(outcome)
  }

  private func appendJSON(_ body: UnsafeRawBufferPointer, to request: ByteBuffer) throws(SidecarError) {
    if body.isEmpty {
      request.append("{}")
      return
    }
    do throws(WireError) {
      let document = try JSONScanner.validate(body)
      request.append(UnsafeRawBufferPointer(rebasing: body[document]))
    } catch {
      throw SidecarError(.badRequest, "the body is not JSON: \(error)")
    }
  }

  /// The content type without parameters and blanks.
  private static func mediaType(_ value: UnsafeRawBufferPointer?) -> UnsafeRawBufferPointer {
    guard let value else { return UnsafeRawBufferPointer(start: nil, count: 0) }
    var end = value.firstIndex(of: UInt8(ascii: ";")) ?? value.endIndex
    while end > 0, value[end - 1] == 0x20 || value[end - 1] == 0x09 { end -= 1 }
    return UnsafeRawBufferPointer(rebasing: value[..<end])
  }

  /// `Timeout` is in seconds on this side (toolkit v0.15); a fraction is allowed. The configured time is the most.
  func deadline(_ head: HTTP1Head, _ policy: EndpointPolicy? = nil) throws(SidecarError) -> Instant {
    let limit = policy?.values.timeout ?? worker.settings.requestTimeout
    guard let value = head.first(.timeout) ?? head.first(.requestTimeout) else {
      return worker.driver.now.advanced(byNanoseconds: limit)
    }
    guard value.count <= 32, let seconds = Double(String(decoding: value, as: UTF8.self)), seconds > 0, !seconds.isNaN
    else {
      throw SidecarError(.badRequest, "Timeout must be a number of seconds above zero")
    }
    let wanted = seconds >= Double(limit) / 1e9 ? limit : Int64(seconds * 1e9)
    return worker.driver.now.advanced(byNanoseconds: wanted)
  }

  private func receivedRPC(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) {
    form = .rpc
    guard head.method == .post else {
      reply(error: SidecarError(.methodNotAllowed, "Method not allowed", id: "go.micro.rpc"))
      return
    }
    let rpc: RPCBody
    do throws(WireError) {
      let isJSON = ASCIIText.equalsIgnoringCase(Self.mediaType(head.first(.contentType)), "application/json")
      rpc = isJSON || body.first == UInt8(ascii: "{") ? try RPCBody(json: body) : try RPCBody(form: body)
    } catch {
      reply(error: SidecarError(.badRequest, error.rule, id: "go.micro.rpc"))
      return
    }
    let call = worker.takeCall()
    let request = worker.readers.buffers.take()
    call.request = request
    call.isIdempotent = head.has(.idempotencyKey)
    if let address = rpc.address {
      guard let target = worker.fixedTarget(address) else {
        call.discard()
        reply(error: SidecarError(.badRequest, "address \(address.prefix(200)) is not host:port", id: "go.micro.rpc"))
        return
      }
      do throws(SidecarError) { try Worker.checkNames(rpc.service, rpc.endpoint) } catch {
        call.discard()
        reply(error: error)
        return
      }
      call.fixedTarget = target
      call.endpoint = FixedBytes(rpc.endpoint)
      call.routing = Route.routing(FixedBytes(rpc.service), call.endpoint, worker.settings.fromService)
      route = nil
    } else {
      let service = FixedBytes(rpc.service)
      let endpoint = FixedBytes(rpc.endpoint)
      guard
        let route = withExtendedLifetime((service, endpoint), { namedRoute(service.span, endpoint.span) })
      else {
        call.discard()
        return
      }
      self.route = route
      call.setRoute(route)
      call.hints = .read(call.policy, worker) { head.first($0) }
    }
    call.span = observed.span
    appendMetadata(of: head, from: .http, to: request)
    call.metadata = 0..<request.count
    if let decoded = rpc.decoded {
      request.append(decoded)
    } else if rpc.request.isEmpty {
      request.append("{}")
    } else {
      request.append(UnsafeRawBufferPointer(rebasing: body[rpc.request]))
    }
    call.payload = call.metadata.upperBound..<request.count
    do throws(SidecarError) {
      if let route { try setWish(&call.wish, head, route.service) }
      call.deadline = try deadline(head, call.policy)
    } catch {
      call.discard()
      reply(error: error)
      return
    }
    self.call = call
    call.start(for: self)
  }

  /// A go-micro client that was told to send its calls here (`MICRO_PROXY_ADDRESS`).
  private func receivedFrame(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) {
    form = .microFrame
    guard let request = decodeFrame(head, body), let notes else { return }
    form = CallerForm(request.dialect)
    switch request.kind {
    case .endOfStream:
      // The end of a stream nobody has opened: nothing waits for an answer.
      skip()
      return
    case .event:
      reply(error: SidecarError(.unsupportedNodeDialect, "events over the RPC transport are not in this version"))
      return
    case .call: break
    }
    guard !request.service.isEmpty else {
      reply(
        error: SidecarError(
          .badRequest,
          "the call names no service; clients before v0.16 say which they mean only as metadata X-Micro-Target"))
      return
    }
    guard let route = namedRoute(notes.bytes(request.service), notes.bytes(request.endpoint)) else { return }
    self.route = route
    if route.isStream(worker.translator) ?? (route.service.status != .present) {
      return startFrameStream(head, body, request, route)
    }
    let call = worker.takeCall()
    let buffer = worker.readers.buffers.take()
    call.request = buffer
    call.setRoute(route)
    call.hints = .read(call.policy, worker) { head.first($0) }
    call.format = request.format
    call.isJSONRPC = request.codec == .jsonRPC
    call.audience = request.jsonAudience
    call.wish.key = route.service.keyRule?.key(head)
    call.span = observed.span
    appendMetadata(of: head, from: .framework, to: buffer)
    call.metadata = 0..<buffer.count
    buffer.append(request.payload(body, notes))
    call.payload = call.metadata.upperBound..<buffer.count
    let limit = call.policy.values.timeout ?? worker.settings.requestTimeout
    call.deadline = worker.driver.now.advanced(byNanoseconds: min(request.timeoutNanoseconds ?? limit, limit))
    self.call = call
    call.start(for: self)
  }

  /// A message of a go-micro client rather than of a plain HTTP caller: it has an id, or no routing headers at all
  /// while the path says nothing either.
  private static func looksLikeFrame(_ head: HTTP1Head) -> Bool {
    if head.has(.microID) || head.has(.xMicroID) || head.has(.xMicroMethod) || head.has(.microTopic) { return true }
    return !head.has(.microService)
  }

  // MARK: Replies

  func callReplied(_ call: OutboundCall, _ payload: UnsafeRawBufferPointer, format: PayloadFormat) {
    self.call = nil
    guard state == .answering else { return }
    if worker.observer != nil { observe(call, payload) }
    if form.isFrame, let frame, let notes {
      record(.ok)
      sendFrameReply(frame, notes, payload, id: nil)
    } else if format == .json, let packedReply {
      reply(packedReply, payload, call)
    } else {
      reply(format, payload, call)
    }
  }

  /// Replies with JSON in another dress.
  private func reply(_ form: PackedBody, _ json: UnsafeRawBufferPointer, _ call: OutboundCall) {
    let packed = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(packed) }
    do throws(SidecarError) { try form.pack(json, into: packed) } catch {
      return reply(error: error, call: call)
    }
    reply(.bytes, packed.bytes, call, type: form.contentType)
  }

  private func reply(
    _ format: PayloadFormat, _ payload: UnsafeRawBufferPointer, _ call: OutboundCall, type: StaticString? = nil
  ) {
    record(.ok)
    let out = worker.scratch
    out.removeAll()
    let now = worker.driver.now
    var payload = payload
    out.append("HTTP/1.1 200 OK\r\nContent-Type: ")
    if let type {
      out.append(type)
      out.append("\r\n")
    } else if format == .json {
      out.append("application/json\r\n")
      // The framework ends a JSON document with a line feed; an HTTP body needs none.
      if payload.last == 0x0A { payload = UnsafeRawBufferPointer(rebasing: payload.dropLast()) }
    } else if let proxiedType {
      out.append(proxiedType)
      out.append("\r\n")
    } else {
      out.append("application/protobuf\r\n")
    }
    HTTP1Writer.contentLength(payload.count, to: out)
    appendTruth(call, now, to: out)
    endHead(out)
    if isHEAD { payload = UnsafeRawBufferPointer(start: nil, count: 0) }
    if payload.count <= Self.copiedPayloadMax {
      // One buffer is a cheaper system call than two.
      out.append(payload)
      payload = UnsafeRawBufferPointer(start: nil, count: 0)
    }
    send(out.bytes, payload)
  }

  /// What happened, for whoever debugs it.
  private func appendTruth(_ call: OutboundCall, _ now: Instant, to out: ByteBuffer) {
    if let node = call.node { out.append(node.truthHeader.span) }
    if call.attempts > 0 { HTTP1Writer.field("X-Micro-Attempts", decimal: call.attempts, to: out) }
    HTTP1Writer.field(
      "X-Micro-Upstream-Time", decimal: Int(now.nanoseconds(since: call.startedAt) / 1000), to: out)
  }

  func callFailed(_ call: OutboundCall, _ error: SidecarError) {
    self.call = nil
    guard state == .answering else { return }
    if worker.observer != nil { observed.note(call) }
    reply(error: error, call: call)
  }

  func reply(error: SidecarError, status: Int? = nil, call: OutboundCall? = nil) {
    observed.status = form.isFrame ? error.code : status ?? error.httpStatus
    record(.failed(error.kind))
    if form.isFrame, let frame, let notes {
      sendFrameError(frame, notes, error)
      return
    }
    let out = worker.scratch
    out.removeAll()
    let body = worker.readers.buffers.take()
    error.writeJSON(into: body)
    let status = status ?? error.httpStatus
    HTTP1Writer.statusLine(status, to: out)
    out.append("Content-Type: application/json\r\n")
    HTTP1Writer.contentLength(body.count, to: out)
    HTTP1Writer.field("X-Micro-Reason", error.kind.label, to: out)
    if let seconds = error.retryAfterSeconds { HTTP1Writer.field("Retry-After", decimal: seconds, to: out) }
    if status == 426 { out.append("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n") }
    if error.kind == .methodNotAllowed { out.append("Allow: GET, POST, DELETE, OPTIONS\r\n") }
    if let call { appendTruth(call, worker.driver.now, to: out) }
    endHead(out)
    send(out.bytes, isHEAD ? UnsafeRawBufferPointer(start: nil, count: 0) : body.bytes)
    worker.readers.buffers.give(body)
  }

  func reply(_ answer: APIReply) {
    let out = worker.scratch
    out.removeAll()
    observed.status = answer.status
    observed.bytesOut = answer.body.count
    record(
      answer.status < 400
        ? .ok : .failed(answer.status == 404 ? .serviceNotFound : answer.status < 500 ? .badRequest : .internal))
    HTTP1Writer.statusLine(answer.status, to: out)
    if let type = answer.contentType { HTTP1Writer.field("Content-Type", type, to: out) }
    HTTP1Writer.contentLength(answer.body.count, to: out)
    endHead(out)
    answer.body.withUnsafeBytes {
      send(out.bytes, isHEAD ? UnsafeRawBufferPointer(start: nil, count: 0) : $0)
    }
  }

  private func record(_ outcome: MetricOutcome) {
    let handle = route?.handle(form) ?? worker.unroutedHandle
    let latency = worker.driver.now.nanoseconds(since: requestStarted)
    worker.metrics.record(handle, outcome, latency: latency)
    if let observer = worker.observer { tell(observer, outcome, latency, handle) }
  }

  /// The reply to a call is here.
  private func observe(_ call: OutboundCall, _ payload: UnsafeRawBufferPointer) {
    observed.note(call)
    observed.status = 200
    observed.bytesOut = payload.count
    observed.tapped?.takeReply(payload, worker.settings.tap)
  }

  private func tell(
    _ observer: CallObserver, _ outcome: MetricOutcome, _ latency: Int64, _ series: WorkerMetrics.Handle
  ) {
    observer.end(
      &observed,
      CallEnd(
        direction: .out, dialect: form.dialect, service: route?.service.nameBytes.span ?? .none,
        endpoint: route?.endpoint.span ?? .none, outcome: outcome, latency: latency, series: series))
  }

  func endHead(_ out: ByteBuffer) {
    if let origin { CORS.appendHeaders(origin, to: out) }
    if !keepAlive {
      out.append("Connection: close\r\n")
    } else if isHTTP10 {
      // Whoever speaks 1.0 expects the connection to end unless it is told.
      out.append("Connection: keep-alive\r\n")
    }
    HTTP1Writer.endHead(to: out)
  }
}
