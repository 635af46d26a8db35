// The transcoder's own rules: what it takes beyond canonical JSON, its forms of output, and what it says of broken
// input.

import Testing

@testable import SidecarCore

@Suite("JSON transcoder") struct TranscoderTests {
  typealias Fixtures = ProtobufFixtures

  // MARK: Forms

  @Test func `go-micro's form has original names, plain numbers and plain well-known types`() throws {
    let json =
      #"{"anInt64":"7","color":"GREEN","timestamp":"1970-01-01T00:00:01.5Z","int64Value":"3","byInt64":{"1":2}}"#
    #expect(
      try Fixtures.again(json, "Everything", .goMicro)
        == #"{"an_int64":7,"color":2,"timestamp":{"seconds":1,"nanos":500000000},"int64_value":{"value":3},"#
        + #""by_int64":{"1":2}}"#)
    // What was written that way reads back the same.
    let again = try Fixtures.again(try Fixtures.again(json, "Everything", .goMicro))
    let direct = try Fixtures.again(json)
    #expect(again == direct)
  }

  @Test func `bytes and Any are taken in every spelling`() throws {
    for text in ["++//", "--__", "+-/_"] {
      #expect(try Fixtures.again(#"{"someBytes":"\#(text)"}"#) == #"{"someBytes":"++//"}"#)
    }
    #expect(try Fixtures.again(#"{"someBytes":"\/\/8"}"#) == #"{"someBytes":"//8="}"#, "some encoders escape slashes")
    let plain = #"{"any":{"type_url":"a/shop.Address","value":"CgF4"}}"#
    #expect(try Fixtures.again(plain) == #"{"any":{"@type":"a/shop.Address","street":"x"}}"#)
  }

  @Test func `an empty document is the empty message`() throws {
    #expect(try Fixtures.protobuf("").isEmpty)
    #expect(try Fixtures.protobuf(" \n").isEmpty)
  }

  @Test func `proto2 has required fields, extensions, closed enums and no groups`() throws {
    let legacy = #"{"id":0,"level":"HIGH","unpacked":[1,2],"packed":[3],"[sidecar.legacy.priority]":4}"#
    #expect(try Fixtures.again(legacy, "sidecar.legacy.Legacy") == legacy)
    #expect(
      Fixtures.refusal(#"{"child":{"id":1,"child":{}}}"#, "sidecar.legacy.Legacy")?.description
        == "child.child.id: a required field is missing at byte 27")
    #expect(Fixtures.refusal(#"{"id":null}"#, "sidecar.legacy.Legacy")?.rule == "a required field cannot be null")
    #expect(Fixtures.refusal(bytes: [0x12, 0], "sidecar.legacy.Legacy")?.path == "id")
    #expect(Fixtures.refusal(#"{"id":1,"data":{"x":1}}"#, "sidecar.legacy.Legacy")?.rule.contains("groups") == true)
    #expect(
      Fixtures.refusal(bytes: [0x08, 1, 0x5B, 0x08, 1, 0x5C], "sidecar.legacy.Legacy")?.rule.contains("groups") == true)
    #expect(Fixtures.refusal(#"{"level":7}"#, "sidecar.legacy.Relaxed")?.rule == "sidecar.legacy.Level has no value 7")
    #expect(try Fixtures.json([0x10, 7, 0x18, 7, 0x18, 5], "sidecar.legacy.Relaxed") == #"{"levels":["HIGH"]}"#)
    #expect(Fixtures.refusal(bytes: [0x10, 7], "sidecar.legacy.Relaxed", .refuse)?.path == "level")
  }

  @Test func `what is unknown is refused or left out, as asked`() throws {
    let json =
      #"{"nobody":{"a":[1]},"color":"PINK","colors":["RED","PINK"],"byUint64":{"1":"PINK","2":"RED"},"anInt32":1}"#
    #expect(Fixtures.refusal(json)?.description == #"sidecar.test.Everything has no field "nobody" at byte 1"#)
    let bytes = try Fixtures.protobuf(json, "Everything", .ignore)
    #expect(try Fixtures.json(bytes) == #"{"colors":["RED"],"byUint64":{"2":"RED"},"anInt32":1}"#)
    #expect(try Fixtures.json([0xD8, 0x07, 1, 0x28, 5]) == #"{"anInt32":5}"#)
    #expect(
      Fixtures.refusal(bytes: [0xD8, 0x07, 1], "Everything", .refuse)?.rule
        == "sidecar.test.Everything has no field 123")
  }

  // MARK: Errors

  @Test(
    arguments: [
      (#"{"child":{"children":[{},{"aBool":1}]}}"#, #"child.children[1].a_bool: true or false is expected at byte 34"#),
      (#"{"labels":{"a":"b","a":"c"}}"#, #"labels["a"]: a key of the map is given twice at byte 27"#),
      (
        #"{"byName":{"q":{"child":{"x":1}}}}"#,
        #"by_name["q"].child: sidecar.test.Everything has no field "x" at byte 25"#
      ),
      (
        #"{"struct":{"a":[1,{"b":01}]}}"#,
        #"struct["a"][1]["b"]: a number is expected at byte 23"#
      ),
      (#"{"anInt32":2147483648}"#, "an_int32: the number does not fit 32 bits at byte 11"),
      (#"{"aUint64":-1}"#, "a_uint64: the number must not be negative at byte 11"),
      (#"{"anInt64":1e400}"#, "an_int64: the number does not fit 64 bits at byte 11"),
      (#"{"anInt32":1.5}"#, "an_int32: a whole number is expected at byte 11"),
      (#"{"aFloat":NaN}"#, "a_float: a number is expected at byte 10"),
      (#"{"value":"a","values":["NaN",1e999]}"#, "values[1]: the number exceeds a double at byte 29"),
      (#"{"aString":"\ud800x"}"#, "a_string: half a surrogate pair is no character at byte 12"),
      (#"{"someBytes":"abcde"}"#, "some_bytes: base64 of this length cannot be at byte 13"),
      (#"{"someBytes":"ab=="}x"#, "nothing may follow the document at byte 20"),
      (
        #"{"any":{"@type":"a/no.Such","x":1}}"#,
        "any: the descriptors have no type no.Such (@type); add its file to MICRO_DESCRIPTORS at byte 7"
      ),
      (#"{"aString":"abc"#, "a_string: the document ends in a string at byte 15"),
      (
        #"{"chosenString":"a","chosenInt64":1}"#,
        "chosen_int64: another field of the same oneof is given too at byte 34"
      ),
    ])
  func `an error names the field, the rule and the byte`(_ json: String, _ expected: String) {
    #expect(Fixtures.refusal(json)?.description == expected)
  }

  @Test func `bytes that are no UTF-8 are refused wherever they are`() throws {
    let transcoder = JSONToProtobuf()
    let out = ByteBuffer()
    for bad: [UInt8] in [[0xFF], [0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF5, 0x80, 0x80, 0x80], [0xE2, 0x82]] {
      for (before, after) in [(#"{"aString":"abcdefg"#, #""}"#), (#"{"a"#, #"":1}"#), (#"{"labels":{"x"#, #"":"y"}}"#)]
      {
        let document = Array(before.utf8) + bad + Array(after.utf8)
        document.withUnsafeBytes { bytes in
          _ = #expect(throws: TranscodeError.self) {
            try transcoder.transcode(bytes, to: Fixtures.type("Everything"), unknownFields: .ignore, into: out)
          }
        }
      }
      #expect(Fixtures.refusal(bytes: [0x4A, UInt8(bad.count)] + bad)?.rule == "a string is not UTF-8")
    }
    #expect(out.isEmpty, "an error leaves the buffer as it was")
  }

  @Test func `a hundred levels are taken, one more is not`() throws {
    func nested(_ levels: Int) -> String {
      String(repeating: #"{"child":"#, count: levels) + "{}" + String(repeating: "}", count: levels)
    }
    let deep = try Fixtures.protobuf(nested(100))
    #expect(try Fixtures.json(deep) == nested(100))
    #expect(Fixtures.refusal(nested(101))?.rule == "messages are nested more than 100 deep")
    var deeper = deep
    let length = ProtobufWriter.varintSize(UInt64(deep.count))
    deeper.insert(contentsOf: [0x5A], at: 0)
    let buffer = ByteBuffer()
    ProtobufWriter.varint(UInt64(deep.count), into: buffer)
    deeper.insert(contentsOf: Array(buffer.bytes), at: 1)
    #expect(deeper.count == deep.count + 1 + length)
    #expect(Fixtures.refusal(bytes: deeper)?.rule == "messages are nested more than 100 deep")
    #expect(
      Fixtures.refusal(String(repeating: "[", count: 100_000), "google.protobuf.Value")?.rule.contains("deep") == true)
  }

  @Test func `over-long numbers and lengths that lie are refused`() {
    let overlong = [UInt8](repeating: 0x80, count: 10) + [0]
    #expect(
      Fixtures.refusal(bytes: [0x28] + overlong)?.description == "an_int32: a number has more than 64 bits at byte 1")
    #expect(Fixtures.refusal(bytes: [0x4A, 0xFF, 0xFF, 0xFF, 0xFF, 0x07])?.rule == "a length exceeds the message")
    #expect(Fixtures.refusal(bytes: [0x5A, 2, 0x4A, 5, 0x61])?.path == "child.a_string")
    #expect(Fixtures.refusal(bytes: [0x2A, 1, 1])?.rule.contains("wire type") == true)
  }

  // MARK: Order

  @Test func `fields in any order, apart and more than once mean what protobuf says`() throws {
    // Elements of a repeated field around another field, and a message in two parts around a scalar.
    let apart: [UInt8] = [0x98, 0x02, 1, 0x5A, 2, 0x28, 1, 0x28, 9, 0x9A, 0x02, 1, 2, 0x5A, 2, 0x68, 2]
    #expect(try Fixtures.json(apart) == #"{"anInt32":9,"child":{"anInt32":1,"aUint32":2},"manyInt32s":[1,2]}"#)
    // A member of a oneof, another, and the first again: what came before the other is gone.
    let oneof: [UInt8] = [0xCA, 0x04, 2, 0x28, 1, 0xC0, 0x04, 5, 0xCA, 0x04, 2, 0x68, 2]
    #expect(try Fixtures.json(oneof) == #"{"chosenMessage":{"aUint32":2}}"#)
    #expect(Fixtures.refusal(bytes: apart + [0x4A, 1, 0xFF])?.path == "a_string", "errors keep their path in disorder")
  }

  @Test func `of entries with the same key the last one stays`() throws {
    func entry(_ key: UInt8, _ value: UInt8) -> [UInt8] { [0xEA, 0x03, 6, 0x0A, 1, key, 0x12, 1, value] }
    let few = entry(0x61, 0x31) + entry(0x62, 0x32) + entry(0x61, 0x33)
    #expect(try Fixtures.json(few) == #"{"labels":{"b":"2","a":"3"}}"#)
    // Enough for the table of keys.
    let many = (0..<40).flatMap { entry(0x41 + UInt8($0 % 20), 0x30 + UInt8($0 / 20)) }
    let json = try Fixtures.json(many)
    #expect(json.split(separator: ",").count == 20)
    #expect(!json.contains(#":"0""#))
    let pairs = (0..<100).map { #""k\#($0)":"v""# }
    #expect(try Fixtures.again(#"{"labels":{\#(pairs.joined(separator: ","))}}"#).split(separator: ",").count == 100)
    #expect(
      Fixtures.refusal(#"{"labels":{\#((pairs + [pairs[50]]).joined(separator: ","))}}"#)?.rule
        == "a key of the map is given twice")
  }

  @Test func `lengths of nested messages are right at the borders of their varints`() throws {
    for count in [
      120, 121, 122, 123, 124, 125, 126, 127, 128, 16_370, 16_378, 16_379, 16_380, 16_381, 16_384, 3_000_000,
    ] {
      let text = String(repeating: "x", count: count)
      let json = #"{"child":{"child":{"aString":"\#(text)"}},"anInt32":1}"#
      #expect(try Fixtures.again(json) == json, "\(count)")
    }
  }

  @Test func `a transcoder is used again and again, after errors too`() throws {
    let transcoder = JSONToProtobuf()
    let out = ByteBuffer()
    let type = Fixtures.type("Everything")
    var expected: [UInt8]?
    for json in [#"{"child":{"labels":{"a":"b"}}}"#, #"{"child":{"labels":{"a":"b","c":}"#, #"{"children":[{"#] {
      for _ in 0..<50 {
        Array(json.utf8).withUnsafeBytes { try? transcoder.transcode($0, to: type, into: out) }
        if let expected {
          #expect(Array(out.bytes.prefix(expected.count)) == expected)
        } else {
          expected = Array(out.bytes)
        }
        out.removeAll()
        try Array(#"{"child":{"labels":{"a":"b"}}}"#.utf8).withUnsafeBytes {
          try transcoder.transcode($0, to: type, into: out)
        }
        #expect(Array(out.bytes) == expected)
      }
      out.removeAll()
      expected = try Fixtures.protobuf(#"{"child":{"labels":{"a":"b"}}}"#)
      try Array(#"{"child":{"labels":{"a":"b"}}}"#.utf8).withUnsafeBytes {
        try transcoder.transcode($0, to: type, into: out)
      }
    }
  }
}
