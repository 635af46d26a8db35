// descriptor.proto (google/protobuf/descriptor.proto) as plain values: what FileDescriptorSet files and gRPC server
// reflection bring. Read with bounds: the bytes may come from a peer.

/// Why descriptors cannot be used: a sentence that names the file or the symbol and the next step.
package struct DescriptorError: Error, Equatable, Sendable, CustomStringConvertible {
  package var message: String
  package init(_ message: String) { self.message = message }
  package var description: String { message }
}

/// What editions call features; nil: as the enclosing scope has it.
struct FeatureSet: Equatable, Sendable {
  /// 1 explicit, 2 implicit, 3 legacy required.
  var fieldPresence: UInt64?
  /// 1 open, 2 closed.
  var enumType: UInt64?
  /// 1 packed, 2 expanded.
  var repeatedEncoding: UInt64?
  /// 1 length-prefixed, 2 delimited (a group on the wire).
  var messageEncoding: UInt64?

  func refined(by inner: FeatureSet) -> FeatureSet {
    FeatureSet(
      fieldPresence: inner.fieldPresence ?? fieldPresence, enumType: inner.enumType ?? enumType,
      repeatedEncoding: inner.repeatedEncoding ?? repeatedEncoding,
      messageEncoding: inner.messageEncoding ?? messageEncoding)
  }

  static let proto2 = FeatureSet(fieldPresence: 1, enumType: 2, repeatedEncoding: 2, messageEncoding: 1)
  static let proto3 = FeatureSet(fieldPresence: 2, enumType: 1, repeatedEncoding: 1, messageEncoding: 1)
  /// Edition 2023, and 2024, which changed none of these.
  static let edition2023 = FeatureSet(fieldPresence: 1, enumType: 1, repeatedEncoding: 1, messageEncoding: 1)
}

struct FieldDescriptor: Equatable, Sendable {
  var name = ""
  var number: UInt64 = 0
  var label: UInt64 = 1
  var type: UInt64 = 0
  var typeName = ""
  var extendee = ""
  var oneofIndex: UInt64?
  var jsonName: String?
  var isProto3Optional = false
  var packed: Bool?
  var features = FeatureSet()
}

struct EnumDescriptor: Equatable, Sendable {
  struct Value: Equatable, Sendable {
    var name = ""
    var number: Int32 = 0
  }

  var name = ""
  var values: [Value] = []
  var features = FeatureSet()
}

struct MessageDescriptor: Equatable, Sendable {
  var name = ""
  var fields: [FieldDescriptor] = []
  var extensions: [FieldDescriptor] = []
  var messages: [MessageDescriptor] = []
  var enums: [EnumDescriptor] = []
  var oneofCount = 0
  var isMapEntry = false
  var isMessageSet = false
  var features = FeatureSet()
}

struct MethodDescriptor: Equatable, Sendable {
  var name = ""
  var input = ""
  var output = ""
  var isClientStreaming = false
  var isServerStreaming = false
}

struct ServiceDescriptor: Equatable, Sendable {
  var name = ""
  var methods: [MethodDescriptor] = []
}

/// One .proto file.
struct FileDescriptor: Sendable {
  /// Levels of messages within messages.
  static let nestingMax = 64

  var name = ""
  var package = ""
  var dependencies: [String] = []
  var messages: [MessageDescriptor] = []
  var enums: [EnumDescriptor] = []
  var services: [ServiceDescriptor] = []
  var extensions: [FieldDescriptor] = []
  var features = FeatureSet.proto2
  /// As it was read, to tell whether two files of one name are the same.
  var bytes: [UInt8] = []
}

// MARK: Reading

extension FileDescriptor {
  /// The files of a FileDescriptorSet.
  static func readSet(_ bytes: [UInt8]) throws(WireError) -> [FileDescriptor] {
    try bytes.withBytes { (all) throws(WireError) in
      var files: [FileDescriptor] = []
      var reader = ProtobufReader(all, 0..<all.count)
      while let field = try reader.next() {
        guard field.number == 1 else { continue }
        files.append(try FileDescriptor(all, try field.range(reader)))
      }
      return files
    }
  }

  /// One serialized FileDescriptorProto.
  static func read(_ bytes: [UInt8]) throws(WireError) -> FileDescriptor {
    try bytes.withBytes { (all) throws(WireError) in try FileDescriptor(all, 0..<all.count) }
  }

  init(_ all: UnsafeRawBufferPointer, _ range: Range<Int>) throws(WireError) {
    bytes = Array(all[range])
    var syntax = ""
    var edition: UInt64 = 0
    var own = FeatureSet()
    var reader = ProtobufReader(all, range)
    while let field = try reader.next() {
      switch field.number {
      case 1: name = try field.text(reader)
      case 2: package = try field.text(reader)
      case 3: dependencies.append(try field.text(reader))
      case 4: messages.append(try MessageDescriptor(all, try field.range(reader), depth: 1))
      case 5: enums.append(try EnumDescriptor(all, try field.range(reader)))
      case 6: services.append(try ServiceDescriptor(all, try field.range(reader)))
      case 7: extensions.append(try FieldDescriptor(all, try field.range(reader)))
      case 8: own = try FeatureSet(options: all, try field.range(reader), at: 50)
      case 12: syntax = try field.text(reader)
      case 14: edition = try field.number(reader)
      default: break
      }
    }
    switch syntax {
    case "", "proto2": features = .proto2
    case "proto3": features = .proto3
    case "editions":
      // Editions are numbered by year, from 1000 on (Edition in descriptor.proto).
      guard edition == 1000 || edition == 1001 else {
        throw WireError(
          "\(name): this edition of protobuf is not known here; editions 2023 and 2024 are", offset: range.lowerBound)
      }
      features = FeatureSet.edition2023.refined(by: own)
    default:
      throw WireError("\(name): syntax '\(syntax)' is not known here", offset: range.lowerBound)
    }
  }
}

extension MessageDescriptor {
  fileprivate init(_ all: UnsafeRawBufferPointer, _ range: Range<Int>, depth: Int) throws(WireError) {
    guard depth <= FileDescriptor.nestingMax else {
      throw WireError("messages are nested more than \(FileDescriptor.nestingMax) deep", offset: range.lowerBound)
    }
    var reader = ProtobufReader(all, range)
    while let field = try reader.next() {
      switch field.number {
      case 1: name = try field.text(reader)
      case 2: fields.append(try FieldDescriptor(all, try field.range(reader)))
      case 3: messages.append(try MessageDescriptor(all, try field.range(reader), depth: depth + 1))
      case 4: enums.append(try EnumDescriptor(all, try field.range(reader)))
      case 6: extensions.append(try FieldDescriptor(all, try field.range(reader)))
      case 7:
        let options = try field.range(reader)
        features = try FeatureSet(options: all, options, at: 12)
        var inner = ProtobufReader(all, options)
        while let option = try inner.next() {
          switch option.number {
          case 1: isMessageSet = try option.number(inner) != 0
          case 7: isMapEntry = try option.number(inner) != 0
          default: break
          }
        }
      case 8: oneofCount += 1
      default: break
      }
    }
  }
}

extension FieldDescriptor {
  fileprivate init(_ all: UnsafeRawBufferPointer, _ range: Range<Int>) throws(WireError) {
    var reader = ProtobufReader(all, range)
    while let field = try reader.next() {
      switch field.number {
      case 1: name = try field.text(reader)
      case 2: extendee = try field.text(reader)
      case 3: number = try field.number(reader)
      case 4: label = try field.number(reader)
      case 5: type = try field.number(reader)
      case 6: typeName = try field.text(reader)
      case 8:
        let options = try field.range(reader)
        features = try FeatureSet(options: all, options, at: 21)
        var inner = ProtobufReader(all, options)
        while let option = try inner.next() {
          if option.number == 2 { packed = try option.number(inner) != 0 }
        }
      case 9: oneofIndex = try field.number(reader)
      case 10: jsonName = try field.text(reader)
      case 17: isProto3Optional = try field.number(reader) != 0
      default: break
      }
    }
  }
}

extension EnumDescriptor {
  fileprivate init(_ all: UnsafeRawBufferPointer, _ range: Range<Int>) throws(WireError) {
    var reader = ProtobufReader(all, range)
    while let field = try reader.next() {
      switch field.number {
      case 1: name = try field.text(reader)
      case 2:
        var value = EnumDescriptor.Value()
        var inner = ProtobufReader(all, try field.range(reader))
        while let part = try inner.next() {
          switch part.number {
          case 1: value.name = try part.text(inner)
          case 2: value.number = Int32(truncatingIfNeeded: try part.number(inner))
          default: break
          }
        }
        values.append(value)
      case 3: features = try FeatureSet(options: all, try field.range(reader), at: 7)
      default: break
      }
    }
  }
}

extension ServiceDescriptor {
  fileprivate init(_ all: UnsafeRawBufferPointer, _ range: Range<Int>) throws(WireError) {
    var reader = ProtobufReader(all, range)
    while let field = try reader.next() {
      switch field.number {
      case 1: name = try field.text(reader)
      case 2:
        var method = MethodDescriptor()
        var inner = ProtobufReader(all, try field.range(reader))
        while let part = try inner.next() {
          switch part.number {
          case 1: method.name = try part.text(inner)
          case 2: method.input = try part.text(inner)
          case 3: method.output = try part.text(inner)
          case 5: method.isClientStreaming = try part.number(inner) != 0
          case 6: method.isServerStreaming = try part.number(inner) != 0
          default: break
          }
        }
        methods.append(method)
      default: break
      }
    }
  }
}

extension FeatureSet {
  /// The features among the options of a file, message, field or enum, which have them at different numbers.
  fileprivate init(options all: UnsafeRawBufferPointer, _ range: Range<Int>, at number: UInt64) throws(WireError) {
    var options = ProtobufReader(all, range)
    while let option = try options.next() {
      guard option.number == number else { continue }
      var reader = ProtobufReader(all, try option.range(options))
      while let field = try reader.next() {
        switch field.number {
        case 1: fieldPresence = try field.number(reader)
        case 2: enumType = try field.number(reader)
        case 3: repeatedEncoding = try field.number(reader)
        case 5: messageEncoding = try field.number(reader)
        default: break
        }
      }
    }
  }
}

extension ProtobufReader.Field {
  fileprivate func range(_ reader: ProtobufReader) throws(WireError) -> Range<Int> {
    guard case .bytes(let range) = value else {
      throw WireError("descriptors: a field has the wrong type", offset: reader.offset)
    }
    return range
  }

  fileprivate func text(_ reader: ProtobufReader) throws(WireError) -> String {
    let bytes = UnsafeRawBufferPointer(rebasing: reader.bytes[try range(reader)])
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw WireError("descriptors: a name is not UTF-8", offset: reader.offset)
    }
    return text
  }

  fileprivate func number(_ reader: ProtobufReader) throws(WireError) -> UInt64 {
    guard case .varint(let number) = value else {
      throw WireError("descriptors: a field has the wrong type", offset: reader.offset)
    }
    return number
  }
}

extension [UInt8] {
  /// `withUnsafeBytes` with the error's type kept.
  func withBytes<Value>(_ body: (UnsafeRawBufferPointer) throws(WireError) -> Value) throws(WireError) -> Value {
    try withUnsafeBytes { bytes in
      Result { () throws(WireError) in try body(bytes) }
    }.get()
  }
}
