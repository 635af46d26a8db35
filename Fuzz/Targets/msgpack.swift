// MessagePack and JSON into each other. Input: a byte of direction, then a MessagePack value or a JSON document.
// core: Wire/HTTP1 Wire/JSON Wire/MessagePack Wire/ByteBuffer.swift Wire/WireError.swift Observe/UTCTime.swift

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let fromJSON = choices.byte() & 1 == 1
  forEachPiece(choices.rest, cutAt: []) { bytes in
    let json = ByteBuffer()
    do throws(WireError) {
      if fromJSON {
        let written = try again(bytes)
        json.append(written.bytes)
      } else {
        try MessagePackReader.translate(bytes, into: json)
      }
    } catch {
      if !(0...bytes.count).contains(error.offset) { fail("an error lies outside the message") }
      return true
    }
    guard let value = try? JSONValue(parsing: json.bytes) else { fail("what is translated is not JSON") }
    // Digits of a float may be written in another form once: as those of a double.
    guard let once = try? again(json.bytes) else { fail("what was translated is refused on its way back") }
    guard let twice = try? again(once.bytes), twice.bytes.elementsEqual(once.bytes) else {
      fail("another way back and forth changes it")
    }
    if let known = try? JSONValue(parsing: once.bytes), !alike(value, known) {
      fail("the way back and forth changes it")
    }
    return true
  }
}

private func again(_ json: UnsafeRawBufferPointer) throws(WireError) -> ByteBuffer {
  let packed = ByteBuffer()
  try MessagePackWriter.translate(json: json, into: packed)
  let written = ByteBuffer()
  do throws(WireError) { try MessagePackReader.translate(packed.bytes, into: written) } catch {
    fail("what is written cannot be read: \(error)")
  }
  return written
}

private func alike(_ left: JSONValue, _ right: JSONValue) -> Bool {
  switch (left, right) {
  case (.number(let left), .number(let right)): Double(left) == Double(right)
  case (.array(let left), .array(let right)):
    left.count == right.count && zip(left, right).allSatisfy { alike($0, $1) }
  case (.object(let left), .object(let right)):
    left.count == right.count && zip(left, right).allSatisfy { $0.key == $1.key && alike($0.value, $1.value) }
  default: left == right
  }
}
