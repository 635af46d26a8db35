import Testing

@testable import SidecarCore

@Suite("The error table")
struct SidecarErrorTests {
  /// The table once more, as users see it; a change must be made in both places.
  static let expected: [(SidecarError.Kind, String, Int, Int, Int, String, String, SidecarError.Retry)] = [
    (.badRequest, "go.micro.sidecar", 400, 400, 3, "DPE", "bad_request", .never),
    (.serviceNotFound, "go.micro.client", 404, 404, 5, "NR", "service_not_found", .never),
    (.endpointNotFound, "go.micro.client", 404, 404, 12, "NE", "endpoint_not_found", .never),
    (.methodNotAllowed, "go.micro.sidecar", 405, 405, 12, "DM", "method_not_allowed", .never),
    (.deadlineExceeded, "go.micro.client", 408, 504, 4, "UT", "deadline_exceeded", .never),
    (.bodyTooLarge, "go.micro.sidecar", 413, 413, 8, "DL", "body_too_large", .never),
    (.headTooLarge, "go.micro.sidecar", 431, 431, 8, "DH", "head_too_large", .never),
    (.unsupportedMediaType, "go.micro.sidecar", 415, 415, 3, "DT", "unsupported_media_type", .never),
    (.overloaded, "go.micro.sidecar", 503, 503, 14, "UO", "overloaded", .never),
    (.rateLimited, "go.micro.sidecar", 429, 429, 8, "RL", "rate_limited", .always),
    (.faultInjected, "go.micro.sidecar", 503, 503, 14, "FI", "fault_injected", .never),
    (.noHealthyNode, "go.micro.client", 503, 503, 14, "UH", "no_healthy_node", .always),
    (.connectFailed, "go.micro.client", 503, 503, 14, "UF", "connect_failed", .always),
    (.upstreamReset, "go.micro.client.transport", 502, 502, 14, "UC", "upstream_reset", .ifReused),
    (.badUpstreamReply, "go.micro.client.codec", 502, 502, 13, "UPE", "bad_upstream_reply", .never),
    (.unsupportedNodeDialect, "go.micro.sidecar", 501, 501, 12, "UD", "unsupported_node_dialect", .always),
    (.appUnavailable, "go.micro.sidecar", 503, 503, 14, "AF", "app_unavailable", .always),
    (.cancelled, "go.micro.client", 499, 499, 1, "DC", "cancelled", .never),
    (.internal, "go.micro.sidecar", 500, 500, 13, "IE", "internal", .never),
    (.upstreamError, "go.micro.client", 500, 500, 13, "UE", "upstream_error", .never),
  ]

  @Test("says for every kind what each side is told")
  func whole() {
    #expect(Self.expected.map(\.0) == SidecarError.Kind.allCases)
    for (kind, id, code, http, grpc, flag, label, retry) in Self.expected {
      let error = SidecarError(kind, "why")
      #expect(error.id == id && error.code == code && error.httpStatus == http, "\(kind)")
      #expect(error.grpcStatus.rawValue == grpc && kind.flag == flag && kind.label == label, "\(kind)")
      #expect(error.retry == retry, "\(kind)")
      #expect(error.microError == MicroError(id: id, code: code, detail: "why"), "\(kind)")
      #expect(!error.microError.status.isEmpty, "\(kind)")
    }
    #expect(Set(Self.expected.map(\.5)).count == Self.expected.count, "flags tell kinds apart")
    #expect(Set(Self.expected.map(\.6)).count == Self.expected.count, "labels tell kinds apart")
  }

  @Test(
    "a service's text becomes a status",
    arguments: [
      (#"{"id":"a","code":400,"detail":"d","status":"Bad Request"}"#, 400, 400, SidecarError.Kind.upstreamError),
      (#"{"id":"a","code":408,"detail":"d"}"#, 408, 504, .upstreamError),
      (#"{"id":"a","code":599}"#, 599, 599, .upstreamError), (#"{"id":"a","code":600}"#, 500, 500, .upstreamError),
      (#"{"id":"a","code":200}"#, 500, 500, .upstreamError), (#"{"id":"a","code":-1}"#, 500, 500, .upstreamError),
      (#"{"id":"a"}"#, 500, 500, .upstreamError), ("plain failure", 500, 500, .upstreamError),
      ("rpc: can't find service Nope", 404, 404, .endpointNotFound),
      ("rpc: can't find method Hello.Nope", 404, 404, .endpointNotFound),
      ("rpc: service/endpoint request ill-formed: x", 500, 500, .upstreamError),
      ("context deadline exceeded", 408, 504, .upstreamError), ("context canceled", 500, 500, .upstreamError),
      (#"{"id":"a","code":404,"detail":"rpc: can't find method x"}"#, 404, 404, .upstreamError),
    ])
  func upstream(_ text: String, _ code: Int, _ http: Int, _ kind: SidecarError.Kind) {
    let error = withBytes(text) { SidecarError(upstreamText: $0) }
    #expect(error.code == code && error.httpStatus == http && error.kind == kind)
    let frame = ByteBuffer()
    error.writeFrameText(into: frame)
    #expect(String(decoding: frame.bytes, as: UTF8.self) == text, "framework callers get the text unchanged")
    let body = ByteBuffer()
    error.writeJSON(into: body)
    let read = MicroError(parsing: body.bytes)
    #expect(read.isStructured)
    if !text.hasPrefix("{") { #expect(read == MicroError(id: "go.micro.client", code: code, detail: text)) }
  }

  @Test(
    "an upstream code decides the gRPC status as go-micro's server maps it",
    arguments: [(401, 16), (409, 6), (418, 2), (503, 14)])
  func grpc(_ code: Int, _ status: Int) {
    let error = withBytes("{\"id\":\"a\",\"code\":\(code)}") { SidecarError(upstreamText: $0) }
    #expect(error.grpcStatus.rawValue == status)
  }

  @Test("our own errors speak go-micro's words")
  func words() {
    #expect(
      SidecarError.serviceNotFound("go.micro.srv.x").microError.text
        == #"{"id":"go.micro.client","code":404,"detail":"service go.micro.srv.x: not found","status":"Not Found"}"#)
    #expect(SidecarError.noHealthyNode("x").detail == "error selecting x node: none available")
    #expect(SidecarError.connectFailed("dial tcp: refused").detail == "connection error: dial tcp: refused")
    #expect(SidecarError.deadlineExceeded().detail == "request timeout: context deadline exceeded")
  }
}

@Suite("go-micro's error")
struct MicroErrorTests {
  @Test("is written with all four keys and Go's escapes")
  func written() {
    #expect(
      MicroError(id: "go.micro.srv.hello", code: 400, detail: "bad <err>").text
        == #"{"id":"go.micro.srv.hello","code":400,"detail":"bad \u003cerr\u003e","status":"Bad Request"}"#)
    #expect(MicroError(id: "", code: 0, detail: "").text == #"{"id":"","code":0,"detail":"","status":""}"#)
  }

  @Test("is read in any case of letters, with keys missing or unknown")
  func read() {
    #expect(
      MicroError(parsing: #" {"ID":"a","Code":409,"DETAIL":"d","Status":"s","x":[1]} "#)
        == MicroError(id: "a", code: 409, detail: "d", status: "s"))
    #expect(MicroError(parsing: #"{"code":500}"#) == MicroError(id: "", code: 500, detail: "", status: ""))
    #expect(MicroError(parsing: #"{"id":null,"detail":"d"}"#) == MicroError(id: "", code: 0, detail: "d", status: ""))
  }

  @Test(
    "what is no such JSON is all detail",
    arguments: [
      "", "plain", "{", "[]", "400", #"{"code":"400"}"#, #"{"code":4.5}"#, #"{"id":1}"#, #"{"code":99999999999}"#,
      "{}x",
    ])
  func plain(_ text: String) {
    let error = MicroError(parsing: text)
    #expect(error == MicroError(id: "", code: 0, detail: text, status: "") && !error.isStructured)
  }

  @Test("survives being written and read", arguments: 0..<100 as Range<UInt64>)
  func roundTrip(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    let error = MicroError(
      id: JSONValue.randomText(&random), code: 1 + random.below(1000), detail: JSONValue.randomText(&random))
    #expect(MicroError(parsing: error.text) == error, "seed \(seed)")
  }
}
