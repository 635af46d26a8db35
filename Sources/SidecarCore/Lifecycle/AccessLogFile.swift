// The access log's file: takes batches of lines from the workers, one after another, each in one write. A reader of a pipe
// that does not read makes the batches wait, and the workers drop lines; the loop itself never waits for it.

/// Threading: the control loop.
final class AccessLogFile {
  /// How often a full pipe is tried again.
  private static let retryInterval: Int64 = 10_000_000

  private let destination: LogDestination
  private let driver: any HostDriver
  private let log: any LogSink
  private var file: (any AppendFile)?
  /// At most one batch of each worker.
  private var queue: [(lines: ByteBuffer, done: () -> Void)] = []
  private var offset = 0
  private var isFailing = false
  private lazy var timer = LoopTimer { [unowned self] in work() }

  /// Errors: the file cannot be opened.
  init(_ destination: LogDestination, driver: any HostDriver, log: any LogSink) throws(ConfigurationError) {
    self.destination = destination
    self.driver = driver
    self.log = log
    do throws(DriverError) {
      file = try driver.openAppend(path)
    } catch {
      throw ConfigurationError("MICRO_ACCESS_LOG: \(destination) cannot be opened: \(error.message)")
    }
  }

  private var path: String {
    switch destination {
    case .standardOutput: "/dev/stdout"
    case .standardError: "/dev/stderr"
    case .file(let path): path
    }
  }

  /// Takes a batch; `done` when it is written or lost.
  func write(_ lines: ByteBuffer, _ done: @escaping () -> Void) {
    queue.append((lines, done))
    if queue.count == 1 { work() }
  }

  private func work() {
    while let (lines, done) = queue.first {
      let rest = UnsafeRawBufferPointer(rebasing: lines.bytes[offset...])
      guard let count = add(rest) else {
        // Nobody knows when it may be written again; keeping the batch would keep all later ones too.
        next(done)
        continue
      }
      offset += count
      if offset < lines.count {
        driver.timers.arm(timer, after: Self.retryInterval, from: driver.now)
        return
      }
      next(done)
    }
  }

  private func next(_ done: () -> Void) {
    offset = 0
    queue.removeFirst()
    done()
  }

  /// How much was written; nil: nothing can be.
  private func add(_ bytes: UnsafeRawBufferPointer) -> Int? {
    do throws(DriverError) {
      let file: any AppendFile
      if let open = self.file { file = open } else { file = try driver.openAppend(path) }
      self.file = file
      let count = try file.append(bytes)
      if isFailing { log.info("the access log is written again", [("file", path)]) }
      isFailing = false
      return count
    } catch {
      if !isFailing { log.error("the access log cannot be written: \(error.message)", [("file", path)]) }
      isFailing = true
      file?.close()
      file = nil
      return nil
    }
  }

  /// The file was renamed: the next line goes into a new one. A batch that is half written stays in one file.
  func reopen() {
    guard case .file = destination, offset == 0 else { return }
    file?.close()
    file = nil
    do throws(DriverError) {
      file = try driver.openAppend(path)
      log.info("the access log was opened anew", [("file", path)])
    } catch {
      log.error("the access log cannot be opened: \(error.message)", [("file", path)])
    }
  }

  /// The end of the process: what goes at once is written.
  func writeLast(_ bytes: UnsafeRawBufferPointer) {
    while let (lines, done) = queue.first {
      _ = add(UnsafeRawBufferPointer(rebasing: lines.bytes[offset...]))
      next(done)
    }
    if !bytes.isEmpty { _ = add(bytes) }
  }

  func close() {
    writeLast(.none)
    timer.cancel()
    file?.close()
    file = nil
  }
}
