// The node behind every contender: answers each HTTP/1.1 POST with the same small JSON, as a go-micro service with the
// JSON codec would, at the least cost one thread can.
//
//     bench-node --port 9000 [--reply '{"msg":"Hello World"}' | --reply-hex 0a0474657374] [--type application/json]
//
// Says "ready" on standard output when it accepts; ends when standard input ends.

import BenchSockets
import Glibc

final class BenchNode {
  private let reply: [UInt8]
  private let listener: Int32
  private let readPoll = ReadPoll()
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 16)
  /// The start of a request whose rest has not come yet, by socket.
  private var partial: [Int32: [UInt8]] = [:]

  init(_ arguments: Arguments) {
    let body = arguments.bytes("reply-hex") ?? Array(arguments.text("reply", #"{"msg":"Hello World"}"#).utf8)
    let type = arguments.text("type", "application/json")
    reply = Array("HTTP/1.1 200 OK\r\nContent-Length: \(body.count)\r\nContent-Type: \(type)\r\n\r\n".utf8) + body
    listener = listenOnLoopback(port: UInt16(clamping: arguments.number("port", 9000)))
    readPoll.add(listener)
    readPoll.add(STDIN_FILENO)
  }

  func run() -> Never {
    while true {
      readPoll.wait { socket in
        switch socket {
        case listener:
          while case let connection = accept(listener, nil, nil), connection >= 0 {
            setNonBlocking(connection)
            readPoll.add(connection)
          }
        case STDIN_FILENO: exit(0)
        default: serve(socket)
        }
      }
    }
  }

  private func serve(_ socket: Int32) {
    var have = 0
    if !partial.isEmpty, let start = partial.removeValue(forKey: socket) {
      buffer.copyBytes(from: start)
      have = start.count
    }
    let count = read(socket, buffer.baseAddress! + have, buffer.count - have)
    if count < 0 && errno == EAGAIN { return }
    guard count > 0 else {
      close(socket)
      return
    }
    have += count
    var position = 0
    while let end = endOfMessage(UnsafeRawBufferPointer(rebasing: buffer[position..<have])) {
      position += end
      guard reply.withUnsafeBytes({ writeAll(socket, $0) }) else {
        close(socket)
        return
      }
    }
    if position < have { partial[socket] = Array(buffer[position..<have]) }
  }
}

let node = BenchNode(Arguments())
print("ready")
fflush(nil)
node.run()
