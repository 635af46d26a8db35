// The simulated world itself: what it promises to code that runs on it.

import SidecarCore
import SidecarSim
import Testing

/// Hears a stream by closures.
final class Ear: StreamHandler {
  var onOpened: (ByteStream) -> Void = { _ in }
  var onRead: (ByteStream, [UInt8]) -> Void = { _, _ in }
  var onEnded: (ByteStream) -> Void = { _ in }
  var onDrained: (ByteStream) -> Void = { _ in }
  private(set) var bytes: [UInt8] = []
  private(set) var reads = 0
  private(set) var hasEnded = false
  private(set) var ends: [StreamEnd] = []
  var text: String { String(decoding: bytes, as: UTF8.self) }

  func streamOpened(_ stream: ByteStream) { onOpened(stream) }
  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    self.bytes.append(contentsOf: bytes)
    reads += 1
    onRead(stream, Array(bytes))
  }
  func streamEnded(_ stream: ByteStream) {
    hasEnded = true
    onEnded(stream)
  }
  func streamDrained(_ stream: ByteStream) { onDrained(stream) }
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) { ends.append(end) }
}

final class DatagramEar: DatagramHandler {
  var received: [(text: String, from: SocketAddress, interface: UInt32)] = []
  func datagramReceived(
    _ socket: DatagramSocket, _ bytes: UnsafeRawBufferPointer, from peer: SocketAddress, interface: UInt32
  ) {
    received.append((String(decoding: bytes, as: UTF8.self), peer, interface))
  }
}

@Suite struct SimWorldTests {
  @Test func anEchoServerAnswersAcrossHosts() throws {
    let world = SimWorld(seed: 1)
    let (a, b) = (world.makeHost("a").makeLoop(), world.makeHost("b").makeLoop())
    let listener = try b.listen(on: b.host.address(port: 80), sharedPort: false) { stream in
      let ear = Ear()
      ear.onRead = { $0.write($1) }
      ear.onEnded = { $0.shutdownWrites() }
      stream.handler = ear
    }
    let ear = Ear()
    ear.onOpened = {
      $0.write("hello")
      $0.shutdownWrites()
    }
    let stream = a.connect(to: b.host.address(port: 80), handler: ear)
    #expect(ear.ends.isEmpty, "nothing is called from inside connect")
    try world.require(world.runUntil({ !ear.ends.isEmpty }, within: .seconds(1)), "the exchange ends")
    #expect(ear.text == "hello")
    #expect(ear.ends == [.ended])
    #expect(stream.write("late") == .closed)
    listener.close()
    world.runUntilIdle()
    try world.checkNoLeaks()
  }

  @Test func timersFireInOrderAndNeverEarly() throws {
    let world = SimWorld(seed: 2)
    let loop = world.makeHost("a").makeLoop()
    var fired: [Int] = []
    let delays: [Int64] = [50, 1, 3_000, 400_000, 7]
    var timers: [LoopTimer] = []
    for (index, milliseconds) in delays.enumerated() {
      let due = loop.now.advanced(byNanoseconds: milliseconds * 1_000_000)
      let timer = LoopTimer {
        #expect(loop.now >= due)
        #expect(loop.now.nanoseconds(since: due) <= Int64(TimerWheel.tick))
        fired.append(index)
      }
      loop.timers.arm(timer, at: due)
      timers.append(timer)
    }
    world.run(for: .seconds(500))
    #expect(fired == [1, 4, 0, 2, 3])
    try world.checkNoLeaks()
  }

  @Test func aTaskRunsOnlyWhileTheWorldRuns() throws {
    let world = SimWorld(seed: 3)
    let loop = world.makeHost("a").makeLoop()
    var steps: [String] = []
    loop.startTask {
      steps.append("started")
      await withCheckedContinuation { continuation in
        let timer = LoopTimer { continuation.resume() }
        loop.timers.arm(timer, after: 10_000_000, from: loop.now)
        steps.append("armed")
      }
      steps.append("resumed")
    }
    #expect(steps.isEmpty)
    world.run(for: .milliseconds(1))
    #expect(steps == ["started", "armed"])
    world.run(for: .milliseconds(20))
    #expect(steps == ["started", "armed", "resumed"])
    try world.checkNoLeaks()
  }

  @Test func anActorOnTheExecutorStaysInTheWorld() throws {
    actor Counter {
      var value = 0
      func add() { value += 1 }
    }
    let world = SimWorld(seed: 4)
    let loop = world.makeHost("a").makeLoop()
    let counter = Counter()
    var total = -1
    for _ in 0..<10 { loop.startTask { await counter.add() } }
    loop.startTask { total = await counter.value }
    world.runUntilIdle()
    #expect(total == 10)
  }

  @Test func aStalledLoopCatchesUpAfterwards() throws {
    let world = SimWorld(seed: 5)
    let loop = world.makeHost("a").makeLoop()
    var firedAt: Instant?
    let timer = LoopTimer { firedAt = loop.now }
    loop.timers.arm(timer, after: 10_000_000, from: loop.now)
    loop.stall(for: .seconds(2))
    world.run(for: .seconds(1))
    #expect(firedAt == nil)
    world.run(for: .seconds(2))
    #expect(firedAt.map { $0.duration(since: world.start) >= .seconds(2) } == true)
  }

  @Test func mailIsDeliveredInOrderAndLaterNeverInside() throws {
    let world = SimWorld(seed: 6, plan: FaultPlan().with(.laterNextTurn, 0.5))
    let loop = world.makeHost("a").makeLoop()
    let order = Box<[Int]>([])
    for index in 0..<20 { loop.mailbox.post { order.value.append(index) } }
    var isInside = true
    var ran = 0
    loop.later {
      #expect(!isInside)
      ran += 1
      loop.later { ran += 1 }
    }
    isInside = false
    world.runUntilIdle()
    #expect(order.value == Array(0..<20))
    #expect(ran == 2)
  }

  @Test func backpressureReachesTheWriter() throws {
    let world = SimWorld(seed: 7)
    let (a, b) = (world.makeHost("a").makeLoop(), world.makeHost("b").makeLoop())
    let server = Ear()
    var accepted: ByteStream?
    _ = try b.listen(on: b.host.address(port: 80), sharedPort: false) { stream in
      stream.handler = server
      stream.pauseReading()
      accepted = stream
    }
    let client = Ear()
    var drained = 0
    client.onDrained = { _ in drained += 1 }
    let stream = a.connect(to: b.host.address(port: 80), handler: client)
    world.run(for: .milliseconds(50))
    let chunk = [UInt8](repeating: 7, count: 64 * 1024)
    var written = 0
    repeat { written += chunk.count } while stream.write(chunk) == .open
    world.run(for: .seconds(1))
    #expect(server.reads == 0)
    #expect(stream.queuedBytes > ByteStream.highWatermark)
    #expect(stream.queuedBytes == written - world.network.window)
    accepted?.resumeReading()
    world.run(for: .seconds(1))
    #expect(server.bytes.count == written)
    #expect(drained == 1)
  }

  @Test func aPartitionHoldsBytesUntilItHeals() throws {
    let world = SimWorld(seed: 8)
    let (a, b) = (world.makeHost("a").makeLoop(), world.makeHost("b").makeLoop())
    let server = Ear()
    _ = try b.listen(on: b.host.address(port: 80), sharedPort: false) { $0.handler = server }
    let client = Ear()
    let stream = a.connect(to: b.host.address(port: 80), handler: client)
    world.run(for: .milliseconds(50))
    world.partition(a.host, b.host)
    stream.write("through")
    world.run(for: .seconds(60))
    #expect(server.text == "")
    world.heal(a.host, b.host)
    world.run(for: .seconds(2))
    #expect(server.text == "through")
    world.partition(a.host, b.host)
    stream.write("never")
    world.run(for: .seconds(2000))
    #expect(client.ends == [.reset("connection timed out")])
  }

  @Test(arguments: [SimHost.PeersSee.resets, .silence])
  func aCrashIsSeenAsAskedFor(_ peersSee: SimHost.PeersSee) throws {
    let world = SimWorld(seed: 9)
    let (a, b) = (world.makeHost("a").makeLoop(), world.makeHost("b").makeLoop())
    let server = Ear()
    _ = try b.listen(on: b.host.address(port: 80), sharedPort: false) { $0.handler = server }
    let client = Ear()
    let stream = a.connect(to: b.host.address(port: 80), handler: client)
    world.run(for: .milliseconds(50))
    b.host.crash(peersSee)
    world.run(for: .seconds(10))
    #expect(server.ends.isEmpty, "no callback reaches a program that is gone")
    switch peersSee {
    case .resets: #expect(client.hasEnded || !client.ends.isEmpty)
    case .silence:
      #expect(!client.hasEnded && client.ends.isEmpty)
      stream.write("anybody?")
      world.run(for: .seconds(10))
      #expect(client.ends.isEmpty)
      b.host.restart()
      world.run(for: .seconds(10))
      #expect(client.ends == [.reset("connection reset by peer")])
    }
  }

  @Test func dialsEndAsTheirTargetSays() throws {
    let world = SimWorld(seed: 10)
    let (a, b) = (world.makeHost("a").makeLoop(), world.makeHost("b").makeLoop())
    let (refused, nowhere, silent, missing) = (Ear(), Ear(), Ear(), Ear())
    _ = a.connect(to: b.host.address(port: 81), handler: refused)
    _ = a.connect(to: try #require(SocketAddress("10.9.9.9:1")), handler: nowhere)
    _ = a.connect(to: .unix(path: "/tmp/none.sock"), handler: missing)
    world.run(for: .seconds(10))
    #expect(refused.ends == [.refused])
    #expect(missing.ends == [.refused])
    #expect(nowhere.ends == [.unreachable("no route to host")])
    world.partition(a.host, b.host)
    _ = a.connect(to: b.host.address(port: 81), handler: silent)
    world.run(for: .seconds(300))
    #expect(silent.ends == [.unreachable("connection timed out")])
    try world.checkNoLeaks()
  }

  @Test func aFullBacklogLeavesDialsUnanswered() throws {
    let world = SimWorld(seed: 11)
    world.network.backlog = 4
    let (a, b) = (world.makeHost("a").makeLoop(), world.makeHost("b").makeLoop())
    _ = try b.listen(on: b.host.address(port: 80), sharedPort: false) { $0.handler = Ear() }
    b.stall(for: .seconds(20))
    var opened = 0
    for _ in 0..<10 {
      let ear = Ear()
      ear.onOpened = { _ in opened += 1 }
      _ = a.connect(to: b.host.address(port: 80), handler: ear)
    }
    world.run(for: .seconds(10))
    #expect(opened == 4)
    world.run(for: .seconds(60))
    #expect(opened == 10)
  }

  @Test func multicastReachesMembersAndComesBack() throws {
    let world = SimWorld(seed: 12)
    let loops = (0..<3).map { world.makeHost("h\($0)").makeLoop() }
    let group = try #require(SocketAddress("224.0.0.251:5353"))
    let ears = loops.map { _ in DatagramEar() }
    var sockets: [DatagramSocket] = []
    for (loop, ear) in zip(loops, ears) {
      let socket = try loop.bindDatagram(to: try #require(SocketAddress(":5353")), sharedPort: true, handler: ear)
      if loop !== loops[2] { try socket.join(group: group, interface: loop.host.address(port: 0)) }
      sockets.append(socket)
    }
    #expect(sockets[0].send(Array("hi".utf8), to: group))
    world.run(for: .seconds(1))
    #expect(ears.map(\.received.count) == [1, 1, 0])
    #expect(ears[1].received[0].from == loops[0].host.address(port: 5353))
    #expect(ears[1].received[0].interface == 2)
    try sockets[0].setMulticastLoopback(false)
    loops[0].host.setInterface("eth0", multicast: false)
    #expect(!sockets[0].send(Array("hi".utf8), to: group), "no interface carries it")
    #expect(sockets[0].send(Array("uni".utf8), to: loops[2].host.address(port: 5353)))
    world.run(for: .seconds(1))
    #expect(ears.map(\.received.count) == [1, 1, 1])
    for socket in sockets { socket.close() }
    try world.checkNoLeaks()
  }

  @Test func datagramsAreLostDoubledAndOvertakenAsPlanned() throws {
    let plan = FaultPlan().with(.datagramLoss, 0.2).with(.datagramDuplicate, 0.2).with(.datagramLate, 0.2)
    let world = SimWorld(seed: 17, plan: plan)
    let (a, b) = (world.makeHost("a").makeLoop(), world.makeHost("b").makeLoop())
    let ear = DatagramEar()
    let any = try #require(SocketAddress(":9000"))
    let sender = try a.bindDatagram(to: any, sharedPort: false, handler: DatagramEar())
    let receiver = try b.bindDatagram(to: any, sharedPort: false, handler: ear)
    for index in 0..<500 {
      sender.send(Array("\(index)".utf8), to: b.host.address(port: 9000))
      world.run(for: .milliseconds(1))
    }
    world.run(for: .seconds(1))
    let numbers = ear.received.compactMap { Int($0.text) }
    #expect((50...150).contains(500 - Set(numbers).count), "a fifth is lost")
    #expect(numbers.count - Set(numbers).count > 40, "some come twice")
    #expect(numbers != numbers.sorted(), "some are overtaken")
    sender.close()
    receiver.close()
    try world.checkNoLeaks()
  }

  @Test func aListenerOnTheIPv6WildcardTakesIPv4Too() throws {
    let world = SimWorld(seed: 18)
    let loop = world.makeHost("a").makeLoop()
    let both = try #require(SocketAddress("[::]:80"))
    let listener = try loop.listen(on: both, sharedPort: false) { $0.handler = Ear() }
    #expect(throws: DriverError.self) {
      try loop.listen(on: try #require(SocketAddress(":80")), sharedPort: false) { $0.handler = Ear() }
    }
    let ear = Ear()
    var isOpen = false
    ear.onOpened = { _ in isOpen = true }
    _ = loop.connect(to: .loopback(port: 80), handler: ear)
    world.run(for: .seconds(1))
    #expect(isOpen)
    listener.close()
  }

  @Test func filesAreWatchedAndReplacedWhole() throws {
    let world = SimWorld(seed: 13)
    let loop = world.makeHost("a").makeLoop()
    loop.host.files.put("/etc/services.yaml", "a: 1")
    var changes = 0
    let watch = try loop.watchFile("/etc/services.yaml") { changes += 1 }
    try loop.writeFile("/etc/services.yaml", Array("b: 2".utf8), mode: 0o644)
    world.run(for: .seconds(1))
    #expect(changes == 1)
    #expect(try loop.readFile("/etc/services.yaml", limit: 100) == Array("b: 2".utf8))
    #expect(throws: DriverError.self) { try loop.readFile("/etc/services.yaml", limit: 3) }
    #expect(try loop.listFolder("/etc") == ["services.yaml"])
    watch.cancel()
    loop.host.files.delete("/etc/services.yaml")
    world.run(for: .seconds(1))
    #expect(changes == 1)
    try world.checkNoLeaks()
  }

  @Test func childrenEndByThemselvesOrOnSignals() throws {
    let world = SimWorld(seed: 14)
    let loop = world.makeHost("a").makeLoop()
    loop.host.processes.register("app") { arguments, _ in
      var script = ChildScript(lifetime: arguments.contains("short") ? .seconds(1) : nil, exitStatus: 3)
      script.handled = [(15, .milliseconds(100), 0)]
      return script
    }
    var exits: [ChildExit] = []
    let short = try loop.spawn(["app", "short"], environment: nil) { exits.append($0) }
    let polite = try loop.spawn(["app"], environment: nil) { exits.append($0) }
    let killed = try loop.spawn(["app"], environment: nil) { exits.append($0) }
    world.run(for: .seconds(2))
    #expect(exits == [ChildExit(status: 3, signal: 0)])
    #expect(!short.signal(15) && !loop.isAlive(processID: short.processID))
    #expect(loop.isAlive(processID: polite.processID))
    polite.signal(15)
    world.run(for: .seconds(1))
    killed.signal(9)
    world.run(for: .seconds(1))
    #expect(exits.dropFirst() == [ChildExit(status: 0, signal: 0), ChildExit(status: 137, signal: 9)])
    #expect(throws: DriverError.self) { try loop.spawn(["nothing"], environment: nil) { _ in } }
    var signals = 0
    try loop.onSignal(15) { signals += 1 }
    loop.host.deliverSignal(15)
    world.run(for: .seconds(1))
    #expect(signals == 1)
    try world.checkNoLeaks()
  }

  @Test func theWallClockJumpsAndTimersDoNotCare() throws {
    let world = SimWorld(seed: 15)
    let loop = world.makeHost("a").makeLoop()
    let (wall, now) = (loop.unixNanoseconds, loop.now)
    loop.host.jumpWallClock(by: .seconds(-3600))
    #expect(loop.unixNanoseconds == wall - 3_600_000_000_000)
    #expect(loop.now == now)
  }

  @Test func namesAreLookedUpLater() throws {
    let world = SimWorld(seed: 16)
    world.setName("consul", to: ["::5", "10.0.0.5"])
    let loop = world.makeHost("a").makeLoop()
    var answers: [Result<[SocketAddress], DriverError>] = []
    for name in ["consul", "nowhere", "localhost", "10.1.1.1"] { loop.resolve(host: name) { answers.append($0) } }
    #expect(answers.isEmpty)
    world.run(for: .seconds(1))
    let hosts = answers.map { (try? $0.get())?.map(\.host) }
    #expect(hosts.contains(["10.0.0.5", "::5"]) && hosts.contains(["127.0.0.1", "::1"]))
    #expect(hosts.contains(["10.1.1.1"]) && hosts.contains(nil))
    try world.checkNoLeaks()
  }
}

/// A value that closures share; a world runs on one thread.
final class Box<Value>: @unchecked Sendable {
  var value: Value
  init(_ value: Value) { self.value = value }
}
