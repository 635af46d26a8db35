import SidecarCore
import Testing

@testable import SidecarBuiltins

private let second: Int64 = 1_000_000_000
private let millisecond: Int64 = 1_000_000

private func at(_ nanoseconds: Int64) -> Instant {
  Instant(nanoseconds: 1_000 * UInt64(second)).advanced(byNanoseconds: nanoseconds)
}
private func token(_ number: UInt64) -> MDNSToken { MDNSToken(number: number) }

private func published(_ service: String, _ id: String, port: UInt16 = 80, host: String? = "host") throws
  -> MDNSPublishedNode
{
  MDNSPublishedNode(
    key: MDNSNodeKey(service: service, id: id), host: try host.map { try DNSName($0) }, port: port, ipv4: 0x0A00_0001,
    text: try MDNSPayload(service: service, version: "1", endpoints: [], metadata: [:]).strings())
}

private func node(_ service: String, _ id: String, port: Int = 80, version: String = "1") -> Service {
  Service(name: service, version: version, nodes: [Node(id: id, address: "10.0.0.1:\(port)")])
}

private func reply(found: [Service] = [], gone: [MDNSNodeKey] = [], listed: [String] = []) -> MDNSReply {
  var reply = MDNSReply(DNSMessage())
  (reply.found, reply.gone, reply.listed) = (found, gone, listed)
  return reply
}

private func names(_ services: [String]) throws -> [DNSName] {
  try services.flatMap { [try DNSName("\($0).local"), try DNSName("\($0).micro")] }
}

@Suite("mDNS responder")
struct MDNSResponderTests {
  private func ask(_ responder: inout MDNSResponder, _ name: String, _ type: DNSType, class classBits: UInt16 = 1)
    throws
    -> [DNSMessage]
  {
    let query = DNSMessage(id: 77, questions: [DNSQuestion(try DNSName(name), type, classAndUnicast: classBits)])
    return try responder.replies(to: query, now: at(0)).map { bytes throws in try DNSMessage(reading: bytes) }
  }

  @Test("each name of a node answers its kinds of questions", arguments: ["local", "micro"])
  func names(_ domain: String) throws {
    var responder = MDNSResponder()
    _ = try responder.register(published("go.foo", "foo-1"), expiry: .distantFuture, now: at(0))
    func types(_ name: String, _ type: DNSType) throws -> [[DNSType]] {
      try ask(&responder, name, type).map { $0.answers.map(\.type) }
    }
    for type in [DNSType.ptr, .any] {
      #expect(try types("go.foo.\(domain)", type) == [[.ptr, .srv, .a, .txt]])
      #expect(try types("_services.\(domain)", type) == [[.ptr, .srv, .a, .txt]])
      #expect(try types("_services._dns-sd._udp.\(domain)", type) == [[.ptr], [.ptr]])
    }
    let instance = "foo-1.go.foo.\(domain)"
    #expect(try types(instance, .any) == [[.srv, .a, .txt]])
    #expect(try types(instance, .srv) == [[.srv, .a]])
    #expect(try types(instance, .txt) == [[.txt]])
    #expect(try types(instance, .ptr) == [])
    #expect(try types("host", .a) == [[.a]])
    #expect(try types("host", .aaaa) == [])
    #expect(try types("go.foo.\(domain)", .srv) == [])
    #expect(try types("Go.Foo.\(domain)", .ptr) == [], "go-micro compares names exactly")
    #expect(try types("foo.\(domain)", .ptr) == [])
  }

  @Test("the list's entry has port 9999, no address and an empty TXT")
  func listEntry() throws {
    var responder = MDNSResponder()
    _ = try responder.register(published("go.foo", "foo-1"), expiry: .distantFuture, now: at(0))
    let answers = try #require(try ask(&responder, "_services.micro", .ptr).first?.answers)
    let instance = try DNSName("go.foo._services.micro")
    let host = try DNSName("host")
    #expect(
      answers == [
        DNSRecord(try DNSName("_services.micro"), ttl: 120, .ptr(instance)),
        DNSRecord(instance, ttl: 120, .srv(priority: 10, weight: 1, port: 9999, target: host)),
        DNSRecord(host, ttl: 120, .a(0)), DNSRecord(instance, ttl: 120, .txt([])),
      ])
  }

  @Test("a reply has ID 0 and echoes the question; with the QU bit it has the question's ID")
  func identity() throws {
    var responder = MDNSResponder()
    _ = try responder.register(published("foo", "foo-1"), expiry: .distantFuture, now: at(0))
    for (bits, id) in [(1, 0), (0x8001, 77), (255, 0)] as [(UInt16, UInt16)] {
      let reply = try #require(try ask(&responder, "foo.micro", .ptr, class: bits).first)
      #expect(reply.id == id && reply.flags == [.response, .authoritative])
      #expect(reply.questions == [DNSQuestion(try DNSName("foo.micro"), .ptr, classAndUnicast: bits)])
      #expect(reply.answers.allSatisfy { $0.classAndFlush == 1 && $0.ttl == 120 })
    }
    #expect(try ask(&responder, "foo.micro", .ptr, class: 3).isEmpty, "another class")
  }

  @Test("responses and other operations are not answered")
  func notQueries() throws {
    var responder = MDNSResponder()
    _ = try responder.register(published("foo", "foo-1"), expiry: .distantFuture, now: at(0))
    let question = DNSQuestion(try DNSName("foo.micro"), .ptr)
    for flags in [DNSMessage.Flags.response, .init(rawValue: 0x2800)] {
      #expect(responder.replies(to: DNSMessage(flags: flags, questions: [question]), now: at(0)).isEmpty)
    }
  }

  @Test("announced three times a second apart in both domains, taken back once with TTL 0")
  func announcements() throws {
    var responder = MDNSResponder()
    let node = try published("foo", "foo-1")
    #expect(try responder.register(node, expiry: .distantFuture, now: at(0)) == .published)
    for wanted in [0, second, 2 * second] {
      #expect(responder.nextDue == at(wanted))
      let packets = responder.advance(to: at(wanted)).packets
      let messages = try packets.map { bytes throws in try DNSMessage(reading: bytes) }
      #expect(messages.map { $0.answers.map(\.type) } == [[.srv, .a, .txt], [.srv, .a, .txt]])
      #expect(messages.map { "\($0.answers[0].name)" } == ["foo-1.foo.local", "foo-1.foo.micro"])
      #expect(messages.allSatisfy { $0.questions.isEmpty && $0.flags == .response && $0.id == 0 })
      #expect(responder.advance(to: at(wanted)).packets.isEmpty)
    }
    #expect(responder.nextDue == .distantFuture)
    let byes = try responder.deregister(node.key).map { bytes throws in try DNSMessage(reading: bytes) }
    #expect(byes.count == 2 && byes.allSatisfy { $0.answers.allSatisfy { $0.ttl == 0 } })
    #expect(responder.deregister(node.key).isEmpty && responder.isEmpty)
    #expect(try ask(&responder, "_services.micro", .ptr).isEmpty, "the list's entry goes with the last node")
  }

  @Test("equal values renew the lease silently; other values are announced again; an old lease ends with a goodbye")
  func renewal() throws {
    var responder = MDNSResponder()
    #expect(try responder.register(published("foo", "foo-1"), expiry: at(90 * second), now: at(0)) == .published)
    for wanted in [0, second, 2 * second] { _ = responder.advance(to: at(wanted)) }
    #expect(
      try responder.register(published("foo", "foo-1"), expiry: at(120 * second), now: at(30 * second)) == .unchanged)
    #expect(responder.advance(to: at(90 * second)) == MDNSResponder.Due(), "the old end of the lease means nothing")
    #expect(responder.nextDue == at(120 * second))
    #expect(
      try responder.register(published("foo", "foo-1", port: 81), expiry: at(120 * second), now: at(40 * second))
        == .published)
    #expect(responder.advance(to: at(95 * second)).packets.count == 2)
    #expect(responder.advance(to: at(119 * second)).expired.isEmpty)
    let due = responder.advance(to: at(120 * second))
    #expect(due.expired == [MDNSNodeKey(service: "foo", id: "foo-1")])
    #expect(try due.packets.map { bytes throws in try DNSMessage(reading: bytes).answers[0].ttl } == [0, 0])
  }

  @Test("what does not fit DNS is refused: long labels, long names, records beyond a datagram")
  func unfit() throws {
    var responder = MDNSResponder()
    let long = String(repeating: "x", count: 64)
    for (service, id) in [(long, "a"), ("foo", long), ("foo", ""), ("a..b", "c"), ("", "a")] {
      #expect(throws: WireError.self) {
        try responder.register(published(service, id), expiry: .distantFuture, now: at(0))
      }
    }
    var big = try published("foo", "foo-1")
    big.text = Array(repeating: [UInt8](repeating: 48, count: 255), count: 260)
    #expect(throws: WireError.self) { try responder.register(big, expiry: .distantFuture, now: at(0)) }
    #expect(responder.isEmpty)
  }

  @Test("1,024 nodes fit, one more is refused, and one of them may still change")
  func full() throws {
    var responder = MDNSResponder()
    for number in 0..<MDNSResponder.nodesMaximum {
      _ = try responder.register(published("foo\(number % 16)", "n\(number)"), expiry: .distantFuture, now: at(0))
    }
    #expect(try responder.register(published("foo", "more"), expiry: .distantFuture, now: at(0)) == .full)
    #expect(try responder.register(published("foo0", "n0", port: 9), expiry: .distantFuture, now: at(0)) == .published)
    #expect(try ask(&responder, "foo3.micro", .ptr).count == 64)
  }

  @Test("at most 4,096 replies leave within a second")
  func rateLimit() throws {
    var responder = MDNSResponder()
    _ = try responder.register(published("foo", "foo-1"), expiry: .distantFuture, now: at(0))
    let query = DNSMessage(questions: [
      DNSQuestion(try DNSName("foo.micro"), .txt), DNSQuestion(try DNSName("foo.micro"), .ptr),
    ])
    var sent = 0
    for _ in 0..<5000 { sent += responder.replies(to: query, now: at(0)).count }
    #expect(sent == MDNSResponder.repliesPerSecondMaximum)
    #expect(responder.repliesSuppressed == 5000 - sent)
    #expect(responder.replies(to: query, now: at(second)).count == 1)
  }

  @Test("without a host name that fits DNS the instance's own name owns the address")
  func ownHost() throws {
    var responder = MDNSResponder()
    _ = try responder.register(published("foo", "foo-1", host: nil), expiry: .distantFuture, now: at(0))
    let reply = try #require(try ask(&responder, "foo.micro", .ptr).first)
    #expect(MDNSReply(reply).found == [node("foo", "foo-1")])
    let go = GoRuleClient(generation: .v291, service: "foo").nodes([reply]) { _ in .init(service: "foo", version: "1") }
    #expect(go.map(\.address) == ["10.0.0.1:80"])
  }
}

@Suite("mDNS lookups")
struct MDNSLookupTests {
  @Test("asks in both domains at 0, 60, 200 and 450 ms, and gives up at 500 ms")
  func silence() throws {
    var browser = MDNSBrowser()
    #expect(try browser.lookup("foo", token: token(1), now: at(0)) == [.ask(names(["foo"]))])
    for wanted in [60, 200, 450] {
      #expect(browser.nextDue == at(Int64(wanted) * millisecond))
      #expect(browser.advance(to: at(Int64(wanted) * millisecond - 1)) == [])
      #expect(browser.advance(to: at(Int64(wanted) * millisecond)) == [.ask(try names(["foo"]))])
    }
    #expect(browser.nextDue == at(500 * millisecond))
    #expect(browser.advance(to: at(500 * millisecond)) == [.lookedUp(token(1), [])])
    #expect(browser.nextDue == .distantFuture)
  }

  @Test("ends 2 ms after its last new node, duplicates not counted")
  func quiet() throws {
    var browser = MDNSBrowser()
    _ = try browser.lookup("foo", token: token(1), now: at(0))
    #expect(browser.received(reply(found: [node("foo", "a")]), now: at(millisecond)) == [])
    #expect(browser.received(reply(found: [node("foo", "b", version: "2")]), now: at(2 * millisecond)) == [])
    #expect(browser.received(reply(found: [node("foo", "a")]), now: at(3 * millisecond)) == [])
    #expect(browser.received(reply(found: [node("bar", "c")]), now: at(3 * millisecond)) == [])
    #expect(browser.nextDue == at(4 * millisecond))
    #expect(
      browser.advance(to: at(4 * millisecond)) == [
        .lookedUp(token(1), [node("foo", "a"), node("foo", "b", version: "2")])
      ])
  }

  @Test("a stream of new nodes holds it back 20 ms at most")
  func lingerMaximum() throws {
    var browser = MDNSBrowser()
    _ = try browser.lookup("foo", token: token(1), now: at(0))
    var finished: Int64?
    for step in 1...40 {
      let now = Int64(step) * millisecond
      let actions =
        browser.received(reply(found: [node("foo", "n\(step)")]), now: at(now)) + browser.advance(to: at(now))
      if !actions.isEmpty, finished == nil { finished = now }
    }
    #expect(finished == 21 * millisecond)
  }

  @Test("nodes of one version are one service, sorted by id")
  func grouping() throws {
    var browser = MDNSBrowser()
    _ = try browser.lookup("foo", token: token(1), now: at(0))
    _ = browser.received(
      reply(found: [node("foo", "b"), node("foo", "a"), node("foo", "c", version: "0")]), now: at(1))
    var both = node("foo", "a")
    both.nodes += node("foo", "b").nodes
    #expect(browser.advance(to: at(second)) == [.lookedUp(token(1), [node("foo", "c", version: "0"), both])])
  }

  @Test("a second caller shares the questions, has its own deadline, and may leave")
  func sharing() throws {
    var browser = MDNSBrowser()
    _ = try browser.lookup("foo", token: token(1), now: at(0))
    #expect(try browser.lookup("foo", token: token(2), now: at(10 * millisecond)) == [])
    // One that comes late starts the questions again.
    #expect(try browser.lookup("foo", token: token(3), now: at(300 * millisecond)) == [.ask(names(["foo"]))])
    #expect(browser.advance(to: at(500 * millisecond)).first == .lookedUp(token(1), []))
    browser.cancel(token(2))
    #expect(browser.received(reply(found: [node("foo", "a")]), now: at(520 * millisecond)) == [])
    #expect(browser.advance(to: at(522 * millisecond)) == [.lookedUp(token(3), [node("foo", "a")])])
    browser.cancel(token(3))
    #expect(browser.nextDue == .distantFuture)
  }

  @Test("a goodbye between answer and end takes the node out again")
  func goodbye() throws {
    var browser = MDNSBrowser()
    _ = try browser.lookup("foo", token: token(1), now: at(0))
    _ = browser.received(reply(found: [node("foo", "a")]), now: at(millisecond))
    _ = browser.received(reply(gone: [MDNSNodeKey(service: "foo", id: "a")]), now: at(2 * millisecond))
    #expect(browser.advance(to: at(10 * millisecond)) == [])
    #expect(browser.advance(to: at(500 * millisecond)).contains(.lookedUp(token(1), [])))
  }

  @Test("nodes of the rendezvous answer at once, come before the network's word, and may come during the lookup")
  func local() throws {
    var browser = MDNSBrowser()
    _ = browser.updateLocal([MDNSNodeKey(service: "foo", id: "a"): node("foo", "a", port: 1)], now: at(0))
    #expect(try browser.lookup("foo", token: token(1), now: at(0)) == [.ask(names(["foo"]))])
    _ = browser.received(reply(found: [node("foo", "a", port: 2)]), now: at(1))
    #expect(browser.advance(to: at(2 * millisecond)) == [.lookedUp(token(1), [node("foo", "a", port: 1)])])
    _ = try browser.lookup("bar", token: token(2), now: at(second))
    _ = browser.updateLocal([MDNSNodeKey(service: "bar", id: "b"): node("bar", "b")], now: at(second + millisecond))
    #expect(browser.advance(to: at(second + 3 * millisecond)) == [.lookedUp(token(2), [node("bar", "b")])])
  }

  @Test("1,024 calls fit, one more is refused, and room comes back; a name beyond DNS is an error")
  func bounds() throws {
    var browser = MDNSBrowser()
    for number in 0..<UInt64(MDNSBrowser.pendingMaximum) {
      #expect(try browser.lookup("foo\(number % 3)", token: token(number), now: at(0)) != nil)
    }
    #expect(try browser.lookup("foo", token: token(5000), now: at(0)) == nil)
    #expect(browser.list(token: token(5000), now: at(0)) == nil)
    _ = browser.advance(to: at(second))
    #expect(try browser.lookup("foo", token: token(5000), now: at(second)) != nil)
    #expect(throws: WireError.self) {
      try browser.lookup(String(repeating: "a", count: 64), token: token(1), now: at(0))
    }
  }

  @Test(
    "on a large network the list is asked for again each second until it brings nothing new, a few names later no more")
  func crowd() throws {
    var browser = MDNSBrowser()
    let list = [try DNSName("_services.local"), try DNSName("_services.micro")]
    _ = try browser.watch(.all, token: token(1), now: at(0))
    for round in MDNSTable.firstRounds.dropLast() { _ = browser.advance(to: at(round)) }
    // One answer in many is heard each time.
    var (time, asked, names) = (Int64(2) * second, 0, 0)
    while time < 40 * second {
      let questions = browser.advance(to: at(time)).flatMap { action -> [DNSName] in
        if case .ask(let names) = action { names } else { [] }
      }
      if questions.contains(list[0]) {
        asked += 1
        if names < 300 {
          let heard = (names..<names + 30).map { "s\($0)" }
          names += 30
          let actions = browser.received(reply(found: heard.map { node($0, $0) }, listed: heard), now: at(time))
          // Their nodes are not asked for all at once.
          #expect(actions.allSatisfy { if case .ask = $0 { false } else { true } })
        }
      }
      #expect(questions.count <= 2 * MDNSTable.batch + 2)
      for number in 0..<names where questions.contains(try DNSName("s\(number).local")) {
        _ = browser.received(reply(found: [node("s\(number)", "s\(number)")]), now: at(time))
      }
      time += 10 * millisecond
    }
    #expect(names == 300)
    // Ten times with news, once without, and then a minute of rest.
    #expect((10...12).contains(asked), "asked \(asked) times")
    #expect(browser.nextDue > at(60 * second))
  }

  @Test("a list ends 100 ms after its last new name, and after 300 ms without any")
  func list() throws {
    var browser = MDNSBrowser()
    let ask = MDNSBrowserAction.ask([try DNSName("_services.local"), try DNSName("_services.micro")])
    #expect(browser.list(token: token(1), now: at(0)) == [ask])
    _ = browser.received(reply(listed: ["b", "a"]), now: at(millisecond))
    #expect(browser.advance(to: at(60 * millisecond)) == [ask])
    #expect(browser.advance(to: at(101 * millisecond)) == [.listed(token(1), ["a", "b"])])
    _ = browser.list(token: token(2), now: at(second))
    for wanted in [60, 150] as [Int64] { #expect(browser.advance(to: at(second + wanted * millisecond)) == [ask]) }
    #expect(browser.advance(to: at(second + 300 * millisecond)) == [.listed(token(2), [])])
  }
}
