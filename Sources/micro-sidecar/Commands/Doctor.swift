// `micro-sidecar doctor`: tries what a sidecar needs, one thing after another, and says what is wrong and what to do.

import SidecarBuiltins
import SidecarCore
import SidecarUV

struct Doctor {
  let settings: Settings
  let plugins: PluginTable
  let driver: UVDriver

  func examine() async -> [Formats.Finding] {
    var findings: [Formats.Finding] = []
    for warning in settings.warnings {
      findings.append(Formats.Finding(subject: "settings", verdict: .warning, detail: warning))
    }
    findings.append(await listener("local API", settings.sidecarAddress, "MICRO_SIDECAR_ADDRESS"))
    if let admin = settings.adminAddress {
      findings.append(await listener("admin", admin, "MICRO_ADMIN_ADDRESS"))
      if let difference = await difference(admin) { findings.append(difference) }
    }
    findings.append(await app())
    for choice in settings.registries { findings += await registry(choice) }
    return findings
  }

  /// A port is fine when it is free, or when a sidecar has it.
  private func listener(_ subject: String, _ address: SocketAddress, _ key: String) async -> Formats.Finding {
    if case .unix = address {
    } else if address.port == 0 {
      return Formats.Finding(subject: subject, verdict: .ok, detail: "any free port of \(address.host)")
    }
    do throws(DriverError) {
      try driver.listen(on: address, sharedPort: false) { _ in }.close()
      return Formats.Finding(subject: subject, verdict: .ok, detail: "\(address) is free; no sidecar runs there")
    } catch {
      guard error.code == "EADDRINUSE" else {
        return Formats.Finding(
          subject: subject, verdict: .problem, detail: "\(address) cannot be bound: \(error.message)",
          advice: "choose another address with \(key)")
      }
    }
    let path = subject == "admin" ? "/livez" : "/health"
    do throws(LocalFailure) {
      let reply = try await LocalRequest.send(
        driver, to: address, method: "GET", target: path,
        tls: subject == "admin" ? settings.adminTrust(driver) : nil, timeout: 2_000_000_000)
      let detail = "a sidecar answers at \(address) with \(reply.status)"
      return Formats.Finding(subject: subject, verdict: reply.status < 500 ? .ok : .warning, detail: detail)
    } catch {
      return Formats.Finding(
        subject: subject, verdict: .problem,
        detail: "\(address) is taken by something that does not answer as a sidecar: \(error.message)",
        advice: "find it with `ss -ltnp`, or choose another address with \(key)")
    }
  }

  /// The sidecar that runs here was started with other settings than doctor, which looks at its own; nil when none runs, or
  /// they are the same.
  private func difference(_ admin: SocketAddress) async -> Formats.Finding? {
    guard
      let reply = try? await LocalRequest.send(
        driver, to: admin, method: "GET", target: "/config", fields: settings.adminAuthorization,
        tls: settings.adminTrust(driver), timeout: 2_000_000_000),
      reply.status == 200, let theirs = try? JSONValue(parsing: reply.body), let rows = theirs["settings"]?.arrayValue
    else { return nil }
    var values: [String: JSONValue] = [:]
    for row in rows { values[row["key"]?.stringValue ?? ""] = row["value"] }
    let examined = Set(Settings.table.filter { $0.group == .app || $0.group == .registry }.map(\.key))
    let ours = settings.json()["settings"]?.arrayValue ?? []
    let others = ours.compactMap { row -> String? in
      guard let key = row["key"]?.stringValue, examined.contains(key), let value = values[key] else { return nil }
      return value == row["value"] ? nil : key
    }
    guard !others.isEmpty else { return nil }
    return Formats.Finding(
      subject: "settings", verdict: .warning,
      detail: "the sidecar at \(admin) has others than this shell: \(others.joined(separator: ", "))",
      advice: "what follows is about this shell's; run doctor in the sidecar's environment to examine the sidecar's")
  }

  private func app() async -> Formats.Finding {
    guard let target = settings.appAddress else {
      return Formats.Finding(
        subject: "app", verdict: settings.serverName == nil ? .ok : .warning,
        detail: "no app is configured: the sidecar only makes calls",
        advice: settings.serverName == nil
          ? "" : "MICRO_SERVER_NAME is set; set MICRO_APP_ADDRESS to where the app listens")
    }
    let outcome = await withCheckedContinuation { continuation in
      AppHealthMonitor.askOnce(settings: settings, target: target, driver: driver) {
        continuation.resume(returning: $0)
      }
    }
    switch outcome {
    case .success:
      return Formats.Finding(subject: "app", verdict: .ok, detail: "the app at \(target) answers")
    case .failure(let why):
      return Formats.Finding(
        subject: "app", verdict: .problem, detail: "the app at \(target) \(why)",
        advice: "start it, or correct MICRO_APP_ADDRESS or MICRO_APP_HEALTH")
    }
  }

  private func registry(_ choice: PluginChoice) async -> [Formats.Finding] {
    let subject = "registry \(choice.shown)"
    let registry: any Registry
    do throws(ConfigurationError) {
      registry = try plugins.makeRegistry(choice, settings, driver: driver, log: NoLog())
    } catch {
      return [
        Formats.Finding(
          subject: subject, verdict: .problem, detail: error.message, advice: "correct MICRO_REGISTRY")
      ]
    }
    var findings: [Formats.Finding] = []
    var failure: RegistryError?
    do throws(RegistryError) {
      let names = try await registry.list()
      findings.append(
        Formats.Finding(subject: subject, verdict: .ok, detail: "answers; it knows \(names.count) services"))
    } catch {
      failure = error
    }
    let diagnoses = await (try? (registry as? any DiagnosableRegistry)?.diagnose()) ?? []
    for diagnosis in diagnoses {
      findings.append(
        Formats.Finding(
          subject: diagnosis.subject, verdict: !diagnosis.isProblem ? .ok : failure == nil ? .warning : .problem,
          detail: diagnosis.finding, advice: diagnosis.nextStep ?? ""))
    }
    if let failure, !diagnoses.contains(where: \.isProblem) {
      findings.append(
        Formats.Finding(
          subject: subject, verdict: .problem, detail: failure.description,
          advice: "the sidecar goes on with what it last knew; services are found again once it answers"))
    }
    if let mdns = registry as? MDNSRegistry { await mdns.close() }
    return findings
  }
}
