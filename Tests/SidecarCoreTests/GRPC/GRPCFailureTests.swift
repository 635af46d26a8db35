// What an error that came by gRPC means to the other dialects.

@testable import SidecarCore
import Testing

@Suite struct GRPCFailureTests {
  private static let json = #"{"id":"greet.Say","code":400,"detail":"bad <J>","status":"Bad Request"}"#

  private static func span<Result>(_ text: String, _ body: (UnsafeRawBufferPointer) -> Result) -> Result {
    var text = text
    return text.withUTF8 { body(UnsafeRawBufferPointer($0)) }
  }

  /// A `google.rpc.Status` whose details are of these types; only the framework's own has a value.
  private static func details(_ types: [String], code: Int = 409) -> [UInt8] {
    let status = ByteBuffer()
    ProtobufWriter.field(1, varint: 3, into: status)
    for type in types {
      let error = ByteBuffer()
      span("detail.id") { ProtobufWriter.field(1, $0, into: error) }
      ProtobufWriter.field(2, varint: UInt64(code), into: error)
      span("from the detail") { ProtobufWriter.field(3, $0, into: error) }
      span("Conflict") { ProtobufWriter.field(4, $0, into: error) }
      let any = ByteBuffer()
      span("type.googleapis.com/" + type) { ProtobufWriter.field(1, $0, into: any) }
      ProtobufWriter.field(2, error.bytes, into: any)
      ProtobufWriter.field(3, any.bytes, into: status)
    }
    return Array(status.bytes)
  }

  @Test("error JSON in the message is the framework's error, as text unchanged")
  func errorJSON() {
    let error = SidecarError(GRPCFailure(status: 3, message: Array(Self.json.utf8)))
    #expect(error.kind == .upstreamError && error.code == 400 && error.id == "greet.Say" && error.detail == "bad <J>")
    #expect(error.upstreamText == Array(Self.json.utf8))
    #expect(error.grpcStatus == .invalidArgument)
  }

  @Test("a detail errors.Error counts more than the message")
  func detailFirst() {
    let failure = GRPCFailure(
      status: 3, message: Array(Self.json.utf8), details: Self.details(["errors.Error"]))
    let error = SidecarError(failure)
    #expect(error.code == 409 && error.detail == "from the detail" && error.id == "detail.id")
    #expect(error.microError == MicroError(id: "detail.id", code: 409, detail: "from the detail"))
    #expect(error.grpc == failure)
    #expect(error.grpcStatus == .invalidArgument, "a gRPC caller hears what was said")
  }

  @Test("details of other types are passed over, and stay for gRPC callers")
  func otherDetails() {
    let failure = GRPCFailure(
      status: 5, message: Array("no such user".utf8), details: Self.details(["google.rpc.ErrorInfo"]))
    let error = SidecarError(failure)
    #expect(error.code == 404 && error.detail == "no such user" && error.upstreamText == nil)
    #expect(error.grpc?.details == failure.details)
    let second = GRPCFailure(status: 5, message: [], details: Self.details(["google.rpc.ErrorInfo", "errors.Error"]))
    #expect(SidecarError(second).code == 409)
  }

  @Test("details that cannot be read are passed over, cut anywhere")
  func brokenDetails() {
    let whole = Self.details(["errors.Error"])
    for count in 0..<whole.count {
      let error = SidecarError(GRPCFailure(status: 5, message: Array("why".utf8), details: Array(whole.prefix(count))))
      #expect(error.detail == "why" || error.detail == "from the detail", "\(count)")
    }
  }

  @Test(
    "without the framework's error the status decides",
    arguments: [
      (1, 499), (2, 500), (3, 400), (4, 408), (5, 404), (6, 409), (7, 403), (8, 429), (9, 412), (10, 409), (11, 400),
      (12, 501), (13, 500), (14, 503), (15, 500), (16, 401), (99, 500), (-1, 500),
    ])
  func codes(status: Int, code: Int) {
    let error = SidecarError(GRPCFailure(status: status, message: Array("why".utf8)))
    #expect(error.code == code && error.detail == "why" && error.grpc?.status == status)
  }

  @Test(
    "a method that a server does not have is an endpoint not found",
    arguments: ["unknown service Say", "unknown method Hello for service Say", "Method not found!"])
  func notFound(text: String) {
    let error = SidecarError(GRPCFailure(status: 12, message: Array(text.utf8)))
    #expect(error.kind == .endpointNotFound && error.code == 404 && error.grpcStatus == .unimplemented)
    #expect(SidecarError(GRPCFailure(status: 12, message: Array("not today".utf8))).code == 501)
  }

  @Test("a message of any length is kept up to the limit")
  func longMessage() {
    let failure = GRPCFailure(
      status: 2, message: Array(repeating: 65, count: 100_000), details: Array(repeating: 0, count: 100_000))
    #expect(failure.message.count == GRPCFailure.bytesMax && failure.details.isEmpty)
  }
}
