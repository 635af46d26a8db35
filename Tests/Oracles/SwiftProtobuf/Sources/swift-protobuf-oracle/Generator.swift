// Random messages as bytes of protobuf, by their descriptors: fields in any order, packed or not, given twice now and then,
// as other writers may have them.

import SwiftProtobuf

struct Random: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  /// SplitMix64.
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z &>> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z &>> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z &>> 31)
  }
  mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
  mutating func chance(_ percent: Int) -> Bool { below(100) < percent }
  mutating func pick<Element>(_ choices: [Element]) -> Element { choices[below(choices.count)] }
}

struct Generator {
  typealias Field = Google_Protobuf_FieldDescriptorProto

  var random: Random
  private var messages: [String: Google_Protobuf_DescriptorProto] = [:]
  private var enums: [String: [Int32]] = [:]
  /// Enums of proto3, whose fields may hold any number.
  private var openEnums: Set<String> = []
  private static let depthMax = 3

  init(sets: [Google_Protobuf_FileDescriptorSet], seed: UInt64) {
    random = Random(seed: seed)
    for file in sets.flatMap(\.file) {
      let isOpen = file.syntax == "proto3"
      for declared in file.enumType { add(declared, in: file.package, isOpen) }
      for message in file.messageType { add(message, in: file.package, isOpen) }
    }
  }

  private mutating func add(_ declared: Google_Protobuf_EnumDescriptorProto, in scope: String, _ isOpen: Bool) {
    let name = "\(scope).\(declared.name)"
    enums[name] = declared.value.map(\.number)
    if isOpen { openEnums.insert(name) }
  }

  private mutating func add(_ message: Google_Protobuf_DescriptorProto, in scope: String, _ isOpen: Bool) {
    let name = "\(scope).\(message.name)"
    messages[name] = message
    for declared in message.enumType { add(declared, in: name, isOpen) }
    for nested in message.nestedType { add(nested, in: name, isOpen) }
  }

  // MARK: Messages

  mutating func message(_ name: String, depth: Int = 0) -> [UInt8] {
    switch name {
    case "google.protobuf.Timestamp":
      let any = Int64.random(in: -62_000_000_000...253_000_000_000, using: &random)
      return time(seconds: random.pick([0, 1, -1, -62_135_596_800, 253_402_300_799, any]))
    case "google.protobuf.Duration": return duration()
    case "google.protobuf.FieldMask":
      return (0..<random.below(4)).flatMap { _ in
        bytesField(1, Array(random.pick(["a", "foo_bar", "user.display_name", "x.y.z", "a_b_c"]).utf8))
      }
    case "google.protobuf.Any": return any(depth)
    case "google.protobuf.Value": return value(depth)
    default: break
    }
    guard let message = messages[name] else { return [] }
    var pieces: [[UInt8]] = []
    for field in message.field where field.type != .group {
      let count = depth == 0 ? 4 : 10
      guard field.label == .required || random.below(count) == 0 || message.field.count < 4 && random.chance(60) else {
        continue
      }
      pieces += occurrences(field, of: message, in: name, depth)
    }
    if random.chance(30) { pieces.shuffle(using: &random) }
    return Array(pieces.joined())
  }

  private mutating func occurrences(
    _ field: Field, of message: Google_Protobuf_DescriptorProto, in scope: String, _ depth: Int
  ) -> [[UInt8]] {
    if field.type == .message {
      let name = String(field.typeName.dropFirst())
      let isMap = messages[name]?.options.mapEntry ?? false
      if depth >= Self.depthMax, !isMap { return [] }
      let count = field.label == .repeated ? random.pick([1, 1, 2, 3]) : random.chance(5) ? 2 : 1
      return (0..<count).map { _ in
        bytesField(field.number, isMap ? entry(name, depth) : self.message(name, depth: depth + 1))
      }
    }
    guard field.label == .repeated else {
      return (0..<(random.chance(5) ? 2 : 1)).map { _ in single(field) }
    }
    let count = random.pick([1, 1, 2, 3, 20])
    if isPackable(field), random.chance(60) {
      return [bytesField(field.number, (0..<count).flatMap { _ in scalar(field) })]
    }
    return (0..<count).map { _ in single(field) }
  }

  private mutating func entry(_ name: String, _ depth: Int) -> [UInt8] {
    guard let fields = messages[name]?.field, fields.count == 2 else { return [] }
    let value = fields[1]
    if value.type == .message {
      let nested = message(String(value.typeName.dropFirst()), depth: max(depth + 1, Self.depthMax))
      return single(fields[0]) + bytesField(2, nested)
    }
    return single(fields[0]) + single(value)
  }

  // MARK: Well-known types

  private func time(seconds: Int64, nanos: Int32 = 0) -> [UInt8] {
    varint(8) + varint(UInt64(bitPattern: seconds)) + varint(16) + varint(UInt64(bitPattern: Int64(nanos)))
  }

  private mutating func duration() -> [UInt8] {
    let seconds = random.pick([0, 1, 315_576_000_000, Int64.random(in: 0...315_575_999_999, using: &random)])
    let part = random.pick([0, 1, 999_999_999, 500_000_000, Int32(random.below(1_000_000_000))])
    let nanos = seconds == 315_576_000_000 ? 0 : part
    let sign: Int64 = random.chance(50) ? -1 : 1
    return time(seconds: sign * seconds, nanos: Int32(sign) * nanos)
  }

  private mutating func any(_ depth: Int) -> [UInt8] {
    guard depth < Self.depthMax else { return [] }
    let name = random.pick([
      "sidecar.test.Everything", "shop.Address", "google.protobuf.Duration", "google.protobuf.Int64Value",
      "google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.Empty",
    ])
    // Swift-protobuf leaves `value` out when a well-known type is packed in no bytes, which nobody reads: so not those.
    let packed =
      switch name {
      case "google.protobuf.Duration": time(seconds: Int64(1 + random.below(1000)))
      case "google.protobuf.Int64Value": [8] + varint(1 + random.next() / 2)
      case "google.protobuf.Struct": bytesField(1, bytesField(1, [0x61]) + bytesField(2, value(Self.depthMax)))
      default: message(name, depth: depth + 1)
      }
    return bytesField(1, Array("type.googleapis.com/\(name)".utf8)) + bytesField(2, packed)
  }

  private mutating func value(_ depth: Int) -> [UInt8] {
    switch random.below(depth < Self.depthMax ? 6 : 4) {
    case 0: return [8, 0]
    case 1:
      return [17] + little(random.pick([0, -1.5, 0.1, 1e21, 5e-324, Double(random.below(1 << 50))]).bitPattern, 8)
    case 2: return bytesField(3, text())
    case 3: return [32, random.chance(50) ? 1 : 0]
    case 4: return bytesField(5, message("google.protobuf.Struct", depth: depth + 1))
    default: return bytesField(6, message("google.protobuf.ListValue", depth: depth + 1))
    }
  }

  // MARK: Scalars

  private func isPackable(_ field: Field) -> Bool { field.type != .string && field.type != .bytes }

  private mutating func single(_ field: Field) -> [UInt8] {
    switch field.type {
    case .string, .bytes: bytesField(field.number, scalar(field))
    case .double, .fixed64, .sfixed64: varint(UInt64(field.number) << 3 | 1) + scalar(field)
    case .float, .fixed32, .sfixed32: varint(UInt64(field.number) << 3 | 5) + scalar(field)
    default: varint(UInt64(field.number) << 3) + scalar(field)
    }
  }

  /// Without a tag; of strings and bytes without a length.
  private mutating func scalar(_ field: Field) -> [UInt8] {
    switch field.type {
    case .double:
      let any = Double(bitPattern: random.next())
      return little(random.pick([any.isNaN ? 1 : any, 0, -0.0, 2.5, 0.1, .infinity, -.infinity, .nan]).bitPattern, 8)
    case .float:
      let any = Float(bitPattern: UInt32(truncatingIfNeeded: random.next()))
      let value = random.pick([any.isNaN ? 1 : any, 0, -0.0, 1.5, 0.1, .greatestFiniteMagnitude, .infinity, .nan])
      return little(UInt64(value.bitPattern), 4)
    case .bool: return [random.chance(50) ? 1 : 0]
    case .string: return text()
    case .bytes:
      return (0..<random.pick([0, 1, 2, 3, 4, 5, 17, 100])).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    case .enum:
      let name = String(field.typeName.dropFirst())
      if name == "google.protobuf.NullValue" { return [0] }
      let known = random.pick(enums[name] ?? [0])
      let number = openEnums.contains(name) && random.chance(20) ? random.pick([3, 77, -1, .min]) : known
      return varint(UInt64(bitPattern: Int64(number)))
    case .fixed64, .sfixed64: return little(UInt64(bitPattern: integer(64)), 8)
    case .fixed32, .sfixed32: return little(UInt64(UInt32(truncatingIfNeeded: integer(32))), 4)
    case .uint32: return varint(UInt64(UInt32(truncatingIfNeeded: integer(32))))
    case .int32: return varint(UInt64(bitPattern: Int64(Int32(truncatingIfNeeded: integer(32)))))
    case .sint32, .sint64:
      let number = field.type == .sint32 ? Int64(Int32(truncatingIfNeeded: integer(32))) : integer(64)
      return varint(UInt64(bitPattern: number << 1 ^ number >> 63))
    default: return varint(UInt64(bitPattern: integer(64)))
    }
  }

  private mutating func integer(_ bits: Int) -> Int64 {
    let any = Int64(bitPattern: random.next() >> UInt64(random.below(64)))
    let least = bits == 64 ? Int64.min : Int64(Int32.min)
    return random.pick([0, 1, -1, 127, 128, least, -1 - least, any, -1 - any])
  }

  private mutating func text() -> [UInt8] {
    switch random.below(5) {
    case 0: return []
    case 1: return (0..<random.below(40)).map { _ in UInt8(random.below(0x80)) }
    case 2:
      let scalars = (0..<random.below(20)).compactMap { _ in Unicode.Scalar(UInt32(random.below(0x110000))) }
      return Array(String(String.UnicodeScalarView(scalars)).utf8)
    case 3: return Array(repeating: 0x78, count: random.pick([1, 7, 8, 9, 15, 16, 17, 127, 128, 300]))
    default:
      let characters = ["a", "b", "c", " ", "\"", "\\", "/", "é", "€", "😀", "\n"]
      return (0..<random.below(30)).flatMap { _ in Array(random.pick(characters).utf8) }
    }
  }

  private func bytesField(_ number: Int32, _ bytes: [UInt8]) -> [UInt8] {
    varint(UInt64(number) << 3 | 2) + varint(UInt64(bytes.count)) + bytes
  }

  private func varint(_ value: UInt64) -> [UInt8] {
    var value = value
    var bytes: [UInt8] = []
    while value >= 0x80 {
      bytes.append(UInt8(truncatingIfNeeded: value) | 0x80)
      value >>= 7
    }
    return bytes + [UInt8(value)]
  }

  private func little(_ value: UInt64, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * $0)) }
  }
}
