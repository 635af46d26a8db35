// A query string or form as a JSON object, so that a browser or a shell can call a service without writing JSON.

package enum QueryToJSON {
  /// Fields of one query above which it is refused.
  package static let fieldLimit = 256

  /// Appends the object that `query` (`a=1&b=x+y&b=z`) stands for: every value a string, a name given several times an
  /// array of strings in order. Broken percent-encoding or UTF-8 and too many fields throw.
  package static func append(_ query: UnsafeRawBufferPointer, to buffer: ByteBuffer) throws(WireError) {
    var order: [String] = []
    var values: [String: [String]] = [:]
    var count = 0
    for part in query.split(separator: UInt8(ascii: "&"), omittingEmptySubsequences: true) {
      count += 1
      if count > fieldLimit { throw WireError("query has more than \(fieldLimit) fields") }
      let equals = part.firstIndex(of: UInt8(ascii: "="))
      let name = try decode(part[..<(equals ?? part.endIndex)])
      let value = if let equals { try decode(part[(equals + 1)...]) } else { "" }
      if values[name] == nil { order.append(name) }
      values[name, default: []].append(value)
    }
    JSONValue.object(
      order.map { name in
        let list = values[name] ?? []
        return .init(name, list.count == 1 ? .string(list[0]) : .array(list.map { .string($0) }))
      }
    ).write(into: buffer)
  }

  static func decode(_ text: Slice<UnsafeRawBufferPointer>) throws(WireError) -> String {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(text.count)
    var index = text.startIndex
    while index < text.endIndex {
      switch text[index] {
      case UInt8(ascii: "+"): bytes.append(UInt8(ascii: " "))
      case UInt8(ascii: "%"):
        guard index + 2 < text.endIndex, let high = PathRoute.hexDigit(text[index + 1]),
          let low = PathRoute.hexDigit(text[index + 2])
        else { throw WireError("broken percent-encoding in query", offset: index) }
        bytes.append(high &<< 4 | low)
        index += 2
      case let byte: bytes.append(byte)
      }
      index += 1
    }
    guard let string = String(validating: bytes, as: UTF8.self) else {
      throw WireError("query is not UTF-8", offset: text.startIndex)
    }
    return string
  }
}
