// How sidecars of one user on one host find each other where multicast does not work: a private folder with a file for each
// process that has registered something.
//
//   $XDG_RUNTIME_DIR/micro-sidecar, /run/user/<uid>/micro-sidecar or /tmp/micro-sidecar-<uid>, mode 0700
//     <pid>-<random>.json   {"pid":…,"host":"…","renewed":<unix seconds>,"services":[<registry JSON>…]}
//
// A file counts while its process lives. Process ids mean nothing to a container that shares the folder but not the
// process table, so the owner also renews its file, and a file is deleted only when its process is gone and it has not
// been renewed for a while; an owner whose file was deleted writes it again.

import SidecarCore

final class MDNSRendezvous {
  /// Files read; further ones are left out, which is logged once.
  static let filesMaximum = 1024
  /// Bytes of one file; a longer one is left out.
  static let fileBytesMaximum = 4 << 20
  /// How often the owner renews its file, in seconds.
  static let renewalSeconds: Int64 = 30
  /// Nanoseconds between two writings of the file because of changes.
  static let writeInterval: Int64 = 20_000_000
  /// Seconds without renewal after which a file no longer counts.
  static let staleSeconds: Int64 = 120

  private struct Neighbour: Equatable {
    var bytes: [UInt8]
    /// When these bytes were first read. What is stale is judged by this clock: the wall's may jump.
    var seen: Instant
    var processID: Int32
    var host: String
    var services: [Service]
    /// Already old by the wall clock when first read.
    var wasStale: Bool
  }

  private let driver: any HostDriver
  private let log: any LogSink
  private let folderWanted: String?
  private(set) var folder: String?
  /// Why there is no folder to meet in.
  private(set) var failure: String?
  private var watch: (any FileWatch)?
  private let fileName: String
  /// What this process has registered, asked when it is written.
  private let own: () -> [Service]
  private var hasFile = false
  private var isWriteDue = false
  private var writeTimer: LoopTimer?
  private var lastWrite = Instant(nanoseconds: 0)
  private var renewedAt: Int64 = 0
  /// What was read, by file name.
  private var files: [String: Neighbour] = [:]
  /// The services of those that count.
  private var living: [String: [Service]] = [:]
  private var garbage: Set<String> = []
  /// Files that could not be used, each time they were read.
  private(set) var garbageCount = 0
  private var isReadingDue = false
  /// Told of the neighbours' nodes that came or changed or went (nil), and of those whose process died, on the loop.
  var onChange: (([MDNSNodeKey: Service?], _ died: [MDNSNodeKey]) -> Void)?

  init(driver: any HostDriver, log: any LogSink, folder: String?, own: @escaping () -> [Service]) {
    self.driver = driver
    self.own = own
    self.log = log
    folderWanted = folder
    fileName = "\(driver.processID)-\(String(driver.random.next(), radix: 16)).json"
  }

  var neighbourCount: Int { living.count }

  /// Makes or finds the folder and reads it. Where none can be used, says why and stays without.
  func start() {
    var reasons: [String] = []
    for candidate in candidates where folder == nil {
      do throws(DriverError) {
        try driver.makePrivateFolder(candidate)
        watch = try driver.watchFile(candidate) { [weak self] in self?.changed() }
        folder = candidate
      } catch {
        reasons.append("\(candidate): \(error)")
      }
    }
    guard folder != nil else {
      failure = reasons.joined(separator: "; ")
      return
    }
    read()
  }

  private var candidates: [String] {
    if let folderWanted { return [folderWanted] }
    let user = driver.userID
    let runtime = driver.environmentVariable("XDG_RUNTIME_DIR").flatMap { $0.hasPrefix("/") ? $0 : nil }
    return [runtime.map { $0 + "/micro-sidecar" }, "/run/user/\(user)/micro-sidecar", "/tmp/micro-sidecar-\(user)"]
      .compactMap { $0 }
  }

  /// What this process has registered changed. The file is written at the end of the turn, or `writeInterval` after it was
  /// last written: registering a thousand nodes does not write a thousand files.
  func ownChanged() {
    guard folder != nil, !isWriteDue else { return }
    isWriteDue = true
    let next = lastWrite.advanced(byNanoseconds: Self.writeInterval)
    if next <= driver.now {
      driver.later { [weak self] in self?.writeIfDue() }
      return
    }
    let timer = writeTimer ?? LoopTimer { [weak self] in self?.writeIfDue() }
    writeTimer = timer
    driver.timers.arm(timer, at: next)
  }

  private func writeIfDue() {
    guard isWriteDue else { return }
    isWriteDue = false
    write()
  }

  /// Renews our file and looks who has died; due every few seconds.
  func housekeep() {
    guard folder != nil else { return }
    if hasFile, seconds - renewedAt >= Self.renewalSeconds { write() }
    if !files.isEmpty { read() }
  }

  /// Takes our file away and stops.
  func close() {
    writeTimer?.cancel()
    isWriteDue = false
    watch?.cancel()
    watch = nil
    if hasFile, let folder { try? driver.removeFile(folder + "/" + fileName) }
    hasFile = false
    folder = nil
    files = [:]
    living = [:]
  }

  private var seconds: Int64 { driver.unixNanoseconds / 1_000_000_000 }

  private func write() {
    guard let folder else { return }
    let path = folder + "/" + fileName
    let services = own()
    lastWrite = driver.now
    do throws(DriverError) {
      guard !services.isEmpty else {
        if hasFile { try driver.removeFile(path) }
        hasFile = false
        return
      }
      renewedAt = seconds
      let json: JSONValue = [
        "pid": JSONValue(driver.processID), "host": .string(driver.hostName), "renewed": JSONValue(renewedAt),
        "services": .array(services.map { $0.json() }),
      ]
      let buffer = ByteBuffer()
      json.write(into: buffer)
      try driver.writeFile(path, Array(buffer.bytes), mode: 0o600)
      hasFile = true
      failure = nil
    } catch {
      if failure == nil {
        log.warning("sidecars on this host cannot meet in \(folder): \(error)", [("registry", "mdns")])
      }
      failure = error.description
    }
  }

  /// Several changes of one turn are one reading.
  private func changed() {
    guard !isReadingDue else { return }
    isReadingDue = true
    driver.later { [weak self] in
      self?.isReadingDue = false
      self?.read()
    }
  }

  private func read() {
    guard let folder else { return }
    var names: [String]
    do throws(DriverError) {
      names = try driver.listFolder(folder)
    } catch {
      failure = error.description
      return
    }
    let isOwnMissing = hasFile && !names.contains(fileName)
    names = names.filter { $0.hasSuffix(".json") && $0 != fileName }
    if names.count > Self.filesMaximum {
      complain("*", "\(names.count) files in \(folder), only \(Self.filesMaximum) are read")
      names.removeLast(names.count - Self.filesMaximum)
    }
    let now = driver.now
    var found: [String: [Service]] = [:]
    var all: [String: Neighbour] = [:]
    var died: [MDNSNodeKey] = []
    for name in names {
      guard let neighbour = neighbour(name, in: folder) else { continue }
      all[name] = neighbour
      let silence = now.nanoseconds(since: neighbour.seen) / 1_000_000_000
      let isDead = neighbour.host == driver.hostName && !driver.isAlive(processID: neighbour.processID)
      if !isDead, !neighbour.wasStale, silence <= Self.staleSeconds {
        found[name] = neighbour.services
        continue
      }
      if living[name] != nil {
        died += neighbour.services.flatMap { service in
          service.nodes.map { MDNSNodeKey(service: service.name, id: $0.id) }
        }
      }
      // Gone for certain; a file that cannot be removed is merely ignored.
      if isDead, neighbour.wasStale || silence > Self.staleSeconds { try? driver.removeFile(folder + "/" + name) }
    }
    if isOwnMissing { write() }
    files = all
    guard found != living else { return }
    let (old, new) = (Self.nodes(living), Self.nodes(found))
    living = found
    var changes: [MDNSNodeKey: Service?] = [:]
    for (key, service) in new where old[key] != service { changes[key] = .some(service) }
    for key in old.keys where new[key] == nil { changes[key] = .some(nil) }
    onChange?(changes, died)
  }

  /// Each node with its service; where two files name the same, the last file in their order counts.
  private static func nodes(_ files: [String: [Service]]) -> [MDNSNodeKey: Service] {
    var nodes: [MDNSNodeKey: Service] = [:]
    for service in files.keys.sorted().flatMap({ files[$0] ?? [] }) {
      for node in service.nodes {
        var single = service
        single.nodes = [node]
        nodes[MDNSNodeKey(service: service.name, id: node.id)] = single
      }
    }
    return nodes
  }

  private func neighbour(_ name: String, in folder: String) -> Neighbour? {
    do {
      let bytes = try driver.readFile(folder + "/" + name, limit: Self.fileBytesMaximum)
      if let known = files[name], known.bytes == bytes { return known }
      let json = try JSONValue(parsing: bytes)
      guard let processID = json["pid"]?.intValue.flatMap({ Int32(exactly: $0) }), processID > 0,
        let host = json["host"]?.stringValue, let renewed = json["renewed"]?.intValue.map(Int64.init),
        let services = json["services"]?.arrayValue
      else { throw WireError("not a sidecar's file") }
      // A file that changes while it is watched is fresh, whatever the wall clock says.
      let wasStale = files[name] == nil && abs(seconds - renewed) > Self.staleSeconds
      var neighbour = Neighbour(
        bytes: bytes, seen: driver.now, processID: processID, host: host, services: [], wasStale: wasStale)
      for service in services { neighbour.services.append(try Service(json: service)) }
      return neighbour
    } catch let error as WireError {
      garbageCount += 1
      complain(name, "\(folder)/\(name) is left out: \(error)")
      return nil
    } catch {
      // Removed between listing and reading.
      return nil
    }
  }

  private func complain(_ what: String, _ sentence: @autoclosure () -> String) {
    guard garbage.count < Self.filesMaximum, garbage.insert(what).inserted else { return }
    log.warning(sentence(), [("registry", "mdns")])
  }
}
