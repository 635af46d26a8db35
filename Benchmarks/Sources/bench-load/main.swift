// The load: a fixed number of keep-alive connections, each sending its next POST as soon as the last is answered, until a
// fixed number of requests is done.
//
//     bench-load --port 8081 --connections 32 --requests 100000 [--path P] [--body JSON] [--type T]
//     bench-load --port 8081 --idle 5000        one request on each, then holds them open until standard input ends
//     bench-load --port 8081 --rate 2000 --seconds 20 [--fields 'Idempotency-Key: k']
//
// With a rate the loop is open: requests are due 1/rate seconds apart on average whatever became of the others, each by
// itself (the pauses are exponential, the same in each run of one --seed), on a connection that is free or on a new one, and
// its latency counts from when it was due.
//
// Prints one line of JSON: requests, failures (any status but 200, or a closed connection), seconds, and latency quantiles in
// microseconds. Latency is what the caller waits, without correction for the pauses of a closed loop.

import BenchSockets
import Glibc

final class BenchLoad {
  private let port: UInt16
  private let idle: Int
  private let connections: Int
  private let requests: Int
  private let request: [UInt8]
  private let readPoll = ReadPoll()
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 65_536, alignment: 16)
  /// The start of a reply whose rest has not come yet, by socket.
  private var partial: [Int32: [UInt8]] = [:]
  private var sentAt: [UInt64] = []
  private var latencies: [UInt32] = []
  private var begun = 0
  private var failures = 0
  private var firstFailure = ""
  private let rate: Int
  private var random: UInt64
  private let seconds: Int
  /// With a rate: connections that wait for a request, and those that were begun and are not closed.
  private var free: [Int32] = []
  private var openCount = 0
  private static let openMax = 4000

  init(_ arguments: Arguments) {
    port = UInt16(clamping: arguments.number("port", 8081))
    idle = arguments.number("idle", 0)
    connections = idle > 0 ? idle : arguments.number("connections", 32)
    rate = arguments.number("rate", 0)
    seconds = arguments.number("seconds", 10)
    random = UInt64(clamping: arguments.number("seed", 1))
    requests = idle > 0 ? idle : rate > 0 ? rate * seconds : arguments.number("requests", 100_000)
    let fields = arguments.text("fields", "").split(separator: "|").map { "\($0)\r\n" }.joined()
    let body = arguments.text("body", #"{"name":"World"}"#)
    request = Array(
      """
      POST \(arguments.text("path", "/bench/say/hello")) HTTP/1.1\r
      Host: localhost:\(port)\r
      Content-Type: \(arguments.text("type", "application/json"))\r
      Content-Length: \(body.utf8.count)\r
      \(fields)\r
      \(body)
      """.utf8)
    latencies.reserveCapacity(requests)
  }

  func run() {
    let start = nanosecondsNow()
    if rate > 0 {
      runOpen(start)
      report(seconds: Double(nanosecondsNow() - start) / 1e9)
      return
    }
    for _ in 0..<connections {
      open()
      // One at a time when they are to be idle: a burst would measure the burst's buffers.
      while idle > 0 && latencies.count < begun { readPoll.wait(receive) }
    }
    while latencies.count < requests { readPoll.wait(receive) }
    report(seconds: Double(nanosecondsNow() - start) / 1e9)
    var byte: UInt8 = 0
    while idle > 0 && read(STDIN_FILENO, &byte, 1) > 0 {}
    if failures > 0 { die("\(failures) failures; the first: \(firstFailure)") }
  }

  /// Seconds after the last request was due in which replies are still waited for.
  private static let patience: UInt64 = 10_000_000_000

  /// Nanoseconds from one request to the next.
  private func pause() -> UInt64 {
    // SplitMix64.
    random = random &+ 0x9E37_79B9_7F4A_7C15
    var bits = (random ^ random >> 30) &* 0xBF58_476D_1CE4_E5B9
    bits = (bits ^ bits >> 27) &* 0x94D0_49BB_1331_11EB
    let share = (Double((bits ^ bits >> 31) >> 11) + 1) / 0x1p53
    return UInt64(-log(share) * 1e9 / Double(rate))
  }

  private func runOpen(_ start: UInt64) {
    var due = start + pause()
    let end = start + UInt64(seconds) * 1_000_000_000 + Self.patience
    while latencies.count < requests {
      let now = nanosecondsNow()
      while begun < requests, due <= now {
        sendDue(due)
        due += pause()
      }
      if now > end {
        failures += requests - latencies.count
        latencies += Array(repeating: UInt32.max, count: requests - latencies.count)
        return
      }
      let next = begun < requests ? due : end
      readPoll.wait(nanoseconds: next > now ? next - now : 0, receive)
    }
  }

  private func sendDue(_ due: UInt64) {
    begun += 1
    let socket: Int32
    if let waiting = free.popLast() {
      socket = waiting
    } else {
      guard openCount < Self.openMax else {
        failures += 1
        latencies.append(UInt32.max)
        return
      }
      openCount += 1
      socket = connectToLoopback(port: port)
      while sentAt.count <= Int(socket) { sentAt.append(0) }
      readPoll.add(socket)
    }
    sentAt[Int(socket)] = due
    if !request.withUnsafeBytes({ writeAll(socket, $0) }) { fail(socket, "the connection broke while sending") }
  }

  private func open() {
    let socket = connectToLoopback(port: port)
    while sentAt.count <= Int(socket) { sentAt.append(0) }
    readPoll.add(socket)
    ask(socket)
  }

  private func ask(_ socket: Int32) {
    guard begun < requests else { return }
    begun += 1
    sentAt[Int(socket)] = nanosecondsNow()
    if !request.withUnsafeBytes({ writeAll(socket, $0) }) { fail(socket, "the connection broke while sending") }
  }

  private func receive(_ socket: Int32) {
    var have = 0
    if !partial.isEmpty, let start = partial.removeValue(forKey: socket) {
      buffer.copyBytes(from: start)
      have = start.count
    }
    let count = read(socket, buffer.baseAddress! + have, buffer.count - have)
    if count < 0 && errno == EAGAIN { return }
    guard count > 0 else {
      fail(socket, "the connection was closed")
      return
    }
    have += count
    let message = UnsafeRawBufferPointer(rebasing: buffer[0..<have])
    guard let end = endOfMessage(message) else {
      partial[socket] = Array(message)
      return
    }
    let microseconds = (nanosecondsNow() - sentAt[Int(socket)]) / 1000
    guard end == have, have > 12, message[9] == UInt8(ascii: "2") else {
      // An answer all the same: the connection goes on.
      if rate > 0, end == have {
        failures += 1
        if firstFailure.isEmpty { firstFailure = String(decoding: message.prefix(400), as: UTF8.self) }
        latencies.append(UInt32(clamping: microseconds))
        free.append(socket)
        return
      }
      fail(socket, String(decoding: message.prefix(300), as: UTF8.self))
      return
    }
    latencies.append(UInt32(clamping: microseconds))
    if rate > 0 { return free.append(socket) }
    // Idle connections ask once each: what a proxy keeps after a connection's first request counts too.
    if idle == 0 { ask(socket) }
  }

  private func fail(_ socket: Int32, _ reason: String) {
    failures += 1
    if firstFailure.isEmpty { firstFailure = reason }
    latencies.append(UInt32.max)
    if rate > 0 {
      openCount -= 1
      free.removeAll { $0 == socket }
      close(socket)
      return
    }
    if failures > 1000 { die("more than 1000 failures; the first: \(firstFailure)") }
    close(socket)
    if begun < requests { open() }
  }

  private func report(seconds: Double) {
    latencies.sort()
    func quantile(_ share: Double) -> UInt32 {
      latencies[min(latencies.count - 1, Int(Double(latencies.count) * share))]
    }
    print(
      """
      {"requests": \(requests), "failures": \(failures), "seconds": \(seconds), "p50": \(quantile(0.5)), \
      "p99": \(quantile(0.99)), "p999": \(quantile(0.999)), "max": \(latencies[latencies.count - 1])}
      """)
    if !firstFailure.isEmpty, rate > 0 {
      _ = write(STDERR_FILENO, firstFailure + "\n", firstFailure.utf8.count + 1)
    }
    fflush(nil)
  }
}

BenchLoad(Arguments()).run()
