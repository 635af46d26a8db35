// What the registries said last, kept in a file, so that a sidecar that starts while they are down knows the services of
// before. Such content is marked stale until its registry answers, exactly as that of a registry that was lost.
//
//   restored at the start ─▶ catalog ── a change, at most every five seconds ──▶ written beside and renamed over

/// Threading: the control loop only.
package final class SnapshotFile {
  /// Bytes of the file that are read; a larger one is not used.
  package static let bytesMax = 64 << 20
  /// Nanoseconds between two writes.
  package static let writeInterval: Int64 = 5_000_000_000
  private static let format = 1

  private let path: String
  private let catalog: Catalog
  private let driver: any HostDriver
  private let log: any LogSink
  private var isDirty = false
  private var hasFailed = false
  private var timer: LoopTimer?

  package init(_ path: String, catalog: Catalog, driver: any HostDriver, log: any LogSink) {
    self.path = path
    self.catalog = catalog
    self.driver = driver
    self.log = log
    timer = LoopTimer { [unowned self] in save() }
  }

  deinit { timer?.cancel() }

  /// Fills the catalog with what the file has of its registries. Call it before they are watched. A file that is not there
  /// is none; one that cannot be used is told of and left alone until the next write.
  package func restore() {
    let bytes: [UInt8]
    do throws(DriverError) {
      bytes = try driver.readFile(path, limit: Self.bytesMax)
    } catch {
      if error.code != "ENOENT" {
        log.warning("the registry snapshot \(path) cannot be read", [("cause", error.message)])
      }
      return
    }
    do throws(WireError) {
      try Self.restore(try JSONValue(parsing: bytes), into: catalog, driver, log)
    } catch {
      log.warning("the registry snapshot \(path) is not used", [("cause", "\(error)")])
    }
  }

  /// Fills `catalog` with what `content` made of another.
  package static func restore(
    _ file: JSONValue, into catalog: Catalog, _ driver: any Driver, _ log: any LogSink
  ) throws(WireError) {
    guard file["format"]?.intValue == format else { throw WireError("its format is not known to this version") }
    for member in file["registries"]?.objectValue ?? [] {
      guard let index = catalog.registryNames.firstIndex(of: member.key) else { continue }
      var services: [Service] = []
      for value in member.value["services"]?.arrayValue ?? [] { services.append(try Service(json: value)) }
      let written = member.value["confirmed"]?.intValue ?? 0
      let age = max(driver.unixNanoseconds / 1_000_000_000 - Int64(written), 0)
      catalog.restore(services, from: index, confirmed: driver.now.advanced(by: .seconds(-age)))
      log.info(
        "registry \(member.key): \(services.count) services are known from before, until it answers",
        [("age_seconds", "\(age)")])
    }
  }

  /// Begins to follow the catalog.
  package func start() {
    catalog.observe { [weak self] _ in self?.changed() }
  }

  private func changed() {
    isDirty = true
    if let timer, !timer.isArmed { driver.timers.arm(timer, after: Self.writeInterval, from: driver.now) }
  }

  /// Writes what has not been written yet.
  package func stop() {
    timer?.cancel()
    save()
  }

  /// What the registries said last.
  package static func content(_ catalog: Catalog, _ driver: any Driver) -> JSONValue {
    let unixSeconds = driver.unixNanoseconds / 1_000_000_000
    var registries: [JSONValue.Member] = []
    for (index, state) in catalog.states(now: driver.now).enumerated() where state.phase != .waiting {
      let confirmed = unixSeconds - state.age.saturatingNanoseconds / 1_000_000_000
      registries.append(
        .init(
          state.name,
          [
            "confirmed": JSONValue(Int(confirmed)),
            "services": .array(catalog.content(of: index).map { $0.json() }),
          ]))
    }
    return .object([.init("format", JSONValue(format)), .init("registries", .object(registries))])
  }

  private func save() {
    guard isDirty else { return }
    isDirty = false
    let text = ByteBuffer(capacity: 64 << 10)
    Self.content(catalog, driver).write(into: text)
    do throws(DriverError) {
      try driver.writeFile(path, Array(text.bytes), mode: 0o600)
      hasFailed = false
    } catch {
      if !hasFailed { log.warning("the registry snapshot \(path) cannot be written", [("cause", error.message)]) }
      hasFailed = true
    }
  }
}
