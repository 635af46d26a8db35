// A listener's own certificate: read from files, and again when they change. A certificate that cannot be used leaves the
// one before in use; connections that stand keep theirs.

import SidecarCore

/// Threading: the control loop.
package final class CertificateFiles {
  /// Bytes of one file.
  static let fileBytesMax = 1 << 20
  /// Nanoseconds between the first sign of a change and the reading: certificate and key are two files.
  static let settleNanoseconds: Int64 = 100_000_000

  package private(set) var context: TLSContext
  /// Times that other files were taken over, and that they could not be.
  package private(set) var reloads = 0
  package private(set) var failures = 0

  private let certificateFile: String
  private let keyFile: String
  /// Who signs the certificates of clients; nil: none are asked for.
  private let clientAuthorityFile: String?
  private let use: String
  private let table: CertificateTable
  private let driver: any HostDriver
  private let log: any LogSink
  private var watches: [any FileWatch] = []
  private var lastFailure: String?
  private var settleTimer: LoopTimer?

  /// `use`: what `table` calls them. With `clientAuthorityFile` a client may show a certificate, which that authority must
  /// have signed. Errors: the files are not there or cannot be used, in a sentence that names them.
  package init(
    certificateFile: String, keyFile: String, clientAuthorityFile: String? = nil, use: String, table: CertificateTable,
    driver: any HostDriver, log: any LogSink
  ) throws(TLSError) {
    self.certificateFile = certificateFile
    self.keyFile = keyFile
    self.clientAuthorityFile = clientAuthorityFile
    self.use = use
    self.table = table
    self.driver = driver
    self.log = log
    context = try Self.read(certificateFile, keyFile, clientAuthorityFile, driver, before: nil)
    note()
    settleTimer = LoopTimer { [unowned self] in reload() }
    for path in Set([certificateFile, keyFile, clientAuthorityFile].compactMap { $0 }).sorted() {
      do throws(DriverError) {
        watches.append(try driver.watchFile(path) { [weak self] in self?.changed() })
      } catch {
        log.warning("\(path) cannot be watched: \(error.message); SIGHUP has it read again")
      }
    }
  }

  deinit {
    settleTimer?.cancel()
    for watch in watches { watch.cancel() }
  }

  private func changed() {
    guard let settleTimer, !settleTimer.isArmed else { return }
    driver.timers.arm(settleTimer, after: Self.settleNanoseconds, from: driver.now)
  }

  /// Reads the files now.
  package func reload() {
    do throws(TLSError) {
      let next = try Self.read(certificateFile, keyFile, clientAuthorityFile, driver, before: context)
      lastFailure = nil
      guard next !== context else { return }
      context = next
      note()
      reloads += 1
      log.info("the certificate was replaced", [("file", certificateFile)])
    } catch {
      guard lastFailure != error.message else { return }
      lastFailure = error.message
      failures += 1
      log.error("the new certificate is not used, the one before stays: \(error.message)")
    }
  }

  private func note() {
    if let pem = context.configuration.certificate, let found = try? TLSContext.describe(pem) {
      table.note(use, .own, file: certificateFile, found)
    }
    if let clientAuthorityFile, case .authorities(let pem) = context.configuration.trust,
      let found = try? TLSContext.describe(pem)
    {
      table.note(use, .authority, file: clientAuthorityFile, found)
    }
  }

  /// The same context while the files say the same.
  private static func read(
    _ certificateFile: String, _ keyFile: String, _ clientAuthorityFile: String?, _ driver: any HostDriver,
    before: TLSContext?
  ) throws(TLSError) -> TLSContext {
    var configuration = TLSConfiguration()
    configuration.certificate = try bytes(certificateFile, driver)
    configuration.key = try bytes(keyFile, driver)
    if let clientAuthorityFile {
      configuration.trust = .authorities(try bytes(clientAuthorityFile, driver))
      configuration.asksForClientCertificate = true
    }
    // API servers prefer HTTP/2 where it is offered.
    configuration.protocols = ["http/1.1"]
    if let before, before.configuration == configuration { return before }
    do throws(TLSError) {
      return try TLSContext(.server, configuration)
    } catch {
      throw TLSError("\(certificateFile), \(keyFile): \(error.message)")
    }
  }

  private static func bytes(_ path: String, _ driver: any HostDriver) throws(TLSError) -> [UInt8] {
    do throws(DriverError) {
      return try driver.readFile(path, limit: fileBytesMax)
    } catch {
      throw TLSError("\(path): \(error.message)")
    }
  }
}
