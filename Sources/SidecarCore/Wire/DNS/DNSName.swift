// A domain name as it is on the wire. go-micro compares names as exact strings (wire/registry-broker.md §2.1), so
// equality here is by bytes and case counts; RFC 1035's folding of case would find what a Go peer does not.

/// A domain name: its labels in order, each with its length in front, and the empty root label last.
package struct DNSName: Hashable, Sendable, CustomStringConvertible {
  /// Bytes of a whole name, lengths and root included (RFC 1035 §2.3.4).
  package static let bytesMaximum = 255
  /// Bytes of one label.
  package static let labelBytesMaximum = 63

  /// The uncompressed wire form; never empty, always ends in the root label.
  package private(set) var wire: [UInt8]

  package static let root = DNSName(trustedWire: [0])

  /// Reads `a.b.c` or `a.b.c.`; every dot parts labels and nothing is escaped, as go-micro does with ids that hold dots.
  /// Throws for an empty text or label, and for what is too long.
  package init(_ text: some StringProtocol) throws(WireError) {
    var wire: [UInt8] = []
    var offset = 0
    var labels = text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)[...]
    if labels.last?.isEmpty == true { labels.removeLast() }
    guard !labels.isEmpty else { throw WireError("a DNS name needs a label") }
    for label in labels {
      guard !label.isEmpty else { throw WireError("empty label in a DNS name", offset: offset) }
      guard label.count <= Self.labelBytesMaximum else {
        throw WireError("label of \(label.count) bytes in a DNS name, at most 63 fit", offset: offset)
      }
      wire.append(UInt8(label.count))
      wire.append(contentsOf: label)
      offset += label.count + 1
    }
    wire.append(0)
    guard wire.count <= Self.bytesMaximum else {
      throw WireError("DNS name of \(wire.count) bytes, at most 255 fit", offset: offset)
    }
    self.wire = wire
  }

  /// `wire` must be a valid uncompressed name: for the reader, which has checked it.
  init(trustedWire wire: [UInt8]) { self.wire = wire }

  /// This name in front of `suffix`: `foo` and `local` make `foo.local`.
  package func appending(_ suffix: DNSName) throws(WireError) -> DNSName {
    let joined = wire.dropLast() + suffix.wire
    guard joined.count <= Self.bytesMaximum else {
      throw WireError("DNS name of \(joined.count) bytes, at most 255 fit")
    }
    return DNSName(trustedWire: Array(joined))
  }

  /// The labels, first to last, without the root.
  package var labels: [ArraySlice<UInt8>] {
    var labels: [ArraySlice<UInt8>] = []
    var offset = 0
    while wire[offset] != 0 {
      let end = offset + 1 + Int(wire[offset])
      labels.append(wire[offset + 1..<end])
      offset = end
    }
    return labels
  }

  /// The labels in front of `suffix`, joined by dots; nil when `suffix` does not end this name, when nothing is in front
  /// of it, or when the labels are not UTF-8.
  package func prefix(before suffix: DNSName) -> String? {
    let start = wire.count - suffix.wire.count
    guard start > 0, wire[start...].elementsEqual(suffix.wire) else { return nil }
    var offset = 0
    while offset < start { offset += 1 + Int(wire[offset]) }
    guard offset == start else { return nil }
    return Self.text(wire[..<start])
  }

  /// The labels joined by dots, without a dot at the end; `.` for the root. Bytes that are not UTF-8 show as `�`.
  package var description: String {
    wire.count == 1 ? "." : labels.map { String(decoding: $0, as: UTF8.self) }.joined(separator: ".")
  }

  private static func text(_ wire: ArraySlice<UInt8>) -> String? {
    var bytes: [UInt8] = []
    var offset = wire.startIndex
    while offset < wire.endIndex {
      let end = offset + 1 + Int(wire[offset])
      if !bytes.isEmpty { bytes.append(UInt8(ascii: ".")) }
      bytes.append(contentsOf: wire[offset + 1..<end])
      offset = end
    }
    return String(validating: bytes, as: UTF8.self)
  }
}
