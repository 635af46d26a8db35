// One TLS connection without its socket: ciphertext and plaintext in, plaintext and ciphertext out.
//
//   handshake ─ both sides agree ─▶ open ─ peer's close_notify ─▶ read side ended
//        └───────────────── error ───┴──────────────────────────▶ failed, for good
//
// The owner gives `receive` what the socket read, sends what `takeOutput` hands out after every call, and reads with
// `read`. Nothing is kept here but what OpenSSL keeps: its memory is 20 to 40 KB while bytes are under way.

import COpenSSL
import SidecarCore

/// Loop-confined. After a thrown error only `takeOutput` is of use: it may hold the alert for the peer.
package final class TLSSession {
  package enum Peer: Sendable {
    /// We are the client of `host`, whose certificate is to be for that name or address. Nil: any name is taken.
    case server(host: String?)
    /// We are the server.
    case client
  }

  private let context: TLSContext
  let ssl: OpaquePointer
  /// Owned by `ssl`: what came from the peer, and what is to go there.
  private let input: OpaquePointer
  private let output: OpaquePointer
  private let host: String?
  private var failure: TLSError?
  /// The names of a certificate that was refused.
  private var refusedNames: [String] = []
  package private(set) var isEstablished = false
  /// The peer said that it sends no more. A socket that ends without this was cut.
  package private(set) var peerEnded = false

  package init(_ context: TLSContext, peer: Peer) throws(TLSError) {
    self.context = context
    guard let ssl = openssl.SSL_new(context.pointer), let input = openssl.BIO_new(openssl.BIO_s_mem()),
      let output = openssl.BIO_new(openssl.BIO_s_mem())
    else {
      throw TLSError("TLS cannot be used: \(TLSContext.reasons())")
    }
    self.ssl = ssl
    self.input = input
    self.output = output
    openssl_retry_when_empty(opensslFunctions, input)
    openssl_retry_when_empty(opensslFunctions, output)
    openssl.SSL_set_bio(ssl, input, output)
    switch peer {
    case .client:
      host = nil
      precondition(context.role == .server, "a client's context does not serve")
      openssl.SSL_set_accept_state(ssl)
    case .server(let host):
      self.host = host
      precondition(context.role == .client, "a server's context does not dial")
      openssl.SSL_set_connect_state(ssl)
      if case .exactly = context.configuration.trust { break }
      if let host { try expect(host) }
    }
    // OpenSSL calls the context's functions from within our calls only.
    _ = openssl.SSL_set_ex_data(ssl, 0, Unmanaged.passUnretained(self).toOpaque())
  }

  deinit { openssl.SSL_free(ssl) }

  private func expect(_ host: String) throws(TLSError) {
    guard let verification = openssl.SSL_get0_param(ssl) else { throw TLSError("TLS cannot be used: no memory") }
    let isSet: Bool
    if SocketAddress(host: host, port: 0) != nil {
      isSet = openssl.X509_VERIFY_PARAM_set1_ip_asc(verification, host) == 1
    } else {
      // SNI is for names only (RFC 6066 §3).
      isSet = openssl_set_server_name(opensslFunctions, ssl, host) == 1 && openssl.SSL_set1_host(ssl, host) == 1
      openssl.X509_VERIFY_PARAM_set_hostflags(verification, UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS))
    }
    guard isSet else { throw TLSError("\"\(host)\" cannot be the name of a server's certificate") }
  }

  /// What was agreed by ALPN; nil when nothing was.
  package var negotiatedProtocol: String? {
    var name: UnsafePointer<UInt8>?
    var count: UInt32 = 0
    openssl.SSL_get0_alpn_selected(ssl, &name, &count)
    guard let name, count > 0 else { return nil }
    return String(decoding: UnsafeBufferPointer(start: name, count: Int(count)), as: UTF8.self)
  }

  /// The peer has shown a certificate that we trust.
  package var hasPeerCertificate: Bool {
    isEstablished && openssl.SSL_get0_peer_certificate(ssl) != nil && context.configuration.trust != .anyone
  }

  /// `TLSv1.3`, for people.
  package var version: String { openssl.SSL_get_version(ssl).map { String(cString: $0) } ?? "" }

  // MARK: Bytes

  /// Takes ciphertext from the peer and goes on with the handshake where it is not over.
  package func receive(_ bytes: UnsafeRawBufferPointer) throws(TLSError) {
    if let failure { throw failure }
    var rest = bytes
    while rest.count > 0 {
      let part = Int32(clamping: rest.count)
      guard openssl.BIO_write(input, rest.baseAddress, part) == part else {
        throw fail(TLSError("TLS has no memory left"))
      }
      rest = UnsafeRawBufferPointer(rebasing: rest[Int(part)...])
    }
    if !isEstablished { try handshake() }
  }

  /// Begins the handshake, or goes on with it. The client calls it once before it has received anything.
  package func handshake() throws(TLSError) {
    if let failure { throw failure }
    guard !isEstablished else { return }
    openssl.ERR_clear_error()
    let result = openssl.SSL_do_handshake(ssl)
    if result == 1 {
      isEstablished = true
      return
    }
    switch openssl.SSL_get_error(ssl, result) {
    case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE: return
    default: throw fail(handshakeFailure())
    }
  }

  /// Appends all plaintext that can be had now to `buffer`.
  package func read(into buffer: ByteBuffer) throws(TLSError) {
    if let failure { throw failure }
    guard isEstablished, !peerEnded else { return }
    while true {
      openssl.ERR_clear_error()
      buffer.reserve(Self.recordMax)
      let count = openssl.SSL_read(ssl, buffer.base + buffer.count, Int32(Self.recordMax))
      if count > 0 {
        buffer.advance(Int(count))
        continue
      }
      switch openssl.SSL_get_error(ssl, count) {
      case SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE: return
      case SSL_ERROR_ZERO_RETURN:
        peerEnded = true
        return
      default: throw fail(handshakeFailure())
      }
    }
  }

  /// Bytes of plaintext in one record (RFC 8446 §5.1).
  private static let recordMax = 16 * 1024

  /// Encrypts all of `bytes`. Only once the handshake is over.
  package func write(_ bytes: UnsafeRawBufferPointer) throws(TLSError) {
    if let failure { throw failure }
    precondition(isEstablished, "nothing can be sent before the handshake is over")
    var rest = bytes
    while rest.count > 0 {
      openssl.ERR_clear_error()
      let count = openssl.SSL_write(ssl, rest.baseAddress, Int32(clamping: rest.count))
      guard count > 0 else { throw fail(TLSError("TLS cannot send: \(TLSContext.reasons())")) }
      rest = UnsafeRawBufferPointer(rebasing: rest[Int(count)...])
    }
  }

  /// Moves the ciphertext that is to be sent to the end of `buffer`.
  package func takeOutput(into buffer: ByteBuffer) {
    while case let pending = openssl.BIO_ctrl_pending(output), pending > 0 {
      let part = Int32(clamping: pending)
      buffer.reserve(Int(part))
      let count = openssl.BIO_read(output, buffer.base + buffer.count, part)
      guard count > 0 else { return }
      buffer.advance(Int(count))
    }
  }

  /// Says to the peer that we send no more.
  package func close() {
    guard failure == nil, isEstablished else { return }
    openssl.ERR_clear_error()
    _ = openssl.SSL_shutdown(ssl)
    openssl.ERR_clear_error()
  }

  // MARK: What went wrong

  private func fail(_ error: TLSError) -> TLSError {
    failure = error
    return error
  }

  private func handshakeFailure() -> TLSError {
    let code = openssl.SSL_get_verify_result(ssl)
    if code != X509_V_OK, context.configuration.trust != .anyone { return TLSError(verification(code)) }
    let error = openssl.ERR_peek_error()
    let reason = openssl_reason(error)
    defer { openssl.ERR_clear_error() }
    switch reason {
    case SSL_R_WRONG_VERSION_NUMBER, SSL_R_HTTP_REQUEST, SSL_R_PACKET_LENGTH_TOO_LONG, SSL_R_UNEXPECTED_MESSAGE:
      return TLSError("it does not speak TLS at this port: use http:// without TLS, or the port that has it")
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED, SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, SSL_R_TLSV1_ALERT_UNKNOWN_CA,
      SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED,
      SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED, SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      if context.role == .server { break }
      let own = context.configuration.certificate == nil
      return TLSError(
        own
          ? "it asks for a client's certificate: name one with the options cert_file and key_file"
          : "it does not take our certificate (\(TLSContext.reasons())): name one that its authority has signed with "
            + "the options cert_file and key_file")
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, SSL_R_UNSUPPORTED_PROTOCOL:
      return TLSError("it speaks no TLS of version 1.2 or newer: update it")
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE where context.configuration.certificate == nil && context.role == .client:
      return TLSError(
        "it broke off the handshake: it may ask for a client's certificate (options cert_file and key_file)")
    default: break
    }
    return TLSError("TLS failed: \(TLSContext.reasons())")
  }

  private func verification(_ code: Int) -> String {
    let said = openssl.X509_verify_cert_error_string(code).map { String(cString: $0) } ?? "error \(code)"
    switch Int32(clamping: code) {
    case X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH:
      let names = refusedNames.isEmpty ? "no name that counts" : refusedNames.joined(separator: ", ")
      return "its certificate is for \(names), not for \(host ?? "")"
        + ": dial it by a name of its certificate, or say which with the option server_name"
    case X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID:
      return "its certificate is not valid now (\(said)): renew it, or set this machine's clock"
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
      X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN,
      X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_CERT_UNTRUSTED:
      return "its certificate is signed by nobody we trust (\(said)): name its authority with the option ca_file"
    default: return "its certificate is not taken: \(said)"
    }
  }

  /// Called while the peer's certificate is looked at, and something is wrong with it.
  static func refused(_ verification: OpaquePointer) {
    guard
      let ssl = openssl.X509_STORE_CTX_get_ex_data(verification, openssl.SSL_get_ex_data_X509_STORE_CTX_idx()),
      let session = openssl.SSL_get_ex_data(OpaquePointer(ssl), 0),
      let certificate = openssl.X509_STORE_CTX_get0_cert(verification)
    else { return }
    Unmanaged<TLSSession>.fromOpaque(session).takeUnretainedValue().refusedNames = names(of: certificate)
  }

  /// The names and addresses that a certificate is for, a few of them.
  private static func names(of certificate: OpaquePointer) -> [String] {
    guard let extensionData = openssl.X509_get_ext_d2i(certificate, NID_subject_alt_name, nil, nil) else { return [] }
    let list = OpaquePointer(extensionData)
    defer { openssl.GENERAL_NAMES_free(list) }
    var names: [String] = []
    for index in 0..<min(openssl.OPENSSL_sk_num(list), 8) {
      guard let item = openssl.OPENSSL_sk_value(list, index) else { continue }
      let name = item.assumingMemoryBound(to: GENERAL_NAME.self)
      var kind: Int32 = 0
      guard let value = openssl.GENERAL_NAME_get0_value(name, &kind), kind == GEN_DNS || kind == GEN_IPADD else {
        continue
      }
      let text = value.assumingMemoryBound(to: ASN1_STRING.self)
      let bytes = UnsafeBufferPointer(
        start: openssl.ASN1_STRING_get0_data(text), count: Int(openssl.ASN1_STRING_length(text)))
      if kind == GEN_DNS {
        names.append(String(decoding: bytes.map { $0 < 0x21 || $0 > 0x7E ? 0x3F : $0 }, as: UTF8.self))
      } else if let address = SocketAddress(bytes: bytes, port: 0) {
        names.append(address.host)
      }
    }
    return names
  }
}
