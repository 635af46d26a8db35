// A gRPC method's path, `/{package.Handler}/{Method}`, as ranges of its bytes.

struct GRPCPath {
  private let packageEnd: Int
  private let handler: Range<Int>
  private let method: Range<Int>

  /// Nil for a path that names no method.
  init?(_ path: UnsafeRawBufferPointer) {
    guard path.count >= 4, path[0] == UInt8(ascii: "/"), let slash = path.lastIndex(of: UInt8(ascii: "/")), slash > 1,
      slash + 1 < path.count
    else { return nil }
    let service = path[1..<slash]
    guard !service.contains(UInt8(ascii: "/")) else { return nil }
    let dot = service.lastIndex(of: UInt8(ascii: "."))
    packageEnd = dot ?? 1
    handler = (dot.map { $0 + 1 } ?? 1)..<slash
    method = (slash + 1)..<path.count
    guard !handler.isEmpty else { return nil }
  }

  /// Empty when the handler has none.
  func package(_ path: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(rebasing: path[1..<packageEnd])
  }

  /// `Handler.Method`
  func appendEndpoint(_ path: UnsafeRawBufferPointer, to buffer: ByteBuffer) {
    buffer.append(UnsafeRawBufferPointer(rebasing: path[handler]))
    buffer.append(UInt8(ascii: "."))
    buffer.append(UnsafeRawBufferPointer(rebasing: path[method]))
  }

  /// Whether an `:authority` is a service's name rather than the address that was dialled: no port, no IP address, and not
  /// `localhost`, which is what clients say of a Unix socket.
  static func namesService(_ authority: UnsafeRawBufferPointer) -> Bool {
    guard !authority.isEmpty, !ASCIIText.equalsIgnoringCase(authority, "localhost") else { return false }
    return !authority.contains { $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "%") }
      && authority.contains { $0 != UInt8(ascii: ".") && ($0 < 0x30 || $0 > 0x39) }
  }
}
