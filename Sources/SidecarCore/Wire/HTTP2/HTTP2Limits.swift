// What a peer may make us do on one HTTP/2 connection, in named numbers, and the budget that holds floods down.
//
// What nghttp2 1.52 (as Debian has it, 1.52.0-1+deb12u3) brings itself, and what is added here:
//
//   flood                        nghttp2                                      here
//   rapid reset (CVE-2023-44487) a token bucket, then GOAWAY INTERNAL_ERROR   `resets`: before it, and counting the resets
//                                                                             that a peer's faults make *us* send
//                                                                             (CVE-2025-8671) as well
//   SETTINGS and PING            acks waiting to be sent are counted          `control`: each costs, answered or not
//   SETTINGS entries             32 a frame                                   -
//   CONTINUATION                 8 a header block (a Debian addition)         -
//   HPACK bomb                   64 KiB a name or value; no limit of a list   `headerListMax`, `fieldsMax`
//   empty DATA, PRIORITY,        none                                         `control`
//   WINDOW_UPDATE, unknown types
//   answers a peer does not read none for RST_STREAM and WINDOW_UPDATE        `outboundFramesMax`
//
// All of them end the connection with GOAWAY ENHANCE_YOUR_CALM.

package enum HTTP2Limits {
  /// Bytes of a stream's receive window: what a peer may send on it beyond what its reader has taken.
  package static let streamWindow = 65_535
  /// Bytes of a connection's receive window. It is given back as bytes arrive, since the streams' windows already bound
  /// what is kept: a reader that is slow on one stream must not stop the others.
  package static let connectionWindow = 1 << 20
  /// Streams a client may have open at once.
  package static let concurrentStreams: UInt32 = 100
  /// Bytes of a header list, counted as SETTINGS_MAX_HEADER_LIST_SIZE counts: 32 more for each field. A longer one resets
  /// its stream with ENHANCE_YOUR_CALM and costs `overlongHeaderListCost` resets.
  package static let headerListMax = 64 * 1024
  /// Fields of a header list.
  package static let fieldsMax = 256
  /// Bytes of a frame's payload.
  package static let frameMax: UInt32 = 16_384
  /// CONTINUATION frames of one header block; more end the connection.
  package static let continuationsMax = 8
  /// Bytes queued on a stream above which `send` answers `.congested`.
  package static let streamHighWatermark = 64 * 1024
  /// Bytes queued on a stream below which the drained event is due.
  package static let streamLowWatermark = 16 * 1024
  /// Bytes made of frames in one go, before the peer's taking them is awaited.
  package static let flushMax = 128 * 1024
  /// Frames waiting to be sent to a peer that does not read.
  package static let outboundFramesMax = 2048
  /// Acknowledgements of SETTINGS and PING waiting to be sent.
  package static let outboundAcksMax = 512

  /// Streams that end before their time: at once, and each second. Deadlines that pass and callers that leave are among
  /// them, so this is far above what one client does in earnest.
  package static let resetsBurst = 500
  package static let resetsPerSecond = 100
  package static let overlongHeaderListCost = 50
  /// Control frames, weighed by `FrameCost`: at once, and each second. Each frame of a message sent to the peer adds
  /// `controlPerMessageFrame`, as clients answer it with window updates and measure bandwidth with pings.
  package static let controlBurst = 4000
  package static let controlPerSecond = 1000
  package static let controlPerMessageFrame = 8

  package enum FrameCost {
    package static let ping = 4
    package static let settings = 16
    package static let emptyData = 4
    /// WINDOW_UPDATE, PRIORITY, and types that are not known.
    package static let other = 1
  }

  /// Streams reset by the server of which frames on their way are taken for such.
  package static let resetsRemembered = 256
  /// Gaps in a client's stream ids that are remembered.
  package static let gapsRemembered = 16
}

/// A number that is spent by events and grows with time, up to `burst`.
struct FloodBudget {
  private var tokens: Int
  private let burst: Int
  private let perSecond: Int
  private var refilled: Instant

  init(burst: Int, perSecond: Int, now: Instant) {
    tokens = burst
    self.burst = burst
    self.perSecond = perSecond
    refilled = now
  }

  mutating func refill(_ now: Instant) {
    // By whole hundredths of a second, so that what is rounded away is not lost.
    let step: Int64 = 10_000_000
    let steps = now.nanoseconds(since: refilled) / step
    guard steps > 0 else { return }
    refilled = refilled.advanced(byNanoseconds: steps * step)
    tokens = min(burst, tokens &+ Int(min(steps, 100 * 3600)) * perSecond / 100)
  }

  /// False when there is not enough left.
  @inline(__always) mutating func spend(_ cost: Int) -> Bool {
    tokens &-= cost
    return tokens >= 0
  }

  @inline(__always) mutating func earn(_ amount: Int) { tokens = min(burst, tokens &+ amount) }
}

/// The error codes of RFC 9113 §7, and any other number a peer may send.
package struct HTTP2ErrorCode: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
  package var rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }

  package static let noError = HTTP2ErrorCode(rawValue: 0)
  package static let protocolError = HTTP2ErrorCode(rawValue: 1)
  package static let internalError = HTTP2ErrorCode(rawValue: 2)
  package static let flowControlError = HTTP2ErrorCode(rawValue: 3)
  package static let settingsTimeout = HTTP2ErrorCode(rawValue: 4)
  package static let streamClosed = HTTP2ErrorCode(rawValue: 5)
  package static let frameSizeError = HTTP2ErrorCode(rawValue: 6)
  package static let refusedStream = HTTP2ErrorCode(rawValue: 7)
  package static let cancel = HTTP2ErrorCode(rawValue: 8)
  package static let compressionError = HTTP2ErrorCode(rawValue: 9)
  package static let connectError = HTTP2ErrorCode(rawValue: 10)
  package static let enhanceYourCalm = HTTP2ErrorCode(rawValue: 11)
  package static let inadequateSecurity = HTTP2ErrorCode(rawValue: 12)
  package static let http11Required = HTTP2ErrorCode(rawValue: 13)

  private static let names = [
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
  ]
  package var description: String {
    Int(rawValue) < Self.names.count ? Self.names[Int(rawValue)] : "error \(rawValue)"
  }
}
