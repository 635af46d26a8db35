// What a NATS client says, written at the end of a buffer. Subjects must be sound (`NATSSubject`): one with a blank or a
// line's end in it would become another command.

package enum NATSWriter {
  /// The greeting. `credentials` are the keys of the server's authorization: `user` and `pass`, or `auth_token`.
  package static func connect(
    name: String, credentials: [(key: String, value: String)], isTLS: Bool, hearsItself: Bool, into out: ByteBuffer
  ) {
    var members: [JSONValue.Member] = [
      .init("verbose", .bool(false)), .init("pedantic", .bool(false)), .init("tls_required", .bool(isTLS)),
      .init("name", .string(name)), .init("lang", .string("swift")), .init("version", .string("1.0.0")),
      .init("protocol", JSONValue(1)), .init("echo", .bool(hearsItself)), .init("headers", .bool(true)),
      .init("no_responders", .bool(true)),
    ]
    for (key, value) in credentials { members.append(.init(key, .string(value))) }
    out.append("CONNECT ")
    JSONValue.object(members).write(into: out, escaping: .plain)
    out.append("\r\n")
  }

  /// A message, with headers when `headers` is not empty: the block that `NATSHeaders.write` makes.
  package static func publish(
    _ subject: UnsafeRawBufferPointer, reply: UnsafeRawBufferPointer? = nil,
    headers: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0), _ payload: UnsafeRawBufferPointer,
    into out: ByteBuffer
  ) {
    out.reserve(subject.count + (reply?.count ?? 0) + headers.count + payload.count + 64)
    if headers.isEmpty { out.append("PUB ") } else { out.append("HPUB ") }
    out.append(subject)
    out.append(UInt8(ascii: " "))
    if let reply {
      out.append(reply)
      out.append(UInt8(ascii: " "))
    }
    if !headers.isEmpty {
      out.append(decimal: UInt64(headers.count))
      out.append(UInt8(ascii: " "))
    }
    out.append(decimal: UInt64(headers.count + payload.count))
    out.append("\r\n")
    out.append(headers)
    out.append(payload)
    out.append("\r\n")
  }

  /// Members of one `queue` share a subject's messages.
  package static func subscribe(_ subject: String, queue: String? = nil, as id: UInt64, into out: ByteBuffer) {
    out.append("SUB ")
    out.append(subject)
    out.append(UInt8(ascii: " "))
    if let queue {
      out.append(queue)
      out.append(UInt8(ascii: " "))
    }
    out.append(decimal: id)
    out.append("\r\n")
  }

  /// Ends a subscription, after `count` messages in all when one is given.
  package static func unsubscribe(_ id: UInt64, after count: UInt64? = nil, into out: ByteBuffer) {
    out.append("UNSUB ")
    out.append(decimal: id)
    if let count {
      out.append(UInt8(ascii: " "))
      out.append(decimal: count)
    }
    out.append("\r\n")
  }

  package static func ping(into out: ByteBuffer) { out.append("PING\r\n") }
  package static func pong(into out: ByteBuffer) { out.append("PONG\r\n") }
}

package enum NATSSubject {
  /// Bytes of a subject or queue; the server's line has 4 KiB for two of them.
  package static let bytesMax = 1024

  /// Whether messages can be published there: tokens between dots, none empty, no blanks or control characters and no
  /// wildcards.
  package static func isPublishable(_ subject: String) -> Bool {
    isSubscribable(subject) && subject.split(separator: ".").allSatisfy { $0 != "*" && $0 != ">" }
  }

  /// The same with wildcards: `*` for a token, `>` for all that follow.
  package static func isSubscribable(_ subject: String) -> Bool {
    guard !subject.isEmpty, subject.utf8.count <= bytesMax,
      subject.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F })
    else { return false }
    let tokens = subject.split(separator: ".", omittingEmptySubsequences: false)
    return tokens.allSatisfy { !$0.isEmpty } && tokens.dropLast().allSatisfy { $0 != ">" }
  }
}

/// The header block of HPUB and HMSG: `NATS/1.0[ status[ text]]`, fields as in HTTP/1, an empty line.
package enum NATSHeaders {
  /// Fields of one block.
  package static let fieldsMax = 256

  /// False, and nothing written, when a name or value has a line's end in it, or a name a colon or a blank.
  package static func write(_ fields: [(name: String, value: String)], into out: ByteBuffer) -> Bool {
    for (name, value) in fields {
      guard !name.isEmpty, name.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: ":") }),
        value.utf8.allSatisfy({ $0 != 0x0D && $0 != 0x0A })
      else { return false }
    }
    out.append("NATS/1.0\r\n")
    for (name, value) in fields {
      out.append(name)
      out.append(": ")
      out.append(value)
      out.append("\r\n")
    }
    out.append("\r\n")
    return true
  }

  package enum Status: Equatable, Sendable {
    /// An ordinary message.
    case none
    /// A word of the server's own; 503: nobody listens.
    case code(Int)
  }

  /// The status, and each field to `field`; nil for what is no header block.
  package static func read(
    _ block: UnsafeRawBufferPointer, _ field: (_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Void
  ) -> Status? {
    var rest = block
    guard let first = line(&rest), first.count >= 8,
      ASCIIText.equals(UnsafeRawBufferPointer(rebasing: first[..<8]), "NATS/1.0")
    else { return nil }
    var status = Status.none
    if first.count >= 12, first[8] == 0x20, let code = Int(String(decoding: first[9..<12], as: UTF8.self)) {
      status = .code(code)
    }
    var count = 0
    while let next = line(&rest) {
      if next.isEmpty { return status }
      count += 1
      guard count <= fieldsMax, let colon = next.firstIndex(of: UInt8(ascii: ":")), colon > 0 else { return nil }
      var start = colon + 1
      while start < next.count, next[start] == 0x20 { start += 1 }
      field(UnsafeRawBufferPointer(rebasing: next[..<colon]), UnsafeRawBufferPointer(rebasing: next[start...]))
    }
    return nil
  }

  private static func line(_ rest: inout UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
    guard let end = rest.firstIndex(of: 0x0A), end > 0, rest[end - 1] == 0x0D else { return nil }
    let found = UnsafeRawBufferPointer(rebasing: rest[..<(end - 1)])
    rest = UnsafeRawBufferPointer(rebasing: rest[(end + 1)...])
    return found
  }
}
