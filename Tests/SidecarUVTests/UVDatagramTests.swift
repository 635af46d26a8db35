// UDP, and multicast as far as this machine lets it.

import Glibc
import SidecarCore
import Testing

@testable import SidecarUV

/// Hands each datagram to a closure.
private final class Ear: DatagramHandler {
  struct Datagram: Sendable, Equatable {
    var bytes: [UInt8]
    var peer: SocketAddress
    var interface: UInt32
  }
  var heard: (Datagram) -> Void = { _ in }
  func datagramReceived(
    _ socket: DatagramSocket, _ bytes: UnsafeRawBufferPointer, from peer: SocketAddress, interface: UInt32
  ) { heard(Datagram(bytes: Array(bytes), peer: peer, interface: interface)) }
}

@Suite struct UVDatagramTests {
  @Test(arguments: [SocketAddress.loopback(port: 0), .ipv6(high: 0, low: 1, zone: 0, port: 0)], [0, 1, 9_000, 65_000])
  func aDatagramArrivesWholeWithItsSenderAndInterface(address: SocketAddress, size: Int) async throws {
    let bytes = pattern(size)
    let (datagram, sender, loopback) = try await onLoop {
      (driver, report: Report<(Ear.Datagram, SocketAddress, UInt32?)>) in
      let ear = Ear()
      let receiver = try driver.bindDatagram(to: address, sharedPort: false, handler: ear)
      let sender = try driver.bindDatagram(to: address, sharedPort: false, handler: Ear())
      let index = driver.interfaces().first { $0.isLoopback }?.index
      ear.heard = { report.succeed(($0, sender.address, index)) }
      report.keep(receiver)
      if !sender.send(bytes, to: receiver.address) { report.fail(DriverError(errno: "send")) }
    }
    #expect(datagram.bytes == bytes)
    #expect(datagram.peer == sender)
    #expect(datagram.interface == loopback)
  }

  @Test func aDatagramTooLargeOrSentAfterTheCloseIsNotTaken() async throws {
    let taken = try await onLoop { (driver, report: Report<[Bool]>) in
      let socket = try driver.bindDatagram(to: .loopback(port: 0), sharedPort: false, handler: Ear())
      var taken = [socket.send([UInt8](repeating: 0, count: 70_000), to: socket.address)]
      // IPv6 on an IPv4 socket, and a path.
      taken.append(socket.send([1], to: .ipv6(high: 0, low: 1, zone: 0, port: 9)))
      taken.append(socket.send([1], to: .unix(path: "/tmp/x")))
      socket.close()
      socket.close()
      taken.append(socket.send([1], to: .loopback(port: 9)))
      #expect(throws: DriverError.self) { try socket.setMulticastLoopback(true) }
      report.succeed(taken)
    }
    #expect(taken == [false, false, false, false])
  }

  @Test func aRefusedDatagramDoesNotStopTheSocket() async throws {
    let heard = try await onLoop { (driver, report: Report<[UInt8]>) in
      let ear = Ear()
      let socket = try driver.bindDatagram(to: .loopback(port: 0), sharedPort: false, handler: ear)
      let gone = try driver.bindDatagram(to: .loopback(port: 0), sharedPort: false, handler: Ear())
      let nobody = gone.address
      gone.close()
      ear.heard = { report.succeed($0.bytes) }
      for _ in 0..<5 { socket.send([0], to: nobody) }
      socket.send([7], to: socket.address)
      report.keep(socket)
    }
    #expect(heard == [7])
  }

  @Test func aHandlerMayCloseItsSocketWhileMoreDatagramsWait() async throws {
    let count = try await onLoop { (driver, report: Report<Int>) in
      let ear = Ear()
      let socket = try driver.bindDatagram(to: .loopback(port: 0), sharedPort: false, handler: ear)
      var count = 0
      ear.heard = { _ in
        count += 1
        socket.close()
      }
      let address = socket.address
      let sender = try driver.bindDatagram(to: .loopback(port: 0), sharedPort: false, handler: Ear())
      for _ in 0..<10 { sender.send([1], to: address) }
      let check = LoopTimer { report.succeed(count) }
      report.keep((check, socket, sender))
      driver.timers.arm(check, after: 30_000_000, from: driver.now)
    }
    #expect(count == 1)
  }

  @Test func onlyASharedPortCanBeBoundTwice() async throws {
    let (shared, refusal) = try await onLoop { (driver, report: Report<(Bool, String?)>) in
      let first = try driver.bindDatagram(to: .loopback(port: 0), sharedPort: true, handler: Ear())
      let second = try driver.bindDatagram(to: first.address, sharedPort: true, handler: Ear())
      report.keep((first, second))
      do throws(DriverError) {
        _ = try driver.bindDatagram(to: first.address, sharedPort: false, handler: Ear())
        report.succeed((first.address == second.address, nil))
      } catch { report.succeed((first.address == second.address, error.code)) }
    }
    #expect(shared)
    #expect(refusal == "EADDRINUSE")
  }

  /// A group of the local scope, so that nothing real listens.
  private static let v4Group: UInt32 = 0xEFFF_4D53
  private static let v6Group = (high: 0xFF02_0000_0000_0000 as UInt64, low: 0x4D53 as UInt64)

  @Test(arguments: ["every IPv4 interface", "every IPv6 interface"])
  func multicastReachesEachMemberOnTheInterfaceItWasSentBy(family: String) async throws {
    let wantsIPv6 = family.contains("IPv6")
    let outcomes = try await onLoop { (driver, report: Report<[String: String]>) in
      // The loopback interface carries multicast when asked by name, although it has not the flag.
      let candidates = driver.interfaces().filter {
        $0.isUp && $0.address.isIPv6 == wantsIPv6 && ($0.isMulticastCapable || ($0.isLoopback && !wantsIPv6))
          && (!wantsIPv6 || ($0.address.host.hasPrefix("fe80")))
      }
      var outcomes: [String: String] = [:]
      var waiting = candidates.count
      if waiting == 0 { report.succeed([:]) }
      for interface in candidates {
        let key = "\(interface.name) \(interface.address.host)"
        do throws(DriverError) {
          let any: SocketAddress =
            wantsIPv6 ? .ipv6(high: 0, low: 0, zone: 0, port: 0) : .ipv4(address: 0, port: 0)
          let ears = [Ear(), Ear()]
          let first = try driver.bindDatagram(to: any, sharedPort: true, handler: ears[0])
          let second = try driver.bindDatagram(to: first.address, sharedPort: true, handler: ears[1])
          let group: SocketAddress =
            wantsIPv6
            ? .ipv6(
              high: Self.v6Group.high, low: Self.v6Group.low, zone: interface.index, port: first.address.port)
            : .ipv4(address: Self.v4Group, port: first.address.port)
          var heard = 0
          for (socket, ear) in zip([first, second], ears) {
            try socket.join(group: group, interface: interface.address)
            try socket.setMulticastInterface(interface.address)
            try socket.setMulticastLoopback(true)
            ear.heard = { datagram in
              guard datagram.bytes == [42], outcomes[key] == nil else { return }
              if datagram.interface != interface.index {
                outcomes[key] = "came by interface \(datagram.interface), not \(interface.index)"
              }
              heard += 1
              if heard == 2, outcomes[key] == nil { outcomes[key] = "heard" }
            }
            report.keep(socket)
          }
          if !first.send([42], to: group) { outcomes[key] = "not sent" }
        } catch { outcomes[key] = error.description }
        waiting -= 1
      }
      let poll = PollTimer(driver) {
        report.progress = "\(outcomes) of \(candidates.count)"
        if outcomes.count < candidates.count { return true }
        report.succeed(outcomes)
        return false
      }
      report.keep(poll)
    }
    if outcomes.isEmpty {
      print("SKIPPED: no up \(family.dropFirst(6)) here to try multicast on")
    }
    #expect(outcomes.allSatisfy { $0.value == "heard" }, "\(outcomes)")
  }

  @Test func whoHasLeftAGroupHearsNoMoreOfIt() async throws {
    let heard = try await onLoop { (driver, report: Report<[UInt8]>) in
      let ear = Ear()
      let loopback = SocketAddress.loopback(port: 0)
      let socket = try driver.bindDatagram(to: .ipv4(address: 0, port: 0), sharedPort: true, handler: ear)
      let group = SocketAddress.ipv4(address: Self.v4Group, port: socket.address.port)
      try socket.setMulticastInterface(loopback)
      try socket.join(group: group, interface: loopback)
      var heard: [UInt8] = []
      ear.heard = { datagram in
        heard += datagram.bytes
        guard datagram.bytes == [1] else { return report.succeed(heard) }
        do { try socket.leave(group: group, interface: loopback) } catch { return report.fail(error) }
        socket.send([2], to: group)
        // Unicast still comes, and after what was sent before it.
        socket.send([3], to: .loopback(port: socket.address.port))
      }
      socket.send([1], to: group)
    }
    #expect(heard == [1, 3])
  }
}
