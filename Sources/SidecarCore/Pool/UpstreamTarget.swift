// A place calls are sent to, and the connections to it: a node of a service, or the local app.

/// What the pool knows of one address. Loop-confined; one for each worker.
package final class UpstreamTarget {
  /// Connections open at once above which a call is answered with `overloaded` rather than another dial.
  package var connectionsMax = connectionsMaxDefault
  package static let connectionsMaxDefault = 1024

  package let address: DialTarget
  /// What goes into `Host:`, go-micro's way: the address as registered.
  package let hostHeader: FixedBytes
  /// Connections may carry more than one call (v0.14 nodes give every call the headers of the first, wire/rpc.md trap 1).
  package let isReusable: Bool
  unowned(unsafe) let worker: Worker

  /// Used last comes first off: the ones at the front are the oldest.
  private(set) var idle: [UpstreamConnection] = []
  private(set) var openCount = 0
  package internal(set) var inFlight = 0
  /// No new calls come here; connections close as they fall idle.
  private(set) var isRetired = false
  /// The connections that many calls share, for an address that speaks HTTP/2; made when first asked for.
  var http2: HTTP2Upstream {
    if let madeHTTP2 { return madeHTTP2 }
    let made = HTTP2Upstream(target: self)
    madeHTTP2 = made
    return made
  }
  private var madeHTTP2: HTTP2Upstream?
  /// By which of the framework's transports it is reached.
  let transport: FrameTransport
  /// In the gRPC transport, as far as it is known.
  var transportMethod: GRPCTransportMethod
  private var resolved: (addresses: [SocketAddress], at: Instant)?

  /// How long a looked-up host name is used, in nanoseconds.
  static let nameTTL: Int64 = 10_000_000_000

  package init(
    address: DialTarget, hostHeader: FixedBytes, isReusable: Bool, transport: FrameTransport = .http, worker: Worker
  ) {
    self.address = address
    self.hostHeader = hostHeader
    self.isReusable = isReusable
    self.transport = transport
    self.worker = worker
    transportMethod = transport == .grpc(isOld: true) ? .old : .unknown
  }

  /// Gives `user` a connection: at once when one is idle (true), or by a dial that ends with `upstreamReady` or
  /// `upstreamFailed` in a later turn. `fresh` passes over the idle ones.
  func connect(_ user: any UpstreamUser, fresh: Bool) -> ConnectResult {
    let worker = worker
    if !fresh, isReusable {
      while let connection = idle.popLast() {
        worker.idleUpstreams -= 1
        if connection.isTooOld(worker.driver.now) {
          connection.close()
          continue
        }
        connection.take(user)
        worker.metrics.add(.dialsReused)
        return .ready(connection)
      }
    }
    guard openCount < connectionsMax else { return .full }
    openCount += 1
    worker.openUpstreams += 1
    worker.metrics.add(.dials)
    let connection = UpstreamConnection(target: self)
    connection.dial(for: user)
    return .dialling(connection)
  }

  /// Counts a connection that a stream makes for itself; false when there are too many.
  func reserveConnection() -> Bool {
    guard openCount < connectionsMax else { return false }
    openCount += 1
    worker.openUpstreams += 1
    worker.metrics.add(.dials)
    return true
  }

  func releaseConnection() {
    openCount -= 1
    worker.openUpstreams -= 1
  }

  enum ConnectResult {
    case ready(UpstreamConnection)
    case dialling(UpstreamConnection)
    case full
  }

  /// Takes back a connection whose exchange is over. It is kept when it may serve again.
  func giveBack(_ connection: UpstreamConnection) {
    let worker = worker
    let now = worker.driver.now
    guard isReusable, !isRetired, idle.count < worker.settings.idleUpstreamsMax, !connection.isTooOld(now) else {
      connection.close()
      return
    }
    connection.idleSince = now
    idle.append(connection)
    worker.idleUpstreams += 1
    worker.armSweep()
  }

  func forget(_ connection: UpstreamConnection) {
    openCount -= 1
    worker.openUpstreams -= 1
    if let index = idle.lastIndex(where: { $0 === connection }) {
      idle.remove(at: index)
      worker.idleUpstreams -= 1
    }
  }

  /// Closes what has been idle for longer than the setting allows.
  func sweep(_ now: Instant) {
    madeHTTP2?.sweep(now)
    let limit = worker.settings.upstreamIdleTimeout
    var count = 0
    while count < idle.count, now.nanoseconds(since: idle[count].idleSince) >= limit { count += 1 }
    guard count > 0 else { return }
    let old = idle[..<count]
    idle.removeFirst(count)
    worker.idleUpstreams -= count
    for connection in old { connection.close() }
  }

  func retire() {
    isRetired = true
    madeHTTP2?.retire()
    let old = idle
    idle.removeAll()
    worker.idleUpstreams -= old.count
    for connection in old { connection.close() }
  }

  /// Connects to it by its transport, at one of its addresses. `handler` hears of it in a later turn.
  func openStream(to address: SocketAddress, handler: any StreamHandler) -> ByteStream {
    switch transport {
    case .http: worker.driver.connect(to: address, handler: handler)
    // Its HTTP/2 connections look the address up themselves.
    case .grpc: GRPCTransportClient(self, handler: handler)
    }
  }

  /// The socket address to dial, looked up when it is a name. Completes at once where it can.
  func withSocketAddress(_ completion: @escaping (Result<SocketAddress, DriverError>) -> Void) {
    switch address {
    case .socket(let address): completion(.success(address))
    case .opaque(let text):
      completion(
        .failure(DriverError(operation: "dial \(text)", code: "EINVAL", message: "the address has no host and port")))
    case .name(let host, let port):
      func choose(_ addresses: [SocketAddress]) -> Result<SocketAddress, DriverError> {
        guard !addresses.isEmpty else {
          return .failure(DriverError(operation: "look up \(host)", code: "ENOENT", message: "no address"))
        }
        var address = addresses[worker.driver.random.below(addresses.count)]
        address.port = port
        return .success(address)
      }
      if let resolved, worker.driver.now.nanoseconds(since: resolved.at) < Self.nameTTL {
        completion(choose(resolved.addresses))
        return
      }
      worker.driver.resolve(host: host) { [weak self] result in
        guard let self else { return }
        switch result {
        case .success(let addresses):
          let usable = addresses.contains { !$0.isIPv6 } ? addresses.filter { !$0.isIPv6 } : addresses
          resolved = (usable, worker.driver.now)
          completion(choose(usable))
        case .failure(let error): completion(.failure(error))
        }
      }
    }
  }
}

/// Why an attempt on a connection came to nothing.
enum UpstreamFailure {
  /// The dial failed: nothing was sent.
  case connectFailed(String)
  /// It broke before a byte of the reply came back. `wasReused`: it had served a call before, so most likely it had been
  /// closed by the peer already.
  case brokeBeforeReply(wasReused: Bool, String)
  /// It broke inside the reply.
  case brokeInReply(String)
  /// The reply breaks a rule of HTTP.
  case malformed(WireError)
  /// The peer has said that it did not begin to work on it (HTTP/2's REFUSED_STREAM, or GOAWAY).
  case refused(String)
  /// The peer gave up this one exchange of many on a connection (HTTP/2's RST_STREAM).
  case streamReset(GRPCFailure)
}

/// Who uses a connection for one exchange. Called on the worker's loop.
protocol UpstreamUser: AnyObject {
  func upstreamReady(_ connection: UpstreamConnection)
  /// The reply is whole; head and body are valid during the call. True keeps the connection for another call.
  func upstreamReplied(_ connection: UpstreamConnection, _ head: HTTP1Head, _ body: UnsafeRawBufferPointer) -> Bool
  /// The connection is gone.
  func upstreamFailed(_ connection: UpstreamConnection, _ failure: UpstreamFailure)
}
