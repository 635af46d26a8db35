// The common language both parsers are translated into: one string of bytes that says what was understood.

/// What a parser understood of an input, in a form in which a longer understanding begins with a shorter one.
struct Transcript {
  private(set) var bytes: [UInt8] = []
  private var isInBody = false
  /// Why it stopped before the end, nil if it didn't.
  var error: String?

  mutating func removeAll() {
    bytes.removeAll(keepingCapacity: true)
    isInBody = false
    error = nil
  }

  mutating func head(_ start: String) {
    isInBody = false
    bytes.append(UInt8(ascii: "\n"))
    bytes += start.utf8
  }

  mutating func field(_ name: some Sequence<UInt8>, _ value: some Sequence<UInt8>) {
    isInBody = false
    bytes += "\n  ".utf8
    bytes += name
    bytes += ": ".utf8
    bytes += value
  }

  mutating func endOfHead(framing: String, keepAlive: Bool, upgrade: Bool) {
    bytes += "\n  [\(framing)\(keepAlive ? " keep-alive" : "")\(upgrade ? " upgrade" : "")]".utf8
  }

  mutating func body(_ part: some Sequence<UInt8>) {
    if !isInBody { bytes += "\nbody ".utf8 }
    isInBody = true
    bytes += part
  }

  mutating func end() {
    isInBody = false
    bytes += "\nend".utf8
  }
}

/// Printable, for reports.
func escaped(_ bytes: some Sequence<UInt8>) -> String {
  bytes.map { byte in
    switch byte {
    case UInt8(ascii: "\n"): "\\n"
    case UInt8(ascii: "\r"): "\\r"
    case UInt8(ascii: "\\"): "\\\\"
    case UInt8(ascii: "\""): "\\\""
    case 0x20..<0x7f: String(Unicode.Scalar(byte))
    default: "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
    }
  }.joined()
}
