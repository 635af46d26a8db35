// Paths and name pairs seen before, found again by their bytes: routing in the common case is one hash and one compare,
// without a `String`.

/// Where calls of one path go. Loop-confined.
package final class Route {
  package let service: ServiceTable
  /// `Handler.Method`
  package let endpoint: FixedBytes
  /// The routing headers of every call of it.
  let routing: FixedBytes
  private let metrics: WorkerMetrics
  private let seriesService: String
  private let seriesEndpoint: String
  private var handles: [WorkerMetrics.Handle?]
  /// What `isStream` answers, and as of which revisions of the service and of the descriptors.
  private var knownStream: (answer: Bool?, service: UInt64, descriptors: UInt64) = (nil, .max, .max)

  /// `isKnown`: the service exists, so that its names may become labels of metrics.
  init(service: ServiceTable, endpoint: FixedBytes, caller: FixedBytes, isKnown: Bool, metrics: WorkerMetrics) {
    self.service = service
    self.endpoint = endpoint
    routing = Self.routing(service.nameBytes, endpoint, caller)
    self.metrics = metrics
    seriesService = isKnown ? service.name : ""
    seriesEndpoint = isKnown ? endpoint.text : ""
    handles = Array(repeating: nil, count: CallerForm.allCases.count)
  }

  /// What `policy` answers, and as of which table.
  private var knownPolicy: (policy: EndpointPolicy, table: PolicyTable)?
  /// What `isIdempotent` answers, and as of which revision of the service.
  private var knownIdempotent: (answer: Bool, service: UInt64) = (false, .max)

  /// What holds for calls of it.
  @inline(__always)
  func policy(_ worker: Worker) -> EndpointPolicy {
    if let knownPolicy, knownPolicy.table === worker.policies { return knownPolicy.policy }
    return findPolicy(worker)
  }

  private func findPolicy(_ worker: Worker) -> EndpointPolicy {
    let policy = worker.policies.endpoint(service.name, endpoint.text)
    knownPolicy = (policy, worker.policies)
    return policy
  }

  /// Whether a call may be made twice, as far as the configuration and the registries say.
  func isIdempotent(_ worker: Worker) -> Bool {
    if let answer = policy(worker).values.isIdempotent { return answer }
    if knownIdempotent.service != service.revision {
      knownIdempotent = (service.isIdempotent(endpoint.text), service.revision)
    }
    return knownIdempotent.answer
  }

  /// The latencies of its calls, by which hedges go; made when first asked for.
  private(set) lazy var quantile = LatencyQuantile()

  /// Where its streams go.
  var target: StreamTarget { .service(self) }

  static func routing(_ service: FixedBytes, _ endpoint: FixedBytes, _ caller: FixedBytes) -> FixedBytes {
    let lines = ByteBuffer(capacity: 512)
    FrameClient.appendRouting(service: service.span, endpoint: endpoint.span, from: caller.span, into: lines)
    return FixedBytes(lines.bytes)
  }

  /// Whether the registries, or else a descriptor, know the endpoint for a stream; nil: neither knows it. Servers of the
  /// framework go by their own table, never by what the caller sends (server/rpc_router.go @ v1.18.0).
  func isStream(_ translator: MessageTranslator) -> Bool? {
    if knownStream.service == service.revision, knownStream.descriptors == translator.revision {
      return knownStream.answer
    }
    let answer = service.isStream(endpoint.text) ?? translator.isStream(service.nameBytes.span, endpoint.span)
    knownStream = (answer, service.revision, translator.revision)
    return answer
  }

  /// The counters of calls that came in that form; made when first asked for.
  func handle(_ form: CallerForm) -> WorkerMetrics.Handle {
    if let handle = handles[form.rawValue] { return handle }
    let handle = metrics.handle(
      MetricSeries(
        .out, dialect: form.dialect, route: form.template, service: seriesService, endpoint: seriesEndpoint))
    handles[form.rawValue] = handle
    return handle
  }
}

/// How a call reached the local API.
enum CallerForm: Int, CaseIterable {
  case path, headers, rpc, webSocket, ndjson, events, grpc, legacyFrame, xMicroFrame, microFrame

  init(_ dialect: FrameDialect) {
    switch dialect {
    case .legacy: self = .legacyFrame
    case .xMicro: self = .xMicroFrame
    case .micro: self = .microFrame
    }
  }

  var isFrame: Bool { rawValue >= Self.legacyFrame.rawValue }

  /// As a label of metrics.
  var dialect: String {
    switch self {
    case .path, .headers, .rpc: "http"
    case .webSocket: "websocket"
    case .ndjson: "ndjson"
    case .events: "sse"
    case .grpc: "grpc"
    case .legacyFrame: "mucp-legacy"
    case .xMicroFrame: "mucp-x-micro"
    case .microFrame: "mucp"
    }
  }

  var template: String {
    switch self {
    case .path, .webSocket, .ndjson, .events: "/{service}/{method}"
    case .grpc: "/{package.Service}/{Method}"
    case .headers: "Micro-Endpoint"
    case .rpc: "/rpc"
    case .legacyFrame, .xMicroFrame, .microFrame: "frame"
    }
  }
}

/// A hash table from bytes to values, of fixed size: when a bucket is full one of its entries is overwritten. What goes
/// in is up to the user; for routes only those of services that exist, so strangers' paths cannot fill it.
package struct ByteKeyedCache<Value> {
  /// Bytes of a key; longer ones are not kept.
  package static var keyMax: Int { 256 }
  private static var ways: Int { 4 }

  // Apart, so that a look-up that fails touches the hashes only.
  private var hashes: [UInt64]
  private var keys: [FixedBytes?]
  private var values: [Value?]
  private let bucketMask: Int
  private var turn = 0
  private let seed: UInt64

  /// `capacity` is a power of two, 4 at least. `seed` keeps strangers from choosing keys that collide.
  package init(capacity: Int, seed: UInt64) {
    precondition(capacity >= 4 && capacity & (capacity - 1) == 0)
    self.seed = seed
    hashes = Array(repeating: 0, count: capacity)
    keys = Array(repeating: nil, count: capacity)
    values = Array(repeating: nil, count: capacity)
    bucketMask = capacity / Self.ways - 1
  }

  @inline(__always) private func hash(_ key: UnsafeRawBufferPointer) -> UInt64 {
    var state = seed ^ UInt64(truncatingIfNeeded: key.count)
    var index = 0
    while index &+ 8 <= key.count {
      state = Self.mix(state ^ key.loadUnaligned(fromByteOffset: index, as: UInt64.self))
      index &+= 8
    }
    var tail: UInt64 = 0
    while index < key.count {
      tail = tail &<< 8 | UInt64(key[index])
      index &+= 1
    }
    return Self.mix(state ^ tail)
  }

  @inline(__always) private static func mix(_ value: UInt64) -> UInt64 {
    let product = value.multipliedFullWidth(by: 0x9E37_79B9_7F4A_7C15)
    return product.high ^ product.low
  }

  package func find(_ key: UnsafeRawBufferPointer) -> Value? {
    let hash = hash(key)
    let first = (Int(truncatingIfNeeded: hash) & bucketMask) &* Self.ways
    for slot in first..<first &+ Self.ways where hashes[slot] == hash {
      if let known = keys[slot], ASCIIText.equals(known.span, key) { return values[slot] }
    }
    return nil
  }

  /// A key that is there gets the new value.
  package mutating func insert(_ key: UnsafeRawBufferPointer, _ value: Value) {
    guard key.count <= Self.keyMax else { return }
    let hash = hash(key)
    let first = (Int(truncatingIfNeeded: hash) & bucketMask) * Self.ways
    var slot = first + turn
    turn = (turn + 1) % Self.ways
    for way in first..<first + Self.ways {
      guard let known = keys[way] else {
        slot = way
        continue
      }
      if hashes[way] == hash, ASCIIText.equals(known.span, key) {
        slot = way
        break
      }
    }
    hashes[slot] = hash
    keys[slot] = FixedBytes(key)
    values[slot] = value
  }

  package mutating func removeAll(where isGone: (Value) -> Bool) {
    for index in keys.indices {
      guard let value = values[index], isGone(value) else { continue }
      keys[index] = nil
      values[index] = nil
    }
  }
}
