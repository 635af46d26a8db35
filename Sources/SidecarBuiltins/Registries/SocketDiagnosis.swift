// What `doctor` says of the registries that speak protocols of their own: which server does not answer and why, and what to
// do about it.

import SidecarCore

extension RegistryError {
  /// What to do about servers that are spoken to without HTTP; `signIn` names the options of credentials.
  fileprivate func nextStep(signIn: String) -> String {
    let text = description.lowercased()
    if text.contains("refused") { return "start it there, or correct the address in MICRO_REGISTRY" }
    if text.contains("authorization") || text.contains("credentials") || text.contains("permission") {
      return "correct \(signIn), or have its administrator allow what is missing"
    }
    if text.contains("tls") || text.contains("certificate") {
      return "name the authority of its certificate with ca_file=PATH and its name with server_name=NAME"
    }
    if text.contains("cannot be looked up") || text.contains("cannot be reached") {
      return "correct the host in MICRO_REGISTRY, or let this process reach it (DNS, routes, network policy)"
    }
    if text.contains("in time") {
      return "see whether a firewall or network policy drops what is sent to it, or whether it is overloaded"
    }
    return "see its log; another program may listen at that address"
  }
}

extension Registry {
  /// One finding: whether it answers at all.
  fileprivate func reachability(signIn: String) async -> [Diagnosis] {
    do throws(RegistryError) {
      _ = try await list()
      return [.fine(name, "connected")]
    } catch {
      return [.problem(name, error.description, nextStep: error.nextStep(signIn: signIn))]
    }
  }
}

extension NATSRegistry: DiagnosableRegistry {
  public func diagnose() async throws(RegistryError) -> [Diagnosis] {
    await reachability(signIn: "user and password, or token")
  }
}

extension ZooKeeperRegistry: DiagnosableRegistry {
  public func diagnose() async throws(RegistryError) -> [Diagnosis] {
    await reachability(signIn: "user and password")
  }
}

extension GossipRegistry: DiagnosableRegistry {
  public func diagnose() async throws(RegistryError) -> [Diagnosis] {
    let found = await members(within: 3_000_000_000)
    guard let address else {
      return [
        .problem(
          name, "its port cannot be bound", nextStep: "choose another with bind=ADDRESS:PORT, or stop who has it")
      ]
    }
    if found > 0 || !hasPeers { return [.fine(name, "a member at \(address), \(found) others")] }
    return [
      .problem(
        name, "none of the members named in MICRO_REGISTRY answers",
        nextStep:
          "check that one of them runs there with that bind port, and that TCP and UDP of the port are allowed both ways; "
          + "an encrypted cluster cannot be joined")
    ]
  }
}

extension DNSRegistry: DiagnosableRegistry {
  public func diagnose() async throws(RegistryError) -> [Diagnosis] {
    var findings: [Diagnosis] = []
    for server in servers {
      guard let failure = await check(server) else {
        findings.append(.fine("DNS server \(server)", "answers"))
        continue
      }
      findings.append(
        .problem(
          "DNS server \(server)", failure.servers.map(\.why).joined(separator: "; "),
          nextStep: failure.isReachable
            ? "it is there and will not answer for this domain: correct domain=NAME, or ask a server that knows it"
            : "correct the address in MICRO_REGISTRY, or let UDP and TCP port 53 through to it"))
    }
    return findings
  }
}
