// `micro-sidecar tap`: requests of the sidecar that runs here, as they end.

import SidecarBuiltins
import SidecarCore
import SidecarUV

struct TapCommand {
  private let settings: Settings
  private let output: OutputFormat
  private let driver: UVDriver

  init(_ settings: Settings, _ output: OutputFormat, _ driver: UVDriver) {
    self.settings = settings
    self.output = output
    self.driver = driver
  }

  /// Prints until the sidecar or the reader of our output has gone. The reason of a failure, or nil.
  func run(_ filters: [FlagValue]) async -> String? {
    guard let address = settings.adminAddress, address.port != 0 else {
      return "MICRO_ADMIN_ADDRESS says of no port where to look on"
    }
    let host = ["0.0.0.0", "::"].contains(address.host) ? "127.0.0.1" : address.host
    let tls = settings.adminTrust(driver)
    guard let endpoint = HTTPEndpoint(host: host, port: address.port, isTLS: tls != nil) else {
      return "\(address) cannot be dialled"
    }
    let client = HTTPClient(driver: driver, endpoints: [endpoint], tls: tls)
    client.isUnfit = { _ in false }
    client.headers = settings.adminAuthorization
    let query = HTTPText.query(filters.map { ($0.flag, $0.value) })
    do throws(HTTPFailure) {
      let stream = try await client.stream(HTTPRequest(.get, "/tap" + query), within: .seconds(5))
      guard stream.head.status == 200 else {
        let text = try await stream.next(deadline: driver.now.advanced(byNanoseconds: 2_000_000_000)) ?? []
        return "the sidecar at \(endpoint) does not let us look on: "
          + SettingText.trimmed(String(decoding: text, as: UTF8.self))
      }
      var rest: [UInt8] = []
      while let bytes = try await stream.next() {
        rest += bytes
        while let end = rest.firstIndex(of: 0x0A) {
          show(Array(rest[..<end]))
          rest.removeSubrange(...end)
        }
      }
      return nil
    } catch {
      return "no sidecar at \(endpoint): \(error)"
    }
  }

  private func show(_ line: [UInt8]) {
    guard !line.isEmpty else { return }
    if output == .json { return Terminal.print(line + [0x0A]) }
    guard let event = try? JSONValue(parsing: line) else { return }
    if let lost = event["lost"] { return Terminal.error("(\(lost.text()) requests were not shown)\n") }
    func text(_ name: String) -> String {
      guard let value = event[name] else { return "-" }
      let text = value.stringValue ?? value.text()
      // Names come from registries and callers, and this may be a terminal.
      let safe = String(text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7F ? "\u{FFFD}" : Character($0) })
      return safe.isEmpty ? "-" : safe
    }
    let words = ["time", "direction", "dialect", "service", "endpoint", "status", "reason"].map(text)
    Terminal.print(
      words.joined(separator: " ") + " \(text("duration_ms"))ms attempts=\(text("attempts")) node=\(text("node"))\n")
    for name in ["request", "reply"] where event[name] != nil { Terminal.print("  \(name) \(text(name))\n") }
  }
}
