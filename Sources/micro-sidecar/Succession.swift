// Restart in place: another process of the same program, perhaps of a newer version, serves at the same sockets, and no call is
// lost. Sockets are handed on by inheritance rather than shared by SO_REUSEPORT: connections that wait in a socket's queue
// when its last owner closes it are reset, and here nobody closes it.
//
//   the first process                                     a successor
//   serves ──SIGUSR2, /restart──▶ starts ───────────────▶ catches up
//          ◀───────────────────── `ready` ─────────────── serves
//   drains, then only waits ───── `stop` ───────────────▶ deregisters, drains, exits: its status is ours
//                          ────── `leave`, `retire` ────▶ gives way to the next
//          ◀───────────────────── `restart` ───────────── was asked to at its /restart
//
// The first process stays, so that its id, which is what a supervisor, a container or a pid file knows, goes on to stand for
// the sidecar, and so that the app of `run` keeps its parent. It keeps the sockets for those to come and serves nothing.

import SidecarCore
import SidecarUV

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Words between the first process and a successor, one a line. Threading: the control loop.
final class SuccessionChannel: StreamHandler {
  /// Bytes of one line.
  static let lineMax = 1024

  private var stream: ByteStream?
  private var line: [UInt8] = []
  private let onWord: (String) -> Void
  private let onEnd: () -> Void

  /// Owns `descriptor` from now on. `onEnd` is called once, when the other side is gone.
  init(
    _ descriptor: Int32, _ driver: UVDriver, onWord: @escaping (String) -> Void, onEnd: @escaping () -> Void
  ) throws(DriverError) {
    self.onWord = onWord
    self.onEnd = onEnd
    stream = try driver.adopt(descriptor, handler: self)
  }

  func send(_ word: String) { stream?.write(word + "\n") }
  func close() {
    stream?.close()
    stream = nil
  }

  func streamOpened(_ stream: ByteStream) {}
  func streamDrained(_ stream: ByteStream) {}
  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    for byte in bytes {
      guard byte == UInt8(ascii: "\n") else {
        if line.count < Self.lineMax { line.append(byte) }
        continue
      }
      let word = String(decoding: line, as: UTF8.self)
      line = []
      onWord(word)
    }
  }
  func streamEnded(_ stream: ByteStream) { stream.close() }
  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    self.stream = nil
    onEnd()
  }
}

/// What a successor was started with.
struct Inheritance {
  /// Names the first process; only for its child.
  static let variable = "SIDECAR_SUCCESSOR_OF"
  static let channel: Int32 = 3
  static let memory: Int32 = 4
  static let firstSocket: Int32 = 5
  /// Bytes of what is left to a successor.
  static let bytesMax = 256 << 20

  var bequest: Bequest

  /// Nil: this process was not started as a successor. Errors: what it was left makes no sense to it.
  static func take(_ environment: [String: String]) throws -> Inheritance? {
    guard let parent = environment[variable], parent == "\(getppid())" else { return nil }
    let json = try JSONValue(parsing: try SharedMemory(descriptor: memory).read(limit: bytesMax))
    return Inheritance(bequest: try Bequest(json: json, first: firstSocket))
  }
}

/// The first process's side. Threading: the control loop.
final class Succession {
  /// Nanoseconds until a successor must serve.
  static let startLimit: Int64 = 60_000_000_000

  final class Successor {
    var process: (any ChildProcess)?
    var channel: SuccessionChannel?
  }

  private let driver: UVDriver
  private let log: any LogSink
  private let sidecar: Sidecar
  private var memory: SharedMemory?
  private var sockets: [Int32] = []
  /// Serves in this process's place.
  private var current: Successor?
  private var candidate: Successor?
  private var retired: [Successor] = []
  private var isRunning = false
  private var waiting: [(String?) -> Void] = []
  private lazy var limit = LoopTimer { [unowned self] in
    candidate?.process?.signal(SIGKILL)
    failed("the new process did not serve within \(Self.startLimit / 1_000_000_000) s")
  }
  /// The process that serves has ended, with that status.
  var onEnded: ((Int32) -> Void)?
  /// A process that was replaced has ended.
  var onRetired: (() -> Void)?

  init(_ sidecar: Sidecar, _ driver: UVDriver, _ log: any LogSink) {
    self.sidecar = sidecar
    self.driver = driver
    self.log = log
  }

  var isReplaced: Bool { current != nil }
  /// No process but this one.
  var isEmpty: Bool { current == nil && candidate == nil && retired.isEmpty }

  /// Starts a successor. `completion` runs once: nil when it serves, else why it does not, and all is as before.
  func restart(_ completion: @escaping (String?) -> Void) {
    waiting.append(completion)
    guard !isRunning else { return }
    isRunning = true
    log.info("a new process is started in this one's place")
    driver.timers.arm(limit, after: Self.startLimit, from: driver.now)
    if let current {
      // It alone knows what is to be left.
      if let channel = current.channel { channel.send("leave") } else { failed("the process that serves is going") }
      return
    }
    sidecar.bequeath { [weak self] bequest in
      guard let self else { return }
      guard let bequest else { return failed("the sidecar is not serving") }
      do throws(DriverError) {
        if sockets.isEmpty { for number in bequest.numbers { sockets.append(try UVDriver.copy(of: number)) } }
        if self.memory == nil { self.memory = try SharedMemory() }
        guard let memory else { return }
        try memory.write(Array(bequest.json().text().utf8))
        try start(memory)
      } catch {
        failed(error.description)
      }
    }
  }

  private func start(_ memory: SharedMemory) throws(DriverError) {
    let (own, theirs) = try UVDriver.socketPair()
    defer { UVDriver.close(theirs) }
    let successor = Successor()
    candidate = successor
    successor.channel = try SuccessionChannel(
      own, driver, onWord: { [weak self, weak successor] in if let successor { self?.heard($0, from: successor) } },
      onEnd: { [weak successor] in successor?.channel = nil })
    var environment = processEnvironment()
    environment[Inheritance.variable] = "\(getpid())"
    successor.process = try driver.spawn(
      program: UVDriver.programPath, CommandLine.arguments, environment: environment,
      inheriting: [theirs, memory.descriptor] + sockets
    ) { [weak self, weak successor] in
      if let successor { self?.ended(successor, $0) }
    }
  }

  private func heard(_ word: String, from successor: Successor) {
    switch word {
    case "left" where successor === current && isRunning && candidate == nil:
      guard let memory else { return }
      do throws(DriverError) { try start(memory) } catch { failed(error.description) }
    case "ready" where successor === candidate:
      candidate = nil
      if let current {
        retired.append(current)
        current.channel?.send("retire")
      }
      let isFirst = current == nil
      current = successor
      log.info("the new process serves", [("pid", "\(successor.process?.processID ?? 0)")])
      finish(nil)
      if isFirst { sidecar.retire() }
    case "restart" where successor === current:
      restart { [weak successor] in successor?.channel?.send($0.map { "refused " + $0 } ?? "replaced") }
    default: break
    }
  }

  private func ended(_ successor: Successor, _ exit: ChildExit) {
    successor.channel?.close()
    successor.channel = nil
    let how = exit.signal == 0 ? "status \(exit.status)" : "signal \(exit.signal)"
    if successor === candidate {
      candidate = nil
      failed("the new process ended with \(how) before it served; its log says why")
    } else if successor === current {
      current = nil
      log.info("the process that served has ended with \(how)")
      onEnded?(exit.status)
    }
    retired.removeAll { $0 === successor }
    if isEmpty { onRetired?() }
  }

  private func failed(_ why: String) {
    if let candidate {
      // It may be just slow; two must never serve.
      candidate.process?.signal(SIGKILL)
      candidate.channel?.close()
      if candidate.process == nil { self.candidate = nil } else { retired.append(candidate) }
      self.candidate = nil
    }
    log.error("the restart failed, and all is as before: \(why)")
    finish(why)
  }

  private func finish(_ problem: String?) {
    limit.cancel()
    isRunning = false
    let completions = waiting
    waiting = []
    for completion in completions { completion(problem) }
  }

  /// All successors are to end: they deregister and drain.
  func stop() {
    if isRunning { failed("the sidecar is stopping") }
    for successor in retired + [current].compactMap({ $0 }) { successor.channel?.send("stop") }
  }

  func kill() {
    for successor in retired + [current, candidate].compactMap({ $0 }) { successor.process?.signal(SIGKILL) }
  }

  func signal(_ number: Int32) { current?.process?.signal(number) }
}
