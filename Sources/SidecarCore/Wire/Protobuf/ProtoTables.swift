// What the transcoder needs to know of message types, laid out for its loops: plain structs at fixed addresses that
// refer to each other by pointer, so that following a field to its message costs one load and no reference count.
//
// All of it lies in one `TableArena`, which a `DescriptorPool` owns. After linking nothing changes any more, so any
// number of loops may read it.

/// The types of descriptor.proto (FieldDescriptorProto.Type), by their numbers there.
package enum FieldType: UInt8, Sendable {
  case double = 1
  case float, int64, uint64, int32, fixed64, fixed32, bool, string, group, message, bytes, uint32, enumeration
  case sfixed32, sfixed64, sint32, sint64

  /// How one value stands on the wire; 3 for a group.
  var wireType: UInt8 {
    switch self {
    case .double, .fixed64, .sfixed64: 1
    case .float, .fixed32, .sfixed32: 5
    case .string, .bytes, .message: 2
    case .group: 3
    case .int64, .uint64, .int32, .bool, .uint32, .enumeration, .sint32, .sint64: 0
    }
  }

  var isPackable: Bool { wireType == 0 || wireType == 1 || wireType == 5 }
}

enum FieldShape: UInt8 { case singular, repeated, map }

/// Messages whose JSON is not that of their fields (protobuf's ProtoJSON page), and the two that look like it.
enum MessageKind: UInt8 {
  case plain, empty, any, timestamp, duration, fieldMask, structure, value, listValue
  /// google.protobuf.StringValue and its like: their JSON is that of their one field.
  case wrapper
}

struct FieldTable {
  var number: UInt32 = 0
  /// Its place in `MessageTable.fields`, and its bit among those seen.
  var index = 0
  var type = FieldType.int32
  var shape = FieldShape.singular
  /// A repeated field is written packed.
  var isPacked = false
  /// A singular field is written when it is zero too: proto2, `optional`, members of a oneof, messages.
  var hasPresence = false
  var isRequired = false
  /// The bit of its oneof among those seen; -1 for none, and for the one that `optional` makes up.
  var oneofBit = -1
  /// As it is written, lowest byte first.
  var tag: UInt64 = 0
  var tagBytes = 0
  /// Of a message, group or map entry.
  var message: UnsafeMutablePointer<MessageTable>?
  var enumeration: UnsafeMutablePointer<EnumTable>?
  /// `"jsonName":` as it stands in a document.
  var jsonKey = UnsafeRawBufferPointer(start: nil, count: 0)
  /// `"original_name":`
  var originalKey = UnsafeRawBufferPointer(start: nil, count: 0)

  var wireType: UInt8 { isPacked ? 2 : type.wireType }
  /// The name for people, as the .proto file has it.
  var name: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: originalKey.dropFirst().dropLast(2)) }
}

struct MessageTable {
  var kind = MessageKind.plain
  /// The full name without a leading dot.
  var name = UnsafeRawBufferPointer(start: nil, count: 0)
  /// By number, ascending.
  var fields = UnsafeMutableBufferPointer<FieldTable>(start: nil, count: 0)
  /// One more than the place in `fields`, 0 for none, for numbers below its count.
  var lowNumbers = UnsafeMutableBufferPointer<UInt16>(start: nil, count: 0)
  /// JSON names and original names; their values are places in `fields`.
  var names = NameTable()
  /// Bits needed for the fields and oneofs seen, as words.
  var seenWords = 1
  var requiredCount = 0
  /// proto1's wire format, which has no JSON.
  var isMessageSet = false

  func field(number: UInt32) -> UnsafeMutablePointer<FieldTable>? {
    if number < UInt32(truncatingIfNeeded: lowNumbers.count) {
      let place = lowNumbers[Int(number)]
      return place == 0 ? nil : fields.baseAddress! + Int(place &- 1)
    }
    var low = 0
    var high = fields.count
    while low < high {
      let middle = (low &+ high) / 2
      if fields[middle].number < number { low = middle &+ 1 } else { high = middle }
    }
    return low < fields.count && fields[low].number == number ? fields.baseAddress! + low : nil
  }
}

struct EnumTable {
  var name = UnsafeRawBufferPointer(start: nil, count: 0)
  /// Numbers not listed are no values of it (proto2).
  var isClosed = false
  /// google.protobuf.NullValue, written as `null`.
  var isNullValue = false
  /// The first value of the file's list.
  var defaultNumber: Int32 = 0
  /// Names; their values are numbers.
  var names = NameTable()
  /// By number, ascending; of aliases the first one.
  var values = UnsafeMutableBufferPointer<EnumValue>(start: nil, count: 0)
  /// The values are the numbers from `values[0]` on without a gap.
  var isDense = false

  struct EnumValue {
    var number: Int32
    /// With quotes.
    var quoted: UnsafeRawBufferPointer
  }

  func value(_ number: Int32) -> UnsafeMutablePointer<EnumValue>? {
    guard values.count > 0 else { return nil }
    if isDense {
      let place = Int(number) - Int(values[0].number)
      return place >= 0 && place < values.count ? values.baseAddress! + place : nil
    }
    var low = 0
    var high = values.count
    while low < high {
      let middle = (low &+ high) / 2
      if values[middle].number < number { low = middle &+ 1 } else { high = middle }
    }
    return low < values.count && values[low].number == number ? values.baseAddress! + low : nil
  }
}

/// Names to numbers: open addressing, at most half full, found by the bytes.
struct NameTable {
  struct Slot {
    var base: UnsafePointer<UInt8>?
    var count: Int
    var value: Int32
  }
  private(set) var slots: UnsafeMutablePointer<Slot>?
  private(set) var mask = 0

  init() {}

  init(capacity: Int, in arena: TableArena) {
    var size = 4
    while size < capacity * 2 { size *= 2 }
    slots = arena.make(size, Slot(base: nil, count: 0, value: 0)).baseAddress
    mask = size - 1
  }

  /// Adds a name, which must live as long as the table; false when it is there already with another value.
  mutating func insert(_ name: UnsafeRawBufferPointer, _ value: Int32) -> Bool {
    guard let slots, let base = name.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return false }
    var index = Self.hash(base, name.count) & mask
    while let known = slots[index].base {
      if slots[index].count == name.count, Bytes.areEqual(known, base, name.count) {
        return slots[index].value == value
      }
      index = (index &+ 1) & mask
    }
    slots[index] = Slot(base: base, count: name.count, value: value)
    return true
  }

  @inline(__always) func find(_ name: UnsafePointer<UInt8>, _ count: Int) -> Int32? {
    guard let slots else { return nil }
    var index = Self.hash(name, count) & mask
    while let known = slots[index].base {
      if slots[index].count == count, Bytes.areEqual(known, name, count) { return slots[index].value }
      index = (index &+ 1) & mask
    }
    return nil
  }

  @inline(__always) static func hash(_ name: UnsafePointer<UInt8>, _ count: Int) -> Int {
    let raw = UnsafeRawPointer(name)
    var hash = UInt64(truncatingIfNeeded: count)
    var offset = 0
    while offset &+ 8 <= count {
      hash = (hash ^ raw.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) &* 0x9E37_79B9_7F4A_7C15
      hash ^= hash &>> 29
      offset &+= 8
    }
    var rest: UInt64 = 0
    while offset < count {
      rest = rest &<< 8 | UInt64(name[offset])
      offset &+= 1
    }
    hash = (hash ^ rest) &* 0x9E37_79B9_7F4A_7C15
    return Int(truncatingIfNeeded: hash &>> 32)
  }
}

package enum Bytes {
  @inline(__always)
  static func areEqual(_ left: UnsafePointer<UInt8>, _ right: UnsafePointer<UInt8>, _ count: Int) -> Bool {
    let left = UnsafeRawPointer(left)
    let right = UnsafeRawPointer(right)
    if count >= 8 {
      var offset = 0
      while offset &+ 8 <= count {
        if left.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
          != right.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
        {
          return false
        }
        offset &+= 8
      }
      // The last eight again, of which some may have been looked at before.
      return left.loadUnaligned(fromByteOffset: count &- 8, as: UInt64.self)
        == right.loadUnaligned(fromByteOffset: count &- 8, as: UInt64.self)
    }
    if count >= 4 {
      return left.loadUnaligned(as: UInt32.self) == right.loadUnaligned(as: UInt32.self)
        && left.loadUnaligned(fromByteOffset: count &- 4, as: UInt32.self)
          == right.loadUnaligned(fromByteOffset: count &- 4, as: UInt32.self)
    }
    for offset in 0..<count
    where left.load(fromByteOffset: offset, as: UInt8.self) != right.load(fromByteOffset: offset, as: UInt8.self) {
      return false
    }
    return true
  }

  /// Copies `count` bytes. Short ones as two whole words: most strings are, and a call of memcpy costs as much as the
  /// rest of their field. The target has room for 16 bytes, the source can be read up to `sourceEnd`.
  @inline(__always)
  static func copy(
    _ source: UnsafeRawPointer, to target: UnsafeMutablePointer<UInt8>, _ count: Int, sourceEnd: UnsafePointer<UInt8>
  ) {
    let target = UnsafeMutableRawPointer(target)
    if count <= 16, UnsafeRawPointer(sourceEnd) - source >= 16 {
      target.storeBytes(of: source.loadUnaligned(as: UInt64.self), as: UInt64.self)
      target.storeBytes(of: source.loadUnaligned(fromByteOffset: 8, as: UInt64.self), toByteOffset: 8, as: UInt64.self)
    } else {
      target.copyMemory(from: source, byteCount: count)
    }
  }
}

/// Memory of tables: given out once, freed together.
final class TableArena {
  private var blocks: [UnsafeMutableRawPointer] = []

  deinit { for block in blocks { block.deallocate() } }

  /// `count` copies of a plain value at an address that stays.
  func make<Element>(_ count: Int, _ element: Element) -> UnsafeMutableBufferPointer<Element> {
    guard count > 0 else { return UnsafeMutableBufferPointer(start: nil, count: 0) }
    let buffer = UnsafeMutableBufferPointer<Element>.allocate(capacity: count)
    buffer.initialize(repeating: element)
    blocks.append(UnsafeMutableRawPointer(buffer.baseAddress!))
    return buffer
  }

  func copy(_ text: String) -> UnsafeRawBufferPointer { copy(Array(text.utf8)) }

  /// The bytes; empty ones have an address too.
  func copy(_ bytes: [UInt8]) -> UnsafeRawBufferPointer {
    // Comparisons load words and halves, never beyond the bytes; two more words let names be copied as whole ones.
    let buffer = make(bytes.count + 16, 0 as UInt8)
    for (index, byte) in bytes.enumerated() { buffer[index] = byte }
    return UnsafeRawBufferPointer(start: buffer.baseAddress, count: bytes.count)
  }
}
