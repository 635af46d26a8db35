// Makes the transcoder's tables from file descriptors: collects the symbols of all files, resolves names, checks what
// protoc would have checked, since the bytes may come from a peer.

struct DescriptorLinker {
  // What linking leaves.
  let arena = TableArena()
  private(set) var tables = UnsafeMutableBufferPointer<MessageTable>(start: nil, count: 0)
  private(set) var messageNames = NameTable()
  private(set) var messageIndex: [String: Int] = [:]
  private(set) var services: [DescriptorPool.ServiceEntry] = []
  private(set) var files: [String: FileDescriptor] = [:]
  /// The path of the .proto file of each symbol.
  private(set) var fileOfSymbol: [String: String] = [:]

  private struct Origin {
    var source: String
    var file: String
  }
  private struct Message {
    var name: String
    var descriptor: MessageDescriptor
    /// With those of all enclosing scopes.
    var features: FeatureSet
    var origin: Origin
  }
  private struct Enumeration {
    var name: String
    var descriptor: EnumDescriptor
    var features: FeatureSet
    var origin: Origin
  }
  private struct Extension {
    var scope: String
    var descriptor: FieldDescriptor
    var features: FeatureSet
    var origin: Origin
  }
  private struct Service {
    var name: String
    var descriptor: ServiceDescriptor
    var origin: Origin
  }

  private var messages: [Message] = []
  private var enums: [Enumeration] = []
  private var enumIndex: [String: Int] = [:]
  private var extensions: [Extension] = []
  private var extensionIndex: [String: Int] = [:]
  private var rawServices: [Service] = []
  private var serviceIndex: [String: Int] = [:]
  private var enumTables = UnsafeMutableBufferPointer<EnumTable>(start: nil, count: 0)

  // MARK: Collecting

  mutating func add(_ file: FileDescriptor, from source: String) throws(DescriptorError) {
    if let known = files[file.name], known.bytes == file.bytes { return }
    let origin = Origin(source: source, file: file.name)
    if files[file.name] == nil { files[file.name] = file }
    let scope = file.package
    for message in file.messages { try add(message, scope, file.features, origin) }
    for enumeration in file.enums { try add(enumeration, scope, file.features, origin) }
    for field in file.extensions { try add(field, scope, file.features, origin) }
    for service in file.services {
      let name = Self.join(scope, service.name)
      if let known = serviceIndex[name] {
        let other = rawServices[known]
        if other.descriptor != service { throw Self.conflict("service \(name)", other.origin, origin) }
        continue
      }
      try claim(name, origin)
      serviceIndex[name] = rawServices.count
      rawServices.append(Service(name: name, descriptor: service, origin: origin))
    }
  }

  private mutating func add(
    _ message: MessageDescriptor, _ scope: String, _ outer: FeatureSet, _ origin: Origin
  ) throws(DescriptorError) {
    let name = Self.join(scope, message.name)
    let features = outer.refined(by: message.features)
    if let known = messageIndex[name] {
      let other = messages[known]
      // Every protoc brings google/protobuf's own files, which grow from release to release.
      if other.descriptor != message || other.features != features, !name.hasPrefix("google.protobuf.") {
        throw Self.conflict("message \(name)", other.origin, origin)
      }
      return
    }
    try claim(name, origin)
    guard messages.count < DescriptorPool.Limits.messages else {
      throw DescriptorError(
        "\(origin.source): more than \(DescriptorPool.Limits.messages) messages; make sets of fewer files")
    }
    messageIndex[name] = messages.count
    messages.append(Message(name: name, descriptor: message, features: features, origin: origin))
    for inner in message.messages { try add(inner, name, features, origin) }
    for inner in message.enums { try add(inner, name, features, origin) }
    for field in message.extensions { try add(field, name, features, origin) }
  }

  private mutating func add(
    _ enumeration: EnumDescriptor, _ scope: String, _ outer: FeatureSet, _ origin: Origin
  ) throws(DescriptorError) {
    let name = Self.join(scope, enumeration.name)
    let features = outer.refined(by: enumeration.features)
    if let known = enumIndex[name] {
      let other = enums[known]
      if other.descriptor != enumeration || other.features != features, !name.hasPrefix("google.protobuf.") {
        throw Self.conflict("enum \(name)", other.origin, origin)
      }
      return
    }
    try claim(name, origin)
    guard enumeration.values.count <= DescriptorPool.Limits.valuesPerEnum else {
      throw DescriptorError(
        "\(origin.source): enum \(name) has more than \(DescriptorPool.Limits.valuesPerEnum) values")
    }
    enumIndex[name] = enums.count
    enums.append(Enumeration(name: name, descriptor: enumeration, features: features, origin: origin))
  }

  private mutating func add(
    _ field: FieldDescriptor, _ scope: String, _ features: FeatureSet, _ origin: Origin
  ) throws(DescriptorError) {
    let name = Self.join(scope, field.name)
    if let known = extensionIndex[name] {
      if extensions[known].descriptor != field {
        throw Self.conflict("extension \(name)", extensions[known].origin, origin)
      }
      return
    }
    try claim(name, origin)
    extensionIndex[name] = extensions.count
    extensions.append(Extension(scope: scope, descriptor: field, features: features, origin: origin))
  }

  /// A full name means one thing only, be it message, enum, extension or service.
  private mutating func claim(_ name: String, _ origin: Origin) throws(DescriptorError) {
    if let other = fileOfSymbol.updateValue(origin.file, forKey: name) {
      throw DescriptorError("\(name) is defined twice: in \(other) and in \(origin.file) (\(origin.source))")
    }
  }

  private static func conflict(_ what: String, _ first: Origin, _ second: Origin) -> DescriptorError {
    DescriptorError(
      "\(what) is defined differently in \(first.source) (\(first.file)) and \(second.source) (\(second.file)); "
        + "make both sets from the same .proto files, or bind each set to its service with "
        + "MICRO_DESCRIPTORS=SERVICE=PATH")
  }

  private static func join(_ scope: String, _ name: String) -> String { scope.isEmpty ? name : "\(scope).\(name)" }

  // MARK: Linking

  mutating func link() throws(DescriptorError) {
    try addWellKnownTypes()
    tables = arena.make(messages.count, MessageTable())
    enumTables = arena.make(enums.count, EnumTable())
    messageNames = NameTable(capacity: messages.count, in: arena)
    for (index, message) in messages.enumerated() {
      let name = arena.copy(message.name)
      tables[index].name = name
      tables[index].isMessageSet = message.descriptor.isMessageSet
      _ = messageNames.insert(name, Int32(index))
    }
    for index in enums.indices { try linkEnum(index) }
    var extensionsOf: [Int: [Extension]] = [:]
    for candidate in extensions {
      let name = Self.join(candidate.scope, candidate.descriptor.name)
      let extendee = try messagePlace(candidate.descriptor.extendee, for: "extension \(name)", candidate.origin)
      extensionsOf[extendee, default: []].append(candidate)
    }
    for index in messages.indices { try linkMessage(index, extensionsOf[index] ?? []) }
    for index in messages.indices { try checkMaps(index) }
    for index in messages.indices { tables[index].kind = WellKnownTypes.kind(tables.baseAddress! + index) }
    for service in rawServices {
      var methods: [DescriptorPool.MethodEntry] = []
      for method in service.descriptor.methods {
        let what = "method \(service.name).\(method.name)"
        methods.append(
          DescriptorPool.MethodEntry(
            name: method.name, input: try messagePlace(method.input, for: what, service.origin),
            output: try messagePlace(method.output, for: what, service.origin),
            isClientStreaming: method.isClientStreaming, isServerStreaming: method.isServerStreaming))
      }
      services.append(DescriptorPool.ServiceEntry(fullName: service.name, methods: methods))
    }
  }

  /// Sets made without `--include_imports` lack these, and everybody knows them.
  private mutating func addWellKnownTypes() throws(DescriptorError) {
    for file in WellKnownTypes.files where files[file.name] == nil {
      let isNew = !file.messages.contains { messageIndex[Self.join(file.package, $0.name)] != nil }
      if isNew { try add(file, from: "the sidecar's own well-known types") }
    }
  }

  private func messagePlace(_ reference: String, for user: String, _ origin: Origin) throws(DescriptorError) -> Int {
    let name = reference.hasPrefix(".") ? String(reference.dropFirst()) : reference
    if let index = messageIndex[name] { return index }
    throw unresolved(name, user, origin)
  }

  private func unresolved(_ name: String, _ user: String, _ origin: Origin) -> DescriptorError {
    let missing = (files[origin.file]?.dependencies ?? []).filter { files[$0] == nil }.sorted()
    let hint =
      missing.isEmpty ? "it is in none of the files" : "the set lacks \(missing.joined(separator: ", "))"
    return DescriptorError(
      "\(origin.source): \(user) of \(origin.file) needs \(name): \(hint); make the set with protoc --include_imports")
  }

  // MARK: Enums

  private func linkEnum(_ index: Int) throws(DescriptorError) {
    let source = enums[index]
    let table = enumTables.baseAddress! + index
    table.pointee.name = arena.copy(source.name)
    table.pointee.isClosed = source.features.enumType == 2
    table.pointee.isNullValue = source.name == "google.protobuf.NullValue"
    table.pointee.defaultNumber = source.descriptor.values.first?.number ?? 0
    table.pointee.names = NameTable(capacity: source.descriptor.values.count, in: arena)
    var first: [Int32: Int] = [:]
    for (place, value) in source.descriptor.values.enumerated() {
      guard table.pointee.names.insert(arena.copy(value.name), value.number) else {
        throw DescriptorError("\(source.origin.source): enum \(source.name) has \(value.name) twice")
      }
      if first[value.number] == nil { first[value.number] = place }
    }
    let numbers = first.keys.sorted()
    let values = arena.make(
      numbers.count, EnumTable.EnumValue(number: 0, quoted: UnsafeRawBufferPointer(start: nil, count: 0)))
    for (place, number) in numbers.enumerated() {
      let name = source.descriptor.values[first[number] ?? 0].name
      values[place] = EnumTable.EnumValue(number: number, quoted: quoted(name, ""))
    }
    table.pointee.values = values
    if let low = numbers.first, let high = numbers.last {
      table.pointee.isDense = Int(high) - Int(low) == numbers.count - 1
    }
  }

  /// The text as a JSON string, and what follows it.
  private func quoted(_ text: String, _ suffix: StaticString) -> UnsafeRawBufferPointer {
    let buffer = ByteBuffer()
    JSONText.append(text, escaping: .plain, into: buffer)
    buffer.append(suffix)
    return arena.copy(Array(buffer.bytes))
  }

  // MARK: Messages

  private func linkMessage(_ index: Int, _ extensions: [Extension]) throws(DescriptorError) {
    let message = messages[index]
    let table = tables.baseAddress! + index
    let count = message.descriptor.fields.count + extensions.count
    guard count <= DescriptorPool.Limits.fieldsPerMessage else {
      throw DescriptorError(
        "\(message.origin.source): message \(message.name) has more than "
          + "\(DescriptorPool.Limits.fieldsPerMessage) fields"
      )
    }
    guard message.descriptor.oneofCount <= DescriptorPool.Limits.fieldsPerMessage else {
      throw DescriptorError("\(message.origin.source): message \(message.name) has more oneofs than fields")
    }
    var linked: [FieldTable] = []
    linked.reserveCapacity(count)
    for field in message.descriptor.fields {
      linked.append(try linkField(field, message, message.features, message.origin, fieldCount: count, extendsIn: nil))
    }
    for field in extensions {
      linked.append(
        try linkField(
          field.descriptor, message, field.features, field.origin, fieldCount: count, extendsIn: field.scope))
    }
    linked.sort { $0.number < $1.number }
    let fields = arena.make(count, FieldTable())
    // Names of extensions and of fields are kept with their keys; each as JSON and as the file spells it.
    var names = NameTable(capacity: count * 2, in: arena)
    for (place, field) in linked.enumerated() {
      if place > 0, linked[place - 1].number == field.number {
        throw DescriptorError(
          "\(message.origin.source): message \(message.name) has two fields with number \(field.number)")
      }
      fields[place] = field
      fields[place].index = place
      table.pointee.requiredCount += field.isRequired ? 1 : 0
    }
    // JSON names first: where one field's JSON name is another's original name, it stands for the former.
    for key in [\FieldTable.jsonKey, \FieldTable.originalKey] {
      for (place, field) in linked.enumerated() {
        let text = field[keyPath: key]
        let buffer = ByteBuffer()
        JSONText.unescape(text, 1..<(text.count - 2), into: buffer)
        _ = names.insert(arena.copy(Array(buffer.bytes)), Int32(place))
      }
    }
    table.pointee.fields = fields
    table.pointee.names = names
    table.pointee.seenWords = (count + message.descriptor.oneofCount + 63) / 64
    let lowMax = min(Int(linked.last?.number ?? 0), 4 * count + 64)
    let low = arena.make(lowMax + 1, 0 as UInt16)
    for (place, field) in linked.enumerated() where field.number <= lowMax {
      low[Int(field.number)] = UInt16(place + 1)
    }
    table.pointee.lowNumbers = low
  }

  private func linkField(
    _ field: FieldDescriptor, _ message: Message, _ outer: FeatureSet, _ origin: Origin, fieldCount: Int,
    extendsIn scope: String?
  ) throws(DescriptorError) -> FieldTable {
    let what = scope.map { "extension \(Self.join($0, field.name))" } ?? "field \(message.name).\(field.name)"
    func broken(_ why: String) -> DescriptorError {
      DescriptorError("\(origin.source): \(what) of \(origin.file) \(why); make the set again with protoc")
    }
    guard !field.name.isEmpty else { throw broken("has no name") }
    guard field.number > 0, field.number <= 536_870_911 else { throw broken("has number \(field.number)") }
    guard (1...3).contains(field.label) else { throw broken("has label \(field.label)") }
    guard var type = UInt8(exactly: field.type).flatMap({ FieldType(rawValue: $0) }) else {
      throw broken("has type \(field.type)")
    }
    let features = outer.refined(by: field.features)
    var table = FieldTable()
    switch type {
    case .message, .group:
      let place = try messagePlace(field.typeName, for: what, origin)
      table.message = tables.baseAddress! + place
      let isMapEntry = messages[place].descriptor.isMapEntry
      if isMapEntry, field.label == 3, type == .message { table.shape = .map }
      // Maps are length-prefixed whatever the features of their file are.
      if type == .message, features.messageEncoding == 2, !isMapEntry { type = .group }
    case .enumeration:
      let name = field.typeName.hasPrefix(".") ? String(field.typeName.dropFirst()) : field.typeName
      guard let place = enumIndex[name] else { throw unresolved(name, what, origin) }
      table.enumeration = enumTables.baseAddress! + place
    case .double, .float, .int64, .uint64, .int32, .fixed64, .fixed32, .bool, .string, .bytes, .uint32, .sfixed32,
      .sfixed64, .sint32, .sint64:
      break
    }
    table.number = UInt32(field.number)
    table.type = type
    if field.label == 3 {
      if table.shape == .singular { table.shape = .repeated }
      table.isPacked = table.shape == .repeated && type.isPackable && (field.packed ?? (features.repeatedEncoding == 1))
    } else {
      table.isRequired = field.label == 2 || features.fieldPresence == 3
      let isMember = field.oneofIndex != nil
      table.hasPresence =
        type == .message || type == .group || isMember || field.isProto3Optional || scope != nil || table.isRequired
        || features.fieldPresence != 2
      if let oneof = field.oneofIndex {
        guard oneof < UInt64(message.descriptor.oneofCount) else { throw broken("is of oneof \(oneof)") }
        if !field.isProto3Optional { table.oneofBit = fieldCount + Int(oneof) }
      }
    }
    var tag = field.number &<< 3 | UInt64(table.wireType)
    while tag >= 0x80 {
      table.tag |= (tag & 0x7F | 0x80) &<< UInt64(8 * table.tagBytes)
      tag &>>= 7
      table.tagBytes += 1
    }
    table.tag |= tag &<< UInt64(8 * table.tagBytes)
    table.tagBytes += 1
    if let scope {
      table.originalKey = quoted("[\(Self.join(scope, field.name))]", ":")
      table.jsonKey = table.originalKey
    } else {
      let jsonName = field.jsonName ?? ProtoNames.jsonName(field.name)
      table.originalKey = quoted(field.name, ":")
      // One address for both says that they are the same.
      table.jsonKey = jsonName == field.name ? table.originalKey : quoted(jsonName, ":")
    }
    return table
  }

  /// What the transcoder relies on: an entry has a key and a value, and the key can be one.
  private func checkMaps(_ index: Int) throws(DescriptorError) {
    for field in tables[index].fields where field.shape == .map {
      let fields = field.message?.pointee.fields
      guard let fields, fields.count == 2, fields[0].number == 1, fields[1].number == 2,
        fields[0].shape == .singular, fields[1].shape == .singular, fields[0].oneofBit < 0, fields[1].oneofBit < 0
      else {
        throw DescriptorError(
          "\(messages[index].origin.source): a map of message \(messages[index].name) is broken; "
            + "make the set again with protoc")
      }
      switch fields[0].type {
      case .int64, .uint64, .int32, .fixed64, .fixed32, .bool, .string, .uint32, .sfixed32, .sfixed64, .sint32,
        .sint64:
        break
      case .double, .float, .group, .message, .bytes, .enumeration:
        throw DescriptorError(
          "\(messages[index].origin.source): a map of message \(messages[index].name) has keys of a type that "
            + "cannot be one; make the set again with protoc")
      }
    }
  }
}
