// Conformance of listeners, of the loop itself (time, timers, later, mail, tasks, names) and of datagrams.

import SidecarCore

extension DriverConformance {
  static let listenerCases: [ConformanceCase] = [
    [
      ConformanceCase(name: "port 0 is replaced by a free one, and a taken one is refused") { context in
        let accepting = try context.listen(on: context.tcpAddress())
        guard let listener = accepting.listener else { return }
        context.expect(listener.address.port != 0, "the port is still 0")
        do {
          let second = try context.listen(on: listener.address)
          context.expect(false, "a taken port was bound again")
          second.listener?.close()
        } catch let error as DriverError {
          context.expect(error.code == "EADDRINUSE", "the error is \(error)")
        }
        context.call { listener.close() }
        context.call { listener.close() }
        await context.settle()
        let again = try context.listen(on: listener.address)
        context.call { again.listener?.close() }
        await context.settle()
      },
      ConformanceCase(name: "a shared port takes several listeners, and each dial reaches one") { context in
        let server = Acceptor(context)
        let first = try context.call { () throws(DriverError) in
          try context.driver.listen(on: context.tcpAddress(), sharedPort: true, onAccept: server.accept)
        }
        let second = try context.call { () throws(DriverError) in
          try context.driver.listen(on: first.address, sharedPort: true, onAccept: server.accept)
        }
        let clients = (0..<20).map { _ in context.dial(first.address) }
        try await context.until("all accepted") { server.probes.count == 20 && clients.allSatisfy(\.isOpen) }
        for probe in clients + server.probes { probe.close() }
        try await context.until("all closed") { (clients + server.probes).allSatisfy { $0.end != nil } }
        context.call { first.close() }
        context.call { second.close() }
        await context.settle()
      },
      ConformanceCase(name: "a closed listener takes its socket path along") { context in
        for _ in 0..<2 {
          let pair = try await context.connect(.unix)
          try await context.finish(pair)
        }
        let client = context.dial(.unix(path: context.socketPath))
        try await context.until("the refusal") { client.end != nil }
        context.expect(client.end == .refused, "it ended in \(String(describing: client.end))")
      },
    ],
    both("closing a listener leaves accepted streams alone") { context, kind in
      let pair = try await context.connect(kind)
      context.call { pair.listener.close() }
      pair.client.write("still here")
      try await context.until("the bytes") { pair.server.text == "still here" }
      try await context.finish(pair)
    },
    both("a hundred connections at once keep their bytes apart") { context, kind in
      let accepting = try context.listen(on: context.address(kind)) { server in
        server.onRead = { probe in
          if probe.received.count == 4 { probe.write(probe.received) }
        }
        server.onEnded = { $0.shutdown() }
      }
      guard let listener = accepting.listener else { return }
      let clients = (0..<100).map { index in
        context.dial(listener.address) { client in
          client.onOpened = {
            $0.write([1, 2, 3, UInt8(index)])
            $0.shutdown()
          }
        }
      }
      try await context.until("all over") {
        clients.allSatisfy { $0.end != nil } && accepting.accepted.allSatisfy { $0.end != nil }
      }
      for (index, client) in clients.enumerated() {
        context.expect(client.received == [1, 2, 3, UInt8(index)], "connection \(index) got \(client.received)")
        context.expect(client.end == .ended, "connection \(index) ended in \(String(describing: client.end))")
      }
      context.call { listener.close() }
      await context.settle()
    },
  ].flatMap { $0 }

  /// Accepts every stream as a probe.
  final class Acceptor {
    private let context: ConformanceContext
    private(set) var probes: [StreamProbe] = []
    init(_ context: ConformanceContext) { self.context = context }
    func accept(_ stream: ByteStream) {
      let probe = StreamProbe(context, isAccepted: true)
      probe.attach(stream)
      probes.append(probe)
    }
  }

  static let loopCases: [ConformanceCase] = [
    ConformanceCase(name: "later runs once, in order, never from inside the call") { context in
      var ran: [Int] = []
      for index in 0..<5 {
        context.call {
          context.driver.later {
            context.expect(context.callDepth == 0, "later ran from inside the call")
            ran.append(index)
            if index == 0 { context.driver.later { ran.append(5) } }
          }
        }
      }
      context.expect(ran.isEmpty, "later ran from inside the call")
      try await context.until("all ran") { ran.count >= 6 }
      context.expect(ran == [0, 1, 2, 3, 4, 5], "order \(ran)")
    },
    ConformanceCase(name: "timers fire in order, never early, and not after cancel") { context in
      var fired: [Int] = []
      var timers: [LoopTimer] = []
      let driver = context.driver
      for (index, milliseconds) in ([30, 10, 20, 40] as [Int64]).enumerated() {
        let due = driver.now.advanced(byNanoseconds: milliseconds * 1_000_000)
        let timer = LoopTimer {
          context.expect(driver.now >= due, "timer \(index) fired early")
          fired.append(index)
        }
        driver.timers.arm(timer, at: due)
        timers.append(timer)
      }
      timers[2].cancel()
      timers[2].cancel()
      try await context.until("the last") { fired.contains(3) }
      context.expect(fired == [1, 0, 3], "order \(fired)")
    },
    ConformanceCase(name: "a timer may arm itself again, earlier or later than others") { context in
      let driver = context.driver
      let ticking = Ticking(driver, times: 10)
      let far = LoopTimer {}
      driver.timers.arm(far, after: 3_600_000_000_000, from: driver.now)
      ticking.start()
      try await context.until("ten ticks") { ticking.left == 0 }
      driver.timers.arm(far, after: 5_000_000, from: driver.now)
      try await context.until("the moved timer") { !far.isArmed }
    },
    ConformanceCase(name: "the loop's time goes forward only") { context in
      var last = context.driver.now
      for _ in 0..<10 {
        await context.pause(milliseconds: 1)
        context.expect(context.driver.now >= last.advanced(byNanoseconds: 1_000_000), "a pause of 1 ms took less")
        last = context.driver.now
      }
      context.expect(context.driver.unixNanoseconds > 1_600_000_000_000_000_000, "the wall clock is before 2020")
    },
    ConformanceCase(name: "mail arrives in order and in a later turn") { context in
      let mail = Mail()
      for index in 0..<50 { context.driver.mailbox.post { mail.items.append(index) } }
      context.expect(mail.items.isEmpty, "post ran the work itself")
      try await context.until("all mail") { mail.items.count >= 50 }
      context.expect(mail.items == Array(0..<50), "order \(mail.items)")
    },
    ConformanceCase(name: "tasks on the executor run on the loop, between callbacks") { context in
      let mail = Mail()
      let executor = context.driver.executor
      for index in 0..<10 {
        Task(executorPreference: executor) {
          context.expect(context.callDepth == 0, "a task ran from inside a call")
          await context.pause(milliseconds: Int64(index))
          mail.items.append(index)
        }
      }
      try await context.until("all tasks") { mail.items.count >= 10 }
      context.expect(mail.items.sorted() == Array(0..<10), "tasks \(mail.items)")
    },
    ConformanceCase(name: "names are looked up later; literals are themselves") { context in
      var answers: [[SocketAddress]] = []
      for name in ["127.0.0.1", "::1", "localhost"] {
        context.call {
          context.driver.resolve(host: name) { result in
            context.expect(context.callDepth == 0, "resolve answered from inside the call")
            answers.append((try? result.get()) ?? [])
          }
        }
      }
      context.expect(answers.isEmpty, "resolve answered from inside the call")
      try await context.until("three answers") { answers.count == 3 }
      context.expect(answers.contains([.loopback(port: 0)]), "127.0.0.1 is not itself in \(answers)")
      context.expect(answers.contains([.ipv6(high: 0, low: 1, zone: 0, port: 0)]), "::1 is not itself in \(answers)")
      context.expect(answers.allSatisfy { $0.allSatisfy(\.isLoopback) && !$0.isEmpty }, "answers \(answers)")
    },
    ConformanceCase(name: "there is a loopback interface, and addresses carry no port") { context in
      let interfaces = context.driver.interfaces()
      context.expect(interfaces.contains(where: \.isLoopback), "no loopback interface")
      context.expect(interfaces.allSatisfy { $0.address.port == 0 && $0.index > 0 }, "interfaces \(interfaces)")
    },
  ]

  /// Work that arrives through `Sendable` doors; touched on the loop only.
  final class Mail: @unchecked Sendable { var items: [Int] = [] }

  final class Ticking {
    private let driver: any Driver
    private(set) var left: Int
    private lazy var timer = LoopTimer { [unowned self] in
      left -= 1
      if left > 0 { start() }
    }
    init(_ driver: any Driver, times: Int) {
      self.driver = driver
      left = times
    }
    func start() { driver.timers.arm(timer, after: 1_000_000, from: driver.now) }
  }

  static let datagramCases: [ConformanceCase] = [
    ConformanceCase(name: "datagrams keep their borders and name their sender") { context in
      let (a, b) = (DatagramProbe(context), DatagramProbe(context))
      let first = try context.driver.bindDatagram(to: .loopback(port: 0), sharedPort: false, handler: a)
      let second = try context.driver.bindDatagram(to: .loopback(port: 0), sharedPort: false, handler: b)
      context.expect(first.address.port != 0 && first.address != second.address, "each has a port of its own")
      for size in [1, 1_400, 9_000] {
        context.expect(context.call { first.send(context.pattern(size), to: second.address) }, "a send was refused")
      }
      try await context.until("three datagrams") { b.received.count >= 3 }
      context.expect(b.received.map(\.bytes) == [1, 1_400, 9_000].map(context.pattern), "borders or bytes differ")
      context.expect(b.received.allSatisfy { $0.from == first.address }, "the sender is another")
      _ = context.call { second.send(Array("back".utf8), to: b.received[0].from) }
      try await context.until("the answer") { !a.received.isEmpty }
      context.call { second.close() }
      context.call { second.close() }
      _ = context.call { first.send(Array("late".utf8), to: second.address) }
      await context.settle()
      context.expect(b.received.count == 3, "a closed socket heard something")
      context.expect(
        !context.call { first.send(context.pattern(70_000), to: second.address) }, "70,000 bytes were taken")
      context.call { first.close() }
      context.expect(!context.call { first.send([1], to: second.address) }, "a closed socket took a datagram")
      await context.settle()
    },
    ConformanceCase(name: "a datagram port is taken once, or shared by all who ask for it so") { context in
      let probe = DatagramProbe(context)
      let driver = context.driver
      let alone = try driver.bindDatagram(to: .loopback(port: 0), sharedPort: false, handler: probe)
      do throws(DriverError) {
        let again = try driver.bindDatagram(to: alone.address, sharedPort: false, handler: probe)
        again.close()
        context.expect(false, "a taken port was bound again")
      } catch {
        context.expect(error.code == "EADDRINUSE", "the error is \(error)")
      }
      alone.close()
      await context.settle()
      let first = try driver.bindDatagram(to: .loopback(port: 0), sharedPort: true, handler: probe)
      let second = try driver.bindDatagram(to: first.address, sharedPort: true, handler: probe)
      first.close()
      second.close()
      await context.settle()
    },
  ]
}

/// Checks and keeps what a datagram socket hears.
final class DatagramProbe: DatagramHandler {
  private unowned let context: ConformanceContext
  private(set) var received: [(bytes: [UInt8], from: SocketAddress)] = []
  init(_ context: ConformanceContext) { self.context = context }
  func datagramReceived(
    _ socket: DatagramSocket, _ bytes: UnsafeRawBufferPointer, from peer: SocketAddress, interface: UInt32
  ) {
    context.expect(context.callDepth == 0, "datagramReceived came from inside a call")
    received.append((Array(bytes), peer))
  }
}
