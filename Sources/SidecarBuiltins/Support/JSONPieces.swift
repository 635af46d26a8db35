// A large JSON array or object that is read as it comes, one element or member at a time, so that it is never whole in
// memory.
//
//   start ─ [ or { ─▶ between ─ first byte of a piece ─▶ inside ─ comma or end of the document ─▶ between … ─▶ ended
//                        ▲                                                    │
//                        └────────────────────────────────────────────────────┘
//
// Pieces are found by their brackets and quotes alone: whoever takes one checks that it is JSON. What stands between them
// is checked here.

import SidecarCore

/// Errors: `WireError`; after one it must not be used again.
struct JSONPieces {
  enum Container { case array, object }

  /// Bytes of one element or member; a longer one is an error.
  static let pieceBytesMax = 1 << 20

  private enum Place { case start, between, inside, ended }

  private let container: Container
  private var place = Place.start
  private var hasPieces = false
  private var commaIsDue = false
  private var depth = 0
  private var isInString = false
  private var isEscaped = false
  /// The beginning of a piece whose end has not come.
  private let pending = ByteBuffer()

  init(_ container: Container) { self.container = container }

  /// Gives each piece that ends within `part` to `take`, as one JSON document: an element, or an object of one member. The
  /// bytes are valid until `take` returns.
  mutating func read(
    _ part: UnsafeRawBufferPointer, _ take: (UnsafeRawBufferPointer) throws(WireError) -> Void
  ) throws(WireError) {
    var pieceStart = 0
    var index = 0
    while index < part.count {
      let byte = part[index]
      if place == .inside {
        if try step(byte) {
          try end(UnsafeRawBufferPointer(rebasing: part[pieceStart..<index]), take)
          continue  // the comma or bracket after it is read as what stands between pieces
        }
      } else if byte != 0x20, byte != 0x0A, byte != 0x0D, byte != 0x09 {
        if try begins(byte) {
          pieceStart = index
          continue
        }
      }
      index += 1
    }
    if place == .inside { try keep(UnsafeRawBufferPointer(rebasing: part[pieceStart...])) }
  }

  /// No more will come.
  func finish() throws(WireError) {
    guard place == .ended else { throw WireError("JSON: the document ends too early") }
  }

  /// A byte outside of pieces; true when it is the first of one.
  private mutating func begins(_ byte: UInt8) throws(WireError) -> Bool {
    let (open, close) = container == .array ? (UInt8(ascii: "["), UInt8(ascii: "]")) : (0x7B, 0x7D)
    switch place {
    case .start:
      guard byte == open else {
        throw WireError(container == .array ? "an array is expected" : "an object is expected")
      }
      place = .between
    case .between:
      if byte == close, commaIsDue || !hasPieces {
        place = .ended
      } else if byte == UInt8(ascii: ","), commaIsDue {
        commaIsDue = false
      } else if !commaIsDue, byte != close, byte != UInt8(ascii: ",") {
        place = .inside
        hasPieces = true
        return true
      } else {
        throw WireError("JSON: a comma or the container's end is expected")
      }
    case .inside, .ended: throw WireError("JSON: nothing may follow the document")
    }
    return false
  }

  /// A byte inside a piece; true when the piece ended before it.
  private mutating func step(_ byte: UInt8) throws(WireError) -> Bool {
    if isInString {
      if isEscaped {
        isEscaped = false
      } else if byte == UInt8(ascii: "\\") {
        isEscaped = true
      } else if byte == UInt8(ascii: "\"") {
        isInString = false
      }
      return false
    }
    switch byte {
    case UInt8(ascii: "\""): isInString = true
    case UInt8(ascii: "["), UInt8(ascii: "{"):
      depth += 1
      guard depth <= JSONScanner.depthMax else { throw WireError("JSON: nested too deep") }
    case UInt8(ascii: "]"), UInt8(ascii: "}"):
      if depth == 0 { return true }
      depth -= 1
    case UInt8(ascii: ","): return depth == 0
    default: break
    }
    return false
  }

  private mutating func end(
    _ rest: UnsafeRawBufferPointer, _ take: (UnsafeRawBufferPointer) throws(WireError) -> Void
  ) throws(WireError) {
    place = .between
    commaIsDue = true
    if pending.isEmpty, container == .array {
      guard rest.count <= Self.pieceBytesMax else { throw Self.tooLong }
      try take(rest)
      return
    }
    try keep(rest)
    if container == .object { pending.append(UInt8(ascii: "}")) }
    try take(pending.bytes)
    pending.removeAll()
  }

  private static var tooLong: WireError { WireError("JSON: an element of more than \(pieceBytesMax) bytes") }

  private func keep(_ bytes: UnsafeRawBufferPointer) throws(WireError) {
    guard pending.count + bytes.count <= Self.pieceBytesMax else {
      throw Self.tooLong
    }
    if pending.isEmpty, container == .object { pending.append(UInt8(ascii: "{")) }
    pending.append(bytes)
  }
}
