// An error as gRPC says it, and what it means to everyone else. A gRPC caller of a gRPC callee hears its status, message
// and details unchanged; for all others the framework's error is looked for in three places, in the order of go-micro's
// own client (client/grpc/error.go @ v2.9.1): an `errors.Error` among the details, error JSON as the message, and last the
// status code.

/// How a gRPC call ended, when not well. Kept in the `SidecarError` made of it.
package struct GRPCFailure: Hashable, Sendable {
  /// Bytes of message and of details that are kept; a longer message is cut, longer details are dropped.
  package static let bytesMax = 16 * 1024

  /// The number as sent: one that gRPC does not define goes on as it came.
  package var status: Int
  /// `grpc-message`, with its percent-encoding undone.
  package var message: [UInt8]
  /// `grpc-status-details-bin`, with its base64 undone: a `google.rpc.Status`. Empty: none.
  package var details: [UInt8]

  package init(status: Int, message: [UInt8], details: [UInt8] = []) {
    self.status = status
    self.message = message.count > Self.bytesMax ? Array(message.prefix(Self.bytesMax)) : message
    self.details = details.count > Self.bytesMax ? [] : details
  }

  package init(_ status: GRPCStatus, _ message: String) {
    self.init(status: status.rawValue, message: Array(message.utf8))
  }

  /// The framework's error, if the callee sent one: in a detail `errors.Error`, or as JSON in the message.
  package var microError: MicroError? {
    if let error = details.withUnsafeBytes({ Self.microError(details: $0) }) { return error }
    let parsed = message.withUnsafeBytes { MicroError(parsing: $0) }
    return parsed.isStructured ? parsed : nil
  }

  /// Looks through `google.rpc.Status` {1 code, 2 message, 3 details: Any {1 type_url, 2 value}} for
  /// `errors.Error` {1 id, 2 code, 3 detail, 4 status}. Nil for whatever cannot be read.
  package static func microError(details: UnsafeRawBufferPointer) -> MicroError? {
    do throws(WireError) {
      var status = ProtobufReader(details, 0..<details.count)
      while let field = try status.next() {
        guard case (3, .bytes(let range)) = (field.number, field.value) else { continue }
        var detail = ProtobufReader(details, range)
        var isError = false
        var value = 0..<0
        while let part = try detail.next() {
          switch (part.number, part.value) {
          case (1, .bytes(let url)):
            isError = ASCIIText.equals(UnsafeRawBufferPointer(rebasing: details[url]), typeURL)
          case (2, .bytes(let bytes)): value = bytes
          default: break
          }
        }
        if isError { return try error(details, value) }
      }
    } catch {}
    return nil
  }

  /// What a detail with the framework's error is called.
  package static let typeURL: StaticString = "type.googleapis.com/errors.Error"

  private static func error(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>) throws(WireError) -> MicroError {
    func text(_ range: Range<Int>) -> String {
      String(decoding: UnsafeRawBufferPointer(rebasing: bytes[range]), as: UTF8.self)
    }
    var reader = ProtobufReader(bytes, range)
    var error = MicroError(id: "", code: 0, detail: "", status: "")
    while let field = try reader.next() {
      switch (field.number, field.value) {
      case (1, .bytes(let range)): error.id = text(range)
      case (2, .varint(let code)): error.code = Int(Int32(truncatingIfNeeded: code))
      case (3, .bytes(let range)): error.detail = text(range)
      case (4, .bytes(let range)): error.status = text(range)
      default: break
      }
    }
    return error
  }
}

extension SidecarError {
  /// A callee's own error that came by gRPC. Framework callers get its error JSON, gRPC callers the original.
  package init(_ failure: GRPCFailure) {
    if let micro = failure.microError {
      let parsed = failure.message.withUnsafeBytes { MicroError(parsing: $0) }
      self.init(.upstreamError, micro.detail, id: micro.id.isEmpty ? nil : micro.id)
      code = micro.code == 0 ? GRPCStatus.microCode(failure.status) : micro.httpStatus
      // The text that a framework's own server would have sent: the message, where that is it.
      upstreamText = parsed == micro ? failure.message : Array(micro.text.utf8)
    } else {
      let text = String(decoding: failure.message, as: UTF8.self)
      let isMissing = failure.status == GRPCStatus.unimplemented.rawValue && Self.saysNotFound(text)
      let status = GRPCStatus(rawValue: failure.status).map { "\($0)" } ?? "status \(failure.status)"
      self.init(
        isMissing ? .endpointNotFound : .upstreamError, text.isEmpty ? "the callee ended the call with \(status)" : text
      )
      code = isMissing ? Kind.endpointNotFound.row.code : GRPCStatus.microCode(failure.status)
    }
    grpc = failure
  }

  /// What servers say of a method they do not have: grpc-go, go-micro's, and grpc's C core. Anything else with
  /// UNIMPLEMENTED may be the method's own answer.
  private static func saysNotFound(_ text: String) -> Bool {
    text.hasPrefix("unknown service ") || text.hasPrefix("unknown method ") || text.hasPrefix("Method not found")
  }
}

extension GRPCStatus {
  /// The framework's code for a status: the inverse of `init(microCode:)` (plugins/client/grpc/error.go @ v4.7.0), and for
  /// the rest the HTTP status that google.rpc gives it. 500 for a number that gRPC does not define.
  package static func microCode(_ status: Int) -> Int {
    switch GRPCStatus(rawValue: status) {
    case .ok: 200
    case .invalidArgument, .outOfRange: 400
    case .unauthenticated: 401
    case .permissionDenied: 403
    case .notFound: 404
    case .deadlineExceeded: 408
    case .alreadyExists, .aborted: 409
    case .failedPrecondition: 412
    case .resourceExhausted: 429
    case .cancelled: 499
    case .unimplemented: 501
    case .unavailable: 503
    case .internal, .unknown, .dataLoss, nil: 500
    }
  }
}
