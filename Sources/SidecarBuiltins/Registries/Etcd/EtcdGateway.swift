// etcd v3's API as JSON over HTTP: the gateway that etcd serves beside gRPC on the same port. It is used rather than gRPC
// because it needs no more than what other registries need, works through HTTP proxies and is on wherever it was not
// switched off; what it costs is base64.
//
// Its path depends on the version: /v3 from 3.4 on, /v3beta in 3.3, /v3alpha before. 64-bit numbers come as strings.

import SidecarCore

/// Threading: the control loop.
final class EtcdGateway: @unchecked Sendable {
  /// Seconds a call may take, as go-micro's.
  static let callSeconds: Int64 = 5
  /// Keys of one page: a page of 500 services of common size has half a megabyte.
  static let pageKeys = 500

  let options: EtcdOptions
  let client: HTTPClient
  private let name: String
  private var apiPath: String?
  private var token: String?

  init(_ options: EtcdOptions, name: String, driver: any HostDriver) {
    self.options = options
    self.name = name
    client = HTTPClient(driver: driver, endpoints: options.endpoints, tls: options.tls)
    client.isUnfit = { $0.status == 502 || $0.status == 503 }
  }

  /// One key and its value.
  struct Pair {
    var key: String
    var value: [UInt8]

    /// Nil for what is none.
    init?(_ json: JSONValue?) {
      guard let key = json?["key"]?.stringValue.flatMap(HTTPText.base64Decoded) else { return nil }
      self.key = String(decoding: key, as: UTF8.self)
      value = json?["value"]?.stringValue.flatMap(HTTPText.base64Decoded) ?? []
    }
  }

  // MARK: Keys

  /// All that begins with `prefix`, page by page, as of one revision, which is returned. Any member may answer, as for
  /// go-micro, unless `revision` asks for a certain state.
  @discardableResult
  func range(
    _ prefix: String, keysOnly: Bool = false, _ body: (Pair) -> Void
  ) async throws(RegistryError) -> Int64 {
    var from = Array(prefix.utf8)
    var revision: Int64 = 0
    while true {
      var request: [JSONValue.Member] = [
        JSONValue.Member("key", Self.bytes(from)), JSONValue.Member("range_end", Self.end(of: prefix)),
        JSONValue.Member("limit", .string("\(Self.pageKeys)")), JSONValue.Member("serializable", true),
      ]
      if keysOnly { request.append(JSONValue.Member("keys_only", true)) }
      if revision > 0 { request.append(JSONValue.Member("revision", .string("\(revision)"))) }
      let reply = try await call("kv/range", .object(request))
      if revision == 0 { revision = Self.number(reply["header"]?["revision"]) ?? 0 }
      var last: [UInt8]?
      for json in reply["kvs"]?.arrayValue ?? [] {
        guard let pair = Pair(json) else { continue }
        last = Array(pair.key.utf8)
        body(pair)
      }
      guard reply["more"]?.boolValue == true, let last else { return revision }
      from = last + [0]
    }
  }

  func put(_ key: String, _ value: String, lease: Int64?) async throws(RegistryError) {
    var request: [JSONValue.Member] = [
      JSONValue.Member("key", Self.bytes(Array(key.utf8))), JSONValue.Member("value", Self.bytes(Array(value.utf8))),
    ]
    if let lease { request.append(JSONValue.Member("lease", .string("\(lease)"))) }
    _ = try await call("kv/put", .object(request))
  }

  func delete(_ key: String) async throws(RegistryError) {
    _ = try await call("kv/deleterange", ["key": Self.bytes(Array(key.utf8))])
  }

  // MARK: Leases

  func grantLease(seconds: Int64) async throws(RegistryError) -> Int64 {
    let reply = try await call("lease/grant", ["TTL": .string("\(seconds)")])
    guard let id = Self.number(reply["ID"]) else { throw .unavailable("\(name) granted a lease without a number") }
    return id
  }

  /// False when the lease has ended.
  func keepLease(_ id: Int64) async throws(RegistryError) -> Bool {
    let reply = try await call("lease/keepalive", ["ID": .string("\(id)")])
    return (Self.number(reply["result"]?["TTL"]) ?? 0) > 0
  }

  /// What is attached to it goes too. One that has ended is no error.
  func revokeLease(_ id: Int64) async throws(RegistryError) {
    do throws(RegistryError) {
      _ = try await call("lease/revoke", ["ID": .string("\(id)")])
    } catch {
      guard error.description.contains("lease not found") else { throw error }
    }
  }

  // MARK: Watching

  /// A stream of what happens under `prefixes`, each from its revision on.
  func watch(_ prefixes: [String], from revisions: [Int64]) async throws(RegistryError) -> HTTPReplyStream {
    let requests = zip(prefixes, revisions).map { prefix, revision in
      let create: JSONValue = [
        "key": Self.bytes(Array(prefix.utf8)), "range_end": Self.end(of: prefix),
        "start_revision": .string("\(revision)"), "prev_kv": false,
      ]
      return JSONValue.object([JSONValue.Member("create_request", create)]).text()
    }
    try await prepare()
    let body = Array(requests.joined(separator: "\n").utf8)
    let stream = try await mapped { () async throws(HTTPFailure) in
      try await client.stream(
        HTTPRequest(.post, path("watch"), body: body, headers: headers), within: .seconds(Self.callSeconds))
    }
    if stream.head.status == 401 { token = nil }
    guard stream.head.status == 200 else {
      var body: [UInt8] = []
      while body.count < 4096, let part = try? await stream.next(deadline: .distantFuture) { body += part }
      throw failure(
        HTTPReply(status: stream.head.status, headers: [], body: body, endpoint: stream.endpoint), "watch")
    }
    return stream
  }

  /// Whether the member behind `stream` still answers.
  func isAlive(_ stream: HTTPReplyStream) async -> Bool {
    guard let reply = try? await client.call(HTTPRequest(.get, "/version"), within: .seconds(Self.callSeconds)) else {
      return false
    }
    return reply.endpoint == stream.endpoint
  }

  // MARK: Calls

  private var headers: [(name: String, value: String)] {
    [("Content-Type", "application/json")] + (token.map { [("Authorization", $0)] } ?? [])
  }
  private func path(_ method: String) -> String { "\(apiPath ?? "/v3")/\(method)" }

  func call(_ method: String, _ request: JSONValue) async throws(RegistryError) -> JSONValue {
    try await prepare()
    var reply = try await send(path(method), request)
    // Tokens end, and go with a member that is restarted.
    if reply.status == 401, token != nil {
      token = nil
      try await prepare()
      reply = try await send(path(method), request)
    }
    guard reply.isSuccess else {
      // Another version may answer after an update.
      if reply.status == 404 { apiPath = nil }
      throw failure(reply, method)
    }
    return try parse(reply)
  }

  /// Asks for the version once, and for a token where there are credentials.
  private func prepare() async throws(RegistryError) {
    if apiPath == nil {
      let reply = try await mapped { () async throws(HTTPFailure) in
        try await client.call(HTTPRequest(.get, "/version"), within: .seconds(Self.callSeconds))
      }
      guard reply.isSuccess, let version = try parse(reply)["etcdserver"]?.stringValue else {
        throw .unavailable("\(reply.endpoint) does not answer as etcd does: \(reply.status) \(reply.shortText)")
      }
      let numbers = version.split(separator: ".").prefix(2).map { Int($0) ?? 0 }
      let minor = numbers.count == 2 && numbers[0] == 3 ? numbers[1] : numbers.first == 2 ? -1 : 4
      guard minor >= 0 else {
        throw .refused("\(reply.endpoint) is etcd \(version), which has the v2 API only: use MICRO_REGISTRY=etcdv2")
      }
      apiPath = minor >= 4 ? "/v3" : minor == 3 ? "/v3beta" : "/v3alpha"
    }
    guard token == nil else { return }
    let credentials: (user: String, password: String)?
    do throws(ConfigurationError) {
      credentials = try options.credentials()
    } catch {
      throw .unavailable(error.message)
    }
    guard let credentials else { return }
    let reply = try await send(
      path("auth/authenticate"), ["name": .string(credentials.user), "password": .string(credentials.password)])
    // With authentication switched off a user is of no use and no harm.
    if reply.shortText.contains("authentication is not enabled") { return }
    guard reply.isSuccess, let new = try parse(reply)["token"]?.stringValue else {
      throw .refused(
        "\(reply.endpoint) does not take user \(credentials.user): \(Self.message(reply)); correct user and password, or "
          + "ETCD_USERNAME and ETCD_PASSWORD")
    }
    token = new
  }

  private func send(_ path: String, _ json: JSONValue) async throws(RegistryError) -> HTTPReply {
    let request = HTTPRequest(.post, path, body: Array(json.text().utf8), headers: headers)
    return try await mapped { () async throws(HTTPFailure) in
      try await client.call(request, within: .seconds(Self.callSeconds))
    }
  }

  private func mapped<Value>(
    _ work: () async throws(HTTPFailure) -> Value
  ) async throws(RegistryError) -> Value {
    do throws(HTTPFailure) {
      return try await work()
    } catch {
      throw .unavailable(error.cause == .cancelled ? "cancelled" : "\(name) at \(error)")
    }
  }

  private func parse(_ reply: HTTPReply) throws(RegistryError) -> JSONValue {
    do throws(WireError) {
      return try JSONValue(parsing: reply.body)
    } catch {
      throw .unavailable("\(reply.endpoint) does not answer as etcd does: \(error.rule)")
    }
  }

  private static func message(_ reply: HTTPReply) -> String {
    let json = try? JSONValue(parsing: reply.body)
    return json?["message"]?.stringValue ?? json?["error"]?.stringValue ?? reply.shortText
  }

  private func failure(_ reply: HTTPReply, _ method: String) -> RegistryError {
    let said = "\(method): \(name) at \(reply.endpoint) says \(reply.status): \(Self.message(reply))"
    if said.contains("permission denied") || reply.status == 403 {
      return .refused(
        "\(said); grant the user's role readwrite on the prefixes \(EtcdKeys.all.joined(separator: ", "))")
    }
    if said.contains("user name is empty") || reply.status == 401 {
      return .refused("\(said); give user and password, or ETCD_USERNAME and ETCD_PASSWORD")
    }
    switch reply.status {
    case 404:
      return .refused("\(said); switch the gateway on with --enable-grpc-gateway, or use MICRO_REGISTRY=etcdv2")
    case 400, 405...407, 409...428: return .refused(said)
    default: return .unavailable(said)
    }
  }

  // MARK: Values

  static func number(_ json: JSONValue?) -> Int64? {
    switch json {
    case .string(let text), .number(let text): Int64(text)
    case nil, .null, .bool, .array, .object: nil
    }
  }

  private static func bytes(_ bytes: [UInt8]) -> JSONValue { .string(HTTPText.base64(bytes)) }

  /// The first key after all that begin with `prefix`, which ends with a slash.
  private static func end(of prefix: String) -> JSONValue {
    var end = Array(prefix.utf8)
    if let last = end.popLast() { end.append(last + 1) }
    return bytes(end)
  }
}
