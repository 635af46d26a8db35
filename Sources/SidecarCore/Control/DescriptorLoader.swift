// The descriptors of MICRO_DESCRIPTORS' files, which are watched. `DescriptorDirectory` puts them together with those that
// servers tell.
//
//   sound ── a file becomes bad, or goes ──▶ stale (the last good content stays, said once) ── good again ──▶ sound

/// Threading: the control loop only.
package final class DescriptorLoader {
  /// Bytes of one file; more is an error.
  package static let fileBytesMax = 64 * 1024 * 1024
  /// Nanoseconds between the first sign of a change and the reading: a build tool empties a file before it fills it.
  static let settleNanoseconds: Int64 = 100_000_000

  /// What the files held when they were last good.
  package private(set) var current = Descriptors.none
  /// Called after every change of `current`.
  package var onChange: ((Descriptors) -> Void)?

  private let files: [DescriptorFile]
  private let driver: any HostDriver
  private let log: any LogSink
  private var watches: [any FileWatch] = []
  private var timer: LoopTimer?
  /// Why the files cannot be used now; nil while they can.
  private var outage: String?

  /// Reads all files. Errors: one that is missing or bad, or two that contradict each other; the message names them.
  package init(_ files: [DescriptorFile], driver: any HostDriver, log: any LogSink) throws(ConfigurationError) {
    self.files = files
    self.driver = driver
    self.log = log
    guard !files.isEmpty else { return }
    do throws(DescriptorError) {
      current = try Self.read(files, driver)
    } catch {
      throw ConfigurationError("MICRO_DESCRIPTORS: \(error)")
    }
    timer = LoopTimer { [unowned self] in reload() }
    for path in Set(files.map(\.path)).sorted() {
      do throws(DriverError) {
        watches.append(try driver.watchFile(path) { [weak self] in self?.changed() })
      } catch {
        throw ConfigurationError("MICRO_DESCRIPTORS: \(path) cannot be watched: \(error.message)")
      }
    }
  }

  deinit {
    timer?.cancel()
    for watch in watches { watch.cancel() }
  }

  // MARK: Files

  /// Files for all services make one pool, those bound to a service one each.
  private static func read(
    _ files: [DescriptorFile], _ driver: any HostDriver
  ) throws(DescriptorError) -> Descriptors {
    var sets: [ServiceName?: [DescriptorPool.Source]] = [:]
    for file in files {
      let bytes: [UInt8]
      do throws(DriverError) {
        bytes = try driver.readFile(file.path, limit: fileBytesMax)
      } catch {
        throw DescriptorError(
          "\(file.path) cannot be read: \(error.message); make it with "
            + "protoc --include_imports --descriptor_set_out=\(file.path) FILE.proto")
      }
      sets[file.service, default: []].append(DescriptorPool.Source(name: file.path, bytes: bytes))
    }
    var common: DescriptorPool?
    var bound: [ServiceName: DescriptorPool] = [:]
    for (service, sources) in sets {
      let pool = try DescriptorPool(sets: sources)
      if let service { bound[service] = pool } else { common = pool }
    }
    return Descriptors(common: common, bound: bound)
  }

  private func changed() {
    guard let timer, !timer.isArmed else { return }
    driver.timers.arm(timer, after: Self.settleNanoseconds, from: driver.now)
  }

  private func reload() {
    do throws(DescriptorError) {
      current = try Self.read(files, driver)
    } catch {
      guard outage != error.message else { return }
      outage = error.message
      log.error("\(error); the last good descriptors stay in use")
      return
    }
    outage = nil
    log.info("descriptors were read again", [("files", files.map(\.description).joined(separator: ","))])
    onChange?(current)
  }
}
