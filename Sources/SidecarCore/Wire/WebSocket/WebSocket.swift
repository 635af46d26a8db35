// The words of RFC 6455 that everything in this folder uses: roles, opcodes, close codes, limits, and what a session
// tells its owner.

/// Which end of the connection we are. A client masks what it sends, a server must not.
package enum WebSocketRole: Sendable { case server, client }

/// What a data message is.
package enum WebSocketKind: Sendable { case text, binary }

/// Opcodes of RFC 6455 §5.2; all others are reserved and refused.
enum WebSocketOpcode {
  static let continuation: UInt8 = 0
  static let text: UInt8 = 1
  static let binary: UInt8 = 2
  static let close: UInt8 = 8
  static let ping: UInt8 = 9
  static let pong: UInt8 = 10
}

/// Close codes of RFC 6455 §7.4.1 and its registry.
package enum WebSocketCloseCode {
  package static let normal: UInt16 = 1000
  package static let goingAway: UInt16 = 1001
  package static let protocolError: UInt16 = 1002
  package static let unsupportedData: UInt16 = 1003
  /// Never on the wire: the peer's Close had no code.
  package static let none: UInt16 = 1005
  /// Never on the wire: the connection ended without a Close.
  package static let abnormal: UInt16 = 1006
  package static let invalidPayload: UInt16 = 1007
  package static let policyViolation: UInt16 = 1008
  package static let messageTooBig: UInt16 = 1009
  package static let internalError: UInt16 = 1011
  package static let tryAgainLater: UInt16 = 1013

  /// Whether `code` may stand in a Close frame: registered ones, those of libraries (3000…) and of applications (4000…).
  package static func isSendable(_ code: UInt16) -> Bool {
    switch code {
    case 1000...1003, 1007...1014, 3000...4999: true
    default: false
    }
  }
}

package enum WebSocketLimits {
  /// Payload bytes of a control frame (RFC 6455 §5.5); a longer one is answered with 1002.
  static let controlBytes = 125
  /// Bytes of the reason in a Close frame: a control frame's payload without the code. Longer ones are cut between
  /// characters.
  package static let reasonBytes = 123
  /// Bytes of a frame's head at most: two, eight of length, four of mask.
  static let headBytes = 14
  /// Payload bytes up to which an unmasked message is copied behind its head; a longer one is written from where it is.
  package static let copiedPayloadMax = 4096
  /// Payload bytes below which a message is not compressed: it would hardly shrink.
  package static let compressedPayloadMin = 128
  /// Bytes that an announced frame length may reserve before any of it has arrived.
  static let reservedAhead = 16 * 1024
}

/// Why a session was failed by us: what goes into our Close frame.
package struct WebSocketFailure: Error, Equatable, Sendable {
  package var code: UInt16
  package var reason: String

  init(_ code: UInt16, _ reason: String) {
    self.code = code
    self.reason = reason
  }

  static func broken(_ rule: String) -> WebSocketFailure { WebSocketFailure(WebSocketCloseCode.protocolError, rule) }
}

/// What `WebSocketSession.receive` reports. Spans are valid until the session is called again, and no longer than the
/// input.
package enum WebSocketEvent {
  /// All input is used up.
  case needMore
  /// A whole message; a text message is valid UTF-8. May be empty.
  case message(WebSocketKind, UnsafeRawBufferPointer)
  /// A ping. Its pong is already among the bytes to send.
  case ping(UnsafeRawBufferPointer)
  case pong(UnsafeRawBufferPointer)
  /// The peer's Close frame: its code (1005 when it has none) and its reason, valid UTF-8. The last event. If we had not
  /// sent a Close before, the answer is among the bytes to send. A server now closes the connection, a client waits for
  /// that.
  case closed(UInt16, UnsafeRawBufferPointer)
  /// The peer broke a rule. The last event; a Close frame with that code is among the bytes to send. Close the connection
  /// once it is written.
  case failed(WebSocketFailure)
}
