import COpenSSL
import Foundation
import SidecarCore
import Testing

@testable import SidecarTLS

/// A client and a server with nothing but memory between them.
private struct Pair {
  let client: TLSSession
  let server: TLSSession

  init(
    _ client: TLSConfiguration, _ server: TLSConfiguration, host: String? = "registry.test",
    change: (TLSContext) -> Void = { _ in }
  ) throws {
    let context = try TLSContext(.client, client)
    change(context)
    self.client = try TLSSession(context, peer: .server(host: host))
    self.server = try TLSSession(try TLSContext(.server, server), peer: .client)
  }

  static func output(_ session: TLSSession) -> [UInt8] {
    let buffer = ByteBuffer()
    session.takeOutput(into: buffer)
    return [UInt8](buffer.bytes)
  }

  static func receive(_ session: TLSSession, _ bytes: some Sequence<UInt8>) throws {
    try Array(bytes).withUnsafeBytes { try session.receive($0) }
  }

  static func write(_ session: TLSSession, _ bytes: [UInt8]) throws {
    try bytes.withUnsafeBytes { try session.write($0) }
  }

  static func read(_ session: TLSSession) throws -> [UInt8] {
    let buffer = ByteBuffer()
    try session.read(into: buffer)
    return [UInt8](buffer.bytes)
  }

  /// Carries bytes both ways, `size` at a time, until nobody has more to say.
  func settle(size: Int = .max) throws {
    try client.handshake()
    while true {
      let (up, down) = (Self.output(client), Self.output(server))
      if up.isEmpty, down.isEmpty { return }
      for (bytes, session) in [(up, server), (down, client)] {
        var rest = bytes[...]
        while !rest.isEmpty {
          let part = rest.prefix(size)
          rest = rest.dropFirst(part.count)
          try Self.receive(session, part)
        }
      }
    }
  }
}

@Suite("TLS sessions") struct TLSSessionTests {
  private let certificates: TestCertificates

  init() throws { certificates = try TestCertificates.made.get() }

  private var client: TLSConfiguration {
    var configuration = TLSConfiguration()
    configuration.trust = .authorities(certificates.authority)
    return configuration
  }
  private var server: TLSConfiguration {
    var configuration = TLSConfiguration()
    configuration.certificate = certificates.server
    configuration.key = certificates.serverKey
    return configuration
  }

  private func open(host: String? = "registry.test") throws -> Pair {
    let pair = try Pair(client, server, host: host)
    try pair.settle()
    #expect(pair.client.isEstablished && pair.server.isEstablished)
    return pair
  }

  /// What `work` throws, as people read it.
  private func failure(_ work: () throws -> Void) -> String {
    do {
      try work()
      return ""
    } catch let error as TLSError {
      return error.message
    } catch {
      return "\(error)"
    }
  }

  @Test(arguments: ["registry.test", "localhost", "127.0.0.1", nil])
  func `both ends agree and understand each other`(_ host: String?) throws {
    let pair = try open(host: host)
    #expect(pair.client.version == "TLSv1.3")
    for (sender, receiver) in [(pair.client, pair.server), (pair.server, pair.client)] {
      try Pair.write(sender, Array("hello".utf8))
      try Pair.write(sender, [])
      try Pair.write(sender, Array(" there".utf8))
      try Pair.receive(receiver, Pair.output(sender))
      #expect(try Pair.read(receiver) == Array("hello there".utf8))
      #expect(try Pair.read(receiver).isEmpty)
    }
  }

  @Test func `the first protocol that the server likes and the client offers is spoken`() throws {
    for (offered, liked, expected) in [
      (["h2", "http/1.1"], ["http/1.1", "h2"], "http/1.1"), (["h2"], ["http/1.1"], nil), ([], ["h2"], nil),
    ] as [([String], [String], String?)] {
      var (client, server) = (client, server)
      client.protocols = offered
      server.protocols = liked
      let pair = try Pair(client, server)
      try pair.settle()
      #expect(pair.client.negotiatedProtocol == expected)
      #expect(pair.server.negotiatedProtocol == expected)
    }
  }

  @Test(arguments: [1, 2, 5, 100]) func `a handshake may come in parts of any size`(_ size: Int) throws {
    let pair = try Pair(client, server)
    try pair.settle(size: size)
    #expect(pair.client.isEstablished && pair.server.isEstablished)
  }

  @Test func `a server that wants a certificate takes one of its authority and no other`() throws {
    var server = server
    server.trust = .authorities(certificates.authority)
    server.requiresClientCertificate = true
    var client = client
    client.certificate = certificates.client
    client.key = certificates.clientKey
    let pair = try Pair(client, server)
    try pair.settle()
    #expect(pair.server.isEstablished)

    client.certificate = certificates.stranger
    client.key = certificates.strangerKey
    for (configuration, hint) in [(self.client, "cert_file"), (client, "does not take our certificate")] {
      let pair = try Pair(configuration, server)
      #expect(failure { try pair.settle() } != "")
      #expect(!pair.server.isEstablished)
      // The client has finished before the server says no, and hears of it when it reads.
      let said = failure {
        try Pair.receive(pair.client, Pair.output(pair.server))
        _ = try Pair.read(pair.client)
      }
      #expect(said.contains(hint), "\(said)")
    }
  }

  @Test(arguments: [
    ("registry.test", true, "signed by nobody we trust"),
    ("elsewhere.test", false, "is for registry.test, localhost, 127.0.0.1, ::1, not for elsewhere.test"),
    ("127.0.0.2", false, "not for 127.0.0.2"), ("test", false, "not for test"),
  ])
  func `a certificate of a strange authority or for another name is refused`(
    _ host: String, _ isStrange: Bool, _ cause: String
  ) throws {
    var server = server
    if isStrange {
      server.certificate = certificates.stranger
      server.key = certificates.strangerKey
    }
    let pair = try Pair(client, server, host: host)
    let said = failure { try pair.settle() }
    #expect(said.contains(cause), "\(said)")
    #expect(!pair.client.isEstablished)
    // The peer is told why, and nothing works any more.
    #expect(Pair.output(pair.client).first == 21, "an alert")
    #expect(failure { _ = try Pair.read(pair.client) } == said)
    #expect(failure { try pair.client.handshake() } == said)
    var anyone = client
    anyone.trust = .anyone
    let trusting = try Pair(anyone, server, host: nil)
    try trusting.settle()
    #expect(trusting.client.isEstablished)
  }

  @Test(arguments: [false, true]) func `nobody makes us shake hands again`(_ isServersWish: Bool) throws {
    let pair = try Pair(client, server) { context in
      _ = openssl.SSL_CTX_ctrl(context.pointer, SSL_CTRL_SET_MAX_PROTO_VERSION, Int(TLS1_2_VERSION), nil)
    }
    try pair.settle()
    #expect(pair.client.version == "TLSv1.2")
    let (peer, own) = isServersWish ? (pair.server, pair.client) : (pair.client, pair.server)
    let library = try #require(dlopen("libssl.so.3", RTLD_NOW))
    typealias Call = @convention(c) (OpaquePointer) -> Int32
    typealias Options = @convention(c) (OpaquePointer, UInt64) -> UInt64
    let clear = unsafeBitCast(try #require(dlsym(library, "SSL_clear_options")), to: Options.self)
    let renegotiate = unsafeBitCast(try #require(dlsym(library, "SSL_renegotiate")), to: Call.self)
    let noRenegotiation: UInt64 = 1 << 30
    _ = clear(peer.ssl, noRenegotiation)
    #expect(renegotiate(peer.ssl) == 1)
    _ = openssl.SSL_do_handshake(peer.ssl)
    let wish = Pair.output(peer)
    #expect(wish.first == 22, "a handshake's record")
    // It is refused in a word, and what goes on is what was agreed: we answer with an alert and with no handshake.
    try Pair.receive(own, wish)
    #expect(try Pair.read(own) == [])
    let answer = Pair.output(own)
    #expect(answer.first == 21 && answer.count < 64, "\(answer)")
    try Pair.write(own, Array("still here".utf8))
    #expect(Pair.output(own).first == 23)
  }

  @Test func `who says goodbye is heard, and what it said before is read`() throws {
    let pair = try open()
    try Pair.write(pair.server, Array("last".utf8))
    pair.server.close()
    pair.server.close()
    try Pair.receive(pair.client, Pair.output(pair.server))
    #expect(!pair.client.peerEnded)
    #expect(try Pair.read(pair.client) == Array("last".utf8))
    #expect(pair.client.peerEnded)
    #expect(try Pair.read(pair.client).isEmpty)
    // One half only: the other may still speak.
    try Pair.write(pair.client, Array("bye".utf8))
    try Pair.receive(pair.server, Pair.output(pair.client))
  }

  @Test func `a record gives nothing before it is whole, wherever it is cut, and everything then`() throws {
    let pair = try open()
    let text = (0..<40).map { UInt8($0) }
    var cut = 0
    while true {
      try Pair.write(pair.client, text)
      let record = Pair.output(pair.client)
      guard cut < record.count else { break }
      try Pair.receive(pair.server, record[..<cut])
      #expect(try Pair.read(pair.server).isEmpty, "cut at \(cut)")
      #expect(!pair.server.peerEnded)
      try Pair.receive(pair.server, record[cut...])
      #expect(try Pair.read(pair.server) == text, "cut at \(cut)")
      cut += 1
    }
    #expect(cut > text.count)
  }

  @Test func `a flight of the handshake that ends too soon establishes nothing`() throws {
    let probe = try Pair(client, server)
    try probe.client.handshake()
    let hello = Pair.output(probe.client)
    for cut in 0..<hello.count {
      let server = try TLSSession(try TLSContext(.server, server), peer: .client)
      try Pair.receive(server, hello[..<cut])
      #expect(!server.isEstablished)
      #expect(Pair.output(server).isEmpty, "an answer to \(cut) of \(hello.count) bytes")
    }
  }

  @Test func `a record with one changed bit ends the session for good`() throws {
    for position in [0, 3, 5, 17, 40, 50] {
      let pair = try open()
      try Pair.write(pair.client, [UInt8](repeating: 7, count: 40))
      var record = Pair.output(pair.client)
      record[position] ^= 0x10
      let said = failure {
        try Pair.receive(pair.server, record)
        _ = try Pair.read(pair.server)
        // A longer length only asks for more.
        try Pair.receive(pair.server, [UInt8](repeating: 0, count: 70_000))
        _ = try Pair.read(pair.server)
      }
      #expect(said != "", "byte \(position)")
      #expect(failure { try Pair.write(pair.server, [1]) } == said)
    }
  }

  @Test(arguments: [
    "GET / HTTP/1.1\r\n\r\n", "-ERR unknown\r\n", "\u{15}\u{3}\u{1}", "INFO {\"server_id\":\"x\"}\r\n",
  ])
  func `what is no TLS is said to be none`(_ text: String) throws {
    let pair = try Pair(client, server)
    try pair.client.handshake()
    let said = failure { try Pair.receive(pair.client, Array(text.utf8) + [UInt8](repeating: 0x41, count: 40)) }
    #expect(said.contains("does not speak TLS") || said.contains("TLS failed"), "\(said)")
  }

  /// Megabytes each way at once, while the reader takes a little at a time: what is under way stays with the caller, and
  /// nothing is lost, doubled or out of order.
  @Test func `much at once arrives in order though the other side is slow`() throws {
    let pair = try open()
    let up = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31 &>> 3) }
    let down = (0..<2_000_000).map { UInt8(truncatingIfNeeded: $0 &* 17 &>> 2) }
    try Pair.write(pair.client, up)
    try Pair.write(pair.server, down)
    var (toServer, toClient) = (Pair.output(pair.client)[...], Pair.output(pair.server)[...])
    #expect(toServer.count > up.count && toServer.count < up.count + up.count / 100)
    var (heardUp, heardDown): ([UInt8], [UInt8]) = ([], [])
    var size = 1
    while !toServer.isEmpty || !toClient.isEmpty {
      size = size * 3 % 40_009 + 1
      try Pair.receive(pair.server, toServer.prefix(size))
      toServer = toServer.dropFirst(size)
      heardUp += try Pair.read(pair.server)
      try Pair.receive(pair.client, toClient.prefix(size))
      toClient = toClient.dropFirst(size)
      heardDown += try Pair.read(pair.client)
    }
    #expect(heardUp == up)
    #expect(heardDown == down)
  }
}
