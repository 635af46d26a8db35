// What is asked of a server's reflection, and what its answers say (grpc/reflection/v1/reflection.proto; v1alpha is the
// same under another name).
//
//   listing ──names──▶ symbols: each service's file, with those it imports ──▶ files: imports that did not come along ──▶ done
//
// One question at a time: servers answer in order, and an answer to a file may save several other questions.

struct ReflectionMachine: ~Copyable {
  /// What one server may tell; more is a failure.
  enum Limits {
    static let services = 1000
    static let files = 2000
    static let bytes = 16 * 1024 * 1024
  }

  enum Step: Equatable {
    /// Ask this: a ServerReflectionRequest.
    case ask([UInt8])
    /// All files, serialized FileDescriptorProtos in any order; empty when the server has no services of its own.
    case done([[UInt8]])
    case failed(String)
  }

  private enum State {
    case listing
    /// Services still to be asked for; the first is under way.
    case symbols([String])
    /// Imports still to be asked for; the first is under way.
    case files([String])
    case over
  }

  private var state = State.listing
  private var files: [String: [UInt8]] = [:]
  private var imports: Set<String> = []
  private var bytes = 0
  /// Files that the server does not have; the pool says whether they matter.
  private var missing: Set<String> = []

  /// Services that every server may have and that nobody calls by JSON.
  private static let ownServices = ["grpc.reflection.", "grpc.health.", "grpc.channelz."]

  /// The first question.
  mutating func begin() -> Step { .ask(Self.request(7, "*")) }

  /// Takes a ServerReflectionResponse.
  mutating func received(_ message: UnsafeRawBufferPointer) -> Step {
    do throws(WireError) {
      var names: [String]?
      var answer: Range<Int>?
      var error: String?
      var reader = ProtobufReader(message, 0..<message.count)
      while let field = try reader.next() {
        switch (field.number, field.value) {
        case (4, .bytes(let range)): answer = range
        case (6, .bytes(let range)): names = try Self.names(message, range)
        case (7, .bytes(let range)): error = try Self.errorText(message, range)
        default: break
        }
      }
      if let answer { try add(message, answer) }
      guard files.count <= Limits.files, bytes <= Limits.bytes else { return fail("tells too many files") }
      return next(names: names, error: error)
    } catch {
      return fail("answers with what is no reflection: \(error)")
    }
  }

  private mutating func next(names: [String]?, error: String?) -> Step {
    switch state {
    case .listing:
      guard let names else { return fail(error ?? "does not list its services") }
      guard names.count <= Limits.services else { return fail("lists more than \(Limits.services) services") }
      return ask(symbols: names.filter { name in !Self.ownServices.contains { name.hasPrefix($0) } }.sorted())
    case .symbols(let left):
      if let error { return fail("\(left.first ?? ""): \(error)") }
      return ask(symbols: Array(left.dropFirst()))
    case .files(let left):
      // Some servers have no files for the well-known types; the pool has its own.
      if error != nil, let name = left.first { missing.insert(name) }
      return askImports()
    case .over: return .failed("is over")
    }
  }

  private mutating func ask(symbols: [String]) -> Step {
    guard let first = symbols.first else { return askImports() }
    state = .symbols(symbols)
    return .ask(Self.request(4, first))
  }

  private mutating func askImports() -> Step {
    let left = imports.filter { files[$0] == nil && !missing.contains($0) }.sorted()
    guard let first = left.first else {
      state = .over
      return .done(files.sorted { $0.key < $1.key }.map(\.value))
    }
    state = .files(left)
    return .ask(Self.request(3, first))
  }

  private mutating func fail(_ why: String) -> Step {
    state = .over
    return .failed(why)
  }

  /// FileDescriptorResponse {1 repeated bytes}; of FileDescriptorProto {1 name, 3 repeated dependency}.
  private mutating func add(_ message: UnsafeRawBufferPointer, _ range: Range<Int>) throws(WireError) {
    var reader = ProtobufReader(message, range)
    while let field = try reader.next() {
      guard case (1, .bytes(let file)) = (field.number, field.value) else { continue }
      var name = ""
      var parts = ProtobufReader(message, file)
      while let part = try parts.next() {
        switch (part.number, part.value) {
        case (1, .bytes(let range)): name = Self.text(message, range)
        case (3, .bytes(let range)): imports.insert(Self.text(message, range))
        default: break
        }
      }
      guard files[name] == nil else { continue }
      bytes += file.count
      files[name] = Array(UnsafeRawBufferPointer(rebasing: message[file]))
    }
  }

  private static func names(_ message: UnsafeRawBufferPointer, _ range: Range<Int>) throws(WireError) -> [String] {
    var names: [String] = []
    var reader = ProtobufReader(message, range)
    while let field = try reader.next() {
      guard case (1, .bytes(let service)) = (field.number, field.value) else { continue }
      var parts = ProtobufReader(message, service)
      while let part = try parts.next() {
        if case (1, .bytes(let range)) = (part.number, part.value) { names.append(text(message, range)) }
      }
    }
    return names
  }

  private static func errorText(_ message: UnsafeRawBufferPointer, _ range: Range<Int>) throws(WireError) -> String {
    var error = "an error without words"
    var reader = ProtobufReader(message, range)
    while let field = try reader.next() {
      if case (2, .bytes(let range)) = (field.number, field.value) { error = text(message, range) }
    }
    return error
  }

  private static func text(_ message: UnsafeRawBufferPointer, _ range: Range<Int>) -> String {
    String(decoding: UnsafeRawBufferPointer(rebasing: message[range]), as: UTF8.self)
  }

  /// ServerReflectionRequest with one of: 3 file_by_filename, 4 file_containing_symbol, 7 list_services.
  private static func request(_ field: UInt64, _ value: String) -> [UInt8] {
    let buffer = ByteBuffer()
    var value = value
    value.withUTF8 { ProtobufWriter.field(field, UnsafeRawBufferPointer($0), into: buffer) }
    return Array(buffer.bytes)
  }
}
