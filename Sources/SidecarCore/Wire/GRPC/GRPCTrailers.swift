// How a call ends, as trailers: what our server side writes, and what our client side makes of what it reads.

package enum GRPCTrailers {
  /// Bytes of an error's text that are sent, percent-encoded. Clients allow all trailers 8 KiB (grpc's C core), so the
  /// rest is cut.
  package static let messageMax = 4 * 1024
  /// Bytes of an error's text up to which it is said a second time, as a detail.
  package static let detailedMax = 1024

  /// Appends `grpc-status`, and for an error `grpc-message` and perhaps `grpc-status-details-bin`. What came by gRPC goes
  /// on as it came; any other error as go-micro's own server has it: the error's JSON is the message, and the same error
  /// the first and only detail. A first detail of another type would end go-micro v2 clients (wire/rpc.md §4b).
  package static func append(_ error: SidecarError?, to list: HTTP2HeaderList) {
    guard let error else {
      list.append("grpc-status", "0")
      return
    }
    if let failure = error.grpc {
      // Zero here would be a success that never was.
      list.append("grpc-status") {
        $0.append(decimal: failure.status == 0 ? GRPCStatus.unknown.rawValue : failure.status)
      }
      failure.message.withUnsafeBytes { appendMessage($0, to: list) }
      if !failure.details.isEmpty { failure.details.withUnsafeBytes { appendDetails($0, to: list) } }
      return
    }
    if let wait = error.retryAfter {
      // In milliseconds, as gRPC's clients read it (proposal A6).
      list.append("grpc-retry-pushback-ms") { $0.append(decimal: UInt64(max(wait / 1_000_000, 1))) }
    }
    if error.isUnbegun { list.append("x-micro-unbegun", "1") }
    let status = error.grpcStatus
    list.append("grpc-status") { $0.append(decimal: status.rawValue) }
    let text = ByteBuffer(capacity: 256)
    error.writeFrameText(into: text)
    var micro = error.microError
    if GRPCText.prefix(of: text.bytes, encodedMax: messageMax) < text.count {
      // Still JSON. A character is no more than 12 bytes of it.
      text.removeAll()
      micro.detail = String(micro.detail.unicodeScalars.prefix(messageMax / 32)) + "…"
      micro.id = String(micro.id.unicodeScalars.prefix(messageMax / 64))
      micro.status = String(micro.status.unicodeScalars.prefix(messageMax / 64))
      micro.write(into: text)
    }
    appendMessage(text.bytes, to: list)
    guard text.count <= detailedMax, micro.isStructured else { return }
    let details = ByteBuffer(capacity: 512)
    appendStatus(status, message: text.bytes, micro, to: details)
    appendDetails(details.bytes, to: list)
  }

  private static func appendMessage(_ text: UnsafeRawBufferPointer, to list: HTTP2HeaderList) {
    guard !text.isEmpty else { return }
    let cut = UnsafeRawBufferPointer(rebasing: text[..<GRPCText.prefix(of: text, encodedMax: messageMax)])
    list.append("grpc-message", isVarying: true) { buffer in
      let start = buffer.count
      GRPCText.appendPercentEncoded(cut, to: buffer)
      // HTTP/2 trims fields; blanks at the ends are written as anything else that is not printable.
      guard cut.first == 0x20 || cut.last == 0x20 else { return }
      let encoded = Array(buffer.bytes(start..<buffer.count))
      buffer.truncate(to: start)
      for (index, byte) in encoded.enumerated() {
        if byte == 0x20, index == 0 || index == encoded.count - 1 { buffer.append("%20") } else { buffer.append(byte) }
      }
    }
  }

  private static func appendDetails(_ details: UnsafeRawBufferPointer, to list: HTTP2HeaderList) {
    list.append("grpc-status-details-bin", isVarying: true) { GRPCText.appendBase64(details, to: $0) }
  }

  /// `google.rpc.Status` {1 code, 2 message, 3 details} with one detail, an Any {1 type_url, 2 value} of `errors.Error`
  /// {1 id, 2 code, 3 detail, 4 status} (errors/errors.proto @ v2.9.1).
  private static func appendStatus(
    _ status: GRPCStatus, message: UnsafeRawBufferPointer, _ error: MicroError, to buffer: ByteBuffer
  ) {
    func text(_ number: UInt64, _ string: String, _ target: ByteBuffer) {
      var string = string
      string.withUTF8 { ProtobufWriter.field(number, UnsafeRawBufferPointer($0), into: target) }
    }
    let value = ByteBuffer(capacity: 256)
    text(1, error.id, value)
    ProtobufWriter.field(2, varint: UInt64(max(error.code, 0)), into: value)
    text(3, error.detail, value)
    text(4, error.status, value)
    let any = ByteBuffer(capacity: 256)
    ProtobufWriter.field(
      1,
      UnsafeRawBufferPointer(
        start: GRPCFailure.typeURL.utf8Start, count: GRPCFailure.typeURL.utf8CodeUnitCount), into: any)
    ProtobufWriter.field(2, value.bytes, into: any)
    ProtobufWriter.field(1, varint: UInt64(status.rawValue), into: buffer)
    ProtobufWriter.field(2, message, into: buffer)
    ProtobufWriter.field(3, any.bytes, into: buffer)
  }

  // MARK: Reading

  /// What trailers, or a head that is the whole answer, say of the end: nil for OK. Errors: a call that ended without a
  /// status is UNKNOWN, or what gRPC makes of the HTTP status where that is no 200.
  package static func failure(_ fields: HTTP2Fields) -> GRPCFailure? {
    guard let text = fields.first("grpc-status") else {
      return fields.status == 200 || fields.status == 0
        ? GRPCFailure(.unknown, "the call ended without a grpc-status") : failure(httpStatus: fields.status)
    }
    var status = 0
    guard (1...9).contains(text.count), text.allSatisfy({ $0 &- 0x30 < 10 }) else {
      return GRPCFailure(.unknown, "the call ended with a grpc-status that is no number")
    }
    for byte in text { status = status * 10 + Int(byte - 0x30) }
    if status == 0 { return nil }
    return GRPCFailure(
      status: status, message: fields.first("grpc-message").map { GRPCText.percentDecoded($0) } ?? [],
      details: fields.first("grpc-status-details-bin").flatMap { GRPCText.base64Decoded($0) } ?? [])
  }

  /// An answer that is not gRPC's (grpc's doc/http-grpc-status-mapping).
  package static func failure(httpStatus status: Int) -> GRPCFailure {
    let code: GRPCStatus =
      switch status {
      case 400: .internal
      case 401: .unauthenticated
      case 403: .permissionDenied
      case 404: .unimplemented
      case 429, 502, 503, 504: .unavailable
      default: .unknown
      }
    return GRPCFailure(code, "the answer has HTTP status \(status) and is not gRPC's")
  }

  /// A stream that was reset (gRPC over HTTP2, "Errors"). The words are not grpc-go's, but its number is.
  package static func failure(reset code: HTTP2ErrorCode) -> GRPCFailure {
    let status: GRPCStatus =
      switch code {
      case .refusedStream: .unavailable
      case .cancel: .cancelled
      case .enhanceYourCalm: .resourceExhausted
      case .inadequateSecurity: .permissionDenied
      default: .internal
      }
    return GRPCFailure(status, "the stream was reset with \(code)")
  }
}
