// The framework's transports that are not HTTP carry messages of a header map and a body (wire/rpc.md §4a). What is in
// them is what the HTTP transport has in its heads and bodies, so here one is turned into the other, and everything that
// speaks frames over HTTP/1 speaks them over the other transports too.
//
// In the gRPC transport a message is protobuf: `map<string, string> header = 1; bytes body = 2`
// (go-plugins transport/grpc @ v0.16.0, transport/grpc @ v2.9.1, v5.30.0).

package enum TransportMessage {
  /// The method of the transport's stream, up to v2.3.
  package static let oldPath: StaticString = "/go.micro.grpc.transport.Transport/Stream"
  /// The same from v2.4 on.
  package static let path: StaticString = "/go.micro.transport.grpc.Transport/Stream"

  package static func isPath(_ path: UnsafeRawBufferPointer) -> Bool {
    ASCIIText.equals(path, Self.path) || ASCIIText.equals(path, oldPath)
  }

  /// Bytes of header that a message may have beside its body.
  package static let headerBytesMax = 64 * 1024

  // MARK: From the transport

  /// Appends `message` as a whole HTTP/1 message of the kind that `role` reads: a request for a server, else a response.
  /// Headers that would change the framing of HTTP/1 are left out, as are names that HTTP has no way to write.
  package static func appendHTTP1(
    _ message: UnsafeRawBufferPointer, for role: HTTP1Parser.Role, to out: ByteBuffer
  ) throws(WireError) {
    switch role {
    case .server: out.append("POST / HTTP/1.1\r\nHost: transport\r\n")
    case .client: out.append("HTTP/1.1 200 OK\r\n")
    }
    var reader = ProtobufReader(message, 0..<message.count)
    var body = 0..<0
    while let field = try reader.next() {
      guard case .bytes(let range) = field.value else { continue }
      switch field.number {
      case 1: try appendField(message, range, to: out)
      case 2: body = range
      default: break
      }
    }
    HTTP1Writer.contentLength(body.count, to: out)
    HTTP1Writer.endHead(to: out)
    out.append(UnsafeRawBufferPointer(rebasing: message[body]))
  }

  /// One entry of the map.
  private static func appendField(
    _ message: UnsafeRawBufferPointer, _ entry: Range<Int>, to out: ByteBuffer
  ) throws(WireError) {
    var reader = ProtobufReader(message, entry)
    var name = 0..<0
    var value = 0..<0
    while let field = try reader.next() {
      guard case .bytes(let range) = field.value else { continue }
      switch field.number {
      case 1: name = range
      case 2: value = range
      default: break
      }
    }
    let nameBytes = UnsafeRawBufferPointer(rebasing: message[name])
    guard !isFraming(HeaderID.identify(nameBytes)) else { return }
    HTTP1Writer.field(name: nameBytes, UnsafeRawBufferPointer(rebasing: message[value]), to: out)
  }

  /// About HTTP/1 and its connection, not about the message.
  private static func isFraming(_ id: HeaderID) -> Bool {
    switch id {
    case .host, .contentLength, .transferEncoding, .connection, .keepAlive, .expect, .upgrade, .te, .trailer,
      .proxyConnection, .http2Settings:
      true
    default: false
    }
  }

  // MARK: To the transport

  /// Appends a whole HTTP/1 message as one of the transport. Names are spelled as Go's HTTP has them, since handlers that
  /// are reached by HTTP see them so, while this transport changes nothing. An answer that is no 200 has no other way to
  /// say so than the framework's error header.
  package static func append(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer, to out: ByteBuffer) {
    let text = ByteBuffer()
    for field in head.fields where !isFraming(field.id) {
      text.removeAll()
      HTTP1Writer.canonicalName(head.name(field), to: text)
      let nameCount = text.count
      appendUTF8(head.value(field), to: text)
      appendEntry(text.bytes(0..<nameCount), text.bytes(nameCount..<text.count), to: out)
      // Servers and clients from v4.10 on look for the id under this name, which HTTP spells the other way.
      if field.id == .microID { appendEntry("Micro-ID", text.bytes(nameCount..<text.count), to: out) }
    }
    if head.status >= 300 {
      text.removeAll()
      appendUTF8(body, to: text)
      appendEntry("Micro-Error", text.bytes, to: out)
      appendEntry("X-Micro-Error", text.bytes, to: out)
      return
    }
    ProtobufWriter.field(2, body, into: out)
  }

  private static func appendEntry(_ name: StaticString, _ value: UnsafeRawBufferPointer, to out: ByteBuffer) {
    appendEntry(UnsafeRawBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount), value, to: out)
  }

  private static func appendEntry(
    _ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, to out: ByteBuffer
  ) {
    func size(_ count: Int) -> Int { 1 + ProtobufWriter.varintSize(UInt64(count)) + count }
    ProtobufWriter.varint(1 &<< 3 | 2, into: out)
    ProtobufWriter.varint(UInt64(size(name.count) + size(value.count)), into: out)
    for (tag, bytes) in [(UInt8(1 &<< 3 | 2), name), (UInt8(2 &<< 3 | 2), value)] {
      out.append(tag)
      ProtobufWriter.varint(UInt64(bytes.count), into: out)
      out.append(bytes)
    }
  }

  /// A string of protobuf must be UTF-8, or the peer refuses the whole message. Other bytes of a field are Latin-1, as
  /// HTTP/1 once had it.
  private static func appendUTF8(_ value: UnsafeRawBufferPointer, to out: ByteBuffer) {
    if UTF8Check.isValid(value) { return out.append(value) }
    for byte in value {
      if byte < 0x80 {
        out.append(byte)
      } else {
        out.append(0xC0 | byte &>> 6)
        out.append(0x80 | byte & 0x3F)
      }
    }
  }
}
