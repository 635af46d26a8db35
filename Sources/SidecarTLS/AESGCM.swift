// AES in Galois/Counter Mode (NIST SP 800-38D) by OpenSSL, for protocols that seal messages of their own.

import COpenSSL
import SidecarCore

/// One key. Nonces have 12 bytes, tags 16; what is sealed is the ciphertext with the tag behind it.
///
/// Threading: one thread at a time; whoever holds it says which.
package final class AESGCM {
  package static let nonceBytes = 12
  package static let tagBytes = 16
  package static let keySizes = [16, 24, 32]

  private let context: OpaquePointer

  /// Errors: a key that does not have 16, 24 or 32 bytes; no OpenSSL here.
  package init(key: [UInt8]) throws(TLSError) {
    try requireOpenSSL()
    let cipher: OpaquePointer?
    switch key.count {
    case 16: cipher = openssl.EVP_aes_128_gcm()
    case 24: cipher = openssl.EVP_aes_192_gcm()
    case 32: cipher = openssl.EVP_aes_256_gcm()
    default: throw TLSError("an AES key has 16, 24 or 32 bytes, this one \(key.count)")
    }
    guard let context = openssl.EVP_CIPHER_CTX_new() else { throw TLSError("AES-GCM cannot be used: no memory") }
    // The key is kept; each message gives its nonce.
    guard openssl.EVP_CipherInit_ex(context, cipher, nil, key, nil, 1) == 1 else {
      openssl.EVP_CIPHER_CTX_free(context)
      openssl.ERR_clear_error()
      throw TLSError("AES-GCM cannot be used with this OpenSSL")
    }
    self.context = context
  }

  deinit { openssl.EVP_CIPHER_CTX_free(context) }

  /// Bytes nobody can guess, for a nonce; nil when the system has none to give.
  package static func randomNonce() -> [UInt8]? {
    var nonce = [UInt8](repeating: 0, count: nonceBytes)
    return openssl.RAND_bytes(&nonce, Int32(nonceBytes)) == 1 ? nonce : nil
  }

  /// `plain` sealed; `authenticated` is not in it and must be the same when it is opened. Nil when OpenSSL fails.
  package func seal(_ plain: [UInt8], nonce: [UInt8], authenticating authenticated: [UInt8] = []) -> [UInt8]? {
    guard var sealed = run(plain[...], nonce, authenticated, seals: true) else { return nil }
    var none: Int32 = 0
    guard openssl.EVP_CipherFinal_ex(context, nil, &none) == 1 else { return failed() }
    let start = sealed.count
    sealed.append(contentsOf: repeatElement(0, count: Self.tagBytes))
    let done = sealed.withUnsafeMutableBytes {
      openssl.EVP_CIPHER_CTX_ctrl(
        context, EVP_CTRL_AEAD_GET_TAG, Int32(Self.tagBytes), $0.baseAddress.map { $0 + start })
    }
    return done == 1 ? sealed : failed()
  }

  /// What was sealed; nil when it was not sealed with this key, nonce and `authenticated`, or was changed since.
  package func open(_ sealed: ArraySlice<UInt8>, nonce: [UInt8], authenticating authenticated: [UInt8] = []) -> [UInt8]?
  {
    guard sealed.count >= Self.tagBytes, nonce.count == Self.nonceBytes else { return nil }
    var tag = Array(sealed.suffix(Self.tagBytes))
    guard let plain = run(sealed.dropLast(Self.tagBytes), nonce, authenticated, seals: false),
      openssl.EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, Int32(Self.tagBytes), &tag) == 1
    else { return failed() }
    var none: Int32 = 0
    return openssl.EVP_CipherFinal_ex(context, nil, &none) == 1 ? plain : failed()
  }

  private func run(
    _ bytes: ArraySlice<UInt8>, _ nonce: [UInt8], _ authenticated: [UInt8], seals: Bool
  ) -> [UInt8]? {
    guard nonce.count == Self.nonceBytes, let count = Int32(exactly: bytes.count),
      let authenticatedCount = Int32(exactly: authenticated.count)
    else { return nil }
    guard openssl.EVP_CipherInit_ex(context, nil, nil, nil, nonce, seals ? 1 : 0) == 1 else { return failed() }
    var written: Int32 = 0
    if authenticatedCount > 0 {
      guard openssl.EVP_CipherUpdate(context, nil, &written, authenticated, authenticatedCount) == 1 else {
        return failed()
      }
    }
    guard count > 0 else { return [] }
    let result = [UInt8](unsafeUninitializedCapacity: bytes.count) { buffer, used in
      let done = bytes.withUnsafeBufferPointer {
        openssl.EVP_CipherUpdate(context, buffer.baseAddress, &written, $0.baseAddress, count)
      }
      used = done == 1 ? Int(written) : 0
    }
    return result.count == bytes.count ? result : failed()
  }

  /// OpenSSL's errors are the thread's: what is left there would be taken for TLS's.
  private func failed() -> [UInt8]? {
    openssl.ERR_clear_error()
    return nil
  }
}
