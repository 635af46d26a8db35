// How much memory the process has. Near its limit new calls are refused, since the kernel would end the process, and all calls
// with it, a moment later.
//
//   enough ── 90 % of the limit, and free memory given back does not help ──▶ short ── below 85 % ──▶ enough

/// What is watched. Threading: the control loop.
final class MemoryWatch {
  /// Nanoseconds between two looks.
  static let period: Int64 = 1_000_000_000
  /// Bytes by which the process must have grown since its start to be short at all: a limit that hardly holds an idle
  /// sidecar would have it refuse everything.
  static let growthMin = 8 << 20
  /// Bytes of change that workers are told of.
  static let toldStep = 1 << 20

  let timer: LoopTimer
  private let limit: Int?
  private let start: Int
  private(set) var isShort = false
  private(set) var told = 0

  init(limit: Int?, start: Int, _ look: @escaping () -> Void) {
    self.limit = limit
    self.start = start
    timer = LoopTimer(look)
  }

  /// Whether free memory should be given back to the system before `take`.
  func isTight(_ bytes: Int) -> Bool {
    guard let limit else { return false }
    return bytes - start > Self.growthMin && bytes > limit / 10 * 9
  }

  /// What the process has now; true when that changes something.
  func take(_ bytes: Int) -> Bool {
    let was = isShort
    if let limit { isShort = isTight(bytes) || isShort && bytes > limit / 20 * 17 }
    guard was != isShort || abs(bytes - told) >= Self.toldStep else { return false }
    told = bytes
    return true
  }
}

extension Sidecar {
  func watchMemory() {
    let watch = MemoryWatch(limit: settings.memoryBytesMax, start: driver.residentBytes) { [unowned self] in
      lookAtMemory()
    }
    memoryWatch = watch
    lookAtMemory()
  }

  private func lookAtMemory() {
    guard let watch = memoryWatch, phase == .serving else { return }
    var bytes = driver.residentBytes
    if watch.isTight(bytes) {
      driver.releaseFreeMemory()
      bytes = driver.residentBytes
    }
    let wasShort = watch.isShort
    if watch.take(bytes) {
      let isShort = watch.isShort
      for worker in workers {
        worker.post { [bytes] in
          $0.memoryBytes = bytes
          $0.isShortOfMemory = isShort
        }
      }
    }
    if watch.isShort != wasShort {
      let fields = [("resident_bytes", "\(bytes)"), ("limit_bytes", "\(settings.memoryBytesMax ?? 0)")]
      if watch.isShort {
        log.warning("memory is short: new calls are refused", fields)
      } else {
        log.info("there is memory again", fields)
      }
    }
    driver.timers.arm(watch.timer, after: MemoryWatch.period, from: driver.now)
  }
}
