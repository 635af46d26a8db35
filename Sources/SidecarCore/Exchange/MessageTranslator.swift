// JSON ⇄ protobuf for the calls of one worker: finds the types behind an endpoint and translates one message at a time.
// What is JSON to whom: see `JSONAudience`.

/// Which of a method's two messages is meant.
package enum MessageDirection: Sendable { case request, reply }

/// Translates messages. One per worker, loop-confined.
package final class MessageTranslator {
  private let toProtobuf = JSONToProtobuf()
  private let toJSON = ProtobufToJSON()
  /// What an endpoint was found to be; nil in it: there is no descriptor.
  private var methods: ByteKeyedCache<Found>
  private let key = ByteBuffer(capacity: 128)
  private let seed: UInt64

  private final class Found {
    let result: Result<ProtoMethod?, DescriptorError>
    init(_ result: Result<ProtoMethod?, DescriptorError>) { self.result = result }
  }

  /// A snapshot from the control loop.
  package var descriptors = Descriptors.none {
    didSet {
      methods = ByteKeyedCache(capacity: 1024, seed: seed)
      revision &+= 1
    }
  }
  /// Counts the snapshots, for those who remember what one said.
  private(set) var revision: UInt64 = 0

  package init(seed: UInt64) {
    self.seed = seed
    methods = ByteKeyedCache(capacity: 4, seed: seed)
  }

  /// The types of `service`'s `Handler.Method`; nil when no descriptor knows it. Errors: several descriptors fit.
  package func method(
    _ service: UnsafeRawBufferPointer, _ endpoint: UnsafeRawBufferPointer
  ) throws(SidecarError) -> ProtoMethod? {
    if descriptors.isEmpty { return nil }
    key.removeAll()
    key.append(service)
    key.append(0)
    key.append(endpoint)
    let found: Found
    if let known = methods.find(key.bytes) {
      found = known
    } else {
      let service = String(decoding: service, as: UTF8.self)
      let endpoint = String(decoding: endpoint, as: UTF8.self)
      let descriptors = descriptors
      found = Found(
        Result { () throws(DescriptorError) in try descriptors.method(service: service, endpoint: endpoint) })
      methods.insert(key.bytes, found)
    }
    switch found.result {
    case .success(let method): return method
    case .failure(let error): throw SidecarError(.unsupportedMediaType, error.description)
    }
  }

  /// Whether a descriptor says that the endpoint is a stream either way; nil when none knows it.
  package func isStream(_ service: UnsafeRawBufferPointer, _ endpoint: UnsafeRawBufferPointer) -> Bool? {
    guard !descriptors.isEmpty, let method = try? method(service, endpoint) else { return nil }
    return method.isClientStreaming || method.isServerStreaming
  }

  /// Appends `message` in the other format to `out`; bytes are protobuf by another name. Errors: the sender's fault, so `badRequest` for a request and
  /// `badUpstreamReply` for a reply, with the field's path and the rule it breaks.
  package func translate(
    _ message: UnsafeRawBufferPointer, to format: PayloadFormat, _ method: ProtoMethod, _ direction: MessageDirection,
    for audience: JSONAudience, into out: ByteBuffer
  ) throws(SidecarError) {
    let type = direction == .request ? method.input : method.output
    do throws(TranscodeError) {
      switch format {
      case .protobuf, .bytes: try toProtobuf.transcode(message, to: type, into: out)
      case .json: try toJSON.transcode(message, from: type, form: audience.form, into: out)
      }
    } catch {
      let source = format == .json ? "protobuf" : "JSON"
      throw SidecarError(
        direction == .request ? .badRequest : .badUpstreamReply,
        "the \(direction == .request ? "request" : "reply") is not \(type.fullName) in \(source): \(error)")
    }
  }

  /// The refusal of a node or an app that has no codec for what it was sent, and what would help.
  static func missing(after refusal: SidecarError, _ service: ServiceName, _ endpoint: String) -> SidecarError {
    var error = refusal
    error.detail = "\(missing(service, endpoint).detail); the answer to what could not be translated: \(refusal.detail)"
    return error
  }

  /// Why a message cannot be translated at all.
  package static func missing(_ service: ServiceName, _ endpoint: String) -> SidecarError {
    SidecarError(.unsupportedMediaType, Descriptors.missing(service: service, endpoint: endpoint).description)
  }
}
