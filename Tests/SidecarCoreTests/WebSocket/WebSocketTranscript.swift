// Runs bytes through a session and writes down what it said and what it sent, so that a test compares plain lines of text.
// The input can be cut anywhere; each piece lies in memory of its own that is overwritten once it has been read.

@testable import SidecarCore

struct WebSocketTranscript {
  var role = WebSocketRole.server
  var messageMax = 1 << 20
  var deflate: DeflateAgreement?

  /// One line per event, then what was sent in hexadecimal.
  func run(_ input: [UInt8], cutAt cuts: [Int] = []) -> [String] {
    let buffers = BufferPool()
    var session = WebSocketSession(
      role, messageMax: messageMax, deflate: deflate, buffers: buffers, deflaters: DeflatePool(), maskSeed: 1)
    let out = ByteBuffer()
    var lines: [String] = []
    var start = 0
    for stop in cuts + [input.count] {
      let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: max(stop - start, 1), alignment: 1)
      input.withUnsafeBytes { piece.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<stop])) }
      defer {
        piece.initializeMemory(as: UInt8.self, repeating: 0xff)
        piece.deallocate()
      }
      var rest = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(piece)[0..<(stop - start)])
      start = stop
      pulling: while true {
        switch session.receive(&rest, into: out) {
        case .needMore: break pulling
        case .message(let kind, let payload): lines.append("\(kind) \(Self.show(payload))")
        case .ping(let payload): lines.append("ping \(Self.show(payload))")
        case .pong(let payload): lines.append("pong \(Self.show(payload))")
        case .closed(let code, let reason): lines.append("closed \(code) \(Self.show(reason))")
        case .failed(let failure): lines.append("failed \(failure.code) \(failure.reason)")
        }
      }
      precondition(rest.isEmpty, "needMore with input left")
    }
    var nothing = UnsafeRawBufferPointer(start: nil, count: 0)
    _ = session.receive(&nothing, into: out)
    if session.isBetweenMessages, session.heldBytes > 0 { lines.append("holds \(session.heldBytes) bytes") }
    if !out.isEmpty { lines.append("sent " + hex(out.bytes)) }
    return lines
  }

  private static func show(_ bytes: UnsafeRawBufferPointer) -> String {
    if bytes.count > 64 {
      return "(\(bytes.count) bytes, \(bytes.reduce(into: UInt64(0)) { $0 = $0 &* 31 &+ UInt64($1) }))"
    }
    let text = String(validating: bytes, as: UTF8.self)
    return text.map { "\"\($0)\"" } ?? hex(bytes)
  }
}

func hex(_ bytes: some Sequence<UInt8>) -> String {
  bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

func unhex(_ text: String) -> [UInt8] {
  let digits = text.filter { $0 != " " }.map { UInt8($0.hexDigitValue ?? 0) }
  return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
}

/// A frame as a client sends it, with a key that hides nothing when it is zero.
func frame(_ first: UInt8, _ payload: [UInt8], key: [UInt8]? = [0x37, 0xfa, 0x21, 0x3d]) -> [UInt8] {
  var bytes = [first]
  let mask: UInt8 = key == nil ? 0 : 0x80
  switch payload.count {
  case 0...125: bytes.append(mask | UInt8(payload.count))
  case 126...0xFFFF: bytes += [mask | 126, UInt8(payload.count >> 8), UInt8(payload.count & 255)]
  default:
    bytes.append(mask | 127)
    bytes += (0..<8).map { UInt8(truncatingIfNeeded: payload.count >> (56 - 8 * $0)) }
  }
  guard let key else { return bytes + payload }
  return bytes + key + payload.enumerated().map { $1 ^ key[$0 % 4] }
}

func frame(_ first: UInt8, _ text: String) -> [UInt8] { frame(first, Array(text.utf8)) }

func closeFrame(_ code: Int, _ reason: String = "") -> [UInt8] {
  frame(0x88, [UInt8(code >> 8), UInt8(code & 255)] + Array(reason.utf8))
}
