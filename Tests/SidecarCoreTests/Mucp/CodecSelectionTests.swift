// The choice between a server's two codec tables, from the headers that are there.

import Testing

@testable import SidecarCore

@Suite("Choice of the codec")
struct CodecSelectionTests {
  static let types: [(String, FrameContentType, legacy: FrameCodec?, new: FrameCodec)] = [
    ("application/json", .json, .jsonRPC, .json), ("application/json-rpc", .jsonRPC, .jsonRPC, .jsonRPC),
    ("application/protobuf", .protobuf, .protoRPC, .protobuf),
    ("application/proto-rpc", .protoRPC, .protoRPC, .protoRPC),
    ("application/octet-stream", .octetStream, .protoRPC, .bytes), ("application/grpc", .grpc, nil, .grpcFramed),
    ("application/grpc+proto", .grpcProto, nil, .grpcFramed),
    ("application/grpc+json", .grpcJSON, nil, .grpcFramedJSON),
    ("", .absent, .protoRPC, .protobuf),
  ]

  @Test("content types are found by their exact name")
  func names() {
    for (name, type, legacy, new) in Self.types {
      #expect(withBytes(name) { FrameContentType($0) } == type)
      #expect(type.legacyCodec == legacy && type.codec == new)
      if type != .absent { #expect(type.name.description == name) }
    }
    #expect(FrameContentType(nil) == .absent)
    #expect(Self.types.count == FrameContentType.allCases.count - 1, "all but a plug-in's, whose table has the name")
    let unknown = [
      "application/json; charset=utf-8", "Application/Json", "application/jsox", "application/json ", "text/plain",
      "application/grpc+bytes", "application/proto", "x",
    ]
    for name in unknown { #expect(withBytes(name) { FrameContentType($0) } == nil, "\(name)") }
  }

  /// The rule once more, in the words of wire/rpc.md §2.2: 1 to 5.
  static func isLegacy(service: Bool, method: Bool, endpoint: Bool, protocol: Bool, target: Bool, topic: Bool) -> Bool {
    if `protocol` || topic { return false }
    if !service && !method && !endpoint { return true }
    if target { return true }
    return false
  }

  @Test("all 64 sets of routing headers, under their own names, under X-, and mixed", arguments: 0..<64)
  func tables(_ bits: Int) throws {
    let names = ["Service", "Method", "Endpoint", "Protocol", "Target", "Topic"]
    let values = ["s", "A.B", "A.B", "mucp", "t", "t"]
    func on(_ index: Int) -> Bool { bits & (1 << index) != 0 }
    let legacy = Self.isLegacy(
      service: on(0), method: on(1), endpoint: on(2), protocol: on(3), target: on(4), topic: on(5))
    for spelling in 0..<3 {
      var head = ""
      for index in 0..<6 where on(index) {
        let prefix = spelling == 0 || (spelling == 2 && index % 2 == 0) ? "Micro-" : "X-Micro-"
        head += "\(prefix)\(names[index]): \(values[index])\n"
      }
      let envelope = ByteBuffer()
      withBytes("A.B") { method in
        withBytes([1, 2]) {
          ProtoRPCEnvelope.write(method: method, seq: 3, error: nil, payload: $0, into: envelope)
        }
      }
      // An envelope under a bare type tells the tables apart: one unpacks it, the other takes it whole.
      let isEvent = on(5) && !on(1) && !on(2)
      let result = Result { try Decoded(head + "Content-Type: application/protobuf", body: Array(envelope.bytes)) }
      if case .success(let decoded) = result {
        #expect(decoded.view.codec == (legacy ? .protoRPC : .protobuf))
        #expect(decoded.view.payload == (legacy ? [1, 2] : Array(envelope.bytes)))
        #expect(decoded.view.kind == (isEvent ? .event : .call))
      } else {
        #expect(!legacy && !on(1) && !on(2) && !on(5), "only a call without an endpoint fails")
      }
    }
  }

  @Test("a type the legacy table lacks is looked up in the new one")
  func fallsThrough() {
    let none: RoutingHeaders = []
    #expect(none.chooseLegacyTable && none.codec(for: .grpc) == .grpcFramed)
    #expect(none.codec(for: .json) == .jsonRPC)
    #expect(RoutingHeaders([.endpoint]).codec(for: .json) == .json)
    #expect(RoutingHeaders([.endpoint, .target]).codec(for: .json) == .jsonRPC)
    #expect(RoutingHeaders([.endpoint, .target, .protocol]).codec(for: .json) == .json)
  }

  @Test("an empty header counts as none")
  func emptyValues() throws {
    let decoded = try Decoded(
      "Micro-Endpoint:\nX-Micro-Endpoint: A.B\nMicro-Service:\nContent-Type: application/json", body: Array("{}".utf8))
    #expect(decoded.view.endpoint == "A.B" && decoded.view.service.isEmpty && decoded.view.codec == .json)
  }
}
