// ZooKeeper's messages: every recorded frame is read, what we write is what the recorded clients wrote, and nothing that is
// cut or broken does harm.

import Foundation
import Testing

@testable import SidecarCore

/// The bytes of one recorded connection, by direction, as frames without their lengths.
private struct RecordedSession {
  var requests: [[UInt8]] = []
  var replies: [[UInt8]] = []

  static func all(_ name: String) throws -> [RecordedSession] {
    let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent().appendingPathComponent("Fixtures/registry/\(name).txt")
    var sessions: [(client: [UInt8], server: [UInt8])] = []
    var isClient: Bool?
    for line in try String(contentsOf: path, encoding: .utf8).split(separator: "\n") {
      if line.hasPrefix("=== TCP") { sessions.append(([], [])) }
      if line.hasPrefix("---") { isClient = line.hasSuffix("bytes") ? line.contains(">>>") : nil }
      guard line.hasPrefix("  "), let isClient, !sessions.isEmpty else { continue }
      let bytes = line.dropFirst(8).prefix(50).split(separator: " ").compactMap { UInt8($0, radix: 16) }
      if isClient { sessions[sessions.count - 1].client += bytes } else { sessions[sessions.count - 1].server += bytes }
    }
    return sessions.map { RecordedSession(requests: frames($0.client), replies: frames($0.server)) }
  }

  private static func frames(_ bytes: [UInt8]) -> [[UInt8]] {
    var frames: [[UInt8]] = []
    var rest = bytes[...]
    while rest.count >= 4 {
      let count = rest.prefix(4).reduce(0) { $0 << 8 | Int($1) }
      frames.append(Array(rest.dropFirst(4).prefix(count)))
      rest = rest.dropFirst(4 + count)
    }
    return frames
  }
}

@Suite struct `ZooKeeper messages` {
  private func withoutLength(_ frame: [UInt8]) -> [UInt8] { Array(frame.dropFirst(4)) }

  @Test(arguments: ["register", "lookup", "deregister"])
  func `recorded requests are what we write, recorded replies are read`(_ name: String) throws {
    let sessions = try RecordedSession.all("v014-registry-zookeeper-" + name)
    #expect(!sessions.isEmpty)
    var operations: Set<Int32> = []
    var connected = 0
    for session in sessions {
      var (requests, replies) = (session.requests[...], session.replies[...])
      // A recording of a client that was connected already begins with a request, whose xid is above 0.
      if try #require(requests.first).prefix(4) == [0, 0, 0, 0] {
        #expect(withoutLength(ZooKeeperWire.connect(.none, timeout: 5000, lastZxid: 0)) == requests.removeFirst())
        let granted = try ZooKeeperWire.session(try #require(replies.first))
        replies.removeFirst()
        #expect(granted.timeout == 5000 && granted.id != 0 && granted.password.count == 16)
        connected += 1
      }
      var bodies: [Int32: Int32] = [:]
      for request in requests {
        var reader = ZooKeeperReader(request)
        let (xid, code) = (try reader.int32(), try reader.int32())
        operations.insert(code)
        bodies[xid] = code
        guard let operation = ZooKeeperWire.Operation(rawValue: code) else { continue }
        let path: String? = [.ping, .close].contains(operation) ? nil : try reader.text()
        let rest = reader.rest
        let written = ZooKeeperWire.request(xid, operation) { writer in
          if let path { writer.text(path) }
          for byte in rest { writer.flag(byte == 1) }
        }
        // What follows the path is compared where it is flags alone.
        if rest.allSatisfy({ $0 < 2 }) { #expect(withoutLength(written) == request) }
      }
      for frame in replies {
        let (reply, zxid) = try ZooKeeperWire.reply(frame)
        #expect(reply.xid < 0 || bodies[reply.xid] != nil)
        #expect(zxid >= -1)
        guard reply.code == .ok, let code = bodies[reply.xid] else { continue }
        switch ZooKeeperWire.Operation(rawValue: code) {
        case .getData:
          let data = try ZooKeeperWire.data(reply.body)
          if !data.isEmpty { #expect(try Service(json: try JSONValue(parsing: data)).nodes.count == 1) }
        case .exists: #expect(try ZooKeeperWire.ephemeralOwner(reply.body) == 0, "go-micro's leaves stay")
        default: break
        }
      }
    }
    #expect(!operations.isEmpty)
    #expect(connected == (name == "deregister" ? 0 : 2))
  }

  @Test func `a list of children is read, and a cut one is an error wherever it is cut`() throws {
    var writer = ZooKeeperWriter()
    writer.int32(3)
    for name in ["a", "größe", ""] { writer.text(name) }
    let body = withoutLength(writer.frame)
    #expect(try ZooKeeperWire.children(body) == ["a", "größe", ""])
    for cut in 0..<body.count { #expect(throws: WireError.self) { try ZooKeeperWire.children(Array(body[..<cut])) } }
  }

  @Test(arguments: [[0xFF, 0xFF, 0xFF, 0xFF], [0x7F, 0xFF, 0xFF, 0xFF], [0, 3, 13, 65]] as [[UInt8]])
  func `a list that says it is longer than it can be is refused`(_ count: [UInt8]) {
    #expect(throws: WireError.self) { try ZooKeeperWire.children(count + Array(repeating: 0, count: 64)) }
  }

  @Test func `a field without a value is empty, one that is too long an error`() throws {
    #expect(try ZooKeeperWire.data([0xFF, 0xFF, 0xFF, 0xFF]) == [])
    #expect(throws: WireError.self) { try ZooKeeperWire.data([0, 0, 0, 5, 1, 2, 3, 4]) }
    #expect(throws: WireError.self) { try ZooKeeperWire.data([0x7F, 0xFF, 0xFF, 0xFF, 1]) }
  }

  @Test func `events, sessions and replies that are cut are errors`() throws {
    var writer = ZooKeeperWriter()
    writer.int32(4)
    writer.int32(3)
    writer.text("/micro-registry")
    let event = withoutLength(writer.frame)
    #expect(try ZooKeeperWire.event(event) == .init(type: 4, path: "/micro-registry"))
    for cut in 0..<event.count { #expect(throws: WireError.self) { try ZooKeeperWire.event(Array(event[..<cut])) } }
    for cut in 0..<16 {
      let bytes = Array(repeating: UInt8(1), count: cut)
      #expect(throws: WireError.self) { try ZooKeeperWire.reply(bytes) }
      #expect(throws: WireError.self) { try ZooKeeperWire.session(bytes) }
    }
  }
}
