// The byte stream of the data plane: a TCP or Unix-socket connection as the core sees it.
//
//            connect()                 streamOpened                close(), reset(), peer, error
//   (new) ───────────────▶ opening ───────────────▶ open ─────────────────────────▶ closing ──▶ closed
//                             └────────────── failed dial ────────────────────────────▲       streamClosed, once
//
// Reading and writing halves end independently: `streamEnded` reports the peer's half-close while we may still write,
// and `shutdownWrites` sends ours while we may still read.

/// Why a stream is over; the last thing its handler hears of it.
public enum StreamEnd: Equatable, Sendable {
  /// `close()` was called here and what was queued has been written.
  case closedHere
  /// Both halves ended in order.
  case ended
  /// The peer answered the dial with a refusal, or nothing listens at that path.
  case refused
  /// No answer to the dial in time, or no route.
  case unreachable(String)
  /// The peer reset the connection, or a read or write failed.
  case reset(String)
}

/// Backpressure, as the writer sees it.
public enum WriteState: Equatable, Sendable {
  /// The next write is welcome.
  case open
  /// More than `ByteStream.highWatermark` bytes wait; hold back until `streamDrained`.
  case congested
  /// The stream is closing or closed; the bytes were dropped.
  case closed
}

/// Hears what happens to one stream. All calls come on the stream's own loop, never from inside a call into the stream,
/// and none after `streamClosed`.
public protocol StreamHandler: AnyObject {
  /// An outgoing connection stands. Not called for accepted streams.
  func streamOpened(_ stream: ByteStream)
  /// Bytes arrived. The span is valid during the call only and is never empty.
  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer)
  /// The peer has ended its half; no more reads follow. Called at most once.
  func streamEnded(_ stream: ByteStream)
  /// The write queue fell below `ByteStream.lowWatermark` after a write had returned `.congested`.
  func streamDrained(_ stream: ByteStream)
  /// The stream is over and its descriptor closed. Always called, exactly once, last.
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd)
}

/// One connection. Loop-confined: every call must come from the loop that made it. A driver subclasses it; the base
/// class holds only what needs no operating system.
open class ByteStream {
  /// Bytes queued for writing above which a write answers `.congested`. Per stream.
  public static let highWatermark = 256 * 1024
  /// Bytes queued for writing below which `streamDrained` is due.
  public static let lowWatermark = 64 * 1024

  /// Strong while the stream lives; a driver sets it to nil after `streamClosed`.
  public final var handler: (any StreamHandler)?
  /// Another connection carries its bytes, and counts them in the metrics.
  package final var isCarried = false

  public init() {}

  /// Writes both parts in order, in one system call where possible. The bytes are taken before the call returns:
  /// written at once or copied to the queue. Never calls the handler from inside; a failed write ends the stream with
  /// `.reset` in a later turn.
  open func write(_ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer) -> WriteState {
    preconditionFailure("a driver overrides this")
  }
  @discardableResult
  public final func write(_ bytes: UnsafeRawBufferPointer) -> WriteState {
    write(bytes, UnsafeRawBufferPointer(start: nil, count: 0))
  }
  @discardableResult
  public final func write(_ text: String) -> WriteState {
    var text = text
    return text.withUTF8 { write(UnsafeRawBufferPointer($0)) }
  }
  @discardableResult
  public final func write(_ bytes: [UInt8]) -> WriteState { bytes.withUnsafeBytes { write($0) } }

  /// Stops `streamRead` and `streamEnded` until resumed: the receive window fills and the peer must wait. Twice is once.
  open func pauseReading() { preconditionFailure("a driver overrides this") }
  open func resumeReading() { preconditionFailure("a driver overrides this") }

  /// The message being read is not whole: has the system acknowledge what came, rather than wait to do so with what we send
  /// (RFC 1122 §4.2.3.2). A peer that writes a head and a small body apart, and leaves Nagle's algorithm on, sends the body
  /// only then: 40 ms on Linux. Does nothing where there is nothing to gain.
  open func acknowledge() {}
  /// Bytes of a read below which the rest may be held back by the peer; of more, it comes anyway.
  package static let heldBackMax = 4096

  /// Ends our half after what is queued; reading goes on. Twice is once.
  open func shutdownWrites() { preconditionFailure("a driver overrides this") }

  /// Writes what is queued, for at most `closeLinger`, then closes. `streamClosed(.closedHere)` follows. Twice is once.
  open func close() { preconditionFailure("a driver overrides this") }
  /// Closes at once with a reset; queued bytes are dropped. `streamClosed(.closedHere)` follows.
  open func reset() { preconditionFailure("a driver overrides this") }

  /// How long `close()` may go on writing before it resets, in nanoseconds.
  public static let closeLinger: Int64 = 5_000_000_000

  /// Bytes accepted by `write` and not yet taken by the operating system.
  open var queuedBytes: Int { preconditionFailure("a driver overrides this") }
  /// The peer's address; nil for an unnamed Unix socket.
  open var peerAddress: SocketAddress? { nil }
  open var localAddress: SocketAddress? { nil }
  /// The peer has shown a certificate of an authority that was named for that.
  open var peerIsCertified: Bool { false }
}

/// A listening socket. Closing it leaves accepted streams alone.
open class Listener {
  public init() {}
  /// The address bound, with the port the system chose where 0 was asked.
  open var address: SocketAddress { preconditionFailure("a driver overrides this") }
  /// Stops accepting. Twice is once. A Unix socket's path is removed.
  open func close() { preconditionFailure("a driver overrides this") }
  /// The socket's number in this process, for one that is to take it over; nil: that cannot be done here.
  open var descriptor: Int32? { nil }
  /// Stops accepting and leaves the socket to another process that has it too: whoever waits in its queue is accepted there,
  /// and a Unix socket's path stays. Twice, or after `close`, is once.
  open func leave() { close() }
}
