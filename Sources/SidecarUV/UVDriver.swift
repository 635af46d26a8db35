// One libuv loop as the core's `HostDriver`.
//
//   init ──▶ set-up by the caller ──▶ run() ──▶ turns … ──▶ stop() ──▶ every handle closed ──▶ run() returns
//
// A turn: timers that are due, then I/O (one wait in the kernel), then the turn queue (`later`, posts from this thread,
// Swift jobs), then close callbacks. The time is read at most once per turn, and only if somebody asks.

import CUV
import Glibc
import SidecarCore

package final class UVDriver: HostDriver {
  /// Every read of a loop goes through this one buffer, so an idle connection holds none. Bytes.
  static let readBufferBytes = 64 * 1024

  let loop: UnsafeMutablePointer<uv_loop_t>
  let readBuffer: UnsafeMutableRawBufferPointer
  private let prepare: UnsafeMutablePointer<uv_prepare_t>
  private let wakeTimer: UnsafeMutablePointer<uv_timer_t>
  private let turn: TurnQueue
  private let letterBox: UVMailbox
  private let loopExecutor: UVExecutor

  package var random: SeededRandom
  package let timers: TimerWheel
  package private(set) var isStopping = false
  private var isFinished = false

  private var cachedNow: Instant
  private var cachedUnixNanoseconds: Int64 = 0
  private var isNowStale = true
  private var isUnixTimeStale = true

  /// Makes the loop of the current thread. `seed` nil takes one from the system.
  package init(seed: UInt64? = nil) throws(DriverError) {
    // A write to a connection the peer has closed must be an error here, not the end of the process.
    signal(SIGPIPE, SIG_IGN)
    loop = .allocate(capacity: 1)
    let status = uv_loop_init(loop)
    guard status == 0 else {
      loop.deallocate()
      throw DriverError("event loop", status: status)
    }
    readBuffer = .allocate(byteCount: Self.readBufferBytes, alignment: 64)
    prepare = .allocate(capacity: 1)
    wakeTimer = .allocate(capacity: 1)
    uv_prepare_init(loop, prepare)
    uv_timer_init(loop, wakeTimer)
    cachedNow = Instant(nanoseconds: uv_hrtime())
    timers = TimerWheel(now: cachedNow)
    random = SeededRandom(seed: seed ?? Self.systemSeed())
    turn = TurnQueue(loop: loop)
    do {
      letterBox = try UVMailbox(loop: loop, turn: turn)
    } catch {
      turn.close()
      uv_close(prepare.cast(to: uv_handle_t.self), freeHandle)
      uv_close(wakeTimer.cast(to: uv_handle_t.self), freeHandle)
      uv_run(loop, UV_RUN_DEFAULT)
      uv_loop_close(loop)
      loop.deallocate()
      readBuffer.deallocate()
      throw error
    }
    loopExecutor = UVExecutor(mailbox: letterBox)
    turn.executor = loopExecutor
    let this = Unmanaged.passUnretained(self).toOpaque()
    loop.pointee.data = this
    prepare.pointee.data = this
    wakeTimer.pointee.data = this
    uv_prepare_start(prepare, turnBegins)
    timers.onEarlier = { [unowned self] due in scheduleWake(due) }
  }

  deinit {
    if isFinished { return }
    // Never run: the handles still have to be closed before the loop's memory may go.
    closeEverything()
    uv_run(loop, UV_RUN_DEFAULT)
    finish()
  }

  private static func systemSeed() -> UInt64 {
    var seed: UInt64 = 0
    let status = withUnsafeMutableBytes(of: &seed) { uv_random(nil, nil, $0.baseAddress, $0.count, 0, nil) }
    return status == 0 ? seed : uv_hrtime() ^ UInt64(getpid()) &<< 32
  }

  /// The version of libuv in use, such as `1.44.2`.
  package static var libraryVersion: String { String(cString: uv_version_string()) }

  // MARK: Running

  /// Runs the loop on this thread until `stop()`. Once in a driver's life.
  package func run() {
    precondition(!isFinished, "a driver runs once")
    letterBox.moveToCurrentThread()
    uv_run(loop, UV_RUN_DEFAULT)
    finish()
  }

  /// Ends the loop: all streams are reset, sockets and watches closed, and `run` returns. Streams hear `streamClosed`,
  /// nothing else is called any more. On the loop's thread; from another, post it through `mailbox`.
  package func stop() {
    if isStopping { return }
    later { [unowned self] in closeEverything() }
  }

  private func closeEverything() {
    if isStopping { return }
    isStopping = true
    uv_walk(loop, closeWalked, nil)
    uv_close(prepare.cast(to: uv_handle_t.self), freeHandle)
    uv_close(wakeTimer.cast(to: uv_handle_t.self), freeHandle)
    letterBox.close()
    turn.close()
  }

  private func finish() {
    isFinished = true
    timers.onEarlier = nil
    guard uv_loop_close(loop) == 0 else {
      // A name lookup is still running on its thread and will touch the loop: its memory stays for the process's life.
      return
    }
    loop.deallocate()
    readBuffer.deallocate()
  }

  // MARK: Time

  package var now: Instant {
    if isNowStale {
      isNowStale = false
      cachedNow = Instant(nanoseconds: uv_hrtime())
    }
    return cachedNow
  }

  package var processorNanoseconds: Int64 {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec)
  }

  package var unixNanoseconds: Int64 {
    if isUnixTimeStale {
      isUnixTimeStale = false
      var time = timespec()
      clock_gettime(CLOCK_REALTIME, &time)
      cachedUnixNanoseconds = Int64(time.tv_sec) &* 1_000_000_000 &+ Int64(time.tv_nsec)
    }
    return cachedUnixNanoseconds
  }

  @inline(__always) fileprivate func forgetTime() {
    isNowStale = true
    isUnixTimeStale = true
  }

  fileprivate func runTimers() {
    forgetTime()
    timers.advance(to: now)
    if isStopping { return }
    scheduleWake(timers.nextDue())
  }

  /// Sets the one libuv timer; a change in libuv's heap, no system call.
  private func scheduleWake(_ due: Instant) {
    if isStopping { return }
    if due == .distantFuture {
      uv_timer_stop(wakeTimer)
      return
    }
    // libuv counts whole milliseconds of the same clock; rounded up, so that the wheel is never asked too early.
    let dueMilliseconds = due.nanoseconds / 1_000_000 + 1
    let loopMilliseconds = uv_now(loop)
    uv_timer_start(
      wakeTimer, timerFired, dueMilliseconds > loopMilliseconds ? dueMilliseconds - loopMilliseconds : 0, 0)
  }

  // MARK: Reaching the loop

  package var mailbox: any Mailbox { letterBox }
  package var executor: any TaskExecutor { loopExecutor }
  package var uvExecutor: UVExecutor { loopExecutor }

  package func later(_ work: @escaping () -> Void) { turn.add(.closure(work)) }

  // MARK: Sockets

  package func listen(
    on address: SocketAddress, sharedPort: Bool, onAccept: @escaping (ByteStream) -> Void
  ) throws(DriverError) -> Listener {
    try refuseWhileStopping("listen")
    return try UVListener(driver: self, address: address, sharedPort: sharedPort, onAccept: onAccept)
  }

  package func listen(
    inheriting descriptor: Int32, onAccept: @escaping (ByteStream) -> Void
  ) throws(DriverError) -> Listener {
    try refuseWhileStopping("listen")
    return try UVListener(driver: self, inheriting: descriptor, onAccept: onAccept)
  }

  package func connect(to address: SocketAddress, handler: any StreamHandler) -> ByteStream {
    let stream = UVStream(driver: self, isPipe: address.family == AF_UNIX)
    stream.handler = handler
    stream.connect(to: address)
    return stream
  }

  package func bindDatagram(
    to address: SocketAddress, sharedPort: Bool, handler: any DatagramHandler
  ) throws(DriverError) -> DatagramSocket {
    try refuseWhileStopping("bind")
    return try UVDatagram(driver: self, address: address, sharedPort: sharedPort, handler: handler)
  }

  func refuseWhileStopping(_ operation: String) throws(DriverError) {
    if isStopping { throw DriverError(operation: operation, code: "ECANCELED", message: "the loop is stopping") }
  }
}

private func turnBegins(_ prepare: UnsafeMutablePointer<uv_prepare_t>?) {
  withOwner(prepare?.pointee.data, UVDriver.self) { $0.forgetTime() }
}

private func timerFired(_ timer: UnsafeMutablePointer<uv_timer_t>?) {
  withOwner(timer?.pointee.data, UVDriver.self) { $0.runTimers() }
}

/// A resource other than a stream that is closed when its loop stops.
protocol LoopResource: AnyObject {
  func closeForStop()
}

/// Closes one handle of a stopping loop. The driver's own handles are not among them: it closes those itself.
private func closeWalked(_ handle: UnsafeMutablePointer<uv_handle_t>?, _: UnsafeMutableRawPointer?) {
  guard let handle, uv_is_closing(handle) == 0, let data = handle.pointee.data else { return }
  switch handle.pointee.type {
  case UV_TCP, UV_NAMED_PIPE:
    withOwner(data, UVStream.self) { $0.reset() }
  case UV_POLL, UV_SIGNAL, UV_FS_EVENT, UV_PROCESS:
    let owner = Unmanaged<AnyObject>.fromOpaque(data).takeUnretainedValue()
    (owner as? any LoopResource)?.closeForStop()
  default:
    break
  }
}
