// The opening handshake (RFC 6455 §4), both sides, on top of HTTP/1.1 heads. Strict: whoever is upgraded by a request that
// only looks like a WebSocket's has been tricked.

/// What a handshake has settled.
package struct WebSocketAgreement: Equatable, Sendable {
  package var subprotocol: String?
  package var deflate: DeflateAgreement?
}

package enum WebSocketHandshake {
  /// The only version there is.
  private static let version: StaticString = "13"
  /// What a server appends to the key before it hashes it (RFC 6455 §1.3).
  private static let guid: StaticString = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
  /// Characters of a key: 16 bytes in base64.
  private static let keyCharacters = 24
  /// Subprotocols a client may offer; more are refused with 400.
  private static let subprotocolsMax = 32

  // MARK: Server

  /// Whether `head` asks to be upgraded to a WebSocket; whether it does so rightly is for `accept` to say.
  package static func isAsked(for head: HTTP1Head) -> Bool { head.upgrade && upgradeLists(head) }

  /// Checks the request and appends the fields of the answer (`Upgrade` to the agreed extension, a line each) to `fields`:
  /// to be sent after `HTTP/1.1 101 Switching Protocols`, with an empty line at the end. `subprotocols` are those we
  /// speak; the first of the client's list among them is chosen, none is no error. `deflate` nil refuses compression.
  ///
  /// Throws with the status to answer with. 426 wants a field of its own, `Sec-WebSocket-Version: 13`.
  package static func accept(
    _ head: HTTP1Head, subprotocols: [String] = [], deflate: DeflateWish?, fields: ByteBuffer
  ) throws(WireError) -> WebSocketAgreement {
    guard head.method == .get else { throw WireError("a WebSocket begins with GET") }
    guard head.minorVersion == 1 else { throw WireError("a WebSocket needs HTTP/1.1") }
    guard isAsked(for: head) else { throw WireError("no upgrade to a WebSocket", status: 426) }
    guard head.framing == .none || head.framing == .length(0) else {
      throw WireError("the request for a WebSocket has a body")
    }
    guard let version = head.first(.secWebSocketVersion), !head.isRepeated(.secWebSocketVersion),
      ASCIIText.equals(version, Self.version)
    else { throw WireError("Sec-WebSocket-Version must be 13", status: 426) }
    guard let key = head.first(.secWebSocketKey), !head.isRepeated(.secWebSocketKey), isKey(key) else {
      throw WireError("Sec-WebSocket-Key must be 16 bytes in base64, once")
    }

    fields.append("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ")
    appendAnswer(to: key, into: fields)
    fields.append("\r\n")
    var agreement = WebSocketAgreement()
    for offered in try offeredSubprotocols(head) where subprotocols.contains(offered) {
      agreement.subprotocol = offered
      HTTP1Writer.field("Sec-WebSocket-Protocol", offered, to: fields)
      break
    }
    let extensions = try WebSocketExtension.read(head)
    if let deflate { agreement.deflate = PerMessageDeflate.answer(to: extensions, wish: deflate, into: fields) }
    return agreement
  }

  /// In the client's order of preference.
  private static func offeredSubprotocols(_ head: HTTP1Head) throws(WireError) -> [String] {
    guard head.has(.secWebSocketProtocol) else { return [] }
    var offered: [String] = []
    var isMalformed = false
    for field in head.fields where field.id == .secWebSocketProtocol {
      Scan.forEachElement(head.value(field)) { element in
        let name = String(decoding: element, as: UTF8.self)
        if !isToken(element) || offered.contains(name) || offered.count == subprotocolsMax { isMalformed = true }
        if !isMalformed { offered.append(name) }
      }
    }
    if isMalformed { throw WireError("malformed Sec-WebSocket-Protocol") }
    return offered
  }

  // MARK: Client

  /// A key for `appendRequest` and `check`.
  package static func makeKey(_ random: inout SeededRandom) -> [UInt8] {
    var bytes: [UInt8] = []
    for _ in 0..<2 { withUnsafeBytes(of: random.next()) { bytes.append(contentsOf: $0) } }
    let text = ByteBuffer()
    bytes.withUnsafeBytes { appendBase64($0, into: text) }
    return Array(text.bytes)
  }

  /// The fields that make a GET request one for a WebSocket, a line each. Request line, `Host` and the end of the head are
  /// the caller's.
  package static func appendRequest(
    key: [UInt8], subprotocols: [String] = [], deflate: DeflateWish?, into out: ByteBuffer
  ) {
    out.append("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ")
    out.append(key)
    out.append("\r\n")
    if !subprotocols.isEmpty {
      HTTP1Writer.field("Sec-WebSocket-Protocol", subprotocols.joined(separator: ", "), to: out)
    }
    if let deflate { PerMessageDeflate.appendOffer(deflate, into: out) }
  }

  /// Checks the answer to a request with these parts, whose status is 101. Throws, with status 502, when the server must
  /// not be talked to as a WebSocket.
  package static func check(
    _ head: HTTP1Head, key: [UInt8], subprotocols: [String] = [], deflate: DeflateWish?
  ) throws(WireError) -> WebSocketAgreement {
    guard head.status == 101, head.upgrade, upgradeLists(head), !head.isRepeated(.upgrade) else {
      throw WireError("the server did not upgrade to a WebSocket", status: 502)
    }
    let expected = ByteBuffer()
    key.withUnsafeBytes { appendAnswer(to: $0, into: expected) }
    guard let accept = head.first(.secWebSocketAccept), !head.isRepeated(.secWebSocketAccept),
      ASCIIText.equals(accept, expected.bytes)
    else { throw WireError("Sec-WebSocket-Accept does not answer our key", status: 502) }

    var agreement = WebSocketAgreement()
    if let chosen = head.first(.secWebSocketProtocol) {
      let name = String(decoding: chosen, as: UTF8.self)
      guard !head.isRepeated(.secWebSocketProtocol), subprotocols.contains(name) else {
        throw WireError("the server chose a subprotocol that was not offered", status: 502)
      }
      agreement.subprotocol = name
    }
    let extensions: [WebSocketExtension]
    do throws(WireError) { extensions = try WebSocketExtension.read(head) } catch {
      throw WireError(error.rule, offset: error.offset, status: 502)
    }
    guard let deflate else {
      if !extensions.isEmpty { throw WireError("the server chose an extension that was not offered", status: 502) }
      return agreement
    }
    agreement.deflate = try PerMessageDeflate.accept(extensions, wish: deflate)
    return agreement
  }

  // MARK: Parts

  private static func upgradeLists(_ head: HTTP1Head) -> Bool {
    var found = false
    for field in head.fields where field.id == .upgrade {
      Scan.forEachElement(head.value(field)) { if ASCIIText.equalsIgnoringCase($0, "websocket") { found = true } }
    }
    return found
  }

  private static func isToken(_ bytes: UnsafeRawBufferPointer) -> Bool {
    !bytes.isEmpty && bytes.allSatisfy { ByteClass.contains($0, ByteClass.token) }
  }

  private static func isKey(_ text: UnsafeRawBufferPointer) -> Bool {
    guard text.count == keyCharacters, text[22] == UInt8(ascii: "="), text[23] == UInt8(ascii: "=") else {
      return false
    }
    return text.prefix(22).allSatisfy { byte in
      switch byte {
      case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "+"), UInt8(ascii: "/"): true
      default: false
      }
    }
  }

  private static func appendAnswer(to key: UnsafeRawBufferPointer, into out: ByteBuffer) {
    let text = ByteBuffer(capacity: 64)
    text.append(key)
    text.append(guid)
    let digest = ByteBuffer(capacity: SHA1.digestBytes)
    SHA1.append(text.bytes, into: digest)
    appendBase64(digest.bytes, into: out)
  }

  private static func appendBase64(_ bytes: UnsafeRawBufferPointer, into out: ByteBuffer) {
    let alphabet: StaticString = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for start in stride(from: 0, to: bytes.count, by: 3) {
      let count = min(3, bytes.count - start)
      var group: UInt32 = 0
      for index in 0..<3 { group = group &<< 8 | (index < count ? UInt32(bytes[start + index]) : 0) }
      for index in 0..<4 {
        let digit = alphabet.utf8Start[Int(group &>> UInt32(18 - 6 * index) & 63)]
        out.append(index <= count ? digit : UInt8(ascii: "="))
      }
    }
  }
}
