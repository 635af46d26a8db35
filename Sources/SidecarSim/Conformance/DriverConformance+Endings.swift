// Conformance of the ways a stream can end: halves, close, reset, failed dials, and calls from inside callbacks.

import SidecarCore

extension DriverConformance {
  static let endingCases: [ConformanceCase] = [
    both("each half ends by itself, and both together end the stream in order") { context, kind in
      let pair = try await context.connect(kind)
      let body = context.pattern(500_000)
      pair.client.write(body)
      pair.client.shutdown()
      pair.client.shutdown()
      context.expect(pair.client.write("late") == .closed, "a write after shutdownWrites is refused")
      try await context.until("the end of the request") { pair.server.peerEnded }
      context.expect(pair.server.received == body, "the end overtook the bytes")
      await context.settle()
      context.expect(pair.client.end == nil && pair.server.end == nil, "a half-closed stream lives")
      pair.server.write("answer")
      pair.server.shutdown()
      try await context.until("both streams over") { pair.client.end != nil && pair.server.end != nil }
      context.expect(pair.client.text == "answer" && pair.client.peerEnded, "the answer came first")
      context.expect(pair.client.end == .ended && pair.server.end == .ended, "two halves that end are .ended")
      try await context.finish(pair)
    },
    both("close writes what is queued, then ends; the peer hears all of it") { context, kind in
      let pair = try await context.connect(kind, server: { $0.pause() })
      let body = context.pattern(2_000_000)
      pair.client.write(body)
      pair.client.close()
      pair.client.close()
      context.expect(pair.client.end == nil, "close called its handler from inside")
      context.expect(pair.client.write("late") == .closed, "a write after close is refused")
      pair.server.resume()
      try await context.until("the close") { pair.client.end != nil && pair.server.peerEnded }
      context.expect(pair.server.received == body, "close lost queued bytes")
      context.expect(pair.client.end == .closedHere, "close ends in .closedHere")
      try await context.finish(pair)
    },
    both("close hears nothing more, whatever the peer sends") { context, kind in
      let pair = try await context.connect(kind)
      pair.server.write(context.pattern(100_000))
      pair.client.close()
      try await context.until("the close") { pair.client.end != nil }
      context.expect(pair.client.end == .closedHere, "close ends in .closedHere")
      pair.server.write("into the void")
      try await context.finish(pair)
    },
    [
      ConformanceCase(name: "a reset reaches the peer as one") { context in
        let pair = try await context.connect(.tcp)
        pair.client.write("x")
        try await context.until("a byte") { !pair.server.received.isEmpty }
        pair.client.reset()
        context.expect(pair.client.end == nil, "reset called its handler from inside")
        try await context.until("both ends over") { pair.client.end != nil && pair.server.end != nil }
        context.expect(pair.client.end == .closedHere, "reset ends in .closedHere at home")
        context.expect(pair.server.end?.isReset == true, "the peer got \(String(describing: pair.server.end))")
        context.expect(!pair.server.peerEnded, "a reset is no orderly end")
        try await context.finish(pair)
      }
    ],
    both("reset drops what is queued and ends at once") { context, kind in
      let pair = try await context.connect(kind, server: { $0.pause() })
      for _ in 0..<200 { pair.client.write(context.pattern(64 * 1024)) }
      pair.client.reset()
      try await context.until("the end") { pair.client.end != nil }
      context.expect(pair.client.end == .closedHere, "reset ends in .closedHere at home")
      context.expect(pair.client.queuedBytes == 0, "a dead stream queues nothing")
      try await context.finish(pair)
    },
    both("writing to a peer that is gone ends in a reset") { context, kind in
      let pair = try await context.connect(kind)
      pair.server.close()
      try await context.until("the peer's end") { pair.client.peerEnded || pair.client.end != nil }
      for _ in 0..<50 where pair.client.end == nil {
        pair.client.write("anybody?")
        await context.pause(milliseconds: 4)
      }
      try await context.until("the end") { pair.client.end != nil }
      context.expect(pair.client.end?.isReset == true, "it ended in \(String(describing: pair.client.end))")
      try await context.finish(pair)
    },
    [
      ConformanceCase(name: "a port where nobody listens refuses") { context in
        let accepting = try context.listen(on: context.tcpAddress())
        guard let listener = accepting.listener else { return }
        context.call { listener.close() }
        await context.settle()
        let client = context.dial(listener.address)
        try await context.until("the refusal") { client.end != nil }
        context.expect(client.end == .refused && !client.isOpen, "it ended in \(String(describing: client.end))")
      },
      ConformanceCase(name: "a socket path where nobody listens refuses") { context in
        let client = context.dial(.unix(path: context.socketPath + ".none"))
        context.expect(client.end == nil, "connect called its handler from inside")
        try await context.until("the refusal") { client.end != nil }
        context.expect(client.end == .refused && !client.isOpen, "it ended in \(String(describing: client.end))")
      },
    ],
    both("close and reset of a dial under way end it unopened") { context, kind in
      let accepting = try context.listen(on: context.address(kind))
      guard let listener = accepting.listener else { return }
      let (closed, reset) = (context.dial(listener.address), context.dial(listener.address))
      closed.close()
      reset.reset()
      try await context.until("both ends") { closed.end != nil && reset.end != nil }
      context.expect(closed.end == .closedHere && reset.end == .closedHere, "both end in .closedHere")
      context.expect(!closed.isOpen && !reset.isOpen, "neither was opened")
      context.call { listener.close() }
      for probe in accepting.accepted { probe.close() }
      try await context.until("the accepted ends") { accepting.accepted.allSatisfy { $0.end != nil } }
      await context.settle()
    },
    both("a stream may be closed from inside any of its callbacks") { context, kind in
      for reset in [false, true] {
        let end: (StreamProbe) -> Void = { reset ? $0.reset() : $0.close() }
        let inOpened = try await context.connect(kind, client: { $0.onOpened = end })
        try await context.until("closed in streamOpened") { inOpened.client.end == .closedHere }
        try await context.finish(inOpened)

        let inRead = try await context.connect(kind, server: { $0.onRead = end })
        inRead.client.write(context.pattern(300_000))
        try await context.until("closed in streamRead") { inRead.server.end == .closedHere }
        context.expect(inRead.server.readCount == 1, "a read came after a close from inside the one before")
        try await context.finish(inRead)

        let inEnded = try await context.connect(kind, server: { $0.onEnded = end })
        inEnded.client.shutdown()
        try await context.until("closed in streamEnded") { inEnded.server.end == .closedHere }
        try await context.finish(inEnded)

        // The dial may end before it is seen to stand, so its end is all there is to wait for.
        let accepting = try context.listen(on: context.address(kind), prepare: end)
        guard let listener = accepting.listener else { return }
        let client = context.dial(listener.address) { client in client.onEnded = { $0.close() } }
        try await context.until("closed in onAccept") { accepting.accepted.first?.end == .closedHere }
        try await context.until("the dial's end") { client.end != nil }
        try await context.finish(.init(client: client, server: accepting.accepted[0], listener: listener))
      }
    },
    both("calls after the end, even from inside streamClosed, do nothing") { context, kind in
      let use: (StreamProbe) -> Void = { probe in
        context.expect(probe.write("late") == .closed, "a write after the end is refused")
        probe.pause()
        probe.resume()
        probe.shutdown()
        probe.close()
        probe.reset()
      }
      let pair = try await context.connect(kind, client: { $0.onClosed = use }, server: { $0.onClosed = use })
      try await context.finish(pair)
      use(pair.client)
      use(pair.server)
      await context.settle()
    },
    both("the driver lets go of a handler after streamClosed") { context, kind in
      weak var client: StreamProbe?
      weak var server: StreamProbe?
      do {
        let pair = try await context.connect(kind)
        (client, server) = (pair.client, pair.server)
        try await context.finish(pair)
        context.expect(pair.client.stream?.handler == nil, "the handler is still set")
        pair.client.forget()
        pair.server.forget()
      }
      await context.settle()
      context.expect(client == nil && server == nil, "somebody still holds the handler of a closed stream")
    },
  ].flatMap { $0 }
}
