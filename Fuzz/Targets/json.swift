// JSON as scanner, as tree, and as what is read from it: errors and services. Input: a document.
// core: Wire/HTTP1 Wire/JSON Wire/ByteBuffer.swift Wire/WireError.swift Model/Service.swift Model/Service+JSON.swift Model/MicroError.swift Observe/UTCTime.swift

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  forEachPiece(input, cutAt: []) { bytes in
    checkDocument(bytes)
    checkText(bytes)
    return true
  }
}

/// Scanner, walk and tree agree; what is accepted survives being written and read.
private func checkDocument(_ bytes: UnsafeRawBufferPointer) {
  let verdict = Result { () throws(WireError) in try JSONScanner.validate(bytes) }
  let tree = Result { () throws(WireError) in try JSONValue(parsing: bytes) }
  switch (verdict, tree) {
  case (.success(let range), .success(let value)):
    if String(validating: UnsafeRawBufferPointer(rebasing: bytes[range]), as: UTF8.self) == nil {
      fail("a document that is not UTF-8 is accepted")
    }
    for escaping in [JSONEscaping.go, .plain] {
      for layout in [JSONValue.Layout.compact, .tabbed] {
        let buffer = ByteBuffer()
        value.write(into: buffer, layout: layout, escaping: escaping)
        guard let again = try? JSONValue(parsing: buffer.bytes), again == value else { fail("a written tree differs") }
      }
    }
    if let service = try? Service(json: value) {
      for form in NodeAddressForm.allCases {
        guard let again = try? Service(json: service.json(addressForm: form)), again == service else {
          fail("a written service differs")
        }
      }
    }
  case (.failure(let left), .failure(let right)):
    if left != right { fail("scanner and tree give different reasons") }
    if !(0...bytes.count).contains(left.offset) { fail("an error lies outside the document") }
  case (.success, .failure), (.failure, .success): fail("scanner and tree disagree")
  }
  checkWalk(bytes, accepted: (try? verdict.get()) != nil)
  let error = MicroError(parsing: bytes)
  let buffer = ByteBuffer()
  error.write(into: buffer)
  if error.isStructured, MicroError(parsing: buffer.bytes) != error { fail("a written error differs") }
}

private func checkWalk(_ bytes: UnsafeRawBufferPointer, accepted: Bool) {
  var scanner = JSONScanner(bytes)
  scanner.skipWhitespace()
  guard scanner.offset < bytes.count else { return }
  var end = scanner.offset
  do throws(WireError) {
    switch bytes[scanner.offset] {
    case UInt8(ascii: "{"):
      try scanner.enterObject()
      while let member = try scanner.nextMember() {
        if member.key.lowerBound <= end || member.value.lowerBound <= member.key.upperBound { fail("members overlap") }
        end = member.value.upperBound
        _ = scanner.isKey(member, "method")
      }
    case UInt8(ascii: "["):
      try scanner.enterArray()
      while let element = try scanner.nextElement() {
        if element.lowerBound <= end && element.isEmpty { fail("an element is empty") }
        end = element.upperBound
      }
    default: return
    }
    try scanner.expectEnd()
    if !accepted { fail("a walk accepts what the scanner refuses") }
  } catch {
    if accepted { fail("a walk refuses what the scanner accepts") }
  }
}

/// Any bytes become a string that reads back as the text they were, if they were one.
private func checkText(_ bytes: UnsafeRawBufferPointer) {
  let text = String(validating: bytes, as: UTF8.self)
  if UTF8Check.isValid(bytes) != (text != nil) { fail("UTF-8 is judged wrongly") }
  for escaping in [JSONEscaping.go, .plain] {
    let buffer = ByteBuffer()
    JSONText.append(bytes, escaping: escaping, into: buffer)
    guard let value = try? JSONValue(parsing: buffer.bytes), let read = value.stringValue else {
      fail("a written string is refused")
    }
    if let text, !read.utf8.elementsEqual(text.utf8) { fail("a written string differs") }
  }
}
