/// The only source of randomness in the core: SplitMix64, seeded by the driver.
///
/// The same seed gives the same sequence on every machine, so a simulation can be repeated from its seed. It is not
/// for secrets. One per loop, never shared.
public struct SeededRandom: RandomNumberGenerator, Sendable {
  private var state: UInt64

  public init(seed: UInt64) { state = seed }

  public mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z &>> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z &>> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z &>> 31)
  }

  /// A number in `0 ..< bound`; zero when `bound` is zero or less. Bias is below 2⁻³² for any bound that fits 32 bits.
  @inline(__always) public mutating func below(_ bound: Int) -> Int {
    bound <= 1 ? 0 : Int(next().multipliedFullWidth(by: UInt64(bound)).high)
  }

  /// A version 4 UUID in its 36-character lower-case form.
  public mutating func uuid() -> String {
    var high = next()
    var low = next()
    high = high & 0xFFFF_FFFF_FFFF_0FFF | 0x4000
    low = low & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    text.reserveCapacity(36)
    for index in 0..<32 {
      if index == 8 || index == 12 || index == 16 || index == 20 { text.append(UInt8(ascii: "-")) }
      let word = index < 16 ? high : low
      text.append(digits[Int(word &>> UInt64((15 - index % 16) * 4) & 15)])
    }
    return String(decoding: text, as: UTF8.self)
  }
}
