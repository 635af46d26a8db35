// The commands that container engines run beside a sidecar: `ready` for health checks, `wait` before an app starts, `drain`
// before it ends; and `restart`. They ask the admin listener of the sidecar that runs here and never start one.

import SidecarCore
import SidecarUV

/// Threading: its own loop, on the calling thread.
final class AdminCommand: @unchecked Sendable {
  /// Nanoseconds between two questions of `wait`, and for one answer.
  private static let pollInterval: Int64 = 50_000_000
  private static let answerTimeout: Int64 = 2_000_000_000
  /// Taking an app out of its registries has a limit of its own.
  private static let drainTimeout: Int64 = 5_000_000_000
  /// Longer than a new process has to start.
  private static let restartTimeout: Int64 = Succession.startLimit + 10_000_000_000

  private let command: Command
  private let settings: Settings
  private var code = ExitCode.ok

  init(_ command: Command, _ settings: Settings) {
    self.command = command
    self.settings = settings
  }

  func run() -> Int32 {
    guard let address = settings.adminAddress.map(Self.reachable) else {
      Terminal.error("MICRO_ADMIN_ADDRESS is off: there is nobody to ask\n")
      return ExitCode.usage.rawValue
    }
    return runOnLoop { [self] driver in
      switch command {
      case .ready(wait: nil): await ready(address, driver)
      case .ready(wait: let limit?): await wait(address, limit, driver)
      case .drain(let quiet): await drain(address, quiet, driver)
      case .restart: await restart(address, driver)
      default: break
      }
      return code
    }.rawValue
  }

  /// A listener on all addresses is asked on loopback.
  private static func reachable(_ address: SocketAddress) -> SocketAddress {
    guard address.isWildcard else { return address }
    return address.isIPv6
      ? .ipv6(high: 0, low: 1, zone: 0, port: address.port) : .loopback(port: address.port)
  }

  private func fail(_ code: ExitCode, _ message: String) {
    Terminal.error(message + "\n")
    self.code = code
  }

  private func ready(_ address: SocketAddress, _ driver: UVDriver) async {
    do throws(LocalFailure) {
      let reply = try await LocalRequest.send(
        driver, to: address, method: "GET", target: "/readyz", tls: settings.adminTrust(driver),
        timeout: Self.answerTimeout)
      guard reply.status == 200 else { return fail(.failed, Formats.safe(reply.text)) }
      Terminal.print("ready\n")
    } catch {
      fail(.unavailable, "no sidecar at \(address): \(error.message)")
    }
  }

  private func wait(_ address: SocketAddress, _ limit: Int64, _ driver: UVDriver) async {
    let deadline = driver.now.advanced(byNanoseconds: limit)
    var last = "it was not asked"
    repeat {
      do throws(LocalFailure) {
        let reply = try await LocalRequest.send(
          driver, to: address, method: "GET", target: "/startupz", tls: settings.adminTrust(driver),
          timeout: Self.answerTimeout)
        if reply.status == 200 { return }
        last = Formats.safe(reply.text)
      } catch {
        last = error.message
      }
      await driver.pause(nanoseconds: Self.pollInterval)
    } while driver.now < deadline
    fail(.unavailable, "the sidecar at \(address) takes no calls: \(last)")
  }

  private func restart(_ address: SocketAddress, _ driver: UVDriver) async {
    do throws(LocalFailure) {
      let reply = try await LocalRequest.send(
        driver, to: address, method: "POST", target: "/restart", fields: settings.adminAuthorization,
        tls: settings.adminTrust(driver), timeout: Self.restartTimeout)
      guard reply.status == 200 else { return fail(.failed, Formats.safe(reply.text)) }
      Terminal.print(Formats.safe(reply.text) + "\n")
    } catch {
      fail(.unavailable, "no sidecar at \(address): \(error.message)")
    }
  }

  /// The pause is kept even when nothing answers: it is what callers get, and kubelet goes on after a failed hook.
  private func drain(_ address: SocketAddress, _ quiet: Int64, _ driver: UVDriver) async {
    let end = driver.now.advanced(byNanoseconds: quiet)
    do throws(LocalFailure) {
      let reply = try await LocalRequest.send(
        driver, to: address, method: "POST", target: "/drain",
        fields: settings.adminAuthorization, tls: settings.adminTrust(driver), timeout: Self.drainTimeout)
      if reply.status != 200 { fail(.failed, Formats.safe(reply.text)) }
    } catch {
      fail(.unavailable, "no sidecar at \(address): \(error.message)")
    }
    let left = end.nanoseconds(since: driver.now)
    if left > 0 { await driver.pause(nanoseconds: left) }
  }
}

extension LocalReply {
  fileprivate var text: String { String(decoding: body.prefix(1024), as: UTF8.self).trimmingLineEnd }
}
