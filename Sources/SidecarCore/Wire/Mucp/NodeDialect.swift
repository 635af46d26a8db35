// Which dialect a node understands, told from what it wrote into the registry. Clients of the framework itself never
// look (trap 36): they dial HTTP nodes with h2 and gRPC nodes with HTTP/1. We do.

/// What carries the framework's messages to a node.
package enum FrameTransport: Equatable, Hashable, Sendable {
  /// HTTP/1, the default of every generation.
  case http
  /// A stream of gRPC. `isOld`: known to be older than the method's present name (`TransportMessage.path`).
  case grpc(isOld: Bool)
}

/// How to speak to one node.
package struct NodeDialect: Equatable, Hashable, Sendable {
  package enum Generation: UInt8, Sendable {
    /// No `protocol` in its metadata: v0.14 to v0.21. Legacy envelopes, which servers up to v6 understand too.
    case legacy
    /// v0.22 and later.
    case micro
  }

  package var generation: Generation
  /// Speaks gRPC; not to be called over the HTTP transport.
  package var isGRPC: Bool
  package var transport: FrameTransport
  /// A transport that is not ours to dial, such as `nats`; nil when it is.
  package var otherTransport: String?
  /// The codec to call it in, for payloads of that codec's format; nil: the one that suits its generation.
  package var preferred: CodecChoice?

  package init(
    generation: Generation, isGRPC: Bool = false, transport: FrameTransport = .http, otherTransport: String? = nil,
    preferred: CodecChoice? = nil
  ) {
    self.generation = generation
    self.isGRPC = isGRPC
    self.transport = transport
    self.otherTransport = otherTransport
    self.preferred = preferred
  }

  /// From a registry node's metadata. A `protocol` other than `grpc` counts as one that knows the new codecs, as it does
  /// for the framework's own clients (client/rpc_codec.go `setupProtocol` @ v1.0.0).
  package init(metadata: [String: String]) {
    let transport = metadata["transport"] ?? "http"
    let server = metadata["server"] ?? ""
    let name = metadata["protocol"] ?? ""
    // `transport=grpc` with one of the RPC servers is the framework's messages inside a gRPC stream, not gRPC calls.
    let wrapsFrames = server == "rpc" || server == "mucp"
    isGRPC = name == "grpc" || server == "grpc" || (transport == "grpc" && !wrapsFrames)
    generation = name.isEmpty ? .legacy : .micro
    self.transport = transport == "grpc" && !isGRPC ? .grpc(isOld: name.isEmpty) : .http
    otherTransport = isGRPC || ["", "http", "grpc"].contains(transport) ? nil : transport
  }

  /// An address given by hand: the framework takes it for a node with `protocol=mucp`.
  package static let explicitAddress = NodeDialect(generation: .micro)

  /// Whether a connection may serve another call. v0.14.0 delivers every later request of an HTTP connection with the
  /// first one's headers: metadata and timeouts would stick, and leak (trap 1).
  package var reusable: Bool { generation == .micro || transport != .http }

  /// What it reads where it is sent JSON. Only bare JSON, gRPC's too, is protobuf's to its codecs; envelopes hold plain Go
  /// JSON in every generation (codec/json and codec/jsonrpc @ v5.30.0).
  package var jsonAudience: JSONAudience {
    guard generation == .micro else { return .oldFramework }
    return switch preferred?.codec {
    case nil, .json, .grpcFramedJSON: .framework
    default: .oldFramework
    }
  }
}
