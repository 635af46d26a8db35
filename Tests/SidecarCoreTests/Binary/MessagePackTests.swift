// MessagePack and JSON into each other: msgpack.org's spec.md, case by case.

import Foundation
import Testing

@testable import SidecarCore

/// Bytes of hexadecimal digits; spaces are free.
func hex(_ text: String) -> [UInt8] {
  let digits = text.utf8.compactMap { ASCIIText.hexValue($0) }
  return stride(from: 0, to: digits.count, by: 2).map { digits[$0] &<< 4 | digits[$0 + 1] }
}

func text(_ body: (ByteBuffer) throws -> Void) rethrows -> String {
  let buffer = ByteBuffer()
  try body(buffer)
  return String(decoding: buffer.bytes, as: UTF8.self)
}

func bytes(_ body: (ByteBuffer) throws -> Void) rethrows -> [UInt8] {
  let buffer = ByteBuffer()
  try body(buffer)
  return Array(buffer.bytes)
}

@Suite("MessagePack")
struct MessagePackTests {
  static func json(_ packed: [UInt8]) throws -> String {
    try text { buffer in try withBytes(packed) { try MessagePackReader.translate($0, into: buffer) } }
  }
  static func packed(_ json: String) throws -> [UInt8] {
    try bytes { buffer in try withBytes(json) { try MessagePackWriter.translate(json: $0, into: buffer) } }
  }

  @Test(
    "each form reads as its JSON",
    arguments: [
      ("c0", "null"), ("c2", "false"), ("c3", "true"), ("00", "0"), ("7f", "127"), ("e0", "-32"), ("ff", "-1"),
      ("cc ff", "255"), ("cd ffff", "65535"), ("ce ffffffff", "4294967295"),
      ("cf ffffffffffffffff", "18446744073709551615"), ("d0 80", "-128"), ("d1 8000", "-32768"),
      ("d2 80000000", "-2147483648"), ("d3 8000000000000000", "-9223372036854775808"),
      ("ca 3dcccccd", "0.1"), ("cb 3fb999999999999a", "0.1"), ("cb 4059000000000000", "100.0"),
      ("cb 8000000000000000", "-0.0"), ("ca 7f800000", "\"Infinity\""), ("cb fff0000000000000", "\"-Infinity\""),
      ("cb 7ff8000000000000", "\"NaN\""), ("a0", "\"\""), ("a2 6869", "\"hi\""), ("d9 02 6869", "\"hi\""),
      ("da 0002 6869", "\"hi\""), ("db 00000002 6869", "\"hi\""), ("a3 220a5c", #""\"\n\\""#),
      ("c4 00", "\"\""), ("c4 01 ff", "\"/w==\""), ("c5 0002 fffe", "\"//4=\""), ("c6 00000003 000102", "\"AAEC\""),
      ("90", "[]"), ("92 01 02", "[1,2]"), ("dc 0001 c0", "[null]"), ("dd 00000001 c0", "[null]"),
      ("80", "{}"), ("82 a161 01 a162 92c3c2", #"{"a":1,"b":[true,false]}"#), ("de 0001 a161 80", #"{"a":{}}"#),
      ("df 00000001 a161 80", #"{"a":{}}"#), ("83 05 a178 c2 a179 ff a17a", #"{"5":"x","false":"y","-1":"z"}"#),
      ("d6 ff 5bf52140", "\"2018-11-21T09:11:28Z\""), ("d7 ff 00000000 5bf52140", "\"2018-11-21T09:11:28Z\""),
      ("d7 ff 1dcd6500 00000000", "\"1970-01-01T00:00:00.125Z\""),
      ("c7 0c ff 00000001 ffffffffffffffff", "\"1969-12-31T23:59:59.000000001Z\""),
    ])
  func reads(_ packed: String, _ json: String) throws { #expect(try Self.json(hex(packed)) == json) }

  @Test(
    "JSON is packed in the shortest form",
    arguments: [
      ("null", "c0"), (" true ", "c3"), ("0", "00"), ("-0", "00"), ("127", "7f"), ("128", "cc 80"), ("256", "cd 0100"),
      ("65536", "ce 00010000"), ("4294967296", "cf 0000000100000000"),
      ("18446744073709551615", "cf ffffffffffffffff"), ("-1", "ff"), ("-32", "e0"), ("-33", "d0 df"),
      ("-129", "d1 ff7f"), ("-32769", "d2 ffff7fff"), ("-2147483649", "d3 ffffffff7fffffff"),
      ("-9223372036854775808", "d3 8000000000000000"), ("1.5", "cb 3ff8000000000000"), ("1e2", "cb 4059000000000000"),
      (#""h\u00e9""#, "a3 68c3a9"), (#"{"a":[1,{}],"b":"x"}"#, "82 a161 92 01 80 a162 a178"),
      ("[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]", "dc 0010 01020304 05060708 090a0b0c 0d0e0f10"),
    ])
  func writes(_ json: String, _ packed: String) throws { #expect(try Self.packed(json) == hex(packed)) }

  @Test("long strings and long containers keep what they hold")
  func long() throws {
    for count in [31, 32, 255, 256, 65_535, 65_536] {
      let json = "\"" + String(repeating: "x", count: count) + "\""
      #expect(try Self.json(Self.packed(json)) == json)
    }
    for count in [15, 16, 300, 5000, 70_000] {
      let json = "[" + (0..<count).map { "\($0)" }.joined(separator: ",") + "]"
      #expect(try Self.json(Self.packed(json)) == json)
      let object = "{" + (0..<count).map { "\"k\($0)\":\($0)" }.joined(separator: ",") + "}"
      #expect(try Self.json(Self.packed(object)) == object)
    }
  }

  @Test(
    "what breaks a rule is refused where it does",
    arguments: [
      ("", "the message ends too early", 0), ("c1", "there is no such type", 0), ("c0 c0", "nothing may follow", 1),
      ("a2 68", "a length exceeds the message", 1), ("a2 68ff", "a str is not UTF-8", 0),
      ("dd ffffffff", "a count exceeds the message", 5), ("df 00000002 00", "a count exceeds the message", 5),
      ("92 01", "a count exceeds the message", 1), ("82 a161 01 a161 02", "a key comes twice", 4),
      ("81 c0 c0", "a map's key must be", 1), ("81 80 c0", "a map's key must be", 1),
      ("d4 05 00", "extension type 5", 0),
      ("d5 ff 0000", "a timestamp has 4, 8 or 12 bytes", 0), ("d7 ff ffffffff 00000000", "out of range", 0),
      ("c7 0c ff 00000000 7fffffffffffffff", "out of range", 0), ("cd 01", "the message ends too early", 1),
    ])
  func refuses(_ packed: String, _ rule: String, _ offset: Int) {
    let error = #expect(throws: WireError.self) { try Self.json(hex(packed)) }
    #expect(error?.rule.contains(rule) == true && error?.offset == offset, "\(String(describing: error))")
  }

  @Test(
    "JSON that cannot be packed is refused",
    arguments: ["", "{", "18446744073709551616", "-9223372036854775809", "1e400", #"{"a":1,"\u0061":2}"#, "1 2"])
  func refusesJSON(_ json: String) { #expect(throws: WireError.self) { try Self.packed(json) } }

  @Test("nesting ends at the limit of JSON, and a key may come again in another object")
  func depth() throws {
    let most = MessagePackReader.depthMax
    #expect(try Self.json(Array(repeating: 0x91, count: most) + [0xC0]).count == 2 * most + 4)
    #expect(throws: WireError.self) { try Self.json(Array(repeating: 0x91, count: most + 1) + [0xC0]) }
    let nested = String(repeating: #"{"a":"#, count: most) + "1" + String(repeating: "}", count: most)
    #expect(try Self.json(Self.packed(nested)) == nested)
    let siblings = #"[{"a":1},{"a":{"a":2},"b":3}]"#
    #expect(try Self.json(Self.packed(siblings)) == siblings)
  }

  @Test("a key that comes twice is found among many")
  func manyKeys() {
    for twice in [0, 15, 16, 999] {
      let keys = (0..<1000).map { "\"k\($0)\":0" } + ["\"k\(twice)\":1"]
      #expect(throws: WireError.self) { try Self.packed("{" + keys.joined(separator: ",") + "}") }
    }
  }
}
