// Where an HTTP/1.1 message with Content-Length ends. No more than the benchmark's own messages need: it trusts its peers.

/// Bytes of the first message in `bytes`, or nil when it is not whole yet. A head without Content-Length has no body.
public func endOfMessage(_ bytes: UnsafeRawBufferPointer) -> Int? {
  let carriageReturn = UInt8(ascii: "\r")
  let newline = UInt8(ascii: "\n")
  var position = 0
  var lineStart = 0
  var length = 0
  while position + 1 < bytes.count {
    guard bytes[position] == carriageReturn, bytes[position + 1] == newline else {
      position += 1
      continue
    }
    if position == lineStart {
      let end = position + 2 + length
      return end <= bytes.count ? end : nil
    }
    if let value = contentLength(UnsafeRawBufferPointer(rebasing: bytes[lineStart..<position])) { length = value }
    position += 2
    lineStart = position
  }
  return nil
}

private let fieldName: StaticString = "content-length:"

private func contentLength(_ line: UnsafeRawBufferPointer) -> Int? {
  let count = fieldName.utf8CodeUnitCount
  guard line.count > count, line[0] | 0x20 == UInt8(ascii: "c") else { return nil }
  for index in 0..<count {
    let byte = line[index]
    let lower = byte >= UInt8(ascii: "A") && byte <= UInt8(ascii: "Z") ? byte | 0x20 : byte
    guard lower == fieldName.utf8Start[index] else { return nil }
  }
  var value = 0
  for byte in line[count...] where byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9") {
    value = value * 10 + Int(byte - UInt8(ascii: "0"))
  }
  return value
}
