import Foundation
import Testing

@testable import SidecarCore

@Suite("JSON values")
struct JSONValueTests {
  @Test("keep digits and order")
  func keeps() throws {
    let text = "{\"z\":9007199254740993,\"a\":1.10,\"z\":-0,\"e\":1e400}"
    #expect(try JSONValue(parsing: text).text() == text)
  }

  @Test("are written compactly with Go's escapes, or with only those that must be")
  func escapes() {
    let value: JSONValue = ["a<b>&c": "\u{2028}\u{2029}\"\\\n\r\t\u{1}\u{7f}ü"]
    #expect(value.text() == #"{"a\u003cb\u003e\u0026c":"\u2028\u2029\"\\\n\r\t\u0001"# + "\u{7f}ü\"}")
    #expect(value.text(escaping: .plain) == "{\"a<b>&c\":\"\u{2028}\u{2029}\\\"\\\\\\n\\r\\t\\u0001\u{7f}ü\"}")
  }

  @Test("are laid out with tabs as Go's MarshalIndent does")
  func pretty() {
    let value: JSONValue = ["a": [1, [], [:], nil], "b": ["c": true]]
    #expect(
      value.text(layout: .tabbed)
        == "{\n\t\"a\": [\n\t\t1,\n\t\t[],\n\t\t{},\n\t\tnull\n\t],\n\t\"b\": {\n\t\t\"c\": true\n\t}\n}")
  }

  @Test("broken UTF-8 becomes U+FFFD when written, a byte each")
  func brokenText() {
    let buffer = ByteBuffer()
    withBytes([0x61, 0xFF, 0xE2, 0x82, 0x62]) { JSONText.append($0, escaping: .go, into: buffer) }
    #expect(String(decoding: buffer.bytes, as: UTF8.self) == #""a\ufffd\ufffd\ufffdb""#)
  }

  @Test(
    "strings are unescaped as encoding/json does",
    arguments: [
      (#""\u0041\b\f\n\r\t\/\\\"""#, "A\u{8}\u{c}\n\r\t/\\\""), (#""\ud834\udd1e""#, "𝄞"), (#""\ud834""#, "\u{fffd}"),
      (#""\ud834x""#, "\u{fffd}x"), (#""\udd1e\ud834""#, "\u{fffd}\u{fffd}"), (#""\ud834\u0041""#, "\u{fffd}A"),
      (#""\uFFFF\u00e9""#, "\u{ffff}é"), (#""\u0000""#, "\u{0}"),
    ])
  func unescapes(_ text: String, _ expected: String) throws {
    #expect(try JSONValue(parsing: text) == .string(expected))
  }

  @Test("are looked up by exact key, or by any case; the last duplicate wins")
  func lookups() throws {
    let value = try JSONValue(parsing: #"{"Name":"a","name":"b","NAME":"c","list":[1,"x"]}"#)
    #expect(value["name"]?.stringValue == "b")
    #expect(value["nAme"] == nil)
    #expect(value.value(ignoringCase: "nAme")?.stringValue == "c")
    #expect(value["list"]?[1]?.stringValue == "x")
    #expect(value["list"]?[2] == nil && value["list"]?[-1] == nil)
    #expect(value[0] == nil && JSONValue.null["a"] == nil)
  }

  @Test("numbers read as integers only when written as such")
  func numbers() throws {
    #expect(try JSONValue(parsing: "42").intValue == 42)
    #expect(try JSONValue(parsing: "42.0").intValue == nil)
    #expect(try JSONValue(parsing: "9223372036854775808").intValue == nil)
    #expect(try JSONValue(parsing: "18446744073709551615").uint64Value == .max)
    #expect(try JSONValue(parsing: "2.5e3").doubleValue == 2500)
    #expect(try JSONValue(parsing: "1e400").doubleValue == nil)
    #expect(JSONValue(2.0) == .number("2") && JSONValue(0.1) == .number("0.1") && JSONValue(Double.nan) == .null)
    #expect(try JSONValue(parsing: JSONValue(1e300).text()).doubleValue == 1e300)
  }

  @Test("the depth limit is the caller's")
  func depth() {
    #expect(throws: Never.self) { try JSONValue(parsing: "[[1]]", depthLimit: 2) }
    #expect(throws: WireError.self) { try JSONValue(parsing: "[[1]]", depthLimit: 1) }
    #expect(throws: Never.self) { try JSONValue(parsing: "1", depthLimit: 0) }
  }

  @Test("any tree survives being written and read, in every layout", arguments: 0..<200 as Range<UInt64>)
  func roundTrip(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let value = JSONValue.random(&random, depth: 6)
    for layout in [JSONValue.Layout.compact, .tabbed] {
      for escaping in [JSONEscaping.go, .plain] {
        let text = value.text(layout: layout, escaping: escaping)
        #expect(try JSONValue(parsing: text) == value, "seed \(seed)")
        let foreign = try JSONSerialization.jsonObject(with: Data(text.utf8), options: .fragmentsAllowed)
        #expect(JSONValue.same(value, foreign), "seed \(seed): Foundation reads \(foreign)")
      }
    }
  }

  @Test(
    "a document with one byte changed is refused inside its bounds, or reads as what it then says",
    arguments: 0..<40 as Range<UInt64>)
  func mutations(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    for _ in 0..<50 {
      var bytes = Array(JSONValue.random(&random, depth: 4).text().utf8)
      bytes[random.below(bytes.count)] = UInt8(truncatingIfNeeded: random.next())
      do throws(WireError) {
        let value = try JSONValue(parsing: bytes)
        #expect(try JSONValue(parsing: value.text()) == value, "seed \(seed)")
        withBytes(bytes) { #expect(UTF8Check.isValid($0), "seed \(seed)") }
      } catch {
        #expect((0...bytes.count).contains(error.offset), "seed \(seed): \(error)")
      }
    }
  }
}

extension JSONValue {
  static func random(_ random: inout SeededRandom, depth: Int) -> JSONValue {
    switch random.below(depth > 0 ? 7 : 5) {
    case 0: return .null
    case 1: return .bool(random.below(2) == 0)
    case 2: return .number("\(Int64(bitPattern: random.next()) >> Int64(random.below(63)))")
    case 3: return JSONValue(Double(random.below(1_000_000)) / 64)
    case 4: return .string(randomText(&random))
    case 5: return .array((0..<random.below(4)).map { _ in .random(&random, depth: depth - 1) })
    default:
      return .object(
        (0..<random.below(4)).map { Member("\($0)" + randomText(&random), .random(&random, depth: depth - 1)) })
    }
  }

  static func randomText(_ random: inout SeededRandom) -> String {
    let alphabet = Array("abcXYZ0 \"\\/<>&\n\t\u{1}\u{7f}éß€\u{2028}\u{2029}\u{fffd}😀𝄞".unicodeScalars)
    var text = String.UnicodeScalarView()
    for _ in 0..<random.below(20) { text.append(alphabet[random.below(alphabet.count)]) }
    return String(text)
  }

  static func same(_ ours: JSONValue, _ theirs: Any) -> Bool {
    switch ours {
    case .null: return theirs is NSNull
    case .bool(let value): return (theirs as? Bool) == value
    case .number(let digits): return (theirs as? NSNumber)?.doubleValue == Double(digits)
    case .string(let text): return (theirs as? String)?.unicodeScalars.elementsEqual(text.unicodeScalars) == true
    case .array(let elements):
      guard let list = theirs as? [Any], list.count == elements.count else { return false }
      return zip(elements, list).allSatisfy(same)
    case .object(let members):
      guard let table = theirs as? [String: Any], table.count == members.count else { return false }
      return members.allSatisfy { member in table[member.key].map { same(member.value, $0) } ?? false }
    }
  }
}
