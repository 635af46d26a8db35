// Sessions against each other: events in order, windows, watermarks, ends of streams and connections, and floods.

@testable import SidecarCore
import Testing

@Suite struct HTTP2SessionTests {
  @Test(
    "a request and its answer, with body and trailers both ways, whatever the pieces", arguments: [nil, 1, 7, 1000])
  func exchange(pieces: Int?) throws {
    let pair = HTTP2Pair()
    pair.pieces = pieces
    pair.server.onEnded = { stream in
      pair.server.respond(stream)
      _ = stream.send("world")
      stream.finish(trailers: pair.server.list(["grpc-status": "0"]))
    }
    let stream = try #require(pair.client.request(["X-Mixed": "Case"]))
    _ = stream.send("hello")
    stream.finish(trailers: pair.client.list(["late": "1"]))
    pair.run()
    #expect(
      pair.server.log == [
        "1 opened :method=POST :scheme=http :path=/a.B/C :authority=x x-mixed=Case", "1 trailers late=1", "1 ended",
        "1 closed NO_ERROR",
      ])
    #expect(pair.server.received[1] == Array("hello".utf8))
    #expect(
      pair.client.log == ["1 final :status=200", "1 trailers grpc-status=0", "1 ended", "1 closed NO_ERROR"])
    #expect(pair.client.received[1] == Array("world".utf8))
    #expect(pair.client.session.streamCount == 0 && pair.server.session.streamCount == 0)
    #expect(stream.send("more") == .closed)
  }

  @Test("an answer in one head ends the stream")
  func headOnly() throws {
    let pair = HTTP2Pair()
    pair.server.onRequest = { pair.server.respond($0, ends: true) }
    _ = try #require(pair.client.request(ends: true))
    pair.run()
    #expect(pair.client.log == ["1 final :status=200", "1 ended", "1 closed NO_ERROR"])
    #expect(pair.server.log.last == "1 closed NO_ERROR")
  }

  @Test("a server that answers before the request is whole tells the client to stop")
  func earlyAnswer() throws {
    let pair = HTTP2Pair()
    pair.server.onRequest = { pair.server.respond($0, ends: true) }
    let stream = try #require(pair.client.request())
    pair.run()
    #expect(pair.client.closed[1] == .noError && pair.server.closed[1] == .noError)
    #expect(stream.send("late") == .closed)
    pair.run()
    #expect(!pair.server.session.isFailed)
  }

  @Test("a reader that takes nothing stops the writer, and memory is bounded")
  func backpressure() throws {
    let pair = HTTP2Pair()
    pair.server.consumesAtOnce = false
    let stream = try #require(pair.client.request())
    let chunk = [UInt8](repeating: 1, count: 10_000)
    var sent = 0
    while stream.send(chunk) == .open { sent += chunk.count }
    sent += chunk.count
    #expect(sent <= HTTP2Limits.streamHighWatermark + chunk.count)
    pair.run()
    // A window's worth is on the other side, so the queue has drained; fill it again.
    #expect(pair.client.log == ["1 drained"])
    #expect(pair.server.received[1]?.count == HTTP2Limits.streamWindow)
    while stream.send(chunk) == .open { sent += chunk.count }
    sent += chunk.count
    pair.run()
    #expect(pair.server.received[1]?.count == HTTP2Limits.streamWindow, "the window is closed")
    #expect(pair.client.log == ["1 drained"])
    // Taken: all the rest flows, half a window at a time.
    let reader = try #require(pair.server.streams[1])
    reader.consumed(HTTP2Limits.streamWindow)
    pair.server.consumesAtOnce = true
    stream.finish()
    pair.run()
    #expect(pair.server.received[1]?.count == sent)
    #expect(pair.server.log.contains("1 ended"))
  }

  @Test("a slow reader of one stream does not stop another, up to the limit of streams")
  func otherStreamsFlow() throws {
    let pair = HTTP2Pair()
    pair.run()
    pair.server.consumesAtOnce = false
    let chunk = [UInt8](repeating: 1, count: HTTP2Limits.streamWindow)
    for _ in 0..<Int(HTTP2Limits.concurrentStreams) {
      let stream = try #require(pair.client.request())
      _ = stream.send(chunk)
    }
    pair.run()
    #expect(pair.server.received.values.allSatisfy { $0.count == HTTP2Limits.streamWindow })
    #expect(pair.server.received.count == Int(HTTP2Limits.concurrentStreams))
  }

  @Test("64 MiB go through a window of 64 KiB in bounded memory", .timeLimit(.minutes(3)))
  func muchThroughASmallWindow() throws {
    // The black-box tests send a gigabyte through the binary (MICRO_TEST_LONG=1); a debug build is slow.
    let total = 64 << 20
    let pair = HTTP2Pair()
    let counter = Counter()
    pair.server.onRequest = { _ in }
    let stream = try #require(pair.client.request())
    let chunk = [UInt8](repeating: 7, count: 16_384)
    var left = total
    let pump = { (stream: HTTP2Stream) in
      while left > 0 {
        left -= chunk.count
        if stream.send(chunk) == .congested { break }
      }
      if left == 0 { stream.finish() }
      counter.most = max(counter.most, stream.queuedBytes)
    }
    pair.client.onDrained = pump
    pump(stream)
    pair.run()
    #expect(pair.server.log.contains("1 ended"))
    #expect(pair.bytes > total)
    #expect(counter.most <= HTTP2Limits.streamHighWatermark + chunk.count)
  }

  private final class Counter { var most = 0 }

  @Test("a reset is heard once by the other side and not at all by the one that sent it")
  func reset() throws {
    let pair = HTTP2Pair()
    let stream = try #require(pair.client.request())
    _ = stream.send("x")
    pair.run()
    stream.reset(.cancel)
    stream.reset(.internalError)
    #expect(stream.send("y") == .closed)
    pair.run()
    #expect(pair.server.closed[1] == .cancel)
    #expect(pair.client.closed.isEmpty)
    #expect(pair.client.session.streamCount == 0 && pair.server.session.streamCount == 0)
  }

  @Test("a request that was reset before it was sent never reaches the peer")
  func resetUnsent() throws {
    let pair = HTTP2Pair()
    pair.run()
    let stream = try #require(pair.client.request())
    stream.reset(.cancel)
    pair.run()
    #expect(pair.server.log.isEmpty && pair.client.session.streamCount == 0)
    #expect(!pair.server.session.isFailed)
  }

  @Test("a server that takes none refuses, so that the request may go elsewhere")
  func refused() throws {
    let pair = HTTP2Pair()
    pair.server.takesRequests = false
    _ = try #require(pair.client.request())
    pair.run()
    #expect(pair.client.closed[1] == .refusedStream)
  }

  @Test("requests beyond the peer's limit wait for a place")
  func concurrency() throws {
    let pair = HTTP2Pair()
    pair.run()
    #expect(pair.client.session.peerConcurrentStreams == 100)
    for _ in 0..<150 { _ = try #require(pair.client.request(ends: true)) }
    pair.run()
    #expect(pair.server.streams.count == 100)
    for stream in pair.server.streams.values { pair.server.respond(stream, ends: true) }
    pair.run()
    #expect(pair.server.streams.count == 150)
  }

  @Test("a graceful end lets what is open end, and says so twice")
  func leaving() throws {
    let pair = HTTP2Pair()
    let stream = try #require(pair.client.request())
    pair.run()
    pair.server.session.announceLeaving()
    pair.run()
    #expect(pair.client.log == ["peer leaves 2147483647 NO_ERROR"])
    #expect(!pair.client.session.takesRequests)
    pair.server.session.leave()
    pair.run()
    #expect(pair.client.log.last == "peer leaves 1 NO_ERROR")
    #expect(!pair.server.session.isOver && !pair.client.session.isOver)
    stream.finish()
    let answered = try #require(pair.server.streams[1])
    pair.server.respond(answered, ends: true)
    pair.run()
    #expect(pair.client.closed[1] == .noError)
    #expect(pair.server.session.isOver && pair.client.session.isOver)
    #expect(pair.client.request() == nil)
  }

  @Test("a stream the server had not seen when it left is closed as refused")
  func leftBehind() throws {
    let pair = HTTP2Pair()
    pair.run()
    pair.server.session.leave()
    _ = try #require(pair.client.request())
    pair.step(pair.server, pair.client)
    pair.run()
    #expect(pair.client.closed[1] == .refusedStream)
  }

  @Test("pings are answered")
  func ping() {
    let pair = HTTP2Pair()
    pair.client.session.ping(42)
    pair.server.session.ping(7)
    pair.run()
    #expect(pair.client.log == ["pong 42"] && pair.server.log == ["pong 7"])
  }

  @Test("when the connection is lost every stream hears it, once")
  func lost() throws {
    let pair = HTTP2Pair()
    for _ in 0..<3 { _ = try #require(pair.client.request()) }
    pair.run()
    pair.server.session.connectionLost()
    pair.server.session.connectionLost()
    #expect(pair.server.closed == [1: .internalError, 3: .internalError, 5: .internalError])
    #expect(pair.server.session.streamCount == 0)
  }

  @Test("fields that HTTP/2 does not allow are left out of what is sent")
  func badFields() throws {
    let pair = HTTP2Pair()
    _ = try #require(
      pair.client.request(
        ends: true,
        [
          "good": "1", "bad name": "2", "": "3", ":path": "/other", "line": "a\r\nb: c", "edge": " blank", "nul": "\0",
        ]))
    pair.run()
    #expect(
      pair.server.log.first == "1 opened :method=POST :scheme=http :path=/a.B/C :authority=x good=1")
    #expect(!pair.server.session.isFailed)
  }

  @Test("a head larger than a peer takes ends its own stream only")
  func hugeHead() throws {
    let pair = HTTP2Pair()
    let list: KeyValuePairs<String, String> = [
      "a": String(repeating: "x", count: 40_000), "b": String(repeating: "y", count: 40_000),
    ]
    _ = pair.client.request(ends: true, list)
    pair.run()
    #expect(pair.client.closed[1] != nil && pair.server.streams.isEmpty)
    _ = try #require(pair.client.request(ends: true))
    pair.run()
    #expect(pair.server.streams.count == 1)
  }

  @Test("frame heads are found whatever the pieces", arguments: [1, 2, 9, 10, 12, 13, 14, 100])
  func scanner(pieces: Int) {
    var bytes = [UInt8](repeating: 0x50, count: HTTP2FrameScanner.prefaceBytes)
    bytes +=
      frame(4, 0, 0) + frame(2, 0, 7, [0x80, 0, 0, 9, 1]) + frame(0, 1, 0x8000_0003, Array(repeating: 1, count: 300))
    bytes += frame(2, 0, 5, [1]) + frame(2, 0, 5, [0, 0, 0, 5, 0]) + frame(0xFA, 0xFF, 1, [1, 2])
    var scanner = HTTP2FrameScanner(skip: HTTP2FrameScanner.prefaceBytes)
    var heads: [String] = []
    for start in stride(from: 0, to: bytes.count, by: pieces) {
      bytes[start..<min(start + pieces, bytes.count)].withUnsafeBytes { piece in
        var input = piece
        while let head = scanner.next(&input) {
          let dependency = head.dependency.map { " on \($0)" } ?? ""
          heads.append("\(head.type) \(head.flags) \(head.length) \(head.stream)\(dependency)")
        }
      }
    }
    #expect(heads == ["4 0 0 0", "2 0 5 7 on 9", "0 1 300 3", "2 0 1 5", "2 0 5 5 on 5", "250 255 2 1"])
  }

  // MARK: Floods

  private func frame(_ type: UInt8, _ flags: UInt8, _ stream: UInt32, _ payload: [UInt8] = []) -> [UInt8] {
    let count = UInt32(payload.count)
    var bytes: [UInt8] = [UInt8(count >> 16), UInt8(count >> 8 & 255), UInt8(count & 255), type, flags]
    bytes += [24, 16, 8, 0].map { UInt8(stream >> $0 & 255) }
    return bytes + payload
  }

  /// Feeds the same frame until the session gives up; nil when it takes them all.
  private func framesTaken(_ pair: HTTP2Pair, _ bytes: [UInt8], of most: Int, perSecond: Int = .max) -> Int? {
    let out = ByteBuffer()
    for count in 0..<most {
      if perSecond != .max { pair.now = pair.now.advanced(byNanoseconds: Int64(1_000_000_000 / perSecond)) }
      bytes.withUnsafeBytes { pair.server.session.receive($0, now: pair.now) }
      out.removeAll()
      _ = pair.server.session.flush(into: out)
      pair.server.session.settle()
      if pair.server.session.isFailed {
        // GOAWAY with ENHANCE_YOUR_CALM is the last frame.
        #expect(Array(out.bytes.suffix(4)) == [0, 0, 0, 11])
        #expect(pair.server.session.isOver)
        return count
      }
    }
    return nil
  }

  @Test("floods of control frames end the connection, a steady trickle does not")
  func controlFloods() {
    let increment: [UInt8] = [0, 0, 0, 1]
    for (name, bytes) in [
      ("ping", frame(6, 0, 0, Array("12345678".utf8))), ("settings", frame(4, 0, 0)),
      ("priority", frame(2, 0, 1, [0, 0, 0, 0, 9])),
      ("window", frame(8, 0, 0, increment)), ("unknown", frame(0xBB, 0, 0)),
    ] {
      let pair = HTTP2Pair()
      pair.run()
      let taken = framesTaken(pair, bytes, of: 10_000)
      #expect((100...HTTP2Limits.controlBurst).contains(taken ?? 0), "\(name): \(String(describing: taken))")
      let calm = HTTP2Pair()
      calm.run()
      #expect(framesTaken(calm, bytes, of: 5000, perSecond: 50) == nil, "\(name)")
    }
  }

  @Test("what a peer is sent lets it send more control frames")
  func earnsByAnswers() {
    let pair = HTTP2Pair()
    pair.run()
    pair.server.onRequest = { pair.server.respond($0, ends: true) }
    // A ping for every call, as clients that measure bandwidth do: far more than the burst.
    for _ in 0..<5000 {
      _ = pair.client.request(ends: true)
      pair.client.session.ping(1)
      pair.run()
    }
    #expect(!pair.server.session.isFailed)
  }

  @Test("streams opened and reset at once end the connection")
  func rapidReset() throws {
    let pair = HTTP2Pair()
    pair.run()
    var count = 0
    while !pair.server.session.isFailed, count < 5000 {
      guard let stream = pair.client.request() else { break }
      pair.step(pair.client, pair.server)
      stream.reset(.cancel)
      pair.step(pair.client, pair.server)
      count += 1
    }
    #expect(pair.server.session.isFailed)
    #expect((HTTP2Limits.resetsBurst - 1...HTTP2Limits.resetsBurst + 1).contains(count))
  }
}
