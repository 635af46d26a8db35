import Testing

@testable import SidecarCore

@Suite struct HeaderIDTests {
  private static let known = HeaderID.allCases.filter { $0 != .other }

  @Test func `every known name is found in any letter case`() {
    for header in Self.known {
      let name = "\(header.name)"
      #expect(HeaderID.identify(name) == header)
      #expect(HeaderID.identify(name.lowercased()) == header)
      #expect(HeaderID.identify(name.uppercased()) == header)
    }
  }

  @Test func `names are spelled canonically and differ`() {
    for header in Self.known { #expect(HTTP1Writer.canonicalName("\(header.name)") == "\(header.name)") }
    #expect(Set(Self.known.map { "\($0.name)" }).count == Self.known.count)
  }

  /// One byte changed, dropped or added anywhere makes it another name; flipping 0x20 in a letter does not.
  @Test func `nearly known names are other names`() {
    for header in Self.known {
      let name = Array("\(header.name)".utf8)
      for index in name.indices {
        for bit in 0..<8 {
          var changed = name
          changed[index] ^= 1 << UInt8(bit)
          let folded = changed.map { UInt8(ascii: "A")...UInt8(ascii: "Z") ~= $0 ? $0 | 0x20 : $0 }
          let expected = Self.known.first { Array("\($0.name)".lowercased().utf8) == folded } ?? .other
          #expect(changed.withUnsafeBytes { HeaderID.identify($0) } == expected)
        }
        var shorter = name
        shorter.remove(at: index)
        let folded = String(decoding: shorter, as: UTF8.self).lowercased()
        let expected = Self.known.first { "\($0.name)".lowercased() == folded } ?? .other
        #expect(shorter.withUnsafeBytes { HeaderID.identify($0) } == expected)
      }
      #expect(HeaderID.identify("\(header.name)x") == .other)
    }
    #expect(HeaderID.identify("") == .other)
    #expect(HeaderID.identify("x") == .other)
    #expect(HeaderID.identify(String(repeating: "x", count: 1000)) == .other)
  }
}
