// The one taxonomy of failed calls. Parsers throw `WireError`; everything else that ends a call ends as this, and one
// table says what each kind is called on every side: framework, HTTP, gRPC, access log, metrics.

/// Why a call failed, where, and whether another attempt may help.
package struct SidecarError: Error, Hashable, Sendable {
  /// Each kind is one row of `table`.
  package enum Kind: UInt8, CaseIterable, Sendable {
    /// The caller's message breaks a rule.
    case badRequest
    /// No registry knows the service.
    case serviceNotFound
    /// The service has no such endpoint, as its node said.
    case endpointNotFound
    /// Not a method this path takes.
    case methodNotAllowed
    /// No whole reply within the call's time.
    case deadlineExceeded
    /// A body that had to be buffered grew over the limit.
    case bodyTooLarge
    case headTooLarge
    /// No codec for the content type.
    case unsupportedMediaType
    /// One of our own limits is reached; the call was not started.
    case overloaded
    /// More calls in a time than a policy allows; the call was not started.
    case rateLimited
    /// A policy or the caller wanted it to fail; nothing was sent.
    case faultInjected
    /// The service is known, and no node of it can be tried.
    case noHealthyNode
    /// The dial failed: nothing was sent.
    case connectFailed
    /// The connection broke after something was sent and before the reply was whole.
    case upstreamReset
    /// The node's reply breaks a rule of its dialect.
    case badUpstreamReply
    /// The node speaks a dialect that cannot be spoken on this path.
    case unsupportedNodeDialect
    /// The local app is not reachable.
    case appUnavailable
    /// The caller left before the reply.
    case cancelled
    /// A fault of the sidecar itself.
    case `internal`
    /// The service answered with an error of its own.
    case upstreamError
  }

  /// The side where it went wrong.
  package enum Origin: UInt8, Sendable { case downstream, upstream, control, local }

  /// Whether the same call may be tried again without doing anything twice.
  package enum Retry: UInt8, Sendable {
    case never
    /// Only if the connection had served a call before: a peer may close an idle one at any time.
    case ifReused
    /// Nothing was sent.
    case always
  }

  package var kind: Kind
  package var origin: Origin
  package var retry: Retry
  /// Who failed, in the framework's error JSON.
  package var id: String
  /// go-micro's code, an HTTP status number.
  package var code: Int
  /// What happened, for people, in go-micro's words where it has them.
  package var detail: String
  /// For `upstreamError` and `endpointNotFound`: the service's own text, sent on unchanged to framework callers.
  package var upstreamText: [UInt8]?
  /// For an error that came by gRPC: what was said there, for gRPC callers.
  package var grpc: GRPCFailure?
  /// When the call may be made with better hope, in nanoseconds from now; nil: nobody knows.
  package var retryAfter: Int64?
  /// Said by a sidecar in front of an app: the app has heard nothing of the call.
  package var isUnbegun = false

  /// What is not given comes from the kind's row.
  package init(
    _ kind: Kind, _ detail: String, id: String? = nil, origin: Origin? = nil, retry: Retry? = nil
  ) {
    let row = kind.row
    self.kind = kind
    self.detail = detail
    self.id = id ?? row.id
    self.origin = origin ?? row.origin
    self.retry = retry ?? row.retry
    code = row.code
  }
}

// MARK: The table

extension SidecarError {
  /// What a kind is called on every side.
  package struct Row: Hashable, Sendable {
    /// The framework's `id`; go-micro's own names where its client makes the same error.
    package var id: String
    package var code: Int
    package var grpc: GRPCStatus
    /// In the access log; Envoy's letters where the meaning is the same.
    package var flag: String
    /// In metrics.
    package var label: String
    package var origin: Origin
    package var retry: Retry

    init(
      _ id: String, _ code: Int, _ grpc: GRPCStatus, _ flag: String, _ label: String, _ origin: Origin, _ retry: Retry
    ) {
      self.id = id
      self.code = code
      self.grpc = grpc
      self.flag = flag
      self.label = label
      self.origin = origin
      self.retry = retry
    }
  }

  /// One row per kind, in the order of the kinds.
  package static let table: [Row] = Kind.allCases.map(makeRow)

  private static func makeRow(_ kind: Kind) -> Row {
    let client = "go.micro.client"
    let transport = "go.micro.client.transport"
    let codec = "go.micro.client.codec"
    let sidecar = "go.micro.sidecar"
    return switch kind {
    case .badRequest: Row(sidecar, 400, .invalidArgument, "DPE", "bad_request", .downstream, .never)
    case .serviceNotFound: Row(client, 404, .notFound, "NR", "service_not_found", .control, .never)
    case .endpointNotFound: Row(client, 404, .unimplemented, "NE", "endpoint_not_found", .upstream, .never)
    case .methodNotAllowed: Row(sidecar, 405, .unimplemented, "DM", "method_not_allowed", .downstream, .never)
    case .deadlineExceeded: Row(client, 408, .deadlineExceeded, "UT", "deadline_exceeded", .upstream, .never)
    case .bodyTooLarge: Row(sidecar, 413, .resourceExhausted, "DL", "body_too_large", .downstream, .never)
    case .headTooLarge: Row(sidecar, 431, .resourceExhausted, "DH", "head_too_large", .downstream, .never)
    case .unsupportedMediaType:
      Row(sidecar, 415, .invalidArgument, "DT", "unsupported_media_type", .downstream, .never)
    case .overloaded: Row(sidecar, 503, .unavailable, "UO", "overloaded", .local, .never)
    case .rateLimited: Row(sidecar, 429, .resourceExhausted, "RL", "rate_limited", .local, .always)
    case .faultInjected: Row(sidecar, 503, .unavailable, "FI", "fault_injected", .local, .never)
    case .noHealthyNode: Row(client, 503, .unavailable, "UH", "no_healthy_node", .control, .always)
    case .connectFailed: Row(client, 503, .unavailable, "UF", "connect_failed", .upstream, .always)
    case .upstreamReset: Row(transport, 502, .unavailable, "UC", "upstream_reset", .upstream, .ifReused)
    case .badUpstreamReply: Row(codec, 502, .internal, "UPE", "bad_upstream_reply", .upstream, .never)
    case .unsupportedNodeDialect:
      Row(sidecar, 501, .unimplemented, "UD", "unsupported_node_dialect", .local, .always)
    case .appUnavailable: Row(sidecar, 503, .unavailable, "AF", "app_unavailable", .upstream, .always)
    case .cancelled: Row(client, 499, .cancelled, "DC", "cancelled", .downstream, .never)
    case .internal: Row(sidecar, 500, .internal, "IE", "internal", .local, .never)
    case .upstreamError: Row(client, 500, .internal, "UE", "upstream_error", .upstream, .never)
    }
  }
}

extension SidecarError.Kind {
  package var row: SidecarError.Row { SidecarError.table[Int(rawValue)] }
  /// The access log's flag.
  package var flag: String { row.flag }
  /// The metrics' label; as many values as kinds.
  package var label: String { row.label }
}

// MARK: As selection sees it

extension SidecarError {
  /// The node is to blame rather than the call: what an ejection is counted by. A plain text is the usual way of handlers
  /// to say that something was wrong with the request, whatever code clients make of it.
  var blamesNode: Bool {
    guard code >= 500, code != 501 else { return false }
    if let grpc, grpc.status == GRPCStatus.unknown.rawValue { return false }
    guard let upstreamText else { return true }
    return upstreamText.withUnsafeBytes { MicroError(parsing: $0) }.isStructured
  }
}

// MARK: As each side sees it

extension SidecarError {
  /// The status for a plain HTTP caller. A timeout is 504 there: 408 would say that the caller was slow.
  package var httpStatus: Int { code == 408 ? 504 : code }

  package var grpcStatus: GRPCStatus {
    if let grpc { return GRPCStatus(rawValue: grpc.status) ?? .unknown }
    return kind == .upstreamError || kind == .faultInjected ? GRPCStatus(microCode: code) : kind.row.grpc
  }

  /// For `Retry-After`: whole seconds, 1 at least; nil where nobody knows.
  package var retryAfterSeconds: Int? {
    guard let retryAfter else { return kind == .overloaded ? 1 : nil }
    return Int(min(max((retryAfter &+ 999_999_999) / 1_000_000_000, 1), 86_400))
  }

  package var microError: MicroError {
    upstreamText.map { text in text.withUnsafeBytes { MicroError(parsing: $0) } }
      .flatMap { $0.isStructured ? $0 : nil } ?? MicroError(id: id, code: code, detail: detail)
  }

  /// The text for a framework caller, in its envelope or Micro-Error: what the service wrote, unchanged, or ours.
  package func writeFrameText(into buffer: ByteBuffer) {
    if let upstreamText {
      buffer.append(upstreamText)
    } else {
      MicroError(id: id, code: code, detail: detail).write(into: buffer)
    }
  }

  /// The error JSON for an HTTP caller: the service's, if it wrote one, else ours.
  package func writeJSON(into buffer: ByteBuffer) {
    if let upstreamText, upstreamText.withUnsafeBytes({ MicroError(parsing: $0) }).isStructured {
      buffer.append(upstreamText)
    } else {
      MicroError(id: id, code: code, detail: detail).write(into: buffer)
    }
  }
}

// MARK: In go-micro's words

extension SidecarError {
  /// A service's own error: the text of its envelope or of Micro-Error.
  package init(upstreamText text: UnsafeRawBufferPointer) {
    let parsed = MicroError(parsing: text)
    let isMissing = parsed.code == 0 && parsed.saysNotFound
    self.init(
      isMissing ? .endpointNotFound : .upstreamError, parsed.detail, id: parsed.id.isEmpty ? nil : parsed.id)
    code = parsed.httpStatus
    upstreamText = Array(text)
  }

  package init(_ error: WireError, kind: Kind = .badRequest, id: String? = nil) {
    // Where in the bytes says nothing about one that never came.
    self.init(kind, error.status == 408 ? error.rule : error.description, id: id)
    // A caller is told by the same number on both sides of its message.
    if kind.row.origin == .downstream { code = error.status }
  }

  package static func serviceNotFound(_ name: ServiceName) -> SidecarError {
    SidecarError(.serviceNotFound, "service \(name): not found")
  }
  package static func noHealthyNode(_ name: ServiceName) -> SidecarError {
    SidecarError(.noHealthyNode, "error selecting \(name) node: none available")
  }
  package static func connectFailed(_ why: String) -> SidecarError {
    SidecarError(.connectFailed, "connection error: \(why)")
  }
  package static func deadlineExceeded(_ why: String = "context deadline exceeded") -> SidecarError {
    SidecarError(.deadlineExceeded, "request timeout: \(why)")
  }
  static func rateLimited(_ why: String, wait: Int64) -> SidecarError {
    var error = SidecarError(.rateLimited, "too many calls: \(why)")
    error.retryAfter = wait
    return error
  }
  static func noApp(_ service: ServiceName?) -> SidecarError {
    SidecarError(
      .appUnavailable, "no app is configured behind this sidecar; set MICRO_APP_ADDRESS", id: service)
  }
  package static func upstreamReset(_ why: String) -> SidecarError { SidecarError(.upstreamReset, why) }
}
