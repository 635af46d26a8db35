// The proto-rpc envelope (codec/protorpc/{netstring,protorpc}.go, envelope.proto @ v0.14.0 … v6.10.0):
//
//   len32 | header | len32 | payload      lengths big-endian
//   header: 1 string method, 2 fixed64 seq, 3 string error
//
// A request's header has the first two fields. Writers up to 1.x (proto2) emit every field they have, those from 2.0 on
// (proto3) none that is zero, so that a header may have no bytes at all. We read both and write every field.

/// A proto-rpc message as ranges of its body.
package struct ProtoRPCEnvelope: Equatable, Sendable {
  /// `Handler.Method`, as sent: neither checked for UTF-8 nor for its shape.
  package var method: Range<Int>
  package var seq: UInt64
  package var error: Range<Int>
  package var payload: Range<Int>

  /// Cuts a body. Errors: `WireError` for lengths that lie, for a broken header message and for bytes behind the
  /// payload. Unknown fields are skipped; of a field that comes twice the last one counts, as protobuf demands.
  package init(parsing body: UnsafeRawBufferPointer) throws(WireError) {
    let headerRange = try Self.block(body, at: 0)
    payload = try Self.block(body, at: headerRange.upperBound)
    guard payload.upperBound == body.count else {
      throw WireError("proto-rpc: bytes follow the payload", offset: payload.upperBound)
    }
    method = 0..<0
    error = 0..<0
    seq = 0
    var reader = ProtobufReader(body, headerRange)
    while let field = try reader.next() {
      switch (field.number, field.value) {
      case (1, .bytes(let range)): method = range
      case (2, .fixed64(let value)), (2, .varint(let value)): seq = value
      case (3, .bytes(let range)): error = range
      case (1, .varint), (1, .fixed64), (1, .fixed32), (3, .varint), (3, .fixed64), (3, .fixed32), (2, .bytes),
        (2, .fixed32):
        throw WireError("proto-rpc: a field of the header has the wrong type", offset: reader.offset)
      case (_, .varint), (_, .fixed64), (_, .fixed32), (_, .bytes): break
      }
    }
  }

  private static func block(_ body: UnsafeRawBufferPointer, at offset: Int) throws(WireError) -> Range<Int> {
    guard body.count - offset >= 4 else { throw WireError("proto-rpc: a length is missing", offset: offset) }
    let length = Int(UInt32(bigEndian: body.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
    guard length <= body.count - offset - 4 else {
      throw WireError("proto-rpc: a length exceeds the message", offset: offset)
    }
    return (offset + 4)..<(offset + 4 + length)
  }

  // MARK: Writing

  /// Bytes of a message with parts of these sizes. `errorBytes` is nil for a request, whose header has no error.
  package static func size(methodBytes: Int, errorBytes: Int?, payloadBytes: Int) -> Int {
    4 + headerSize(methodBytes, errorBytes) + 4 + payloadBytes
  }

  private static func headerSize(_ methodBytes: Int, _ errorBytes: Int?) -> Int {
    let request = 1 + ProtobufWriter.varintSize(UInt64(methodBytes)) + methodBytes + 9
    guard let errorBytes else { return request }
    return request + 1 + ProtobufWriter.varintSize(UInt64(errorBytes)) + errorBytes
  }

  /// Writes a message; exactly `size` bytes. `error` is nil for a request. The payload has less than 4 GiB.
  package static func write(
    method: UnsafeRawBufferPointer, seq: UInt64, error: UnsafeRawBufferPointer?, payload: UnsafeRawBufferPointer,
    into buffer: ByteBuffer
  ) {
    precondition(payload.count <= Int(UInt32.max), "a payload must fit its length field")
    buffer.reserve(size(methodBytes: method.count, errorBytes: error?.count, payloadBytes: payload.count))
    buffer.append(bigEndian: UInt32(headerSize(method.count, error?.count)))
    buffer.append(0x0A as UInt8)
    ProtobufWriter.varint(UInt64(method.count), into: buffer)
    buffer.append(method)
    buffer.append(0x11 as UInt8)
    for shift in 0..<8 { buffer.append(UInt8(truncatingIfNeeded: seq &>> UInt64(shift * 8))) }
    if let error {
      buffer.append(0x1A as UInt8)
      ProtobufWriter.varint(UInt64(error.count), into: buffer)
      buffer.append(error)
    }
    buffer.append(bigEndian: UInt32(payload.count))
    buffer.append(payload)
  }
}
