// A parsed message head: where its parts lie in the bytes it came from, and what they mean for the connection.
// The grammar is in HTTP1Head+Grammar.swift, the rules about meaning in HTTP1Head+Meaning.swift.

package enum HTTP1Method: UInt8, Sendable {
  case get, head, post, put, delete, options, patch, connect, trace, other
}

/// How the length of a message's body is known. RFC 9112 §6.3.
package enum HTTP1Framing: Equatable, Sendable {
  /// No body: a request without length, or a response that never has one (1xx, 204, 304, to HEAD, 2xx to CONNECT).
  case none
  case length(Int)
  case chunked
  /// A response without length; it ends with the connection.
  case untilClose
}

/// One field line, as offsets into the head's bytes.
package struct HTTP1Field: Sendable {
  package var nameOffset: UInt32 = 0
  package var valueOffset: UInt32 = 0
  package var valueCount: UInt32 = 0
  package var nameCount: UInt16 = 0
  package var id = HeaderID.other
}

/// The head of one message, or a trailer section (then only bytes and fields are set).
///
/// One head serves many messages, and normally all connections of a loop: it is scratch space. What it says, and every
/// pointer taken from it, holds until the read callback returns, and no longer than the input given to the parser; to
/// keep it until the end of its message call `HTTP1Parser.keepHead()`. Loop-confined.
package final class HTTP1Head {
  /// The bytes of the head with its closing empty line.
  package internal(set) var bytes = UnsafeRawBufferPointer(start: nil, count: 0)

  package internal(set) var method: HTTP1Method = .other
  package internal(set) var status = 0
  /// 0 for HTTP/1.0, 1 for HTTP/1.1.
  package internal(set) var minorVersion = 1
  package internal(set) var framing: HTTP1Framing = .none
  /// Whether the connection may carry another message after this one (RFC 9112 §9.3).
  package internal(set) var keepAlive = true
  /// A request with `Expect: 100-continue`: its sender may be waiting for 100 before it sends the body.
  package internal(set) var expectsContinue = false
  /// `Connection` lists `upgrade` and there is an `Upgrade` field that says to what.
  package internal(set) var upgrade = false

  var methodCount = 0
  var targetOffset = 0
  var targetCount = 0

  /// The field table, allocated with the first field.
  var table: UnsafeMutablePointer<HTTP1Field>?
  var tableCapacity = 0
  package internal(set) var fieldCount = 0
  /// One bit per `HeaderID`: seen, and seen more than once. The last bit is shared by those that have none of their own.
  var present: UInt64 = 0
  var repeated: UInt64 = 0
  let names = HeaderNameTable.shared

  /// Where to go on when more bytes come; see the grammar.
  var progress = Progress()
  /// The bytes of a head that came in several reads, or was kept.
  var storage: ByteBuffer?
  /// A head waiting to be used again by a parser that must hold one of its own.
  var spare: HTTP1Head?

  package init() {}

  deinit { table?.deallocate() }

  /// Fields in the order they came.
  @inline(__always) package var fields: UnsafeBufferPointer<HTTP1Field> {
    UnsafeBufferPointer(start: table, count: fieldCount)
  }

  @inline(__always) package func name(_ field: HTTP1Field) -> UnsafeRawBufferPointer {
    slice(Int(field.nameOffset), Int(field.nameCount))
  }

  /// Without the white space around it. Any bytes but control characters; those from 0x80 on are passed as they came.
  @inline(__always) package func value(_ field: HTTP1Field) -> UnsafeRawBufferPointer {
    slice(Int(field.valueOffset), Int(field.valueCount))
  }

  /// The method as sent; empty in a response.
  @inline(__always) package var methodBytes: UnsafeRawBufferPointer { slice(0, methodCount) }

  /// The request target as sent, in one of the four forms of RFC 9112 §3.2; empty in a response.
  @inline(__always) package var target: UnsafeRawBufferPointer { slice(targetOffset, targetCount) }

  @inline(__always) package func has(_ id: HeaderID) -> Bool {
    present & Self.bit(id) != 0 && (id.rawValue < Self.sharedBit || index(of: id, from: 0) != nil)
  }

  /// Whether there is more than one field line of that name.
  @inline(__always) package func isRepeated(_ id: HeaderID) -> Bool {
    repeated & Self.bit(id) != 0 && (id.rawValue < Self.sharedBit || isRepeatedRareField(id))
  }

  private func isRepeatedRareField(_ id: HeaderID) -> Bool {
    guard let first = index(of: id, from: 0) else { return false }
    return index(of: id, from: first + 1) != nil
  }

  /// The value of the first field with that name. An absent one costs one test.
  @inline(__always) package func first(_ id: HeaderID) -> UnsafeRawBufferPointer? {
    guard present & Self.bit(id) != 0, let index = index(of: id, from: 0) else { return nil }
    return value(fields[index])
  }

  @inline(__always) private func index(of id: HeaderID, from start: Int) -> Int? {
    guard let table else { return nil }
    var index = start
    while index < fieldCount {
      if table[index].id == id { return index }
      index &+= 1
    }
    return nil
  }

  /// The value of the first field named `name` in any letter case, for names that have no `HeaderID`.
  package func first(_ name: StaticString) -> UnsafeRawBufferPointer? {
    let wanted = UnsafeRawBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount)
    for field in fields where Scan.equal(self.name(field), ignoringCase: wanted) { return value(field) }
    return nil
  }

  /// Whether `Connection` names `name`, which makes that field one for this connection only (RFC 9110 §7.6.1).
  package func connectionLists(_ name: UnsafeRawBufferPointer) -> Bool {
    guard has(.connection) else { return false }
    var found = false
    for field in fields where field.id == .connection {
      Scan.forEachElement(value(field)) { if Scan.equal($0, ignoringCase: name) { found = true } }
    }
    return found
  }

  /// Bytes of memory behind this head, without the object itself.
  var heldBytes: Int { tableCapacity * MemoryLayout<HTTP1Field>.stride + (storage?.capacity ?? 0) }

  @inline(__always) private func slice(_ offset: Int, _ count: Int) -> UnsafeRawBufferPointer {
    guard count > 0, let base = bytes.baseAddress else { return UnsafeRawBufferPointer(start: nil, count: 0) }
    return UnsafeRawBufferPointer(start: base + offset, count: count)
  }

  /// The bit for all headers that come late in `HeaderID`; they are few and rarely asked for.
  private static let sharedBit: UInt8 = 63

  @inline(__always) static func bit(_ id: HeaderID) -> UInt64 { 1 &<< UInt64(min(id.rawValue, sharedBit)) }
}
