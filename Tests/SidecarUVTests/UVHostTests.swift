// Names, signals, files and processes.

import Glibc
import SidecarCore
import Testing

@testable import SidecarUV

@Suite struct UVHostTests {
  @Test func localhostAndLiteralsResolveAndNonsenseFails() async throws {
    let (answers, inside) = try await onLoop {
      (driver, report: Report<([String: Result<[SocketAddress], DriverError>], Bool)>) in
      var answers: [String: Result<[SocketAddress], DriverError>] = [:]
      var isInside = true
      var wasInside = false
      let hosts = ["localhost", "192.0.2.7", "::1", "no.such.host.invalid", "", "a\0b"]
      for host in hosts {
        driver.resolve(host: host) { answer in
          answers[host] = answer
          wasInside = wasInside || isInside
          if answers.count == hosts.count { report.succeed((answers, wasInside)) }
        }
      }
      isInside = false
    }
    #expect(!inside)
    let localhost = try answers["localhost"]?.get() ?? []
    #expect(localhost.contains(.loopback(port: 0)))
    #expect(localhost.first?.isIPv6 == false)
    #expect(try answers["192.0.2.7"]?.get() == [.ipv4(address: 0xC000_0207, port: 0)])
    #expect(try answers["::1"]?.get() == [.ipv6(high: 0, low: 1, zone: 0, port: 0)])
    for nonsense in ["no.such.host.invalid", "", "a\0b"] {
      #expect(throws: DriverError.self, "\(nonsense)") { try answers[nonsense]?.get() }
    }
  }

  @Test func theLoopbackInterfaceIsListedWithItsIndex() async throws {
    let interfaces = try await onLoop { (driver, report: Report<[NetworkInterface]>) in
      report.succeed(driver.interfaces())
    }
    let loopback = interfaces.first { $0.address == .loopback(port: 0) }
    #expect(loopback?.isUp == true)
    #expect(loopback?.index == if_nametoindex("lo"))
  }

  @Test func eachArrivalOfASignalIsHeard() async throws {
    let count = try await onLoop { (driver, report: Report<Int>) in
      var count = 0
      try driver.onSignal(SIGUSR2) {
        count += 1
        if count == 3 { report.succeed(count) } else { kill(getpid(), SIGUSR2) }
      }
      kill(getpid(), SIGUSR2)
    }
    #expect(count == 3)
  }

  @Test func anImpossibleSignalIsAnError() async throws {
    let code = try await onLoop { (driver, report: Report<String?>) in
      do throws(DriverError) {
        try driver.onSignal(SIGKILL) {}
        report.succeed(nil)
      } catch { report.succeed(error.code) }
    }
    #expect(code == "EINVAL")
  }

  // MARK: Processes

  @Test(arguments: [
    (["sh", "-c", "exit 7"], ChildExit(status: 7, signal: 0)),
    (["true"], ChildExit(status: 0, signal: 0)),
    (["sh", "-c", "kill -9 $$"], ChildExit(status: 137, signal: 9)),
    (["sh", "-c", "exit $ONLY"], ChildExit(status: 5, signal: 0)),
  ])
  func aChildsEndIsReported(arguments: [String], expected: ChildExit) async throws {
    let exit = try await onLoop { (driver, report: Report<ChildExit>) in
      let environment = arguments.last == "exit $ONLY" ? ["ONLY": "5", "PATH": "/bin:/usr/bin"] : nil
      report.keep(try driver.spawn(arguments, environment: environment) { report.succeed($0) })
    }
    #expect(exit == expected)
  }

  @Test func aChildCanBeSignalledUntilItIsGone() async throws {
    let (signalled, after, alive) = try await onLoop { (driver, report: Report<([Bool], Bool, [Bool])>) in
      var child: (any ChildProcess)?
      var signalled: [Bool] = []
      var alive: [Bool] = []
      child = try driver.spawn(["cat", "/dev/zero"], environment: nil) { exit in
        alive.append(driver.isAlive(processID: child?.processID ?? 0))
        report.succeed((signalled, child?.signal(SIGTERM) ?? true, alive))
      }
      alive.append(driver.isAlive(processID: child?.processID ?? 0))
      signalled.append(child?.signal(SIGTERM) ?? false)
    }
    #expect(signalled == [true])
    #expect(!after)
    #expect(alive == [true, false])
  }

  @Test(arguments: [[], [""], ["no-such-program-anywhere"], ["/etc"]] as [[String]])
  func aProgramThatCannotStartIsAnError(arguments: [String]) async throws {
    let code = try await onLoop { (driver, report: Report<String?>) in
      do throws(DriverError) {
        _ = try driver.spawn(arguments, environment: nil) { _ in report.succeed("exited") }
        report.succeed(nil)
      } catch { report.succeed(error.code) }
    }
    #expect(["EINVAL", "ENOENT", "EACCES"].contains(code))
  }

  @Test func theProcessKnowsItself() async throws {
    let (id, alive, bytes, name) = try await onLoop { (driver, report: Report<(Int32, [Bool], Int, String)>) in
      let alive = [driver.isAlive(processID: driver.processID), driver.isAlive(processID: 1)]
      report.succeed(
        (
          driver.processID, alive + [driver.isAlive(processID: 0), driver.isAlive(processID: -1)],
          driver.residentBytes, driver.hostName
        ))
    }
    #expect(id == getpid())
    #expect(alive == [true, true, false, false])
    #expect(bytes > 1_000_000)
    #expect(!name.isEmpty)
  }

  // MARK: Files

  @Test func filesAreWrittenWholeReadWholeAndListed() async throws {
    let folder = temporaryPath("folder")
    let (bytes, mode, names) = try await onLoop { (driver, report: Report<([UInt8], UInt32, [String])>) in
      try driver.makeFolder(folder + "/inner", mode: 0o700)
      try driver.makeFolder(folder + "/inner", mode: 0o700)
      let path = folder + "/inner/file"
      try driver.writeFile(path, pattern(100_000), mode: 0o640)
      try driver.writeFile(path, pattern(5_000), mode: 0o640)
      try driver.writeFile(folder + "/inner/another", [], mode: 0o600)
      var status = stat()
      stat(path, &status)
      let result = (
        try driver.readFile(path, limit: 5_000), status.st_mode & 0o777, try driver.listFolder(folder + "/inner")
      )
      try driver.removeFile(path)
      try driver.removeFile(folder + "/inner/another")
      rmdir(folder + "/inner")
      rmdir(folder)
      report.succeed(result)
    }
    #expect(bytes == pattern(5_000))
    #expect(mode == 0o640)
    // No temporary file is left behind.
    #expect(names == ["another", "file"])
  }

  @Test func fileErrorsSayWhatWasTried() async throws {
    let errors = try await onLoop { (driver, report: Report<[DriverError]>) in
      var errors: [DriverError] = []
      func note(_ body: () throws(DriverError) -> Void) {
        do throws(DriverError) { try body() } catch { errors.append(error) }
      }
      let path = temporaryPath("file")
      try driver.writeFile(path, pattern(11), mode: 0o600)
      note { () throws(DriverError) in _ = try driver.readFile(path, limit: 10) }
      note { () throws(DriverError) in _ = try driver.readFile(path + ".not", limit: 10) }
      note { () throws(DriverError) in try driver.writeFile("/no/such/folder/x", [1], mode: 0o600) }
      note { () throws(DriverError) in try driver.removeFile(path + ".not") }
      note { () throws(DriverError) in _ = try driver.listFolder(path) }
      note { () throws(DriverError) in try driver.makeFolder(path, mode: 0o700) }
      try driver.removeFile(path)
      report.succeed(errors)
    }
    #expect(errors.map(\.code) == ["EFBIG", "ENOENT", "ENOENT", "ENOENT", "ENOTDIR", "EEXIST"])
    #expect(errors.allSatisfy { $0.operation.contains("/") })
  }

  @Test(arguments: ["write in place", "rename over", "create", "remove", "Kubernetes volume", "entry of a folder"])
  func aWatchSeesEachKindOfChange(kind: String) async throws {
    let folder = temporaryPath("watched")
    let milliseconds = try await onLoop { (driver, report: Report<Int64>) in
      let path = folder + "/config.yaml"
      try driver.makeFolder(folder, mode: 0o700)
      if kind == "Kubernetes volume" {
        // config.yaml → ..data/config.yaml, and ..data → a dated folder: an update moves the second link.
        for (name, text) in [("..old", "old"), ("..new", "newer")] {
          try driver.makeFolder("\(folder)/\(name)", mode: 0o700)
          try driver.writeFile("\(folder)/\(name)/config.yaml", Array(text.utf8), mode: 0o600)
        }
        symlink("..old", folder + "/..data")
        symlink("..data/config.yaml", path)
      } else if kind != "create" {
        try driver.writeFile(path, Array("old".utf8), mode: 0o600)
      }
      let start = monotonicNanoseconds()
      let watch = try driver.watchFile(kind == "entry of a folder" ? folder : path) {
        report.succeed(Int64(monotonicNanoseconds() - start) / 1_000_000)
      }
      report.keep(watch)
      switch kind {
      case "write in place":
        // The same size within the same tick of the kernel's clock.
        let file = open(path, O_WRONLY)
        write(file, "new", 3)
        close(file)
      case "remove": try driver.removeFile(path)
      case "Kubernetes volume":
        symlink("..new", folder + "/..data_tmp")
        rename(folder + "/..data_tmp", folder + "/..data")
      case "entry of a folder": try driver.writeFile(folder + "/new", [1], mode: 0o600)
      default: try driver.writeFile(path, Array("new".utf8), mode: 0o600)
      }
    }
    // By the event, not by the look every five seconds.
    #expect(milliseconds < UVFileWatch.recheckInterval / 1_000_000 / 2)
    removeTree(folder)
  }

  @Test func aCancelledWatchIsSilentAndUnrelatedFilesAreNotReported() async throws {
    let folder = temporaryPath("watched")
    let changes = try await onLoop { (driver, report: Report<[String]>) in
      try driver.makeFolder(folder, mode: 0o700)
      var changes: [String] = []
      let cancelled = try driver.watchFile(folder + "/a") { changes.append("cancelled") }
      cancelled.cancel()
      cancelled.cancel()
      let watch = try driver.watchFile(folder + "/b") {
        changes.append("b")
        report.succeed(changes)
      }
      report.keep(watch)
      try driver.writeFile(folder + "/a", [1], mode: 0o600)
      try driver.writeFile(folder + "/unrelated", [1], mode: 0o600)
      let last = LoopTimer { try? driver.writeFile(folder + "/b", [1], mode: 0o600) }
      report.keep(last)
      driver.timers.arm(last, after: 20_000_000, from: driver.now)
    }
    #expect(changes == ["b"])
    removeTree(folder)
  }

  @Test func aFolderThatComesLaterIsFoundByTheRecheck() async throws {
    let folder = temporaryPath("late")
    let changed = try await onLoop { (driver, report: Report<Bool>) in
      report.keep(try driver.watchFile(folder + "/config") { report.succeed(true) })
      try driver.makeFolder(folder, mode: 0o700)
      try driver.writeFile(folder + "/config", [1], mode: 0o600)
    }
    #expect(changed)
    removeTree(folder)
  }
}

private func removeTree(_ path: String) {
  guard path.hasPrefix("/tmp/sidecar-test-") else { return }
  if unlink(path) == 0 { return }
  if let folder = opendir(path) {
    while let entry = readdir(folder) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        String(cString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
      }
      if name != ".", name != ".." { removeTree("\(path)/\(name)") }
    }
    closedir(folder)
  }
  rmdir(path)
}
