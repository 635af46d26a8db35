// What a process and the one that takes its place share: a pair of sockets to talk by, a piece of memory for what is left to
// the other, and the program they are.

import CUV
import Glibc
import SidecarCore

extension UVDriver {
  /// Two sockets that are connected to each other; whoever gets the numbers closes them.
  package static func socketPair() throws(DriverError) -> (Int32, Int32) {
    var pair: [Int32] = [-1, -1]
    let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    guard socketpair(AF_UNIX, kind, 0, &pair) == 0 else { throw DriverError(errno: "socketpair") }
    return (pair[0], pair[1])
  }

  /// A stream over a connected Unix socket, which is its own from then on. Reading starts at once.
  package func adopt(_ descriptor: Int32, handler: any StreamHandler) throws(DriverError) -> ByteStream {
    let stream = UVStream(driver: self, isPipe: true)
    stream.handler = handler
    guard stream.adopt(descriptor) else {
      Glibc.close(descriptor)
      stream.close()
      throw DriverError("adopt", status: -EBADF)
    }
    stream.beginAccepted()
    return stream
  }

  /// Another number for the same open file.
  package static func copy(of descriptor: Int32) throws(DriverError) -> Int32 {
    try OwnedDescriptor(copying: descriptor).handOn()
  }

  package static func close(_ descriptor: Int32) { _ = Glibc.close(descriptor) }

  /// The program's file as it was started: a newer one may stand there by now.
  package static var programPath: String? {
    UnsafePointer<CChar>(bitPattern: getauxval(UInt(AT_EXECFN))).map { String(cString: $0) }
  }
}

/// Bytes in memory that processes share by its descriptor.
package struct SharedMemory: Sendable {
  package let descriptor: Int32

  package init() throws(DriverError) {
    descriptor = memfd_create("micro-sidecar", UInt32(CUV_MFD_CLOEXEC))
    if descriptor < 0 { throw DriverError(errno: "memfd_create") }
  }

  /// One that was inherited.
  package init(descriptor: Int32) { self.descriptor = descriptor }

  /// Replaces what is there.
  package func write(_ bytes: [UInt8]) throws(DriverError) {
    guard ftruncate(descriptor, 0) == 0 else { throw DriverError(errno: "ftruncate") }
    var written = 0
    while written < bytes.count {
      let count = bytes.withUnsafeBytes {
        pwrite(descriptor, $0.baseAddress! + written, bytes.count - written, written)
      }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { throw DriverError(errno: "write") }
      written += count
    }
  }

  /// All that is there, `limit` bytes at most.
  package func read(limit: Int) throws(DriverError) -> [UInt8] {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw DriverError(errno: "fstat") }
    let size = Int(status.st_size)
    guard size <= limit else { throw DriverError("read", status: -EFBIG) }
    var bytes = [UInt8](repeating: 0, count: size)
    var taken = 0
    while taken < size {
      let count = bytes.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress! + taken, size - taken, taken) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { throw DriverError(errno: "read") }
      taken += count
    }
    return bytes
  }
}
