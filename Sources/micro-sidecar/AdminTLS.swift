// TLS at the admin listener, on either side of it.

import SidecarBuiltins
import SidecarCore
import SidecarTLS
import SidecarUV

/// Threading: the control loop.
final class AdminTLS: AdminSecurity {
  private let files: CertificateFiles
  private let driver: UVDriver
  private let log: any LogSink

  /// Nil: the settings ask for none. Errors: a file that cannot be used.
  init?(_ settings: Settings, _ table: CertificateTable, _ driver: UVDriver, _ log: any LogSink) throws(TLSError) {
    guard let certificate = settings.adminCertificateFile, let key = settings.adminKeyFile else { return nil }
    files = try CertificateFiles(
      certificateFile: certificate, keyFile: key, clientAuthorityFile: settings.adminClientAuthorityFile, use: "admin",
      table: table, driver: driver, log: log)
    self.driver = driver
    self.log = log
  }

  func secure(_ stream: ByteStream) -> ByteStream? {
    do throws(TLSError) {
      return try TLSStream(accepting: stream, files.context, driver)
    } catch {
      log.error("a connection to the admin listener cannot be secured: \(error.message)")
      return nil
    }
  }

  func reload() { files.reload() }
}

extension Settings {
  /// How commands find the admin listener's certificate good: it is the one that the same settings name. Nil: it speaks no
  /// TLS.
  func adminTrust(_ driver: UVDriver) -> TLSSource? {
    guard let adminCertificateFile else { return nil }
    let source = TLSSource(driver: driver)
    source.caFile = adminCertificateFile
    source.isExact = true
    source.certificateFile = adminClientCertificateFile
    source.keyFile = adminClientKeyFile
    return source
  }

  /// The header fields by which the admin listener knows us.
  var adminAuthorization: [(String, String)] {
    adminToken.map { [("Authorization", "Bearer " + $0)] } ?? []
  }
}
