// The node behind every contender: answers each HTTP/1.1 POST with the same small JSON, as a go-micro service with the
// JSON codec would, at the least cost one thread can.
//
//     bench-node --port 9000 [--reply '{"msg":"Hello World"}' | --reply-hex 0a0474657374] [--type application/json]
//                [--delay-ms 200] [--reset-every 3]
//
// `--delay-ms`: every answer comes so much later. `--reset-every 3`: the first request on each third connection is answered
// with a reset. Says "ready" on standard output when it accepts; ends when standard input ends. On SIGTERM it takes no more
// connections, answers what it has read, and ends, as a service does that is restarted in good order.

import BenchSockets
import Glibc

nonisolated(unsafe) private var isLeaving = false

final class BenchNode {
  private let reply: [UInt8]
  private let delay: UInt64
  private let resetEvery: Int
  private var accepted = 0
  private let listener: Int32
  private let readPoll = ReadPoll()
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 16)
  /// The start of a request whose rest has not come yet, by socket.
  private var partial: [Int32: [UInt8]] = [:]
  private var connections: Set<Int32> = []
  /// Connections to be reset when a request comes.
  private var doomed: Set<Int32> = []
  /// Answers to come, in the order of their times.
  private var due: [(at: UInt64, socket: Int32, life: Int)] = []
  private var dueHead = 0
  /// Tells one connection from the next of the same descriptor.
  private var lives: [Int32: Int] = [:]

  init(_ arguments: Arguments) {
    let body = arguments.bytes("reply-hex") ?? Array(arguments.text("reply", #"{"msg":"Hello World"}"#).utf8)
    let type = arguments.text("type", "application/json")
    reply = Array("HTTP/1.1 200 OK\r\nContent-Length: \(body.count)\r\nContent-Type: \(type)\r\n\r\n".utf8) + body
    delay = UInt64(arguments.number("delay-ms", 0)) * 1_000_000
    resetEvery = arguments.number("reset-every", 0)
    listener = listenOnLoopback(port: UInt16(clamping: arguments.number("port", 9000)))
    readPoll.add(listener)
    readPoll.add(STDIN_FILENO)
  }

  func run() -> Never {
    while !isLeaving {
      readPoll.wait(milliseconds: answerDue()) { socket in
        switch socket {
        case listener: acceptAll()
        case STDIN_FILENO: exit(0)
        default: serve(socket)
        }
      }
    }
    leave()
  }

  private func acceptAll() {
    while case let connection = accept(listener, nil, nil), connection >= 0 {
      setNonBlocking(connection)
      accepted += 1
      lives[connection, default: 0] += 1
      if resetEvery > 0, accepted % resetEvery == 0 { doomed.insert(connection) }
      connections.insert(connection)
      readPoll.add(connection)
    }
  }

  private func drop(_ socket: Int32) {
    connections.remove(socket)
    doomed.remove(socket)
    partial[socket] = nil
    close(socket)
  }

  private func serve(_ socket: Int32) {
    var have = 0
    if !partial.isEmpty, let start = partial.removeValue(forKey: socket) {
      buffer.copyBytes(from: start)
      have = start.count
    }
    let count = read(socket, buffer.baseAddress! + have, buffer.count - have)
    if count < 0 && errno == EAGAIN { return }
    guard count > 0 else { return drop(socket) }
    if doomed.remove(socket) != nil {
      connections.remove(socket)
      return resetConnection(socket)
    }
    have += count
    var position = 0
    while let end = endOfMessage(UnsafeRawBufferPointer(rebasing: buffer[position..<have])) {
      position += end
      if delay > 0 {
        due.append((nanosecondsNow() + delay, socket, lives[socket] ?? 0))
      } else if !answer(socket) {
        return drop(socket)
      }
    }
    if position < have { partial[socket] = Array(buffer[position..<have]) }
  }

  private func answer(_ socket: Int32) -> Bool { reply.withUnsafeBytes { writeAll(socket, $0) } }

  /// Gives the answers whose time has come; how long until the next, in milliseconds.
  private func answerDue() -> Int32 {
    let now = nanosecondsNow()
    while dueHead < due.count {
      let next = due[dueHead]
      guard next.at <= now else { return Int32((next.at - now) / 1_000_000 + 1) }
      dueHead += 1
      if lives[next.socket] == next.life, connections.contains(next.socket), !answer(next.socket) { drop(next.socket) }
    }
    due.removeAll(keepingCapacity: true)
    dueHead = 0
    return -1
  }

  private func leave() -> Never {
    close(listener)
    // What had arrived by now is answered; a request that comes later meets a closed connection.
    for socket in connections { serve(socket) }
    while answerDue() >= 0 { usleep(1000) }
    for socket in connections { _ = shutdown(socket, Int32(SHUT_WR)) }
    exit(0)
  }
}

signal(SIGTERM) { _ in isLeaving = true }
let node = BenchNode(Arguments())
print("ready")
fflush(nil)
node.run()
