// Metadata between gRPC's header fields and the header lines that calls carry inside (`name: value\r\n`), the end of a call
// as trailers, and what a request's content type and timeouts say.
//
// Values of names that end in `-bin` are base64 in both forms, so that they survive HTTP/1.

package enum GRPCMetadata {
  // MARK: From a peer

  /// Appends the fields that go on to whoever is called. Pseudo-headers, gRPC's own, the framework's routing and timeout,
  /// and what belongs to the connection stay here.
  package static func append(from fields: HTTP2Fields, source: Metadata.Source, into buffer: ByteBuffer) {
    for index in 0..<fields.count {
      let name = fields.name(index)
      guard !fields.isPseudo(index), isForwardable(name, from: source) else { continue }
      buffer.append(name)
      buffer.append(": ")
      buffer.append(fields.value(index))
      buffer.append("\r\n")
    }
  }

  package static func isForwardable(_ name: UnsafeRawBufferPointer, from source: Metadata.Source) -> Bool {
    // The content type of the framework's client, added by its gRPC client.
    if ASCIIText.equalsIgnoringCase(name, "x-content-type") { return false }
    return Metadata.isForwardable(HeaderID.identify(name), name, from: source)
  }

  // MARK: To a peer

  /// Appends header lines as fields. Lines that are none, names that gRPC or HTTP/2 keep for themselves, and values that
  /// HTTP/2 does not allow are left out.
  package static func append(lines: UnsafeRawBufferPointer, to list: HTTP2HeaderList) {
    var rest = lines
    while !rest.isEmpty {
      let end = rest.firstIndex(of: UInt8(ascii: "\n")) ?? rest.count
      var line = UnsafeRawBufferPointer(rebasing: rest[..<end])
      rest = UnsafeRawBufferPointer(rebasing: rest[min(end + 1, rest.count)...])
      if line.last == UInt8(ascii: "\r") { line = UnsafeRawBufferPointer(rebasing: line.dropLast()) }
      guard let colon = line.firstIndex(of: UInt8(ascii: ":")) else { continue }
      let name = UnsafeRawBufferPointer(rebasing: line[..<colon])
      let value = trimmed(UnsafeRawBufferPointer(rebasing: line[(colon + 1)...]))
      guard isSendable(name) else { continue }
      if GRPCText.isBinary(name), !isBase64List(value) {
        // A value that came by HTTP/1 as it is; every gRPC library would refuse it.
        let encoded = ByteBuffer(capacity: value.count * 2)
        GRPCText.appendBase64(value, to: encoded)
        list.append(name: name, value: encoded.bytes)
      } else {
        list.append(name: name, value: value)
      }
    }
  }

  private static func trimmed(_ value: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
    var start = 0
    var end = value.count
    while start < end, value[start] == 0x20 || value[start] == 0x09 { start += 1 }
    while end > start, value[end - 1] == 0x20 || value[end - 1] == 0x09 { end -= 1 }
    return UnsafeRawBufferPointer(rebasing: value[start..<end])
  }

  /// Several values of one name may be joined by commas.
  private static func isBase64List(_ value: UnsafeRawBufferPointer) -> Bool {
    let scratch = ByteBuffer(capacity: value.count)
    return value.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false).allSatisfy {
      GRPCText.appendBase64Decoded(trimmed(UnsafeRawBufferPointer(rebasing: $0)), to: scratch)
    }
  }

  private static func isSendable(_ name: UnsafeRawBufferPointer) -> Bool {
    guard let first = name.first, first != UInt8(ascii: ":") else { return false }
    switch HeaderID.identify(name) {
    // RFC 9113 §8.2.2, and what frames the message.
    case .host, .connection, .keepAlive, .proxyConnection, .transferEncoding, .upgrade, .te, .trailer, .expect,
      .contentLength, .contentType, .contentEncoding, .http2Settings, .grpcTimeout, .timeout:
      return false
    default: return !ASCIIText.hasPrefixIgnoringCase(name, "grpc-")
    }
  }

  // MARK: What a request says

  /// What the messages of a content type are; nil when it is none of gRPC's (`application/grpc`, `+proto`, `+json`,
  /// `+bytes`, each perhaps with parameters).
  package static func format(contentType: UnsafeRawBufferPointer?) -> PayloadFormat? {
    guard let contentType else { return nil }
    let end = contentType.firstIndex(of: UInt8(ascii: ";")) ?? contentType.count
    let type = trimmed(UnsafeRawBufferPointer(rebasing: contentType[..<end]))
    guard ASCIIText.hasPrefixIgnoringCase(type, "application/grpc") else { return nil }
    let subtype = UnsafeRawBufferPointer(rebasing: type[16...])
    if subtype.isEmpty || ASCIIText.equalsIgnoringCase(subtype, "+proto") { return .protobuf }
    if ASCIIText.equalsIgnoringCase(subtype, "+json") { return .json }
    if ASCIIText.equalsIgnoringCase(subtype, "+bytes") { return .bytes }
    return nil
  }

  /// What the messages of a request are, nil as above. Go-micro's gRPC clients of v0.14's time, and those of v1 in
  /// streams, name no subtype whatever they write, and only `x-content-type` tells (recordings `v014grpc-*-grpc_json`,
  /// `v118grpc-stream-json`): their own servers take such JSON for protobuf, and fail.
  package static func format(_ head: HTTP2Fields) -> PayloadFormat? {
    guard let type = head.first("content-type"), let format = format(contentType: type) else { return nil }
    if type.count == 16, let micro = head.first("x-content-type"),
      ASCIIText.equals(micro, "application/json") || ASCIIText.equals(micro, "application/grpc+json")
    {
      return .json
    }
    return format
  }

  /// The content type of messages in `format`.
  package static func contentType(_ format: PayloadFormat) -> StaticString {
    switch format {
    case .protobuf: "application/grpc+proto"
    case .json: "application/grpc+json"
    case .bytes: "application/grpc+bytes"
    }
  }

  /// The nanoseconds a request allows: the smaller of `grpc-timeout` and the framework's own `timeout`, which is in
  /// nanoseconds. Nil: no limit. `isBroken`: its `grpc-timeout` is none, and the call must fail.
  package static func timeout(_ fields: HTTP2Fields) -> (nanoseconds: Int64?, isBroken: Bool) {
    var limit: Int64?
    if let text = fields.first("grpc-timeout") {
      guard let value = GRPCText.timeout(text) else { return (nil, true) }
      limit = value
    }
    // One that is no number is left alone, as the framework's servers do (server/grpc/grpc.go @ v1.18.0 … v6.10.0).
    if let text = fields.first("timeout"), let value = decimal(text) { limit = min(limit ?? .max, value) }
    return (limit, false)
  }

  private static func decimal(_ text: UnsafeRawBufferPointer) -> Int64? {
    guard (1...18).contains(text.count) else { return nil }
    var value: Int64 = 0
    for byte in text {
      let digit = byte &- 0x30
      guard digit < 10 else { return nil }
      value = value * 10 + Int64(digit)
    }
    return value
  }
}
