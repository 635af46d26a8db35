// Header lines as metadata are kept between a caller's dialect and a node's: `Name: value`, each ended by CR LF.

package enum HeaderLines {
  /// The value of the first line of that name, given in lower case; nil when there is none.
  package static func value(_ name: StaticString, _ lines: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
    let wanted = UnsafeRawBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount)
    var start = 0
    while start < lines.count {
      let rest = UnsafeRawBufferPointer(rebasing: lines[start...])
      let end = rest.firstIndex(of: 0x0A) ?? rest.count
      if end > wanted.count, rest[wanted.count] == UInt8(ascii: ":"),
        ASCIIText.equalsIgnoringCase(UnsafeRawBufferPointer(rebasing: rest[..<wanted.count]), name)
      {
        var from = wanted.count + 1
        var to = end
        while from < to, rest[from] == 0x20 || rest[from] == 0x09 { from += 1 }
        while to > from, rest[to - 1] == 0x0D || rest[to - 1] == 0x20 { to -= 1 }
        return UnsafeRawBufferPointer(rebasing: rest[from..<to])
      }
      start += end + 1
    }
    return nil
  }

  package static func contain(_ name: StaticString, _ lines: UnsafeRawBufferPointer) -> Bool {
    value(name, lines) != nil
  }
}
