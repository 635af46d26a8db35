// The HTTP/2 connections to one address: a few that many calls share. Which of them takes the next call, when another one
// is dialled, and who waits for it.

/// Wants a stream of some connection to an address. Called on the worker's loop.
protocol HTTP2UpstreamUser: AnyObject {
  /// `connection` has room for one more stream, which is to be opened during this call or not at all. Never called from
  /// inside `HTTP2Upstream.connect`.
  func upstreamReady(_ connection: HTTP2UpstreamConnection)
  /// No connection could be had: nothing was sent. Never called from inside `HTTP2Upstream.connect`.
  func upstreamUnavailable(_ why: String)
}

/// What a worker knows of one address that speaks HTTP/2. Loop-confined.
package final class HTTP2Upstream {
  /// Connections to one address and worker; with all of them full a call is answered with `overloaded`.
  package static let connectionsMax = 32
  /// Calls that may wait for connections being dialled; more are answered with `overloaded`.
  package static let waitersMax = 1024

  /// Lives as long as this: it is the owner, and so is every connection.
  unowned let target: UpstreamTarget
  unowned(unsafe) let worker: Worker
  private var connections: [HTTP2UpstreamConnection] = []
  private var waiting: [any HTTP2UpstreamUser] = []
  private var dialling = 0
  private var isServing = false
  private(set) var isRetired = false

  init(target: UpstreamTarget) {
    self.target = target
    worker = target.worker
  }

  enum ConnectResult {
    /// It has room for the stream.
    case ready(HTTP2UpstreamConnection)
    /// One of the user's methods follows in a later turn.
    case waiting
    /// A limit is reached; the words say which.
    case full(String)
  }

  func connect(_ user: any HTTP2UpstreamUser) -> ConnectResult {
    // The first that has room, so that the others may fall idle.
    if waiting.isEmpty, let connection = connections.first(where: { $0.room > 0 }) {
      worker.metrics.add(.dialsReused)
      return .ready(connection)
    }
    guard waiting.count < Self.waitersMax else {
      return .full("\(Self.waitersMax) calls wait for a connection to \(target.hostHeader.text)")
    }
    if waiting.count >= dialling * HTTP2UpstreamConnection.streamsMax, !dial() {
      return .full("\(Self.connectionsMax) connections to \(target.hostHeader.text) are full")
    }
    waiting.append(user)
    return .waiting
  }

  /// `user` waits no longer.
  func forget(_ user: any HTTP2UpstreamUser) {
    waiting.removeAll { $0 === user }
  }

  private func dial() -> Bool {
    guard connections.count < Self.connectionsMax, target.reserveConnection() else { return false }
    let connection = HTTP2UpstreamConnection(pool: self)
    connections.append(connection)
    dialling += 1
    worker.armSweep()
    connection.dial()
    return true
  }

  // MARK: From the connections

  /// Streams may be opened on `connection`: those who wait get theirs, in order.
  func hasRoom(_ connection: HTTP2UpstreamConnection) {
    countDialling()
    guard !waiting.isEmpty, !isServing else { return }
    isServing = true
    defer { isServing = false }
    while connection.room > 0, !waiting.isEmpty {
      waiting.removeFirst().upstreamReady(connection)
    }
    // The peer takes fewer streams than was hoped for.
    if waiting.count > dialling * HTTP2UpstreamConnection.streamsMax { _ = dial() }
    if dialling == 0, !waiting.isEmpty, connections.allSatisfy({ $0.room <= 0 && $0.streamCount == 0 }) {
      failAll("the peer takes no streams")
    }
  }

  private func countDialling() { dialling = connections.count(where: { $0.isDialling }) }

  /// `connection` takes no more streams. Those who wait need another one.
  func cannotTakeMore(_ connection: HTTP2UpstreamConnection) {
    countDialling()
    if dialling == 0, !waiting.isEmpty { replace() }
  }

  /// `failedDial`: why the dial came to nothing.
  func closed(_ connection: HTTP2UpstreamConnection, failedDial: String?) {
    connections.removeAll { $0 === connection }
    target.releaseConnection()
    countDialling()
    if failedDial != nil { worker.metrics.add(.dialsFailed) }
    guard dialling == 0, !waiting.isEmpty else { return }
    if let failedDial {
      failAll(failedDial)
    } else {
      replace()
    }
  }

  private func replace() {
    if isRetired {
      failAll("it has left the registry")
    } else if !dial() {
      failAll("all connections are full, and one of them ended")
    }
  }

  private func failAll(_ why: String) {
    let users = waiting
    waiting.removeAll()
    for user in users { user.upstreamUnavailable(why) }
  }

  // MARK: Housekeeping

  func sweep(_ now: Instant) {
    for connection in connections { connection.sweep(now) }
  }

  /// No new calls come here; connections close with their last streams.
  func retire() {
    isRetired = true
    for connection in connections { connection.leave() }
  }
}
