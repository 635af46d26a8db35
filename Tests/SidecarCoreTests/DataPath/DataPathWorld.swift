// A worker of the sidecar between a scripted app and scripted nodes, each on a host of its own, in a simulated world.
//
//   app host ── local API ──▶ sidecar host ──▶ node hosts
//   app host ◀── delivery ── sidecar host ◀── framework callers (on the app's host too: they need no other)

@testable import SidecarCore
import SidecarSim
import Testing

/// Picks the first allowed node, or a random one.
struct TestSelector: Selector {
  var isRandom = false

  init(isRandom: Bool = false) { self.isRandom = isRandom }

  mutating func rebuild(_ candidates: Candidates) {}
  mutating func pick(_ context: SelectContext, random: inout SeededRandom, now: Instant) -> Int? {
    let allowed = context.allowed.filter { !context.wasTried($0) }.map { Int($0) }
    return isRandom ? (allowed.isEmpty ? nil : allowed[random.below(allowed.count)]) : allowed.first
  }
}

/// Answers what the worker asks of the control loop as the test says. Everything of a world runs on one thread.
final class TestControl: ControlPort, @unchecked Sendable {
  var asked: [ServiceName] = []
  var answers: [ServiceName: ServiceEntry] = [:]
  /// False: a question stays unanswered until the test answers it.
  var answersAtOnce = true
  var requests: [APIRequest] = []
  var reply = APIReply.text(200, "ok")
  var appFailures = 0

  func resolve(_ name: ServiceName, for worker: WorkerPort) {
    asked.append(name)
    guard answersAtOnce else { return }
    let entry = answers[name]
    worker.post { $0.resolved(name, entry) }
  }
  func handle(_ request: APIRequest, reply: @escaping @Sendable (APIReply) -> Void) {
    requests.append(request)
    reply(self.reply)
  }
  func appFailed() { appFailures += 1 }
}

final class DataPathWorld {
  let world: SimWorld
  let sidecar: SimDriver
  /// Where callers run, and the app.
  let app: SimDriver
  let worker: Worker
  let control = TestControl()
  let api: SocketAddress
  let framework: SocketAddress
  private(set) var upstreams: [HTTPUpstream] = []
  private(set) var isDrained = false
  private var revision: UInt64 = 0

  static let appPort: UInt16 = 9090

  init(
    seed: UInt64 = 1, plan: FaultPlan = .none, world: SimWorld? = nil, randomSelector: Bool = false,
    _ configure: (inout DataPathSettings) -> Void = { _ in }
  ) throws {
    self.world = world ?? SimWorld(seed: seed, plan: plan)
    sidecar = self.world.makeHost("sidecar").makeLoop()
    app = self.world.makeHost("app").makeLoop()
    var settings = DataPathSettings(makeSelector: { _ in TestSelector(isRandom: randomSelector) })
    settings.serviceName = "go.micro.srv.me"
    settings.fromService = FixedBytes("go.micro.srv.me")
    settings.appTarget = .socket(app.host.address(port: Self.appPort))
    settings.appHost = FixedBytes("app:9090")
    configure(&settings)
    worker = Worker(index: 0, driver: sidecar, settings: settings, control: control)
    api = try worker.listenForApp(at: .address(sidecar.host.address(port: 8081), isShared: false))
    framework = try worker.listenForFramework(at: .address(sidecar.host.address(port: 0), isShared: false))
  }

  deinit { world.tearDown() }

  /// One where these policies hold for every service and endpoint, and for calls to the app.
  static func governed(
    randomSelector: Bool = false, service: (inout ServicePolicy) -> Void = { _ in },
    endpoint: (inout EndpointPolicy.Values) -> Void = { _ in }, inbound: InboundPolicy = InboundPolicy(),
    configure: (inout DataPathSettings) -> Void = { _ in }
  ) throws -> DataPathWorld {
    var servicePolicy = ServicePolicy()
    var values = EndpointPolicy.Values()
    service(&servicePolicy)
    endpoint(&values)
    let table = PolicyTable(service: servicePolicy, endpoint: values, inbound: inbound)
    return try DataPathWorld(randomSelector: randomSelector) {
      $0.policies = table
      configure(&$0)
    }
  }

  // MARK: Peers

  /// Starts a scripted node on a host of its own.
  func node(
    _ name: String = "node", answering answer: @escaping (HTTPUpstream.Request) -> HTTPUpstream.Answer
  ) throws -> HTTPUpstream {
    let loop = world.makeHost(name).makeLoop()
    let upstream = try HTTPUpstream(on: loop, at: loop.host.address(port: 5000), answering: answer)
    upstreams.append(upstream)
    return upstream
  }

  /// Starts the app behind the sidecar.
  func startApp(answering answer: @escaping (HTTPUpstream.Request) -> HTTPUpstream.Answer) throws -> HTTPUpstream {
    let upstream = try HTTPUpstream(on: app, at: app.host.address(port: Self.appPort), answering: answer)
    upstreams.append(upstream)
    return upstream
  }

  static let micro = ["protocol": "mucp", "transport": "http", "server": "mucp"]
  static let legacy = ["transport": "http", "server": "rpc"]

  /// Makes the worker know a service by these nodes.
  func register(
    _ service: ServiceName, at addresses: [SocketAddress], metadata: [String: String] = DataPathWorld.micro
  ) {
    register(
      service,
      nodes: addresses.enumerated().map { Node(id: "\(service)-\($0)", address: $1.description, metadata: metadata) })
  }
  func register(_ service: ServiceName, nodes: [Node]) {
    worker.apply(CatalogDelta(revision: revision + 1, changed: [entry(service, nodes)]))
  }
  func entry(_ service: ServiceName, _ nodes: [Node]) -> ServiceEntry {
    revision += 1
    let version = VersionInfo(service: service, version: "latest", metadata: [:], endpoints: [])
    return ServiceEntry(
      name: service, revision: revision, versions: [Service(name: service, nodes: nodes)],
      nodes: nodes.map {
        CatalogNode(node: $0, version: version, target: DialTarget($0.address) ?? .opaque($0.address), origins: [0])
      },
      isStale: false)
  }
  func deregister(_ service: ServiceName) {
    revision += 1
    worker.apply(CatalogDelta(revision: revision, removed: [service]))
  }

  // MARK: Callers

  func client(_ script: String = "", to address: SocketAddress? = nil) -> ScriptedClient {
    let client = ScriptedClient(on: app, to: address ?? api)
    return (script.isEmpty ? client : client.send(script)).start()
  }

  /// Sends `request` on a connection of its own and returns all replies that came within `time`.
  func exchange(
    _ request: String, to address: SocketAddress? = nil, within time: Duration = .seconds(20), count: Int = 1
  ) throws -> [Reply] {
    let client = client(request, to: address)
    _ = world.runUntil(
      { Reply.parse(client.text).count >= count || client.end != nil || client.peerEnded }, within: time)
    return Reply.parse(client.text)
  }

  func ask(_ request: String, to address: SocketAddress? = nil, within time: Duration = .seconds(20)) throws -> Reply {
    try #require(try exchange(request, to: address, within: time).first, "a reply to \(request)")
  }

  func run(_ duration: Duration) { world.run(for: duration) }

  func drain() {
    worker.drain { self.isDrained = true }
  }

  /// Drains the worker; then nothing of it may be left, and its counts must be back at zero.
  func finish(within time: Duration = .seconds(60)) throws {
    if !worker.isDraining { drain() }
    _ = world.runUntil({ self.isDrained }, within: time)
    // The last closes linger for a while where a peer takes nothing.
    run(.seconds(10))
    try world.require(isDrained, "the drain completes")
    try world.verify()
    try checkIdle()
    let leaks = sidecar.host.leaks()
    try world.require(leaks.isEmpty, "nothing is left: \(leaks)")
  }

  /// Nothing is under way.
  func checkIdle() throws {
    try world.require(worker.callsInFlight == 0, "calls in flight are \(worker.callsInFlight)")
    try world.require(
      worker.openUpstreams >= worker.idleUpstreams && worker.idleUpstreams >= 0,
      "\(worker.openUpstreams) open, \(worker.idleUpstreams) idle")
    if isDrained { try world.require(worker.openUpstreams == 0, "\(worker.openUpstreams) connections to nodes") }
  }
}

/// A reply as a caller reads it.
struct Reply: CustomStringConvertible {
  var status = 0
  var headers: [(name: String, value: String)] = []
  var body = ""
  var description: String { "\(status) \(headers) \(body)" }

  func header(_ name: String) -> String? { headers.first { $0.name.lowercased() == name.lowercased() }?.value }
  func headers(_ name: String) -> [String] {
    headers.filter { $0.name.lowercased() == name.lowercased() }.map(\.value)
  }
  /// A field of the error JSON.
  var detail: String { json?["detail"]?.stringValue ?? "" }
  var id: String { json?["id"]?.stringValue ?? "" }
  var code: Int { json?["code"]?.numberText.flatMap { Int($0) } ?? 0 }
  private var json: JSONValue? { try? JSONValue(parsing: body) }

  /// The whole replies at the front of `text`; every one has a Content-Length or no body.
  static func parse(_ text: String, toHEAD: Bool = false) -> [Reply] {
    var replies: [Reply] = []
    var rest = Array(text.utf8)[...]
    while let end = headEnd(rest) {
      let lines = String(decoding: rest[..<end], as: UTF8.self).split(separator: "\r\n")
      var reply = Reply()
      let words = (lines.first ?? "").split(separator: " ")
      reply.status = words.count > 1 ? Int(words[1]) ?? 0 : 0
      reply.headers = lines.dropFirst().map { line in
        let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        return (String(parts[0]), parts.count > 1 ? String(parts[1].drop { $0 == " " }) : "")
      }
      let length = toHEAD || reply.status < 200 ? 0 : Int(reply.header("Content-Length") ?? "0") ?? 0
      let bodyStart = end + 4
      guard rest.endIndex - bodyStart >= length else { break }
      reply.body = String(decoding: rest[bodyStart..<bodyStart + length], as: UTF8.self)
      rest = rest[(bodyStart + length)...]
      replies.append(reply)
    }
    return replies
  }

  /// The same without interim answers, which a caller gets that has ended its half.
  static func parseFinal(_ text: String) -> [Reply] { parse(text).filter { $0.status >= 200 } }

  private static func headEnd(_ bytes: ArraySlice<UInt8>) -> Int? {
    guard bytes.count >= 4 else { return nil }
    return (bytes.startIndex...bytes.endIndex - 4).first {
      bytes[$0] == 13 && bytes[$0 + 1] == 10 && bytes[$0 + 2] == 13 && bytes[$0 + 3] == 10
    }
  }
}

/// Requests as text.
enum Ask {
  static func post(
    _ target: String, _ body: String = "{}", type: String? = "application/json", headers: [String] = []
  ) -> String {
    let fields = ((type.map { ["Content-Type: \($0)"] } ?? []) + headers).map { $0 + "\r\n" }.joined()
    return "POST \(target) HTTP/1.1\r\nHost: a\r\n\(fields)Content-Length: \(body.utf8.count)\r\n\r\n\(body)"
  }
  static func get(_ target: String, headers: [String] = []) -> String {
    "GET \(target) HTTP/1.1\r\nHost: localhost\r\n\(headers.map { $0 + "\r\n" }.joined())\r\n"
  }
  /// A call of a framework client of v1 and later.
  static func frame(
    _ service: String = "go.micro.srv.hello", _ endpoint: String = "Say.Hello", _ body: String = "{}\n",
    type: String = "application/json", id: Int = 7, headers: [String] = []
  ) -> String {
    post(
      "/", body, type: type,
      headers: [
        "Micro-Service: \(service)", "Micro-Endpoint: \(endpoint)", "Micro-Method: \(endpoint)", "Micro-Id: \(id)",
      ] + headers)
  }
}

/// Bytes as text of a proto-rpc envelope, for tests that speak as strings: only for payloads that are ASCII.
func protoRPC(method: String, payload: String, error: String = "", seq: UInt64 = 1) -> String {
  let buffer = ByteBuffer()
  let (method, payload, error) = (FixedBytes(method), FixedBytes(payload), FixedBytes(error))
  ProtoRPCEnvelope.write(method: method.span, seq: seq, error: error.span, payload: payload.span, into: buffer)
  return String(decoding: buffer.bytes, as: UTF8.self)
}

extension FaultPolicy {
  /// Every call waits so many nanoseconds.
  static func delay(_ nanoseconds: Int64) -> FaultPolicy {
    var fault = FaultPolicy()
    fault.delay = nanoseconds
    fault.delayShare = 1
    return fault
  }
}
