// What go-micro's gossip registries tell each other inside memberlist's user messages: three generations that do not
// understand each other (go-plugins registry/gossip @ v0.16.0; go-micro registry/gossip @ v0.16.0 and v1.8.0). All are read;
// which one is written is a setting.
//
//   v1  go-plugins up to v0.16      'd' and JSON: [{"Action":0,"Service":{…},"Timestamp":s,"Expires":s}]
//   v2  go-micro v0.15 to v0.24     protobuf: 1 id, 2 time ns, 3 ttl ns, 4 "service", 5 "update"|"delete", 6 metadata, 7 JSON
//   v3  v0.25 to v1.11, later plug-ins   protobuf: 1 expires, ns since 1970, 2 type 1, 3 action 1 create 2 delete, 6, 7
//
// The first byte tells: 0x64 · 0x0A (the id) · 0x08 or 0x10 (a number).

import SidecarCore

enum GossipGeneration: String, CaseIterable, Sendable { case v1, v2, v3 }

struct GossipUpdate: Equatable, Sendable {
  enum Action: Equatable, Sendable { case add, remove }
  /// Updates in one message of the first generation.
  static let updatesMax = 1024

  var action: Action
  var service: Service
  /// Nanoseconds since 1970 after which an added entry is gone; nil: never.
  var expires: Int64?

  // MARK: Reading

  /// The updates of a message. Errors: what is none, with the rule it breaks. Kinds we have no use for are left out.
  static func read(_ payload: [UInt8]) throws(WireError) -> [GossipUpdate] {
    switch payload.first {
    case 0x64: return try readJSON(Array(payload.dropFirst()))
    case 0x0A, 0x08, 0x10, 0x18: return try readProtobuf(payload, hasID: payload[0] == 0x0A).map { [$0] } ?? []
    case nil: throw WireError("an empty gossip update")
    default: throw WireError("a gossip update of an unknown generation")
    }
  }

  private static func readJSON(_ bytes: [UInt8]) throws(WireError) -> [GossipUpdate] {
    guard case .array(let items) = try JSONValue(parsing: bytes), items.count <= updatesMax else {
      throw WireError("a gossip update is no list")
    }
    var updates: [GossipUpdate] = []
    for item in items {
      guard let json = item.value(ignoringCase: "Service"), !json.isNull else { continue }
      let ttl = item.value(ignoringCase: "Expires")?.intValue ?? 0
      let time = item.value(ignoringCase: "Timestamp")?.intValue ?? 0
      let (seconds, overflow) = time.addingReportingOverflow(ttl)
      updates.append(
        GossipUpdate(
          action: item.value(ignoringCase: "Action")?.intValue == 1 ? .remove : .add, service: try Service(json: json),
          expires: ttl > 0 && !overflow ? saturating(seconds, 1_000_000_000) : nil))
    }
    return updates
  }

  private static func saturating(_ value: Int, _ factor: Int64) -> Int64 {
    let (product, overflow) = Int64(value).multipliedReportingOverflow(by: factor)
    return overflow ? .max : product
  }

  private static func readProtobuf(_ bytes: [UInt8], hasID: Bool) throws(WireError) -> GossipUpdate? {
    var reader = Fields(bytes)
    var (first, second, third): (UInt64, UInt64, UInt64) = (0, 0, 0)
    var texts: [UInt64: [UInt8]] = [:]
    while let (number, value) = try reader.next() {
      switch (number, value) {
      case (1, .number(let value)): first = value
      case (2, .number(let value)): second = value
      case (3, .number(let value)): third = value
      case (let number, .bytes(let bytes)) where number == 4 || number == 5 || number == 7: texts[number] = bytes
      default: break
      }
    }
    let action: Action
    var expires: Int64?
    if hasID {
      switch String(decoding: texts[5] ?? [], as: UTF8.self) {
      case "update", "create": action = .add
      case "delete": action = .remove
      default: return nil
      }
      let (sum, overflow) = second.addingReportingOverflow(third)
      if third > 0, !overflow { expires = Int64(clamping: sum) }
    } else {
      // Other kinds than services, and `update` and `sync`, which Go's own readers leave out too.
      guard second == 1 else { return nil }
      switch third {
      case 1: action = .add
      case 2: action = .remove
      default: return nil
      }
      if first > 0 { expires = Int64(clamping: first) }
    }
    guard let json = texts[7] else { throw WireError("a gossip update without a service") }
    return GossipUpdate(action: action, service: try Service(json: try JSONValue(parsing: json)), expires: expires)
  }

  /// Numbers and length-delimited fields of a protobuf message; others are skipped.
  private struct Fields {
    enum Value {
      case number(UInt64)
      case bytes([UInt8])
      case skipped
    }
    private let input: [UInt8]
    private var offset = 0
    init(_ input: [UInt8]) { self.input = input }

    mutating func next() throws(WireError) -> (UInt64, Value)? {
      guard offset < input.count else { return nil }
      let key = try varint()
      switch key & 7 {
      case 0: return (key >> 3, .number(try varint()))
      case 1: return (key >> 3, try skip(8))
      case 2:
        let length = try varint()
        guard length <= UInt64(input.count - offset) else { throw WireError("a field ends too soon", offset: offset) }
        defer { offset += Int(length) }
        return (key >> 3, .bytes(Array(input[offset..<offset + Int(length)])))
      case 5: return (key >> 3, try skip(4))
      default: throw WireError("a field of an unknown kind", offset: offset)
      }
    }

    private mutating func skip(_ count: Int) throws(WireError) -> Value {
      guard input.count - offset >= count else { throw WireError("a field ends too soon", offset: offset) }
      offset += count
      return .skipped
    }

    private mutating func varint() throws(WireError) -> UInt64 {
      var value: UInt64 = 0
      for shift in stride(from: 0 as UInt64, to: 70, by: 7) {
        guard offset < input.count else { throw WireError("a number ends too soon", offset: offset) }
        let byte = input[offset]
        offset += 1
        value |= UInt64(byte & 0x7F) &<< shift
        if byte < 0x80 { return value }
      }
      throw WireError("a number of more than ten bytes", offset: offset)
    }
  }

  // MARK: Writing

  func bytes(_ generation: GossipGeneration, now: Int64, addressForm: NodeAddressForm) -> [UInt8] {
    let json = service.json(addressForm: addressForm)
    let ttl = expires.map { max($0 - now, 0) } ?? 0
    switch generation {
    case .v1:
      let update = JSONValue.object([
        .init("Action", JSONValue(action == .add ? 0 : 1)), .init("Service", json),
        .init("Timestamp", JSONValue(now / 1_000_000_000)),
        .init("Expires", JSONValue((ttl + 999_999_999) / 1_000_000_000)),
      ])
      return [0x64] + Array(JSONValue.array([update]).text().utf8)
    case .v2:
      var out: [UInt8] = []
      Self.append(1, Array((service.nodes.first?.id ?? service.name).utf8), to: &out)
      Self.append(2, UInt64(clamping: now), to: &out)
      Self.append(3, UInt64(clamping: ttl), to: &out)
      Self.append(4, Array("service".utf8), to: &out)
      Self.append(5, Array((action == .add ? "update" : "delete").utf8), to: &out)
      Self.appendRest(json, to: &out)
      return out
    case .v3:
      var out: [UInt8] = []
      Self.append(1, action == .add ? UInt64(clamping: expires ?? 0) : 0, to: &out)
      Self.append(2, 1, to: &out)
      Self.append(3, action == .add ? 1 : 2, to: &out)
      Self.appendRest(json, to: &out)
      return out
    }
  }

  private static func appendRest(_ json: JSONValue, to out: inout [UInt8]) {
    var entry: [UInt8] = []
    append(1, Array("Content-Type".utf8), to: &entry)
    append(2, Array("application/json".utf8), to: &entry)
    append(6, entry, to: &out)
    append(7, Array(json.text().utf8), to: &out)
  }

  /// Proto3 leaves zero out.
  private static func append(_ number: UInt64, _ value: UInt64, to out: inout [UInt8]) {
    guard value > 0 else { return }
    varint(number << 3, to: &out)
    varint(value, to: &out)
  }
  private static func append(_ number: UInt64, _ bytes: [UInt8], to out: inout [UInt8]) {
    varint(number << 3 | 2, to: &out)
    varint(UInt64(bytes.count), to: &out)
    out += bytes
  }
  private static func varint(_ value: UInt64, to out: inout [UInt8]) {
    var value = value
    while value >= 0x80 {
      out.append(UInt8(truncatingIfNeeded: value) | 0x80)
      value >>= 7
    }
    out.append(UInt8(value))
  }

  // MARK: The state that streams carry at a join

  /// `{"<service>":[Service,…],…}`; entries that cannot be read are told to `leftOut`.
  static func readState(_ bytes: [UInt8], _ leftOut: (String, String) -> Void) throws(WireError) -> [Service] {
    if bytes.isEmpty { return [] }
    guard case .object(let members) = try JSONValue(parsing: bytes) else {
      throw WireError("the state of a gossip member is no object")
    }
    var services: [Service] = []
    for member in members {
      for json in member.value.arrayValue ?? [] where !json.isNull {
        do throws(WireError) { services.append(try Service(json: json)) } catch { leftOut(member.key, error.rule) }
      }
    }
    return services
  }

  static func state(_ services: [Service], addressForm: NodeAddressForm) -> [UInt8] {
    let groups = Dictionary(grouping: services, by: \.name).sorted { $0.key < $1.key }
    let members = groups.map { name, services in
      JSONValue.Member(name, .array(services.map { $0.json(addressForm: addressForm) }))
    }
    return Array(JSONValue.object(members).text().utf8)
  }
}
