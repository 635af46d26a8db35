// Tokens for calls: how many may be made in a time, and how long one that comes too early has to wait.

/// The token buckets of one worker. A bucket is one number, the time at which it would be full again if nothing more were
/// taken (the generic cell rate algorithm). Sans-IO.
package struct RateLimiter {
  /// Buckets kept. When all are in use, whoever has none shares one with the others who have none.
  package static let bucketsMax = 4096
  /// Nanoseconds between two searches for buckets that are full again and need not be kept.
  private static let sweepInterval: Int64 = 100_000_000
  /// The longest wait that is ever named, in nanoseconds.
  package static let waitMax: Int64 = 3_600_000_000_000

  /// When each is full again, in nanoseconds of `Instant`.
  private var buckets: [UInt64: Int64] = [:]
  private var sharedBucket: Int64 = 0
  private var nextSweep = Instant(nanoseconds: 0)

  package init() {}

  package var count: Int { buckets.count }

  /// Takes a token of the bucket that `key` stands for, which gets `rate` a second and holds `burst`. 0: there was one;
  /// else the nanoseconds until there is one.
  package mutating func take(_ key: UInt64, rate: Double, burst: Double, now: Instant) -> Int64 {
    let clock = Int64(clamping: now.nanoseconds)
    let interval = min(max(1e9 / max(rate, 1e-9), 1), 1e18)
    // A token above the whole that is saved up may be taken as soon as it is due.
    let tolerance = min(interval * (max(burst, 1) - 1), 1e18)
    let isKept = hasRoom(for: key, now)
    var full = isKept ? buckets[key] ?? clock : sharedBucket
    full = max(full, clock)
    let ahead = Double(full - clock)
    // Half a nanosecond less than a whole interval is the interval.
    guard ahead <= tolerance + 0.5 else { return min(max(Int64(min(ahead - tolerance, 1e18)), 1), Self.waitMax) }
    full = Int64(min(Double(full) + interval, 9e18))
    if isKept { buckets[key] = full } else { sharedBucket = full }
    return 0
  }

  private mutating func hasRoom(for key: UInt64, _ now: Instant) -> Bool {
    guard buckets.count >= Self.bucketsMax, buckets[key] == nil else { return true }
    guard now >= nextSweep else { return false }
    nextSweep = now.advanced(byNanoseconds: Self.sweepInterval)
    let clock = Int64(clamping: now.nanoseconds)
    buckets = buckets.filter { $0.value > clock }
    return buckets.count < Self.bucketsMax
  }
}

/// Names of a bucket, mixed into one number. The seed keeps strangers from choosing names that meet.
struct RateKey {
  private(set) var value: UInt64

  init(seed: UInt64) { value = seed }

  mutating func add(_ bytes: UnsafeRawBufferPointer) {
    for byte in bytes { value = (value ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
    add(UInt64(bytes.count))
  }

  mutating func add(_ number: UInt64) {
    let product = (value ^ number).multipliedFullWidth(by: 0x9E37_79B9_7F4A_7C15)
    value = product.high ^ product.low
  }
}
