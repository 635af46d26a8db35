// The two settings about codecs, read from their elements: `MICRO_SIDECAR_CODECS` and `MICRO_SIDECAR_CONTENT_TYPE`.

extension FrameCodecTable {
  /// The standard table with elements such as `application/msgpack=msgpackrpc` put before it. Errors: what is wrong with
  /// the first bad element.
  package init(adding elements: [String]) throws(SettingMismatch) {
    var added: [Entry] = []
    for element in elements {
      let names = Self.names.map(\.name).joined(separator: ", ")
      guard let equals = element.firstIndex(of: "=") else {
        throw SettingMismatch("a content type and one of \(names), such as application/msgpack=msgpackrpc")
      }
      let type = SettingText.trimmed(element[..<equals])
      let name = SettingText.trimmed(element[element.index(after: equals)...])
      guard Self.isContentType(type) else { throw SettingMismatch("a content type without parameters before the =") }
      guard !Self.isBuiltIn(type) else {
        throw SettingMismatch("a content type other than \(type), which go-micro itself gives a meaning")
      }
      guard let codec = Self.names.first(where: { $0.name == name })?.codec else {
        throw SettingMismatch("one of \(names) behind the =")
      }
      added.append(Entry(type, codec))
    }
    let types = Set(added.map(\.contentType))
    self.init(added + Self.standard.entries.filter { !types.contains($0.contentType) })
    guard entries.count <= Self.entriesMax else { throw SettingMismatch("at most \(Self.entriesMax) content types") }
  }

  /// Printable, one slash, and nothing that would need quoting in a header.
  static func isContentType(_ text: String) -> Bool {
    text.utf8.count <= 127 && text.utf8.filter { $0 == UInt8(ascii: "/") }.count == 1
      && text.utf8.first != UInt8(ascii: "/") && text.utf8.last != UInt8(ascii: "/")
      && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: ";") && $0 != UInt8(ascii: ",") }
  }

  static func isBuiltIn(_ type: String) -> Bool {
    var type = type
    return type.withUTF8 { FrameContentType(UnsafeRawBufferPointer($0)) } != nil
  }
}

/// In which content type the nodes of a service are called.
package struct ContentTypeChoice: Equatable, Sendable {
  /// For every service; nil: what suits each node's generation.
  package private(set) var standard: String?
  /// By full service name.
  package private(set) var services: [ServiceName: String] = [:]

  package init() {}

  /// From elements that are a content type, or `service=content-type`. Errors: what is wrong with the first bad one.
  package init(_ elements: [String], codecs: FrameCodecTable) throws(SettingMismatch) {
    for element in elements {
      let equals = element.firstIndex(of: "=")
      let type = SettingText.trimmed(equals.map { element[element.index(after: $0)...] } ?? element[...])
      guard !type.isEmpty, codecs.choice(type, .micro) != nil else {
        throw SettingMismatch(
          "a content type of go-micro's or of MICRO_SIDECAR_CODECS, perhaps with service= before it")
      }
      if let equals {
        let service = SettingText.trimmed(element[..<equals])
        guard !service.isEmpty else { throw SettingMismatch("a service's name before the =") }
        services[service] = type
      } else {
        standard = type
      }
    }
  }

  /// What a node may say of itself in its metadata, in the registry.
  package static let metadataKey = "content-type"

  /// The codec for one node: the setting for its service, what the node says itself, the setting for all, in that order.
  package func codec(
    service: ServiceName, metadata: [String: String], _ generation: NodeDialect.Generation, _ codecs: FrameCodecTable
  ) -> CodecChoice? {
    if let type = services[service], let choice = codecs.choice(type, generation) { return choice }
    if let type = metadata[Self.metadataKey], let choice = codecs.choice(type, generation) { return choice }
    return standard.flatMap { codecs.choice($0, generation) }
  }
}
