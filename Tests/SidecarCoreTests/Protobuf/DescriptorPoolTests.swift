// Descriptor pools: what they find, what they merge, and what they say about sets that cannot be used.

import Testing

@testable import SidecarCore

@Suite("Descriptor pools") struct DescriptorPoolTests {
  private func failure(_ sets: [DescriptorPool.Source]) -> String? {
    do throws(DescriptorError) {
      _ = try DescriptorPool(sets: sets)
      return nil
    } catch {
      return error.message
    }
  }

  @Test func `an endpoint of go-micro is found without its package`() throws {
    let pool = ProtobufFixtures.pool
    for endpoint in ["Say.Hello", "go.micro.srv.greeter.Say.Hello", "/go.micro.srv.greeter.Say/Hello"] {
      let method = try #require(try pool.method(service: "go.micro.srv.greeter", endpoint: endpoint), "\(endpoint)")
      #expect(method.input.fullName == "go.micro.srv.greeter.Request")
      #expect(method.output.fullName == "go.micro.srv.greeter.Response")
      #expect(method.path == "/go.micro.srv.greeter.Say/Hello")
      #expect(!method.isClientStreaming && !method.isServerStreaming)
    }
    let stream = try #require(try pool.method(service: "any", endpoint: "Say.PingPong"))
    #expect(stream.isClientStreaming && stream.isServerStreaming)
    let renamed = try #require(try pool.method(service: "any", endpoint: "Say.CollectAll"))
    #expect(renamed.methodName == "collect_all", "Go calls it CollectAll")
    #expect(try pool.method(service: "any", endpoint: "Say.Nothing") == nil)
    #expect(try pool.method(service: "any", endpoint: "Other.Hello") == nil)
    #expect(try pool.method(service: "any", endpoint: "Hello") == nil)
  }

  /// A file with one service `Say`, whose method `Hello` takes and gives the package's `M`.
  private func file(package: String) -> [UInt8] {
    func field(_ number: UInt8, _ bytes: [UInt8]) -> [UInt8] { [number << 3 | 2, UInt8(bytes.count)] + bytes }
    func text(_ number: UInt8, _ text: String) -> [UInt8] { field(number, Array(text.utf8)) }
    let method = text(1, "Hello") + text(2, ".\(package).M") + text(3, ".\(package).M")
    return text(1, "\(package).proto") + text(2, package) + field(4, text(1, "M"))
      + field(6, text(1, "Say") + field(2, method)) + text(12, "proto3")
  }

  @Test func `of several packages the one named like the service is taken, else all are listed`() throws {
    let pool = try DescriptorPool(files: ["shop", "go.micro.srv.greeter", "greeter"].map(file))
    func package(_ service: String) throws -> String? {
      try pool.method(service: service, endpoint: "Say.Hello")?.fullServiceName
    }
    #expect(try package("go.micro.srv.greeter") == "go.micro.srv.greeter.Say")
    #expect(try package("go.micro.srv.shop") == "shop.Say")
    #expect(try package("com.example.greeter") == "greeter.Say")
    #expect(throws: DescriptorError.self) { try package("go.micro.srv.other") }
    do throws(DescriptorError) {
      _ = try pool.method(service: "other", endpoint: "Say.Hello")
    } catch {
      #expect(error.message.contains("go.micro.srv.greeter.Say, greeter.Say, shop.Say"))
      #expect(error.message.contains("MICRO_DESCRIPTORS=other=PATH"))
    }
    #expect(try pool.method(service: "other", endpoint: "shop.Say.Hello")?.fullServiceName == "shop.Say")
  }

  @Test func `the same file in two sets is one, and different definitions name both files`() throws {
    let set = ProtobufFixtures.source("greeter.binpb")
    var copy = set
    copy.name = "copy.binpb"
    #expect(failure([set, copy]) == nil)
    // Another name of the same length for the field of Request.
    let at = try #require(set.bytes.firstRange(of: Array("name".utf8)))
    copy.bytes.replaceSubrange(at, with: Array("mane".utf8))
    let message = try #require(failure([set, copy]))
    #expect(message.contains("message go.micro.srv.greeter.Request is defined differently"))
    #expect(message.contains("greeter.binpb") && message.contains("copy.binpb"))
  }

  @Test func `well-known types need not be in the set, anything else is missed by name`() throws {
    let alone = try DescriptorPool(sets: [ProtobufFixtures.source("everything-alone.binpb")])
    #expect(alone.message("google.protobuf.Timestamp") != nil)
    #expect(alone.message("sidecar.test.Everything") != nil)
    let message = try #require(failure([ProtobufFixtures.source("importing-alone.binpb")]))
    #expect(
      message == "importing-alone.binpb: field sidecar.importing.Importing.order of importing.proto needs shop.Order: "
        + "the set lacks order.proto; make the set with protoc --include_imports")
  }

  @Test func `what is no descriptor set says how to make one`() throws {
    #expect(failure([.init(name: "x.binpb", bytes: [])])?.contains("holds no descriptors") == true)
    #expect(
      failure([.init(name: "x.binpb", bytes: Array("syntax = 3".utf8))])?.contains("--descriptor_set_out") == true)
  }

  @Test func `editions have their own defaults, and an unknown one is refused`() throws {
    func field(_ number: UInt8, _ bytes: [UInt8]) -> [UInt8] { [number << 3 | 2, UInt8(bytes.count)] + bytes }
    func text(_ number: UInt8, _ text: String) -> [UInt8] { field(number, Array(text.utf8)) }
    func file(edition: [UInt8], features: [UInt8]) -> [UInt8] {
      let number = text(1, "n") + [0x18, 1, 0x20, 1, 0x28, 5]
      let list = text(1, "list") + [0x18, 2, 0x20, 3, 0x28, 5]
      // FileOptions.features is 50.
      let options: [UInt8] = [0x92, 0x03, UInt8(features.count)] + features
      return text(1, "e.proto") + field(4, text(1, "M") + field(2, number) + field(2, list)) + field(8, options)
        + text(12, "editions") + [0x70] + edition
    }
    let explicit = try DescriptorPool(files: [file(edition: [0xE8, 0x07], features: [])])
    let out = ByteBuffer()
    let json = Array(#"{"n":0,"list":[1,2]}"#.utf8)
    try json.withUnsafeBytes {
      try JSONToProtobuf().transcode($0, to: #require(explicit.message("M")), into: out)
    }
    #expect(Array(out.bytes) == [0x08, 0, 0x12, 2, 1, 2], "explicit presence, packed")
    let implicit = try DescriptorPool(files: [file(edition: [0xE8, 0x07], features: [0x08, 2, 0x18, 2])])
    out.removeAll()
    try json.withUnsafeBytes {
      try JSONToProtobuf().transcode($0, to: #require(implicit.message("M")), into: out)
    }
    #expect(Array(out.bytes) == [0x10, 1, 0x10, 2], "implicit presence, expanded")
    #expect(throws: DescriptorError.self) { try DescriptorPool(files: [file(edition: [0xCF, 0x0F], features: [])]) }
  }

  @Test func `broken sets are errors, whatever is broken`() throws {
    var random = SeededRandom(seed: 0x5EED)
    for name in ["everything.binpb", "legacy.binpb", "greeter.binpb"] {
      let whole = ProtobufFixtures.source(name)
      for length in stride(from: 0, to: whole.bytes.count, by: 7) {
        _ = failure([.init(name: name, bytes: Array(whole.bytes[..<length]))])
      }
      for _ in 0..<2000 {
        var broken = whole
        for _ in 0..<Int.random(in: 1...4, using: &random) {
          broken.bytes[Int.random(in: 0..<broken.bytes.count, using: &random)] = UInt8.random(
            in: 0...255, using: &random)
        }
        guard let pool = try? DescriptorPool(sets: [broken]) else { continue }
        // What is accepted must also be usable.
        for name in pool.messageNames.prefix(3) {
          let type = try #require(pool.message(name))
          let json = Array(#"{"aString":"x","labels":{"a":"b"},"child":{},"id":1,"name":"n"}"#.utf8)
          json.withUnsafeBytes {
            try? JSONToProtobuf().transcode($0, to: type, unknownFields: .ignore, into: ByteBuffer())
          }
        }
      }
    }
  }

  @Test func `names are spelled as protoc and Go spell them`() {
    #expect(ProtoNames.goName("say_hello") == "SayHello")
    #expect(ProtoNames.goName("_x") == "XX")
    #expect(ProtoNames.goName("Get2FA") == "Get2FA")
    #expect(ProtoNames.jsonName("foo_bar_2x") == "fooBar2x")
    #expect(ProtoNames.jsonName("_leading") == "Leading")
  }

  @Test func `reflection finds files by what they define`() throws {
    let pool = ProtobufFixtures.pool
    #expect(pool.file(defining: "go.micro.srv.greeter.Say") == "greeter.proto")
    #expect(pool.file(defining: "go.micro.srv.greeter.Say.Hello") == "greeter.proto")
    #expect(pool.file(defining: "nobody") == nil)
    let file = try #require(pool.file(named: "everything.proto"))
    let files = pool.dependencies(of: "everything.proto").compactMap { pool.file(named: $0) }
    #expect(try DescriptorPool(files: [file] + files).message("sidecar.test.Everything") != nil)
  }
}
