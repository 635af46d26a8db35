// Amounts of memory as people write them.

/// Reads and writes `4MiB`, `512KiB`, `10MB`, `65536`.
package enum ByteSize {
  /// Lower-case. Kubernetes' `Ki`, `Mi`, `Gi` are taken too. A lone `k`, `m` or `g` is not: to some it is 1000, to others
  /// 1024.
  private static let units: [(name: String, bytes: UInt64)] = [
    ("", 1), ("b", 1),
    ("kib", 1 << 10), ("mib", 1 << 20), ("gib", 1 << 30),
    ("ki", 1 << 10), ("mi", 1 << 20), ("gi", 1 << 30),
    ("kb", 1_000), ("mb", 1_000_000), ("gb", 1_000_000_000),
  ]

  /// A decimal number and a unit in any case of letters, white space between them allowed. Nil for anything else, for
  /// what is no whole number of bytes, and for what does not fit `Int`.
  package static func parse(_ text: String) -> Int? {
    var rest = Array(text.utf8)[...]
    guard let number = DecimalNumber.take(from: &rest) else { return nil }
    while rest.first == UInt8(ascii: " ") { rest = rest.dropFirst() }
    let name = String(decoding: rest, as: UTF8.self).lowercased()
    guard let unit = units.first(where: { $0.name == name }), let (bytes, isExact) = number.times(unit.bytes), isExact
    else { return nil }
    return Int(exactly: bytes)
  }

  /// In the largest unit of 1024 that leaves a whole number: `4MiB`, `1536KiB`, `100B`.
  package static func format(_ bytes: Int) -> String {
    for (name, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] where bytes != 0 && bytes % size == 0 {
      return "\(bytes / size)\(name)"
    }
    return "\(bytes)B"
  }
}
