// What takes over a caller's connection for a while: a WebSocket after its handshake, a body read as it comes (NDJSON),
// the frames of a framework stream. `CallerConnection` keeps the socket, its limits and its place in the worker's lists.

/// Hears a connection while a stream runs on it. Loop-confined. What it hears comes in the order it came in, never from
/// inside a call into the connection.
protocol ConnectionStream: AnyObject {
  /// Bytes, with the feed `.raw` or `.body`; valid during the call, never none.
  func connectionRead(_ bytes: UnsafeRawBufferPointer)
  /// A whole message, with the feed `.messages`; valid during the call.
  func connectionMessage(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer)
  /// `.body`: the body is over. `.raw`, `.messages`: the peer has ended its half. At most once.
  func connectionEnded()
  /// A write had answered `.congested`; the next is welcome.
  func connectionDrained()
  /// The peer broke a rule of HTTP, or fell silent inside a message. The stream must end the connection.
  func connectionFailed(_ error: WireError)
  /// The sidecar is about to stop: end soon. At most once.
  func connectionDraining()
  /// About once a second.
  func connectionSweep(_ now: Instant, quietNanoseconds: Int64)
  /// `.body`: the peer has ended its half, and may be gone. Something that it skips is to be written.
  func connectionProbe()
  /// The connection is gone, or closing by somebody else's will. Exactly once, last, unless the stream ended it.
  func connectionClosed()
}

/// What a stream is given of a connection's bytes.
enum ConnectionFeed {
  /// All of them as they come: another protocol than HTTP/1.
  case raw
  /// The body of the request that began the stream, without its framing.
  case body
  /// Whole messages, one after another; each is expected to be answered by none, one or many.
  case messages
}

extension ConnectionStream {
  func connectionMessage(_ head: HTTP1Head, _ body: UnsafeRawBufferPointer) {}
  func connectionSweep(_ now: Instant, quietNanoseconds: Int64) {}
  func connectionProbe() {}
}
