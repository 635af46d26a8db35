// What TLS connections of one kind share: whom they trust, who they are, what they speak. Made from PEM bytes that the
// owner has read; only the system's own trust store is read by OpenSSL itself.

import COpenSSL
import SidecarCore

/// TLS went wrong. `message` says what was found and what to do about it.
package struct TLSError: Error, Equatable, Sendable, CustomStringConvertible {
  package var message: String
  package init(_ message: String) { self.message = message }
  package var description: String { message }
}

/// How connections are secured. A value: equal ones need one context.
package struct TLSConfiguration: Hashable, Sendable {
  /// Whose signature makes the peer's certificate good.
  package enum Trust: Hashable, Sendable {
    /// What the system trusts.
    case system
    /// These authorities, as PEM.
    case authorities([UInt8])
    /// The authorities in a folder with OpenSSL's hashed names.
    case folder(String)
    /// These certificates themselves, as PEM, whoever signed them and whatever names they are for.
    case exactly([UInt8])
    /// The peer is not verified: whoever answers is believed.
    case anyone
  }
  package var trust = Trust.system
  /// Our certificate with its chain, as PEM. A server needs one; a client where the server asks for it.
  package var certificate: [UInt8]?
  /// The private key, as PEM; nil: it stands beside the certificate.
  package var key: [UInt8]?
  /// Offered by ALPN, in order of preference.
  package var protocols: [String] = []
  /// A server that takes only clients with a certificate it trusts.
  package var requiresClientCertificate = false
  /// A server that asks for a certificate, takes clients without one, and none that it does not trust.
  package var asksForClientCertificate = false
  package init() {}
}

/// Immutable after `init`; any thread may make sessions of it.
package final class TLSContext: @unchecked Sendable {
  package enum Role: Sendable { case client, server }

  /// Certificates of one PEM text; more are an error.
  static let certificatesMax = 1024

  let pointer: OpaquePointer
  let role: Role
  package let configuration: TLSConfiguration

  /// Errors name the part that cannot be used: a certificate that is none, a key that does not fit it.
  package init(_ role: Role, _ configuration: TLSConfiguration) throws(TLSError) {
    try requireOpenSSL()
    guard let pointer = openssl.SSL_CTX_new(role == .client ? openssl.TLS_client_method() : openssl.TLS_server_method())
    else {
      throw TLSError("TLS cannot be used: \(Self.reasons())")
    }
    self.pointer = pointer
    self.role = role
    self.configuration = configuration
    openssl_set_up(opensslFunctions, pointer)
    try trust()
    try identify()
    try offerProtocols()
  }

  deinit { openssl.SSL_CTX_free(pointer) }

  private func trust() throws(TLSError) {
    switch configuration.trust {
    case .anyone: break
    case .system:
      // A client's need; a server that asks nobody for a certificate trusts nobody.
      if role == .client || configuration.requiresClientCertificate {
        _ = openssl.SSL_CTX_set_default_verify_paths(pointer)
      }
    case .folder(let path):
      guard openssl.SSL_CTX_load_verify_locations(pointer, nil, path) == 1 else {
        throw TLSError("the folder of authorities \(path) cannot be used: \(Self.reasons())")
      }
    case .authorities(let pem), .exactly(let pem):
      let certificates = try Self.certificates(pem, "the file of authorities")
      defer { for certificate in certificates { openssl.X509_free(certificate) } }
      guard let store = openssl.SSL_CTX_get_cert_store(pointer) else { throw TLSError("TLS cannot be used: no memory") }
      if case .exactly = configuration.trust {
        _ = openssl.X509_STORE_set_flags(store, UInt(X509_V_FLAG_PARTIAL_CHAIN))
      }
      for certificate in certificates where openssl.X509_STORE_add_cert(store, certificate) != 1 {
        throw TLSError("an authority's certificate cannot be used: \(Self.reasons())")
      }
      openssl.ERR_clear_error()
    }
    var mode = SSL_VERIFY_NONE
    if role == .client, configuration.trust != .anyone { mode = SSL_VERIFY_PEER }
    if role == .server, configuration.requiresClientCertificate {
      mode = SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    }
    if role == .server, configuration.asksForClientCertificate { mode |= SSL_VERIFY_PEER }
    // OpenSSL forgets a certificate that it refuses; the session tells whose it was.
    openssl.SSL_CTX_set_verify(pointer, mode) { isSound, verification in
      if isSound == 0, let verification { TLSSession.refused(verification) }
      return isSound
    }
  }

  private func identify() throws(TLSError) {
    guard let pem = configuration.certificate else {
      guard configuration.key == nil else { throw TLSError("there is a private key but no certificate for it") }
      return
    }
    let certificates = try Self.certificates(pem, "the certificate's file")
    defer { for certificate in certificates { openssl.X509_free(certificate) } }
    guard openssl.SSL_CTX_use_certificate(pointer, certificates[0]) == 1 else {
      throw TLSError("the certificate cannot be used: \(Self.reasons())")
    }
    for issuer in certificates.dropFirst() where openssl_add_chain(opensslFunctions, pointer, issuer) != 1 {
      throw TLSError("the certificate's chain cannot be used: \(Self.reasons())")
    }
    let keyPEM = configuration.key ?? pem
    let key = Self.withBIO(keyPEM) { bio in
      // No passphrase is ever asked for: the standard callback would read the terminal.
      openssl.PEM_read_bio_PrivateKey(bio, nil, { _, _, _, _ in 0 }, nil)
    }
    guard let key else {
      throw TLSError("the private key cannot be read (\(Self.reasons())): expected PEM without a passphrase")
    }
    defer { openssl.EVP_PKEY_free(key) }
    guard openssl.SSL_CTX_use_PrivateKey(pointer, key) == 1, openssl.SSL_CTX_check_private_key(pointer) == 1 else {
      throw TLSError("the private key does not belong to the certificate: \(Self.reasons())")
    }
  }

  private func offerProtocols() throws(TLSError) {
    guard !configuration.protocols.isEmpty else { return }
    var list: [UInt8] = []
    for name in configuration.protocols {
      guard (1...255).contains(name.utf8.count) else { throw TLSError("\"\(name)\" is no protocol's name") }
      list.append(UInt8(name.utf8.count))
      list += Array(name.utf8)
    }
    switch role {
    case .client: _ = openssl.SSL_CTX_set_alpn_protos(pointer, list, UInt32(list.count))
    case .server:
      // The context outlives its sessions, which are what calls this.
      openssl.SSL_CTX_set_alpn_select_cb(
        pointer,
        { _, chosen, chosenCount, offered, offeredCount, context in
          guard let chosen, let context, let offered else { return SSL_TLSEXT_ERR_NOACK }
          let own = Unmanaged<TLSContext>.fromOpaque(context).takeUnretainedValue().configuration.protocols
          let names = UnsafeBufferPointer(start: offered, count: Int(offeredCount))
          for name in own {
            var at = 0
            while at < names.count {
              let end = min(at + 1 + Int(names[at]), names.count)
              if names[(at + 1)..<end].elementsEqual(name.utf8) {
                chosen.pointee = offered + at + 1
                chosenCount?.pointee = names[at]
                return SSL_TLSEXT_ERR_OK
              }
              at = end
            }
          }
          return SSL_TLSEXT_ERR_NOACK
        }, Unmanaged.passUnretained(self).toOpaque())
    }
  }

  // MARK: PEM

  /// Whom the certificates of a PEM text are for and when they end, in their order.
  package static func describe(_ pem: [UInt8]) throws(TLSError) -> [(subject: String, notAfter: Int64)] {
    try requireOpenSSL()
    let certificates = try Self.certificates(pem, "the file")
    defer { for certificate in certificates { openssl.X509_free(certificate) } }
    return certificates.map { certificate in
      let subject = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { text in
        openssl_subject(opensslFunctions, certificate, text.baseAddress, 256)
        return text.baseAddress.map { String(cString: $0) } ?? ""
      }
      return (subject, openssl_not_after(opensslFunctions, certificate))
    }
  }

  private static func withBIO<Value>(_ bytes: [UInt8], _ body: (OpaquePointer) -> Value?) -> Value? {
    openssl.ERR_clear_error()
    return bytes.withUnsafeBytes { bytes in
      guard let count = Int32(exactly: bytes.count), let bio = openssl.BIO_new_mem_buf(bytes.baseAddress, count) else {
        return nil
      }
      defer { _ = openssl.BIO_free(bio) }
      return body(bio)
    }
  }

  /// At least one; the caller frees them.
  private static func certificates(_ pem: [UInt8], _ what: String) throws(TLSError) -> [OpaquePointer] {
    var found: [OpaquePointer] = []
    let isSound =
      withBIO(pem) { bio in
        while found.count < certificatesMax {
          guard let certificate = openssl.PEM_read_bio_X509(bio, nil, nil, nil) else {
            // What ends the text in order is that nothing more begins.
            let error = openssl.ERR_peek_last_error()
            return openssl_is_missing_pem(error) == 1 ? true : nil
          }
          found.append(certificate)
        }
        return nil
      } ?? false
    guard isSound, !found.isEmpty else {
      for certificate in found { openssl.X509_free(certificate) }
      let why = isSound ? "it holds no certificate" : reasons()
      throw TLSError("\(what) cannot be used (\(why)): expected certificates as PEM, -----BEGIN CERTIFICATE-----")
    }
    openssl.ERR_clear_error()
    return found
  }

  /// What OpenSSL noted, in its words; takes it off the list.
  static func reasons() -> String {
    var texts: [String] = []
    while case let error = openssl.ERR_get_error(), error != 0 {
      let text = openssl.ERR_reason_error_string(error).map { String(cString: $0) } ?? "error \(error)"
      if !texts.contains(text) { texts.append(text) }
    }
    return texts.isEmpty ? "no reason given" : texts.joined(separator: ", ")
  }
}
