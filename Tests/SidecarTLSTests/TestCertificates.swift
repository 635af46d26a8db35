// Certificates made for one run by the `openssl` command: an authority, a server's, a client's, and those of an authority
// that nobody trusts.

import Foundation
import SidecarTLS

struct TestCertificates {
  let authority: [UInt8]
  let server: [UInt8]
  let serverKey: [UInt8]
  let client: [UInt8]
  let clientKey: [UInt8]
  let stranger: [UInt8]
  let strangerKey: [UInt8]
  /// Where their files are, for programs that want such.
  let folder: URL

  static let made = Result { try TestCertificates() }

  private init() throws {
    folder = FileManager.default.temporaryDirectory.appendingPathComponent("micro-sidecar-tls-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    try Self.makeAuthority("ca", in: folder)
    try Self.makeAuthority("other", in: folder)
    try Self.makeCertificate(
      "server", names: "DNS:registry.test,DNS:localhost,IP:127.0.0.1,IP:::1", by: "ca", in: folder)
    try Self.makeCertificate("client", names: "DNS:client.test", by: "ca", in: folder)
    try Self.makeCertificate("stranger", names: "DNS:registry.test", by: "other", in: folder)
    authority = try Self.bytes("ca", in: folder)
    server = try Self.bytes("server", in: folder)
    serverKey = try Self.bytes("server-key", in: folder)
    client = try Self.bytes("client", in: folder)
    clientKey = try Self.bytes("client-key", in: folder)
    stranger = try Self.bytes("stranger", in: folder)
    strangerKey = try Self.bytes("stranger-key", in: folder)
  }

  private static func bytes(_ name: String, in folder: URL) throws -> [UInt8] {
    Array(try Data(contentsOf: folder.appendingPathComponent(name + ".pem")))
  }

  private static let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"]

  private static func makeAuthority(_ name: String, in folder: URL) throws {
    try openssl(
      ["req", "-x509", "-out", "\(name).pem", "-days", "2", "-subj", "/CN=\(name)"] + key + ["\(name)-key.pem"],
      in: folder)
  }

  private static func makeCertificate(_ name: String, names: String, by authority: String, in folder: URL) throws {
    try openssl(["req", "-new", "-out", "\(name).csr", "-subj", "/CN=\(name)"] + key + ["\(name)-key.pem"], in: folder)
    try Data("subjectAltName=\(names)\n".utf8).write(to: folder.appendingPathComponent(name + ".ext"))
    try openssl(
      [
        "x509", "-req", "-in", "\(name).csr", "-CA", "\(authority).pem", "-CAkey", "\(authority)-key.pem",
        "-CAcreateserial", "-out", "\(name).pem", "-days", "2", "-extfile", "\(name).ext",
      ], in: folder)
  }

  private static func openssl(_ arguments: [String], in folder: URL) throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = ["openssl"] + arguments
    process.currentDirectoryURL = folder
    process.standardError = FileHandle.nullDevice
    process.standardOutput = FileHandle.nullDevice
    try process.run()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else { throw TLSError("openssl \(arguments[0]) failed") }
  }
}
