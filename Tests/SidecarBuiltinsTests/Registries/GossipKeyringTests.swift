// The encryption of a memberlist cluster, and AES-GCM beneath it.

import SidecarCore
import SidecarTLS
import Testing

@testable import SidecarBuiltins

private func bytes(_ hex: String) -> [UInt8] {
  stride(from: 0, to: hex.utf8.count, by: 2).compactMap {
    UInt8(hex.dropFirst($0).prefix(2), radix: 16)
  }
}

@Suite struct `AES-GCM` {
  /// Test cases 2, 4, 10 and 16 of the mode's specification (McGrew and Viega, appendix B): key, nonce, plaintext, what is
  /// authenticated, ciphertext, tag.
  static let cases: [[String]] = [
    [
      "00000000000000000000000000000000", "000000000000000000000000", "00000000000000000000000000000000", "",
      "0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf",
    ],
    [
      "feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
      "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657"
        + "ba637b39",
      "feedfacedeadbeeffeedfacedeadbeefabaddad2",
      "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac97"
        + "3d58e091",
      "5bc94fbc3221a5db94fae95ae7121a47",
    ],
    [
      "feffe9928665731c6d6a8f9467308308feffe9928665731c", "cafebabefacedbaddecaf888",
      "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657"
        + "ba637b39",
      "feedfacedeadbeeffeedfacedeadbeefabaddad2",
      "3980ca0b3c00e841eb06fac4872a2757859e1ceaa6efd984628593b40ca1e19c7d773d00c144c525ac619d18c84a3f4718e2448b2fe324d9"
        + "ccda2710",
      "2519498e80f1478f37ba55bd6d27618c",
    ],
    [
      "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
      "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657"
        + "ba637b39",
      "feedfacedeadbeeffeedfacedeadbeefabaddad2",
      "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0a"
        + "bcc9f662",
      "76fc6ece0f4e1768cddf8853bb2d551b",
    ],
  ]

  @Test(arguments: cases) func `the published cases hold, and a changed bit is found`(_ given: [String]) throws {
    let fields = given.map(bytes)
    let key = try AESGCM(key: fields[0])
    let sealed = try #require(key.seal(fields[2], nonce: fields[1], authenticating: fields[3]))
    #expect(sealed == fields[4] + fields[5])
    #expect(key.open(sealed[...], nonce: fields[1], authenticating: fields[3]) == fields[2])
    for at in sealed.indices {
      var changed = sealed
      changed[at] ^= 1
      #expect(key.open(changed[...], nonce: fields[1], authenticating: fields[3]) == nil)
    }
    #expect(key.open(sealed[...], nonce: fields[1], authenticating: fields[3] + [0]) == nil)
    #expect(key.open(sealed.prefix(15), nonce: fields[1], authenticating: fields[3]) == nil)
    #expect(key.open(sealed[...], nonce: fields[1], authenticating: fields[3]) == fields[2], "failures leave nothing")
  }

  @Test func `keys of other sizes are refused`() {
    for count in [0, 1, 15, 17, 31, 33] {
      #expect(throws: TLSError.self) { try AESGCM(key: Array(repeating: 1, count: count)) }
    }
  }
}

@Suite struct `Gossip encryption` {
  private func opened(_ keyring: GossipKeyring, _ datagram: [UInt8]) -> Result<[UInt8], WireError> {
    datagram.withUnsafeBytes { bytes in Result { () throws(WireError) in try keyring.opened(datagram: bytes) } }
  }

  @Test func `what one member seals another opens, as datagram and as stream cut anywhere`() throws {
    let (one, other) = (try GossipKeyring("micro-gossip-key"), try GossipKeyring("bWljcm8tZ29zc2lwLWtleQ==\n"))
    for message in [[], [1, 2, 3], Array(repeating: 7, count: 70_000)] as [[UInt8]] {
      #expect(try opened(other, try #require(one.sealed(message))).get() == message)
      let stream = try #require(one.sealed(stream: message))
      #expect(stream[0] == 10 && stream.count == message.count + 5 + 29)
      for cut in [0, 1, 4, 5, stream.count - 1] { #expect(try other.opened(stream: Array(stream[..<cut])) == nil) }
      #expect(try other.opened(stream: stream) == message)
      var changed = stream
      changed[stream.count - 1] ^= 1
      #expect(throws: WireError.self) { try other.opened(stream: changed) }
    }
    #expect(one.sealed([1]) != one.sealed([1]), "nonces differ")
  }

  @Test func `a second key opens what members sealed that still have it`() throws {
    let (old, both) = (try GossipKeyring("0123456789abcdef"), try GossipKeyring("fedcba9876543210\n0123456789abcdef"))
    let new = try GossipKeyring("fedcba9876543210")
    #expect(try opened(both, try #require(old.sealed([5]))).get() == [5])
    #expect(try opened(new, try #require(both.sealed([6]))).get() == [6])
    #expect(throws: WireError.self) { try opened(new, try #require(old.sealed([5]))).get() }
  }

  @Test func `the older padded form is read`() throws {
    let text = "0123456789abcdef"
    let key = try AESGCM(key: Array(text.utf8))
    let nonce = Array(repeating: 9 as UInt8, count: 12)
    func padded(_ message: [UInt8]) throws -> [UInt8] { [0] + nonce + (try #require(key.seal(message, nonce: nonce))) }
    let keyring = try GossipKeyring(text)
    #expect(try opened(keyring, padded([1, 2] + Array(repeating: 14, count: 14))).get() == [1, 2])
    #expect(try opened(keyring, padded(Array(repeating: 16, count: 16))).get() == [])
    for wrong in [[0], [17], [2], []] as [[UInt8]] {
      #expect(throws: WireError.self) { try opened(keyring, padded(wrong)).get() }
    }
  }

  @Test func `plain and broken messages are refused`() throws {
    let keyring = try GossipKeyring("0123456789abcdef")
    for bytes in [[], [0, 1, 2], [10], Array(repeating: 1, count: 28), Array(repeating: 1, count: 100)] as [[UInt8]] {
      #expect(throws: WireError.self) { try opened(keyring, bytes).get() }
    }
    #expect(throws: WireError.self) { try keyring.opened(stream: [6, 0, 0]) }
    #expect(throws: WireError.self) { try keyring.opened(stream: [10, 255, 255, 255, 255]) }
    #expect(throws: WireError.self) { try keyring.opened(stream: [10, 0, 0, 0, 3, 1, 2, 3]) }
  }

  @Test(arguments: [
    "", "\n", "short", "0123456789abcde", Array(repeating: "0123456789abcdef", count: 9).joined(separator: "\n"),
  ])
  func `keys that are none are refused`(_ text: String) {
    #expect(throws: ConfigurationError.self) { try GossipKeyring(text) }
  }
}
