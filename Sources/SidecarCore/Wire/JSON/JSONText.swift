// JSON strings as bytes: escaping and unescaping between buffers, for the data path and for `JSONValue` alike.

/// Which characters a string escapes beyond those it must.
public enum JSONEscaping: Sendable {
  /// As Go's encoding/json writes by default: also `<`, `>`, `&`, U+2028 and U+2029, so that JSON can sit in HTML.
  case go
  /// Only what RFC 8259 demands.
  case plain
}

package enum JSONText {
  /// Appends a valid document as one line: line ends can only stand between its parts, where a blank means the same.
  package static func appendOnOneLine(_ document: UnsafeRawBufferPointer, into buffer: ByteBuffer) {
    let start = buffer.count
    buffer.append(document)
    for index in start..<buffer.count where buffer.bytes[index] == 0x0A || buffer.bytes[index] == 0x0D {
      buffer.base.storeBytes(of: 0x20, toByteOffset: index, as: UInt8.self)
    }
  }

  /// Writes `text` with quotes around it. Broken UTF-8 becomes `\ufffd`, a byte each, as encoding/json does.
  package static func append(_ text: UnsafeRawBufferPointer, escaping: JSONEscaping, into buffer: ByteBuffer) {
    buffer.reserve(text.count + 2)
    buffer.append(UInt8(ascii: "\""))
    var start = 0
    var index = 0
    while index < text.count {
      let byte = text[index]
      if isPlain(byte, escaping) {
        index &+= 1
        continue
      }
      if byte < 0x80 {
        buffer.append(UnsafeRawBufferPointer(rebasing: text[start..<index]))
        appendEscape(byte, into: buffer)
        index &+= 1
        start = index
        continue
      }
      let length = UTF8Check.sequenceLength(text, at: index)
      if length == 0 {
        buffer.append(UnsafeRawBufferPointer(rebasing: text[start..<index]))
        buffer.append("\\ufffd")
        index &+= 1
        start = index
      } else if escaping == .go, length == 3, byte == 0xE2, text[index + 1] == 0x80, text[index + 2] & 0xFE == 0xA8 {
        buffer.append(UnsafeRawBufferPointer(rebasing: text[start..<index]))
        buffer.append(text[index + 2] == 0xA8 ? "\\u2028" : "\\u2029")
        index &+= 3
        start = index
      } else {
        index &+= length
      }
    }
    buffer.append(UnsafeRawBufferPointer(rebasing: text[start...]))
    buffer.append(UInt8(ascii: "\""))
  }

  package static func append(_ text: String, escaping: JSONEscaping, into buffer: ByteBuffer) {
    var text = text
    text.withUTF8 { append(UnsafeRawBufferPointer($0), escaping: escaping, into: buffer) }
  }

  @inline(__always) private static func isPlain(_ byte: UInt8, _ escaping: JSONEscaping) -> Bool {
    guard byte >= 0x20, byte < 0x80, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\") else { return false }
    return escaping == .plain || !(byte == UInt8(ascii: "<") || byte == UInt8(ascii: ">") || byte == UInt8(ascii: "&"))
  }

  private static func appendEscape(_ byte: UInt8, into buffer: ByteBuffer) {
    switch byte {
    case UInt8(ascii: "\""): buffer.append("\\\"")
    case UInt8(ascii: "\\"): buffer.append("\\\\")
    case 0x0A: buffer.append("\\n")
    case 0x0D: buffer.append("\\r")
    case 0x09: buffer.append("\\t")
    default:
      buffer.append("\\u00")
      buffer.append(ASCIIText.hexDigit(byte &>> 4))
      buffer.append(ASCIIText.hexDigit(byte & 15))
    }
  }

  /// Writes the text of a string that `JSONScanner` has checked; `content` is what stands between its quotes. Half a
  /// surrogate pair becomes U+FFFD.
  package static func unescape(_ bytes: UnsafeRawBufferPointer, _ content: Range<Int>, into buffer: ByteBuffer) {
    buffer.reserve(content.count)
    var start = content.lowerBound
    var index = start
    while index < content.upperBound {
      guard bytes[index] == UInt8(ascii: "\\") else {
        index &+= 1
        continue
      }
      buffer.append(UnsafeRawBufferPointer(rebasing: bytes[start..<index]))
      switch bytes[index + 1] {
      case UInt8(ascii: "b"): buffer.append(0x08 as UInt8)
      case UInt8(ascii: "f"): buffer.append(0x0C as UInt8)
      case UInt8(ascii: "n"): buffer.append(0x0A as UInt8)
      case UInt8(ascii: "r"): buffer.append(0x0D as UInt8)
      case UInt8(ascii: "t"): buffer.append(0x09 as UInt8)
      case UInt8(ascii: "u"):
        var scalar = codeUnit(bytes, at: index + 2)
        index &+= 4
        if scalar & 0xFC00 == 0xD800, content.upperBound - index >= 8,
          bytes[index + 2] == UInt8(ascii: "\\"), bytes[index + 3] == UInt8(ascii: "u")
        {
          let low = codeUnit(bytes, at: index + 4)
          if low & 0xFC00 == 0xDC00 {
            scalar = 0x10000 + (scalar & 0x3FF) &<< 10 + (low & 0x3FF)
            index &+= 6
          }
        }
        append(scalar: scalar & 0xFFFF_F800 == 0xD800 ? 0xFFFD : scalar, into: buffer)
      case let other: buffer.append(other)
      }
      index &+= 2
      start = index
    }
    buffer.append(UnsafeRawBufferPointer(rebasing: bytes[start..<content.upperBound]))
  }

  private static func codeUnit(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> UInt32 {
    var unit: UInt32 = 0
    for index in offset..<(offset + 4) { unit = unit &<< 4 | UInt32(ASCIIText.hexValue(bytes[index]) ?? 0) }
    return unit
  }

  private static func append(scalar: UInt32, into buffer: ByteBuffer) {
    if scalar < 0x80 {
      buffer.append(UInt8(scalar))
    } else if scalar < 0x800 {
      buffer.append(0xC0 | UInt8(scalar &>> 6))
      buffer.append(0x80 | UInt8(scalar & 0x3F))
    } else if scalar < 0x10000 {
      buffer.append(0xE0 | UInt8(scalar &>> 12))
      buffer.append(0x80 | UInt8(scalar &>> 6 & 0x3F))
      buffer.append(0x80 | UInt8(scalar & 0x3F))
    } else {
      buffer.append(0xF0 | UInt8(scalar &>> 18))
      buffer.append(0x80 | UInt8(scalar &>> 12 & 0x3F))
      buffer.append(0x80 | UInt8(scalar &>> 6 & 0x3F))
      buffer.append(0x80 | UInt8(scalar & 0x3F))
    }
  }
}
