// Bodies of the local API that are JSON in a binary dress: MessagePack and BSON. They are translated at the edge, so that
// everything behind it knows JSON, protobuf and bytes only. Errors are JSON always.

enum PackedBody {
  case messagePack, bson

  /// The format of a content type without parameters, in any letter case; nil when it is another.
  init?(mediaType type: UnsafeRawBufferPointer) {
    switch type.count {
    case 19 where ASCIIText.equalsIgnoringCase(type, "application/msgpack"): self = .messagePack
    case 21 where ASCIIText.equalsIgnoringCase(type, "application/x-msgpack"): self = .messagePack
    case 23 where ASCIIText.equalsIgnoringCase(type, "application/vnd.msgpack"): self = .messagePack
    case 16 where ASCIIText.equalsIgnoringCase(type, "application/bson"): self = .bson
    default: return nil
    }
  }

  /// What the reply has to be in: what `Accept` names, else the form of the request; nil for JSON.
  static func reply(_ accept: UnsafeRawBufferPointer?, request: PackedBody?) -> PackedBody? {
    guard let accept else { return request }
    if ASCIIText.containsIgnoringCase(accept, "application/json") { return nil }
    if ASCIIText.containsIgnoringCase(accept, "msgpack") { return .messagePack }
    if ASCIIText.containsIgnoringCase(accept, "application/bson") { return .bson }
    return request
  }

  var contentType: StaticString {
    switch self {
    case .messagePack: "application/msgpack"
    case .bson: "application/bson"
    }
  }

  func appendJSON(_ body: UnsafeRawBufferPointer, to buffer: ByteBuffer) throws(WireError) {
    switch self {
    case .messagePack: try MessagePackReader.translate(body, into: buffer)
    case .bson: try BSONReader.translate(body, dialect: .standard, into: buffer)
    }
  }

  /// A reply's payload in this form. Errors: 406 for JSON that it cannot say.
  func pack(_ json: UnsafeRawBufferPointer, into buffer: ByteBuffer) throws(SidecarError) {
    do throws(WireError) {
      switch self {
      case .messagePack: try MessagePackWriter.translate(json: json, into: buffer)
      case .bson: try BSONWriter.translate(json: json, dialect: .standard, into: buffer)
      }
    } catch {
      var refusal = SidecarError(
        .unsupportedMediaType, "the reply cannot be written as \(contentType): \(error); ask for application/json")
      refusal.code = 406
      throw refusal
    }
  }
}
