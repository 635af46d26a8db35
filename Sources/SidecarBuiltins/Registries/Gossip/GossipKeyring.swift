// Encryption of a memberlist cluster (hashicorp/memberlist security.go @ v0.1.0): AES-GCM around whole datagrams and streams.
//
//   sealed     version (1; 0: the message is padded as PKCS #7 says) · nonce of 12 bytes · ciphertext · tag of 16
//   datagram   sealed
//   stream     10 · length of the sealed bytes, 4 bytes, big-endian · sealed, which vouches for those five bytes too

import SidecarCore
import SidecarTLS

/// The keys of a cluster: the first seals, each may open, so that keys can be replaced one member after the other.
///
/// Threading: the control loop only.
final class GossipKeyring {
  static let keysMax = 8
  /// go-micro's own key when it is told to encrypt and given none (registry/gossip @ v0.16 and later).
  static let frameworkKey = "micro-gossip-key"
  private static let streamMark: UInt8 = 10
  private static let streamHeadBytes = 5
  private static let overheadBytes = 1 + AESGCM.nonceBytes + AESGCM.tagBytes

  private let keys: [AESGCM]

  /// Keys one a line: each the 16, 24 or 32 bytes themselves, as go-micro takes them, or those in base64, as other users of
  /// memberlist write them.
  init(_ text: String) throws(ConfigurationError) {
    let lines = text.split(whereSeparator: \.isNewline)
    guard !lines.isEmpty, lines.count <= Self.keysMax else {
      throw ConfigurationError("registry gossip: expected 1 to \(Self.keysMax) keys, one a line")
    }
    var keys: [AESGCM] = []
    for line in lines {
      guard let key = Self.key(String(line)) else {
        throw ConfigurationError(
          "registry gossip: a key has 16, 24 or 32 bytes, as they are or in base64; one here has \(line.utf8.count)")
      }
      do throws(TLSError) {
        keys.append(try AESGCM(key: key))
      } catch {
        throw ConfigurationError("registry gossip: encryption cannot be used: \(error.message)")
      }
    }
    self.keys = keys
  }

  private static func key(_ text: String) -> [UInt8]? {
    let bytes = Array(text.utf8)
    if AESGCM.keySizes.contains(bytes.count), text.last != "=" { return bytes }
    guard let decoded = HTTPText.base64Decoded(text), AESGCM.keySizes.contains(decoded.count) else {
      return AESGCM.keySizes.contains(bytes.count) ? bytes : nil
    }
    return decoded
  }

  // MARK: Datagrams

  /// Nil when the system has no randomness to give: nothing is sent then.
  func sealed(_ message: [UInt8]) -> [UInt8]? { seal(message, authenticating: []) }

  func opened(datagram bytes: UnsafeRawBufferPointer) throws(WireError) -> [UInt8] {
    try open(Array(bytes)[...], authenticating: [])
  }

  // MARK: Streams

  func sealed(stream message: [UInt8]) -> [UInt8]? {
    let count = message.count + Self.overheadBytes
    let head = [Self.streamMark] + (0..<4).reversed().map { UInt8(truncatingIfNeeded: count &>> (8 * $0)) }
    return seal(message, authenticating: head).map { head + $0 }
  }

  /// The message of a stream; nil while it is not all there.
  func opened(stream bytes: [UInt8]) throws(WireError) -> [UInt8]? {
    guard let mark = bytes.first else { return nil }
    guard mark == Self.streamMark else { throw WireError("a memberlist stream is not encrypted, and this cluster is") }
    guard bytes.count >= Self.streamHeadBytes else { return nil }
    let head = bytes[..<Self.streamHeadBytes]
    let count = head.dropFirst().reduce(0) { $0 << 8 | Int($1) }
    guard count <= Memberlist.streamBytesMax else {
      throw WireError("a memberlist stream of more than \(Memberlist.streamBytesMax) bytes")
    }
    let rest = bytes[Self.streamHeadBytes...]
    guard rest.count >= count else { return nil }
    return try open(rest.prefix(count), authenticating: Array(head))
  }

  // MARK: Parts

  private func seal(_ message: [UInt8], authenticating head: [UInt8]) -> [UInt8]? {
    guard let nonce = AESGCM.randomNonce(), let sealed = keys[0].seal(message, nonce: nonce, authenticating: head)
    else {
      return nil
    }
    return [1] + nonce + sealed
  }

  private func open(_ bytes: ArraySlice<UInt8>, authenticating head: [UInt8]) throws(WireError) -> [UInt8] {
    guard bytes.count >= Self.overheadBytes, let version = bytes.first, version <= 1 else {
      throw WireError("a memberlist message is not encrypted, and this cluster is")
    }
    let nonce = Array(bytes.dropFirst().prefix(AESGCM.nonceBytes))
    let sealed = bytes.dropFirst(1 + AESGCM.nonceBytes)
    for key in keys {
      guard var plain = key.open(sealed, nonce: nonce, authenticating: head) else { continue }
      if version == 0 {
        guard let padding = plain.last.map(Int.init), (1...16).contains(padding), padding <= plain.count else {
          throw WireError("a memberlist message is padded wrongly")
        }
        plain.removeLast(padding)
      }
      return plain
    }
    throw WireError("a memberlist message is encrypted with another key")
  }
}
