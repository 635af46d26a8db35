// Deflate streams without header and checksum (RFC 1951) as permessage-deflate uses them (RFC 7692 §7.2): a message is
// flushed to a byte border and its last four bytes, 00 00 FF FF, are left out. zlib is visible in this file only.

import CZlib

/// What both directions leave out and put back: an empty stored block without its first byte.
private let tail: [UInt8] = [0x00, 0x00, 0xFF, 0xFF]

/// Undoes compression. About 40 KiB: 7 KiB at once, and the window with the first message that needs one.
final class Inflater {
  /// Room for output made at a time, in bytes.
  private static let step = 4096
  /// zlib keeps a pointer to its stream, so it must not move.
  private let stream: UnsafeMutablePointer<z_stream>
  let windowBits: Int

  /// `windowBits` is 8 to 15. nil when there is no memory.
  init?(windowBits: Int) {
    self.windowBits = windowBits
    stream = .allocate(capacity: 1)
    stream.initialize(to: z_stream())
    guard czlib_raw_inflate_init(stream, Int32(windowBits)) == Z_OK else {
      stream.deallocate()
      return nil
    }
  }

  deinit {
    inflateEnd(stream)
    stream.deallocate()
  }

  /// Forgets all context.
  func restart() { inflateReset(stream) }

  /// Appends what `input`, some bytes of a message, gives. Fails with 1009 as soon as `out` holds more than `limit`
  /// bytes: a few bytes can claim gigabytes.
  func inflate(
    _ input: UnsafeRawBufferPointer, into out: ByteBuffer, limit: Int
  ) throws(WebSocketFailure) {
    guard let count = UInt32(exactly: input.count) else { throw .broken("too much to inflate at once") }
    // zlib's input pointer is mutable by an old accident; it only reads.
    stream.pointee.next_in = UnsafeMutablePointer(mutating: input.assumingMemoryBound(to: UInt8.self).baseAddress)
    stream.pointee.avail_in = count
    while true {
      out.reserve(Self.step)
      // One byte beyond the limit is enough to see that it is passed.
      let room = min(out.capacity - out.count, limit - out.count + 1, Int(UInt32.max))
      stream.pointee.next_out = (out.base + out.count).assumingMemoryBound(to: UInt8.self)
      stream.pointee.avail_out = UInt32(room)
      let status = CZlib.inflate(stream, Z_NO_FLUSH)
      out.advance(room - Int(stream.pointee.avail_out))
      guard out.count <= limit else {
        throw WebSocketFailure(WebSocketCloseCode.messageTooBig, "message larger than \(limit) bytes when inflated")
      }
      switch status {
      case Z_OK: if stream.pointee.avail_in == 0, stream.pointee.avail_out > 0 { return }
      case Z_STREAM_END:
        // A block may be marked as the last (RFC 7692 §7.2.3.4); another stream follows, with the same window.
        inflateResetKeep(stream)
        if stream.pointee.avail_in == 0 { return }
      case Z_BUF_ERROR: return  // All input is used, and nothing more comes of it.
      case Z_MEM_ERROR: throw WebSocketFailure(WebSocketCloseCode.internalError, "no memory to inflate with")
      default: throw WebSocketFailure(WebSocketCloseCode.invalidPayload, "compressed data is broken")
      }
    }
  }

  /// The message is over: puts back what its sender left out.
  func finishMessage(into out: ByteBuffer, limit: Int) throws(WebSocketFailure) {
    var failure: WebSocketFailure?
    tail.withUnsafeBytes { bytes in
      do throws(WebSocketFailure) { try inflate(bytes, into: out, limit: limit) } catch { failure = error }
    }
    if let failure { throw failure }
    // 128: zlib stands between two blocks; the low bits: of a byte that is not used up. Anything but 128 says that the
    // message stopped inside a block, and the four bytes were read as data.
    guard stream.pointee.data_type & 0xBF == 128 else {
      throw WebSocketFailure(WebSocketCloseCode.invalidPayload, "compressed message is cut short")
    }
  }
}

/// Compresses. About 256 KiB with a window of 15 bits.
final class Deflater {
  /// zlib's fastest level: a sidecar's hop is short, its CPU is dear.
  private static let level: Int32 = 1
  private static let memoryLevel: Int32 = 8
  private let stream: UnsafeMutablePointer<z_stream>
  let windowBits: Int

  /// The window sizes zlib can compress with; 8 bits (256 bytes) are allowed by RFC 7692, but not by zlib.
  static let windowBitsRange = 9...15

  /// nil for a window zlib has not, and when there is no memory.
  init?(windowBits: Int) {
    guard Self.windowBitsRange.contains(windowBits) else { return nil }
    self.windowBits = windowBits
    stream = .allocate(capacity: 1)
    stream.initialize(to: z_stream())
    guard czlib_raw_deflate_init(stream, Self.level, Int32(windowBits), Self.memoryLevel) == Z_OK else {
      stream.deallocate()
      return nil
    }
  }

  deinit {
    deflateEnd(stream)
    stream.deallocate()
  }

  /// Forgets all context.
  func restart() { deflateReset(stream) }

  /// Appends `message` compressed, without the tail. `message` is not empty and has at most `UInt32.max` bytes.
  func compress(_ message: UnsafeRawBufferPointer, into out: ByteBuffer) {
    stream.pointee.next_in = UnsafeMutablePointer(mutating: message.assumingMemoryBound(to: UInt8.self).baseAddress)
    stream.pointee.avail_in = UInt32(message.count)
    out.reserve(Int(deflateBound(stream, UInt(message.count))) + 64)
    repeat {
      out.reserve(64)  // zlib wants more than six bytes, or it may write its flush marker twice.
      let room = min(out.capacity - out.count, Int(UInt32.max))
      stream.pointee.next_out = (out.base + out.count).assumingMemoryBound(to: UInt8.self)
      stream.pointee.avail_out = UInt32(room)
      let status = CZlib.deflate(stream, Z_SYNC_FLUSH)
      assert(status == Z_OK || status == Z_BUF_ERROR)
      out.advance(room - Int(stream.pointee.avail_out))
    } while stream.pointee.avail_out == 0
    assert(out.bytes.suffix(4).elementsEqual(tail))
    out.truncate(to: out.count - tail.count)
  }
}

/// Compressors and inflaters waiting to be used again on one loop. Sessions that keep no context between messages, which
/// is the default, borrow one for the length of a message, so that an idle connection holds none.
package final class DeflatePool {
  /// Inflaters kept; more are freed when returned. A message that comes in pieces holds one until it is whole.
  private static let inflatersMax = 8
  private var inflaters: [Inflater] = []
  private var deflater: Deflater?

  package init() {}

  func takeInflater(windowBits: Int) -> Inflater? {
    if let index = inflaters.lastIndex(where: { $0.windowBits == windowBits }) { return inflaters.remove(at: index) }
    return Inflater(windowBits: windowBits)
  }

  func give(_ inflater: Inflater) {
    if inflaters.count == Self.inflatersMax { inflaters.removeFirst() }
    inflater.restart()
    inflaters.append(inflater)
  }

  /// A compressor without context, for one message; it stays the pool's.
  func freshDeflater(windowBits: Int) -> Deflater? {
    if let deflater, deflater.windowBits == windowBits {
      deflater.restart()
      return deflater
    }
    deflater = Deflater(windowBits: windowBits)
    return deflater
  }
}
