// BSON and JSON into each other, in both dialects. Input: a byte of direction and dialect, then a BSON document or a JSON
// document.
// core: Wire/HTTP1 Wire/JSON Wire/BSON Wire/ByteBuffer.swift Wire/WireError.swift Observe/UTCTime.swift

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  var choices = Choices(input)
  let mode = choices.byte()
  let dialect: BSONDialect = mode & 2 == 0 ? .standard : .vitess
  forEachPiece(choices.rest, cutAt: []) { bytes in
    let json = ByteBuffer()
    do throws(WireError) {
      if mode & 1 == 1 {
        let written = try again(bytes, dialect)
        json.append(written.bytes)
      } else {
        try BSONReader.translate(bytes, dialect: dialect, into: json)
      }
    } catch {
      if !(0...bytes.count).contains(error.offset) { fail("an error lies outside the message") }
      return true
    }
    if (try? JSONValue(parsing: json.bytes)) == nil { fail("what is translated is not JSON") }
    let once: ByteBuffer
    do throws(WireError) { once = try again(json.bytes, dialect) } catch {
      // vitess's own unsigned integers come back as int64; MongoDB has none.
      if dialect == .standard { fail("what was translated is refused on its way back: \(error)") }
      return true
    }
    guard let twice = try? again(once.bytes, dialect), twice.bytes.elementsEqual(once.bytes) else {
      fail("another way back and forth changes it")
    }
    return true
  }
}

private func again(_ json: UnsafeRawBufferPointer, _ dialect: BSONDialect) throws(WireError) -> ByteBuffer {
  let packed = ByteBuffer()
  try BSONWriter.translate(json: json, dialect: dialect, into: packed)
  let written = ByteBuffer()
  do throws(WireError) { try BSONReader.translate(packed.bytes, dialect: dialect, into: written) } catch {
    fail("what is written cannot be read: \(error)")
  }
  return written
}
