// google/protobuf's well-known types as descriptors, for sets that lack them, and how they are told from messages that
// only have their names.

enum WellKnownTypes {
  /// Any, Timestamp, Duration, FieldMask, Struct, Empty and the wrappers.
  static let files: [FileDescriptor] = [
    file("any", [message("Any", [field("type_url", 1, .string), field("value", 2, .bytes)])]),
    file("duration", [message("Duration", [field("seconds", 1, .int64), field("nanos", 2, .int32)])]),
    file("empty", [message("Empty", [])]),
    file("field_mask", [message("FieldMask", [field("paths", 1, .string, isRepeated: true)])]),
    structFile,
    file("timestamp", [message("Timestamp", [field("seconds", 1, .int64), field("nanos", 2, .int32)])]),
    file("wrappers", wrappers.map { message($0.name, [field("value", 1, $0.type)]) }),
  ]

  private static let wrappers: [(name: String, type: FieldType)] = [
    ("DoubleValue", .double), ("FloatValue", .float), ("Int64Value", .int64), ("UInt64Value", .uint64),
    ("Int32Value", .int32), ("UInt32Value", .uint32), ("BoolValue", .bool), ("StringValue", .string),
    ("BytesValue", .bytes),
  ]

  private static var structFile: FileDescriptor {
    var entry = message(
      "FieldsEntry", [field("key", 1, .string), field("value", 2, .message, ".google.protobuf.Value")])
    entry.isMapEntry = true
    var structure = message(
      "Struct", [field("fields", 1, .message, ".google.protobuf.Struct.FieldsEntry", isRepeated: true)])
    structure.messages = [entry]
    var kinds = [
      field("null_value", 1, .enumeration, ".google.protobuf.NullValue"), field("number_value", 2, .double),
      field("string_value", 3, .string), field("bool_value", 4, .bool),
      field("struct_value", 5, .message, ".google.protobuf.Struct"),
      field("list_value", 6, .message, ".google.protobuf.ListValue"),
    ]
    for index in kinds.indices { kinds[index].oneofIndex = 0 }
    var value = message("Value", kinds)
    value.oneofCount = 1
    let list = message("ListValue", [field("values", 1, .message, ".google.protobuf.Value", isRepeated: true)])
    var result = file("struct", [structure, value, list])
    result.enums = [
      EnumDescriptor(name: "NullValue", values: [EnumDescriptor.Value(name: "NULL_VALUE", number: 0)])
    ]
    return result
  }

  private static func file(_ name: String, _ messages: [MessageDescriptor]) -> FileDescriptor {
    var file = FileDescriptor()
    file.name = "google/protobuf/\(name).proto"
    file.package = "google.protobuf"
    file.messages = messages
    file.features = .proto3
    return file
  }

  private static func message(_ name: String, _ fields: [FieldDescriptor]) -> MessageDescriptor {
    var message = MessageDescriptor()
    message.name = name
    message.fields = fields
    return message
  }

  private static func field(
    _ name: String, _ number: UInt64, _ type: FieldType, _ typeName: String = "", isRepeated: Bool = false
  ) -> FieldDescriptor {
    var field = FieldDescriptor()
    field.name = name
    field.number = number
    field.type = UInt64(type.rawValue)
    field.typeName = typeName
    field.label = isRepeated ? 3 : 1
    return field
  }

  // MARK: Telling

  /// What a message is by its name, if its fields are as they should be: the transcoder relies on them.
  static func kind(_ table: UnsafeMutablePointer<MessageTable>) -> MessageKind {
    let name = String(decoding: table.pointee.name, as: UTF8.self)
    guard name.hasPrefix("google.protobuf.") else { return .plain }
    let fields = table.pointee.fields
    func has(_ expected: [(UInt32, FieldType, FieldShape)]) -> Bool {
      fields.count == expected.count
        && zip(fields, expected).allSatisfy { $0.number == $1.0 && $0.type == $1.1 && $0.shape == $1.2 }
    }
    func isOf(_ place: Int, _ type: StaticString) -> Bool {
      guard let message = fields[place].message else { return false }
      return ASCIIText.equals(message.pointee.name, type)
    }
    switch name.dropFirst("google.protobuf.".count) {
    case "Any": return has([(1, .string, .singular), (2, .bytes, .singular)]) ? .any : .plain
    case "Timestamp": return has([(1, .int64, .singular), (2, .int32, .singular)]) ? .timestamp : .plain
    case "Duration": return has([(1, .int64, .singular), (2, .int32, .singular)]) ? .duration : .plain
    case "FieldMask": return has([(1, .string, .repeated)]) ? .fieldMask : .plain
    case "Empty": return fields.isEmpty ? .empty : .plain
    case "Struct":
      guard has([(1, .message, .map)]), let entry = fields[0].message, entry.pointee.fields[0].type == .string,
        let value = entry.pointee.fields[1].message, ASCIIText.equals(value.pointee.name, "google.protobuf.Value")
      else { return .plain }
      return .structure
    case "ListValue":
      return has([(1, .message, .repeated)]) && isOf(0, "google.protobuf.Value") ? .listValue : .plain
    case "Value":
      let isWhole = has([
        (1, .enumeration, .singular), (2, .double, .singular), (3, .string, .singular), (4, .bool, .singular),
        (5, .message, .singular), (6, .message, .singular),
      ])
      return isWhole && isOf(4, "google.protobuf.Struct") && isOf(5, "google.protobuf.ListValue") ? .value : .plain
    case let other:
      guard let wrapper = wrappers.first(where: { $0.name == other }) else { return .plain }
      return has([(1, wrapper.type, .singular)]) ? .wrapper : .plain
    }
  }
}
