// Streaming calls of an app over plain HTTP/1, and of a go-micro client that was told to call here: which form is asked for,
// and how the stream begins.

extension IngressConnection {
  static func acceptsEvents(_ head: HTTP1Head) -> Bool {
    head.first(.accept).map { ASCIIText.containsIgnoringCase($0, "text/event-stream") } ?? false
  }

  /// What form of stream the request asks for, by its `Accept` or its own type; nil: it is a plain call.
  static func streamForm(_ head: HTTP1Head) -> HTTPStreamCaller.ReplyForm? {
    if let accept = head.first(.accept), accept.count >= 17 {
      if ASCIIText.containsIgnoringCase(accept, "text/event-stream") { return .events }
      if ASCIIText.containsIgnoringCase(accept, "application/x-ndjson") { return .ndjson }
    }
    if let type = head.first(.contentType), ASCIIText.hasPrefixIgnoringCase(type, "application/x-ndjson") {
      return .ndjson
    }
    return nil
  }

  /// Starts a streaming call whose replies go into one HTTP response.
  func startStream(
    _ head: HTTP1Head, _ target: StreamTarget, _ replies: HTTPStreamCaller.ReplyForm
  ) -> HTTPStreamCaller? {
    form = replies == .events ? .events : .ndjson
    guard let call = makeStreamCall(head, target) else { return nil }
    let caller = HTTPStreamCaller(connection: self, call: call, form: replies, isHTTP10: isHTTP10)
    starting = caller
    call.start(for: caller)
    return caller
  }

  /// A call with the request's metadata and deadline; nil: its deadline is none, and the caller has been told.
  func makeStreamCall(_ head: HTTP1Head, _ target: StreamTarget) -> StreamCall? {
    let call = StreamCall(worker: worker, target: target)
    let metadata = worker.readers.buffers.take()
    call.metadata = metadata
    call.span = observed.span
    call.takeHints { head.first($0) }
    appendMetadata(of: head, from: .http, to: metadata)
    do throws(SidecarError) {
      if case .service(let route) = target { try setWish(&call.wish, head, route.service) }
      if head.has(.timeout) || head.has(.requestTimeout) { call.deadline = try deadline(head) }
      return call
    } catch {
      call.cancel()
      reply(error: error)
      return nil
    }
  }

  /// A framework caller's stream, or a call of which that is not known yet.
  func startFrameStream(
    _ head: HTTP1Head, _ body: UnsafeRawBufferPointer, _ request: FrameRequest, _ route: Route
  ) {
    let call = StreamCall(worker: worker, target: route.target)
    call.assumesStream = false
    call.wish.key = route.service.keyRule?.key(head)
    let metadata = worker.readers.buffers.take()
    call.metadata = metadata
    call.span = observed.span
    call.takeHints { head.first($0) }
    appendMetadata(of: head, from: .framework, to: metadata)
    if let timeout = request.timeoutNanoseconds {
      call.deadline = worker.driver.now.advanced(byNanoseconds: timeout)
    }
    let caller = FrameCaller(
      connection: self, call: call, opening: request, payload: notes.map { request.payload(body, $0) } ?? .none)
    starting = caller
    call.start(for: caller)
  }

  /// The same for a request that is here as a whole: lines, or one message.
  func startWholeStream(
    _ head: HTTP1Head, _ body: UnsafeRawBufferPointer, _ query: UnsafeRawBufferPointer?, _ route: Route,
    _ replies: HTTPStreamCaller.ReplyForm
  ) {
    if let type = head.first(.contentType), ASCIIText.hasPrefixIgnoringCase(type, "application/x-ndjson") {
      guard let stream = startStream(head, route.target, replies) else { return }
      if !body.isEmpty { stream.connectionRead(body) }
      stream.connectionEnded()
      return
    }
    let message = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(message) }
    do throws(SidecarError) {
      let (format, isQuery) = try appendPayload(head, body, query, to: message)
      startStream(head, route.target, replies)?.sendOnly(message.bytes, format, isQuery: isQuery)
    } catch {
      reply(error: error)
    }
  }

  /// The stream failed before its reply had begun.
  func answerStream(error: SidecarError, _ call: StreamCall) {
    if worker.observer != nil { observed.note(call) }
    switch state {
    case .answering: reply(error: error)
    case .streaming:
      // The head of the reply is not written, so an ordinary answer can still take its place.
      returnToAnswering()
      reply(error: error)
    default: break
    }
  }
}
