// The messages of hashicorp/memberlist (net.go, util.go @ v0.1.0; recording v014-registry-gossip-register): membership by
// gossip, over datagrams and streams of one port.
//
//   datagram   [crc [compress [compound …]]] message, each layer optional
//   stream     [compress] push/pull with the state of all members · ping · a user's message
//
// Streams have no length in front: whether a message is whole is known when it could be read.

package enum Memberlist {
  /// Bytes of a datagram we send; memberlist's own budget.
  package static let datagramBytesMax = 1400
  /// Bytes that one datagram may stand for when decompressed.
  package static let inflatedBytesMax = 256 << 10
  /// Bytes of a stream's message, decompressed too.
  package static let streamBytesMax = 20 << 20
  /// Members in a push/pull.
  package static let statesMax = 10_000
  /// Envelopes around a message: checksum, compression, compound, and one more.
  static let layersMax = 4
  /// What we understand: protocols 1 to 4, speaking 2; the delegate's part is 2, 5, 4 in memberlist's words of its own.
  package static let versions: [UInt8] = [1, 4, 2, 0, 0, 0]

  enum Kind: UInt8 {
    case ping, indirectPing, ack, suspect, alive, dead, pushPull, compound, user, compress, encrypt, nack, crc, error
  }

  package enum State: UInt8, Sendable { case alive, suspect, dead, left }

  /// A member as others are told of it.
  package struct Member: Equatable, Sendable {
    package var name: String
    package var address: SocketAddress
    package var meta: [UInt8]
    package var incarnation: UInt32
    package var state: State
    /// Its IPv4 address is told in sixteen bytes, as Go keeps one that it has parsed. Members compare what they are told byte
    /// by byte ("Conflicting address", state.go @ v0.2.2), so it is passed on as it came, and so are the versions.
    package var isMappedAddress = false
    package var versions = Memberlist.versions

    package init(
      name: String, address: SocketAddress, meta: [UInt8] = [], incarnation: UInt32, state: State = .alive
    ) {
      self.name = name
      self.address = address
      self.meta = meta
      self.incarnation = incarnation
      self.state = state
    }
  }

  package enum Message: Equatable, Sendable {
    /// `node`: whom it is for; empty for anyone.
    case ping(sequence: UInt32, node: String)
    case indirectPing(sequence: UInt32, target: SocketAddress, node: String, wantsNack: Bool)
    case ack(sequence: UInt32)
    case nack(sequence: UInt32)
    case suspect(incarnation: UInt32, node: String, from: String)
    case alive(Member)
    /// From itself: it left.
    case dead(incarnation: UInt32, node: String, from: String)
    case user([UInt8])
  }

  /// The state of everyone, and what the application adds to it.
  package struct PushPull: Equatable, Sendable {
    package var members: [Member]
    package var isJoin: Bool
    package var userState: [UInt8]
    package init(members: [Member], isJoin: Bool, userState: [UInt8]) {
      self.members = members
      self.isJoin = isJoin
      self.userState = userState
    }
  }

  // MARK: Datagrams

  /// The messages of a datagram. Those that were sound before one that is not are given to `handle` too.
  package static func read(
    datagram bytes: UnsafeRawBufferPointer, _ handle: (Message) -> Void
  ) throws(WireError) {
    do throws(MemberlistError) { try read(bytes, layers: layersMax, handle) } catch { throw error.wireError }
  }

  private static func read(
    _ bytes: UnsafeRawBufferPointer, layers: Int, _ handle: (Message) -> Void
  ) throws(MemberlistError) {
    guard layers > 0 else { throw .broken(WireError("memberlist messages inside each other too deep")) }
    var reader = MemberlistReader(bytes)
    let number = try reader.byte()
    guard let kind = Kind(rawValue: number) else { throw .broken(WireError("a memberlist message of kind \(number)")) }
    switch kind {
    case .crc:
      let told = UInt32(truncatingIfNeeded: try reader.number(4))
      guard CRC32.of(reader.rest) == told else { throw .broken(WireError("a memberlist checksum is wrong")) }
      try read(reader.rest, layers: layers - 1, handle)
    case .compress:
      let inner = try inflate(&reader, limit: inflatedBytesMax)
      try withBytes(inner) { (bytes) throws(MemberlistError) in try read(bytes, layers: layers - 1, handle) }
    case .compound:
      let count = Int(try reader.byte())
      var sizes: [Int] = []
      for _ in 0..<count { sizes.append(Int(try reader.number(2))) }
      for size in sizes {
        let part = try reader.bytes(size)
        try withBytes(part) { (bytes) throws(MemberlistError) in try read(bytes, layers: layers - 1, handle) }
      }
    case .user: handle(.user(Array(reader.rest)))
    case .ping, .indirectPing, .ack, .suspect, .alive, .dead, .nack:
      if let message = try message(kind, &reader) { handle(message) }
    case .pushPull, .encrypt, .error:
      throw .broken(WireError("a memberlist message of kind \(number) does not belong in a datagram"))
    }
  }

  private static func message(_ kind: Kind, _ reader: inout MemberlistReader) throws(MemberlistError) -> Message? {
    let fields = try MemberlistFields(&reader)
    let sequence = UInt32(truncatingIfNeeded: fields.number("SeqNo"))
    let incarnation = UInt32(truncatingIfNeeded: fields.number("Incarnation"))
    switch kind {
    case .ping: return .ping(sequence: sequence, node: fields.text("Node"))
    case .ack: return .ack(sequence: sequence)
    case .nack: return .nack(sequence: sequence)
    case .indirectPing:
      guard let target = address(fields.bytes("Target"), fields.number("Port")) else { return nil }
      return .indirectPing(
        sequence: sequence, target: target, node: fields.text("Node"), wantsNack: fields.flag("Nack"))
    case .suspect: return .suspect(incarnation: incarnation, node: fields.text("Node"), from: fields.text("From"))
    case .dead: return .dead(incarnation: incarnation, node: fields.text("Node"), from: fields.text("From"))
    case .alive:
      guard let address = address(fields.bytes("Addr"), fields.number("Port")) else { return nil }
      var member = Member(
        name: fields.text("Node"), address: address, meta: fields.bytes("Meta"), incarnation: incarnation)
      member.tell(fields)
      return .alive(member)
    case .pushPull, .compound, .user, .compress, .encrypt, .crc, .error: return nil
    }
  }

  package static func datagram(_ message: Message) -> [UInt8] {
    switch message {
    case .ping(let sequence, let node):
      var writer = MemberlistWriter(.ping, fields: 2)
      writer.field("SeqNo", UInt64(sequence))
      writer.field("Node", node)
      return writer.bytes
    case .indirectPing(let sequence, let target, let node, let wantsNack):
      var writer = MemberlistWriter(.indirectPing, fields: 5)
      writer.field("SeqNo", UInt64(sequence))
      writer.field("Target", raw(target))
      writer.field("Port", UInt64(target.port))
      writer.field("Node", node)
      writer.field("Nack", wantsNack)
      return writer.bytes
    case .ack(let sequence):
      var writer = MemberlistWriter(.ack, fields: 2)
      writer.field("SeqNo", UInt64(sequence))
      writer.field("Payload", [])
      return writer.bytes
    case .nack(let sequence):
      var writer = MemberlistWriter(.nack, fields: 1)
      writer.field("SeqNo", UInt64(sequence))
      return writer.bytes
    case .suspect(let incarnation, let node, let from): return verdict(.suspect, incarnation, node, from)
    case .dead(let incarnation, let node, let from): return verdict(.dead, incarnation, node, from)
    case .alive(let member):
      var writer = MemberlistWriter(.alive, fields: 6)
      writer.field("Incarnation", UInt64(member.incarnation))
      writer.field("Node", member.name)
      writer.field("Addr", raw(member.address, isMapped: member.isMappedAddress))
      writer.field("Port", UInt64(member.address.port))
      writer.field("Meta", member.meta)
      writer.field("Vsn", member.versions)
      return writer.bytes
    case .user(let payload): return [Kind.user.rawValue] + payload
    }
  }

  private static func verdict(_ kind: Kind, _ incarnation: UInt32, _ node: String, _ from: String) -> [UInt8] {
    var writer = MemberlistWriter(kind, fields: 3)
    writer.field("Incarnation", UInt64(incarnation))
    writer.field("Node", node)
    writer.field("From", from)
    return writer.bytes
  }

  /// One datagram of several messages: at most 255 of them, each below 64 KiB.
  package static func compound(_ messages: [[UInt8]]) -> [UInt8] {
    if messages.count == 1 { return messages[0] }
    var bytes: [UInt8] = [Kind.compound.rawValue, UInt8(truncatingIfNeeded: messages.count)]
    for message in messages { bytes += [UInt8(truncatingIfNeeded: message.count >> 8), UInt8(message.count & 255)] }
    for message in messages { bytes += message }
    return bytes
  }

  // MARK: Streams

  package enum StreamMessage: Equatable, Sendable {
    case pushPull(PushPull)
    case ping(sequence: UInt32, node: String)
    case ack(sequence: UInt32)
    case user([UInt8])
    /// The other side refuses; its sentence.
    case error(String)
  }

  /// The message that a stream's bytes make; nil while they are not all there.
  package static func read(stream bytes: UnsafeRawBufferPointer) throws(WireError) -> StreamMessage? {
    do throws(MemberlistError) {
      return try readStream(bytes, layers: 2)
    } catch {
      if case .broken(let error) = error { throw error }
      guard bytes.count <= streamBytesMax else {
        throw WireError("a memberlist stream of more than \(streamBytesMax) bytes")
      }
      return nil
    }
  }

  private static func readStream(
    _ bytes: UnsafeRawBufferPointer, layers: Int
  ) throws(MemberlistError) -> StreamMessage {
    var reader = MemberlistReader(bytes)
    let number = try reader.byte()
    switch Kind(rawValue: number) {
    case .compress where layers > 1:
      let inner = try inflate(&reader, limit: streamBytesMax)
      return try withBytes(inner) { (bytes) throws(MemberlistError) in
        do throws(MemberlistError) {
          return try readStream(bytes, layers: layers - 1)
        } catch {
          throw .broken(error.wireError)
        }
      }
    case .pushPull: return .pushPull(try pushPull(&reader))
    case .ping:
      let fields = try MemberlistFields(&reader)
      return .ping(sequence: UInt32(truncatingIfNeeded: fields.number("SeqNo")), node: fields.text("Node"))
    case .ack:
      return .ack(sequence: UInt32(truncatingIfNeeded: try MemberlistFields(&reader).number("SeqNo")))
    case .user:
      let fields = try MemberlistFields(&reader)
      return .user(try reader.bytes(Int(clamping: fields.number("UserMsgLen"))))
    case .error: return .error(try MemberlistFields(&reader).text("Error"))
    case .encrypt: throw .broken(WireError("a memberlist stream is encrypted: its cluster needs a key"))
    case .compress, .indirectPing, .suspect, .alive, .dead, .compound, .nack, .crc, nil:
      throw .broken(WireError("a memberlist stream that begins with kind \(number)"))
    }
  }

  private static func pushPull(_ reader: inout MemberlistReader) throws(MemberlistError) -> PushPull {
    let head = try MemberlistFields(&reader)
    let count = head.number("Nodes")
    guard count <= UInt64(statesMax) else {
      throw .broken(WireError("a memberlist push/pull of more than \(statesMax) members"))
    }
    var members: [Member] = []
    for _ in 0..<Int(count) {
      let fields = try MemberlistFields(&reader)
      guard let address = address(fields.bytes("Addr"), fields.number("Port")),
        let state = State(rawValue: UInt8(clamping: fields.number("State")))
      else { continue }
      var member = Member(
        name: fields.text("Name"), address: address, meta: fields.bytes("Meta"),
        incarnation: UInt32(truncatingIfNeeded: fields.number("Incarnation")), state: state)
      member.tell(fields)
      members.append(member)
    }
    return PushPull(
      members: members, isJoin: head.flag("Join"),
      userState: try reader.bytes(Int(clamping: head.number("UserStateLen"))))
  }

  package static func stream(_ message: StreamMessage) -> [UInt8] {
    switch message {
    case .pushPull(let state):
      var writer = MemberlistWriter(.pushPull, fields: 3)
      writer.field("Nodes", UInt64(state.members.count))
      writer.field("UserStateLen", UInt64(state.userState.count))
      writer.field("Join", state.isJoin)
      var bytes = writer.bytes
      for member in state.members {
        var writer = MemberlistWriter(fields: 7)
        writer.field("Name", member.name)
        writer.field("Addr", raw(member.address, isMapped: member.isMappedAddress))
        writer.field("Port", UInt64(member.address.port))
        writer.field("Meta", member.meta)
        writer.field("Incarnation", UInt64(member.incarnation))
        writer.field("State", UInt64(member.state.rawValue))
        writer.field("Vsn", member.versions)
        bytes += writer.bytes
      }
      return bytes + state.userState
    case .ping(let sequence, let node): return datagram(Message.ping(sequence: sequence, node: node))
    case .ack(let sequence): return datagram(Message.ack(sequence: sequence))
    case .user(let payload):
      var writer = MemberlistWriter(.user, fields: 1)
      writer.field("UserMsgLen", UInt64(payload.count))
      return writer.bytes + payload
    case .error(let sentence):
      var writer = MemberlistWriter(.error, fields: 1)
      writer.field("Error", sentence)
      return writer.bytes
    }
  }

  // MARK: Parts

  private static func inflate(_ reader: inout MemberlistReader, limit: Int) throws(MemberlistError) -> [UInt8] {
    let fields = try MemberlistFields(&reader)
    guard fields.number("Algo") == 0 else { throw .broken(WireError("an unknown memberlist compression")) }
    return try withBytes(fields.bytes("Buf")) { (bytes) throws(MemberlistError) in
      do throws(WireError) { return try LZW.decompress(bytes, limit: limit) } catch { throw .broken(error) }
    }
  }

  private static func withBytes<Value>(
    _ bytes: [UInt8], _ body: (UnsafeRawBufferPointer) throws(MemberlistError) -> Value
  ) throws(MemberlistError) -> Value {
    let result = bytes.withUnsafeBytes { bytes in Result { () throws(MemberlistError) in try body(bytes) } }
    return try result.get()
  }

  private static func address(_ bytes: [UInt8], _ port: UInt64) -> SocketAddress? {
    guard let port = UInt16(exactly: port), port > 0 else { return nil }
    return SocketAddress(bytes: bytes, port: port)
  }

  private static func raw(_ address: SocketAddress, isMapped: Bool = false) -> [UInt8] {
    switch address {
    case .ipv4(let address, let port) where isMapped:
      raw(.ipv6(high: 0, low: 0xFFFF << 32 | UInt64(address), zone: 0, port: port))
    case .ipv4(let address, _): (0..<4).reversed().map { UInt8(truncatingIfNeeded: address &>> UInt32(8 * $0)) }
    case .ipv6(let high, let low, _, _):
      [high, low].flatMap { word in (0..<8).reversed().map { UInt8(truncatingIfNeeded: word &>> UInt64(8 * $0)) } }
    case .unix: []
    }
  }
}

extension Memberlist.Member {
  /// The forms in which it was told of.
  fileprivate mutating func tell(_ fields: MemberlistFields) {
    if case .ipv4 = address { isMappedAddress = fields.bytes("Addr").count == 16 }
    let told = fields.bytes("Vsn")
    if told.count == versions.count { versions = told }
  }
}

/// CRC-32/IEEE, as checksums of memberlist's datagrams.
enum CRC32 {
  private static let table: [UInt32] = (0..<256).map { index in
    (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 1 ? value >> 1 ^ 0xEDB8_8320 : value >> 1 }
  }

  static func of(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    ~bytes.reduce(~0 as UInt32) { $0 >> 8 ^ table[Int(($0 ^ UInt32($1)) & 255)] }
  }
}
