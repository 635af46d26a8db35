// Listening sockets: shared ports, Unix paths, and a process out of descriptors.

import Glibc
import SidecarCore
import Testing

@testable import SidecarUV

@Suite struct UVListenerTests {
  @Test func severalLoopsShareAPortAndOthersAreRefusedIt() async throws {
    let first = try UVThread.start(name: "test-share-1") { _ in }
    let second = try UVThread.start(name: "test-share-2") { _ in }
    defer {
      for thread in [first, second] {
        thread.stop()
        thread.join()
      }
    }
    let address = try await first.run { (driver, report: Report<SocketAddress>) in
      let listener = try driver.listen(on: .loopback(port: 0), sharedPort: true) { $0.handler = Recorder() }
      report.succeed(listener.address)
    }
    let (shared, refusal) = try await second.run { (driver, report: Report<(SocketAddress, DriverError?)>) in
      let listener = try driver.listen(on: address, sharedPort: true) { $0.handler = Recorder() }
      do throws(DriverError) {
        _ = try driver.listen(on: address, sharedPort: false) { _ in }
        report.succeed((listener.address, nil))
      } catch { report.succeed((listener.address, error)) }
    }
    #expect(shared == address)
    #expect(refusal?.code == "EADDRINUSE")
    #expect(refusal?.operation.contains("\(address)") == true)
  }

  @Test func theIPv6WildcardTakesIPv4CallersToo() async throws {
    let connected = try await onLoop { (driver, report: Report<Bool>) in
      let listener = try driver.listen(on: .ipv6(high: 0, low: 0, zone: 0, port: 0), sharedPort: false) {
        $0.handler = Recorder()
      }
      let side = Recorder()
      side.opened = { _ in report.succeed(true) }
      side.closed = { _, _ in report.succeed(false) }
      report.keep(driver.connect(to: .loopback(port: listener.address.port), handler: side))
    }
    #expect(connected)
  }

  @Test func aClosedListenerFreesItsPortAtOnceAndLeavesItsStreams() async throws {
    let text = try await onLoop { (driver, report: Report<String>) in
      try driver.makePair { pair in
        // The pair's listener is closed by now.
        guard let address = pair.far.localAddress else { return report.succeed("no address") }
        do {
          let again = try driver.listen(on: address, sharedPort: false) { _ in }
          again.close()
          again.close()
        } catch { return report.fail(error) }
        pair.farSide.read = { _, _ in report.succeed(pair.farSide.text) }
        pair.near.write("still here")
      }
    }
    #expect(text == "still here")
  }

  @Test func aUnixSocketIsForThisUserAndItsPathGoesWithTheListener() async throws {
    let path = temporaryPath("socket")
    let mode = try await onLoop { (driver, report: Report<UInt32>) in
      let listener = try driver.listen(on: .unix(path: path), sharedPort: false) { _ in }
      var status = stat()
      stat(path, &status)
      listener.close()
      report.succeed(status.st_mode & 0o777)
    }
    #expect(mode == 0o600)
    #expect(access(path, F_OK) != 0)
  }

  @Test func anInheritedSocketServesWhoWaitedInItsQueueAndKeepsItsPath() async throws {
    let path = temporaryPath("socket")
    let isServed = try await onLoop { (driver, report: Report<Bool>) in
      let old = try driver.listen(on: .unix(path: path), sharedPort: false) { _ in Issue.record("the old one accepted")
      }
      guard let number = old.descriptor else { return report.succeed(false) }
      let copy = try UVDriver.copy(of: number)
      // Connected by the system at once, and accepted by nobody yet.
      let side = Recorder()
      report.keep(driver.connect(to: .unix(path: path), handler: side))
      old.leave()
      #expect(old.descriptor == nil)
      #expect(access(path, F_OK) == 0)
      let new = try driver.listen(inheriting: copy) { stream in
        stream.handler = Recorder()
        report.succeed(true)
      }
      UVDriver.close(copy)
      report.keep(new)
      #expect(new.address == .unix(path: path))
    }
    #expect(isServed)
    #expect(access(path, F_OK) != 0, "the last listener takes the path away")
  }

  @Test func aNumberThatIsNoSocketIsNotListenedAt() async throws {
    let code = try await onLoop { (driver, report: Report<String>) in
      do throws(DriverError) {
        _ = try driver.listen(inheriting: 4095) { _ in }
        report.succeed("listens")
      } catch { report.succeed(error.code) }
    }
    #expect(code == "EBADF")
  }

  @Test func aStaleUnixSocketIsReplacedAndALiveOneIsNot() async throws {
    let path = temporaryPath("socket")
    // Bound and never removed, as a process leaves it that was killed.
    let leftOver = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    try bind(leftOver, to: .unix(path: path))
    close(leftOver)
    let refusal = try await onLoop { (driver, report: Report<DriverError?>) in
      report.keep(try driver.listen(on: .unix(path: path), sharedPort: false) { $0.handler = Recorder() })
      do throws(DriverError) {
        _ = try driver.listen(on: .unix(path: path), sharedPort: false) { _ in }
        report.succeed(nil)
      } catch { report.succeed(error) }
    }
    #expect(refusal?.code == "EADDRINUSE")
  }

  @Test func aFileThatIsNoSocketIsNeverRemoved() async throws {
    let path = temporaryPath("precious")
    let refusal = try await onLoop { (driver, report: Report<DriverError?>) in
      try driver.writeFile(path, Array("precious".utf8), mode: 0o600)
      do throws(DriverError) {
        _ = try driver.listen(on: .unix(path: path), sharedPort: false) { _ in }
        report.succeed(nil)
      } catch { report.succeed(error) }
    }
    #expect(refusal?.code == "EADDRINUSE")
    #expect(access(path, F_OK) == 0)
    unlink(path)
  }

  @Test func aListenerLeavesThePathOfItsSuccessorAlone() async throws {
    let path = temporaryPath("socket")
    let isThere = try await onLoop { (driver, report: Report<Bool>) in
      let old = try driver.listen(on: .unix(path: path), sharedPort: false) { _ in }
      unlink(path)
      let new = try driver.listen(on: .unix(path: path), sharedPort: false) { _ in }
      old.close()
      report.succeed(access(path, F_OK) == 0)
      new.close()
    }
    #expect(isThere)
  }

  @Test func anAcceptedStreamWithoutAHandlerIsReset() async throws {
    let end = try await onLoop { (driver, report: Report<StreamEnd>) in
      let listener = try driver.listen(on: .loopback(port: 0), sharedPort: false) { _ in }
      let side = Recorder()
      side.closed = { _, end in report.succeed(end) }
      report.keep(driver.connect(to: listener.address, handler: side))
    }
    // The reset may be there before the loop looks at the dial, which then has failed.
    switch end {
    case .reset(let message), .unreachable(let message): #expect(message.contains("ECONNRESET"))
    case .closedHere, .ended, .refused: Issue.record("ended with \(end)")
    }
  }

  /// In a child process, because the limit of descriptors is the whole process's.
  @Test func outOfDescriptorsItRestsAndGoesOnWhenThereAreSome() async {
    await #expect(processExitsWith: .success) {
      var limit = rlimit()
      getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
      limit.rlim_cur = 64
      setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
      let (served, cpuMilliseconds) = try await onLoop { (driver, report: Report<(Int, Int)>) in
        var served = 0
        var streams: [ByteStream] = []
        let listener = try driver.listen(on: .loopback(port: 0), sharedPort: false) { stream in
          served += 1
          let side = Recorder()
          side.ended = { $0.close() }
          stream.handler = side
        }
        // Sockets that are ours but not the driver's wait in the backlog; then every descriptor is used up.
        var callers: [Int32] = []
        for _ in 0..<8 {
          let caller = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
          _ = try listener.address.withSockaddr("connect") { Glibc.connect(caller, $0, $1) }
          callers.append(caller)
        }
        var spare: [Int32] = []
        while true {
          let descriptor = dup(callers[0])
          if descriptor < 0 { break }
          spare.append(descriptor)
        }
        // Dialling fails as an event, too.
        let side = Recorder()
        var dialEnd: StreamEnd?
        side.closed = { _, end in dialEnd = end }
        streams.append(driver.connect(to: listener.address, handler: side))
        // Of the loop's thread alone: the process has others, of the test library's, which may close a descriptor as well,
        // so that one or two calls get through.
        func loopMilliseconds() -> Int {
          var time = timespec()
          clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
          return time.tv_sec * 1000 + time.tv_nsec / 1_000_000
        }
        let started = loopMilliseconds()
        let release = LoopTimer {
          let used = loopMilliseconds() - started
          precondition(served < 4)
          guard case .unreachable(let message)? = dialEnd, message.contains("EMFILE") else {
            preconditionFailure("dial ended with \(String(describing: dialEnd))")
          }
          for descriptor in spare { close(descriptor) }
          let poll = PollTimer(driver) {
            if served < 8 { return true }
            for caller in callers { close(caller) }
            report.succeed((served, used))
            return false
          }
          report.keep(poll)
        }
        report.keep(release)
        driver.timers.arm(release, after: 500_000_000, from: driver.now)
      }
      precondition(served == 8)
      // Half a second without descriptors: a loop that spun would have used most of it.
      precondition(cpuMilliseconds < 200, "\(cpuMilliseconds) ms of CPU")
    }
  }
}

/// Asks `again` each few milliseconds until it says no: for states of the kernel that no callback announces.
final class PollTimer {
  private var timer: LoopTimer?
  init(_ driver: UVDriver, again: @escaping () -> Bool) {
    let timer = LoopTimer { [unowned self, unowned driver] in
      if again(), let timer = self.timer { driver.timers.arm(timer, after: 5_000_000, from: driver.now) }
    }
    self.timer = timer
    driver.timers.arm(timer, after: 0, from: driver.now)
  }
}
