// ZooKeeper's client protocol (zookeeper.jute @ 3.8, recordings v014-registry-zookeeper-*), as far as a registry needs it:
// frames of a length and big-endian fields; text and bytes have a length of four bytes in front, -1 for none.
//
//   connect ──▶ session          then requests (xid, operation, body) ──▶ replies (xid, zxid, error, body), in order
//   xid -1: a watch fired        xid -2: ping        xid -4: credentials

package enum ZooKeeperWire {
  /// Bytes of a frame; servers take 1 MiB unless told otherwise.
  package static let frameBytesMax = 8 << 20
  /// Entries of a list of children.
  package static let childrenMax = 200_000

  package enum Operation: Int32 {
    case create = 1, delete, exists, getData, setData
    case ping = 11, getChildren, auth = 100, close = -11
  }

  package static let eventXid: Int32 = -1
  package static let pingXid: Int32 = -2
  package static let authXid: Int32 = -4

  /// What a server says went wrong; other numbers are kept as they are.
  package struct Code: RawRepresentable, Equatable, Sendable {
    package var rawValue: Int32
    package init(rawValue: Int32) { self.rawValue = rawValue }
    package static let ok = Code(rawValue: 0)
    package static let noNode = Code(rawValue: -101)
    package static let noAuth = Code(rawValue: -102)
    package static let nodeExists = Code(rawValue: -110)
    package static let notEmpty = Code(rawValue: -111)
    package static let sessionExpired = Code(rawValue: -112)
    package static let authFailed = Code(rawValue: -115)
  }

  package struct Session: Equatable, Sendable {
    package var id: Int64
    package var password: [UInt8]
    /// What the server granted, in milliseconds; zero or less: the session is over.
    package var timeout: Int32
    package static let none = Session(id: 0, password: Array(repeating: 0, count: 16), timeout: 0)
  }

  package struct Reply: Equatable, Sendable {
    package var xid: Int32
    package var code: Code
    package var body: [UInt8]
  }

  package struct Event: Equatable, Sendable {
    /// 1 created, 2 deleted, 3 data changed, 4 children changed.
    package var type: Int32
    package var path: String
  }

  // MARK: Writing. All return a frame.

  package static func connect(_ session: Session, timeout: Int32, lastZxid: Int64) -> [UInt8] {
    var writer = ZooKeeperWriter()
    writer.int32(0)
    writer.int64(lastZxid)
    writer.int32(timeout)
    writer.int64(session.id)
    writer.buffer(session.password)
    return writer.frame
  }

  package static func request(
    _ xid: Int32, _ operation: Operation, _ body: (inout ZooKeeperWriter) -> Void = { _ in }
  ) -> [UInt8] {
    var writer = ZooKeeperWriter()
    writer.int32(xid)
    writer.int32(operation.rawValue)
    body(&writer)
    return writer.frame
  }

  // MARK: Reading, the bytes of a frame

  package static func session(_ frame: [UInt8]) throws(WireError) -> Session {
    var reader = ZooKeeperReader(frame)
    _ = try reader.int32()
    let timeout = try reader.int32()
    return Session(id: try reader.int64(), password: try reader.buffer(), timeout: timeout)
  }

  package static func reply(_ frame: [UInt8]) throws(WireError) -> (Reply, zxid: Int64) {
    var reader = ZooKeeperReader(frame)
    let xid = try reader.int32()
    let zxid = try reader.int64()
    let code = Code(rawValue: try reader.int32())
    return (Reply(xid: xid, code: code, body: reader.rest), zxid)
  }

  package static func event(_ body: [UInt8]) throws(WireError) -> Event {
    var reader = ZooKeeperReader(body)
    let type = try reader.int32()
    _ = try reader.int32()
    return Event(type: type, path: try reader.text())
  }

  package static func children(_ body: [UInt8]) throws(WireError) -> [String] {
    var reader = ZooKeeperReader(body)
    let count = try reader.int32()
    guard count >= 0, count <= childrenMax else { throw WireError("a list of \(count) children") }
    var names: [String] = []
    for _ in 0..<count { names.append(try reader.text()) }
    return names
  }

  package static func data(_ body: [UInt8]) throws(WireError) -> [UInt8] {
    var reader = ZooKeeperReader(body)
    return try reader.buffer()
  }

  /// The session that a node of `exists`' answer lives with; 0 for one that stays.
  package static func ephemeralOwner(_ stat: [UInt8]) throws(WireError) -> Int64 {
    var reader = ZooKeeperReader(stat)
    for _ in 0..<4 { _ = try reader.int64() }
    for _ in 0..<3 { _ = try reader.int32() }
    return try reader.int64()
  }
}

package struct ZooKeeperWriter {
  private var bytes: [UInt8] = [0, 0, 0, 0]

  package mutating func int32(_ value: Int32) { append(UInt64(UInt32(bitPattern: value)), 4) }
  package mutating func int64(_ value: Int64) { append(UInt64(bitPattern: value), 8) }
  package mutating func flag(_ value: Bool) { bytes.append(value ? 1 : 0) }
  package mutating func text(_ value: String) { buffer(Array(value.utf8)) }
  package mutating func buffer(_ value: [UInt8]) {
    int32(Int32(clamping: value.count))
    bytes += value
  }

  var frame: [UInt8] {
    var frame = bytes
    let count = UInt32(truncatingIfNeeded: bytes.count - 4)
    for index in 0..<4 { frame[index] = UInt8(truncatingIfNeeded: count &>> UInt32(24 - 8 * index)) }
    return frame
  }

  private mutating func append(_ value: UInt64, _ size: Int) {
    for index in (0..<size).reversed() { bytes.append(UInt8(truncatingIfNeeded: value &>> UInt64(8 * index))) }
  }
}

struct ZooKeeperReader {
  private let bytes: [UInt8]
  private var offset = 0
  init(_ bytes: [UInt8]) { self.bytes = bytes }

  var rest: [UInt8] { Array(bytes[offset...]) }

  mutating func int32() throws(WireError) -> Int32 { Int32(bitPattern: UInt32(truncatingIfNeeded: try number(4))) }
  mutating func int64() throws(WireError) -> Int64 { Int64(bitPattern: try number(8)) }

  mutating func buffer() throws(WireError) -> [UInt8] {
    let count = try int32()
    guard count > 0 else { return [] }
    guard Int(count) <= bytes.count - offset else {
      throw WireError("a ZooKeeper field ends too soon", offset: offset)
    }
    defer { offset += Int(count) }
    return Array(bytes[offset..<offset + Int(count)])
  }

  mutating func text() throws(WireError) -> String { String(decoding: try buffer(), as: UTF8.self) }

  private mutating func number(_ size: Int) throws(WireError) -> UInt64 {
    guard bytes.count - offset >= size else { throw WireError("a ZooKeeper message ends too soon", offset: offset) }
    defer { offset += size }
    return bytes[offset..<offset + size].reduce(0) { $0 &<< 8 | UInt64($1) }
  }
}
