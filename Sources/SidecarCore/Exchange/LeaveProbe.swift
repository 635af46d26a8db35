// A caller over plain HTTP that has ended its half of the connection may still read, or be gone: both look the same until
// something is written. So while its answer is awaited something is, that every client skips: an interim answer, or what
// keeps a stream alive. A host whose caller is gone answers with a reset, which the next write finds; then the call is
// cancelled, and nobody works for nobody.

/// Writes to a caller now and then, until it is known to be gone or may be believed to be there. Loop-confined.
final class LeaveProbe {
  /// From the first write to the second, in nanoseconds; it doubles from then on.
  private static let delay: Int64 = 50_000_000
  private static let writesMax = 5

  private unowned let connection: CallerConnection
  private var writes: Int64 = 0
  private lazy var timer = LoopTimer { [unowned self] in self.goOn() }

  init(_ connection: CallerConnection) { self.connection = connection }

  func goOn() {
    guard writes < Self.writesMax, connection.mayProbe else { return }
    // Armed first: the write may be the end of the connection.
    let worker = connection.worker
    worker.timers.arm(timer, after: Self.delay &<< writes, from: worker.driver.now)
    writes += 1
    connection.probe()
  }

  func stop() { timer.cancel() }
}

extension CallerConnection {
  /// The caller has ended its half and something is still to be said to it.
  var mayProbe: Bool {
    switch state {
    case .answering: outlivesCallersEnd
    case .streaming: feed == .body && bodyIsOver
    case .reading, .flushing, .lingering, .closing, .closed: false
    }
  }

  func probe() {
    if state == .streaming { running?.connectionProbe() } else if mayContinue { writeContinue() }
  }

  /// An interim answer, which says nothing (RFC 9110 §15.2.1).
  func writeContinue() {
    let text: StaticString = "HTTP/1.1 100 Continue\r\n\r\n"
    _ = write(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }
}
