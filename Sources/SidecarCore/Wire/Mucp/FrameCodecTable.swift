// Which content types mean the codecs that go-micro has as plug-ins, and which codec a node is to be called in. The
// plug-ins fix no content type: whoever registers one chooses (go-plugins codec/* @ 4fe90d56), so that it is a setting.

/// Content types beyond the built-in ones. Immutable, shared by all workers.
package struct FrameCodecTable: Equatable, Sendable {
  /// A content type and the codec it means.
  package struct Entry: Equatable, Hashable, Sendable {
    package var contentType: String
    package var codec: FrameCodec

    package init(_ contentType: String, _ codec: FrameCodec) {
      self.contentType = contentType
      self.codec = codec
    }
  }

  /// Types of one table; each message of an unknown type is compared with all of them.
  package static let entriesMax = 32

  package private(set) var entries: [Entry]

  package init(_ entries: [Entry]) { self.entries = entries }

  /// What holds when nothing is set.
  package static let standard = FrameCodecTable([
    Entry("application/json-rpc2", .jsonRPC2), Entry("application/jsonrpc2", .jsonRPC2),
    Entry("application/msgpack", .msgpackRPC), Entry("application/x-msgpack", .msgpackRPC),
    Entry("application/msgpack-rpc", .msgpackRPC), Entry("application/bson", .bsonRPC),
    Entry("application/bson-rpc", .bsonRPC), Entry("application/mercury", .mercury),
  ])

  /// The codecs by the names that the setting and the plug-ins' packages have for them.
  package static let names: [(name: String, codec: FrameCodec)] = [
    ("jsonrpc2", .jsonRPC2), ("msgpackrpc", .msgpackRPC), ("bsonrpc", .bsonRPC), ("mercury", .mercury),
  ]

  /// The codec of a content type that is not built in. Exact, as all of them are (trap 18).
  func codec(_ contentType: UnsafeRawBufferPointer) -> FrameCodec? {
    for entry in entries where entry.contentType.utf8.elementsEqual(contentType) { return entry.codec }
    return nil
  }

  /// How a node of `generation` takes `contentType`; nil for a type nobody knows. v0.14 and the tables it left in later
  /// versions have envelopes under the names of bare bodies.
  package func choice(_ contentType: String, _ generation: NodeDialect.Generation) -> CodecChoice? {
    var contentType = contentType
    let known = contentType.withUTF8 { FrameContentType(UnsafeRawBufferPointer($0)) }
    if let known {
      let codec = generation == .legacy ? known.legacyCodec : known.codec
      return codec.map { CodecChoice(codec: $0, contentType: contentType) }
    }
    return contentType.withUTF8 { codec(UnsafeRawBufferPointer($0)) }
      .map { CodecChoice(codec: $0, contentType: contentType) }
  }
}

/// A codec together with the name it has towards one node.
package struct CodecChoice: Hashable, Sendable {
  package var codec: FrameCodec
  package var contentType: String
}
