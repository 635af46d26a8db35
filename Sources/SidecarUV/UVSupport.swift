// What every file here needs of C: errors as `DriverError`, addresses as `sockaddr`, and the close rule. A handle's
// memory belongs to libuv from its init call until its close callback, so it is freed there and nowhere else.

import CUV
import Glibc
import SidecarCore

extension DriverError {
  /// `status` is a negative libuv code, which on Unix is a negated `errno`.
  init(_ operation: String, status: Int32) {
    self.init(operation: operation, code: uvErrorName(status), message: uvErrorMessage(status))
  }

  /// The error a C library call has just left in `errno`.
  init(errno operation: String) { self.init(operation, status: -Glibc.errno) }
}

// The `_r` forms: the plain ones leak memory for a code libuv does not know.
func uvErrorName(_ status: Int32) -> String {
  withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) {
    String(cString: uv_err_name_r(status, $0.baseAddress, 64))
  }
}
func uvErrorMessage(_ status: Int32) -> String {
  withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) {
    String(cString: uv_strerror_r(status, $0.baseAddress, 256))
  }
}

extension UnsafeMutablePointer {
  /// The same handle seen as its base type (`uv_handle_t`, `uv_stream_t`): libuv's structs begin alike.
  @inline(__always) func cast<Base>(to _: Base.Type) -> UnsafeMutablePointer<Base> {
    UnsafeMutableRawPointer(self).assumingMemoryBound(to: Base.self)
  }
}

/// Runs `body` on the object a handle's `data` points to, without reference counting: the handle keeps it alive.
@inline(__always)
func withOwner<Owner: AnyObject>(_ data: UnsafeMutableRawPointer?, _: Owner.Type, _ body: (Owner) -> Void) {
  guard let data else { return }
  Unmanaged<Owner>.fromOpaque(data)._withUnsafeGuaranteedRef(body)
}

/// The close callback of handles nobody waits for.
func freeHandle(_ handle: UnsafeMutablePointer<uv_handle_t>?) {
  UnsafeMutableRawPointer(handle)?.deallocate()
}

/// The close callback of handles that hold a reference to their owner in `data`.
func freeHandleAndOwner(_ handle: UnsafeMutablePointer<uv_handle_t>?) {
  guard let handle else { return }
  if let owner = handle.pointee.data { Unmanaged<AnyObject>.fromOpaque(owner).release() }
  UnsafeMutableRawPointer(handle).deallocate()
}

extension SocketAddress {
  /// Runs `body` with this address as C sees it. A path longer than C has room for is `ENAMETOOLONG`.
  func withSockaddr<Result>(
    _ operation: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result
  ) throws(DriverError) -> Result {
    var storage = sockaddr_storage()
    var tooLong = false
    var length = 0
    let result = withUnsafeMutableBytes(of: &storage) { raw -> Result? in
      switch self {
      case .ipv4(let address, let port):
        var v4 = sockaddr_in()
        v4.sin_family = sa_family_t(AF_INET)
        v4.sin_port = port.bigEndian
        v4.sin_addr.s_addr = address.bigEndian
        raw.storeBytes(of: v4, as: sockaddr_in.self)
        length = MemoryLayout<sockaddr_in>.size
      case .ipv6(let high, let low, let zone, let port):
        var v6 = sockaddr_in6()
        v6.sin6_family = sa_family_t(AF_INET6)
        v6.sin6_port = port.bigEndian
        v6.sin6_scope_id = zone
        v6.sin6_addr = in6_addr(high: high, low: low)
        raw.storeBytes(of: v6, as: sockaddr_in6.self)
        length = MemoryLayout<sockaddr_in6>.size
      case .unix(let path):
        let offset = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
        let bytes = Array(path.utf8)
        guard offset + bytes.count < MemoryLayout<sockaddr_un>.size else {
          tooLong = true
          return nil
        }
        raw.storeBytes(of: sa_family_t(AF_UNIX), as: sa_family_t.self)
        for (index, byte) in bytes.enumerated() { raw[offset + index] = byte }
        length = offset + bytes.count + 1
      }
      guard let base = raw.baseAddress else { return nil }
      return body(UnsafePointer(base.assumingMemoryBound(to: sockaddr.self)), socklen_t(length))
    }
    guard let result, !tooLong else { throw DriverError(operation, status: -ENAMETOOLONG) }
    return result
  }

  /// Nil for families other than IPv4, IPv6 and Unix, and for an unnamed Unix socket.
  init?(sockaddr pointer: UnsafePointer<sockaddr>, length: Int) {
    let raw = UnsafeRawPointer(pointer)
    guard length >= MemoryLayout<sa_family_t>.size else { return nil }
    switch Int32(pointer.pointee.sa_family) {
    case AF_INET:
      guard length >= MemoryLayout<sockaddr_in>.size else { return nil }
      let v4 = raw.loadUnaligned(as: sockaddr_in.self)
      self = .ipv4(address: UInt32(bigEndian: v4.sin_addr.s_addr), port: UInt16(bigEndian: v4.sin_port))
    case AF_INET6:
      guard length >= MemoryLayout<sockaddr_in6>.size else { return nil }
      let v6 = raw.loadUnaligned(as: sockaddr_in6.self)
      let (high, low) = v6.sin6_addr.halves
      self = .ipv6(high: high, low: low, zone: v6.sin6_scope_id, port: UInt16(bigEndian: v6.sin6_port))
    case AF_UNIX:
      let offset = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
      guard length > offset, length <= MemoryLayout<sockaddr_un>.size else { return nil }
      let path = UnsafeRawBufferPointer(start: raw + offset, count: length - offset).prefix { $0 != 0 }
      guard !path.isEmpty else { return nil }
      self = .unix(path: String(decoding: path, as: UTF8.self))
    default:
      return nil
    }
  }

  /// Reads an address by one of C's `(storage, inout length) -> status` calls.
  init?(filledBy fill: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<Int32>) -> Int32) {
    var storage = sockaddr_storage()
    var length = Int32(MemoryLayout<sockaddr_storage>.size)
    let address = withUnsafeMutablePointer(to: &storage) { pointer -> SocketAddress? in
      let generic = pointer.cast(to: sockaddr.self)
      guard fill(generic, &length) == 0 else { return nil }
      return SocketAddress(sockaddr: UnsafePointer(generic), length: Int(length))
    }
    guard let address else { return nil }
    self = address
  }

  /// The address a descriptor is bound to.
  init?(boundTo descriptor: Int32) {
    self.init { storage, length in
      var size = socklen_t(length.pointee)
      let status = getsockname(descriptor, storage, &size)
      length.pointee = Int32(size)
      return status
    }
  }

  var family: Int32 {
    switch self {
    case .ipv4: AF_INET
    case .ipv6: AF_INET6
    case .unix: AF_UNIX
    }
  }
}

extension in6_addr {
  init(high: UInt64, low: UInt64) {
    self.init()
    withUnsafeMutableBytes(of: &self) { raw in
      raw.storeBytes(of: high.bigEndian, as: UInt64.self)
      raw.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
    }
  }
  var halves: (UInt64, UInt64) {
    withUnsafeBytes(of: self) { raw in
      (
        UInt64(bigEndian: raw.loadUnaligned(as: UInt64.self)),
        UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
      )
    }
  }
}

/// A descriptor that closes itself unless it is handed on: for set-up code with many ways to fail.
struct OwnedDescriptor: ~Copyable {
  let number: Int32

  init(socket family: Int32, _ kind: __socket_type) throws(DriverError) {
    let flags = Int32(kind.rawValue) | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
    number = socket(family, flags, 0)
    if number < 0 { throw DriverError(errno: "socket") }
  }

  /// Another number for what `other` is.
  init(copying other: Int32) throws(DriverError) {
    number = fcntl(other, F_DUPFD_CLOEXEC, 3)
    if number < 0 { throw DriverError(errno: "dup") }
  }

  deinit { if number >= 0 { Glibc.close(number) } }

  consuming func handOn() -> Int32 {
    let number = number
    discard self
    return number
  }

  func set(_ level: Int32, _ option: Int32, to value: Int32, _ name: String) throws(DriverError) {
    try setOption(number, level, option, to: value, name)
  }
}

func setOption<Value>(
  _ descriptor: Int32, _ level: Int32, _ option: Int32, to value: Value, _ name: String
) throws(DriverError) {
  let status = withUnsafePointer(to: value) {
    setsockopt(descriptor, level, option, $0, socklen_t(MemoryLayout<Value>.size))
  }
  if status != 0 { throw DriverError(errno: name) }
}
