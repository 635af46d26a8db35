// Asking a server for its descriptors, without the server.

@testable import SidecarCore
import Testing

@Suite struct ReflectionMachineTests {
  private static func bytes(_ field: UInt64, _ value: [UInt8]) -> [UInt8] {
    let buffer = ByteBuffer()
    value.withUnsafeBytes { ProtobufWriter.field(field, $0, into: buffer) }
    return Array(buffer.bytes)
  }
  private static func bytes(_ field: UInt64, _ value: String) -> [UInt8] { bytes(field, Array(value.utf8)) }
  private static func services(_ names: [String]) -> [UInt8] { bytes(6, names.flatMap { bytes(1, bytes(1, $0)) }) }
  private static func file(_ name: String, imports: [String] = []) -> [UInt8] {
    bytes(1, name) + imports.flatMap { bytes(3, $0) }
  }
  private static func files(_ files: [[UInt8]]) -> [UInt8] { bytes(4, files.flatMap { bytes(1, $0) }) }
  private static func error(_ text: String) -> [UInt8] { bytes(7, bytes(2, text)) }

  private static func ask(_ field: UInt64, _ value: String) -> ReflectionMachine.Step { .ask(bytes(field, value)) }

  @Test func everyServiceIsAskedForAndImportsThatDidNotComeAlong() {
    var machine = ReflectionMachine()
    func answer(_ message: [UInt8], _ machine: inout ReflectionMachine) -> ReflectionMachine.Step {
      message.withUnsafeBytes { machine.received($0) }
    }
    #expect(machine.begin() == Self.ask(7, "*"))
    #expect(
      answer(
        Self.services(["b.Two", "grpc.reflection.v1.ServerReflection", "a.One", "grpc.health.v1.Health"]), &machine)
        == Self.ask(4, "a.One"))
    let one = Self.file("a.proto", imports: ["common.proto", "google/protobuf/any.proto"])
    #expect(answer(Self.files([one]), &machine) == Self.ask(4, "b.Two"))
    let two = Self.file("b.proto", imports: ["common.proto"])
    #expect(answer(Self.files([two]), &machine) == Self.ask(3, "common.proto"))
    let common = Self.file("common.proto")
    #expect(answer(Self.files([common]), &machine) == Self.ask(3, "google/protobuf/any.proto"))
    // Servers of some languages have no files for these; the pool has its own.
    #expect(answer(Self.error("not found"), &machine) == .done([one, two, common]))
  }

  @Test func aServerWithoutServicesOfItsOwnHasNoFiles() {
    var machine = ReflectionMachine()
    _ = machine.begin()
    let step = Self.services(["grpc.health.v1.Health"]).withUnsafeBytes { machine.received($0) }
    #expect(step == .done([]))
  }

  @Test func errorsAndNonsenseEndIt() {
    for (message, words) in [
      (Self.error("no"), "no"), ([], "does not list"), ([0xFF, 0xFF], "no reflection"),
      (Self.services((0...ReflectionMachine.Limits.services).map { "s.S\($0)" }), "more than 1000"),
    ] {
      var machine = ReflectionMachine()
      _ = machine.begin()
      let step = message.withUnsafeBytes { machine.received($0) }
      guard case .failed(let why) = step else {
        Issue.record("\(step)")
        continue
      }
      #expect(why.contains(words), "\(why)")
    }
  }

  @Test func anAnswerCutAnywhereIsNoTrap() {
    let whole = Self.files([Self.file("a.proto", imports: ["b.proto"])])
    for count in 0...whole.count {
      var machine = ReflectionMachine()
      _ = machine.begin()
      _ = Self.services(["a.One"]).withUnsafeBytes { machine.received($0) }
      _ = Array(whole.prefix(count)).withUnsafeBytes { machine.received($0) }
    }
  }

  @Test func aServerThatTellsTooMuchIsLeft() {
    var machine = ReflectionMachine()
    _ = machine.begin()
    _ = Self.services((0..<20).map { "a.S\($0)" }).withUnsafeBytes { machine.received($0) }
    var last = ReflectionMachine.Step.done([])
    for index in 0..<20 {
      let file = Self.file("f\(index).proto") + Self.bytes(99, [UInt8](repeating: 0, count: 1024 * 1024))
      last = Self.files([file]).withUnsafeBytes { machine.received($0) }
      if case .failed = last { break }
    }
    #expect(last == .failed("tells too many files"))
  }
}
