// `X-Micro-Fault: delay=200ms;abort=503`: a fault that a caller asks for, for a test of its own handling of errors. Heard
// only with MICRO_SIDECAR_FAULT_HEADER, and then only with its token in `X-Micro-Fault-Token`; never forwarded.

package enum FaultHeader {
  /// Bytes of the header that are read; a longer one is none.
  private static let bytesMax = 256

  /// The fault that the header asks for. Nil: it says nothing that is understood. Times beyond an hour are an hour.
  package static func parse(_ header: UnsafeRawBufferPointer) -> FaultPolicy? {
    guard header.count <= bytesMax else { return nil }
    var fault = FaultPolicy()
    for part in SettingText.trimmed(String(decoding: header, as: UTF8.self)).split(separator: ";") {
      let pair = part.split(separator: "=", maxSplits: 1)
      guard pair.count == 2 else { return nil }
      let value = SettingText.trimmed(pair[1])
      switch SettingText.trimmed(pair[0]).lowercased() {
      case "delay":
        guard let delay = GoDuration.parse(value), delay >= .zero else { return nil }
        fault.delay = min(delay.saturatingNanoseconds, 3_600_000_000_000)
        fault.delayShare = 1
      case "abort":
        guard let code = Int(value), (400...599).contains(code) else { return nil }
        fault.abortCode = code
        fault.abortShare = 1
      default: return nil
      }
    }
    return fault.delayShare > 0 || fault.abortShare > 0 ? fault : nil
  }
}

extension FaultPolicy {
  /// What happens to one call: how long it waits first, and the code it then fails with.
  package func draw(_ random: inout SeededRandom) -> (delay: Int64, abort: Int?) {
    let waits = delay > 0 && random.happens(delayShare)
    return (waits ? delay : 0, random.happens(abortShare) ? abortCode : nil)
  }
}

extension SeededRandom {
  /// True for that share of the draws, 0 to 1. Neither 0 nor 1 takes a draw.
  mutating func happens(_ share: Double) -> Bool {
    if share <= 0 { return false }
    return share >= 1 || Double(next() &>> 11) * 0x1p-53 < share
  }
}
