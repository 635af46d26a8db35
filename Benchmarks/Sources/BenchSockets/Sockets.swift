// Non-blocking IPv4 loopback sockets and one epoll set: what the node and the load generator share. Any failed call ends
// the program with its name and reason; a benchmark that limps measures nothing.

import CEpoll
import Glibc

public func check(_ result: Int32, _ call: String) -> Int32 {
  if result < 0 { die("\(call): \(String(cString: strerror(errno)))") }
  return result
}

public func die(_ message: String) -> Never {
  let line = message + "\n"
  _ = write(STDERR_FILENO, line, line.utf8.count)
  exit(1)
}

private func loopback(_ port: UInt16) -> sockaddr_in {
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_port = port.bigEndian
  address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
  return address
}

private func withSocketAddress(_ port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
  var address = loopback(port)
  return withUnsafePointer(to: &address) { pointer in
    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
  }
}

private func setOption(_ socket: Int32, _ level: Int32, _ option: Int32) {
  var one: Int32 = 1
  _ = check(setsockopt(socket, level, option, &one, socklen_t(MemoryLayout<Int32>.size)), "setsockopt")
}

public func setNonBlocking(_ socket: Int32) {
  _ = check(fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK), "fcntl")
  setOption(socket, Int32(IPPROTO_TCP), TCP_NODELAY)
}

public func listenOnLoopback(port: UInt16) -> Int32 {
  let socket = check(Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0), "socket")
  setOption(socket, SOL_SOCKET, SO_REUSEADDR)
  _ = check(withSocketAddress(port) { bind(socket, $0, $1) }, "bind to port \(port)")
  _ = check(listen(socket, 4096), "listen")
  setNonBlocking(socket)
  return socket
}

/// Connects (waiting for it), then switches to non-blocking.
public func connectToLoopback(port: UInt16) -> Int32 {
  let socket = check(Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0), "socket")
  _ = check(withSocketAddress(port) { connect(socket, $0, $1) }, "connect to port \(port)")
  setNonBlocking(socket)
  return socket
}

/// Readiness to read of a set of sockets, level-triggered.
public struct ReadPoll {
  private let epoll = check(epoll_create1(0), "epoll_create1")
  private let events = UnsafeMutablePointer<epoll_event>.allocate(capacity: 256)

  public init() {}

  public func add(_ socket: Int32) {
    var event = epoll_event(events: EPOLLIN.rawValue, data: epoll_data(fd: socket))
    _ = check(epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event), "epoll_ctl")
  }

  /// `milliseconds`: the longest it may wait; -1 for ever.
  public func wait(milliseconds: Int32 = -1, _ ready: (Int32) -> Void) {
    let count = epoll_wait(epoll, events, 256, milliseconds)
    if count < 0 && errno == EINTR { return }
    for index in 0..<Int(check(count, "epoll_wait")) { ready(events[index].data.fd) }
  }

  /// `nanoseconds`: the longest it may wait. `epoll_wait` knows milliseconds only, and who waits for less would spin.
  public func wait(nanoseconds: UInt64, _ ready: (Int32) -> Void) {
    var one = pollfd(fd: epoll, events: Int16(POLLIN), revents: 0)
    var time = timespec(tv_sec: Int(nanoseconds / 1_000_000_000), tv_nsec: Int(nanoseconds % 1_000_000_000))
    let count = ppoll(&one, 1, &time, nil)
    if count < 0 && errno == EINTR { return }
    if check(count, "ppoll") > 0 { wait(milliseconds: 0, ready) }
  }
}

/// Ends a connection with a reset rather than an end.
public func resetConnection(_ socket: Int32) {
  var linger = Glibc.linger(l_onoff: 1, l_linger: 0)
  _ = setsockopt(socket, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout.size(ofValue: linger)))
  close(socket)
}

/// Writes all of it. Waits when the socket is full, which small messages on loopback don't make happen.
public func writeAll(_ socket: Int32, _ bytes: UnsafeRawBufferPointer) -> Bool {
  var sent = 0
  while sent < bytes.count {
    let count = send(socket, bytes.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
    if count > 0 {
      sent += count
    } else if errno == EAGAIN {
      var waiting = pollfd(fd: socket, events: Int16(POLLOUT), revents: 0)
      _ = poll(&waiting, 1, 1000)
    } else {
      return false
    }
  }
  return true
}

public func nanosecondsNow() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// `--name value` pairs.
public struct Arguments {
  private var values: [String: String] = [:]

  public init() {
    var rest = CommandLine.arguments.dropFirst()
    while let name = rest.popFirst() {
      guard name.hasPrefix("--"), let value = rest.popFirst() else { die("expected --name value, found \(name)") }
      values[String(name.dropFirst(2))] = value
    }
  }

  public func text(_ name: String, _ fallback: String) -> String { values[name] ?? fallback }

  /// Hexadecimal digits, two a byte; nil when the argument is not there.
  public func bytes(_ name: String) -> [UInt8]? {
    guard let text = values[name] else { return nil }
    let digits = text.utf8.compactMap { Character(UnicodeScalar($0)).hexDigitValue }
    guard digits.count == text.utf8.count, digits.count.isMultiple(of: 2) else {
      die("--\(name) is hexadecimal, two digits a byte")
    }
    return stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
  }

  public func number(_ name: String, _ fallback: Int) -> Int {
    guard let text = values[name] else { return fallback }
    guard let number = Int(text), number >= 0 else { die("--\(name) is a number, found \(text)") }
    return number
  }
}
