import SidecarCore
import Testing

@testable import SidecarBuiltins

@Suite("JSON that is read in pieces") struct JSONPiecesTests {
  /// The pieces of `parts` together, which come one after another.
  private func pieces(_ container: JSONPieces.Container, _ parts: [ArraySlice<UInt8>]) throws(WireError) -> [String] {
    var reader = JSONPieces(container)
    var found: [String] = []
    for part in parts {
      let result = part.withUnsafeBytes { bytes in
        Result { () throws(WireError) in
          try reader.read(bytes) { piece throws(WireError) in
            try JSONScanner.validate(piece)
            found.append(String(decoding: piece, as: UTF8.self))
          }
        }
      }
      try result.get()
    }
    try reader.finish()
    return found
  }

  private func whole(_ container: JSONPieces.Container, _ text: String) throws(WireError) -> [String] {
    try pieces(container, [Array(text.utf8)[...]])
  }

  private static let documents: [(JSONPieces.Container, String, [String])] = [
    (.array, "[]", []), (.array, " \n[ ]\t\r", []), (.object, " { } ", []),
    (
      .array, #"[1, {"a":[1,2],"b":"],}"} ,"x\"],","\\",null]"#,
      ["1", #"{"a":[1,2],"b":"],}"} "#, #""x\"],""#, #""\\""#, "null"]
    ),
    (.object, #"{"a":[1,{"b":2}], "c\"}": "}" }"#, [#"{"a":[1,{"b":2}]}"#, #"{"c\"}": "}" }"#]),
  ]

  @Test(arguments: documents.indices) func `every cut gives the same pieces`(_ index: Int) throws {
    let (container, text, expected) = Self.documents[index]
    let bytes = Array(text.utf8)
    #expect(try pieces(container, [bytes[...]]) == expected)
    for first in 0...bytes.count {
      for second in first...bytes.count {
        #expect(try pieces(container, [bytes[..<first], bytes[first..<second], bytes[second...]]) == expected)
      }
    }
    #expect(try pieces(container, bytes.indices.map { bytes[$0...$0] }) == expected)
  }

  @Test(arguments: [
    "", "[", "[1", "[1,", "[1,]", "[,1]", "[1,,2]", "{}", "[]]", "[] 1", "1", "[1}", "[{]", "[\"", "[\"\\\"]", "[1 2]",
  ])
  func `what is no array is an error`(_ text: String) { #expect(throws: WireError.self) { try whole(.array, text) } }

  @Test(arguments: ["", "{", "[]", "{\"a\":1", "{\"a\":1,}", "{\"a\"}", "{1:2}", "{,}", "{\"a\":1}}"])
  func `what is no object is an error`(_ text: String) { #expect(throws: WireError.self) { try whole(.object, text) } }

  @Test func `a piece or a nesting without end is refused`() {
    let long = "[\"" + String(repeating: "x", count: JSONPieces.pieceBytesMax) + "\"]"
    for size in [1000, 1 << 21] {
      let bytes = Array(long.utf8)
      #expect(throws: WireError.self) {
        try pieces(.array, stride(from: 0, to: bytes.count, by: size).map { bytes[$0..<min($0 + size, bytes.count)] })
      }
    }
    #expect(throws: WireError.self) { try whole(.array, String(repeating: "[", count: 100)) }
  }
}
