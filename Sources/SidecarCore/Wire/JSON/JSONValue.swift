// JSON as a tree, for the control plane: configuration, registries, admin replies, error bodies. The data path cuts
// envelopes with `JSONScanner` instead.

/// A JSON document in memory. Numbers keep their digits and objects their order, so what is read can be written back
/// unchanged in meaning.
public enum JSONValue: Sendable, Hashable {
  case null
  case bool(Bool)
  /// The digits as written, such as `9007199254740993` or `1e400`.
  case number(String)
  case string(String)
  case array([JSONValue])
  case object([Member])

  /// A key and its value.
  public struct Member: Sendable, Hashable {
    public var key: String
    public var value: JSONValue
    public init(_ key: String, _ value: JSONValue) {
      self.key = key
      self.value = value
    }
  }

  /// Levels of nesting read and, at most, to be asked for.
  public static let depthMax = JSONScanner.depthMax

  /// A finite number in the shortest form that reads back the same; others, which JSON has no word for, become null.
  public init(_ number: Double) {
    guard number.isFinite else {
      self = .null
      return
    }
    let digits = "\(number)"
    self = .number(digits.hasSuffix(".0") ? String(digits.dropLast(2)) : digits)
  }
  public init(_ number: some BinaryInteger) { self = .number("\(number)") }
}

// MARK: Reading

extension JSONValue {
  /// Reads one document. Errors: `WireError` for what is not JSON by RFC 8259, for broken UTF-8, for what follows the
  /// document and for more than `depthLimit` levels (at most `depthMax`). Half a surrogate pair becomes U+FFFD.
  public init(parsing bytes: UnsafeRawBufferPointer, depthLimit: Int = JSONValue.depthMax) throws(WireError) {
    let range = try JSONValue.checked(bytes, depthLimit)
    self = JSONValue.build(bytes, range, scratch: ByteBuffer())
  }
  public init(parsing bytes: [UInt8], depthLimit: Int = JSONValue.depthMax) throws(WireError) {
    let result = bytes.withUnsafeBytes { bytes in
      Result { () throws(WireError) in try JSONValue(parsing: bytes, depthLimit: depthLimit) }
    }
    self = try result.get()
  }
  public init(parsing text: String, depthLimit: Int = JSONValue.depthMax) throws(WireError) {
    try self.init(parsing: Array(text.utf8), depthLimit: depthLimit)
  }

  private static func checked(_ bytes: UnsafeRawBufferPointer, _ depthLimit: Int) throws(WireError) -> Range<Int> {
    var scanner = JSONScanner(bytes, depthMax: min(max(depthLimit, 0), depthMax))
    let range = try scanner.scanValue()
    try scanner.expectEnd()
    return range
  }

  /// Builds the tree of bytes that were checked before, so that nothing here can fail. One pass: every byte is looked
  /// at once here and once by the check.
  private static func build(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>, scratch: ByteBuffer) -> JSONValue {
    var offset = range.lowerBound
    return build(bytes, at: &offset, scratch)
  }

  private static func build(_ bytes: UnsafeRawBufferPointer, at offset: inout Int, _ scratch: ByteBuffer) -> JSONValue {
    skipSeparators(bytes, &offset)
    switch bytes[offset] {
    case UInt8(ascii: "{"):
      offset += 1
      var members: [Member] = []
      while true {
        skipSeparators(bytes, &offset)
        if bytes[offset] == UInt8(ascii: "}") { break }
        let key = buildString(bytes, at: &offset, scratch)
        members.append(Member(key, build(bytes, at: &offset, scratch)))
      }
      offset += 1
      return .object(members)
    case UInt8(ascii: "["):
      offset += 1
      var elements: [JSONValue] = []
      while true {
        skipSeparators(bytes, &offset)
        if bytes[offset] == UInt8(ascii: "]") { break }
        elements.append(build(bytes, at: &offset, scratch))
      }
      offset += 1
      return .array(elements)
    case UInt8(ascii: "\""): return .string(buildString(bytes, at: &offset, scratch))
    case UInt8(ascii: "t"):
      offset += 4
      return .bool(true)
    case UInt8(ascii: "f"):
      offset += 5
      return .bool(false)
    case UInt8(ascii: "n"):
      offset += 4
      return .null
    default:
      let start = offset
      while offset < bytes.count, isNumberByte(bytes[offset]) { offset += 1 }
      return .number(String(decoding: UnsafeRawBufferPointer(rebasing: bytes[start..<offset]), as: UTF8.self))
    }
  }

  private static func isNumberByte(_ byte: UInt8) -> Bool {
    byte &- UInt8(ascii: "0") < 10 || byte == UInt8(ascii: "-") || byte == UInt8(ascii: "+")
      || byte == UInt8(ascii: ".") || byte | 0x20 == UInt8(ascii: "e")
  }

  private static func skipSeparators(_ bytes: UnsafeRawBufferPointer, _ offset: inout Int) {
    while offset < bytes.count {
      switch bytes[offset] {
      case 0x20, 0x0A, 0x0D, 0x09, UInt8(ascii: ","), UInt8(ascii: ":"): offset += 1
      default: return
      }
    }
  }

  private static func buildString(_ bytes: UnsafeRawBufferPointer, at offset: inout Int, _ scratch: ByteBuffer)
    -> String
  {
    offset += 1
    let start = offset
    var escaped = false
    while bytes[offset] != UInt8(ascii: "\"") {
      let isEscape = bytes[offset] == UInt8(ascii: "\\")
      escaped = escaped || isEscape
      offset += isEscape ? 2 : 1
    }
    let content = start..<offset
    offset += 1
    guard escaped else { return String(decoding: UnsafeRawBufferPointer(rebasing: bytes[content]), as: UTF8.self) }
    scratch.removeAll()
    JSONText.unescape(bytes, content, into: scratch)
    return String(decoding: scratch.bytes, as: UTF8.self)
  }
}

// MARK: Looking inside

extension JSONValue {
  /// The member with exactly this key, the last if there are several; nil when there is none or this is no object.
  public subscript(key: String) -> JSONValue? {
    guard case .object(let members) = self else { return nil }
    return members.last { $0.key == key }?.value
  }

  /// The element at `index`; nil when there is none or this is no array.
  public subscript(index: Int) -> JSONValue? {
    guard case .array(let elements) = self, elements.indices.contains(index) else { return nil }
    return elements[index]
  }

  /// The member with this key in any case of letters, the last if there are several, as encoding/json finds the fields
  /// of a struct.
  public func value(ignoringCase key: String) -> JSONValue? {
    guard case .object(let members) = self else { return nil }
    let wanted = key.lowercased()
    return members.last { $0.key == key || $0.key.lowercased() == wanted }?.value
  }

  public var isNull: Bool { self == .null }
  public var boolValue: Bool? { if case .bool(let value) = self { value } else { nil } }
  public var stringValue: String? { if case .string(let value) = self { value } else { nil } }
  public var arrayValue: [JSONValue]? { if case .array(let value) = self { value } else { nil } }
  public var objectValue: [Member]? { if case .object(let value) = self { value } else { nil } }
  /// The digits of a number.
  public var numberText: String? { if case .number(let value) = self { value } else { nil } }
  /// A number written without fraction and exponent that fits; nil for any other.
  public var intValue: Int? { numberText.flatMap { Int($0) } }
  public var uint64Value: UInt64? { numberText.flatMap { UInt64($0) } }
  /// The nearest double; nil for what is no number or out of range.
  public var doubleValue: Double? { numberText.flatMap { Double($0) }.flatMap { $0.isFinite ? $0 : nil } }
}

// MARK: Writing

extension JSONValue {
  /// How the document is laid out.
  public enum Layout: Sendable {
    /// No white space.
    case compact
    /// A line per member and element, indented with tabs, as Go's `MarshalIndent(v, "", "\t")`.
    case tabbed
  }

  /// Writes the document at the end of `buffer`, without a line end.
  public func write(into buffer: ByteBuffer, layout: Layout = .compact, escaping: JSONEscaping = .go) {
    write(into: buffer, layout, escaping, indent: 0)
  }

  /// The document as text.
  public func text(layout: Layout = .compact, escaping: JSONEscaping = .go) -> String {
    let buffer = ByteBuffer()
    write(into: buffer, layout: layout, escaping: escaping)
    return String(decoding: buffer.bytes, as: UTF8.self)
  }

  private func write(into buffer: ByteBuffer, _ layout: Layout, _ escaping: JSONEscaping, indent: Int) {
    switch self {
    case .null: buffer.append("null")
    case .bool(let value): buffer.append(value ? "true" : "false")
    case .number(let digits): buffer.append(digits)
    case .string(let text): JSONText.append(text, escaping: escaping, into: buffer)
    case .array(let elements):
      buffer.append(UInt8(ascii: "["))
      for (index, element) in elements.enumerated() {
        Self.separate(index, into: buffer, layout, indent + 1)
        element.write(into: buffer, layout, escaping, indent: indent + 1)
      }
      if !elements.isEmpty { Self.breakLine(into: buffer, layout, indent) }
      buffer.append(UInt8(ascii: "]"))
    case .object(let members):
      buffer.append(UInt8(ascii: "{"))
      for (index, member) in members.enumerated() {
        Self.separate(index, into: buffer, layout, indent + 1)
        JSONText.append(member.key, escaping: escaping, into: buffer)
        buffer.append(UInt8(ascii: ":"))
        if layout == .tabbed { buffer.append(UInt8(ascii: " ")) }
        member.value.write(into: buffer, layout, escaping, indent: indent + 1)
      }
      if !members.isEmpty { Self.breakLine(into: buffer, layout, indent) }
      buffer.append(UInt8(ascii: "}"))
    }
  }

  private static func separate(_ index: Int, into buffer: ByteBuffer, _ layout: Layout, _ indent: Int) {
    if index > 0 { buffer.append(UInt8(ascii: ",")) }
    breakLine(into: buffer, layout, indent)
  }

  private static func breakLine(into buffer: ByteBuffer, _ layout: Layout, _ indent: Int) {
    guard layout == .tabbed else { return }
    buffer.append(0x0A as UInt8)
    for _ in 0..<indent { buffer.append(0x09 as UInt8) }
  }
}

// MARK: Literals

extension JSONValue: ExpressibleByNilLiteral, ExpressibleByBooleanLiteral, ExpressibleByIntegerLiteral,
  ExpressibleByFloatLiteral, ExpressibleByStringInterpolation, ExpressibleByArrayLiteral,
  ExpressibleByDictionaryLiteral
{
  public init(nilLiteral: ()) { self = .null }
  public init(booleanLiteral value: Bool) { self = .bool(value) }
  public init(integerLiteral value: Int) { self = .number("\(value)") }
  public init(floatLiteral value: Double) { self.init(value) }
  public init(stringLiteral value: String) { self = .string(value) }
  public init(arrayLiteral elements: JSONValue...) { self = .array(elements) }
  public init(dictionaryLiteral elements: (String, JSONValue)...) {
    self = .object(elements.map { Member($0.0, $0.1) })
  }
}
