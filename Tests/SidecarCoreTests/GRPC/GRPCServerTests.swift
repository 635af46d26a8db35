// What the server side makes of paths and authorities, and what reflection answers.

@testable import SidecarCore
import Testing

@Suite struct GRPCServerTests {
  @Test(
    "a path names package, handler and method",
    arguments: [
      ("/go.micro.srv.greeter.Say/Hello", "go.micro.srv.greeter", "Say.Hello"), ("/Say/Hello", "", "Say.Hello"),
      ("/a.B/c", "a", "B.c"), ("/.Say/Hello", "", "Say.Hello"),
    ])
  func paths(path: String, package: String, endpoint: String) throws {
    try Bytes.of(path) { bytes in
      let parsed = try #require(GRPCPath(bytes))
      #expect(String(decoding: parsed.package(bytes), as: UTF8.self) == package)
      let buffer = ByteBuffer()
      parsed.appendEndpoint(bytes, to: buffer)
      #expect(String(decoding: buffer.bytes, as: UTF8.self) == endpoint)
    }
  }

  @Test("what names no method is refused", arguments: ["", "/", "//", "/a", "/a/", "a/b", "/a/b/c", "/a./b", "*"])
  func badPaths(path: String) {
    #expect(Bytes.of(path) { GRPCPath($0) == nil })
  }

  @Test(
    "an authority names a service unless it is where the caller dialled",
    arguments: [
      ("go.micro.srv.greeter", true), ("greeter", true), ("localhost", false), ("localhost:8081", false),
      ("127.0.0.1", false), ("127.0.0.1:80", false), ("[::1]", false), ("", false), ("LocalHost", false),
      ("%2Ftmp%2Fsocket", false),
    ])
  func authorities(authority: String, isService: Bool) {
    #expect(Bytes.of(authority) { GRPCPath.namesService($0) } == isService)
  }

  // MARK: Reflection

  private static func message(_ fields: [(UInt64, [UInt8])]) -> [UInt8] {
    let buffer = ByteBuffer()
    for (number, bytes) in fields { bytes.withUnsafeBytes { ProtobufWriter.field(number, $0, into: buffer) } }
    return Array(buffer.bytes)
  }
  private static func text(_ number: UInt64, _ text: String) -> (UInt64, [UInt8]) { (number, Array(text.utf8)) }

  /// base.proto defines p.Thing, main.proto imports it and has service p.Say.
  private static let base = message([
    text(1, "base.proto"), text(2, "p"), (4, message([text(1, "Thing")])), text(12, "proto3"),
  ])
  private static let main = message([
    text(1, "main.proto"), text(2, "p"), text(3, "base.proto"),
    (6, message([text(1, "Say"), (2, message([text(1, "Hello"), text(2, ".p.Thing"), text(3, ".p.Thing")]))])),
    text(12, "proto3"),
  ])

  private static func ask(_ number: UInt64, _ value: String, side: GRPCServerConnection.Side = .framework) throws
    -> [UInt64: [[UInt8]]]
  {
    let pool = try DescriptorPool(files: [main, base])
    let reflection = GRPCReflection(Descriptors(common: nil, bound: ["app": pool]), app: "app", side: side)
    let request = message([text(1, "host"), text(number, value)])
    let reply = ByteBuffer()
    try request.withUnsafeBytes { try reflection.answer($0, into: reply) }
    let parts = try fields(Array(reply.bytes))
    #expect(parts[1] == [Array("host".utf8)] && parts[2] == [request])
    return parts
  }

  private static func fields(_ bytes: [UInt8]) throws -> [UInt64: [[UInt8]]] {
    try bytes.withUnsafeBytes { all in
      var reader = ProtobufReader(all, 0..<all.count)
      var found: [UInt64: [[UInt8]]] = [:]
      while let field = try reader.next() {
        if case .bytes(let range) = field.value { found[field.number, default: []].append(Array(all[range])) }
        if case .varint(let value) = field.value { found[field.number, default: []].append([UInt8(value)]) }
      }
      return found
    }
  }

  @Test("reflection lists services, finds files by name and by symbol with all they import")
  func reflection() throws {
    for side in [GRPCServerConnection.Side.framework, .app] {
      let list = try #require(try Self.ask(7, "*", side: side)[6]?.first)
      #expect(list == Self.message([(1, Self.message([Self.text(1, "p.Say")]))]))
    }
    for (number, value) in [(3, "main.proto"), (4, "p.Say"), (4, "p.Say.Hello")] as [(UInt64, String)] {
      let files = try #require(try Self.ask(number, value)[4]?.first)
      #expect(try Self.fields(files)[1] == [Self.main, Self.base], "\(value)")
    }
    let thing = try #require(try Self.ask(4, "p.Thing")[4]?.first)
    #expect(try Self.fields(thing)[1] == [Self.base])
  }

  @Test("what reflection does not know is told inside the reply")
  func reflectionErrors() throws {
    for (number, value, code) in [(3, "no.proto", 5), (4, "p.Nobody", 5), (6, "p.Thing", 12)]
      as [(UInt64, String, UInt8)]
    {
      let error = try #require(try Self.ask(number, value)[7]?.first)
      #expect(try Self.fields(error)[1] == [[code]])
    }
    #expect(GRPCReflection(.none, app: "app", side: .framework).isEmpty)
    #expect(
      GRPCReflection(
        Descriptors(common: nil, bound: ["other": try DescriptorPool(files: [Self.base])]), app: "app", side: .framework
      ).isEmpty)
  }
}
