import Foundation
import Testing

@testable import SidecarCore

/// Runs `body` over the text's bytes, placed so that reading past the end would be noticed by the sanitizers.
func withBytes<R>(_ text: String, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
  try withBytes(Array(text.utf8), body)
}
func withBytes<R>(_ bytes: [UInt8], _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
  let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
  defer { copy.deallocate() }
  copy.copyBytes(from: bytes)
  return try body(UnsafeRawBufferPointer(copy))
}

@Suite("JSON scanner")
struct JSONScannerTests {
  static let valid: [String] = [
    "null", "true", "false", "0", "-0", "10", "-12.5", "1e9", "1E+9", "2.5e-3", "0.0", "1e400",
    "123456789012345678901234567890",
    "\"\"", "\"a\"", "\"\\u0041\\n\\\\\\/\\\"\"", "\"ü€𝄞\"", "\"\\ud834\\udd1e\"", "\"\\ud800\"", "[]", "{}", "[[]]",
    "[{}]", " [ 1 , 2 ] ",
    "{\"a\":1,\"a\":2}", "\t\r\n{ \"a\" : [ true , null ] , \"\" : \"\" }\n", "\"12345678\"", "\"1234567\\\"\"",
    "\"\u{7f}\"",
    "[\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",\"aaaaaaaü\"]",
  ]

  @Test("accepts what RFC 8259 allows", arguments: valid)
  func accepts(_ text: String) throws {
    let range = try withBytes(text) { try JSONScanner.validate($0) }
    let trimmed = text.trimmingCharacters(in: .whitespacesAndNewlines)
    #expect(range.count == trimmed.utf8.count)
    #expect(
      (try? JSONSerialization.jsonObject(with: Data(text.utf8), options: .fragmentsAllowed)) != nil || text == "1e400"
        || text == "\"\\ud800\"")
  }

  static let invalid: [(String, Int)] = [
    ("", 0), (" ", 1), ("nul", 0), ("nulll", 4), ("True", 0), ("01", 1), ("-", 1), ("+1", 0), (".5", 0), ("1.", 2),
    ("1e", 2), ("1e+", 3), ("0x10", 1),
    ("\"", 1), ("\"a", 2), ("\"\\", 2), ("\"\\x\"", 2), ("\"\\u12\"", 5), ("\"\\u12g4\"", 5), ("\"a\nb\"", 2),
    ("\"1234567\t\"", 8), ("'a'", 0),
    ("[", 1), ("]", 0), ("[1", 2), ("[1,", 3), ("[1,]", 3), ("[,1]", 1), ("[1 2]", 3), ("[1}", 2), ("{", 1), ("{]", 1),
    ("{1:2}", 1), ("{\"a\"}", 4),
    ("{\"a\":}", 5), ("{\"a\":1,}", 7), ("{\"a\" 1}", 5), ("{\"a\":1 \"b\":2}", 7), ("{\"a\":1]", 6), ("1 2", 2),
    ("{} {}", 3), ("/*c*/1", 0), ("NaN", 0), ("\u{feff}1", 0),
  ]

  @Test("refuses everything else, at the byte that breaks the rule", arguments: invalid)
  func refuses(_ text: String, _ offset: Int) {
    let error = withBytes(text) { bytes in #expect(throws: WireError.self) { try JSONScanner.validate(bytes) } }
    #expect(error?.offset == offset)
  }

  static let brokenUTF8: [[UInt8]] = [
    [0x80], [0xC0, 0x80], [0xC1, 0xBF], [0xC2], [0xC2, 0x41], [0xE0, 0x80, 0x80], [0xE0, 0x9F, 0xBF], [0xE2, 0x82],
    [0xED, 0xA0, 0x80],
    [0xF0, 0x80, 0x80, 0x80], [0xF0, 0x8F, 0xBF, 0xBF], [0xF4, 0x90, 0x80, 0x80], [0xF5, 0x80, 0x80, 0x80], [0xFF],
    [0xFE],
  ]

  @Test("refuses broken UTF-8 in strings and keys, wherever it stands", arguments: brokenUTF8)
  func refusesBrokenUTF8(_ sequence: [UInt8]) {
    for padding in 0..<18 {
      let string = [0x22] + [UInt8](repeating: 0x61, count: padding) + sequence + [0x22]
      withBytes(string) { bytes in _ = #expect(throws: WireError.self) { try JSONScanner.validate(bytes) } }
      let object = [0x7B] + string + [0x3A, 0x31, 0x7D]
      withBytes(object) { bytes in _ = #expect(throws: WireError.self) { try JSONScanner.validate(bytes) } }
    }
  }

  @Test("counts every level, of objects and arrays alike, up to the limit and no further")
  func depth() throws {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
      let levels = open.hasPrefix("[{") ? 32 : 64
      let deepest = String(repeating: open, count: levels) + "1" + String(repeating: close, count: levels)
      _ = try withBytes(deepest) { try JSONScanner.validate($0) }
      let error = withBytes("[" + deepest + "]") { bytes in
        #expect(throws: WireError.self) { try JSONScanner.validate(bytes) }
      }
      #expect(error?.rule == "JSON: nested too deep")
    }
    let hostile = String(repeating: "[", count: 1_000_000)
    withBytes(hostile) { bytes in _ = #expect(throws: WireError.self) { try JSONScanner.validate(bytes) } }
  }

  @Test("cuts an object into members without looking inside")
  func members() throws {
    let text = " { \"Method\" : \"A.B\" , \"params\":[{\"x\":[1,2]}],\"i\\u0064\":7 , \"\":null} "
    try withBytes(text) { bytes in
      var scanner = JSONScanner(bytes)
      try scanner.enterObject()
      var cut: [String] = []
      while let member = try scanner.nextMember() {
        cut.append(
          String(decoding: bytes[member.key], as: UTF8.self) + "="
            + String(decoding: bytes[member.value], as: UTF8.self))
        if cut.count == 1 { #expect(scanner.isKey(member, "method")) }
        if cut.count == 3 {
          #expect(member.keyIsEscaped && scanner.isKey(member, "id") && scanner.kind(of: member.value) == .number)
        }
      }
      try scanner.expectEnd()
      #expect(cut == ["Method=\"A.B\"", "params=[{\"x\":[1,2]}]", "i\\u0064=7", "=null"])
    }
  }

  @Test("cuts an array into elements")
  func elements() throws {
    try withBytes("[ 1 , [2] ,{\"a\":3}]") { bytes in
      var scanner = JSONScanner(bytes)
      try scanner.enterArray()
      var cut: [String] = []
      while let element = try scanner.nextElement() { cut.append(String(decoding: bytes[element], as: UTF8.self)) }
      #expect(cut == ["1", "[2]", "{\"a\":3}"])
    }
  }

  static let badContainers = [
    "{\"a\":1", "{\"a\":1,}", "{,\"a\":1}", "{\"a\":1 \"b\":2}", "{a:1}", "[]", "", "{\"a\":[}", "{\"a\"",
  ]
  @Test("a member walk meets the same rules as a whole check", arguments: badContainers)
  func walkRefuses(_ text: String) {
    withBytes(text) { bytes in
      _ = #expect(throws: WireError.self) {
        var scanner = JSONScanner(bytes)
        try scanner.enterObject()
        while try scanner.nextMember() != nil {}
      }
    }
  }
}
