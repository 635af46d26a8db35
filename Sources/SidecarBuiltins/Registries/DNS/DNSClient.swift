// Asks DNS servers one question: the first server, and the next when it is silent or will not say.
//
//   UDP with EDNS0 ──▶ answer
//     ├─ FORMERR, NOTIMP ──▶ UDP without EDNS0 ──▶ …
//     ├─ truncated ────────▶ TCP, same server ───▶ …
//     └─ silent, refused, SERVFAIL ──▶ next server; after the last one, once more from the first
//
// Every question has a socket of its own and so a port that cannot be guessed, besides its id (RFC 5452).

import SidecarCore

/// Why no server gave an answer.
struct DNSFailure: Error, Equatable, Sendable {
  /// Each server and what it did.
  var servers: [(server: String, why: String)]
  /// One of them at least is there and answers.
  var isReachable: Bool

  var description: String { servers.map { "\($0.server): \($0.why)" }.joined(separator: "; ") }
  static func == (a: DNSFailure, b: DNSFailure) -> Bool { a.description == b.description }
}

/// Threading: the control loop only.
final class DNSClient: @unchecked Sendable {
  /// Bytes of a reply that we tell servers to send in a datagram (the advice of DNS flag day 2020).
  static let datagramBytes: UInt16 = 1232
  /// Questions under way; more wait in line.
  static let underWayMax = 64
  /// Rounds over all servers.
  static let rounds = 2

  let servers: [Destination]
  private let driver: any Driver
  private let tryNanoseconds: Int64
  private var random: SeededRandom
  private var underWay = 0
  private var line: [LoopGate] = []
  /// Which server answered last: it is asked first.
  private var preferred = 0
  /// Servers that answered FORMERR to EDNS0.
  private var plain: Set<Int> = []

  init(servers: [Destination], driver: any Driver, tryNanoseconds: Int64) {
    self.servers = servers
    self.driver = driver
    self.tryNanoseconds = tryNanoseconds
    random = SeededRandom(seed: driver.random.next())
  }

  /// Asks for the records of `type` at `name`.
  func ask(_ name: DNSName, _ type: DNSType) async throws(DNSFailure) -> DNSAnswer {
    while underWay >= Self.underWayMax {
      let gate = LoopGate(driver: driver)
      line.append(gate)
      let wake = await gate.wait()
      line.removeAll { $0 === gate }
      if wake == .cancelled { throw DNSFailure(servers: [("dns", "cancelled")], isReachable: true) }
    }
    underWay += 1
    defer {
      underWay -= 1
      line.first?.open()
    }
    var failures: [(server: String, why: String)] = []
    var isReachable = false
    for attempt in 0..<servers.count * Self.rounds {
      let index = (preferred + attempt) % servers.count
      if Task.isCancelled { break }
      switch await ask(DNSQuestion(name, type), index) {
      case .success(let answer):
        preferred = index
        return answer
      case .failure(let refusal):
        isReachable = isReachable || refusal.isReachable
        if attempt < servers.count { failures.append(("\(servers[index])", refusal.why)) }
      }
    }
    throw DNSFailure(servers: failures, isReachable: isReachable)
  }

  private struct Refusal: Error {
    var why: String
    var isReachable: Bool
  }

  private func ask(_ question: DNSQuestion, _ index: Int) async -> Result<DNSAnswer, Refusal> {
    let deadline = driver.now.advanced(byNanoseconds: tryNanoseconds)
    guard case .address(let server) = servers[index] else {
      return .failure(Refusal(why: "a DNS server is named by its address", isReachable: false))
    }
    var verdict = await askByDatagram(question, server, withEDNS: !plain.contains(index), deadline)
    if verdict == .withoutEDNS, plain.insert(index).inserted {
      verdict = await askByDatagram(question, server, withEDNS: false, deadline)
    }
    if verdict == .truncated { verdict = await askByStream(question, server, deadline) }
    switch verdict {
    case .answer(let answer): return .success(answer)
    case .failed(let why): return .failure(Refusal(why: why, isReachable: true))
    case .withoutEDNS: return .failure(Refusal(why: "it does not understand the question (FORMERR)", isReachable: true))
    case .foreign, .truncated: return .failure(Refusal(why: "no answer in time", isReachable: false))
    }
  }

  private func message(_ question: DNSQuestion, withEDNS: Bool) -> (id: UInt16, bytes: [UInt8]) {
    let id = UInt16(truncatingIfNeeded: random.next())
    var message = DNSMessage(id: id, flags: [.recursionDesired], questions: [question])
    if withEDNS {
      message.additionals = [DNSRecord(.root, ttl: 0, .other(.opt, []), classAndFlush: Self.datagramBytes)]
    }
    // A question fits always: its name has 255 bytes at most.
    return (id, (try? message.bytes(compressed: false)) ?? [])
  }

  /// `.foreign` when the server is silent.
  private func askByDatagram(
    _ question: DNSQuestion, _ server: SocketAddress, withEDNS: Bool, _ deadline: Instant
  ) async -> DNSAnswer.Verdict {
    let (id, bytes) = message(question, withEDNS: withEDNS)
    let inbox = Inbox(driver, server) {
      DNSAnswer.judge($0, id: id, question: question, isDatagram: true)
    }
    let any: SocketAddress = server.isIPv6 ? .ipv6(high: 0, low: 0, zone: 0, port: 0) : .ipv4(address: 0, port: 0)
    guard let socket = try? driver.bindDatagram(to: any, sharedPort: false, handler: inbox) else {
      return .failed("no UDP socket can be opened here")
    }
    defer { socket.close() }
    guard socket.send(bytes, to: server) else { return .foreign }
    while inbox.verdict == nil {
      guard await inbox.gate.wait(until: deadline) == .opened else { return .foreign }
    }
    return inbox.verdict ?? .foreign
  }

  /// What came back on one socket. What is no DNS message, or from somebody else, is not looked at.
  private final class Inbox: DatagramHandler, @unchecked Sendable {
    let gate: LoopGate
    var verdict: DNSAnswer.Verdict?
    private let server: SocketAddress
    private let judge: (DNSMessage) -> DNSAnswer.Verdict

    init(_ driver: any Driver, _ server: SocketAddress, _ judge: @escaping (DNSMessage) -> DNSAnswer.Verdict) {
      gate = LoopGate(driver: driver)
      self.server = server
      self.judge = judge
    }

    func datagramReceived(
      _ socket: DatagramSocket, _ bytes: UnsafeRawBufferPointer, from peer: SocketAddress, interface: UInt32
    ) {
      guard verdict == nil, peer == server, let message = try? DNSMessage(reading: bytes) else { return }
      let found = judge(message)
      guard found != .foreign else { return }
      verdict = found
      gate.open()
    }
  }

  private func askByStream(
    _ question: DNSQuestion, _ server: SocketAddress, _ deadline: Instant
  ) async -> DNSAnswer.Verdict {
    let (id, bytes) = message(question, withEDNS: false)
    do throws(ConnectionError) {
      let connection = try await AsyncConnection.dial(.address(server), driver: driver, deadline: deadline)
      defer { connection.close() }
      try await connection.write([UInt8(bytes.count >> 8), UInt8(bytes.count & 255)] + bytes, deadline: deadline)
      let head = try await connection.read(exactly: 2, deadline: deadline)
      let reply = try await connection.read(exactly: Int(head[0]) << 8 | Int(head[1]), deadline: deadline)
      guard let message = try? DNSMessage(reading: reply) else {
        return .failed("its reply over TCP is no DNS message")
      }
      return DNSAnswer.judge(message, id: id, question: question, isDatagram: false)
    } catch {
      return .failed("its answer does not fit UDP, and over TCP: \(error)")
    }
  }
}
