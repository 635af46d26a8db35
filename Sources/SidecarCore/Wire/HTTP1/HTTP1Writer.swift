// Writes HTTP/1.1 heads and chunks. Whatever it is given, what it writes is one message our own parser accepts: control
// bytes in values become spaces (as Go does with CR and LF), bad names are dropped, bad target bytes are escaped. So a
// header value made from user data can't split a response.
//
// Order of calls: a start line, fields, `endHead`, then the body as it is or in chunks.

package enum HTTP1Writer {
  // MARK: Start lines

  /// `HTTP/1.1 200 OK`. A code without a registered phrase is written with an empty one; `status` is 100 to 999.
  @inline(__always) package static func statusLine(_ status: Int, to buffer: ByteBuffer) {
    if status == 200 {
      buffer.append("HTTP/1.1 200 OK\r\n")
    } else {
      otherStatusLine(status, to: buffer)
    }
  }

  @inline(never) private static func otherStatusLine(_ status: Int, to buffer: ByteBuffer) {
    precondition((100...999).contains(status), "a status code has three digits")
    buffer.append("HTTP/1.1 ")
    buffer.append(decimal: status)
    buffer.append(UInt8(ascii: " "))
    if let reason = HTTP1Status.reason(status) { buffer.append(reason) }
    buffer.append("\r\n")
  }

  /// `method` must be a token: a method that was parsed is one.
  @inline(__always) package static func requestLine(
    _ method: UnsafeRawBufferPointer, target: UnsafeRawBufferPointer, to buffer: ByteBuffer
  ) {
    buffer.append(method)
    buffer.append(UInt8(ascii: " "))
    self.target(target, to: buffer)
    buffer.append(" HTTP/1.1\r\n")
  }

  @inline(__always) package static func requestLine(
    _ method: StaticString, target: UnsafeRawBufferPointer, to buffer: ByteBuffer
  ) {
    requestLine(method.bytes, target: target, to: buffer)
  }

  package static func requestLine(_ method: StaticString, target: String, to buffer: ByteBuffer) {
    var target = target
    target.withUTF8 { requestLine(method.bytes, target: UnsafeRawBufferPointer($0), to: buffer) }
  }

  /// As it is, but with `%XX` for bytes that can't be there. An empty one becomes `/`.
  @inline(__always) private static func target(_ target: UnsafeRawBufferPointer, to buffer: ByteBuffer) {
    guard let start = target.baseAddress, target.count > 0 else { return buffer.append(UInt8(ascii: "/")) }
    if Scan.targetEnd(start, start + target.count) == start + target.count {
      buffer.append(target)
    } else {
      escapedTarget(target, to: buffer)
    }
  }

  @inline(never) private static func escapedTarget(_ target: UnsafeRawBufferPointer, to buffer: ByteBuffer) {
    for byte in target {
      if ByteClass.contains(byte, ByteClass.target) {
        buffer.append(byte)
      } else {
        buffer.append(UInt8(ascii: "%"))
        buffer.append(hexDigits.utf8Start[Int(byte >> 4)])
        buffer.append(hexDigits.utf8Start[Int(byte & 15)])
      }
    }
  }

  // MARK: Fields

  @inline(__always) package static func field(
    _ name: StaticString, _ value: UnsafeRawBufferPointer, to buffer: ByteBuffer
  ) {
    buffer.append(name)
    buffer.append(": ")
    self.value(value, to: buffer)
    buffer.append("\r\n")
  }

  package static func field(_ name: StaticString, _ value: String, to buffer: ByteBuffer) {
    var value = value
    value.withUTF8 { field(name, UnsafeRawBufferPointer($0), to: buffer) }
  }

  @inline(__always) package static func field(_ name: StaticString, _ value: StaticString, to buffer: ByteBuffer) {
    buffer.append(name)
    buffer.append(": ")
    buffer.append(value)
    buffer.append("\r\n")
  }

  @inline(__always) package static func field(_ name: StaticString, decimal value: Int, to buffer: ByteBuffer) {
    buffer.append(name)
    buffer.append(": ")
    buffer.append(decimal: value)
    buffer.append("\r\n")
  }

  /// A field with a name that only exists at run time, in the case given. Writes nothing and returns false when the name
  /// is no token, as newer Go does.
  @discardableResult
  package static func field(
    name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer, to buffer: ByteBuffer
  ) -> Bool {
    guard isToken(name) else { return false }
    buffer.append(name)
    buffer.append(": ")
    self.value(value, to: buffer)
    buffer.append("\r\n")
    return true
  }

  @discardableResult
  package static func field(name: String, _ value: String, to buffer: ByteBuffer) -> Bool {
    var name = name
    var value = value
    return name.withUTF8 { name in
      value.withUTF8 { value in
        field(name: UnsafeRawBufferPointer(name), UnsafeRawBufferPointer(value), to: buffer)
      }
    }
  }

  /// Passes on a parsed field as it came, but for the white space around its value.
  @inline(__always) package static func copy(_ field: HTTP1Field, of head: HTTP1Head, to buffer: ByteBuffer) {
    buffer.append(head.name(field))
    buffer.append(": ")
    buffer.append(head.value(field))
    buffer.append("\r\n")
  }

  @inline(__always) package static func contentLength(_ count: Int, to buffer: ByteBuffer) {
    field("Content-Length", decimal: count, to: buffer)
  }

  /// Announces that the body comes in chunks.
  @inline(__always) package static func chunked(to buffer: ByteBuffer) {
    buffer.append("Transfer-Encoding: chunked\r\n")
  }

  /// The empty line that ends a head, or a trailer section.
  @inline(__always) package static func endHead(to buffer: ByteBuffer) { buffer.append("\r\n") }

  /// A field value: spaces for what may not be in one, and none around it.
  @inline(__always) package static func value(_ value: UnsafeRawBufferPointer, to buffer: ByteBuffer) {
    let value = Scan.trimmed(value)
    guard let start = value.baseAddress, value.count > 0 else { return }
    if Scan.valueEnd(start, start + value.count) == start + value.count {
      buffer.append(value)
    } else {
      flattenedValue(value, to: buffer)
    }
  }

  @inline(never) private static func flattenedValue(_ value: UnsafeRawBufferPointer, to buffer: ByteBuffer) {
    for byte in value {
      let isControl = (byte < 0x20 && byte != ASCII.tab) || byte == ASCII.del
      buffer.append(isControl ? ASCII.space : byte)
    }
  }

  // MARK: Chunks, RFC 9112 §7.1

  /// Before `count` bytes of data, at least one: an empty chunk would end the body.
  package static func chunkStart(_ count: Int, to buffer: ByteBuffer) {
    precondition(count > 0, "an empty chunk ends the body")
    var shift = (Int.bitWidth - 1 - count.leadingZeroBitCount) / 4 * 4
    while shift >= 0 {
      buffer.append(hexDigits.utf8Start[(count >> shift) & 15])
      shift -= 4
    }
    buffer.append("\r\n")
  }

  /// After a chunk's data.
  @inline(__always) package static func chunkEnd(to buffer: ByteBuffer) { buffer.append("\r\n") }

  /// Ends a chunked body that has no trailers.
  @inline(__always) package static func lastChunk(to buffer: ByteBuffer) { buffer.append("0\r\n\r\n") }

  /// Ends a chunked body; trailers follow, by `field` or `copy`, then `endHead`.
  @inline(__always) package static func lastChunkBeforeTrailers(to buffer: ByteBuffer) { buffer.append("0\r\n") }

  // MARK: Names

  package static func isToken(_ name: UnsafeRawBufferPointer) -> Bool {
    guard let start = name.baseAddress, name.count > 0 else { return false }
    return Scan.end(of: ByteClass.token, start, start + name.count) == start + name.count
  }

  /// Appends `name` the way Go's `textproto.CanonicalMIMEHeaderKey` spells it: upper case at the start and after each
  /// `-`, lower case elsewhere (`Micro-ID` → `Micro-Id`, `x_y` → `X_y`); unchanged when it is no token.
  package static func canonicalName(_ name: UnsafeRawBufferPointer, to buffer: ByteBuffer) {
    guard isToken(name) else { return buffer.append(name) }
    var startsWord = true
    for byte in name {
      buffer.append(canonicalByte(byte, startsWord))
      startsWord = byte == UInt8(ascii: "-")
    }
  }

  package static func canonicalName(_ name: String) -> String {
    let bytes = Array(name.utf8)
    guard bytes.withUnsafeBytes(isToken) else { return name }
    var startsWord = true
    let canonical = bytes.map { byte in
      defer { startsWord = byte == UInt8(ascii: "-") }
      return canonicalByte(byte, startsWord)
    }
    return String(decoding: canonical, as: UTF8.self)
  }

  @inline(__always) private static func canonicalByte(_ byte: UInt8, _ startsWord: Bool) -> UInt8 {
    let folded = byte | 0x20
    guard folded >= UInt8(ascii: "a"), folded <= UInt8(ascii: "z") else { return byte }
    return startsWord ? folded & ~0x20 : folded
  }

  private static let hexDigits: StaticString = "0123456789abcdef"
}

extension StaticString {
  @inline(__always) fileprivate var bytes: UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: utf8Start, count: utf8CodeUnitCount)
  }
}
