// Where the TLS of a registry's connections comes from: files named by its options or its environment. They are read for
// each dial, which is rare, so that a certificate that was replaced is used without a restart.

import SidecarCore
import SidecarTLS

/// Threading: the control loop.
package final class TLSSource {
  /// Bytes of one file of certificates: system bundles have 200 KB.
  static let fileBytesMax = 4 << 20

  /// Authorities that may have signed the server's certificate; nil for both: the system's.
  package var caFile: String?
  package var caFolder: String?
  package var certificateFile: String?
  package var keyFile: String?
  /// What the certificate is to be for, where that is not the host that is dialled.
  package var serverName: String?
  /// False: whoever answers is believed.
  package var verifies = true

  /// Only the certificates of `caFile` themselves are trusted, whatever names they are for.
  package var isExact = false

  private let driver: any HostDriver
  private var latest: TLSContext?
  /// Where its certificates are noted, and what they are for there.
  var table: CertificateTable?
  var use = ""

  package init(driver: any HostDriver) { self.driver = driver }

  /// The context of what the files hold now; the same as before while they hold the same. Errors name the file.
  package func context() throws(TLSError) -> TLSContext {
    var configuration = TLSConfiguration()
    if !verifies {
      configuration.trust = .anyone
    } else if let caFile {
      let pem = try read(caFile)
      configuration.trust = isExact ? .exactly(pem) : .authorities(pem)
    } else if let caFolder {
      configuration.trust = .folder(caFolder)
    }
    if let certificateFile { configuration.certificate = try read(certificateFile) }
    if let keyFile { configuration.key = try read(keyFile) }
    if let latest, latest.configuration == configuration { return latest }
    do throws(TLSError) {
      let context = try TLSContext(.client, configuration)
      latest = context
      note(configuration)
      return context
    } catch {
      let files = [caFile, certificateFile, keyFile].compactMap { $0 }.joined(separator: ", ")
      throw TLSError(files.isEmpty ? error.message : "\(files): \(error.message)")
    }
  }

  private func note(_ configuration: TLSConfiguration) {
    guard let table else { return }
    if let caFile, case .authorities(let pem) = configuration.trust, let found = try? TLSContext.describe(pem) {
      table.note(use, .authority, file: caFile, found)
    }
    if let certificateFile, let pem = configuration.certificate, let found = try? TLSContext.describe(pem) {
      table.note(use, .own, file: certificateFile, found)
    }
  }

  private func read(_ path: String) throws(TLSError) -> [UInt8] {
    do throws(DriverError) {
      return try driver.readFile(path, limit: Self.fileBytesMax)
    } catch {
      throw TLSError("\(path): \(error.message)")
    }
  }
}

extension TLSSource {
  /// The options every registry with TLS has.
  static let options = ["ca_file", "ca_path", "cert_file", "key_file", "server_name", "verify"]

  /// What the options say; nil where they say nothing.
  convenience init(_ options: RegistryOptions, driver: any HostDriver) throws(ConfigurationError) {
    self.init(driver: driver)
    caFile = options["ca_file"]
    caFolder = options["ca_path"]
    certificateFile = options["cert_file"]
    keyFile = options["key_file"]
    serverName = options["server_name"]
    verifies = try options.flag("verify", default: true)
    table = options.certificates
    use = options.registry
  }
}
