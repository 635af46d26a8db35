// zlib streams (RFC 1950) in one call each. The C library is visible in this file only.

import CZlib
import SidecarCore

package enum Zlib {
  /// `bytes` as a zlib stream.
  package static func deflate(_ bytes: [UInt8]) throws(WireError) -> [UInt8] {
    var stream = z_stream()
    guard czlib_deflate_init(&stream, Z_DEFAULT_COMPRESSION) == Z_OK else { throw WireError("zlib has no memory") }
    defer { deflateEnd(&stream) }
    guard let inputCount = UInt32(exactly: bytes.count) else { throw WireError("too much to compress at once") }
    let bound = Int(deflateBound(&stream, UInt(inputCount)))
    var status = Z_OK
    let output = [UInt8](unsafeUninitializedCapacity: bound) { output, count in
      bytes.withUnsafeBufferPointer { input in
        // zlib's input pointer is mutable by an old accident; it only reads.
        stream.next_in = UnsafeMutablePointer(mutating: input.baseAddress)
        stream.avail_in = inputCount
        stream.next_out = output.baseAddress
        stream.avail_out = UInt32(bound)
        status = CZlib.deflate(&stream, Z_FINISH)
      }
      count = bound - Int(stream.avail_out)
    }
    guard status == Z_STREAM_END else { throw WireError("zlib could not compress (\(status))") }
    return output
  }

  /// What the zlib stream `bytes` holds. Throws for a broken or cut stream, for bytes after its end, and when there is
  /// more than `limit` bytes inside: a few bytes can claim gigabytes.
  package static func inflate(_ bytes: [UInt8], limit: Int) throws(WireError) -> [UInt8] {
    var stream = z_stream()
    guard czlib_inflate_init(&stream) == Z_OK else { throw WireError("zlib has no memory") }
    defer { inflateEnd(&stream) }
    guard let inputCount = UInt32(exactly: bytes.count) else { throw WireError("zlib stream too long") }
    var result: [UInt8] = []
    var status = Z_OK
    bytes.withUnsafeBufferPointer { input in
      stream.next_in = UnsafeMutablePointer(mutating: input.baseAddress)
      stream.avail_in = inputCount
      withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 8192) { chunk in
        repeat {
          stream.next_out = chunk.baseAddress
          stream.avail_out = UInt32(chunk.count)
          status = CZlib.inflate(&stream, Z_NO_FLUSH)
          result.append(contentsOf: chunk[..<(chunk.count - Int(stream.avail_out))])
        } while status == Z_OK && result.count <= limit
      }
    }
    let offset = bytes.count - Int(stream.avail_in)
    guard result.count <= limit else { throw WireError("zlib stream holds more than \(limit) bytes", offset: offset) }
    guard status == Z_STREAM_END else { throw WireError("broken zlib stream", offset: offset) }
    guard stream.avail_in == 0 else { throw WireError("bytes after the end of a zlib stream", offset: offset) }
    return result
  }
}
