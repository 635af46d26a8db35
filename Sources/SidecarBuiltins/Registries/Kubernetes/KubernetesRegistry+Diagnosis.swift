// What the doctor asks of a cluster: each verb the registry needs, tried at each API server without changing anything.

import SidecarCore

extension KubernetesRegistry {
  public func diagnose() async throws(RegistryError) -> [Diagnosis] {
    var findings: [Diagnosis] = []
    for endpoint in api.client.endpoints {
      let single = KubernetesAPI(api, at: endpoint)
      findings += await examine(single, "API server \(endpoint)")
      single.client.closeIdle()
    }
    return findings
  }

  private func examine(_ api: KubernetesAPI, _ subject: String) async -> [Diagnosis] {
    let endpoint = api.client.endpoints[0]
    do throws(HTTPFailure) {
      _ = try await api.client.call(HTTPRequest(.get, "/version"), within: .seconds(3))
    } catch {
      return [.problem(subject, error.cause.description, nextStep: error.nextStep)]
    }
    var findings: [Diagnosis] = []
    var verbs = ["list", "watch"]
    if api.options.mode == .pods { verbs.append("patch") }
    for verb in verbs {
      do throws(RegistryError) {
        let (status, body) = try await attempt(verb, api)
        guard (200...299).contains(status) else {
          findings.append(problem(status, body, verb, api, endpoint))
          // Nothing else will be allowed either.
          if status == 401 { break }
          continue
        }
      } catch {
        findings.append(.problem("\(subject): \(verb)", error.description, nextStep: "see the API server's log"))
      }
    }
    if findings.isEmpty {
      let place = api.options.namespace == "*" ? "all namespaces" : "namespace \(api.options.namespace)"
      findings.append(.fine(subject, "allows \(verbs.joined(separator: ", ")) on \(api.resource) in \(place)"))
    }
    return findings
  }

  private func attempt(_ verb: String, _ api: KubernetesAPI) async throws(RegistryError) -> (Int, [UInt8]) {
    switch verb {
    case "list":
      let reply = try await api.list(limit: 1, next: nil)
      return (reply.status, reply.body)
    case "watch":
      let stream = try await api.watch(after: "", seconds: 1)
      defer { stream.close() }
      if stream.head.status == 200 { return (200, []) }
      return (stream.head.status, (try? await stream.next()) ?? [])
    default:
      let reply = try await api.patchPod([:], isTrial: true)
      return (reply.status, reply.body)
    }
  }

  private func problem(
    _ status: Int, _ body: [UInt8], _ verb: String, _ api: KubernetesAPI, _ endpoint: HTTPEndpoint
  ) -> Diagnosis {
    let subject = "API server \(endpoint): \(verb)"
    let said = (try? JSONValue(parsing: body))?["message"]?.stringValue ?? HTTPText.short(body)
    switch status {
    case 401:
      return .problem(
        subject, "it does not accept the token: \(said)",
        nextStep: "mount the service account's token (automountServiceAccountToken), or name one with token_file=PATH")
    case 403: return .problem(subject, "not allowed: \(said)", nextStep: api.rule(verb))
    case 404 where verb == "patch":
      return .problem(
        subject, "there is no pod \(api.options.pod) in namespace \(api.options.podNamespace)",
        nextStep: "set POD_NAME and POD_NAMESPACE from the downward API (metadata.name, metadata.namespace)")
    default:
      return .problem(
        subject, "\(status) \(said)", nextStep: "correct the address in MICRO_REGISTRY: is it an API server?")
    }
  }
}
