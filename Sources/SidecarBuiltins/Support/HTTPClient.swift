// An HTTP/1.1 client for registries and other servers of the control plane: several base URLs with failover, connections
// kept for the next call, a deadline for each call, limits on what is read, and replies without end for watches.
//
// Failover: calls go to the server that answered last. When it cannot be reached, or its reply is one that `isUnfit`
// finds, the others are asked in turn, each once. A kept connection that turns out to be dead before a byte of the reply
// came is replaced by a fresh one, once: the server closed it while it was idle.

import SidecarCore
import SidecarTLS

/// Threading: the loop of its driver only (`Sendable` so that tasks on that loop may hold it).
package final class HTTPClient: @unchecked Sendable {
  package struct Limits: Sendable {
    /// Bytes of a reply's body; more ends the call with an error. Streams have none.
    package var bodyBytes = 64 * 1024 * 1024
    /// Calls under way, streams not counted; further ones wait for their turn.
    package var callsAtOnce = 32
    /// Idle connections kept for each server.
    package var idleConnections = 16
    /// Nanoseconds after which an idle connection is not used again.
    package var idleNanoseconds: Int64 = 50_000_000_000
    /// Nanoseconds a dial may take while other servers are left to be asked.
    package var dialNanoseconds: Int64 = 2_000_000_000
    package init() {}
  }

  package let endpoints: [HTTPEndpoint]
  /// Sent with every request.
  package var headers: [(name: String, value: String)] = []
  /// Replies that say the server is of no use now, so that another should be asked.
  package var isUnfit: (HTTPReply) -> Bool = { $0.status == 502 || $0.status == 503 }
  package let limits: Limits
  private let tls: TLSSource?
  let driver: any Driver
  private var idle: [[HTTPClientConnection]]
  private var preferred = 0
  private var callCount = 0
  private var waiting: [LoopGate] = []

  /// `endpoints` must not be empty. `tls` must be there when one of them wants it.
  package init(
    driver: any Driver, endpoints: [HTTPEndpoint], tls: TLSSource? = nil, limits: Limits = Limits()
  ) {
    precondition(!endpoints.isEmpty, "a client needs a server")
    precondition(tls != nil || !endpoints.contains(where: \.isTLS), "https without TLS")
    self.tls = tls
    self.driver = driver
    self.endpoints = endpoints
    self.limits = limits
    idle = Array(repeating: [], count: endpoints.count)
  }

  /// The server that is asked first.
  package var preferredEndpoint: HTTPEndpoint { endpoints[preferred] }

  /// Closes the idle connections.
  package func closeIdle() {
    for connection in idle.joined() { connection.connection.close() }
    idle = Array(repeating: [], count: endpoints.count)
  }

  // MARK: Calls

  /// The reply, whatever its status. `within` is for all of the call, with its wait for a turn and all servers asked. With a
  /// `reader` the body of a reply of success goes there, and the reply's own is empty.
  package func call(
    _ request: HTTPRequest, within: Duration, reader: (any HTTPBodyReader)? = nil
  ) async throws(HTTPFailure) -> HTTPReply {
    let deadline = driver.now.advanced(by: within)
    try await takeTurn(deadline)
    defer { giveTurn() }
    return try await onAnyServer(deadline) { (index, deadline) async throws(ConnectionError) in
      try await exchange(request, index, deadline, reader)
    }
  }

  /// Starts a call whose reply has no end. `within` is for its head; what comes after has the deadlines of the reader.
  package func stream(_ request: HTTPRequest, within: Duration) async throws(HTTPFailure) -> HTTPReplyStream {
    let deadline = driver.now.advanced(by: within)
    return try await onAnyServer(deadline) { (index, deadline) async throws(ConnectionError) in
      let connection = HTTPClientConnection(try await dial(index, deadline))
      try await connection.send(request, to: endpoints[index], headers: headers, deadline: deadline)
      let head = try await connection.readHead(deadline: deadline)
      return HTTPReplyStream(head, endpoints[index], connection)
    } isUnfit: {
      isUnfit(HTTPReply(status: $0.head.status, headers: $0.head.headers, body: [], endpoint: $0.endpoint))
    }
  }

  private func onAnyServer(
    _ deadline: Instant, _ work: (Int, Instant) async throws(ConnectionError) -> HTTPReply
  ) async throws(HTTPFailure) -> HTTPReply {
    try await onAnyServer(deadline, work, isUnfit: isUnfit)
  }

  /// Asks the servers in turn until one answers fitly; the last unfit answer when none does.
  func onAnyServer<Answer>(
    _ deadline: Instant, _ work: (Int, Instant) async throws(ConnectionError) -> Answer, isUnfit: (Answer) -> Bool
  ) async throws(HTTPFailure) -> Answer {
    let first = preferred
    var unfit: Answer?
    var failure: HTTPFailure?
    for step in 0..<endpoints.count {
      let index = (first + step) % endpoints.count
      do throws(ConnectionError) {
        let answer = try await work(index, deadline)
        if isUnfit(answer) {
          unfit = answer
          continue
        }
        preferred = index
        return answer
      } catch {
        // Nobody has the time to ask another.
        if error == .cancelled || driver.now >= deadline { throw HTTPFailure(endpoint: endpoints[index], cause: error) }
        failure = failure ?? HTTPFailure(endpoint: endpoints[index], cause: error)
      }
    }
    if let unfit { return unfit }
    throw failure ?? HTTPFailure(endpoint: endpoints[first], cause: .timedOut)
  }

  private func exchange(
    _ request: HTTPRequest, _ index: Int, _ deadline: Instant, _ reader: (any HTTPBodyReader)?
  ) async throws(ConnectionError) -> HTTPReply {
    if let kept = takeIdle(index) {
      do throws(ConnectionError) {
        return try await exchange(request, index, deadline, reader, on: kept)
      } catch {
        guard case .closed = error, !kept.hasHeardReply else { throw error }
      }
    }
    return try await exchange(
      request, index, deadline, reader, on: HTTPClientConnection(try await dial(index, deadline)))
  }

  private func exchange(
    _ request: HTTPRequest, _ index: Int, _ deadline: Instant, _ reader: (any HTTPBodyReader)?,
    on connection: HTTPClientConnection
  ) async throws(ConnectionError) -> HTTPReply {
    do throws(ConnectionError) {
      try await connection.send(request, to: endpoints[index], headers: headers, deadline: deadline)
      let head = try await connection.readHead(deadline: deadline)
      var reply = HTTPReply(status: head.status, headers: head.headers, body: [], endpoint: endpoints[index])
      let reader = reply.isSuccess ? reader : nil
      reader?.begin()
      var count = 0
      while let part = try await connection.readBody(deadline: deadline) {
        count += part.count
        guard count <= limits.bodyBytes else { throw .closed("its reply has more than \(limits.bodyBytes) bytes") }
        if let reader {
          reader.take(part)
        } else if reply.body.isEmpty {
          reply.body = part
        } else {
          reply.body += part
        }
      }
      giveIdle(connection, index)
      return reply
    } catch {
      connection.connection.close()
      throw error
    }
  }

  func dial(_ index: Int, _ deadline: Instant) async throws(ConnectionError) -> AsyncConnection {
    let limit = endpoints.count > 1 ? driver.now.advanced(byNanoseconds: limits.dialNanoseconds) : deadline
    let endpoint = endpoints[index]
    let connection = try await AsyncConnection.dial(endpoint.target, driver: driver, deadline: min(deadline, limit))
    guard endpoint.isTLS, let tls else { return connection }
    let context: TLSContext
    do throws(TLSError) {
      context = try tls.context()
    } catch {
      connection.close()
      throw .tls(error.message)
    }
    try await connection.startTLS(
      context, host: tls.serverName ?? endpoint.host, deadline: min(deadline, limit))
    return connection
  }

  // MARK: Connections between calls

  private func takeIdle(_ index: Int) -> HTTPClientConnection? {
    while let connection = idle[index].popLast() {
      let age = driver.now.nanoseconds(since: connection.idleSince)
      if connection.isReusable, age < limits.idleNanoseconds { return connection }
      connection.connection.close()
    }
    return nil
  }

  private func giveIdle(_ connection: HTTPClientConnection, _ index: Int) {
    guard connection.isReusable, idle[index].count < limits.idleConnections else {
      connection.connection.close()
      return
    }
    connection.idleSince = driver.now
    idle[index].append(connection)
  }

  // MARK: Turns

  private func takeTurn(_ deadline: Instant) async throws(HTTPFailure) {
    guard callCount >= limits.callsAtOnce else {
      callCount += 1
      return
    }
    let gate = LoopGate(driver: driver)
    waiting.append(gate)
    // Whoever ends a call passes its turn on; one that was not waited for goes on to the next.
    let wake = await gate.wait(until: deadline)
    guard wake != .opened else { return }
    if let at = waiting.firstIndex(where: { $0 === gate }) {
      waiting.remove(at: at)
    } else {
      giveTurn()
    }
    throw HTTPFailure(endpoint: endpoints[preferred], cause: wake == .cancelled ? .cancelled : .timedOut)
  }

  private func giveTurn() {
    if waiting.isEmpty {
      callCount -= 1
    } else {
      waiting.removeFirst().open()
    }
  }
}

/// A reply whose body is read as it comes. Let go of, it closes its connection.
package final class HTTPReplyStream: @unchecked Sendable {
  package let head: HTTPReplyHead
  package let endpoint: HTTPEndpoint
  private let connection: HTTPClientConnection

  init(_ head: HTTPReplyHead, _ endpoint: HTTPEndpoint, _ connection: HTTPClientConnection) {
    self.head = head
    self.endpoint = endpoint
    self.connection = connection
  }

  deinit { connection.connection.close() }

  /// The next bytes of the body, never none; nil when it has ended.
  package func next(deadline: Instant = .distantFuture) async throws(HTTPFailure) -> [UInt8]? {
    do throws(ConnectionError) {
      return try await connection.readBody(deadline: deadline)
    } catch {
      throw HTTPFailure(endpoint: endpoint, cause: error)
    }
  }

  package func close() { connection.connection.close() }
}
