// Conformance of streams while they live: opening, bytes, pausing, backpressure.

import SidecarCore

extension DriverConformance {
  /// The same case over TCP and over a Unix socket.
  static func both(
    _ name: String, _ body: @escaping @Sendable (ConformanceContext, SocketKind) async throws -> Void
  ) -> [ConformanceCase] {
    SocketKind.allCases.map { kind in ConformanceCase(name: "\(name) (\(kind))") { try await body($0, kind) } }
  }

  static let streamCases: [ConformanceCase] = [
    both("a dial opens in a later turn, and only its own end is told") { context, kind in
      let accepting = try context.listen(on: context.address(kind))
      guard let listener = accepting.listener else { return }
      let client = context.dial(listener.address)
      context.expect(!client.isOpen && client.end == nil, "connect called its handler from inside")
      try await context.until("opened and accepted") { client.isOpen && !accepting.accepted.isEmpty }
      try await context.finish(.init(client: client, server: accepting.accepted[0], listener: listener))
      context.expect(client.end == .closedHere && accepting.accepted[0].end == .closedHere, "close ends in .closedHere")
    },
    both("bytes arrive whole and in order, both ways at once") { context, kind in
      let pair = try await context.connect(kind)
      let (up, down) = (context.pattern(700_001), context.pattern(300_007))
      for start in stride(from: 0, to: up.count, by: 9_973) {
        pair.client.write(Array(up[start..<min(start + 9_973, up.count)]))
      }
      pair.server.write(down)
      try await context.until("all bytes") {
        pair.server.received.count >= up.count && pair.client.received.count >= down.count
      }
      context.expect(pair.server.received == up && pair.client.received == down, "the bytes differ")
      try await context.finish(pair)
    },
    both("both parts of a write arrive in order, and empty ones do no harm") { context, kind in
      let pair = try await context.connect(kind)
      context.expect(pair.client.write([], []) == .open, "an empty write is welcome")
      context.expect(pair.client.write(Array("ab".utf8), Array("cd".utf8)) == .open, "a small write is welcome")
      _ = pair.client.write([], Array("ef".utf8))
      _ = pair.client.write(Array("gh".utf8), [])
      try await context.until("eight bytes") { pair.server.received.count >= 8 }
      context.expect(pair.server.text == "abcdefgh", "parts out of order")
      try await context.finish(pair)
    },
    both("what is written before the dial is answered is kept") { context, kind in
      let accepting = try context.listen(on: context.address(kind))
      guard let listener = accepting.listener else { return }
      let client = context.dial(listener.address)
      let early = context.pattern(40_000)
      context.expect(client.write(early) == .open, "an early write is welcome")
      try await context.until("the early bytes") { accepting.accepted.first?.received.count ?? 0 >= early.count }
      context.expect(accepting.accepted[0].received == early, "the early bytes differ")
      try await context.finish(.init(client: client, server: accepting.accepted[0], listener: listener))
    },
    both("a write from inside a read goes out, and calls nothing from inside") { context, kind in
      let pair = try await context.connect(
        kind,
        server: { server in
          server.onRead = { probe in
            let answered = probe.received.count
            if answered <= 5 { probe.write(String(repeating: "x", count: 1000)) }
          }
        })
      pair.client.write("hello")
      try await context.until("the answer") { pair.client.received.count >= 1000 }
      try await context.finish(pair)
    },
    both("a pause holds bytes back until it is lifted") { context, kind in
      let pair = try await context.connect(kind, server: { $0.pause() })
      pair.client.write("early")
      await context.settle()
      context.expect(pair.server.received.isEmpty, "bytes came through a pause")
      pair.server.pause()
      pair.server.resume()
      pair.server.resume()
      try await context.until("the bytes after the pause") { pair.server.text == "early" }
      pair.server.pause()
      pair.client.write("late")
      await context.settle()
      pair.server.resume()
      try await context.until("the bytes after the second pause") { pair.server.text == "earlylate" }
      try await context.finish(pair)
    },
    both("a pause from inside a read stops the very next one") { context, kind in
      let pair = try await context.connect(kind, server: { server in server.onRead = { $0.pause() } })
      let sent = context.pattern(400_000)
      pair.client.write(sent)
      var reads = 0
      while pair.server.received.count < sent.count {
        reads += 1
        try await context.until("read \(reads)") { pair.server.readCount == reads }
        await context.pause(milliseconds: 1)
        context.expect(pair.server.readCount == reads, "a read came after a pause from inside the one before")
        if !context.problems.isEmpty { break }
        pair.server.resume()
      }
      context.expect(pair.server.received == sent, "the bytes differ")
      try await context.finish(pair)
    },
    both("a pause holds the peer's end back as well") { context, kind in
      let pair = try await context.connect(kind, server: { $0.pause() })
      pair.client.write("last words")
      pair.client.shutdown()
      await context.settle()
      context.expect(!pair.server.peerEnded && pair.server.received.isEmpty, "the end came through a pause")
      pair.server.resume()
      try await context.until("the end") { pair.server.peerEnded }
      context.expect(pair.server.text == "last words", "the end overtook the bytes")
      try await context.finish(pair)
    },
    both("a reader that pauses makes the writer wait, and a drain tells it to go on") { context, kind in
      let pair = try await context.connect(kind, server: { $0.pause() })
      let chunk = context.pattern(64 * 1024)
      var sent: [UInt8] = []
      var state = WriteState.open
      // Far more than any system buffers, or the writer is never made to wait.
      while state == .open, sent.count < 64 * 1024 * 1024 {
        state = pair.client.write(chunk)
        sent += chunk
        if sent.count % (1024 * 1024) == 0 { await context.pause(milliseconds: 1) }
      }
      context.expect(state == .congested, "64 MiB were taken though nobody reads")
      context.expect(pair.client.queuedBytes > ByteStream.highWatermark, "congested below the high watermark")
      await context.settle()
      context.expect(pair.client.drainCount == 0, "drained though nobody reads")
      pair.server.resume()
      try await context.until("the drain and all bytes") {
        pair.client.drainCount > 0 && pair.server.received.count >= sent.count
      }
      context.expect(pair.server.received == sent, "the bytes differ")
      await context.settle()
      context.expect(pair.client.drainCount == 1, "drained \(pair.client.drainCount) times for one congestion")
      context.expect(pair.client.write("more") == .open, "a write after the drain is welcome")
      try await context.finish(pair)
    },
    both("a writer that keeps to the watermarks moves everything with a bounded queue") { context, kind in
      let sent = context.pattern(3_000_000)
      var position = 0
      var queuedMax = 0
      let pump: (StreamProbe) -> Void = { probe in
        while position < sent.count {
          let next = min(position + 50_000, sent.count)
          let state = probe.write(Array(sent[position..<next]))
          position = next
          queuedMax = max(queuedMax, probe.queuedBytes)
          if state != .open { return }
        }
        probe.shutdown()
      }
      let pair = try await context.connect(
        kind,
        client: { client in
          client.onOpened = pump
          client.onDrained = pump
        })
      try await context.until("all bytes and the end") { pair.server.peerEnded }
      context.expect(pair.server.received == sent, "the bytes differ")
      context.expect(queuedMax <= ByteStream.highWatermark + 50_000, "\(queuedMax) bytes were queued")
      try await context.finish(pair)
    },
    [
      ConformanceCase(name: "both ends of a TCP connection know both addresses") { context in
        let pair = try await context.connect(.tcp)
        let (client, server) = (pair.client.stream, pair.server.stream)
        context.expect(client?.peerAddress == pair.listener.address, "the dialled address is the peer's")
        context.expect(server?.localAddress == pair.listener.address, "the accepting address is local")
        context.expect(client?.localAddress != nil, "a connected stream has a local address")
        context.expect(client?.localAddress == server?.peerAddress, "each one's peer is the other's own")
        try await context.finish(pair)
      }
    ],
  ].flatMap { $0 }
}
