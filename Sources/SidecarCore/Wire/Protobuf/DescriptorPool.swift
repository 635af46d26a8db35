// Message types and services by name, from FileDescriptorSets or from single files as gRPC server reflection sends
// them. Made on the control loop, then read by any loop: nothing in it ever changes.

/// A message type of a pool.
package struct ProtoMessage: @unchecked Sendable, Equatable {
  package let pool: DescriptorPool
  let table: UnsafeMutablePointer<MessageTable>

  /// Without a leading dot: `helloworld.HelloRequest`
  package var fullName: String { String(decoding: table.pointee.name, as: UTF8.self) }

  package static func == (left: ProtoMessage, right: ProtoMessage) -> Bool { left.table == right.table }
}

/// A method of a service of a pool.
package struct ProtoMethod: Sendable, Equatable {
  package var input: ProtoMessage
  package var output: ProtoMessage
  package var isClientStreaming: Bool
  package var isServerStreaming: Bool
  /// With its package: `helloworld.Greeter`
  package var fullServiceName: String
  package var methodName: String

  /// gRPC's `:path`.
  package var path: String { "/\(fullServiceName)/\(methodName)" }
}

/// A service of a pool.
package struct ProtoService: Sendable {
  package var fullName: String
  package var methods: [ProtoMethod]
}

package final class DescriptorPool: @unchecked Sendable {
  /// What a pool takes; more is an error.
  package enum Limits {
    package static let messages = 100_000
    package static let fieldsPerMessage = 16_384
    package static let valuesPerEnum = 100_000
  }

  /// Where descriptors come from.
  package struct Source: Sendable {
    /// The file's path or a peer's name, for error messages.
    package var name: String
    /// A serialized FileDescriptorSet.
    package var bytes: [UInt8]
    package init(name: String, bytes: [UInt8]) {
      self.name = name
      self.bytes = bytes
    }
  }

  /// Services by full name, sorted, and their methods, which refer to messages by place: a pool does not hold itself.
  private let serviceEntries: [ServiceEntry]
  /// Services by the handler's name in go-micro: `Greeter`.
  private let handlers: [String: [Int]]
  private let messageIndex: [String: Int]
  private let tables: UnsafeMutableBufferPointer<MessageTable>
  /// Full names; their values are places in `tables`.
  private let names: NameTable
  private let arena: TableArena
  private let files: [String: FileDescriptor]
  private let fileOfSymbol: [String: String]

  struct ServiceEntry {
    var fullName: String
    var methods: [MethodEntry]
  }
  struct MethodEntry {
    var name: String
    var input: Int
    var output: Int
    var isClientStreaming: Bool
    var isServerStreaming: Bool
  }

  /// Reads and merges sets. Errors: bytes that are no FileDescriptorSet, references to what is in none of them (sets
  /// need `--include_imports`; only google/protobuf's well-known types may be missing), and symbols that two sets
  /// define differently.
  package convenience init(sets: [Source]) throws(DescriptorError) {
    var linker = DescriptorLinker()
    for set in sets {
      let files: [FileDescriptor]
      do throws(WireError) {
        files = try FileDescriptor.readSet(set.bytes)
      } catch {
        throw DescriptorError(
          "\(set.name) is no FileDescriptorSet (\(error)); make one with "
            + "protoc --include_imports --descriptor_set_out=\(set.name) FILE.proto")
      }
      if files.isEmpty {
        throw DescriptorError(
          "\(set.name) holds no descriptors; make it with "
            + "protoc --include_imports --descriptor_set_out=\(set.name) FILE.proto")
      }
      for file in files { try linker.add(file, from: set.name) }
    }
    try self.init(linker)
  }

  /// Serialized FileDescriptorProtos, in any order; `source` names where they come from in errors.
  package convenience init(files: [[UInt8]], from source: String = "server reflection") throws(DescriptorError) {
    var linker = DescriptorLinker()
    for bytes in files {
      let file: FileDescriptor
      do throws(WireError) {
        file = try FileDescriptor.read(bytes)
      } catch {
        throw DescriptorError("\(source) gave what is no file descriptor (\(error))")
      }
      try linker.add(file, from: source)
    }
    try self.init(linker)
  }

  private init(_ unlinked: DescriptorLinker) throws(DescriptorError) {
    var linker = unlinked
    try linker.link()
    arena = linker.arena
    tables = linker.tables
    names = linker.messageNames
    messageIndex = linker.messageIndex
    files = linker.files
    fileOfSymbol = linker.fileOfSymbol
    serviceEntries = linker.services.sorted { $0.fullName < $1.fullName }
    var handlers: [String: [Int]] = [:]
    for (index, service) in serviceEntries.enumerated() {
      let name = ProtoNames.lastComponent(service.fullName)
      handlers[name, default: []].append(index)
      let goName = ProtoNames.goName(name)
      if goName != name { handlers[goName, default: []].append(index) }
    }
    self.handlers = handlers
  }

  // MARK: Messages

  /// By full name, without a leading dot; nil when the pool has no such type.
  package func message(_ fullName: String) -> ProtoMessage? {
    messageIndex[fullName].map { ProtoMessage(pool: self, table: tables.baseAddress! + $0) }
  }

  /// The same without a `String`.
  @inline(__always) func table(_ fullName: UnsafeRawBufferPointer) -> UnsafeMutablePointer<MessageTable>? {
    guard let base = fullName.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return nil }
    return names.find(base, fullName.count).map { tables.baseAddress! + Int($0) }
  }

  /// Full names of all types, sorted; map entries are left out.
  package var messageNames: [String] { messageIndex.keys.sorted() }

  // MARK: Services

  package var services: [ProtoService] {
    serviceEntries.map { service in
      ProtoService(fullName: service.fullName, methods: service.methods.map { method(service, $0) })
    }
  }

  private func method(_ service: ServiceEntry, _ entry: MethodEntry) -> ProtoMethod {
    ProtoMethod(
      input: ProtoMessage(pool: self, table: tables.baseAddress! + entry.input),
      output: ProtoMessage(pool: self, table: tables.baseAddress! + entry.output),
      isClientStreaming: entry.isClientStreaming, isServerStreaming: entry.isServerStreaming,
      fullServiceName: service.fullName, methodName: entry.name)
  }

  /// The method behind a go-micro endpoint, nil when there is none.
  ///
  /// `endpoint` is `Handler.Method`, whose package go-micro leaves out, or names the whole service:
  /// `pkg.Handler.Method`, `/pkg.Handler/Method`. Names are matched as they stand in the .proto file and as Go spells
  /// them (`say_it` is `SayIt`). When handlers of several packages fit, the one in the package called like `service` is
  /// taken, then the one in the package called like its last component. Errors: still several; the error lists them.
  package func method(service: ServiceName, endpoint: String) throws(DescriptorError) -> ProtoMethod? {
    guard let (handler, name) = ProtoNames.split(endpoint) else { return nil }
    let last = ProtoNames.lastComponent(handler)
    var found: [(service: ServiceEntry, method: MethodEntry)] = []
    for index in handlers[last] ?? [] {
      let candidate = serviceEntries[index]
      if handler != last, candidate.fullName != handler { continue }
      let method =
        candidate.methods.first { $0.name == name } ?? candidate.methods.first { ProtoNames.goName($0.name) == name }
      if let method { found.append((candidate, method)) }
    }
    if found.count > 1 {
      let wanted = [service, ProtoNames.lastComponent(service)]
      for package in wanted {
        let fitting = found.filter { ProtoNames.package($0.service.fullName) == package }
        if fitting.count == 1 { return method(fitting[0].service, fitting[0].method) }
      }
      let names = found.map(\.service.fullName).joined(separator: ", ")
      throw DescriptorError(
        "\(service) \(endpoint) may be any of \(names): call it by its full name, such as "
          + "\(found[0].service.fullName).\(found[0].method.name), or bind a descriptor set to the service with "
          + "MICRO_DESCRIPTORS=\(service)=PATH")
    }
    return found.first.map { method($0.service, $0.method) }
  }

  // MARK: Files

  /// The serialized FileDescriptorProto of this path, as it was given.
  package func file(named name: String) -> [UInt8]? { files[name]?.bytes }

  /// The files that this one imports.
  package func dependencies(of name: String) -> [String] { files[name]?.dependencies ?? [] }

  /// The path of the file that defines a message, enum, service, method or extension, by its full name.
  package func file(defining symbol: String) -> String? {
    if let file = fileOfSymbol[symbol] { return file }
    let scope = ProtoNames.package(symbol)
    return serviceEntries.contains { $0.fullName == scope && $0.methods.contains { symbol == "\(scope).\($0.name)" } }
      ? fileOfSymbol[scope] : nil
  }
}

/// Names as protobuf and go-micro spell them.
enum ProtoNames {
  static func lastComponent(_ name: String) -> String {
    name.lastIndex(of: ".").map { String(name[name.index(after: $0)...]) } ?? name
  }

  /// What stands before the last component, without the dot.
  static func package(_ name: String) -> String { name.lastIndex(of: ".").map { String(name[..<$0]) } ?? "" }

  /// `Say.Hello`, `pkg.Say.Hello` and `/pkg.Say/Hello` into handler and method.
  static func split(_ endpoint: String) -> (handler: String, method: String)? {
    let path = endpoint.hasPrefix("/") ? endpoint.dropFirst() : endpoint[...]
    guard let cut = path.lastIndex(of: "/") ?? path.lastIndex(of: ".") else { return nil }
    return (String(path[..<cut]), String(path[path.index(after: cut)...]))
  }

  /// The name that protoc-gen-go gives: `say_hello` is `SayHello`, `_x` is `XX`.
  static func goName(_ name: String) -> String {
    var result: [UInt8] = []
    let bytes = Array(name.utf8)
    var index = 0
    func isLower(_ place: Int) -> Bool { place < bytes.count && bytes[place] &- UInt8(ascii: "a") < 26 }
    func isDigit(_ byte: UInt8) -> Bool { byte &- UInt8(ascii: "0") < 10 }
    while index < bytes.count {
      let byte = bytes[index]
      if byte == UInt8(ascii: "_"), index == 0 {
        result.append(UInt8(ascii: "X"))
      } else if byte == UInt8(ascii: "_"), isLower(index + 1) {
        // The letter that follows is raised below.
      } else if isDigit(byte) {
        result.append(byte)
      } else {
        result.append(isLower(index) ? byte - 32 : byte)
        while isLower(index + 1) {
          index += 1
          result.append(bytes[index])
        }
      }
      index += 1
    }
    return String(decoding: result, as: UTF8.self)
  }

  /// The JSON name that protoc gives a field without one of its own: `foo_bar` is `fooBar`.
  static func jsonName(_ name: String) -> String {
    var result: [UInt8] = []
    var raises = false
    for byte in name.utf8 {
      if byte == UInt8(ascii: "_") {
        raises = true
      } else {
        result.append(raises && byte &- UInt8(ascii: "a") < 26 ? byte - 32 : byte)
        raises = false
      }
    }
    return String(decoding: result, as: UTF8.self)
  }
}
