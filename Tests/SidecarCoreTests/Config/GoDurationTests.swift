import Testing

@testable import SidecarCore

@Suite("Go durations and sizes")
struct GoDurationTests {
  @Test(
    "what Go's time.ParseDuration takes is read to the same nanoseconds",
    arguments: [
      ("0", 0), ("+0", 0), ("-0", 0), ("5s", 5_000_000_000), ("30s", 30_000_000_000), ("1478s", 1_478_000_000_000),
      ("-5s", -5_000_000_000), ("+5s", 5_000_000_000), ("5.0s", 5_000_000_000), ("5.6s", 5_600_000_000),
      ("5.s", 5_000_000_000), (".5s", 500_000_000), ("1.004s", 1_004_000_000), ("1.0040s", 1_004_000_000),
      ("100.00100s", 100_001_000_000), ("10ns", 10), ("11us", 11_000), ("12µs", 12_000), ("12μs", 12_000),
      ("13ms", 13_000_000), ("14s", 14_000_000_000), ("15m", 900_000_000_000), ("16h", 57_600_000_000_000),
      ("3h30m", 12_600_000_000_000), ("10.5s4m", 250_500_000_000), ("1m30s", 90_000_000_000),
      ("-2m3.4s", -123_400_000_000), ("1h2m3s4ms5us6ns", 3_723_004_005_006),
      ("39h9m14.425s", 140_954_425_000_000), ("52763797000ns", 52_763_797_000),
      ("0.3333333333333333333h", 1_200_000_000_000 - 1), ("9007199254740993ns", 9_007_199_254_740_993),
      ("9223372036854775807ns", Int64.max), ("9223372036854775.807us", Int64.max),
      ("0.830103483285477580700h", 2_988_372_539_827),
    ] as [(String, Int64)])
  func reads(text: String, nanoseconds: Int64) {
    #expect(GoDuration.parse(text) == .nanoseconds(nanoseconds))
  }

  @Test(
    "what Go refuses is refused",
    arguments: [
      "", "3", "-", "s", ".", "-.", ".s", "+.s", "1d", "5S", " 5s", "5s ", "5 s", "1m 30s", "--5s", "5s-3s", "1e3s",
      "9223372036854775808ns", "9223372036854775.808us", "9223372036854ms775us808ns", "3000000h",
      "99999999999999999999s", "1.2.3s", "0x1s", "\u{0661}s", "5s\0", "1,5s",
    ])
  func refuses(text: String) {
    #expect(GoDuration.parse(text) == nil)
  }

  @Test(
    "durations are written in the shortest form",
    arguments: [
      ("0s", 0), ("1ns", 1), ("1.5us", 1_500), ("250ms", 250_000_000), ("1.5s", 1_500_000_000), ("25s", 25_000_000_000),
      ("1m", 60_000_000_000), ("1m30s", 90_000_000_000), ("1h", 3_600_000_000_000), ("1h0.5s", 3_600_500_000_000),
      ("-1m", -60_000_000_000),
    ] as [(String, Int64)])
  func writes(text: String, nanoseconds: Int64) {
    #expect(GoDuration.format(.nanoseconds(nanoseconds)) == text)
  }

  @Test("every duration written is read back the same", arguments: [1, 2, 3] as [UInt64])
  func roundTrip(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    for _ in 0..<20_000 {
      // Shifts spread the lengths evenly over all magnitudes.
      let amount = Int64(bitPattern: random.next()) &>> Int64(random.below(63))
      let duration = Duration.nanoseconds(amount == .min ? 0 : amount)
      let text = GoDuration.format(duration)
      #expect(GoDuration.parse(text) == duration, "seed \(seed): \(amount) ns became \(text)")
    }
  }

  @Test("no text traps the parsers, and what is read is written to something that reads the same", arguments: [4, 5])
  func hostileTexts(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    let alphabet = Array("0123456789.+-nuµmsh kKMGiB\u{0}e_".unicodeScalars)
    for _ in 0..<50_000 {
      var text = ""
      for _ in 0..<random.below(14) { text.unicodeScalars.append(alphabet[random.below(alphabet.count)]) }
      if let duration = GoDuration.parse(text) {
        #expect(GoDuration.parse(GoDuration.format(duration)) == duration, "seed \(seed): \(text.debugDescription)")
      }
      if let bytes = ByteSize.parse(text) {
        #expect(ByteSize.parse(ByteSize.format(bytes)) == bytes, "seed \(seed): \(text.debugDescription)")
      }
    }
  }

  @Test("a duration made of parts is their sum", arguments: [6] as [UInt64])
  func sums(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    let units: [(String, Int64)] = [
      ("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000),
      ("ns", 1),
    ]
    for _ in 0..<5_000 {
      var text = ""
      var sum: Int64 = 0
      for _ in 0...random.below(5) {
        let (name, size) = units[random.below(units.count)]
        let count = random.below(100_000)
        text += "\(count)\(name)"
        sum += Int64(count) * size
      }
      #expect(GoDuration.parse(text) == .nanoseconds(sum), "seed \(seed): \(text)")
    }
  }
}

@Suite("Byte sizes")
struct ByteSizeTests {
  @Test(
    "sizes with and without units are read",
    arguments: [
      ("0", 0), ("65536", 65536), ("1B", 1), ("4MiB", 4 << 20), ("4mib", 4 << 20), ("4 MiB", 4 << 20), ("64Ki", 65536),
      ("1Gi", 1 << 30), ("10MB", 10_000_000), ("1kb", 1000), ("1.5KiB", 1536), ("0.5GiB", 1 << 29),
    ])
  func reads(text: String, bytes: Int) {
    #expect(ByteSize.parse(text) == bytes)
  }

  @Test(
    "what is ambiguous, negative, fractional or too large is refused",
    arguments: [
      "", "4m", "4M", "4k", "-1", "+1", "1.5", "0.1KiB", "1e6", "MiB", "4MiBs", "4 M iB", "9223372036854775808",
      "9999999999999GiB", "1.0000000000000000000001KiB",
    ])
  func refuses(text: String) {
    #expect(ByteSize.parse(text) == nil)
  }

  @Test("sizes are written in the largest whole unit")
  func writes() {
    #expect(ByteSize.format(4 << 20) == "4MiB")
    #expect(ByteSize.format(1536 << 10) == "1536KiB")
    #expect(ByteSize.format(1 << 30) == "1GiB")
    #expect(ByteSize.format(1001) == "1001B")
    #expect(ByteSize.format(0) == "0B")
  }
}
