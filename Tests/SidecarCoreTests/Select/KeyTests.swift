@testable import SidecarCore
import Testing

@Suite struct KeyTests {
  private static let key = HighwayHash.Lanes(
    0x0706_0504_0302_0100, 0x0F0E_0D0C_0B0A_0908, 0x1716_1514_1312_1110, 0x1F1E_1D1C_1B1A_1918)

  private func bytes<T>(_ count: Int, _ body: (UnsafeRawBufferPointer) -> T) -> T {
    (0..<count).map { UInt8($0) }.withUnsafeBytes(body)
  }

  /// Published with the algorithm: hashes of the bytes 0, 1, 2 and so on (highwayhash_test.cc, kExpected64).
  @Test(
    arguments: [
      (0, 0x907A_56DE_22C2_6E53), (1, 0x7EAB_43AA_C7CD_DD78), (2, 0xB8D0_569A_B0B5_3D62), (3, 0x5C6B_EFAB_8A46_3D80),
      (4, 0xF205_A468_9300_7EDA), (5, 0x2B8A_1668_E4A9_4541), (7, 0x4D02_AE17_38F5_9482), (8, 0xE120_5108_E55F_3171),
      (15, 0x4079_3F86_A449_F33B), (16, 0xCFAB_3489_F97E_B832), (17, 0x19FE_67D2_C8C5_C0E2),
      (19, 0x75D9_518E_2371_C504),
      (31, 0x9FC7_007C_CF03_5A68), (32, 0xA0C9_64D9_ECD5_80FC), (33, 0x2C90_F73C_A031_81FC),
      (48, 0xB926_168D_2B15_4F34),
      (63, 0xAB8E_EBE9_BF21_39A0), (64, 0x7554_2C5D_4CD2_A6FF),
    ] as [(Int, UInt64)])
  func `HighwayHash of 64 bits is as published`(_ count: Int, _ expected: UInt64) {
    #expect(bytes(count) { HighwayHash.hash64($0, key: Self.key) } == expected)
  }

  /// The same, kExpected256.
  @Test(
    arguments: [
      (0, [0xDD44_482A_C2C8_74F5, 0xD946_0173_13C7_351F, 0xB3AE_BECC_B987_14FF, 0x41DA_2331_4575_1DF4]),
      (1, [0xEDB9_41BC_E45F_8254, 0xE20D_44EF_3DCA_C60F, 0x7265_1B9B_CB32_4A47, 0x2073_624C_B275_E484]),
      (3, [0x480A_A0D7_0DD1_D95C, 0x8922_5E7C_6911_D1D0, 0x8EA8_426B_8BBB_865A, 0xE23D_FBC3_90E1_C722]),
      (17, [0x19F4_CFA8_2CA4_068E, 0x3B9D_4ABD_3A92_75B9, 0x8000_B0DD_E9C0_10C6, 0x8884_D509_4921_5613]),
      (32, [0xBCE3_8C90_39A1_C3FE, 0x42D5_6326_A3C1_1289, 0xE355_95F7_64FC_AEA9, 0xC9B0_3C6B_C947_5A99]),
    ] as [(Int, [UInt64])])
  func `HighwayHash of 256 bits is as published`(_ count: Int, _ expected: [UInt64]) {
    let hash = bytes(count) { HighwayHash.hash256($0, key: Self.key) }
    #expect((0..<4).map { hash[$0] } == expected)
  }

  @Test func `the mixed hash is the same everywhere and differs for texts that nearly agree`() {
    func hash(_ text: String) -> UInt64 { MixedHash.of(text) }
    // Sidecars of different builds must agree: changing these values moves every key.
    #expect(hash("user-1") == MixedHash.of("user-1"))
    var seen: Set<UInt64> = []
    for number in 0..<20_000 { seen.insert(hash("user-\(number)")) }
    for text in ["", "\0", "\0\0", "a", "a\0", "aaaaaaaa", "aaaaaaaaa", "aaaaaaaa\0"] { seen.insert(hash(text)) }
    #expect(seen.count == 20_008)
    var flips = 0
    for bit in 0..<64 { flips += (MixedHash.mixed(0) ^ MixedHash.mixed(1 << UInt64(bit))).nonzeroBitCount }
    #expect((1900...2200).contains(flips))
  }

  @Test(
    arguments: [
      ("sid=1", "1"), ("a=b; sid=2; c=d", "2"), ("sid=\"3\"", "3"), ("xsid=0;sid=4", "4"), ("sid=; a=b", ""),
      ("sid", nil), ("", nil), (";;;", nil), ("SID=5", nil), ("sid=a=b", "a=b"), ("sid=\"", "\""),
    ] as [(String, String?)])
  func `a cookie is found by its name`(_ list: String, _ expected: String?) {
    let found = Array(list.utf8).withUnsafeBytes { list in
      Array("sid".utf8).withUnsafeBytes { name in
        KeyRule.cookie(name, in: list).map { String(decoding: $0, as: UTF8.self) }
      }
    }
    #expect(found == expected)
  }
}

@Suite struct NodeFilterTests {
  private func filter(_ text: String) throws(SidecarError) -> NodeFilter {
    let bytes = Array(text.utf8)
    do {
      return try bytes.withUnsafeBytes { try NodeFilter(header: $0) }
    } catch {
      throw error as? SidecarError ?? SidecarError(.internal, "\(error)")
    }
  }

  @Test func `conditions are versions, endpoints and labels`() throws {
    #expect(try filter("version=v2") == NodeFilter(version: "v2"))
    #expect(
      try filter(" region = eu ,version=v2,endpoint=Say.Hello, a=b")
        == NodeFilter(version: "v2", labels: [.init("a", "b"), .init("region", "eu")], endpoint: "Say.Hello"))
    #expect(try filter("a=b=c") == NodeFilter(labels: [.init("a", "b=c")]))
  }

  @Test(arguments: [
    "", "x", "=v", "a=", "a=b,", "a=b,,c=d", "a=b,a=c", "version=1,version=2",
    (0..<17).map { "k\($0)=v" }.joined(separator: ","), "a=" + String(repeating: "x", count: 1024),
  ])
  func `anything else is refused`(_ text: String) {
    do throws(SidecarError) {
      _ = try filter(text)
      Issue.record("\(text) was taken")
    } catch {
      #expect(error.kind == .badRequest)
    }
  }

  @Test func `two filters hold at once`() {
    var both = NodeFilter(version: "v1", labels: [.init("a", "b")])
    both.narrow(by: NodeFilter(labels: [.init("a", "b"), .init("c", "d")], endpoint: "E.F"))
    #expect(both == NodeFilter(version: "v1", labels: [.init("a", "b"), .init("c", "d")], endpoint: "E.F"))
    both.narrow(by: NodeFilter())
    #expect(!both.isContradictory)
    both.narrow(by: NodeFilter(endpoint: "G.H"))
    #expect(both.isContradictory)
  }
}
