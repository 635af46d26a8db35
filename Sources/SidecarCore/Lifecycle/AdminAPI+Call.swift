// `POST /call` and `/explain` of the admin listener: what the page's form asks. The first worker carries it out.

extension AdminAPI {
  /// `{"service","endpoint","request"}`: makes the call, and tells what it came to in one JSON object.
  func call(_ request: AdminRequest, _ reply: @escaping (APIReply) -> Void) {
    guard request.method == .post else { return reply(.text(405, "POST /call makes a call")) }
    guard let fields = try? JSONValue(parsing: request.body), let service = fields["service"]?.stringValue,
      let endpoint = fields["endpoint"]?.stringValue, let worker = sidecar.workers.first
    else { return reply(.text(400, "expected {\"service\":…,\"endpoint\":…,\"request\":…}")) }
    let payload = Array((fields["request"] ?? .object([])).text(escaping: .plain).utf8)
    let answer = LoopBound(reply)
    worker.post { [mailbox = sidecar.driver.mailbox] worker in
      PageCall.start(worker, service, endpoint, payload) { result in
        mailbox.post { answer.value(.json(value: result)) }
      }
    }
  }

  func explain(_ request: AdminRequest, _ reply: @escaping (APIReply) -> Void) {
    let query = QueryFields(request.query)
    guard let service = query["service"], let worker = sidecar.workers.first else {
      return reply(.text(400, "say what to explain: /explain?service=NAME&endpoint=Handler.Method"))
    }
    let endpoint = query["endpoint"] ?? "Debug.Health"
    let answer = LoopBound(reply)
    worker.post { [mailbox = sidecar.driver.mailbox] (worker: Worker) in
      func finish(_ result: APIReply) { mailbox.post { answer.value(result) } }
      do throws(SidecarError) { try Worker.checkNames(service, endpoint) } catch {
        return finish(.text(error.httpStatus, error.detail))
      }
      ExplanationRequest.start(worker, service, endpoint, asked: nil) { result in
        switch result {
        case .success(let explanation): finish(.json(value: explanation))
        case .failure(let error): finish(.text(error.httpStatus, error.detail))
        }
      }
    }
  }
}

/// One call that a person asked for. Lives until it is answered.
private final class PageCall: CallOwner {
  private let completion: (JSONValue) -> Void
  private var itself: PageCall?

  private init(_ completion: @escaping (JSONValue) -> Void) { self.completion = completion }

  /// On the worker's loop; so is `completion`, once.
  static func start(
    _ worker: Worker, _ service: String, _ endpoint: String, _ payload: [UInt8],
    _ completion: @escaping (JSONValue) -> Void
  ) {
    let names = (FixedBytes(service), FixedBytes(endpoint))
    do throws(SidecarError) {
      let route = try withExtendedLifetime(
        names,
        { () throws(SidecarError) in
          try worker.namedRoute(names.0.span, names.1.span)
        })
      let owner = PageCall(completion)
      owner.itself = owner
      let call = worker.takeCall()
      let request = worker.readers.buffers.take()
      call.request = request
      call.setRoute(route)
      request.append(payload)
      call.payload = 0..<request.count
      call.deadline = worker.driver.now.advanced(
        byNanoseconds: call.policy.values.timeout ?? worker.settings.requestTimeout)
      call.start(for: owner)
    } catch {
      completion(describe(error, nil, 0))
    }
  }

  func callReplied(_ call: OutboundCall, _ payload: UnsafeRawBufferPointer, format: PayloadFormat) {
    let reply: JSONValue
    if payload.count > 256 * 1024 {
      reply = .string("(\(payload.count) bytes)")
    } else {
      reply = (try? JSONValue(parsing: payload)) ?? .string("(\(payload.count) bytes that are no JSON)")
    }
    finish(Self.facts(call, milliseconds(call)) + [.init("ok", .bool(true)), .init("reply", reply)])
  }

  func callFailed(_ call: OutboundCall, _ error: SidecarError) {
    guard case .object(let members) = Self.describe(error, call, milliseconds(call)) else { return }
    finish(members)
  }

  private func milliseconds(_ call: OutboundCall) -> Double {
    Double(call.worker.driver.now.nanoseconds(since: call.startedAt)) / 1e6
  }

  private static func facts(_ call: OutboundCall?, _ milliseconds: Double) -> [JSONValue.Member] {
    [
      .init("node", call?.node.map { .string($0.node.id) } ?? .null),
      .init("address", call?.node.map { .string($0.node.address) } ?? .null),
      .init("attempts", JSONValue(call?.attempts ?? 0)), .init("milliseconds", JSONValue(milliseconds)),
    ]
  }

  private static func describe(_ error: SidecarError, _ call: OutboundCall?, _ milliseconds: Double) -> JSONValue {
    let said = error.microError
    return .object(
      facts(call, milliseconds) + [
        .init("ok", .bool(false)), .init("reason", .string(error.kind.label)),
        .init(
          "error",
          .object([
            .init("id", .string(said.id)), .init("code", JSONValue(said.code)), .init("detail", .string(said.detail)),
          ])),
      ])
  }

  private func finish(_ members: [JSONValue.Member]) {
    completion(.object(members))
    itself = nil
  }
}
