// BSON and JSON into each other: bsonspec.org, type by type, and the framework's dialect.

import Testing

@testable import SidecarCore

@Suite("BSON")
struct BSONTests {
  static func json(_ packed: [UInt8], _ dialect: BSONDialect = .standard) throws -> String {
    try text { buffer in
      try withBytes(packed) { try BSONReader.translate($0, dialect: dialect, into: buffer) }
    }
  }
  static func packed(_ json: String, _ dialect: BSONDialect = .standard) throws -> [UInt8] {
    try bytes { buffer in
      try withBytes(json) { try BSONWriter.translate(json: $0, dialect: dialect, into: buffer) }
    }
  }
  /// A document of one member, `a`.
  static func document(_ type: String, _ value: String) -> [UInt8] {
    let element = hex(type) + [0x61, 0] + hex(value)
    return [UInt8(element.count + 5), 0, 0, 0] + element + [0]
  }

  @Test(
    "each type reads as its JSON",
    arguments: [
      ("01", "000000000000f83f", "1.5"), ("01", "000000000000f87f", "\"NaN\""), ("02", "03000000 686900", "\"hi\""),
      ("0e", "01000000 00", "\"\""), ("03", "05000000 00", "{}"), ("04", "0c000000 10 3000 01000000 00", "[1]"),
      ("05", "02000000 00 fffe", "\"//4=\""), ("05", "06000000 02 02000000 6869", "\"aGk=\""), ("06", "", "null"),
      ("07", "000102030405060708090a0b", "\"000102030405060708090a0b\""), ("08", "00", "false"), ("08", "01", "true"),
      ("09", "0000000000000000", "\"1970-01-01T00:00:00Z\""),
      ("09", "ffffffffffffffff", "\"1969-12-31T23:59:59.999Z\""),
      ("0a", "", "null"), ("10", "ffffffff", "-1"), ("12", "ffffffffffffff7f", "9223372036854775807"),
    ])
  func reads(_ type: String, _ value: String, _ json: String) throws {
    #expect(try Self.json(Self.document(type, value)) == "{\"a\":\(json)}")
  }

  @Test(
    "JSON is written with the types of the dialect",
    arguments: [
      ("1", "10", "01000000", "12", "0100000000000000"),
      ("5000000000", "12", "00f2052a01000000", "12", "00f2052a01000000"),
      ("1.5", "01", "000000000000f83f", "01", "000000000000f83f"), ("null", "0a", "", "0a", ""),
      ("true", "08", "01", "08", "01"), (#""h\u0069""#, "02", "03000000 686900", "05", "02000000 00 6869"),
      ("{}", "03", "05000000 00", "03", "05000000 00"),
      ("[null]", "04", "08000000 0a 3000 00", "04", "08000000 0a 3000 00"),
    ])
  func writes(_ json: String, _ type: String, _ value: String, _ vitessType: String, _ vitess: String) throws {
    #expect(try Self.packed("{\"a\":\(json)}") == Self.document(type, value))
    #expect(try Self.packed("{\"a\":\(json)}", .vitess) == Self.document(vitessType, vitess))
  }

  @Test("the framework's strings are binaries, its unsigned integers int64; ordinary strings are taken too")
  func vitess() throws {
    #expect(try Self.json(Self.document("05", "02000000 00 6869"), .vitess) == #"{"a":"hi"}"#)
    #expect(try Self.json(Self.document("05", "02000000 00 fffe"), .vitess) == #"{"a":"//4="}"#)
    #expect(try Self.json(Self.document("02", "03000000 686900"), .vitess) == #"{"a":"hi"}"#)
    #expect(try Self.json(Self.document("3f", "ffffffffffffffff"), .vitess) == #"{"a":18446744073709551615}"#)
    #expect(throws: WireError.self) { try Self.json(Self.document("3f", "ffffffffffffffff")) }
    #expect(try Self.packed(#"{"a":18446744073709551615}"#, .vitess) == Self.document("12", "ffffffffffffffff"))
    #expect(throws: WireError.self) { try Self.packed(#"{"a":18446744073709551615}"#) }
  }

  @Test(
    "what breaks a rule is refused",
    arguments: [
      "", "04000000", "06000000 00", "05000000 01", "05000000 00 00", "ff000000 00", "ffffffff 00",
      "08000000 0a 6100 01", "0b000000 0a 6100 0a 6100 00", "07000000 0a 61 00", "0a000000 02 6100 00000000 00",
      "0c000000 10 6100 010000 00", "09000000 08 6100 02 00", "10000000 02 6100 04000000 68690000 00 00",
      "0f000000 05 6100 ffffff7f 00 6869 00", "0d000000 05 6100 ffffffff 00 00", "0d000000 03 6100 06000000 00 00",
      "08000000 0d 6100 00", "08000000 20 6100 00", "0f000000 02 6100 03000000 68ff00 00",
      "10000000 09 6100 ffffffffffffff7f 00",
    ])
  func refuses(_ packed: String) { #expect(throws: WireError.self) { try Self.json(hex(packed)) } }

  @Test(
    "JSON that is no document is refused", arguments: ["", "1", "[]", "null", #"{"a":1,"a":2}"#, #"{"a\u0000b":1}"#])
  func refusesJSON(_ json: String) { #expect(throws: WireError.self) { try Self.packed(json) } }

  @Test("nesting ends at the limit of JSON")
  func depth() throws {
    let most = BSONReader.depthMax
    func nested(_ levels: Int) -> [UInt8] {
      (1..<levels).reduce([5, 0, 0, 0, 0] as [UInt8]) { inner, _ in
        let count = inner.count + 8
        return [UInt8(count & 255), UInt8(count >> 8), 0, 0, 3, 0x61, 0] + inner + [0]
      }
    }
    #expect(try Self.packed(Self.json(nested(most))) == nested(most))
    let error = #expect(throws: WireError.self) { try Self.json(nested(most + 1)) }
    #expect(error?.rule == "BSON: nested too deep")
  }
}
