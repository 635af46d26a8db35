// Messages inside a gRPC stream: one byte that tells whether the message is compressed, four bytes of length, then the
// message (gRPC over HTTP2, "Length-Prefixed-Message"). DATA frames cut them anywhere.

/// A message that breaks a rule of the framing, or a limit.
package enum GRPCFramingError: Error, Equatable, Sendable {
  /// We announce no compression, so nobody may use one.
  case compressed
  case badFlag(UInt8)
  case tooLarge(bytes: Int, limit: Int)
  /// The stream ended inside a message.
  case truncated

  /// The status that ends the call on both sides of gRPC.
  package var status: GRPCStatus {
    switch self {
    case .compressed: .unimplemented
    case .tooLarge: .resourceExhausted
    case .badFlag, .truncated: .internal
    }
  }

  package var message: String {
    switch self {
    case .compressed:
      "grpc: the message is compressed, and no compression is supported here; send grpc-encoding: identity"
    case .badFlag(let flag): "grpc: a message begins with byte \(flag), which is neither 0 nor 1"
    // grpc-go's words, which users know.
    case .tooLarge(let bytes, let limit): "grpc: received message larger than max (\(bytes) vs. \(limit))"
    case .truncated: "grpc: the stream ended inside a message"
    }
  }
}

/// Cuts the bytes of a stream into messages. What one read holds whole is handed on from the read itself.
package struct GRPCMessageReader {
  /// Bytes before a message.
  package static let prefixBytes = 5

  private enum State {
    /// Between messages, or inside the prefix: `kept` holds what has come of it.
    case prefix
    /// Inside a message of that many bytes; `kept` holds what has come of it, without the prefix.
    case body(Int)
  }

  package enum Step {
    case needMore
    /// Valid until the next call, and as long as the input.
    case message(UnsafeRawBufferPointer)
  }

  private var state = State.prefix
  private var kept: ByteBuffer?
  private var keptIsUsed = false
  private let limit: Int
  private let buffers: BufferPool

  /// `limit`: bytes of a message, 4 MiB for go-micro of every version.
  package init(limit: Int, buffers: BufferPool) {
    self.limit = limit
    self.buffers = buffers
  }

  /// Whether the stream may end here.
  package var isBetweenMessages: Bool {
    if case .prefix = state { return keptIsUsed || kept?.isEmpty ?? true }
    return false
  }

  /// Takes bytes from the front of `input` up to the end of a message. After an error the stream is to be ended.
  package mutating func next(_ input: inout UnsafeRawBufferPointer) throws(GRPCFramingError) -> Step {
    if keptIsUsed { giveBack() }
    while true {
      switch state {
      case .prefix:
        if kept == nil, input.count >= Self.prefixBytes {
          let length = try length(of: input)
          let end = Self.prefixBytes + length
          if input.count >= end {
            let message = UnsafeRawBufferPointer(rebasing: input[Self.prefixBytes..<end])
            input = UnsafeRawBufferPointer(rebasing: input[end...])
            return .message(message)
          }
          state = .body(length)
          input = UnsafeRawBufferPointer(rebasing: input[Self.prefixBytes...])
          continue
        }
        if input.isEmpty { return .needMore }
        let buffer = keep()
        move(&input, to: buffer, Self.prefixBytes)
        guard buffer.count == Self.prefixBytes else { return .needMore }
        state = .body(try length(of: buffer.bytes))
        buffer.removeAll()
      case .body(let length):
        let buffer = keep()
        // Not before it has come: a prefix costs its sender nothing.
        move(&input, to: buffer, length)
        guard buffer.count == length else { return .needMore }
        state = .prefix
        keptIsUsed = true
        return .message(buffer.bytes)
      }
    }
  }

  /// Gives back what it holds. It may be used again for another stream.
  package mutating func reset() {
    giveBack()
    state = .prefix
  }

  private mutating func giveBack() {
    if let kept { buffers.give(kept) }
    kept = nil
    keptIsUsed = false
  }

  private mutating func keep() -> ByteBuffer {
    if let kept { return kept }
    let buffer = buffers.take()
    kept = buffer
    return buffer
  }

  private func move(_ input: inout UnsafeRawBufferPointer, to buffer: ByteBuffer, _ wanted: Int) {
    let count = min(wanted - buffer.count, input.count)
    buffer.append(UnsafeRawBufferPointer(rebasing: input[..<count]))
    input = UnsafeRawBufferPointer(rebasing: input[count...])
  }

  private func length(of prefix: UnsafeRawBufferPointer) throws(GRPCFramingError) -> Int {
    switch prefix[0] {
    case 0: break
    case 1: throw .compressed
    case let flag: throw .badFlag(flag)
    }
    let length = Int(UInt32(bigEndian: prefix.loadUnaligned(fromByteOffset: 1, as: UInt32.self)))
    guard length <= limit else { throw .tooLarge(bytes: length, limit: limit) }
    return length
  }
}

package enum GRPCFraming {
  /// Hands the five bytes that go before a message of `count` bytes to `body`.
  @inline(__always)
  package static func withPrefix<Result>(_ count: Int, _ body: (UnsafeRawBufferPointer) -> Result) -> Result {
    precondition(count <= Int(UInt32.max), "a message must fit its length field")
    // Stored as eight bytes, of which the first five count.
    var prefix = (UInt64(truncatingIfNeeded: count) &<< 24).bigEndian
    return withUnsafeBytes(of: &prefix) { body(UnsafeRawBufferPointer(rebasing: $0[..<GRPCMessageReader.prefixBytes])) }
  }
}
