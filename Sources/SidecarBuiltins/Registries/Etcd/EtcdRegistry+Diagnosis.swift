// What is wrong with etcd, for `micro-sidecar doctor`: each member by itself, then whether we may read.

import SidecarCore

extension EtcdRegistry: DiagnosableRegistry {
  public func diagnose() async throws(RegistryError) -> [Diagnosis] {
    await EtcdDiagnosis(gateway.options, driver).findings(name) { () async throws(RegistryError) in
      try await list().count
    }
  }
}

extension EtcdV2Registry: DiagnosableRegistry {
  public func diagnose() async throws(RegistryError) -> [Diagnosis] {
    await EtcdDiagnosis(options, driver).findings(name) { () async throws(RegistryError) in try await list().count }
  }
}

private struct EtcdDiagnosis {
  private let options: EtcdOptions
  private let driver: any HostDriver

  init(_ options: EtcdOptions, _ driver: any HostDriver) {
    self.options = options
    self.driver = driver
  }

  func findings(_ name: String, _ count: () async throws(RegistryError) -> Int) async -> [Diagnosis] {
    var findings: [Diagnosis] = []
    for endpoint in options.endpoints { findings.append(await member(endpoint)) }
    guard findings.contains(where: { !$0.isProblem }) else { return findings }
    do throws(RegistryError) {
      findings.append(.fine("reading \(name)", "\(try await count()) services"))
    } catch {
      findings.append(
        .problem("reading \(name)", error.description, nextStep: "correct user, password or the role's permissions"))
    }
    return findings
  }

  private func member(_ endpoint: HTTPEndpoint) async -> Diagnosis {
    let subject = "etcd at \(endpoint)"
    let single = HTTPClient(driver: driver, endpoints: [endpoint], tls: options.tls)
    // A member without a leader answers with 503, which is an answer here.
    single.isUnfit = { _ in false }
    do throws(HTTPFailure) {
      let reply = try await single.call(
        HTTPRequest(.get, "/health"), within: .seconds(EtcdGateway.callSeconds))
      guard let health = (try? JSONValue(parsing: reply.body))?["health"] else {
        return .problem(
          subject, "it answers \(reply.status) \(reply.shortText), not as etcd does",
          nextStep: "correct the address in MICRO_REGISTRY: it is that of etcd's clients, 2379 by default")
      }
      guard health.stringValue == "true" || health.boolValue == true else {
        return .problem(
          subject, "it is not healthy: its cluster has no leader, or it cannot write",
          nextStep: "start the missing members and see `etcdctl endpoint status --cluster` and `etcdctl alarm list`")
      }
      single.closeIdle()
      return .fine(subject, "answers and is healthy")
    } catch {
      return .problem(subject, error.cause.description, nextStep: error.nextStep)
    }
  }
}
