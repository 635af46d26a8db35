// The bodies of memberlist's messages: msgpack maps keyed by Go field names, in the old form of msgpack, where text and bytes
// are one kind (hashicorp/go-msgpack @ v0.5.3). Newer forms are read too.

/// Fields of one message. A name that is not known to a message is skipped by whoever reads it.
struct MemberlistFields {
  enum Value: Equatable {
    case none
    case flag(Bool)
    case number(UInt64)
    case bytes([UInt8])
  }

  /// Fields of one map.
  static let fieldsMax = 32

  private(set) var values: [String: Value] = [:]

  func number(_ name: String) -> UInt64 { if case .number(let value) = values[name] { value } else { 0 } }
  func bytes(_ name: String) -> [UInt8] { if case .bytes(let value) = values[name] { value } else { [] } }
  func text(_ name: String) -> String { String(decoding: bytes(name), as: UTF8.self) }
  func flag(_ name: String) -> Bool { values[name] == .flag(true) }

  /// Reads one map from the front of `reader`. `MemberlistShort` when it ends too soon.
  init(_ reader: inout MemberlistReader) throws(MemberlistError) {
    let kind = try reader.byte()
    let count: Int
    switch kind {
    case 0x80...0x8F: count = Int(kind & 0x0F)
    case 0xDE: count = Int(try reader.number(2))
    default: throw .broken(WireError("a memberlist message is no map", offset: reader.offset))
    }
    guard count <= Self.fieldsMax else {
      throw .broken(WireError("a memberlist message of more than \(Self.fieldsMax) fields", offset: reader.offset))
    }
    for _ in 0..<count {
      guard case .bytes(let name) = try Self.value(&reader) else {
        throw .broken(WireError("a memberlist field without a name", offset: reader.offset))
      }
      values[String(decoding: name, as: UTF8.self)] = try Self.value(&reader)
    }
  }

  private static func value(_ reader: inout MemberlistReader) throws(MemberlistError) -> Value {
    let kind = try reader.byte()
    switch kind {
    case 0x00...0x7F: return .number(UInt64(kind))
    case 0xA0...0xBF: return .bytes(try reader.bytes(Int(kind & 0x1F)))
    case 0xC0: return .none
    case 0xC2: return .flag(false)
    case 0xC3: return .flag(true)
    case 0xC4, 0xD9: return .bytes(try reader.bytes(Int(try reader.number(1))))
    case 0xC5, 0xDA: return .bytes(try reader.bytes(Int(try reader.number(2))))
    case 0xC6, 0xDB: return .bytes(try reader.bytes(Int(try reader.number(4))))
    case 0xCC: return .number(try reader.number(1))
    case 0xCD: return .number(try reader.number(2))
    case 0xCE: return .number(try reader.number(4))
    case 0xCF: return .number(try reader.number(8))
    // Go writes lengths as signed numbers; no field has a negative one.
    case 0xD0...0xD3:
      let value = try reader.number(1 << Int(kind - 0xD0))
      guard value >> (UInt64(8) << UInt64(kind - 0xD0) - 1) == 0 else {
        throw .broken(WireError("a negative number in a memberlist message", offset: reader.offset))
      }
      return .number(value)
    default: throw .broken(WireError("a memberlist field of an unknown kind", offset: reader.offset))
    }
  }
}

/// Why bytes are no message yet, or never.
enum MemberlistError: Error, Equatable {
  /// They may become one with more of them.
  case short
  case broken(WireError)

  /// For datagrams, which are whole.
  var wireError: WireError {
    switch self {
    case .short: WireError("a memberlist message ends too soon")
    case .broken(let error): error
    }
  }
}

struct MemberlistReader {
  private let input: UnsafeRawBufferPointer
  private(set) var offset = 0
  init(_ input: UnsafeRawBufferPointer) { self.input = input }

  var isAtEnd: Bool { offset == input.count }
  var rest: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: input[offset...]) }

  mutating func byte() throws(MemberlistError) -> UInt8 {
    guard offset < input.count else { throw .short }
    defer { offset += 1 }
    return input[offset]
  }

  mutating func bytes(_ count: Int) throws(MemberlistError) -> [UInt8] {
    guard count <= Memberlist.streamBytesMax else {
      throw .broken(WireError("a memberlist field of \(count) bytes", offset: offset))
    }
    guard input.count - offset >= count else { throw .short }
    defer { offset += count }
    return Array(input[offset..<offset + count])
  }

  /// Big-endian, of 1, 2, 4 or 8 bytes.
  mutating func number(_ size: Int) throws(MemberlistError) -> UInt64 {
    var value: UInt64 = 0
    for _ in 0..<size { value = value &<< 8 | UInt64(try byte()) }
    return value
  }
}

/// Writes a map in the form that every version reads: field names in order, the smallest unsigned form of numbers.
struct MemberlistWriter {
  private(set) var bytes: [UInt8] = []

  init(_ kind: Memberlist.Kind, fields: Int) { bytes = [kind.rawValue, 0x80 | UInt8(fields)] }
  /// A map without a kind in front of it.
  init(fields: Int) { bytes = [0x80 | UInt8(fields)] }

  mutating func field(_ name: String, _ value: UInt64) {
    append(Array(name.utf8))
    switch value {
    case 0...0x7F: bytes.append(UInt8(value))
    case 0...0xFF: append(0xCC, value, 1)
    case 0...0xFFFF: append(0xCD, value, 2)
    case 0...0xFFFF_FFFF: append(0xCE, value, 4)
    default: append(0xCF, value, 8)
    }
  }
  mutating func field(_ name: String, _ value: Bool) {
    append(Array(name.utf8))
    bytes.append(value ? 0xC3 : 0xC2)
  }
  mutating func field(_ name: String, _ value: String) { field(name, Array(value.utf8)) }
  mutating func field(_ name: String, _ value: [UInt8]) {
    append(Array(name.utf8))
    append(value)
  }

  private mutating func append(_ text: [UInt8]) {
    switch text.count {
    case 0...31: bytes.append(0xA0 | UInt8(text.count))
    case 0...0xFFFF: append(0xDA, UInt64(text.count), 2)
    default: append(0xDB, UInt64(text.count), 4)
    }
    bytes += text
  }

  private mutating func append(_ kind: UInt8, _ value: UInt64, _ size: Int) {
    bytes.append(kind)
    for index in (0..<size).reversed() { bytes.append(UInt8(truncatingIfNeeded: value &>> UInt64(8 * index))) }
  }
}
