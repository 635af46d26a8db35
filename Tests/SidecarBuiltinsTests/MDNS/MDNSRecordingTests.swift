import SidecarCore
import Testing

@testable import SidecarBuiltins

/// Decodes recorded traffic of real go-micro peers, and compares what we would have sent in their place byte by byte.
@Suite("mDNS as real go-micro peers speak it")
struct MDNSRecordingTests {
  struct Peer: Sendable, CustomTestStringConvertible {
    var file: String
    var service: String
    var domain: MDNSDomain
    var echoesQuestion: Bool
    var testDescription: String { file }
  }
  static let peers = [
    Peer(file: "v014", service: "md-v014", domain: .local, echoesQuestion: false),
    Peer(file: "v118", service: "md-v118", domain: .micro, echoesQuestion: false),
    Peer(file: "v2", service: "md-v2", domain: .micro, echoesQuestion: true),
    Peer(file: "v4", service: "md-v4", domain: .micro, echoesQuestion: true),
    Peer(file: "v5", service: "md-v5", domain: .micro, echoesQuestion: true),
  ]

  @Test("fifteen recordings are here")
  func complete() {
    #expect(Recording.names.count == 15)
  }

  @Test(
    "every packet reads as the recorder's decoder read it, and is written back byte for byte",
    arguments: Recording.names)
  func everyPacket(_ name: String) throws {
    let recording = try Recording(name)
    #expect(!recording.packets.isEmpty)
    for packet in recording.packets {
      let message = try DNSMessage(reading: packet.bytes)
      let expected = packet.lines.filter { !$0.hasPrefix("= hex(zlib) of:") }
      #expect(recorderLines(message) == expected, "\(name)")
      // Replies are compressed; questions, probes and announcements are not.
      #expect(try message.bytes(compressed: message.flags.contains(.authoritative)) == packet.bytes, "\(name)")
    }
  }

  @Test("every record's payload inflates to the JSON that was recorded", arguments: Recording.names)
  func everyPayload(_ name: String) throws {
    var seen = 0
    for packet in try Recording(name).packets {
      let message = try DNSMessage(reading: packet.bytes)
      let texts = (message.answers + message.authorities).compactMap { record in
        if case .txt(let strings) = record.data, !strings.isEmpty { strings } else { nil }
      }
      let expected = packet.lines.compactMap { line in
        line.hasPrefix("= hex(zlib) of: ") ? String(line.dropFirst("= hex(zlib) of: ".count)) : nil
      }
      #expect(texts.count == expected.count)
      for (text, line) in zip(texts, expected) {
        let payload = try MDNSPayload(strings: text)
        let json = try JSONValue(parsing: line)
        #expect(json["Service"]?.stringValue == payload.service)
        #expect(json["Version"]?.stringValue == payload.version)
        #expect((json["Endpoints"]?.arrayValue ?? []).count == payload.endpoints.count)
        #expect(Set((json["Metadata"]?.objectValue ?? []).map(\.key)) == Set(payload.metadata.keys))
        // What we read, written by us and read again, is the same.
        #expect(try MDNSPayload(strings: payload.strings()) == payload)
        seen += 1
      }
    }
    #expect(seen > 0)
  }

  @Test("a recorded reply gives the node with its address, version, endpoints and metadata", arguments: peers)
  func reply(_ peer: Peer) throws {
    let found = try Self.recordedReply(peer)
    let service = try #require(MDNSReply(found.message).found.first)
    let node = try #require(service.nodes.first)
    #expect(service.name == peer.service && service.version == "1.2.3")
    #expect(service.endpoints.contains { $0.name == "Hello.Ping" })
    #expect(node.id.hasPrefix(peer.service + "-") && node.id.count == peer.service.count + 37)
    #expect(node.address.hasPrefix("127.0.0.1:"))
    #expect(node.metadata["zone"] == "eu" && node.metadata["registry"] == "mdns")
  }

  @Test("announcements and goodbyes give the node and take it away", arguments: peers)
  func announcements(_ peer: Peer) throws {
    let announced = try Recording("\(peer.file)-mdns-register.txt").packets
      .map { try MDNSReply(DNSMessage(reading: $0.bytes)).found }.joined().filter { $0.name == peer.service }
    #expect(!announced.isEmpty)
    let gone = try Recording("\(peer.file)-mdns-goodbye.txt").packets
      .map { try MDNSReply(DNSMessage(reading: $0.bytes)).gone }.joined().filter { $0.service == peer.service }
    #expect(!gone.isEmpty)
    let known = Set(
      announced.flatMap { service in service.nodes.map { MDNSNodeKey(service: service.name, id: $0.id) } })
    #expect(known.isSuperset(of: gone))
  }

  @Test("our reply to a recorded question is the recorded reply, with the question echoed", arguments: peers)
  func ourReply(_ peer: Peer) throws {
    let recorded = try Self.recordedReply(peer)
    var responder = MDNSResponder()
    let now = Instant(nanoseconds: 1)
    #expect(try responder.register(Self.published(recorded.message), expiry: .distantFuture, now: now) == .published)
    let replies = responder.replies(to: recorded.query, now: now)
    #expect(replies.count == 1)
    var expected = recorded.message
    expected.questions = recorded.query.questions
    #expect(try replies.first == expected.bytes(compressed: true))
    if peer.echoesQuestion { #expect(replies.first == recorded.bytes) }
  }

  @Test("our announcements and goodbyes are the recorded ones, in both domains", arguments: peers)
  func ourAnnouncements(_ peer: Peer) throws {
    for (scenario, ttl) in [("register", 120), ("goodbye", 0)] as [(String, UInt32)] {
      let packet = try #require(
        Recording("\(peer.file)-mdns-\(scenario).txt").packets.first { packet in
          let message = try DNSMessage(reading: packet.bytes)
          return packet.isMulticast && message.flags == .response && message.answers.first?.ttl == ttl
            && "\(message.answers[0].name)".hasSuffix(".\(peer.service).\(peer.domain)")
        })
      var responder = MDNSResponder()
      let now = Instant(nanoseconds: 1)
      let node = Self.published(try DNSMessage(reading: packet.bytes))
      _ = try responder.register(node, expiry: .distantFuture, now: now)
      let announced = responder.advance(to: now).packets
      let ours = ttl > 0 ? announced : responder.deregister(node.key)
      #expect(ours.count == 2)
      #expect(ours.contains(packet.bytes))
    }
  }

  @Test("clients of every generation assemble our replies to the recorded questions", arguments: peers)
  func goRule(_ peer: Peer) throws {
    let query = try Self.recordedReply(peer).query
    var responder = MDNSResponder()
    let now = Instant(nanoseconds: 1)
    for number in 1...3 {
      let key = MDNSNodeKey(service: peer.service, id: "\(peer.service)-\(number)")
      let text = try MDNSPayload(service: peer.service, version: "1.\(number)", endpoints: [], metadata: ["a": "b"])
        .strings()
      let node = MDNSPublishedNode(
        key: key, host: try DNSName("vm"), port: 9000 + UInt16(number), ipv4: 0x0A00_0000 + UInt32(number),
        ipv6: .init(high: 0xFD00 &<< 48, low: 1), text: text)
      _ = try responder.register(node, expiry: .distantFuture, now: now)
    }
    let replies = try responder.replies(to: query, now: now).map { bytes throws in try DNSMessage(reading: bytes) }
    #expect(replies.count == 3)
    let generations: [GoRuleClient.Generation] = peer.domain == .local ? [.v014] : [.v28, .v291]
    for generation in generations {
      let client = GoRuleClient(generation: generation, service: peer.service)
      let nodes = client.nodes(replies) { strings in
        (try? MDNSPayload(strings: strings)).map { .init(service: $0.service, version: $0.version) }
      }
      #expect(
        nodes
          == (1...3).map { number in
            .init(
              id: "\(peer.service)-\(number)", address: "10.0.0.\(number):\(9000 + number)",
              payload: .init(service: peer.service, version: "1.\(number)"))
          })
    }
  }

  @Test("the Go rule itself accepts the recorded replies, so that it can judge ours", arguments: peers)
  func goRuleItself(_ peer: Peer) throws {
    let recorded = try Self.recordedReply(peer)
    let generation: GoRuleClient.Generation = peer.echoesQuestion ? .v291 : peer.domain == .local ? .v014 : .v28
    let nodes = GoRuleClient(generation: generation, service: peer.service).nodes([recorded.message]) { strings in
      (try? MDNSPayload(strings: strings)).map { .init(service: $0.service, version: $0.version) }
    }
    #expect(nodes.count == 1 && nodes[0].address.hasPrefix("127.0.0.1:"))
    // And it is as strict as they are: without the question, v2.9.1 sees nothing.
    var bare = recorded.message
    bare.questions = []
    let strict = GoRuleClient(generation: .v291, service: peer.service)
    #expect(strict.nodes([bare]) { _ in .init(service: peer.service, version: "1") }.isEmpty)
  }

  // MARK: Finding the packets that matter

  private static func recordedReply(_ peer: Peer) throws -> (query: DNSMessage, message: DNSMessage, bytes: [UInt8]) {
    let packets = try Recording("\(peer.file)-mdns-query.txt").packets
    let browse = try peer.domain.browseName(peer.service)
    let queries = try packets.map { try DNSMessage(reading: $0.bytes) }
    let query = try #require(
      queries.first { $0.flags.isEmpty && $0.questions.first?.name == browse && $0.authorities.isEmpty })
    let reply = try #require(
      packets.first { packet in
        let message = try DNSMessage(reading: packet.bytes)
        return message.flags == [.response, .authoritative] && message.answers.first?.name == browse
      })
    return (query, try DNSMessage(reading: reply.bytes), reply.bytes)
  }

  /// The node that a recorded packet describes, as we would publish it.
  private static func published(_ message: DNSMessage) -> MDNSPublishedNode {
    var node = MDNSPublishedNode(key: MDNSNodeKey(service: "", id: ""), host: nil, port: 0, text: [])
    for record in message.answers {
      switch record.data {
      case .srv(_, _, let port, let target):
        node.port = port
        node.host = target
      case .a(let address): node.ipv4 = address
      case .aaaa(let high, let low): node.ipv6 = .init(high: high, low: low)
      case .txt(let strings):
        node.text = strings
        let payload = try? MDNSPayload(strings: strings)
        for domain in MDNSDomain.allCases {
          guard let payload, let browse = try? domain.browseName(payload.service),
            let id = record.name.prefix(before: browse)
          else { continue }
          node.key = MDNSNodeKey(service: payload.service, id: id)
        }
      case .ptr, .cname, .other: break
      }
    }
    return node
  }
}
