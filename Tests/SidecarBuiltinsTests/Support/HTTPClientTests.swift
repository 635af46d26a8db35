import SidecarBuiltins
import SidecarCore
import SidecarSim
import Testing

@Suite("The control plane's HTTP client") struct HTTPClientTests {
  /// A client on one host; servers on others.
  private final class World: @unchecked Sendable {
    let simulated = SimulatedLoop()
    var upstreams: [HTTPUpstream] = []
    var hosts: [SimHost] = []
    var endpoints: [HTTPEndpoint] = []

    @discardableResult
    func serve(_ answer: @escaping (HTTPUpstream.Request) -> HTTPUpstream.Answer) throws -> HTTPUpstream {
      let host = simulated.world.makeHost("server\(hosts.count)")
      hosts.append(host)
      let upstream = try HTTPUpstream(on: host.makeLoop(), at: host.address(port: 8500), answering: answer)
      upstreams.append(upstream)
      addEndpoint(host.address(port: 8500))
      return upstream
    }

    func addEndpoint(_ address: SocketAddress, basePath: String = "") {
      if let endpoint = HTTPEndpoint(host: address.host, port: address.port, isTLS: false, basePath: basePath) {
        endpoints.append(endpoint)
      }
    }

    func client(_ limits: HTTPClient.Limits = HTTPClient.Limits()) -> HTTPClient {
      HTTPClient(driver: simulated.loop, endpoints: endpoints, limits: limits)
    }
    var loop: SimDriver { simulated.loop }
  }

  private func failure<Value>(_ work: () async throws(HTTPFailure) -> Value) async -> ConnectionError? {
    do throws(HTTPFailure) {
      _ = try await work()
      return nil
    } catch {
      return error.cause
    }
  }

  @Test func `calls share one connection and say what was asked`() throws {
    let world = World()
    let upstream = try world.serve { request in
      .reply("\(request.method) \(request.target) \(request.text)", headers: [("X-Consul-Index", "42")])
    }
    world.endpoints = world.endpoints.compactMap {
      HTTPEndpoint(host: $0.host, port: 8500, isTLS: false, basePath: "/base")
    }
    let client = world.client()
    client.headers = [("X-Consul-Token", "secret")]
    try world.simulated.run {
      let first = try await client.call(HTTPRequest(.get, "/v1/a?index=1"), within: .seconds(1))
      #expect(String(decoding: first.body, as: UTF8.self) == "GET /base/v1/a?index=1 ")
      #expect(first.header("x-consul-index") == "42")
      let second = try await client.call(HTTPRequest(.put, "/v1/b", json: ["x": 1]), within: .seconds(1))
      #expect(String(decoding: second.body, as: UTF8.self) == "PUT /base/v1/b {\"x\":1}")
    }
    #expect(upstream.requests.map(\.indexOnConnection) == [0, 1])
    #expect(upstream.requests[0].header("X-Consul-Token") == "secret")
    #expect(upstream.requests[0].header("Host") == "10.0.0.2:8500")
  }

  @Test func `a kept connection that the server has closed is replaced`() throws {
    let world = World()
    let upstream = try world.serve { request in
      request.indexOnConnection == 1 ? .close : .reply("\(request.index)")
    }
    let client = world.client()
    try world.simulated.run {
      for _ in 0..<4 {
        let reply = try await client.call(HTTPRequest(.get, "/"), within: .seconds(1))
        #expect(reply.status == 200)
      }
    }
    #expect(upstream.requests.count == 7)
  }

  @Test func `a fresh connection that breaks is an error`() throws {
    let world = World()
    let upstream = try world.serve { _ in .close }
    let client = world.client()
    try world.simulated.run { [self] in
      let error = await failure { () throws(HTTPFailure) in
        try await client.call(HTTPRequest(.get, "/"), within: .seconds(1))
      }
      #expect(
        error == .closed("connection closed inside a message")
          || error == .closed("the connection was closed before a reply"))
    }
    #expect(upstream.requests.count == 1)
  }

  @Test func `chunks, cut bodies and bodies too large`() throws {
    let world = World()
    try world.serve { request in
      switch request.target {
      case "/chunks": .chunks(["ab", "cde"])
      case "/cut": .chunks(["ab"], finished: false).thenClose()
      default: .reply(String(repeating: "x", count: 2000))
      }
    }
    var limits = HTTPClient.Limits()
    limits.bodyBytes = 1000
    let client = world.client(limits)
    try world.simulated.run { [self] in
      let reply = try await client.call(HTTPRequest(.get, "/chunks"), within: .seconds(1))
      #expect(reply.body == Array("abcde".utf8))
      let cut = await failure { () throws(HTTPFailure) in
        try await client.call(HTTPRequest(.get, "/cut"), within: .seconds(1))
      }
      #expect(cut == .closed("connection closed inside a message"))
      let large = await failure { () throws(HTTPFailure) in
        try await client.call(HTTPRequest(.get, "/large"), within: .seconds(1))
      }
      #expect(large == .closed("its reply has more than 1000 bytes"))
    }
  }

  /// Remembers what each body was.
  private final class Bodies: HTTPBodyReader, @unchecked Sendable {
    var bodies: [[UInt8]] = []
    func begin() { bodies.append([]) }
    func take(_ part: [UInt8]) { bodies[bodies.count - 1] += part }
  }

  @Test func `a reader gets the body of success as it comes, and anew when another server is asked`() throws {
    let world = World()
    try world.serve { request in
      request.target == "/cut" ? .chunks(["abc"], finished: false).thenEnd() : .reply("no", status: 404)
    }
    try world.serve { _ in .chunks(["ab", "cd", "e"]) }
    let client = world.client()
    let bodies = Bodies()
    try world.simulated.run {
      let missing = try await client.call(HTTPRequest(.get, "/missing"), within: .seconds(1), reader: bodies)
      #expect(missing.shortText == "no")
      #expect(bodies.bodies.isEmpty)
      let reply = try await client.call(HTTPRequest(.get, "/cut"), within: .seconds(1), reader: bodies)
      #expect(reply.body.isEmpty)
      #expect(reply.status == 200)
      #expect(bodies.bodies == [Array("abc".utf8), Array("abcde".utf8)])
    }
  }

  @Test func `what is no HTTP is said to be none`() throws {
    let world = World()
    try world.serve { _ in .bytes("-ERR unknown command\r\n") }
    let client = world.client()
    try world.simulated.run { [self] in
      let error = await failure { () throws(HTTPFailure) in
        try await client.call(HTTPRequest(.get, "/"), within: .seconds(1))
      }
      #expect(error?.description.hasPrefix("it does not answer in HTTP/1.1") == true)
    }
  }

  @Test func `a server that cannot be reached is passed over, and the one that answered is asked first`() throws {
    let world = World()
    world.addEndpoint(SocketAddress.loopback(port: 9))
    let upstream = try world.serve { _ in .reply("second") }
    let client = world.client()
    try world.simulated.run {
      for _ in 0..<3 {
        let reply = try await client.call(HTTPRequest(.get, "/"), within: .seconds(5))
        #expect(reply.endpoint.authority == "10.0.0.2:8500")
      }
      #expect(client.preferredEndpoint.authority == "10.0.0.2:8500")
    }
    #expect(upstream.requests.count == 3)
  }

  @Test func `a server without a leader is passed over; when all are, its reply is given`() throws {
    let world = World()
    let without = try world.serve { _ in .reply("No cluster leader", status: 500) }
    try world.serve { request in
      request.target == "/both" ? .reply("No cluster leader", status: 500) : .reply("fine")
    }
    let client = world.client()
    client.isUnfit = { $0.status == 500 && $0.body == Array("No cluster leader".utf8) }
    try world.simulated.run { () async throws in
      #expect(try await client.call(HTTPRequest(.get, "/"), within: .seconds(5)).shortText == "fine")
      #expect(try await client.call(HTTPRequest(.get, "/both"), within: .seconds(5)).status == 500)
      #expect(try await client.call(HTTPRequest(.get, "/"), within: .seconds(5)).shortText == "fine")
    }
    #expect(without.requests.count == 2)
  }

  @Test func `a deadline holds for all of a call`() throws {
    let world = World()
    try world.serve { _ in .stall }
    let client = world.client()
    try world.simulated.run { [self] in
      let before = world.loop.now
      let error = await failure { () throws(HTTPFailure) in
        try await client.call(HTTPRequest(.get, "/"), within: .seconds(2))
      }
      #expect(error == .timedOut)
      #expect(world.loop.now.nanoseconds(since: before) < 2_100_000_000)
    }
  }

  @Test func `calls beyond the limit wait for their turn, also behind one that gave up`() throws {
    let world = World()
    let upstream = try world.serve { _ in .reply("x").after(.milliseconds(100)) }
    var limits = HTTPClient.Limits()
    limits.callsAtOnce = 2
    let client = world.client(limits)
    let done = Box(0)
    let gaveUp = Box(0)
    try world.simulated.run {
      await withTaskGroup(of: Void.self) { group in
        for index in 0..<10 {
          group.addTask {
            do throws(HTTPFailure) {
              _ = try await client.call(HTTPRequest(.get, "/"), within: index == 4 ? .milliseconds(50) : .seconds(5))
              done.value += 1
            } catch {
              gaveUp.value += 1
            }
          }
        }
      }
    }
    #expect(done.value == 9)
    #expect(gaveUp.value == 1)
    #expect(upstream.requests.count { $0.indexOnConnection == 0 } <= 2)
  }

  @Test func `a reply without end is read as it comes and ends with its connection`() throws {
    let world = World()
    try world.serve { request in
      request.target == "/missing"
        ? .reply("no", status: 404)
        : .bytes("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").then(
          .bytes("3\r\ntwo\r\n").after(.seconds(40)).then(.reset))
    }
    let client = world.client()
    try world.simulated.run { [self] in
      let stream = try await client.stream(HTTPRequest(.get, "/watch"), within: .seconds(1))
      #expect(stream.head.status == 200)
      #expect(try await stream.next() == Array("one".utf8))
      let failed1 = await failure { () throws(HTTPFailure) in
        try await stream.next(deadline: world.loop.now.advanced(by: .seconds(1)))
      }
      #expect(failed1 == .timedOut)
      #expect(try await stream.next() == Array("two".utf8))
      let failed2 = await failure { () throws(HTTPFailure) in try await stream.next() }
      #expect(failed2 != nil)
      #expect(try await client.stream(HTTPRequest(.get, "/missing"), within: .seconds(1)).head.status == 404)
    }
  }

  @Test func `texts are escaped for URLs`() {
    #expect(HTTPText.escape("a b/ü?&=+%") == "a%20b%2F%C3%BC%3F%26%3D%2B%25")
    #expect(HTTPText.query([("dc", "eu 1"), ("stale", nil)]) == "?dc=eu%201&stale")
    #expect(HTTPText.query([]) == "")
    #expect(
      HTTPText.basicAuthorization(user: "Aladdin", password: "open sesame") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
    #expect(HTTPText.base64Decoded("Zm9vYg==") == Array("foob".utf8))
    #expect(HTTPText.base64Decoded("!") == nil)
    #expect(HTTPText.short(Array("one\u{1B}[2J line\nsecond".utf8)) == "one?[2J line")
  }
}
