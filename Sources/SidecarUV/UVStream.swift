// A TCP or Unix-socket connection on libuv.
//
//                     connected                close() with bytes queued            queue empty, error or time out
//   opening ───────────────────▶ open ───────────────────────────────▶ lingering ─────────────────────┐
//      └──── failed, reset() ──────┴──── reset(), error, both halves ended, close() ────────────────────▶ closing
//                                                                                                         │ uv_close
//                                                                                    streamClosed ◀───────┘ callback
// What it knows beyond libuv:
// - Pausing is lazy. It costs nothing until the peer really sends something; only then does the poller hear of it.
// - libuv reports a plain end where a partial read and a hang-up arrive together, even if the peer has reset the
//   connection. The socket's own error tells the two apart, so a cut-off body never looks complete.
// - A failed write does not hide what the peer said before it hung up: reading goes on until it ends. A server that
//   answers 413 and closes is heard that way, although the request's body could not be delivered.

import CUV
import Glibc
import SidecarCore

package final class UVStream: ByteStream {
  private struct Flags: OptionSet {
    var rawValue: UInt16
    /// The dial is under way.
    static let opening = Flags(rawValue: 1 << 0)
    /// `pauseReading` was called, and not yet taken back.
    static let paused = Flags(rawValue: 1 << 1)
    /// libuv is not reading: never started, or stopped by a pause that met data.
    static let readStopped = Flags(rawValue: 1 << 2)
    /// The peer's end was reported.
    static let peerEnded = Flags(rawValue: 1 << 3)
    /// The peer's end was met while paused; reported after the resume.
    static let endPending = Flags(rawValue: 1 << 4)
    /// A write answered `.congested` and `streamDrained` is due.
    static let congested = Flags(rawValue: 1 << 5)
    /// `shutdownWrites` was called.
    static let shutdownWanted = Flags(rawValue: 1 << 6)
    /// Our half has ended on the socket.
    static let writesEnded = Flags(rawValue: 1 << 7)
    /// A write failed; `end` says how. Reading goes on to its end.
    static let writeBroken = Flags(rawValue: 1 << 8)
    /// `close` was called and bytes are still queued.
    static let lingering = Flags(rawValue: 1 << 9)
    /// `uv_close` was called.
    static let closing = Flags(rawValue: 1 << 10)
    static let isPipe = Flags(rawValue: 1 << 11)
  }

  private let handle: UnsafeMutablePointer<uv_stream_t>
  private unowned(unsafe) let driver: UVDriver
  /// Bytes that libuv does not have yet: the youngest part of the queue, filled up while older parts are being written.
  private var tail: WriteChunk?
  private var lingerTimer: LoopTimer?
  private var end = StreamEnd.closedHere
  private var flags: Flags

  /// The handle keeps the stream alive until its close callback.
  init(driver: UVDriver, isPipe: Bool) {
    self.driver = driver
    if isPipe {
      let pipe = UnsafeMutablePointer<uv_pipe_t>.allocate(capacity: 1)
      uv_pipe_init(driver.loop, pipe, 0)
      handle = pipe.cast(to: uv_stream_t.self)
      flags = [.readStopped, .isPipe]
    } else {
      let tcp = UnsafeMutablePointer<uv_tcp_t>.allocate(capacity: 1)
      uv_tcp_init(driver.loop, tcp)
      // Remembered until there is a socket.
      uv_tcp_nodelay(tcp, 1)
      handle = tcp.cast(to: uv_stream_t.self)
      flags = .readStopped
    }
    super.init()
    handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
  }

  private var isPipe: Bool { flags.contains(.isPipe) }
  private var tcp: UnsafeMutablePointer<uv_tcp_t> { handle.cast(to: uv_tcp_t.self) }
  private var pipe: UnsafeMutablePointer<uv_pipe_t> { handle.cast(to: uv_pipe_t.self) }

  // MARK: Opening

  /// Takes an accepted descriptor; false when libuv will not have it, and then nobody owns the descriptor.
  func adopt(_ descriptor: Int32) -> Bool {
    (isPipe ? uv_pipe_open(pipe, descriptor) : uv_tcp_open(tcp, descriptor)) == 0
  }

  /// Starts reading an accepted stream, once its handler is known.
  func beginAccepted() {
    if flags.contains(.closing) || flags.contains(.lingering) { return }
    if handler == nil {
      reset()
      return
    }
    if !flags.contains(.paused) { startReading() }
  }

  func connect(to address: SocketAddress) {
    flags.insert(.opening)
    if driver.isStopping {
      finish(.unreachable("the loop is stopping"))
      return
    }
    let request = UnsafeMutablePointer<uv_connect_t>.allocate(capacity: 1)
    do {
      let status = try address.withSockaddr("connect") { pointer, _ -> Int32 in
        if case .unix(let path) = address {
          // Reports every error through the callback.
          uv_pipe_connect(request, pipe, path, streamConnected)
          return 0
        }
        return uv_tcp_connect(request, tcp, pointer, streamConnected)
      }
      guard status < 0 else { return }
      request.deallocate()
      finish(Self.dialFailure(status))
    } catch {
      request.deallocate()
      finish(.unreachable(error.description))
    }
  }

  private static func dialFailure(_ status: Int32) -> StreamEnd {
    // A Unix socket nobody has made, or whose maker is gone, is the same news as a closed port.
    if status == UV_ECONNREFUSED.rawValue || status == UV_ENOENT.rawValue { return .refused }
    return .unreachable("\(uvErrorMessage(status)) (\(uvErrorName(status)))")
  }

  fileprivate func connected(_ status: Int32) {
    if flags.contains(.closing) { return }
    if status < 0 {
      finish(Self.dialFailure(status))
      return
    }
    flags.remove(.opening)
    if flags.contains(.lingering) {
      afterWrites()
      return
    }
    handler?.streamOpened(self)
    if flags.contains(.closing) { return }
    if flags.contains(.shutdownWanted), queuedBytes == 0 { endWrites() }
    if !flags.contains(.paused), !flags.contains(.closing), !flags.contains(.lingering) { startReading() }
  }

  // MARK: Reading

  private func startReading() {
    guard flags.contains(.readStopped) else { return }
    flags.remove(.readStopped)
    let status = uv_read_start(handle, streamAllocate, streamDidRead)
    if status < 0 { finish(.reset(uvErrorMessage(status))) }
  }

  private func stopReading() {
    if flags.contains(.readStopped) { return }
    flags.insert(.readStopped)
    uv_read_stop(handle)
  }

  /// Where libuv may put what it reads; nothing while paused, which it answers with `ENOBUFS` and no system call.
  fileprivate var readSpace: uv_buf_t {
    if flags.contains(.paused) { return uv_buf_t(base: nil, len: 0) }
    let buffer = driver.readBuffer
    return uv_buf_t(base: buffer.baseAddress?.assumingMemoryBound(to: CChar.self), len: buffer.count)
  }

  @inline(__always) fileprivate func didRead(_ count: Int) {
    if count > 0 {
      handler?.streamRead(self, UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(driver.readBuffer)[..<count]))
    } else if count < 0 {
      readEnded(Int32(truncatingIfNeeded: count))
    }
  }

  private func readEnded(_ status: Int32) {
    if flags.contains(.closing) { return }
    if status == UV_ENOBUFS.rawValue, flags.contains(.paused) {
      stopReading()
      return
    }
    if flags.contains(.writeBroken) {
      finish(end)
    } else if status != UV_EOF.rawValue {
      finish(.reset("\(uvErrorMessage(status)) (\(uvErrorName(status)))"))
    } else if let failure = socketFailure() {
      finish(failure)
    } else if flags.contains(.paused) {
      flags.insert(.endPending)
    } else {
      reportPeerEnd()
    }
  }

  private func socketFailure() -> StreamEnd? {
    var descriptor: uv_os_fd_t = -1
    guard uv_fileno(handle.cast(to: uv_handle_t.self), &descriptor) == 0 else { return nil }
    var failure: Int32 = 0
    var size = socklen_t(MemoryLayout<Int32>.size)
    guard getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &failure, &size) == 0, failure != 0 else { return nil }
    return .reset("\(uvErrorMessage(-failure)) (\(uvErrorName(-failure)))")
  }

  private func reportPeerEnd() {
    flags.remove(.endPending)
    flags.insert(.peerEnded)
    handler?.streamEnded(self)
    endIfBothEnded()
  }

  private func endIfBothEnded() {
    if flags.isSuperset(of: [.peerEnded, .writesEnded]) { finish(.ended) }
  }

  package override func pauseReading() { flags.insert(.paused) }

  package override func resumeReading() {
    guard flags.contains(.paused) else { return }
    flags.remove(.paused)
    if !flags.isDisjoint(with: [.closing, .lingering, .opening]) { return }
    if flags.contains(.endPending) {
      driver.later { [self] in
        if flags.contains(.endPending), flags.isDisjoint(with: [.paused, .closing, .lingering]) { reportPeerEnd() }
      }
    } else if !flags.contains(.peerEnded) {
      startReading()
    }
  }

  // MARK: Writing

  package override var queuedBytes: Int {
    if flags.contains(.closing) { return 0 }
    return uv_stream_get_write_queue_size(handle) + (tail?.count ?? 0)
  }

  package override func write(_ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer) -> WriteState {
    if !flags.isDisjoint(with: [.closing, .lingering, .shutdownWanted, .writeBroken]) { return .closed }
    let total = first.count + second.count
    var written = 0
    if tail == nil, total > 0, !flags.contains(.opening) {
      let status = tryWrite(first, second)
      if status == total { return .open }
      if status >= 0 {
        written = Int(status)
      } else if status != UV_EAGAIN.rawValue {
        writeFailed(status)
        return .closed
      }
    }
    if written < first.count {
      enqueue(UnsafeRawBufferPointer(rebasing: first[written...]))
      enqueue(second)
    } else {
      enqueue(UnsafeRawBufferPointer(rebasing: second[(written - first.count)...]))
    }
    if flags.contains(.writeBroken) || flags.contains(.closing) { return .closed }
    guard queuedBytes > Self.highWatermark else { return .open }
    flags.insert(.congested)
    return .congested
  }

  @inline(__always)
  private func tryWrite(_ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer) -> Int32 {
    if second.isEmpty || first.isEmpty { return sendNow(second.isEmpty ? first : second) }
    var parts = (uv_buf_t(first), uv_buf_t(second))
    return withUnsafeMutablePointer(to: &parts) { pointer in
      let buffers = UnsafeMutableRawPointer(pointer).assumingMemoryBound(to: uv_buf_t.self)
      return uv_try_write(handle, buffers, 2)
    }
  }

  /// What `uv_try_write` does for one buffer, but with send(2): on a socket it is a shorter way through the kernel than
  /// write(2), which every request takes twice.
  private func sendNow(_ bytes: UnsafeRawBufferPointer) -> Int32 {
    guard uv_stream_get_write_queue_size(handle) == 0 else { return UV_EAGAIN.rawValue }
    var descriptor: uv_os_fd_t = -1
    let status = uv_fileno(UnsafeMutableRawPointer(handle).assumingMemoryBound(to: uv_handle_t.self), &descriptor)
    if status < 0 { return status }
    while true {
      let count = send(descriptor, bytes.baseAddress, bytes.count, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
      if count >= 0 { return Int32(count) }
      if errno == EAGAIN || errno == EWOULDBLOCK { return UV_EAGAIN.rawValue }
      if errno != EINTR { return -errno }
    }
  }

  private func enqueue(_ bytes: UnsafeRawBufferPointer) {
    var rest = bytes
    while !rest.isEmpty {
      // The first part of a queue goes to libuv at once and never grows; later ones are filled up meanwhile.
      let isFirst = tail == nil && (flags.contains(.opening) || uv_stream_get_write_queue_size(handle) == 0)
      let chunk = tail ?? WriteChunk(capacity: rest.count, exact: isFirst)
      rest = chunk.append(rest)
      tail = chunk
      if isFirst || chunk.isFull { submitTail() }
      if flags.contains(.writeBroken) { return }
    }
  }

  private func submitTail() {
    guard let chunk = tail else { return }
    tail = nil
    let status = chunk.submit(to: handle, streamDidWrite)
    if status < 0 {
      chunk.free()
      // A dial that has already failed says so in its own callback.
      if !flags.contains(.opening) { writeFailed(status) }
    }
  }

  fileprivate func didWrite(_ status: Int32) {
    if flags.contains(.closing) { return }
    if status < 0 {
      if !flags.contains(.opening) { writeFailed(status) }
      return
    }
    if tail != nil, uv_stream_get_write_queue_size(handle) == 0 { submitTail() }
    afterWrites()
  }

  /// What waited for the queue to become shorter.
  private func afterWrites() {
    if flags.contains(.closing) { return }
    let queued = queuedBytes
    if queued == 0 {
      if flags.contains(.lingering) {
        finish(flags.contains(.writeBroken) ? end : .closedHere)
        return
      }
      if flags.contains(.shutdownWanted) { endWrites() }
    }
    if flags.contains(.congested), queued < Self.lowWatermark, flags.isDisjoint(with: [.closing, .lingering]) {
      flags.remove(.congested)
      if !flags.contains(.writeBroken) { handler?.streamDrained(self) }
    }
  }

  private func writeFailed(_ status: Int32) {
    if !flags.isDisjoint(with: [.closing, .writeBroken]) { return }
    flags.insert(.writeBroken)
    end = .reset("\(uvErrorMessage(status)) (\(uvErrorName(status)))")
    tail?.free()
    tail = nil
    if flags.isDisjoint(with: [.paused, .readStopped, .peerEnded, .lingering]) {
      // A dead socket ends its reads by itself; the limit is for one that is only half dead.
      limitLinger()
    } else {
      finish(end)
    }
  }

  package override func acknowledge() {
    var descriptor: uv_os_fd_t = -1
    guard !isPipe, !flags.contains(.closing), uv_fileno(handle.cast(to: uv_handle_t.self), &descriptor) == 0
    else { return }
    var isOn: Int32 = 1
    setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_QUICKACK, &isOn, socklen_t(MemoryLayout<Int32>.size))
  }

  package override func shutdownWrites() {
    if !flags.isDisjoint(with: [.shutdownWanted, .closing, .lingering, .writeBroken]) { return }
    flags.insert(.shutdownWanted)
    if !flags.contains(.opening), queuedBytes == 0 { endWrites() }
  }

  /// Ends our half by a plain `shutdown`: the queue is empty here, so libuv's request would only add a trip through the
  /// poller.
  private func endWrites() {
    if flags.contains(.writesEnded) { return }
    flags.insert(.writesEnded)
    var descriptor: uv_os_fd_t = -1
    // It fails when the peer is gone already, and then reading tells.
    if uv_fileno(handle.cast(to: uv_handle_t.self), &descriptor) == 0 { _ = shutdown(descriptor, Int32(SHUT_WR)) }
    endIfBothEnded()
  }

  // MARK: Closing

  package override func close() {
    if !flags.isDisjoint(with: [.closing, .lingering]) { return }
    if queuedBytes == 0 || flags.contains(.writeBroken) {
      finish(flags.contains(.writeBroken) ? end : .closedHere)
      return
    }
    flags.insert(.lingering)
    stopReading()
    end = .reset("the peer did not take the last bytes in \(Self.closeLinger / 1_000_000_000) s")
    limitLinger()
  }

  private func limitLinger() {
    let timer = lingerTimer ?? LoopTimer { [unowned self] in abort(end) }
    lingerTimer = timer
    driver.timers.arm(timer, after: Self.closeLinger, from: driver.now)
  }

  package override func reset() { abort(.closedHere) }

  private func abort(_ end: StreamEnd) {
    if flags.contains(.closing) { return }
    if isPipe || flags.contains(.opening) {
      finish(end)
      return
    }
    prepareToClose(end)
    if uv_tcp_close_reset(tcp, streamDidClose) != 0 { uv_close(handle.cast(to: uv_handle_t.self), streamDidClose) }
  }

  private func finish(_ end: StreamEnd) {
    if flags.contains(.closing) { return }
    prepareToClose(end)
    uv_close(handle.cast(to: uv_handle_t.self), streamDidClose)
  }

  private func prepareToClose(_ end: StreamEnd) {
    flags.insert(.closing)
    self.end = end
    lingerTimer?.cancel()
    lingerTimer = nil
    tail?.free()
    tail = nil
  }

  /// The handle's memory is ours again. Its reference to the stream is given up by the caller.
  fileprivate func didClose() {
    let handler = self.handler
    handler?.streamClosed(self, end)
    self.handler = nil
  }

  // MARK: Addresses

  package override var peerAddress: SocketAddress? {
    if flags.contains(.closing) { return nil }
    if isPipe {
      return Self.pipeName { uv_pipe_getpeername(pipe, $0, $1) }
    }
    return SocketAddress(filledBy: { uv_tcp_getpeername(tcp, $0, $1) })
  }

  package override var localAddress: SocketAddress? {
    if flags.contains(.closing) { return nil }
    if isPipe {
      return Self.pipeName { uv_pipe_getsockname(pipe, $0, $1) }
    }
    return SocketAddress(filledBy: { uv_tcp_getsockname(tcp, $0, $1) })
  }

  private static func pipeName(
    _ read: (UnsafeMutablePointer<CChar>, UnsafeMutablePointer<Int>) -> Int32
  ) -> SocketAddress? {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 128) { buffer in
      var length = buffer.count
      guard let base = buffer.baseAddress, read(base, &length) == 0, length > 0, base[0] != 0 else { return nil }
      return .unix(path: String(decoding: UnsafeRawBufferPointer(start: base, count: length), as: UTF8.self))
    }
  }
}

/// A part of a write queue: libuv's request and the bytes it writes, in one allocation.
private struct WriteChunk {
  /// Bytes per chunk at most, so that a long queue is given back as it is written.
  static let bytesMax = 64 * 1024
  /// Bytes a chunk that will be filled up has at least.
  static let bytesMin = 4 * 1024

  private struct Header {
    var request: uv_write_t
    var capacity: Int
    var count: Int
  }
  private let header: UnsafeMutablePointer<Header>

  init(capacity wanted: Int, exact: Bool) {
    let capacity = min(exact ? wanted : max(wanted, Self.bytesMin), Self.bytesMax)
    let raw = UnsafeMutableRawPointer.allocate(
      byteCount: MemoryLayout<Header>.stride + capacity, alignment: MemoryLayout<Header>.alignment)
    header = raw.bindMemory(to: Header.self, capacity: 1)
    header.initialize(to: Header(request: uv_write_t(), capacity: capacity, count: 0))
  }

  var count: Int { header.pointee.count }
  var isFull: Bool { header.pointee.count == header.pointee.capacity }
  private var bytes: UnsafeMutableRawPointer { UnsafeMutableRawPointer(header) + MemoryLayout<Header>.stride }

  /// Copies what fits; returns the rest.
  func append(_ source: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
    let taken = min(source.count, header.pointee.capacity - header.pointee.count)
    guard taken > 0, let base = source.baseAddress else { return source }
    (bytes + header.pointee.count).copyMemory(from: base, byteCount: taken)
    header.pointee.count += taken
    return UnsafeRawBufferPointer(rebasing: source[taken...])
  }

  /// Hands the chunk to libuv, which gives it back in the callback; on an error it is still ours.
  func submit(to stream: UnsafeMutablePointer<uv_stream_t>, _ callback: uv_write_cb) -> Int32 {
    var buffer = uv_buf_t(UnsafeRawBufferPointer(start: bytes, count: count))
    return uv_write(
      UnsafeMutableRawPointer(header).assumingMemoryBound(to: uv_write_t.self), stream, &buffer, 1, callback)
  }

  func free() { Self.free(header) }
  static func free(_ start: UnsafeMutableRawPointer) { start.deallocate() }
}

extension uv_buf_t {
  @inline(__always) fileprivate init(_ bytes: UnsafeRawBufferPointer) {
    self.init(
      base: UnsafeMutableRawPointer(mutating: bytes.baseAddress)?.assumingMemoryBound(to: CChar.self),
      len: bytes.count)
  }
}

// MARK: libuv's callbacks

private func streamConnected(_ request: UnsafeMutablePointer<uv_connect_t>?, _ status: Int32) {
  guard let request else { return }
  withOwner(request.pointee.handle.pointee.data, UVStream.self) { $0.connected(status) }
  request.deallocate()
}

private func streamAllocate(
  _ handle: UnsafeMutablePointer<uv_handle_t>?, _: Int, _ buffer: UnsafeMutablePointer<uv_buf_t>?
) {
  withOwner(handle?.pointee.data, UVStream.self) { buffer?.pointee = $0.readSpace }
}

private func streamDidRead(
  _ handle: UnsafeMutablePointer<uv_stream_t>?, _ count: Int, _: UnsafePointer<uv_buf_t>?
) {
  withOwner(handle?.pointee.data, UVStream.self) { $0.didRead(count) }
}

private func streamDidWrite(_ request: UnsafeMutablePointer<uv_write_t>?, _ status: Int32) {
  guard let request else { return }
  let data = request.pointee.handle.pointee.data
  WriteChunk.free(request)
  withOwner(data, UVStream.self) { $0.didWrite(status) }
}

private func streamDidClose(_ handle: UnsafeMutablePointer<uv_handle_t>?) {
  guard let handle else { return }
  withOwner(handle.pointee.data, UVStream.self) { $0.didClose() }
  freeHandleAndOwner(handle)
}
