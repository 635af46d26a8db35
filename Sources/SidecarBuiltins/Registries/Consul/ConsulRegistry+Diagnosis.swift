// What is wrong with Consul, for `micro-sidecar doctor`: each server by itself, its leader, and whether our token may read.

import SidecarCore

extension ConsulRegistry: DiagnosableRegistry {
  public func diagnose() async throws(RegistryError) -> [Diagnosis] {
    var findings: [Diagnosis] = []
    for endpoint in options.endpoints { findings.append(await finding(endpoint)) }
    guard findings.contains(where: { !$0.isProblem }) else { return findings }
    do throws(RegistryError) {
      // With ACLs a reader without permission is not refused, but shown nothing, not even Consul itself.
      let names = try await list()
      findings.append(
        names.isEmpty
          ? .problem(
            "reading consul's catalog", "it shows no service, not even consul",
            nextStep: "give a token with service:read and node:read (option token or token_file)")
          : .fine("reading consul's catalog", "\(names.count) services, consul itself among them"))
    } catch {
      findings.append(
        .problem(
          "reading consul's catalog", error.description, nextStep: "correct dc, ns or the token in MICRO_REGISTRY"))
    }
    return findings
  }

  private func finding(_ endpoint: HTTPEndpoint) async -> Diagnosis {
    let subject = "consul at \(endpoint)"
    let single = HTTPClient(driver: driver, endpoints: [endpoint], tls: options.tls)
    do throws(HTTPFailure) {
      let reply = try await single.call(HTTPRequest(.get, "/v1/status/leader"), within: .seconds(Self.callSeconds))
      guard reply.isSuccess, let leader = (try? JSONValue(parsing: reply.body))?.stringValue else {
        return .problem(
          subject, "it answers \(reply.status) \(reply.shortText), not as consul does",
          nextStep: "correct the address in MICRO_REGISTRY: it is that of consul's HTTP API, 8500 by default")
      }
      guard !leader.isEmpty else {
        return .problem(
          subject, "its cluster has no leader, so nothing can be written",
          nextStep: "start the missing servers, or see `consul operator raft list-peers` and their logs")
      }
      single.closeIdle()
      return .fine(subject, "answers; the leader is \(leader)")
    } catch {
      return .problem(subject, error.cause.description, nextStep: error.nextStep)
    }
  }
}
