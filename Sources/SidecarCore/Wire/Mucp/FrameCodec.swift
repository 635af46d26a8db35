// How the body of a framework message is packed, and how a server finds out: the content type means different bytes to
// different generations, and the presence of routing headers tells which (v0.14.0
// server/rpc_server.go has one table, server/rpc_codec.go @ v0.23.0 … v6.10.0 has two).

/// The packing of a body.
package enum FrameCodec: UInt8, CaseIterable, Sendable {
  /// One JSON document; no body means no message.
  case json
  /// JSON-RPC 1: `{"method","params":[…],"id"}` and `{"id","result","error"}`.
  case jsonRPC
  /// A protobuf message and nothing else.
  case protobuf
  /// Length, header message, length, protobuf message.
  case protoRPC
  /// Bytes that only the two applications understand. Real servers never send an error with it.
  case bytes
  /// A protobuf message in gRPC's five-byte frame inside HTTP/1, v0.20 and later.
  case grpcFramed
  /// The same around JSON.
  case grpcFramedJSON
  /// JSON-RPC 2.0, a plug-in.
  case jsonRPC2
  /// MessagePack-RPC, a plug-in. The payload is translated: here it is JSON.
  case msgpackRPC
  /// Two BSON documents, a plug-in. The payload is translated: here it is JSON.
  case bsonRPC
  /// A bare protobuf message with its endpoint in headers of its own, a plug-in of 2018. Has no place for an error.
  case mercury

  /// What the payload is, once unpacked.
  package var format: PayloadFormat {
    switch self {
    case .json, .jsonRPC, .grpcFramedJSON, .jsonRPC2, .msgpackRPC, .bsonRPC: .json
    case .protobuf, .protoRPC, .grpcFramed, .mercury: .protobuf
    case .bytes: .bytes
    }
  }

  /// Whether the envelope has a place for method and error.
  package var isEnvelope: Bool { self == .jsonRPC || self == .protoRPC || isPluginEnvelope }

  var isPluginEnvelope: Bool { self == .jsonRPC2 || self == .msgpackRPC || self == .bsonRPC }

  var isGRPCFramed: Bool { self == .grpcFramed || self == .grpcFramedJSON }
}

/// What a payload is to the application.
package enum PayloadFormat: UInt8, CaseIterable, Sendable {
  case json, protobuf, bytes

  /// The content type on plain HTTP.
  package var contentType: StaticString {
    switch self {
    case .json: "application/json"
    case .protobuf: "application/protobuf"
    case .bytes: "application/octet-stream"
    }
  }
}

/// A content type that has a codec. Names match exactly: no parameters, no other case of letters (trap 18).
package enum FrameContentType: UInt8, CaseIterable, Sendable {
  case json, jsonRPC, protobuf, protoRPC, octetStream, grpc, grpcProto, grpcJSON
  /// No Content-Type: servers from v1.0 on take it for protobuf.
  case absent
  /// One of `FrameCodecTable`; its name is kept with the request.
  case plugin

  package init?(_ name: UnsafeRawBufferPointer?) {
    guard let name, !name.isEmpty else {
      self = .absent
      return
    }
    switch name.count {
    case 16 where ASCIIText.equals(name, "application/json"): self = .json
    case 16 where ASCIIText.equals(name, "application/grpc"): self = .grpc
    case 20 where ASCIIText.equals(name, "application/json-rpc"): self = .jsonRPC
    case 20 where ASCIIText.equals(name, "application/protobuf"): self = .protobuf
    case 21 where ASCIIText.equals(name, "application/proto-rpc"): self = .protoRPC
    case 21 where ASCIIText.equals(name, "application/grpc+json"): self = .grpcJSON
    case 22 where ASCIIText.equals(name, "application/grpc+proto"): self = .grpcProto
    case 24 where ASCIIText.equals(name, "application/octet-stream"): self = .octetStream
    default: return nil
    }
  }

  /// As it is sent; an absent one is answered with the type it stood for. A plug-in's name is in its table.
  package var name: StaticString {
    switch self {
    case .json: "application/json"
    case .jsonRPC: "application/json-rpc"
    case .protobuf, .absent: "application/protobuf"
    case .protoRPC: "application/proto-rpc"
    case .octetStream: "application/octet-stream"
    case .grpc: "application/grpc"
    case .grpcProto: "application/grpc+proto"
    case .grpcJSON: "application/grpc+json"
    case .plugin: ""
    }
  }

  /// The only table of v0.14, kept as a second one by every server from v0.23 on.
  package var legacyCodec: FrameCodec? {
    switch self {
    case .json, .jsonRPC: .jsonRPC
    case .protobuf, .protoRPC, .octetStream, .absent: .protoRPC
    case .grpc, .grpcProto, .grpcJSON, .plugin: nil
    }
  }

  /// For a plug-in's type, none: its table says.
  package var codec: FrameCodec? {
    switch self {
    case .json: .json
    case .jsonRPC: .jsonRPC
    case .protobuf, .absent: .protobuf
    case .protoRPC: .protoRPC
    case .octetStream: .bytes
    case .grpc, .grpcProto: .grpcFramed
    case .grpcJSON: .grpcFramedJSON
    case .plugin: nil
    }
  }
}

/// Which routing headers a request carries, each under its own name or with `X-` before it: all that the choice of a
/// table depends on.
package struct RoutingHeaders: OptionSet, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }

  package static let service = RoutingHeaders(rawValue: 1)
  package static let method = RoutingHeaders(rawValue: 2)
  package static let endpoint = RoutingHeaders(rawValue: 4)
  package static let `protocol` = RoutingHeaders(rawValue: 8)
  package static let target = RoutingHeaders(rawValue: 16)
  package static let topic = RoutingHeaders(rawValue: 32)

  /// Whether the content type means what it meant in v0.14 (server/rpc_codec.go `setupProtocol` @ v0.23.0; the topic
  /// counts from v1.17 on).
  package var chooseLegacyTable: Bool {
    if !isDisjoint(with: [.protocol, .topic]) { return false }
    if isDisjoint(with: [.service, .method, .endpoint]) { return true }
    return contains(.target)
  }

  package func codec(for contentType: FrameContentType) -> FrameCodec? {
    chooseLegacyTable ? contentType.legacyCodec ?? contentType.codec : contentType.codec
  }
}
