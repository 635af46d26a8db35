// Listening sockets. Sockets are made and accepted here rather than by libuv: 1.44 cannot set SO_REUSEPORT, and its
// accept loop spins while the process is out of descriptors. `uv_poll` tells when somebody knocks.

import CUV
import Glibc
import SidecarCore

final class UVListener: Listener, LoopResource {
  /// Connections the kernel holds for us before it refuses more.
  static let backlog: Int32 = 1024
  /// Connections taken per turn, so that a storm of them cannot starve the ones that stand.
  static let acceptsPerTurn = 64
  /// How long accepting rests when the process is out of descriptors or memory; callers wait in the backlog.
  static let exhaustedPause: Int64 = 100_000_000

  private unowned(unsafe) let driver: UVDriver
  private let poll: UnsafeMutablePointer<uv_poll_t>
  private let number: Int32
  private let bound: SocketAddress
  private let isPipe: Bool
  private let ownFile: FileIdentity?
  private var onAccept: ((ByteStream) -> Void)?
  private var resumeTimer: LoopTimer?

  convenience init(
    driver: UVDriver, address: SocketAddress, sharedPort: Bool, onAccept: @escaping (ByteStream) -> Void
  ) throws(DriverError) {
    let socket = try Self.boundSocket(address, sharedPort: sharedPort)
    if Glibc.listen(socket.number, Self.backlog) != 0 { throw DriverError(errno: "listen") }
    let bound = address.family == AF_UNIX ? address : SocketAddress(boundTo: socket.number) ?? address
    try self.init(driver: driver, socket: socket, bound: bound, onAccept: onAccept)
  }

  /// At a socket that listens already, by a number of our own for it.
  convenience init(
    driver: UVDriver, inheriting descriptor: Int32, onAccept: @escaping (ByteStream) -> Void
  ) throws(DriverError) {
    let socket = try OwnedDescriptor(copying: descriptor)
    guard let bound = SocketAddress(boundTo: socket.number) else { throw DriverError(errno: "listen") }
    try self.init(driver: driver, socket: socket, bound: bound, onAccept: onAccept)
  }

  private init(
    driver: UVDriver, socket: consuming OwnedDescriptor, bound: SocketAddress, onAccept: @escaping (ByteStream) -> Void
  ) throws(DriverError) {
    let poll = UnsafeMutablePointer<uv_poll_t>.allocate(capacity: 1)
    let status = uv_poll_init(driver.loop, poll, socket.number)
    if status < 0 {
      poll.deallocate()
      throw DriverError("listen", status: status)
    }
    self.driver = driver
    self.poll = poll
    self.onAccept = onAccept
    self.bound = bound
    isPipe = bound.family == AF_UNIX
    if case .unix(let path) = bound { ownFile = FileIdentity(path) } else { ownFile = nil }
    number = socket.handOn()
    super.init()
    poll.pointee.data = Unmanaged.passRetained(self).toOpaque()
    uv_poll_start(poll, Int32(UV_READABLE.rawValue), listenerReadable)
  }

  private static func boundSocket(_ address: SocketAddress, sharedPort: Bool) throws(DriverError) -> OwnedDescriptor {
    let socket = try OwnedDescriptor(socket: address.family, SOCK_STREAM)
    if case .unix(let path) = address {
      // The mode of the socket's inode becomes that of the file: only this user may connect.
      fchmod(socket.number, 0o600)
      do {
        try bind(socket.number, to: address)
      } catch  where error.code == "EADDRINUSE" && isStaleSocket(path, address) {
        unlink(path)
        try bind(socket.number, to: address)
      }
    } else {
      try socket.set(SOL_SOCKET, SO_REUSEADDR, to: 1, "SO_REUSEADDR")
      if sharedPort { try socket.set(SOL_SOCKET, SO_REUSEPORT, to: 1, "SO_REUSEPORT") }
      if address.isIPv6 {
        // `[::]` takes IPv4 callers too.
        try socket.set(Int32(IPPROTO_IPV6), IPV6_V6ONLY, to: address.isWildcard ? 0 : 1, "IPV6_V6ONLY")
      }
      try bind(socket.number, to: address)
    }
    return socket
  }

  /// Whether a socket file is left over from a process that is gone: nobody answers there.
  private static func isStaleSocket(_ path: String, _ address: SocketAddress) -> Bool {
    var status = stat()
    guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else { return false }
    guard let probe = try? OwnedDescriptor(socket: AF_UNIX, SOCK_STREAM) else { return false }
    let number = probe.number
    let refused = try? address.withSockaddr("connect") { pointer, length in
      Glibc.connect(number, pointer, length) != 0 && errno == ECONNREFUSED
    }
    return refused ?? false
  }

  override var address: SocketAddress { bound }
  override var descriptor: Int32? { onAccept == nil ? nil : number }

  fileprivate func acceptWaiting(_ status: Int32) {
    var accepted = 0
    while onAccept != nil, accepted < Self.acceptsPerTurn {
      let flags = Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
      let connection = accept4(number, nil, nil, flags)
      if connection < 0 {
        switch errno {
        case EAGAIN: return
        // The caller gave up while it waited, or one of the network errors Linux passes on to accept: not ours.
        case ECONNABORTED, EINTR, EPROTO, ENETDOWN, ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH, ENETUNREACH, EPERM:
          accepted += 1
          continue
        default:
          rest()
          return
        }
      }
      accepted += 1
      let stream = UVStream(driver: driver, isPipe: isPipe)
      guard stream.adopt(connection) else {
        Glibc.close(connection)
        stream.close()
        continue
      }
      onAccept?(stream)
      stream.beginAccepted()
    }
  }

  /// Out of descriptors or memory. The listening socket stays readable, so polling on would spin.
  private func rest() {
    uv_poll_stop(poll)
    let timer = LoopTimer { [unowned self] in
      if onAccept != nil { uv_poll_start(poll, Int32(UV_READABLE.rawValue), listenerReadable) }
    }
    resumeTimer = timer
    driver.timers.arm(timer, after: Self.exhaustedPause, from: driver.now)
  }

  override func close() {
    if onAccept == nil { return }
    if case .unix(let path) = bound, let ownFile, FileIdentity(path) == ownFile { unlink(path) }
    leave()
  }

  override func leave() {
    if onAccept == nil { return }
    onAccept = nil
    resumeTimer?.cancel()
    resumeTimer = nil
    uv_close(poll.cast(to: uv_handle_t.self), freeHandleAndOwner)
    // The poller has let go of the descriptor: it may be closed at once, which frees the port at once.
    Glibc.close(number)
  }

  func closeForStop() { close() }
}

private func listenerReadable(_ poll: UnsafeMutablePointer<uv_poll_t>?, _ status: Int32, _: Int32) {
  withOwner(poll?.pointee.data, UVListener.self) { $0.acceptWaiting(status) }
}

func bind(_ descriptor: Int32, to address: SocketAddress) throws(DriverError) {
  let status = try address.withSockaddr("bind") { pointer, length in
    Glibc.bind(descriptor, pointer, length) == 0 ? 0 : -errno
  }
  if status != 0 { throw DriverError("bind \(address)", status: status) }
}

/// Which file a path leads to, and in which state it is.
struct FileIdentity: Equatable {
  var device: UInt
  var inode: UInt
  var size: Int
  var modifiedSeconds: Int
  var modifiedNanoseconds: Int

  /// Nil when nothing is there.
  init?(_ path: String) {
    var status = stat()
    guard stat(path, &status) == 0 else { return nil }
    device = UInt(status.st_dev)
    inode = UInt(status.st_ino)
    size = Int(status.st_size)
    modifiedSeconds = Int(status.st_mtim.tv_sec)
    modifiedNanoseconds = Int(status.st_mtim.tv_nsec)
  }
}
