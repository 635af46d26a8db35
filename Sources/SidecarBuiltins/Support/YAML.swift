// YAML files as trees, through libyaml's events. Only what a file of settings or services needs: one document of mappings
// with plain keys, sequences and scalars. Anchors, aliases and tags are refused, so that no few bytes can grow into
// gigabytes and no value means something other than what it looks like.
//
// Plain scalars are typed by the YAML 1.2 core schema as far as JSON has the type: `null`, `true`, `2`, `1.5`. What only
// YAML 1.1 types (`yes`, `0x1F`, `1_000`, `12:30`) stays text.

import CYaml
import SidecarCore

/// Why a file is not what it should be. Lines and columns count from 1; both are 0 when the place is not known.
package struct YAMLError: LocatedError, Equatable, Sendable, CustomStringConvertible {
  package var message: String
  package var line: Int
  package var column: Int
  package var description: String { line > 0 ? "line \(line), column \(column): \(message)" : message }
}

package enum YAML {
  /// Bytes of a file; a larger one is refused.
  package static let bytesMax = 4 << 20
  /// Levels of nesting; a document with more is refused.
  package static let depthMax = 32

  /// The document of `bytes`; `.null` when there is nothing in it. Blocks, and is bounded by `bytesMax`. JSON is read as
  /// JSON, so that its every escape works.
  package static func parse(_ bytes: [UInt8]) throws(YAMLError) -> JSONValue {
    guard bytes.count <= bytesMax else {
      throw YAMLError(message: "the file has \(bytes.count) bytes; at most \(bytesMax) are read", line: 0, column: 0)
    }
    let first = bytes.first { $0 != 0x20 && $0 &- 0x09 >= 5 }
    if first == UInt8(ascii: "{") || first == UInt8(ascii: "["),
      let value = try? JSONValue(parsing: bytes, depthLimit: depthMax)
    {
      try refuseDuplicates(in: value)
      return value
    }
    // A buffer of libyaml's own would outlive nothing here: the bytes stay in place until the events are read.
    let result = bytes.withUnsafeBufferPointer { bytes in
      Result { () throws(YAMLError) in
        let events = try YAMLEvents(bytes)
        return try events.document()
      }
    }
    return try result.get()
  }

  /// The line of each key and element by its folded place, such as `policies[0].limits.pending`; of a document that is
  /// wrong, those before the mistake. Blocks, and is bounded by `bytesMax`.
  package static func lines(of bytes: [UInt8]) -> [String: Int] {
    guard bytes.count <= bytesMax else { return [:] }
    return bytes.withUnsafeBufferPointer { bytes in
      guard let events = try? YAMLEvents(bytes) else { return [:] }
      events.lines = [:]
      _ = try? events.document()
      return events.lines ?? [:]
    }
  }

  private static func refuseDuplicates(in value: JSONValue) throws(YAMLError) {
    switch value {
    case .null, .bool, .number, .string: break
    case .array(let elements): for element in elements { try refuseDuplicates(in: element) }
    case .object(let members):
      var seen: Set<String> = []
      for member in members {
        guard seen.insert(member.key).inserted else {
          throw YAMLError(message: "the key \(member.key.debugDescription) is there twice", line: 0, column: 0)
        }
        try refuseDuplicates(in: member.value)
      }
    }
  }
}

/// One run of libyaml's parser over bytes that outlive it.
private final class YAMLEvents {
  private let parser = UnsafeMutablePointer<yaml_parser_t>.allocate(capacity: 1)
  private let event = UnsafeMutablePointer<yaml_event_t>.allocate(capacity: 1)

  /// Filled while it is not nil: lines from 1, by place.
  var lines: [String: Int]?
  private var place = ""

  init(_ bytes: UnsafeBufferPointer<UInt8>) throws(YAMLError) {
    event.initialize(to: yaml_event_t())
    guard yaml_parser_initialize(parser) == 1 else {
      parser.initialize(to: yaml_parser_t())
      throw YAMLError(message: "out of memory", line: 0, column: 0)
    }
    yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING)
    yaml_parser_set_input_string(parser, bytes.baseAddress, bytes.count)
  }

  deinit {
    yaml_event_delete(event)
    yaml_parser_delete(parser)
    event.deallocate()
    parser.deallocate()
  }

  func document() throws(YAMLError) -> JSONValue {
    try advance()
    try advance()
    if type == YAML_STREAM_END_EVENT { return .null }
    try advance()
    let value = try node(depth: 0)
    try advance()
    try advance()
    guard type == YAML_STREAM_END_EVENT else { throw failure("a second document starts here; one is read") }
    return value
  }

  private var type: yaml_event_type_t { event.pointee.type }

  private func failure(_ message: String) -> YAMLError {
    let mark = event.pointee.start_mark
    return YAMLError(message: message, line: mark.line + 1, column: mark.column + 1)
  }

  private func advance() throws(YAMLError) {
    yaml_event_delete(event)
    if yaml_parser_parse(parser, event) == 1 { return }
    event.initialize(to: yaml_event_t())
    let problem = parser.pointee.problem.map { String(cString: $0) } ?? "out of memory"
    let context = parser.pointee.context.map { " " + String(cString: $0) } ?? ""
    // The reader knows bytes, the scanner and the parser lines.
    if parser.pointee.error == YAML_READER_ERROR {
      throw YAMLError(message: "\(problem) at byte \(parser.pointee.problem_offset)", line: 0, column: 0)
    }
    let mark = parser.pointee.problem_mark
    throw YAMLError(message: problem + context, line: mark.line + 1, column: mark.column + 1)
  }

  /// The node whose first event is the current one; leaves its last event current.
  private func node(depth: Int) throws(YAMLError) -> JSONValue {
    switch type {
    case YAML_SCALAR_EVENT: return try scalar()
    case YAML_SEQUENCE_START_EVENT:
      let start = event.pointee.data.sequence_start
      try checkPlain(anchor: start.anchor, tag: start.tag, depth)
      var elements: [JSONValue] = []
      try advance()
      let outer = place
      while type != YAML_SEQUENCE_END_EVENT {
        note("[\(elements.count)]", in: outer)
        elements.append(try node(depth: depth + 1))
        try advance()
      }
      place = outer
      return .array(elements)
    case YAML_MAPPING_START_EVENT:
      let start = event.pointee.data.mapping_start
      try checkPlain(anchor: start.anchor, tag: start.tag, depth)
      return try mapping(depth: depth)
    case YAML_ALIAS_EVENT: throw failure("aliases (*name) are not read; write the value out")
    default: throw failure("a value is expected")
    }
  }

  private func mapping(depth: Int) throws(YAMLError) -> JSONValue {
    var members: [JSONValue.Member] = []
    var seen: Set<String> = []
    let outer = place
    try advance()
    while type != YAML_MAPPING_END_EVENT {
      guard type == YAML_SCALAR_EVENT else { throw failure("a key must be plain text") }
      let key = try text()
      guard seen.insert(key).inserted else { throw failure("the key \(key.debugDescription) is there twice") }
      note(outer.isEmpty ? key : "." + key, in: outer)
      try advance()
      members.append(JSONValue.Member(key, try node(depth: depth + 1)))
      try advance()
    }
    place = outer
    return .object(members)
  }

  /// The current event is at `step` from `outer`.
  private func note(_ step: String, in outer: String) {
    guard lines != nil else { return }
    place = outer + Setting.folded(step)
    lines?[place] = event.pointee.start_mark.line + 1
  }

  private func checkPlain(
    anchor: UnsafeMutablePointer<UInt8>?, tag: UnsafeMutablePointer<UInt8>?, _ depth: Int
  ) throws(YAMLError) {
    if anchor != nil { throw failure("anchors (&name) are not read; write the value out where it is used") }
    if tag != nil { throw failure("tags (!name) are not read; quote a value to make it text") }
    guard depth < YAML.depthMax else { throw failure("nested deeper than \(YAML.depthMax) levels") }
  }

  private func text() throws(YAMLError) -> String {
    let scalar = event.pointee.data.scalar
    try checkPlain(anchor: scalar.anchor, tag: scalar.tag, 0)
    let bytes = UnsafeBufferPointer(start: scalar.value, count: scalar.length)
    return String(decoding: bytes, as: UTF8.self)
  }

  private func scalar() throws(YAMLError) -> JSONValue {
    let text = try text()
    guard event.pointee.data.scalar.style == YAML_PLAIN_SCALAR_STYLE else { return .string(text) }
    switch text {
    case "", "~", "null", "Null", "NULL": return .null
    case "true", "True", "TRUE": return .bool(true)
    case "false", "False", "FALSE": return .bool(false)
    default: break
    }
    // Exactly JSON's numbers, so that the digits can be written out again.
    if let first = text.utf8.first, first == UInt8(ascii: "-") || first &- UInt8(ascii: "0") < 10,
      case .number(let digits)? = try? JSONValue(parsing: text)
    {
      return .number(digits)
    }
    return .string(text)
  }
}
